//! [`State`]: the whole replicated state, and the dispatch of commands.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use isopod_kv::{
    AlarmMember, AlarmResponse, AlarmType, CompactionResponse, DeleteRangeResponse, Error,
    LeaseCheckpointResponse, LeaseGrantResponse, LeaseRevokeResponse, PutResponse, ResponseHeader,
    TxnRequest, TxnResponse, alarm_request, request_op,
};

use crate::auth::{Auth, Session};
use crate::command::{Command, Op};
use crate::history::{History, Record};
use crate::lease::Leases;

/// The revision of an empty store, as etcd counts.
pub(crate) const FIRST_REVISION: i64 = 1;
/// The compacted revision of a store that was never compacted, as etcd reports it.
pub(crate) const NEVER_COMPACTED: i64 = -1;

/// The replicated state. See the crate's documentation.
#[derive(Debug)]
pub struct State {
    pub(crate) keys: BTreeMap<Bytes, History>,
    /// Every change from the compacted revision on (and those before that are not freed yet), in order.
    pub(crate) log: VecDeque<Arc<Record>>,
    pub(crate) revision: i64,
    pub(crate) compacted: i64,
    pub(crate) leases: Leases,
    pub(crate) alarms: BTreeSet<(u64, i32)>,
    pub(crate) auth: Auth,
    pub(crate) live_keys: usize,
    pub(crate) size: usize,
    /// Snapshots under way.
    pub(crate) scrub_holds: usize,
    /// Counts replacements by a snapshot: cursors from before one must not go on.
    pub(crate) epoch: u64,
    pub(crate) index: u64,
    pub(crate) term: u64,
}

impl Default for State {
    fn default() -> State {
        State {
            keys: BTreeMap::new(),
            log: VecDeque::new(),
            revision: FIRST_REVISION,
            compacted: NEVER_COMPACTED,
            leases: Leases::default(),
            alarms: BTreeSet::new(),
            auth: Auth::default(),
            live_keys: 0,
            size: 0,
            scrub_holds: 0,
            epoch: 0,
            index: 0,
            term: 0,
        }
    }
}

/// What a command answers.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "one variant for each operation")]
pub enum Reply {
    Empty,
    Put(PutResponse),
    DeleteRange(DeleteRangeResponse),
    Txn(TxnResponse),
    Compact(CompactionResponse),
    LeaseGrant(LeaseGrantResponse),
    LeaseRevoke(LeaseRevokeResponse),
    LeaseCheckpoint(LeaseCheckpointResponse),
    Alarm(AlarmResponse),
    /// A change of users and roles; all of these answer with a header only.
    Auth(Option<ResponseHeader>),
    Authenticate(Session),
}

/// The outcome of one command. An error is an outcome too: the same on every member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The answer for whoever proposed the command.
    pub reply: Result<Reply, Error>,
    /// The first revision that the command made, if it changed a key.
    pub changed: Option<i64>,
}

impl State {
    /// Applies the entry at `index`.
    ///
    /// # Panics
    /// When an index is skipped or repeated: the caller's log is broken, and going on would serve wrong data.
    pub fn apply(&mut self, index: u64, term: u64, command: Command) -> Applied {
        assert_eq!(index, self.index + 1, "entries are applied in order, each once");
        assert!(term >= self.term, "terms never go back");
        self.index = index;
        self.term = term;
        let before = self.revision;
        let reply = match command.op {
            None => Ok(Reply::Empty),
            Some(op) => {
                let allowed = command.caller.map_or(Ok(()), |caller| self.check_caller(&caller, &op));
                allowed.and_then(|()| self.apply_op(op))
            }
        };
        debug_assert!(
            self.revision == before || self.revision == before + 1,
            "a command makes one revision at most"
        );
        Applied { reply, changed: (self.revision > before).then_some(before + 1) }
    }

    /// Takes the place of this state with a later one of the same history, which came as a snapshot. Snapshots being
    /// read end here; ranges and watches go on at their revisions.
    ///
    /// # Panics
    /// When the other is not later: a member never goes back.
    pub fn replace(&mut self, other: State) {
        assert!(other.index > self.index, "a snapshot is installed only where it leads on");
        let epoch = self.epoch + 1;
        *self = State { epoch, scrub_holds: 0, ..other };
    }

