//! What components use to speak to the server: informers, leader election, events; in-process.

mod support;

use std::sync::Arc;
use std::time::Duration;

use isopod_client::leader_election::Ended;
use isopod_client::{
    EventRecorder, EventType, Informers, LeaderElectionConfig, LeaderElector, ObjectKey, Scope,
    object_reference,
};
use k8s_openapi::api::core::v1::{ConfigMap, Event};
use kube::Api;
use kube::api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::core::ApiResource;
use support::{Caller, server};
use tokio_util::sync::CancellationToken;

fn map(name: &str) -> ConfigMap {
    ConfigMap { metadata: ObjectMeta { name: Some(name.into()), ..Default::default() }, ..Default::default() }
}

/// Waits for something that must come, and fails when it does not.
async fn soon(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap_or_else(|_| panic!("{what}"));
}

#[tokio::test]
async fn informers_follow_the_server() {
    let server = server().await;
    let client = Caller::new(&server).0;
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    api.create(&PostParams::default(), &map("a")).await.unwrap();
    let stop = CancellationToken::new();
    let informers = Informers::new(client, stop.clone());
    let maps = informers.get::<ConfigMap>();
    let metadata = informers.metadata(&ApiResource::erase::<ConfigMap>(&()), Scope::default());
    maps.wait_synced().await;
    metadata.wait_synced().await;
    let key = ObjectKey::new("default", "a");
    assert!(maps.store().get(&key).is_some_and(|map| map.metadata.managed_fields.is_none()));
    assert!(metadata.store().get(&key).is_some());
    let mut changed = maps.subscribe();
    api.create(&PostParams::default(), &map("b")).await.unwrap();
    let patch = Patch::Merge(serde_json::json!({"data": {"k": "v"}}));
    api.patch("a", &PatchParams::default(), &patch).await.unwrap();
    soon("the change of a", async || maps.store().get(&key).is_some_and(|map| map.data.is_some())).await;
    api.delete("b", &DeleteParams::default()).await.unwrap();
    soon("the deletion of b", async || maps.store().find("default", "b").is_none()).await;
    soon("the deletion of b's metadata", async || metadata.store().find("default", "b").is_none()).await;
    let next = tokio::time::timeout(Duration::from_secs(5), changed.next()).await.unwrap();
    assert_eq!(next.namespace(), "default");
    let again = informers.get::<ConfigMap>();
    assert_eq!(again.store().len(), maps.store().len(), "one informer for each kind");
    stop.cancel();
    server.stop();
}

#[tokio::test]
async fn one_leads_and_hands_over() {
    let server = server().await;
    let client = Caller::new(&server).0;
    let elector = |identity: &str| {
        let mut config = LeaderElectionConfig::new("kube-system", "test", identity);
        config.retry_period = Duration::from_millis(20);
        LeaderElector::new(client.clone(), config)
    };
    let leading = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let (first_stop, second_stop) = (CancellationToken::new(), CancellationToken::new());
    let run = |identity: &'static str, stop: CancellationToken| {
        let (elector, leading) = (elector(identity), leading.clone());
        tokio::spawn(elector.run(stop, move |lost| async move {
            leading.lock().push(identity);
            lost.cancelled().await;
        }))
    };
    let first = run("one", first_stop.clone());
    soon("one leads", async || *leading.lock() == ["one"]).await;
    let second = run("two", second_stop.clone());
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(*leading.lock(), ["one"], "never two at once");
    first_stop.cancel();
    assert_eq!(first.await.unwrap(), Ended::Finished(()));
    soon("two takes over at once", async || *leading.lock() == ["one", "two"]).await;
    second_stop.cancel();
    assert_eq!(second.await.unwrap(), Ended::Finished(()));
    server.stop();
}

#[tokio::test]
async fn events_count_up() {
    let server = server().await;
    let client = Caller::new(&server).0;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let about = object_reference(&maps.create(&PostParams::default(), &map("subject")).await.unwrap());
    let recorder = EventRecorder::new(client.clone(), "tester", "");
    for _ in 0..3 {
        recorder.event(about.clone(), EventType::Warning, "Tested", "it was tested");
    }
    recorder.action(about, EventType::Normal, "Bound", "Binding", "it was bound");
    let events: Api<Event> = Api::namespaced(client, "default");
    soon("events", async || {
        let list = events.list(&ListParams::default()).await.unwrap().items;
        let tested =
            list.iter().filter(|event| event.reason.as_deref() == Some("Tested")).collect::<Vec<_>>();
        let bound = list.iter().any(|event| event.action.as_deref() == Some("Binding"));
        assert!(tested.len() <= 1, "the same event is counted, not repeated");
        bound && tested.first().is_some_and(|event| event.count == Some(3))
    })
    .await;
    server.stop();
}

#[test]
fn again_on_embedded() {
    support::swaps::again_on_embedded();
}

#[test]
fn again_on_three_members() {
    support::swaps::again_on_three_members();
}

#[test]
fn again_on_etcd_3_4() {
    support::swaps::again_on_etcd_3_4();
}

#[test]
fn again_on_etcd_3_5() {
    support::swaps::again_on_etcd_3_5();
}
