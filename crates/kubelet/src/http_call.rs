//! One HTTP request for a probe or a hook: to an address, over TLS without verification where asked, with a
//! bounded body.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::Request;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;

/// Most of a body that is read; upstream reads 10 KiB of a probe's.
const BODY_MAX: usize = 10 << 10;
/// Most redirects followed, as Go's client.
const REDIRECTS_MAX: usize = 10;

/// An answer.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
    /// Redirected to another host, which was not followed.
    pub(crate) redirected_away: bool,
}

/// A port given by number, or by name of one of the container's ports.
pub(crate) fn port(p: &IntOrString, c: &Container) -> Result<u16, String> {
    let number = match p {
        IntOrString::Int(n) => Some(*n),
        IntOrString::String(name) => c
            .ports
            .iter()
            .flatten()
            .find(|p| p.name.as_deref() == Some(name))
            .map(|p| p.container_port)
            .or_else(|| name.parse().ok()),
    };
    let found = number.and_then(|n| u16::try_from(n).ok()).filter(|n| *n > 0);
    found.ok_or_else(|| match p {
        IntOrString::Int(n) => format!("invalid port number: {n}"),
        IntOrString::String(name) => format!("port {name:?} not found in container {:?}", c.name),
    })
}

/// Sends the request that the action describes.
pub(crate) async fn get(
    action: &HTTPGetAction,
    c: &Container,
    pod_ip: &str,
    agent: &str,
    limit: Duration,
) -> Result<Answer, String> {
    let https = action.scheme.as_deref().is_some_and(|s| s.eq_ignore_ascii_case("HTTPS"));
    let host = action.host.as_deref().filter(|h| !h.is_empty()).unwrap_or(pod_ip);
    let port = port(&action.port, c)?;
    let path = action.path.as_deref().unwrap_or("/");
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let scheme = if https { "https" } else { "http" };
    let url = format!("{scheme}://{}:{port}{path}", bracketed(host));
    match tokio::time::timeout(limit, follow(action, https, host, port, path, agent)).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(e)) => Err(format!("Get {url:?}: {e}")),
        Err(_) => Err(format!(
            "Get {url:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
        )),
    }
}

fn bracketed(host: &str) -> String {
    if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_owned() }
}

async fn follow(
    action: &HTTPGetAction,
    https: bool,
    host: &str,
    port: u16,
    path: String,
    agent: &str,
) -> Result<Answer, String> {
    let (mut https, mut port, mut path) = (https, port, path);
    for _ in 0..REDIRECTS_MAX {
        let (answer, location) = once(action, https, host, port, &path, agent).await?;
        let Some(location) = location.filter(|_| (300..400).contains(&answer.status)) else {
            return Ok(answer);
        };
        let uri: http::Uri = location.parse().map_err(|e| format!("bad redirect {location:?}: {e}"))?;
        if let Some(authority) = uri.authority() {
            let there = authority.host().trim_matches(['[', ']']);
            if there != host.trim_matches(['[', ']']) {
                // Only the pod itself is asked: a redirect must not turn the kubelet into a proxy.
                return Ok(Answer { redirected_away: true, ..answer });
            }
            https = uri.scheme_str() == Some("https");
            port = authority.port_u16().unwrap_or(if https { 443 } else { 80 });
        }
        path = uri.path_and_query().map_or("/", |p| p.as_str()).to_owned();
    }
    Err(format!("stopped after {REDIRECTS_MAX} redirects"))
}

async fn once(
    action: &HTTPGetAction,
    https: bool,
    host: &str,
    port: u16,
    path: &str,
    agent: &str,
) -> Result<(Answer, Option<String>), String> {
    let stream = connect(host, port).await?;
    let mut request = Request::get(path);
    let mut has_host = false;
    let mut has_agent = false;
    let mut has_accept = false;
    for h in action.http_headers.iter().flatten() {
        has_host |= h.name.eq_ignore_ascii_case("host");
        has_agent |= h.name.eq_ignore_ascii_case("user-agent");
        has_accept |= h.name.eq_ignore_ascii_case("accept");
        if !h.value.is_empty() {
            request = request.header(&h.name, &h.value);
        }
    }
    if !has_host {
        request = request.header("Host", format!("{}:{port}", bracketed(host)));
    }
    if !has_agent {
        request = request.header("User-Agent", agent);
    }
    if !has_accept {
        request = request.header("Accept", "*/*");
    }
    let request =
        request.header("Connection", "close").body(Empty::<Bytes>::new()).map_err(|e| e.to_string())?;
    if https {
        let connector = tokio_rustls::TlsConnector::from(unverified());
        let name = ServerName::try_from(host.to_owned()).map_err(|e| e.to_string())?;
        let stream = connector.connect(name, stream).await.map_err(|e| e.to_string())?;
        send(request, TokioIo::new(stream)).await
    } else {
        send(request, TokioIo::new(stream)).await
    }
}

