//! Which ranges of keys a user may read and write: the sum of what the user's roles grant.

use bytes::Bytes;
use isopod_kv::permission::Type;
use isopod_kv::{Permission, keys};

/// Ranges of keys, merged: sorted, none touching the next. An end of none stands for no end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ranges(Vec<(Bytes, Option<Bytes>)>);

impl Ranges {
    fn new(mut ranges: Vec<(Bytes, Option<Bytes>)>) -> Ranges {
        ranges.sort_unstable();
        let mut merged: Vec<(Bytes, Option<Bytes>)> = Vec::with_capacity(ranges.len());
        for (start, end) in ranges {
            match merged.last_mut() {
                Some((_, last)) if last.as_ref().is_none_or(|last| start <= *last) => {
                    *last = last.take().zip(end).map(|(last, end)| last.max(end));
                }
                _ => merged.push((start, end)),
            }
        }
        Ranges(merged)
    }

    /// Whether all keys of a range, as on the wire, are in these ranges.
    fn cover(&self, key: &[u8], range_end: &[u8]) -> bool {
        let after = self.0.partition_point(|(start, _)| start[..] <= *key);
        let Some((_, end)) = after.checked_sub(1).map(|position| &self.0[position]) else { return false };
        match (end, range_end) {
            (None, _) => true,
            (Some(_), keys::FROM_KEY) => false,
            (Some(end), []) => key < &end[..],
            (Some(end), range_end) => key < &end[..] && range_end <= &end[..],
        }
    }
}

/// What a user may read and write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Permissions {
    read: Ranges,
    write: Ranges,
}

impl Permissions {
    /// The sum of permissions.
    pub(super) fn new<'a>(permissions: impl Iterator<Item = &'a Permission>) -> Permissions {
        let (mut read, mut write) = (Vec::new(), Vec::new());
        for permission in permissions {
            let range = (permission.key.clone(), end(permission));
            let kind = Type::try_from(permission.perm_type);
            if matches!(kind, Ok(Type::Read | Type::ReadWrite)) {
                read.push(range.clone());
            }
            if matches!(kind, Ok(Type::Write | Type::ReadWrite)) {
                write.push(range);
            }
        }
        Permissions { read: Ranges::new(read), write: Ranges::new(write) }
    }

    /// Whether a range, as on the wire, may be read.
    pub(super) fn may_read(&self, key: &[u8], range_end: &[u8]) -> bool {
        self.read.cover(key, range_end)
    }

    /// Whether a range, as on the wire, may be written.
    pub(super) fn may_write(&self, key: &[u8], range_end: &[u8]) -> bool {
        self.write.cover(key, range_end)
    }
}

/// Where a permission's range ends: one key ends at the next possible key.
fn end(permission: &Permission) -> Option<Bytes> {
    match &permission.range_end[..] {
        keys::FROM_KEY => None,
        [] => Some(keys::successor(&permission.key)),
        _ => Some(permission.range_end.clone()),
    }
}

/// Whether a grant names a range: one key, a range that is not empty, or one without an end.
pub(super) fn is_valid_range(key: &[u8], range_end: &[u8]) -> bool {
    !key.is_empty() && (range_end.is_empty() || key < range_end || range_end == keys::FROM_KEY)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(list: &[(&'static str, &'static str)]) -> Permissions {
        let permissions: Vec<Permission> = list
            .iter()
            .map(|(key, range_end)| Permission {
                perm_type: Type::Read as i32,
                key: Bytes::from_static(key.as_bytes()),
                range_end: Bytes::from_static(range_end.as_bytes()),
            })
            .collect();
        Permissions::new(permissions.iter())
    }

    #[test]
    fn ranges_are_merged() {
        let show = |list: &[(&'static str, &'static str)]| format!("{:?}", ranges(list).read.0);
        assert_eq!(show(&[("b", "d"), ("a", "c")]), r#"[(b"a", Some(b"d"))]"#);
        assert_eq!(show(&[("a", "b"), ("b", "c")]), r#"[(b"a", Some(b"c"))]"#);
        assert_eq!(show(&[("a", "z"), ("b", "c")]), r#"[(b"a", Some(b"z"))]"#);
        assert_eq!(show(&[("a", "b"), ("c", "d")]), r#"[(b"a", Some(b"b")), (b"c", Some(b"d"))]"#);
        assert_eq!(show(&[("a", "c"), ("b", "\0"), ("x", "y")]), r#"[(b"a", None)]"#);
        assert_eq!(show(&[("a", ""), ("a\0", "")]), r#"[(b"a", Some(b"a\0\0"))]"#);
    }

    #[test]
    fn a_range_must_be_covered_whole() {
        let permissions = ranges(&[("a", "c"), ("c", "e"), ("k", ""), ("x", "\0")]);
        let may = |key: &str, end: &str| permissions.may_read(key.as_bytes(), end.as_bytes());
        assert!(may("a", "") && may("a", "e") && may("b", "d") && may("k", "") && may("z", "\0"));
        assert!(may("x", "zz") && may("k", "k\0"));
        assert!(!may("a", "f") && !may("e", "") && !may("k", "l") && !may("0", "b") && !may("a", "\0"));
        assert!(!permissions.may_write(b"a", b""));
    }
}
