//! The next steps for a pod.
//!
//! Level triggered: every call looks at everything anew and plans what is missing and not under way. Order, as
//! upstream: volumes and sandbox (side by side, for speed), ephemeral containers, init containers one by one
//! with sidecars among them, main containers side by side. A pod that is over is left to [`crate::terminate`].
//!
//! Deliberate difference: an image is looked up or pulled while sandbox and volumes are still being made.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container as Spec, Pod};

use crate::backoff::go_duration;
use crate::memory::{Ending, Image, Memory, Op};
use crate::observed::{Container, ContainerState, Observed, Sandbox};
use crate::spec::{self, Role};
use crate::{hash, restart, terminate};

/// How long a failed pull is shown as `ErrImagePull` before it is shown as `ImagePullBackOff`.
const SHOW_PULL_ERROR: SignedDuration = SignedDuration::from_secs(3);

/// What a plan is made from, besides the memory.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// The pod as the API (or a manifest) has it.
    pub pod: &'a Pod,
    /// What the runtime reports.
    pub observed: &'a Observed,
    /// The time.
    pub now: Timestamp,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Set up directories and volumes.
    Prepare,
    /// Create a sandbox.
    CreateSandbox {
        /// Its attempt.
        attempt: u32,
    },
    /// Stop a sandbox, network included.
    StopSandbox {
        /// Its id.
        id: String,
    },
    /// Remove a stopped sandbox.
    RemoveSandbox {
        /// Its id.
        id: String,
    },
    /// Look up the image of a container, and pull it if its policy says so.
    Pull {
        /// Container name.
        container: String,
    },
    /// Create and start a container in the active sandbox, then run its postStart hook.
    Launch {
        /// Container name.
        container: String,
        /// Restart count of the new instance.
        attempt: u32,
        /// The sandbox.
        sandbox: String,
        /// Resolved image.
        image: String,
    },
    /// Run the preStop hook and stop a container.
    Stop {
        /// Container id.
        id: String,
        /// Container name.
        container: String,
        /// Seconds for hook and signal together.
        grace_seconds: i64,
        /// Text of the event.
        message: String,
    },
    /// Remove an ended container.
    Remove {
        /// Container id.
        id: String,
    },
    /// Unmount volumes and remove the cgroup.
    Release,
}

/// An event for the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Warning rather than Normal.
    pub warning: bool,
    /// Event reason.
    pub reason: &'static str,
    /// Event text.
    pub message: String,
    /// The container that it is about.
    pub container: Option<String>,
}

/// The outcome of planning.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Steps to begin now; each is already noted as under way in the memory.
    pub actions: Vec<Action>,
    /// Events to publish.
    pub notices: Vec<Notice>,
    /// When to plan again though nothing happens.
    pub wake_at: Option<Timestamp>,
    /// Why containers that should run do not, by name: reason and message.
    pub waiting: BTreeMap<String, (String, String)>,
    /// The pod is over: nothing of it is started again.
    pub over: bool,
    /// The pod is over and none of its containers runs any more.
    pub stopped: bool,
    /// The pod is over and its volumes and cgroup are released.
    pub released: bool,
    /// Nothing is left of the pod in the runtime.
    pub purged: bool,
}

/// Plans the next steps, and notes them in `memory` as under way.
pub fn plan(input: &Input<'_>, memory: &mut Memory) -> Plan {
    memory.start_time.get_or_insert(input.now);
    let mut planner = Planner { input: *input, memory, out: Plan::default() };
    planner.check_deadline();
    if planner.over() {
        planner.out.over = true;
        terminate::plan(&mut planner);
    } else {
        planner.keep_running();
    }
    planner.remove_dead();
    planner.out
}

/// Working state of one planning.
pub(crate) struct Planner<'a, 'm> {
    pub(crate) input: Input<'a>,
    pub(crate) memory: &'m mut Memory,
    pub(crate) out: Plan,
}

