//! Records Events as upstream's components do: fire and forget.
//!
//! Recording never blocks and never fails: events go through a bounded queue to a task that correlates and writes
//! them; when the queue is full they are dropped and counted.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Resource};
use prometheus::{IntCounter, register_int_counter};
use tokio::sync::mpsc;
use tracing::debug;

use crate::clock::{Clock, SystemClock};
use crate::event_correlator::{Correlator, Verdict};

/// Upstream's queue length; a burst that is longer says nothing new.
const QUEUE_MAX: usize = 1000;
/// Upstream's number of tries when the API server cannot be reached.
const TRIES_MAX: u32 = 12;
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(10);
/// The API server's limit on an event's message.
const MESSAGE_BYTES_MAX: usize = 1024;

static DROPPED: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!("isopod_events_dropped_total", "Events dropped since the recorder's queue was full")
        .expect("registered once, by this static")
});

/// The two types of event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventType {
    /// Nothing to worry about.
    Normal,
    /// Something may need attention.
    Warning,
}

impl EventType {
    fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// Names an object in an event.
pub fn object_reference<K: Resource<DynamicType = ()>>(object: &K) -> ObjectReference {
    let meta = object.meta();
    ObjectReference {
        api_version: Some(K::api_version(&()).into_owned()),
        kind: Some(K::kind(&()).into_owned()),
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: None,
    }
}

/// Where a component reports what it did; clones share the queue.
#[derive(Clone)]
pub struct EventRecorder {
    component: String,
    host: String,
    queue: mpsc::Sender<Event>,
}

impl EventRecorder {
    /// A recorder for `component` (for instance `kubelet`) on `host` (empty where upstream leaves it so). Must be
    /// called within a tokio runtime; its task ends with the last clone.
    pub fn new(client: kube::Client, component: &str, host: &str) -> Self {
        let (queue, events) = mpsc::channel(QUEUE_MAX);
        tokio::spawn(write_events(client, events));
        Self { component: component.to_owned(), host: host.to_owned(), queue }
    }

    /// Records that something happened to `object`.
    pub fn event(&self, object: ObjectReference, type_: EventType, reason: &str, message: impl Into<String>) {
        self.annotated(object, None, type_, reason, message, None);
    }

    /// As [`Self::event`], naming the action as the newer events API asks.
    pub fn action(
        &self,
        object: ObjectReference,
        type_: EventType,
        reason: &str,
        action: &str,
        message: impl Into<String>,
    ) {
        self.annotated(object, None, type_, reason, message, Some(action));
    }

    /// As [`Self::event`], with annotations and an action.
    pub fn annotated(
        &self,
        object: ObjectReference,
        annotations: Option<BTreeMap<String, String>>,
        type_: EventType,
        reason: &str,
        message: impl Into<String>,
        action: Option<&str>,
    ) {
        let event = self.make(object, annotations, type_, reason, message.into(), action, SystemClock.now());
        if self.queue.try_send(event).is_err() {
            DROPPED.inc();
        }
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of an event, from one caller")]
    fn make(
        &self,
        object: ObjectReference,
        annotations: Option<BTreeMap<String, String>>,
        type_: EventType,
        reason: &str,
        message: String,
        action: Option<&str>,
        now: Timestamp,
    ) -> Event {
        let namespace =
            object.namespace.clone().filter(|ns| !ns.is_empty()).unwrap_or_else(|| "default".into());
        let name = format!("{}.{:x}", object.name.as_deref().unwrap_or(""), now.as_nanosecond());
        Event {
            metadata: ObjectMeta {
                name: Some(name),
                namespace: Some(namespace),
                annotations,
                ..ObjectMeta::default()
            },
            action: action.map(str::to_owned),
            count: Some(1),
            event_time: action.map(|_| MicroTime(now)),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            involved_object: object,
            message: Some(truncated(message)),
            reason: Some(reason.to_owned()),
            reporting_component: Some(self.component.clone()),
            reporting_instance: Some(self.instance(action.is_some())),
            source: Some(EventSource {
                component: Some(self.component.clone()),
                host: Some(self.host.clone()).filter(|host| !host.is_empty()),
            }),
            type_: Some(type_.as_str().to_owned()),
            ..Event::default()
        }
    }

    /// The newer API requires an instance, the older one allows none.
    fn instance(&self, required: bool) -> String {
        if self.host.is_empty() && required { self.component.clone() } else { self.host.clone() }
    }
}

/// Cuts at a character boundary.
fn truncated(mut message: String) -> String {
    if message.len() > MESSAGE_BYTES_MAX {
        let end = (0..=MESSAGE_BYTES_MAX - 3).rev().find(|end| message.is_char_boundary(*end)).unwrap_or(0);
        message.truncate(end);
        message.push_str("...");
    }
    message
}

async fn write_events(client: kube::Client, mut events: mpsc::Receiver<Event>) {
    let mut correlator = Correlator::default();
    while let Some(event) = events.recv().await {
        match correlator.correlate(event, SystemClock.now()) {
            Verdict::Drop => {}
            Verdict::Create(event) => create(&client, &event).await,
            Verdict::Update(event) => update(&client, *event, &mut correlator).await,
        }
    }
}

fn api(client: &kube::Client, event: &Event) -> Api<Event> {
    Api::namespaced(client.clone(), event.metadata.namespace.as_deref().unwrap_or("default"))
}

async fn create(client: &kube::Client, event: &Event) {
    let api = api(client, event);
    let params = PostParams::default();
    if let Err(error) = persistently(|| api.create(&params, event)).await {
        debug!(reason = event.reason, error = &error as &dyn std::error::Error, "event not recorded");
    }
}

async fn update(client: &kube::Client, mut event: Event, correlator: &mut Correlator) {
    let api = api(client, &event);
    let name = event.metadata.name.clone().unwrap_or_default();
    let patch = Patch::Merge(serde_json::json!({
        "count": event.count,
        "lastTimestamp": event.last_timestamp,
        "message": event.message,
    }));
    let params = PatchParams::default();
    match persistently(|| api.patch(&name, &params, &patch)).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 404 => {
            // The event there before has expired. Its successor cannot have its name's time, so make a new one.
            let now = SystemClock.now();
            let object = event.involved_object.name.as_deref().unwrap_or("");
            event.metadata.name = Some(format!("{object}.{:x}", now.as_nanosecond()));
            create(client, &event).await;
            correlator.recreated(&event, now);
        }
        Err(error) => {
            debug!(reason = event.reason, error = &error as &dyn std::error::Error, "event not updated")
        }
    }
}

/// Tries again while the API server cannot be reached or is overloaded; an answer that refuses is final.
async fn persistently<T, F>(mut call: impl FnMut() -> F) -> Result<T, kube::Error>
where
    F: Future<Output = Result<T, kube::Error>>,
{
    let mut pause = RETRY_MIN;
    let mut tries = 0;
    loop {
        tries += 1;
        match call().await {
            Err(kube::Error::Api(status)) if status.code < 500 && status.code != 429 => {
                return Err(kube::Error::Api(status));
            }
            Err(_) if tries < TRIES_MAX => tokio::time::sleep(pause).await,
            result => return result,
        }
        pause = (pause * 2).min(RETRY_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_messages_are_cut_between_characters() {
        let message = truncated("é".repeat(600));
        assert!(message.len() <= MESSAGE_BYTES_MAX && message.ends_with("é..."));
        assert_eq!(truncated("short".into()), "short");
    }
}
