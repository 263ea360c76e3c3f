//! The Lock and Election services, on keys and leases alone.
//!
//! Whoever wants a lock, or to lead, creates the key `NAME/LEASE`. The oldest key of the name has it; the others wait
//! for every older one to be deleted. A key goes when its owner deletes it or its lease ends. Clients that do this by
//! themselves (etcdctl does) and those that ask these services share one order.
//!
//! A client that gives up waiting loses its place: its key is deleted, also when its connection breaks.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use hyper::Response;
use isopod_kv::compare::{CompareResult, CompareTarget, TargetUnion};
use isopod_kv::range_request::{SortOrder, SortTarget};
use isopod_kv::{
    CampaignRequest, CampaignResponse, Code, Compare, DeleteRangeRequest, Error, KeyValue, LeaderKey,
    LeaderRequest, LeaderResponse, LeaseGrantRequest, LockRequest, LockResponse, ProclaimRequest,
    ProclaimResponse, PutRequest, RangeRequest, RangeResponse, RequestOp, ResignRequest, ResignResponse,
    ResponseHeader, TxnRequest, TxnResponse, UnlockRequest, UnlockResponse, WatchCreateRequest, event,
    response_op, watch_create_request,
};
use isopod_mvcc::Caller;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::body::Body;

use super::auth::Credentials;
use super::kv::own;
use super::rpc::Call;
use crate::engine::{Engine, as_caller, current_caller};

/// TTL of the lease granted to a client that brings none, in seconds; as etcd.
const SESSION_TTL_S: i64 = 60;

/// Errors of these services; etcd gives them no code of their own.
fn unknown(message: &str) -> Error {
    Error::other(Code::Unknown, message)
}

/// Takes a lock; answers once it is held.
pub(super) async fn lock(engine: Arc<Engine>, request: LockRequest) -> Result<LockResponse, Error> {
    let lease = session(&engine, request.lease).await?;
    let place = Place::take(&engine, &request.name, lease, Bytes::new()).await?;
    place.wait().await?;
    // The lease may have ended meanwhile, and the place with it.
    let mine = read(&engine, RangeRequest::key(place.key.clone())).await?;
    if mine.kvs.is_empty() {
        return Err(unknown("mutex: session is expired"));
    }
    Ok(LockResponse { header: mine.header, key: place.keep() })
}

/// Gives a lock back.
pub(super) async fn unlock(engine: Arc<Engine>, request: UnlockRequest) -> Result<UnlockResponse, Error> {
    let deleted = engine.delete_range(DeleteRangeRequest::key(request.key)).await?;
    Ok(UnlockResponse { header: deleted.header })
}

/// Runs for leader; answers once elected.
pub(super) async fn campaign(
    engine: Arc<Engine>,
    mut request: CampaignRequest,
) -> Result<CampaignResponse, Error> {
    own(&mut request.value);
    let lease = session(&engine, request.lease).await?;
    let mut place = Place::take(&engine, &request.name, lease, request.value.clone()).await?;
    if place.value != request.value {
        place.header = put_if_mine(&engine, &place.key, place.revision, lease, request.value).await?;
    }
    place.wait().await?;
    let (header, rev) = (place.header.clone(), place.revision);
    let leader = LeaderKey { name: request.name, key: place.keep(), rev, lease };
    Ok(CampaignResponse { header, leader: Some(leader) })
}

/// Changes the leader's value.
pub(super) async fn proclaim(
    engine: Arc<Engine>,
    mut request: ProclaimRequest,
) -> Result<ProclaimResponse, Error> {
    own(&mut request.value);
    let mut leader = named(request.leader)?;
    own(&mut leader.key);
    let header = put_if_mine(&engine, &leader.key, leader.rev, leader.lease, request.value).await?;
    Ok(ProclaimResponse { header })
}

/// Gives leadership up. One that is lost already is no error.
pub(super) async fn resign(engine: Arc<Engine>, request: ResignRequest) -> Result<ResignResponse, Error> {
    let leader = named(request.leader)?;
    let header = delete_if_mine(&engine, leader.key, leader.rev).await?.header;
    Ok(ResignResponse { header })
}

/// The leader now.
pub(super) async fn leader(engine: Arc<Engine>, request: LeaderRequest) -> Result<LeaderResponse, Error> {
    let RangeResponse { header, mut kvs, .. } = first(&engine, &prefix(&request.name)).await?;
    let kv = kvs.pop().ok_or_else(|| unknown("election: no leader"))?;
    Ok(LeaderResponse { header, kv: Some(kv) })
}

