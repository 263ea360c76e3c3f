//! A priority level at work: its queues under a lock, and those who wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicUsize, Ordering};
use std::time::Instant;

use isopod_rules::flowcontrol::level::{Queuing, Seats};
use isopod_rules::flowcontrol::queues::{Arrival, Queues, Ticket};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::metrics::LevelMetrics;
use super::{Refused, Schema};
use crate::limits;

/// How a request is counted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kind {
    /// Whether it changes nothing.
    pub(crate) read_only: bool,
    /// Whether it is a watch.
    pub(crate) watch: bool,
}

/// The seats of the server, over all levels.
pub(super) struct Pool {
    total: u32,
    /// Seats in use, or kept from others: of each level the larger number.
    committed: AtomicI64,
    reading: AtomicUsize,
    writing: AtomicUsize,
}

impl Pool {
    pub(super) fn new(total: u32) -> Pool {
        Pool {
            total,
            committed: AtomicI64::new(0),
            reading: AtomicUsize::new(0),
            writing: AtomicUsize::new(0),
        }
    }

    pub(super) fn total(&self) -> u32 {
        self.total
    }

    /// Seats that nobody uses and nobody keeps.
    fn spare(&self) -> u32 {
        u32::try_from(i64::from(self.total) - self.committed.load(Ordering::Relaxed)).unwrap_or(0)
    }

    pub(super) fn in_flight(&self) -> (usize, usize) {
        (self.reading.load(Ordering::Relaxed), self.writing.load(Ordering::Relaxed))
    }

    fn counter(&self, read_only: bool) -> &AtomicUsize {
        if read_only { &self.reading } else { &self.writing }
    }
}

/// A priority level.
pub(super) struct Level {
    exempt: bool,
    pool: Arc<Pool>,
    metrics: LevelMetrics,
    nominal: AtomicU32,
    state: Mutex<State>,
}

struct State {
    seats: Seats,
    /// What the pool has of this level.
    committed: i64,
    queues: Queues<Waiting>,
}

/// One that waits.
struct Waiting {
    schema: Arc<Schema>,
    kind: Kind,
    sender: oneshot::Sender<Seat>,
}

impl State {
    /// Seats that may be in use now: its own, and those that others lend.
    fn limit(&self, pool: &Pool) -> u32 {
        let borrowed = self.queues.seats_in_use().saturating_add(pool.spare());
        self.seats.upper.min(borrowed).max(self.seats.nominal)
    }

    /// Tells the pool what has changed.
    fn settle(&mut self, pool: &Pool) {
        let now = i64::from(self.queues.seats_in_use().max(self.seats.reserved));
        pool.committed.fetch_add(now - self.committed, Ordering::Relaxed);
        self.committed = now;
    }
}

impl Level {
    pub(super) fn new(name: &str, exempt: bool, pool: Arc<Pool>) -> Level {
        let state = State { seats: Seats::default(), committed: 0, queues: Queues::new(None) };
        let metrics = LevelMetrics::of(name);
        Level { exempt, pool, metrics, nominal: AtomicU32::new(0), state: Mutex::new(state) }
    }

    pub(super) fn is_exempt(&self) -> bool {
        self.exempt
    }

    /// Its own seats.
    pub(super) fn nominal(&self) -> u32 {
        self.nominal.load(Ordering::Relaxed)
    }

    /// Gives the level other seats or queues. Whoever waits and may run now does.
    pub(super) fn set(self: &Arc<Self>, seats: Seats, queuing: Option<Queuing>) {
        self.nominal.store(seats.nominal, Ordering::Relaxed);
        self.metrics.seats(seats);
        let granted = {
            let mut state = self.state.lock();
            state.seats = seats;
            state.queues.set_queuing(queuing);
            self.dispatch(&mut state)
        };
        send(granted);
    }

    /// Starts those that wait and fit, with the lock held; they are told when it is not.
    fn dispatch(self: &Arc<Self>, state: &mut State) -> Vec<(oneshot::Sender<Seat>, Seat)> {
        state.settle(&self.pool);
        let mut granted = Vec::new();
        while let Some((ticket, waiting)) = state.queues.next(state.limit(&self.pool)) {
            state.settle(&self.pool);
            granted.push((waiting.sender, Seat::new(&waiting.schema, Some(ticket), waiting.kind)));
        }
        granted
    }

