//! What is noted about one request, and the events made of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use isopod_api::Value;
use isopod_api::identity::UserInfo;
use isopod_api::status::Status;
use isopod_client::Clock;
use isopod_rules::audit::{Judgement, Level, Stage, carries_credentials};
use parking_lot::Mutex;
use serde_json::json;

use super::event::{Event, ObjectReference, User, micro_time};
use super::log::{Format, Writer};
use crate::request_info::RequestInfo;

/// Status code in the event of a request whose client did not wait for the answer (as nginx has it).
const CLIENT_GONE: u16 = 499;

/// The record of one request.
pub(crate) struct Record {
    judgement: Judgement,
    /// Whether bodies must not be recorded, whatever the policy says.
    confidential: bool,
    /// Whether messages of faults may quote what was sent, and that is a secret.
    mute: bool,
    id: String,
    uri: String,
    verb: String,
    user: User,
    source_ips: Vec<String>,
    user_agent: String,
    received: jiff::Timestamp,
    writer: Arc<Writer>,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    impersonated: Option<User>,
    object: Option<ObjectReference>,
    request: Option<Value>,
    response: Option<Value>,
    status: Option<Value>,
    annotations: BTreeMap<&'static str, String>,
    /// Nothing more is to be recorded.
    finished: bool,
}

impl std::fmt::Debug for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Record({})", self.id)
    }
}

impl Record {
    pub(super) fn new(
        judgement: Judgement,
        id: &str,
        parts: &http::request::Parts,
        info: &RequestInfo,
        user: Option<&UserInfo>,
        writer: &Arc<Writer>,
        clock: &Arc<dyn Clock>,
    ) -> Arc<Record> {
        let object = info.is_resource.then(|| ObjectReference {
            resource: info.resource.clone(),
            namespace: info.namespace.clone(),
            name: info.name.clone(),
            api_group: info.group.clone(),
            api_version: info.version.clone(),
            subresource: info.subresource.clone(),
            ..ObjectReference::default()
        });
        let confidential = carries_credentials(&info.group, &info.resource, &info.subresource);
        Arc::new(Record {
            judgement,
            confidential,
            mute: confidential || info.group.is_empty() && info.resource == "secrets",
            id: id.to_owned(),
            uri: parts.uri.to_string(),
            verb: info.verb.clone(),
            user: user.map(User::from).unwrap_or_default(),
            source_ips: super::source_addresses(parts),
            user_agent: super::user_agent(&parts.headers),
            received: clock.now(),
            writer: Arc::clone(writer),
            clock: Arc::clone(clock),
            state: Mutex::new(State { object, ..State::default() }),
        })
    }

    fn records(&self, level: Level) -> bool {
        self.judgement.level >= level && !self.confidential
    }

    /// The request is acted upon in another's name.
    pub(crate) fn impersonated(&self, user: &UserInfo) {
        self.state.lock().impersonated = Some(User::from(user));
    }

    /// Adds an annotation; the first of a name stays.
    pub(crate) fn annotate(&self, name: &'static str, value: impl Into<String>) {
        self.state.lock().annotations.entry(name).or_insert_with(|| value.into());
    }

    /// The object that was sent, in the version it was sent in.
    pub(crate) fn request_object(&self, object: &Value) {
        let body = self.records(Level::Request).then(|| self.shown(object));
        let mut state = self.state.lock();
        if let Some(reference) = &mut state.object {
            complete(reference, object);
            let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default().to_owned();
            (reference.uid, reference.resource_version) = (text("uid"), text("resourceVersion"));
        }
        state.request = body;
    }

    /// The patch that was sent. A patch that is neither JSON nor YAML fails anyway.
    pub(crate) fn request_patch(&self, patch: &[u8]) {
        if self.records(Level::Request) {
            self.state.lock().request = serde_yaml_ng::from_slice(patch).ok();
        }
    }

    /// Whether the answer's body is recorded.
    pub(crate) fn wants_response(&self) -> bool {
        self.records(Level::RequestResponse)
    }

