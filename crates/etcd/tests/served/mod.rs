//! A member that serves, for tests with real clients.
#![allow(dead_code, reason = "each test uses some of it")]

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;

use isopod_etcd::{Config, Engine, Listeners, open, serve};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) struct Served {
    pub(crate) engine: Arc<Engine>,
    pub(crate) client: SocketAddr,
    pub(crate) metrics: SocketAddr,
    shutdown: CancellationToken,
    server: JoinHandle<std::io::Result<()>>,
    pub(crate) dir: tempfile::TempDir,
}

impl Served {
    pub(crate) async fn start(tls: Option<Arc<rustls::ServerConfig>>) -> Served {
        Served::start_in(tempfile::tempdir().unwrap(), tls).await
    }

    async fn start_in(dir: tempfile::TempDir, tls: Option<Arc<rustls::ServerConfig>>) -> Served {
        let mut config = Config::new(dir.path().join("data"));
        // The cheapest there is: these tests are not about guessing passwords.
        config.bcrypt_cost = 4;
        Served::serve(open(config).unwrap(), dir, tls).await
    }

    /// Serves a store that is open.
    pub(crate) async fn start_with(engine: Arc<Engine>, dir: tempfile::TempDir) -> Served {
        Served::serve(engine, dir, None).await
    }

    async fn serve(
        engine: Arc<Engine>,
        dir: tempfile::TempDir,
        tls: Option<Arc<rustls::ServerConfig>>,
    ) -> Served {
        let [client, metrics] = [
            TcpListener::bind("127.0.0.1:0").await.unwrap(),
            TcpListener::bind("127.0.0.1:0").await.unwrap(),
        ];
        let (client_address, metrics_address) = (client.local_addr().unwrap(), metrics.local_addr().unwrap());
        let shutdown = CancellationToken::new();
        let listeners = Listeners { client: vec![client], metrics: vec![metrics] };
        let server = tokio::spawn(serve(engine.clone(), listeners, tls, shutdown.clone()));
        Served { engine, client: client_address, metrics: metrics_address, shutdown, server, dir }
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.server.await.unwrap().unwrap();
        self.engine.stop().await;
    }

    /// Ends the member and begins it anew, at another address.
    pub(crate) async fn restart(self) -> Served {
        self.shutdown.cancel();
        self.server.await.unwrap().unwrap();
        self.engine.stop().await;
        // The directory is locked until the last reference to the engine is gone.
        drop(self.engine);
        Served::start_in(self.dir, None).await
    }

    /// Runs etcdctl; what it printed, both streams.
    pub(crate) async fn etcdctl(&self, args: &[&str], input: &str) -> String {
        let (mut command, input) = (Command::new("etcdctl"), input.to_owned());
        command.env("ETCDCTL_API", "3").arg("--endpoints").arg(self.client.to_string()).args(args);
        command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        command.stderr(std::process::Stdio::piped());
        let output = tokio::task::spawn_blocking(move || {
            let mut child = command.spawn().expect("Debian's etcd-client is installed");
            std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes()).unwrap();
            child.wait_with_output().unwrap()
        });
        let output = output.await.unwrap();
        // etcdctl logs what it retries as JSON; that is not an answer.
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let errors: Vec<&str> = stderr.lines().filter(|line| !line.starts_with('{')).collect();
        format!("{}{}", String::from_utf8_lossy(&output.stdout), errors.join("\n"))
    }
}

pub(crate) async fn http_get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// An authority, a server's certificate for 127.0.0.1 and a client's.
pub(crate) struct Certificates {
    pub(crate) ca_pem: String,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl Certificates {
    pub(crate) fn new() -> Certificates {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca_pem = params.self_signed(&key).unwrap().pem();
        Certificates { ca_pem, issuer: rcgen::Issuer::new(params, key) }
    }

    fn sign(&self, mut params: rcgen::CertificateParams, name: &str) -> (String, String) {
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = rcgen::KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// A client's certificate and key.
    pub(crate) fn client(&self, name: &str) -> (String, String) {
        self.sign(rcgen::CertificateParams::new(Vec::new()).unwrap(), name)
    }

    /// A server at 127.0.0.1 that asks for client certificates.
    pub(crate) fn server_config(&self) -> Arc<rustls::ServerConfig> {
        let params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let (certificate, key) = self.sign(params, "server");
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.ca_pem.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
            );
        Arc::new(config.unwrap())
    }
}
