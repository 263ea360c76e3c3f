//! The `kubernetes` Service, through which pods reach this server, with its Endpoints and EndpointSlice.
//!
//! Each running server holds a key with a lease under `masterleases/` and writes the addresses of all that
//! do, so that a server that is gone drops out within the lease's time.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use isopod_api::Value;
use isopod_api::status::Status;
use isopod_kv::{LeaseGrantRequest, PutRequest, RangeRequest};
use serde_json::json;

use super::ensure;
use crate::registry::storage::store_error;
use crate::server::ApiServer;
use crate::services::addresses::first_address;

/// Life of a server's key after its last sign of life (upstream's 15 s).
const LEASE_SECONDS: i64 = 15;
/// Time between two signs of life.
const INTERVAL: Duration = Duration::from_secs(5);
const NAME: &str = "kubernetes";
const NAMESPACE: &str = "default";

/// Makes the ServiceCIDR and the Service.
pub(super) async fn create(server: &Arc<ApiServer>) -> Result<(), Status> {
    let cidrs: Vec<String> = server.config.service_cidrs.iter().map(ToString::to_string).collect();
    let cidr = json!({"metadata": {"name": NAME}, "spec": {"cidrs": cidrs}});
    ensure(server, "networking.k8s.io", "servicecidrs", "", cidr).await?;
    let ready = json!([{"type": "Ready", "status": "True", "reason": "", "observedGeneration": 0,
        "message": "Kubernetes default Service CIDR is ready",
        "lastTransitionTime": crate::context::timestamp(server.clock.now())}]);
    let mut mark = |mut object: Value| {
        let known = object["status"]["conditions"].as_array().is_some_and(|c| !c.is_empty());
        object["status"]["conditions"] = ready.clone();
        Ok((!known).then_some(object))
    };
    server.update_object("networking.k8s.io", "servicecidrs", "", NAME, &mut mark).await?;
    let ip = first_address(server.config.service_cidrs[0]).to_string();
    let service = json!({
        "metadata": {"name": NAME, "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {"clusterIP": ip, "clusterIPs": [ip], "type": "ClusterIP", "sessionAffinity": "None",
            "ipFamilyPolicy": "SingleStack",
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": server.config.advertise_port}]},
    });
    // The address may be reserved by a start that ended before the Service was stored.
    if server.stored_object("", "services", NAMESPACE, NAME).await?.is_none() {
        server.release(&ip, NAMESPACE, NAME).await;
    }
    ensure(server, "", "services", NAMESPACE, service).await
}

/// Keeps the Endpoints up to date until the server stops, then leaves them.
pub(super) async fn keep(server: Arc<ApiServer>) {
    let mut lease = 0;
    loop {
        if let Err(error) = sign_of_life(&server, &mut lease).await {
            tracing::warn!(%error, "the endpoints of the kubernetes Service could not be kept up");
            lease = 0;
        }
        tokio::select! {
            () = server.shutdown().cancelled() => break,
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
    if lease != 0 {
        let _ = server.registry().store.lease_revoke(lease).await;
    }
}

async fn sign_of_life(server: &ApiServer, lease: &mut i64) -> Result<(), Status> {
    let store = &*server.registry().store;
    let prefix = format!("/{}/masterleases/", server.config.storage_prefix);
    let failed = |e: isopod_kv::Error| store_error(&e);
    if *lease != 0 && store.lease_keep_alive(*lease).await.is_err() {
        *lease = 0;
    }
    if *lease == 0 {
        let request = LeaseGrantRequest { ttl: LEASE_SECONDS, ..LeaseGrantRequest::default() };
        *lease = store.lease_grant(request).await.map_err(failed)?.id;
        let ip = server.config.advertise_address;
        let value = json!({"kind": "Endpoints", "apiVersion": "v1", "metadata": {},
            "subsets": [{"addresses": [{"ip": ip.to_string()}]}]});
        let put = PutRequest {
            lease: *lease,
            ..PutRequest::new(format!("{prefix}{ip}"), value.to_string().into_bytes())
        };
        store.put(put).await.map_err(failed)?;
    }
    let mut request = RangeRequest::prefix(prefix.clone());
    request.keys_only = true;
    let found = store.range(request).await.map_err(failed)?;
    let ips: BTreeSet<String> = found
        .kvs
        .iter()
        .filter_map(|kv| std::str::from_utf8(&kv.key).ok()?.strip_prefix(&prefix).map(str::to_owned))
        .collect();
    reconcile(server, &ips).await
}

async fn reconcile(server: &ApiServer, ips: &BTreeSet<String>) -> Result<(), Status> {
    let port = json!({"name": "https", "port": server.config.advertise_port, "protocol": "TCP"});
    let addresses: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip})).collect();
    let subsets = json!([{"addresses": addresses, "ports": [port]}]);
    let endpoints = json!({
        "metadata": {"name": NAME, "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": subsets,
    });
    bring(server, "", "endpoints", endpoints, &["subsets"]).await?;
    let family = if server.config.advertise_address.is_ipv6() { "IPv6" } else { "IPv4" };
    let listed: Vec<Value> =
        ips.iter().map(|ip| json!({"addresses": [ip], "conditions": {"ready": true}})).collect();
    let slice = json!({
        "metadata": {"name": NAME, "labels": {"kubernetes.io/service-name": NAME}},
        "addressType": family, "endpoints": listed, "ports": [port],
    });
    bring(server, "discovery.k8s.io", "endpointslices", slice, &["endpoints", "ports"]).await
}

/// Creates an object or brings the named fields of the existing one to what they should be.
async fn bring(
    server: &ApiServer,
    group: &str,
    resource: &str,
    wanted: Value,
    fields: &[&str],
) -> Result<(), Status> {
    if server.stored_object(group, resource, NAMESPACE, NAME).await?.is_none() {
        return ensure(server, group, resource, NAMESPACE, wanted).await;
    }
    let mut change = |mut object: Value| {
        let same = fields.iter().all(|f| object[*f] == wanted[*f]);
        fields.iter().for_each(|f| object[*f] = wanted[*f].clone());
        Ok((!same).then_some(object))
    };
    server.update_object(group, resource, NAMESPACE, NAME, &mut change).await.map(drop)
}
