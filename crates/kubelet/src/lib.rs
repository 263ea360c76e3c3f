//! isopod kubelet.
