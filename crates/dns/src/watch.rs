//! Keeping the zone current.

use crate::convert;
use crate::zone::Zone;
use isopod_client::{Change, Informer, Informers, ObjectKey};
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use std::sync::Arc;

/// Index of slices by the Service they belong to.
const BY_SERVICE: &str = "dns-service";

/// The watches behind the zone.
pub(crate) struct Sources {
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
    namespaces: Informer<Namespace>,
}

impl Sources {
    pub(crate) async fn wait_synced(&self) {
        self.services.wait_synced().await;
        self.slices.wait_synced().await;
        self.namespaces.wait_synced().await;
    }
}

/// Starts the watches. The zone is changed on the informers' own tasks: a change is a look-up or two and a short lock.
pub(crate) fn start(informers: &Informers, zone: Arc<Zone>) -> Sources {
    let services = informers.get::<Service>();
    let slices = informers.get::<EndpointSlice>();
    let namespaces = informers.get::<Namespace>();
    slices.add_index(BY_SERVICE, |slice: &EndpointSlice| convert::service_of(slice).into_iter().collect());
    let refresh = {
        let (services, slices, zone) = (services.store(), slices.store(), zone.clone());
        move |name: &str| {
            let key = ObjectKey::from(name);
            let service = services.get(&key);
            let slices = slices.by_index(BY_SERVICE, name);
            let record = service.and_then(|service| convert::service(&service, &slices));
            zone.set_service(key.namespace(), key.name(), record);
        }
    };
    services.on_change({
        let refresh = refresh.clone();
        move |change| refresh(change.key().as_str())
    });
    slices.on_change(move |change| {
        if let Change::Updated { old, new } = change
            && convert::service_of(old) != convert::service_of(new)
        {
            convert::service_of(old).iter().for_each(|name| refresh(name));
        }
        convert::service_of(change.object()).iter().for_each(|name| refresh(name));
    });
    namespaces.on_change(move |change| {
        zone.set_namespace(change.key().name(), !matches!(change, Change::Deleted(_)));
    });
    Sources { services, slices, namespaces }
}
