//! Between clients and watchers and the members they speak to.

use bytes::Bytes;
use isopod_kv::{Error, keys};
use isopod_mvcc::{Command, KeyRange, Op, Reply};

use super::client::Client;
use super::machine::Waiting;
use super::member::{self, Input};
use super::queue::Happening;
use super::watcher::{Connection, Sent, Watcher};
use super::{Sabotage, World};
use crate::history::{Answer, Call, Delivery, Operation, Outcome, Watch};

const MS: u64 = 1_000_000;
/// Time between an answer and the next request, in nanoseconds, least and most.
const THINK_NS: (u64, u64) = (MS, 150 * MS);
/// How long a client waits, in nanoseconds, least and most.
const PATIENCE_NS: (u64, u64) = (1500 * MS, 5000 * MS);
/// One-way delay between a client and a member, in nanoseconds, least and most.
const DELAY_NS: (u64, u64) = (50_000, 800_000);
/// Time between the end of a watch and the next try, in nanoseconds, least and most.
const RECONNECT_NS: (u64, u64) = (5 * MS, 300 * MS);
/// Of a thousand requests, how many go to another member than the last although nothing was wrong with it.
const WANDER_PERMILLE: u64 = 60;

impl World {
    pub(super) fn begin_load(&mut self) {
        let ids: Vec<u64> = self.machines.keys().copied().collect();
        for client in 0..self.options.clients {
            let member = self.random.pick(&ids).unwrap_or(1);
            self.clients.push(Client::new(member));
            let at = 1500 * MS + self.random.below(500 * MS);
            self.queue.push(at, Happening::Next { client });
        }
        for watcher in 0..self.options.watchers {
            let (key, range_end) = match watcher % 4 {
                0 => (Bytes::from_static(&[0]), Bytes::from_static(keys::FROM_KEY)),
                1 => (Bytes::from_static(b"k"), keys::prefix_end(b"k")),
                2 => (Bytes::from_static(b"k3"), Bytes::new()),
                _ => (Bytes::from_static(b"l"), keys::prefix_end(b"l")),
            };
            let record = self.history.watches.len();
            let prev_kv = self.random.permille(300);
            self.history.watches.push(Watch {
                client: 1000 + watcher as u32,
                key: key.clone(),
                range_end: range_end.clone(),
                start_revision: 2,
                prev_kv,
                deliveries: Vec::new(),
            });
            self.watchers.push(Watcher {
                range: KeyRange { key, range_end },
                prev_kv,
                record,
                next: 2,
                generation: 0,
                connection: None,
            });
            self.queue.push(MS, Happening::Attach { watcher, generation: 0 });
        }
    }

    pub(super) fn next_request(&mut self, client: usize) {
        if self.clients[client].current.is_some() || self.clients[client].finished {
            return;
        }
        if self.random.permille(WANDER_PERMILLE) {
            self.wander(client);
        }
        let call = if self.settling {
            Call::Range(isopod_kv::RangeRequest::prefix(""))
        } else {
            self.clients[client].choose(client, &mut self.random)
        };
        let state = &mut self.clients[client];
        state.requests += 1;
        let (number, member) = (state.requests, state.member);
        state.current = Some((number, self.history.operations.len()));
        self.history.operations.push(Operation {
            client: client as u32,
            session: 0,
            invoked_ns: self.now,
            returned_ns: self.now,
            call,
            outcome: Outcome::Unknown,
        });
        let arrives = self.now + self.random.between(DELAY_NS.0, DELAY_NS.1);
        self.queue.push(arrives, Happening::Request { client, number, member });
        let patience = self.random.between(PATIENCE_NS.0, PATIENCE_NS.1);
        self.queue.push(self.now + patience, Happening::Timeout { client, number });
    }

    fn wander(&mut self, client: usize) {
        let ids: Vec<u64> =
            self.machines.values().filter(|machine| !machine.gone).map(|machine| machine.id).collect();
        let current = self.clients[client].member;
        self.clients[client].member = self.random.pick(&ids).unwrap_or(current);
    }

    /// The call of a request that is still waited for.
    fn call_of(&self, client: usize, number: u64) -> Option<(usize, Call)> {
        let (current, record) = self.clients[client].current?;
        (current == number).then(|| (record, self.history.operations[record].call.clone()))
    }

