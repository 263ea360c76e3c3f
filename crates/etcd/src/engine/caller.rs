//! On whose behalf a request is done.
//!
//! The server runs each request of a client inside [`as_caller`]; whatever the engine puts into the log there carries
//! the caller, and is checked when it is applied. Outside of it, that is for the store's own commands and for callers
//! in this process, there is no caller and nothing is checked.

use std::future::Future;

use isopod_mvcc::Caller;

tokio::task_local! {
    static CALLER: Caller;
}

/// Runs a request on behalf of a client.
pub(crate) async fn as_caller<F: Future>(caller: Caller, request: F) -> F::Output {
    CALLER.scope(caller, request).await
}

/// On whose behalf the running request is done; none if on the store's own.
pub(crate) fn current() -> Option<Caller> {
    CALLER.try_with(Caller::clone).ok()
}
