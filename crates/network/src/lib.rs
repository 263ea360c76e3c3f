//! isopod network.
