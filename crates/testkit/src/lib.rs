//! isopod testkit.
