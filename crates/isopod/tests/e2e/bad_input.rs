//! Whatever a client sends gets an answer that names the fault, and the server goes on.

use crate::{control_plane, turn};
use anyhow::{Context, Result, ensure};
use isopod_testkit::{Cluster, Finished, run};
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

fn create(cluster: &Cluster, manifest: &str) -> Result<Finished> {
    run(&mut cluster.kubectl_command(&["create", "--validate=false", "-f", "-"]), Some(manifest))
}

#[test]
fn faults_are_named() -> Result<()> {
    let _turn = turn();
    let cluster = control_plane()?;
    let table = [
        (
            "{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"A_b\"}}",
            "metadata.name: Invalid value: \"A_b\": a lowercase RFC 1123 subdomain",
        ),
        (
            "{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"metadata\":{\"name\":\"p\"},\"spec\":{}}",
            "spec.containers: Required value",
        ),
        (
            "{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"metadata\":{\"name\":\"p\"},\"spec\":{\"containers\":[{\"name\":\"c\"}]}}",
            "spec.containers[0].image: Required value",
        ),
        (
            "{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"metadata\":{\"name\":\"p\"},\"spec\":{\"containers\":[{\"name\":\"c\",\"image\":\"i\"}],\"restartPolicy\":\"Sometimes\"}}",
            "spec.restartPolicy: Unsupported value: \"Sometimes\"",
        ),
        (
            "{\"apiVersion\":\"v1\",\"kind\":\"Service\",\"metadata\":{\"name\":\"s\"},\"spec\":{\"ports\":[{\"port\":99999}]}}",
            "spec.ports[0].port: Invalid value: 99999",
        ),
        (
            "{\"apiVersion\":\"apps/v1\",\"kind\":\"Deployment\",\"metadata\":{\"name\":\"d\"},\"spec\":{\"selector\":{\"matchLabels\":{\"a\":\"b\"}},\"template\":{\"metadata\":{\"labels\":{\"a\":\"c\"}},\"spec\":{\"containers\":[{\"name\":\"c\",\"image\":\"i\"}]}}}}",
            "`selector` does not match template `labels`",
        ),
        (
            "{\"apiVersion\":\"v1\",\"kind\":\"Secret\",\"metadata\":{\"name\":\"s\"},\"data\":{\"k\":\"***\"}}",
            "illegal base64",
        ),
    ];
    for (manifest, wanted) in table {
        let finished = create(&cluster, manifest)?;
        ensure!(
            !finished.ok && finished.err.contains(wanted),
            "{manifest}\nexpected {wanted:?}\ngot {}",
            finished.err
        );
    }
    let strict = run(
        &mut cluster.kubectl_command(&["create", "-f", "-"]),
        Some("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\nfoo: bar\n"),
    )?;
    ensure!(!strict.ok && strict.err.contains("unknown field \"foo\""), "{strict:?}");
    Ok(())
}

