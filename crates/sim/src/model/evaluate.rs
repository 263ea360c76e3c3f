//! What a request must answer, and change, at a revision.

use std::collections::BTreeMap;

use bytes::Bytes;
use isopod_kv::compare::{CompareResult, CompareTarget, TargetUnion};
use isopod_kv::event::EventType;
use isopod_kv::request_op::Request;
use isopod_kv::response_op::Response;
use isopod_kv::{
    Compare, DeleteRangeRequest, DeleteRangeResponse, Event, KeyValue, PutRequest, PutResponse, RangeRequest,
    RangeResponse, RequestOp, ResponseHeader, TxnRequest, TxnResponse, keys,
};

use super::{Versions, successor, tombstone};
use crate::history::{Answer, Call};

/// The events that a request makes on the state of a revision, and its answer. Only the outermost header is given,
/// and in it only the revision. Ranges are in order of keys, which is what the load asks for; leases are not known
/// here, so that granting and renewing always succeeds.
pub fn evaluate(versions: &Versions, revision: i64, call: &Call) -> (Vec<Event>, Answer) {
    let mut view = View { versions, base: revision, changed: BTreeMap::new(), events: Vec::new() };
    let mut answer = match call {
        Call::Range(request) => Answer::Range(view.range(request)),
        Call::Put(request) => Answer::Put(view.put(request)),
        Call::Delete(request) => Answer::Delete(view.delete(request)),
        Call::Txn(request) => Answer::Txn(view.txn(request)),
        Call::Grant(request) => Answer::Grant { revision, id: request.id, ttl_s: request.ttl },
        Call::KeepAlive(_) => Answer::KeepAlive { ttl_s: 0 },
        Call::Revoke(lease) => {
            for key in versions.attached(*lease, revision) {
                view.remove(&key);
            }
            Answer::Revoke { revision: revision + i64::from(!view.events.is_empty()) }
        }
    };
    let header =
        ResponseHeader { revision: revision + i64::from(!view.events.is_empty()), ..Default::default() };
    match &mut answer {
        Answer::Range(response) => response.header = Some(header),
        Answer::Put(response) => response.header = Some(header),
        Answer::Delete(response) => response.header = Some(header),
        Answer::Txn(response) => response.header = Some(header),
        Answer::Grant { .. } | Answer::KeepAlive { .. } | Answer::Revoke { .. } => {}
    }
    (view.events, answer)
}

/// The state of a revision with what a transaction has changed so far.
struct View<'a> {
    versions: &'a Versions,
    base: i64,
    changed: BTreeMap<Bytes, Option<KeyValue>>,
    events: Vec<Event>,
}

