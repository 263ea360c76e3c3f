//! The authorities behind the signers of certificate requests, as the controller manager uses them.

use isopod_controller_manager::CertificateSigner;
use isopod_controller_manager::certificate::{CLIENT, KUBELET_CLIENT, KUBELET_SERVING, Subject, Usage};
use isopod_pki::{Authority, RequestedUsage};
use jiff::Timestamp;
use std::sync::Arc;
use std::time::Duration;

/// The authorities.
#[derive(Default)]
pub(crate) struct Authorities {
    /// Of clients of the API server.
    pub(crate) client: Option<Arc<Authority>>,
    /// Of kubelets as clients.
    pub(crate) kubelet_client: Option<Arc<Authority>>,
    /// Of kubelets as servers.
    pub(crate) kubelet_serving: Option<Arc<Authority>>,
}

impl CertificateSigner for Authorities {
    fn subject(&self, request: &[u8]) -> Result<Subject, String> {
        let names = isopod_pki::requested_names(request).map_err(|error| error.to_string())?;
        Ok(Subject {
            common_name: names.common_name,
            organizations: names.organizations,
            hosts: names.hosts,
            other_names: names.other_names,
        })
    }

    fn sign(
        &self,
        signer: &str,
        request: &[u8],
        usage: Usage,
        life: Duration,
        now: Timestamp,
    ) -> Result<Option<String>, String> {
        let authority = match signer {
            CLIENT => &self.client,
            KUBELET_CLIENT => &self.kubelet_client,
            KUBELET_SERVING => &self.kubelet_serving,
            _ => &None,
        };
        let Some(authority) = authority else { return Ok(None) };
        let usage = match usage {
            Usage::Client => RequestedUsage::Client,
            Usage::Server => RequestedUsage::Server,
        };
        let request = std::str::from_utf8(request).map_err(|_| "the request is not PEM".to_owned())?;
        authority.sign_request(request, &[usage], life, now).map(Some).map_err(|error| error.to_string())
    }
}
