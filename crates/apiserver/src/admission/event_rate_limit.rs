//! EventRateLimit: one namespace's events cannot fill the store or starve others.

use std::collections::HashMap;
use std::time::Instant;

use async_trait::async_trait;
use isopod_api::status::Status;
use parking_lot::Mutex;

use crate::layers::{Admission, AdmissionRequest, Operation};

/// Events a second that a namespace may record over time: far above what a busy one does.
const PER_SECOND: f64 = 200.0;
/// Events at once: a few for each of a thousand pods that start together.
const BURST: f64 = 5000.0;
/// Namespaces remembered; when there are more, those that have not used up anything are forgotten.
const NAMESPACES_MAX: usize = 4096;

struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    fn fill(&mut self, now: Instant) {
        self.tokens = (self.tokens + (now - self.filled).as_secs_f64() * PER_SECOND).min(BURST);
        self.filled = now;
    }
}

/// Limits events by namespace.
#[derive(Default)]
pub(super) struct EventRateLimit {
    buckets: Mutex<HashMap<String, Bucket>>,
}

impl EventRateLimit {
    fn take(&self, namespace: &str, now: Instant) -> bool {
        let mut buckets = self.buckets.lock();
        if buckets.len() >= NAMESPACES_MAX && !buckets.contains_key(namespace) {
            buckets.retain(|_, bucket| {
                bucket.fill(now);
                bucket.tokens < BURST
            });
        }
        let bucket = buckets.entry(namespace.to_owned()).or_insert(Bucket { tokens: BURST, filled: now });
        bucket.fill(now);
        if bucket.tokens < 1.0 {
            return false;
        }
        bucket.tokens -= 1.0;
        true
    }
}

#[async_trait]
impl Admission for EventRateLimit {
    fn name(&self) -> &'static str {
        "EventRateLimit"
    }

    fn handles(&self, operation: Operation, group: &str, resource: &str, _subresource: &str) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
            && resource == "events"
            && matches!(group, "" | "events.k8s.io")
    }

    async fn validate(&self, request: &mut AdmissionRequest<'_>) -> Result<(), Status> {
        if self.take(request.namespace, Instant::now()) {
            return Ok(());
        }
        let text = format!("limit reached on type Namespace for key {}", request.namespace);
        Err(Status::too_many_requests(text, 1))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_namespace_has_its_own_limit() {
        let limit = EventRateLimit::default();
        let now = Instant::now();
        let taken = (0..10_000).filter(|_| limit.take("a", now)).count();
        assert_eq!(taken, 5000);
        assert!(limit.take("b", now));
        assert!(!limit.take("a", now));
        assert!(limit.take("a", now + Duration::from_millis(10)));
    }
}
