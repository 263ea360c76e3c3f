//! What the writer, readers and watchers share.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use isopod_kv::{Error, ResponseHeader};
use isopod_mvcc::{Lessor, Reply, Session, State, Tokens};
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::hub::Hub;
use super::queue::Queue;
use super::transport::Transport;
use crate::config::Config;
use crate::member::Membership;

/// The store's shared half.
pub(crate) struct Shared {
    pub(crate) state: RwLock<State>,
    /// Locked only after `state`, where both are; changed only while `state` is held for writing.
    pub(crate) membership: RwLock<Membership>,
    /// The way to other members, once there is one.
    pub(crate) transport: OnceLock<Box<dyn Transport>>,
    pub(crate) hub: Hub,
    pub(crate) queue: Queue,
    pub(crate) config: Config,
    pub(crate) cluster_id: u64,
    pub(crate) member_id: u64,
    /// Tells those who wait for it that compacted history has been freed.
    pub(crate) scrubbed: Notify,
    pub(crate) stopped: CancellationToken,
    /// Set when this member has been removed from the group.
    pub(crate) removed: CancellationToken,
    /// Tells those who wait for it that the leader has changed.
    pub(crate) leader_changed: Notify,
    term: AtomicU64,
    /// The leader's ID; 0 for none.
    leader: AtomicU64,
    /// Index of the last entry known to be committed.
    raft_index: AtomicU64,
    /// Whether this member is all of its group.
    alone: AtomicBool,
    /// Whether this member has no vote.
    learner: AtomicBool,
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
    pub(crate) fn new(state: State, membership: Membership, identity: (u64, u64), config: Config) -> Shared {
        let learner = membership.get(identity.1).is_some_and(|member| member.is_learner);
        Shared {
            alone: AtomicBool::new(membership.is_alone(identity.1)),
            learner: AtomicBool::new(learner),
            term: AtomicU64::new(0),
            leader: AtomicU64::new(0),
            raft_index: AtomicU64::new(state.applied_index()),
            state: RwLock::new(state),
            membership: RwLock::new(membership),
            transport: OnceLock::new(),
            removed: CancellationToken::new(),
            leader_changed: Notify::new(),
            hub: Hub::default(),
            queue: Queue::default(),
            tokens: Mutex::new(Tokens::new(config.auth_token_ttl)),
            config,
            cluster_id: identity.0,
            member_id: identity.1,
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
        header.raft_term = self.term();
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

    /// The term.
    pub(crate) fn term(&self) -> u64 {
        self.term.load(Ordering::Relaxed)
    }

    /// Who leads; 0 for nobody.
    pub(crate) fn leader(&self) -> u64 {
        self.leader.load(Ordering::Relaxed)
    }

    pub(crate) fn is_leader(&self) -> bool {
        self.leader() == self.member_id
    }

    pub(crate) fn set_leader(&self, leader: u64, term: u64) {
        self.term.store(term, Ordering::Relaxed);
        self.leader.store(leader, Ordering::Relaxed);
        self.leader_changed.notify_waiters();
    }

    pub(crate) fn raft_index(&self) -> u64 {
        self.raft_index.load(Ordering::Relaxed)
    }

    pub(crate) fn set_raft_index(&self, index: u64) {
        self.raft_index.store(index, Ordering::Relaxed);
    }

    /// Whether this member is all of its group: what it has applied is all that there is.
    pub(crate) fn is_alone(&self) -> bool {
        self.alone.load(Ordering::Acquire)
    }

    pub(crate) fn is_learner(&self) -> bool {
        self.learner.load(Ordering::Relaxed)
    }

    pub(crate) fn set_standing(&self, alone: bool, learner: bool) {
        self.alone.store(alone, Ordering::Release);
        self.learner.store(learner, Ordering::Relaxed);
    }

    /// Begins all leases anew, each with what is known to be left of it and an extension.
    pub(crate) fn start_leases(&self, now: Duration, extension: Duration) {
        let state = self.state.read();
        let mut lessor = self.lessor.lock();
        *lessor = Lessor::default();
        for (id, lease) in state.leases() {
            lessor.start(id, lease.restart_ttl_s(), now + extension);
        }
    }

    /// Forgets when leases expire: another member knows.
    pub(crate) fn clear_leases(&self) {
        *self.lessor.lock() = Lessor::default();
    }

    /// Follows a grant or a revocation that has been applied.
    pub(crate) fn follow_lease(&self, reply: &Result<Reply, Error>, revoked: Option<i64>, now: Duration) {
        match (reply, revoked) {
            (Ok(Reply::LeaseGrant(granted)), _) => self.lessor.lock().start(granted.id, granted.ttl, now),
            // Also when it was not there any more: the lessor must not go on proposing it.
            (Ok(Reply::LeaseRevoke(_)) | Err(Error::LeaseNotFound), Some(id)) => {
                self.lessor.lock().remove(id)
            }
            _ => {}
        }
    }

    /// Follows the issue of a token that has been applied. To be called on every member: each takes it from clients.
    pub(crate) fn follow_token(&self, reply: &Result<Reply, Error>, now: Duration) {
        if let Ok(Reply::Authenticate(session)) = reply {
            self.tokens.lock().insert(session.clone(), now);
        }
    }

    /// What a token stands for; it lives on.
    pub(crate) fn renew_token(&self, token: &str) -> Option<Session> {
        self.tokens.lock().renew(token, self.now()).cloned()
    }

    /// Renews a lease, on the leader; its time to live, and whether a checkpoint of it is to be taken back.
    ///
    /// # Errors
    /// [`Error::LeaseNotFound`] if it does not exist or its time is over.
    pub(crate) fn renew_lease(&self, id: i64, now: Duration) -> Result<(i64, bool), Error> {
        let (ttl, checkpointed) = {
            let state = self.state.read();
            let lease = state.lease(id).ok_or(Error::LeaseNotFound)?;
            (lease.ttl_s, lease.remaining_s > 0)
        };
        let mut lessor = self.lessor.lock();
        match lessor.remaining(id, now) {
            Some(remaining) if !remaining.is_zero() => {
                lessor.start(id, ttl, now);
                Ok((ttl, checkpointed))
            }
            _ => Err(Error::LeaseNotFound),
        }
    }

    pub(crate) fn with_lessor<T>(&self, action: impl FnOnce(&mut Lessor) -> T) -> T {
        action(&mut self.lessor.lock())
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
