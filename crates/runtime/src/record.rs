//! What the runtime remembers of sandboxes and containers across restarts of the server.
//!
//! One directory each under `<root>/sandboxes` and `<root>/containers`, with the CRI configuration
//! (`config.pb`) and a record (`record.json`, replaced as a whole). The records are not synced: they survive
//! the death of the process, and after a power failure no container runs anyway.
//!
//! What a container is told may be secret: values of its environment, and words of its command that were
//! made of them. All that is kept in a bundle in memory (`<state>/c/<id>`), which ends with the machine as
//! containers do; the configuration on disk goes without. A container from before a restart of the machine
//! is known by that alone.

use std::path::{Path, PathBuf};

use isopod_cri::v1::ContainerConfig;
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
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

/// Writes a container's configuration: whole to its bundle, without what may be secret to its directory.
pub(crate) fn save_container(dir: &Path, bundle: &Path, config: &ContainerConfig) -> Result<(), Error> {
    save_config(bundle, config)?;
    save_config(dir, &without_secrets(config))
}

/// Reads a container's record and the fullest configuration that is left of it.
pub(crate) fn load_container(dir: &Path, bundle: &Path) -> Result<(ContainerRecord, ContainerConfig), Error> {
    let (record, on_disk) = load(dir)?;
    let whole = std::fs::read(bundle.join("config.pb")).ok();
    let whole = whole.and_then(|bytes| ContainerConfig::decode(bytes.as_slice()).ok());
    Ok((record, whole.unwrap_or(on_disk)))
}

fn without_secrets(config: &ContainerConfig) -> ContainerConfig {
    ContainerConfig { envs: Vec::new(), command: Vec::new(), args: Vec::new(), ..config.clone() }
}

/// The directory of bundles, made to lie in memory.
pub(crate) fn bundles(state: &Path) -> PathBuf {
    state.join("c")
}

/// Makes the directory of bundles: a tmpfs of its own where the state directory is not on one.
pub(crate) fn make_bundles(state: &Path) -> Result<(), Error> {
    let dir = bundles(state);
    let what = || format!("make a directory in memory at {}", dir.display());
    std::fs::create_dir_all(&dir).what(what)?;
    if statfs(&dir).what(what)?.filesystem_type() != TMPFS_MAGIC {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("isopod"), &dir, Some("tmpfs"), flags, Some("mode=0700")).what(what)?;
    }
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(&dir, mode).what(what)
}

/// Moves what an earlier version kept on disk. A link stays, since the shim of a container that runs knows the
/// old place.
pub(crate) fn move_secrets(dir: &Path, bundle: &Path) -> Result<(), Error> {
    let old = dir.join("config.json");
    if !std::fs::symlink_metadata(&old).is_ok_and(|metadata| metadata.is_file()) {
        return Ok(());
    }
    let what = || format!("move {} to memory", old.display());
    std::fs::create_dir_all(bundle).what(what)?;
    let new = bundle.join("config.json");
    std::fs::copy(&old, &new).what(what)?;
    std::fs::remove_file(&old).what(what)?;
    std::os::unix::fs::symlink(&new, &old).what(what)?;
    let (_, config): (ContainerRecord, ContainerConfig) = load(dir)?;
    save_container(dir, bundle, &config)
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

#[cfg(test)]
mod tests {
    use super::*;
    use isopod_cri::v1::KeyValue;

    fn holds(dir: &Path, text: &str) -> bool {
        std::fs::read_dir(dir).unwrap().any(|entry| {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap_or_default();
            bytes.windows(text.len()).any(|part| part == text.as_bytes())
        })
    }

    #[test]
    fn what_an_earlier_version_left_moves_to_memory() {
        let tmp = tempfile::tempdir().unwrap();
        let (dir, bundle) = (tmp.path().join("dir"), tmp.path().join("bundle"));
        std::fs::create_dir(&dir).unwrap();
        let config = ContainerConfig {
            envs: vec![KeyValue { key: "PASSWORD".into(), value: b"hunter2".to_vec() }],
            working_dir: "/work".into(),
            ..ContainerConfig::default()
        };
        save(&dir, &ContainerRecord::default()).unwrap();
        save_config(&dir, &config).unwrap();
        std::fs::write(dir.join("config.json"), "{\"env\": \"hunter2\"}").unwrap();
        for _ in 0..2 {
            move_secrets(&dir, &bundle).unwrap();
        }
        // By the link both are found, so it goes before the look.
        assert_eq!(std::fs::read_link(dir.join("config.json")).unwrap(), bundle.join("config.json"));
        std::fs::remove_file(dir.join("config.json")).unwrap();
        assert!(!holds(&dir, "hunter2") && holds(&bundle, "hunter2"));
        assert_eq!(load_container(&dir, &bundle).unwrap().1, config);
        // After a restart of the machine.
        std::fs::remove_dir_all(&bundle).unwrap();
        let (_, left) = load_container(&dir, &bundle).unwrap();
        assert_eq!((left.working_dir.as_str(), left.envs.len()), ("/work", 0));
    }
}
