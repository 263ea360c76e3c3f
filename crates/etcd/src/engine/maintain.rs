//! Status, alarms, checkpoints on demand.

use isopod_kv::{
    AlarmMember, AlarmRequest, AlarmResponse, AlarmType, Code, Error, Member, StatusResponse, alarm_request,
};
use isopod_mvcc::{Op, Reply};
use tokio::sync::oneshot;

use super::queue::Request;
use super::write::reply_of;
use super::{Engine, expect_reply};
use crate::member::{Change, Outcome};

/// The version reported to clients, which tells them what the API can do.
pub(crate) const VERSION: &str = "3.6.0";

impl Engine {
    /// Version, sizes, position in the log, and what is wrong.
    pub fn status(&self) -> StatusResponse {
        let state = self.shared.state.read();
        let mut errors: Vec<String> = state.alarms().iter().map(describe_alarm).collect();
        if self.shared.is_disk_full() {
            errors.push("etcdserver: no space left for the log".to_owned());
        }
        if self.shared.is_log_failed() {
            errors.push("etcdserver: the log cannot be written".to_owned());
        }
        if self.shared.leader() == 0 {
            errors.push(Error::NoLeader.to_string());
        }
        StatusResponse {
            header: self.shared.header_at(state.revision()),
            version: VERSION.to_owned(),
            db_size: self.shared.disk_bytes() as i64,
            leader: self.shared.leader(),
            raft_index: self.shared.raft_index().max(state.applied_index()),
            raft_term: self.shared.term(),
            raft_applied_index: state.applied_index(),
            errors,
            db_size_in_use: state.size_bytes() as i64,
            is_learner: self.shared.is_learner(),
            storage_version: VERSION.to_owned(),
            db_size_quota: self.shared.config.quota() as i64,
            downgrade_info: None,
        }
    }

    /// Lists, raises or clears alarms.
    ///
    /// # Errors
    /// As etcd's `Alarm`.
    pub async fn alarm(&self, mut request: AlarmRequest) -> Result<AlarmResponse, Error> {
        if request.action == alarm_request::AlarmAction::Get as i32 {
            return Ok(AlarmResponse {
                header: self.shared.header(),
                alarms: self.shared.state.read().alarms(),
            });
        }
        if AlarmType::try_from(request.alarm).is_err() || request.alarm == AlarmType::None as i32 {
            return Err(Error::other(Code::InvalidArgument, "etcdserver: the alarm to change is not named"));
        }
        if request.member_id == 0 {
            request.member_id = self.shared.member_id;
        }
        let mut response = reply_of!(self.propose(Op::Alarm(request), false).await?, Alarm);
        self.shared.stamp(&mut response.header);
        Ok(response)
    }

    /// Writes a checkpoint and drops the log before it: what defragmentation means here.
    ///
    /// # Errors
    /// The disk's.
    pub async fn checkpoint(&self) -> Result<(), Error> {
        let (reply, outcome) = oneshot::channel();
        self.shared.queue.request_checkpoint(reply);
        tokio::select! {
            outcome = outcome => outcome.map_err(|_| Error::Stopped)?,
            () = self.shared.stopped.cancelled() => Err(Error::Stopped),
        }
    }

    /// The member list, as this member has applied it.
    pub fn members(&self) -> Vec<Member> {
        self.shared.membership.read().list()
    }

    /// Changes the membership; the members afterwards.
    ///
    /// # Errors
    /// As etcd's calls of its Cluster service.
    pub async fn change_membership(&self, change: Change) -> Result<Vec<Member>, Error> {
        if self.shared.is_learner() {
            return Err(Error::NotSupportedForLearner);
        }
        match self.request(Request::Change(change), 0).await? {
            Outcome::Members(members) => Ok(members),
            _ => Err(Error::Stopped),
        }
    }

    /// Makes another member lead.
    ///
    /// # Errors
    /// As etcd's `MoveLeader`; among them that this member does not lead.
    pub async fn move_leader(&self, target: u64) -> Result<(), Error> {
        self.request(Request::MoveLeader(target), 0).await.map(drop)
    }
}

fn describe_alarm(alarm: &AlarmMember) -> String {
    let name = match AlarmType::try_from(alarm.alarm) {
        Ok(AlarmType::NoSpace) => "NOSPACE",
        Ok(AlarmType::Corrupt) => "CORRUPT",
        _ => "NONE",
    };
    format!("memberID:{} alarm:{name} ", alarm.member_id)
}
