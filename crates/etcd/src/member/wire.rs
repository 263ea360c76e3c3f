//! What members say to each other.
//!
//! The format is ours: protobuf, one message a frame. Raft's own messages have a form of their own here, so that only
//! what a peer may say can be said: of Raft's message types those that are local to a member do not decode.

use bytes::Bytes;
use prost::Message;
use raft::eraftpb::{self, EntryType, MessageType};

/// A message from one member to another.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct PeerMessage {
    #[prost(uint64, tag = "1")]
    pub(crate) from: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) to: u64,
    #[prost(oneof = "Body", tags = "3, 4, 5, 6, 7, 8, 9")]
    pub(crate) body: Option<Body>,
}

/// What is said.
#[derive(Clone, PartialEq, ::prost::Oneof)]
pub(crate) enum Body {
    /// Raft's.
    #[prost(message, tag = "3")]
    Raft(Box<RaftMessage>),
    /// Proposals for the leader to put into the log.
    #[prost(message, tag = "4")]
    Propose(Propose),
    /// Proposals of the receiver that did not enter the log, since the sender does not lead (any more).
    #[prost(message, tag = "5")]
    Refused(Refused),
    /// Renew a lease: only the leader knows when it expires.
    #[prost(message, tag = "6")]
    KeepAlive(LeaseQuestion),
    #[prost(message, tag = "7")]
    KeptAlive(LeaseAnswer),
    /// How long does a lease live?
    #[prost(message, tag = "8")]
    TimeToLive(LeaseQuestion),
    #[prost(message, tag = "9")]
    Remaining(LeaseAnswer),
}

#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub(crate) struct Propose {
    /// Encoded proposals, in order.
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub(crate) proposals: Vec<Bytes>,
    /// Names this message in its refusal.
    #[prost(uint64, tag = "2")]
    pub(crate) number: u64,
}

#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub(crate) struct Refused {
    #[prost(uint64, repeated, tag = "1")]
    pub(crate) sequences: Vec<u64>,
    /// The text of the error with which they have failed for good; empty if they may be proposed again.
    #[prost(string, tag = "2")]
    pub(crate) error: String,
    /// The message that is refused.
    #[prost(uint64, tag = "3")]
    pub(crate) number: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, ::prost::Message)]
pub(crate) struct LeaseQuestion {
    #[prost(uint64, tag = "1")]
    pub(crate) sequence: u64,
    #[prost(int64, tag = "2")]
    pub(crate) lease: i64,
}

#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub(crate) struct LeaseAnswer {
    #[prost(uint64, tag = "1")]
    pub(crate) sequence: u64,
    /// The text of an error of etcd's; empty for none.
    #[prost(string, tag = "2")]
    pub(crate) error: String,
    /// As granted, in seconds.
    #[prost(int64, tag = "3")]
    pub(crate) granted_s: i64,
    /// What is left of it, in seconds.
    #[prost(int64, tag = "4")]
    pub(crate) remaining_s: i64,
}

#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub(crate) struct RaftMessage {
    #[prost(uint32, tag = "1")]
    kind: u32,
    #[prost(uint64, tag = "2")]
    pub(crate) term: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) log_term: u64,
    #[prost(uint64, tag = "4")]
    pub(crate) index: u64,
    #[prost(message, repeated, tag = "5")]
    entries: Vec<WireEntry>,
    #[prost(uint64, tag = "6")]
    commit: u64,
    #[prost(uint64, tag = "7")]
    commit_term: u64,
    #[prost(message, optional, tag = "8")]
    pub(crate) snapshot: Option<WireSnapshot>,
    #[prost(uint64, tag = "9")]
    request_snapshot: u64,
    #[prost(bool, tag = "10")]
    reject: bool,
    #[prost(uint64, tag = "11")]
    reject_hint: u64,
    #[prost(bytes = "bytes", tag = "12")]
    context: Bytes,
}

#[derive(Clone, PartialEq, Eq, ::prost::Message)]
struct WireEntry {
    #[prost(bool, tag = "1")]
    reconfiguration: bool,
    #[prost(uint64, tag = "2")]
    term: u64,
    #[prost(uint64, tag = "3")]
    index: u64,
    #[prost(bytes = "bytes", tag = "4")]
    data: Bytes,
}

/// The position of a snapshot, whose content travels apart.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub(crate) struct WireSnapshot {
    #[prost(uint64, tag = "1")]
    pub(crate) index: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) term: u64,
    #[prost(uint64, repeated, tag = "3")]
    voters: Vec<u64>,
    #[prost(uint64, repeated, tag = "4")]
    learners: Vec<u64>,
}

/// Message types that travel, under numbers of our own that never change.
const KINDS: [(u32, MessageType); 12] = [
    (1, MessageType::MsgAppend),
    (2, MessageType::MsgAppendResponse),
    (3, MessageType::MsgRequestVote),
    (4, MessageType::MsgRequestVoteResponse),
    (5, MessageType::MsgSnapshot),
    (6, MessageType::MsgHeartbeat),
    (7, MessageType::MsgHeartbeatResponse),
    (8, MessageType::MsgTimeoutNow),
    (9, MessageType::MsgReadIndex),
    (10, MessageType::MsgReadIndexResp),
    (11, MessageType::MsgRequestPreVote),
    (12, MessageType::MsgRequestPreVoteResponse),
];

impl PeerMessage {
    pub(crate) fn new(from: u64, to: u64, body: Body) -> PeerMessage {
        PeerMessage { from, to, body: Some(body) }
    }

    /// A message of Raft's, if it is of a kind that travels.
    pub(crate) fn raft(message: eraftpb::Message) -> Option<PeerMessage> {
        let (from, to) = (message.from, message.to);
        let message = RaftMessage::new(message)?;
        Some(PeerMessage::new(from, to, Body::Raft(Box::new(message))))
    }

