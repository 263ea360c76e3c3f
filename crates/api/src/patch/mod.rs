//! Patches: JSON patch (RFC 6902), JSON merge patch (RFC 7386) and Kubernetes' strategic merge patch.

mod json;
mod merge;
mod strategic;

pub use json::{OPERATIONS_MAX, json_patch};
pub use merge::merge_patch;
pub use strategic::strategic_merge_patch;

/// Why a patch could not be applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch itself is malformed; a client gets 400.
    #[error("{0}")]
    Malformed(String),
    /// The patch does not fit the document; a client gets 422.
    #[error("{0}")]
    Unprocessable(String),
}
