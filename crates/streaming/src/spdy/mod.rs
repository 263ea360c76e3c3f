//! SPDY/3.1, as far as Kubernetes speaks it: streams that carry headers and bytes both ways.
//!
//! Windows are neither kept nor waited for: the only implementation among clients (moby/spdystream) has no
//! flow control beyond the connection's, and would never grant more. Header blocks are compressed with one
//! context for each direction, as the specification has it.

mod connection;
mod dictionary;
mod frame;
mod headers;

pub use connection::{Connection, Reader, Stream, Writer};
pub use frame::{Frame, FrameReader, FrameWriter};
pub use headers::Headers;
