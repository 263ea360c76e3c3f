//! Why the OCI runtime failed.
//!
//! libcontainer's errors cross process boundaries as their outermost text ("failed to prepare rootfs"); the
//! causes it only logs. This collects what is logged as an error in a file in memory that the processes of
//! a start share.

use std::ffi::CStr;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::sync::Mutex;

use nix::sys::memfd::{MFdFlags, memfd_create};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Enough for any chain of causes.
const REASONS_BYTES_MAX: usize = 4096;
const NAME: &CStr = c"isopod-reasons";

struct Collector(Mutex<File>);

/// Begins to collect, in this process and in those that it forks.
pub(crate) fn collect() -> Option<File> {
    let file = File::from(memfd_create(NAME, MFdFlags::MFD_CLOEXEC).ok()?);
    let shared = file.try_clone().ok()?;
    tracing::subscriber::set_global_default(Collector(Mutex::new(shared))).ok()?;
    Some(file)
}

/// What was logged: the first line is nearest to the cause.
pub(crate) fn first(file: &mut File) -> Option<String> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0)).ok()?;
    file.take(REASONS_BYTES_MAX as u64).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    text.lines().find(|line| !line.is_empty()).map(str::to_owned)
}

impl Subscriber for Collector {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::ERROR && metadata.is_event()
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        let text = format!("{}{}\n", line.message, line.fields).replace("\n\n", "\n");
        // After a fork in mid-event the lock could be held for ever; what is lost then is a reason.
        if let Ok(mut file) = self.0.try_lock() {
            let _ = file.write_all(text.as_bytes());
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        use std::fmt::Write as _;
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, ", {name}: {value:?}"),
        };
    }
}