    /// The sender.
    pub fn from(&self) -> u64 {
        self.from
    }

    /// The receiver.
    pub fn to(&self) -> u64 {
        self.to
    }

    /// As it travels.
    pub fn encode(&self) -> Bytes {
        self.encode_to_vec().into()
    }

    /// Reads what [`PeerMessage::encode`] made.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(bytes: Bytes) -> Result<PeerMessage, String> {
        let message = <PeerMessage as Message>::decode(bytes).map_err(|error| error.to_string())?;
        if message.body.is_none() {
            return Err("a message of an unknown kind".to_owned());
        }
        Ok(message)
    }

    /// The position of the snapshot that goes with this message.
    pub(crate) fn snapshot(&self) -> Option<&WireSnapshot> {
        match &self.body {
            Some(Body::Raft(raft)) => raft.snapshot.as_ref(),
            _ => None,
        }
    }
}

impl RaftMessage {
    fn new(mut message: eraftpb::Message) -> Option<RaftMessage> {
        let (kind, _) = KINDS.into_iter().find(|(_, kind)| *kind == message.get_msg_type())?;
        let entries = message.take_entries().into_iter().map(|mut entry| WireEntry {
            reconfiguration: entry.get_entry_type() != EntryType::EntryNormal,
            term: entry.term,
            index: entry.index,
            data: entry.take_data(),
        });
        let entries = entries.collect();
        let snapshot = message.has_snapshot().then(|| {
            let metadata = message.get_snapshot().get_metadata();
            WireSnapshot {
                index: metadata.index,
                term: metadata.term,
                voters: metadata.get_conf_state().voters.clone(),
                learners: metadata.get_conf_state().learners.clone(),
            }
        });
        Some(RaftMessage {
            kind,
            term: message.term,
            log_term: message.log_term,
            index: message.index,
            entries,
            commit: message.commit,
            commit_term: message.commit_term,
            snapshot,
            request_snapshot: message.request_snapshot,
            reject: message.reject,
            reject_hint: message.reject_hint,
            context: message.take_context(),
        })
    }

    /// The message for Raft; none if it is of no kind that travels, or says what its kind does not say.
    pub(crate) fn into_raft(self, from: u64, to: u64) -> Option<eraftpb::Message> {
        let (_, kind) = KINDS.into_iter().find(|(number, _)| *number == self.kind)?;
        if self.snapshot.is_some() != (kind == MessageType::MsgSnapshot) {
            return None;
        }
        let mut message = eraftpb::Message {
            from,
            to,
            term: self.term,
            log_term: self.log_term,
            index: self.index,
            commit: self.commit,
            commit_term: self.commit_term,
            request_snapshot: self.request_snapshot,
            reject: self.reject,
            reject_hint: self.reject_hint,
            context: self.context,
            ..eraftpb::Message::default()
        };
        message.set_msg_type(kind);
        message.set_entries(self.entries.into_iter().map(WireEntry::into_raft).collect());
        if let Some(snapshot) = self.snapshot {
            let metadata = message.mut_snapshot().mut_metadata();
            metadata.index = snapshot.index;
            metadata.term = snapshot.term;
            metadata.mut_conf_state().voters = snapshot.voters;
            metadata.mut_conf_state().learners = snapshot.learners;
        }
        Some(message)
    }
}

impl WireEntry {
    fn into_raft(self) -> eraftpb::Entry {
        let mut entry = eraftpb::Entry {
            term: self.term,
            index: self.index,
            data: self.data,
            ..eraftpb::Entry::default()
        };
        if self.reconfiguration {
            entry.set_entry_type(EntryType::EntryConfChange);
        }
        entry
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append() -> eraftpb::Message {
        let mut message =
            eraftpb::Message { from: 1, to: 2, term: 5, index: 9, commit: 8, ..Default::default() };
        message.set_msg_type(MessageType::MsgAppend);
        let mut entry = eraftpb::Entry { index: 10, term: 5, data: "abc".into(), ..Default::default() };
        entry.set_entry_type(EntryType::EntryConfChange);
        message.set_entries(vec![entry].into());
        message
    }

    #[test]
    fn raft_messages_round_trip() {
        let mut snapshot = eraftpb::Message { from: 1, to: 2, term: 5, ..Default::default() };
        snapshot.set_msg_type(MessageType::MsgSnapshot);
        let metadata = snapshot.mut_snapshot().mut_metadata();
        (metadata.index, metadata.term) = (7, 3);
        metadata.mut_conf_state().voters = vec![1, 2];
        for message in [append(), snapshot] {
            let sent = PeerMessage::raft(message.clone()).expect("it travels");
            let received = PeerMessage::decode(sent.encode()).expect("decodes");
            let Some(Body::Raft(raft)) = received.body else { panic!("another message") };
            assert_eq!(raft.into_raft(1, 2), Some(message));
        }
    }

    #[test]
    fn what_is_local_does_not_travel_and_rubbish_does_not_decode() {
        let mut local = eraftpb::Message::default();
        local.set_msg_type(MessageType::MsgHup);
        assert_eq!(PeerMessage::raft(local), None);
        let bytes = PeerMessage::raft(append()).expect("it travels").encode();
        for at in 0..bytes.len() {
            let mut damaged = bytes.to_vec();
            damaged[at] ^= 0x55;
            if let Ok(PeerMessage { body: Some(Body::Raft(raft)), .. }) = PeerMessage::decode(damaged.into())
            {
                let _ = raft.into_raft(1, 2);
            }
            let _ = PeerMessage::decode(bytes.slice(..at));
        }
    }
}
