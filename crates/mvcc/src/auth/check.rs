//! Who may do what.
//!
//! Commands are checked when they are applied, against the users and roles of that moment. Reads, which have no
//! command, are checked by whoever serves them.

use isopod_kv::request_op::Request;
use isopod_kv::{DeleteRangeRequest, Error, PutRequest, RequestOp, TxnRequest};

use super::{Account, Auth, Caller};
use crate::command::Op;
use crate::state::State;

/// How deep to look into nested transactions; deeper ones never enter the log.
const TXN_DEPTH: usize = 64;

impl Auth {
    /// Refuses whoever has not authenticated.
    ///
    /// # Errors
    /// [`Error::UserEmpty`].
    pub fn check_authenticated(&self, caller: &Caller) -> Result<(), Error> {
        if self.enabled && caller.user.is_empty() { Err(Error::UserEmpty) } else { Ok(()) }
    }

    /// Refuses whoever is not root.
    ///
    /// # Errors
    /// [`Error::UserEmpty`], [`Error::PermissionDenied`].
    pub fn check_root(&self, caller: &Caller) -> Result<(), Error> {
        self.check_authenticated(caller)?;
        let root = !self.enabled || self.users.get(&caller.user).is_some_and(Account::is_root);
        if root { Ok(()) } else { Err(Error::PermissionDenied) }
    }

    /// Refuses the reading of a range, as on the wire, that the caller may not read.
    ///
    /// # Errors
    /// [`Error::UserEmpty`], [`Error::AuthOldRevision`], [`Error::PermissionDenied`].
    pub fn check_read(&self, caller: &Caller, key: &[u8], range_end: &[u8]) -> Result<(), Error> {
        self.check(caller, |account| account.permissions.may_read(key, range_end))
    }

    /// Refuses the writing of a range, as on the wire, that the caller may not write.
    ///
    /// # Errors
    /// As [`Auth::check_read`].
    pub fn check_write(&self, caller: &Caller, key: &[u8], range_end: &[u8]) -> Result<(), Error> {
        self.check(caller, |account| account.permissions.may_write(key, range_end))
    }

    fn check(&self, caller: &Caller, may: impl FnOnce(&Account) -> bool) -> Result<(), Error> {
        if !self.enabled {
            return Ok(());
        }
        if caller.revision == 0 {
            return Err(Error::UserEmpty);
        }
        if caller.revision < self.revision {
            return Err(Error::AuthOldRevision);
        }
        let allowed = self.users.get(&caller.user).is_some_and(|account| account.is_root() || may(account));
        if allowed { Ok(()) } else { Err(Error::PermissionDenied) }
    }

    /// Whether the caller is root or has the role.
    ///
    /// # Errors
    /// As [`Auth::check_root`].
    pub fn check_role(&self, caller: &Caller, role: &str) -> Result<(), Error> {
        let has = self.users.get(&caller.user).is_some_and(|user| user.roles.iter().any(|r| r == role));
        if has { Ok(()) } else { self.check_root(caller) }
    }

    /// Whether the caller is root or this user.
    ///
    /// # Errors
    /// As [`Auth::check_root`].
    pub fn check_user(&self, caller: &Caller, user: &str) -> Result<(), Error> {
        if !user.is_empty() && caller.user == user { Ok(()) } else { self.check_root(caller) }
    }
}

/// [`Auth::check_read`] or [`Auth::check_write`].
type KeyCheck = fn(&Auth, &Caller, &[u8], &[u8]) -> Result<(), Error>;

impl State {
    /// Users and roles.
    pub fn auth(&self) -> &Auth {
        &self.auth
    }

