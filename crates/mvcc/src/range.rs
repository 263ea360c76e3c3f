//! Reads of a range at a revision.
//!
//! A read is a cursor that can be interrupted: since no version at or before its revision changes while history is
//! kept, a long read need not hold writers up for its whole length.

use std::cmp::Reverse;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use isopod_kv::range_request::{SortOrder, SortTarget};
use isopod_kv::{Error, KeyValue, RangeRequest, RangeResponse, ResponseHeader, keys};

use crate::history::Record;
use crate::state::State;

/// The two ends of a map range.
type Bounds<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

/// The bounds of a map range; none if the range is empty. `range_end` must not be empty.
pub(crate) fn bounds<'a>(key: &'a [u8], range_end: &'a [u8]) -> Option<Bounds<'a>> {
    if range_end == keys::FROM_KEY {
        // An empty key in a stored request would be an unbounded start; validation keeps it out, `Included` is safe.
        return Some((Bound::Included(key), Bound::Unbounded));
    }
    (key < range_end).then_some((Bound::Included(key), Bound::Excluded(range_end)))
}

impl State {
    /// Reads a range.
    ///
    /// # Errors
    /// A revision that is compacted or not reached.
    pub fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Error> {
        let revision = self.check_revision(request.revision)?;
        Ok(self.range_at(request, revision))
    }

    /// Reads a range at a revision that may be that of a transaction under way.
    pub(crate) fn range_at(&self, request: &RangeRequest, revision: i64) -> RangeResponse {
        let mut cursor = RangeCursor::at(request, revision);
        cursor.scan(self, usize::MAX);
        cursor.into_response(self.revision)
    }

    /// The revision that a request means: its own, or the current one for 0 and below.
    pub(crate) fn check_revision(&self, revision: i64) -> Result<i64, Error> {
        if revision <= 0 {
            return Ok(self.revision);
        }
        if revision > self.revision {
            return Err(Error::FutureRevision);
        }
        if revision < self.compacted {
            return Err(Error::Compacted);
        }
        Ok(revision)
    }
}

/// A read in steps.
#[derive(Debug)]
pub struct RangeCursor<'a> {
    request: &'a RangeRequest,
    revision: i64,
    /// Where to go on: after this key.
    after: Option<Bytes>,
    found: Vec<Arc<Record>>,
    count: i64,
    done: bool,
    header_revision: i64,
}

impl<'a> RangeCursor<'a> {
    /// Begins a read.
    ///
    /// # Errors
    /// A revision that is compacted or not reached.
    pub fn new(state: &State, request: &'a RangeRequest) -> Result<RangeCursor<'a>, Error> {
        let mut cursor = RangeCursor::at(request, state.check_revision(request.revision)?);
        cursor.header_revision = state.revision;
        Ok(cursor)
    }

    fn at(request: &'a RangeRequest, revision: i64) -> RangeCursor<'a> {
        RangeCursor {
            request,
            revision,
            after: None,
            found: Vec::new(),
            count: 0,
            done: false,
            header_revision: 0,
        }
    }

    /// Visits at most `budget` keys. True once the range is exhausted.
    ///
    /// # Errors
    /// [`Error::Compacted`] if a compaction has overtaken the read since it began.
    pub fn advance(&mut self, state: &State, budget: usize) -> Result<bool, Error> {
        if self.revision < state.compacted {
            return Err(Error::Compacted);
        }
        self.scan(state, budget);
        Ok(self.done)
    }

    /// The answer, after the last step.
    pub fn finish(self) -> RangeResponse {
        debug_assert!(self.done, "the range is exhausted");
        let revision = self.header_revision;
        self.into_response(revision)
    }

    fn scan(&mut self, state: &State, budget: usize) {
        let request = self.request;
        if request.range_end.is_empty() {
            if let Some(record) = state.keys.get(&request.key).and_then(|history| history.at(self.revision)) {
                self.visit(record);
            }
            self.done = true;
            return;
        }
        let Some((mut start, end)) = bounds(&request.key, &request.range_end) else {
            self.done = true;
            return;
        };
        let after = self.after.take();
        if let Some(after) = &after {
            start = Bound::Excluded(&after[..]);
        }
        let mut left = budget;
        for (key, history) in state.keys.range::<[u8], _>((start, end)) {
            if left == 0 {
                return;
            }
            left -= 1;
            if left == 0 {
                self.after = Some(key.clone());
            }
            if let Some(record) = history.at(self.revision) {
                self.visit(record);
            }
        }
        self.done = true;
    }

    fn visit(&mut self, record: &Arc<Record>) {
        self.count += 1;
        let request = self.request;
        if request.count_only || !selects(request, &record.kv) {
            return;
        }
        // In key order one more than the limit shows that there is more; the rest is only counted.
        if request.limit > 0 && self.found.len() as i64 > request.limit && in_key_order(request) {
            return;
        }
        self.found.push(record.clone());
    }

    fn into_response(mut self, revision: i64) -> RangeResponse {
        let request = self.request;
        sort(request, &mut self.found);
        let limit = usize::try_from(request.limit).ok().filter(|limit| *limit > 0);
        let more = limit.is_some_and(|limit| self.found.len() > limit);
        self.found.truncate(limit.unwrap_or(usize::MAX));
        let kvs = self.found.iter().map(|record| copy(&record.kv, request.keys_only)).collect();
        let header = Some(ResponseHeader { revision, ..Default::default() });
        RangeResponse { header, kvs, more, count: self.count }
    }
}

fn copy(kv: &KeyValue, keys_only: bool) -> KeyValue {
    if !keys_only {
        return kv.clone();
    }
    KeyValue { key: kv.key.clone(), value: Bytes::new(), ..*kv }
}

fn selects(request: &RangeRequest, kv: &KeyValue) -> bool {
    let within = |value: i64, min: i64, max: i64| (min == 0 || value >= min) && (max == 0 || value <= max);
    within(kv.mod_revision, request.min_mod_revision, request.max_mod_revision)
        && within(kv.create_revision, request.min_create_revision, request.max_create_revision)
}

/// The order that the request asks for: a target without an order means ascending, as in etcd.
fn order(request: &RangeRequest) -> (SortOrder, SortTarget) {
    let target = SortTarget::try_from(request.sort_target).unwrap_or(SortTarget::Key);
    match SortOrder::try_from(request.sort_order).unwrap_or(SortOrder::None) {
        SortOrder::None if target != SortTarget::Key => (SortOrder::Ascend, target),
        order => (order, target),
    }
}

fn in_key_order(request: &RangeRequest) -> bool {
    matches!(order(request), (SortOrder::None | SortOrder::Ascend, SortTarget::Key))
}

/// Sorts by the target; ties stay in key order.
fn sort(request: &RangeRequest, found: &mut [Arc<Record>]) {
    let (order, target) = order(request);
    if order == SortOrder::None || in_key_order(request) {
        return;
    }
    let number = |record: &Record| match target {
        SortTarget::Version => record.kv.version,
        SortTarget::Create => record.kv.create_revision,
        _ => record.kv.mod_revision,
    };
    match (target, order) {
        (SortTarget::Key, _) => found.reverse(),
        (SortTarget::Value, SortOrder::Descend) => found.sort_by(|a, b| b.kv.value.cmp(&a.kv.value)),
        (SortTarget::Value, _) => found.sort_by(|a, b| a.kv.value.cmp(&b.kv.value)),
        (_, SortOrder::Descend) => found.sort_by_key(|record| Reverse(number(record))),
        _ => found.sort_by_key(|record| number(record)),
    }
}
