//! Taking back what runs when the server starts, and removing what a crash left half made.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use isopod_cri::v1::PodSandboxConfig;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use crate::client::ShimClient;
use crate::containers::unmount_all;
use crate::error::Error;
use crate::images::remove_tree;
use crate::record::{SandboxRecord, bundles, directories, load, load_container, move_secrets};
use crate::runtime::{Container, Inner, Sandbox, now};
use crate::shim::protocol::{Exit, Reply};
use crate::snapshot::unmount;

impl Inner {
    /// Reads the records, connects to the shims, and cleans up.
    pub(crate) async fn recover(self: &Arc<Self>) -> Result<(), Error> {
        let mut failed_starts = Vec::new();
        for dir in directories(&self.config.root.join("sandboxes"))? {
            match self.load_sandbox(&dir) {
                Ok(sandbox) if sandbox.record.lock().shim_pid == 0 => failed_starts.push(sandbox),
                Ok(sandbox) => drop(self.sandboxes.write().insert(sandbox.id.clone(), sandbox)),
                Err(e) => {
                    tracing::warn!("a sandbox's record cannot be read, it is removed: {e}");
                    remove_tree(&dir)?;
                }
            }
        }
        for dir in directories(&self.config.root.join("containers"))? {
            match self.load_container(&dir) {
                Ok(container) => drop(self.containers.write().insert(container.id.clone(), container)),
                Err(e) => {
                    tracing::warn!("a container's record cannot be used, it is removed: {e}");
                    unmount_all(&dir)?;
                    remove_tree(&dir)?;
                }
            }
        }
        for sandbox in failed_starts {
            if let Err(e) = self.tear_down(&sandbox).await {
                tracing::warn!(sandbox = sandbox.id, "clean up after a start that was cut short: {e}");
            }
            remove_tree(&sandbox.dir)?;
        }
        let sandboxes: Vec<_> = self.sandboxes.read().values().cloned().collect();
        futures::future::join_all(sandboxes.iter().map(|sandbox| self.take_back(sandbox))).await;
        self.remove_strays().await
    }

    fn load_sandbox(&self, dir: &Path) -> Result<Arc<Sandbox>, Error> {
        let (record, config): (SandboxRecord, PodSandboxConfig) = load(dir)?;
        let run_dir = self.config.state.join("s").join(&record.id);
        Ok(Arc::new(Sandbox {
            id: record.id.clone(),
            config,
            dir: dir.to_owned(),
            shim: ShimClient::new(&run_dir),
            run_dir,
            record: Mutex::new(record),
            changing: tokio::sync::Mutex::default(),
            cpu: Mutex::default(),
        }))
    }

    fn load_container(&self, dir: &Path) -> Result<Arc<Container>, Error> {
        let bundle = self.bundle_path(&dir.file_name().unwrap_or_default().to_string_lossy());
        move_secrets(dir, &bundle)?;
        let (record, config) = load_container(dir, &bundle)?;
        let sandbox = self.sandbox(&record.sandbox_id)?;
        Ok(Arc::new(Container {
            id: record.id.clone(),
            config: RwLock::new(config),
            sandbox,
            dir: dir.to_owned(),
            bundle,
            ended: watch::Sender::new(record.finished_at > 0),
            record: Mutex::new(record),
            changing: tokio::sync::Mutex::default(),
            cpu: Mutex::default(),
            disk: Mutex::default(),
        }))
    }

    /// Learns from the shim what happened meanwhile, and follows it from now on.
    async fn take_back(self: &Arc<Self>, sandbox: &Arc<Sandbox>) {
        if !sandbox.is_ready() {
            return;
        }
        let mut known = BTreeSet::new();
        let outcome: Result<(), Error> = async {
            let mut replies = sandbox.shim.watch().await?;
            loop {
                match replies.next().await? {
                    Reply::Synced => return Ok(()),
                    Reply::State(state) => {
                        known.insert(state.id.clone());
                        self.apply(Reply::State(state));
                    }
                    _ => {}
                }
            }
        }
        .await;
        match outcome {
            Ok(()) => {
                for container in self.containers_of(&sandbox.id) {
                    if container.is_running() && !known.contains(&container.id) {
                        let exit = Exit { code: 137, at_nanos: now(), oom_killed: false };
                        self.exited(&container, &exit, "the shim does not know the container");
                    }
                }
                self.watch(sandbox.clone());
            }
            Err(e) => self.shim_died(sandbox, &e.to_string()).await,
        }
    }

    /// Shims, bundles and namespaces that no record knows.
    async fn remove_strays(&self) -> Result<(), Error> {
        for dir in directories(&bundles(&self.config.state))? {
            let id = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if !self.containers.read().contains_key(&id) {
                remove_tree(&dir)?;
            }
        }
        for dir in directories(&self.config.state.join("s"))? {
            let id = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if self.sandboxes.read().contains_key(&id) {
                continue;
            }
            tracing::warn!(sandbox = id, "a shim without a record is ended");
            let _ = ShimClient::new(&dir).shutdown().await;
            unmount(&dir.join("shm"))?;
            remove_tree(&dir)?;
        }
        for entry in std::fs::read_dir(self.config.state.join("netns")).into_iter().flatten().flatten() {
            let id = entry.file_name().to_string_lossy().into_owned();
            let live = self.sandboxes.read().get(&id).is_some_and(|sandbox| sandbox.is_ready());
            if !live {
                unmount(&entry.path())?;
                let _ = std::fs::remove_file(entry.path());
            }
        }
        Ok(())
    }
}
