//! The user's own kubeconfig: a context `isopod` is added to it and taken out again; the rest is left alone.

use anyhow::{Context, Result, bail};
use serde_yaml_ng::{Mapping, Value};
use std::path::{Path, PathBuf};

/// Name of cluster, user and context.
pub(crate) const NAME: &str = "isopod";

/// The file that kubectl would write to: the first of $KUBECONFIG, else ~/.kube/config.
pub(crate) fn path() -> Option<PathBuf> {
    if let Some(list) = std::env::var_os("KUBECONFIG").filter(|l| !l.is_empty()) {
        return std::env::split_paths(&list).find(|p| !p.as_os_str().is_empty());
    }
    std::env::home_dir().map(|home| home.join(".kube/config"))
}

fn read(path: &Path) -> Result<Mapping> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Mapping::new()),
        Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
    };
    match serde_yaml_ng::from_str(&text).with_context(|| format!("{} is not YAML", path.display()))? {
        Value::Null => Ok(Mapping::new()),
        Value::Mapping(map) => Ok(map),
        _ => bail!("{} is not a kubeconfig", path.display()),
    }
}

fn write(path: &Path, config: &Mapping) -> Result<()> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
    }
    let text = serde_yaml_ng::to_string(config).context("render kubeconfig")?;
    isopod_pki::write_private(path, text.as_bytes()).with_context(|| format!("write {}", path.display()))
}

fn named<'a>(config: &'a mut Mapping, list: &str) -> Result<&'a mut Vec<Value>> {
    let entry = config.entry(list.into()).or_insert_with(|| Value::Sequence(Vec::new()));
    if entry.is_null() {
        *entry = Value::Sequence(Vec::new());
    }
    match entry {
        Value::Sequence(list) => Ok(list),
        _ => bail!("kubeconfig: {list} is not a list"),
    }
}

fn is_ours(item: &Value) -> bool {
    item.get("name").and_then(Value::as_str) == Some(NAME)
}

/// Puts the context into `config`, with cluster and user out of `ours`.
fn add_to(mut config: Mapping, ours: &Mapping) -> Result<Mapping> {
    config.entry("apiVersion".into()).or_insert("v1".into());
    config.entry("kind".into()).or_insert("Config".into());
    for list in ["clusters", "users", "contexts"] {
        let mut item = ours
            .get(list)
            .and_then(|l| l.get(0))
            .cloned()
            .with_context(|| format!("our own kubeconfig has no {list}"))?;
        item["name"] = NAME.into();
        if list == "contexts" {
            item["context"]["cluster"] = NAME.into();
            item["context"]["user"] = NAME.into();
        }
        let items = named(&mut config, list)?;
        items.retain(|i| !is_ours(i));
        items.push(item);
    }
    let current = config.get("current-context").and_then(Value::as_str).unwrap_or_default();
    if current.is_empty() {
        config.insert("current-context".into(), NAME.into());
    }
    Ok(config)
}

/// Adds the context; it becomes the current one only when there is none.
pub(crate) fn add(user: &Path, admin: &Path) -> Result<()> {
    let ours = read(admin)?;
    let before = read(user)?;
    let after = add_to(before.clone(), &ours)?;
    if after == before { Ok(()) } else { write(user, &after) }
}

/// Takes the context out again.
pub(crate) fn remove(user: &Path) -> Result<()> {
    let before = read(user)?;
    let mut after = before.clone();
    for list in ["clusters", "users", "contexts"] {
        if after.contains_key(list) {
            named(&mut after, list)?.retain(|i| !is_ours(i));
        }
    }
    if after.get("current-context").and_then(Value::as_str) == Some(NAME) {
        after.insert("current-context".into(), "".into());
    }
    if after == before { Ok(()) } else { write(user, &after) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(text: &str) -> Mapping {
        serde_yaml_ng::from_str(text).expect("YAML")
    }

    #[test]
    fn the_rest_is_left_alone() {
        let ours = map(
            "clusters: [{name: x, cluster: {server: s}}]\nusers: [{name: y, user: {token: t}}]\ncontexts: [{name: z, context: {cluster: x, user: y}}]\ncurrent-context: z",
        );
        let theirs = map("current-context: prod\ncontexts: [{name: prod, context: {}}]\nusers: null");
        let merged = add_to(theirs.clone(), &ours).expect("merged");
        assert_eq!(merged["current-context"], "prod");
        assert_eq!(merged["contexts"][0]["name"], "prod");
        assert_eq!(merged["contexts"][1]["context"]["cluster"], "isopod");
        assert_eq!(merged["users"][0]["user"]["token"], "t");
        let again = add_to(merged.clone(), &ours).expect("merged");
        assert_eq!(again, merged, "adding twice changes nothing");
        assert_eq!(add_to(Mapping::new(), &ours).expect("merged")["current-context"], "isopod");
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("config");
        write(&file, &merged).expect("written");
        remove(&file).expect("removed");
        assert_eq!(read(&file).expect("read")["contexts"].as_sequence().map(Vec::len), Some(1));
    }
}
