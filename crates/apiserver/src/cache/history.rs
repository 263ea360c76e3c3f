//! Events from before the cache was filled, out of the store's own history.
//!
//! After a restart the cache knows the objects but not how they came to be so, and a client that resumes its watch
//! would be told to list everything again, all clients at the same moment. The store still has what it has not
//! compacted: the first client that asks for it has it read, the others find it in the ring.

use std::collections::HashMap;
use std::sync::Arc;

use futures::StreamExt as _;
use isopod_kv::{Error, KeyValue, Store, WatchCreateRequest, event};

use super::entry::{Entry, Event};
use super::ordered::Keyed as _;
use super::resource::Cache;
use crate::limits;

/// Events of one resource that are to go before those of the ring.
#[derive(Default)]
struct Past {
    events: Vec<Arc<Event>>,
    bytes: usize,
    /// The newest state seen of each object: mostly the next event's "before".
    newest: HashMap<String, Arc<Entry>>,
}

impl Cache {
    /// Brings the events after `after` back into the ring. False if the store has compacted them, if they are more
    /// than the ring may hold, or if reading them takes too long: the client has to list again then.
    pub async fn recall(&self, store: &dyn Store, after: i64) -> bool {
        if self.is_forgotten(after) {
            return false;
        }
        let _turn = self.filling().await;
        let Some(until) = self.ring_start() else { return false };
        if after >= until {
            return true;
        }
        if self.is_forgotten(after) {
            return false;
        }
        let read = tokio::time::timeout(limits::CACHE_WAIT_MAX, self.read_past(store, after, until)).await;
        match read {
            Ok(Ok(Some(past))) => self.prepend(after, until, past.events),
            Ok(Ok(None) | Err(Error::Compacted)) => {
                self.note_forgotten(after);
                false
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, resource = self.spec.resource, "the store's history cannot be read");
                false
            }
            Err(_) => false,
        }
    }

    /// All events in `(after, until]`; `None` if they are too many.
    async fn read_past(&self, store: &dyn Store, after: i64, until: i64) -> Result<Option<Past>, Error> {
        let mut request = WatchCreateRequest::prefix(self.spec.prefix.clone(), after + 1);
        request.prev_kv = true;
        let mut responses = store.watch(request).await?;
        // Answered when everything before it has been sent, which is how the end is known.
        responses.request_progress();
        let mut past = Past::default();
        while let Some(response) = responses.next().await {
            let response = response?;
            let reached = response.events.is_empty() && response.header.is_some_and(|h| h.revision >= until);
            for event in response.events {
                let Some(kv) = event.kv else { continue };
                if kv.mod_revision > until {
                    return Ok(Some(past));
                }
                let deleted = event.r#type == event::EventType::Delete as i32;
                self.take_past(&mut past, &kv, event.prev_kv.as_ref(), deleted);
            }
            if past.events.len() > limits::EVENT_RING_MAX || past.bytes > limits::EVENT_RING_BYTES_MAX {
                return Ok(None);
            }
            if reached {
                return Ok(Some(past));
            }
        }
        Err(Error::WatchCanceled)
    }

    fn take_past(&self, past: &mut Past, kv: &KeyValue, before: Option<&KeyValue>, deleted: bool) {
        let Some(key) = self.suffix(&kv.key) else { return };
        let before = match (before, past.newest.remove(key)) {
            (Some(kv), Some(entry)) if entry.revision == kv.mod_revision => Some(entry),
            (Some(kv), _) => self.decode_past(kv).map(Arc::new),
            (None, _) => None,
        };
        let now = if deleted { None } else { self.decode_past(kv).map(Arc::new) };
        if now.is_none() && before.is_none() {
            return;
        }
        if let Some(entry) = &now {
            past.newest.insert(entry.key().to_owned(), Arc::clone(entry));
        }
        let event = Event::new(kv.mod_revision, now, before);
        past.bytes += event.weight();
        past.events.push(Arc::new(event));
    }
}