    /// The object of the answer; its name is noted at every level, since the server may have made it.
    pub(crate) fn response_object(&self, object: &Value) {
        let body = self.wants_response().then(|| self.shown(object));
        let mut state = self.state.lock();
        if object["kind"] != "Status"
            && let Some(reference) = &mut state.object
        {
            complete(reference, object);
        }
        if body.is_some() {
            state.response = body;
        }
    }

    /// The failure that the answer is.
    pub(crate) fn failure(&self, status: &Status) {
        let mut value = status.to_value();
        if let Some(map) = value.as_object_mut() {
            map.remove("kind");
            map.remove("apiVersion");
            // What is wrong with a Secret is told by quoting it.
            if self.mute && matches!(status.code, 400 | 422) {
                map.remove("message");
                map.remove("details");
            }
        }
        let mut state = self.state.lock();
        if self.records(Level::RequestResponse) {
            state.response = Some(status.to_value());
        }
        state.status = Some(value);
    }

    /// Makes the event of a stage, unless the policy leaves it out.
    pub(crate) fn event(&self, stage: Stage) {
        if self.judgement.omit.contains(stage) {
            return;
        }
        super::EVENTS.inc();
        let state = self.state.lock();
        let received = micro_time(self.received);
        let event = Event {
            kind: "Event",
            api_version: "audit.k8s.io/v1",
            level: self.judgement.level.name(),
            audit_id: &self.id,
            stage: stage.name(),
            request_uri: &self.uri,
            verb: &self.verb,
            user: &self.user,
            impersonated_user: state.impersonated.as_ref(),
            source_ips: &self.source_ips,
            user_agent: &self.user_agent,
            object_ref: state.object.as_ref(),
            response_status: state.status.as_ref(),
            request_object: state.request.as_ref(),
            response_object: state.response.as_ref(),
            stage_timestamp: match stage {
                Stage::RequestReceived => received.clone(),
                _ => micro_time(self.clock.now()),
            },
            request_received_timestamp: received,
            annotations: &state.annotations,
        };
        self.writer.write(match self.writer.format() {
            Format::Json => event.json(),
            Format::Legacy => event.legacy(),
        });
    }

    /// The answer has this code; a failure told before says more.
    fn answered(&self, code: u16) {
        let mut state = self.state.lock();
        if state.status.is_none() {
            state.status = Some(json!({"metadata": {}, "code": code}));
        }
    }

    /// The answer has begun and goes on; its end is recorded when the record is let go.
    pub(crate) fn started(&self, code: u16) {
        self.answered(code);
        self.event(Stage::ResponseStarted);
    }

    /// The answer is complete.
    pub(crate) fn complete(&self, code: u16) {
        self.answered(code);
        self.finish(Stage::ResponseComplete);
    }

    /// The client could not be authenticated: upstream records that at the start of the answer alone.
    pub(crate) fn refused(&self, status: &Status) {
        self.failure(status);
        self.finish(Stage::ResponseStarted);
    }

    /// The handler panicked.
    pub(crate) fn panicked(&self) {
        self.finish(Stage::Panic);
    }

    fn finish(&self, stage: Stage) {
        let before = std::mem::replace(&mut self.state.lock().finished, true);
        if !before {
            self.event(stage);
        }
    }

    /// A body as events show it.
    fn shown(&self, object: &Value) -> Value {
        let mut shown = object.clone();
        if self.judgement.omit_managed_fields {
            let strip = |object: &mut Value| {
                if let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) {
                    meta.remove("managedFields");
                }
            };
            shown.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten().for_each(strip);
            strip(&mut shown);
        }
        shown
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if self.state.get_mut().status.is_none() {
            let why = "the client went away before it was answered";
            self.failure(&Status::failure(CLIENT_GONE, "", why));
        }
        self.finish(Stage::ResponseComplete);
    }
}

/// Names the object where the path did not.
fn complete(reference: &mut ObjectReference, object: &Value) {
    let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default();
    if reference.name.is_empty() {
        reference.name = text("name").to_owned();
    }
    if reference.namespace.is_empty() {
        reference.namespace = text("namespace").to_owned();
    }
}
