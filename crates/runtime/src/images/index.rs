//! The index of images and layers, a JSON file replaced atomically under a file lock.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{ImageStore, Reference};
use crate::error::{Context, Error};

/// An image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// Digest of the configuration, `sha256:<hex>`.
    pub id: String,
    /// Names with a tag, in full (`docker.io/library/busybox:latest`).
    pub tags: Vec<String>,
    /// Names with a digest (`docker.io/library/busybox@sha256:…`).
    pub digests: Vec<String>,
    /// Chain ids of the layers, the lowest first.
    pub chain_ids: Vec<String>,
    /// Size of configuration and unpacked layers, bytes.
    pub bytes: u64,
    /// Never collected.
    #[serde(default)]
    pub pinned: bool,
    /// `user` of the configuration; may be empty, `name`, `uid`, either with `:group`.
    #[serde(default)]
    pub user: String,
}

/// An unpacked layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRecord {
    /// Name of its directory under `l/`; short, since overlayfs takes all of them in one page of options.
    pub dir: u64,
    /// Size of its files, bytes.
    pub bytes: u64,
    /// Its inodes.
    pub inodes: u64,
}

/// The whole index.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Index {
    /// Format of this file; a newer one is refused.
    pub(crate) version: u32,
    /// The next free directory name.
    pub(crate) next_dir: u64,
    pub(crate) images: Vec<ImageRecord>,
    /// By chain id.
    pub(crate) layers: BTreeMap<String, LayerRecord>,
}

const VERSION: u32 = 1;

impl Index {
    pub(crate) fn find(&self, name: &str) -> Option<&ImageRecord> {
        let position = self.position(name)?;
        self.images.get(position)
    }

    pub(crate) fn find_mut(&mut self, name: &str) -> Option<&mut ImageRecord> {
        let position = self.position(name)?;
        self.images.get_mut(position)
    }

    fn position(&self, name: &str) -> Option<usize> {
        let hex = name.strip_prefix("sha256:").unwrap_or(name);
        if let Some(i) = self.images.iter().position(|image| image.id[7..] == *hex) {
            return Some(i);
        }
        if let Ok(reference) = Reference::parse(name) {
            let (tag, digest) = (reference.with_tag(), reference.with_digest());
            let found = self.images.iter().position(|image| match &digest {
                Some(digest) => image.digests.contains(digest),
                None => image.tags.contains(&tag),
            });
            if found.is_some() {
                return found;
            }
        }
        // A short id, as `crictl` prints it; at least eight digits, so that no word matches by accident.
        if hex.len() >= 8 && hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            let mut matches =
                self.images.iter().enumerate().filter(|(_, image)| image.id[7..].starts_with(hex));
            if let (Some((i, _)), None) = (matches.next(), matches.next()) {
                return Some(i);
            }
        }
        None
    }

    /// Puts the image in, takes over what is known of it, and takes its names from other images.
    pub(crate) fn insert(&mut self, mut image: ImageRecord) {
        for other in &mut self.images {
            if other.id != image.id {
                other.tags.retain(|tag| !image.tags.contains(tag));
            }
        }
        if let Some(known) = self.images.iter_mut().find(|known| known.id == image.id) {
            for tag in known.tags.drain(..) {
                if !image.tags.contains(&tag) {
                    image.tags.push(tag);
                }
            }
            for digest in known.digests.drain(..) {
                if !image.digests.contains(&digest) {
                    image.digests.push(digest);
                }
            }
            image.pinned |= known.pinned;
            *known = image;
        } else {
            self.images.push(image);
        }
    }

    /// Removes what `name` stands for: by id the image, by name the name, and the image with its last name.
    pub(crate) fn remove(&mut self, name: &str) -> bool {
        let Some(position) = self.position(name) else { return false };
        let image = &mut self.images[position];
        let by_id = name.strip_prefix("sha256:").unwrap_or(name);
        if !image.id[7..].starts_with(by_id)
            && let Ok(reference) = Reference::parse(name)
        {
            match reference.with_digest() {
                Some(digest) => image.digests.retain(|known| *known != digest),
                None => image.tags.retain(|known| *known != reference.with_tag()),
            }
            if !image.tags.is_empty() || (!image.digests.is_empty() && reference.with_digest().is_some()) {
                return true;
            }
        }
        self.images.remove(position);
        true
    }
}

