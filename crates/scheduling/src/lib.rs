//! isopod scheduling.
