//! isopod testkit.

pub mod netns;
