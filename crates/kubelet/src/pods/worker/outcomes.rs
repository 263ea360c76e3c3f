//! What the ends of a pod's steps mean for what is done next.

use std::sync::Arc;

use isopod_podplan::memory::{Image, LaunchError};
use isopod_podplan::{BackOff, Op};
use jiff::{SignedDuration, Timestamp};
use tokio::task::JoinError;

use super::Worker;
use crate::images::PullError;
use crate::pods::launch::LaunchFailure;
use crate::pods::name_of;
use crate::pods::steps::Done;
use crate::volumes::Mounted;

/// Pause before a container that could not be configured is tried again; a change of what it refers to ends
/// the pause.
const CONFIG_RETRY: SignedDuration = SignedDuration::from_secs(10);
/// First and longest pause after volumes or sandbox failed.
const SETUP_RETRY: (SignedDuration, SignedDuration) =
    (SignedDuration::from_millis(500), SignedDuration::from_secs(60));

impl Worker {
    /// Takes the end of a step into the memory.
    pub(super) fn finish(&mut self, done: Result<(tokio::task::Id, Done), JoinError>) {
        let done = match done {
            Ok((id, done)) => {
                if let Some(op) = self.names.remove(&id) {
                    tracing::debug!(pod = name_of(&self.pod), ?op, ms = self.age(), "step ends");
                    self.aborts.remove_entry(&op);
                }
                done
            }
            Err(error) => {
                let op = self.names.remove(&error.id());
                if let (Some(op), true) = (op, error.is_panic()) {
                    tracing::error!(pod = name_of(&self.pod), ?op, %error, "step panicked");
                    self.aborts.remove(&op);
                    self.memory.end(&op);
                }
                return;
            }
        };
        let now = self.kubelet.now();
        self.shared.desired.lock().stale = true;
        match done {
            Done::Prepared(result) => self.prepared(result, now),
            Done::Refreshed(result) => self.refreshed(result, now),
            Done::Sandbox(result) => self.sandbox_created(result, now),
            Done::Pulled(name, image, result) => self.pulled(&name, &image, result, now),
            Done::Launched(name, result) => self.launched(&name, result, now),
            Done::Released(result) => {
                self.memory.end(&Op::Release);
                self.memory.released = result.is_ok();
            }
            Done::Other(op) => self.memory.end(&op),
            Done::Mirrored => self.mirroring = false,
        }
    }

    fn prepared(&mut self, result: Result<Mounted, crate::volumes::SetupError>, now: Timestamp) {
        self.memory.end(&Op::Prepare);
        match result {
            Ok(mounted) => {
                self.setup_failures.0 = 0;
                self.renew_volumes_at = mounted.renew_at;
                self.volumes = Arc::new(mounted);
                self.memory.prepared = true;
            }
            Err(e) => {
                self.memory.prepare_retry_at = Some(retry_at(&mut self.setup_failures.0, now));
                let text = format!("MountVolume.SetUp failed for volume {:?} : {}", e.volume, e.message);
                self.kubelet.event(&self.pod, None, true, "FailedMount", text);
            }
        }
    }

    fn refreshed(&mut self, result: Result<Mounted, crate::volumes::SetupError>, now: Timestamp) {
        match result {
            Ok(mounted) => self.renew_volumes_at = mounted.renew_at,
            Err(e) => {
                let text = format!("MountVolume.SetUp failed for volume {:?} : {}", e.volume, e.message);
                self.kubelet.event(&self.pod, None, true, "FailedMount", text);
                self.renew_volumes_at = now.checked_add(CONFIG_RETRY).ok();
            }
        }
    }

    fn sandbox_created(&mut self, result: Result<(), String>, now: Timestamp) {
        self.memory.end(&Op::CreateSandbox);
        match result {
            Ok(()) => self.setup_failures.1 = 0,
            Err(_) if self.ending.is_cancelled() => {}
            Err(error) => {
                self.memory.sandbox_retry_at = Some(retry_at(&mut self.setup_failures.1, now));
                let text = format!("Failed to create pod sandbox: {error}");
                let reason = if error.starts_with("network is not ready") {
                    "NetworkNotReady"
                } else {
                    "FailedCreatePodSandBox"
                };
                self.kubelet.event(&self.pod, None, true, reason, text);
            }
        }
    }

    fn pulled(&mut self, name: &str, image: &str, result: Result<String, PullError>, now: Timestamp) {
        self.memory.end(&Op::Pull(name.to_owned()));
        let m = self.memory.container(name);
        if m.image_name != image {
            // The spec has changed meanwhile.
            return;
        }
        m.image = match result {
            Ok(image) => {
                m.pull = BackOff::default();
                Image::Present(image)
            }
            Err(e) => {
                m.pull.next(now);
                let retry_at = now.checked_add(m.pull.delay()).unwrap_or(Timestamp::MAX);
                Image::Failed { reason: e.reason.to_owned(), message: e.message, retry_at, at: now }
            }
        };
    }

    fn launched(&mut self, name: &str, result: Result<(), LaunchFailure>, now: Timestamp) {
        self.memory.end(&Op::Launch(name.to_owned()));
        let Err(f) = result else { return };
        let m = self.memory.container(name);
        let wait = if f.reason == "CreateContainerConfigError" {
            CONFIG_RETRY
        } else {
            m.crash.next(now);
            m.crash.delay()
        };
        let retry_at = now.checked_add(wait).unwrap_or(Timestamp::MAX);
        m.error = Some(LaunchError { reason: f.reason.to_owned(), message: f.message, retry_at });
    }
}

/// Time of the next try after one more failure.
fn retry_at(failures: &mut u32, now: Timestamp) -> Timestamp {
    let wait = SETUP_RETRY.0.saturating_mul(1 << (*failures).min(10)).min(SETUP_RETRY.1);
    *failures += 1;
    now.checked_add(wait).unwrap_or(Timestamp::MAX)
}
