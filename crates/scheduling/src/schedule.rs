//! One decision: filter the nodes, score those that fit, take one of the best.

use crate::framework::{Profile, Rejection};
use crate::{Cache, NodeInfo, PodInfo};
use std::collections::BTreeMap;

/// The decision for one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The pod goes to this node.
    Bind {
        /// The node's name.
        node: String,
    },
    /// No node fits.
    Unschedulable(Unfit),
}

/// Why no node fits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unfit {
    /// The text of the event and of the pod's condition.
    pub message: String,
    /// Plugins that refused at least one node; their hints wake the pod.
    pub plugins: Vec<&'static str>,
}

/// Decides for a pod. `start` is the node to begin with, so that successive pods begin at different nodes
/// when not all are looked at; it is moved on. `random` breaks ties between equal scores.
pub fn schedule(
    profile: &Profile,
    cache: &Cache,
    pod: &PodInfo,
    start: &mut usize,
    random: &mut dyn FnMut(usize) -> usize,
) -> Outcome {
    let mut only: Option<Vec<String>> = None;
    for (plugin, _) in &profile.plugins {
        match plugin.pre_filter(pod, cache) {
            Ok(None) => {}
            Ok(Some(names)) => {
                only = Some(match only {
                    None => names,
                    Some(had) => had.into_iter().filter(|n| names.contains(n)).collect(),
                });
            }
            Err(rejection) => return unfit_everywhere(cache, rejection),
        }
    }
    let mut refused = Refusals::default();
    let feasible = find(profile, cache, pod, only.as_deref(), start, &mut refused);
    match feasible.len() {
        0 => Outcome::Unschedulable(refused.into_unfit(cache)),
        1 => Outcome::Bind { node: feasible[0].name.clone() },
        _ => Outcome::Bind { node: best(profile, cache, pod, &feasible, random).name.clone() },
    }
}

fn known(cache: &Cache) -> usize {
    cache.nodes().iter().filter(|n| n.known).count()
}

fn unfit_everywhere(cache: &Cache, rejection: Rejection) -> Outcome {
    let message = format!("0/{} nodes are available: {}.", known(cache), rejection.reasons.join(", "));
    Outcome::Unschedulable(Unfit { message, plugins: vec![rejection.plugin] })
}

#[derive(Default)]
struct Refusals {
    reasons: BTreeMap<String, usize>,
    plugins: Vec<&'static str>,
}

impl Refusals {
    fn note(&mut self, rejection: Rejection) {
        for reason in rejection.reasons {
            *self.reasons.entry(reason).or_default() += 1;
        }
        if !self.plugins.contains(&rejection.plugin) {
            self.plugins.push(rejection.plugin);
        }
    }
    fn into_unfit(self, cache: &Cache) -> Unfit {
        let all = known(cache);
        if all == 0 {
            return Unfit { message: "no nodes available to schedule pods".into(), plugins: Vec::new() };
        }
        let mut texts: Vec<String> = self.reasons.iter().map(|(r, n)| format!("{n} {r}")).collect();
        texts.sort();
        let mut message = format!("0/{all} nodes are available");
        if !texts.is_empty() {
            message = format!("{message}: {}.", texts.join(", "));
        }
        Unfit { message, plugins: self.plugins }
    }
}

fn find<'a>(
    profile: &Profile,
    cache: &'a Cache,
    pod: &PodInfo,
    only: Option<&[String]>,
    start: &mut usize,
    refused: &mut Refusals,
) -> Vec<&'a NodeInfo> {
    let mut feasible = Vec::new();
    let mut look = |node: &'a NodeInfo, feasible: &mut Vec<&'a NodeInfo>| {
        let fault = profile.plugins.iter().find_map(|(p, _)| p.filter(pod, node).err());
        match fault {
            None => feasible.push(node),
            Some(rejection) => refused.note(rejection),
        }
    };
    if let Some(names) = only {
        names.iter().filter_map(|n| cache.node(n)).filter(|n| n.known).for_each(|n| look(n, &mut feasible));
        return feasible;
    }
    let nodes = cache.nodes();
    let wanted = profile.nodes_to_find(known(cache));
    let mut seen = 0;
    while seen < nodes.len() && feasible.len() < wanted {
        let node = &nodes[(*start + seen) % nodes.len()];
        seen += 1;
        if node.known {
            look(node, &mut feasible);
        }
    }
    if !nodes.is_empty() {
        *start = (*start + seen) % nodes.len();
    }
    feasible
}

fn best<'a>(
    profile: &Profile,
    cache: &Cache,
    pod: &PodInfo,
    feasible: &[&'a NodeInfo],
    random: &mut dyn FnMut(usize) -> usize,
) -> &'a NodeInfo {
    let mut totals = vec![0i64; feasible.len()];
    for (plugin, weight) in profile.plugins.iter().filter(|(p, w)| *w > 0 && !p.skip_score(pod)) {
        let mut scores: Vec<i64> = feasible.iter().map(|n| plugin.score(pod, n, cache)).collect();
        plugin.normalize(&mut scores);
        for (total, score) in totals.iter_mut().zip(scores) {
            *total += score * weight;
        }
    }
    let top = totals.iter().copied().max().unwrap_or(0);
    let winners: Vec<usize> = (0..totals.len()).filter(|i| totals[*i] == top).collect();
    feasible[winners[random(winners.len()) % winners.len()]]
}
