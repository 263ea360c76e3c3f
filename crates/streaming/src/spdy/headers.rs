//! Header blocks: names and values, compressed with zlib and the dictionary of SPDY/3.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::dictionary::dictionary;
use crate::Error;

/// Largest header block, decompressed: clients send a handful of short names.
const BLOCK_BYTES_MAX: usize = 64 * 1024;
/// Most headers in a block.
const HEADERS_MAX: u32 = 256;

/// Headers in the order of the block; names are in lower case on the wire.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(pub Vec<(String, String)>);

impl Headers {
    /// The value of a header; names are compared without regard to case.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    fn encode(&self) -> Vec<u8> {
        let length = |n: usize| u32::try_from(n).expect("headers are short").to_be_bytes();
        let mut out = length(self.0.len()).to_vec();
        for (name, value) in &self.0 {
            for text in [&name.to_ascii_lowercase(), value] {
                out.extend(length(text.len()));
                out.extend(text.as_bytes());
            }
        }
        out
    }

    fn decode(mut bytes: &[u8]) -> Result<Self, Error> {
        let count = take_u32(&mut bytes)?;
        if count > HEADERS_MAX {
            return Err(Error::protocol(format!("{count} headers in a block")));
        }
        let mut headers = Vec::new();
        for _ in 0..count {
            let name = take_text(&mut bytes)?;
            let value = take_text(&mut bytes)?;
            if name.is_empty() {
                return Err(Error::protocol("a header without a name"));
            }
            headers.push((name, value));
        }
        Ok(Self(headers))
    }
}

fn take_u32(bytes: &mut &[u8]) -> Result<u32, Error> {
    let (head, rest) =
        bytes.split_first_chunk::<4>().ok_or_else(|| Error::protocol("header block ends early"))?;
    *bytes = rest;
    Ok(u32::from_be_bytes(*head))
}

fn take_text(bytes: &mut &[u8]) -> Result<String, Error> {
    let length = take_u32(bytes)? as usize;
    let (text, rest) =
        bytes.split_at_checked(length).ok_or_else(|| Error::protocol("header block ends early"))?;
    *bytes = rest;
    String::from_utf8(text.to_vec()).map_err(|_| Error::protocol("a header is no text"))
}

/// Compresses the header blocks of one direction.
#[derive(Debug)]
pub(crate) struct Compressor(Compress);

impl Compressor {
    pub(crate) fn new() -> Self {
        let mut compress = Compress::new(Compression::default(), true);
        compress.set_dictionary(&dictionary()).expect("a new compressor takes a dictionary");
        Self(compress)
    }

    pub(crate) fn compress(&mut self, headers: &Headers) -> Result<Vec<u8>, Error> {
        let input = headers.encode();
        let mut out = Vec::with_capacity(input.len() + 64);
        let start = self.0.total_in();
        loop {
            let done = usize::try_from(self.0.total_in() - start).unwrap_or(usize::MAX);
            self.0
                .compress_vec(&input[done..], &mut out, FlushCompress::Sync)
                .map_err(|e| Error::protocol(format!("compress headers: {e}")))?;
            let done = usize::try_from(self.0.total_in() - start).unwrap_or(usize::MAX);
            // Room left over means that the flush is complete.
            if done == input.len() && out.len() < out.capacity() {
                return Ok(out);
            }
            out.reserve(256);
        }
    }
}

/// Decompresses the header blocks of one direction.
#[derive(Debug)]
pub(crate) struct Decompressor(Decompress);

impl Decompressor {
    pub(crate) fn new() -> Self {
        Self(Decompress::new(true))
    }

    pub(crate) fn decompress(&mut self, block: &[u8]) -> Result<Headers, Error> {
        let mut out = Vec::with_capacity(1024);
        let start = self.0.total_in();
        loop {
            let done = usize::try_from(self.0.total_in() - start).unwrap_or(usize::MAX);
            let before = out.len();
            match self.0.decompress_vec(&block[done..], &mut out, FlushDecompress::Sync) {
                Ok(Status::StreamEnd) => return Err(Error::protocol("the header stream ended")),
                Ok(_) => {}
                Err(e) if e.needs_dictionary().is_some() => {
                    self.0
                        .set_dictionary(&dictionary())
                        .map_err(|_| Error::protocol("headers use another dictionary"))?;
                    continue;
                }
                Err(e) => return Err(Error::protocol(format!("decompress headers: {e}"))),
            }
            let done = usize::try_from(self.0.total_in() - start).unwrap_or(usize::MAX);
            if out.len() > BLOCK_BYTES_MAX {
                return Err(Error::protocol("header block is too large"));
            }
            if done >= block.len() && out.len() < out.capacity() {
                return Headers::decode(&out);
            }
            if out.len() == before && out.len() < out.capacity() {
                return Err(Error::protocol("header block makes no progress"));
            }
            out.reserve(1024);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> Headers {
        Headers(pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn blocks_share_a_context() {
        let (mut compressor, mut decompressor) = (Compressor::new(), Decompressor::new());
        let long = "x".repeat(20_000);
        for block in [
            headers(&[("streamtype", "error")]),
            headers(&[]),
            headers(&[("streamtype", "data"), ("port", "8080"), ("requestid", "0")]),
            headers(&[("long", &long)]),
            headers(&[("streamtype", "error")]),
        ] {
            let bytes = compressor.compress(&block).unwrap();
            assert_eq!(decompressor.decompress(&bytes).unwrap(), block);
        }
    }

    #[test]
    fn nonsense_is_an_error() {
        assert!(Decompressor::new().decompress(b"nonsense").is_err());
        assert!(Headers::decode(&[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]).is_err());
        assert!(Headers::decode(&[0xff; 4]).is_err());
        assert!(Headers::decode(&[]).is_err());
    }

    #[test]
    fn a_bomb_is_refused() {
        let mut compressor = Compressor::new();
        let block = headers(&[("bomb", &"x".repeat(2 * BLOCK_BYTES_MAX))]);
        let bytes = compressor.compress(&block).unwrap();
        assert!(bytes.len() < 4096);
        assert!(Decompressor::new().decompress(&bytes).is_err());
    }
}
