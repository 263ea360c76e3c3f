//! Resource quantities: exact decimal numbers with a suffix, as `500m`, `1Gi`, `2e3`.
//!
//! Values, rounding (up, to nano) and canonical form are those of upstream's
//! `apimachinery/pkg/api/resource`: no fraction is printed, no precision is lost, the suffix is as
//! large as possible. Difference: amounts beyond 2^63 are capped for every format.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// Nano units in one.
const NANO: i128 = 1_000_000_000;
/// Largest amount: 2^63 - 1, in nano units.
const NANOS_MAX: i128 = (i64::MAX as i128) * NANO;

/// The family of suffixes that a quantity was written with and is printed in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Format {
    /// `m`, none, `k`, `M`, …
    #[default]
    DecimalSi,
    /// `Ki`, `Mi`, `Gi`, …
    BinarySi,
    /// `e3`, `e6`, …
    DecimalExponent,
}

/// An exact amount between -(2^63) and 2^63 in steps of one nano.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

/// Why a text is not a quantity; the texts are upstream's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the texts say it")]
pub enum ParseError {
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

fn suffix(text: &str) -> Option<(u32, i32, Format)> {
    Some(match text {
        "" => (10, 0, Format::DecimalSi),
        "n" => (10, -9, Format::DecimalSi),
        "u" => (10, -6, Format::DecimalSi),
        "m" => (10, -3, Format::DecimalSi),
        "k" => (10, 3, Format::DecimalSi),
        "M" => (10, 6, Format::DecimalSi),
        "G" => (10, 9, Format::DecimalSi),
        "T" => (10, 12, Format::DecimalSi),
        "P" => (10, 15, Format::DecimalSi),
        "E" => (10, 18, Format::DecimalSi),
        "Ki" => (2, 10, Format::BinarySi),
        "Mi" => (2, 20, Format::BinarySi),
        "Gi" => (2, 30, Format::BinarySi),
        "Ti" => (2, 40, Format::BinarySi),
        "Pi" => (2, 50, Format::BinarySi),
        "Ei" => (2, 60, Format::BinarySi),
        _ => {
            let digits = text.strip_prefix(['e', 'E'])?;
            (10, digits.parse().ok()?, Format::DecimalExponent)
        }
    })
}

/// `value * 10^exponent`, in nano units, rounded away from zero, capped.
fn scale_decimal(digits: i128, mut exponent: i32) -> i128 {
    exponent += 9;
    let mut value = digits;
    while exponent > 0 && value != 0 && value < NANOS_MAX {
        value = value.saturating_mul(10);
        exponent -= 1;
    }
    let mut inexact = false;
    while exponent < 0 && value != 0 {
        inexact |= value % 10 != 0;
        value /= 10;
        exponent += 1;
    }
    (value + i128::from(inexact)).min(NANOS_MAX)
}

impl FromStr for Quantity {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
        let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
        let (number, tail) = unsigned.split_at(end);
        if text.is_empty() || !tail.chars().all(|c| "eEinumkKMGTP+-0123456789".contains(c)) {
            return Err(ParseError::Format);
        }
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(if tail.is_empty() || number.is_empty() {
                ParseError::Format
            } else {
                ParseError::Numeric
            });
        }
        let (base, exponent, mut format) = suffix(tail).ok_or(ParseError::Suffix)?;
        let kept = fraction.len().min(28usize.saturating_sub(whole.len()));
        let mut digits: i128 = 0;
        for c in whole.bytes().chain(fraction.bytes().take(kept)) {
            digits = digits.saturating_mul(10).saturating_add(i128::from(c - b'0'));
        }
        let lost = fraction.bytes().skip(kept).any(|c| c != b'0');
        let places = i32::try_from(kept).expect("at most 28");
        let mut nanos = if base == 10 {
            scale_decimal(digits, exponent - places)
        } else {
            let shift = u32::try_from(exponent).expect("binary suffixes are positive");
            match digits.checked_mul(1i128 << shift) {
                Some(value) => scale_decimal(value, -places),
                None => NANOS_MAX,
            }
        };
        if lost && nanos == 0 {
            nanos = 1;
        }
        if format == Format::BinarySi && nanos > 0 && nanos < NANO {
            format = Format::DecimalSi;
        }
        if text.starts_with('-') {
            nanos = -nanos;
        }
        Ok(Quantity { nanos, format })
    }
}

impl Quantity {
    /// Nothing.
    pub const ZERO: Quantity = Quantity { nanos: 0, format: Format::DecimalSi };

