//! DaemonSets in a world where pods run as soon as they exist.

use expect_test::{Expect, expect};
use serde_json::{Value, json};

use super::*;
use crate::plan::Write;

struct World {
    set: DaemonSet,
    nodes: Vec<Arc<Node>>,
    pods: Vec<Arc<Pod>>,
    revisions: Vec<Arc<ControllerRevision>>,
    made: usize,
    log: String,
}

fn node(name: &str, extra: Value) -> Arc<Node> {
    let mut value = json!({"metadata": {"name": name}, "spec": {}});
    value["spec"] = extra;
    Arc::new(serde_json::from_value(value).unwrap())
}

fn world(strategy: Value) -> World {
    World {
        set: serde_json::from_value(json!({
            "metadata": {"name": "ds", "namespace": "d", "uid": "u", "generation": 1},
            "spec": {"selector": {"matchLabels": {"a": "b"}}, "updateStrategy": strategy,
                "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "v1"}]}}},
        }))
        .unwrap(),
        nodes: vec![
            node("n1", json!({})),
            node("n2", json!({})),
            node("tainted", json!({"taints": [{"key": "x", "effect": "NoSchedule"}]})),
            node("down", json!({"taints": [{"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}]})),
        ],
        pods: vec![],
        revisions: vec![],
        made: 0,
        log: String::new(),
    }
}

impl World {
    fn settle(&mut self) {
        for _ in 0..30 {
            let view = View {
                nodes: self.nodes.clone(),
                pods: self.pods.clone(),
                revisions: self.revisions.clone(),
                settled: true,
            };
            let now = "2026-01-01T01:00:00Z".parse().unwrap();
            let plan = reconcile(&Arc::new(self.set.clone()), view, &mut Failures::default(), now);
            if plan.is_idle() {
                return;
            }
            for action in plan.actions() {
                self.write(&action.write);
            }
        }
        panic!("never settles: {}", self.log);
    }

    fn write(&mut self, write: &Write) {
        match write {
            Write::Create { body, target } if target.resource.plural == "pods" => {
                let mut pod: Pod = serde_json::from_value(body.clone()).unwrap();
                let on = target_node(&pod);
                let name = format!("ds-{}", self.made);
                self.made += 1;
                let image = pod.spec.as_ref().unwrap().containers[0].image.clone().unwrap();
                self.log += &format!("create {name} {image} on {on}\n");
                pod.metadata.name = Some(name.clone());
                pod.metadata.uid = Some(name);
                pod.spec.as_mut().unwrap().node_name = Some(on);
                pod.status = serde_json::from_value(json!({"phase": "Running", "conditions": [
                    {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}))
                .unwrap();
                self.pods.push(Arc::new(pod));
            }
            Write::Create { body, .. } => {
                self.revisions.push(Arc::new(serde_json::from_value(body.clone()).unwrap()));
            }
            Write::Update { body, target, .. } if target.resource.plural == "controllerrevisions" => {
                let new: ControllerRevision = serde_json::from_value(body.clone()).unwrap();
                self.revisions.retain(|old| old.name() != new.name());
                self.revisions.push(Arc::new(new));
            }
            Write::Update { body, .. } => {
                let s = &body["status"];
                self.log += &format!(
                    "status desired={} current={} ready={} available={} updated={} mis={}\n",
                    s["desiredNumberScheduled"],
                    s["currentNumberScheduled"],
                    s["numberReady"],
                    s["numberAvailable"],
                    s["updatedNumberScheduled"],
                    s["numberMisscheduled"]
                );
                self.set = serde_json::from_value(body.clone()).unwrap();
            }
            Write::Delete { target, .. } => {
                self.log += &format!("delete {}\n", target.name.replace(|c: char| !c.is_ascii(), ""));
                self.pods.retain(|pod| pod.name() != target.name);
                self.revisions.retain(|revision| revision.name() != target.name);
            }
            other => panic!("{other:?}"),
        }
    }

    fn update(&mut self, image: &str) {
        let spec = self.set.spec.as_mut().unwrap();
        spec.template.spec.as_mut().unwrap().containers[0].image = Some(image.to_owned());
        *self.set.metadata.generation.as_mut().unwrap() += 1;
    }

    fn check(&mut self, want: Expect) {
        self.settle();
        want.assert_eq(&std::mem::take(&mut self.log));
    }
}

#[test]
fn one_pod_a_node_and_rolling_replacement() {
    let mut w = world(json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}}));
    w.check(expect![[r#"
        create ds-0 v1 on n1
        create ds-1 v1 on n2
        create ds-2 v1 on down
        status desired=3 current=0 ready=0 available=null updated=null mis=0
        status desired=3 current=3 ready=3 available=3 updated=3 mis=0
    "#]]);
    w.update("v2");
    w.check(expect![[r#"
        delete ds-2
        status desired=3 current=3 ready=3 available=3 updated=null mis=0
        create ds-3 v2 on down
        status desired=3 current=2 ready=2 available=2 updated=null mis=0
        delete ds-0
        status desired=3 current=3 ready=3 available=3 updated=1 mis=0
        create ds-4 v2 on n1
        status desired=3 current=2 ready=2 available=2 updated=1 mis=0
        delete ds-1
        status desired=3 current=3 ready=3 available=3 updated=2 mis=0
        create ds-5 v2 on n2
        status desired=3 current=2 ready=2 available=2 updated=2 mis=0
        status desired=3 current=3 ready=3 available=3 updated=3 mis=0
    "#]]);
    assert_eq!(w.revisions.len(), 2);
    w.nodes.remove(0);
    w.check(expect![[r#"
        status desired=2 current=2 ready=2 available=2 updated=2 mis=0
    "#]]);
}

#[test]
fn surging_keeps_the_old_pod_until_the_new_one_is_available() {
    let mut w =
        world(json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}));
    w.settle();
    w.log.clear();
    w.update("v2");
    w.check(expect![[r#"
        create ds-3 v2 on down
        status desired=3 current=3 ready=3 available=3 updated=null mis=0
        delete ds-2
        create ds-4 v2 on n1
        status desired=3 current=3 ready=3 available=3 updated=1 mis=0
        delete ds-0
        create ds-5 v2 on n2
        status desired=3 current=3 ready=3 available=3 updated=2 mis=0
        delete ds-1
        status desired=3 current=3 ready=3 available=3 updated=3 mis=0
    "#]]);
}

#[test]
fn failed_pods_are_replaced_more_and_more_slowly() {
    let mut failures = Failures::default();
    let at = |seconds: i64| crate::meta::plus_seconds(Timestamp::UNIX_EPOCH, seconds);
    let mut replaced = Vec::new();
    for second in 0..40 {
        if failures.pause("n".to_owned(), at(second)).is_zero() {
            replaced.push(second);
        }
    }
    assert_eq!(replaced, [0, 1, 3, 7, 15, 31]);
}
