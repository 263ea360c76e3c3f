//! Which authorities, certificates and keys a cluster has, and where they lie.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine as _;
use jiff::Timestamp;
use rcgen::KeyPair;

use crate::authority::{Authority, generate, parse_key};
use crate::error::Error;
use crate::files::{make_directory, read, read_text, write_private};
use crate::leaf::{Identity, Leaf};

/// Bytes of the key that Secrets are encrypted with (AES-256).
const ENCRYPTION_KEY_BYTES: usize = 32;

/// What the certificates depend on.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the files lie, usually `<data>/pki`.
    pub directory: PathBuf,
    /// This node's name.
    pub node_name: String,
    /// Further names and addresses that clients reach the API server by.
    pub server_names: Vec<String>,
    /// This node's addresses.
    pub node_addresses: Vec<IpAddr>,
    /// The `kubernetes` service's address: the first of the service range.
    pub service_address: IpAddr,
    /// Usually `cluster.local`.
    pub cluster_domain: String,
}

/// The cluster's keys and certificates.
pub struct Pki {
    /// Signs whom the API server and the kubelet take for a client.
    pub client_ca: Arc<Authority>,
    /// Signs the API server's and the kubelets' serving certificates.
    pub serving_ca: Arc<Authority>,
    /// Signs etcd's servers, peers and clients.
    pub etcd_ca: Arc<Authority>,
    /// Signs proxies that may tell the API server who a user is.
    pub front_proxy_ca: Arc<Authority>,
    /// The API server's serving certificate.
    pub apiserver: Leaf,
    /// The API server towards kubelets.
    pub apiserver_kubelet_client: Leaf,
    /// The API server towards etcd.
    pub apiserver_etcd_client: Leaf,
    /// The API server towards extension API servers.
    pub front_proxy_client: Leaf,
    /// etcd towards its clients.
    pub etcd_server: Leaf,
    /// etcd towards its peers, both ways.
    pub etcd_peer: Leaf,
    /// The administrator, of `system:masters`.
    pub admin: Leaf,
    /// kube-controller-manager.
    pub controller_manager: Leaf,
    /// kube-scheduler.
    pub scheduler: Leaf,
    /// kube-proxy.
    pub kube_proxy: Leaf,
    /// The cluster DNS.
    pub dns: Leaf,
    /// The kubelet towards the API server: `system:node:<name>`.
    pub kubelet_client: Leaf,
    /// The kubelet's serving certificate.
    pub kubelet_serving: Leaf,
    /// Private key that service account tokens are signed with (PKCS#8 PEM).
    pub service_account_key_pem: String,
    /// Its public half (SPKI PEM).
    pub service_account_public_key_pem: String,
    /// How what is stored is encrypted: an `apiserver.config.k8s.io/v1` `EncryptionConfiguration` with its keys. It
    /// is the content of `encryption-config.yaml`, which an administrator may change.
    pub encryption_config: String,
    /// File stems of what was made or renewed by this call, for instance `apiserver`.
    pub changed: Vec<String>,
}

/// Makes what is missing and renews what is to be renewed. Blocking; tens of milliseconds at first, few later.
///
/// # Errors
/// When a file cannot be read, written or used; the error names it.
pub fn ensure(config: &Config, now: Timestamp) -> Result<Pki, Error> {
    let directory = &config.directory;
    make_directory(directory)?;
    make_directory(&directory.join("etcd"))?;
    let authorities = all(vec![
        Box::new(|| Authority::ensure(directory, "client-ca", "isopod-client-ca", now)),
        Box::new(|| Authority::ensure(directory, "serving-ca", "isopod-serving-ca", now)),
        Box::new(|| Authority::ensure(directory, "etcd/ca", "isopod-etcd-ca", now)),
        Box::new(|| Authority::ensure(directory, "front-proxy-ca", "isopod-front-proxy-ca", now)),
    ])?;
    let stems = ["client-ca", "serving-ca", "etcd/ca", "front-proxy-ca"];
    let mut changed = Vec::new();
    let [client_ca, serving_ca, etcd_ca, front_proxy_ca] = named(authorities, stems, &mut changed);

    let wanted = leaves(config, &client_ca, &serving_ca, &etcd_ca, &front_proxy_ca);
    let stems: [&'static str; LEAVES] = wanted.each_ref().map(|(stem, ..)| *stem);
    let tasks = wanted.map(|(stem, identity, authority)| -> Task<'_, (Leaf, bool)> {
        Box::new(move || Leaf::ensure(directory, stem, &identity, authority, now))
    });
    let made = named(all(Vec::from(tasks))?, stems, &mut changed);
    let (service_account_key, made_key) = service_account_key(config)?;
    changed.extend(made_key.then(|| "sa".to_owned()));
    let (encryption_config, made_key) = encryption_config(config)?;
    changed.extend(made_key.then(|| "encryption".to_owned()));

    let [
        apiserver,
        apiserver_kubelet_client,
        apiserver_etcd_client,
        front_proxy_client,
        etcd_server,
        etcd_peer,
        admin,
        controller_manager,
        scheduler,
        kube_proxy,
        dns,
        kubelet_client,
        kubelet_serving,
    ] = made;
    Ok(Pki {
        client_ca: Arc::new(client_ca),
        serving_ca: Arc::new(serving_ca),
        etcd_ca: Arc::new(etcd_ca),
        front_proxy_ca: Arc::new(front_proxy_ca),
        apiserver,
        apiserver_kubelet_client,
        apiserver_etcd_client,
        front_proxy_client,
        etcd_server,
        etcd_peer,
        admin,
        controller_manager,
        scheduler,
        kube_proxy,
        dns,
        kubelet_client,
        kubelet_serving,
        service_account_key_pem: service_account_key.serialize_pem(),
        service_account_public_key_pem: service_account_key.public_key_pem(),
        encryption_config,
        changed,
    })
}