    pub(super) fn request(&mut self, client: usize, number: u64, id: u64) {
        let Some((record, call)) = self.call_of(client, number) else { return };
        let machine = &self.machines[&id];
        let Some(member) = &machine.member else {
            return self.respond(client, number, Outcome::Refused("connection refused".to_owned()));
        };
        self.history.operations[record].session = machine.run;
        let waiting = Waiting::Client { client, number };
        match call {
            Call::Range(request)
                if request.serializable || self.options.sabotage == Some(Sabotage::StaleReads) =>
            {
                let result = member.state().range(&request);
                self.respond(client, number, answered(result.map(Answer::Range)));
            }
            Call::Range(_) => self.give(id, waiting, |ticket| Input::Read { ticket }),
            Call::KeepAlive(lease) => self.give(id, waiting, |ticket| Input::KeepAlive { ticket, lease }),
            Call::Put(request) => self.propose(id, waiting, Op::Put(request)),
            Call::Delete(request) => self.propose(id, waiting, Op::DeleteRange(request)),
            Call::Txn(request) => self.propose(id, waiting, Op::Txn(request)),
            Call::Grant(request) => self.propose(id, waiting, Op::LeaseGrant(request)),
            Call::Revoke(id_of_lease) => {
                let request = isopod_kv::LeaseRevokeRequest { id: id_of_lease };
                self.propose(id, waiting, Op::LeaseRevoke(request));
            }
        }
    }

    fn propose(&mut self, id: u64, waiting: Waiting, op: Op) {
        self.give(id, waiting, |ticket| Input::Propose { ticket, command: Command::from(op) });
    }

    /// A member is done with a request.
    pub(super) fn done(
        &mut self,
        id: u64,
        client: usize,
        number: u64,
        result: Result<member::Outcome, Error>,
    ) {
        let Some((_, call)) = self.call_of(client, number) else { return };
        let result = match (result, &call) {
            (Ok(member::Outcome::Read), Call::Range(request)) => match &self.machines[&id].member {
                Some(member) => member.state().range(request).map(Answer::Range),
                None => Err(Error::Stopped),
            },
            (Ok(member::Outcome::KeptAlive { ttl_s }), _) => Ok(Answer::KeepAlive { ttl_s }),
            (Ok(member::Outcome::Applied(reply)), _) => answer(reply),
            (Ok(_), _) => panic!("an outcome of another kind than the request"),
            (Err(error), _) => Err(error),
        };
        self.respond(client, number, answered(result));
    }

    /// Sends an outcome to a client.
    pub(super) fn respond(&mut self, client: usize, number: u64, outcome: Outcome) {
        let at = self.now + self.random.between(DELAY_NS.0, DELAY_NS.1);
        self.queue.push(at, Happening::Response { client, number, outcome });
    }

    pub(super) fn response(&mut self, client: usize, number: u64, outcome: Outcome) {
        let Some((record, call)) = self.call_of(client, number) else { return };
        let operation = &mut self.history.operations[record];
        operation.returned_ns = self.now;
        operation.outcome = outcome;
        let state = &mut self.clients[client];
        state.current = None;
        match &operation.outcome {
            Outcome::Answered(answer) => {
                self.stats.answered += 1;
                state.learn(&call, answer);
                state.finished = self.settling && operation.invoked_ns >= self.settled_from;
            }
            Outcome::Refused(_) => {
                self.stats.refused += 1;
                state.forget_lease(&call);
                self.wander(client);
            }
            Outcome::Unknown => {
                self.stats.unknown += 1;
                self.wander(client);
            }
        }
        let think = self.random.between(THINK_NS.0, THINK_NS.1);
        self.queue.push(self.now + think, Happening::Next { client });
    }

    pub(super) fn attach(&mut self, watcher: usize, generation: u64) {
        let running = self.running();
        let state = &mut self.watchers[watcher];
        if state.generation != generation || state.connection.is_some() {
            return;
        }
        match self.random.pick(&running) {
            Some(member) => {
                state.connection = Some(Connection { member, cursor: state.next, last_ns: self.now });
                self.poll_watcher(watcher);
            }
            None => {
                let at = self.now + RECONNECT_NS.1;
                self.queue.push(at, Happening::Attach { watcher, generation });
            }
        }
    }

