//! The queues of a priority level: who runs, who waits, who is next.
//!
//! A flow waits in the least filled of a hand of queues that its hash deals (shuffle sharding), so that a flow with
//! many requests fills its own hand and another flow, whose hand differs, finds room. Among the queues the one that
//! had least is served: each has the virtual time at which its next request would start if all queues shared the
//! seats equally, and the earliest is taken (start-time fair queuing). What a request costs is guessed when it
//! starts and set right when it ends. A queue that was empty starts at the present, so nothing is saved up.

use std::collections::VecDeque;

use super::level::Queuing;

/// What a request is taken to cost until it has ended, in seconds: as upstream.
const GUESS_SECONDS: f64 = 0.003;

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The level has no queues and no free seat.
    Concurrency,
    /// The queue is full.
    QueueFull,
}

/// A place of a request: its queue, and its seats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    id: u64,
    queue: usize,
    width: u32,
}

/// What becomes of a request that arrives.
#[derive(Debug, PartialEq, Eq)]
pub enum Arrival {
    /// It runs.
    Run(Ticket),
    /// It waits; [`Queues::next`] will name it.
    Wait(Ticket),
    /// It is refused.
    Refused(Refusal),
}

#[derive(Debug)]
struct Waiter<T> {
    ticket: Ticket,
    payload: T,
}

#[derive(Debug)]
struct Queue<T> {
    waiting: VecDeque<Waiter<T>>,
    /// Seats of those that wait, and of those that run.
    seats: u64,
    /// Virtual time at which the next request starts.
    next_start: f64,
}

/// The queues of a level. `T` is what the caller keeps with a waiting request.
#[derive(Debug)]
pub struct Queues<T> {
    queues: Vec<Queue<T>>,
    queuing: Option<Queuing>,
    /// Virtual start of the request that was last started.
    virtual_time: f64,
    seats_in_use: u32,
    running: usize,
    waiting: usize,
    last_id: u64,
}

impl<T> Queues<T> {
    /// Queues of a level; `None`: nothing waits.
    pub fn new(queuing: Option<Queuing>) -> Queues<T> {
        let mut queues = Queues {
            queues: Vec::new(),
            queuing: None,
            virtual_time: 0.0,
            seats_in_use: 0,
            running: 0,
            waiting: 0,
            last_id: 0,
        };
        queues.set_queuing(queuing);
        queues
    }

    /// Changes how requests wait. Those that wait go on where they are; queues beyond the new number run empty.
    pub fn set_queuing(&mut self, queuing: Option<Queuing>) {
        self.queuing = queuing;
        let wanted = queuing.map_or(1, |q| q.queues.max(1));
        let start = self.virtual_time;
        while self.queues.len() < wanted {
            self.queues.push(Queue { waiting: VecDeque::new(), seats: 0, next_start: start });
        }
    }

    /// Seats taken by requests that run.
    pub fn seats_in_use(&self) -> u32 {
        self.seats_in_use
    }

    /// Requests that run.
    pub fn running(&self) -> usize {
        self.running
    }

    /// Requests that wait.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// A request of a flow arrives, wanting `width` seats where `limit` may be taken. `payload` is made for one that
    /// waits.
    pub fn arrive(
        &mut self,
        flow: u64,
        width: u32,
        limit: u32,
        payload: impl FnOnce(Ticket) -> T,
    ) -> Arrival {
        self.last_id += 1;
        let queue = self.choose(flow);
        let ticket = Ticket { id: self.last_id, queue, width: width.max(1) };
        if self.waiting == 0 && self.fits(ticket.width, limit) {
            self.start(ticket);
            self.queues[queue].seats += u64::from(ticket.width);
            return Arrival::Run(ticket);
        }
        let Some(queuing) = self.queuing else { return Arrival::Refused(Refusal::Concurrency) };
        let virtual_time = self.virtual_time;
        let found = &mut self.queues[queue];
        if found.waiting.len() >= queuing.queue_length_limit {
            return Arrival::Refused(Refusal::QueueFull);
        }
        if found.waiting.is_empty() {
            found.next_start = found.next_start.max(virtual_time);
        }
        found.seats += u64::from(ticket.width);
        found.waiting.push_back(Waiter { ticket, payload: payload(ticket) });
        self.waiting += 1;
        Arrival::Wait(ticket)
    }

