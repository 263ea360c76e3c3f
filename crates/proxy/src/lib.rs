//! isopod proxy.
