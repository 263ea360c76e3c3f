//! isopod reconcile.
