//! The cluster's own certificates and keys: made at first start, kept in `<data>/pki`, renewed in time.
//!
//! - Separate authorities for clients, serving, etcd and front proxy: a certificate of one is worth nothing to
//!   another.
//! - [`ensure`] is idempotent: it makes what is missing, renews what has less than a third of its life left or no
//!   longer fits (a new node address, say), and says what changed. It is called at start and then now and again.
//! - Directories are 0700 and files 0600; a file is written beside its place, synced and renamed, so it is there
//!   whole or not at all. A file that is there but cannot be used is an error that names it, never replaced: it
//!   may be the only copy of a key that others trust.
//! - Keys are ECDSA P-256: strong, and made in microseconds.

mod authority;
mod error;
mod files;
mod kubeconfig;
mod layout;
mod leaf;
mod request;
pub mod tls;

pub use authority::{Authority, RequestedUsage};
pub use error::Error;
pub use files::write_private;
pub use kubeconfig::{Credentials, kubeconfig};
pub use layout::{Config, Pki, ensure};
pub use leaf::{Identity, Leaf};
pub use request::{RequestedNames, certificate_request, requested_names};
