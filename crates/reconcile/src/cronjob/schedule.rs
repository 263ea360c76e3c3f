//! Cron schedules: five fields or `@hourly` and the like, in a time zone.
//!
//! Syntax and meaning as of the library that upstream uses: day of month and day of week are alternatives when both
//! are restricted. A local time that a clock change skips does not occur; one that occurs twice counts once.

use std::time::Duration;

use jiff::civil::{Date, DateTime};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{Timestamp, ToSpan};

/// Days that are searched: a schedule such as the 29th of February on a Monday comes once in 28 years, beyond what
/// upstream searches too.
const SEARCH_DAYS: i32 = 5 * 366;

/// A parsed schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// At fields of the clock.
    Fields(Fields),
    /// At a constant interval.
    Every(Duration),
}

/// Bit sets of the five fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fields {
    minute: u64,
    hour: u64,
    day: u64,
    month: u64,
    weekday: u64,
    any_day: bool,
    any_weekday: bool,
}

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

impl Schedule {
    /// Reads a schedule; the error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.is_empty() {
            return Err("empty spec string".to_owned());
        }
        if let Some(word) = text.strip_prefix('@') {
            return descriptor(word, text);
        }
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = fields[..] else {
            return Err(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
        };
        let (minute, _) = field(minute, 0, 59, &[])?;
        let (hour, _) = field(hour, 0, 23, &[])?;
        let (day, any_day) = field(day, 1, 31, &[])?;
        let (month, _) = field(month, 1, 12, &MONTHS)?;
        let (weekday, any_weekday) = field(weekday, 0, 7, &DAYS)?;
        // Seven is Sunday too.
        let weekday = (weekday & 0x7f) | (weekday >> 7);
        Ok(Self::Fields(Fields { minute, hour, day, month, weekday, any_day, any_weekday }))
    }

    /// The first time after `after`.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Self::Every(interval) => {
                let whole = Timestamp::from_second(after.as_second()).ok()?;
                whole.checked_add(*interval).ok()
            }
            Self::Fields(fields) => {
                let start = zone.to_datetime(after);
                let mut date = start.date();
                for _ in 0..SEARCH_DAYS {
                    if fields.on(date) {
                        let hit =
                            fields.times(date).find_map(|at| resolve(at, zone).filter(|at| *at > after));
                        if hit.is_some() {
                            return hit;
                        }
                    }
                    date = date.checked_add(1.day()).ok()?;
                }
                None
            }
        }
    }

    /// The last time at or before `now` and after `earliest`.
    pub fn latest(&self, earliest: Timestamp, now: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Self::Every(interval) => {
                let step = i64::try_from(interval.as_secs()).ok().filter(|step| *step > 0)?;
                let count = (now.as_second() - earliest.as_second()) / step;
                (count > 0)
                    .then(|| Timestamp::from_second(earliest.as_second() + count * step).ok())
                    .flatten()
            }
            Self::Fields(fields) => {
                let mut date = zone.to_datetime(now).date();
                let first = zone.to_datetime(earliest).date();
                while date >= first {
                    if fields.on(date) {
                        let all: Vec<Timestamp> =
                            fields.times(date).filter_map(|at| resolve(at, zone)).collect();
                        if let Some(at) = all.into_iter().rev().find(|at| *at <= now) {
                            return (at > earliest).then_some(at);
                        }
                    }
                    date = date.checked_sub(1.day()).ok()?;
                }
                None
            }
        }
    }
}

fn resolve(at: DateTime, zone: &TimeZone) -> Option<Timestamp> {
    match zone.to_ambiguous_timestamp(at).offset() {
        AmbiguousOffset::Unambiguous { offset } => offset.to_timestamp(at).ok(),
        AmbiguousOffset::Fold { before, .. } => before.to_timestamp(at).ok(),
        AmbiguousOffset::Gap { .. } => None,
    }
}

impl Fields {
    fn on(&self, date: Date) -> bool {
        let bit = |set: u64, at: i8| set >> at & 1 == 1;
        if !bit(self.month, date.month()) {
            return false;
        }
        let day = bit(self.day, date.day());
        let weekday = bit(self.weekday, date.weekday().to_sunday_zero_offset());
        if self.any_day || self.any_weekday { day && weekday } else { day || weekday }
    }

    fn times(&self, date: Date) -> impl Iterator<Item = DateTime> + '_ {
        (0..24i8).filter(|hour| self.hour >> hour & 1 == 1).flat_map(move |hour| {
            (0..60i8)
                .filter(|minute| self.minute >> minute & 1 == 1)
                .map(move |minute| date.at(hour, minute, 0, 0))
        })
    }
}

fn descriptor(word: &str, text: &str) -> Result<Schedule, String> {
    let fields = match word {
        "yearly" | "annually" => "0 0 1 1 *",
        "monthly" => "0 0 1 * *",
        "weekly" => "0 0 * * 0",
        "daily" | "midnight" => "0 0 * * *",
        "hourly" => "0 * * * *",
        _ => {
            let Some(interval) = word.strip_prefix("every ") else {
                return Err(format!("unrecognized descriptor: {text}"));
            };
            let interval = duration(interval.trim())
                .ok_or_else(|| format!("failed to parse duration {text}: time: invalid duration"))?;
            return Ok(Schedule::Every(interval.max(Duration::from_secs(1))));
        }
    };
    Schedule::parse(fields)
}

