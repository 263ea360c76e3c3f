//! Frames: reading and writing them.

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::headers::{Compressor, Decompressor, Headers};
use crate::Error;

const VERSION: u16 = 3;
const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

const FLAG_FIN: u8 = 1;
/// Largest control frame: its only large part is a compressed header block.
const CONTROL_BYTES_MAX: usize = 64 * 1024;
/// A data frame may have up to 16 MiB; it is passed on in pieces.
const PIECE_BYTES_MAX: usize = 32 * 1024;

/// A frame, or a piece of a data frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Opens a stream.
    SynStream {
        /// The new stream.
        id: u32,
        /// The sender will send no data on it.
        fin: bool,
        /// What it is for.
        headers: Headers,
    },
    /// Accepts a stream.
    SynReply {
        /// The stream.
        id: u32,
        /// The sender will send no data on it.
        fin: bool,
        /// Usually none.
        headers: Headers,
    },
    /// Ends a stream at once.
    Reset {
        /// The stream.
        id: u32,
        /// Why (1 protocol error, 3 refused, 5 cancelled, …).
        status: u32,
    },
    /// To be sent back if the other end sent it.
    Ping(u32),
    /// The sender takes no further streams.
    GoAway {
        /// The last stream it took.
        last: u32,
    },
    /// Further headers of a stream.
    Headers {
        /// The stream.
        id: u32,
        /// The sender will send no data on it.
        fin: bool,
        /// The headers.
        headers: Headers,
    },
    /// Data of a stream.
    Data {
        /// The stream.
        id: u32,
        /// The last of it.
        fin: bool,
        /// The bytes.
        bytes: Bytes,
    },
    /// A frame that means nothing here: settings, windows.
    Ignored,
}

/// Reads frames.
#[derive(Debug)]
pub struct FrameReader<R> {
    io: R,
    headers: Decompressor,
    /// The data frame being passed on: stream, last, bytes left.
    data: Option<(u32, bool, usize)>,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Frames of a connection.
    pub fn new(io: R) -> Self {
        Self { io, headers: Decompressor::new(), data: None }
    }

    /// The next frame; none at the end of the connection.
    pub async fn next(&mut self) -> Result<Option<Frame>, Error> {
        if let Some((id, fin, left)) = self.data.take() {
            return self.piece(id, fin, left).await.map(Some);
        }
        let mut head = [0u8; 8];
        match self.io.read(&mut head[..1]).await? {
            0 => return Ok(None),
            _ => self.io.read_exact(&mut head[1..]).await?,
        };
        let [a, b, c, d, flags, l1, l2, l3] = head;
        let length = u32::from_be_bytes([0, l1, l2, l3]) as usize;
        if a & 0x80 == 0 {
            return self
                .piece(u32::from_be_bytes([a, b, c, d]), flags & FLAG_FIN != 0, length)
                .await
                .map(Some);
        }
        let version = u16::from_be_bytes([a & 0x7f, b]);
        if version != VERSION {
            return Err(Error::protocol(format!("SPDY version {version}")));
        }
        if length > CONTROL_BYTES_MAX {
            return Err(Error::protocol(format!("control frame of {length} bytes")));
        }
        let mut body = vec![0; length];
        self.io.read_exact(&mut body).await?;
        self.control(u16::from_be_bytes([c, d]), flags & FLAG_FIN != 0, &body).map(Some)
    }

    async fn piece(&mut self, id: u32, fin: bool, length: usize) -> Result<Frame, Error> {
        let now = length.min(PIECE_BYTES_MAX);
        let mut bytes = vec![0; now];
        self.io.read_exact(&mut bytes).await?;
        if length > now {
            self.data = Some((id, fin, length - now));
        }
        Ok(Frame::Data { id, fin: fin && length == now, bytes: bytes.into() })
    }

    fn control(&mut self, kind: u16, fin: bool, mut body: &[u8]) -> Result<Frame, Error> {
        let number = |body: &mut &[u8]| -> Result<u32, Error> {
            let (head, rest) =
                body.split_first_chunk::<4>().ok_or_else(|| Error::protocol("control frame ends early"))?;
            *body = rest;
            Ok(u32::from_be_bytes(*head))
        };
        let id_mask = 0x7fff_ffff;
        Ok(match kind {
            SYN_STREAM => {
                let id = number(&mut body)? & id_mask;
                let _associated = number(&mut body)?;
                // Priority and slot.
                let block = body.get(2..).ok_or_else(|| Error::protocol("control frame ends early"))?;
                Frame::SynStream { id, fin, headers: self.headers.decompress(block)? }
            }
            SYN_REPLY => {
                let id = number(&mut body)? & id_mask;
                Frame::SynReply { id, fin, headers: self.headers.decompress(body)? }
            }
            HEADERS => {
                let id = number(&mut body)? & id_mask;
                Frame::Headers { id, fin, headers: self.headers.decompress(body)? }
            }
            RST_STREAM => Frame::Reset { id: number(&mut body)? & id_mask, status: number(&mut body)? },
            PING => Frame::Ping(number(&mut body)?),
            GOAWAY => Frame::GoAway { last: number(&mut body)? & id_mask },
            SETTINGS | WINDOW_UPDATE => Frame::Ignored,
            other => return Err(Error::protocol(format!("control frame of type {other}"))),
        })
    }
}

