//! The shell of the pure plugins: brings the objects a plugin asks for, from the cache, and runs it.

use std::sync::Arc;

use async_trait::async_trait;
use isopod_api::Value;
use isopod_api::status::Status;
use isopod_rules::admission::{Operation as Change, Phase, Plugin, Query, Request, View};
use rand::Rng as _;

use crate::layers::{Admission, AdmissionRequest, Objects, Operation};

/// Upstream's alphabet for random parts of names: no vowels, so no words.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_BYTES: usize = 5;

/// A pure plugin with the objects it looks at.
pub(super) struct Pure {
    plugin: &'static Plugin,
    objects: Arc<dyn Objects>,
}

impl Pure {
    pub(super) fn new(plugin: &'static Plugin, objects: Arc<dyn Objects>) -> Self {
        Self { plugin, objects }
    }

    async fn answer(&self, query: &Query) -> Result<Vec<Value>, Status> {
        match query {
            Query::List { group, resource, namespace } => self.objects.list(group, resource, namespace).await,
            Query::Get { group, resource, namespace, name } => {
                let cached = self.objects.get(group, resource, namespace, name).await?;
                let found = match cached {
                    // It may have been made just now, and the cache not know it yet.
                    None => self.objects.get_latest(group, resource, namespace, name).await?,
                    found => found,
                };
                Ok(found.into_iter().collect())
            }
        }
    }

    async fn run(&self, phase: Option<Phase>, request: &mut AdmissionRequest<'_>) -> Result<(), Status> {
        let Some(phase) = phase else { return Ok(()) };
        let suffix = suffix();
        let mut request = Request {
            operation: operation(request.operation),
            user: request.user,
            group: request.group,
            resource: request.resource,
            subresource: request.subresource,
            namespace: request.namespace,
            name: request.name,
            object: request.object,
            old: request.old,
            warnings: &mut request.warnings,
            annotations: &mut request.annotations,
            suffix: &suffix,
        };
        let mut answers = Vec::new();
        for query in (self.plugin.needs)(&request) {
            let objects = self.answer(&query).await?;
            answers.push((query, objects));
        }
        phase(&mut request, &View::new(answers))
    }
}

fn suffix() -> String {
    let mut random = rand::rng();
    (0..SUFFIX_BYTES).map(|_| char::from(ALPHABET[random.random_range(0..ALPHABET.len())])).collect()
}

fn operation(operation: Operation) -> Change {
    match operation {
        Operation::Create => Change::Create,
        Operation::Update => Change::Update,
        Operation::Delete => Change::Delete,
        Operation::Connect => Change::Connect,
    }
}

#[async_trait]
impl Admission for Pure {
    fn name(&self) -> &'static str {
        self.plugin.name
    }

    fn handles(&self, change: Operation, group: &str, resource: &str, subresource: &str) -> bool {
        (self.plugin.handles)(operation(change), group, resource, subresource)
    }

    async fn admit(&self, request: &mut AdmissionRequest<'_>) -> Result<(), Status> {
        self.run(self.plugin.admit, request).await
    }

    async fn validate(&self, request: &mut AdmissionRequest<'_>) -> Result<(), Status> {
        self.run(self.plugin.validate, request).await
    }
}
