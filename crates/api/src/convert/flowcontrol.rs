//! Priority levels: what is `nominalConcurrencyShares` since v1beta3 was `assuredConcurrencyShares` before.

use super::rename_fields;
use crate::{Map, Value};

pub(super) fn rename(level: &mut Map, from: &str, to: &str) {
    let old = |version: &str| matches!(version, "v1beta1" | "v1beta2");
    let limited =
        level.get_mut("spec").and_then(|spec| spec.get_mut("limited")).and_then(Value::as_object_mut);
    if let Some(limited) = limited.filter(|_| old(from) != old(to)) {
        rename_fields(limited, &[("assuredConcurrencyShares", "nominalConcurrencyShares")], old(from));
    }
}
