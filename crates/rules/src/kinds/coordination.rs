//! Leases.

use super::Strategy;
use super::bounds::positive;
use super::check::{At, check};
use super::columns::Column;
use super::shared::str_at;

pub(super) const STRATEGIES: &[&Strategy] = &[&LEASE, &CANDIDATE];

const LEASE: Strategy = Strategy {
    group: "coordination.k8s.io",
    kind: "Lease",
    create_on_update: true,
    unconditional_update: false,
    validate: |lease, _| check(lease, |lease| rules(&lease)),
    validate_update: |lease, _, _| check(lease, |lease| rules(&lease)),
    columns: &[Column::text("Holder", "Who holds the lease.")],
    row: |lease, _| vec![str_at(lease, "spec.holderIdentity").into()],
    ..Strategy::DEFAULT
};

const CANDIDATE: Strategy = Strategy {
    group: "coordination.k8s.io",
    kind: "LeaseCandidate",
    create_on_update: true,
    unconditional_update: false,
    columns: &[
        Column::text("LeaseName", "Lease that is competed for."),
        Column::text("BinaryVersion", "Version of the candidate."),
        Column::text("EmulationVersion", "Version that the candidate behaves as."),
    ],
    row: |candidate, _| {
        ["spec.leaseName", "spec.binaryVersion", "spec.emulationVersion"]
            .map(|path| str_at(candidate, path).into())
            .to_vec()
    },
    ..Strategy::DEFAULT
};

fn rules(lease: &At<'_>) {
    let spec = lease.field("spec");
    positive(&spec.field("leaseDurationSeconds"));
    spec.field("leaseTransitions").not_negative();
    let strategy = spec.field("strategy");
    if !strategy.is_empty() && !strategy.str().contains('/') {
        strategy.one_of(&["OldestEmulationVersion"]);
    }
    if !spec.field("preferredHolder").is_empty() && strategy.is_empty() {
        spec.field("preferredHolder").forbidden("may only be specified when `strategy` is defined");
    }
}
