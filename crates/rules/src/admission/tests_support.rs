//! What the tests of the plugins share.

use isopod_api::Value;
use isopod_api::identity::UserInfo;
use isopod_api::status::Status;

use super::{Operation, Plugin, Query, Request, View};

/// A change, as a test writes it.
pub(crate) struct Change<'a> {
    pub(crate) operation: Operation,
    pub(crate) user: UserInfo,
    pub(crate) group: &'a str,
    pub(crate) resource: &'a str,
    pub(crate) subresource: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    pub(crate) object: Value,
    pub(crate) old: Value,
    pub(crate) stored: Vec<(&'static str, Vec<Value>)>,
    pub(crate) warnings: Vec<String>,
    pub(crate) annotations: Vec<(&'static str, String)>,
}

impl<'a> Change<'a> {
    pub(crate) fn create(resource: &'a str, object: Value) -> Self {
        Self {
            operation: Operation::Create,
            user: UserInfo::authenticated("jane", &[]),
            group: "",
            resource,
            subresource: "",
            namespace: "ns",
            name: "",
            object,
            old: Value::Null,
            stored: Vec::new(),
            warnings: Vec::new(),
            annotations: Vec::new(),
        }
    }

    pub(crate) fn update(resource: &'a str, old: Value, object: Value) -> Self {
        Self { operation: Operation::Update, old, ..Self::create(resource, object) }
    }

    pub(crate) fn stored(mut self, resource: &'static str, objects: Vec<Value>) -> Self {
        self.stored.push((resource, objects));
        self
    }

    /// Runs both phases; the object is then as completed.
    pub(crate) fn run(&mut self, plugin: &Plugin) -> Result<(), Status> {
        if !(plugin.handles)(self.operation, self.group, self.resource, self.subresource) {
            return Ok(());
        }
        for phase in [plugin.admit, plugin.validate].into_iter().flatten() {
            let mut request = Request {
                operation: self.operation,
                user: &self.user,
                group: self.group,
                resource: self.resource,
                subresource: self.subresource,
                namespace: self.namespace,
                name: self.name,
                object: &mut self.object,
                old: &self.old,
                warnings: &mut self.warnings,
                annotations: &mut self.annotations,
                suffix: "abcde",
            };
            let answer = |query: Query| {
                let (resource, name) = match &query {
                    Query::Get { resource, name, .. } => (*resource, Some(name.clone())),
                    Query::List { resource, .. } => (*resource, None),
                };
                let all = self
                    .stored
                    .iter()
                    .find(|(of, _)| *of == resource)
                    .map(|(_, o)| o.clone())
                    .unwrap_or_default();
                let wanted = |object: &Value| {
                    name.as_ref().is_none_or(|name| object["metadata"]["name"] == *name.as_str())
                };
                (query, all.into_iter().filter(wanted).collect())
            };
            let view = View::new((plugin.needs)(&request).into_iter().map(answer));
            phase(&mut request, &view)?;
        }
        Ok(())
    }

    /// The refusal's message, or `ok`.
    pub(crate) fn verdict(&mut self, plugin: &Plugin) -> String {
        self.run(plugin).map_or_else(|status| status.message, |()| "ok".to_owned())
    }
}
