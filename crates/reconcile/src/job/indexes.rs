//! Sets of completion indexes as intervals, in the text form of a Job's status (`1,3-5,7`).

use std::fmt;

/// Indexes in order, as closed intervals that neither touch nor overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Indexes(Vec<(i32, i32)>);

impl Indexes {
    /// Reads the text form. What is no number is skipped; indexes of `completions` and above are cut off.
    pub fn parse(text: &str, completions: i32) -> Self {
        let mut all = Vec::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            if let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>())
                && first >= 0
                && first <= last
                && first < completions
            {
                all.push((first, last.min(completions - 1)));
            }
        }
        Self::join(all)
    }

    fn join(mut all: Vec<(i32, i32)>) -> Self {
        all.sort_unstable();
        let mut out: Vec<(i32, i32)> = Vec::with_capacity(all.len());
        for (first, last) in all {
            match out.last_mut() {
                Some(previous) if first <= previous.1.saturating_add(1) => previous.1 = previous.1.max(last),
                _ => out.push((first, last)),
            }
        }
        Self(out)
    }

    /// These and others.
    #[must_use]
    pub fn with(&self, more: impl IntoIterator<Item = i32>) -> Self {
        let mut all = self.0.clone();
        all.extend(more.into_iter().map(|index| (index, index)));
        Self::join(all)
    }

    /// How many there are.
    pub fn total(&self) -> i32 {
        self.0.iter().map(|(first, last)| last - first + 1).sum()
    }

    /// Whether one is among them.
    pub fn has(&self, index: i32) -> bool {
        let after = self.0.partition_point(|(first, _)| *first <= index);
        after > 0 && self.0[after - 1].1 >= index
    }

    /// How many are in both sets.
    pub fn common(&self, other: &Self) -> i32 {
        let mut count = 0;
        for (first, last) in &self.0 {
            for (from, to) in &other.0 {
                count += (last.min(to) - first.max(from) + 1).max(0);
            }
        }
        count
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (first, last)) in self.0.iter().enumerate() {
            let comma = if number > 0 { "," } else { "" };
            match last - first {
                0 => write!(f, "{comma}{first}")?,
                1 => write!(f, "{comma}{first},{last}")?,
                _ => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn text_form() {
        for (text, completions, want) in [
            ("", 10, ""),
            ("1,3-5,7", 10, "1,3-5,7"),
            ("0,1", 10, "0,1"),
            ("0-1,2", 10, "0-2"),
            ("3-9", 5, "3,4"),
            ("x,2", 5, "2"),
        ] {
            assert_eq!(Indexes::parse(text, completions).to_string(), want, "{text}");
        }
    }

    proptest! {
        #[test]
        fn agrees_with_a_plain_set(a in prop::collection::btree_set(0..60i32, 0..40), b in prop::collection::btree_set(0..60i32, 0..40)) {
            let (x, y) = (Indexes::default().with(a.clone()), Indexes::default().with(b.clone()));
            prop_assert_eq!(x.total(), i32::try_from(a.len()).unwrap());
            prop_assert_eq!(x.common(&y), i32::try_from(a.intersection(&b).count()).unwrap());
            for index in 0..60 { prop_assert_eq!(x.has(index), a.contains(&index)); }
            prop_assert_eq!(Indexes::parse(&x.to_string(), 60), x);
        }
    }
}
