//! The file that events go to: one thread writes, requests never wait for it.
//!
//! Events are queued for a thread; what finds the queue full is lost and counted. The file is renamed with the
//! time in its name when it has reached its size, and renamed files are deleted by number and by age: names and
//! rules are those of the library that upstream uses, so that what collects upstream's logs collects these.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::time::Duration;

use isopod_client::Clock;

use super::{Error, lost};

/// Events waiting to be written; upstream's size of the same queue.
const QUEUE_EVENTS_MAX: usize = 10_000;
/// Bytes waiting to be written, since an event with bodies may have megabytes.
const QUEUE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Bytes written at once, as far as they are there.
const WRITE_BYTES: usize = 256 * 1024;
/// Longest a flush waits for the writer.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);
/// The time in the name of a file that is no longer written.
const TIME_IN_NAME: &str = "%Y-%m-%dT%H-%M-%S";
const MIB: u64 = 1024 * 1024;

/// How an event is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A line of JSON.
    Json,
    /// Upstream's older line of text.
    Legacy,
}

/// Where events go, and for how long.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file; `-` is standard output.
    pub path: PathBuf,
    /// Days that a renamed file is kept; zero keeps it whatever its age.
    pub max_age_days: u32,
    /// Renamed files that are kept; zero keeps all.
    pub max_backups: u32,
    /// Size in MiB at which the file is renamed; zero is 100.
    pub max_size_mib: u32,
    /// How an event is written.
    pub format: Format,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            path: PathBuf::from("-"),
            max_age_days: 30,
            max_backups: 10,
            max_size_mib: 100,
            format: Format::Json,
        }
    }
}

enum Message {
    Event(Vec<u8>),
    Flush(SyncSender<()>),
}

/// The queue to the thread that writes. The thread ends, with everything written, when this is dropped.
pub(crate) struct Writer {
    queue: SyncSender<Message>,
    waiting: Arc<AtomicUsize>,
    format: Format,
}

impl Writer {
    /// Opens the file and starts the thread.
    pub(super) fn open(config: &Config, clock: Arc<dyn Clock>) -> Result<Writer, Error> {
        let sink = if config.path.as_os_str() == "-" {
            Sink::Stdout
        } else {
            let wrong = |error| Error::Open { path: config.path.clone(), error };
            Sink::File(Box::new(Rotating::open(config.clone(), clock).map_err(wrong)?))
        };
        let (queue, events) = mpsc::sync_channel(QUEUE_EVENTS_MAX);
        let waiting = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&waiting);
        std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || run(sink, &events, &counted))
            .map_err(|error| Error::Open { path: config.path.clone(), error })?;
        Ok(Writer { queue, waiting, format: config.format })
    }

    pub(super) fn format(&self) -> Format {
        self.format
    }

    /// Queues a line; a full queue loses it.
    pub(super) fn write(&self, line: Vec<u8>) {
        let bytes = line.len();
        if self.waiting.fetch_add(bytes, Ordering::Relaxed) > QUEUE_BYTES_MAX
            || self.queue.try_send(Message::Event(line)).is_err()
        {
            self.waiting.fetch_sub(bytes, Ordering::Relaxed);
            lost(1);
        }
    }

    /// Waits, for a bounded time, until everything queued so far is written.
    pub(super) fn flush(&self) {
        let (done, is_done) = mpsc::sync_channel(1);
        match self.queue.try_send(Message::Flush(done)) {
            Ok(()) => drop(is_done.recv_timeout(FLUSH_TIMEOUT)),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
        }
    }
}

fn run(mut sink: Sink, events: &Receiver<Message>, waiting: &AtomicUsize) {
    let mut buffer = Vec::with_capacity(WRITE_BYTES);
    let mut failed = false;
    let mut flushes = Vec::new();
    while let Ok(first) = events.recv() {
        let mut next = Some(first);
        let mut lines = 0;
        while let Some(message) = next {
            match message {
                Message::Event(line) => {
                    lines += 1;
                    buffer.extend_from_slice(&line);
                }
                Message::Flush(done) => flushes.push(done),
            }
            next = if buffer.len() < WRITE_BYTES { events.try_recv().ok() } else { None };
        }
        if let Err(error) = sink.write(&buffer) {
            lost(lines);
            if !failed {
                tracing::error!(%error, "the audit log cannot be written; events are lost");
            }
            failed = true;
        } else {
            failed = false;
        }
        waiting.fetch_sub(buffer.len(), Ordering::Relaxed);
        buffer.clear();
        buffer.shrink_to(WRITE_BYTES);
        for done in flushes.drain(..) {
            let _ = done.try_send(());
        }
    }
}

enum Sink {
    Stdout,
    File(Box<Rotating>),
}

impl Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            _ if bytes.is_empty() => Ok(()),
            Sink::Stdout => std::io::stdout().lock().write_all(bytes),
            Sink::File(file) => file.write(bytes),
        }
    }
}

/// A file that is renamed when it is large enough.
struct Rotating {
    config: Config,
    clock: Arc<dyn Clock>,
    file: File,
    bytes: u64,
}

fn open(path: &Path) -> std::io::Result<File> {
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    // A file that was there before may be readable by others.
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    Ok(file)
}

impl Rotating {
    fn open(config: Config, clock: Arc<dyn Clock>) -> std::io::Result<Rotating> {
        if let Some(directory) = config.path.parent().filter(|d| !d.as_os_str().is_empty()) {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        }
        let file = open(&config.path)?;
        let bytes = file.metadata()?.len();
        let rotating = Rotating { config, clock, file, bytes };
        rotating.prune();
        Ok(rotating)
    }

