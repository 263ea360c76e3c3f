//! Linearizability by search, without trusting revisions.
//!
//! The operations are taken apart by key, which linearizability allows, and for each key an order is searched that
//! keeps the clock's and explains every answer: Wing and Gong's algorithm, with Lowe's memory of places already
//! visited. An operation of unknown outcome may come at any time after it began; at the end of all it explains
//! nothing, which stands for never.
//!
//! Keys that were ever attached to a lease are left out, since they vanish by themselves, and so are reads of the past
//! and serializable ones.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use bytes::Bytes;
use isopod_kv::compare::{CompareResult, CompareTarget, TargetUnion};
use isopod_kv::request_op::Request;
use isopod_kv::response_op::Response;
use isopod_kv::{KeyValue, RangeRequest, RequestOp, keys};

use super::Violation;
use crate::history::{Answer, Call, History, Key, Operation, Outcome};

/// Places visited for one key before the search gives up without a verdict: far more than a run of a few hundred
/// operations needs, and a bound on what a pathological one may cost.
const VISITS_MAX: usize = 200_000;

/// What happened to one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// It had this value, or none.
    Read(Option<Bytes>),
    /// It was given a value, or deleted.
    Write(Option<Bytes>),
    /// It had the first value and was given the second.
    Swap(Bytes, Bytes),
    /// It did not have this value.
    Differs(Bytes),
}

/// A step and when it may have been.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interval {
    /// Not before.
    pub invoked_ns: u64,
    /// Not after; `u64::MAX` for a step that may never have been.
    pub returned_ns: u64,
    /// What.
    pub step: Step,
}

/// The verdict on one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is an order.
    Linearizable,
    /// There is none.
    NotLinearizable,
    /// The search took too long.
    Undecided,
}

pub(crate) fn check(history: &History, violations: &mut Vec<Violation>) {
    for (key, intervals) in by_key(history) {
        if search(&intervals) == Verdict::NotLinearizable {
            violations.push(Violation::Unordered { key: Key(&key).to_string(), operations: intervals.len() });
        }
    }
}

/// Searches an order.
pub fn search(intervals: &[Interval]) -> Verdict {
    let mut order: Vec<&Interval> = intervals.iter().collect();
    order.sort_by_key(|interval| interval.invoked_ns);
    let mut search = Search { order, visited: HashSet::new() };
    match search.explore() {
        Some(true) => Verdict::Linearizable,
        Some(false) => Verdict::NotLinearizable,
        None => Verdict::Undecided,
    }
}

struct Search<'a> {
    order: Vec<&'a Interval>,
    visited: HashSet<(Vec<u64>, Option<Bytes>)>,
}

/// A level of the search: what was done to come here, and what is left to try.
struct Level {
    /// The step that led here; none at the root.
    taken: Option<usize>,
    value: Option<Bytes>,
    /// Everything before is done.
    first: usize,
    /// What to try, last first.
    candidates: Vec<usize>,
}

