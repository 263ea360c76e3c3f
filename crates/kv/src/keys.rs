//! Key ranges as etcd encodes them: `[key, range_end)`, with two special ends.

use bytes::Bytes;

/// The `range_end` that stands for "to the end of the key space".
pub const FROM_KEY: &[u8] = &[0];

/// The `range_end` under which `prefix` as the key covers exactly the keys that begin with it.
///
/// A prefix of 0xff bytes only, or an empty one, has no successor: the range then runs to the end.
pub fn prefix_end(prefix: &[u8]) -> Bytes {
    match prefix.iter().rposition(|byte| *byte != 0xff) {
        Some(last) => {
            let mut end = prefix[..=last].to_vec();
            end[last] += 1;
            end.into()
        }
        None => Bytes::from_static(FROM_KEY),
    }
}

/// The `range_end` that, with `key`, covers only `key`, for places that need a true half-open range.
pub fn successor(key: &[u8]) -> Bytes {
    let mut end = Vec::with_capacity(key.len() + 1);
    end.extend_from_slice(key);
    end.push(0);
    end.into()
}

/// Whether `[start, end)` contains `key`; `end` as on the wire: empty for one key, [`FROM_KEY`] for no bound.
pub fn contains(start: &[u8], end: &[u8], key: &[u8]) -> bool {
    match end {
        [] => key == start,
        FROM_KEY => key >= start,
        end => key >= start && key < end,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_ends() {
        assert_eq!(prefix_end(b"/registry/pods/"), "/registry/pods0");
        assert_eq!(&prefix_end(b"a\xff\xff")[..], b"b");
        assert_eq!(&prefix_end(b"\xff")[..], FROM_KEY);
        assert_eq!(&prefix_end(b"")[..], FROM_KEY);
    }

    #[test]
    fn containment() {
        assert!(contains(b"a", b"", b"a") && !contains(b"a", b"", b"aa"));
        assert!(contains(b"a", b"\0", b"zz") && !contains(b"b", b"\0", b"a"));
        assert!(contains(b"a", b"c", b"bz") && !contains(b"a", b"c", b"c"));
    }
}