async fn send<I>(request: Request<Empty<Bytes>>, io: I) -> Result<(Answer, Option<String>), String>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(io).await.map_err(|e| e.to_string())?;
    let driver = tokio::spawn(connection);
    let _stop = AbortOnDrop(driver.abort_handle());
    let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
    let status = response.status().as_u16();
    let location =
        response.headers().get(http::header::LOCATION).and_then(|l| l.to_str().ok()).map(str::to_owned);
    // What does not fit is not read: the status has been decided already.
    let body = Limited::new(response.into_body(), BODY_MAX).collect().await;
    let body = body.map(|b| String::from_utf8_lossy(&b.to_bytes()).into_owned()).unwrap_or_default();
    Ok((Answer { status, body, redirected_away: false }, location))
}

struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Connects by TCP, with Go's words for what clients see.
pub(crate) async fn connect(host: &str, port: u16) -> Result<TcpStream, String> {
    let plain = host.trim_matches(['[', ']']);
    TcpStream::connect((plain, port)).await.map_err(|e| {
        let cause = match e.kind() {
            std::io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
            std::io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
            std::io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
            std::io::ErrorKind::TimedOut => "i/o timeout".to_owned(),
            _ => e.to_string(),
        };
        format!("dial tcp {}:{port}: {cause}", bracketed(host))
    })
}

/// TLS that takes any certificate: a probe asks whether the pod answers, not who it is.
fn unverified() -> Arc<rustls::ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("ring knows TLS 1.2 and 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Any(provider)))
        .with_no_client_auth();
    Arc::new(config)
}

#[derive(Debug)]
struct Any(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for Any {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Serves each connection with the next answer; gives back what was asked.
    async fn serve(answers: Vec<String>) -> (u16, tokio::task::JoinHandle<Vec<String>>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = tokio::spawn(async move {
            let mut asked = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = vec![0; 4096];
                let n = stream.read(&mut head).await.unwrap();
                asked.push(String::from_utf8_lossy(&head[..n]).into_owned());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
            asked
        });
        (port, task)
    }

    fn action(port: u16, path: &str) -> HTTPGetAction {
        serde_json::from_value(serde_json::json!({
            "port": port, "path": path, "httpHeaders": [{"name": "X-Own", "value": "1"}],
        }))
        .unwrap()
    }

    async fn ask(port: u16, path: &str) -> Result<Answer, String> {
        let limit = Duration::from_secs(5);
        get(&action(port, path), &Container::default(), "127.0.0.1", "kube-probe/1.36", limit).await
    }

    fn answer(head: &str, body: &str) -> String {
        format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    }

    #[tokio::test]
    async fn asks_and_follows_to_the_same_host() {
        let (port, asked) =
            serve(vec![answer("302 Found\r\nLocation: /there?x=1", ""), answer("200 OK", "fine")]).await;
        let got = ask(port, "here").await.unwrap();
        assert_eq!((got.status, got.body.as_str(), got.redirected_away), (200, "fine", false));
        let asked = asked.await.unwrap();
        assert!(asked[0].starts_with("GET /here HTTP/1.1\r\n"), "{asked:?}");
        let head = asked[0].to_lowercase();
        for line in ["x-own: 1", "user-agent: kube-probe/1.36", &format!("host: 127.0.0.1:{port}")] {
            assert!(head.contains(line), "{line} in {head}");
        }
        assert!(asked[1].starts_with("GET /there?x=1 "), "{asked:?}");
    }

    #[tokio::test]
    async fn stays_with_the_pod() {
        let (port, _) = serve(vec![answer("302 Found\r\nLocation: http://169.254.169.254/", "")]).await;
        assert!(ask(port, "/").await.unwrap().redirected_away);
    }

    #[tokio::test]
    async fn words_of_failures() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let text = ask(port, "/x").await.err().unwrap();
        assert_eq!(
            text,
            format!(
                "Get \"http://127.0.0.1:{port}/x\": dial tcp 127.0.0.1:{port}: connect: connection refused"
            )
        );
        let named: HTTPGetAction = serde_json::from_value(serde_json::json!({"port": "web"})).unwrap();
        let limit = Duration::from_secs(1);
        let missing = get(&named, &Container::default(), "127.0.0.1", "a", limit).await;
        assert!(missing.err().unwrap().contains("\"web\" not found"));
    }
}
