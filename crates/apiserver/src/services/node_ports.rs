//! Node ports of Services: a bitmap in the store, changed by compare and swap, as upstream keeps it
//! (`/registry/ranges/servicenodeports`, a `RangeAllocation`).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use isopod_api::codec::proto;
use isopod_api::status::Status;
use isopod_kv::{Compare, PutRequest, TxnRequest};
use rand::Rng as _;
use serde_json::json;

use crate::limits;
use crate::registry::storage::{get_kv, store_error};
use crate::server::ApiServer;

/// The ports of a range that are taken; bit `i` stands for the `i`-th port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bitmap {
    first: u16,
    len: usize,
    taken: Vec<bool>,
}

/// Why a port was not got.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Somebody has it.
    Taken,
    /// It is not in the range.
    OutOfRange(String),
    /// None is left.
    Full,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refused::Taken => f.write_str("provided port is already allocated"),
            Refused::OutOfRange(range) => {
                write!(f, "provided port is not in the valid range. The range of valid ports is {range}")
            }
            Refused::Full => f.write_str("range is full"),
        }
    }
}

impl Bitmap {
    pub(crate) fn new(range: &std::ops::RangeInclusive<u16>) -> Bitmap {
        let len = usize::from(range.end() - range.start()) + 1;
        Bitmap { first: *range.start(), len, taken: vec![false; len] }
    }

    /// Upstream's form: a big-endian number, as short as it gets.
    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0u8; self.len.div_ceil(8)];
        let last = bytes.len() - 1;
        for (i, _) in self.taken.iter().enumerate().filter(|(_, t)| **t) {
            bytes[last - i / 8] |= 1 << (i % 8);
        }
        let zeros = bytes.iter().take_while(|b| **b == 0).count();
        bytes.split_off(zeros)
    }

    fn from_bytes(range: &std::ops::RangeInclusive<u16>, bytes: &[u8]) -> Bitmap {
        let mut bitmap = Bitmap::new(range);
        for i in 0..bitmap.len {
            let byte = bytes.len().checked_sub(1 + i / 8).map_or(0, |at| bytes[at]);
            bitmap.taken[i] = byte >> (i % 8) & 1 == 1;
        }
        bitmap
    }

    fn index(&self, port: u16) -> Option<usize> {
        let at = usize::from(port.checked_sub(self.first)?);
        (at < self.len).then_some(at)
    }

    /// Ports that are taken.
    pub(crate) fn ports(&self) -> Vec<u16> {
        let first = usize::from(self.first);
        self.taken
            .iter()
            .enumerate()
            .filter(|(_, t)| **t)
            .filter_map(|(i, _)| u16::try_from(first + i).ok())
            .collect()
    }

    /// Takes a port.
    pub(crate) fn take(&mut self, port: u16) -> Result<(), Refused> {
        let Some(at) = self.index(port) else {
            return Err(Refused::OutOfRange(format!(
                "{}-{}",
                self.first,
                usize::from(self.first) + self.len - 1
            )));
        };
        if std::mem::replace(&mut self.taken[at], true) { Err(Refused::Taken) } else { Ok(()) }
    }

    /// Takes any free port, from a random place on.
    pub(crate) fn take_any(&mut self) -> Result<u16, Refused> {
        let start = rand::rng().random_range(0..self.len);
        let free = (start..self.len).chain(0..start).find(|i| !self.taken[*i]).ok_or(Refused::Full)?;
        self.taken[free] = true;
        u16::try_from(usize::from(self.first) + free).map_err(|_| Refused::Full)
    }

    /// Gives a port back.
    pub(crate) fn give_back(&mut self, port: u16) {
        if let Some(at) = self.index(port) {
            self.taken[at] = false;
        }
    }
}

impl ApiServer {
    /// Changes the bitmap in the store. `change` may be called again when another server was faster.
    pub(crate) async fn with_node_ports<T: Send>(
        &self,
        mut change: impl FnMut(&mut Bitmap) -> Result<T, Refused> + Send,
    ) -> Result<Result<T, Refused>, Status> {
        let range = &self.config.node_ports;
        let store = &*self.registry().store;
        let key = format!("/{}/ranges/servicenodeports", self.config.storage_prefix);
        for _ in 0..limits::UPDATE_RETRIES_MAX * 4 {
            let kv = get_kv(store, key.clone()).await?;
            let bytes = match &kv {
                Some(kv) => stored_bits(&kv.value)?,
                None => Vec::new(),
            };
            let before = Bitmap::from_bytes(range, &bytes);
            let mut bitmap = before.clone();
            let result = match change(&mut bitmap) {
                Ok(result) => result,
                Err(refused) => return Ok(Err(refused)),
            };
            if bitmap == before {
                return Ok(Ok(result));
            }
            let object = json!({"kind": "RangeAllocation", "apiVersion": "v1", "metadata": {},
                "range": format!("{}-{}", range.start(), range.end()), "data": STANDARD.encode(bitmap.to_bytes())});
            let facts = isopod_api::facts::builtin().kind("", "v1", "RangeAllocation");
            let facts = facts.ok_or_else(|| Status::internal("no RangeAllocation"))?;
            let put = PutRequest::new(key.clone(), Bytes::from(proto::encode(facts, &object)));
            let expected = kv.map_or(0, |kv| kv.mod_revision);
            let compare = Compare::mod_revision_is(key.clone(), expected);
            let txn = TxnRequest::new(vec![compare], vec![put.into()], Vec::new());
            if store.txn(txn).await.map_err(|e| store_error(&e))?.succeeded {
                return Ok(Ok(result));
            }
        }
        Err(Status::service_unavailable("node ports are being allocated by too many at once").retry_after(1))
    }
}

fn stored_bits(value: &[u8]) -> Result<Vec<u8>, Status> {
    let object = if value.starts_with(b"k8s\0") {
        proto::decode(value).map_err(Status::internal)?.value
    } else {
        serde_json::from_slice(value).map_err(Status::internal)?
    };
    STANDARD.decode(object["data"].as_str().unwrap_or_default()).map_err(Status::internal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_a_big_endian_number() {
        let range = 30_000..=30_099;
        let mut bitmap = Bitmap::new(&range);
        assert_eq!(bitmap.take(30_001), Ok(()));
        assert_eq!(bitmap.take(30_009), Ok(()));
        assert_eq!(bitmap.take(30_009), Err(Refused::Taken));
        assert_eq!(bitmap.to_bytes(), [0b10, 0b10]);
        assert_eq!(Bitmap::from_bytes(&range, &bitmap.to_bytes()), bitmap);
        assert!(matches!(bitmap.take(29_999), Err(Refused::OutOfRange(r)) if r == "30000-30099"));
        for _ in 0..98 {
            bitmap.take_any().unwrap();
        }
        assert_eq!(bitmap.take_any(), Err(Refused::Full));
    }
}
