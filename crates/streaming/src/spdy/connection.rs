//! A connection's streams.
//!
//! One task reads and hands data to the streams, one writes. A stream whose data nobody takes holds up the
//! connection, as it does in the clients; nothing is dropped and memory stays bounded.

use std::collections::HashMap;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::frame::{Frame, FrameReader, FrameWriter};
use super::headers::Headers;
use crate::Error;

/// Streams of one connection at a time: port-forward takes two for each connection of the client.
const STREAMS_MAX: usize = 1024;
/// Pieces of data (of up to 32 KiB) that wait for a stream's reader.
const PIECES_MAX: usize = 8;
/// Frames that wait to be written.
const FRAMES_MAX: usize = 32;

const RESET_REFUSED: u32 = 3;
const RESET_CANCEL: u32 = 5;

/// The server's end of a connection.
#[derive(Debug)]
pub struct Connection {
    streams: mpsc::Receiver<Stream>,
    frames: mpsc::Sender<Frame>,
    reader: AbortHandle,
    writer: Option<tokio::task::JoinHandle<()>>,
}

/// A stream that the client opened.
#[derive(Debug)]
pub struct Stream {
    /// What it is for.
    pub headers: Headers,
    /// Data from the client.
    pub reader: Reader,
    /// Data to the client.
    pub writer: Writer,
}

/// Data from the client.
#[derive(Debug)]
pub struct Reader {
    pieces: mpsc::Receiver<Bytes>,
}

/// Data to the client.
#[derive(Debug)]
pub struct Writer {
    id: u32,
    frames: mpsc::Sender<Frame>,
    finished: bool,
}

impl Reader {
    /// The next piece; none when the client has finished, or is gone.
    pub async fn next(&mut self) -> Option<Bytes> {
        self.pieces.recv().await
    }
}

impl Writer {
    /// Sends data. Fails when the connection is gone.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), Error> {
        self.send(bytes, false).await
    }

    /// Says that no more data comes.
    pub async fn finish(&mut self) -> Result<(), Error> {
        if std::mem::replace(&mut self.finished, true) {
            return Ok(());
        }
        self.send(Bytes::new(), true).await
    }

    /// Ends the stream at once, in both directions.
    pub async fn reset(&mut self) -> Result<(), Error> {
        self.finished = true;
        self.frames.send(Frame::Reset { id: self.id, status: RESET_CANCEL }).await.map_err(|_| gone())
    }

    async fn send(&mut self, bytes: Bytes, fin: bool) -> Result<(), Error> {
        self.frames.send(Frame::Data { id: self.id, fin, bytes }).await.map_err(|_| gone())
    }
}

fn gone() -> Error {
    Error::Io(std::io::ErrorKind::BrokenPipe.into())
}

impl Connection {
    /// Serves a connection; its streams come from [`accept`](Self::accept).
    pub fn serve(io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        let (read_half, write_half) = tokio::io::split(io);
        let (frames, mut to_write) = mpsc::channel::<Frame>(FRAMES_MAX);
        let (new_streams, streams) = mpsc::channel(16);
        let writer = tokio::spawn(async move {
            let mut writer = FrameWriter::new(write_half);
            while let Some(frame) = to_write.recv().await {
                if writer.write(&frame).await.is_err() {
                    return;
                }
            }
            let _ = writer.shutdown().await;
        });
        let answers = frames.clone();
        let reader = tokio::spawn(async move {
            if let Err(e) = read(FrameReader::new(read_half), answers, new_streams).await {
                tracing::debug!("SPDY connection: {e}");
            }
        });
        Self { streams, frames, reader: reader.abort_handle(), writer: Some(writer) }
    }

    /// The next stream that the client opens; none when it is gone.
    pub async fn accept(&mut self) -> Option<Stream> {
        self.streams.recv().await
    }

