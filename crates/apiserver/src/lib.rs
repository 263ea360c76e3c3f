//! isopod apiserver.
