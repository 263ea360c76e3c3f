//! isopod dns.