/// Every leader from now on, and every value of each.
pub(super) async fn observe(call: Call<'_>) -> Response<Body> {
    let (credentials, shutdown) = (call.credentials.clone(), call.shutdown.clone());
    call.server_streaming(move |engine: Arc<Engine>, request: LeaderRequest| {
        let (responses, receiver) = mpsc::channel(RESPONSE_QUEUE);
        let (credentials, shutdown) = (credentials.clone(), shutdown.clone());
        tokio::spawn(async move {
            let end = tokio::select! {
                error = leaders(&engine, &credentials, &request.name, &responses) => error,
                () = shutdown.cancelled() => Error::Stopped,
                () = responses.closed() => return,
            };
            let _ = responses.send(Err(end.into())).await;
        });
        ReceiverStream::new(receiver)
    })
    .await
}

/// Responses that wait for the connection.
const RESPONSE_QUEUE: usize = 16;

/// Sends leaders until something fails.
async fn leaders(
    engine: &Arc<Engine>,
    credentials: &Credentials,
    name: &[u8],
    responses: &mpsc::Sender<Result<LeaderResponse, Status>>,
) -> Error {
    let caller = match credentials.caller(engine).await {
        Ok(caller) => caller,
        Err(error) => return error,
    };
    let prefix = prefix(name);
    let mut observer = Observer { engine, prefix, watch: None, waiting: VecDeque::new() };
    as_caller(caller, async {
        loop {
            match observer.next().await {
                // Nobody listens any more: whoever spawned this ends it.
                Ok(response) => drop(responses.send(Ok(response)).await),
                Err(error) => return error,
            }
        }
    })
    .await
}

/// Who follows an election.
struct Observer<'a> {
    engine: &'a Arc<Engine>,
    prefix: Bytes,
    /// The watch of the leader's key, while there is a leader.
    watch: Option<isopod_kv::WatchStream>,
    /// What it has given and the client has not yet been told.
    waiting: VecDeque<LeaderResponse>,
}

impl Observer<'_> {
    async fn next(&mut self) -> Result<LeaderResponse, Error> {
        loop {
            if let Some(response) = self.waiting.pop_front() {
                return Ok(response);
            }
            let Some(watch) = &mut self.watch else { return self.find_leader().await };
            let response = watch.next().await.ok_or(Error::WatchCanceled)??;
            for event in response.events {
                if event.r#type == event::EventType::Delete as i32 {
                    self.watch = None;
                    break;
                }
                self.waiting.push_back(LeaderResponse { header: response.header.clone(), kv: event.kv });
            }
        }
    }

    async fn find_leader(&mut self) -> Result<LeaderResponse, Error> {
        let RangeResponse { mut header, mut kvs, .. } = first(self.engine, &self.prefix).await?;
        let mut revision = header.as_ref().map_or(0, |header| header.revision);
        let kv = match kvs.pop() {
            Some(kv) => kv,
            None => {
                let kv = first_candidate(self.engine, &self.prefix, revision + 1).await?;
                revision = kv.mod_revision;
                if let Some(header) = &mut header {
                    header.revision = revision;
                }
                kv
            }
        };
        let watch = self.engine.watch(&WatchCreateRequest::key(kv.key.clone(), revision + 1));
        self.watch = Some(watch);
        Ok(LeaderResponse { header, kv: Some(kv) })
    }
}

/// Waits for somebody to run.
async fn first_candidate(engine: &Engine, prefix: &Bytes, from: i64) -> Result<KeyValue, Error> {
    let mut watch = engine.watch(&WatchCreateRequest {
        filters: vec![watch_create_request::FilterType::NoDelete as i32],
        ..WatchCreateRequest::prefix(prefix.clone(), from)
    });
    loop {
        let response = watch.next().await.ok_or(Error::WatchCanceled)??;
        if let Some(kv) = response.events.into_iter().find_map(|event| event.kv) {
            return Ok(kv);
        }
    }
}

/// A place in the order of those who want the same.
struct Place {
    engine: Arc<Engine>,
    caller: Option<Caller>,
    prefix: Bytes,
    key: Bytes,
    /// When the key was created: the order.
    revision: i64,
    /// What the key holds.
    value: Bytes,
    header: Option<ResponseHeader>,
    /// Whether the key stays when this value goes.
    kept: bool,
}

impl Place {
    /// Takes a place, or takes up the one that this lease has.
    async fn take(engine: &Arc<Engine>, name: &[u8], lease: i64, value: Bytes) -> Result<Place, Error> {
        let prefix = prefix(name);
        let mut key = prefix.to_vec();
        key.extend_from_slice(format!("{lease:x}").as_bytes());
        let key = Bytes::from(key);
        let put = PutRequest { lease, ..PutRequest::new(key.clone(), value.clone()) };
        let get = RangeRequest::key(key.clone());
        let txn = TxnRequest::new(vec![created_at(&key, 0)], vec![put.into()], vec![get.into()]);
        let taken = engine.txn(txn).await?;
        let mut place = Place {
            engine: engine.clone(),
            caller: current_caller(),
            prefix,
            key,
            revision: taken.header.as_ref().map_or(0, |header| header.revision),
            value,
            header: taken.header.clone(),
            kept: false,
        };
        if let Some(old) = found(taken) {
            place.revision = old.create_revision;
            place.value = old.value;
        }
        Ok(place)
    }

