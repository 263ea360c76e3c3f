//! isopod rules.
