//! Debian packages unpacked into a directory, never installed over the system.

use crate::command::run_ok;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A directory tree made of packages.
#[derive(Debug, Clone)]
pub struct Packages {
    root: PathBuf,
}

impl Packages {
    /// Downloads and unpacks `packages` below `cache`, once; later calls reuse the tree.
    pub fn unpack(cache: &Path, name: &str, packages: &[&str]) -> Result<Self> {
        let root = cache.join(name);
        let done = cache.join(format!("{name}.done"));
        if done.exists() {
            return Ok(Packages { root });
        }
        let downloads = cache.join(format!("{name}.debs"));
        std::fs::create_dir_all(&downloads).context("make the download directory")?;
        std::fs::create_dir_all(&root).context("make the package directory")?;
        run_ok(Command::new("apt-get").arg("download").args(packages).current_dir(&downloads))
            .context("download Debian packages (apt-get update may be needed first)")?;
        for entry in std::fs::read_dir(&downloads).context("read the downloads")? {
            let deb = entry?.path();
            if deb.extension().is_some_and(|e| e == "deb") {
                run_ok(Command::new("dpkg").arg("-x").arg(&deb).arg(&root))?;
            }
        }
        std::fs::write(&done, "").context("mark as done")?;
        Ok(Packages { root })
    }

    /// The tree.
    pub fn root(&self) -> &Path {
        &self.root
    }
}