/// Writes frames.
#[derive(Debug)]
pub struct FrameWriter<W> {
    io: W,
    headers: Compressor,
    buffer: BytesMut,
}

impl<W: AsyncWrite + Unpin> FrameWriter<W> {
    /// Frames of a connection.
    pub fn new(io: W) -> Self {
        Self { io, headers: Compressor::new(), buffer: BytesMut::new() }
    }

    /// Writes a frame.
    pub async fn write(&mut self, frame: &Frame) -> Result<(), Error> {
        self.buffer.clear();
        match frame {
            Frame::Data { id, fin, bytes } => {
                self.buffer.put_u32(*id);
                self.put_flags(*fin, bytes.len());
                self.io.write_all(&self.buffer).await?;
                self.io.write_all(bytes).await?;
                self.io.flush().await?;
                return Ok(());
            }
            Frame::SynStream { id, fin, headers } => {
                let block = self.headers.compress(headers)?;
                self.control(SYN_STREAM, *fin, 10 + block.len());
                self.buffer.put_u32(*id);
                self.buffer.put_u32(0);
                self.buffer.put_u16(0);
                self.buffer.put_slice(&block);
            }
            Frame::SynReply { id, fin, headers } => {
                let block = self.headers.compress(headers)?;
                self.control(SYN_REPLY, *fin, 4 + block.len());
                self.buffer.put_u32(*id);
                self.buffer.put_slice(&block);
            }
            Frame::Headers { id, fin, headers } => {
                let block = self.headers.compress(headers)?;
                self.control(HEADERS, *fin, 4 + block.len());
                self.buffer.put_u32(*id);
                self.buffer.put_slice(&block);
            }
            Frame::Reset { id, status } => {
                self.control(RST_STREAM, false, 8);
                self.buffer.put_u32(*id);
                self.buffer.put_u32(*status);
            }
            Frame::Ping(id) => {
                self.control(PING, false, 4);
                self.buffer.put_u32(*id);
            }
            Frame::GoAway { last } => {
                self.control(GOAWAY, false, 8);
                self.buffer.put_u32(*last);
                self.buffer.put_u32(0);
            }
            Frame::Ignored => return Ok(()),
        }
        self.io.write_all(&self.buffer).await?;
        self.io.flush().await?;
        Ok(())
    }

    /// Ends the connection's direction.
    pub async fn shutdown(&mut self) -> Result<(), Error> {
        Ok(self.io.shutdown().await?)
    }

    fn control(&mut self, kind: u16, fin: bool, length: usize) {
        self.buffer.put_u16(0x8000 | VERSION);
        self.buffer.put_u16(kind);
        self.put_flags(fin, length);
    }

    fn put_flags(&mut self, fin: bool, length: usize) {
        let length = u32::try_from(length).expect("frames are shorter than 16 MiB");
        self.buffer.put_u32(length | if fin { u32::from(FLAG_FIN) << 24 } else { 0 });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn headers() -> impl Strategy<Value = Headers> {
        let pair = ("[a-z]{1,12}", "[ -~]{0,40}");
        proptest::collection::vec(pair, 0..6).prop_map(Headers)
    }

    fn frame() -> impl Strategy<Value = Frame> {
        let id = 0..0x7fff_ffffu32;
        prop_oneof![
            (id.clone(), any::<bool>(), headers()).prop_map(|(id, fin, headers)| Frame::SynStream {
                id,
                fin,
                headers
            }),
            (id.clone(), any::<bool>(), headers()).prop_map(|(id, fin, headers)| Frame::SynReply {
                id,
                fin,
                headers
            }),
            (id.clone(), any::<bool>(), headers()).prop_map(|(id, fin, headers)| Frame::Headers {
                id,
                fin,
                headers
            }),
            (id.clone(), any::<u32>()).prop_map(|(id, status)| Frame::Reset { id, status }),
            any::<u32>().prop_map(Frame::Ping),
            id.clone().prop_map(|last| Frame::GoAway { last }),
            (id, any::<bool>(), proptest::collection::vec(any::<u8>(), 0..2000))
                .prop_map(|(id, fin, bytes)| Frame::Data { id, fin, bytes: bytes.into() }),
        ]
    }

    fn block_on<T>(future: impl std::future::Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(frames in proptest::collection::vec(frame(), 1..20)) {
            let read = block_on(async {
                let mut bytes = Vec::new();
                let mut writer = FrameWriter::new(&mut bytes);
                for frame in &frames {
                    writer.write(frame).await.unwrap();
                }
                let mut reader = FrameReader::new(bytes.as_slice());
                let mut read = Vec::new();
                while let Some(frame) = reader.next().await.unwrap() {
                    read.push(frame);
                }
                read
            });
            prop_assert_eq!(read, frames);
        }

        #[test]
        fn nonsense_ends_in_an_error_or_the_end(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            block_on(async {
                let mut reader = FrameReader::new(bytes.as_slice());
                while let Ok(Some(_)) = reader.next().await {}
            });
        }
    }
}
