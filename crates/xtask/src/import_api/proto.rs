//! Cross-check: the tags of the Go declarations are those of `generated.proto`.

use super::PackageDir;
use super::go::Packages;
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;

/// Fields of every message of a `.proto` file, by tag.
fn messages(text: &str) -> BTreeMap<String, BTreeMap<u32, String>> {
    let mut found = BTreeMap::new();
    let mut current: Option<(String, BTreeMap<u32, String>)> = None;
    for line in text.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("message ") {
            current = Some((rest.trim_end_matches('{').trim().to_owned(), BTreeMap::new()));
        } else if line == "}" {
            if let Some((name, fields)) = current.take() {
                found.insert(name, fields);
            }
        } else if line.starts_with("//") {
            continue;
        } else if let (Some((_, fields)), Some((left, right))) = (&mut current, line.split_once(" = ")) {
            let name = left.rsplit(' ').next().unwrap_or_default();
            if let Ok(tag) = right.trim_end_matches(';').parse() {
                fields.insert(tag, name.to_owned());
            }
        }
    }
    found
}

/// Fails on the first message whose fields differ from those of the Go struct of that name.
pub(crate) fn cross_check(dirs: &[PackageDir], packages: &Packages) -> Result<()> {
    for dir in dirs {
        let path = dir.dir.join("generated.proto");
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let package = &packages[&dir.import];
        for (name, expected) in messages(&text) {
            let Some(fields) = package.types.get(&name).and_then(|ty| ty.fields.as_ref()) else { continue };
            let found: BTreeMap<u32, String> =
                fields.iter().filter(|field| field.tag != 0).map(|f| (f.tag, f.proto_name.clone())).collect();
            let special = matches!(
                name.as_str(),
                "JSON" | "Time" | "MicroTime" | "Timestamp" | "Duration" | "FieldsV1"
            );
            if found != expected && !special {
                bail!("{}.{name}: Go says {found:?}, the .proto file {expected:?}", dir.key);
            }
        }
    }
    Ok(())
}
