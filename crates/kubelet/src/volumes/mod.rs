//! Volumes of pods: set up before the first container, kept up to date while it runs, undone at its end.
//!
//! Invariants: a volume lives at `<pod dir>/volumes/<plugin>/<name>`, as upstream's; secrets and tokens only
//! ever lie on tmpfs; a pod's directory is removed only once nothing is mounted below it.

mod atomic;
pub(crate) mod host_path;
pub(crate) mod mounts;
mod ownership;
mod payload;
pub(crate) mod subpath;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use futures::future::join_all;
use isopod_podplan::{resources, spec};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, Pod, Volume};

use crate::images::{self, Wanted};
use crate::kubelet::Kubelet;
use atomic::Payload;
use payload::{Made, Maker};

/// The volumes of a pod as they lie on the node.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mounted {
    /// Path by volume name.
    pub(crate) paths: BTreeMap<String, PathBuf>,
    /// Type by volume name, for host paths that ask for one.
    pub(crate) host_types: BTreeMap<String, String>,
    /// Resolved image by volume name, for volumes that the runtime mounts from an image.
    pub(crate) images: BTreeMap<String, String>,
    /// When a volume must be made anew because a token in it grows old.
    pub(crate) renew_at: Option<Timestamp>,
}

/// A volume that could not be set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SetupError {
    pub(crate) volume: String,
    pub(crate) message: String,
}

/// Sets up, or brings up to date, all volumes of the pod, side by side.
pub(crate) async fn set_up(kubelet: &Kubelet, pod: &Pod) -> Result<Mounted, SetupError> {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let dir = kubelet.config.pod_dir(uid);
    make_pod_dir(&dir).map_err(|e| SetupError { volume: String::new(), message: e.to_string() })?;
    let list = spec::of(pod).volumes.as_deref().unwrap_or_default();
    let used: Vec<&Volume> = list.iter().filter(|v| is_used(pod, &v.name)).collect();
    let results = join_all(used.iter().map(|v| one(kubelet, pod, &dir, v))).await;
    let mut out = Mounted::default();
    for (v, result) in used.iter().zip(results) {
        let (place, renew_at) = result.map_err(|message| SetupError { volume: v.name.clone(), message })?;
        match place {
            Place::Path(path) => drop(out.paths.insert(v.name.clone(), path)),
            Place::Host(path, kind) => {
                out.paths.insert(v.name.clone(), path);
                if !kind.is_empty() {
                    out.host_types.insert(v.name.clone(), kind);
                }
            }
            Place::Image(image) => drop(out.images.insert(v.name.clone(), image)),
        }

        if let Some(at) = renew_at {
            out.renew_at = Some(out.renew_at.map_or(at, |r| r.min(at)));
        }
    }
    Ok(out)
}

/// Whether a container mounts the volume; upstream sets up only those.
fn is_used(pod: &Pod, name: &str) -> bool {
    spec::names(pod).filter_map(|n| spec::find(pod, n)).any(|(_, c)| {
        c.volume_mounts.iter().flatten().any(|m| m.name == name)
            || c.volume_devices.iter().flatten().any(|d| d.name == name)
    })
}

fn make_pod_dir(dir: &Path) -> std::io::Result<()> {
    for sub in ["volumes", "containers", "plugins"] {
        fs::create_dir_all(dir.join(sub))?;
    }
    fs::set_permissions(dir, fs::Permissions::from_mode(0o750))
}

fn place(dir: &Path, plugin: &str, name: &str) -> PathBuf {
    dir.join("volumes").join(plugin).join(name)
}

/// Where a volume's content is.
enum Place {
    Path(PathBuf),
    /// A path of the node, and the type that it is to have.
    Host(PathBuf, String),
    Image(String),
}