impl Planner<'_, '_> {
    /// Whether the pod must not run (any more): deleted, ended by the kubelet, or run to its end.
    fn over(&self) -> bool {
        let pod = self.input.pod;
        let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
        pod.metadata.deletion_timestamp.is_some()
            || self.memory.removed
            || self.memory.ending.is_some()
            || matches!(phase, Some("Succeeded" | "Failed"))
            || self.complete()
    }

    /// Whether the pod ran to its end: nothing of it would be started again.
    fn complete(&self) -> bool {
        let pod = self.input.pod;
        let ended = |role: Role, c: &Spec| {
            self.input.observed.latest(&c.name).is_some_and(|o| o.exited() && !self.restarts(role, c, o))
        };
        let init_failed = spec::init(pod).iter().filter(|c| !spec::is_sidecar(c)).any(|c| {
            ended(Role::Init, c) && self.input.observed.latest(&c.name).is_some_and(|o| o.exit_code != 0)
        });
        init_failed || (!spec::main(pod).is_empty() && spec::main(pod).iter().all(|c| ended(Role::Main, c)))
    }

    /// Whether an ended instance is to be followed by another.
    fn restarts(&self, role: Role, c: &Spec, ended: &Container) -> bool {
        let forced =
            self.memory.containers.get(&c.name).is_some_and(|m| m.replace.as_deref() == Some(&ended.id));
        forced || restart::again(self.input.pod, role, c, ended.exit_code)
    }

