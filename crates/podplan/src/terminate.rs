//! The end of a pod: containers, then sidecars in reverse order, then the sandbox, then volumes and cgroup.
//!
//! Main, init and ephemeral containers are stopped side by side, each with the whole grace. Sidecars follow
//! one by one with what is left of it, at least [`MIN_GRACE_SECONDS`], since others may depend on them.

use jiff::Timestamp;

use crate::memory::Op;
use crate::plan::{Action, Planner};
use crate::spec;

/// The least that a container gets between signal and kill, unless the deletion says zero.
pub const MIN_GRACE_SECONDS: i64 = 2;

pub(crate) fn plan(p: &mut Planner<'_, '_>) {
    let now = p.input.now;
    let since = *p.memory.ending_since.get_or_insert(now);
    let grace = grace(p);
    stop_containers(p, grace, since);
    let observed = p.input.observed;
    let starting =
        p.memory.in_flight.keys().any(|op| {
            matches!(op, Op::Launch(_) | Op::CreateSandbox | Op::Prepare | Op::Pull(_) | Op::Stop(_))
        });
    p.out.stopped = !starting && observed.alive().next().is_none();
    if !p.out.stopped {
        return;
    }
    for s in observed.sandboxes.iter().filter(|s| s.ready) {
        p.act_once(Op::StopSandbox(s.id.clone()), Action::StopSandbox { id: s.id.clone() });
    }
    let stopping = p.memory.in_flight.keys().any(|op| matches!(op, Op::StopSandbox(_)));
    if stopping || observed.sandboxes.iter().any(|s| s.ready) {
        return;
    }
    if !p.memory.released {
        p.act_once(Op::Release, Action::Release);
    }
    p.out.released = p.memory.released;
}

fn grace(p: &Planner<'_, '_>) -> i64 {
    let own = spec::grace_seconds(p.input.pod);
    if p.input.pod.metadata.deletion_timestamp.is_some() {
        return own;
    }
    p.memory.ending.as_ref().and_then(|e| e.grace_seconds).unwrap_or(own)
}

fn stop_containers(p: &mut Planner<'_, '_>, grace: i64, since: Timestamp) {
    let pod = p.input.pod;
    let observed = p.input.observed;
    let sidecars: Vec<&str> =
        spec::init(pod).iter().filter(|c| spec::is_sidecar(c)).map(|c| c.name.as_str()).collect();
    let mut others = p.memory.in_flight.keys().any(|op| matches!(op, Op::Launch(_)));
    for c in observed.alive().filter(|c| !sidecars.contains(&c.name.as_str())) {
        others = true;
        p.stop(c, grace, format!("Stopping container {}", c.name));
    }
    if others {
        return;
    }
    let elapsed = p.input.now.duration_since(since).as_secs();
    let left = if grace == 0 { 0 } else { (grace - elapsed).max(MIN_GRACE_SECONDS) };
    for name in sidecars.iter().rev() {
        let alive: Vec<_> = observed.alive().filter(|c| c.name == *name).collect();
        for c in &alive {
            p.stop(c, left, format!("Stopping container {name}"));
        }
        if !alive.is_empty() {
            return;
        }
    }
}
