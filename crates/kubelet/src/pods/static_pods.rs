//! Static pods: manifests in a directory, watched by inotify.
//!
//! A pod's uid is a hash of its manifest, its file and the node, so that it is the same after a restart and
//! another when the manifest changes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Toleration};
use nix::sys::inotify::AddWatchFlags;
use sha2::{Digest, Sha256};

use crate::kubelet::Kubelet;
use crate::pods::{CONFIG_HASH, CONFIG_SOURCE};
use crate::watch_dir::DirWatch;

/// Larger manifests are refused.
const MANIFEST_MAX: u64 = 1 << 20;
/// Editors write in several steps; the last one counts.
const SETTLE: std::time::Duration = std::time::Duration::from_millis(50);

/// Follows the directory until shutdown.
pub(crate) async fn follow(kubelet: Arc<Kubelet>, dir: PathBuf) {
    if let Err(error) = fs::create_dir_all(&dir) {
        tracing::warn!(dir = %dir.display(), %error, "static pod directory");
        return;
    }
    let flags = AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_DELETE;
    let mut watch = match DirWatch::new(&dir, flags) {
        Ok(watch) => watch,
        Err(error) => {
            tracing::warn!(dir = %dir.display(), %error, "watch static pod directory");
            return;
        }
    };
    let mut known: BTreeMap<PathBuf, String> = BTreeMap::new();
    loop {
        sync(&kubelet, &dir, &mut known);
        tokio::select! {
            changed = watch.changed() => if let Err(error) = changed {
                tracing::warn!(dir = %dir.display(), %error, "watch static pod directory");
                return;
            },
            () = kubelet.shutdown.cancelled() => return,
        }
        tokio::time::sleep(SETTLE).await;
        watch.drain();
    }
}

/// Compares the directory with what is known.
fn sync(kubelet: &Arc<Kubelet>, dir: &Path, known: &mut BTreeMap<PathBuf, String>) {
    let mut found = BTreeMap::new();
    for path in manifests(dir) {
        match read(&path, &kubelet.config.node_name) {
            Ok(pod) => {
                let uid = pod.metadata.uid.clone().unwrap_or_default();
                found.insert(path, uid.clone());
                if !known.values().any(|u| *u == uid) {
                    kubelet.pods.apply(kubelet, Arc::new(pod), true);
                }
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), error, "static pod manifest");
                // A broken edit must not end what runs.
                if let Some(uid) = known.get(&path) {
                    found.insert(path, uid.clone());
                }
            }
        }
    }
    for uid in known.values() {
        if !found.values().any(|u| u == uid) {
            kubelet.pods.remove(uid, None);
        }
    }
    *known = found;
}

