//! The wire format of protocol buffers.

use super::ProtoError;

pub(super) const VARINT: u8 = 0;
pub(super) const FIXED64: u8 = 1;
pub(super) const BYTES: u8 = 2;
pub(super) const FIXED32: u8 = 5;

pub(super) fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn tag(out: &mut Vec<u8>, field: u16, wire: u8) {
    varint(out, u64::from(field) << 3 | u64::from(wire));
}

pub(super) fn number(out: &mut Vec<u8>, field: u16, value: i64) {
    tag(out, field, VARINT);
    varint(out, value as u64);
}

pub(super) fn double(out: &mut Vec<u8>, field: u16, value: f64) {
    tag(out, field, FIXED64);
    out.extend_from_slice(&value.to_le_bytes());
}

pub(super) fn bytes(out: &mut Vec<u8>, field: u16, value: &[u8]) {
    tag(out, field, BYTES);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

pub(super) fn string(out: &mut Vec<u8>, field: u16, value: &str) {
    bytes(out, field, value.as_bytes());
}

/// Writes a message whose length is known only after it is written: one byte is left for the length, and the few
/// messages of 128 bytes and more are shifted.
pub(super) fn message(out: &mut Vec<u8>, field: u16, write: impl FnOnce(&mut Vec<u8>)) {
    tag(out, field, BYTES);
    let start = out.len();
    out.push(0);
    write(out);
    let length = out.len() - start - 1;
    if length < 0x80 {
        out[start] = length as u8;
        return;
    }
    let mut prefix = Vec::with_capacity(5);
    varint(&mut prefix, length as u64);
    let extra = prefix.len() - 1;
    out.resize(out.len() + extra, 0);
    out.copy_within(start + 1..start + 1 + length, start + 1 + extra);
    out[start..start + prefix.len()].copy_from_slice(&prefix);
}

/// One field as it is on the wire.
pub(super) enum Raw<'b> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'b [u8]),
}

/// Reads the fields of a message.
pub(super) struct Reader<'b> {
    rest: &'b [u8],
}

impl<'b> Reader<'b> {
    pub(super) fn new(bytes: &'b [u8]) -> Self {
        Reader { rest: bytes }
    }

    fn varint(&mut self) -> Result<u64, ProtoError> {
        let mut value = 0u64;
        for at in 0..10 {
            let byte = *self.rest.get(at).ok_or(ProtoError::Truncated)?;
            value |= u64::from(byte & 0x7f) << (7 * at);
            if byte < 0x80 {
                self.rest = &self.rest[at + 1..];
                return Ok(value);
            }
        }
        Err(ProtoError::Overflow)
    }

    fn take(&mut self, length: usize) -> Result<&'b [u8], ProtoError> {
        if length > self.rest.len() {
            return Err(ProtoError::Truncated);
        }
        let (taken, rest) = self.rest.split_at(length);
        self.rest = rest;
        Ok(taken)
    }

    /// The next field, or `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<(u32, Raw<'b>)>, ProtoError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let field = u32::try_from(key >> 3).map_err(|_| ProtoError::Overflow)?;
        let raw = match (key & 7) as u8 {
            VARINT => Raw::Varint(self.varint()?),
            FIXED64 => {
                let bytes = self.take(8)?;
                Raw::Fixed64(u64::from_le_bytes(bytes.try_into().expect("eight bytes were taken")))
            }
            BYTES => {
                let length = usize::try_from(self.varint()?).map_err(|_| ProtoError::Overflow)?;
                Raw::Bytes(self.take(length)?)
            }
            FIXED32 => {
                let bytes = self.take(4)?;
                Raw::Varint(u32::from_le_bytes(bytes.try_into().expect("four bytes were taken")).into())
            }
            wire => return Err(ProtoError::WireType { wire, field }),
        };
        Ok(Some((field, raw)))
    }
}
