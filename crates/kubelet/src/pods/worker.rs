//! The worker of one pod: looks at what is wanted and what is, plans, carries steps out side by side, tells the
//! API, and sleeps until something concerns the pod.

mod outcomes;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use isopod_podplan::probe::Kind;
use isopod_podplan::spec::Role;
use isopod_podplan::{Action, Ending, Host, Input, Memory, Observed, Op, Plan, admit, plan, status};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::kubelet::Kubelet;
use crate::observe::Observer;
use crate::pods::launch::{self, Launch};
use crate::pods::publish::{self, Report};
use crate::pods::steps::{self, Done};
use crate::pods::{PodShared, mirror, name_of};
use crate::probes::{self, Prober, Verdict};
use crate::volumes::Mounted;
use crate::{metrics, security};

/// Pause after the runtime could not be asked.
const RUNTIME_RETRY: Duration = Duration::from_secs(1);

/// Looks after a pod until nothing is left of it, or the kubelet shuts down.
pub(crate) async fn run(kubelet: Arc<Kubelet>, shared: Arc<PodShared>) {
    let (reports, told) = watch::channel(None);
    let publisher = tokio::spawn(publish::run(kubelet.clone(), shared.clone(), told));
    let (prober, verdicts) = Prober::new();
    let mut worker = Worker {
        pod: shared.pod(),
        memory: Memory::default(),
        observed: Observed::default(),
        observer: Observer::default(),
        ops: JoinSet::new(),
        names: HashMap::new(),
        aborts: BTreeMap::new(),
        prober,
        volumes: Arc::default(),
        renew_volumes_at: None,
        refresh: false,
        setup_failures: (0, 0),
        status: PodStatus::default(),
        reports,
        ending: CancellationToken::new(),
        mirror_uid: None,
        mirroring: false,
        seen: kubelet.now(),
        started: false,
        kubelet: kubelet.clone(),
        shared: shared.clone(),
    };
    let gone = tokio::select! {
        gone = worker.live(verdicts) => gone,
        () = kubelet.shutdown.cancelled() => false,
    };
    if gone {
        worker.bury().await;
        kubelet.pods.forget(&shared.uid);
        // Its manifest may have come back meanwhile.
        if shared.is_static && !shared.desired.lock().removed {
            kubelet.pods.apply(&kubelet, shared.pod(), true);
        }
    }
    drop(worker);
    if gone {
        publisher.abort();
    } else {
        // The last report is still on its way.
        let _ = tokio::time::timeout(Duration::from_secs(1), publisher).await;
    }
}

struct Worker {
    kubelet: Arc<Kubelet>,
    shared: Arc<PodShared>,
    pod: Arc<Pod>,
    memory: Memory,
    observed: Observed,
    observer: Observer,
    ops: JoinSet<Done>,
    names: HashMap<tokio::task::Id, Op>,
    aborts: BTreeMap<Op, AbortHandle>,
    prober: Prober,
    volumes: Arc<Mounted>,
    renew_volumes_at: Option<Timestamp>,
    refresh: bool,
    /// Failures in a row of volumes and of the sandbox.
    setup_failures: (u32, u32),
    status: PodStatus,
    reports: watch::Sender<Option<Report>>,
    /// Cancelled once the pod is over.
    ending: CancellationToken,
    mirror_uid: Option<String>,
    mirroring: bool,
    seen: Timestamp,
    started: bool,
}

impl Worker {
    /// True when nothing is left of the pod.
    async fn live(&mut self, mut verdicts: mpsc::Receiver<Verdict>) -> bool {
        self.begin().await;
        loop {
            let stale = self.take_desired();
            if stale && !self.observe().await {
                // The shared flag is set again, so that the next turn asks again.
                self.shared.desired.lock().stale = true;
                tokio::time::sleep(RUNTIME_RETRY).await;
                continue;
            }
            let plan = self.plan();
            if plan.purged {
                return true;
            }
            let wake = self.wake(&plan);
            tokio::select! {
                () = self.shared.wake.notified() => {}
                Some(done) = self.ops.join_next_with_id() => {
                    self.finish(done);
                    while let Some(done) = self.ops.try_join_next_with_id() {
                        self.finish(done);
                    }
                }
                Some(v) = verdicts.recv() => self.judge(&v),
                () = sleep_until(wake, self.kubelet.now()) => {}
            }
        }
    }

    /// First look: what is there already, and whether the node takes the pod.
    async fn begin(&mut self) {
        if self.shared.is_static {
            self.wait_for_namesake().await;
        }
        while !self.observe().await {
            tokio::time::sleep(RUNTIME_RETRY).await;
        }
        let before = self.pod.status.clone().unwrap_or_default();
        self.memory.start_time = before.start_time.as_ref().map(|t| t.0);
        if !self.shared.is_static {
            self.status = before.clone();
        }
        self.trust_readiness(&before);
        let known = !self.observed.sandboxes.is_empty() || before.start_time.is_some();
        self.admit(known);
    }

