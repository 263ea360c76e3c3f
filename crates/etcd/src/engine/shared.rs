//! What the writer, readers and watchers share.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use isopod_kv::{Error, ResponseHeader};
use isopod_mvcc::{Lessor, Reply, Session, State, Tokens};
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::hub::Hub;
use super::queue::Queue;
use crate::config::Config;

/// The store's shared half.
pub(crate) struct Shared {
    pub(crate) state: RwLock<State>,
    pub(crate) hub: Hub,
    pub(crate) queue: Queue,
    pub(crate) config: Config,
    pub(crate) cluster_id: u64,
    pub(crate) member_id: u64,
    pub(crate) term: u64,
    /// Tells those who wait for it that compacted history has been freed.
    pub(crate) scrubbed: Notify,
    pub(crate) stopped: CancellationToken,
    lessor: Mutex<Lessor>,
    tokens: Mutex<Tokens>,
    started: Instant,
    disk_bytes: AtomicU64,
    /// Set while the disk takes no writes.
    disk_full: AtomicBool,
    /// Set once the log is in an unknown state.
    log_failed: AtomicBool,
}

impl Shared {
    pub(crate) fn new(state: State, identity: (u64, u64), term: u64, config: Config) -> Shared {
        Shared {
            state: RwLock::new(state),
            hub: Hub::default(),
            queue: Queue::default(),
            tokens: Mutex::new(Tokens::new(config.auth_token_ttl)),
            config,
            cluster_id: identity.0,
            member_id: identity.1,
            term,
            scrubbed: Notify::new(),
            stopped: CancellationToken::new(),
            lessor: Mutex::default(),
            started: Instant::now(),
            disk_bytes: AtomicU64::new(0),
            disk_full: AtomicBool::new(false),
            log_failed: AtomicBool::new(false),
        }
    }

    /// Time since the store was opened: the clock of leases.
    pub(crate) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// The moment that a time of [`Shared::now`] stands for.
    pub(crate) fn instant(&self, time: Duration) -> Instant {
        self.started + time
    }

    /// Completes a header.
    pub(crate) fn stamp(&self, header: &mut Option<ResponseHeader>) {
        let header = header.get_or_insert_default();
        header.cluster_id = self.cluster_id;
        header.member_id = self.member_id;
        header.raft_term = self.term;
    }

    /// A header with the current revision.
    pub(crate) fn header(&self) -> Option<ResponseHeader> {
        self.header_at(self.state.read().revision())
    }

    /// A header with a given revision.
    pub(crate) fn header_at(&self, revision: i64) -> Option<ResponseHeader> {
        let mut header = Some(ResponseHeader { revision, ..Default::default() });
        self.stamp(&mut header);
        header
    }

    /// Begins all leases anew, each with what is known to be left of it.
    pub(crate) fn start_leases(&self) {
        let now = self.now();
        let mut lessor = self.lessor.lock();
        for (id, lease) in self.state.read().leases() {
            lessor.start(id, lease.restart_ttl_s(), now);
        }
    }

    /// Follows a grant or a revocation that has been applied.
    pub(crate) fn follow_lease(&self, reply: &Result<Reply, Error>, revoked: Option<i64>) {
        match (reply, revoked) {
            (Ok(Reply::LeaseGrant(granted)), _) => {
                self.lessor.lock().start(granted.id, granted.ttl, self.now())
            }
            // Also when it was not there any more: the lessor must not go on proposing it.
            (Ok(Reply::LeaseRevoke(_)) | Err(Error::LeaseNotFound), Some(id)) => {
                self.lessor.lock().remove(id)
            }
            _ => {}
        }
    }

    /// Follows the issue of a token that has been applied. To be called on every member: each takes it from clients.
    pub(crate) fn follow_token(&self, reply: &Result<Reply, Error>) {
        if let Ok(Reply::Authenticate(session)) = reply {
            self.tokens.lock().insert(session.clone(), self.now());
        }
    }

    /// What a token stands for; it lives on.
    pub(crate) fn renew_token(&self, token: &str) -> Option<Session> {
        self.tokens.lock().renew(token, self.now()).cloned()
    }

    pub(crate) fn with_lessor<T>(&self, action: impl FnOnce(&mut Lessor, Duration) -> T) -> T {
        action(&mut self.lessor.lock(), self.now())
    }

    pub(crate) fn set_disk_bytes(&self, bytes: u64) {
        self.disk_bytes.store(bytes, Ordering::Relaxed);
        crate::metrics::DB_SIZE.set(bytes as i64);
    }

    pub(crate) fn disk_bytes(&self) -> u64 {
        self.disk_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn set_disk_full(&self, full: bool) {
        if self.disk_full.swap(full, Ordering::Relaxed) != full {
            if full {
                tracing::error!("no space left for the log: writes are refused, reads go on");
            } else {
                tracing::info!("the log has space again: writes are taken");
            }
        }
    }

    pub(crate) fn is_disk_full(&self) -> bool {
        self.disk_full.load(Ordering::Relaxed)
    }

    pub(crate) fn set_log_failed(&self) {
        self.log_failed.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_log_failed(&self) -> bool {
        self.log_failed.load(Ordering::Relaxed)
    }
}
