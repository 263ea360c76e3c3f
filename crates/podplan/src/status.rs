//! The pod status that the API is told.
//!
//! Fields of other writers (nominated node, resource claims, foreign conditions) are carried over from
//! `previous`. Times move only when what they date does, so that equal states give equal statuses.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container as Spec, ContainerState as State, ContainerStateRunning, ContainerStateTerminated,
    ContainerStateWaiting, ContainerStatus, ContainerUser, HostIP, LinuxContainerUser, PodIP, PodStatus,
    VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::conditions;
use crate::memory::{Memory, Op};
use crate::observed::{Container, ContainerState};
use crate::phase;
use crate::plan::{Input, Plan, has_post_start, started, usable_sandbox};
use crate::resources;
use crate::spec::{self, Role};

/// What the status says of the node.
#[derive(Clone, Copy, Debug)]
pub struct Host<'a> {
    /// The node's addresses, the primary first.
    pub ips: &'a [String],
    /// Runtime name: the scheme of container ids.
    pub runtime: &'a str,
}

/// The status after `plan`.
#[must_use]
pub fn status(
    input: &Input<'_>,
    memory: &Memory,
    plan: &Plan,
    host: &Host<'_>,
    previous: &PodStatus,
) -> PodStatus {
    let pod = input.pod;
    let mut out = previous.clone();
    out.observed_generation = pod.metadata.generation;
    out.qos_class.get_or_insert_with(|| resources::qos_class(pod).to_owned());
    out.start_time = previous.start_time.clone().or(memory.start_time.map(Time));
    out.host_ip = host.ips.first().cloned();
    out.host_ips = Some(host.ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect());
    if let Some(ending) = &memory.ending {
        out.reason = Some(ending.reason.clone());
        out.message = Some(ending.message.clone());
        if ending.rejected {
            out.phase = Some("Failed".into());
            return out;
        }
    }
    let view = View { input, memory, plan, host };
    fill_containers(&mut out, &view, previous);
    fill_addresses(&mut out, &view);
    let mut all: Vec<ContainerStatus> = out.init_container_statuses.clone().unwrap_or_default();
    all.extend(out.container_statuses.clone().unwrap_or_default());
    let initialized = conditions::any_main_started(pod, &all);
    let before = previous.phase.as_deref().unwrap_or("Pending");
    let phase = if matches!(before, "Succeeded" | "Failed") {
        // Terminal phases are final.
        before
    } else if memory.ending.is_some() {
        if plan.stopped { "Failed" } else { before }
    } else {
        let phase = phase::phase(pod, &all, initialized, plan.stopped);
        // What ended may still be replaced, and a sidecar may still run.
        let early = matches!(phase, "Succeeded" | "Failed") && !plan.stopped;
        if early { "Running" } else { phase }
    };
    let ready = usable_sandbox(pod, input.observed).is_some();
    let old = previous.conditions.as_deref().unwrap_or_default();
    let mut list = conditions::conditions(pod, &all, phase, ready, old, input.now);
    if let Some(ending) = memory.ending.as_ref().filter(|e| e.reason == "Evicted") {
        let (reason, message) = ("TerminationByKubelet", ending.message.as_str());
        conditions::set(&mut list, pod, "DisruptionTarget", reason, message, input.now);
    }
    out.phase = Some(phase.to_owned());
    out.conditions = Some(list);
    out
}

struct View<'a> {
    input: &'a Input<'a>,
    memory: &'a Memory,
    plan: &'a Plan,
    host: &'a Host<'a>,
}

fn fill_containers(out: &mut PodStatus, view: &View<'_>, previous: &PodStatus) {
    let pod = view.input.pod;
    let of = |list: Vec<ContainerStatus>| (!list.is_empty()).then_some(list);
    let old = previous.init_container_statuses.as_deref().unwrap_or_default();
    out.init_container_statuses = of(spec::init(pod)
        .iter()
        .map(|c| {
            let role = if spec::is_sidecar(c) { Role::Sidecar } else { Role::Init };
            view.container(role, c, old)
        })
        .collect());
    let old = previous.container_statuses.as_deref().unwrap_or_default();
    out.container_statuses = of(spec::main(pod).iter().map(|c| view.container(Role::Main, c, old)).collect());
    let old = previous.ephemeral_container_statuses.as_deref().unwrap_or_default();
    out.ephemeral_container_statuses = of(spec::ephemeral(pod)
        .iter()
        .map(|e| view.container(Role::Ephemeral, &spec::as_container(e), old))
        .collect());
}

