//! What can go wrong on a streaming connection.

/// A failure of a session.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection failed or was closed.
    #[error("connection: {0}")]
    Io(#[from] std::io::Error),
    /// The other end broke the protocol.
    #[error("protocol: {0}")]
    Protocol(String),
    /// The WebSocket layer failed.
    #[error("websocket: {0}")]
    WebSocket(Box<tokio_tungstenite::tungstenite::Error>),
    /// The other end did not do in time what the protocol asks of it.
    #[error("timed out: {0}")]
    Timeout(&'static str),
    /// The backend failed.
    #[error("{0}")]
    Backend(String),
}

impl From<tokio_tungstenite::tungstenite::Error> for Error {
    fn from(error: tokio_tungstenite::tungstenite::Error) -> Self {
        Self::WebSocket(Box::new(error))
    }
}

impl Error {
    pub(crate) fn protocol(message: impl std::fmt::Display) -> Self {
        Self::Protocol(message.to_string())
    }
}
