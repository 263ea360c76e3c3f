//! Containers: creation, start, stop, removal.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use isopod_cri::v1::*;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use crate::client::blocking;
use crate::error::{Context, Error};
use crate::images::{ImageConfig, ImageRecord, Reference, User, remove_tree, resolve_user};
use crate::record::{ContainerRecord, save, save_container};
use crate::runtime::{Container, Inner, Sandbox, new_id, now};
use crate::sandboxes::modes;
use crate::shim::protocol::Start;
use crate::shim::{STAGED, STAGING};
use crate::snapshot::Snapshot;
use crate::spec::{Input, Namespaces, PidNamespace, build, pid_mode, security};

/// How long the end of a killed process may take; longer means that the kernel does not let it go.
pub(crate) const KILL_TIMEOUT: Duration = Duration::from_secs(10);
/// What a container that could not be started reports as its exit code, as containerd does.
const START_ERROR_CODE: i32 = 128;

impl Inner {
    /// Prepares a container.
    pub(crate) async fn create_container(
        self: &Arc<Self>,
        sandbox_id: &str,
        config: ContainerConfig,
    ) -> Result<String, Error> {
        let sandbox = self.sandbox(sandbox_id)?;
        if !sandbox.is_ready() {
            return Err(Error::Precondition(format!("sandbox {} is not running", sandbox.id)));
        }
        if config.metadata.is_none() {
            return Err(Error::invalid("container config has no metadata"));
        }
        let wanted = config.image.clone().unwrap_or_default().image;
        let image = self
            .images
            .find(&wanted)?
            .ok_or_else(|| Error::NotFound(format!("image {wanted:?} not found")))?;
        let id = new_id();
        let dir = self.config.root.join("containers").join(&id);
        let bundle = self.bundle_path(&id);
        let record = ContainerRecord {
            id: id.clone(),
            sandbox_id: sandbox.id.clone(),
            image_id: image.id.clone(),
            image_name: image_name(&image, &config),
            image_ref: image.digests.first().cloned().unwrap_or_else(|| image.id.clone()),
            created_at: now(),
            cgroup: format!("{}/{id}", sandbox.cgroup_parent()),
            log_path: log_path(&sandbox.config, &config),
            ..ContainerRecord::default()
        };
        let prepared = {
            let (inner, sandbox, config, dir) = (self.clone(), sandbox.clone(), config.clone(), dir.clone());
            blocking(move || inner.prepare(&sandbox, &config, &image, &dir, record)).await
        };
        let record = match prepared {
            Ok(record) => record,
            Err(e) => {
                let _ = Snapshot::new(&dir).unmount();
                let _ = remove_tree(&dir);
                let _ = remove_tree(&bundle);
                return Err(e);
            }
        };
        let container = Arc::new(Container {
            id: id.clone(),
            config: RwLock::new(config),
            sandbox: sandbox.clone(),
            dir,
            bundle,
            record: Mutex::new(record),
            ended: watch::Sender::new(false),
            changing: tokio::sync::Mutex::default(),
            cpu: Mutex::default(),
            disk: Mutex::default(),
        });
        self.containers.write().insert(id.clone(), container);
        self.publish(&sandbox, &id, ContainerEventType::ContainerCreatedEvent);
        Ok(id)
    }