    /// Waits until nobody is before this place.
    async fn wait(&self) -> Result<(), Error> {
        loop {
            let before = read(
                &self.engine,
                RangeRequest {
                    limit: 1,
                    sort_order: SortOrder::Descend as i32,
                    sort_target: SortTarget::Create as i32,
                    max_create_revision: self.revision - 1,
                    ..RangeRequest::prefix(self.prefix.clone())
                },
            )
            .await?;
            let Some(last) = before.kvs.first() else { return Ok(()) };
            let revision = before.header.map_or(0, |header| header.revision);
            self.wait_for_deletion(last.key.clone(), revision + 1).await?;
        }
    }

    async fn wait_for_deletion(&self, key: Bytes, from: i64) -> Result<(), Error> {
        let mut watch = self.engine.watch(&WatchCreateRequest {
            filters: vec![watch_create_request::FilterType::NoPut as i32],
            ..WatchCreateRequest::key(key, from)
        });
        loop {
            let response = watch.next().await.ok_or(Error::WatchCanceled)??;
            if !response.events.is_empty() {
                return Ok(());
            }
        }
    }

    /// The place is reached: from here on the client decides when it ends.
    fn keep(mut self) -> Bytes {
        self.kept = true;
        self.key.clone()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let (engine, key, revision) = (self.engine.clone(), self.key.clone(), self.revision);
        let caller = self.caller.take();
        tokio::spawn(async move {
            let give_up = delete_if_mine(&engine, key, revision);
            let outcome = match caller {
                Some(caller) => as_caller(caller, give_up).await,
                None => give_up.await,
            };
            if let Err(error) = outcome {
                tracing::debug!(%error, "a place in a queue was not given up; it ends with its lease");
            }
        });
    }
}

/// The client's lease, or a new one.
async fn session(engine: &Engine, lease: i64) -> Result<i64, Error> {
    if lease != 0 {
        return Ok(lease);
    }
    Ok(engine.lease_grant(LeaseGrantRequest { id: 0, ttl: SESSION_TTL_S }).await?.id)
}

fn named(leader: Option<LeaderKey>) -> Result<LeaderKey, Error> {
    leader.ok_or_else(|| unknown("\"leader\" field must be provided"))
}

fn prefix(name: &[u8]) -> Bytes {
    [name, b"/"].concat().into()
}

/// The oldest key of a name.
async fn first(engine: &Engine, prefix: &Bytes) -> Result<RangeResponse, Error> {
    let oldest = RangeRequest {
        limit: 1,
        sort_order: SortOrder::Ascend as i32,
        sort_target: SortTarget::Create as i32,
        ..RangeRequest::prefix(prefix.clone())
    };
    read(engine, oldest).await
}

/// Reads what the caller may read.
async fn read(engine: &Engine, request: RangeRequest) -> Result<RangeResponse, Error> {
    let check = |state: &isopod_mvcc::State, caller: &Caller| {
        state.auth().check_read(caller, &request.key, &request.range_end)
    };
    engine.checked(check, engine.range(&request)).await
}

fn created_at(key: &Bytes, revision: i64) -> Compare {
    Compare {
        result: CompareResult::Equal as i32,
        target: CompareTarget::Create as i32,
        key: key.clone(),
        target_union: Some(TargetUnion::CreateRevision(revision)),
        range_end: Bytes::new(),
    }
}

fn found(response: TxnResponse) -> Option<KeyValue> {
    response.responses.into_iter().find_map(|op| match op.response {
        Some(response_op::Response::ResponseRange(mut range)) => range.kvs.pop(),
        _ => None,
    })
}

async fn if_mine(engine: &Engine, key: &Bytes, revision: i64, then: RequestOp) -> Result<TxnResponse, Error> {
    engine.txn(TxnRequest::new(vec![created_at(key, revision)], vec![then], Vec::new())).await
}

async fn put_if_mine(
    engine: &Engine,
    key: &Bytes,
    revision: i64,
    lease: i64,
    value: Bytes,
) -> Result<Option<ResponseHeader>, Error> {
    let put = PutRequest { lease, ..PutRequest::new(key.clone(), value) };
    let done = if_mine(engine, key, revision, put.into()).await?;
    if done.succeeded { Ok(done.header) } else { Err(unknown("election: not leader")) }
}

async fn delete_if_mine(engine: &Engine, key: Bytes, revision: i64) -> Result<TxnResponse, Error> {
    if_mine(engine, &key.clone(), revision, DeleteRangeRequest::key(key).into()).await
}
