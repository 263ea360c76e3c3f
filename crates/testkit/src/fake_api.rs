//! An API server of a few lines, for testing one component: it keeps objects as they are given, lists and watches.
//!
//! No validation, defaulting or authorisation; of selectors it knows `metadata.name=`. Whatever must behave as the
//! real API does is tested against the real one.

use bytes::Bytes;
use futures::StreamExt;
use http::{Method, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use kube::client::Body;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

type Reply = Response<BoxBody<Bytes, Infallible>>;

/// Most events that wait for a slow watcher; tests make fewer.
const WATCH_QUEUE_MAX: usize = 1024;

/// Resource (`api/v1/services`), namespace and name.
type Key = (String, String, String);

#[derive(Default)]
struct State {
    revision: u64,
    objects: BTreeMap<Key, Value>,
    /// Everything that happened: revision, key, event.
    log: Vec<(u64, Key, Value)>,
    watchers: Vec<(String, Option<String>, mpsc::Sender<Value>)>,
}

/// The fake. Clones share their objects.
#[derive(Clone, Default)]
pub struct FakeApi(Arc<Mutex<State>>);

/// A request's path and query, taken apart.
struct Target {
    resource: String,
    namespace: String,
    name: String,
    query: BTreeMap<String, String>,
}

impl Target {
    fn parse(uri: &http::Uri) -> Self {
        let words: Vec<&str> = uri.path().trim_matches('/').split('/').collect();
        let prefix = if words[0] == "api" { 2 } else { 3 };
        let (group, rest) = words.split_at(prefix.min(words.len()));
        let (namespace, rest) = match rest {
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (*namespace, rest),
            _ => ("", rest),
        };
        let resource = format!("{}/{}", group.join("/"), rest.first().unwrap_or(&""));
        let query = uri.query().unwrap_or("").split('&').filter_map(|pair| pair.split_once('='));
        Self {
            resource,
            namespace: namespace.into(),
            name: rest.get(1).unwrap_or(&"").to_string(),
            query: query.map(|(k, v)| (k.to_owned(), v.replace("%3D", "="))).collect(),
        }
    }

    fn key(&self) -> Key {
        (self.resource.clone(), self.namespace.clone(), self.name.clone())
    }

    fn only_name(&self) -> Option<String> {
        self.query.get("fieldSelector")?.strip_prefix("metadata.name=").map(ToOwned::to_owned)
    }
}

impl FakeApi {
    /// A client of it. Must be called within a tokio runtime.
    #[must_use]
    pub fn client(&self) -> kube::Client {
        let fake = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let fake = fake.clone();
            async move { Ok::<_, Infallible>(fake.answer(request).await) }
        });
        kube::Client::new(service, "default")
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts an object, new or changed. `resource` is like `api/v1/services`.
    pub fn put(&self, resource: &str, object: Value) {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or("").to_owned();
        self.state().put((resource.into(), text("namespace"), text("name")), object);
    }

    /// Takes an object out.
    pub fn delete(&self, resource: &str, namespace: &str, name: &str) {
        self.state().delete(&(resource.into(), namespace.into(), name.into()));
    }

    /// An object as it is now.
    #[must_use]
    pub fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        self.state().objects.get(&(resource.into(), namespace.into(), name.into())).cloned()
    }

    async fn answer(&self, request: Request<Body>) -> Reply {
        let mut target = Target::parse(request.uri());
        let method = request.method().clone();
        let body = request.into_body().collect().await.map(|b| b.to_bytes()).unwrap_or_default();
        let object: Value = serde_json::from_slice(&body).unwrap_or_default();
        let mut state = self.state();
        match method {
            Method::GET if target.query.contains_key("watch") => state.watch(&target),
            Method::GET if target.name.is_empty() => json_reply(200, &state.list(&target)),
            Method::GET => match state.objects.get(&target.key()) {
                Some(object) => json_reply(200, object),
                None => failure(404, "NotFound"),
            },
            Method::POST => {
                target.name = object["metadata"]["name"].as_str().unwrap_or("").to_owned();
                if state.objects.contains_key(&target.key()) {
                    return failure(409, "AlreadyExists");
                }
                json_reply(201, &state.put(target.key(), object))
            }
            Method::PUT => match state.objects.get(&target.key()) {
                None => failure(404, "NotFound"),
                Some(old) => {
                    let given = &object["metadata"]["resourceVersion"];
                    if !given.is_null() && *given != old["metadata"]["resourceVersion"] {
                        return failure(409, "Conflict");
                    }
                    json_reply(200, &state.put(target.key(), object))
                }
            },
            Method::DELETE => match state.delete(&target.key()) {
                Some(object) => json_reply(200, &object),
                None => failure(404, "NotFound"),
            },
            _ => failure(405, "MethodNotAllowed"),
        }
    }
}

