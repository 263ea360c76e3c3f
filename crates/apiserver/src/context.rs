//! What the handlers know about the request they serve.

use std::sync::Arc;

use isopod_api::Value;
use isopod_api::identity::UserInfo;
use isopod_rules::kinds;
use parking_lot::Mutex;

use crate::audit::Record;
use crate::flow::WatchPlace;
use crate::options::Query;
use crate::request_info::RequestInfo;

/// Most warnings returned with one answer, and most characters of them together; as upstream.
const WARNINGS_MAX: usize = 64;
const WARNINGS_CHARS_MAX: usize = 4096;

/// One request after authentication.
#[derive(Debug)]
pub struct Ctx {
    /// Who asks.
    pub user: UserInfo,
    /// What is asked about.
    pub info: RequestInfo,
    /// Query parameters.
    pub query: Query,
    /// Method, URI, headers.
    pub parts: http::request::Parts,
    /// When the request arrived.
    pub now: jiff::Timestamp,
    /// The request's record in the audit log, if it has one.
    pub(crate) audit: Option<Arc<Record>>,
    /// Its place among the watches of its client, if it is one.
    pub(crate) watch: Option<WatchPlace>,
    warnings: Mutex<Vec<String>>,
}

impl Ctx {
    /// The context of a request.
    pub fn new(user: UserInfo, info: RequestInfo, parts: http::request::Parts, now: jiff::Timestamp) -> Ctx {
        let query = Query::parse(parts.uri.query());
        Ctx { user, info, query, parts, now, audit: None, watch: None, warnings: Mutex::default() }
    }

    /// A header as text, empty when absent.
    pub fn header(&self, name: http::HeaderName) -> &str {
        self.parts.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
    }

    /// The default field manager: the user agent up to its first slash or space.
    pub fn default_manager(&self) -> String {
        let agent = self.header(http::header::USER_AGENT);
        let name = agent.split(['/', ' ']).next().unwrap_or_default();
        if name.is_empty() { "unknown".to_owned() } else { name.chars().take(128).collect() }
    }

    /// Adds a warning to the answer; repeats are left out.
    pub fn warn(&self, text: impl Into<String>) {
        let text = text.into();
        let mut warnings = self.warnings.lock();
        let chars: usize = warnings.iter().map(String::len).sum();
        if warnings.len() < WARNINGS_MAX && chars < WARNINGS_CHARS_MAX && !warnings.contains(&text) {
            warnings.push(text);
        }
    }

    /// The warnings collected so far.
    pub fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut *self.warnings.lock())
    }

    /// Notes the object that was sent for the audit log.
    pub(crate) fn audit_request(&self, object: &Value) {
        if let Some(record) = &self.audit {
            record.request_object(object);
        }
    }

    /// Notes the object that is answered for the audit log.
    pub(crate) fn audit_response(&self, object: &Value) {
        if let Some(record) = &self.audit {
            record.response_object(object);
        }
    }

    /// What the kinds' rules may know.
    pub fn rules<'c>(&'c self, subresource: &'c str) -> kinds::Context<'c> {
        kinds::Context {
            now: self.now,
            user: &self.user.name,
            groups: &self.user.groups,
            user_uid: &self.user.uid,
            extra: &self.user.extra,
            subresource,
        }
    }
}

/// A time as objects carry it: UTC, whole seconds.
pub fn timestamp(now: jiff::Timestamp) -> Value {
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into()
}
