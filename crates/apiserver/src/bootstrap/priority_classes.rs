//! The two priority classes of the system's own pods.

use isopod_api::status::Status;
use serde_json::json;

use crate::poststart::ensure as ensure_object;
use crate::server::ApiServer;

pub(super) async fn ensure(server: &ApiServer) -> Result<(), Status> {
    let classes = [
        (
            "system-cluster-critical",
            2_000_000_000_i64,
            "For pods the cluster needs, on whatever node they run.",
        ),
        ("system-node-critical", 2_000_001_000, "For pods a node needs and that cannot run on another."),
    ];
    for (name, value, description) in classes {
        let class = json!({
            "metadata": {"name": name},
            "value": value,
            "description": description,
            "preemptionPolicy": "PreemptLowerPriority",
        });
        ensure_object(server, "scheduling.k8s.io", "priorityclasses", "", class).await?;
    }
    Ok(())
}
