//! Dynamic resources: v1beta1 has the fields of an exact request beside the request's name, and those of a device
//! below `basic`.

use crate::{Map, Value};

/// Fields of an exact request.
const EXACT: [&str; 7] =
    ["deviceClassName", "selectors", "allocationMode", "count", "adminAccess", "tolerations", "capacity"];

pub(super) fn reshape(map: &mut Map, kind: &str, from: &str, to: &str) {
    let (nest, flatten) = (from == "v1beta1" && to != "v1beta1", from != "v1beta1" && to == "v1beta1");
    if !nest && !flatten {
        return;
    }
    let Some(spec) = map.get_mut("spec") else { return };
    let claim = if kind == "ResourceClaimTemplate" { spec.get_mut("spec") } else { Some(spec) };
    let Some(spec) = claim else { return };
    if kind == "ResourceSlice" {
        objects(spec.get_mut("devices"))
            .for_each(|device| if nest { unwrap_basic(device) } else { wrap_basic(device) });
        return;
    }
    let requests = spec.get_mut("devices").and_then(|devices| devices.get_mut("requests"));
    objects(requests).for_each(|request| if nest { nest_exact(request) } else { flatten_exact(request) });
}

fn objects(list: Option<&mut Value>) -> impl Iterator<Item = &mut Map> {
    list.and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
}

fn nest_exact(request: &mut Map) {
    let mut exact = Map::new();
    for name in EXACT {
        if let Some(value) = request.remove(name) {
            exact.insert(name.to_owned(), value);
        }
    }
    let named = exact.get("deviceClassName").and_then(Value::as_str).is_some_and(|name| !name.is_empty());
    if named || exact.len() > 1 {
        request.insert("exactly".into(), Value::Object(exact));
    }
}

fn flatten_exact(request: &mut Map) {
    if let Some(Value::Object(exact)) = request.remove("exactly") {
        request.extend(exact);
    }
}

fn unwrap_basic(device: &mut Map) {
    if let Some(Value::Object(basic)) = device.remove("basic") {
        device.extend(basic);
    }
}

fn wrap_basic(device: &mut Map) {
    let name = device.remove("name");
    let basic = std::mem::take(device);
    device.extend(name.map(|name| ("name".to_owned(), name)));
    device.insert("basic".into(), Value::Object(basic));
}
