//! Rollouts from start to end against a ReplicaSet controller that does at once what it is told.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use expect_test::{Expect, expect};
use serde_json::{Value, json};

use super::*;
use crate::plan::{ApiError, Outcome, Write};

struct World {
    deployment: Deployment,
    sets: BTreeMap<String, ReplicaSet>,
    now: Timestamp,
    /// Images whose pods never become available.
    broken: Vec<&'static str>,
    log: String,
}

fn world(replicas: i32, strategy: Value) -> World {
    World {
        deployment: serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "d", "uid": "u", "generation": 1},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "strategy": strategy,
                "revisionHistoryLimit": 2, "progressDeadlineSeconds": 600,
                "template": {"metadata": {"labels": {"app": "web"}},
                    "spec": {"containers": [{"name": "c", "image": "v1"}]}}},
        }))
        .unwrap(),
        sets: BTreeMap::new(),
        now: "2026-01-01T00:00:00Z".parse().unwrap(),
        broken: vec![],
        log: String::new(),
    }
}

fn image(set: &ReplicaSet) -> String {
    let template = set.spec.as_ref().unwrap().template.as_ref().unwrap();
    template.spec.as_ref().unwrap().containers[0].image.clone().unwrap()
}

impl World {
    fn set_image(&mut self, image: &str) {
        let spec = self.deployment.spec.as_mut().unwrap();
        spec.template.spec.as_mut().unwrap().containers[0].image = Some(image.to_owned());
        *self.deployment.metadata.generation.as_mut().unwrap() += 1;
    }
    fn set_replicas(&mut self, replicas: i32) {
        self.deployment.spec.as_mut().unwrap().replicas = Some(replicas);
        *self.deployment.metadata.generation.as_mut().unwrap() += 1;
    }

    /// Replaces hash-bearing names by the image of the set.
    fn readable(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (name, set) in &self.sets {
            text = text.replace(name, &format!("<{}>", image(set)));
        }
        text
    }

    fn apply(&mut self, plan: Plan) {
        let mut outcome = Outcome::default();
        let actions: Vec<Action> = plan.actions().cloned().collect();
        for action in actions {
            let result = self.write(&action.write);
            if result.is_ok() {
                for event in &action.on_ok {
                    let line = self.readable(&format!("{} {}\n", event.reason, event.message));
                    self.log.push_str(&line);
                }
            }
            outcome.results.push(result);
        }
        if let Some(then) = plan.then {
            let next = then(&outcome);
            self.apply(next);
        }
    }

    fn write(&mut self, write: &Write) -> Result<Value, ApiError> {
        match write {
            Write::Create { body, .. } => {
                let mut set: ReplicaSet = serde_json::from_value(body.clone()).unwrap();
                let name = set.name().to_owned();
                if self.sets.contains_key(&name) {
                    return Err(ApiError {
                        code: 409,
                        reason: "AlreadyExists".into(),
                        message: String::new(),
                        namespace_terminating: false,
                    });
                }
                set.metadata.uid = Some(name.clone());
                let at = crate::meta::plus_seconds(self.now, i64::try_from(self.sets.len()).unwrap());
                set.metadata.creation_timestamp = Some(crate::meta::time(at));
                self.sets.insert(name, set);
            }
            Write::Update { target, subresource, body } if target.resource.plural == "replicasets" => {
                assert_eq!(*subresource, None);
                self.sets.insert(target.name.clone(), serde_json::from_value(body.clone()).unwrap());
            }
            Write::Update { subresource, body, .. } => {
                assert_eq!(*subresource, Some("status"));
                self.deployment = serde_json::from_value(body.clone()).unwrap();
                let status = self.deployment.status.as_ref().unwrap();
                let progress = conditions::get(status, "Progressing");
                let reason = progress.and_then(|c| c.reason.clone()).unwrap_or_default();
                let available = conditions::get(status, "Available").map(|c| c.status.clone());
                let n = |v: Option<i32>| v.unwrap_or(0);
                let _ = writeln!(
                    self.log,
                    "status replicas={} updated={} available={} unavailable={} {reason} Available={}",
                    n(status.replicas),
                    n(status.updated_replicas),
                    n(status.available_replicas),
                    n(status.unavailable_replicas),
                    available.unwrap_or_default(),
                );
            }
            Write::Delete { target, .. } => {
                let text = self.readable(&format!("delete {}\n", target.name));
                self.log.push_str(&text);
                self.sets.remove(&target.name);
            }
            other => panic!("{other:?}"),
        }
        Ok(Value::Null)
    }

    fn view(&self) -> View {
        View { replica_sets: self.sets.values().cloned().map(Arc::new).collect(), pods: BTreeMap::new() }
    }

