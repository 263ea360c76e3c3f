//! isopod client.
