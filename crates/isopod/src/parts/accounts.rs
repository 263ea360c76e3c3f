//! Clients with the identity of a service account in kube-system, one for each controller, so that each may do no more
//! than its role says. Tokens are requested, and requested anew before they expire.

use anyhow::{Context, Result};
use isopod_client::{Clock, SystemClock};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use kube::client::Body;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

const NAMESPACE: &str = "kube-system";
/// Pause after a failed request for a token.
const RETRY: Duration = Duration::from_secs(1);
/// Part of a token's life after which it is replaced.
const REPLACE_AT: f64 = 0.8;

/// Makes the clients.
pub(crate) struct Accounts {
    /// Has the rights to make accounts and request tokens.
    manager: kube::Client,
    /// Has no credentials.
    bare: kube::Client,
    shutdown: CancellationToken,
}

impl Accounts {
    /// `manager` asks for tokens; the server's address comes from its kubeconfig.
    pub(crate) async fn new(
        manager: kube::Client,
        kubeconfig: &Path,
        shutdown: CancellationToken,
    ) -> Result<Self> {
        let file = kube::config::Kubeconfig::read_from(kubeconfig).context("--kubeconfig")?;
        let options = kube::config::KubeConfigOptions::default();
        let mut config =
            kube::Config::from_custom_kubeconfig(file, &options).await.context("--kubeconfig")?;
        config.auth_info = kube::config::AuthInfo::default();
        // The API server is reached directly, whatever proxy the environment names for other traffic.
        config.proxy_url = None;
        let bare = kube::Client::try_from(config).context("--kubeconfig")?;
        Ok(Accounts { manager, bare, shutdown })
    }

    /// A client for an account. Its first request waits for the first token.
    pub(crate) fn client(&self, name: &str) -> kube::Client {
        if name == "kube-controller-manager" {
            return self.manager.clone();
        }
        let (send, receive) = watch::channel(None);
        let (manager, account, shutdown) = (self.manager.clone(), name.to_owned(), self.shutdown.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = keep_token(manager, &account, &send) => {}
            }
        });
        let bare = self.bare.clone();
        let service =
            tower::service_fn(move |request| send_with_token(bare.clone(), receive.clone(), request));
        kube::Client::new(service, NAMESPACE)
    }
}

async fn send_with_token(
    bare: kube::Client,
    mut token: watch::Receiver<Option<Arc<str>>>,
    mut request: http::Request<Body>,
) -> Result<http::Response<Body>, tower::BoxError> {
    let token = token.wait_for(Option::is_some).await?.clone().unwrap_or_default();
    let mut value = http::HeaderValue::try_from(format!("Bearer {token}"))?;
    value.set_sensitive(true);
    request.headers_mut().insert(http::header::AUTHORIZATION, value);
    Ok(bare.send(request).await?)
}

async fn keep_token(manager: kube::Client, name: &str, send: &watch::Sender<Option<Arc<str>>>) {
    loop {
        match request_token(&manager, name).await {
            Ok((token, life)) => {
                send.send_replace(Some(token));
                tokio::time::sleep(life.mul_f64(REPLACE_AT)).await;
            }
            Err(error) => {
                warn!(account = name, error = format!("{error:#}"), "no token");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

async fn request_token(manager: &kube::Client, name: &str) -> Result<(Arc<str>, Duration)> {
    let accounts: Api<ServiceAccount> = Api::namespaced(manager.clone(), NAMESPACE);
    let account = ServiceAccount {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        ..ServiceAccount::default()
    };
    match accounts.create(&PostParams::default(), &account).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        Err(error) => return Err(error).context("make the service account"),
    }
    let request = TokenRequest {
        spec: Some(TokenRequestSpec { expiration_seconds: Some(3600), ..TokenRequestSpec::default() }),
        ..TokenRequest::default()
    };
    let answer = accounts
        .create_token_request(name, &PostParams::default(), &request)
        .await
        .context("request a token")?;
    let status = answer.status.context("a token request without a status")?;
    let life =
        status.expiration_timestamp.context("a token without an end")?.0.duration_since(SystemClock.now());
    Ok((status.token.context("no token")?.into(), Duration::try_from(life).unwrap_or(RETRY)))
}
