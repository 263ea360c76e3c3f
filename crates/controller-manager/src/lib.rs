//! isopod controller-manager.
