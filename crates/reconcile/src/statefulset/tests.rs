//! StatefulSets in a world where pods become ready one pass after they are made.

use expect_test::{Expect, expect};
use serde_json::{Value, json};

use super::*;
use crate::plan::Write;

struct World {
    set: StatefulSet,
    pods: BTreeMap<String, Pod>,
    claims: BTreeMap<String, Arc<PersistentVolumeClaim>>,
    revisions: Vec<Arc<ControllerRevision>>,
    log: String,
}

fn world(extra: Value) -> World {
    let mut value = json!({
        "metadata": {"name": "db", "namespace": "d", "uid": "u", "generation": 1},
        "spec": {"replicas": 3, "serviceName": "db", "selector": {"matchLabels": {"a": "b"}},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "v1"}]}}},
    });
    for (key, inner) in extra.as_object().unwrap() {
        value["spec"][key] = inner.clone();
    }
    World {
        set: serde_json::from_value(value).unwrap(),
        pods: BTreeMap::new(),
        claims: BTreeMap::new(),
        revisions: vec![],
        log: String::new(),
    }
}

impl World {
    fn settle(&mut self) {
        for _ in 0..40 {
            let view = View {
                pods: self.pods.values().cloned().map(Arc::new).collect(),
                claims: self.claims.clone(),
                revisions: self.revisions.clone(),
                settled: true,
            };
            let plan = reconcile(&Arc::new(self.set.clone()), view, "2026-01-01T01:00:00Z".parse().unwrap());
            let idle = plan.is_idle();
            for action in plan.actions() {
                self.write(&action.write);
            }
            let mut moved = false;
            for pod in self.pods.values_mut() {
                let status = json!({"phase": "Running", "conditions": [
                    {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
                let new = Some(serde_json::from_value(status).unwrap());
                moved |= pod.status != new;
                pod.status = new;
            }
            if idle && !moved {
                return;
            }
        }
        panic!("never settles: {}", self.log);
    }

    fn write(&mut self, write: &Write) {
        let plural = write.target().resource.plural.clone();
        match write {
            Write::Create { body, target } if plural == "pods" => {
                let mut pod: Pod = serde_json::from_value(body.clone()).unwrap();
                let image = pod.spec.as_ref().unwrap().containers[0].image.clone().unwrap();
                self.log += &format!("create {} {image}\n", target.name);
                pod.metadata.uid = Some(format!("uid-{}", target.name));
                pod.status = serde_json::from_value(json!({"phase": "Pending"})).unwrap();
                self.pods.insert(target.name.clone(), pod);
            }
            Write::Create { body, target } if plural == "persistentvolumeclaims" => {
                self.log += &format!("claim {}\n", target.name);
                self.claims
                    .insert(target.name.clone(), Arc::new(serde_json::from_value(body.clone()).unwrap()));
            }
            Write::Update { body, target, .. } if plural == "persistentvolumeclaims" => {
                let owners = &body["metadata"]["ownerReferences"];
                self.log += &format!("claim {} owned by {}\n", target.name, owners[0]["name"]);
                self.claims
                    .insert(target.name.clone(), Arc::new(serde_json::from_value(body.clone()).unwrap()));
            }
            Write::Create { body, .. } => {
                self.revisions.push(Arc::new(serde_json::from_value(body.clone()).unwrap()));
            }
            Write::Update { body, .. } => {
                let s = &body["status"];
                let same = s["currentRevision"] == s["updateRevision"];
                self.log += &format!(
                    "status replicas={} ready={} current={} updated={} {}\n",
                    s["replicas"],
                    s["readyReplicas"],
                    s["currentReplicas"],
                    s["updatedReplicas"],
                    if same { "done" } else { "rolling" }
                );
                self.set = serde_json::from_value(body.clone()).unwrap();
            }
            Write::Delete { target, .. } => {
                self.log += &format!("delete {}\n", target.name);
                self.pods.remove(&target.name);
            }
            other => panic!("{other:?}"),
        }
    }

    fn update(&mut self, image: &str) {
        let spec = self.set.spec.as_mut().unwrap();
        spec.template.spec.as_mut().unwrap().containers[0].image = Some(image.to_owned());
    }

    fn check(&mut self, want: Expect) {
        self.settle();
        want.assert_eq(&std::mem::take(&mut self.log));
    }
}

#[test]
fn in_order_up_updated_from_the_end_and_down() {
    let mut w = world(json!({}));
    w.check(expect![[r#"
        create db-0 v1
        status replicas=1 ready=null current=1 updated=1 done
        create db-1 v1
        status replicas=2 ready=1 current=2 updated=2 done
        create db-2 v1
        status replicas=3 ready=2 current=3 updated=3 done
        status replicas=3 ready=3 current=3 updated=3 done
    "#]]);
    w.update("v2");
    w.check(expect![[r#"
        delete db-2
        status replicas=3 ready=3 current=2 updated=null rolling
        create db-2 v2
        status replicas=3 ready=2 current=2 updated=1 rolling
        delete db-1
        status replicas=3 ready=3 current=1 updated=1 rolling
        create db-1 v2
        status replicas=3 ready=2 current=1 updated=2 rolling
        delete db-0
        status replicas=3 ready=3 current=null updated=2 rolling
        create db-0 v2
        status replicas=3 ready=2 current=null updated=3 rolling
        status replicas=3 ready=3 current=3 updated=3 done
    "#]]);
    w.set.spec.as_mut().unwrap().replicas = Some(1);
    w.check(expect![[r#"
        delete db-2
        status replicas=3 ready=3 current=2 updated=2 done
        delete db-1
        status replicas=2 ready=2 current=1 updated=1 done
        status replicas=1 ready=1 current=1 updated=1 done
    "#]]);
}

#[test]
fn a_partition_keeps_the_lower_ones_and_parallel_does_not_wait() {
    let strategy = json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 2}});
    let mut w = world(json!({"podManagementPolicy": "Parallel", "updateStrategy": strategy}));
    w.check(expect![[r#"
        create db-0 v1
        create db-1 v1
        create db-2 v1
        status replicas=3 ready=null current=3 updated=3 done
        status replicas=3 ready=3 current=3 updated=3 done
    "#]]);
    w.update("v2");
    w.check(expect![[r#"
        delete db-2
        status replicas=3 ready=3 current=2 updated=null rolling
        create db-2 v2
        status replicas=3 ready=2 current=2 updated=1 rolling
        status replicas=3 ready=3 current=2 updated=1 rolling
    "#]]);
    w.pods.remove("db-0");
    w.check(expect![[r#"
        create db-0 v1
        status replicas=3 ready=2 current=2 updated=1 rolling
        status replicas=3 ready=3 current=2 updated=1 rolling
    "#]]);
}

#[test]
fn claims_are_made_and_go_as_the_policy_says() {
    let template = json!([{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}}]);
    let mut w = world(json!({"replicas": 2, "volumeClaimTemplates": template,
        "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Delete"}}));
    w.check(expect![[r#"
        claim data-db-0
        create db-0 v1
        status replicas=1 ready=null current=1 updated=1 done
        claim data-db-1
        create db-1 v1
        status replicas=2 ready=1 current=2 updated=2 done
        status replicas=2 ready=2 current=2 updated=2 done
    "#]]);
    let volumes = w.pods["db-1"].spec.as_ref().unwrap().volumes.as_ref().unwrap();
    assert_eq!(volumes[0].persistent_volume_claim.as_ref().unwrap().claim_name, "data-db-1");
    w.set.spec.as_mut().unwrap().replicas = Some(1);
    w.check(expect![[r#"
        claim data-db-1 owned by "db-1"
        delete db-1
        status replicas=2 ready=2 current=1 updated=1 done
        status replicas=1 ready=1 current=1 updated=1 done
    "#]]);
}
