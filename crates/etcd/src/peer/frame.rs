//! Messages in a stream of bytes: a length of four bytes, then the message.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::member::PeerMessage;

/// Largest message that is read, in bytes: an append carries half a megabyte, or one entry, which is bounded by the
/// largest record of the log.
const MESSAGE_MAX_BYTES: usize = crate::config::MAX_RECORD_BYTES + (1 << 20);

/// A message as it travels.
pub(super) fn encode(message: &PeerMessage) -> Bytes {
    let message = message.encode();
    let mut frame = BytesMut::with_capacity(4 + message.len());
    frame.put_u32(message.len() as u32);
    frame.put_slice(&message);
    frame.freeze()
}

/// Finds messages in what arrives.
#[derive(Default)]
pub(super) struct Frames {
    buffer: BytesMut,
}

impl Frames {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next message and its size, if it is there whole.
    ///
    /// # Errors
    /// It is too large, or none.
    pub(super) fn next(&mut self) -> Result<Option<(PeerMessage, usize)>, String> {
        let Some(mut head) = self.buffer.get(..4) else { return Ok(None) };
        let length = head.get_u32() as usize;
        if length > MESSAGE_MAX_BYTES {
            return Err(format!("a message of {length} bytes"));
        }
        if self.buffer.len() < 4 + length {
            return Ok(None);
        }
        self.buffer.advance(4);
        let message = self.buffer.split_to(length).freeze();
        PeerMessage::decode(message).map(|message| Some((message, length)))
    }

    /// What follows the messages found so far.
    pub(super) fn rest(self) -> Bytes {
        self.buffer.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_found_in_pieces_and_large_ones_refused() {
        let mut frames = Frames::default();
        frames.push(&[0, 0]);
        assert_eq!(frames.next(), Ok(None));
        frames.push(&[0, 3, 1]);
        assert_eq!(frames.next(), Ok(None));
        frames.push(&[2, 3]);
        assert!(frames.next().is_err(), "not a message");
        let mut frames = Frames::default();
        frames.push(&u32::MAX.to_be_bytes());
        assert!(frames.next().is_err());
    }
}