    /// Whether the caller may have this command applied.
    pub(crate) fn check_caller(&self, caller: &Caller, op: &Op) -> Result<(), Error> {
        if !self.auth.is_enabled() {
            return Ok(());
        }
        match op {
            Op::Put(request) => self.check_put_rights(caller, request),
            Op::DeleteRange(request) => self.check_delete_rights(caller, request),
            Op::Txn(request) => self.check_txn_rights(caller, request),
            Op::LeaseGrant(_) => self.auth.check_authenticated(caller),
            Op::LeaseRevoke(request) => {
                self.auth.check_authenticated(caller)?;
                self.check_lease_write(caller, request.id)
            }
            // The store itself proposes these, also on behalf of a client; the client's own were checked before. A
            // token is issued to whoever has shown a password.
            Op::LeaseCheckpoint(_) | Op::Alarm(_) | Op::Authenticate(_) => Ok(()),
            _ => self.auth.check_root(caller),
        }
    }

    /// Whether the caller may have a transaction done: both branches, whichever is taken.
    ///
    /// # Errors
    /// As [`Auth::check_read`].
    pub fn check_txn_rights(&self, caller: &Caller, request: &TxnRequest) -> Result<(), Error> {
        self.check_txn_at(caller, request, TXN_DEPTH)
    }

    fn check_txn_at(&self, caller: &Caller, request: &TxnRequest, depth: usize) -> Result<(), Error> {
        for compare in &request.compare {
            self.auth.check_read(caller, &compare.key, &compare.range_end)?;
        }
        request
            .success
            .iter()
            .chain(&request.failure)
            .try_for_each(|op| self.check_op_rights(caller, op, depth))
    }

    fn check_op_rights(&self, caller: &Caller, op: &RequestOp, depth: usize) -> Result<(), Error> {
        match &op.request {
            Some(Request::RequestRange(range)) => self.auth.check_read(caller, &range.key, &range.range_end),
            Some(Request::RequestPut(put)) => self.check_put_rights(caller, put),
            Some(Request::RequestDeleteRange(delete)) => self.check_delete_rights(caller, delete),
            Some(Request::RequestTxn(_)) if depth == 0 => Err(Error::TooManyOps),
            Some(Request::RequestTxn(inner)) => self.check_txn_at(caller, inner, depth - 1),
            None => Ok(()),
        }
    }

    fn check_put_rights(&self, caller: &Caller, put: &PutRequest) -> Result<(), Error> {
        self.auth.check_write(caller, &put.key, &[])?;
        // Who hangs a key on a lease may end it, and with it the other keys.
        self.check_lease_write(caller, put.lease)?;
        if put.prev_kv { self.auth.check_read(caller, &put.key, &[]) } else { Ok(()) }
    }

    fn check_delete_rights(&self, caller: &Caller, delete: &DeleteRangeRequest) -> Result<(), Error> {
        self.auth.check_write(caller, &delete.key, &delete.range_end)?;
        if delete.prev_kv { self.auth.check_read(caller, &delete.key, &delete.range_end) } else { Ok(()) }
    }

    /// Whether the caller may write every key of a lease. One that does not exist has none.
    ///
    /// # Errors
    /// As [`Auth::check_write`].
    pub fn check_lease_write(&self, caller: &Caller, id: i64) -> Result<(), Error> {
        let keys = self.lease(id).into_iter().flat_map(|lease| &lease.keys);
        self.check_each(caller, keys, Auth::check_write)
    }

    /// Whether the caller may read every key of a lease. One that does not exist has none.
    ///
    /// # Errors
    /// As [`Auth::check_read`].
    pub fn check_lease_read(&self, caller: &Caller, id: i64) -> Result<(), Error> {
        let keys = self.lease(id).into_iter().flat_map(|lease| &lease.keys);
        self.check_each(caller, keys, Auth::check_read)
    }

    fn check_each<'a>(
        &self,
        caller: &Caller,
        keys: impl Iterator<Item = &'a bytes::Bytes>,
        check: KeyCheck,
    ) -> Result<(), Error> {
        if self.auth.check_root(caller).is_ok() {
            return Ok(());
        }
        keys.into_iter().try_for_each(|key| check(&self.auth, caller, key, &[]))
    }
}
