//! JSON patch, RFC 6902, over JSON pointers, RFC 6901.

use super::PatchError;
use crate::Value;

/// Most operations of one patch; upstream's limit, which bounds the work that a request can ask for.
pub const OPERATIONS_MAX: usize = 10_000;

/// Applies the operations of `patch` in order; `document` is changed only when all of them succeed.
pub fn json_patch(document: &mut Value, patch: &Value) -> Result<(), PatchError> {
    let Value::Array(operations) = patch else {
        return Err(malformed("json patch is not a list of operations"));
    };
    if operations.len() > OPERATIONS_MAX {
        return Err(malformed(format!(
            "The allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, got {}",
            operations.len()
        )));
    }
    let mut work = document.clone();
    for operation in operations {
        apply(&mut work, operation)?;
    }
    *document = work;
    Ok(())
}

fn malformed(text: impl Into<String>) -> PatchError {
    PatchError::Malformed(text.into())
}

fn apply(document: &mut Value, operation: &Value) -> Result<(), PatchError> {
    let text = |key: &str| {
        operation
            .get(key)
            .and_then(Value::as_str)
            .ok_or_else(|| malformed(format!("json patch operation lacks {key:?}")))
    };
    let value =
        || operation.get("value").cloned().ok_or_else(|| malformed("json patch operation lacks \"value\""));
    let path = text("path")?;
    match text("op")? {
        "add" => add(document, path, value()?),
        "remove" => remove(document, path, "remove").map(drop),
        "replace" => {
            let slot = pointer_mut(document, path).ok_or_else(|| missing("replace", path))?;
            *slot = value()?;
            Ok(())
        }
        "move" => {
            let from = text("from")?;
            if path.strip_prefix(from).is_some_and(|rest| rest.starts_with('/')) {
                return Err(unfit(format!("move operation cannot put {from:?} into itself")));
            }
            let moved = remove(document, from, "move")?;
            add(document, path, moved)
        }
        "copy" => {
            let from = text("from")?;
            let copied = document.pointer(from).cloned().ok_or_else(|| missing("copy", from))?;
            add(document, path, copied)
        }
        "test" => {
            let wanted = operation.get("value").unwrap_or(&Value::Null);
            if document.pointer(path).unwrap_or(&Value::Null) == wanted {
                Ok(())
            } else {
                Err(unfit(format!("testing value {path} failed: test failed")))
            }
        }
        other => Err(malformed(format!("unexpected kind of json patch operation: {other}"))),
    }
}

fn unfit(text: String) -> PatchError {
    PatchError::Unprocessable(format!(
        "the server rejected our request due to an error in our request: {text}"
    ))
}

fn missing(operation: &str, path: &str) -> PatchError {
    unfit(format!("{operation} operation does not apply: doc is missing path: {path}"))
}

fn split(path: &str) -> Option<(&str, String)> {
    let at = path.rfind('/')?;
    Some((&path[..at], path[at + 1..].replace("~1", "/").replace("~0", "~")))
}

fn pointer_mut<'a>(document: &'a mut Value, path: &str) -> Option<&'a mut Value> {
    document.pointer_mut(path)
}

fn index(token: &str, len: usize) -> Option<usize> {
    if token.len() > 1 && token.starts_with('0') {
        return None;
    }
    token.parse().ok().filter(|i| *i <= len)
}

fn add(document: &mut Value, path: &str, value: Value) -> Result<(), PatchError> {
    if path.is_empty() {
        *document = value;
        return Ok(());
    }
    let (parent, token) = split(path).ok_or_else(|| malformed(format!("bad json pointer {path:?}")))?;
    match document.pointer_mut(parent) {
        Some(Value::Object(map)) => {
            map.insert(token, value);
            Ok(())
        }
        Some(Value::Array(list)) if token == "-" => {
            list.push(value);
            Ok(())
        }
        Some(Value::Array(list)) => {
            let at = index(&token, list.len()).ok_or_else(|| missing("add", path))?;
            list.insert(at, value);
            Ok(())
        }
        _ => Err(missing("add", path)),
    }
}

fn remove(document: &mut Value, path: &str, operation: &str) -> Result<Value, PatchError> {
    let (parent, token) = split(path).ok_or_else(|| missing(operation, path))?;
    let removed = match document.pointer_mut(parent) {
        Some(Value::Object(map)) => map.remove(&token),
        Some(Value::Array(list)) => {
            index(&token, list.len()).filter(|i| *i < list.len()).map(|i| list.remove(i))
        }
        _ => None,
    };
    removed.ok_or_else(|| missing(operation, path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn operations() {
        let table = [
            (
                json!({"a": 1}),
                json!([{"op": "add", "path": "/b", "value": 2}]),
                Some(json!({"a": 1, "b": 2})),
            ),
            (json!([1, 3]), json!([{"op": "add", "path": "/1", "value": 2}]), Some(json!([1, 2, 3]))),
            (json!([1]), json!([{"op": "add", "path": "/-", "value": 2}]), Some(json!([1, 2]))),
            (json!([1]), json!([{"op": "add", "path": "/3", "value": 2}]), None),
            (json!({"a/b": 1}), json!([{"op": "remove", "path": "/a~1b"}]), Some(json!({}))),
            (json!({}), json!([{"op": "remove", "path": "/x"}]), None),
            (
                json!({"a": 1}),
                json!([{"op": "replace", "path": "/a", "value": null}]),
                Some(json!({"a": null})),
            ),
            (json!({"a": 1}), json!([{"op": "move", "from": "/a", "path": "/b"}]), Some(json!({"b": 1}))),
            (json!({"a": {}}), json!([{"op": "move", "from": "/a", "path": "/a/b"}]), None),
            (
                json!({"a": 1}),
                json!([{"op": "copy", "from": "/a", "path": "/b"}]),
                Some(json!({"a": 1, "b": 1})),
            ),
            (json!({"a": 1}), json!([{"op": "test", "path": "/a", "value": 2}]), None),
            (json!({"a": 1}), json!([{"op": "test", "path": "/a", "value": 1}]), Some(json!({"a": 1}))),
            (json!({"a": 1}), json!({"op": "test"}), None),
        ];
        for (document, patch, want) in table {
            let mut changed = document.clone();
            let result = json_patch(&mut changed, &patch);
            assert_eq!(result.is_ok(), want.is_some(), "{patch}: {result:?}");
            assert_eq!(changed, want.unwrap_or(document), "{patch}");
        }
    }
}