    /// A static pod whose manifest changed is a new pod of the same name; it waits for the old one's end.
    async fn wait_for_namesake(&self) {
        let mut changed = self.kubelet.pods.subscribe();
        loop {
            let other = self.kubelet.pods.list().into_iter().any(|p| {
                p.uid != self.shared.uid && p.is_static && name_of(&p.pod()) == name_of(&self.pod) && {
                    p.desired.lock().removed
                }
            });
            if !other || changed.changed().await.is_err() {
                return;
            }
        }
    }

    /// Containers that the kubelet finds running keep the readiness that they had, so that its restart does
    /// not take them out of Services.
    fn trust_readiness(&mut self, before: &PodStatus) {
        let lists = [&before.container_statuses, &before.init_container_statuses];
        for s in lists.into_iter().flatten().flatten() {
            let id = s.container_id.as_deref().and_then(|i| i.split_once("://")).map(|(_, id)| id);
            let Some(o) = id.and_then(|id| self.observed.by_id(id)).filter(|o| o.running()) else { continue };
            let probed = self.memory.probes.entry(o.id.clone()).or_default();
            probed.startup = (s.started == Some(true)).then_some(true);
            probed.readiness = s.ready.then_some(true);
        }
    }

    fn admit(&mut self, known: bool) {
        let pods = &self.kubelet.pods;
        let _one_at_a_time = pods.admission.lock();
        let phase = self.pod.status.as_ref().and_then(|s| s.phase.as_deref());
        let over = matches!(phase, Some("Succeeded" | "Failed"));
        if !known && !over && self.pod.metadata.deletion_timestamp.is_none() {
            let others = pods.active(&self.shared.uid);
            let pressure = *self.kubelet.pressure.read();
            let node = self.kubelet.node();
            let verdict = admit::admit(&self.pod, &node, others.iter().map(AsRef::as_ref), pressure);
            if let Err(refusal) = verdict {
                let text = refusal.message.clone();
                self.kubelet.event(&self.pod, None, true, &refusal.reason, text);
                self.memory.ending = Some(Ending {
                    reason: refusal.reason,
                    message: refusal.message,
                    grace_seconds: Some(0),
                    rejected: true,
                });
                return;
            }
        }
        self.shared.view.write().admitted = true;
        if !over {
            self.kubelet
                .cgroups
                .weigh(pods.active("").iter().map(AsRef::as_ref).collect::<Vec<_>>().into_iter());
        }
    }

    /// Takes over what is wanted; true when the runtime must be asked anew.
    fn take_desired(&mut self) -> bool {
        let mut desired = self.shared.desired.lock();
        self.pod = desired.pod.clone();
        self.memory.removed |= desired.removed;
        self.memory.purge |= desired.removed;
        if let (Some(ending), None) = (desired.ending.take(), &self.memory.ending) {
            self.memory.ending = Some(ending);
        }
        if std::mem::take(&mut desired.refresh) {
            self.refresh = true;
            // What could not be configured may be possible now.
            self.memory.prepare_retry_at = None;
            for m in self.memory.containers.values_mut() {
                m.error.take_if(|e| e.reason == "CreateContainerConfigError");
            }
        }
        std::mem::take(&mut desired.stale)
    }

    async fn observe(&mut self) -> bool {
        match self.observer.observe(&self.kubelet, &self.shared.uid).await {
            Ok(observed) => {
                self.memory.probes.retain(|id, _| observed.by_id(id).is_some());
                self.observed = observed;
                true
            }
            Err(error) => {
                tracing::warn!(pod = name_of(&self.pod), %error, "ask the runtime");
                false
            }
        }
    }

    fn plan(&mut self) -> Plan {
        let pod = self.pod.clone();
        let now = self.kubelet.now();
        let input = Input { pod: &pod, observed: &self.observed, now };
        let mut plan = plan(&input, &mut self.memory);
        if plan.over {
            self.wind_down();
        }
        for n in std::mem::take(&mut plan.notices) {
            self.kubelet.event(&pod, n.container.as_deref(), n.warning, n.reason, n.message);
        }
        self.publish(&pod, now, &plan);
        for action in std::mem::take(&mut plan.actions) {
            self.act(action);
        }
        self.prober.sync(&self.kubelet, &pod, &self.observed, &self.memory, plan.over);
        self.renew_volumes(&plan, now);
        self.see_to_mirror(&plan);
        plan
    }

