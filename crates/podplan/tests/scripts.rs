//! Replays `testdata/*.txt`: a world in which steps succeed, fail and end as the script says, and what the
//! planner makes of it.
//!
//! A script is a list of commands, each followed by `----` and the golden answer up to a blank line.
//! `UPDATE_EXPECT=1 cargo test -p isopod-podplan` writes the answers anew.

use std::fmt::Write as _;

use isopod_podplan::memory::{Image, LaunchError, Op};
use isopod_podplan::observed::{Container, ContainerState, Observed, Sandbox};
use isopod_podplan::{Action, Ending, Host, Input, Memory, Plan, hash, plan, spec, status};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

#[derive(Default)]
struct World {
    pod: Pod,
    observed: Observed,
    memory: Memory,
    now: Timestamp,
    status: PodStatus,
    last: Plan,
    serial: u32,
}

impl World {
    fn step(&mut self) -> String {
        let mut out = String::new();
        let input = Input { pod: &self.pod, observed: &self.observed, now: self.now };
        self.last = plan(&input, &mut self.memory);
        let host = Host { ips: &["192.0.2.1".to_owned()], runtime: "isopod" };
        self.status = status(&input, &self.memory, &self.last, &host, &self.status);
        for a in &self.last.actions {
            let _ = writeln!(out, "{}", show(a));
        }
        for n in &self.last.notices {
            let kind = if n.warning { "Warning" } else { "Normal" };
            let _ = writeln!(out, "event {kind} {}: {}", n.reason, n.message);
        }
        if let Some(at) = self.last.wake_at {
            let _ = writeln!(out, "wake in {}s", at.duration_since(self.now).as_secs());
        }
        if self.last.purged {
            let _ = writeln!(out, "purged");
        } else if self.last.released {
            let _ = writeln!(out, "released");
        }
        out
    }

    fn run(&mut self, line: &str, body: &str) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["pod"] => {
                self.pod = serde_yaml_ng::from_str(body).expect("a pod");
                self.pod.metadata.uid.get_or_insert("u1".into());
                self.pod.metadata.name.get_or_insert("p".into());
                self.pod.metadata.namespace.get_or_insert("ns".into());
            }
            ["plan"] => {}
            ["tick", seconds] => {
                let d = SignedDuration::from_secs(seconds.parse().expect("seconds"));
                self.now = self.now.checked_add(d).expect("in range");
            }
            ["ok", ref step @ ..] => self.ok(step),
            ["fail", "pull", name, reason, seconds] => self.fail_pull(name, reason, seconds),
            ["fail", "launch", name, reason, seconds] => {
                self.memory.end(&Op::Launch(name.to_owned()));
                let retry_at = self.in_seconds(seconds);
                self.memory.container(name).error =
                    Some(LaunchError { reason: reason.into(), message: "boom".into(), retry_at });
            }
            ["exit", name, code] => self.exit(name, code.parse().expect("a code")),
            ["probe", name, which, result] => self.probe(name, which, result == "ok"),
            ["delete", grace] => {
                self.pod.metadata.deletion_timestamp = Some(Time(self.now));
                self.pod.metadata.deletion_grace_period_seconds = Some(grace.parse().expect("seconds"));
            }
            ["evict"] => {
                let (reason, message) = ("Evicted".into(), "low on memory".into());
                self.memory.ending =
                    Some(Ending { reason, message, grace_seconds: Some(1), rejected: false });
            }
            ["purge"] => self.memory.purge = true,
            ["lose-sandbox"] => {
                for s in &mut self.observed.sandboxes {
                    s.ready = false;
                }
            }
            ["status"] => return show_status(&self.status),
            _ => panic!("unknown command {line:?}"),
        }
        self.step()
    }

    fn in_seconds(&self, seconds: &str) -> Timestamp {
        let d = SignedDuration::from_secs(seconds.parse().expect("seconds"));
        self.now.checked_add(d).expect("in range")
    }

    fn fail_pull(&mut self, name: &str, reason: &str, seconds: &str) {
        self.memory.end(&Op::Pull(name.to_owned()));
        let retry_at = self.in_seconds(seconds);
        self.memory.container(name).image =
            Image::Failed { reason: reason.into(), message: "boom".into(), retry_at, at: self.now };
    }

    fn probe(&mut self, name: &str, which: &str, ok: bool) {
        let id = self.observed.latest(name).expect("a container").id.clone();
        let p = self.memory.probes.entry(id).or_default();
        match which {
            "startup" => p.startup = Some(ok),
            "liveness" => p.liveness = Some(ok),
            _ => p.readiness = Some(ok),
        }
    }

    fn exit(&mut self, name: &str, code: i32) {
        let now = self.now;
        let id = self.observed.latest(name).expect("a container").id.clone();
        let c = self.observed.containers.iter_mut().find(|c| c.id == id).expect("it");
        c.state = ContainerState::Exited;
        c.exit_code = code;
        c.finished_at = Some(now);
    }

    fn ok(&mut self, step: &[&str]) {
        match *step {
            ["prepare"] => {
                self.memory.end(&Op::Prepare);
                self.memory.prepared = true;
            }
            ["sandbox"] => {
                self.memory.end(&Op::CreateSandbox);
                let attempt = self.observed.latest_sandbox().map_or(0, |s| s.attempt + 1);
                self.observed.sandboxes.push(Sandbox {
                    id: format!("s{attempt}"),
                    attempt,
                    ready: true,
                    created_at: self.now,
                    ips: vec!["10.42.0.5".into()],
                });
            }
            ["pull", name] => {
                self.memory.end(&Op::Pull(name.to_owned()));
                self.memory.container(name).image = Image::Present("sha256:1".into());
            }
            ["launch", name] => self.launched(name),
            ["stop", name] => {
                let id = self.observed.latest(name).expect("a container").id.clone();
                self.memory.end(&Op::Stop(id));
                self.exit(name, 143);
            }
            ["stop-sandbox", id] => {
                self.memory.end(&Op::StopSandbox(id.to_owned()));
                self.observed.sandboxes.iter_mut().filter(|s| s.id == id).for_each(|s| s.ready = false);
            }
            ["remove", id] => {
                self.memory.end(&Op::Remove(id.to_owned()));
                self.observed.containers.retain(|c| c.id != id);
            }
            ["remove-sandbox", id] => {
                self.memory.end(&Op::RemoveSandbox(id.to_owned()));
                self.observed.sandboxes.retain(|s| s.id != id);
            }
            ["release"] => {
                self.memory.end(&Op::Release);
                self.memory.released = true;
            }
            _ => panic!("unknown step {step:?}"),
        }
    }

    fn launched(&mut self, name: &str) {
        self.memory.end(&Op::Launch(name.to_owned()));
        let attempt = self.observed.latest(name).map_or(0, |c| c.attempt + 1);
        self.serial += 1;
        let (_, c) = spec::find(&self.pod, name).expect("in the spec");
        self.observed.containers.push(Container {
            id: format!("{name}{}", self.serial),
            name: name.into(),
            sandbox_id: self.observed.active_sandbox().expect("a sandbox").id.clone(),
            attempt,
            state: ContainerState::Running,
            created_at: self.now,
            started_at: Some(self.now),
            hash: hash::container(&c),
            ..Container::default()
        });
    }
}