    fn size_max(&self) -> u64 {
        match self.config.max_size_mib {
            0 => 100 * MIB,
            mib => u64::from(mib) * MIB,
        }
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        if self.bytes > 0 && self.bytes + bytes.len() as u64 > self.size_max() {
            self.rotate()?;
        }
        self.file.write_all(bytes)?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// `audit` and `.log` of `audit.log`.
    fn name(&self) -> (String, String) {
        let part = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
        let end = part(self.config.path.extension());
        let end = if end.is_empty() { end } else { format!(".{end}") };
        (part(self.config.path.file_stem()), end)
    }

    fn rotate(&mut self) -> std::io::Result<()> {
        let now = self.clock.now();
        let (start, end) = self.name();
        let millis = now.as_millisecond().rem_euclid(1000);
        let name = format!("{start}-{}.{millis:03}{end}", now.strftime(TIME_IN_NAME));
        std::fs::rename(&self.config.path, self.config.path.with_file_name(name))?;
        self.file = open(&self.config.path)?;
        self.bytes = self.file.metadata()?.len();
        self.prune();
        Ok(())
    }

    /// Deletes renamed files that are too many or too old. Failures leave them for the next time.
    fn prune(&self) {
        let (start, end) = self.name();
        let directory = match self.config.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let time_of = |name: &str| {
            let time = name.strip_prefix(&start)?.strip_prefix('-')?.strip_suffix(&end)?;
            let (seconds, millis) = time.split_once('.')?;
            let whole = jiff::civil::DateTime::strptime(TIME_IN_NAME, seconds).ok()?;
            let at = whole.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp();
            (millis.len() == 3).then_some(())?;
            at.checked_add(Duration::from_millis(millis.parse().ok()?)).ok()
        };
        let entries = std::fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
        let mut old: Vec<(jiff::Timestamp, PathBuf)> =
            entries.filter_map(|entry| Some((time_of(entry.file_name().to_str()?)?, entry.path()))).collect();
        old.sort_by(|a, b| b.cmp(a));
        let days = Duration::from_secs(u64::from(self.config.max_age_days) * 24 * 60 * 60);
        let oldest = self.clock.now().checked_sub(days).unwrap_or(jiff::Timestamp::MIN);
        for (at, (time, path)) in old.iter().enumerate() {
            let too_many = self.config.max_backups > 0 && at >= self.config.max_backups as usize;
            let too_old = self.config.max_age_days > 0 && *time < oldest;
            if (too_many || too_old)
                && let Err(error) = std::fs::remove_file(path)
            {
                tracing::warn!(path = %path.display(), %error, "an old audit log cannot be deleted");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use isopod_client::clock::ManualClock;
    use std::os::unix::fs::PermissionsExt as _;

    fn names(directory: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(directory).unwrap();
        let mut names: Vec<String> =
            entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn files_are_renamed_and_deleted_by_number_and_age() {
        let directory = tempfile::tempdir().unwrap();
        let start: jiff::Timestamp = "2026-01-02T03:04:05.678Z".parse().unwrap();
        let clock = Arc::new(ManualClock::new(start));
        let path = directory.path().join("log").join("audit.log");
        let config = Config {
            path: path.clone(),
            max_size_mib: 1,
            max_backups: 2,
            max_age_days: 3,
            ..Config::default()
        };
        let mut file = Rotating::open(config.clone(), clock.clone()).unwrap();
        let logs = path.parent().unwrap();
        assert_eq!(std::fs::metadata(logs).unwrap().permissions().mode() & 0o777, 0o700);
        let half = vec![b'x'; 600 * 1024];
        let day = Duration::from_secs(24 * 60 * 60);
        for _ in 0..3 {
            file.write(&half).unwrap();
            clock.advance(day);
        }
        let written = ["audit-2026-01-03T03-04-05.678.log", "audit-2026-01-04T03-04-05.678.log", "audit.log"];
        assert_eq!(names(logs), written);
        for name in written {
            let mode = std::fs::metadata(logs.join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        // A third one: the oldest goes. A foreign file stays.
        std::fs::write(logs.join("audit-notes.log"), "mine").unwrap();
        file.write(&half).unwrap();
        assert_eq!(
            names(logs),
            [
                "audit-2026-01-04T03-04-05.678.log",
                "audit-2026-01-05T03-04-05.678.log",
                "audit-notes.log",
                "audit.log"
            ]
        );
        // Three days and an hour after the older of them.
        clock.advance(day * 2 + Duration::from_secs(3600));
        drop(file);
        let file = Rotating::open(config, clock).unwrap();
        assert_eq!(names(logs), ["audit-2026-01-05T03-04-05.678.log", "audit-notes.log", "audit.log"]);
        assert_eq!(file.bytes, half.len() as u64);
    }

    #[test]
    fn a_full_queue_loses_and_counts() {
        let (queue, events) = mpsc::sync_channel(2);
        let writer = Writer { queue, waiting: Arc::default(), format: Format::Json };
        let before = super::super::ERRORS.with_label_values(&["log"]).get();
        for _ in 0..5 {
            writer.write(b"line\n".to_vec());
        }
        assert_eq!(super::super::ERRORS.with_label_values(&["log"]).get() - before, 3);
        assert_eq!(writer.waiting.load(Ordering::Relaxed), 10);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.log");
        let clock = Arc::new(ManualClock::new(jiff::Timestamp::UNIX_EPOCH));
        let waiting = Arc::clone(&writer.waiting);
        let sink = Rotating::open(Config { path: path.clone(), ..Config::default() }, clock).unwrap();
        drop(writer);
        run(Sink::File(Box::new(sink)), &events, &waiting);
        assert_eq!(std::fs::read_to_string(path).unwrap(), "line\nline\n");
        assert_eq!(waiting.load(Ordering::Relaxed), 0);
    }
}
