//! The plugins of the default profile, one file each.

mod balanced_allocation;
mod image_locality;
mod node_affinity;
mod node_name;
mod node_ports;
mod node_resources_fit;
mod node_unschedulable;
mod taint_toleration;

pub use balanced_allocation::BalancedAllocation;
pub use image_locality::ImageLocality;
pub use node_affinity::NodeAffinity;
pub use node_name::NodeName;
pub use node_ports::NodePorts;
pub use node_resources_fit::{NodeResourcesFit, Strategy};
pub use node_unschedulable::NodeUnschedulable;
pub use taint_toleration::TaintToleration;

use crate::framework::{Plugin, Profile};

/// The scoring strategy and disabled plugins of a profile; the rest is upstream's default.
#[derive(Clone, Debug)]
pub struct ProfileOptions {
    /// `schedulerName`.
    pub scheduler_name: String,
    /// `NodeResourcesFitArgs.scoringStrategy.type`.
    pub strategy: Strategy,
    /// `percentageOfNodesToScore`; zero chooses by the number of nodes.
    pub percentage_of_nodes_to_score: u32,
    /// Names of plugins left out.
    pub disabled: Vec<String>,
}

impl Default for ProfileOptions {
    fn default() -> Self {
        ProfileOptions {
            scheduler_name: "default-scheduler".into(),
            strategy: Strategy::LeastAllocated,
            percentage_of_nodes_to_score: 0,
            disabled: Vec::new(),
        }
    }
}

/// A profile with upstream's default plugins and weights, cheapest filters first.
pub fn profile(options: &ProfileOptions) -> Profile {
    let plugins: Vec<(Box<dyn Plugin>, i64)> = vec![
        (Box::new(NodeUnschedulable), 0),
        (Box::new(NodeName), 0),
        (Box::new(TaintToleration), 3),
        (Box::new(NodeAffinity), 2),
        (Box::new(NodePorts), 0),
        (Box::new(NodeResourcesFit { strategy: options.strategy }), 1),
        (Box::new(BalancedAllocation), 1),
        (Box::new(ImageLocality), 1),
    ];
    Profile {
        scheduler_name: options.scheduler_name.clone(),
        plugins: plugins
            .into_iter()
            .filter(|(p, _)| !options.disabled.iter().any(|d| d == p.name() || d == "*"))
            .collect(),
        percentage_of_nodes_to_score: options.percentage_of_nodes_to_score,
    }
}

#[cfg(test)]
mod tests;
