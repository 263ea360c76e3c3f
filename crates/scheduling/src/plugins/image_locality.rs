//! ImageLocality: prefers nodes that hold the pod's images, by size and by how widespread they are.

use crate::framework::{ClusterEvent, Plugin, SCORE_MAX};
use crate::{Cache, NodeInfo, PodInfo};

/// The plugin.
pub struct ImageLocality;

const MIB: i64 = 1024 * 1024;
/// Sum below which images do not matter, in bytes.
const MIN: i64 = 23 * MIB;
/// Size a container above which more does not matter, in bytes.
const MAX_PER_CONTAINER: i64 = 1000 * MIB;

/// The name under which nodes list an image that is given without a tag.
fn normalized(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains(':') || last.contains('@') { image.to_owned() } else { format!("{image}:latest") }
}

impl Plugin for ImageLocality {
    fn name(&self) -> &'static str {
        "ImageLocality"
    }
    fn skip_score(&self, pod: &PodInfo) -> bool {
        pod.images.is_empty()
    }
    fn score(&self, pod: &PodInfo, node: &NodeInfo, nodes: &Cache) -> i64 {
        if node.images.is_empty() {
            return 0;
        }
        let all = nodes.nodes().len().max(1) as i64;
        let mut sum = 0;
        for image in &pod.images {
            let name = normalized(image);
            if let Some(bytes) = node.images.get(&name) {
                let holders = nodes.nodes().iter().filter(|n| n.images.contains_key(&name)).count() as i64;
                sum += bytes * holders / all;
            }
        }
        let max = MAX_PER_CONTAINER * pod.images.len() as i64;
        SCORE_MAX * (sum.clamp(MIN, max) - MIN) / (max - MIN)
    }
    fn hint(&self, _event: ClusterEvent, _pod: &PodInfo, _node: Option<&NodeInfo>) -> bool {
        false
    }
}