const LEAVES: usize = 13;

type Wanted<'a> = (&'static str, Identity, &'a Authority);

fn leaves<'a>(
    config: &Config,
    client: &'a Authority,
    serving: &'a Authority,
    etcd: &'a Authority,
    front_proxy: &'a Authority,
) -> [Wanted<'a>; LEAVES] {
    let node = &config.node_name;
    let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    let here = || config.node_addresses.iter().copied().chain(loopback);
    let local_names = || ["localhost".to_owned(), node.clone()];
    let both = |mut identity: Identity| {
        identity.client = true;
        identity
    };
    [
        ("apiserver", apiserver_identity(config), serving),
        ("apiserver-kubelet-client", Identity::client("kube-apiserver-kubelet-client", None), client),
        ("apiserver-etcd-client", Identity::client("kube-apiserver-etcd-client", None), etcd),
        ("front-proxy-client", Identity::client("front-proxy-client", None), front_proxy),
        ("etcd/server", both(Identity::server(node, local_names(), here())), etcd),
        ("etcd/peer", both(Identity::server(node, local_names(), here())), etcd),
        ("admin", Identity::client("kubernetes-admin", Some("system:masters")), client),
        ("controller-manager", Identity::client("system:kube-controller-manager", None), client),
        ("scheduler", Identity::client("system:kube-scheduler", None), client),
        ("kube-proxy", Identity::client("system:kube-proxy", None), client),
        ("dns", Identity::client("system:kube-dns", None), client),
        ("kubelet-client", Identity::client(&format!("system:node:{node}"), Some("system:nodes")), client),
        ("kubelet", Identity::server(&format!("system:node:{node}"), local_names(), here()), serving),
    ]
}

fn apiserver_identity(config: &Config) -> Identity {
    let domain = &config.cluster_domain;
    let mut names: Vec<String> = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
        .into_iter()
        .map(str::to_owned)
        .chain([format!("kubernetes.default.svc.{domain}"), config.node_name.clone()])
        .collect();
    let mut addresses = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into(), config.service_address];
    addresses.extend(&config.node_addresses);
    for name in &config.server_names {
        match name.parse() {
            Ok(address) => addresses.push(address),
            Err(_) => names.push(name.clone()),
        }
    }
    Identity::server("kube-apiserver", names, addresses)
}

fn service_account_key(config: &Config) -> Result<(KeyPair, bool), Error> {
    let path = config.directory.join("sa.key");
    let (key, made) = match read_text(&path)? {
        Some(pem) => (parse_key(&path, &pem)?, false),
        None => (generate("service account tokens")?, true),
    };
    let public = config.directory.join("sa.pub");
    if made {
        write_private(&path, key.serialize_pem().as_bytes())?;
    }
    if made || read(&public)?.is_none() {
        write_private(&public, key.public_key_pem().as_bytes())?;
    }
    Ok((key, made))
}

/// Reads how the store is encrypted, or makes it: with a new key, or with that of an older version, which kept the
/// bare key in `encryption.key`.
fn encryption_config(config: &Config) -> Result<(String, bool), Error> {
    let path = config.directory.join("encryption-config.yaml");
    if let Some(text) = read_text(&path)? {
        return Ok((text, false));
    }
    let old = config.directory.join("encryption.key");
    let key: [u8; ENCRYPTION_KEY_BYTES] = match read(&old)? {
        Some(bytes) => {
            let reason = format!("it has {} bytes, not {ENCRYPTION_KEY_BYTES}", bytes.len());
            bytes.try_into().map_err(|_| Error::Corrupt { path: old, reason })?
        }
        None => rand::random(),
    };
    let secret = base64::engine::general_purpose::STANDARD.encode(key);
    let text = format!(
        "# The first provider encrypts what is stored, all decrypt it. Lost keys are lost data.
kind: EncryptionConfiguration
apiVersion: apiserver.config.k8s.io/v1
resources:
- resources: [secrets]
  providers:
  - aesgcm:
      keys:
      - name: key1
        secret: {secret}
  - identity: {{}}
"
    );
    write_private(&path, text.as_bytes())?;
    Ok((text, true))
}

type Task<'a, T> = Box<dyn FnOnce() -> Result<T, Error> + Send + 'a>;

