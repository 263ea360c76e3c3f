//! `isopod node-files`: what a kubelet and kube-proxy run apart need to reach this cluster, written into a directory.
//!
//! The certificates are issued by the authorities in the data directory, so this runs where the control plane runs,
//! and the directory is then carried to the node.

use crate::cli::Place;
use anyhow::{Context, Result};
use clap::Args;
use isopod_client::{Clock, SystemClock};
use isopod_pki::{Authority, Credentials, Identity};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Life of a node's certificates.
const LIFE: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Flags of `isopod node-files`.
#[derive(Args, Debug, Clone)]
pub(crate) struct NodeFilesArgs {
    #[command(flatten)]
    place: Place,
    /// Name of the node
    #[arg(long)]
    node_name: String,
    /// Addresses of the node
    #[arg(long, required = true, value_delimiter = ',')]
    node_ip: Vec<IpAddr>,
    /// URL of the API server
    #[arg(long)]
    server: String,
    /// Directory to write to
    #[arg(long)]
    out: PathBuf,
}

/// Writes the files.
pub(crate) fn run(args: NodeFilesArgs) -> Result<()> {
    let pki = args.place.data_dir.join("pki");
    let authority = |name: &str| {
        Authority::from_files(&pki.join(format!("{name}.crt")), &pki.join(format!("{name}.key")))
            .with_context(|| format!("read the {name} authority in {}", pki.display()))
    };
    let (clients, serving) = (authority("client-ca")?, authority("serving-ca")?);
    crate::data_dir::private_directory(&args.out)?;
    let now = SystemClock.now();
    let write = |name: &str, text: &str| {
        isopod_pki::write_private(&args.out.join(name), text.as_bytes())
            .with_context(|| format!("write {name}"))
    };
    let user = format!("system:node:{}", args.node_name);
    for (file, user, group) in [
        ("kubelet.kubeconfig", user.as_str(), Some("system:nodes")),
        ("kube-proxy.kubeconfig", "system:kube-proxy", None),
    ] {
        let leaf = clients.issue(&Identity::client(user, group), LIFE, now)?;
        let credentials = Credentials::Certificate(&leaf);
        write(
            file,
            &isopod_pki::kubeconfig("isopod", &args.server, serving.certificate_pem(), user, &credentials),
        )?;
    }
    let identity = Identity::server(&user, [args.node_name.clone()], args.node_ip.iter().copied());
    let leaf = serving.issue(&identity, LIFE, now)?;
    write("kubelet.crt", &leaf.certificate_pem)?;
    write("kubelet.key", &leaf.key_pem)?;
    write("client-ca.crt", clients.certificate_pem())?;
    write("serving-ca.crt", serving.certificate_pem())
}
