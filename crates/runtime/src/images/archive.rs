//! Importing archives: `docker save` (`manifest.json`) and OCI layouts (`index.json`), plain or gzipped.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

use flate2::read::MultiGzDecoder;
use serde::Deserialize;

use super::config::{Descriptor, Manifest};
use super::layers::Digesting;
use super::{DOCUMENT_BYTES_MAX, ImageConfig, ImageStore, ImportOptions, Reference};
use crate::error::{Context, Error};

/// Most files an archive may hold; an image has a few per layer.
const MEMBERS_MAX: usize = 100_000;

/// Most bytes that a compressed archive may unpack to; it may hold several images.
const ARCHIVE_BYTES_MAX: u64 = 512 << 30;

/// Imports every image of the archive.
pub(crate) fn import(store: &ImageStore, path: &Path, options: &ImportOptions) -> Result<Vec<String>, Error> {
    let busy = store.busy()?;
    let archive = Archive::open(store, path)?;
    let mut images = if archive.has("manifest.json") {
        docker_images(&archive)?
    } else if archive.has("index.json") {
        oci_images(&archive)?
    } else {
        return Err(Error::Invalid(format!(
            "{} is neither a docker archive (manifest.json) nor an OCI layout (index.json)",
            path.display()
        )));
    };
    if let Some(tag) = &options.tag {
        let [image] = images.as_mut_slice() else {
            return Err(Error::Invalid(format!(
                "{} holds {} images: a name can be given only to one",
                path.display(),
                images.len()
            )));
        };
        image.names = vec![tag.clone()];
    }
    let mut imported = Vec::new();
    for image in images {
        imported.extend(install(store, &archive, image, options.pinned)?);
    }
    drop(busy);
    store.collect_garbage()?;
    Ok(imported)
}

/// An image of an archive.
struct Found {
    config: String,
    layers: Vec<Blob>,
    names: Vec<String>,
    /// Digest of the manifest, where the archive has one.
    manifest: Option<String>,
}

/// A layer's file, and its digest where the archive promises one.
struct Blob {
    path: String,
    digest: Option<String>,
}

