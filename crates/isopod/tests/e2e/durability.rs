//! The server killed again and again while clients write: nothing acknowledged is lost, containers go on.

use crate::{BUSYBOX, cluster, turn};
use anyhow::{Context, Result, ensure};
use isopod_testkit::{Cluster, run, until};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const KILLS: usize = 20;

fn started_at(cluster: &Cluster) -> Result<String> {
    let path = "jsonpath={.status.containerStatuses[0].state.running.startedAt} {.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].containerID}";
    let text = cluster.kubectl(&["get", "pod", "steady", "-o", path])?;
    ensure!(text.contains("containerd://") || text.contains("://"), "running: {text}");
    Ok(text)
}

#[test]
fn twenty_kills_lose_nothing_and_restart_nothing() -> Result<()> {
    let _turn = turn();
    let mut cluster = cluster()?;
    cluster.kubectl(&["run", "steady", "--image", BUSYBOX, "--command", "--", "sleep", "3600"])?;
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/steady", "--timeout=60s"])?;
    let before = started_at(&cluster)?;

    let acknowledged = Arc::new(Mutex::new(BTreeSet::new()));
    for round in 0..KILLS {
        let stop = Arc::new(AtomicBool::new(false));
        let (reference, flag, names) = (&cluster, stop.clone(), acknowledged.clone());
        std::thread::scope(|scope| -> Result<()> {
            scope.spawn(move || write_until(reference, &flag, &names, round));
            // Killed at another moment of the writes in each round.
            let target = acknowledged.lock().expect("not poisoned").len() + 1 + round % 3;
            let grown = until("some writes are acknowledged", Duration::from_secs(30), || {
                ensure!(acknowledged.lock().expect("not poisoned").len() >= target, "too few");
                Ok(())
            });
            let pid = cluster.pid()?.to_string();
            isopod_testkit::run_ok(std::process::Command::new("kill").args(["-9", &pid]))?;
            stop.store(true, Ordering::Relaxed);
            grown
        })?;
        // Reaps the process that was just killed.
        cluster.kill().context("reap")?;
        cluster.launch()?;
        cluster.wait_ready().with_context(|| format!("after kill {}", round + 1))?;
    }
    let listed: BTreeSet<String> = cluster
        .kubectl(&["get", "configmaps", "-o", "jsonpath={range .items[*]}{.metadata.name}{\"\\n\"}{end}"])?
        .lines()
        .map(str::to_owned)
        .collect();
    let acknowledged = acknowledged.lock().expect("not poisoned").clone();
    let lost: Vec<_> = acknowledged.difference(&listed).collect();
    ensure!(
        lost.is_empty(),
        "{} of {} acknowledged objects are lost: {lost:?}",
        lost.len(),
        acknowledged.len()
    );
    ensure!(
        started_at(&cluster)? == before,
        "the container was restarted: {before} became {}",
        started_at(&cluster)?
    );
    let text = cluster.kubectl(&["exec", "steady", "--", "echo", "still here"])?;
    ensure!(text.contains("still here"));
    println!("{} acknowledged writes survived {KILLS} kills", acknowledged.len());
    Ok(())
}

/// Creates ConfigMaps until told to stop; notes the names that the server acknowledged.
fn write_until(
    cluster: &Cluster,
    stop: &Arc<AtomicBool>,
    acknowledged: &Arc<Mutex<BTreeSet<String>>>,
    round: usize,
) {
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let name = format!("written-{round}-{number}");
        let mut command = cluster.kubectl_command(&["create", "configmap", &name, "--from-literal=n=1"]);
        if run(&mut command, None).is_ok_and(|finished| finished.ok) {
            acknowledged.lock().expect("not poisoned").insert(name);
        }
    }
}

/// Names of the ConfigMaps that a watch tells of within five seconds, and the code of its error if it ends in one.
fn watched(cluster: &Cluster, version: &str) -> Result<(Vec<String>, Option<i64>)> {
    let path = format!(
        "/api/v1/namespaces/default/configmaps?watch=true&resourceVersion={version}&timeoutSeconds=5"
    );
    let mut child = cluster.kubectl_command(&["get", "--raw", &path]).stdout(Stdio::piped()).spawn()?;
    let lines = BufReader::new(child.stdout.take().context("piped")?).lines();
    let (mut names, mut error) = (Vec::new(), None);
    for line in lines {
        let event: serde_json::Value = serde_json::from_str(&line?)?;
        let name = event["object"]["metadata"]["name"].as_str().unwrap_or_default();
        if name == "before" || name == "after" {
            names.push(name.to_owned());
        }
        error = error.or(event["object"]["code"].as_i64());
    }
    child.wait()?;
    Ok((names, error))
}

fn version(cluster: &Cluster) -> Result<String> {
    let list = cluster.kubectl(&["get", "--raw", "/api/v1/namespaces/default/configmaps"])?;
    let list: serde_json::Value = serde_json::from_str(&list)?;
    Ok(list["metadata"]["resourceVersion"].as_str().context("a version")?.to_owned())
}

#[test]
fn a_watch_resumes_after_a_kill() -> Result<()> {
    let _turn = turn();
    let mut cluster = crate::control_plane()?;
    let old = version(&cluster)?;
    cluster.kubectl(&["create", "configmap", "before", "--from-literal=a=b"])?;
    let current = version(&cluster)?;
    cluster.kill()?;
    cluster.launch()?;
    cluster.wait_ready()?;
    cluster.kubectl(&["create", "configmap", "after", "--from-literal=a=b"])?;
    let (names, error) = watched(&cluster, &current)?;
    ensure!(names == ["after"] || error == Some(410), "from the state before the kill: {names:?} {error:?}");
    // A client that is told 410 lists and goes on from there; one that is not must have missed nothing.
    let (names, error) = watched(&cluster, &old)?;
    ensure!(names == ["before", "after"] || error == Some(410), "from before: {names:?} {error:?}");
    let listed = cluster.kubectl(&["get", "configmaps", "-o", "name"])?;
    ensure!(listed.contains("configmap/before") && listed.contains("configmap/after"), "{listed}");
    let fresh = version(&cluster)?;
    cluster.kubectl(&["label", "configmap", "after", "seen=yes"])?;
    let (names, error) = watched(&cluster, &fresh)?;
    ensure!(names == ["after"] && error.is_none(), "from a fresh list: {names:?} {error:?}");
    Ok(())
}
