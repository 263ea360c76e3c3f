//! Schedules in cron's form, as upstream's cron library reads them.

const MONTHS: &[&str] = &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
const DESCRIPTORS: &[&str] =
    &["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];

/// Bounds of a field, and names that stand for its numbers from the lowest on.
struct Field {
    low: u32,
    high: u32,
    names: &'static [&'static str],
}

const FIELDS: [Field; 5] = [
    Field { low: 0, high: 59, names: &[] },
    Field { low: 0, high: 23, names: &[] },
    Field { low: 1, high: 31, names: &[] },
    Field { low: 1, high: 12, names: MONTHS },
    Field { low: 0, high: 6, names: DAYS },
];

/// What is wrong with a schedule.
pub(super) fn fault(schedule: &str) -> Option<String> {
    if schedule.starts_with('@') {
        let every = schedule.strip_prefix("@every ").is_some_and(|d| is_duration(d.trim()));
        let known = every || DESCRIPTORS.contains(&schedule);
        return (!known).then(|| format!("unrecognized descriptor: {schedule}"));
    }
    let fields: Vec<&str> = schedule.split_whitespace().collect();
    if fields.len() != FIELDS.len() {
        return Some(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
    }
    fields
        .iter()
        .zip(&FIELDS)
        .flat_map(|(text, field)| text.split(',').map(move |part| (part, field)))
        .find_map(|(part, field)| range_fault(part, field))
}

fn is_duration(text: &str) -> bool {
    let units = ["ns", "us", "ms", "s", "m", "h"];
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        if digits.len() == rest.len() {
            return false;
        }
        let end = digits.find(|c: char| c.is_ascii_digit()).unwrap_or(digits.len());
        if !units.contains(&&digits[..end]) {
            return false;
        }
        rest = &digits[end..];
    }
    !text.is_empty()
}

/// `*`, `?`, a number, a range, each with a step or without.
fn range_fault(part: &str, field: &Field) -> Option<String> {
    let (range, step) = match part.split_once('/') {
        Some((range, step)) => (range, Some(step)),
        None => (part, None),
    };
    if part.matches('/').count() > 1 {
        return Some(format!("too many slashes: {part}"));
    }
    if let Some(step) = step {
        match step.parse::<u32>() {
            Ok(0) => return Some(format!("step of range should be a positive number: {part}")),
            Ok(_) => {}
            Err(_) => {
                return Some(format!(
                    "failed to parse int from {step}: strconv.Atoi: parsing {step:?}: invalid syntax"
                ));
            }
        }
    }
    if matches!(range, "*" | "?") {
        return None;
    }
    if range.matches('-').count() > 1 {
        return Some(format!("too many hyphens: {part}"));
    }
    let number = |text: &str| -> Result<u32, String> {
        let lower = text.to_lowercase();
        if let Some(i) = field.names.iter().position(|name| *name == lower) {
            return Ok(field.low + u32::try_from(i).expect("a dozen names"));
        }
        text.parse().map_err(|_| {
            format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax")
        })
    };
    let (low, high) = range.split_once('-').unwrap_or((range, range));
    let (low, high) = match (number(low), number(high)) {
        (Ok(low), Ok(high)) => (low, high),
        (Err(fault), _) | (_, Err(fault)) => return Some(fault),
    };
    if low < field.low {
        return Some(format!("beginning of range ({low}) below minimum ({}): {part}", field.low));
    }
    if high > field.high {
        return Some(format!("end of range ({high}) above maximum ({}): {part}", field.high));
    }
    (low > high).then(|| format!("beginning of range ({low}) beyond end of range ({high}): {part}"))
}

#[cfg(test)]
mod tests {
    use super::fault;

    #[test]
    fn schedules() {
        for right in ["* * * * *", "*/5 0-3,5 1 JAN-mar ?", "@hourly", "@every 1h30m", "0 0 * * sun"] {
            assert_eq!(fault(right), None, "{right}");
        }
        for (wrong, want) in [
            ("error", "expected exactly 5 fields, found 1: [error]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("5-1 * * * *", "beginning of range (5) beyond end of range (1): 5-1"),
            ("x * * * *", "failed to parse int from x: strconv.Atoi: parsing \"x\": invalid syntax"),
            ("@often", "unrecognized descriptor: @often"),
        ] {
            assert_eq!(fault(wrong).as_deref(), Some(want));
        }
    }
}
