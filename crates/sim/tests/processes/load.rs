//! Clients and watchers that record what they ask and see.

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use isopod_kv::{
    Compare, DeleteRangeRequest, Error, Event, PutRequest, RangeRequest, Store, TxnRequest,
    WatchCreateRequest,
};
use isopod_sim::history::{Answer, Call, Delivery, Operation, Outcome, Watch};
use isopod_sim::random::Random;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// Time between two requests of a client.
const THINK: Duration = Duration::from_millis(15);
const KEYS: u64 = 6;
/// Size of the values that fill the log.
const BULK_BYTES: usize = 128 << 10;
/// How long the healed members may take to answer, on a busy machine.
const RECOVERY_MAX: Duration = Duration::from_secs(90);

/// What all share: one connection to each member, one clock, one history.
pub(super) struct Load {
    stores: Vec<Arc<dyn Store>>,
    runs: Arc<[AtomicU64; 3]>,
    began: Instant,
    pub(super) operations: RefCell<Vec<Operation>>,
    pub(super) watches: RefCell<Vec<Watch>>,
    pub(super) over: RefCell<bool>,
    pub(super) bulk: RefCell<bool>,
}

impl Load {
    pub(super) fn new(urls: &[String], runs: Arc<[AtomicU64; 3]>) -> Result<Rc<Load>> {
        let stores = urls.iter().map(|url| isopod_kv::grpc::connect(std::slice::from_ref(url), None));
        Ok(Rc::new(Load {
            stores: stores.collect::<Result<_, _>>()?,
            runs,
            began: Instant::now(),
            operations: RefCell::default(),
            watches: RefCell::default(),
            over: RefCell::new(false),
            bulk: RefCell::new(false),
        }))
    }

