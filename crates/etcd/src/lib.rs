//! isopod etcd.
