//! isopod kv.