    /// The next request to run, which has its seats now; `None` if nothing waits or it does not fit.
    pub fn next(&mut self, limit: u32) -> Option<(Ticket, T)> {
        if self.waiting == 0 {
            return None;
        }
        let filled = self.queues.iter().enumerate().filter(|(_, queue)| !queue.waiting.is_empty());
        let (at, queue) = filled.min_by(|(_, a), (_, b)| a.next_start.total_cmp(&b.next_start))?;
        // It is this one's turn: a smaller one behind it must not keep it waiting for ever.
        let width = queue.waiting.front()?.ticket.width;
        if !self.fits(width, limit) {
            return None;
        }
        let Waiter { ticket, payload } = self.queues[at].waiting.pop_front()?;
        self.waiting -= 1;
        self.start(ticket);
        Some((ticket, payload))
    }

    /// A request has ended after `seconds`.
    pub fn finish(&mut self, ticket: Ticket, seconds: f64) {
        self.seats_in_use = self.seats_in_use.saturating_sub(ticket.width);
        self.running = self.running.saturating_sub(1);
        let queue = &mut self.queues[ticket.queue];
        queue.seats = queue.seats.saturating_sub(u64::from(ticket.width));
        queue.next_start += f64::from(ticket.width) * (seconds - GUESS_SECONDS);
    }

    /// A request that waits goes away; `None` if it does not wait any more.
    pub fn cancel(&mut self, ticket: Ticket) -> Option<T> {
        let queue = &mut self.queues[ticket.queue];
        let at = queue.waiting.iter().position(|waiter| waiter.ticket.id == ticket.id)?;
        let gone = queue.waiting.remove(at)?;
        queue.seats = queue.seats.saturating_sub(u64::from(ticket.width));
        self.waiting -= 1;
        Some(gone.payload)
    }

    /// Whether `width` seats are free. What is wider than everything runs alone.
    fn fits(&self, width: u32, limit: u32) -> bool {
        self.seats_in_use.saturating_add(width) <= limit || self.seats_in_use == 0
    }

    fn start(&mut self, ticket: Ticket) {
        self.seats_in_use = self.seats_in_use.saturating_add(ticket.width);
        self.running += 1;
        let queue = &mut self.queues[ticket.queue];
        let start = queue.next_start.max(self.virtual_time);
        queue.next_start = start + f64::from(ticket.width) * GUESS_SECONDS;
        self.virtual_time = start;
    }

    /// The least filled queue of a flow's hand, one with room if there is one.
    fn choose(&self, flow: u64) -> usize {
        let Some(queuing) = self.queuing else { return 0 };
        let hand = deal(flow, queuing.queues, queuing.hand_size);
        let limit = queuing.queue_length_limit;
        let filled = |at: &usize| {
            let queue = &self.queues[*at];
            (queue.waiting.len() >= limit, queue.seats)
        };
        hand.min_by_key(filled).unwrap_or(0)
    }
}

