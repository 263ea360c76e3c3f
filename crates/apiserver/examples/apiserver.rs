//! Serves the API from memory over TLS on a port of the loopback, everything allowed: for trying clients.
//!
//! `cargo run -p isopod-apiserver --example apiserver -- PORT DIR` writes `DIR/kubeconfig` and serves.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::sync::Arc;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let port: u16 = args.next().ok_or("give a port")?.parse()?;
    let dir = std::path::PathBuf::from(args.next().ok_or("give a directory")?);
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| "a TLS provider is set already")?;
    std::fs::create_dir_all(&dir)?;
    let key = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned(), "localhost".to_owned()])?;
    let chain = vec![key.cert.der().clone()];
    let private = rustls::pki_types::PrivateKeyDer::try_from(key.signing_key.serialize_der())?;
    let mut tls = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, private)?;
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let server =
        support::server_with(|layers| layers.authenticators = vec![Arc::new(support::Everyone)]).await;
    let kubeconfig = format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: a\n  cluster: {{server: 'https://127.0.0.1:{port}', insecure-skip-tls-verify: true}}\nusers:\n- name: a\n  user: {{token: any}}\ncontexts:\n- name: a\n  context: {{cluster: a, user: a}}\ncurrent-context: a\n"
    );
    std::fs::write(dir.join("kubeconfig"), kubeconfig)?;
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    let shutdown = tokio_util::sync::CancellationToken::new();
    server.serve(listener, Arc::new(tls), shutdown).await;
    Ok(())
}
