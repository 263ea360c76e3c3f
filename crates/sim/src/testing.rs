//! Short words for hand-made histories.

use isopod_kv::event::EventType;
use isopod_kv::{
    DeleteRangeRequest, DeleteRangeResponse, Event, KeyValue, PutRequest, PutResponse, RangeRequest,
    RangeResponse, ResponseHeader,
};

use crate::history::{Answer, Call, Operation, Outcome};

/// A version.
pub(crate) fn kv(key: &str, value: &str, create: i64, revision: i64, version: i64) -> KeyValue {
    KeyValue {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        create_revision: create,
        mod_revision: revision,
        version,
        lease: 0,
    }
}

/// A write's event.
pub(crate) fn put_event(key: &str, value: &str, create: i64, revision: i64, version: i64) -> Event {
    let kv = kv(key, value, create, revision, version);
    Event { r#type: EventType::Put as i32, kv: Some(kv), prev_kv: None }
}

/// A write's event, with a lease.
pub(crate) fn leased(key: &str, lease: i64, revision: i64) -> Event {
    let kv = KeyValue { lease, ..kv(key, "", revision, revision, 1) };
    Event { r#type: EventType::Put as i32, kv: Some(kv), prev_kv: None }
}

/// A deletion's event.
pub(crate) fn deleted(key: &str, revision: i64) -> Event {
    let kv = KeyValue { key: key.to_owned().into(), mod_revision: revision, ..KeyValue::default() };
    Event { r#type: EventType::Delete as i32, kv: Some(kv), prev_kv: None }
}

fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader { revision, ..Default::default() })
}

/// An operation of a client's own session.
pub(crate) fn operation(
    client: u32,
    (invoked, returned): (u64, u64),
    call: Call,
    answer: Option<Answer>,
) -> Operation {
    Operation {
        client,
        session: u64::from(client),
        invoked_ns: invoked,
        returned_ns: returned,
        call,
        outcome: answer.map_or(Outcome::Unknown, Outcome::Answered),
    }
}

/// A write, answered at a revision.
pub(crate) fn put(client: u32, times: (u64, u64), key: &str, value: &str, revision: i64) -> Operation {
    let answer = PutResponse { header: header(revision), prev_kv: None };
    operation(
        client,
        times,
        Call::Put(PutRequest::new(key.to_owned(), value.to_owned())),
        Some(Answer::Put(answer)),
    )
}

/// A write whose outcome nobody knows.
pub(crate) fn put_unknown(client: u32, times: (u64, u64), key: &str, value: &str) -> Operation {
    operation(client, times, Call::Put(PutRequest::new(key.to_owned(), value.to_owned())), None)
}

/// A deletion.
pub(crate) fn delete(client: u32, times: (u64, u64), key: &str, deleted: i64, revision: i64) -> Operation {
    let answer = DeleteRangeResponse { header: header(revision), deleted, prev_kvs: Vec::new() };
    operation(
        client,
        times,
        Call::Delete(DeleteRangeRequest::key(key.to_owned())),
        Some(Answer::Delete(answer)),
    )
}

/// A read of one key.
pub(crate) fn get(
    client: u32,
    times: (u64, u64),
    key: &str,
    found: Option<KeyValue>,
    revision: i64,
) -> Operation {
    let kvs: Vec<KeyValue> = found.into_iter().collect();
    let answer = RangeResponse { header: header(revision), count: kvs.len() as i64, kvs, more: false };
    operation(client, times, Call::Range(RangeRequest::key(key.to_owned())), Some(Answer::Range(answer)))
}

/// The same read, serializable.
pub(crate) fn serializable(mut read: Operation) -> Operation {
    if let Call::Range(request) = &mut read.call {
        request.serializable = true;
    }
    read
}
