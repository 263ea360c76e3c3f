//! Server-side apply, and the record of who manages which fields.

use isopod_api::Value;
use isopod_api::status::Status;

use crate::registry::update::Updated;
use crate::registry::write::{Part, Write};

/// Serves an apply patch.
pub(crate) async fn serve(_write: &Write<'_>, _part: Part, _document: &[u8]) -> Result<Updated, Status> {
    Err(Status::unsupported_media_type(
        "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json",
    ))
}

impl Write<'_> {
    /// Records in `metadata.managedFields` what the write changed.
    pub(crate) fn record_fields(&self, _new: &mut Value, _old: Option<&Value>) {}
}
