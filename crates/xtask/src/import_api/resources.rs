//! Writes the resources table from the list of upstream's endpoints and what [`super::known`] adds.

use super::known;
use anyhow::{Context, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

const HEADER: &str = "\
# Resources of the Kubernetes API v1.36. Made by `cargo xtask import-api`; do not edit.
# G group(- is core) priority version…           group with its versions, preferred first
# R group version plural Kind N|C served verbs storage-group/version storage-path short-names categories
# S name group version Kind verbs                subresource of the resource above
";

type Key = (String, String, String);

#[derive(Default)]
struct Entry {
    group: String,
    version: String,
    kind: String,
    namespaced: bool,
    stable: bool,
    verbs: BTreeSet<&'static str>,
}

pub(crate) fn render(endpoints: &Path) -> Result<String> {
    let text = std::fs::read_to_string(endpoints).with_context(|| format!("read {}", endpoints.display()))?;
    let mut resources: BTreeMap<Key, Entry> = BTreeMap::new();
    let mut subresources: BTreeMap<Key, BTreeMap<String, Entry>> = BTreeMap::new();
    for line in text.lines().skip(1) {
        let columns: Vec<&str> = line.split('\t').collect();
        let [operation, path, action, group, version, kind, level, ..] = columns[..] else { continue };
        let Some((key, subresource, namespaced)) = classify(path) else { continue };
        let Some(verb) = verb(operation, action) else { continue };
        let entry = match &subresource {
            Some(name) => subresources.entry(key).or_default().entry(name.clone()).or_default(),
            None => resources.entry(key).or_default(),
        };
        entry.group = group.into();
        entry.version = version.into();
        entry.kind = kind.into();
        entry.namespaced |= namespaced;
        entry.stable = level == "stable";
        entry.verbs.insert(verb);
        if verb == "list" && kind != "ComponentStatus" {
            entry.verbs.insert("watch");
        }
    }
    let mut out = String::from(HEADER);
    render_groups(&resources, &mut out)?;
    for (key, entry) in &resources {
        render_resource(&resources, key, entry, &mut out)?;
        for (name, sub) in subresources.get(key).into_iter().flatten() {
            let verbs = join(sub.verbs.iter().copied());
            writeln!(out, "S {name} {} {} {} {verbs}", dash(&sub.group), sub.version, sub.kind)?;
        }
    }
    Ok(out)
}

fn render_groups(resources: &BTreeMap<Key, Entry>, out: &mut String) -> Result<()> {
    let mut groups: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (group, version, _) in resources.keys() {
        groups.entry(group).or_default().insert(version);
    }
    let mut ordered: Vec<_> = groups.into_iter().collect();
    ordered.sort_by_key(|(group, _)| std::cmp::Reverse(known::group_priority(group)));
    for (group, versions) in ordered {
        let mut versions: Vec<&str> = versions.into_iter().collect();
        versions.sort_by_key(|version| std::cmp::Reverse(known::version_rank(version)));
        writeln!(out, "G {} {} {}", dash(group), known::group_priority(group), versions.join(" "))?;
    }
    Ok(())
}

fn render_resource(
    resources: &BTreeMap<Key, Entry>,
    key: &Key,
    entry: &Entry,
    out: &mut String,
) -> Result<()> {
    let (group, version, plural) = key;
    let stored = known::storage_version(group, plural).map(str::to_owned).unwrap_or_else(|| {
        let versions = resources.keys().filter(|(g, _, p)| g == group && p == plural).map(|(_, v, _)| v);
        versions.max_by_key(|version| known::version_rank(version)).unwrap_or(version).clone()
    });
    writeln!(
        out,
        "R {} {version} {plural} {} {} {} {} {}/{stored} {} {} {}",
        dash(group),
        entry.kind,
        if entry.namespaced { "N" } else { "C" },
        u8::from(entry.stable),
        join(entry.verbs.iter().copied()),
        dash(known::storage_group(group, plural)),
        known::storage_path(group, plural),
        dash(known::short_names(group, plural)),
        dash(known::categories(group, plural)),
    )?;
    Ok(())
}

fn join<'a>(words: impl Iterator<Item = &'a str>) -> String {
    words.collect::<Vec<_>>().join(",")
}

fn dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

/// Resource, subresource and whether the path is a namespaced one.
fn classify(path: &str) -> Option<(Key, Option<String>, bool)> {
    let mut parts = path.trim_matches('/').split('/').peekable();
    let group = match parts.next()? {
        "api" => String::new(),
        "apis" => parts.next()?.to_owned(),
        _ => return None,
    };
    let version = parts.next()?.to_owned();
    let mut rest: Vec<&str> = parts.collect();
    let namespaced = rest.len() > 2 && rest[0] == "namespaces" && rest[1] == "{namespace}";
    if namespaced {
        rest.drain(..2);
    }
    match rest[..] {
        ["watch", ..] | [] => None,
        [plural] | [plural, "{name}"] => Some(((group, version, plural.into()), None, namespaced)),
        [plural, "{name}", sub] => Some(((group, version, plural.into()), Some(sub.into()), namespaced)),
        _ => None,
    }
}

fn verb(operation: &str, action: &str) -> Option<&'static str> {
    Some(match action {
        "get" => "get",
        "list" => "list",
        "post" => "create",
        "put" => "update",
        "patch" => "patch",
        "delete" => "delete",
        "deletecollection" => "deletecollection",
        "connect" => {
            let methods = [
                ("Get", "get"),
                ("Post", "create"),
                ("Put", "update"),
                ("Patch", "patch"),
                ("Delete", "delete"),
            ];
            methods.iter().find(|(method, _)| operation.contains(&format!("V1{method}")))?.1
        }
        _ => return None,
    })
}
