//! `isopod token create|list|delete`.

use super::{Bundle, Settings, Token, settings_path};
use crate::cli::Place;
use crate::config::duration;
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use isopod_client::{Clock, SystemClock};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use kube::core::DynamicObject;
use kube::discovery::ApiResource;
use serde_json::{Value, json};
use std::time::Duration;

const NAMESPACE: &str = "kube-system";
/// The group that joining servers are in.
const GROUP: &str = "system:bootstrappers:isopod:servers";
/// Longest life of a token: it hands out the cluster's authorities.
const TTL_MAX: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Flags of `isopod token`.
#[derive(Args, Debug, Clone)]
pub(crate) struct TokenArgs {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    command: TokenCommand,
}

/// What to do with join tokens.
#[derive(Subcommand, Debug, Clone)]
enum TokenCommand {
    /// Make a token with which a server joins this cluster, and print it
    Create {
        /// How long it is good for
        #[arg(long, default_value = "1h")]
        ttl: String,
    },
    /// List tokens: their IDs and ends
    List,
    /// Delete a token
    Delete {
        /// The ID: the second part of the token
        id: String,
    },
}

/// Name of the Secret that the token decrypts.
pub(super) fn bundle_name(id: &str) -> String {
    format!("isopod-join-{id}")
}

fn token_name(id: &str) -> String {
    format!("bootstrap-token-{id}")
}

/// Runs the command.
pub(crate) async fn run(args: TokenArgs) -> Result<()> {
    let client = crate::status::admin_client(&args.place.data_dir).await?;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
    match &args.command {
        TokenCommand::Create { ttl } => {
            let ttl = duration(ttl).map_err(anyhow::Error::msg).context("--ttl")?;
            if ttl.is_zero() || ttl > TTL_MAX {
                bail!("--ttl: a token lives for at most a week");
            }
            println!("{}", create(&args.place, client, ttl).await?);
        }
        TokenCommand::List => list(&secrets).await?,
        TokenCommand::Delete { id } => {
            let deleted = secrets.delete(&token_name(id), &DeleteParams::default()).await;
            deleted.with_context(|| format!("delete token {id}"))?;
        }
    }
    Ok(())
}

async fn list(secrets: &Api<Secret>) -> Result<()> {
    let found = secrets.list(&ListParams::default().fields("type=bootstrap.kubernetes.io/token")).await?;
    println!("{:<8} END", "ID");
    for secret in found {
        let text = |key: &str| {
            let bytes = secret.data.as_ref().and_then(|data| data.get(key));
            bytes.map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned()).unwrap_or_default()
        };
        if text("auth-extra-groups").contains(GROUP) {
            println!("{:<8} {}", text("token-id"), text("expiration"));
        }
    }
    Ok(())
}

/// Stores a token and, sealed with it, what it is for. All else that is made belongs to the token's Secret and goes
/// with it.
async fn create(place: &Place, client: kube::Client, ttl: Duration) -> Result<Token> {
    let Some(settings) = Settings::read(&settings_path(&place.data_dir))? else {
        bail!("this server is alone: restart it with --cluster-init, then others can join it");
    };
    let pki = place.data_dir.join("pki");
    let bundle = Bundle::read(&pki, settings)?;
    let authority = pki.join("serving-ca.crt");
    let pem = std::fs::read_to_string(&authority).with_context(|| format!("read {}", authority.display()))?;
    let token = Token::new(&pem)?;
    let sealed = token.seal(&serde_json::to_vec(&bundle)?)?;
    let end = SystemClock.now() + ttl;
    let end = end.round(jiff_second())?.to_string();
    let main = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
        "metadata": {"name": token_name(&token.id), "namespace": NAMESPACE},
        "stringData": {
            "token-id": token.id, "token-secret": token.secret(), "expiration": end,
            "usage-bootstrap-authentication": "true", "auth-extra-groups": GROUP,
            "description": "lets a server join the control plane",
        },
    });
    let uid = post(&client, &main).await?;
    let name = bundle_name(&token.id);
    let metadata = json!({"name": name, "namespace": NAMESPACE, "ownerReferences": [{
        "apiVersion": "v1", "kind": "Secret", "name": token_name(&token.id), "uid": uid}]});
    let encoded = k8s_openapi::ByteString(sealed);
    let rest = [
        json!({"apiVersion": "v1", "kind": "Secret", "type": "isopod.dev/join", "metadata": metadata,
            "data": {"bundle": encoded}}),
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": metadata,
            "rules": [{"apiGroups": [""], "resources": ["secrets"], "resourceNames": [name], "verbs": ["get"]}]}),
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": metadata,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User",
                "name": format!("system:bootstrap:{}", token.id)}]}),
    ];
    for object in &rest {
        post(&client, object).await?;
    }
    Ok(token)
}

fn jiff_second() -> jiff::TimestampRound {
    jiff::TimestampRound::new().smallest(jiff::Unit::Second)
}

/// Creates an object; its uid.
async fn post(client: &kube::Client, object: &Value) -> Result<String> {
    let object: DynamicObject = serde_json::from_value(object.clone()).context("an object")?;
    let types = object.types.clone().context("an object has a type")?;
    let (group, version) = types.api_version.split_once('/').unwrap_or(("", &types.api_version));
    let resource = ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: types.api_version.clone(),
        plural: format!("{}s", types.kind.to_lowercase()),
        kind: types.kind.clone(),
    };
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), NAMESPACE, &resource);
    let made = api.create(&PostParams::default(), &object).await;
    let made = made.with_context(|| format!("create the {} of the token", types.kind))?;
    made.metadata.uid.context("a created object has a uid")
}