/// Deals a hand of different queues out of a deck, by a hash.
fn deal(mut hash: u64, deck: usize, hand: usize) -> impl Iterator<Item = usize> {
    let mut dealt: Vec<usize> = Vec::with_capacity(hand);
    (0..hand.min(deck)).map(move |at| {
        let left = (deck - at) as u64;
        let mut card = usize::try_from(hash % left).unwrap_or(0);
        hash /= left;
        // The card is counted among those left: step over the dealt ones, which are in order.
        let mut place = 0;
        for taken in &dealt {
            if *taken > card {
                break;
            }
            card += 1;
            place += 1;
        }
        dealt.insert(place, card);
        card
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const QUEUING: Queuing = Queuing { queues: 64, hand_size: 6, queue_length_limit: 50 };

    fn hash(flow: u64) -> u64 {
        // Any good mixing will do (splitmix64).
        let mut z = flow.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    #[test]
    fn hands_have_different_cards_and_differ() {
        let mut hands = BTreeSet::new();
        for flow in 0..1000 {
            let hand: BTreeSet<usize> = deal(hash(flow), 64, 6).collect();
            assert_eq!(hand.len(), 6);
            assert!(hand.iter().all(|card| *card < 64));
            hands.insert(hand);
        }
        assert!(hands.len() > 990, "{}", hands.len());
        assert_eq!(deal(5, 3, 8).collect::<BTreeSet<_>>().len(), 3);
    }

    /// One flow has filled all that it may; another one's request is served next, not last.
    #[test]
    fn a_flood_does_not_starve_others() {
        let mut queues: Queues<u64> = Queues::new(Some(QUEUING));
        let (flood, other) = (hash(1), hash(2));
        let mut running = Vec::new();
        let mut refused = 0;
        for _ in 0..1000 {
            match queues.arrive(flood, 1, 10, |_| 1) {
                Arrival::Run(ticket) => running.push(ticket),
                Arrival::Wait(_) => {}
                Arrival::Refused(why) => {
                    assert_eq!(why, Refusal::QueueFull);
                    refused += 1;
                }
            }
        }
        assert_eq!((running.len(), queues.waiting(), refused), (10, 300, 690));
        for _ in 0..20 {
            let ticket = running.pop().expect("ten run");
            queues.finish(ticket, 0.1);
            assert!(matches!(queues.arrive(other, 1, 10, |_| 2), Arrival::Wait(_)));
            let mut before = 0;
            loop {
                let Some((ticket, of)) = queues.next(10) else { panic!("a seat is free") };
                if of == 2 {
                    running.push(ticket);
                    break;
                }
                before += 1;
                assert!(before <= QUEUING.hand_size, "each queue of the flood goes first at most once");
                queues.finish(ticket, 0.1);
            }
        }
    }

    #[test]
    fn wide_ones_wait_for_their_seats_and_the_widest_run_alone() {
        let mut queues: Queues<&str> = Queues::new(Some(QUEUING));
        let Arrival::Run(first) = queues.arrive(hash(1), 3, 4, |_| "") else { panic!("free") };
        let Arrival::Wait(_) = queues.arrive(hash(2), 2, 4, |_| "two") else { panic!("two do not fit") };
        // One would fit, but it is not its turn.
        let Arrival::Wait(small) = queues.arrive(hash(3), 1, 4, |_| "one") else { panic!("order") };
        assert_eq!(queues.next(4), None);
        assert_eq!(queues.cancel(small), Some("one"));
        assert_eq!(queues.cancel(small), None);
        queues.finish(first, 0.0);
        let (second, name) = queues.next(4).expect("seats");
        assert_eq!((name, queues.seats_in_use(), queues.waiting()), ("two", 2, 0));
        queues.finish(second, 0.0);
        let Arrival::Run(_) = queues.arrive(hash(1), 9, 4, |_| "") else { panic!("alone") };
        assert!(matches!(queues.arrive(hash(2), 1, 4, |_| ""), Arrival::Wait(_)));
    }

    #[test]
    fn without_queues_what_does_not_fit_is_refused() {
        let mut queues: Queues<()> = Queues::new(None);
        let Arrival::Run(ticket) = queues.arrive(1, 1, 1, |_| ()) else { panic!("free") };
        assert_eq!(queues.arrive(2, 1, 1, |_| ()), Arrival::Refused(Refusal::Concurrency));
        // Queues may come and go with requests under way.
        queues.set_queuing(Some(QUEUING));
        assert!(matches!(queues.arrive(2, 1, 1, |_| ()), Arrival::Wait(_)));
        queues.set_queuing(Some(Queuing { queues: 1, ..QUEUING }));
        queues.finish(ticket, 1.0);
        assert!(queues.next(1).is_some());
        assert_eq!((queues.running(), queues.waiting(), queues.seats_in_use()), (1, 0, 1));
    }
}
