//! Lists of indexes as Jobs write them: `0,3-5`, rising.

/// First and last index of a part of the list.
type Interval = (i64, i64);

/// The intervals of a list of indexes below `completions`.
///
/// # Errors
/// What is wrong, in upstream's words.
pub(super) fn parse(list: &str, completions: i64) -> Result<Vec<Interval>, String> {
    let mut intervals: Vec<Interval> = Vec::new();
    for part in list.split(',').filter(|_| !list.is_empty()) {
        let (first, last) = interval(part, completions)?;
        if let Some((_, previous)) = intervals.last().filter(|(_, previous)| *previous >= first) {
            return Err(format!("non-increasing order, previous: {previous}, current: {first}"));
        }
        intervals.push((first, last));
    }
    Ok(intervals)
}

fn interval(part: &str, completions: i64) -> Result<Interval, String> {
    let index = |text: &str| match text.parse::<i64>() {
        Err(_) => Err(format!("cannot convert string to integer for index: {text:?}")),
        Ok(index) if index >= completions => Err(format!("too large index: {text:?}")),
        Ok(index) => Ok(index),
    };
    match part.split('-').collect::<Vec<_>>()[..] {
        [first, last] => match (index(first)?, index(last)?) {
            (first, last) if first >= last => {
                Err(format!("non-increasing order, previous: {first}, current: {last}"))
            }
            both => Ok(both),
        },
        [one] => index(one).map(|index| (index, index)),
        _ => Err(format!(
            "the fragment {part:?} violates the requirement that an index interval can have at most two parts separated by '-'"
        )),
    }
}

/// The first index that both lists hold; parts that are malformed are passed over.
pub(super) fn overlap(one: &str, other: &str, completions: i64) -> Option<i64> {
    let parts = |list: &str| -> Vec<Interval> {
        list.split(',').filter_map(|part| interval(part, completions).ok()).collect()
    };
    let others = parts(other);
    let meets = |(first, last): Interval| {
        let met = others.iter().filter(|(f, l)| first <= *l && *f <= last);
        met.map(|(f, _)| first.max(*f)).min()
    };
    parts(one).into_iter().filter_map(meets).min()
}
