//! Who belongs to the group: part of the replicated state, changed by entries of the log only.

use std::collections::{BTreeMap, BTreeSet};

use isopod_kv::{Error, Member};
use raft::eraftpb::ConfState;

/// Learners at once, as etcd's default: each is fed by the leader beside the voters.
const LEARNERS_MAX: usize = 1;

/// The members, and those that were removed, whose IDs never come back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Membership {
    members: BTreeMap<u64, Member>,
    removed: BTreeSet<u64>,
}

/// The membership in a checkpoint.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub(crate) struct StoredMembership {
    #[prost(message, repeated, tag = "1")]
    pub(crate) members: Vec<Member>,
    #[prost(uint64, repeated, tag = "2")]
    pub(crate) removed: Vec<u64>,
}

/// A change of membership, as in the log.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub(crate) struct StoredChange {
    /// The change. Absent only if it was made by a newer version.
    #[prost(oneof = "Change", tags = "1, 2, 3, 4, 5")]
    pub(crate) change: Option<Change>,
}

/// A change of membership.
#[derive(Clone, PartialEq, Eq, ::prost::Oneof)]
pub enum Change {
    /// A new member, as voter or learner. Its ID is chosen by whoever asks.
    #[prost(message, tag = "1")]
    Add(Member),
    /// The member of this ID goes, for ever.
    #[prost(uint64, tag = "2")]
    Remove(u64),
    /// A learner becomes a voter.
    #[prost(uint64, tag = "3")]
    Promote(u64),
    /// A member is reached under other peer URLs; of the member given, only those count.
    #[prost(message, tag = "4")]
    Update(Member),
    /// A member says its name and its client URLs; of the member given, only those count.
    #[prost(message, tag = "5")]
    Publish(Member),
}

impl Change {
    /// The member concerned.
    pub fn member_id(&self) -> u64 {
        match self {
            Change::Add(member) | Change::Update(member) | Change::Publish(member) => member.id,
            Change::Remove(id) | Change::Promote(id) => *id,
        }
    }

    /// Whether it changes who votes or follows, and so must pass through Raft one at a time.
    pub(crate) fn is_reconfiguration(&self) -> bool {
        matches!(self, Change::Add(_) | Change::Remove(_) | Change::Promote(_))
    }
}

impl Membership {
    pub(crate) fn new(members: impl IntoIterator<Item = Member>) -> Membership {
        let members = members.into_iter().map(|member| (member.id, member)).collect();
        Membership { members, removed: BTreeSet::new() }
    }

    pub(crate) fn load(stored: StoredMembership) -> Membership {
        Membership { removed: stored.removed.into_iter().collect(), ..Membership::new(stored.members) }
    }

    pub(crate) fn store(&self) -> StoredMembership {
        StoredMembership { members: self.list(), removed: self.removed.iter().copied().collect() }
    }

    pub(crate) fn list(&self) -> Vec<Member> {
        self.members.values().cloned().collect()
    }

    pub(crate) fn get(&self, id: u64) -> Option<&Member> {
        self.members.get(&id)
    }

    pub(crate) fn is_removed(&self, id: u64) -> bool {
        self.removed.contains(&id)
    }

    pub(crate) fn voters(&self) -> impl Iterator<Item = &Member> {
        self.members.values().filter(|member| !member.is_learner)
    }

    /// Whether this member is all there is.
    pub(crate) fn is_alone(&self, id: u64) -> bool {
        self.members.len() == 1 && self.members.get(&id).is_some_and(|member| !member.is_learner)
    }

    /// The same for Raft.
    pub(crate) fn conf_state(&self) -> ConfState {
        let learners = self.members.values().filter(|member| member.is_learner);
        ConfState {
            voters: self.voters().map(|member| member.id).collect(),
            learners: learners.map(|member| member.id).collect(),
            ..ConfState::default()
        }
    }

    /// Whether a change can be made as things are; the same on every member when it is applied.
    ///
    /// # Errors
    /// etcd's.
    pub(crate) fn check(&self, change: &Change) -> Result<(), Error> {
        let id = change.member_id();
        if self.is_removed(id) {
            return Err(Error::MemberNotFound);
        }
        let known = self.members.get(&id);
        match change {
            Change::Add(_) if known.is_some() => Err(Error::MemberExists),
            Change::Add(member) => {
                self.check_urls(member)?;
                let learners = self.members.values().filter(|member| member.is_learner).count();
                match member.is_learner && learners >= LEARNERS_MAX {
                    true => Err(Error::TooManyLearners),
                    false => Ok(()),
                }
            }
            Change::Promote(_) => match known {
                Some(member) if member.is_learner => Ok(()),
                Some(_) => Err(Error::MemberNotLearner),
                None => Err(Error::MemberNotFound),
            },
            _ if known.is_none() => Err(Error::MemberNotFound),
            Change::Update(member) => self.check_urls(member),
            // Nobody would be left to agree on anything.
            Change::Remove(_) if self.voters().all(|voter| voter.id == id) => {
                Err(Error::MemberNotEnoughStarted)
            }
            Change::Remove(_) | Change::Publish(_) => Ok(()),
        }
    }

    fn check_urls(&self, member: &Member) -> Result<(), Error> {
        let others = self.members.values().filter(|other| other.id != member.id);
        let taken = others.flat_map(|other| &other.peer_urls).any(|url| member.peer_urls.contains(url));
        if taken { Err(Error::PeerUrlExists) } else { Ok(()) }
    }

