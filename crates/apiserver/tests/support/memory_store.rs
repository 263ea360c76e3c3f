//! A store in memory with full history: enough of etcd for tests of the API server.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use isopod_kv::*;
use parking_lot::Mutex;
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;

#[derive(Default)]
struct State {
    revision: i64,
    keys: BTreeMap<Bytes, KeyValue>,
    history: Vec<Event>,
    compacted: i64,
}

/// The store.
pub struct MemoryStore {
    state: Arc<Mutex<State>>,
    events: broadcast::Sender<WatchResponse>,
    breaks: broadcast::Sender<()>,
}

impl MemoryStore {
    pub fn new() -> Arc<MemoryStore> {
        let state = State { revision: 1, ..State::default() };
        Arc::new(MemoryStore {
            state: Arc::new(Mutex::new(state)),
            events: broadcast::channel(65_536).0,
            breaks: broadcast::channel(1).0,
        })
    }

    /// Ends all watches with an error, as a lost connection does.
    pub fn break_watches(&self) {
        let _ = self.breaks.send(());
    }
}

fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader { revision, ..ResponseHeader::default() })
}

impl State {
    fn at(&self, revision: i64) -> BTreeMap<Bytes, KeyValue> {
        if revision == 0 || revision >= self.revision {
            return self.keys.clone();
        }
        let mut keys = BTreeMap::new();
        for event in self.history.iter().take_while(|e| e.kv.as_ref().unwrap().mod_revision <= revision) {
            let kv = event.kv.clone().unwrap();
            if event.r#type == event::EventType::Put as i32 {
                keys.insert(kv.key.clone(), kv);
            } else {
                keys.remove(&kv.key);
            }
        }
        keys
    }

    fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Error> {
        if request.revision != 0 && request.revision < self.compacted {
            return Err(Error::Compacted);
        }
        let past =
            (request.revision != 0 && request.revision < self.revision).then(|| self.at(request.revision));
        let keys = past.as_ref().unwrap_or(&self.keys);
        let mut response = RangeResponse { header: header(self.revision), ..RangeResponse::default() };
        for (key, kv) in keys.range(request.key.clone()..) {
            if !keys::contains(&request.key, &request.range_end, key) {
                break;
            }
            response.count += 1;
            if request.limit > 0 && response.count > request.limit {
                response.more = true;
            } else if !request.count_only {
                response.kvs.push(kv.clone());
            }
        }
        Ok(response)
    }

    fn put(&mut self, request: &PutRequest, revision: i64) -> Event {
        let old = self.keys.get(&request.key);
        let kv = KeyValue {
            key: request.key.clone(),
            value: request.value.clone(),
            mod_revision: revision,
            create_revision: old.map_or(revision, |o| o.create_revision),
            version: old.map_or(1, |o| o.version + 1),
            lease: request.lease,
        };
        let prev_kv = self.keys.insert(kv.key.clone(), kv.clone());
        Event { r#type: event::EventType::Put as i32, kv: Some(kv), prev_kv }
    }

    fn delete(&mut self, request: &DeleteRangeRequest, revision: i64) -> Vec<Event> {
        let gone: Vec<Bytes> = self
            .keys
            .range(request.key.clone()..)
            .map(|(k, _)| k.clone())
            .take_while(|k| keys::contains(&request.key, &request.range_end, k))
            .collect();
        gone.into_iter()
            .map(|key| {
                let prev_kv = self.keys.remove(&key);
                let kv = KeyValue { key, mod_revision: revision, ..KeyValue::default() };
                Event { r#type: event::EventType::Delete as i32, kv: Some(kv), prev_kv }
            })
            .collect()
    }

    fn holds(&self, compare: &Compare) -> bool {
        let actual = self.keys.get(&compare.key).map_or(0, |k| k.mod_revision);
        compare.target_union == Some(compare::TargetUnion::ModRevision(actual))
    }
}

/// Tells all watches how far they are: more than was asked for, which a watch must bear.
struct Control {
    state: Arc<Mutex<State>>,
    events: broadcast::Sender<WatchResponse>,
}

impl WatchControl for Control {
    fn request_progress(&self) {
        let state = self.state.lock();
        let _ =
            self.events.send(WatchResponse { header: header(state.revision), ..WatchResponse::default() });
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Error> {
        self.state.lock().range(&request)
    }
    async fn put(&self, request: PutRequest) -> Result<PutResponse, Error> {
        let response = self.txn(TxnRequest::new(vec![], vec![request.into()], vec![])).await?;
        Ok(PutResponse { header: response.header, prev_kv: None })
    }
    async fn delete_range(&self, request: DeleteRangeRequest) -> Result<DeleteRangeResponse, Error> {
        let response = self.txn(TxnRequest::new(vec![], vec![request.into()], vec![])).await?;
        Ok(DeleteRangeResponse { header: response.header, ..DeleteRangeResponse::default() })
    }
    async fn txn(&self, request: TxnRequest) -> Result<TxnResponse, Error> {
        let mut state = self.state.lock();
        let succeeded = request.compare.iter().all(|c| state.holds(c));
        let operations = if succeeded { request.success } else { request.failure };
        let (next, mut events, mut responses) = (state.revision + 1, Vec::new(), Vec::new());
        for operation in operations {
            use response_op::Response::*;
            responses.push(ResponseOp::from(match operation.request.unwrap() {
                request_op::Request::RequestRange(r) => ResponseRange(state.range(&r)?),
                request_op::Request::RequestPut(r) => {
                    events.push(state.put(&r, next));
                    ResponsePut(PutResponse::default())
                }
                request_op::Request::RequestDeleteRange(r) => {
                    let gone = state.delete(&r, next);
                    let deleted = gone.len() as i64;
                    events.extend(gone);
                    ResponseDeleteRange(DeleteRangeResponse { deleted, ..DeleteRangeResponse::default() })
                }
                request_op::Request::RequestTxn(_) => return Err(Error::TooManyOps),
            }));
        }
        if !events.is_empty() {
            state.revision = next;
            state.history.extend(events.iter().cloned());
            let response = WatchResponse { header: header(next), events, ..WatchResponse::default() };
            let _ = self.events.send(response);
        }
        Ok(TxnResponse { header: header(state.revision), succeeded, responses })
    }
    async fn compact(&self, revision: i64) -> Result<(), Error> {
        self.state.lock().compacted = revision;
        Ok(())
    }
    async fn watch(&self, request: WatchCreateRequest) -> Result<WatchStream, Error> {
        let state = self.state.lock();
        let from = if request.start_revision == 0 { state.revision + 1 } else { request.start_revision };
        if from <= state.compacted {
            let gone = WatchResponse {
                canceled: true,
                compact_revision: state.compacted,
                ..WatchResponse::default()
            };
            let control = Control { state: Arc::clone(&self.state), events: self.events.clone() };
            return Ok(WatchStream::new(
                state.revision,
                futures::stream::iter([Ok(gone)]),
                Box::new(control),
            ));
        }
        let control = Control { state: Arc::clone(&self.state), events: self.events.clone() };
        let (key, end) = (request.key, request.range_end);
        let live = BroadcastStream::new(self.events.subscribe());
        let past: Vec<_> = state
            .history
            .iter()
            .filter(|e| e.kv.as_ref().unwrap().mod_revision >= from)
            .map(|e| WatchResponse {
                header: header(state.revision),
                events: vec![e.clone()],
                ..Default::default()
            })
            .collect();
        let stream = futures::stream::iter(past.into_iter().map(Ok)).chain(live).map(move |response| {
            let mut response = response.map_err(|_| Error::WatchCanceled)?;
            response.events.retain(|e| {
                let kv = e.kv.as_ref().unwrap();
                kv.mod_revision >= from && keys::contains(&key, &end, &kv.key)
            });
            Ok(response)
        });
        let mut breaks = self.breaks.subscribe();
        let stream = stream.take_until(Box::pin(async move { drop(breaks.recv().await) }));
        let stream = stream.chain(futures::stream::iter([Err(Error::WatchCanceled)]));
        Ok(WatchStream::new(state.revision, stream, Box::new(control)))
    }
    async fn lease_grant(&self, request: LeaseGrantRequest) -> Result<LeaseGrantResponse, Error> {
        Ok(LeaseGrantResponse { id: 1, ttl: request.ttl, ..LeaseGrantResponse::default() })
    }
    async fn lease_revoke(&self, _: i64) -> Result<(), Error> {
        Ok(())
    }
    async fn lease_keep_alive(&self, _: i64) -> Result<LeaseKeepAliveResponse, Error> {
        Ok(LeaseKeepAliveResponse::default())
    }
    async fn lease_time_to_live(&self, _: LeaseTimeToLiveRequest) -> Result<LeaseTimeToLiveResponse, Error> {
        Ok(LeaseTimeToLiveResponse::default())
    }
    async fn lease_leases(&self) -> Result<LeaseLeasesResponse, Error> {
        Ok(LeaseLeasesResponse::default())
    }
    async fn status(&self) -> Result<StatusResponse, Error> {
        Ok(StatusResponse::default())
    }
}
