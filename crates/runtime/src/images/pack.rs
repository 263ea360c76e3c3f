//! Making an image of one static program, so that a cluster has something to run without a registry.

use std::io::Write;
use std::path::Path;

use serde_json::json;
use sha2::{Digest, Sha256};

use super::index::hex;
use super::{ImageConfig, ImageStore, Reference};
use crate::error::{Context, Error};

/// How to pack a program.
#[derive(Debug, Clone)]
pub struct PackOptions {
    /// Name of the image.
    pub tag: String,
    /// Path of the program inside the image, absolute.
    pub target: String,
    /// What the image runs.
    pub entrypoint: Vec<String>,
    /// Arguments unless a container gives its own.
    pub cmd: Vec<String>,
    /// Names in the directory of the program that are to be the program too, as symbolic links.
    pub links: Vec<String>,
    /// User that the image runs as, as in a Dockerfile; empty for root.
    pub user: String,
    /// Keep the image out of garbage collection.
    pub pinned: bool,
}

/// Packs the static program at `path` as an image, and answers its name. The image is the same for the same
/// program, so packing again costs one read.
pub fn pack_binary(store: &ImageStore, path: &Path, options: &PackOptions) -> Result<String, Error> {
    let reference = Reference::parse(&options.tag)?;
    let busy = store.busy()?;
    let layer = layer(store, path, options)?;
    let mut content = super::layers::Digesting::new(&layer);
    let mut sink = std::io::sink();
    std::io::copy(&mut content, &mut sink).what(|| "read layer".to_owned())?;
    let diff_id = content.finish().what(|| "read layer".to_owned())?;
    let mut config = json!({
        "architecture": match std::env::consts::ARCH { "x86_64" => "amd64", "aarch64" => "arm64", other => other },
        "os": "linux",
        "config": {
            "Entrypoint": options.entrypoint,
            "Cmd": options.cmd,
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "WorkingDir": "/",
        },
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
    });
    if !options.user.is_empty() {
        config["config"]["User"] = json!(options.user);
    }
    let config_bytes = serde_json::to_vec(&config).map_err(Error::invalid)?;
    let parsed = ImageConfig::parse(&config_bytes)?;
    let [chain_id] = parsed.chain_ids().try_into().map_err(|_| Error::invalid("one layer was packed"))?;
    std::io::Seek::rewind(&mut &layer).what(|| "read layer".to_owned())?;
    store.install_layer(&chain_id, &diff_id, &layer)?;
    // What a registry would call the image: a digest over what determines it.
    let digest = hex(&Sha256::digest(&config_bytes));
    let digests = vec![format!("{}@sha256:{digest}", reference.name())];
    store.install_image(&config_bytes, &parsed, vec![reference.with_tag()], digests, options.pinned)?;
    drop(busy);
    store.collect_garbage()?;
    Ok(reference.with_tag())
}

fn layer(store: &ImageStore, path: &Path, options: &PackOptions) -> Result<std::fs::File, Error> {
    let target =
        options.target.strip_prefix('/').filter(|t| !t.is_empty()).ok_or_else(|| {
            Error::Invalid(format!("path in the image {:?} must be absolute", options.target))
        })?;
    let program = std::fs::File::open(path).what(|| format!("open {}", path.display()))?;
    let size = program.metadata().what(|| format!("read {}", path.display()))?.len();
    let file = store.temporary()?;
    let mut builder = tar::Builder::new(file);
    let what = || format!("pack {}", path.display());
    for dir in ["etc", "tmp"] {
        let mut header = header(tar::EntryType::Directory, if dir == "tmp" { 0o1777 } else { 0o755 }, 0);
        builder.append_data(&mut header, dir, std::io::empty()).what(what)?;
    }
    for (name, content) in [
        ("etc/passwd", "root:x:0:0:root:/:/\nnobody:x:65534:65534:nobody:/:/\n"),
        ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
    ] {
        let mut header = header(tar::EntryType::Regular, 0o644, content.len() as u64);
        builder.append_data(&mut header, name, content.as_bytes()).what(what)?;
    }
    let mut file_header = header(tar::EntryType::Regular, 0o755, size);
    builder.append_data(&mut file_header, target, program).what(what)?;
    let (dir, name) = target.rsplit_once('/').unwrap_or(("", target));
    for link in &options.links {
        let mut header = header(tar::EntryType::Symlink, 0o777, 0);
        builder.append_link(&mut header, Path::new(dir).join(link), name).what(what)?;
    }
    let mut file = builder.into_inner().what(what)?;
    file.flush().what(what)?;
    std::io::Seek::rewind(&mut file).what(what)?;
    Ok(file)
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header
}