async fn one(
    kubelet: &Kubelet,
    pod: &Pod,
    dir: &Path,
    v: &Volume,
) -> Result<(Place, Option<Timestamp>), String> {
    if let Some(i) = &v.image {
        let wanted = Wanted {
            image: i.reference.as_deref().unwrap_or_default(),
            policy: i.pull_policy.as_deref(),
            container: None,
        };
        let image = images::ensure(kubelet, pod, wanted).await.map_err(|e| e.message)?;
        return Ok((Place::Image(image), None));
    }
    if let Some(h) = &v.host_path {
        return host(&h.path, h.type_.as_deref()).map(|place| (place, None));
    }
    if v.persistent_volume_claim.is_some() {
        return claim(kubelet, pod, v).await.map(|place| (place, None));
    }
    files(kubelet, pod, dir, v).await.map(|(path, renew_at)| (Place::Path(path), renew_at))
}

fn host(path: &str, kind: Option<&str>) -> Result<Place, String> {
    let kind = kind.unwrap_or_default();
    host_path::prepare(Path::new(path), kind)?;
    Ok(Place::Host(PathBuf::from(path), kind.to_owned()))
}

async fn files(
    kubelet: &Kubelet,
    pod: &Pod,
    dir: &Path,
    v: &Volume,
) -> Result<(PathBuf, Option<Timestamp>), String> {
    let maker = Maker { kubelet, pod };
    let fs_group = fs_group(pod);
    if let Some(e) = &v.empty_dir {
        let path = place(dir, "kubernetes.io~empty-dir", &v.name);
        let size = memory_size(kubelet, pod, e);
        empty_dir(&path, e, size, pod)?;
        return Ok((path, None));
    }
    let mut made = Made::default();
    let (plugin, on_tmpfs) = if let Some(c) = &v.config_map {
        let mode = payload::default_mode(c.default_mode);
        made.payload = maker.config_map(&c.name, c.items.as_ref(), mode, c.optional == Some(true)).await?;
        ("kubernetes.io~configmap", false)
    } else if let Some(s) = &v.secret {
        let mode = payload::default_mode(s.default_mode);
        let name = s.secret_name.as_deref().unwrap_or_default();
        made.payload = maker.secret(name, s.items.as_ref(), mode, s.optional == Some(true)).await?;
        ("kubernetes.io~secret", true)
    } else if let Some(d) = &v.downward_api {
        let mode = payload::default_mode(d.default_mode);
        made.payload = maker.downward(d.items.as_deref().unwrap_or_default(), mode)?;
        ("kubernetes.io~downward-api", true)
    } else if let Some(p) = &v.projected {
        made = maker.projected(p).await?;
        ("kubernetes.io~projected", true)
    } else {
        return Err(format!("no volume plugin matched volume {:?}", v.name));
    };
    let path = place(dir, plugin, &v.name);
    write_payload(&path, on_tmpfs, &made.payload, fs_group, kubelet.now()).await?;
    Ok((path, made.renew_at))
}

async fn write_payload(
    path: &Path,
    on_tmpfs: bool,
    payload: &Payload,
    gid: Option<u32>,
    now: Timestamp,
) -> Result<(), String> {
    let context = |e: std::io::Error| format!("{}: {e}", path.display());
    fs::create_dir_all(path).map_err(context)?;
    if on_tmpfs {
        mounts::tmpfs(path, None).map_err(|e| e.to_string())?;
    }
    if let Some(gid) = gid {
        std::os::unix::fs::chown(path, None, Some(gid)).map_err(context)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o2775)).map_err(context)?;
    } else {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).map_err(context)?;
    }
    atomic::write(path, payload, gid, now).map(|_| ()).map_err(context)
}

fn fs_group(pod: &Pod) -> Option<u32> {
    let context = spec::of(pod).security_context.as_ref()?;
    u32::try_from(context.fs_group?).ok()
}

