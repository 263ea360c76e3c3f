//! What lies on disk, and what a server records about its clients.

use crate::parts::Parts;
use crate::{control_plane, turn};
use anyhow::{Result, ensure};
use base64::Engine;
use isopod_testkit::{Cluster, eventually, run};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);
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

/// A token that lies in a Secret is good until the Secret is deleted.
#[test]
fn a_token_in_a_secret_is_made_used_and_revoked() -> Result<()> {
    let _turn = turn();
    let cluster = control_plane()?;
    cluster.kubectl(&["create", "serviceaccount", "bot"])?;
    let secret = "{\"apiVersion\":\"v1\",\"kind\":\"Secret\",\"type\":\"kubernetes.io/service-account-token\",\"metadata\":{\"name\":\"bot\",\"annotations\":{\"kubernetes.io/service-account.name\":\"bot\"}}}";
    let made = run(&mut cluster.kubectl_command(&["create", "-f", "-"]), Some(secret))?;
    ensure!(made.ok, "{made:?}");
    let field = |name: &str| {
        let template =
            format!("go-template={{{{with .data}}}}{{{{index . \"{name}\" | base64decode}}}}{{{{end}}}}");
        cluster.kubectl(&["get", "secret", "bot", "-o", &template])
    };
    eventually("the token", MINUTE, || field("token").is_ok_and(|token| token.starts_with("ey")))?;
    ensure!(field("namespace")? == "default" && field("ca.crt")?.contains("BEGIN CERTIFICATE"));
    let token = field("token")?;
    let server =
        cluster.kubectl(&["config", "view", "--minify", "-o", "jsonpath={.clusters[0].cluster.server}"])?;
    let with_token = |arguments: &[&str]| {
        let mut command = cluster.host.command("kubectl");
        command.env("KUBECONFIG", "/dev/null");
        command.args(["--server", &server, "--insecure-skip-tls-verify", "--token", &token]);
        run(command.args(arguments), None)
    };
    let who = with_token(&["auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"])?;
    ensure!(who.out == "system:serviceaccount:default:bot", "{who:?}");
    cluster.kubectl(&["delete", "secret", "bot"])?;
    let refused = with_token(&["get", "--raw", "/api"])?;
    ensure!(!refused.ok && refused.err.contains("Unauthorized"), "{refused:?}");
    // With the account goes its Secret.
    let made = run(&mut cluster.kubectl_command(&["create", "-f", "-"]), Some(secret))?;
    ensure!(made.ok, "{made:?}");
    eventually("the token", MINUTE, || field("token").is_ok_and(|token| token.starts_with("ey")))?;
    cluster.kubectl(&["delete", "serviceaccount", "bot"])?;
    eventually("the Secret goes", MINUTE, || {
        cluster.kubectl_try(&["get", "secret", "bot"]).is_ok_and(|f| f.err.contains("not found"))
    })
}

/// A kubelet that has the right gets a client certificate by a request; one for serving waits for a person.
#[test]
fn certificate_requests_of_kubelets_are_approved_and_signed() -> Result<()> {
    let _turn = turn();
    let cluster = control_plane()?;
    let identity = isopod_pki::Identity::client("system:node:new", Some("system:nodes"));
    let (request, _key) = isopod_pki::certificate_request(&identity)?;
    let encoded = base64::engine::general_purpose::STANDARD.encode(&request);
    let create = |name: &str, signer: &str, usage: &str| {
        let object = serde_json::json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
            "metadata": {"name": name}, "spec": {"request": encoded, "signerName": signer, "usages": ["digital signature", usage]}});
        let arguments =
            ["create", "-f", "-", "--as=system:bootstrap:abcdef", "--as-group=system:bootstrappers"];
        run(&mut cluster.kubectl_command(&arguments), Some(&object.to_string()))
    };
    let role = "--clusterrole=system:node-bootstrapper";
    cluster.kubectl(&["create", "clusterrolebinding", "a", role, "--group=system:bootstrappers"])?;
    let role = "--clusterrole=system:certificates.k8s.io:certificatesigningrequests:nodeclient";
    cluster.kubectl(&["create", "clusterrolebinding", "b", role, "--group=system:bootstrappers"])?;
    let made = create("client", "kubernetes.io/kube-apiserver-client-kubelet", "client auth")?;
    ensure!(made.ok, "{made:?}");
    let certificate = |name: &str| {
        cluster.kubectl(&[
            "get",
            "csr",
            name,
            "-o",
            "go-template={{with .status.certificate}}{{. | base64decode}}{{end}}",
        ])
    };
    eventually("a certificate", MINUTE, || {
        certificate("client").is_ok_and(|c| c.contains("BEGIN CERTIFICATE"))
    })?;
    // Its names are those of a client: as a server's it is approved by nobody, and then refused.
    let made = create("serving", "kubernetes.io/kubelet-serving", "server auth")?;
    ensure!(made.ok, "{made:?}");
    let conditions =
        |name: &str| cluster.kubectl(&["get", "csr", name, "-o", "jsonpath={.status.conditions[*].type}"]);
    ensure!(conditions("serving")?.is_empty());
    cluster.kubectl(&["certificate", "approve", "serving"])?;
    eventually("the request fails", MINUTE, || conditions("serving").is_ok_and(|c| c.contains("Failed")))?;
    ensure!(certificate("serving")?.is_empty());
    Ok(())
}