fn fill_addresses(out: &mut PodStatus, view: &View<'_>) {
    let pod = view.input.pod;
    let Some(sandbox) = usable_sandbox(pod, view.input.observed) else { return };
    let ips: &[String] = if spec::host_network(pod) { view.host.ips } else { &sandbox.ips };
    if !ips.is_empty() {
        out.pod_ip = ips.first().cloned();
        out.pod_ips = Some(ips.iter().map(|ip| PodIP { ip: ip.clone() }).collect());
    }
}

impl View<'_> {
    fn container(&self, role: Role, c: &Spec, old: &[ContainerStatus]) -> ContainerStatus {
        let old = old.iter().find(|s| s.name == c.name);
        let latest = self.input.observed.latest(&c.name);
        let launching = self.memory.busy(&Op::Launch(c.name.clone()));
        // A container between create and start is nobody's business yet: it saves a status write.
        let latest = match latest {
            Some(o) if o.state == ContainerState::Created && launching => self.input.observed.previous(o),
            other => other,
        };
        let Some(o) = latest else { return self.absent(c, old) };
        let (state, last) = self.states(c, o);
        let running = state.running.is_some();
        let started = running && started(c, o, self.memory);
        let succeeded = state.terminated.as_ref().is_some_and(|t| t.exit_code == 0);
        let ready = match role {
            Role::Init => succeeded,
            Role::Ephemeral => false,
            _ => {
                let passed = self.memory.probed(&o.id).readiness == Some(true);
                started && (c.readiness_probe.is_none() || passed)
            }
        };
        let last_state =
            last.or_else(|| old.and_then(|s| s.last_state.clone()).filter(|l| *l != State::default()));
        ContainerStatus {
            allocated_resources: running
                .then(|| c.resources.as_ref().and_then(|r| r.requests.clone()))
                .flatten()
                .filter(|r: &BTreeMap<_, _>| !r.is_empty()),
            allocated_resources_status: None,
            container_id: Some(format!("{}://{}", self.host.runtime, o.id)),
            image: if o.image.is_empty() { c.image.clone().unwrap_or_default() } else { o.image.clone() },
            image_id: o.image_id.clone(),
            last_state: Some(last_state.unwrap_or_default()),
            name: c.name.clone(),
            ready,
            resources: running.then(|| c.resources.clone().unwrap_or_default()),
            restart_count: i32::try_from(o.attempt).unwrap_or(i32::MAX),
            started: Some(started && role != Role::Init),
            state: Some(state),
            stop_signal: o.stop_signal.clone(),
            user: running.then(|| user(o)).flatten(),
            volume_mounts: mounts(c),
        }
    }

    /// State and last state of a container that the runtime knows.
    fn states(&self, c: &Spec, o: &Container) -> (State, Option<State>) {
        let launching = self.memory.busy(&Op::Launch(c.name.clone()));
        let previous = self.input.observed.previous(o).map(|p| self.terminated(p));
        match o.state {
            // Until its postStart hook is done a container does not count as running.
            ContainerState::Running if launching && has_post_start(c) => (self.waiting(c), previous),
            ContainerState::Running => {
                let started_at = o.started_at.map(Time);
                (State { running: Some(ContainerStateRunning { started_at }), ..State::default() }, previous)
            }
            ContainerState::Exited if self.plan.waiting.contains_key(&c.name) => {
                (self.waiting(c), Some(self.terminated(o)))
            }
            ContainerState::Exited => (self.terminated(o), previous),
            ContainerState::Created => (self.waiting(c), previous),
            ContainerState::Unknown => (lost(&self.id(o)), previous),
        }
    }

    /// Status of a container that the runtime does not know.
    fn absent(&self, c: &Spec, old: Option<&ContainerStatus>) -> ContainerStatus {
        let image = c.image.clone().unwrap_or_default();
        let mut out = ContainerStatus {
            image,
            name: c.name.clone(),
            last_state: Some(State::default()),
            started: Some(false),
            state: Some(self.waiting(c)),
            volume_mounts: mounts(c),
            ..ContainerStatus::default()
        };
        let Some(old) = old else { return out };
        out.restart_count = old.restart_count;
        out.last_state = old.last_state.clone().or(out.last_state);
        let state = old.state.clone().unwrap_or_default();
        let id = old.container_id.clone().unwrap_or_default();
        if state.terminated.is_some() {
            // Its record was removed; what the API was told stays true, and what succeeded stays ready.
            return ContainerStatus { started: Some(false), ..old.clone() };
        }
        if state.running.is_some() && self.plan.stopped {
            out.state = Some(lost(&id));
            out.container_id = Some(id);
            out.image_id = old.image_id.clone();
        } else if state.running.is_some() {
            out.last_state = Some(lost(&id));
            out.restart_count += 1;
        } else if !self.plan.waiting.contains_key(&c.name) && !self.plan.stopped {
            out.state = Some(state);
            out.state = out.state.filter(|s| s.waiting.is_some() && old.restart_count > 0);
            out.state.get_or_insert_with(|| self.waiting(c));
        }
        out
    }

    fn waiting(&self, c: &Spec) -> State {
        let default =
            if spec::init(self.input.pod).is_empty() { "ContainerCreating" } else { "PodInitializing" };
        let (reason, message) = match self.plan.waiting.get(&c.name) {
            Some((reason, message)) => (reason.clone(), Some(message.clone()).filter(|m| !m.is_empty())),
            None => (default.to_owned(), None),
        };
        State { waiting: Some(ContainerStateWaiting { message, reason: Some(reason) }), ..State::default() }
    }

    fn id(&self, o: &Container) -> String {
        format!("{}://{}", self.host.runtime, o.id)
    }

    fn terminated(&self, o: &Container) -> State {
        let reason = if !o.reason.is_empty() {
            o.reason.clone()
        } else if o.exit_code == 0 {
            "Completed".to_owned()
        } else {
            "Error".to_owned()
        };
        State {
            terminated: Some(ContainerStateTerminated {
                container_id: Some(self.id(o)),
                exit_code: o.exit_code,
                finished_at: o.finished_at.map(Time),
                message: Some(o.message.clone()).filter(|m| !m.is_empty()),
                reason: Some(reason),
                signal: None,
                started_at: o.started_at.map(Time),
            }),
            ..State::default()
        }
    }
}