    /// Ends what need not be finished now that the pod is over.
    fn wind_down(&mut self) {
        self.ending.cancel();
        let pulls: Vec<Op> = self.aborts.keys().filter(|op| matches!(op, Op::Pull(_))).cloned().collect();
        for op in pulls {
            if let Some(task) = self.aborts.remove(&op) {
                task.abort();
            }
            if self.memory.busy(&op) {
                self.memory.end(&op);
                self.shared.wake.notify_one();
            }
        }
    }

    fn publish(&mut self, pod: &Pod, now: Timestamp, plan: &Plan) {
        self.adopt_foreign_conditions();
        let ips = self.kubelet.host_ips();
        let host = Host { ips: &ips, runtime: &self.kubelet.runtime_version.0 };
        let input = Input { pod, observed: &self.observed, now };
        let status = status(&input, &self.memory, plan, &host, &self.status);
        let deleted = self.pod.metadata.deletion_timestamp.is_some();
        let finished = plan.released && deleted && !self.shared.is_static;
        let mirror = self.shared.mirror().and_then(|m| m.metadata.uid.clone());
        let new_mirror = mirror.is_some() && mirror != self.mirror_uid;
        self.mirror_uid = mirror;
        let was_finished = self.reports.borrow().as_ref().is_some_and(|r| r.finished);
        let first = self.reports.borrow().is_none();
        if first || status != self.status || finished != was_finished || new_mirror {
            self.reports.send_replace(Some(Report { status: status.clone(), finished }));
        }
        if !self.started && status.phase.as_deref() == Some("Running") {
            self.started = true;
            if let Ok(took) = Duration::try_from(now.duration_since(self.seen)) {
                metrics::POD_START.observe(took.as_secs_f64());
            }
        }
        self.status = status;
        let mut view = self.shared.view.write();
        view.observed = self.observed.clone();
        view.status = self.status.clone();
        view.over = plan.over;
        view.stopped = plan.stopped;
        drop(view);
        self.kubelet.pods.touch();
    }

    /// Conditions that others write come from the API.
    fn adopt_foreign_conditions(&mut self) {
        let owned = |t: &str| isopod_podplan::conditions::OWNED.contains(&t) || t == "DisruptionTarget";
        let Some(theirs) = self.pod.status.as_ref().and_then(|s| s.conditions.as_ref()) else { return };
        let list = self.status.conditions.get_or_insert_default();
        list.retain(|c| owned(&c.type_));
        list.extend(theirs.iter().filter(|c| !owned(&c.type_)).cloned());
        if !list.iter().any(|c| c.type_ == "DisruptionTarget") {
            list.extend(theirs.iter().filter(|c| c.type_ == "DisruptionTarget").cloned());
        }
    }

    /// Milliseconds since the pod was first seen.
    fn age(&self) -> i64 {
        self.kubelet.now().as_millisecond() - self.seen.as_millisecond()
    }

    fn spawn(&mut self, op: Op, work: impl Future<Output = Done> + Send + 'static) {
        tracing::debug!(pod = name_of(&self.pod), ?op, ms = self.age(), "step begins");
        let task = self.ops.spawn(work);
        self.names.insert(task.id(), op.clone());
        if let Some(old) = self.aborts.insert(op, task) {
            old.abort();
        }
    }

    fn act(&mut self, action: Action) {
        let (kubelet, pod) = (self.kubelet.clone(), self.pod.clone());
        match action {
            Action::Prepare => {
                self.spawn(Op::Prepare, async move { Done::Prepared(steps::set_up(&kubelet, &pod).await) })
            }
            Action::CreateSandbox { attempt } => {
                let ending = self.ending.clone();
                self.spawn(Op::CreateSandbox, async move {
                    Done::Sandbox(steps::create_sandbox(kubelet, pod, attempt, ending).await)
                });
            }
            Action::StopSandbox { id } => {
                self.spawn(Op::StopSandbox(id.clone()), steps::stop_sandbox(kubelet, pod, id));
            }
            Action::RemoveSandbox { id } => {
                self.spawn(Op::RemoveSandbox(id.clone()), steps::remove_sandbox(kubelet, id));
            }
            Action::Pull { container } => {
                self.spawn(Op::Pull(container.clone()), steps::pull(kubelet, pod, container));
            }
            Action::Launch { container, attempt, sandbox, image } => {
                self.launch(container, attempt, sandbox, image);
            }
            Action::Stop { id, container, grace_seconds, message } => {
                let op = Op::Stop(id.clone());
                let again = self.aborts.contains_key(&op);
                let pod_ip = probes::pod_ip(&kubelet, &pod, &self.observed);
                let stop = steps::Stop { id, container, grace_seconds, message, pod_ip, again };
                self.spawn(op, steps::stop(kubelet, pod, stop));
            }
            Action::Remove { id } => {
                self.spawn(Op::Remove(id.clone()), steps::remove_container(kubelet, id));
            }
            Action::Release => self.spawn(Op::Release, steps::release(kubelet, pod)),
        }
    }

