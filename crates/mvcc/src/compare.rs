//! The guards of a transaction.

use std::cmp::Ordering;

use isopod_kv::compare::{CompareResult, CompareTarget, TargetUnion};
use isopod_kv::{Compare, KeyValue};

use crate::history::History;
use crate::range::bounds;
use crate::state::State;

impl State {
    pub(crate) fn holds_all(&self, compares: &[Compare]) -> bool {
        compares.iter().all(|compare| self.holds(compare))
    }

    /// Whether all keys of the range satisfy the comparison.
    ///
    /// A key that does not exist compares as one whose numbers are all 0, but has no value to compare. An empty
    /// range counts as one such key.
    fn holds(&self, compare: &Compare) -> bool {
        if compare.range_end.is_empty() {
            return match self.live(&compare.key) {
                Some(record) => satisfies(compare, &record.kv),
                None => satisfies_absent(compare),
            };
        }
        let mut any = false;
        let Some(bounds) = bounds(&compare.key, &compare.range_end) else { return satisfies_absent(compare) };
        for record in self.keys.range::<[u8], _>(bounds).filter_map(|(_, history)| History::live(history)) {
            any = true;
            if !satisfies(compare, &record.kv) {
                return false;
            }
        }
        any || satisfies_absent(compare)
    }
}

fn satisfies_absent(compare: &Compare) -> bool {
    compare.target != CompareTarget::Value as i32 && satisfies(compare, &KeyValue::default())
}

fn satisfies(compare: &Compare, kv: &KeyValue) -> bool {
    let union = compare.target_union.as_ref();
    let ordering = match CompareTarget::try_from(compare.target) {
        Ok(CompareTarget::Value) => match union {
            Some(TargetUnion::Value(value)) => kv.value.cmp(value),
            _ => kv.value[..].cmp(&[]),
        },
        Ok(CompareTarget::Version) => {
            kv.version.cmp(&number(union, |union| matches!(union, TargetUnion::Version(_))))
        }
        Ok(CompareTarget::Create) => {
            kv.create_revision.cmp(&number(union, |union| matches!(union, TargetUnion::CreateRevision(_))))
        }
        Ok(CompareTarget::Mod) => {
            kv.mod_revision.cmp(&number(union, |union| matches!(union, TargetUnion::ModRevision(_))))
        }
        Ok(CompareTarget::Lease) => {
            kv.lease.cmp(&number(union, |union| matches!(union, TargetUnion::Lease(_))))
        }
        // An unknown target leaves nothing to compare, as in etcd.
        Err(_) => Ordering::Equal,
    };
    match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => ordering == Ordering::Equal,
        Ok(CompareResult::NotEqual) => ordering != Ordering::Equal,
        Ok(CompareResult::Greater) => ordering == Ordering::Greater,
        Ok(CompareResult::Less) => ordering == Ordering::Less,
        Err(_) => true,
    }
}

/// The number to compare with; 0 where the union is absent or holds that of another target.
fn number(union: Option<&TargetUnion>, of_target: impl Fn(&TargetUnion) -> bool) -> i64 {
    match union.filter(|union| of_target(union)) {
        Some(
            TargetUnion::Version(number)
            | TargetUnion::CreateRevision(number)
            | TargetUnion::ModRevision(number)
            | TargetUnion::Lease(number),
        ) => *number,
        _ => 0,
    }
}
