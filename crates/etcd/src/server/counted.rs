//! Counting what goes over clients' connections, and the calls on them.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicI32, Ordering};
use std::task::{Context, Poll};

use futures::{Stream, StreamExt};
use isopod_kv::Code;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::Status;

use crate::metrics::{self, RECEIVED_BYTES, SENT_BYTES};

/// A connection whose bytes are counted, framing included.
pub(super) struct Counted<S>(pub(super) S);

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.0).poll_read(cx, buffer);
        RECEIVED_BYTES.inc_by((buffer.filled().len() - before) as u64);
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        count_sent(Pin::new(&mut self.0).poll_write(cx, data))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        count_sent(Pin::new(&mut self.0).poll_write_vectored(cx, data))
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

fn count_sent(written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
    if let Poll::Ready(Ok(bytes)) = &written {
        SENT_BYTES.inc_by(*bytes as u64);
    }
    written
}

/// A call under way; counted as ended when this goes.
#[derive(Debug)]
pub(super) struct Measured {
    kind: &'static str,
    path: String,
    code: AtomicI32,
}

impl Measured {
    /// Begins to count a call of a method that exists: the path becomes labels.
    pub(super) fn begin(kind: &'static str, path: &str) -> Measured {
        metrics::grpc_started(kind, path);
        // What ends without an answer was given up by its client.
        Measured { kind, path: path.to_owned(), code: AtomicI32::new(Code::Cancelled as i32) }
    }

    pub(super) fn done(&self, code: Code) {
        self.code.store(code as i32, Ordering::Relaxed);
    }

    /// The answers have ended; well, unless an error was the last.
    fn ended(&self) {
        let given_up = Code::Cancelled as i32;
        let _ = self.code.compare_exchange(given_up, Code::Ok as i32, Ordering::Relaxed, Ordering::Relaxed);
    }
}

impl Drop for Measured {
    fn drop(&mut self) {
        metrics::grpc_handled(self.kind, &self.path, Code::from(self.code.load(Ordering::Relaxed)));
    }
}

/// Notes on a call how its answers end.
pub(super) fn measured<R>(
    call: std::sync::Arc<Measured>,
    answers: impl Stream<Item = Result<R, Status>> + Send + 'static,
) -> impl Stream<Item = Result<R, Status>> + Send + 'static
where
    R: Send + 'static,
{
    // Every answer but an error may be the last; only the end says so.
    let last = call.clone();
    let end = futures::stream::once(async move { last.ended() }).filter_map(async |()| None);
    let noted = answers.inspect(move |answer| {
        if let Err(status) = answer {
            call.done(status.code());
        }
    });
    noted.chain(end)
}