    fn launch(&mut self, container: String, attempt: u32, sandbox: String, image_ref: String) {
        let (kubelet, pod) = (self.kubelet.clone(), self.pod.clone());
        // The shared view is what environment and hosts file read addresses from.
        self.shared.view.write().observed = self.observed.clone();
        let target = security::target(&pod, Role::Ephemeral, &container);
        let target_id =
            target.and_then(|t| self.observed.latest(t)).filter(|o| o.running()).map(|o| o.id.clone());
        let sandbox_attempt = self.observed.latest_sandbox().map_or(0, |s| s.attempt);
        let l = Launch {
            container: container.clone(),
            attempt,
            sandbox,
            sandbox_attempt,
            image_ref,
            volumes: self.volumes.clone(),
            target_id,
            pod_ip: probes::pod_ip(&kubelet, &pod, &self.observed),
            is_static: self.shared.is_static,
            ending: self.ending.clone(),
        };
        self.spawn(Op::Launch(container.clone()), async move {
            Done::Launched(container, launch::launch(kubelet, pod, l).await)
        });
    }

    fn judge(&mut self, v: &Verdict) {
        let p = self.memory.probes.entry(v.container_id.clone()).or_default();
        match v.kind {
            Kind::Startup => p.startup = Some(v.passed),
            Kind::Liveness => p.liveness = Some(v.passed),
            Kind::Readiness => p.readiness = Some(v.passed),
        }
    }

    /// Brings volumes of a running pod up to date when what they hold changed or grows old.
    fn renew_volumes(&mut self, plan: &Plan, now: Timestamp) {
        if plan.over || !self.memory.prepared || self.aborts.contains_key(&Op::Prepare) {
            return;
        }
        let old = self.renew_volumes_at.is_some_and(|at| at <= now);
        if !old && !std::mem::take(&mut self.refresh) {
            return;
        }
        self.renew_volumes_at = None;
        let (kubelet, pod) = (self.kubelet.clone(), self.pod.clone());
        self.spawn(Op::Prepare, async move { Done::Refreshed(steps::set_up(&kubelet, &pod).await) });
    }

    fn see_to_mirror(&mut self, plan: &Plan) {
        if !self.shared.is_static || self.mirroring || plan.over {
            return;
        }
        let (kubelet, pod, have) = (self.kubelet.clone(), self.pod.clone(), self.shared.mirror());
        if have.as_deref().is_some_and(|m| mirror::fits(&pod, m)) {
            return;
        }
        self.mirroring = true;
        self.ops.spawn(async move {
            mirror::ensure(&kubelet, &pod, have.as_deref()).await;
            Done::Mirrored
        });
    }

    fn wake(&self, plan: &Plan) -> Option<Timestamp> {
        let busy = self.aborts.contains_key(&Op::Prepare);
        let renew = self.renew_volumes_at.filter(|_| !plan.over && !busy);
        [plan.wake_at, renew].into_iter().flatten().min()
    }

    /// Removes the last traces on the node.
    async fn bury(&mut self) {
        let uid = &self.shared.uid;
        let dir = self.kubelet.config.pod_dir(uid);
        let logs = crate::sandbox_config::log_directory(&self.kubelet, &self.pod);
        let result = tokio::task::spawn_blocking(move || {
            crate::volumes::remove_pod_dir(&dir)?;
            match std::fs::remove_dir_all(&logs) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e.to_string()),
                _ => Ok(()),
            }
        });
        if let Ok(Err(error)) = result.await {
            tracing::warn!(pod = name_of(&self.pod), error, "remove the pod's directory");
        }
        if let (true, Some(m)) = (self.shared.is_static, self.shared.mirror()) {
            mirror::delete(&self.kubelet, &m).await;
        }
        let active = self.kubelet.pods.active(uid);
        self.kubelet.cgroups.weigh(active.iter().map(AsRef::as_ref));
        tracing::debug!(pod = name_of(&self.pod), "pod removed");
    }
}

async fn sleep_until(at: Option<Timestamp>, now: Timestamp) {
    match at {
        None => std::future::pending().await,
        // A time that is past gives a negative duration: plan again at once, but let others run.
        Some(at) => match Duration::try_from(at.duration_since(now)) {
            Ok(wait) => tokio::time::sleep(wait).await,
            Err(_) => tokio::task::yield_now().await,
        },
    }
}
