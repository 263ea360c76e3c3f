//! What an entry of the log carries: who proposed it, under what number, and what.
//!
//! The member that took a request answers it when it applies the entry, wherever the leader was. It finds the request
//! by origin and sequence; sequences are unique over restarts, since an entry may outlive the process that made it.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use isopod_mvcc::Command;
use prost::Message;

use super::membership::StoredChange;

/// One entry's content. Encoded: kind u8, origin u64, sequence u64, payload.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Proposal {
    /// The member that proposed it.
    pub(crate) origin: u64,
    pub(crate) sequence: u64,
    pub(crate) payload: Payload,
}

/// What is proposed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Payload {
    Command(Command),
    Change(StoredChange),
}

const HEAD_BYTES: usize = 17;
/// Kinds of payloads. A kind is never given a new meaning; an unknown one stops a member, like an unknown command.
const COMMAND: u8 = 1;
const CHANGE: u8 = 2;

impl Proposal {
    pub(crate) fn encode(&self) -> Bytes {
        let (kind, length) = match &self.payload {
            Payload::Command(command) => (COMMAND, command.encoded_len()),
            Payload::Change(change) => (CHANGE, change.encoded_len()),
        };
        let mut bytes = BytesMut::with_capacity(HEAD_BYTES + length);
        bytes.put_u8(kind);
        bytes.put_u64_le(self.origin);
        bytes.put_u64_le(self.sequence);
        match &self.payload {
            Payload::Command(command) => command.encode(&mut bytes),
            Payload::Change(change) => change.encode(&mut bytes),
        }
        .expect("a buffer of the right size");
        bytes.freeze()
    }

    /// Origin and sequence, without a look at the rest.
    pub(crate) fn head(data: &[u8]) -> Option<(u64, u64)> {
        let mut head = data.get(1..HEAD_BYTES)?;
        Some((head.get_u64_le(), head.get_u64_le()))
    }

    /// # Errors
    /// What is wrong with it.
    pub(crate) fn decode(data: &[u8]) -> Result<Proposal, String> {
        let (origin, sequence) = Proposal::head(data).ok_or("the proposal is too short")?;
        // From a slice: keys and values are copied, and the entry can go.
        let payload = &data[HEAD_BYTES..];
        let payload = match data[0] {
            COMMAND => Payload::Command(command(payload)?),
            CHANGE => Payload::Change(change(payload)?),
            kind => return Err(format!("a proposal of kind {kind} is unknown to this version")),
        };
        Ok(Proposal { origin, sequence, payload })
    }

    /// The content of an entry of the log's first version, which was a command alone.
    pub(crate) fn of_version_1(command: &[u8]) -> Vec<u8> {
        let mut data = vec![0; HEAD_BYTES];
        data[0] = COMMAND;
        data.extend_from_slice(command);
        data
    }
}

fn command(payload: &[u8]) -> Result<Command, String> {
    let command =
        Command::decode(payload).map_err(|error| format!("the command does not decode: {error}"))?;
    // An unknown operation decodes to none. A member that skipped it would differ from the others from here on.
    if command.op.is_none() && !payload.is_empty() {
        return Err("the command is unknown to this version".to_owned());
    }
    Ok(command)
}

fn change(payload: &[u8]) -> Result<StoredChange, String> {
    let change =
        StoredChange::decode(payload).map_err(|error| format!("the change does not decode: {error}"))?;
    if change.change.is_none() {
        return Err("the change of membership is unknown to this version".to_owned());
    }
    Ok(change)
}

#[cfg(test)]
mod tests {
    use isopod_kv::PutRequest;
    use isopod_mvcc::Op;

    use super::super::membership::Change;
    use super::*;

    #[test]
    fn proposals_round_trip_and_rubbish_is_refused() {
        let put = Payload::Command(Op::Put(PutRequest::new("a", "1")).into());
        let remove = Payload::Change(StoredChange { change: Some(Change::Remove(7)) });
        for payload in [put, remove] {
            let proposal = Proposal { origin: 3, sequence: 1 << 40, payload };
            let data = proposal.encode();
            assert_eq!(Proposal::head(&data), Some((3, 1 << 40)));
            assert_eq!(Proposal::decode(&data), Ok(proposal));
            for length in 0..data.len() {
                let _ = Proposal::decode(&data[..length]);
            }
        }
        assert!(Proposal::decode(&[9; 30]).is_err());
        let unknown = [&[COMMAND][..], &[0; 16], &[0xfa, 0x7f, 0]].concat();
        assert!(Proposal::decode(&unknown).unwrap_err().contains("unknown to this version"));
    }
}
