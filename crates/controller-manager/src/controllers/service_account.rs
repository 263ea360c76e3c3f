//! Default ServiceAccounts, the root CA of each namespace, and tokens in Secrets.

use isopod_client::{Change, ObjectKey, Scope};
use isopod_reconcile::meta::Meta;
use isopod_reconcile::plan::Plan;
use isopod_reconcile::service_account::{ROOT_CA_NAME, default_account, root_ca};
use isopod_reconcile::token_secret;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret, ServiceAccount};
use tracing::warn;

use crate::context::Context;
use crate::control_loop::{ControlLoop, Running};

pub(crate) fn register_default_accounts(context: &Context) -> Option<Running> {
    let namespaces = context.informers.get::<Namespace>();
    let accounts = context.informers.get::<ServiceAccount>();
    let mut control = ControlLoop::new(context, "serviceaccount", "service-account-controller");
    control.workers(1);
    control.of(&namespaces);
    control.on(&accounts, |queue, change| {
        if matches!(change, Change::Deleted(account) if account.name() == "default") {
            queue.add(ObjectKey::new("", change.object().namespace()));
        }
    });
    let (namespaces, accounts) = (namespaces.store(), accounts.store());
    Some(control.run(move |key, _| match namespaces.get(key) {
        Some(namespace) => default_account(&namespace, accounts.find(key.name(), "default").as_deref()),
        None => Plan::nothing(),
    }))
}

pub(crate) fn register_root_ca(context: &Context) -> Option<Running> {
    let bundle = context.config.root_ca.clone()?;
    let namespaces = context.informers.get::<Namespace>();
    let maps = context.informers.scoped::<ConfigMap>(Scope::fields(&format!("metadata.name={ROOT_CA_NAME}")));
    let mut control = ControlLoop::new(context, "root_ca_cert_publisher", "root-ca-cert-publisher");
    control.workers(1);
    control.of(&namespaces);
    control.on(&maps, |queue, change| {
        if change.object().name() == ROOT_CA_NAME {
            queue.add(ObjectKey::new("", change.object().namespace()));
        }
    });
    let (namespaces, maps) = (namespaces.store(), maps.store());
    Some(control.run(move |key, _| match namespaces.get(key) {
        Some(namespace) => root_ca(&namespace, maps.find(key.name(), ROOT_CA_NAME).as_deref(), &bundle),
        None => Plan::nothing(),
    }))
}

/// Index of token Secrets by `namespace/account`.
const BY_ACCOUNT: &str = "account";

pub(crate) fn register_token_secrets(context: &Context) -> Option<Running> {
    let signer = context.config.token_signer.clone()?;
    let root = context.config.root_ca.clone();
    let accounts = context.informers.get::<ServiceAccount>();
    let secrets = context.informers.scoped::<Secret>(Scope::fields(&format!("type={}", token_secret::TYPE)));
    secrets.add_index(BY_ACCOUNT, |secret: &Secret| {
        token_secret::account_name(secret)
            .map(|name| format!("{}/{name}", secret.namespace()))
            .into_iter()
            .collect()
    });
    let mut control = ControlLoop::new(context, "serviceaccount_tokens_secret", crate::SELF);
    control.of(&secrets);
    let by_account = secrets.store();
    control.on(&accounts, move |queue, change| {
        for secret in by_account.by_index(BY_ACCOUNT, change.key().as_str()) {
            queue.add(ObjectKey::of(secret.as_ref()));
        }
    });
    let (accounts, secrets) = (accounts.store(), secrets.store());
    Some(control.run(move |key, _| {
        let Some(secret) = secrets.get(key) else { return Plan::nothing() };
        let name = token_secret::account_name(&secret).unwrap_or_default();
        let account = accounts.find(secret.namespace(), name);
        let sign = |account: &ServiceAccount| {
            signer.sign(account.namespace(), account.name(), account.uid(), secret.name())
        };
        token_secret::reconcile(&secret, account.as_deref(), root.as_deref(), sign).unwrap_or_else(|error| {
            warn!(%key, error, "signing a service account token");
            Plan { retry: true, ..Plan::nothing() }
        })
    }))
}