    /// Root file system, user, OCI configuration, record.
    fn prepare(
        &self,
        sandbox: &Sandbox,
        config: &ContainerConfig,
        image: &ImageRecord,
        dir: &std::path::Path,
        mut record: ContainerRecord,
    ) -> Result<ContainerRecord, Error> {
        let bundle = self.bundle_path(&record.id);
        for dir in [dir, &bundle] {
            std::fs::create_dir(dir).what(|| format!("create {}", dir.display()))?;
        }
        let image_config = self.images.config(image)?;
        let snapshot = Snapshot::new(dir);
        snapshot.mount(&self.images.layers_root(), &self.images.layer_dirs(image)?)?;
        let user = user(&snapshot, config, &image_config)?;
        let image_mounts = self.mount_images(dir, config)?;
        let namespaces = self.namespaces(sandbox, config)?;
        record.shared_pids = namespaces.pid != PidNamespace::New;
        record.stop_signal = stop_signal(config, &image_config);
        (record.uid, record.gid) = (user.uid, user.gid);
        let input = Input {
            container: config,
            sandbox: &sandbox.config,
            image: &image_config,
            user: &user,
            node: &self.node,
            rootfs: snapshot.rootfs(),
            cgroup: record.cgroup.clone(),
            namespaces,
            files: BTreeMap::from([
                ("/etc/resolv.conf", sandbox.dir.join("resolv.conf")),
                ("/etc/hostname", sandbox.dir.join("hostname")),
                ("/etc/hosts", sandbox.dir.join("hosts")),
            ]),
            shm: match modes(&sandbox.config).ipc == NamespaceMode::Node as i32 {
                true => PathBuf::from("/dev/shm"),
                false => sandbox.shm(),
            },
            image_mounts,
            staging: self.config.oci_runtime.is_none().then(|| sandbox.run_dir.join(STAGING)),
        };
        let (spec, staged) = build(&input)?;
        record.groups = spec["process"]["user"]["additionalGids"]
            .as_array()
            .map(|gids| gids.iter().filter_map(|gid| u32::try_from(gid.as_u64()?).ok()).collect())
            .unwrap_or_default();
        make_working_dir(&snapshot, spec["process"]["cwd"].as_str().unwrap_or("/"))?;
        let path = bundle.join("config.json");
        let bytes = serde_json::to_vec(&spec).map_err(Error::invalid)?;
        std::fs::write(&path, bytes).what(|| format!("write {}", path.display()))?;
        if !staged.is_empty() {
            let path = bundle.join(STAGED);
            let bytes = serde_json::to_vec(&staged).map_err(Error::invalid)?;
            std::fs::write(&path, bytes).what(|| format!("write {}", path.display()))?;
        }
        save_container(dir, &bundle, config)?;
        save(dir, &record)?;
        Ok(record)
    }

    /// Mounts of images (volumes of type image) lie beside the root file system.
    fn mount_images(
        &self,
        dir: &std::path::Path,
        config: &ContainerConfig,
    ) -> Result<Vec<(String, PathBuf)>, Error> {
        let mut mounts = Vec::new();
        for (i, mount) in config.mounts.iter().enumerate() {
            let Some(wanted) = mount.image.as_ref() else { continue };
            let image = self
                .images
                .find(&wanted.image)?
                .ok_or_else(|| Error::NotFound(format!("image {:?} not found", wanted.image)))?;
            let target = dir.join("images").join(i.to_string());
            std::fs::create_dir_all(&target).what(|| format!("create {}", target.display()))?;
            let layers = self.images.layer_dirs(&image)?;
            crate::snapshot::overlay(&self.images.layers_root(), &layers, None, &target)?;
            let source = match mount.image_sub_path.as_str() {
                "" => target,
                path => crate::snapshot::inside(&target, path)?,
            };
            mounts.push((mount.container_path.clone(), source));
        }
        Ok(mounts)
    }

    fn namespaces(&self, sandbox: &Sandbox, config: &ContainerConfig) -> Result<Namespaces, Error> {
        let (shim, pause, netns) = {
            let record = sandbox.record.lock();
            (record.shim_pid, record.pause_pid, record.netns.clone())
        };
        let of_pod = modes(&sandbox.config);
        let of_shim = |kind: &str| Some(PathBuf::from(format!("/proc/{shim}/ns/{kind}")));
        let pid = match pid_mode(config) {
            NamespaceMode::Container => PidNamespace::New,
            NamespaceMode::Node => PidNamespace::Node,
            NamespaceMode::Pod => match pause {
                Some(pause) => PidNamespace::Of(pause),
                None => PidNamespace::New,
            },
            NamespaceMode::Target => {
                let options = security(config).namespace_options.unwrap_or_default();
                let target = self.container(&options.target_id)?;
                if target.sandbox.id != sandbox.id || !target.is_running() {
                    return Err(Error::Precondition(format!(
                        "target container {} is not running in this pod",
                        target.id
                    )));
                }
                PidNamespace::Of(target.record.lock().pid)
            }
        };
        Ok(Namespaces {
            uts: netns.is_some().then(|| of_shim("uts")).flatten(),
            ipc: (of_pod.ipc != NamespaceMode::Node as i32).then(|| of_shim("ipc")).flatten(),
            network: netns.map(PathBuf::from),
            pid,
            new_cgroup: self.cgroups.is_v2() && !security(config).privileged,
        })
    }

