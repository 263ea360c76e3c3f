//! isopod api.