/// Runs all side by side: what takes time is the disk's syncs, and file systems join those under way together.
fn all<T: Send>(tasks: Vec<Task<'_, T>>) -> Result<Vec<T>, Error> {
    std::thread::scope(|scope| {
        let running: Vec<_> = tasks.into_iter().map(|task| scope.spawn(task)).collect();
        running.into_iter().map(|thread| thread.join().expect("no task panics")).collect()
    })
}

fn named<T, const N: usize>(made: Vec<(T, bool)>, stems: [&str; N], changed: &mut Vec<String>) -> [T; N] {
    let made: Vec<T> = made
        .into_iter()
        .zip(stems)
        .map(|((item, fresh), stem)| {
            changed.extend(fresh.then(|| stem.to_owned()));
            item
        })
        .collect();
    made.try_into().unwrap_or_else(|_| unreachable!("as many results as tasks"))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;
    use std::time::Duration;

    use super::*;

    fn config(directory: &Path) -> Config {
        Config {
            directory: directory.to_owned(),
            node_name: "node-1".into(),
            server_names: vec!["api.example.org".into()],
            node_addresses: vec![[192, 0, 2, 7].into()],
            service_address: [10, 43, 0, 1].into(),
            cluster_domain: "cluster.local".into(),
        }
    }

    fn now() -> Timestamp {
        "2026-05-01T00:00:00Z".parse().expect("a timestamp")
    }

    #[test]
    fn made_once_then_kept_then_renewed() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let config = config(&directory.path().join("pki"));
        let first = ensure(&config, now()).expect("first start");
        assert_eq!(first.changed.len(), 4 + LEAVES + 2);
        let second = ensure(&config, now()).expect("second start");
        assert!(second.changed.is_empty(), "{:?}", second.changed);
        assert_eq!(first.admin.certificate_pem, second.admin.certificate_pem);
        let later = now() + Duration::from_secs(300 * 24 * 3600);
        let third = ensure(&config, later).expect("renewal");
        assert_eq!(third.changed.len(), LEAVES);
        assert_eq!(third.service_account_key_pem, first.service_account_key_pem);
    }

    #[test]
    fn the_bare_key_of_an_older_version_is_taken_over() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let config = config(directory.path());
        fs::write(config.directory.join("encryption.key"), [1; ENCRYPTION_KEY_BYTES]).expect("write");
        let first = ensure(&config, now()).expect("start").encryption_config;
        assert!(first.contains("secret: AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="), "{first}");
        // What an administrator makes of the file stays.
        fs::write(config.directory.join("encryption-config.yaml"), "changed").expect("write");
        assert_eq!(ensure(&config, now()).expect("start").encryption_config, "changed");
    }

    #[test]
    fn a_new_address_renews_serving_certificates_alone() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let mut config = config(directory.path());
        ensure(&config, now()).expect("first start");
        config.node_addresses = vec![[192, 0, 2, 8].into()];
        let changed = ensure(&config, now()).expect("second start").changed;
        assert_eq!(changed, ["apiserver", "etcd/server", "etcd/peer", "kubelet"]);
    }

    #[test]
    fn files_are_private_and_corrupt_ones_are_named() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let config = config(&directory.path().join("pki"));
        ensure(&config, now()).expect("first start");
        for entry in fs::read_dir(&config.directory).expect("list").map(|entry| entry.expect("entry")) {
            let metadata = entry.metadata().expect("metadata");
            let expected = if metadata.is_dir() { 0o700 } else { 0o600 };
            assert_eq!(metadata.permissions().mode() & 0o777, expected, "{:?}", entry.path());
        }
        let key = config.directory.join("client-ca.key");
        fs::write(&key, "garbage").expect("overwrite");
        let error = ensure(&config, now()).err().expect("corrupt key").to_string();
        assert!(error.contains("client-ca.key is corrupt"), "{error}");
        assert_eq!(fs::read(&key).expect("read"), b"garbage");
        fs::remove_file(&key).expect("remove");
        let error = ensure(&config, now()).err().expect("certificate without key").to_string();
        assert!(error.contains("do not belong together"), "{error}");
    }

    #[test]
    fn a_request_gets_its_names_but_not_its_wishes() {
        use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa};
        let directory = tempfile::tempdir().expect("temporary directory");
        let pki = ensure(&config(directory.path()), now()).expect("first start");
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::new(vec!["node-2".to_owned()]).expect("names");
        params.distinguished_name.push(DnType::CommonName, "system:node:node-2");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let request = params.serialize_request(&key).expect("request").pem().expect("pem");
        let usages = [crate::RequestedUsage::Server];
        let signed = pki.serving_ca.sign_request(&request, &usages, Duration::from_secs(3600), now());
        let pem = signed.expect("signed");
        let der = x509_parser::pem::parse_x509_pem(pem.as_bytes()).expect("pem").1;
        let certificate = der.parse_x509().expect("certificate");
        assert!(!certificate.is_ca());
        assert!(certificate.subject().to_string().contains("system:node:node-2"));
        let usage = certificate.extended_key_usage().expect("extension").expect("present").value;
        assert!(usage.server_auth && !usage.client_auth);
    }
}
