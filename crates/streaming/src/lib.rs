//! isopod streaming.
