//! Numbers that may be given as a share of a whole.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// An integer, or a percentage of `total` rounded up or down.
pub fn scaled(value: Option<&IntOrString>, default: &str, total: i32, round_up: bool) -> i32 {
    let text = match value {
        Some(IntOrString::Int(number)) => return *number,
        Some(IntOrString::String(text)) => text.as_str(),
        None => default,
    };
    let Some(percent) = text.strip_suffix('%').and_then(|digits| digits.parse::<i64>().ok()) else {
        return text.parse().unwrap_or(0);
    };
    let product = percent * i64::from(total);
    let quotient = if round_up { (product + 99).div_euclid(100) } else { product.div_euclid(100) };
    i32::try_from(quotient).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_as_asked() {
        let percent = IntOrString::String("25%".to_owned());
        assert_eq!(scaled(Some(&percent), "", 10, true), 3);
        assert_eq!(scaled(Some(&percent), "", 10, false), 2);
        assert_eq!(scaled(Some(&IntOrString::Int(7)), "", 10, true), 7);
        assert_eq!(scaled(None, "1", 10, true), 1);
    }
}
