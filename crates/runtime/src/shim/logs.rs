//! CRI log files: each line is a time, a stream, a tag and the text.
//!
//! `F` tags the last part of a line of output, `P` the parts before it. A write error (a full disk) drops
//! output instead of stopping the container: the pipe must be drained.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use jiff::Timestamp;

/// Longest part of a line, bytes: what the Docker and CRI loggers agree upon.
const PART_BYTES_MAX: usize = 16 * 1024;

/// One of the two output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// The log of a container.
#[derive(Debug)]
pub(crate) struct Log {
    path: String,
    file: Option<File>,
    partial: [Vec<u8>; 2],
}

impl Log {
    /// Opens or continues the log at `path`; an empty path keeps none.
    pub(crate) fn open(path: &str) -> std::io::Result<Self> {
        let mut log = Self { path: path.to_owned(), file: None, partial: [Vec::new(), Vec::new()] };
        log.reopen()?;
        Ok(log)
    }

    /// Opens the file anew, after it was renamed away.
    pub(crate) fn reopen(&mut self) -> std::io::Result<()> {
        if !self.path.is_empty() {
            self.file = Some(File::options().create(true).append(true).mode(0o640).open(&self.path)?);
        }
        Ok(())
    }

    /// Takes output of a stream.
    pub(crate) fn write(&mut self, stream: Stream, output: &[u8], now: Timestamp) {
        let mut out = Vec::with_capacity(output.len() + 64);
        let partial = &mut self.partial[stream as usize];
        for piece in output.split_inclusive(|byte| *byte == b'\n') {
            let (mut text, ends) = match piece.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (piece, false),
            };
            while partial.len() + text.len() > PART_BYTES_MAX {
                let (now_part, later) = text.split_at(PART_BYTES_MAX - partial.len());
                partial.extend_from_slice(now_part);
                render(&mut out, stream, b'P', partial, now);
                partial.clear();
                text = later;
            }
            partial.extend_from_slice(text);
            if ends {
                render(&mut out, stream, b'F', partial, now);
                partial.clear();
            }
        }
        self.append(&out);
    }

    /// Writes what the stream left without a line end.
    pub(crate) fn flush(&mut self, stream: Stream, now: Timestamp) {
        let partial = std::mem::take(&mut self.partial[stream as usize]);
        if !partial.is_empty() {
            let mut out = Vec::new();
            render(&mut out, stream, b'F', &partial, now);
            self.append(&out);
        }
    }

    fn append(&mut self, bytes: &[u8]) {
        if let Some(file) = &mut self.file {
            let _ = file.write_all(bytes);
        }
    }
}

fn render(out: &mut Vec<u8>, stream: Stream, tag: u8, text: &[u8], now: Timestamp) {
    let _ = write!(out, "{now:.9} {} {} ", stream.name(), tag as char);
    out.extend_from_slice(text);
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_parts_and_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut log = Log::open(path.to_str().unwrap()).unwrap();
        let now: Timestamp = "2026-01-02T03:04:05.000000006Z".parse().unwrap();
        log.write(Stream::Stdout, b"one\ntw", now);
        log.write(Stream::Stderr, b"err\n", now);
        log.write(Stream::Stdout, b"o\n\n", now);
        std::fs::rename(&path, dir.path().join("0.log.1")).unwrap();
        log.reopen().unwrap();
        log.write(Stream::Stdout, &[b'x'; PART_BYTES_MAX + 3], now);
        log.flush(Stream::Stdout, now);
        let t = "2026-01-02T03:04:05.000000006Z";
        let first = std::fs::read_to_string(dir.path().join("0.log.1")).unwrap();
        assert_eq!(first, format!("{t} stdout F one\n{t} stderr F err\n{t} stdout F two\n{t} stdout F \n"));
        let second = std::fs::read_to_string(&path).unwrap();
        let (part, rest) = second.split_once('\n').unwrap();
        assert_eq!(part, format!("{t} stdout P {}", "x".repeat(PART_BYTES_MAX)));
        assert_eq!(rest, format!("{t} stdout F xxx\n"));
    }
}