impl ImageStore {
    pub(crate) fn index(&self) -> Result<Index, Error> {
        let path = self.root.join("images/index.json");
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Index::default()),
            Err(e) => return Err(e).what(|| format!("read {}", path.display())),
        };
        let index: Index = serde_json::from_slice(&bytes)
            .map_err(|e| Error::Invalid(format!("image index {} is corrupt: {e}", path.display())))?;
        if index.version > VERSION {
            return Err(Error::Invalid(format!(
                "image index {} has format {}, this version knows up to {VERSION}",
                path.display(),
                index.version
            )));
        }
        Ok(index)
    }

    /// Changes the index: nobody else does meanwhile, and readers see the old one or the new one.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Index) -> Result<T, Error>) -> Result<T, Error> {
        let dir = self.root.join("images");
        let lock_path = dir.join("lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock_path)
            .what(|| format!("open {}", lock_path.display()))?;
        lock.lock().what(|| format!("lock {}", lock_path.display()))?;
        let mut index = self.index()?;
        let answer = change(&mut index)?;
        index.version = VERSION;
        let bytes = serde_json::to_vec(&index).map_err(Error::invalid)?;
        write_atomically(&dir.join("index.json"), &bytes)?;
        Ok(answer)
    }

    /// Keeps [`collect_garbage`](Self::collect_garbage), in this process and in others, from removing layers
    /// that are installed but not yet named by an image.
    pub(crate) fn busy(&self) -> Result<File, Error> {
        let (file, path) = self.busy_file()?;
        file.lock_shared().what(|| format!("lock {}", path.display()))?;
        Ok(file)
    }

    fn busy_file(&self) -> Result<(File, std::path::PathBuf), Error> {
        let path = self.root.join("images/busy");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .what(|| format!("open {}", path.display()))?;
        Ok((file, path))
    }

    /// Removes layers and documents that no image uses, unless an image is being received: then whoever is
    /// done last collects.
    pub(crate) fn collect_garbage(&self) -> Result<(), Error> {
        let (file, _) = self.busy_file()?;
        if file.try_lock().is_err() {
            return Ok(());
        }
        self.change(|index| {
            let used: BTreeSet<&String> = index.images.iter().flat_map(|image| &image.chain_ids).collect();
            let unused: Vec<String> =
                index.layers.keys().filter(|chain| !used.contains(chain)).cloned().collect();
            for chain in unused {
                if let Some(layer) = index.layers.remove(&chain) {
                    let path = self.layers_root().join(layer.dir.to_string());
                    remove_tree(&path)?;
                }
            }
            self.remove_stray_blobs(index)
        })
    }

    fn remove_stray_blobs(&self, index: &Index) -> Result<(), Error> {
        let mut keep: BTreeSet<String> = index.images.iter().map(|image| image.id[7..].to_owned()).collect();
        for image in &index.images {
            keep.extend(
                image.digests.iter().filter_map(|d| d.rsplit_once(":").map(|(_, hex)| hex.to_owned())),
            );
        }
        let dir = self.root.join("images/blobs/sha256");
        for entry in std::fs::read_dir(&dir).what(|| format!("list {}", dir.display()))? {
            let entry = entry.what(|| format!("list {}", dir.display()))?;
            if !keep.contains(entry.file_name().to_string_lossy().as_ref()) {
                std::fs::remove_file(entry.path()).what(|| format!("remove {}", entry.path().display()))?;
            }
        }
        Ok(())
    }

    /// Stores a document, and answers its digest.
    pub(crate) fn write_blob(&self, bytes: &[u8]) -> Result<String, Error> {
        let hex = hex(&Sha256::digest(bytes));
        let path = self.root.join("images/blobs/sha256").join(&hex);
        if !path.exists() {
            write_atomically(&path, bytes)?;
        }
        Ok(format!("sha256:{hex}"))
    }

    /// Reads a document, and verifies it.
    pub(crate) fn read_blob(&self, digest: &str) -> Result<Vec<u8>, Error> {
        let hex_wanted = digest.strip_prefix("sha256:").unwrap_or(digest);
        if hex_wanted.len() != 64 || !hex_wanted.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(Error::Invalid(format!("{digest:?} is not a sha256 digest")));
        }
        let path = self.root.join("images/blobs/sha256").join(hex_wanted);
        let bytes = std::fs::read(&path).what(|| format!("read {}", path.display()))?;
        if hex(&Sha256::digest(&bytes)) != hex_wanted {
            return Err(Error::Invalid(format!(
                "{} is corrupt: its content has another digest",
                path.display()
            )));
        }
        Ok(bytes)
    }

    /// A new file in the store's own temporary directory, gone when closed.
    pub(crate) fn temporary(&self) -> Result<File, Error> {
        let dir = self.root.join("images/tmp");
        tempfile::tempfile_in(&dir).what(|| format!("create a file in {}", dir.display()))
    }
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// Replaces `path`: a crash leaves the old content or the new one.
pub(crate) fn write_atomically(path: &std::path::Path, bytes: &[u8]) -> Result<(), Error> {
    let dir = path.parent().unwrap_or(path);
    let mut file =
        tempfile::NamedTempFile::new_in(dir).what(|| format!("create a file in {}", dir.display()))?;
    file.write_all(bytes).what(|| format!("write {}", path.display()))?;
    file.as_file().sync_all().what(|| format!("sync {}", path.display()))?;
    file.persist(path).map_err(|e| e.error).what(|| format!("replace {}", path.display()))?;
    Ok(())
}

/// Removes a directory tree; one that is not there is removed already.
pub(crate) fn remove_tree(path: &std::path::Path) -> Result<(), Error> {
    match std::fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).what(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(digit: char, tags: &[&str]) -> ImageRecord {
        ImageRecord {
            id: format!("sha256:{}", digit.to_string().repeat(64)),
            tags: tags.iter().map(|t| (*t).to_owned()).collect(),
            digests: Vec::new(),
            chain_ids: Vec::new(),
            bytes: 1,
            pinned: false,
            user: String::new(),
        }
    }

    #[test]
    fn a_name_moves_to_the_newer_image() {
        let mut index = Index::default();
        index.insert(image('a', &["docker.io/library/x:latest", "docker.io/library/x:1"]));
        index.insert(image('b', &["docker.io/library/x:latest"]));
        assert_eq!(index.find("x").map(|i| i.id.as_bytes()[7]), Some(b'b'));
        assert_eq!(index.find("x:1").map(|i| i.id.as_bytes()[7]), Some(b'a'));
        assert_eq!(index.find("aaaaaaaaaaaa").map(|i| i.id.as_bytes()[7]), Some(b'a'));
        assert!(index.find("aaaa").is_none());
    }

    #[test]
    fn removing_the_last_name_removes_the_image() {
        let mut index = Index::default();
        index.insert(image('a', &["docker.io/library/x:latest", "docker.io/library/x:1"]));
        assert!(index.remove("x"));
        assert_eq!(index.images.len(), 1);
        assert!(index.remove("x:1"));
        assert!(index.images.is_empty());
        assert!(!index.remove("x:1"));
    }
}
