//! Members against each other: one leader a term, one log, one state.

use std::collections::BTreeMap;

/// Members that disagree.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Disagreement {
    /// Two leaders of one term.
    #[error("members {first:x} and {second:x} both lead term {term}")]
    Leaders {
        /// The term.
        term: u64,
        /// The first leader.
        first: u64,
        /// The second.
        second: u64,
    },
    /// Two entries at one index.
    #[error(
        "after index {index}, member {member:x} is in another term or at another revision than member {first:x}"
    )]
    Entries {
        /// The index.
        index: u64,
        /// Who applied it first.
        first: u64,
        /// Who differs.
        member: u64,
    },
    /// One run of a member went back.
    #[error("member {member:x} went from index {last} back to {index}")]
    Back {
        /// The member.
        member: u64,
        /// What it has applied.
        index: u64,
        /// What it had applied before.
        last: u64,
    },
    /// Two histories.
    #[error("member {member:x} has other events at revision {revision} than were seen before")]
    Events {
        /// The revision.
        revision: i64,
        /// Who differs.
        member: u64,
    },
    /// Two states at one revision.
    #[error("members {first:x} and {member:x} have different hashes at revision {revision}")]
    Hashes {
        /// The revision.
        revision: i64,
        /// Who was asked first.
        first: u64,
        /// Who differs.
        member: u64,
    },
}

/// Collects what members do during a run, and complains at once.
#[derive(Clone, Debug, Default)]
pub struct Agreement {
    leaders: BTreeMap<u64, u64>,
    /// What a member was found with after an index: the index's term, the revision, and who it was.
    entries: BTreeMap<u64, (u64, i64, u64)>,
    /// The last index that each member's present run has applied.
    applied: BTreeMap<u64, u64>,
    /// Checksums of states by revision and compacted revision.
    hashes: BTreeMap<(i64, i64), (u32, u64)>,
}

impl Agreement {
    /// A member says that it leads a term.
    ///
    /// # Errors
    /// Another does as well.
    pub fn leads(&mut self, member: u64, term: u64) -> Result<(), Disagreement> {
        let first = *self.leaders.entry(term).or_insert(member);
        if first == member { Ok(()) } else { Err(Disagreement::Leaders { term, first, second: member }) }
    }

    /// A member begins a new run, with whatever its disk has kept.
    pub fn started(&mut self, member: u64) {
        self.applied.remove(&member);
    }

    /// A member has applied everything up to an index.
    ///
    /// # Errors
    /// It had been further, or another's state after this index is not the same.
    pub fn applied(&mut self, member: u64, index: u64, term: u64, revision: i64) -> Result<(), Disagreement> {
        let last = self.applied.insert(member, index).unwrap_or_default();
        if index < last {
            return Err(Disagreement::Back { member, index, last });
        }
        let (first_term, first_revision, first) =
            *self.entries.entry(index).or_insert((term, revision, member));
        if (first_term, first_revision) != (term, revision) {
            return Err(Disagreement::Entries { index, first, member });
        }
        Ok(())
    }

    /// A member's checksum of its state.
    ///
    /// # Errors
    /// Another's differs.
    pub fn hash(
        &mut self,
        member: u64,
        revision: i64,
        compacted: i64,
        hash: u32,
    ) -> Result<(), Disagreement> {
        let (first_hash, first) = *self.hashes.entry((revision, compacted)).or_insert((hash, member));
        if first_hash == hash { Ok(()) } else { Err(Disagreement::Hashes { revision, first, member }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_leader_a_term() {
        let mut agreement = Agreement::default();
        assert_eq!(agreement.leads(1, 5), Ok(()));
        assert_eq!(agreement.leads(1, 5), Ok(()));
        assert_eq!(agreement.leads(2, 6), Ok(()));
        assert_eq!(agreement.leads(2, 5), Err(Disagreement::Leaders { term: 5, first: 1, second: 2 }));
    }

    #[test]
    fn one_state_after_an_index_and_no_way_back() {
        let mut agreement = Agreement::default();
        assert_eq!(agreement.applied(1, 1, 1, 2), Ok(()));
        assert_eq!(agreement.applied(2, 1, 1, 2), Ok(()));
        assert_eq!(agreement.applied(1, 2, 1, 3), Ok(()));
        assert_eq!(
            agreement.applied(2, 2, 2, 3),
            Err(Disagreement::Entries { index: 2, first: 1, member: 2 })
        );
        assert_eq!(
            agreement.applied(3, 2, 1, 2),
            Err(Disagreement::Entries { index: 2, first: 1, member: 3 })
        );
        assert_eq!(agreement.applied(1, 1, 1, 2), Err(Disagreement::Back { member: 1, index: 1, last: 2 }));
        // A new run begins where its disk ends.
        agreement.started(1);
        assert_eq!(agreement.applied(1, 1, 1, 2), Ok(()));
    }

    #[test]
    fn one_state_a_revision() {
        let mut agreement = Agreement::default();
        assert_eq!(agreement.hash(1, 7, -1, 3), Ok(()));
        assert_eq!(agreement.hash(2, 7, -1, 3), Ok(()));
        // After a compaction the checksum covers less.
        assert_eq!(agreement.hash(2, 7, 5, 4), Ok(()));
        assert_eq!(
            agreement.hash(3, 7, 5, 5),
            Err(Disagreement::Hashes { revision: 7, first: 2, member: 3 })
        );
    }
}