impl State {
    fn put(&mut self, key: Key, mut object: Value) -> Value {
        self.revision += 1;
        object["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        let kind = match self.objects.insert(key.clone(), object.clone()) {
            None => "ADDED",
            Some(old) => {
                object["metadata"]["uid"] = old["metadata"]["uid"].clone();
                "MODIFIED"
            }
        };
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = json!(format!("uid-{}", self.revision));
        }
        self.objects.insert(key.clone(), object.clone());
        self.tell(key, json!({"type": kind, "object": object}));
        object
    }

    fn delete(&mut self, key: &Key) -> Option<Value> {
        let object = self.objects.remove(key)?;
        self.revision += 1;
        self.tell(key.clone(), json!({"type": "DELETED", "object": object}));
        Some(object)
    }

    fn tell(&mut self, key: Key, event: Value) {
        self.watchers.retain(|(resource, only, sender)| {
            let concerned = *resource == key.0 && only.as_ref().is_none_or(|name| *name == key.2);
            !concerned || sender.try_send(event.clone()).is_ok()
        });
        self.log.push((self.revision, key, event));
    }

    fn list(&self, target: &Target) -> Value {
        let only = target.only_name();
        let of_list = |key: &Key| {
            key.0 == target.resource
                && (target.namespace.is_empty() || key.1 == target.namespace)
                && only.as_ref().is_none_or(|name| *name == key.2)
        };
        let items: Vec<&Value> =
            self.objects.iter().filter(|(key, _)| of_list(key)).map(|(_, o)| o).collect();
        json!({"kind": "List", "apiVersion": "v1",
            "metadata": {"resourceVersion": self.revision.to_string()}, "items": items})
    }

    fn watch(&mut self, target: &Target) -> Reply {
        let since: u64 = target.query.get("resourceVersion").and_then(|v| v.parse().ok()).unwrap_or(0);
        let only = target.only_name();
        let (sender, receiver) = mpsc::channel(WATCH_QUEUE_MAX);
        for (revision, key, event) in &self.log {
            let concerned = key.0 == target.resource && only.as_ref().is_none_or(|name| *name == key.2);
            if *revision > since && concerned {
                sender.try_send(event.clone()).expect("a test makes few events");
            }
        }
        self.watchers.push((target.resource.clone(), only, sender));
        let frames = ReceiverStream::new(receiver)
            .map(|event| Ok::<_, Infallible>(Frame::data(Bytes::from(format!("{event}\n")))));
        Response::new(BodyExt::boxed(StreamBody::new(frames)))
    }
}

fn json_reply(status: u16, value: &Value) -> Reply {
    let mut reply = Response::new(BodyExt::boxed(Full::new(Bytes::from(value.to_string()))));
    *reply.status_mut() = http::StatusCode::from_u16(status).expect("a status code");
    reply
}

fn failure(code: u16, reason: &str) -> Reply {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
        "reason": reason, "message": reason, "code": code});
    json_reply(code, &status)
}
