//! A watch as a stream, for callers in this process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use isopod_kv::{Error, WatchControl, WatchCreateRequest, WatchResponse, WatchStream};
use tokio::time::Instant;

use super::hub::{Signal, Step, Watcher};
use super::{Engine, Shared};

impl Engine {
    /// Follows a range.
    pub fn watch(&self, request: &WatchCreateRequest) -> WatchStream {
        let (watcher, revision) = Watcher::new(&self.shared, request);
        let wanted = Arc::new(AtomicBool::new(false));
        let control = Control { wanted: wanted.clone(), signal: watcher.signal().clone() };
        let interval = request.progress_notify.then_some(self.shared.config.progress_interval);
        let follow =
            Follow { shared: self.shared.clone(), watcher, wanted, quiet_since: Instant::now(), interval };
        let responses = futures::stream::unfold(Some(follow), |follow| async {
            let mut follow = follow?;
            let response = follow.next().await;
            let ended = !matches!(&response, Ok(response) if !response.canceled);
            Some((response, (!ended).then_some(follow)))
        });
        WatchStream::new(revision, responses, Box::new(control))
    }
}

struct Control {
    wanted: Arc<AtomicBool>,
    signal: Arc<Signal>,
}

impl WatchControl for Control {
    fn request_progress(&self) {
        self.wanted.store(true, Ordering::SeqCst);
        self.signal.wake();
    }
}

/// The stream's state.
struct Follow {
    shared: Arc<Shared>,
    watcher: Watcher,
    /// Whether progress was asked for.
    wanted: Arc<AtomicBool>,
    quiet_since: Instant,
    interval: Option<std::time::Duration>,
}

impl Follow {
    async fn next(&mut self) -> Result<WatchResponse, Error> {
        loop {
            if self.shared.stopped.is_cancelled() {
                return Err(Error::Stopped);
            }
            // Taken before the look at the state, so that the answer is at least as new as the question.
            let wanted = self.wanted.swap(false, Ordering::SeqCst);
            match self.watcher.step() {
                Step::Events { events, revision } => {
                    self.quiet_since = Instant::now();
                    if wanted {
                        self.wanted.store(true, Ordering::SeqCst);
                    }
                    return Ok(WatchResponse {
                        header: self.shared.header_at(revision),
                        events,
                        ..Default::default()
                    });
                }
                Step::Compacted(compact_revision) => return Ok(compacted(&self.shared, compact_revision)),
                Step::Idle { revision } if wanted => return Ok(self.progress(revision)),
                Step::Idle { revision } => {
                    if self.wait().await {
                        return Ok(self.progress(revision));
                    }
                }
            }
        }
    }

    /// Waits for news; true if there was none for so long that the watcher is to be told so.
    async fn wait(&self) -> bool {
        let Some(interval) = self.interval else {
            self.watcher.wait().await;
            return false;
        };
        tokio::select! {
            biased;
            () = self.watcher.wait() => false,
            () = tokio::time::sleep_until(self.quiet_since + interval) => true,
        }
    }

    fn progress(&mut self, revision: i64) -> WatchResponse {
        self.quiet_since = Instant::now();
        WatchResponse { header: self.shared.header_at(revision), ..Default::default() }
    }
}

/// The last response of a watch that history has left behind.
pub(crate) fn compacted(shared: &Shared, compact_revision: i64) -> WatchResponse {
    WatchResponse {
        header: shared.header(),
        canceled: true,
        compact_revision,
        cancel_reason: Error::Compacted.to_string(),
        ..Default::default()
    }
}
