//! Installing layers: unpack beside, verify the digest of the content, then take into the index.

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use flate2::read::MultiGzDecoder;
use sha2::{Digest, Sha256};

use super::index::{LayerRecord, hex, remove_tree};
use super::unpack::unpack;
use super::{ImageConfig, ImageRecord, ImageStore};
use crate::error::{Context, Error};

/// Passes bytes through and digests them.
pub(crate) struct Digesting<R> {
    inner: R,
    hash: Sha256,
}

impl<R: Read> Digesting<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self { inner, hash: Sha256::new() }
    }

    /// Reads what is left, and answers the digest of everything.
    pub(crate) fn finish(mut self) -> std::io::Result<String> {
        let mut buffer = vec![0; 64 * 1024];
        while self.read(&mut buffer)? > 0 {}
        Ok(format!("sha256:{}", hex(&self.hash.finalize())))
    }
}

impl<R: Read> Read for Digesting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.hash.update(&buffer[..n]);
        Ok(n)
    }
}

/// The content of a layer blob, decompressed by its first bytes.
pub(crate) fn decompress<'a>(mut blob: impl Read + 'a) -> Result<Box<dyn Read + 'a>, Error> {
    let mut magic = [0u8; 4];
    let mut filled = 0;
    while filled < magic.len() {
        match blob.read(&mut magic[filled..]).what(|| "read layer".to_owned())? {
            0 => break,
            n => filled += n,
        }
    }
    let blob = std::io::Cursor::new(magic).take(filled as u64).chain(blob);
    match magic {
        [0x1f, 0x8b, ..] => Ok(Box::new(MultiGzDecoder::new(blob))),
        [0x28, 0xb5, 0x2f, 0xfd] => {
            Err(Error::Invalid("layers compressed with zstd are not supported".into()))
        }
        _ => Ok(Box::new(blob)),
    }
}

impl ImageStore {
    /// Whether a layer is there already.
    pub(crate) fn has_layer(&self, chain_id: &str) -> Result<bool, Error> {
        Ok(self.index()?.layers.contains_key(chain_id))
    }

    /// Unpacks `blob` as the layer `chain_id`, whose uncompressed content must have the digest `diff_id`.
    pub(crate) fn install_layer(&self, chain_id: &str, diff_id: &str, blob: impl Read) -> Result<(), Error> {
        if self.has_layer(chain_id)? {
            return Ok(());
        }
        let (number, dir) = self.new_layer_dir()?;
        let outcome = self.fill_layer(&dir, diff_id, blob);
        let usage = match outcome {
            Ok(usage) => usage,
            Err(e) => {
                remove_tree(&dir)?;
                return Err(e);
            }
        };
        let lost_race = self.change(|index| {
            if index.layers.contains_key(chain_id) {
                return Ok(true);
            }
            let record = LayerRecord { dir: number, bytes: usage.bytes, inodes: usage.inodes };
            index.layers.insert(chain_id.to_owned(), record);
            Ok(false)
        })?;
        if lost_race {
            remove_tree(&dir)?;
        }
        Ok(())
    }

    fn new_layer_dir(&self) -> Result<(u64, PathBuf), Error> {
        let number = self.change(|index| {
            index.next_dir += 1;
            Ok(index.next_dir)
        })?;
        let dir = self.layers_root().join(number.to_string());
        remove_tree(&dir)?;
        std::fs::create_dir(&dir).what(|| format!("create {}", dir.display()))?;
        // The root of a container has the mode of its top layer.
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755))
            .what(|| format!("set the mode of {}", dir.display()))?;
        Ok((number, dir))
    }

    fn fill_layer(
        &self,
        dir: &std::path::Path,
        diff_id: &str,
        blob: impl Read,
    ) -> Result<super::Usage, Error> {
        let mut content = Digesting::new(decompress(blob)?);
        let usage = unpack(&mut content, dir)?;
        let digest = content.finish().what(|| "read layer".to_owned())?;
        if digest != diff_id {
            return Err(Error::Invalid(format!(
                "layer content has digest {digest}, the image says {diff_id}"
            )));
        }
        // The index must never name a layer whose files a power failure could take back.
        let root = std::fs::File::open(dir).what(|| format!("open {}", dir.display()))?;
        nix::unistd::syncfs(&root).what(|| format!("sync {}", dir.display()))?;
        Ok(usage)
    }

    /// Takes an image whose layers are installed into the index.
    pub(crate) fn install_image(
        &self,
        config_bytes: &[u8],
        config: &ImageConfig,
        tags: Vec<String>,
        digests: Vec<String>,
        pinned: bool,
    ) -> Result<ImageRecord, Error> {
        let id = self.write_blob(config_bytes)?;
        self.change(|index| {
            let chain_ids = config.chain_ids();
            let mut bytes = config_bytes.len() as u64;
            for chain in &chain_ids {
                bytes += index
                    .layers
                    .get(chain)
                    .ok_or_else(|| Error::Invalid(format!("layer {chain} was removed meanwhile")))?
                    .bytes;
            }
            let record =
                ImageRecord { id, tags, digests, chain_ids, bytes, pinned, user: config.user.clone() };
            index.insert(record.clone());
            Ok(record)
        })
    }
}
