//! The parts as processes of their own, with upstream's flag names for what is supported.

pub(crate) mod accounts;
pub(crate) mod api_flags;
pub(crate) mod apiserver;
pub(crate) mod certificate_signer;
pub(crate) mod controller_manager;
pub(crate) mod delegated;
pub(crate) mod etcd;
pub(crate) mod etcdutl;
pub(crate) mod kubelet;
pub(crate) mod node_files;
pub(crate) mod proxy;
pub(crate) mod rotation;
pub(crate) mod scheduler;
pub(crate) mod serving;
pub(crate) mod token_signer;

use anyhow::{Context, Result};
use std::path::Path;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Reads a text file named by a flag.
pub(crate) fn read(flag: &str, path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("--{flag}: read {}", path.display()))
}

/// A client from the kubeconfig named by a flag.
pub(crate) async fn client(path: &Path) -> Result<kube::Client> {
    isopod_client::from_kubeconfig(path).await.with_context(|| format!("--kubeconfig: {}", path.display()))
}

/// A leaf certificate out of two files.
pub(crate) fn leaf(cert_flag: &str, cert: &Path, key_flag: &str, key: &Path) -> Result<isopod_pki::Leaf> {
    Ok(isopod_pki::Leaf { certificate_pem: read(cert_flag, cert)?, key_pem: read(key_flag, key)? })
}

/// A client of an etcd.
pub(crate) async fn etcd_client(
    servers: &[String],
    ca: Option<&Path>,
    cert: Option<&Path>,
    key: Option<&Path>,
) -> Result<Arc<dyn isopod_kv::Store>> {
    let tls = match ca {
        None => None,
        Some(ca) => Some(isopod_kv::grpc::TlsConfig {
            ca_pem: read("etcd-cafile", ca)?.into_bytes(),
            server_name: None,
            identity: match (cert, key) {
                (Some(cert), Some(key)) => {
                    Some((read("etcd-certfile", cert)?.into_bytes(), read("etcd-keyfile", key)?.into_bytes()))
                }
                _ => None,
            },
        }),
    };
    isopod_kv::grpc::connect(servers, tls).context("connect to etcd")
}

/// Runs a part until a signal asks it to stop.
pub(crate) async fn until_signal<F>(part: impl FnOnce(CancellationToken) -> F) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    let shutdown = CancellationToken::new();
    let mut work = std::pin::pin!(part(shutdown.clone()));
    tokio::select! {
        ended = &mut work => return ended,
        signal = crate::server::stop_signal() => signal?,
    }
    shutdown.cancel();
    work.await
}

/// Who this process is among its rivals for a lease: host and process.
pub(crate) fn lease_identity() -> Result<String> {
    Ok(format!("{}_{}", crate::config::hostname()?, std::process::id()))
}
