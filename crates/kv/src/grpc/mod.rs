//! [`Store`] over gRPC: a client of any etcd from 3.4 on.
//!
//! Every endpoint has one lazily made HTTP/2 connection, kept alive and remade by the transport. Requests go to the
//! current endpoint; when it cannot be reached the next one becomes current. Reads are tried once at every
//! endpoint; a write is never repeated by itself, since whether it took effect is unknown.

mod client;
mod rpc;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

pub use rpc::{method, unary};

use crate::{Error, Store};

/// How long the making of a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Idle time after which a connection is probed, so that a vanished machine is noticed.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// How long a probe may stay unanswered.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// What a server may send ahead on one stream, in bytes.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// What a server may send ahead on a connection, in bytes. The transport also bounds small frames by this, and takes
/// more of them for an attack: a window that begins small would end connections with many watches.
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// What a client needs for TLS; all of it PEM.
#[derive(Clone, Default)]
pub struct TlsConfig {
    /// Certificates of the authorities that may have signed the server's certificate.
    pub ca_pem: Vec<u8>,
    /// The client's certificate chain and private key, where the server asks for one.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// The name that the server's certificate must carry, where it is not the endpoint's host.
    pub server_name: Option<String>,
}

impl std::fmt::Debug for TlsConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The key stays out of logs.
        f.debug_struct("TlsConfig").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

/// Makes a store of the endpoints (`http://host:port` or `https://host:port`; a bare `host:port` gets the scheme
/// that `tls` implies). Nothing is dialled before the first request.
///
/// # Errors
/// An empty list, an endpoint that does not parse, or certificates that do not.
pub fn connect(endpoints: &[String], tls: Option<TlsConfig>) -> Result<Arc<dyn Store>, Error> {
    Ok(Arc::new(client::Client::new(channels(endpoints, tls.as_ref())?)))
}

/// The lazily connected channels behind [`connect`], for callers that use other services of etcd.
///
/// # Errors
/// As [`connect`].
pub fn channels(endpoints: &[String], tls: Option<&TlsConfig>) -> Result<Vec<Channel>, Error> {
    if endpoints.is_empty() {
        return Err(invalid("no etcd endpoint is given"));
    }
    endpoints.iter().map(|endpoint| channel(endpoint.trim(), tls)).collect()
}

fn channel(endpoint: &str, tls: Option<&TlsConfig>) -> Result<Channel, Error> {
    let url = match (endpoint.contains("://"), tls) {
        (true, _) => endpoint.to_owned(),
        (false, Some(_)) => format!("https://{endpoint}"),
        (false, None) => format!("http://{endpoint}"),
    };
    let secure = url.starts_with("https://");
    let bad = |error: &dyn std::fmt::Display| invalid(&format!("etcd endpoint {endpoint:?}: {error}"));
    let mut builder = Endpoint::from_shared(url)
        .map_err(|error| bad(&error))?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    if secure {
        let tls = tls.ok_or_else(|| bad(&"https needs a certificate authority"))?;
        builder = builder.tls_config(client_tls(tls)).map_err(|error| bad(&error))?;
    }
    Ok(builder.connect_lazy())
}

fn client_tls(tls: &TlsConfig) -> ClientTlsConfig {
    let mut config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&tls.ca_pem));
    if let Some((certificate, key)) = &tls.identity {
        config = config.identity(Identity::from_pem(certificate, key));
    }
    if let Some(name) = &tls.server_name {
        config = config.domain_name(name);
    }
    config
}

fn invalid(message: &str) -> Error {
    Error::other(crate::Code::InvalidArgument, message)
}