/// `1h30m`, `90s`.
fn duration(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        let unit_end = rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |at| digits + at);
        let seconds = match &rest[digits..unit_end] {
            "h" => number.checked_mul(3600)?,
            "m" => number.checked_mul(60)?,
            "s" => number,
            _ => return None,
        };
        total = total.checked_add(Duration::from_secs(seconds))?;
        rest = &rest[unit_end..];
    }
    (!total.is_zero()).then_some(total)
}

/// One field: a list of values, ranges and steps. The flag says that it was `*`.
fn field(text: &str, min: u32, max: u32, names: &[&str]) -> Result<(u64, bool), String> {
    let (mut set, mut any) = (0u64, false);
    for part in text.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, Some(number(step, &[], 0)?)),
            None => (part, None),
        };
        let (first, mut last) = if range == "*" || range == "?" {
            // The list of weekdays ends at six: seven would name Sunday twice.
            any |= step.is_none_or(|step| step == 1);
            (min, if max == 7 { 6 } else { max })
        } else if let Some((first, last)) = range.split_once('-') {
            (number(first, names, min)?, number(last, names, min)?)
        } else {
            let one = number(range, names, min)?;
            (one, one)
        };
        if step.is_some() && !range.contains('-') && range != "*" && range != "?" {
            last = max;
        }
        let step = step.unwrap_or(1);
        if first < min {
            return Err(format!("beginning of range ({first}) below minimum ({min}): {part}"));
        }
        if last > max {
            return Err(format!("end of range ({last}) above maximum ({max}): {part}"));
        }
        if first > last {
            return Err(format!("beginning of range ({first}) beyond end of range ({last}): {part}"));
        }
        if step == 0 {
            return Err(format!("step of range should be a positive number: {part}"));
        }
        let mut at = first;
        while at <= last {
            set |= 1 << at;
            at += step;
        }
    }
    Ok((set, any))
}

fn number(text: &str, names: &[&str], base: u32) -> Result<u32, String> {
    let lower = text.to_ascii_lowercase();
    if let Some(index) = names.iter().position(|name| *name == lower) {
        return Ok(base + u32::try_from(index).unwrap_or(0));
    }
    text.parse().map_err(|_| {
        format!("failed to parse int from {text}: strconv.Atoi: parsing \"{text}\": invalid syntax")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(schedule: &str, after: &str, zone: &TimeZone) -> String {
        let schedule = Schedule::parse(schedule).unwrap();
        schedule.next(after.parse().unwrap(), zone).map_or("never".to_owned(), |at| at.to_string())
    }

    #[test]
    fn next_times() {
        for (schedule, after, want) in [
            ("*/15 * * * *", "2026-01-01T00:00:00Z", "2026-01-01T00:15:00Z"),
            ("0 9-17/4 * * mon-fri", "2026-01-02T17:00:00Z", "2026-01-05T09:00:00Z"),
            ("30 4 1,15 * 5", "2026-01-03T00:00:00Z", "2026-01-09T04:30:00Z"),
            ("0 0 29 feb *", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z"),
            ("0 0 31 2 *", "2026-01-01T00:00:00Z", "never"),
            ("0 0 * * 7", "2026-01-01T00:00:00Z", "2026-01-04T00:00:00Z"),
            ("@hourly", "2026-01-01T00:59:59Z", "2026-01-01T01:00:00Z"),
            ("@every 1h30m", "2026-01-01T00:00:00.5Z", "2026-01-01T01:30:00Z"),
            ("5/20 * * * *", "2026-01-01T00:06:00Z", "2026-01-01T00:25:00Z"),
        ] {
            assert_eq!(next(schedule, after, &TimeZone::UTC), want, "{schedule}");
        }
    }

    #[test]
    fn clock_changes() {
        let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        // 02:30 does not exist on 2026-03-29 and exists twice on 2026-10-25.
        assert_eq!(next("30 2 * * *", "2026-03-28T12:00:00Z", &zone), "2026-03-30T00:30:00Z");
        assert_eq!(next("30 2 * * *", "2026-10-24T12:00:00Z", &zone), "2026-10-25T00:30:00Z");
        assert_eq!(next("30 2 * * *", "2026-10-25T00:30:00Z", &zone), "2026-10-26T01:30:00Z");
    }

    #[test]
    fn errors_name_what_is_wrong() {
        for (schedule, want) in [
            ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("@often", "unrecognized descriptor: @often"),
        ] {
            assert_eq!(Schedule::parse(schedule).unwrap_err(), want);
        }
    }

    #[test]
    fn the_latest_is_the_last_of_the_next_ones() {
        let schedule = Schedule::parse("*/20 3,4 * * *").unwrap();
        let (from, to): (Timestamp, Timestamp) =
            ("2026-01-01T00:00:00Z".parse().unwrap(), "2026-01-02T03:50:00Z".parse().unwrap());
        let (mut at, mut last) = (from, None);
        while let Some(next) = schedule.next(at, &TimeZone::UTC).filter(|next| *next <= to) {
            (at, last) = (next, Some(next));
        }
        assert_eq!(schedule.latest(from, to, &TimeZone::UTC), last);
        assert_eq!(schedule.latest(to, to, &TimeZone::UTC), None);
    }
}
