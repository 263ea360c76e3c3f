//! Runs the probes of a pod's containers: a task a probe, each driven by its own timer, all told to the pod's
//! worker.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use isopod_cri::{Code, v1};
use isopod_podplan::probe::{Kind, Machine, Outcome};
use isopod_podplan::spec::{self, Role};
use isopod_podplan::{Memory, Observed, plan};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::kubelet::Kubelet;
use crate::{hooks, http_call};

/// A verdict of a probe.
pub(crate) struct Verdict {
    pub(crate) container_id: String,
    pub(crate) kind: Kind,
    pub(crate) passed: bool,
}

/// Verdicts waiting for the worker; more than one a probe of a pod is rare.
const QUEUE: usize = 64;

/// The probe tasks of one pod.
pub(crate) struct Prober {
    tasks: HashMap<(String, &'static str), AbortHandle>,
    tell: mpsc::Sender<Verdict>,
}

impl Prober {
    pub(crate) fn new() -> (Self, mpsc::Receiver<Verdict>) {
        let (tell, told) = mpsc::channel(QUEUE);
        (Self { tasks: HashMap::new(), tell }, told)
    }

    /// Starts the probes that should run and stops those that should not. `over` says that the pod ends: then
    /// only readiness is of interest.
    pub(crate) fn sync(
        &mut self,
        kubelet: &Arc<Kubelet>,
        pod: &Arc<Pod>,
        observed: &Observed,
        memory: &Memory,
        over: bool,
    ) {
        let mut wanted = Vec::new();
        for name in spec::names(pod) {
            let Some((role, c)) = spec::find(pod, name) else { continue };
            if matches!(role, Role::Init | Role::Ephemeral) {
                continue;
            }
            let Some(o) = observed.latest(name).filter(|o| o.running()) else { continue };
            let probed = memory.probed(&o.id);
            let started = plan::started(&c, o, memory);
            let list = [
                (Kind::Startup, c.startup_probe.as_ref(), probed.startup.is_none() && !over),
                (
                    Kind::Liveness,
                    c.liveness_probe.as_ref(),
                    started && probed.liveness != Some(false) && !over,
                ),
                (Kind::Readiness, c.readiness_probe.as_ref(), started),
            ];
            for (kind, probe, run) in list {
                let Some(probe) = probe.filter(|_| run) else { continue };
                let key = (o.id.clone(), kind.name());
                wanted.push(key.clone());
                self.tasks.entry(key).or_insert_with(|| {
                    let work = Work {
                        kubelet: kubelet.clone(),
                        pod: pod.clone(),
                        container: c.clone().into_owned(),
                        id: o.id.clone(),
                        ip: pod_ip(kubelet, pod, observed),
                        kind,
                        probe: probe.clone(),
                    };
                    let started_at = o.started_at.unwrap_or_else(|| kubelet.now());
                    tokio::spawn(work.run(started_at, self.tell.clone())).abort_handle()
                });
            }
        }
        self.tasks.retain(|key, task| {
            let keep = wanted.contains(key);
            if !keep {
                task.abort();
            }
            keep
        });
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.tasks.values().for_each(AbortHandle::abort);
    }
}

/// The address to probe: the pod's, or the node's for pods that share its network.
pub(crate) fn pod_ip(kubelet: &Kubelet, pod: &Pod, observed: &Observed) -> String {
    let sandbox = observed.active_sandbox().and_then(|s| s.ips.first().cloned());
    sandbox
        .filter(|_| !spec::host_network(pod))
        .or_else(|| kubelet.host_ips().into_iter().next())
        .unwrap_or_default()
}

struct Work {
    kubelet: Arc<Kubelet>,
    pod: Arc<Pod>,
    container: Container,
    id: String,
    ip: String,
    kind: Kind,
    probe: Probe,
}

impl Work {
    async fn run(self, started_at: Timestamp, tell: mpsc::Sender<Verdict>) {
        let mut machine = Machine::new(self.kind, &self.probe);
        let wait = machine.first(started_at).duration_since(self.kubelet.now());
        if let Ok(wait) = Duration::try_from(wait) {
            tokio::time::sleep(wait).await;
        }
        let period = Duration::try_from(machine.period()).unwrap_or(Duration::from_secs(10));
        let mut timer = tokio::time::interval(period);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            timer.tick().await;
            let outcome = self.once().await;
            self.report(&outcome);
            let passed = matches!(outcome, Outcome::Success(_));
            if let Some(passed) = machine.record(passed) {
                let verdict = Verdict { container_id: self.id.clone(), kind: self.kind, passed };
                if tell.send(verdict).await.is_err() {
                    return;
                }
            }
            if machine.done() {
                return;
            }
        }
    }