impl Search<'_> {
    /// Depth first, with a stack of its own: histories are longer than a thread's stack is deep. None if it took too
    /// long.
    fn explore(&mut self) -> Option<bool> {
        let mut done = vec![0u64; self.order.len().div_ceil(64)];
        let Some(first) = self.remaining(&done, 0) else { return Some(true) };
        let candidates = self.candidates(&done, first, &None);
        let mut levels = vec![Level { taken: None, value: None, first, candidates }];
        while let Some(level) = levels.last_mut() {
            let Some(index) = level.candidates.pop() else {
                if let Some(taken) = level.taken {
                    set(&mut done, taken, false);
                }
                levels.pop();
                continue;
            };
            let value = apply(&self.order[index].step, &level.value).expect("candidates can be applied");
            let first = level.first;
            set(&mut done, index, true);
            if self.visited.len() >= VISITS_MAX {
                return None;
            }
            if !self.visited.insert((done.clone(), value.clone())) {
                set(&mut done, index, false);
                continue;
            }
            let Some(first) = self.remaining(&done, first) else { return Some(true) };
            let candidates = self.candidates(&done, first, &value);
            levels.push(Level { taken: Some(index), value, first, candidates });
        }
        Some(false)
    }

    /// The first operation that is not done; none once those left need not have been.
    fn remaining(&self, done: &[u64], from: usize) -> Option<usize> {
        let open = |index: &usize| !is_set(done, *index);
        let first = (from..self.order.len()).find(open)?;
        let must =
            (first..self.order.len()).filter(open).any(|index| self.order[index].returned_ns != u64::MAX);
        must.then_some(first)
    }

    /// What may come next, the best last.
    fn candidates(&self, done: &[u64], first: usize, value: &Option<Bytes>) -> Vec<usize> {
        let open = |index: &usize| !is_set(done, *index);
        // Nothing may come after something else has returned before it began.
        let mut deadline = u64::MAX;
        let mut window = Vec::new();
        for index in (first..self.order.len()).filter(open) {
            if self.order[index].invoked_ns > deadline {
                break;
            }
            deadline = deadline.min(self.order[index].returned_ns);
            window.push(index);
        }
        let fits = |index: &usize| apply(&self.order[*index].step, value).is_some();
        // What only looks, and sees what there is, may as well look now: nothing else has to be tried.
        let looks = |index: &usize| matches!(self.order[*index].step, Step::Read(_) | Step::Differs(_));
        if let Some(look) = window.iter().copied().find(|index| looks(index) && fits(index)) {
            return vec![look];
        }
        // A write that may never have been is needed only where somebody sees it at once; anywhere else it can as
        // well be left for the end.
        let needed = |index: &usize| {
            let interval = self.order[*index];
            let after = apply(&interval.step, value);
            interval.returned_ns != u64::MAX
                || window.iter().any(|other| {
                    let step = &self.order[*other].step;
                    let sees = matches!(step, Step::Read(_) | Step::Differs(_) | Step::Swap(..));
                    sees && after.as_ref().is_some_and(|after| apply(step, after).is_some())
                })
        };
        let mut candidates: Vec<usize> =
            window.iter().copied().filter(|index| fits(index) && needed(index)).collect();
        // Those that must have been soonest are the best.
        candidates.sort_by_key(|index| std::cmp::Reverse(self.order[*index].returned_ns));
        candidates
    }
}

/// The value after a step; none if the step cannot be here.
fn apply(step: &Step, value: &Option<Bytes>) -> Option<Option<Bytes>> {
    match step {
        Step::Read(read) => (read == value).then(|| value.clone()),
        Step::Write(written) => Some(written.clone()),
        Step::Swap(from, to) => (value.as_ref() == Some(from)).then(|| Some(to.clone())),
        Step::Differs(other) => (value.as_ref() != Some(other)).then(|| value.clone()),
    }
}

fn is_set(bits: &[u64], index: usize) -> bool {
    bits[index / 64] >> (index % 64) & 1 == 1
}

fn set(bits: &mut [u64], index: usize, on: bool) {
    if on {
        bits[index / 64] |= 1 << (index % 64);
    } else {
        bits[index / 64] &= !(1 << (index % 64));
    }
}

/// Takes a history apart.
pub fn by_key(history: &History) -> BTreeMap<Bytes, Vec<Interval>> {
    let mut all = BTreeSet::new();
    let mut leased = BTreeSet::new();
    for operation in &history.operations {
        for (key, lease) in writes(&operation.call) {
            all.insert(key.clone());
            if lease != 0 {
                leased.insert(key);
            }
        }
    }
    let mut keys = BTreeMap::new();
    for key in all.into_iter().filter(|key| !leased.contains(key)) {
        let steps = history.operations.iter().filter_map(|operation| {
            let step = project(operation, &key)?;
            let unknown = operation.outcome == Outcome::Unknown;
            Some(Interval {
                invoked_ns: operation.invoked_ns,
                returned_ns: if unknown { u64::MAX } else { operation.returned_ns },
                step,
            })
        });
        let steps: Vec<Interval> = steps.collect();
        keys.insert(key, steps);
    }
    keys
}

