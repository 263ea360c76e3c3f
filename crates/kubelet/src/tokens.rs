//! Service account tokens for pods: requested bound to the pod, kept in memory, renewed in time.

use std::collections::HashMap;

use isopod_client::{Clock, SystemClock};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::Api;
use kube::api::PostParams;
use parking_lot::Mutex;

/// A token older than this is renewed however long it lives.
const AGE_MAX: SignedDuration = SignedDuration::from_hours(24);
/// Life of a token whose volume does not say.
const LIFE_DEFAULT_SECONDS: i64 = 3600;

/// What tells tokens apart.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    uid: String,
    account: String,
    audience: String,
    seconds: i64,
}

#[derive(Clone)]
struct Held {
    token: String,
    renew_at: Timestamp,
}

/// Tokens of this node's pods.
pub(crate) struct Tokens {
    client: kube::Client,
    held: Mutex<HashMap<Key, Held>>,
}

impl Tokens {
    pub(crate) fn new(client: kube::Client) -> Self {
        Self { client, held: Mutex::default() }
    }

    /// A token for the pod's service account, and when to come for the next one.
    pub(crate) async fn get(
        &self,
        pod: &Pod,
        audience: &str,
        seconds: Option<i64>,
    ) -> Result<(String, Timestamp), kube::Error> {
        let spec = pod.spec.as_ref();
        let account = spec.and_then(|s| s.service_account_name.clone()).unwrap_or_else(|| "default".into());
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let seconds = seconds.unwrap_or(LIFE_DEFAULT_SECONDS);
        let key = Key { uid: uid.clone(), account: account.clone(), audience: audience.to_owned(), seconds };
        let now = SystemClock.now();
        if let Some(held) = self.held.lock().get(&key).filter(|h| h.renew_at > now) {
            return Ok((held.token.clone(), held.renew_at));
        }
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), namespace);
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: (!audience.is_empty()).then(|| vec![audience.to_owned()]),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".into()),
                    kind: Some("Pod".into()),
                    name: pod.metadata.name.clone(),
                    uid: Some(uid),
                }),
                expiration_seconds: Some(seconds),
            }),
            ..TokenRequest::default()
        };
        let answer = api.create_token_request(&account, &PostParams::default(), &request).await?;
        let status = answer.status.unwrap_or_default();
        let renew_at = renew_at(now, status.expiration_timestamp.map_or(now, |t| t.0));
        let held = Held { token: status.token.unwrap_or_default(), renew_at };
        self.held.lock().insert(key, held.clone());
        Ok((held.token, held.renew_at))
    }

    /// Forgets the tokens of a pod.
    pub(crate) fn release(&self, uid: &str) {
        self.held.lock().retain(|k, _| k.uid != uid);
    }
}

/// At 80 % of its life, or after a day.
fn renew_at(now: Timestamp, expires: Timestamp) -> Timestamp {
    let life = expires.duration_since(now);
    let wait = SignedDuration::from_secs(life.as_secs() * 4 / 5).min(AGE_MAX);
    // A token that is born expired must not be asked for in a tight loop.
    now.checked_add(wait.max(SignedDuration::from_secs(10))).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewed_at_80_percent_or_a_day() {
        let now = Timestamp::UNIX_EPOCH;
        let at = |s: i64| renew_at(now, Timestamp::from_second(s).unwrap()).as_second();
        assert_eq!((at(3600), at(3600 * 24 * 365), at(-5)), (2880, 86400, 10));
    }
}
