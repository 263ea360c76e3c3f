//! The state of the proxy, and one round of bringing the kernel to it.

use crate::config::Config;
use crate::conntrack;
use crate::convert::{self, NodeInfo};
use crate::health::Health;
use crate::metrics::METRICS;
use crate::nft::{self, NftError};
use isopod_client::{Clock, SystemClock};
use isopod_servicerules::input::{Endpoint, Family, Protocol};
use isopod_servicerules::model::Tuple;
use isopod_servicerules::{Frontend, Ruleset, Transaction, affinity, endpoints, plan};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// What the kernel should hold, and how sure we are that it does.
pub(crate) struct Proxier<'a> {
    config: &'a Config,
    node: NodeInfo,
    rules: Ruleset,
    health: Arc<Health>,
    shutdown: CancellationToken,
    /// The kernel's rules are unknown: the next transaction makes everything afresh.
    needs_full: bool,
    /// Whether it was said that connection tracking cannot be read.
    conntrack_told: bool,
}

impl<'a> Proxier<'a> {
    pub(crate) fn new(config: &'a Config, health: Arc<Health>, shutdown: CancellationToken) -> Self {
        let node = NodeInfo::default();
        let rules = Ruleset::new(node.view(config));
        Self { config, node, rules, health, shutdown, needs_full: true, conntrack_told: false }
    }

    /// What is known of the node; `true` if it changed in a way that concerns every Service.
    pub(crate) fn set_node(&mut self, node: NodeInfo) -> bool {
        self.health.set_node_eligible(node.eligible);
        let same = node.addresses == self.node.addresses && node.zone == self.node.zone;
        self.node = node;
        if !same {
            self.rules = Ruleset::new(self.node.view(self.config));
            self.needs_full = true;
        }
        !same
    }

    /// Takes in a Service and its slices as they are now.
    pub(crate) fn set_service(
        &mut self,
        name: &str,
        service: Option<&Service>,
        slices: &[Arc<EndpointSlice>],
    ) {
        let Some(service) = service.and_then(convert::service) else {
            self.rules.remove_service(name);
            self.health.set_service(name, None, &self.shutdown);
            return;
        };
        let mut all: Vec<Endpoint> = Vec::new();
        for slice in slices {
            convert::endpoints(slice, &self.config.node_name, &self.node, &mut all);
        }
        self.rules.set_service(name, plan::service_elements(&service, &all, self.rules.view()));
        let check = service.health_check_node_port.map(|port| (port, endpoints::local_endpoint_count(&all)));
        self.health.set_service(name, check, &self.shutdown);
    }

    /// The rules are not what we think; make them afresh at the next [`sync`](Self::sync).
    pub(crate) fn distrust_kernel(&mut self) {
        self.needs_full = true;
    }

    /// Whether our table is still in the kernel.
    pub(crate) async fn table_is_there(&self) -> bool {
        nft::list("chain", "ip", "nat-prerouting").await.is_ok()
    }

    /// Applies what changed. On an error nothing was applied and the next call makes everything afresh.
    pub(crate) async fn sync(&mut self) -> Result<(), NftError> {
        let mut change = if self.needs_full { self.rules.render_full() } else { self.rules.take_changes() };
        if self.needs_full {
            change.udp_frontends.extend(self.rules.udp_frontends());
        }
        if change.text.is_empty() {
            return Ok(());
        }
        let timer = METRICS.sync_seconds.start_timer();
        if let Err(error) = nft::apply(&change.text).await {
            self.needs_full = true;
            timer.stop_and_discard();
            METRICS.sync_failures.inc();
            return Err(error);
        }
        self.needs_full = false;
        let seconds = timer.stop_and_record();
        METRICS.last_sync.set(SystemClock.now().as_millisecond() as f64 / 1000.0);
        tracing::debug!(elements = change.operations, full = change.full, seconds, "rules applied");
        self.clean_up(&change).await;
        Ok(())
    }

    async fn clean_up(&mut self, change: &Transaction) {
        if change.stale_affinity {
            for family in &self.rules.view().families {
                for protocol in Protocol::ALL {
                    if let Err(error) = self.forget_stale(*family, protocol).await {
                        tracing::warn!(error = %error, "cannot delete session affinity to endpoints that are gone");
                    }
                }
            }
        }
        if !change.udp_frontends.is_empty() {
            self.end_udp(&change.udp_frontends).await;
        }
    }

    async fn forget_stale(&self, family: Family, protocol: Protocol) -> Result<(), NftError> {
        let listing = nft::list("map", family.word(), &affinity::map_name(protocol)).await?;
        let commands = affinity::delete_stale(&self.rules, family, protocol, &listing);
        // One by one: an entry may time out meanwhile, which makes its deletion fail and that of no other.
        for command in commands.lines() {
            if let Err(error) = nft::apply(command).await {
                tracing::debug!(error = %error, "affinity entry ended by itself");
            }
        }
        Ok(())
    }

    async fn end_udp(&mut self, frontends: &BTreeSet<Frontend>) {
        let present: BTreeMap<Frontend, BTreeSet<SocketAddr>> =
            frontends.iter().map(|f| (*f, self.rules.endpoints_at(f))).collect();
        let ips: BTreeSet<Tuple> = present
            .keys()
            .filter_map(|f| match f {
                Frontend::Ip(tuple) => Some(*tuple),
                Frontend::NodePort(_) => None,
            })
            .collect();
        let rules_frontend = move |to: SocketAddr| {
            let tuple = Tuple { ip: to.ip(), protocol: Protocol::Udp, port: to.port() };
            if ips.contains(&tuple) {
                return Frontend::Ip(tuple);
            }
            Frontend::NodePort(isopod_servicerules::model::Port {
                family: Family::of(tuple.ip),
                protocol: tuple.protocol,
                port: tuple.port,
            })
        };
        let ipv6 = self.config.ipv6;
        let task = tokio::task::spawn_blocking(move || {
            conntrack::delete_udp(ipv6, |flow| {
                let frontend = rules_frontend(flow.to);
                // A node port number at some other address is not ours; only what was translated can be.
                let ours = matches!(frontend, Frontend::Ip(_)) || flow.answered_by != flow.to;
                ours && present.get(&frontend).is_some_and(|endpoints| !endpoints.contains(&flow.answered_by))
            })
        });
        match task.await {
            Ok(Ok(count)) => METRICS.conntrack_deleted.inc_by(count),
            Ok(Err(error)) if !self.conntrack_told => {
                self.conntrack_told = true;
                tracing::warn!(error = %error,
                    "cannot end tracked UDP connections; clients that keep their port may reach endpoints that are gone");
            }
            Ok(Err(_)) => {}
            Err(error) => tracing::warn!(error = %error, "ending UDP connections"),
        }
    }
}
