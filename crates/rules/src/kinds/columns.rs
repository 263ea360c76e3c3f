//! Columns of server-side tables, and the short durations they show.

use isopod_api::Value;
use isopod_api::selector::LabelSelector;
use jiff::Timestamp;
use serde_json::json;

use super::shared::{at, list_at, str_at};

/// One column of a table (`metav1.TableColumnDefinition`).
#[derive(Debug, Clone, Copy)]
pub struct Column {
    /// Title.
    pub name: &'static str,
    /// `string`, `integer`, `date`, `boolean` or `number`.
    pub kind: &'static str,
    /// `name` for the column that holds the object's name, else empty.
    pub format: &'static str,
    /// What the column shows, for people.
    pub description: &'static str,
    /// 0 for columns shown always, more for those of wide output.
    pub priority: i32,
}

impl Column {
    const fn of(name: &'static str, kind: &'static str, description: &'static str) -> Column {
        Column { name, kind, format: "", description, priority: 0 }
    }

    /// A text column that is always shown.
    pub const fn text(name: &'static str, description: &'static str) -> Column {
        Column::of(name, "string", description)
    }

    /// A column of whole numbers that is always shown.
    pub const fn integer(name: &'static str, description: &'static str) -> Column {
        Column::of(name, "integer", description)
    }

    /// A column of true and false that is always shown.
    pub const fn boolean(name: &'static str, description: &'static str) -> Column {
        Column::of(name, "boolean", description)
    }

    /// The same column, shown only in wide output.
    pub const fn wide(self) -> Column {
        Column { priority: 1, ..self }
    }

    /// The same column, marked as the object's name.
    pub const fn name(self) -> Column {
        Column { format: "name", ..self }
    }
}

/// The object's name, for tables that do not begin with it by themselves.
pub const NAME: Column = Column::text("Name", "Name of the object, unique within its namespace.").name();
/// The object's age, for tables that do not end with it by themselves.
pub const AGE: Column = Column::text("Age", "Time since the object was created.");
/// The time of creation itself, for kinds without a table of their own.
pub(super) const CREATED_AT: Column =
    Column::of("Created At", "date", "Time at which the object was created.");

pub(super) const CONTAINERS: Column =
    Column::text("Containers", "Names of the template's containers.").wide();
pub(super) const IMAGES: Column = Column::text("Images", "Images of the template's containers.").wide();
pub(super) const SELECTOR: Column = Column::text("Selector", "Labels by which pods are selected.").wide();

/// The object's name as a cell.
pub(super) fn name(object: &Value) -> Value {
    str_at(object, "metadata.name").into()
}

/// The object's age as a cell.
pub(super) fn age_cell(object: &Value, now: Timestamp) -> Value {
    age(at(object, "metadata.creationTimestamp"), now).into()
}

/// The cells of kinds that show name and time of creation only.
pub(super) fn created_at_row(object: &Value, _: Timestamp) -> Vec<Value> {
    vec![name(object), str_at(object, "metadata.creationTimestamp").into()]
}

/// A text, or what stands for its absence.
pub(super) fn or(text: &str, absent: &str) -> String {
    if text.is_empty() { absent.to_owned() } else { text.to_owned() }
}

/// The text at a path, or `<none>`.
pub(super) fn or_none(object: &Value, path: &str) -> Value {
    or(str_at(object, path), "<none>").into()
}

/// The text or number at a path, or `<unset>`.
pub(super) fn or_unset(object: &Value, path: &str) -> String {
    match at(object, path) {
        None | Some(Value::Null) => "<unset>".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// The number at a path as a cell, zero when absent.
pub(super) fn int_cell(object: &Value, path: &str) -> Value {
    at(object, path).filter(|v| v.is_number()).cloned().unwrap_or_else(|| json!(0))
}

/// The truth at a path as a cell.
pub(super) fn bool_cell(object: &Value, path: &str, absent: bool) -> Value {
    at(object, path).and_then(Value::as_bool).unwrap_or(absent).into()
}

/// One text of every item of a list, joined by commas.
pub(super) fn joined(list: &[Value], path: &str) -> String {
    list.iter().map(|item| str_at(item, path)).collect::<Vec<_>>().join(",")
}

/// A list of texts, joined by commas.
pub(super) fn join_texts(list: &[Value]) -> String {
    list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",")
}

/// Names and images of the containers of a pod spec.
pub(super) fn containers_and_images(object: &Value, pod_spec: &str) -> [Value; 2] {
    let containers = list_at(at(object, pod_spec).unwrap_or(&Value::Null), "containers");
    [joined(containers, "name").into(), joined(containers, "image").into()]
}

/// A label selector as text, `<none>` when it is absent or empty.
pub(super) fn selector(selector: Option<&Value>) -> Value {
    match LabelSelector::from_value(selector.unwrap_or(&Value::Null)) {
        Ok(selector) => or(&selector.to_string(), "<none>").into(),
        Err(_) => "<error>".into(),
    }
}

/// A map of labels as text, `<none>` when it is absent or empty.
pub(super) fn labels(labels: Option<&Value>) -> Value {
    let labels = labels.and_then(Value::as_object).into_iter().flatten();
    let pairs: Vec<String> =
        labels.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    or(&pairs.join(","), "<none>").into()
}

/// The first items, joined by commas, and how many more there are.
pub(super) fn with_more(items: &[String], max: usize) -> String {
    let shown = items[..items.len().min(max)].join(",");
    if items.len() > max { format!("{shown} + {} more...", items.len() - max) } else { shown }
}

/// The time since an RFC 3339 timestamp in a table's form, `<unknown>` if there is none.
pub fn age(since: Option<&Value>, now: Timestamp) -> String {
    let Some(since) = since.and_then(Value::as_str).and_then(|t| t.parse::<Timestamp>().ok()) else {
        return "<unknown>".to_owned();
    };
    human_duration(now.as_second() - since.as_second())
}

/// Seconds as upstream's tables shorten them: two units at most, coarser as it grows (`5d3h`, `2y10d`).
pub fn human_duration(seconds: i64) -> String {
    let two = |high: i64, unit: char, low: i64, low_unit: char| {
        if low == 0 { format!("{high}{unit}") } else { format!("{high}{unit}{low}{low_unit}") }
    };
    if seconds < -1 {
        return "<invalid>".to_owned();
    }
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let years = days / 365;
    match seconds {
        ..0 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        120..600 => two(minutes, 'm', seconds % 60, 's'),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => two(hours, 'h', minutes % 60, 'm'),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => two(days, 'd', hours % 24, 'h'),
        _ if days < 365 * 2 => format!("{days}d"),
        _ if years < 8 => two(years, 'y', days % 365, 'd'),
        _ => format!("{years}y"),
    }
}

#[cfg(test)]
mod tests {
    use super::human_duration;

    #[test]
    fn durations() {
        const H: i64 = 3600;
        const D: i64 = 24 * H;
        for (seconds, want) in [
            (-5, "<invalid>"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (601, "10m"),
            (3 * H, "3h"),
            (3 * H + 120, "3h2m"),
            (47 * H, "47h"),
            (2 * D + 5 * H, "2d5h"),
            (8 * D + 5 * H, "8d"),
            (730 * D, "2y"),
            (740 * D, "2y10d"),
            (3000 * D, "8y"),
        ] {
            assert_eq!(human_duration(seconds), want);
        }
    }
}