/// Keys that a call may put, with the lease.
fn writes(call: &Call) -> Vec<(Bytes, i64)> {
    let of_op = |op: &RequestOp| match &op.request {
        Some(Request::RequestPut(put)) => Some((put.key.clone(), put.lease)),
        _ => None,
    };
    match call {
        Call::Put(put) => vec![(put.key.clone(), put.lease)],
        Call::Txn(txn) => txn.success.iter().chain(&txn.failure).filter_map(of_op).collect(),
        _ => Vec::new(),
    }
}

/// What an operation says about a key.
fn project(operation: &Operation, key: &Bytes) -> Option<Step> {
    match (&operation.call, &operation.outcome) {
        (_, Outcome::Refused(_)) => None,
        (Call::Put(put), _) if put.key == key => Some(Step::Write(Some(put.value.clone()))),
        (Call::Delete(delete), _) if keys::contains(&delete.key, &delete.range_end, key) => {
            Some(Step::Write(None))
        }
        (Call::Range(request), Outcome::Answered(Answer::Range(response)))
            if reads_now(request) && keys::contains(&request.key, &request.range_end, key) =>
        {
            Some(Step::Read(value_of(&response.kvs, key)))
        }
        (Call::Txn(txn), Outcome::Unknown) => txn.success.iter().find_map(|op| written(op, key)),
        (Call::Txn(txn), Outcome::Answered(Answer::Txn(response))) => {
            let expected = txn.compare.iter().find_map(|compare| match &compare.target_union {
                Some(TargetUnion::Value(value))
                    if compare.key == key
                        && compare.target == CompareTarget::Value as i32
                        && compare.result == CompareResult::Equal as i32 =>
                {
                    Some(value.clone())
                }
                _ => None,
            });
            let branch = if response.succeeded { &txn.success } else { &txn.failure };
            let write = branch.iter().find_map(|op| written(op, key));
            let read = branch.iter().zip(&response.responses).find_map(|(op, response)| {
                match (&op.request, &response.response) {
                    (Some(Request::RequestRange(request)), Some(Response::ResponseRange(response)))
                        if request.key == key && request.range_end.is_empty() && reads_now(request) =>
                    {
                        Some(Step::Read(value_of(&response.kvs, key)))
                    }
                    _ => None,
                }
            });
            match (expected, write, response.succeeded) {
                (Some(from), Some(Step::Write(Some(to))), true) => Some(Step::Swap(from, to)),
                (_, Some(write), _) => Some(write),
                // A single comparison that failed says what the value was not; a read says more.
                (Some(other), None, false) if txn.compare.len() == 1 => {
                    Some(read.unwrap_or(Step::Differs(other)))
                }
                (_, None, _) => read,
            }
        }
        _ => None,
    }
}

fn written(op: &RequestOp, key: &Bytes) -> Option<Step> {
    match &op.request {
        Some(Request::RequestPut(put)) if put.key == key => Some(Step::Write(Some(put.value.clone()))),
        Some(Request::RequestDeleteRange(delete)) if keys::contains(&delete.key, &delete.range_end, key) => {
            Some(Step::Write(None))
        }
        _ => None,
    }
}

fn reads_now(request: &RangeRequest) -> bool {
    let whole = request.limit == 0 && !request.count_only && !request.keys_only;
    whole && !request.serializable && request.revision == 0
}