    fn now(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    /// One client, until the load is over.
    pub(super) async fn client(self: Rc<Self>, client: u32) {
        let mut random = Random::new(u64::from(client));
        let mut member = client as usize % self.stores.len();
        let mut known = BTreeMap::new();
        let mut number = 0;
        while !*self.over.borrow() {
            number += 1;
            let call = self.choose(client, number, &known, &mut random);
            let outcome = self.ask(client, member, call.clone()).await;
            match (&call, &outcome) {
                (Call::Range(_), Outcome::Answered(Answer::Range(response))) => {
                    known.extend(response.kvs.iter().map(|kv| (kv.key.clone(), kv.mod_revision)));
                }
                (_, Outcome::Answered(_)) => {}
                // Another member may be better.
                _ => member = random.below(self.stores.len() as u64) as usize,
            }
            tokio::time::sleep(THINK).await;
        }
    }

    fn choose(
        &self,
        client: u32,
        number: u64,
        known: &BTreeMap<bytes::Bytes, i64>,
        random: &mut Random,
    ) -> Call {
        let key = format!("k{}", random.below(KEYS));
        let value = format!("{client}.{number}");
        match random.below(10) {
            0..3 if *self.bulk.borrow() => {
                Call::Put(PutRequest::new("bulk", value + &".".repeat(BULK_BYTES)))
            }
            0..3 => Call::Put(PutRequest::new(key, value)),
            3..5 => Call::Range(RangeRequest::key(key)),
            5 => Call::Range(RangeRequest { serializable: true, ..RangeRequest::key(key) }),
            6 => Call::Range(RangeRequest::prefix("k")),
            7 => Call::Delete(DeleteRangeRequest::key(key)),
            _ => {
                let revision = known.get(key.as_bytes()).copied().unwrap_or_default();
                let compare = Compare::mod_revision_is(key.clone(), revision);
                let write = PutRequest::new(key.clone(), value).into();
                Call::Txn(TxnRequest::new(vec![compare], vec![write], vec![RangeRequest::key(key).into()]))
            }
        }
    }

    /// Sends a request and records it.
    async fn ask(&self, client: u32, member: usize, call: Call) -> Outcome {
        let session = (self.runs[member].load(Ordering::SeqCst) << 8) | member as u64;
        let invoked_ns = self.now();
        let answer = tokio::time::timeout(PATIENCE, send(&*self.stores[member], call.clone())).await;
        let outcome = match answer {
            Ok(Ok(answer)) => Outcome::Answered(answer),
            // Whatever else the error says, the request may have been on its way.
            Ok(Err(error @ (Error::NoSpace | Error::TooManyRequests))) => Outcome::Refused(error.to_string()),
            Ok(Err(_)) | Err(_) => Outcome::Unknown,
        };
        let operation = Operation {
            client,
            session,
            invoked_ns,
            returned_ns: self.now(),
            call,
            outcome: outcome.clone(),
        };
        self.operations.borrow_mut().push(operation);
        outcome
    }

    /// One watcher of everything: it resumes elsewhere whenever its watch breaks.
    pub(super) async fn watcher(self: Rc<Self>, client: u32) {
        let record = {
            let mut watches = self.watches.borrow_mut();
            let all = WatchCreateRequest::prefix("", 2);
            watches.push(Watch {
                client,
                key: all.key,
                range_end: all.range_end,
                start_revision: 2,
                ..Watch::default()
            });
            watches.len() - 1
        };
        let (mut next, mut member) = (2, client as usize);
        while !*self.over.borrow() {
            member = (member + 1) % self.stores.len();
            let request = WatchCreateRequest::prefix("", next);
            let opened = tokio::time::timeout(PATIENCE, self.stores[member].watch(request)).await;
            let Ok(Ok(mut stream)) = opened else {
                tokio::time::sleep(THINK).await;
                continue;
            };
            while !*self.over.borrow() {
                let Ok(response) = tokio::time::timeout(PATIENCE, stream.next()).await else {
                    // Nothing for a while: ask how far it is, and break the watch if nothing comes again.
                    stream.request_progress();
                    match tokio::time::timeout(PATIENCE, stream.next()).await {
                        Ok(Some(Ok(response))) => {
                            next = self.deliver(record, response.header, response.events)
                        }
                        _ => break,
                    }
                    continue;
                };
                let Some(Ok(response)) = response else { break };
                next = self.deliver(record, response.header, response.events);
            }
        }
    }

    /// Records a response; where to resume after it.
    fn deliver(&self, record: usize, header: Option<isopod_kv::ResponseHeader>, events: Vec<Event>) -> i64 {
        let header = header.map_or(0, |header| header.revision);
        let last = events.last().and_then(|event| event.kv.as_ref()).map(|kv| kv.mod_revision);
        let revision = last.unwrap_or(header);
        let delivery = Delivery { at_ns: self.now(), revision, events };
        let watch = &mut self.watches.borrow_mut()[record];
        watch.deliveries.push(delivery);
        watch.deliveries.iter().map(|delivery| delivery.revision + 1).max().unwrap_or(2)
    }

    /// Waits until every member answers, and records that each has everything.
    pub(super) async fn recover(&self) -> Result<()> {
        let end = Instant::now() + RECOVERY_MAX;
        for member in 0..self.stores.len() {
            loop {
                let client = 100 + member as u32;
                let put = Call::Put(PutRequest::new("last", format!("{client}.{}", self.now())));
                let written = self.ask(client, member, put).await;
                let read = self.ask(client, member, Call::Range(RangeRequest::prefix(""))).await;
                let answered = |outcome: &Outcome| matches!(outcome, Outcome::Answered(_));
                if answered(&written) && answered(&read) {
                    break;
                }
                ensure!(Instant::now() < end, "member {member} does not recover: {written:?}, {read:?}");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
        Ok(())
    }

    /// Every event there was, as each of the members tells it: they have to agree.
    pub(super) async fn events(&self) -> Result<Vec<Event>> {
        let last = self.stores[0].range(RangeRequest::key("last")).await?;
        let last = last.header.context("a header")?.revision;
        let mut first: Option<Vec<Event>> = None;
        for (member, store) in self.stores.iter().enumerate() {
            let mut stream = store.watch(WatchCreateRequest::prefix("", 2)).await?;
            let mut events: Vec<Event> = Vec::new();
            let newest = |events: &[Event]| {
                events.last().and_then(|event| event.kv.as_ref()).map_or(0, |kv| kv.mod_revision)
            };
            while newest(&events) < last {
                let response = tokio::time::timeout(RECOVERY_MAX, stream.next()).await;
                let response = response.with_context(|| format!("the history of member {member}"))?;
                events.extend(response.context("the watch ended")??.events);
            }
            match &first {
                Some(first) => ensure!(*first == events, "member {member} tells another history"),
                None => first = Some(events),
            }
        }
        first.context("there are members")
    }
}

async fn send(store: &dyn Store, call: Call) -> Result<Answer, Error> {
    Ok(match call {
        Call::Range(request) => Answer::Range(store.range(request).await?),
        Call::Put(request) => Answer::Put(store.put(request).await?),
        Call::Delete(request) => Answer::Delete(store.delete_range(request).await?),
        Call::Txn(request) => Answer::Txn(store.txn(request).await?),
        Call::Grant(_) | Call::KeepAlive(_) | Call::Revoke(_) => unreachable!("no client uses leases"),
    })
}
