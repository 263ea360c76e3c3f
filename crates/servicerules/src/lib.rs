//! isopod servicerules.