    fn report(&self, outcome: &Outcome) {
        crate::metrics::probe(self.kind, matches!(outcome, Outcome::Success(_)));
        let name = self.kind.name();
        let (reason, text) = match outcome {
            Outcome::Success(None) => return,
            Outcome::Success(Some(warning)) => ("ProbeWarning", format!("{name} probe warning: {warning}")),
            Outcome::Failure(text) => ("Unhealthy", format!("{name} probe failed: {text}")),
            Outcome::Error(text) => {
                ("Unhealthy", format!("{name} probe errored and resulted in unknown state: {text}"))
            }
        };
        self.kubelet.event(&self.pod, Some(&self.container.name), true, reason, text);
    }

    async fn once(&self) -> Outcome {
        let seconds = self.probe.timeout_seconds.filter(|s| *s > 0).unwrap_or(1);
        let limit = Duration::from_secs(u64::from(seconds.unsigned_abs()));
        if let Some(e) = &self.probe.exec {
            return self.exec(e.command.clone().unwrap_or_default(), limit).await;
        }
        if let Some(h) = &self.probe.http_get {
            return self.http(h, limit).await;
        }
        if let Some(t) = &self.probe.tcp_socket {
            let port = match http_call::port(&t.port, &self.container) {
                Ok(port) => port,
                Err(e) => return Outcome::Error(e),
            };
            let host = t.host.as_deref().filter(|h| !h.is_empty()).unwrap_or(&self.ip);
            return match tokio::time::timeout(limit, http_call::connect(host, port)).await {
                Ok(Ok(_)) => Outcome::Success(None),
                Ok(Err(e)) => Outcome::Failure(e),
                Err(_) => Outcome::Failure(format!("dial tcp {host}:{port}: i/o timeout")),
            };
        }
        if let Some(g) = &self.probe.grpc {
            let service = g.service.clone().unwrap_or_default();
            return crate::grpc_health::check(&self.ip, g.port, service, limit).await;
        }
        Outcome::Error(format!(
            "missing probe handler for {}:{}",
            spec::describe(&self.pod),
            self.container.name
        ))
    }

    async fn exec(&self, cmd: Vec<String>, limit: Duration) -> Outcome {
        let request = v1::ExecSyncRequest {
            container_id: self.id.clone(),
            cmd: cmd.clone(),
            timeout: i64::try_from(limit.as_secs()).unwrap_or(1),
        };
        let text = format!("command {:?} timed out after {}s", cmd.join(" "), limit.as_secs());
        // The runtime ends the command at the limit; the margin only guards against one that does not.
        let guard = limit + Duration::from_secs(2);
        match tokio::time::timeout(guard, self.kubelet.runtime.exec_sync(request)).await {
            Ok(Ok(answer)) if answer.exit_code == 0 => Outcome::Success(None),
            Ok(Ok(answer)) => Outcome::Failure(hooks::output(&answer)),
            Ok(Err(e)) if e.code == Code::DeadlineExceeded => Outcome::Failure(text),
            Ok(Err(e)) => Outcome::Error(e.message),
            Err(_) => Outcome::Failure(text),
        }
    }

    async fn http(&self, h: &k8s_openapi::api::core::v1::HTTPGetAction, limit: Duration) -> Outcome {
        match http_call::get(h, &self.container, &self.ip, "kube-probe/1.36", limit).await {
            Ok(a) if a.redirected_away => {
                Outcome::Success(Some(format!("Probe terminated redirects, Response body: {}", a.body)))
            }
            Ok(a) if (200..400).contains(&a.status) => Outcome::Success(None),
            Ok(a) => Outcome::Failure(format!("HTTP probe failed with statuscode: {}", a.status)),
            Err(e) => Outcome::Failure(e),
        }
    }
}
