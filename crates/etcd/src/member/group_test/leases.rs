//! Leases in a group: the leader keeps them, and only while it is sure that it leads.

use isopod_kv::{Error, LeaseGrantRequest, LeaseRevokeRequest, PutRequest};
use isopod_mvcc::Op;

use super::super::{Input, Outcome};
use super::Group;

#[test]
fn leases_are_the_leaders_and_outlive_it() {
    let mut group = Group::new(3, 9);
    let (leader, follower) = (group.leader(), group.follower());
    group.propose(follower, Op::LeaseGrant(LeaseGrantRequest { id: 5, ttl: 10 })).unwrap();
    group.propose(follower, Op::Put(PutRequest { lease: 5, ..PutRequest::new("l", "1") })).unwrap();
    (0..80).for_each(|_| group.tick());
    let kept = group.ask(follower, |ticket| Input::KeepAlive { ticket, lease: 5 });
    assert_eq!(kept, Ok(Outcome::KeptAlive { ttl_s: 10 }));
    (0..80).for_each(|_| group.tick());
    assert!(group.value(follower, "l").is_some(), "it was renewed");
    group.crash(leader);
    let leader = group.leader();
    (0..80).for_each(|_| group.tick());
    assert!(group.value(leader, "l").is_some(), "a new leader gives it its time anew");
    let Ok(Outcome::Remaining { granted_s: 10, remaining_s }) =
        group.ask(leader, |ticket| Input::TimeToLive { ticket, lease: 5 })
    else {
        panic!("the lease is there")
    };
    assert!(remaining_s < 4);
    group.until("it expires", |group| group.value(leader, "l").is_none());
    let kept = group.ask(leader, |ticket| Input::KeepAlive { ticket, lease: 5 });
    assert_eq!(kept, Err(Error::LeaseNotFound));
}

/// A leader that is cut off may have been replaced: what it says of a lease would bind nobody.
#[test]
fn a_leader_that_is_cut_off_renews_nothing() {
    let mut group = Group::new(3, 10);
    let leader = group.leader();
    group.propose(leader, Op::LeaseGrant(LeaseGrantRequest { id: 5, ttl: 10 })).unwrap();
    group.cut.insert(leader);
    let tickets = [
        group.begin(leader, |ticket| Input::KeepAlive { ticket, lease: 5 }),
        group.begin(leader, |ticket| Input::TimeToLive { ticket, lease: 5 }),
    ];
    group.until("the questions end", |group| tickets.iter().all(|ticket| group.done.contains_key(ticket)));
    assert!(tickets.iter().all(|ticket| group.done[ticket].is_err()), "{:?}", group.done);
}

/// What a leader decided by its own clock does not outlive its term: the next leader has given the lease new time.
#[test]
fn a_revocation_decided_in_another_term_is_dropped() {
    let mut group = Group::new(3, 11);
    let (leader, follower) = (group.leader(), group.follower());
    group.propose(leader, Op::LeaseGrant(LeaseGrantRequest { id: 5, ttl: 100 })).unwrap();
    group.propose(leader, Op::Put(PutRequest { lease: 5, ..PutRequest::new("l", "1") })).unwrap();
    // As one that had led, and whose proposal was kept for the next leader.
    let revoke = Op::LeaseRevoke(LeaseRevokeRequest { id: 5 });
    group.members.get_mut(&follower).unwrap().propose_own(revoke.into());
    (0..10).for_each(|_| group.tick());
    assert!(group.value(leader, "l").is_some(), "the lease lives");
}
