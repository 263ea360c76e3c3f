//! `cargo xtask import-api`: makes the committed facts tables of `isopod-api` from checkouts of upstream's API
//! repositories that lie outside this one.
//!
//! Only facts are taken: names, types, protobuf tags, JSON options, list types and keys, defaults and enumerations.
//! The Go declarations are the source, since they alone tell the JSON form; every tag is cross-checked against
//! `generated.proto`, and a disagreement is an error.

mod go;
mod known;
mod proto;
mod resources;
mod types;

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};

struct Options {
    api: PathBuf,
    apimachinery: PathBuf,
    apiextensions: PathBuf,
    aggregator: PathBuf,
    endpoints: PathBuf,
    out: PathBuf,
}

/// A directory of Go types that becomes one package of the table.
pub(crate) struct PackageDir {
    /// Short name that the table refers to, as `core/v1`.
    pub(crate) key: String,
    /// Go import path.
    pub(crate) import: String,
    pub(crate) dir: PathBuf,
}

pub(crate) fn run(args: impl Iterator<Item = String>) -> Result<()> {
    let options = parse(args)?;
    let dirs = package_dirs(&options)?;
    let packages = go::load(&dirs)?;
    proto::cross_check(&dirs, &packages)?;
    std::fs::create_dir_all(&options.out)?;
    let table = types::render(&packages)?;
    std::fs::write(options.out.join("types.txt"), &table)?;
    let resources = resources::render(&options.endpoints)?;
    std::fs::write(options.out.join("resources.txt"), &resources)?;
    println!("types.txt: {} bytes, resources.txt: {} bytes", table.len(), resources.len());
    Ok(())
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Options> {
    let mut found = std::collections::BTreeMap::new();
    while let Some(flag) = args.next() {
        let Some(name) = flag.strip_prefix("--") else { bail!("unexpected argument {flag:?}") };
        let value = args.next().with_context(|| format!("--{name} needs a value"))?;
        found.insert(name.to_owned(), PathBuf::from(value));
    }
    let mut take = |name: &str| found.remove(name).with_context(|| format!("--{name} is required"));
    let options = Options {
        api: take("api")?,
        apimachinery: take("apimachinery")?,
        apiextensions: take("apiextensions-apiserver")?,
        aggregator: take("kube-aggregator")?,
        endpoints: take("endpoints")?,
        out: take("out")?,
    };
    match found.keys().next() {
        Some(unknown) => bail!("unknown flag --{unknown}"),
        None => Ok(options),
    }
}

fn package_dirs(options: &Options) -> Result<Vec<PackageDir>> {
    let mut dirs = vec![
        package(
            "meta/v1",
            "k8s.io/apimachinery/pkg/apis/meta/v1",
            options.apimachinery.join("pkg/apis/meta/v1"),
        ),
        package(
            "apiextensions/v1",
            "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1",
            options.apiextensions.join("pkg/apis/apiextensions/v1"),
        ),
        package(
            "apiregistration/v1",
            "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1",
            options.aggregator.join("pkg/apis/apiregistration/v1"),
        ),
    ];
    for group in sorted_dirs(&options.api)? {
        for version in sorted_dirs(&group)? {
            if version.join("types.go").exists() && version.join("generated.proto").exists() {
                let key = format!("{}/{}", file_name(&group), file_name(&version));
                dirs.push(package(&key, &format!("k8s.io/api/{key}"), version));
            }
        }
    }
    Ok(dirs)
}

fn package(key: &str, import: &str, dir: PathBuf) -> PackageDir {
    PackageDir { key: key.into(), import: import.into(), dir }
}

fn sorted_dirs(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut dirs = Vec::new();
    for entry in std::fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            dirs.push(path);
        }
    }
    dirs.sort();
    Ok(dirs)
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
