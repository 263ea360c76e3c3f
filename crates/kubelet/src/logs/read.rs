//! Reading a container's log for a client: from where it asks, as far as it asks, and on as it grows.
//!
//! Following waits for inotify or for a change of the pod; nothing is polled. Rotation is seen by the inode
//! behind the path: the old file is read to its end first.

use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use jiff::Timestamp;
use nix::sys::inotify::AddWatchFlags;
use tokio::sync::{mpsc, watch};

use super::Line;
use crate::watch_dir::DirWatch;

/// Bytes read at a time.
const CHUNK: usize = 64 << 10;
/// A line longer than this is passed on in parts.
const LINE_MAX: usize = 1 << 20;

/// What a client asks for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    pub(crate) follow: bool,
    pub(crate) timestamps: bool,
    /// Last lines only.
    pub(crate) tail: Option<u64>,
    /// Lines from that time on.
    pub(crate) since: Option<Timestamp>,
    /// At most that many bytes.
    pub(crate) limit_bytes: Option<u64>,
    /// One stream only.
    pub(crate) stderr: Option<bool>,
}

/// Where a reader is, and what it has sent.
struct Reader {
    path: PathBuf,
    file: fs::File,
    inode: u64,
    rest: Vec<u8>,
    options: Options,
    left: u64,
    /// The next line begins anew (the last one was whole), so it gets a timestamp.
    fresh: bool,
}

/// Sends the log to `out` until it ends: at its end, or, when following, once `running` says no.
pub(crate) async fn stream(
    path: PathBuf,
    options: Options,
    mut changed: watch::Receiver<u64>,
    running: impl Fn() -> bool,
    out: mpsc::Sender<io::Result<Bytes>>,
) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("/")).to_owned();
    let flags = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
    let mut watch = if options.follow { Some(DirWatch::new(&dir, flags)?) } else { None };
    let mut reader = Reader::open(path, options)?;
    loop {
        changed.mark_unchanged();
        // Asked before reading: what a container wrote before it ended is then surely seen.
        let alive = running();
        if !reader.drain(&out).await? {
            return Ok(());
        }
        if reader.reopen()? {
            continue;
        }
        let Some(watch) = watch.as_mut().filter(|_| alive) else {
            reader.flush(&out).await?;
            return Ok(());
        };
        tokio::select! {
            seen = watch.changed() => seen?,
            told = changed.changed() => if told.is_err() { return Ok(()) },
            () = out.closed() => return Ok(()),
        }
    }
}

impl Reader {
    fn open(path: PathBuf, options: Options) -> io::Result<Self> {
        let mut file = fs::File::open(&path)?;
        let inode = file.metadata()?.ino();
        if let Some(lines) = options.tail {
            let at = tail_offset(&mut file, lines)?;
            file.seek(SeekFrom::Start(at))?;
        }
        let left = options.limit_bytes.unwrap_or(u64::MAX);
        Ok(Self { path, file, inode, rest: Vec::new(), options, left, fresh: true })
    }

    /// Reads to the end of the file; false once the client has all that it asked for, or is gone.
    async fn drain(&mut self, out: &mpsc::Sender<io::Result<Bytes>>) -> io::Result<bool> {
        let mut buffer = vec![0; CHUNK];
        loop {
            let n = self.file.read(&mut buffer)?;
            if n == 0 {
                return Ok(self.left > 0);
            }
            self.rest.extend_from_slice(&buffer[..n]);
            let text = self.whole_lines();
            if !text.is_empty() && out.send(Ok(Bytes::from(text))).await.is_err() {
                return Ok(false);
            }
            if self.left == 0 {
                return Ok(false);
            }
        }
    }

    /// Sends a last line that has no line feed.
    async fn flush(&mut self, out: &mpsc::Sender<io::Result<Bytes>>) -> io::Result<()> {
        if !self.rest.is_empty() {
            self.rest.push(b'\n');
            let text = self.whole_lines();
            let _ = out.send(Ok(Bytes::from(text))).await;
        }
        Ok(())
    }

    fn whole_lines(&mut self) -> Vec<u8> {
        let mut text = Vec::new();
        let mut from = 0;
        let data = std::mem::take(&mut self.rest);
        while let Some(n) = data[from..].iter().position(|b| *b == b'\n') {
            self.line(&data[from..from + n], &mut text);
            from += n + 1;
        }
        if data.len() - from > LINE_MAX {
            self.line(&data[from..], &mut text);
            from = data.len();
        }
        self.rest = data[from..].to_vec();
        text
    }

    fn line(&mut self, raw: &[u8], text: &mut Vec<u8>) {
        let Some(line) = Line::parse(raw) else { return };
        if self.options.stderr.is_some_and(|e| e != line.stderr) {
            return;
        }
        if let Some(since) = self.options.since
            && line.timestamp().is_some_and(|t| t < since)
        {
            return;
        }
        let before = text.len();
        if self.options.timestamps && self.fresh {
            text.extend_from_slice(line.time.as_bytes());
            text.push(b' ');
        }
        text.extend_from_slice(line.text);
        if !line.partial {
            text.push(b'\n');
        }
        self.fresh = !line.partial;
        let added = (text.len() - before) as u64;
        if added > self.left {
            text.truncate(before + usize::try_from(self.left).unwrap_or(usize::MAX));
        }
        self.left = self.left.saturating_sub(added);
    }

