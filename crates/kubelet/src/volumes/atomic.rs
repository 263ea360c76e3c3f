//! Files of ConfigMaps, Secrets and projections, replaced all at once.
//!
//! Layout as upstream's: payload in a directory named after the time, `..data` a symlink to it, and for each
//! top-level name a symlink `name -> ..data/name`. An update writes a new directory and renames one symlink,
//! so a reader sees the old or the new state and never a mixture.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::{Component, Path, PathBuf};

use jiff::Timestamp;

const DATA: &str = "..data";
const DATA_TMP: &str = "..data_tmp";

/// One file.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) data: Vec<u8>,
    pub(crate) mode: u32,
    /// Owner, where it is not the kubelet's own.
    pub(crate) uid: Option<u32>,
}

impl std::fmt::Debug for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "File({} bytes, {:o})", self.data.len(), self.mode)
    }
}

/// Relative path to file.
pub(crate) type Payload = BTreeMap<String, File>;

/// Makes `dir` hold exactly `payload`. Returns whether anything changed.
pub(crate) fn write(dir: &Path, payload: &Payload, gid: Option<u32>, now: Timestamp) -> io::Result<bool> {
    for path in payload.keys() {
        check(path)?;
    }
    let current = fs::read_link(dir.join(DATA)).ok();
    let clean = match &current {
        Some(target) => same(&dir.join(target), payload)? && links(dir)? == tops(payload),
        None => false,
    };
    if clean {
        return Ok(false);
    }
    let (name, fresh) = fresh_dir(dir, now)?;
    fill(&fresh, payload, gid)?;
    let tmp = dir.join(DATA_TMP);
    let _ = fs::remove_file(&tmp);
    symlink(&name, &tmp)?;
    fs::rename(&tmp, dir.join(DATA))?;
    for top in tops(payload) {
        let link = dir.join(&top);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(&top), &link)?;
        }
    }
    for stale in links(dir)?.difference(&tops(payload)) {
        fs::remove_file(dir.join(stale))?;
    }
    if let Some(old) = current {
        let old = dir.join(old);
        if old != fresh {
            fs::remove_dir_all(old)?;
        }
    }
    Ok(true)
}

/// Refuses paths that could leave the directory, or that the layout needs for itself.
fn check(path: &str) -> io::Result<()> {
    let bad = |why: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, format!("path {path:?}: {why}")));
    if path.is_empty() || path.len() > 4096 {
        return bad("must have 1 to 4096 bytes");
    }
    if path.starts_with("..") {
        return bad("must not start with \"..\"");
    }
    let plain = Path::new(path).components().all(|c| matches!(c, Component::Normal(n) if n.len() <= 255));
    if plain { Ok(()) } else { bad("must be relative, without \"..\"") }
}

fn tops(payload: &Payload) -> BTreeSet<String> {
    payload.keys().filter_map(|p| p.split('/').next()).map(str::to_owned).collect()
}

/// Names of the user-visible symlinks.
fn links(dir: &Path) -> io::Result<BTreeSet<String>> {
    let mut out = BTreeSet::new();
    for e in fs::read_dir(dir)? {
        let name = e?.file_name().to_string_lossy().into_owned();
        if !name.starts_with("..") {
            out.insert(name);
        }
    }
    Ok(out)
}

fn fresh_dir(dir: &Path, now: Timestamp) -> io::Result<(String, PathBuf)> {
    let stamp = now.to_zoned(jiff::tz::TimeZone::UTC).strftime("..%Y_%m_%d_%H_%M_%S").to_string();
    // Two updates within a second must not share a directory.
    for n in (now.subsec_nanosecond().unsigned_abs())..u32::MAX {
        let name = format!("{stamp}.{n}");
        let path = dir.join(&name);
        match fs::create_dir(&path) {
            Ok(()) => {
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
                return Ok((name, path));
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

fn fill(root: &Path, payload: &Payload, gid: Option<u32>) -> io::Result<()> {
    if gid.is_some() {
        chown(root, None, gid)?;
        fs::set_permissions(root, fs::Permissions::from_mode(0o2775))?;
    }
    for (path, file) in payload {
        let full = root.join(path);
        let mut parent = root.to_path_buf();
        for part in Path::new(path).parent().into_iter().flat_map(Path::components) {
            parent.push(part);
            match fs::create_dir(&parent) {
                Ok(()) => {
                    fs::set_permissions(&parent, fs::Permissions::from_mode(0o755))?;
                    if gid.is_some() {
                        chown(&parent, None, gid)?;
                        fs::set_permissions(&parent, fs::Permissions::from_mode(0o2775))?;
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
        let mut out = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&full)?;
        io::Write::write_all(&mut out, &file.data)?;
        if file.uid.is_some() || gid.is_some() {
            chown(&full, file.uid, gid)?;
        }
        // A group that was given the volume must be able to read it.
        let mode = if gid.is_some() { file.mode | 0o440 } else { file.mode };
        out.set_permissions(fs::Permissions::from_mode(mode & 0o7777))?;
    }
    Ok(())
}

fn same(root: &Path, payload: &Payload) -> io::Result<bool> {
    let mut found = 0;
    let mut stack = vec![root.to_path_buf()];
    while let Some(dir) = stack.pop() {
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(e),
        };
        for e in entries {
            let e = e?;
            if e.file_type()?.is_dir() {
                stack.push(e.path());
                continue;
            }
            found += 1;
            let path = e.path();
            let relative = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            let Some(want) = payload.get(&relative) else { return Ok(false) };
            if e.metadata()?.len() != want.data.len() as u64 || fs::read(&path)? != want.data {
                return Ok(false);
            }
        }
    }
    Ok(found == payload.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        files
            .iter()
            .map(|(p, d)| ((*p).to_owned(), File { data: d.as_bytes().to_vec(), mode: 0o640, uid: None }))
            .collect()
    }

    #[test]
    fn swaps_all_at_once() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path();
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        assert!(write(dir, &payload(&[("a", "1"), ("d/b", "2")]), None, now).unwrap());
        assert!(!write(dir, &payload(&[("a", "1"), ("d/b", "2")]), None, now).unwrap());
        assert_eq!(fs::read_to_string(dir.join("d/b")).unwrap(), "2");
        assert_eq!(fs::read_link(dir.join("a")).unwrap(), Path::new("..data/a"));
        assert!(write(dir, &payload(&[("a", "3"), ("c", "")]), None, now).unwrap());
        assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), "3");
        assert!(!dir.join("d").exists() && dir.join("c").exists());
        assert_eq!(fs::metadata(dir.join("a")).unwrap().permissions().mode() & 0o777, 0o640);
        // One payload directory, `..data`, and the two names.
        assert_eq!(fs::read_dir(dir).unwrap().count(), 4);
    }

    #[test]
    fn refuses_to_leave() {
        let tmp = tempfile::tempdir().unwrap();
        for path in ["../x", "/x", "a/../../x", "..data", ""] {
            assert!(
                write(tmp.path(), &payload(&[(path, "")]), None, Timestamp::UNIX_EPOCH).is_err(),
                "{path}"
            );
        }
    }
}
