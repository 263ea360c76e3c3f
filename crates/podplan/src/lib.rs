//! isopod podplan.
