//! Columns of server-side tables, and the short durations they show.

use isopod_api::Value;
use jiff::Timestamp;

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
    /// A text column that is always shown.
    pub const fn text(name: &'static str, description: &'static str) -> Column {
        Column { name, kind: "string", format: "", description, priority: 0 }
    }

    /// A column of whole numbers that is always shown.
    pub const fn integer(name: &'static str, description: &'static str) -> Column {
        Column { name, kind: "integer", format: "", description, priority: 0 }
    }

    /// The same column, shown only in wide output.
    pub const fn wide(self) -> Column {
        Column { priority: 1, ..self }
    }
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