    /// Ends all watches of a member.
    pub(super) fn detach(&mut self, member: u64) {
        for watcher in 0..self.watchers.len() {
            if self.watchers[watcher].connection.as_ref().is_some_and(|open| open.member == member) {
                self.reconnect(watcher);
            }
        }
    }

    fn reconnect(&mut self, watcher: usize) {
        let state = &mut self.watchers[watcher];
        state.connection = None;
        state.generation += 1;
        let at = self.now + self.random.between(RECONNECT_NS.0, RECONNECT_NS.1);
        self.queue.push(at, Happening::Attach { watcher, generation: state.generation });
    }

    pub(super) fn poll_watchers(&mut self, member: u64) {
        for watcher in 0..self.watchers.len() {
            if self.watchers[watcher].connection.as_ref().is_some_and(|open| open.member == member) {
                // A connection breaks now and then without anybody's fault.
                if self.random.permille(3) {
                    self.reconnect(watcher);
                } else {
                    self.poll_watcher(watcher);
                }
            }
        }
    }

    fn poll_watcher(&mut self, watcher: usize) {
        let skips = self.options.sabotage == Some(Sabotage::SkippedEvents);
        let state = &mut self.watchers[watcher];
        let Some(open) = &mut state.connection else { return };
        let Some(member) = self.machines.get(&open.member).and_then(|machine| machine.member.as_ref()) else {
            return;
        };
        loop {
            let sent = open.next(&member.state(), &state.range, state.prev_kv, &mut self.random, skips);
            match sent {
                Some(Sent::Delivery(delivery)) => {
                    let at = self.now + self.random.between(DELAY_NS.0, DELAY_NS.1);
                    open.last_ns = open.last_ns.max(at);
                    let progress = delivery.events.is_empty();
                    let (at, generation) = (open.last_ns, state.generation);
                    self.queue.push(at, Happening::Delivery { watcher, generation, delivery });
                    if progress {
                        return;
                    }
                }
                Some(Sent::Compacted(revision)) => return self.begin_anew(watcher, revision),
                None => return,
            }
        }
    }

    /// A watch that history has left behind ends for good, and another begins where history does.
    fn begin_anew(&mut self, watcher: usize, revision: i64) {
        let state = &mut self.watchers[watcher];
        let old = &self.history.watches[state.record];
        let watch = Watch { start_revision: revision, deliveries: Vec::new(), ..old.clone() };
        state.record = self.history.watches.len();
        state.next = revision;
        self.history.watches.push(watch);
        self.reconnect(watcher);
    }

    pub(super) fn deliver(&mut self, watcher: usize, generation: u64, delivery: Delivery) {
        let state = &mut self.watchers[watcher];
        if state.generation != generation {
            return;
        }
        self.stats.events += delivery.events.len() as u64;
        state.next = state.next.max(delivery.revision + 1);
        let delivery = Delivery { at_ns: self.now, ..delivery };
        self.history.watches[state.record].deliveries.push(delivery);
    }
}

/// How a result is told to the client.
fn answered(result: Result<Answer, Error>) -> Outcome {
    match result {
        Ok(answer) => Outcome::Answered(answer),
        Err(error) if happened_not(&error) => Outcome::Refused(error.to_string()),
        Err(_) => Outcome::Unknown,
    }
}

/// Whether an error says that the request has had no effect and never will.
fn happened_not(error: &Error) -> bool {
    matches!(
        error,
        Error::LeaseNotFound
            | Error::LeaseExists
            | Error::Compacted
            | Error::FutureRevision
            | Error::NoSpace
            | Error::TooManyRequests
            | Error::KeyNotFound
    )
}

fn answer(reply: Reply) -> Result<Answer, Error> {
    let revision = |header: Option<isopod_kv::ResponseHeader>| header.map_or(0, |header| header.revision);
    Ok(match reply {
        Reply::Put(response) => Answer::Put(response),
        Reply::DeleteRange(response) => Answer::Delete(response),
        Reply::Txn(response) => Answer::Txn(response),
        Reply::LeaseGrant(response) => {
            Answer::Grant { revision: revision(response.header), id: response.id, ttl_s: response.ttl }
        }
        Reply::LeaseRevoke(response) => Answer::Revoke { revision: revision(response.header) },
        other => panic!("no client asks for {other:?}"),
    })
}