/// Sends bytes over TLS with the administrator's certificate and gives what came back.
fn raw(cluster: &Cluster, bytes: &[u8], patience_seconds: u32) -> Result<String> {
    let pki = cluster.data_dir().join("pki");
    let file = |name: &str| pki.join(name).to_string_lossy().into_owned();
    let mut command = cluster.host.command("timeout");
    command.arg(patience_seconds.to_string()).args([
        "openssl",
        "s_client",
        "-quiet",
        "-connect",
        "127.0.0.1:6443",
    ]);
    command.args(["-cert", &file("admin.crt"), "-key", &file("admin.key")]);
    let mut child: std::process::Child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("openssl")?;
    let mut stdin = child.stdin.take().context("piped")?;
    let bytes = bytes.to_owned();
    // The server may answer and close before it has read everything.
    let writer = std::thread::spawn(move || {
        let _ = stdin.write_all(&bytes);
        stdin
    });
    let mut answer = Vec::new();
    child.stdout.take().context("piped")?.read_to_end(&mut answer)?;
    child.wait()?;
    drop(writer.join());
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn post(path: &str, content_type: &str, body: &[u8]) -> Vec<u8> {
    let mut request = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(body);
    request
}

#[test]
fn hostile_bytes_end_nothing() -> Result<()> {
    let _turn = turn();
    let mut cluster = control_plane()?;
    let path = "/api/v1/namespaces/default/configmaps";
    let json = "application/json";
    let large = vec![b' '; 4 * 1024 * 1024];
    let deep = [vec![b'['; 100_000], vec![b']'; 100_000]].concat();
    let table: Vec<(Vec<u8>, &str)> = vec![
        (post(path, json, &large), "413"),
        (post(path, json, &deep), "400"),
        (post(path, json, b"{"), "400"),
        (post(path, json, b"{}"), "422"),
        (post(path, json, b"\xff\xfe"), "400"),
        (post(path, "text/html", b"x"), "415"),
        (post(path, "application/vnd.kubernetes.protobuf", b"k8s\0\xff\xff\xff\xff\xff"), "400"),
        (post("/api/v1/namespaces/..%2f..%2fsecrets/configmaps", json, b"{}"), "40"),
        (b"GET /api/v1/pods?limit=x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".to_vec(), "400"),
        (
            b"GET /api/v1/pods?labelSelector=a%20b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".to_vec(),
            "400",
        ),
        (b"GET /api/v1/pods?continue=zzz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".to_vec(), "400"),
        (b"BREW /api/v1/pods HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".to_vec(), "40"),
        (b"GET /nonsense HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".to_vec(), "404"),
    ];
    let pid = cluster.pid()?;
    for (request, code) in &table {
        let answer = raw(&cluster, request, 20)?;
        let line = answer.lines().next().unwrap_or_default().to_owned();
        let shown = String::from_utf8_lossy(&request[..request.len().min(120)]).into_owned();
        ensure!(line.contains(&format!(" {code}")), "{shown}\nexpected {code}, got {line:?}");
    }
    // Clients that stop half way hold nobody up.
    let slow: Vec<_> = (0..50)
        .map(|_| {
            cluster
                .host
                .command("sh")
                .args(["-c", "exec 3<>/dev/null; sleep 20 | openssl s_client -quiet -connect 127.0.0.1:6443 >/dev/null 2>&1"])
                .spawn()
        })
        .collect();
    let begin = std::time::Instant::now();
    ensure!(cluster.kubectl(&["get", "--raw", "/readyz"])? == "ok");
    ensure!(begin.elapsed() < Duration::from_secs(5), "slow clients block others");
    for child in slow {
        let mut child = child?;
        let _ = child.kill();
        child.wait()?;
    }
    ensure!(cluster.pid()? == pid && cluster.kubectl(&["get", "--raw", "/livez"])? == "ok");
    cluster.terminate()
}

fn refused(command: &mut Command, wanted: &str) -> Result<()> {
    let finished = run(command, None)?;
    ensure!(!finished.ok && finished.err.contains(wanted), "expected {wanted:?}: {finished:?}");
    ensure!(!finished.err.contains("panicked"), "{finished:?}");
    Ok(())
}

#[test]
fn bad_flags_ports_and_data_are_one_clear_sentence() -> Result<()> {
    let _turn = turn();
    let mut cluster = control_plane()?;
    let binary = crate::binary().to_string_lossy().into_owned();
    let command = |arguments: &[&str]| {
        let mut command = cluster.host.command(&binary);
        command.args(arguments);
        command
    };
    refused(&mut command(&["server", "--no-such-flag"]), "--no-such-flag")?;
    refused(&mut command(&["kube-scheduler", "--no-such-flag"]), "--no-such-flag")?;
    refused(&mut command(&["server", "--cluster-cidr", "x"]), "--cluster-cidr")?;
    let other = cluster.directory.path().join("other");
    let other = other.to_string_lossy();
    refused(&mut command(&["server", "--disable-agent", "--data-dir", &other]), "6443")?;
    let data = cluster.data_dir();
    refused(&mut command(&["server", "--disable-agent", "--data-dir", &data.to_string_lossy()]), "in use")?;
    cluster.terminate()?;
    // A certificate that cannot be read is named, and nothing is replaced.
    let key = data.join("pki/client-ca.key");
    let good = std::fs::read(&key)?;
    std::fs::write(&key, "garbage")?;
    let command = |arguments: &[&str]| {
        let mut command = cluster.host.command(&binary);
        command.args(arguments);
        command
    };
    refused(
        &mut command(&["server", "--disable-agent", "--data-dir", &data.to_string_lossy()]),
        "client-ca.key",
    )?;
    ensure!(std::fs::read(&key)? == b"garbage", "untouched");
    std::fs::write(&key, good)?;
    Ok(())
}
