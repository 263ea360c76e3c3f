//! Checks of requests that need no state: done before a request enters the log.

use bytes::Bytes;
use isopod_kv::range_request::{SortOrder, SortTarget};
use isopod_kv::request_op::Request;
use isopod_kv::{DeleteRangeRequest, Error, PutRequest, RangeRequest, RequestOp, TxnRequest, keys};

/// Operations that a transaction may have in a branch, and comparisons; etcd's default.
pub const MAX_TXN_OPS: usize = 128;
/// How deep transactions nest. etcd has no limit but its message size; the stack has one.
const MAX_TXN_DEPTH: usize = 32;

/// Checks a range request.
///
/// # Errors
/// An empty key, or a sort option out of range.
pub fn validate_range(request: &RangeRequest) -> Result<(), Error> {
    if request.key.is_empty() {
        return Err(Error::EmptyKey);
    }
    if SortOrder::try_from(request.sort_order).is_err() || SortTarget::try_from(request.sort_target).is_err()
    {
        return Err(Error::InvalidSortOption);
    }
    Ok(())
}

/// Checks a put.
///
/// # Errors
/// An empty key, or a value or lease given together with the wish to keep the old one.
pub fn validate_put(request: &PutRequest) -> Result<(), Error> {
    if request.key.is_empty() {
        return Err(Error::EmptyKey);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(Error::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(Error::LeaseProvided);
    }
    Ok(())
}

/// Checks a delete.
///
/// # Errors
/// An empty key.
pub fn validate_delete_range(request: &DeleteRangeRequest) -> Result<(), Error> {
    if request.key.is_empty() { Err(Error::EmptyKey) } else { Ok(()) }
}

/// Checks a transaction. True if it writes in any branch; if not, it needs no entry in the log.
///
/// # Errors
/// Too many operations, a bad operation, or two writes to one key that could both take effect.
pub fn validate_txn(request: &TxnRequest, max_ops: usize) -> Result<bool, Error> {
    validate_ops(request, max_ops, MAX_TXN_DEPTH)?;
    check_overlap(&request.success)?;
    check_overlap(&request.failure)?;
    Ok(txn_writes(request))
}

fn validate_ops(request: &TxnRequest, max_ops: usize, depth: usize) -> Result<(), Error> {
    let longest = request.compare.len().max(request.success.len()).max(request.failure.len());
    if longest > max_ops || depth == 0 {
        return Err(Error::TooManyOps);
    }
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(Error::EmptyKey);
    }
    for op in request.success.iter().chain(&request.failure) {
        match &op.request {
            Some(Request::RequestRange(range)) => validate_range(range)?,
            Some(Request::RequestPut(put)) => validate_put(put)?,
            Some(Request::RequestDeleteRange(delete)) => validate_delete_range(delete)?,
            // Nesting does not multiply the budget: each level takes from the one above.
            Some(Request::RequestTxn(inner)) => validate_ops(inner, max_ops - longest, depth - 1)?,
            None => return Err(Error::KeyNotFound),
        }
    }
    Ok(())
}

/// Whether a transaction writes in any branch.
pub fn txn_writes(request: &TxnRequest) -> bool {
    request.success.iter().chain(&request.failure).any(|op| match &op.request {
        Some(Request::RequestPut(_) | Request::RequestDeleteRange(_)) => true,
        Some(Request::RequestTxn(inner)) => txn_writes(inner),
        _ => false,
    })
}

/// What a branch may write: keys put, and ranges deleted.
#[derive(Default)]
struct Writes {
    puts: std::collections::BTreeSet<Bytes>,
    deletes: Vec<(Bytes, Bytes)>,
}

impl Writes {
    /// Whether a key put here is touched by `other` too. Two deletes of a key do no harm.
    fn conflicts(&self, other: &Writes) -> bool {
        let deleted = |key: &Bytes, deletes: &[(Bytes, Bytes)]| {
            deletes.iter().any(|(start, end)| keys::contains(start, end, key))
        };
        self.puts.iter().any(|key| other.puts.contains(key) || deleted(key, &other.deletes))
            || other.puts.iter().any(|key| deleted(key, &self.deletes))
    }

    fn add(&mut self, other: Writes) {
        self.puts.extend(other.puts);
        self.deletes.extend(other.deletes);
    }
}

/// Refuses two operations of one branch that write the same key. The branches of a nested transaction exclude each
/// other, so that they may share keys.
fn check_overlap(ops: &[RequestOp]) -> Result<Writes, Error> {
    let mut all = Writes::default();
    for op in ops {
        let mut writes = Writes::default();
        match &op.request {
            Some(Request::RequestPut(put)) => {
                writes.puts.insert(put.key.clone());
            }
            Some(Request::RequestDeleteRange(delete)) => {
                writes.deletes.push((delete.key.clone(), delete.range_end.clone()));
            }
            Some(Request::RequestTxn(inner)) => {
                writes = check_overlap(&inner.success)?;
                writes.add(check_overlap(&inner.failure)?);
            }
            _ => continue,
        }
        if all.conflicts(&writes) {
            return Err(Error::DuplicateKey);
        }
        all.add(writes);
    }
    Ok(all)
}
