//! isopod pki.