    fn apply_op(&mut self, op: Op) -> Result<Reply, Error> {
        self.check_alarms(&op)?;
        match op {
            Op::Put(request) => self.put(request).map(Reply::Put),
            Op::DeleteRange(request) => Ok(Reply::DeleteRange(self.delete_range(&request))),
            Op::Txn(request) => self.txn(request).map(Reply::Txn),
            Op::Compact(request) => self.compact(request.revision).map(Reply::Compact),
            Op::LeaseGrant(request) => self.lease_grant(request).map(Reply::LeaseGrant),
            Op::LeaseRevoke(request) => self.lease_revoke(request.id).map(Reply::LeaseRevoke),
            Op::LeaseCheckpoint(request) => {
                for checkpoint in &request.checkpoints {
                    self.leases.checkpoint(checkpoint.id, checkpoint.remaining_ttl);
                }
                Ok(Reply::LeaseCheckpoint(LeaseCheckpointResponse { header: self.header() }))
            }
            Op::Alarm(request) => Ok(Reply::Alarm(self.alarm(&request))),
            Op::Authenticate(request) => self.auth.authenticate(self.index, request).map(Reply::Authenticate),
            op => self.apply_auth(op),
        }
    }

    fn apply_auth(&mut self, op: Op) -> Result<Reply, Error> {
        match op {
            Op::AuthEnable(_) => self.auth.enable()?,
            Op::AuthDisable(_) => self.auth.disable(),
            Op::UserAdd(request) => self.auth.user_add(request)?,
            Op::UserDelete(request) => self.auth.user_delete(&request.name)?,
            Op::UserChangePassword(request) => self.auth.user_change_password(request)?,
            Op::UserGrantRole(request) => self.auth.user_grant_role(&request.user, request.role)?,
            Op::UserRevokeRole(request) => self.auth.user_revoke_role(&request.name, &request.role)?,
            Op::RoleAdd(request) => self.auth.role_add(request.name)?,
            Op::RoleDelete(request) => self.auth.role_delete(&request.role)?,
            Op::RoleGrantPermission(request) => self.auth.role_grant_permission(request)?,
            Op::RoleRevokePermission(request) => self.auth.role_revoke_permission(&request)?,
            _ => unreachable!("every other operation has its own arm before this"),
        }
        Ok(Reply::Auth(self.header()))
    }

    /// What an active alarm forbids: a full store takes nothing that adds data, a corrupt one takes nothing.
    fn check_alarms(&self, op: &Op) -> Result<(), Error> {
        if self.alarms.is_empty() || matches!(op, Op::Alarm(_)) || op.is_auth() {
            return Ok(());
        }
        if self.has_alarm(AlarmType::Corrupt) {
            return Err(Error::Corrupt);
        }
        let adds = match op {
            Op::Put(_) | Op::LeaseGrant(_) => true,
            Op::Txn(request) => has_put(request),
            _ => false,
        };
        if adds { Err(Error::NoSpace) } else { Ok(()) }
    }

    fn alarm(&mut self, request: &isopod_kv::AlarmRequest) -> AlarmResponse {
        use alarm_request::AlarmAction;
        let entry = (request.member_id, request.alarm);
        let changed = match AlarmAction::try_from(request.action) {
            Ok(AlarmAction::Activate) => self.alarms.insert(entry),
            Ok(AlarmAction::Deactivate) => self.alarms.remove(&entry),
            _ => return AlarmResponse { header: self.header(), alarms: self.alarms() },
        };
        let alarms =
            if changed { vec![AlarmMember { member_id: entry.0, alarm: entry.1 }] } else { Vec::new() };
        AlarmResponse { header: self.header(), alarms }
    }

    /// Active alarms.
    pub fn alarms(&self) -> Vec<AlarmMember> {
        self.alarms
            .iter()
            .map(|(member_id, alarm)| AlarmMember { member_id: *member_id, alarm: *alarm })
            .collect()
    }

    /// Whether any member has raised this alarm.
    pub fn has_alarm(&self, alarm: AlarmType) -> bool {
        self.alarms.iter().any(|(_, active)| *active == alarm as i32)
    }

    /// The current revision.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// The last compacted revision; -1 if there was none. Reads at exactly this revision are still answered.
    pub fn compacted_revision(&self) -> i64 {
        self.compacted
    }

    /// Index of the last entry applied.
    pub fn applied_index(&self) -> u64 {
        self.index
    }

    /// Term of the last entry applied.
    pub fn applied_term(&self) -> u64 {
        self.term
    }

    /// Keys that exist now.
    pub fn key_count(&self) -> usize {
        self.live_keys
    }

    /// Bytes that keys and values with all their versions take, history included.
    pub fn size_bytes(&self) -> usize {
        self.size
    }

    /// The header of an answer as far as the state knows it: the revision.
    pub(crate) fn header(&self) -> Option<ResponseHeader> {
        Some(ResponseHeader { revision: self.revision, ..Default::default() })
    }
}

/// Whether either branch writes a key.
fn has_put(request: &TxnRequest) -> bool {
    request.success.iter().chain(&request.failure).any(|op| match &op.request {
        Some(request_op::Request::RequestPut(_)) => true,
        Some(request_op::Request::RequestTxn(inner)) => has_put(inner),
        _ => false,
    })
}
