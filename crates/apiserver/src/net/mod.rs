//! Ways into the server: connections over TLS, and calls in this process.

pub mod in_process;
pub mod serve;
