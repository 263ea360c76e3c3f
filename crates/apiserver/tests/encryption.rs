//! Encryption at rest, by what lies in the store.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod support;

use std::sync::Arc;

use isopod_apiserver::ApiServer;
use isopod_apiserver::registry::encryption;
use isopod_kv::{RangeRequest, Store as _};
use serde_json::json;
use support::memory_store::MemoryStore;
use support::{Caller, config, server_of};

const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// Providers of Secrets and ConfigMaps; keys are 32 equal bytes.
async fn server(store: &Arc<MemoryStore>, resources: &str, providers: &str) -> Arc<ApiServer> {
    let keys = [
        ("KEY1", "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="),
        ("KEY2", "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI="),
    ];
    let providers = keys.iter().fold(providers.to_owned(), |text, (name, key)| text.replace(name, key));
    let text = format!(
        "kind: EncryptionConfiguration\napiVersion: apiserver.config.k8s.io/v1\nresources:\n- resources: {resources}\n  providers: {providers}\n"
    );
    let mut config = config();
    config.encryption = Some(Arc::new(encryption::parse(&text).unwrap()));
    server_of(config, store.clone(), |_| {}).await
}

async fn stored(store: &MemoryStore, path: &str) -> Vec<u8> {
    let response = store.range(RangeRequest::key(format!("/registry/{path}"))).await.unwrap();
    response.kvs[0].value.to_vec()
}

fn holds(haystack: &[u8], needle: &str) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle.as_bytes())
}

#[tokio::test]
async fn values_lie_encrypted_and_are_written_anew_after_a_rotation() {
    let store = MemoryStore::new();
    let first =
        server(&store, "[secrets]", "[aesgcm: {keys: [{name: one, secret: KEY1}]}, identity: {}]").await;
    let caller = Caller::new(&first);
    let secret = json!({"metadata": {"name": "s"}, "stringData": {"k": "hidden-value"}});
    assert_eq!(caller.post(SECRETS, &secret).await.code, 201);
    let map = json!({"metadata": {"name": "m"}, "data": {"k": "open-value"}});
    assert_eq!(caller.post(MAPS, &map).await.code, 201);
    let raw = stored(&store, "secrets/default/s").await;
    assert!(raw.starts_with(b"k8s:enc:aesgcm:v1:one:") && !holds(&raw, "hidden-value"));
    assert!(
        holds(&stored(&store, "configmaps/default/m").await, "open-value"),
        "the search finds what is there"
    );
    first.stop();

    // A second key, of another provider, for more resources: both are read, an update that changes nothing encrypts.
    let providers = "[secretbox: {keys: [{name: two, secret: KEY2}]}, aesgcm: {keys: [{name: one, secret: KEY1}]}, identity: {}]";
    let second = server(&store, "[secrets, configmaps]", providers).await;
    let caller = Caller::new(&second);
    for (uri, path) in [(SECRETS, "secrets/default/s"), (MAPS, "configmaps/default/m")] {
        let name = path.rsplit('/').next().unwrap();
        let object = caller.get(&format!("{uri}/{name}")).await;
        assert_eq!(object.code, 200);
        assert_eq!(caller.put(&format!("{uri}/{name}"), &object.body).await.code, 200);
        let raw = stored(&store, path).await;
        assert!(raw.starts_with(b"k8s:enc:secretbox:v1:two:"), "{path}");
        // Once is enough.
        let object = caller.get(&format!("{uri}/{name}")).await;
        assert_eq!(caller.put(&format!("{uri}/{name}"), &object.body).await.code, 200);
        assert_eq!(stored(&store, path).await, raw);
    }
    second.stop();

    // Without the key nothing is shown, and nothing is taken for a plain value.
    let third = server(&store, "[secrets]", "[aesgcm: {keys: [{name: one, secret: KEY1}]}]").await;
    let answer = Caller::new(&third).get(&format!("{SECRETS}/s")).await;
    assert_eq!(answer.code, 500, "{:?}", answer.body);
    third.stop();
}
