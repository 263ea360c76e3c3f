//! Container logs in the CRI format: `<time> <stdout|stderr> <P|F> <text>`.

pub(crate) mod read;
pub(crate) mod rotate;

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use jiff::Timestamp;

/// One line of a log file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Line<'a> {
    pub(crate) time: &'a str,
    pub(crate) stderr: bool,
    /// The container's line goes on in the next one.
    pub(crate) partial: bool,
    pub(crate) text: &'a [u8],
}

impl<'a> Line<'a> {
    /// Parses a line without its line feed; `None` if it is not of the format.
    pub(crate) fn parse(line: &'a [u8]) -> Option<Self> {
        let mut parts = line.splitn(4, |b| *b == b' ');
        let time = std::str::from_utf8(parts.next()?).ok()?;
        let stderr = match parts.next()? {
            b"stdout" => false,
            b"stderr" => true,
            _ => return None,
        };
        let partial = parts.next()?.split(|b| *b == b':').next()? == b"P";
        Some(Self { time, stderr, partial, text: parts.next().unwrap_or_default() })
    }

    /// When it was written.
    pub(crate) fn timestamp(&self) -> Option<Timestamp> {
        self.time.parse().ok()
    }
}

/// The end of a log as plain text, at most `bytes` and `lines`.
pub(crate) fn tail_text(path: &Path, bytes: u64, lines: usize) -> String {
    let Ok(mut file) = fs::File::open(path) else { return String::new() };
    let size = file.metadata().map_or(0, |m| m.len());
    // Each line has a header of about 45 bytes besides its text.
    let window = bytes + 64 * lines as u64;
    let from = size.saturating_sub(window);
    let mut raw = Vec::new();
    if file.seek(SeekFrom::Start(from)).is_err() || file.take(window).read_to_end(&mut raw).is_err() {
        return String::new();
    }
    let mut out: Vec<u8> = Vec::new();
    let all: Vec<Line<'_>> = raw.split(|b| *b == b'\n').filter_map(Line::parse).collect();
    for l in &all[all.len().saturating_sub(lines)..] {
        out.extend_from_slice(l.text);
        if !l.partial {
            out.push(b'\n');
        }
    }
    let start = out.len().saturating_sub(usize::try_from(bytes).unwrap_or(usize::MAX));
    String::from_utf8_lossy(&out[start..]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let l = Line::parse(b"2026-01-02T03:04:05.6Z stderr P a b").unwrap();
        assert_eq!((l.stderr, l.partial, l.text), (true, true, &b"a b"[..]));
        assert_eq!(Line::parse(b"2026-01-02T03:04:05Z stdout F ").unwrap().text, b"");
        assert!(Line::parse(b"2026-01-02T03:04:05Z stdout F").is_some());
        assert!(Line::parse(b"nonsense").is_none());
    }

    #[test]
    fn tail_of_a_log() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let text: String = (0..10).map(|i| format!("2026-01-02T03:04:05Z stdout F l{i}\n")).collect();
        fs::write(&path, text).unwrap();
        assert_eq!(tail_text(&path, 2048, 2), "l8\nl9\n");
        assert_eq!(tail_text(&path, 4, 80), "\nl9\n");
    }
}