/// State of a container that was running when last seen and of which nothing is left.
fn lost(container_id: &str) -> State {
    let message = "The container could not be located when the pod was terminated";
    State {
        terminated: Some(ContainerStateTerminated {
            container_id: Some(container_id.to_owned()).filter(|i| !i.is_empty()),
            exit_code: 137,
            message: Some(message.into()),
            reason: Some("ContainerStatusUnknown".into()),
            ..ContainerStateTerminated::default()
        }),
        ..State::default()
    }
}

fn user(o: &Container) -> Option<ContainerUser> {
    let (uid, gid, groups) = o.user.clone()?;
    let supplemental_groups = Some(groups).filter(|g| !g.is_empty());
    Some(ContainerUser { linux: Some(LinuxContainerUser { gid, supplemental_groups, uid }) })
}

fn mounts(c: &Spec) -> Option<Vec<VolumeMountStatus>> {
    let list: Vec<VolumeMountStatus> = c
        .volume_mounts
        .iter()
        .flatten()
        .map(|m| VolumeMountStatus {
            mount_path: m.mount_path.clone(),
            name: m.name.clone(),
            read_only: m.read_only.filter(|r| *r),
            recursive_read_only: m.read_only.filter(|r| *r).map(|_| "Disabled".to_owned()),
            ..VolumeMountStatus::default()
        })
        .collect();
    (!list.is_empty()).then_some(list)
}