    /// Starts a created container; when this returns its program runs.
    pub(crate) async fn start_container(self: &Arc<Self>, container: &Arc<Container>) -> Result<(), Error> {
        let _changing = container.changing.lock().await;
        let record = container.record.lock().clone();
        if record.started_at > 0 || record.finished_at > 0 {
            return Err(Error::Precondition(format!("container {} is not in created state", container.id)));
        }
        if !container.sandbox.is_ready() {
            return Err(Error::Precondition(format!("sandbox {} is not running", container.sandbox.id)));
        }
        let start = {
            let config = container.config.read();
            Start {
                id: container.id.clone(),
                bundle: container.bundle.display().to_string(),
                log_path: record.log_path.clone(),
                cgroup: record.cgroup.clone(),
                uid: record.uid,
                tty: config.tty,
                stdin: config.stdin,
                stdin_once: config.stdin_once,
                shared_pids: record.shared_pids,
                oci_runtime: self.config.oci_runtime.clone(),
            }
        };
        match container.sandbox.shim.start(start).await {
            Ok((pid, at)) => {
                self.started(container, pid, at);
                Ok(())
            }
            Err(e) => {
                let message = format!("failed to create task for container: {e}");
                let at = now();
                container.update(|record| {
                    record.finished_at = at;
                    record.exit_code = START_ERROR_CODE;
                    record.reason = "StartError".to_owned();
                    record.message.clone_from(&message);
                });
                container.ended.send_replace(true);
                self.clean_up_later(container);
                self.publish(&container.sandbox, &container.id, ContainerEventType::ContainerStoppedEvent);
                Err(Error::Shim(message))
            }
        }
    }

    /// Stops a container: its stop signal, then after `timeout` seconds SIGKILL.
    pub(crate) async fn stop_container(&self, container: &Container, timeout: i64) -> Result<(), Error> {
        if !container.is_running() {
            return Ok(());
        }
        let mut ended = container.ended.subscribe();
        let signal = container.record.lock().stop_signal;
        let shim = &container.sandbox.shim;
        if timeout > 0 {
            shim.signal(&container.id, signal, false).await.or_else(|e| still_running(container, e))?;
            let limit = Duration::from_secs(u64::try_from(timeout).unwrap_or(0));
            if tokio::time::timeout(limit, ended.wait_for(|ended| *ended)).await.is_ok() {
                return Ok(());
            }
        }
        let kill = nix::sys::signal::Signal::SIGKILL as i32;
        shim.signal(&container.id, kill, true).await.or_else(|e| still_running(container, e))?;
        match tokio::time::timeout(KILL_TIMEOUT, ended.wait_for(|ended| *ended)).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::Timeout(format!("container {} does not end although killed", container.id))),
        }
    }

    /// Removes a container, a running one by force.
    pub(crate) async fn remove_container(&self, container: &Container) -> Result<(), Error> {
        self.stop_container(container, 0).await?;
        let _changing = container.changing.lock().await;
        if self.containers.read().get(&container.id).is_none() {
            return Ok(());
        }
        if container.sandbox.is_ready()
            && let Err(e) = container.sandbox.shim.remove(&container.id).await
        {
            tracing::debug!(container = container.id, "the shim does not know the container: {e}");
        }
        let (dir, bundle, cgroups) = (container.dir.clone(), container.bundle.clone(), self.cgroups.clone());
        let group = container.record.lock().cgroup.clone();
        blocking(move || {
            cgroups.remove(&group)?;
            unmount_all(&dir)?;
            remove_tree(&bundle)?;
            remove_tree(&dir)
        })
        .await?;
        self.containers.write().remove(&container.id);
        self.publish(&container.sandbox, &container.id, ContainerEventType::ContainerDeletedEvent);
        Ok(())
    }

    /// Changes limits of a container.
    pub(crate) async fn update_container(
        &self,
        container: &Container,
        resources: LinuxContainerResources,
    ) -> Result<(), Error> {
        let _changing = container.changing.lock().await;
        if container.has_ended() {
            return Err(Error::Precondition(format!("container {} has ended", container.id)));
        }
        if container.is_running() {
            let limits = crate::spec::limits(&resources, self.node.swap_accounting);
            self.cgroups.update(&container.record.lock().cgroup, &limits)?;
        }
        let config = {
            let mut config = container.config.write();
            let linux = config.linux.get_or_insert_default();
            merge(linux.resources.get_or_insert_default(), resources);
            config.clone()
        };
        save_container(&container.dir, &container.bundle, &config)
    }
}

/// A failure to signal matters only if the container goes on.
fn still_running(container: &Container, error: Error) -> Result<(), Error> {
    if container.has_ended() { Ok(()) } else { Err(error) }
}

/// Unmounts what lies in a container's directory.
pub(crate) fn unmount_all(dir: &std::path::Path) -> Result<(), Error> {
    Snapshot::new(dir).unmount()?;
    for entry in std::fs::read_dir(dir.join("images")).into_iter().flatten().flatten() {
        crate::snapshot::unmount(&entry.path())?;
    }
    Ok(())
}

