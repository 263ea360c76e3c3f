//! Scalars that are strings in JSON but have a form of their own: quantities, times, bytes.
//!
//! Error texts are those of upstream's unmarshallers, since clients show them.

use crate::Value;
use crate::quantity::Quantity;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Canonical form of a quantity.
pub(crate) fn quantity(text: &str) -> Result<Value, String> {
    match text.trim() {
        "" | "null" => Ok(Value::String("0".into())),
        text => {
            text.parse::<Quantity>().map(|q| Value::String(q.to_string())).map_err(|error| error.to_string())
        }
    }
}

/// Canonical form of base64 text.
pub(crate) fn bytes(text: &str) -> Result<Value, String> {
    // Upstream's decoder skips line breaks.
    let joined: std::borrow::Cow<'_, str> = match text.contains(['\n', '\r']) {
        true => text.replace(['\n', '\r'], "").into(),
        false => text.into(),
    };
    match STANDARD.decode(joined.as_bytes()) {
        Ok(_) => Ok(Value::String(joined.into_owned())),
        Err(base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _)) => {
            Err(format!("illegal base64 data at input byte {at}"))
        }
        Err(_) => Err(format!("illegal base64 data at input byte {}", joined.len() - joined.len() % 4)),
    }
}

/// Bytes of canonical base64 text; anything else is empty.
pub(crate) fn from_base64(text: &str) -> Vec<u8> {
    STANDARD.decode(text).unwrap_or_default()
}

/// Base64 text of bytes.
pub(crate) fn to_base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Canonical form of a time with seconds; the zero time is null.
pub(crate) fn time(text: &str) -> Result<Value, String> {
    if is_canonical_time(text) {
        return Ok(if text == ZERO_TIME { Value::Null } else { Value::String(text.to_owned()) });
    }
    let timestamp = parse_time(text, "2006-01-02T15:04:05Z07:00")?;
    Ok(format_time(timestamp.as_second()))
}

/// Canonical form of a time with microseconds; the zero time is null.
pub(crate) fn micro_time(text: &str) -> Result<Value, String> {
    let timestamp = parse_time(text, "2006-01-02T15:04:05.000000Z07:00")?;
    Ok(format_micro_time(timestamp.as_second(), timestamp.subsec_nanosecond()))
}

const ZERO_TIME: &str = "0001-01-01T00:00:00Z";

/// Seconds of [`ZERO_TIME`].
pub(crate) const ZERO_TIME_SECONDS: i64 = -62_135_596_800;

fn is_canonical_time(text: &str) -> bool {
    let bytes = text.as_bytes();
    let shape = b"0000-00-00T00:00:00Z";
    let fits = |(byte, wanted): (&u8, &u8)| {
        if *wanted == b'0' { byte.is_ascii_digit() } else { byte == wanted }
    };
    bytes.len() == shape.len()
        && bytes.iter().zip(shape).all(fits)
        && ("01"..="12").contains(&&text[5..7])
        && ("01"..="28").contains(&&text[8..10])
        && ("00"..="23").contains(&&text[11..13])
        && ("00"..="59").contains(&&text[14..16])
        && ("00"..="59").contains(&&text[17..19])
}

fn parse_time(text: &str, layout: &str) -> Result<jiff::Timestamp, String> {
    let bytes = text.as_bytes();
    let shaped =
        bytes.len() >= 20 && bytes[10] == b'T' && bytes[4] == b'-' && bytes[13] == b':' && bytes[16] == b':';
    let parsed = if shaped { text.parse::<jiff::Timestamp>().ok() } else { None };
    parsed.ok_or_else(|| {
        let part = &text[text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len()..];
        format!("parsing time {text:?} as {layout:?}: cannot parse {part:?} as \"2006\"")
    })
}

/// A time by its seconds since 1970; null for the zero time.
pub(crate) fn format_time(seconds: i64) -> Value {
    match jiff::Timestamp::from_second(seconds) {
        Ok(timestamp) if seconds != ZERO_TIME_SECONDS => Value::String(timestamp.to_string()),
        _ => Value::Null,
    }
}

/// A time with microseconds; null for the zero time.
pub(crate) fn format_micro_time(seconds: i64, nanos: i32) -> Value {
    match jiff::Timestamp::new(seconds, nanos) {
        Ok(timestamp) if seconds != ZERO_TIME_SECONDS => {
            Value::String(timestamp.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string())
        }
        _ => Value::Null,
    }
}

/// Seconds and nanoseconds of a canonical time.
pub(crate) fn time_parts(text: &str) -> Option<(i64, i32)> {
    let timestamp: jiff::Timestamp = text.parse().ok()?;
    Some((timestamp.as_second(), timestamp.subsec_nanosecond()))
}