    /// A whole number.
    pub fn from_value(value: i64, format: Format) -> Self {
        Quantity { nanos: i128::from(value) * NANO, format }
    }
    /// A number of thousandths.
    pub fn from_milli(milli: i64) -> Self {
        Quantity { nanos: i128::from(milli) * (NANO / 1000), format: Format::DecimalSi }
    }
    /// The amount, rounded up to a whole number.
    pub fn value(&self) -> i64 {
        clamp(div_up(self.nanos, NANO))
    }
    /// The amount in thousandths, rounded up.
    pub fn milli_value(&self) -> i64 {
        clamp(div_up(self.nanos, NANO / 1000))
    }
    /// The family of suffixes.
    pub fn format(&self) -> Format {
        self.format
    }
    /// Whether the amount is zero.
    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }
    /// Minus one, zero or one.
    pub fn signum(&self) -> i32 {
        match self.nanos.cmp(&0) {
            Ordering::Less => -1,
            Ordering::Equal => 0,
            Ordering::Greater => 1,
        }
    }
    #[allow(
        clippy::should_implement_trait,
        reason = "capped, and takes over a format: more than an operator says"
    )]
    /// The sum, capped; a zero takes over the other's format as upstream does.
    #[must_use]
    pub fn add(self, other: Quantity) -> Quantity {
        let format = if self.is_zero() { other.format } else { self.format };
        Quantity { nanos: (self.nanos + other.nanos).clamp(-NANOS_MAX, NANOS_MAX), format }
    }
    #[allow(
        clippy::should_implement_trait,
        reason = "capped, and takes over a format: more than an operator says"
    )]
    /// The difference, capped.
    #[must_use]
    pub fn sub(self, other: Quantity) -> Quantity {
        let format = if self.is_zero() { other.format } else { self.format };
        Quantity { nanos: (self.nanos - other.nanos).clamp(-NANOS_MAX, NANOS_MAX), format }
    }
    /// The amount as a float, for scores and metrics only.
    pub fn as_f64(&self) -> f64 {
        self.nanos as f64 / NANO as f64
    }
}

fn div_up(value: i128, by: i128) -> i128 {
    let quotient = value / by;
    match value % by {
        0 => quotient,
        rest if rest > 0 => quotient + 1,
        _ => quotient - 1,
    }
}

fn clamp(value: i128) -> i64 {
    value.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}
impl Eq for Quantity {}
impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl fmt::Display for Quantity {
    /// The canonical form.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let whole = self.nanos % NANO == 0;
        let small = self.nanos.abs() < 1024 * NANO;
        if self.format == Format::BinarySi && whole && !small {
            let mut value = self.nanos / NANO;
            let mut power = 0;
            while value % 1024 == 0 && power < 6 {
                value /= 1024;
                power += 1;
            }
            return write!(f, "{value}{}", ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][power]);
        }
        let mut value = self.nanos;
        let mut exponent = -9;
        while value % 1000 == 0 && exponent < 18 {
            value /= 1000;
            exponent += 3;
        }
        if self.format == Format::DecimalExponent {
            return if exponent == 0 { write!(f, "{value}") } else { write!(f, "{value}e{exponent}") };
        }
        let names = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
        write!(f, "{value}{}", names[usize::try_from((exponent + 9) / 3).expect("from -9 up")])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_form() {
        let table = [
            ("0", "0"),
            ("100m", "100m"),
            ("1000m", "1"),
            ("0.5", "500m"),
            ("1.5Gi", "1536Mi"),
            ("1024Mi", "1Gi"),
            ("1Gi", "1Gi"),
            ("1000Ki", "1000Ki"),
            ("0.5Mi", "512Ki"),
            ("1Ki", "1Ki"),
            ("512", "512"),
            ("1500", "1500"),
            ("2000", "2k"),
            ("1e3", "1e3"),
            ("1E6", "1e6"),
            ("12e1", "120"),
            ("1E", "1E"),
            ("-1.5", "-1500m"),
            ("+5", "5"),
            ("1n", "1n"),
            ("0.1n", "1n"),
            ("100k", "100k"),
            (".5", "500m"),
            ("5.", "5"),
            ("0.0001Ki", "102400u"),
            ("1.1Ki", "1126400m"),
            ("3Gi", "3Gi"),
        ];
        for (input, want) in table {
            assert_eq!(input.parse::<Quantity>().expect(input).to_string(), want, "{input}");
        }
    }

    #[test]
    fn malformed() {
        for (input, want) in [
            ("", ParseError::Format),
            ("x", ParseError::Format),
            ("1x", ParseError::Format),
            ("1ki", ParseError::Suffix),
            ("1mm", ParseError::Suffix),
            ("1.2.3", ParseError::Format),
            ("1e", ParseError::Suffix),
            ("-", ParseError::Format),
        ] {
            assert_eq!(input.parse::<Quantity>().err(), Some(want), "{input}");
        }
    }

    #[test]
    fn numbers() {
        let q = |s: &str| s.parse::<Quantity>().expect(s);
        assert_eq!(q("1.5").value(), 2);
        assert_eq!(q("1.5").milli_value(), 1500);
        assert_eq!(q("100m").add(q("0.9")), q("1"));
        assert!(q("1Gi") > q("1G"));
        assert_eq!(q("1").sub(q("250m")).to_string(), "750m");
        assert_eq!(Quantity::ZERO.add(q("1Mi")).to_string(), "1Mi");
        assert_eq!(q("9223372036854775807").value(), i64::MAX);
        assert_eq!(q("99999999999999999999999999999999999999999").value(), i64::MAX);
    }
}
