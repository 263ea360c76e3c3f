//! What lies on disk, and what a server records about its clients.

use crate::parts::Parts;
use crate::{control_plane, turn};
use anyhow::{Result, ensure};
use isopod_testkit::{Cluster, run};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const HIDDEN: &str = "a-value-that-nobody-else-writes";

/// Files below a directory that hold some bytes.
fn files_with(directory: &Path, needle: &str, found: &mut Vec<String>) -> Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let (path, kind) = entry.and_then(|e| Ok((e.path(), e.file_type()?)))?;
        if kind.is_dir() {
            files_with(&path, needle, found)?;
        } else if kind.is_file()
            && std::fs::read(&path)?.windows(needle.len()).any(|w| w == needle.as_bytes())
        {
            found.push(path.display().to_string());
        }
    }
    Ok(())
}

fn lying_in(cluster: &Cluster, needle: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    files_with(cluster.directory.path(), needle, &mut found)?;
    Ok(found)
}

#[test]
fn a_secret_is_nowhere_on_disk_and_another_api_server_can_read_it() -> Result<()> {
    let _turn = turn();
    let mut cluster = control_plane()?;
    let literal = format!("--from-literal=k={HIDDEN}");
    cluster.kubectl(&["create", "configmap", "open", "--from-literal=k=a-value-in-the-open"])?;
    cluster.kubectl(&["create", "secret", "generic", "s", &literal])?;
    ensure!(!lying_in(&cluster, "a-value-in-the-open")?.is_empty(), "the search finds what is there");
    let found = lying_in(&cluster, HIDDEN)?;
    ensure!(found.is_empty(), "{found:?}");

    let log = cluster.data_dir().join("log/audit/audit.log");
    let bad = "{\"apiVersion\":\"v1\",\"kind\":\"Secret\",\"metadata\":{\"name\":\"t\"},\"data\":{\"k\":\"no base64!\"}}";
    ensure!(!run(&mut cluster.kubectl_command(&["create", "-f", "-"]), Some(bad))?.ok);
    let token = cluster.kubectl(&["create", "token", "default"])?;
    cluster.terminate()?;
    let mode = std::fs::metadata(&log)?.permissions().mode() & 0o777;
    ensure!(mode == 0o600, "{mode:o}");
    let text = std::fs::read_to_string(&log)?;
    let events: Vec<serde_json::Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let made = events.iter().find(|e| e["verb"] == "create" && e["objectRef"]["resource"] == "secrets");
    let made = made.expect("the Secret's creation is recorded");
    ensure!(made["user"]["username"] == "kubernetes-admin" && made["sourceIPs"][0].is_string(), "{made}");
    ensure!(events.iter().all(|e| e["level"] == "Metadata"));
    // The audit log, the server's log, everything: no token, and no Secret even if it was wrong.
    for needle in [token.trim(), "no base64!", HIDDEN] {
        let found = lying_in(&cluster, needle)?;
        ensure!(found.is_empty(), "{found:?}");
    }

    // The same store served by the parts run apart, with the server's own encryption configuration.
    let mut parts = Parts::new(&cluster);
    let data = cluster.data_dir().join("etcd").to_string_lossy().into_owned();
    let encryption = parts.pki("encryption-config.yaml");
    parts.start_store_and_api(Some(&data), &["--encryption-provider-config", &encryption])?;
    let read = cluster.kubectl(&["get", "secret", "s", "-o", "go-template={{.data.k | base64decode}}"])?;
    ensure!(read == HIDDEN, "{read}");
    Ok(())
}