fn install(store: &ImageStore, archive: &Archive, image: Found, pinned: bool) -> Result<Vec<String>, Error> {
    let config_bytes = archive.document(&image.config)?;
    let config = ImageConfig::parse(&config_bytes)?;
    if config.diff_ids.len() != image.layers.len() {
        return Err(Error::Invalid(format!(
            "image configuration names {} layers, the manifest {}",
            config.diff_ids.len(),
            image.layers.len()
        )));
    }
    let (mut tags, mut digests) = (Vec::new(), Vec::new());
    for name in &image.names {
        let reference = Reference::parse(name)?;
        if let Some(digest) = &image.manifest {
            digests.push(format!("{}@{digest}", reference.name()));
        }
        if reference.tag.is_some() {
            tags.push(reference.with_tag());
        }
    }
    for ((blob, diff_id), chain_id) in image.layers.iter().zip(&config.diff_ids).zip(config.chain_ids()) {
        if store.has_layer(&chain_id)? {
            continue;
        }
        if let Some(wanted) = &blob.digest {
            let digest = Digesting::new(archive.member(&blob.path)?)
                .finish()
                .what(|| format!("read {}", blob.path))?;
            if digest != *wanted {
                return Err(Error::Invalid(format!("{} has digest {digest}, not {wanted}", blob.path)));
            }
        }
        store.install_layer(&chain_id, diff_id, archive.member(&blob.path)?)?;
    }
    let record = store.install_image(&config_bytes, &config, tags.clone(), digests, pinned)?;
    Ok(if tags.is_empty() { vec![record.id] } else { tags })
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

fn docker_images(archive: &Archive) -> Result<Vec<Found>, Error> {
    let images: Vec<DockerImage> = serde_json::from_slice(&archive.document("manifest.json")?)
        .map_err(|e| Error::Invalid(format!("manifest.json: {e}")))?;
    Ok(images
        .into_iter()
        .map(|image| Found {
            config: image.config,
            layers: image.layers.into_iter().map(|path| Blob { path, digest: None }).collect(),
            names: image.repo_tags.unwrap_or_default(),
            manifest: None,
        })
        .collect())
}

fn oci_images(archive: &Archive) -> Result<Vec<Found>, Error> {
    let index = Manifest::parse(&archive.document("index.json")?)?;
    let mut images = Vec::new();
    for descriptor in &index.manifests {
        let names = names_of(descriptor);
        let (digest, manifest) = resolve_index(archive, descriptor)?;
        let config = manifest
            .config
            .ok_or_else(|| Error::Invalid(format!("manifest {digest} has no configuration")))?;
        let layers = manifest
            .layers
            .iter()
            .map(|layer| Blob { path: blob_path(&layer.digest), digest: Some(layer.digest.clone()) })
            .collect();
        images.push(Found { config: blob_path(&config.digest), layers, names, manifest: Some(digest) });
    }
    Ok(images)
}

/// Follows an index in the layout down to the manifest for this machine.
fn resolve_index(archive: &Archive, descriptor: &Descriptor) -> Result<(String, Manifest), Error> {
    let mut descriptor = descriptor.clone();
    // An index may hold an index; deeper nesting has no use.
    for _ in 0..3 {
        let manifest = Manifest::parse(&archive.document(&blob_path(&descriptor.digest))?)?;
        if manifest.manifests.is_empty() {
            return Ok((descriptor.digest, manifest));
        }
        descriptor = manifest.for_this_machine()?.clone();
    }
    Err(Error::Invalid("image indexes are nested too deeply".to_owned()))
}

/// The names that tools put on a manifest of a layout. A bare tag is no name.
fn names_of(descriptor: &Descriptor) -> Vec<String> {
    ["io.containerd.image.name", "org.opencontainers.image.ref.name"]
        .iter()
        .filter_map(|key| descriptor.annotations.get(*key))
        .filter(|name| name.contains(['/', ':']))
        .take(1)
        .cloned()
        .collect()
}

fn blob_path(digest: &str) -> String {
    format!("blobs/{}", digest.replacen(':', "/", 1))
}

/// A tar file with an index of its members.
struct Archive {
    file: File,
    members: HashMap<String, Member>,
}

enum Member {
    File {
        offset: u64,
        size: u64,
    },
    /// `docker save` of old versions links layers that images share.
    Link(String),
}

impl Archive {
    fn open(store: &ImageStore, path: &Path) -> Result<Self, Error> {
        let what = || format!("read {}", path.display());
        let mut file = File::open(path).what(|| format!("open {}", path.display()))?;
        let mut magic = [0; 2];
        if file.read_at(&mut magic, 0).what(what)? == 2 && magic == [0x1f, 0x8b] {
            let mut plain = store.temporary()?;
            let mut content = MultiGzDecoder::new(&file).take(ARCHIVE_BYTES_MAX + 1);
            if std::io::copy(&mut content, &mut plain).what(what)? > ARCHIVE_BYTES_MAX {
                return Err(Error::TooLarge(format!(
                    "{} unpacks to more than {ARCHIVE_BYTES_MAX} bytes",
                    path.display()
                )));
            }
            file = plain;
        }
        file.seek(SeekFrom::Start(0)).what(what)?;
        let mut members = HashMap::new();
        let mut archive = tar::Archive::new(&file);
        for entry in archive.entries_with_seek().what(what)? {
            let entry =
                entry.map_err(|e| Error::Invalid(format!("{} is not a tar archive: {e}", path.display())))?;
            let name = normalise(&String::from_utf8_lossy(&entry.path_bytes()));
            let member = match entry.header().entry_type() {
                tar::EntryType::Regular | tar::EntryType::Continuous => {
                    Member::File { offset: entry.raw_file_position(), size: entry.size() }
                }
                tar::EntryType::Symlink | tar::EntryType::Link => {
                    let target = entry.link_name_bytes().unwrap_or_default();
                    let target = String::from_utf8_lossy(&target).into_owned();
                    let base = match entry.header().entry_type() {
                        tar::EntryType::Symlink => name.rsplit_once('/').map_or("", |(dir, _)| dir),
                        _ => "",
                    };
                    Member::Link(normalise(&format!("{base}/{target}")))
                }
                _ => continue,
            };
            members.insert(name, member);
            if members.len() > MEMBERS_MAX {
                return Err(Error::TooLarge(format!(
                    "{} has more than {MEMBERS_MAX} members",
                    path.display()
                )));
            }
        }
        Ok(Self { file, members })
    }

    fn has(&self, name: &str) -> bool {
        self.members.contains_key(name)
    }

    fn member(&self, name: &str) -> Result<Section<'_>, Error> {
        let mut name = normalise(name);
        for _ in 0..8 {
            match self.members.get(&name) {
                Some(Member::File { offset, size }) => {
                    return Ok(Section { file: &self.file, at: *offset, end: offset + size });
                }
                Some(Member::Link(target)) => name = target.clone(),
                None => break,
            }
        }
        Err(Error::Invalid(format!("the archive has no file {name:?}")))
    }

    fn document(&self, name: &str) -> Result<Vec<u8>, Error> {
        let mut section = self.member(name)?;
        if section.end - section.at > DOCUMENT_BYTES_MAX {
            return Err(Error::TooLarge(format!("{name} has more than {DOCUMENT_BYTES_MAX} bytes")));
        }
        let mut bytes = Vec::new();
        section.read_to_end(&mut bytes).what(|| format!("read {name}"))?;
        Ok(bytes)
    }
}

/// Part of a file.
struct Section<'a> {
    file: &'a File,
    at: u64,
    end: u64,
}

impl Read for Section<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let wanted = buffer.len().min(left);
        let n = self.file.read_at(&mut buffer[..wanted], self.at)?;
        if n == 0 && wanted > 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        self.at += n as u64;
        Ok(n)
    }
}

/// Removes `.`, `..` and doubled slashes.
fn normalise(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}
