//! Images: an index of names, blobs of manifests and configurations, and one directory per unpacked layer.
//!
//! Layout under `<root>/images`: `index.json` (names and ids), `blobs/sha256/<hex>` (configurations and
//! manifests, verified), `tmp/` (what is being received). Layers lie in `<root>/l/<n>`, keyed by chain id in
//! the index, so that a layer shared by images is unpacked once. Layer blobs are not kept: the kubelet never
//! asks for them, and they would double the space.
//!
//! Several processes may use one store: every change holds a file lock and starts from what is on disk.

mod archive;
mod config;
mod index;
mod layers;
mod pack;
mod pull;
mod reference;
mod registry;
mod unpack;
mod users;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use config::ImageConfig;
pub(crate) use index::remove_tree;
pub use index::{ImageRecord, LayerRecord};
pub use pack::{PackOptions, pack_binary};
pub use pull::Credentials;
pub use reference::Reference;
pub use users::{User, resolve_user};

use crate::error::{Context, Error};

/// Largest manifest, configuration or index document that is read: registries limit manifests to 4 MiB.
pub(crate) const DOCUMENT_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// The image store of a node.
#[derive(Debug, Clone)]
pub struct ImageStore {
    root: Arc<PathBuf>,
}

/// How to import an archive.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// Name to give to the image instead of those in the archive; only for archives of one image.
    pub tag: Option<String>,
    /// Keep the image out of garbage collection.
    pub pinned: bool,
}

/// Space taken by the store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
}

impl ImageStore {
    /// Opens the store below `root`, which it creates with mode 0700.
    pub fn open(root: &Path) -> Result<Self, Error> {
        for dir in
            [root.to_owned(), root.join("images/blobs/sha256"), root.join("images/tmp"), root.join("l")]
        {
            std::fs::create_dir_all(&dir).what(|| format!("create {}", dir.display()))?;
        }
        for dir in [root.to_owned(), root.join("images"), root.join("l")] {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
            std::fs::set_permissions(&dir, mode).what(|| format!("restrict {}", dir.display()))?;
        }
        let store = Self { root: Arc::new(root.to_owned()) };
        store.index()?;
        store.collect_garbage()?;
        Ok(store)
    }

    /// All images.
    pub fn list(&self) -> Result<Vec<ImageRecord>, Error> {
        Ok(self.index()?.images)
    }

    /// The image that `name` (a reference, a digest reference, or an id) stands for.
    pub fn find(&self, name: &str) -> Result<Option<ImageRecord>, Error> {
        Ok(self.index()?.find(name).cloned())
    }

    /// The configuration of an image.
    pub fn config(&self, image: &ImageRecord) -> Result<ImageConfig, Error> {
        let bytes = self.read_blob(&image.id)?;
        ImageConfig::parse(&bytes)
    }

    /// Directories of the image's layers, the top one first, as overlayfs wants them.
    pub fn layer_dirs(&self, image: &ImageRecord) -> Result<Vec<u64>, Error> {
        let index = self.index()?;
        let mut dirs = Vec::with_capacity(image.chain_ids.len());
        for chain in image.chain_ids.iter().rev() {
            let layer = index
                .layers
                .get(chain)
                .ok_or_else(|| Error::Invalid(format!("layer {chain} of image {} is missing", image.id)))?;
            dirs.push(layer.dir);
        }
        Ok(dirs)
    }

    /// The directory that holds the layer directories.
    pub fn layers_root(&self) -> PathBuf {
        self.root.join("l")
    }

    /// The directory of images, whose file system the kubelet watches.
    pub fn images_root(&self) -> PathBuf {
        self.root.join("images")
    }

    /// Imports a docker archive or an OCI layout archive, plain or gzipped. Answers the names (or ids).
    pub fn import(&self, path: &Path, options: &ImportOptions) -> Result<Vec<String>, Error> {
        archive::import(self, path, options)
    }

    /// Removes the image, or only the name if it has more. Answers whether there was anything.
    pub fn remove(&self, name: &str) -> Result<bool, Error> {
        let removed = self.change(|index| Ok(index.remove(name)))?;
        if removed {
            self.collect_garbage()?;
        }
        Ok(removed)
    }

    /// Space taken by layers and documents.
    pub fn usage(&self) -> Result<Usage, Error> {
        let index = self.index()?;
        let mut usage = Usage::default();
        for layer in index.layers.values() {
            usage.bytes += layer.bytes;
            usage.inodes += layer.inodes;
        }
        Ok(usage)
    }

    /// Marks an image as pinned: never collected.
    pub fn pin(&self, name: &str) -> Result<(), Error> {
        self.change(|index| match index.find_mut(name) {
            Some(image) => {
                image.pinned = true;
                Ok(())
            }
            None => Err(Error::NotFound(format!("image {name:?} not found"))),
        })
    }
}
