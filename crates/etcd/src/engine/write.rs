//! Writes: checks that need no log, then the queue.

use isopod_kv::{
    AlarmRequest, AlarmType, CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse,
    Error, PutRequest, PutResponse, TxnRequest, TxnResponse, alarm_request, request_op,
};
use isopod_mvcc::{Command, Op, Reply, validate_delete_range, validate_put, validate_txn};
use prost::Message;
use tokio::sync::oneshot;

use super::queue::{Pending, Request};
use super::{Engine, expect_reply};
use crate::member::Outcome;

/// Takes the reply of one kind.
macro_rules! reply_of {
    ($reply:expr, $kind:ident) => {
        expect_reply($reply, |reply| match reply {
            Reply::$kind(response) => Some(response),
            _ => None,
        })
    };
}
pub(super) use reply_of;

impl Engine {
    /// Writes one key.
    ///
    /// # Errors
    /// As etcd's `Put`.
    pub async fn put(&self, request: PutRequest) -> Result<PutResponse, Error> {
        validate_put(&request)?;
        crate::metrics::PUTS.inc();
        let reply = self.propose(Op::Put(request), true).await?;
        let mut response = reply_of!(reply, Put);
        self.shared.stamp(&mut response.header);
        Ok(response)
    }

    /// Deletes a range.
    ///
    /// # Errors
    /// As etcd's `DeleteRange`.
    pub async fn delete_range(&self, request: DeleteRangeRequest) -> Result<DeleteRangeResponse, Error> {
        validate_delete_range(&request)?;
        crate::metrics::DELETES.inc();
        let reply = self.propose(Op::DeleteRange(request), false).await?;
        let mut response = reply_of!(reply, DeleteRange);
        self.shared.stamp(&mut response.header);
        Ok(response)
    }

    /// Compares and writes. A transaction without a write does not touch the log.
    ///
    /// # Errors
    /// As etcd's `Txn`.
    pub async fn txn(&self, request: TxnRequest) -> Result<TxnResponse, Error> {
        let writes = validate_txn(&request, self.shared.config.max_txn_ops)?;
        crate::metrics::TXNS.inc();
        let mut response = if writes {
            reply_of!(self.propose(Op::Txn(request), true).await?, Txn)
        } else {
            self.settle(is_serializable(&request, TXN_DEPTH)).await?;
            self.shared.state.read().read_txn(&request)?
        };
        self.shared.stamp(&mut response.header);
        Ok(response)
    }

    /// Drops history; `physical` waits until its memory is free.
    ///
    /// # Errors
    /// As etcd's `Compact`.
    pub async fn compact(&self, request: CompactionRequest) -> Result<CompactionResponse, Error> {
        let physical = request.physical;
        let reply = self.propose(Op::Compact(request), false).await?;
        let mut response = reply_of!(reply, Compact);
        if physical {
            self.wait_for_scrub().await;
        }
        self.shared.stamp(&mut response.header);
        Ok(response)
    }

    async fn wait_for_scrub(&self) {
        loop {
            // Made before the look, so that nothing said in between is missed.
            let scrubbed = self.shared.scrubbed.notified();
            if !self.shared.state.read().needs_scrub() || self.shared.stopped.is_cancelled() {
                return;
            }
            tokio::select! {
                () = scrubbed => {}
                () = self.shared.stopped.cancelled() => {}
            }
        }
    }

    /// Puts a command through the log. `grows` says that it may add data, which a quota forbids.
    pub(super) async fn propose(&self, op: Op, grows: bool) -> Result<Reply, Error> {
        if self.shared.is_learner() {
            return Err(Error::NotSupportedForLearner);
        }
        let command = Command { caller: super::caller::current(), ..op.into() };
        let bytes = command.encoded_len();
        if bytes > self.shared.config.max_request_bytes {
            return Err(Error::RequestTooLarge);
        }
        if grows {
            self.check_quota(bytes).await?;
        }
        self.enqueue(command, bytes).await
    }

    async fn enqueue(&self, command: Command, bytes: usize) -> Result<Reply, Error> {
        match self.request(Request::Propose(command), bytes).await? {
            Outcome::Applied(reply) => Ok(reply),
            _ => Err(Error::Stopped),
        }
    }

    /// Puts a request to the member.
    pub(crate) async fn request(&self, request: Request, bytes: usize) -> Result<Outcome, Error> {
        let (reply, outcome) = oneshot::channel();
        self.shared.queue.push(Pending { request, bytes, reply })?;
        // The thread drops the sender only when it has ended.
        outcome.await.map_err(|_| Error::Stopped)?
    }

    /// Waits until the state contains everything that was acknowledged before, unless the reader does not mind.
    pub(crate) async fn settle(&self, serializable: bool) -> Result<(), Error> {
        if serializable || self.shared.is_alone() {
            return Ok(());
        }
        if self.shared.is_learner() {
            return Err(Error::NotSupportedForLearner);
        }
        self.request(Request::Read, 0).await.map(drop)
    }

    /// Raises the alarm when the quota is used up: it stays until somebody clears it, as in etcd, or until there is
    /// space again, if the settings say so.
    async fn check_quota(&self, bytes: usize) -> Result<(), Error> {
        let quota = self.shared.config.quota();
        let (used, full) = {
            let state = self.shared.state.read();
            (state.size_bytes(), state.has_alarm(AlarmType::NoSpace))
        };
        let fits = (used + bytes) as u64 <= quota;
        if full {
            let space = fits && (used as u64) < quota / 5 * 4;
            if !(self.shared.config.clear_no_space && space) {
                return Err(Error::NoSpace);
            }
            tracing::info!(used, quota, "there is space again: clearing the NOSPACE alarm");
            return self.set_no_space(alarm_request::AlarmAction::Deactivate).await;
        }
        if fits {
            return Ok(());
        }
        tracing::error!(used, quota, "the quota is used up: raising the NOSPACE alarm");
        self.set_no_space(alarm_request::AlarmAction::Activate).await?;
        Err(Error::NoSpace)
    }

    /// Raises or clears the alarm on the store's own behalf.
    async fn set_no_space(&self, action: alarm_request::AlarmAction) -> Result<(), Error> {
        let alarm = AlarmRequest {
            action: action as i32,
            member_id: self.shared.member_id,
            alarm: AlarmType::NoSpace as i32,
        };
        let command = Command::from(Op::Alarm(alarm));
        let bytes = command.encoded_len();
        self.enqueue(command, bytes).await.map(drop)
    }
}

/// How deep to look into nested transactions. Deeper ones are refused before they get here.
const TXN_DEPTH: usize = 64;

/// Whether all that a transaction reads may be old, as in etcd.
fn is_serializable(request: &TxnRequest, depth: usize) -> bool {
    request.success.iter().chain(&request.failure).all(|op| match &op.request {
        Some(request_op::Request::RequestRange(range)) => range.serializable,
        Some(request_op::Request::RequestTxn(inner)) => depth > 0 && is_serializable(inner, depth - 1),
        _ => false,
    })
}