fn manifests(dir: &Path) -> Vec<PathBuf> {
    let mut out: Vec<PathBuf> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .map(|e| e.path())
        .filter(|p| p.is_file() && !p.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.')))
        .collect();
    out.sort();
    out
}

/// Reads one manifest, with the API's defaults.
fn read(path: &Path, node: &str) -> Result<Pod, String> {
    let size = fs::metadata(path).map_err(|e| e.to_string())?.len();
    if size > MANIFEST_MAX {
        return Err(format!("{size} bytes are more than {MANIFEST_MAX}"));
    }
    let text = fs::read_to_string(path).map_err(|e| e.to_string())?;
    parse(&text, path, node)
}

fn parse(text: &str, path: &Path, node: &str) -> Result<Pod, String> {
    let mut value: serde_json::Value = serde_yaml_ng::from_str(text).map_err(|e| e.to_string())?;
    let field = |v: &serde_json::Value, f: &str| v.get(f).and_then(|k| k.as_str()).map(str::to_owned);
    if field(&value, "kind").as_deref() != Some("Pod") || field(&value, "apiVersion").as_deref() != Some("v1")
    {
        return Err("not a v1 Pod".into());
    }
    isopod_api::defaults::apply("", "v1", "Pod", &mut value);
    let mut pod: Pod = serde_json::from_value(value).map_err(|e| e.to_string())?;
    let name = pod.metadata.name.clone().filter(|n| !n.is_empty()).ok_or("no name")?;
    let mut hash = Sha256::new();
    for part in [node.as_bytes(), path.as_os_str().as_encoded_bytes(), text.as_bytes()] {
        hash.update(part);
        hash.update([0]);
    }
    let hash: String = hash.finalize().iter().take(16).map(|b| format!("{b:02x}")).collect();
    let name = format!("{name}-{node}");
    let namespace = pod.metadata.namespace.get_or_insert_with(|| "default".into()).clone();
    let problems = isopod_api::names::is_dns1123_subdomain(&name);
    let problems = problems.into_iter().chain(isopod_api::names::is_dns1123_label(&namespace));
    if let Some(problem) = problems.into_iter().next() {
        return Err(format!("{namespace}/{name}: {problem}"));
    }
    check_names(&pod)?;
    pod.metadata.name = Some(name);
    pod.metadata.uid = Some(hash.clone());
    pod.metadata.generation = Some(1);
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(CONFIG_HASH.into(), hash);
    annotations.insert(CONFIG_SOURCE.into(), "file".into());
    let spec = pod.spec.as_mut().ok_or("no spec")?;
    if spec.containers.is_empty() {
        return Err("no containers".into());
    }
    spec.node_name = Some(node.to_owned());
    // Taints do not move what belongs to the node itself.
    spec.tolerations.get_or_insert_default().push(Toleration {
        effect: Some("NoExecute".into()),
        operator: Some("Exists".into()),
        ..Toleration::default()
    });
    pod.status = None;
    Ok(pod)
}

/// Names become directories and labels; the API server checks those of other pods.
fn check_names(pod: &Pod) -> Result<(), String> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    if spec.ephemeral_containers.as_ref().is_some_and(|list| !list.is_empty()) {
        return Err("spec.ephemeralContainers: a static pod may have none".into());
    }
    let containers = spec.containers.iter().map(|c| ("containers", &c.name));
    let init = spec.init_containers.iter().flatten().map(|c| ("initContainers", &c.name));
    let volumes = spec.volumes.iter().flatten().map(|v| ("volumes", &v.name));
    let mut seen = BTreeSet::new();
    for (list, name) in containers.chain(init).chain(volumes) {
        if let Some(problem) = isopod_api::names::is_dns1123_label(name).into_iter().next() {
            return Err(format!("spec.{list}: name {name:?}: {problem}"));
        }
        // Containers of both lists share their names.
        if !seen.insert((list == "volumes", name)) {
            return Err(format!("spec.{list}: name {name:?} is there twice"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str =
        "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: c, image: x}]}\n";

    #[test]
    fn identity_follows_the_manifest() {
        let a = parse(MANIFEST, Path::new("/m/a.yaml"), "n1").unwrap();
        assert_eq!(a.metadata.name.as_deref(), Some("web-n1"));
        assert_eq!(a.spec.as_ref().unwrap().restart_policy.as_deref(), Some("Always"));
        let again = parse(MANIFEST, Path::new("/m/a.yaml"), "n1").unwrap();
        assert_eq!(a.metadata.uid, again.metadata.uid);
        let changed = parse(&MANIFEST.replace("image: x", "image: y"), Path::new("/m/a.yaml"), "n1").unwrap();
        assert_ne!(a.metadata.uid, changed.metadata.uid);
        assert!(parse("kind: Service\napiVersion: v1", Path::new("/m/a.yaml"), "n1").is_err());
        assert!(parse(&MANIFEST.replace("web", "../x"), Path::new("/m/a.yaml"), "n1").is_err());
    }

    #[test]
    fn names_that_become_paths_are_checked() {
        let refused = |spec: &str| {
            let text = format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: web}}\nspec: {{{spec}}}\n");
            parse(&text, Path::new("/m/a.yaml"), "n1").unwrap_err()
        };
        for name in ["../../x", "..", "a/b", "/etc", "''", "A", "a.b"] {
            let error = refused(&format!("containers: [{{name: {name}, image: x}}]"));
            assert!(error.starts_with("spec.containers: name "), "{name}: {error}");
            let other = "containers: [{name: c, image: x}]";
            let error = refused(&format!("{other}, initContainers: [{{name: {name}, image: x}}]"));
            assert!(error.starts_with("spec.initContainers: name "), "{name}: {error}");
            let error = refused(&format!("{other}, volumes: [{{name: {name}, emptyDir: {{}}}}]"));
            assert!(error.starts_with("spec.volumes: name "), "{name}: {error}");
        }
        let error = refused("containers: [{name: c, image: x}], initContainers: [{name: c, image: x}]");
        assert_eq!(error, "spec.initContainers: name \"c\" is there twice");
        let error =
            refused("containers: [{name: c, image: x}], ephemeralContainers: [{name: ../e, image: x}]");
        assert_eq!(error, "spec.ephemeralContainers: a static pod may have none");
    }
}
