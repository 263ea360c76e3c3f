//! isopod mvcc.