    /// Seats for a request of a flow.
    pub(super) async fn enter(
        schema: &Arc<Schema>,
        flow: u64,
        width: u32,
        kind: Kind,
    ) -> Result<Seat, Refused> {
        let level = &schema.level;
        if level.exempt {
            return Ok(Seat::new(schema, None, kind));
        }
        let mut receiver = None;
        let (arrival, granted) = {
            let mut state = level.state.lock();
            let limit = state.limit(&level.pool);
            let arrival = state.queues.arrive(flow, width, limit, |_| {
                let (sender, receives) = oneshot::channel();
                receiver = Some(receives);
                Waiting { schema: Arc::clone(schema), kind, sender }
            });
            // With what others lend there may be more room than when the last one ended.
            let granted = match arrival {
                Arrival::Wait(_) => level.dispatch(&mut state),
                _ => {
                    state.settle(&level.pool);
                    Vec::new()
                }
            };
            (arrival, granted)
        };
        send(granted);
        let ticket = match arrival {
            Arrival::Run(ticket) => return Ok(Seat::new(schema, Some(ticket), kind)),
            Arrival::Refused(why) => return Err(Refused::At(why)),
            Arrival::Wait(ticket) => ticket,
        };
        let receiver = receiver.expect("whoever waits has a receiver");
        wait(schema, ticket, receiver).await
    }

    /// Gives seats back.
    fn leave(self: &Arc<Self>, ticket: Ticket, seconds: f64) {
        let granted = {
            let mut state = self.state.lock();
            state.queues.finish(ticket, seconds);
            self.dispatch(&mut state)
        };
        send(granted);
    }
}

impl Drop for Level {
    fn drop(&mut self) {
        // A level that is gone keeps no seats from others.
        self.pool.committed.fetch_sub(self.state.get_mut().committed, Ordering::Relaxed);
    }
}

/// Hands seats to those who wait for them; a seat whose taker has gone is given back by its own end.
fn send(granted: Vec<(oneshot::Sender<Seat>, Seat)>) {
    for (sender, seat) in granted {
        let _ = sender.send(seat);
    }
}

/// Leaves the queue when the one that waits is dropped.
struct Place<'a> {
    schema: &'a Arc<Schema>,
    ticket: Ticket,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let level = &self.schema.level;
        let mut state = level.state.lock();
        let gone = state.queues.cancel(self.ticket);
        // It may have been the wide one that all others waited behind.
        let granted = if gone.is_some() { level.dispatch(&mut state) } else { Vec::new() };
        drop(state);
        self.schema.metrics.left_queue();
        send(granted);
    }
}

async fn wait(
    schema: &Arc<Schema>,
    ticket: Ticket,
    mut receiver: oneshot::Receiver<Seat>,
) -> Result<Seat, Refused> {
    let started = Instant::now();
    schema.metrics.entered_queue();
    let place = Place { schema, ticket };
    let outcome = tokio::time::timeout(limits::SEAT_WAIT_MAX, &mut receiver).await;
    drop(place);
    let seat = match outcome {
        Ok(seat) => seat.ok(),
        // It may have come between the end of the time and that of the place.
        Err(_) => receiver.try_recv().ok(),
    };
    schema.metrics.waited(started.elapsed(), seat.is_some());
    seat.ok_or(Refused::TimeOut)
}

/// Seats that a request has until this is dropped.
pub(crate) struct Seat {
    schema: Arc<Schema>,
    /// `None` at a level that counts none.
    ticket: Option<Ticket>,
    kind: Kind,
    started: Instant,
}

impl Seat {
    fn new(schema: &Arc<Schema>, ticket: Option<Ticket>, kind: Kind) -> Seat {
        schema.level.pool.counter(kind.read_only).fetch_add(1, Ordering::Relaxed);
        schema.metrics.started();
        Seat { schema: Arc::clone(schema), ticket, kind, started: Instant::now() }
    }
}

impl std::fmt::Debug for Seat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Seat({:?})", self.schema)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let level = &self.schema.level;
        level.pool.counter(self.kind.read_only).fetch_sub(1, Ordering::Relaxed);
        let took = self.started.elapsed();
        self.schema.metrics.ended(took, self.kind.watch);
        if let Some(ticket) = self.ticket {
            level.leave(ticket, took.as_secs_f64());
        }
    }
}
