//! Field ownership: which manager has set which fields (`metadata.managedFields`), and server-side apply.
//!
//! The algorithm is that of upstream's structured-merge-diff: an update gives its manager the fields it
//! changed; an apply makes the object hold what the configuration says, removes what the manager applied
//! before and nobody owns any more, and conflicts with fields that others own and it would change.

mod apply;
mod managers;
mod merge;
mod set;
mod walk;

pub use apply::{Applied, Conflict, apply, conflict_status};
pub use managers::{Managers, Who, record_update};
pub use set::FieldSet;
pub use walk::{Compared, compare, fields_of};