fn show(a: &Action) -> String {
    match a {
        Action::Prepare => "prepare".into(),
        Action::CreateSandbox { attempt } => format!("create sandbox {attempt}"),
        Action::StopSandbox { id } => format!("stop sandbox {id}"),
        Action::RemoveSandbox { id } => format!("remove sandbox {id}"),
        Action::Pull { container } => format!("pull {container}"),
        Action::Launch { container, attempt, sandbox, .. } => {
            format!("launch {container} attempt {attempt} in {sandbox}")
        }
        Action::Stop { id, grace_seconds, message, .. } => {
            format!("stop {id} grace {grace_seconds}: {message}")
        }
        Action::Remove { id } => format!("remove {id}"),
        Action::Release => "release".into(),
    }
}

fn show_container(c: &ContainerStatus) -> String {
    let state = |s: Option<&k8s_openapi::api::core::v1::ContainerState>| {
        let Some(s) = s else { return "-".to_owned() };
        if let Some(w) = &s.waiting {
            format!("waiting {}", w.reason.as_deref().unwrap_or_default())
        } else if s.running.is_some() {
            "running".into()
        } else if let Some(t) = &s.terminated {
            format!("terminated {} {}", t.reason.as_deref().unwrap_or_default(), t.exit_code)
        } else {
            "-".into()
        }
    };
    format!(
        "{}: {} last={} restarts={} ready={} started={}",
        c.name,
        state(c.state.as_ref()),
        state(c.last_state.as_ref()),
        c.restart_count,
        c.ready,
        c.started.unwrap_or(false)
    )
}

fn show_status(s: &PodStatus) -> String {
    let mut out = format!("phase {}", s.phase.as_deref().unwrap_or_default());
    if let Some(r) = &s.reason {
        let _ = write!(out, " ({r})");
    }
    if let Some(ip) = &s.pod_ip {
        let _ = write!(out, " ip {ip}");
    }
    out.push('\n');
    for c in s.conditions.iter().flatten() {
        let _ = write!(out, "{}={}", c.type_, c.status);
        if let Some(r) = &c.reason {
            let _ = write!(out, " {r}");
        }
        if let Some(m) = &c.message {
            let _ = write!(out, ": {m}");
        }
        out.push('\n');
    }
    let lists = [&s.init_container_statuses, &s.container_statuses, &s.ephemeral_container_statuses];
    for c in lists.into_iter().flatten().flatten() {
        let _ = writeln!(out, "{}", show_container(c));
    }
    out
}

/// Replays one script; the text that it should be.
fn replay(text: &str) -> String {
    let mut world = World::default();
    let mut out = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if line.is_empty() || line.starts_with('#') {
            let _ = writeln!(out, "{line}");
            continue;
        }
        let mut body = String::new();
        for l in lines.by_ref() {
            if l == "----" {
                break;
            }
            let _ = writeln!(body, "{l}");
        }
        while lines.peek().is_some_and(|l| !l.is_empty()) {
            lines.next();
        }
        let answer = world.run(line, &body);
        let answer = if answer.is_empty() { "(nothing)\n".to_owned() } else { answer };
        let _ = write!(out, "{line}\n{body}----\n{answer}");
    }
    out
}

#[test]
fn scripts() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let mut count = 0;
    for entry in std::fs::read_dir(dir).expect("testdata") {
        let path = entry.expect("an entry").path();
        let text = std::fs::read_to_string(&path).expect("a script");
        let got = replay(&text);
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            std::fs::write(&path, &got).expect("writable");
        } else {
            assert_eq!(
                got,
                text,
                "{} differs; run with UPDATE_EXPECT=1 and look at the difference",
                path.display()
            );
        }
        count += 1;
    }
    assert!(count > 0);
}
