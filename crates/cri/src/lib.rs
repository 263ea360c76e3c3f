//! isopod cri.
