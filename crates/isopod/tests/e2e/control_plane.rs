//! The control plane alone, by what clients see.

use crate::{control_plane, turn};
use anyhow::{Result, ensure};
use isopod_testkit::{Cluster, run};

fn fails_with(cluster: &Cluster, arguments: &[&str], wanted: &str) -> Result<()> {
    let finished = cluster.kubectl_try(arguments)?;
    ensure!(
        !finished.ok && finished.err.contains(wanted),
        "kubectl {arguments:?}: expected {wanted:?}: {finished:?}"
    );
    Ok(())
}

#[test]
fn health_discovery_and_roles() -> Result<()> {
    let _turn = turn();
    let cluster = control_plane()?;
    let k = |arguments: &[&str]| cluster.kubectl(arguments);
    for path in ["/healthz", "/livez", "/readyz"] {
        ensure!(k(&["get", "--raw", path])? == "ok", "{path}");
    }
    ensure!(k(&["get", "--raw", "/readyz?verbose"])?.contains("[+]"), "checks by name");
    ensure!(k(&["get", "--raw", "/metrics"])?.contains("apiserver_request_total"));
    ensure!(k(&["version"])?.contains("Server Version: v1.36"));
    ensure!(k(&["auth", "can-i", "*", "*"])?.trim() == "yes");
    ensure!(
        k(&["get", "clusterroles", "cluster-admin", "edit", "view", "system:node"])?
            .contains("cluster-admin")
    );
    ensure!(k(&["get", "namespaces"])?.contains("kube-node-lease"));
    ensure!(k(&["get", "service", "kubernetes"])?.contains("10.43.0.1"));
    ensure!(k(&["get", "priorityclasses"])?.contains("system-cluster-critical"));
    let resources = k(&["api-resources", "--no-headers"])?;
    ensure!(resources.lines().count() > 50, "resources:\n{resources}");
    Ok(())
}

#[test]
fn a_service_account_may_do_what_its_role_says_and_no_more() -> Result<()> {
    let _turn = turn();
    let cluster = control_plane()?;
    let k = |arguments: &[&str]| cluster.kubectl(arguments);
    k(&["create", "serviceaccount", "reader"])?;
    k(&["create", "role", "reader", "--verb=get,list", "--resource=configmaps"])?;
    k(&["create", "rolebinding", "reader", "--role=reader", "--serviceaccount=default:reader"])?;
    let token = k(&["create", "token", "reader", "--duration=1h"])?;
    // Administrators' certificates win over tokens, so this client has no certificate.
    let server = k(&["config", "view", "--minify", "-o", "jsonpath={.clusters[0].cluster.server}"])?;
    let with_token = |arguments: &[&str]| {
        let mut command = cluster.host.command("kubectl");
        command.env("KUBECONFIG", "/dev/null").args([
            "--server",
            &server,
            "--insecure-skip-tls-verify",
            "--token",
            token.trim(),
        ]);
        run(command.args(arguments), None)
    };
    ensure!(with_token(&["get", "configmaps"])?.ok);
    let refused = with_token(&["get", "secrets"])?;
    let wanted = "secrets is forbidden: User \"system:serviceaccount:default:reader\" cannot list resource \"secrets\" in API group \"\" in the namespace \"default\"";
    ensure!(refused.err.contains(wanted), "{refused:?}");
    let refused = with_token(&["create", "configmap", "x"])?;
    ensure!(refused.err.contains("cannot create resource"), "{refused:?}");
    let mut command = cluster.host.command("kubectl");
    command.env("KUBECONFIG", "/dev/null").args([
        "--server",
        &server,
        "--insecure-skip-tls-verify",
        "--token",
        "forged",
        "get",
        "pods",
    ]);
    ensure!(
        run(&mut command, None)?.err.contains("Unauthorized")
            || run(&mut command, None)?.err.contains("logged in")
    );
    let who = k(&["auth", "whoami", "-o", "jsonpath={.status.userInfo.groups}"])?;
    ensure!(who.contains("system:masters"), "{who}");
    Ok(())
}

#[test]
fn optimistic_concurrency_patches_and_finalizers() -> Result<()> {
    let _turn = turn();
    let cluster = control_plane()?;
    let k = |arguments: &[&str]| cluster.kubectl(arguments);
    k(&["create", "configmap", "c", "--from-literal=a=1"])?;
    fails_with(&cluster, &["create", "configmap", "c"], "configmaps \"c\" already exists")?;
    let stale = k(&["get", "configmap", "c", "-o", "json"])?;
    k(&[
        "patch",
        "configmap",
        "c",
        "--type=json",
        "-p",
        "[{\"op\":\"add\",\"path\":\"/data/b\",\"value\":\"2\"}]",
    ])?;
    k(&["patch", "configmap", "c", "--type=merge", "-p", "{\"data\":{\"a\":null}}"])?;
    ensure!(k(&["get", "configmap", "c", "-o", "jsonpath={.data}"])? == "{\"b\":\"2\"}");
    let finished = run(&mut cluster.kubectl_command(&["replace", "-f", "-"]), Some(&stale))?;
    ensure!(finished.err.contains("the object has been modified"), "{finished:?}");
    k(&["patch", "configmap", "c", "-p", "{\"metadata\":{\"finalizers\":[\"example.com/hold\"]}}"])?;
    k(&["delete", "configmap", "c", "--wait=false"])?;
    ensure!(!k(&["get", "configmap", "c", "-o", "jsonpath={.metadata.deletionTimestamp}"])?.is_empty());
    k(&["patch", "configmap", "c", "--type=merge", "-p", "{\"metadata\":{\"finalizers\":null}}"])?;
    fails_with(&cluster, &["get", "configmap", "c"], "configmaps \"c\" not found")?;
    k(&["create", "deployment", "d", "--image=x", "--replicas=0"])?;
    k(&["label", "deployment", "d", "tier=front"])?;
    ensure!(k(&["get", "deployments", "-l", "tier in (front)", "-o", "name"])?.contains("d"));
    ensure!(k(&["get", "deployments", "--field-selector", "metadata.name!=d", "-o", "name"])?.is_empty());
    let owners = "jsonpath={.items[0].metadata.ownerReferences[0].kind}";
    isopod_testkit::eventually("the ReplicaSet", std::time::Duration::from_secs(20), || {
        k(&["get", "replicasets", "-o", owners]).is_ok_and(|o| o == "Deployment")
    })?;
    k(&["delete", "deployment", "d", "--cascade=foreground", "--timeout=30s"])?;
    ensure!(k(&["get", "replicasets", "-o", "name"])?.is_empty(), "dependents went first");
    Ok(())
}
