//! Entering network namespaces.
//!
//! A namespace is a property of a thread. Workers of the async runtime must never change theirs, so whatever has to
//! happen inside a namespace runs on a fresh thread which ends afterwards. A netlink socket keeps the namespace it
//! was made in, so for netlink it is enough to make the socket there.

use crate::Error;
use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::io;

/// Runs `work` on a thread of its own inside the namespace at `path`.
pub async fn within<T, F>(path: &str, work: F) -> Result<T, Error>
where
    F: FnOnce() -> io::Result<T> + Send + 'static,
    T: Send + 'static,
{
    let fail = |source| Error::Netns { path: path.to_owned(), source };
    let file = File::open(path).map_err(fail)?;
    let (send, receive) = tokio::sync::oneshot::channel();
    let runtime = tokio::runtime::Handle::current();
    std::thread::Builder::new()
        .name("netns".into())
        .spawn(move || {
            // Sockets that `work` makes register with the caller's runtime.
            let _entered = runtime.enter();
            let result =
                setns(&file, CloneFlags::CLONE_NEWNET).map_err(io::Error::from).and_then(|()| work());
            // The receiver is gone when the caller was cancelled; then nobody wants the result.
            let _ = send.send(result);
        })
        .map_err(fail)?;
    match receive.await {
        Ok(result) => result.map_err(fail),
        Err(_) => Err(fail(io::Error::other("the thread in the namespace panicked"))),
    }
}

/// A netlink connection inside the namespace at `path`. The task that drives it ends when the handle is dropped.
pub async fn netlink(path: &str) -> Result<rtnetlink::Handle, Error> {
    let (connection, handle, _) = within(path, rtnetlink::new_connection).await?;
    tokio::spawn(connection);
    Ok(handle)
}
