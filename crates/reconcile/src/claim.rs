//! Adoption and release of dependents by controller reference.
//!
//! An object without a controller whose labels match is adopted; a controlled object whose labels no longer match
//! is released. Adoption is guarded by a fresh read of the owner, so that an owner deleted behind a stale cache does
//! not gather dependents again.

use std::sync::Arc;

use serde_json::json;

use crate::meta::{Meta, alive, controller_ref};
use crate::plan::{Action, Object, PatchKind, Step, Target, Tolerate};

/// The dependents of an owner and what must be written to make it so.
#[derive(Debug)]
pub struct Claim<D> {
    /// Owned now or by the actions below.
    pub owned: Vec<Arc<D>>,
    /// Adoptions and releases.
    pub actions: Vec<Action>,
}

impl<D> Claim<D> {
    /// The writes as a step, if there are any.
    pub fn step(&mut self) -> Option<Step> {
        (!self.actions.is_empty()).then(|| Step::All(std::mem::take(&mut self.actions)))
    }
}

/// Sorts candidates (controlled by the owner, or orphans of its namespace) into owned and not.
/// `finalizer` is added to what is adopted and removed from what is released.
pub fn claim<O: Object, D: Object>(
    owner: &O,
    candidates: &[Arc<D>],
    matches: impl Fn(&D) -> bool,
    finalizer: Option<&str>,
) -> Claim<D> {
    let mut claim = Claim { owned: Vec::new(), actions: Vec::new() };
    for candidate in candidates {
        match candidate.controller() {
            Some(controller) if controller.uid != owner.uid() => {}
            Some(_) if matches(candidate) => claim.owned.push(candidate.clone()),
            Some(_) => {
                if !owner.deleting() {
                    claim.actions.push(release(owner, candidate.as_ref(), finalizer));
                }
            }
            None => {
                let same_namespace = owner.namespace() == candidate.namespace();
                if !owner.deleting() && !candidate.deleting() && same_namespace && matches(candidate) {
                    claim.actions.push(adopt(owner, candidate.as_ref(), finalizer));
                    claim.owned.push(candidate.clone());
                }
            }
        }
    }
    claim
}

/// The patch that makes `owner` the controller of `object`.
pub fn adopt<O: Object, D: Object>(owner: &O, object: &D, finalizer: Option<&str>) -> Action {
    let mut metadata = json!({ "uid": object.uid(), "ownerReferences": [controller_ref(owner)] });
    if let Some(finalizer) = finalizer {
        metadata["finalizers"] = json!([finalizer]);
    }
    Action::patch(Target::of(object), PatchKind::Strategic, json!({ "metadata": metadata }))
        .guarded(alive(owner))
        .tolerating(Tolerate { not_found: true, ..Tolerate::default() })
}

/// The patch that removes `owner` from the owners of `object`.
pub fn release<O: Object, D: Object>(owner: &O, object: &D, finalizer: Option<&str>) -> Action {
    let mut metadata =
        json!({ "uid": object.uid(), "ownerReferences": [{ "$patch": "delete", "uid": owner.uid() }] });
    if let Some(finalizer) = finalizer {
        metadata["$deleteFromPrimitiveList/finalizers"] = json!([finalizer]);
    }
    // A changed uid makes the patch invalid: then the object is another one, and there is nothing to release.
    Action::patch(Target::of(object), PatchKind::Strategic, json!({ "metadata": metadata }))
        .tolerating(Tolerate { not_found: true, invalid: true, ..Tolerate::default() })
}
