//! The revision that holds the DaemonSet's present template.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, DaemonSetSpec};

use crate::history::{self, REVISION_HASH};
use crate::meta::{Meta, set_label};
use crate::plan::{Action, Plan, Tolerate};

/// The present revision's hash, and a renumbering if an old template came back.
pub(super) struct Current {
    pub(super) hash: String,
    pub(super) update: Option<Action>,
}

/// Finds the present revision; the error is the creation of one.
pub(super) fn current(
    set: &DaemonSet,
    spec: &DaemonSetSpec,
    revisions: &[Arc<ControllerRevision>],
) -> Result<Current, Box<Action>> {
    let data = history::data(&spec.template);
    let matching = revisions.iter().filter(|revision| history::holds(revision, &data));
    let highest = history::next_number(revisions) - 1;
    let Some(found) = matching.max_by_key(|revision| revision.revision) else {
        let collisions = set.status.as_ref().and_then(|status| status.collision_count);
        let new = history::make(set, &spec.template, highest + 1, collisions, REVISION_HASH);
        let tolerate = Tolerate { terminating: true, already_exists: true, ..Tolerate::default() };
        return Err(Box::new(Action::create(&new).tolerating(tolerate)));
    };
    let label = found.labels().get(REVISION_HASH).cloned();
    let hash = label.clone().unwrap_or_else(|| {
        history::hash(&data, set.status.as_ref().and_then(|status| status.collision_count))
    });
    let stale = found.revision < highest || label.is_none();
    let update = stale.then(|| {
        let mut copy = found.as_ref().clone();
        copy.revision = if found.revision < highest { highest + 1 } else { found.revision };
        set_label(&mut copy.metadata, REVISION_HASH, hash.clone());
        Action::update(&copy)
    });
    Ok(Current { hash, update })
}

/// Plans the creation of a revision. A name that is taken is a collision: the next hash avoids it.
pub(super) fn create(plan: &mut Plan, set: &Arc<DaemonSet>, create: Action) {
    plan.push(create);
    let set = set.clone();
    plan.then = Some(Box::new(move |outcome| {
        let mut next = Plan::nothing();
        let taken = matches!(outcome.results.last(), Some(Err(error)) if error.is_already_exists());
        if taken {
            let mut copy = set.as_ref().clone();
            let status = copy.status.get_or_insert_default();
            status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
            next.push(Action::update_status(&copy));
            next.retry = true;
        }
        next
    }));
}
