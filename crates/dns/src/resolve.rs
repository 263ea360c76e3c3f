//! From a request message to the answer message.

use crate::forward::{Forwarder, UDP_PAYLOAD_BYTES};
use crate::metrics::METRICS;
use crate::zone::{Lookup, Zone};
use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, Record, RecordType};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Most aliases followed for one answer; a longer chain is a loop.
const ALIASES_MAX: usize = 8;

/// Least UDP payload every client takes.
const PAYLOAD_BYTES_MIN: u16 = 512;

/// Answers requests.
pub(crate) struct Resolver {
    zone: Arc<Zone>,
    forwarder: Forwarder,
    turn: AtomicUsize,
}

/// What became of a request.
pub(crate) enum Step {
    /// The answer.
    Done(Message),
    /// Upstream has to be asked.
    Forward(Pending),
    /// Nothing must be said: it was no request.
    Ignore,
}

/// A request on its way: what is answered so far, and what is still to be asked.
pub(crate) struct Pending {
    answer: Message,
    next: Name,
    wanted: RecordType,
    dnssec: bool,
    aliases: usize,
}

impl Resolver {
    pub(crate) fn new(zone: Arc<Zone>, forwarder: Forwarder) -> Self {
        Self { zone, forwarder, turn: AtomicUsize::new(0) }
    }

    /// Answers from what is known here; takes microseconds and never waits. Also says how many bytes the answer may
    /// have over UDP.
    pub(crate) fn begin(&self, request: &[u8]) -> (Step, usize) {
        let parsed = Message::from_vec(request);
        let edns = parsed.as_ref().ok().and_then(|message| message.edns.as_ref());
        let payload = edns
            .map_or(PAYLOAD_BYTES_MIN, |edns| edns.max_payload().clamp(PAYLOAD_BYTES_MIN, UDP_PAYLOAD_BYTES));
        (self.begin_parsed(parsed, request), usize::from(payload))
    }

    fn begin_parsed(&self, parsed: Result<Message, impl Sized>, request: &[u8]) -> Step {
        let request = match parsed {
            Ok(request) => request,
            // Without a header there is nobody to answer; with one, it is told.
            Err(_) => match request.get(..4) {
                Some([hi, lo, flags, _]) if flags & 0x80 == 0 => {
                    let id = u16::from_be_bytes([*hi, *lo]);
                    return Step::Done(Message::error_msg(id, OpCode::Query, ResponseCode::FormErr));
                }
                _ => return Step::Ignore,
            },
        };
        if request.metadata.message_type != MessageType::Query {
            return Step::Ignore;
        }
        let answer = blank_answer(&request);
        let refuse = |mut answer: Message, code| {
            answer.metadata.response_code = code;
            Step::Done(answer)
        };
        if request.metadata.op_code != OpCode::Query {
            return refuse(answer, ResponseCode::NotImp);
        }
        if request.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
            return refuse(answer, ResponseCode::BADVERS);
        }
        let [query] = &request.queries[..] else {
            return refuse(answer, ResponseCode::FormErr);
        };
        METRICS.requests.inc();
        if query.query_class != DNSClass::IN || is_transfer(query) {
            return refuse(answer, ResponseCode::Refused);
        }
        let pending = Pending {
            answer,
            next: query.name.clone(),
            wanted: query.query_type,
            dnssec: request.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok),
            aliases: 0,
        };
        self.advance(pending)
    }

    /// Goes on until the answer is whole or upstream is needed.
    fn advance(&self, mut pending: Pending) -> Step {
        loop {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed);
            let Pending { answer, next, wanted, .. } = &mut pending;
            match self.zone.lookup(next, *wanted, turn) {
                Lookup::NotOurs => break,
                Lookup::NoName => {
                    answer.metadata.authoritative = true;
                    answer.metadata.response_code = ResponseCode::NXDomain;
                    answer.add_authority(self.zone.soa());
                    return Step::Done(pending.answer);
                }
                Lookup::NoData => {
                    answer.metadata.authoritative = true;
                    answer.add_authority(self.zone.soa());
                    return Step::Done(pending.answer);
                }
                Lookup::Records(answers, additionals) => {
                    answer.metadata.authoritative = true;
                    answer.add_answers(answers);
                    answer.add_additionals(additionals);
                    return Step::Done(pending.answer);
                }
                Lookup::Alias(record, target) => {
                    answer.metadata.authoritative = true;
                    answer.add_answer(record);
                    *next = target;
                    pending.aliases += 1;
                    if pending.wanted == RecordType::CNAME {
                        return Step::Done(pending.answer);
                    }
                    if pending.aliases > ALIASES_MAX {
                        pending.answer.metadata.response_code = ResponseCode::ServFail;
                        return Step::Done(pending.answer);
                    }
                }
            }
        }
        match self.forwarder.cached(&pending.next, pending.wanted, pending.dnssec) {
            Some(cached) => Step::Done(merge(pending.answer, cached)),
            None => Step::Forward(pending),
        }
    }

    /// Finishes a request with the help of upstream. `stream`: the client can take answers of any length.
    pub(crate) async fn finish(&self, pending: Pending, stream: bool) -> Message {
        match self.forwarder.ask(&pending.next, pending.wanted, pending.dnssec, stream).await {
            Ok(upstream) => merge(pending.answer, upstream),
            Err(error) => {
                tracing::debug!(name = %pending.next, error = %error, "forwarding");
                METRICS.forward_failures.inc();
                let mut answer = pending.answer;
                answer.metadata.response_code = ResponseCode::ServFail;
                answer
            }
        }
    }
}