fn merge(known: &mut LinuxContainerResources, change: LinuxContainerResources) {
    macro_rules! take {
        ($($field:ident != $none:expr),*) => {
            $(if change.$field != $none { known.$field = change.$field; })*
        };
    }
    take!(cpu_period != 0, cpu_quota != 0, cpu_shares != 0, memory_limit_in_bytes != 0, oom_score_adj != 0);
    take!(memory_swap_limit_in_bytes != 0, cpuset_cpus != "", cpuset_mems != "");
    known.unified.extend(change.unified);
    if !change.hugepage_limits.is_empty() {
        known.hugepage_limits = change.hugepage_limits;
    }
}

/// The name that the user knows the image by, if the image still has it; else any.
fn image_name(image: &ImageRecord, config: &ContainerConfig) -> String {
    let wanted = config.image.as_ref().map(|spec| spec.user_specified_image.as_str()).unwrap_or_default();
    let wanted = Reference::parse(wanted).map(|reference| reference.with_tag()).unwrap_or_default();
    let same = image.tags.iter().find(|tag| **tag == wanted);
    same.or(image.tags.first()).or(image.digests.first()).unwrap_or(&image.id).clone()
}

fn log_path(sandbox: &PodSandboxConfig, container: &ContainerConfig) -> String {
    match (sandbox.log_directory.as_str(), container.log_path.as_str()) {
        ("", _) | (_, "") => String::new(),
        (dir, file) => std::path::Path::new(dir).join(file).display().to_string(),
    }
}

/// The user of a container: what the configuration says, else what the image says.
fn user(snapshot: &Snapshot, config: &ContainerConfig, image: &ImageConfig) -> Result<User, Error> {
    let security = security(config);
    let id = |value: i64, what: &str| match u32::try_from(value) {
        Ok(id) if id != u32::MAX => Ok(id),
        _ => Err(Error::Invalid(format!("{what} {value} is not between 0 and 4294967294"))),
    };
    let name = match (&security.run_as_user, security.run_as_username.as_str()) {
        (Some(uid), _) => id(uid.value, "run_as_user")?.to_string(),
        (None, "") => image.user.clone(),
        (None, name) => name.to_owned(),
    };
    let chosen = security.run_as_user.is_some() || !security.run_as_username.is_empty();
    let mut user = resolve_user(&snapshot.rootfs(), &name)?;
    if let Some(gid) = &security.run_as_group {
        if !chosen {
            return Err(Error::invalid("run_as_group is given without run_as_user or run_as_username"));
        }
        user.gid = id(gid.value, "run_as_group")?;
    }
    Ok(user)
}

/// The number of the signal that asks the program to end.
fn stop_signal(config: &ContainerConfig, image: &ImageConfig) -> i32 {
    let of_config = Signal::try_from(config.stop_signal).unwrap_or_default();
    let name = match of_config {
        Signal::RuntimeDefault => image.stop_signal.clone(),
        signal => signal.as_str_name().to_owned(),
    };
    parse_signal(&name).unwrap_or(nix::libc::SIGTERM)
}

/// `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3`, and CRI's `SIGRTMINPLUS3`.
fn parse_signal(name: &str) -> Option<i32> {
    if let Ok(number) = name.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let name = name.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    // As the kernel and glibc number them.
    let (first, last) = (34, 64);
    if let Some(rest) = name.strip_prefix("RTMIN") {
        let offset = rest.trim_start_matches("PLUS").trim_start_matches('+');
        return Some(first + if offset.is_empty() { 0 } else { offset.parse::<i32>().ok()? });
    }
    if let Some(rest) = name.strip_prefix("RTMAX") {
        let offset = rest.trim_start_matches("MINUS").trim_start_matches('-');
        return Some(last - if offset.is_empty() { 0 } else { offset.parse::<i32>().ok()? });
    }
    format!("SIG{name}").parse::<nix::sys::signal::Signal>().ok().map(|signal| signal as i32)
}

/// Images name working directories that are not in any layer; Docker makes them.
fn make_working_dir(snapshot: &Snapshot, cwd: &str) -> Result<(), Error> {
    crate::snapshot::make_dir_inside(&snapshot.rootfs(), cwd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals() {
        for (name, number) in [
            ("SIGTERM", Some(15)),
            ("term", Some(15)),
            ("9", Some(9)),
            ("SIGRTMIN+3", Some(37)),
            ("SIGRTMINPLUS3", Some(37)),
            ("SIGRTMAX", Some(64)),
            ("65", None),
            ("SIGNOTHING", None),
        ] {
            assert_eq!(parse_signal(name), number, "{name}");
        }
    }
}