    /// The ReplicaSet controller does as it is told; true if something changed.
    fn obey(&mut self) -> bool {
        let mut moved = false;
        for set in self.sets.values_mut() {
            let wanted = set.spec.as_ref().unwrap().replicas.unwrap();
            let broken = self.broken.contains(&image(set).as_str());
            let old = set.status.clone();
            let available = if broken {
                old.as_ref().and_then(|s| s.available_replicas).unwrap_or(0).min(wanted)
            } else {
                wanted
            };
            let status = set.status.get_or_insert_default();
            status.replicas = wanted;
            status.ready_replicas = Some(available);
            status.available_replicas = Some(available);
            moved |= old != set.status;
        }
        moved
    }

    /// Reconciles until nothing changes.
    fn settle(&mut self) {
        for _ in 0..50 {
            let plan = reconcile(&Arc::new(self.deployment.clone()), self.view(), self.now);
            let idle = plan.is_idle();
            self.apply(plan);
            let moved = self.obey();
            if idle && !moved {
                return;
            }
        }
        panic!("never settles:\n{}", self.log);
    }

    fn check(&mut self, want: Expect) {
        self.settle();
        want.assert_eq(&std::mem::take(&mut self.log));
    }
}

#[test]
fn first_rollout_update_and_undo() {
    let mut w =
        world(3, json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}));
    w.check(expect![[r#"
        ScalingReplicaSet Scaled up replica set <v1> from 0 to 3
        status replicas=0 updated=0 available=0 unavailable=3 NewReplicaSetCreated Available=False
        status replicas=3 updated=3 available=3 unavailable=0 NewReplicaSetAvailable Available=True
    "#]]);
    w.set_image("v2");
    w.check(expect![[r#"
        ScalingReplicaSet Scaled up replica set <v2> from 0 to 1
        status replicas=3 updated=0 available=3 unavailable=1 NewReplicaSetCreated Available=True
        ScalingReplicaSet Scaled down replica set <v1> from 3 to 2
        status replicas=4 updated=1 available=4 unavailable=0 ReplicaSetUpdated Available=True
        ScalingReplicaSet Scaled up replica set <v2> from 1 to 2
        status replicas=3 updated=1 available=3 unavailable=1 ReplicaSetUpdated Available=True
        ScalingReplicaSet Scaled down replica set <v1> from 2 to 1
        status replicas=4 updated=2 available=4 unavailable=0 ReplicaSetUpdated Available=True
        ScalingReplicaSet Scaled up replica set <v2> from 2 to 3
        status replicas=3 updated=2 available=3 unavailable=1 ReplicaSetUpdated Available=True
        ScalingReplicaSet Scaled down replica set <v1> from 1 to 0
        status replicas=4 updated=3 available=4 unavailable=0 ReplicaSetUpdated Available=True
        status replicas=3 updated=3 available=3 unavailable=0 NewReplicaSetAvailable Available=True
    "#]]);
    // Undo is a patch back to the old template: the old set becomes current, with a new revision.
    w.set_image("v1");
    w.check(expect![[r#"
        ScalingReplicaSet Scaled up replica set <v1> from 0 to 1
        status replicas=3 updated=0 available=3 unavailable=1 NewReplicaSetAvailable Available=True
        ScalingReplicaSet Scaled down replica set <v2> from 3 to 2
        status replicas=4 updated=1 available=4 unavailable=0 ReplicaSetUpdated Available=True
        ScalingReplicaSet Scaled up replica set <v1> from 1 to 2
        status replicas=3 updated=1 available=3 unavailable=1 ReplicaSetUpdated Available=True
        ScalingReplicaSet Scaled down replica set <v2> from 2 to 1
        status replicas=4 updated=2 available=4 unavailable=0 ReplicaSetUpdated Available=True
        ScalingReplicaSet Scaled up replica set <v1> from 2 to 3
        status replicas=3 updated=2 available=3 unavailable=1 ReplicaSetUpdated Available=True
        ScalingReplicaSet Scaled down replica set <v2> from 1 to 0
        status replicas=4 updated=3 available=4 unavailable=0 ReplicaSetUpdated Available=True
        status replicas=3 updated=3 available=3 unavailable=0 NewReplicaSetAvailable Available=True
    "#]]);
    let annotations: BTreeMap<String, Value> =
        w.sets.values().map(|set| (image(set), json!(set.annotations()))).collect();
    expect![[r#"
        {
          "v1": {
            "deployment.kubernetes.io/desired-replicas": "3",
            "deployment.kubernetes.io/max-replicas": "4",
            "deployment.kubernetes.io/revision": "3",
            "deployment.kubernetes.io/revision-history": "1"
          },
          "v2": {
            "deployment.kubernetes.io/desired-replicas": "3",
            "deployment.kubernetes.io/max-replicas": "4",
            "deployment.kubernetes.io/revision": "2"
          }
        }"#]]
    .assert_eq(&serde_json::to_string_pretty(&annotations).unwrap());
    assert_eq!(w.deployment.annotations()[REVISION], "3");
}

#[test]
fn recreate_waits_for_old_pods() {
    let mut w = world(2, json!({"type": "Recreate"}));
    w.settle();
    w.log.clear();
    w.set_image("v2");
    w.check(expect![[r#"
        ScalingReplicaSet Scaled down replica set <v1> from 2 to 0
        status replicas=2 updated=0 available=2 unavailable=0 NewReplicaSetAvailable Available=True
        ScalingReplicaSet Scaled up replica set <v2> from 0 to 2
        status replicas=0 updated=0 available=0 unavailable=2 ReplicaSetUpdated Available=False
        status replicas=2 updated=2 available=2 unavailable=0 NewReplicaSetAvailable Available=True
    "#]]);
}

#[test]
fn scaling_in_the_middle_is_proportional() {
    let mut w =
        world(10, json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 3, "maxUnavailable": 2}}));
    w.settle();
    w.broken = vec!["v2"];
    w.set_image("v2");
    w.settle();
    w.log.clear();
    w.set_replicas(15);
    w.check(expect![[r#"
        ScalingReplicaSet Scaled up replica set <v1> from 8 to 11
        ScalingReplicaSet Scaled up replica set <v2> from 5 to 7
        status replicas=13 updated=5 available=8 unavailable=10 ReplicaSetUpdated Available=False
        status replicas=18 updated=7 available=11 unavailable=7 ReplicaSetUpdated Available=False
    "#]]);
}

#[test]
fn deadline_history_and_pause() {
    let mut w = world(1, json!({"type": "RollingUpdate"}));
    for version in ["v1", "v2", "v3", "v4"] {
        w.set_image(version);
        w.settle();
    }
    assert_eq!(w.sets.len(), 3, "the limit of two old sets holds");
    w.broken = vec!["v5"];
    w.set_image("v5");
    w.settle();
    w.log.clear();
    w.now = crate::meta::plus_seconds(w.now, 700);
    w.check(expect![[r#"
          status replicas=2 updated=1 available=1 unavailable=1 ProgressDeadlineExceeded Available=True
    "#]]);
    w.deployment.spec.as_mut().unwrap().paused = Some(true);
    w.set_image("v6");
    w.check(expect![[r#"
        delete <v2>
        delete <v3>
        status replicas=2 updated=0 available=1 unavailable=1 ProgressDeadlineExceeded Available=True
    "#]]);
}

#[test]
fn foreign_set_with_the_name_is_a_collision() {
    let mut w = world(1, json!({"type": "RollingUpdate"}));
    w.settle();
    let mut foreign = w.sets.values().next().unwrap().clone();
    foreign.metadata.owner_references = None;
    foreign.metadata.labels = None;
    foreign.spec.as_mut().unwrap().template = None;
    w.sets = BTreeMap::from([(foreign.name().to_owned(), foreign.clone())]);
    let plan = reconcile(&Arc::new(w.deployment.clone()), View::default(), w.now);
    w.apply(plan);
    assert_eq!(w.deployment.status.as_ref().unwrap().collision_count, Some(1));
}

#[test]
fn percentages_round_up_for_surge_and_down_for_unavailability() {
    for (replicas, surge, unavailable) in [(1, 1, 0), (4, 1, 1), (10, 3, 2), (0, 0, 0)] {
        let w = world(replicas, json!({"type": "RollingUpdate"}));
        assert_eq!(
            (max_surge(&w.deployment), max_unavailable(&w.deployment)),
            (surge, unavailable),
            "{replicas}"
        );
    }
}

mod invariants {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whatever images follow each other in the middle of rollouts: never more pods than the surge allows, never
        /// fewer available than the unavailability allows, and it ends with all pods of the last image.
        #[test]
        fn a_rollout_stays_within_its_limits(
            replicas in 1..12i32, surge in 0..4i32, unavailable in 0..4i32,
            images in prop::collection::vec(0..4usize, 1..8), passes in 1..6usize,
        ) {
            const IMAGES: [&str; 4] = ["a", "b", "c", "d"];
            prop_assume!(surge + unavailable > 0);
            let mut w = world(replicas, json!({"type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}));
            w.settle();
            for image in images {
                w.set_image(IMAGES[image]);
                for _ in 0..passes {
                    let plan = reconcile(&Arc::new(w.deployment.clone()), w.view(), w.now);
                    w.apply(plan);
                    w.obey();
                    let wanted = |set: &ReplicaSet| set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
                    let total: i32 = w.sets.values().map(wanted).sum();
                    prop_assert!(total <= replicas + surge, "{total} pods\n{}", w.log);
                    prop_assert!(total >= replicas - unavailable.min(replicas), "{total} pods\n{}", w.log);
                }
            }
            w.settle();
            let last = w.sets.values().filter(|set| set.spec.as_ref().unwrap().replicas != Some(0));
            let image_of_all = w.deployment.spec.as_ref().unwrap().template.spec.as_ref().unwrap().containers[0]
                .image.clone().unwrap();
            prop_assert_eq!(last.map(image).collect::<Vec<_>>(), vec![image_of_all]);
        }
    }
}