fn is_transfer(query: &Query) -> bool {
    matches!(query.query_type, RecordType::AXFR | RecordType::IXFR)
}

/// An answer without records to `request`.
fn blank_answer(request: &Message) -> Message {
    let mut answer = Message::response(request.metadata.id, request.metadata.op_code);
    answer.metadata = Metadata::response_from_request(&request.metadata);
    answer.metadata.recursion_available = true;
    answer.add_queries(request.queries.iter().cloned());
    if let Some(theirs) = &request.edns {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_PAYLOAD_BYTES).set_version(0).set_dnssec_ok(theirs.flags().dnssec_ok);
        answer.set_edns(edns);
    }
    answer
}

/// Puts what upstream said into our answer.
fn merge(mut answer: Message, upstream: Message) -> Message {
    answer.metadata.response_code = upstream.metadata.response_code;
    answer.metadata.truncation = upstream.metadata.truncation;
    answer.metadata.authentic_data = upstream.metadata.authentic_data;
    // What we added ourselves is an alias of ours; the rest is not.
    answer.metadata.authoritative = false;
    answer.add_answers(upstream.answers);
    answer.add_authorities(upstream.authorities);
    answer.add_additionals(upstream.additionals);
    answer
}

/// Encodes an answer in at most `limit` bytes: additional records go first; if it is still too long, it is cut and
/// says so, and the client comes again by TCP.
pub(crate) fn encode(mut answer: Message, limit: usize) -> Option<Vec<u8>> {
    let bytes = answer.to_vec().ok()?;
    if bytes.len() <= limit {
        return Some(bytes);
    }
    answer.additionals.clear();
    let bytes = answer.to_vec().ok()?;
    if bytes.len() <= limit {
        return Some(bytes);
    }
    answer.metadata.truncation = true;
    answer.authorities.clear();
    // Answers are alike in size, so as many as fit by proportion, and then one less at a time.
    let keep = answer.answers.len() * limit / bytes.len().max(1);
    answer.answers.truncate(keep);
    loop {
        let bytes = answer.to_vec().ok()?;
        if bytes.len() <= limit || answer.answers.is_empty() {
            return Some(bytes);
        }
        let _: Option<Record> = answer.answers.pop();
    }
}
