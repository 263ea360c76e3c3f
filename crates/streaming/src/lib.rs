//! The streaming server of a container runtime: exec, attach and port-forward.
//!
//! The kubelet asks the runtime for a URL, and passes the client's connection through to it. Here that
//! connection is spoken with: WebSocket (`v5.channel.k8s.io` and older, and the SPDY tunnel of newer kubectl's
//! port-forward) or SPDY/3.1, which older clients speak. What is done with the streams is a [`Backend`]'s
//! business.
//!
//! A URL holds a token that works once and for a short time. Connections come from memory
//! ([`StreamingServer::dial`]) or from a TCP listener.

mod backend;
mod command;
mod error;
mod portforward;
mod server;
pub mod spdy;
mod status;
mod tokens;
mod websocket;

pub use backend::{Answer, Backend, Command, Input, Output, PortStream, Session, Streams, TerminalSize};
pub use error::Error;
pub use server::StreamingServer;
