//! The phase of a pod, from its container statuses.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use crate::restart::Policy;
use crate::spec;

#[derive(Default)]
struct Count {
    unknown: usize,
    running: usize,
    waiting: usize,
    stopped: usize,
    succeeded: usize,
}

/// The phase; `terminal` says that nothing of the pod will run again.
#[must_use]
pub fn phase(pod: &Pod, statuses: &[ContainerStatus], initialized: bool, terminal: bool) -> &'static str {
    let (pending_init, failed_init) = init(pod, statuses);
    let (mut count, pending_sidecars) = sidecars(pod, statuses);
    mains(pod, statuses, &mut count);
    if failed_init && (terminal || Policy::of_pod(pod) == Policy::Never) {
        return "Failed";
    }
    if !terminal && (pending_init || (pending_sidecars && !initialized)) {
        return "Pending";
    }
    if count.waiting > 0 && !terminal {
        return "Pending";
    }
    if count.running > 0 && count.unknown == 0 && !terminal {
        return "Running";
    }
    if terminal {
        let all = count.stopped > 0 && count.stopped == count.succeeded;
        return if all && count.unknown == 0 && count.waiting == 0 { "Succeeded" } else { "Failed" };
    }
    if count.stopped > 0 && count.unknown == 0 {
        return match Policy::of_pod(pod) {
            Policy::Always => "Running",
            _ if count.stopped == count.succeeded => "Succeeded",
            Policy::Never if !own_policies(pod) => "Failed",
            _ => "Running",
        };
    }
    "Pending"
}

/// Whether a container's own policy or rules may bring it back under a pod policy of Never.
fn own_policies(pod: &Pod) -> bool {
    spec::main(pod).iter().any(|c| {
        c.restart_policy.as_deref().is_some_and(|p| p != "Never")
            || c.restart_policy_rules.as_ref().is_some_and(|r| !r.is_empty())
    })
}

fn find<'a>(statuses: &'a [ContainerStatus], name: &str) -> Option<&'a ContainerStatus> {
    statuses.iter().find(|s| s.name == name)
}

/// Whether plain init containers are still to finish, and whether one failed.
fn init(pod: &Pod, statuses: &[ContainerStatus]) -> (bool, bool) {
    let (mut pending, mut failed) = (false, false);
    for c in spec::init(pod).iter().filter(|c| !spec::is_sidecar(c)) {
        let Some(s) = find(statuses, &c.name) else {
            pending = true;
            continue;
        };
        let state = s.state.as_ref();
        let last = s.last_state.as_ref().and_then(|l| l.terminated.as_ref());
        if let Some(t) = state.and_then(|s| s.terminated.as_ref()) {
            failed |= t.exit_code != 0;
        } else if let (true, Some(t)) = (state.is_some_and(|s| s.waiting.is_some()), last) {
            failed |= t.exit_code != 0;
            pending = true;
        } else {
            pending = true;
        }
    }
    (pending, failed)
}

fn sidecars(pod: &Pod, statuses: &[ContainerStatus]) -> (Count, bool) {
    let mut count = Count::default();
    let mut pending = false;
    for c in spec::init(pod).iter().filter(|c| spec::is_sidecar(c)) {
        let Some(s) = find(statuses, &c.name) else {
            count.unknown += 1;
            continue;
        };
        let state = s.state.as_ref();
        if state.is_some_and(|s| s.running.is_some()) {
            pending |= s.started != Some(true);
            count.running += 1;
        } else if state.is_some_and(|s| s.terminated.is_some()) {
            // A sidecar's end says nothing of the pod's work.
        } else {
            let ended_before = s.last_state.as_ref().is_some_and(|l| l.terminated.is_some());
            pending |= !ended_before;
            count.waiting += usize::from(!ended_before);
        }
    }
    (count, pending)
}

fn mains(pod: &Pod, statuses: &[ContainerStatus], count: &mut Count) {
    for c in spec::main(pod) {
        let Some(s) = find(statuses, &c.name) else {
            count.unknown += 1;
            continue;
        };
        let Some(state) = &s.state else {
            count.unknown += 1;
            continue;
        };
        if state.running.is_some() {
            count.running += 1;
        } else if let Some(t) = &state.terminated {
            count.stopped += 1;
            count.succeeded += usize::from(t.exit_code == 0);
        } else if s.last_state.as_ref().is_some_and(|l| l.terminated.is_some()) {
            count.stopped += 1;
        } else {
            count.waiting += 1;
        }
    }
}
