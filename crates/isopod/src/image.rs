//! `isopod image`: the node's images, straight in the image store.

use crate::cli::{ImageArgs, ImageCommand, Place};
use anyhow::{Context, Result, bail};
use isopod_runtime::images::{ImageStore, ImportOptions, PackOptions, pack_binary};
use std::path::Path;

/// Where the runtime keeps images and containers, below the data directory.
pub(crate) const RUNTIME: &str = "runtime";

fn open(place: &Place) -> Result<ImageStore> {
    let root = place.data_dir.join(RUNTIME);
    ImageStore::open(&root).with_context(|| format!("open the image store in {}", root.display()))
}

/// Runs the subcommand.
pub(crate) fn run(args: ImageArgs) -> Result<()> {
    let store = open(&args.place)?;
    match args.command {
        ImageCommand::Import { file, name } => {
            let options = ImportOptions { tag: name, ..ImportOptions::default() };
            let names =
                store.import(&file, &options).with_context(|| format!("import {}", file.display()))?;
            for name in names {
                println!("{name}");
            }
        }
        ImageCommand::List => list(&store)?,
        ImageCommand::Rm { names } => {
            for name in names {
                if !store.remove(&name).with_context(|| format!("remove {name}"))? {
                    bail!("no image {name}");
                }
                println!("{name}");
            }
        }
    }
    Ok(())
}

fn list(store: &ImageStore) -> Result<()> {
    println!("{:<60} {:<14} {:>10}", "IMAGE", "ID", "SIZE");
    for image in store.list()? {
        let id = image.id.trim_start_matches("sha256:").chars().take(12).collect::<String>();
        let size = format!("{:.1} MB", image.bytes as f64 / 1e6);
        if image.tags.is_empty() {
            println!("{:<60} {id:<14} {size:>10}", "<none>");
        }
        for tag in &image.tags {
            println!("{tag:<60} {id:<14} {size:>10}");
        }
    }
    Ok(())
}

/// Packs this binary as the demo's image, unless the same is there already.
pub(crate) fn ensure_demo_image(place: &Place) -> Result<()> {
    let store = open(place)?;
    let exe = std::env::current_exe().context("find this binary")?;
    pack(&store, &exe)
}

fn pack(store: &ImageStore, exe: &Path) -> Result<()> {
    let options = PackOptions {
        tag: crate::demo::IMAGE.to_owned(),
        target: "/isopod".to_owned(),
        entrypoint: vec!["/isopod".to_owned()],
        cmd: vec!["demo-server".to_owned()],
        links: Vec::new(),
        user: "65532:65532".to_owned(),
        pinned: true,
    };
    pack_binary(store, exe, &options).context("pack this binary as an image")?;
    Ok(())
}