impl View<'_> {
    fn get(&self, key: &[u8]) -> Option<&KeyValue> {
        match self.changed.get(key) {
            Some(changed) => changed.as_ref(),
            None => self.versions.at(key, self.base),
        }
    }

    fn select(&self, key: &[u8], range_end: &[u8]) -> Vec<KeyValue> {
        let mut found: BTreeMap<Bytes, KeyValue> = self
            .versions
            .range(key, range_end, self.base)
            .filter(|kv| !self.changed.contains_key(&kv.key))
            .map(|kv| (kv.key.clone(), kv.clone()))
            .collect();
        for (changed, kv) in &self.changed {
            if let Some(kv) = kv
                && keys::contains(key, range_end, changed)
            {
                found.insert(changed.clone(), kv.clone());
            }
        }
        found.into_values().collect()
    }

    fn range(&self, request: &RangeRequest) -> RangeResponse {
        let mut kvs = if request.revision > 0 && request.revision <= self.base {
            self.versions.range(&request.key, &request.range_end, request.revision).cloned().collect()
        } else {
            self.select(&request.key, &request.range_end)
        };
        let count = kvs.len() as i64;
        let mut more = false;
        if request.count_only {
            kvs.clear();
        } else if request.limit > 0 && count > request.limit {
            kvs.truncate(request.limit as usize);
            more = true;
        }
        if request.keys_only {
            kvs.iter_mut().for_each(|kv| kv.value = Bytes::new());
        }
        RangeResponse { header: None, kvs, more, count }
    }

    fn put(&mut self, request: &PutRequest) -> PutResponse {
        let before = self.get(&request.key).cloned();
        let value = match &before {
            Some(before) if request.ignore_value => before.value.clone(),
            _ => request.value.clone(),
        };
        let lease = match &before {
            Some(before) if request.ignore_lease => before.lease,
            _ => request.lease,
        };
        let kv = successor(before.as_ref(), request.key.clone(), value, lease, self.base + 1);
        self.events.push(Event { r#type: EventType::Put as i32, kv: Some(kv.clone()), prev_kv: None });
        self.changed.insert(request.key.clone(), Some(kv));
        PutResponse { header: None, prev_kv: before.filter(|_| request.prev_kv) }
    }

    fn delete(&mut self, request: &DeleteRangeRequest) -> DeleteRangeResponse {
        let found = self.select(&request.key, &request.range_end);
        for kv in &found {
            self.remove(&kv.key);
        }
        let deleted = found.len() as i64;
        DeleteRangeResponse {
            header: None,
            deleted,
            prev_kvs: if request.prev_kv { found } else { Vec::new() },
        }
    }

    fn remove(&mut self, key: &Bytes) {
        let kv = tombstone(key, self.base + 1);
        self.events.push(Event { r#type: EventType::Delete as i32, kv: Some(kv), prev_kv: None });
        self.changed.insert(key.clone(), None);
    }

    fn txn(&mut self, request: &TxnRequest) -> TxnResponse {
        let mut path = Vec::new();
        self.choose(request, &mut path);
        self.run(request, &mut path.into_iter())
    }

    /// All comparisons, nested ones included, look at the state before the first write.
    fn choose(&self, request: &TxnRequest, path: &mut Vec<bool>) {
        let succeeded = request.compare.iter().all(|compare| self.holds(compare));
        path.push(succeeded);
        for op in branch(request, succeeded) {
            if let Some(Request::RequestTxn(inner)) = &op.request {
                self.choose(inner, path);
            }
        }
    }

    fn run(&mut self, request: &TxnRequest, path: &mut impl Iterator<Item = bool>) -> TxnResponse {
        let succeeded = path.next().expect("a choice for each transaction on the path");
        let mut responses = Vec::new();
        for op in branch(request, succeeded) {
            let response = match &op.request {
                Some(Request::RequestRange(range)) => Response::ResponseRange(self.range(range)),
                Some(Request::RequestPut(put)) => Response::ResponsePut(self.put(put)),
                Some(Request::RequestDeleteRange(delete)) => {
                    Response::ResponseDeleteRange(self.delete(delete))
                }
                Some(Request::RequestTxn(inner)) => Response::ResponseTxn(self.run(inner, path)),
                None => continue,
            };
            responses.push(response.into());
        }
        TxnResponse { header: None, succeeded, responses }
    }

    fn holds(&self, compare: &Compare) -> bool {
        if compare.range_end.is_empty() {
            return holds_for(compare, self.get(&compare.key));
        }
        let found = self.select(&compare.key, &compare.range_end);
        if found.is_empty() {
            return holds_for(compare, None);
        }
        found.iter().all(|kv| holds_for(compare, Some(kv)))
    }
}

fn holds_for(compare: &Compare, kv: Option<&KeyValue>) -> bool {
    use std::cmp::Ordering;
    let number = |wanted: i64, actual: Option<i64>| actual.unwrap_or_default().cmp(&wanted);
    let wanted = |target: &dyn Fn(&TargetUnion) -> Option<i64>| {
        compare.target_union.as_ref().and_then(target).unwrap_or_default()
    };
    let ordering = match CompareTarget::try_from(compare.target) {
        Ok(CompareTarget::Value) => {
            let Some(kv) = kv else { return false };
            match &compare.target_union {
                Some(TargetUnion::Value(value)) => kv.value.cmp(value),
                _ => kv.value[..].cmp(&[]),
            }
        }
        Ok(CompareTarget::Version) => {
            let union = |u: &TargetUnion| if let TargetUnion::Version(n) = u { Some(*n) } else { None };
            number(wanted(&union), kv.map(|kv| kv.version))
        }
        Ok(CompareTarget::Create) => {
            let union =
                |u: &TargetUnion| if let TargetUnion::CreateRevision(n) = u { Some(*n) } else { None };
            number(wanted(&union), kv.map(|kv| kv.create_revision))
        }
        Ok(CompareTarget::Mod) => {
            let union = |u: &TargetUnion| if let TargetUnion::ModRevision(n) = u { Some(*n) } else { None };
            number(wanted(&union), kv.map(|kv| kv.mod_revision))
        }
        Ok(CompareTarget::Lease) => {
            let union = |u: &TargetUnion| if let TargetUnion::Lease(n) = u { Some(*n) } else { None };
            number(wanted(&union), kv.map(|kv| kv.lease))
        }
        Err(_) => return false,
    };
    match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => ordering == Ordering::Equal,
        Ok(CompareResult::NotEqual) => ordering != Ordering::Equal,
        Ok(CompareResult::Greater) => ordering == Ordering::Greater,
        Ok(CompareResult::Less) => ordering == Ordering::Less,
        Err(_) => false,
    }
}

fn branch(request: &TxnRequest, succeeded: bool) -> &[RequestOp] {
    if succeeded { &request.success } else { &request.failure }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{deleted, put_event};

    fn versions() -> Versions {
        Versions::new(&[put_event("a", "1", 2, 2, 1), put_event("b", "2", 3, 3, 1), deleted("b", 4)]).unwrap()
    }

    #[test]
    fn a_transaction_compares_before_it_writes_and_reads_its_own_writes() {
        let txn = TxnRequest::new(
            vec![Compare::mod_revision_is("a", 2), Compare::mod_revision_is("b", 0)],
            vec![PutRequest::new("b", "3").into(), RangeRequest::key("b").into()],
            vec![],
        );
        let (events, answer) = evaluate(&versions(), 4, &Call::Txn(txn.clone()));
        assert_eq!(events, vec![put_event("b", "3", 5, 5, 1)]);
        let Answer::Txn(response) = answer else { panic!("{answer:?}") };
        assert!(response.succeeded);
        let Some(Response::ResponseRange(range)) = &response.responses[1].response else { panic!() };
        assert_eq!(range.kvs[0].value, "3");
        let (events, answer) = evaluate(&versions(), 3, &Call::Txn(txn));
        assert!(events.is_empty());
        assert_eq!(answer.revision(), Some(3));
    }

    #[test]
    fn a_past_revision_is_read_as_it_was() {
        let past = RangeRequest { revision: 3, ..RangeRequest::prefix("") };
        let (_, answer) = evaluate(&versions(), 4, &Call::Range(past));
        let Answer::Range(response) = answer else { panic!() };
        assert_eq!((response.count, response.header.unwrap().revision), (2, 4));
    }

    #[test]
    fn deleting_nothing_changes_nothing() {
        let (events, answer) = evaluate(&versions(), 4, &Call::Delete(DeleteRangeRequest::key("b")));
        assert!(events.is_empty());
        assert_eq!(answer.revision(), Some(4));
    }
}
