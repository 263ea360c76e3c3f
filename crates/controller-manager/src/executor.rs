//! Carries out plans: requests in order, events, tolerated failures, slow start, continuations.

use std::time::Duration;

use futures::{FutureExt, StreamExt};
use isopod_client::{EventRecorder, EventType};
use isopod_reconcile::plan::{Action, ApiError, Event, Guard, Outcome, Plan, Step, Tail, Write};
use serde_json::Value;
use tracing::debug;

use crate::request;

/// Requests of one step that are under way at once: enough to hide latency, few enough to leave room for others.
const IN_FLIGHT_MAX: usize = 64;

/// Told of what actions did, so that expectations can be kept.
pub(crate) trait Observer: Sync {
    /// The plan is about to run.
    fn starting(&self, plan: &Plan);
    /// The action failed, or was not tried: nothing of it will be seen in the cache.
    fn fell_through(&self, write: &Write);
}

/// Keeps no account.
pub(crate) struct Unobserved;

impl Observer for Unobserved {
    fn starting(&self, _: &Plan) {}
    fn fell_through(&self, _: &Write) {}
}

/// How a plan ended.
#[derive(Debug, Default)]
pub(crate) struct Finished {
    pub(crate) requeue_after: Option<Duration>,
    /// The first failure that was not tolerated, or that the plan asked to be treated as one.
    pub(crate) failure: Option<String>,
}

impl Finished {
    /// Ended by a failure outside a plan.
    pub(crate) fn failed(error: impl std::fmt::Display) -> Self {
        Self { requeue_after: None, failure: Some(error.to_string()) }
    }
}

/// Applies plans as one identity.
pub(crate) struct Executor {
    client: kube::Client,
    recorder: EventRecorder,
}

impl Executor {
    pub(crate) fn new(client: kube::Client, component: &str) -> Self {
        let recorder = EventRecorder::new(client.clone(), component, "");
        Self { client, recorder }
    }

    pub(crate) fn client(&self) -> &kube::Client {
        &self.client
    }

    /// Runs a plan and its continuations.
    pub(crate) async fn run(&self, mut plan: Plan, observer: &dyn Observer) -> Finished {
        let mut finished = Finished::default();
        loop {
            observer.starting(&plan);
            let mut outcome = Outcome::default();
            let steps = std::mem::take(&mut plan.steps);
            let mut failed = false;
            for step in steps {
                if failed {
                    Self::skip(&step, observer);
                    continue;
                }
                failed = !self.step(step, &mut outcome, observer).await;
            }
            if let Some(error) = outcome.failures.first() {
                finished.failure.get_or_insert_with(|| error.message.clone());
            }
            if plan.retry {
                finished.failure.get_or_insert_with(|| "asked to try again".to_owned());
            }
            if let Some(after) = plan.requeue_after {
                finished.requeue_after = Some(finished.requeue_after.map_or(after, |old| old.min(after)));
            }
            match plan.then.take() {
                Some(then) => plan = then(&outcome),
                None => return finished,
            }
        }
    }

    fn skip(step: &Step, observer: &dyn Observer) {
        match step {
            Step::One(action) => observer.fell_through(&action.write),
            Step::All(actions) | Step::SlowStart(actions) => {
                actions.iter().for_each(|action| observer.fell_through(&action.write));
            }
            Step::Note(_) => {}
        }
    }

    /// False if an action failed for a reason that is not tolerated.
    async fn step(&self, step: Step, outcome: &mut Outcome, observer: &dyn Observer) -> bool {
        match step {
            Step::Note(event) => {
                self.record(&event, "", "");
                true
            }
            Step::One(action) => self.batch(std::slice::from_ref(&action), outcome, observer).await,
            Step::All(actions) => self.batch(&actions, outcome, observer).await,
            Step::SlowStart(actions) => {
                let (mut rest, mut size) = (actions.as_slice(), 1);
                while !rest.is_empty() {
                    let (now, later) = rest.split_at(size.min(rest.len()));
                    if !self.batch(now, outcome, observer).await {
                        later.iter().for_each(|action| observer.fell_through(&action.write));
                        return false;
                    }
                    rest = later;
                    size *= 2;
                }
                true
            }
        }
    }

    async fn batch(&self, actions: &[Action], outcome: &mut Outcome, observer: &dyn Observer) -> bool {
        let requests: Vec<_> = actions.iter().map(|action| self.action(action).boxed()).collect();
        let results: Vec<_> = futures::stream::iter(requests).buffered(IN_FLIGHT_MAX).collect().await;
        let mut good = true;
        for (action, result) in actions.iter().zip(results) {
            match &result {
                Ok(value) => {
                    let name = value.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
                    action.on_ok.iter().for_each(|event| self.record(event, name, ""));
                }
                Err(error) => {
                    observer.fell_through(&action.write);
                    if !action.tolerate.accepts(error) {
                        good = false;
                        debug!(%error, target = ?action.write.target(), "write failed");
                        action.on_err.iter().for_each(|event| self.record(event, "", &error.message));
                        outcome.failures.push(error.clone());
                    }
                }
            }
            outcome.results.push(result);
        }
        good
    }

    async fn action(&self, action: &Action) -> Result<Value, ApiError> {
        if let Some(guard) = &action.guard {
            self.check(guard).await?;
        }
        self.client.request::<Value>(request::of(&action.write)).await.map_err(request::error)
    }

    /// Reads the guarded object afresh: a cache may be behind.
    async fn check(&self, guard: &Guard) -> Result<(), ApiError> {
        let meta = request::metadata(&self.client, &guard.target).await?;
        let place = guard.target.namespace.as_deref().unwrap_or_default();
        let name = &guard.target.name;
        let refuse = |message: String| ApiError {
            code: 0,
            reason: String::new(),
            message,
            namespace_terminating: false,
        };
        let uid = meta.uid.unwrap_or_default();
        if uid != guard.uid {
            let text = format!("original {place}/{name} is gone: got uid {uid}, wanted {}", guard.uid);
            return Err(refuse(text));
        }
        if meta.deletion_timestamp.is_some() {
            return Err(refuse(format!("{place}/{name} has just been deleted")));
        }
        Ok(())
    }

    fn record(&self, event: &Event, name: &str, error: &str) {
        let tail = match event.tail {
            Tail::None => "",
            Tail::Name => name,
            Tail::Error => error,
        };
        let kind = if event.warning { EventType::Warning } else { EventType::Normal };
        self.recorder.event(event.regarding.clone(), kind, event.reason, format!("{}{tail}", event.message));
    }
}
