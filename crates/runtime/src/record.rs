//! What the runtime remembers of sandboxes and containers across restarts of the server.
//!
//! One directory each under `<root>/sandboxes` and `<root>/containers`, with the CRI configuration
//! (`config.pb`, as it came) and a record (`record.json`, replaced as a whole). The records are not synced:
//! they survive the death of the process, and after a power failure no container runs anyway.

use std::path::{Path, PathBuf};

use prost::Message;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Context, Error};

/// Format of the records.
const VERSION: u32 = 1;

/// A sandbox.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SandboxRecord {
    pub(crate) id: String,
    pub(crate) created_at: i64,
    pub(crate) ready: bool,
    pub(crate) runtime_handler: String,
    pub(crate) netns: Option<String>,
    pub(crate) ips: Vec<String>,
    pub(crate) shim_pid: i32,
    pub(crate) pause_pid: Option<i32>,
    /// Whether the network was given back.
    pub(crate) detached: bool,
}

/// A container.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    pub(crate) id: String,
    pub(crate) sandbox_id: String,
    pub(crate) image_id: String,
    pub(crate) image_ref: String,
    /// A name of the image, to be shown.
    #[serde(default)]
    pub(crate) image_name: String,
    pub(crate) created_at: i64,
    pub(crate) started_at: i64,
    pub(crate) finished_at: i64,
    pub(crate) pid: i32,
    pub(crate) exit_code: i32,
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) cgroup: String,
    pub(crate) log_path: String,
    pub(crate) stop_signal: i32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) shared_pids: bool,
}

#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    version: u32,
    #[serde(flatten)]
    record: T,
}

/// Writes a record.
pub(crate) fn save<T: Serialize>(dir: &Path, record: &T) -> Result<(), Error> {
    let bytes = serde_json::to_vec(&Versioned { version: VERSION, record }).map_err(Error::invalid)?;
    let (new, path) = (dir.join("record.new"), dir.join("record.json"));
    std::fs::write(&new, bytes).what(|| format!("write {}", new.display()))?;
    std::fs::rename(&new, &path).what(|| format!("replace {}", path.display()))
}

/// Writes a configuration.
pub(crate) fn save_config(dir: &Path, config: &impl Message) -> Result<(), Error> {
    let path = dir.join("config.pb");
    std::fs::write(&path, config.encode_to_vec()).what(|| format!("write {}", path.display()))
}

/// Reads a record and its configuration.
pub(crate) fn load<T: DeserializeOwned, C: Message + Default>(dir: &Path) -> Result<(T, C), Error> {
    let path = dir.join("record.json");
    let bytes = std::fs::read(&path).what(|| format!("read {}", path.display()))?;
    let record: Versioned<T> =
        serde_json::from_slice(&bytes).map_err(|e| Error::Invalid(format!("{}: {e}", path.display())))?;
    if record.version > VERSION {
        return Err(Error::Invalid(format!(
            "{} has format {}, this version knows up to {VERSION}",
            path.display(),
            record.version
        )));
    }
    let path = dir.join("config.pb");
    let bytes = std::fs::read(&path).what(|| format!("read {}", path.display()))?;
    let config =
        C::decode(bytes.as_slice()).map_err(|e| Error::Invalid(format!("{}: {e}", path.display())))?;
    Ok((record.record, config))
}

/// The directories below `dir`.
pub(crate) fn directories(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).what(|| format!("list {}", dir.display()))? {
        let entry = entry.what(|| format!("list {}", dir.display()))?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.push(entry.path());
        }
    }
    Ok(found)
}
