//! Clients: what they ask, how long they wait, and what they make of it.

use std::collections::BTreeMap;

use bytes::Bytes;
use isopod_kv::compare::{CompareResult, CompareTarget, TargetUnion};
use isopod_kv::{
    Compare, DeleteRangeRequest, LeaseGrantRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};

use crate::history::{Answer, Call};
use crate::random::Random;

/// Plain keys. Few, so that clients meet.
const KEYS: u64 = 8;
/// Keys that are written with leases.
const LEASED_KEYS: u64 = 4;
/// Times of leases, in seconds.
const TTL_S: (u64, u64) = (1, 4);
/// Most values are this long at most, some are long.
const VALUE_BYTES: (u64, u64) = (40, 1500);

/// A client: one request at a time, with a member that it keeps until something goes wrong.
pub(crate) struct Client {
    /// The member it speaks to.
    pub(crate) member: u64,
    /// Its request under way: number, and index in the history.
    pub(crate) current: Option<(u64, usize)>,
    pub(crate) requests: u64,
    /// Versions that it has read or written: key, revision, value.
    known: BTreeMap<Bytes, (i64, Bytes)>,
    leases: Vec<i64>,
    /// Whether it has read everything once more after the cluster was healed.
    pub(crate) finished: bool,
}

impl Client {
    pub(crate) fn new(member: u64) -> Client {
        Client {
            member,
            current: None,
            requests: 0,
            known: BTreeMap::new(),
            leases: Vec::new(),
            finished: false,
        }
    }

    /// The next request.
    pub(crate) fn choose(&mut self, client: usize, random: &mut Random) -> Call {
        let key = key(random);
        match random.below(100) {
            0..30 => Call::Put(PutRequest {
                prev_kv: random.permille(300),
                ..PutRequest::new(key, self.value(client, random))
            }),
            30..50 => Call::Range(RangeRequest::key(key)),
            50..58 => Call::Range(RangeRequest { serializable: true, ..RangeRequest::key(key) }),
            58..66 => Call::Range(RangeRequest {
                serializable: random.permille(400),
                limit: if random.permille(300) { 3 } else { 0 },
                ..RangeRequest::prefix(if random.permille(500) { "k" } else { "" })
            }),
            66..69 => {
                let newest = self.known.values().map(|(revision, _)| *revision).max().unwrap_or_default();
                let revision = newest - random.below(10) as i64;
                Call::Range(RangeRequest { revision: revision.max(0), ..RangeRequest::prefix("k") })
            }
            69..75 => Call::Delete(DeleteRangeRequest {
                prev_kv: random.permille(300),
                ..DeleteRangeRequest::key(key)
            }),
            75..76 => Call::Delete(DeleteRangeRequest::prefix("k1")),
            76..88 => self.swap(client, key, random),
            88..92 => {
                let other = PutRequest::new(self::key(random), self.value(client, random));
                let one = PutRequest::new(format!("m{client}"), self.value(client, random));
                let all = RangeRequest::prefix("m");
                Call::Txn(TxnRequest::new(vec![], vec![one.into(), other.into(), all.into()], vec![]))
            }
            _ => self.lease(client, random),
        }
    }

    fn value(&mut self, client: usize, random: &mut Random) -> Bytes {
        self.requests += 1;
        let length = if random.permille(100) { VALUE_BYTES.1 } else { VALUE_BYTES.0 };
        let length = random.below(length) as usize;
        format!("{client}.{}.{:.<length$}", self.requests, "").into()
    }

    /// Compare and swap, by revision or by value.
    fn swap(&mut self, client: usize, key: Bytes, random: &mut Random) -> Call {
        let value = self.value(client, random);
        let compare = match self.known.get(&key) {
            Some((revision, _)) if random.permille(500) => Compare::mod_revision_is(key.clone(), *revision),
            Some((_, value)) => Compare {
                result: CompareResult::Equal as i32,
                target: CompareTarget::Value as i32,
                key: key.clone(),
                target_union: Some(TargetUnion::Value(value.clone())),
                range_end: Bytes::new(),
            },
            None => Compare::mod_revision_is(key.clone(), 0),
        };
        let write: RequestOp = PutRequest::new(key.clone(), value).into();
        Call::Txn(TxnRequest::new(vec![compare], vec![write], vec![RangeRequest::key(key).into()]))
    }

    fn lease(&mut self, client: usize, random: &mut Random) -> Call {
        let lease = random.pick(&self.leases);
        match (lease, random.below(10)) {
            (None, _) | (_, 0..2) => {
                self.requests += 1;
                // Chosen here, so that a grant of unknown outcome can be used and revoked all the same.
                let id = ((client as i64 + 1) << 32) | self.requests as i64;
                self.leases.push(id);
                Call::Grant(LeaseGrantRequest { id, ttl: random.between(TTL_S.0, TTL_S.1) as i64 })
            }
            (Some(lease), 2..6) => {
                let key = format!("l{}", random.below(LEASED_KEYS));
                let value = self.value(client, random);
                Call::Put(PutRequest { lease, ..PutRequest::new(key, value) })
            }
            (Some(lease), 6..9) => Call::KeepAlive(lease),
            (Some(lease), _) => {
                self.leases.retain(|other| *other != lease);
                Call::Revoke(lease)
            }
        }
    }

    /// Remembers what an answer says.
    pub(crate) fn learn(&mut self, call: &Call, answer: &Answer) {
        match (call, answer) {
            (Call::Put(put), Answer::Put(_)) => {
                let revision = answer.revision().unwrap_or_default();
                self.known.insert(put.key.clone(), (revision, put.value.clone()));
            }
            (Call::Range(request), Answer::Range(response)) if request.revision == 0 => {
                for kv in &response.kvs {
                    self.known.insert(kv.key.clone(), (kv.mod_revision, kv.value.clone()));
                }
            }
            (Call::Delete(delete), Answer::Delete(_)) => {
                self.known.remove(&delete.key);
            }
            _ => {}
        }
    }

    /// A lease is gone.
    pub(crate) fn forget_lease(&mut self, call: &Call) {
        let lease = match call {
            Call::KeepAlive(id) | Call::Revoke(id) => *id,
            Call::Put(put) => put.lease,
            _ => 0,
        };
        self.leases.retain(|other| *other != lease);
    }
}

fn key(random: &mut Random) -> Bytes {
    format!("k{}", random.below(KEYS)).into()
}
