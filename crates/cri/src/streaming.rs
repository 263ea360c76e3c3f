//! How a kubelet reaches the streaming server whose URLs `Exec`, `Attach` and `PortForward` answer.

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::Error;

/// A connection.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connection of any kind.
pub type BoxedIo = Box<dyn Io>;

/// Opens a connection to the streaming server of a runtime. HTTP/1.1 is spoken on it.
#[async_trait]
pub trait StreamingDial: Send + Sync + 'static {
    /// Connects to the authority of `url`.
    async fn dial(&self, url: &str) -> Result<BoxedIo, Error>;
}

/// Reaches streaming servers by TCP, as those of containerd and CRI-O are reached.
#[derive(Debug, Clone, Copy, Default)]
pub struct TcpDial;

#[async_trait]
impl StreamingDial for TcpDial {
    async fn dial(&self, url: &str) -> Result<BoxedIo, Error> {
        let uri: tonic::codegen::http::Uri =
            url.parse().map_err(|e| Error::invalid_argument(format!("streaming URL {url:?}: {e}")))?;
        if uri.scheme_str() != Some("http") {
            return Err(Error::invalid_argument(format!("streaming URL {url:?}: only http is supported")));
        }
        let authority = uri
            .authority()
            .ok_or_else(|| Error::invalid_argument(format!("streaming URL {url:?}: no host")))?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let stream = tokio::net::TcpStream::connect((host, authority.port_u16().unwrap_or(80)))
            .await
            .map_err(|e| Error::unavailable(format!("connect to {authority}: {e}")))?;
        stream.set_nodelay(true).map_err(|e| Error::unavailable(format!("connect to {authority}: {e}")))?;
        Ok(Box::new(stream))
    }
}