    fn check_deadline(&mut self) {
        let Some(seconds) = spec::of(self.input.pod).active_deadline_seconds else { return };
        let start = self.memory.start_time.unwrap_or(self.input.now);
        let deadline = start.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX);
        if self.memory.ending.is_some() || self.over() {
            return;
        }
        if deadline > self.input.now {
            self.wake(deadline);
            return;
        }
        let message = "Pod was active on the node longer than the specified deadline".to_owned();
        self.notice(false, "DeadlineExceeded", message.clone(), None);
        self.memory.ending =
            Some(Ending { reason: "DeadlineExceeded".into(), message, grace_seconds: None, rejected: false });
    }

    fn keep_running(&mut self) {
        if !self.memory.prepared && !self.memory.busy(&Op::Prepare) {
            match self.memory.prepare_retry_at {
                Some(at) if at > self.input.now => self.wake(at),
                _ => self.act(Op::Prepare, 0, Action::Prepare),
            }
        }
        let sandbox = self.sandbox();
        self.ephemeral_containers(sandbox);
        if self.init_containers(sandbox) {
            self.main_containers(sandbox);
        }
    }

    /// Whether there is a usable sandbox; plans a new one where there is none.
    fn sandbox(&mut self) -> bool {
        if usable_sandbox(self.input.pod, self.input.observed).is_some() {
            return true;
        }
        let observed = self.input.observed;
        let latest = observed.latest_sandbox();
        if latest.is_some() && observed.alive().next().is_some() {
            self.notice_sandbox_change();
            let grace = spec::grace_seconds(self.input.pod);
            for c in observed.alive() {
                self.stop(c, grace, "Pod sandbox changed, it will be killed and re-created.".to_owned());
            }
            return false;
        }
        for s in observed.sandboxes.iter().filter(|s| s.ready) {
            self.act_once(Op::StopSandbox(s.id.clone()), Action::StopSandbox { id: s.id.clone() });
        }
        if observed.sandboxes.iter().any(|s| s.ready) || self.memory.busy(&Op::CreateSandbox) {
            return false;
        }
        match self.memory.sandbox_retry_at {
            Some(at) if at > self.input.now => self.wake(at),
            _ => {
                let attempt = latest.map_or(0, |s| s.attempt + 1);
                if latest.is_some() {
                    self.notice_sandbox_change();
                }
                self.act(Op::CreateSandbox, 0, Action::CreateSandbox { attempt });
            }
        }
        false
    }

    fn notice_sandbox_change(&mut self) {
        let quiet = self.memory.in_flight.keys().any(|op| matches!(op, Op::Stop(_) | Op::StopSandbox(_)));
        if !quiet {
            let text = "Pod sandbox changed, it will be killed and re-created.".to_owned();
            self.notice(false, "SandboxChanged", text, None);
        }
    }

    fn ephemeral_containers(&mut self, sandbox: bool) {
        if !sandbox {
            return;
        }
        let pod = self.input.pod;
        for e in spec::ephemeral(pod) {
            if self.input.observed.latest(&e.name).is_none() {
                self.start(&spec::as_container(e));
            }
        }
    }

    /// Brings the init containers forward; true when main containers may run.
    fn init_containers(&mut self, sandbox: bool) -> bool {
        let pod = self.input.pod;
        let observed = self.input.observed;
        let active = usable_sandbox(pod, observed).filter(|_| sandbox).map(|s| s.id.as_str());
        // Once a main container exists in this sandbox, plain init containers are done for good, even if
        // their records were removed since.
        let initialized = active
            .is_some_and(|id| spec::main(pod).iter().any(|c| observed.latest_in(id, &c.name).is_some()));
        for c in spec::init(pod) {
            let here = active.and_then(|id| observed.latest_in(id, &c.name));
            let proceed = if spec::is_sidecar(c) {
                self.sidecar(c, here)
            } else {
                initialized || self.init_container(c, here)
            };
            if !proceed && !initialized {
                return false;
            }
        }
        true
    }

    /// True when the init container has succeeded.
    fn init_container(&mut self, c: &Spec, here: Option<&Container>) -> bool {
        match here {
            Some(o) if o.succeeded() => return true,
            Some(o) if o.running() => self.supervise(Role::Init, c, o),
            Some(o) if o.state == ContainerState::Unknown => self.stop_unknown(o),
            _ => self.start(c),
        }
        false
    }

    /// True when the sidecar has started, so that the next container may.
    fn sidecar(&mut self, c: &Spec, here: Option<&Container>) -> bool {
        match here {
            Some(o) if o.running() => {
                self.supervise(Role::Sidecar, c, o);
                started(c, o, self.memory)
            }
            Some(o) if o.state == ContainerState::Unknown => {
                self.stop_unknown(o);
                false
            }
            _ => {
                self.start(c);
                false
            }
        }
    }

    fn main_containers(&mut self, sandbox: bool) {
        let pod = self.input.pod;
        let observed = self.input.observed;
        for c in spec::main(pod) {
            match observed.latest(&c.name) {
                Some(o) if o.running() && sandbox => self.supervise(Role::Main, c, o),
                Some(o) if o.running() => {}
                Some(o) if o.state == ContainerState::Unknown => self.stop_unknown(o),
                Some(o) if o.exited() && !self.restarts(Role::Main, c, o) => {}
                _ => self.start(c),
            }
        }
    }

    /// Kills a running container that is stale or that a probe gave up on.
    fn supervise(&mut self, role: Role, c: &Spec, o: &Container) {
        let probed = self.memory.probed(&o.id);
        let name = &c.name;
        let (what, probe) = if o.hash != 0 && o.hash != hash::container(c) {
            (format!("Container {name} definition changed"), None)
        } else if probed.startup == Some(false) {
            (format!("Container {name} failed startup probe"), c.startup_probe.as_ref())
        } else if probed.liveness == Some(false) {
            (format!("Container {name} failed liveness probe"), c.liveness_probe.as_ref())
        } else {
            return;
        };
        let again = probe.is_none() || restart::after_kill(self.input.pod, role, c);
        if again {
            self.memory.container(name).replace = Some(o.id.clone());
        }
        let grace = probe
            .and_then(|p| p.termination_grace_period_seconds)
            .unwrap_or_else(|| spec::grace_seconds(self.input.pod));
        self.stop(o, grace, if again { format!("{what}, will be restarted") } else { what });
    }

    fn stop_unknown(&mut self, o: &Container) {
        let text = "Container is in unknown state, try killing it before starting".to_owned();
        self.memory.container(&o.name).replace = Some(o.id.clone());
        self.stop(o, spec::grace_seconds(self.input.pod), text);
    }

    /// Starts a container, or says why not yet.
    fn start(&mut self, c: &Spec) {
        let name = c.name.as_str();
        if self.memory.busy(&Op::Launch(name.to_owned())) || self.crash_back_off(c) {
            return;
        }
        let now = self.input.now;
        let error = self.memory.container(name).error.clone();
        if let Some(e) = error
            && e.retry_at > now
        {
            self.wake(e.retry_at);
            self.wait(name, e.reason, e.message);
            return;
        }
        let wanted = c.image.as_deref().unwrap_or_default();
        let m = self.memory.container(name);
        if m.image_name != wanted {
            wanted.clone_into(&mut m.image_name);
            m.image = Image::Unknown;
            m.pull.reset();
        }
        match m.image.clone() {
            Image::Unknown => self.pull(name),
            Image::Failed { reason, message, retry_at, at } => {
                self.pull_back_off(c, reason, message, at, retry_at);
            }
            Image::Present(image) => self.launch(name, image),
        }
    }

    fn pull(&mut self, name: &str) {
        self.act_once(Op::Pull(name.to_owned()), Action::Pull { container: name.to_owned() });
    }

    fn launch(&mut self, name: &str, image: String) {
        let observed = self.input.observed;
        let Some(sandbox) = usable_sandbox(self.input.pod, observed) else { return };
        if !self.memory.prepared {
            return;
        }
        let latest = observed.latest(name);
        let attempt = latest.map_or(0, |o| o.attempt + 1);
        let m = self.memory.container(name);
        if let Some(dead) = latest.filter(|o| o.exited()) {
            m.crash.next(dead.finished_at.unwrap_or(dead.created_at));
        }
        m.image = Image::Unknown;
        m.error = None;
        let action =
            Action::Launch { container: name.to_owned(), attempt, sandbox: sandbox.id.clone(), image };
        self.act(Op::Launch(name.to_owned()), 0, action);
    }

    /// True while the container waits for its restart back-off.
    fn crash_back_off(&mut self, c: &Spec) -> bool {
        let Some(dead) = self.input.observed.latest(&c.name).filter(|o| o.exited()) else { return false };
        if dead.hash != 0 && dead.hash != hash::container(c) {
            // What failed is not what is to be started.
            self.memory.container(&c.name).crash.reset();
            return false;
        }
        let failed_at = dead.finished_at.unwrap_or(dead.created_at);
        let m = self.memory.container(&c.name);
        let Some(until) = m.crash.until(failed_at, self.input.now) else { return false };
        let delay = go_duration(m.crash.delay());
        let told = m.told_until.replace(until) == Some(until);
        let (name, pod) = (&c.name, spec::describe(self.input.pod));
        if !told {
            let text = format!("Back-off restarting failed container {name} in pod {pod}");
            self.notice(true, "BackOff", text, Some(name));
        }
        let message = format!("back-off {delay} restarting failed container={name} pod={pod}");
        self.wait(name, "CrashLoopBackOff".into(), message);
        self.wake(until);
        true
    }

    fn pull_back_off(
        &mut self,
        c: &Spec,
        reason: String,
        message: String,
        at: Timestamp,
        retry_at: Timestamp,
    ) {
        let now = self.input.now;
        if retry_at <= now {
            // The failure stays shown until the pull has a result.
            self.wait(&c.name, reason, message);
            self.pull(&c.name);
            return;
        }
        let shown_until = at.checked_add(SHOW_PULL_ERROR).unwrap_or(retry_at);
        if reason != "ErrImagePull" || now < shown_until {
            self.wake(if reason == "ErrImagePull" { shown_until.min(retry_at) } else { retry_at });
            self.wait(&c.name, reason, message);
            return;
        }
        self.wake(retry_at);
        let image = c.image.as_deref().unwrap_or_default();
        let text = format!("Back-off pulling image \"{image}\"");
        if self.memory.container(&c.name).told_until.replace(retry_at) != Some(retry_at) {
            self.notice(false, "BackOff", text.clone(), Some(&c.name));
            self.notice(true, "Failed", "Error: ImagePullBackOff".into(), Some(&c.name));
        }
        self.wait(&c.name, "ImagePullBackOff".into(), format!("{text}: ErrImagePull: {message}"));
    }

    /// Removes what no status and no `logs --previous` needs: all but the newest ended instance of each
    /// container, and old sandboxes without containers. Everything, once the API has forgotten the pod.
    fn remove_dead(&mut self) {
        let observed = self.input.observed;
        let purge = self.memory.purge && self.out.released;
        for c in &observed.containers {
            let newer_dead =
                observed.containers.iter().any(|o| o.name == c.name && o.attempt > c.attempt && o.exited());
            let newer = observed.containers.iter().any(|o| o.name == c.name && o.attempt > c.attempt);
            let surplus = match c.state {
                ContainerState::Exited => newer_dead,
                ContainerState::Created => newer,
                _ => false,
            };
            if purge || surplus {
                self.act_once(Op::Remove(c.id.clone()), Action::Remove { id: c.id.clone() });
            }
        }
        let latest = observed.latest_sandbox().map(|s| s.id.clone());
        for s in &observed.sandboxes {
            let empty = !observed.containers.iter().any(|c| c.sandbox_id == s.id);
            let old = Some(&s.id) != latest.as_ref();
            if empty && old && s.ready {
                self.act_once(Op::StopSandbox(s.id.clone()), Action::StopSandbox { id: s.id.clone() });
            } else if empty && (old || purge) && !self.memory.busy(&Op::StopSandbox(s.id.clone())) {
                self.act_once(Op::RemoveSandbox(s.id.clone()), Action::RemoveSandbox { id: s.id.clone() });
            }
        }
        self.out.purged = purge && observed.sandboxes.is_empty() && observed.containers.is_empty();
    }

    /// Stops a container, unless that is under way with as short a grace.
    pub(crate) fn stop(&mut self, c: &Container, grace_seconds: i64, message: String) {
        let op = Op::Stop(c.id.clone());
        if self.memory.in_flight.get(&op).is_some_and(|u| u.grace_seconds <= grace_seconds) {
            return;
        }
        let action = Action::Stop { id: c.id.clone(), container: c.name.clone(), grace_seconds, message };
        self.act(op, grace_seconds, action);
    }

    pub(crate) fn act_once(&mut self, op: Op, action: Action) {
        if !self.memory.busy(&op) {
            self.act(op, 0, action);
        }
    }

    pub(crate) fn act(&mut self, op: Op, grace_seconds: i64, action: Action) {
        self.memory.begin(op, grace_seconds);
        self.out.actions.push(action);
    }

    pub(crate) fn wake(&mut self, at: Timestamp) {
        self.out.wake_at = Some(self.out.wake_at.map_or(at, |w| w.min(at)));
    }

    fn wait(&mut self, name: &str, reason: String, message: String) {
        self.out.waiting.insert(name.to_owned(), (reason, message));
    }

    fn notice(&mut self, warning: bool, reason: &'static str, message: String, container: Option<&str>) {
        let container = container.map(str::to_owned);
        self.out.notices.push(Notice { warning, reason, message, container });
    }
}

/// The sandbox that containers may be put into: the newest, ready, and with an address unless it shares the
/// node's network.
#[must_use]
pub fn usable_sandbox<'a>(pod: &Pod, observed: &'a Observed) -> Option<&'a Sandbox> {
    observed.active_sandbox().filter(|s| spec::host_network(pod) || !s.ips.is_empty())
}

/// Whether a running container counts as started: its postStart hook is done and its startup probe passed.
#[must_use]
pub fn started(c: &Spec, o: &Container, memory: &Memory) -> bool {
    o.running()
        && !(memory.busy(&Op::Launch(c.name.clone())) && has_post_start(c))
        && (c.startup_probe.is_none() || memory.probed(&o.id).startup == Some(true))
}

/// Whether a container has a postStart hook.
#[must_use]
pub fn has_post_start(c: &Spec) -> bool {
    c.lifecycle.as_ref().is_some_and(|l| l.post_start.is_some())
}