    /// Goes over to the new file after a rotation.
    fn reopen(&mut self) -> io::Result<bool> {
        match fs::metadata(&self.path) {
            Ok(meta) if meta.ino() != self.inode => {
                self.file = fs::File::open(&self.path)?;
                self.inode = self.file.metadata()?.ino();
                Ok(true)
            }
            _ => Ok(false),
        }
    }
}

/// Where the last `lines` lines begin. Lines that go on count as the one that they are part of.
fn tail_offset(file: &mut fs::File, lines: u64) -> io::Result<u64> {
    let size = file.metadata()?.len();
    let mut end = size;
    let mut seen = 0;
    let mut buffer = vec![0; CHUNK];
    // The line feed at the very end closes the last line and begins none.
    while end > 0 {
        let from = end.saturating_sub(CHUNK as u64);
        let n = usize::try_from(end - from).unwrap_or(CHUNK);
        file.seek(SeekFrom::Start(from))?;
        file.read_exact(&mut buffer[..n])?;
        for i in (0..n).rev() {
            let at = from + i as u64;
            if buffer[i] != b'\n' || at + 1 == size {
                continue;
            }
            if ends_partial(file, at)? {
                continue;
            }
            seen += 1;
            if seen == lines {
                return Ok(at + 1);
            }
        }
        end = from;
    }
    Ok(if lines == 0 { size } else { 0 })
}

/// Whether the line that ends at `at` goes on in the next.
fn ends_partial(file: &mut fs::File, at: u64) -> io::Result<bool> {
    // The tag stands within the first 64 bytes of the line, which may be long: look for its beginning.
    let mut from = at;
    let mut line_start = 0;
    let mut block = [0; 4096];
    while from > 0 {
        let begin = from.saturating_sub(block.len() as u64);
        let n = usize::try_from(from - begin).unwrap_or(block.len());
        file.seek(SeekFrom::Start(begin))?;
        file.read_exact(&mut block[..n])?;
        if let Some(i) = block[..n].iter().rposition(|b| *b == b'\n') {
            line_start = begin + i as u64 + 1;
            break;
        }
        from = begin;
    }
    let mut head = [0; 64];
    file.seek(SeekFrom::Start(line_start))?;
    let n = file.read(&mut head)?;
    let n = n.min(usize::try_from(at - line_start).unwrap_or(n));
    Ok(Line::parse(&head[..n]).is_some_and(|l| l.partial))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(text: &str, options: Options) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        fs::write(&path, text).unwrap();
        let (tx, mut rx) = mpsc::channel(100);
        let (_keep, changed) = watch::channel(0);
        stream(path, options, changed, || false, tx).await.unwrap();
        let mut out = Vec::new();
        while let Some(b) = rx.recv().await {
            out.extend_from_slice(&b.unwrap());
        }
        String::from_utf8(out).unwrap()
    }

    const LOG: &str = "2026-01-02T00:00:01Z stdout F one\n2026-01-02T00:00:02Z stdout P tw\n\
                       2026-01-02T00:00:02Z stdout F o\n2026-01-02T00:00:03Z stderr F three\n";

    #[tokio::test]
    async fn options() {
        assert_eq!(read(LOG, Options::default()).await, "one\ntwo\nthree\n");
        assert_eq!(read(LOG, Options { tail: Some(2), ..Options::default() }).await, "two\nthree\n");
        assert_eq!(read(LOG, Options { tail: Some(0), ..Options::default() }).await, "");
        assert_eq!(read(LOG, Options { tail: Some(9), ..Options::default() }).await, "one\ntwo\nthree\n");
        assert_eq!(read(LOG, Options { limit_bytes: Some(5), ..Options::default() }).await, "one\nt");
        assert_eq!(read(LOG, Options { stderr: Some(true), ..Options::default() }).await, "three\n");
        let since = Some("2026-01-02T00:00:03Z".parse().unwrap());
        assert_eq!(read(LOG, Options { since, ..Options::default() }).await, "three\n");
        let stamped = read(LOG, Options { timestamps: true, tail: Some(2), ..Options::default() }).await;
        assert_eq!(stamped, "2026-01-02T00:00:02Z two\n2026-01-02T00:00:03Z three\n");
    }

    #[tokio::test]
    async fn follows_over_a_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        fs::write(&path, "2026-01-02T00:00:01Z stdout F one\n").unwrap();
        let (tx, mut rx) = mpsc::channel(100);
        let (tell, changed) = watch::channel(0);
        let alive = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
        let is_alive = alive.clone();
        let running = move || is_alive.load(std::sync::atomic::Ordering::SeqCst);
        let options = Options { follow: true, ..Options::default() };
        let task = tokio::spawn(stream(path.clone(), options, changed, running, tx));
        assert_eq!(rx.recv().await.unwrap().unwrap(), "one\n");
        fs::rename(&path, dir.path().join("0.log.1")).unwrap();
        fs::write(&path, "2026-01-02T00:00:02Z stdout F two\n").unwrap();
        assert_eq!(rx.recv().await.unwrap().unwrap(), "two\n");
        alive.store(false, std::sync::atomic::Ordering::SeqCst);
        tell.send_modify(|n| *n += 1);
        task.await.unwrap().unwrap();
        assert!(rx.recv().await.is_none());
    }
}