/// Size of a memory-backed emptyDir: the smallest of its own limit, the pod's memory limit and what the node
/// can give.
fn memory_size(kubelet: &Kubelet, pod: &Pod, e: &EmptyDirVolumeSource) -> Option<u64> {
    let own = e.size_limit.as_ref().map(|q| resources::amount("memory", q));
    let of_pod = resources::pod_limits(pod).get("memory").copied();
    let node = kubelet.node();
    let of_node = node
        .status
        .as_ref()
        .and_then(|s| s.allocatable.as_ref())
        .and_then(|l| l.get("memory"))
        .map(|q| resources::amount("memory", q));
    [own, of_pod, of_node].into_iter().flatten().filter(|v| *v > 0).min().map(i64::unsigned_abs)
}

fn empty_dir(path: &Path, e: &EmptyDirVolumeSource, size: Option<u64>, pod: &Pod) -> Result<(), String> {
    let context = |e: std::io::Error| format!("{}: {e}", path.display());
    let fresh = !path.exists();
    fs::create_dir_all(path).map_err(context)?;
    match e.medium.as_deref().unwrap_or_default() {
        "" => {}
        "Memory" => mounts::tmpfs(path, size).map_err(|e| e.to_string())?,
        other => return Err(format!("unknown storage medium {other:?}")),
    }
    if fresh {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).map_err(context)?;
        if let Some(gid) = fs_group(pod) {
            ownership::apply(path, gid, false, false).map_err(context)?;
        }
    }
    Ok(())
}

/// Claims that are bound to a `hostPath` or `local` volume; others need a CSI driver.
async fn claim(kubelet: &Kubelet, pod: &Pod, v: &Volume) -> Result<Place, String> {
    use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
    let Some(source) = &v.persistent_volume_claim else { return Err("no claim".into()) };
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let claims: kube::Api<PersistentVolumeClaim> = kube::Api::namespaced(kubelet.client.clone(), namespace);
    let name = &source.claim_name;
    let claim =
        claims.get(name).await.map_err(|e| format!("error getting PVC \"{namespace}/{name}\": {e}"))?;
    let volume = claim.spec.and_then(|s| s.volume_name).filter(|n| !n.is_empty());
    let bound = claim.status.and_then(|s| s.phase).as_deref() == Some("Bound");
    let volume =
        volume.filter(|_| bound).ok_or_else(|| format!("PVC \"{namespace}/{name}\" is not bound"))?;
    let volumes: kube::Api<PersistentVolume> = kube::Api::all(kubelet.client.clone());
    let pv = volumes.get(&volume).await.map_err(|e| format!("error getting PV {volume:?}: {e}"))?;
    let spec = pv.spec.unwrap_or_default();
    let read_only = source.read_only == Some(true);
    let path = if let Some(h) = spec.host_path {
        return host(&h.path, h.type_.as_deref());
    } else if let Some(l) = spec.local {
        PathBuf::from(l.path)
    } else {
        return Err(format!("PV {volume:?}: no volume plugin of this node can mount it"));
    };
    if !path.exists() {
        return Err(format!("path {} does not exist", path.display()));
    }
    if let (Some(gid), false) = (fs_group(pod), read_only) {
        let context = self::spec::of(pod).security_context.as_ref();
        let mismatch = context.and_then(|c| c.fs_group_change_policy.as_deref()) == Some("OnRootMismatch");
        ownership::apply(&path, gid, false, mismatch).map_err(|e| e.to_string())?;
    }
    Ok(Place::Path(path))
}

/// Unmounts a pod's volumes and removes them; what tells of its past stays until the pod is forgotten.
pub(crate) fn tear_down(dir: &Path) -> Result<(), String> {
    if !dir.exists() {
        return Ok(());
    }
    mounts::unmount_below(dir).map_err(|e| e.to_string())?;
    for sub in ["volumes", "volume-subpaths"] {
        let path = dir.join(sub);
        mounts::remove_tree(&path).map_err(|e| format!("remove {}: {e}", path.display()))?;
    }
    Ok(())
}

/// Removes everything of a pod.
pub(crate) fn remove_pod_dir(dir: &Path) -> Result<(), String> {
    tear_down(dir)?;
    mounts::remove_tree(dir).map_err(|e| format!("remove {}: {e}", dir.display()))
}
