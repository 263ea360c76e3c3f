//! The way to other members, as the member's thread sees it.

use isopod_kv::Member;

use crate::member::{OutgoingSnapshot, PeerMessage};

/// Carries messages to peers. Nothing here waits: what cannot be sent is dropped, and said to be.
pub(crate) trait Transport: Send + Sync {
    /// Sends a message; false if it was dropped at once.
    fn send(&self, to: u64, message: PeerMessage) -> bool;

    /// Sends a snapshot, and reports what became of it.
    fn send_snapshot(&self, snapshot: OutgoingSnapshot);

    /// Tells who the members are, and where.
    fn set_members(&self, members: Vec<Member>);
}