    /// Makes a change that [`Membership::check`] has found good.
    pub(crate) fn apply(&mut self, change: Change) {
        match change {
            Change::Add(member) => {
                self.members.insert(member.id, member);
            }
            Change::Remove(id) => {
                self.members.remove(&id);
                self.removed.insert(id);
            }
            Change::Promote(id) => {
                self.members.entry(id).and_modify(|member| member.is_learner = false);
            }
            Change::Update(Member { id, peer_urls, .. }) => {
                self.members.entry(id).and_modify(|member| member.peer_urls = peer_urls);
            }
            Change::Publish(Member { id, name, client_urls, .. }) => {
                self.members.entry(id).and_modify(|member| {
                    (member.name, member.client_urls) = (name, client_urls);
                });
            }
        }
    }
}

/// The rules of etcd's strict reconfiguration check that need no more than the list: whether enough members have
/// started (have said their name) for a change not to lose the quorum.
pub(crate) fn enough_started(membership: &Membership, change: &Change) -> bool {
    let started = |member: &&Member| !member.name.is_empty();
    match change {
        Change::Add(member) if member.is_learner => true,
        Change::Add(_) => {
            let (voters, started) =
                (membership.voters().count(), membership.voters().filter(started).count());
            (started == 1 && voters == 1) || started > voters.div_ceil(2)
        }
        Change::Promote(_) => {
            let (voters, started) =
                (membership.voters().count(), membership.voters().filter(started).count());
            started + 1 > voters.div_ceil(2)
        }
        Change::Remove(id) => {
            if membership.get(*id).is_some_and(|member| member.is_learner) {
                return true;
            }
            let rest = || membership.voters().filter(|voter| voter.id != *id);
            rest().filter(started).count() > rest().count() / 2
        }
        Change::Update(_) | Change::Publish(_) => true,
    }
}

/// The ID that etcd gives a member of a new group: from its peer URLs and the group's token.
pub fn member_id(peer_urls: &[String], token: &str) -> u64 {
    let mut urls = peer_urls.to_vec();
    urls.sort_unstable();
    digest((urls.concat() + token).as_bytes())
}

/// The ID that etcd gives a new group: from the IDs of its members.
pub fn cluster_id(member_ids: &[u64]) -> u64 {
    let mut ids = member_ids.to_vec();
    ids.sort_unstable();
    digest(&ids.iter().flat_map(|id| id.to_be_bytes()).collect::<Vec<_>>())
}

fn digest(bytes: &[u8]) -> u64 {
    let digest = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, bytes);
    u64::from_be_bytes(digest.as_ref()[..8].try_into().expect("twenty bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64) -> Member {
        Member {
            id,
            name: format!("m{id}"),
            peer_urls: vec![format!("http://h{id}:2380")],
            ..Member::default()
        }
    }

    fn three() -> Membership {
        Membership::new([member(1), member(2), member(3)])
    }

    #[test]
    fn changes_are_checked_as_etcd_does() {
        let mut group = three();
        assert_eq!(group.check(&Change::Add(member(1))), Err(Error::MemberExists));
        let twin = Member { id: 9, ..member(1) };
        assert_eq!(group.check(&Change::Add(twin.clone())), Err(Error::PeerUrlExists));
        assert_eq!(group.check(&Change::Update(Member { id: 2, ..twin })), Err(Error::PeerUrlExists));
        assert_eq!(group.check(&Change::Remove(7)), Err(Error::MemberNotFound));
        assert_eq!(group.check(&Change::Promote(1)), Err(Error::MemberNotLearner));
        let learner = Change::Add(Member { is_learner: true, ..member(4) });
        assert_eq!(group.check(&learner), Ok(()));
        group.apply(learner);
        assert_eq!(
            group.check(&Change::Add(Member { is_learner: true, ..member(5) })),
            Err(Error::TooManyLearners)
        );
        group.apply(Change::Promote(4));
        assert_eq!(group.voters().count(), 4);
        group.apply(Change::Remove(4));
        assert_eq!(group.check(&Change::Add(member(4))), Err(Error::MemberNotFound), "IDs do not come back");
        assert_eq!(Membership::load(group.store()), group);
        let alone = Membership::new([member(1)]);
        assert_eq!(alone.check(&Change::Remove(1)), Err(Error::MemberNotEnoughStarted));
    }

    #[test]
    fn a_change_that_loses_the_quorum_is_seen() {
        let mut group = three();
        assert!(enough_started(&group, &Change::Add(member(4))));
        assert!(enough_started(&group, &Change::Remove(1)));
        group.apply(Change::Publish(Member { name: String::new(), ..member(3) }));
        assert!(!enough_started(&group, &Change::Add(member(4))), "two of four are no majority");
        assert!(!enough_started(&group, &Change::Remove(1)));
        assert!(enough_started(&group, &Change::Remove(3)), "the one that never came may go");
        assert!(enough_started(&Membership::new([member(1)]), &Change::Add(member(2))));
    }

    /// The figures are those that etcd prints for these flags.
    #[test]
    fn ids_are_etcds() {
        let id = member_id(&["http://localhost:2380".to_owned()], "etcd-cluster");
        assert_eq!(format!("{id:x}"), "8e9e05c52164694d");
        assert_eq!(format!("{:x}", cluster_id(&[id])), "cdf818194e3a8c32");
    }
}
