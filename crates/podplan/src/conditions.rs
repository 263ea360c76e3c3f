//! The pod conditions that the kubelet owns, and their merging into what was there before.
//!
//! `lastTransitionTime` moves only when the status does; conditions of others are kept as they are.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::spec;

/// Condition types that the kubelet writes.
pub const OWNED: [&str; 5] =
    ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];

/// What a condition says, before times are put in.
struct Verdict {
    status: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

impl Verdict {
    fn yes() -> Self {
        Self { status: true, reason: None, message: None }
    }

    fn no(reason: &'static str, message: Option<String>) -> Self {
        Self { status: false, reason: Some(reason), message }
    }
}

/// All conditions of a pod: the owned ones renewed, others kept.
#[must_use]
pub fn conditions(
    pod: &Pod,
    statuses: &[ContainerStatus],
    phase: &str,
    sandbox_ready: bool,
    previous: &[PodCondition],
    now: Timestamp,
) -> Vec<PodCondition> {
    let containers = containers_ready(pod, statuses, phase);
    let ready = ready(pod, &containers, previous);
    let sandbox = Verdict { status: sandbox_ready, reason: None, message: None };
    let verdicts = [sandbox, initialized(pod, statuses, phase), ready, containers, Verdict::yes()];
    let mut out: Vec<PodCondition> =
        OWNED.iter().zip(verdicts).map(|(type_, v)| condition(pod, type_, v, previous, now)).collect();
    out.extend(previous.iter().filter(|c| !OWNED.contains(&c.type_.as_str())).cloned());
    out
}

/// Sets a condition that is not one of the always present ones.
pub fn set(
    list: &mut Vec<PodCondition>,
    pod: &Pod,
    type_: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    let previous = list.clone();
    let mut c = condition(pod, type_, Verdict::yes(), &previous, now);
    c.reason = Some(reason.to_owned());
    c.message = Some(message.to_owned());
    list.retain(|c| c.type_ != type_);
    list.push(c);
}

fn condition(pod: &Pod, type_: &str, v: Verdict, previous: &[PodCondition], now: Timestamp) -> PodCondition {
    let status = if v.status { "True" } else { "False" }.to_owned();
    let before = previous.iter().find(|c| c.type_ == type_);
    let since = before
        .filter(|c| c.status == status)
        .and_then(|c| c.last_transition_time.clone())
        .unwrap_or(Time(now));
    PodCondition {
        last_probe_time: None,
        last_transition_time: Some(since),
        message: v.message,
        observed_generation: pod.metadata.generation,
        reason: v.reason.map(str::to_owned),
        status,
        type_: type_.to_owned(),
    }
}

fn listing(label: &str, names: &[&str]) -> Option<String> {
    (!names.is_empty()).then(|| format!("containers with {label} status: [{}]", names.join(" ")))
}

fn join(parts: [Option<String>; 2]) -> Option<String> {
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

fn containers_ready(pod: &Pod, statuses: &[ContainerStatus], phase: &str) -> Verdict {
    let (mut unknown, mut unready) = (vec![], vec![]);
    let sidecars = spec::init(pod).iter().filter(|c| spec::is_sidecar(c));
    for c in sidecars.chain(spec::main(pod)) {
        match statuses.iter().find(|s| s.name == c.name) {
            Some(s) if s.ready => {}
            Some(_) => unready.push(c.name.as_str()),
            None => unknown.push(c.name.as_str()),
        }
    }
    if phase == "Succeeded" && unknown.is_empty() {
        return Verdict::no("PodCompleted", None);
    }
    if phase == "Failed" {
        return Verdict::no("PodFailed", None);
    }
    match join([listing("unknown", &unknown), listing("unready", &unready)]) {
        Some(message) => Verdict::no("ContainersNotReady", Some(message)),
        None => Verdict::yes(),
    }
}

fn ready(pod: &Pod, containers: &Verdict, previous: &[PodCondition]) -> Verdict {
    if !containers.status {
        return Verdict { status: false, reason: containers.reason, message: containers.message.clone() };
    }
    let mut messages = vec![];
    for gate in spec::of(pod).readiness_gates.iter().flatten() {
        let type_ = &gate.condition_type;
        match previous.iter().find(|c| c.type_ == *type_) {
            None => messages
                .push(format!("corresponding condition of pod readiness gate {type_:?} does not exist.")),
            Some(c) if c.status != "True" => messages.push(format!(
                "the status of pod readiness gate {type_:?} is not \"True\", but {}",
                c.status
            )),
            Some(_) => {}
        }
    }
    if messages.is_empty() {
        Verdict::yes()
    } else {
        Verdict::no("ReadinessGatesNotReady", Some(messages.join(", ")))
    }
}

fn initialized(pod: &Pod, statuses: &[ContainerStatus], phase: &str) -> Verdict {
    let (mut unknown, mut incomplete) = (vec![], vec![]);
    for c in spec::init(pod) {
        match statuses.iter().find(|s| s.name == c.name) {
            None => unknown.push(c.name.as_str()),
            Some(s) => {
                let done = if spec::is_sidecar(c) { s.started == Some(true) } else { s.ready };
                if !done {
                    incomplete.push(c.name.as_str());
                }
            }
        }
    }
    if phase == "Succeeded" && unknown.is_empty() {
        return Verdict { status: true, reason: Some("PodCompleted"), message: None };
    }
    if any_main_started(pod, statuses) {
        return Verdict::yes();
    }
    match join([listing("unknown", &unknown), listing("incomplete", &incomplete)]) {
        Some(message) => Verdict::no("ContainersNotInitialized", Some(message)),
        None => Verdict::yes(),
    }
}

/// Whether a main container runs or ran, which means that initialization is over for good.
#[must_use]
pub fn any_main_started(pod: &Pod, statuses: &[ContainerStatus]) -> bool {
    spec::main(pod).iter().any(|c| {
        statuses.iter().any(|s| {
            let state = s.state.as_ref();
            let now = state.is_some_and(|s| s.running.is_some() || s.terminated.is_some());
            let before = s.last_state.as_ref().is_some_and(|l| l.terminated.is_some());
            s.name == c.name && (now || before)
        })
    })
}
