//! Tidiness that compilers do not check: sizes of files, headers, lint inheritance, words, and dependency edges.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Lines a file may have. Aim at 100 to 400.
const FILE_LINES_MAX: usize = 1000;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the workspace")
}

fn files(directory: &Path, extension: &str, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).expect("a readable directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            if path.file_name().is_some_and(|n| n != "target" && n != ".git") {
                files(&path, extension, out);
            }
        } else if path.extension().is_some_and(|e| e == extension) {
            out.push(path);
        }
    }
}

fn check(extension: &str, fault: impl Fn(&Path, &str) -> Option<String>) {
    let mut all = Vec::new();
    files(&root(), extension, &mut all);
    assert!(!all.is_empty());
    let faults: Vec<String> = all
        .iter()
        .filter_map(|path| {
            let text = std::fs::read_to_string(path).expect("a text");
            fault(path, &text).map(|f| format!("{}: {f}", path.display()))
        })
        .collect();
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn files_are_of_a_size_to_be_read() {
    check("rs", |_, text| {
        let lines = text.lines().count();
        (lines > FILE_LINES_MAX).then(|| format!("{lines} lines, at most {FILE_LINES_MAX}"))
    });
}

#[test]
fn files_say_what_they_are_for() {
    check("rs", |path, text| {
        let test = path.components().any(|c| c.as_os_str() == "tests");
        (!test && !text.starts_with("//!")).then(|| "does not begin with //!".to_owned())
    });
}

#[test]
fn no_unfinished_marks() {
    let marks = ["TODO", "FIXME", "XXX"].map(|m| format!("// {m}"));
    check("rs", |path, text| {
        let own = path.ends_with("tidy.rs");
        marks.iter().find(|m| !own && text.contains(m.as_str())).map(|m| format!("contains {m:?}"))
    });
}

#[test]
fn no_vague_names() {
    check("rs", |path, _| {
        let stem = path.file_stem()?.to_str()?;
        ["utils", "util", "helpers", "misc", "common"]
            .contains(&stem)
            .then(|| "is named after nothing".to_owned())
    });
}

#[test]
fn every_crate_inherits_the_lints() {
    check("toml", |path, text| {
        // What is a workspace of its own, as the fuzz targets are, has nothing to inherit from.
        let package = text.contains("[package]") && !text.contains("\n[workspace]");
        (package && path.ends_with("Cargo.toml") && !text.contains("[lints]\nworkspace = true"))
            .then(|| "does not inherit the workspace's lints".to_owned())
    });
}

/// Layers as ARCHITECTURE.md describes them; an edge may only point down.
fn layer(name: &str) -> u8 {
    match name {
        "isopod-api" | "isopod-kv" | "isopod-cri" => 0,
        "isopod-mvcc"
        | "isopod-rules"
        | "isopod-scheduling"
        | "isopod-reconcile"
        | "isopod-podplan"
        | "isopod-servicerules" => 1,
        // What every shell may use.
        "isopod-client" | "isopod-pki" | "isopod-streaming" => 2,
        "isopod" => 4,
        _ => 3,
    }
}

#[test]
fn dependency_edges_are_the_reviewed_ones_and_point_down() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo's JSON");
    let mut edges = BTreeSet::new();
    for package in metadata["packages"].as_array().expect("packages") {
        let from = package["name"].as_str().expect("a name");
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let to = dependency["name"].as_str().expect("a name");
            if !dependency["kind"].is_null() || !dependency["path"].is_string() {
                continue;
            }
            let (upper, lower) = (layer(from), layer(to));
            let beside = ["isopod-sim", "isopod-testkit", "xtask"].contains(&from);
            assert!(
                upper > lower || (upper == lower && upper < 2) || beside,
                "{from} -> {to} does not point down"
            );
            edges.insert(format!("{from} -> {to}"));
        }
    }
    let actual: Vec<String> = edges.into_iter().collect();
    let path = root().join("docs/dependencies.txt");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(&path, actual.join("\n") + "\n").expect("written");
    }
    let committed = std::fs::read_to_string(&path).expect("docs/dependencies.txt");
    assert_eq!(
        actual.join("\n"),
        committed.trim_end(),
        "edges between crates changed: review, then UPDATE_EXPECT=1 cargo test -p xtask"
    );
}