fn value_of(kvs: &[KeyValue], key: &Bytes) -> Option<Bytes> {
    kvs.iter().find(|kv| kv.key == key).map(|kv| kv.value.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;

    fn at(invoked_ns: u64, returned_ns: u64, step: Step) -> Interval {
        Interval { invoked_ns, returned_ns, step }
    }

    fn read(value: &'static str) -> Step {
        Step::Read((!value.is_empty()).then(|| Bytes::from_static(value.as_bytes())))
    }

    fn write(value: &'static str) -> Step {
        Step::Write(Some(Bytes::from_static(value.as_bytes())))
    }

    #[test]
    fn concurrent_operations_may_be_in_any_order() {
        let intervals = [
            at(0, 10, write("1")),
            at(5, 20, write("2")),
            at(6, 9, read("")),
            at(11, 12, read("2")),
            at(13, 14, read("2")),
        ];
        assert_eq!(search(&intervals), Verdict::Linearizable);
    }

    #[test]
    fn a_value_does_not_come_back() {
        let intervals =
            [at(0, 10, write("1")), at(0, 10, write("2")), at(11, 12, read("1")), at(13, 14, read("2"))];
        assert_eq!(search(&intervals), Verdict::NotLinearizable);
    }

    #[test]
    fn what_was_answered_is_seen() {
        assert_eq!(search(&[at(0, 1, write("1")), at(2, 3, read(""))]), Verdict::NotLinearizable);
        assert_eq!(
            search(&[at(0, 1, write("1")), at(2, 3, Step::Write(None)), at(4, 5, read(""))]),
            Verdict::Linearizable
        );
    }

    #[test]
    fn an_unknown_write_comes_late_or_never_but_not_twice() {
        let unknown = at(0, u64::MAX, write("1"));
        assert_eq!(
            search(&[unknown.clone(), at(5, 6, read("")), at(7, 8, read("1"))]),
            Verdict::Linearizable
        );
        assert_eq!(search(&[unknown.clone(), at(5, 6, read(""))]), Verdict::Linearizable);
        let twice = [unknown, at(1, 2, read("1")), at(3, 4, write("2")), at(5, 6, read("1"))];
        assert_eq!(search(&twice), Verdict::NotLinearizable);
        let early = [at(0, 1, read("1")), at(2, u64::MAX, write("1"))];
        assert_eq!(search(&early), Verdict::NotLinearizable);
    }

    #[test]
    fn a_swap_needs_its_value() {
        let swap = |from: &'static str, to: &'static str| {
            Step::Swap(Bytes::from_static(from.as_bytes()), Bytes::from_static(to.as_bytes()))
        };
        let both = [at(0, 1, write("1")), at(2, 9, swap("1", "2")), at(2, 9, swap("1", "3"))];
        assert_eq!(search(&both), Verdict::NotLinearizable);
        assert_eq!(search(&both[..2]), Verdict::Linearizable);
        let differs = [at(0, 1, write("1")), at(2, 3, Step::Differs(Bytes::from_static(b"1")))];
        assert_eq!(search(&differs), Verdict::NotLinearizable);
    }

    #[test]
    fn many_concurrent_writes_do_not_explode() {
        let mut intervals: Vec<Interval> =
            (0..40).map(|n| at(0, u64::MAX, Step::Write(Some(format!("{n}").into())))).collect();
        for n in 0..40u64 {
            intervals.push(at(n * 10 + 1, n * 10 + 2, Step::Read(Some(format!("{n}").into()))));
        }
        assert_eq!(search(&intervals), Verdict::Linearizable);
    }

    #[test]
    fn a_history_is_taken_apart_by_key() {
        let operations = vec![
            put(1, (0, 1), "a", "1", 2),
            put(1, (2, 3), "b", "2", 3),
            get(2, (4, 5), "a", None, 3),
            get(2, (6, 7), "b", Some(kv("b", "2", 3, 3, 1)), 3),
        ];
        let history = History { operations, ..History::default() };
        let mut violations = Vec::new();
        check(&history, &mut violations);
        assert_eq!(violations, [Violation::Unordered { key: "a".to_owned(), operations: 2 }]);
    }
}
