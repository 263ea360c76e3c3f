//! A small cache of forwarded answers.

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{RData, Record, RecordType};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

/// Most answers kept. At a few hundred bytes each this is a megabyte or two.
const ENTRIES_MAX: usize = 4096;

/// Longest an answer is kept, whatever its records allow: what pods look up must not lag behind for long.
const KEEP_MAX: Duration = Duration::from_secs(30);

/// What an answer is an answer to: lower-case name, type, and whether signatures were asked for.
pub(crate) type Question = (String, RecordType, bool);

struct Entry {
    message: Message,
    stored: Instant,
    until: Instant,
}

/// The cache.
#[derive(Default)]
pub(crate) struct Cache(Mutex<HashMap<Question, Entry>>);

impl Cache {
    /// An answer that may still be given, with the time it has been kept taken off its records.
    pub(crate) fn get(&self, question: &Question) -> Option<Message> {
        let now = Instant::now();
        let (mut message, age) = {
            let entries = self.0.lock();
            let entry = entries.get(question).filter(|entry| entry.until > now)?;
            (entry.message.clone(), now - entry.stored)
        };
        let seconds = u32::try_from(age.as_secs()).unwrap_or(u32::MAX);
        for record in records_mut(&mut message) {
            record.decrement_ttl(seconds);
        }
        Some(message)
    }

    /// Keeps an answer as long as it allows.
    pub(crate) fn put(&self, question: Question, message: &Message) {
        let Some(keep) = lifetime(message) else { return };
        let now = Instant::now();
        let mut entries = self.0.lock();
        if entries.len() >= ENTRIES_MAX {
            entries.retain(|_, entry| entry.until > now);
        }
        if entries.len() >= ENTRIES_MAX {
            // All are fresh: somebody asks for ever new names. Starting over costs a question each.
            entries.clear();
        }
        entries.insert(question, Entry { message: message.clone(), stored: now, until: now + keep });
    }
}

fn records_mut(message: &mut Message) -> impl Iterator<Item = &mut Record> {
    message.answers.iter_mut().chain(&mut message.authorities).chain(&mut message.additionals)
}

/// How long an answer may be kept: the least of its records' times; for the absence of a name what the SOA record
/// says (RFC 2308). `None`: not at all.
fn lifetime(message: &Message) -> Option<Duration> {
    let seconds = match message.metadata.response_code {
        ResponseCode::NoError | ResponseCode::NXDomain if !message.metadata.truncation => {
            if message.answers.is_empty() {
                message.authorities.iter().find_map(|record| match &record.data {
                    RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
                    _ => None,
                })?
            } else {
                message.answers.iter().map(|record| record.ttl).min()?
            }
        }
        _ => return None,
    };
    (seconds > 0).then(|| Duration::from_secs(seconds.into()).min(KEEP_MAX))
}