    /// Writes what the streams have sent, and closes the connection.
    pub async fn close(mut self) {
        self.reader.abort();
        let (closed, _) = mpsc::channel(1);
        // The writer ends with the last sender; the streams' own are gone or going.
        self.frames = closed;
        if let Some(writer) = self.writer.take() {
            let _ = writer.await;
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

async fn read<R: AsyncRead + Unpin>(
    mut frames: FrameReader<R>,
    answers: mpsc::Sender<Frame>,
    new_streams: mpsc::Sender<Stream>,
) -> Result<(), Error> {
    let mut open: HashMap<u32, mpsc::Sender<Bytes>> = HashMap::new();
    let mut last = 0;
    let answer = async |frame: Frame| answers.send(frame).await.map_err(|_| gone());
    while let Some(frame) = frames.next().await? {
        match frame {
            Frame::SynStream { id, fin, headers } => {
                if id <= last || id % 2 == 0 {
                    return Err(Error::protocol(format!("stream {id} after stream {last}")));
                }
                last = id;
                // Readers that were dropped need their streams no longer.
                open.retain(|_, pieces| !pieces.is_closed());
                if open.len() >= STREAMS_MAX {
                    answer(Frame::Reset { id, status: RESET_REFUSED }).await?;
                    continue;
                }
                let (sender, pieces) = mpsc::channel(PIECES_MAX);
                if !fin {
                    open.insert(id, sender);
                }
                answer(Frame::SynReply { id, fin: false, headers: Headers::default() }).await?;
                let writer = Writer { id, frames: answers.clone(), finished: false };
                let stream = Stream { headers, reader: Reader { pieces }, writer };
                if new_streams.send(stream).await.is_err() {
                    return Ok(());
                }
            }
            Frame::Data { id, fin, bytes } => {
                if !bytes.is_empty()
                    && let Some(pieces) = open.get(&id)
                    && pieces.send(bytes).await.is_err()
                {
                    open.remove(&id);
                }
                if fin {
                    open.remove(&id);
                }
            }
            Frame::Headers { id, fin: true, .. } | Frame::Reset { id, .. } => drop(open.remove(&id)),
            // Pings with odd numbers are the client's; even ones are answers to ours.
            Frame::Ping(id) if id % 2 == 1 => answer(Frame::Ping(id)).await?,
            Frame::GoAway { .. } => tracing::trace!("the client opens no further streams"),
            Frame::Ping(_) | Frame::SynReply { .. } | Frame::Headers { .. } | Frame::Ignored => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn streams_carry_data_both_ways() {
        let (client, server) = tokio::io::duplex(1024);
        let mut connection = Connection::serve(server);
        let (read_half, write_half) = tokio::io::split(client);
        let (mut reader, mut writer) = (FrameReader::new(read_half), FrameWriter::new(write_half));
        let headers = Headers(vec![("streamtype".into(), "stdin".into())]);
        writer.write(&Frame::SynStream { id: 1, fin: false, headers }).await.unwrap();
        writer.write(&Frame::Ping(7)).await.unwrap();
        let mut stream = connection.accept().await.unwrap();
        assert_eq!(stream.headers.get("streamType"), Some("stdin"));
        assert!(matches!(reader.next().await.unwrap(), Some(Frame::SynReply { id: 1, .. })));
        assert_eq!(reader.next().await.unwrap(), Some(Frame::Ping(7)));
        let data = |fin, bytes: &'static [u8]| Frame::Data { id: 1, fin, bytes: bytes.into() };
        writer.write(&data(false, b"in")).await.unwrap();
        writer.write(&data(true, b"put")).await.unwrap();
        assert_eq!(stream.reader.next().await.unwrap(), "in");
        assert_eq!(stream.reader.next().await.unwrap(), "put");
        assert_eq!(stream.reader.next().await, None);
        stream.writer.write("out".into()).await.unwrap();
        stream.writer.finish().await.unwrap();
        drop(stream);
        let closing = tokio::spawn(connection.close());
        assert_eq!(reader.next().await.unwrap(), Some(data(false, b"out")));
        assert_eq!(reader.next().await.unwrap(), Some(data(true, b"")));
        assert_eq!(reader.next().await.unwrap(), None);
        closing.await.unwrap();
    }
}
