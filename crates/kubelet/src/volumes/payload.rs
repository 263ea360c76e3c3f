//! What the files of ConfigMap, Secret, downward API and projected volumes hold.

use std::collections::BTreeMap;

use isopod_podplan::spec;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, ProjectedVolumeSource, Secret,
    ServiceAccountTokenProjection,
};

use super::atomic::{File, Payload};
use crate::downward;
use crate::kubelet::Kubelet;
use crate::objects::ReadError;

/// A payload, and when it must be made anew because a token in it grows old.
#[derive(Debug, Default)]
pub(crate) struct Made {
    pub(crate) payload: Payload,
    pub(crate) renew_at: Option<Timestamp>,
}

const DEFAULT_MODE: i32 = 0o644;

fn mode(m: Option<i32>) -> u32 {
    u32::try_from(m.unwrap_or(DEFAULT_MODE)).unwrap_or(0o644) & 0o777
}

/// Picks files from an object's keys: all of them, or those listed.
fn pick(
    what: &str,
    data: &BTreeMap<String, Vec<u8>>,
    items: Option<&Vec<KeyToPath>>,
    default_mode: u32,
    optional: bool,
) -> Result<Payload, String> {
    let file = |data: &[u8], mode: u32| File { data: data.to_vec(), mode, uid: None };
    let Some(items) = items.filter(|i| !i.is_empty()) else {
        return Ok(data.iter().map(|(k, v)| (k.clone(), file(v, default_mode))).collect());
    };
    let mut out = Payload::new();
    for item in items {
        match data.get(&item.key) {
            Some(v) => {
                let mode = item.mode.map_or(default_mode, |m| mode(Some(m)));
                out.insert(item.path.clone(), file(v, mode));
            }
            None if optional => {}
            None => return Err(format!("{what} references non-existent config key: {}", item.key)),
        }
    }
    Ok(out)
}

fn of_config_map(c: &ConfigMap) -> BTreeMap<String, Vec<u8>> {
    let text = c.data.iter().flatten().map(|(k, v)| (k.clone(), v.clone().into_bytes()));
    let binary = c.binary_data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone()));
    text.chain(binary).collect()
}

fn of_secret(s: &Secret) -> BTreeMap<String, Vec<u8>> {
    s.data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone())).collect()
}

/// A source that may be absent: empty when it is and may be.
fn optional<T>(result: Result<T, ReadError>, optional: bool) -> Result<Option<T>, String> {
    match result {
        Ok(v) => Ok(Some(v)),
        Err(ReadError::NotFound { .. }) if optional => Ok(None),
        Err(e) => Err(e.to_string()),
    }
}

/// Makes payloads for the volumes of one pod.
pub(crate) struct Maker<'a> {
    pub(crate) kubelet: &'a Kubelet,
    pub(crate) pod: &'a Pod,
}

impl Maker<'_> {
    fn uid(&self) -> &str {
        self.pod.metadata.uid.as_deref().unwrap_or_default()
    }

    fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or("default")
    }

    pub(crate) async fn config_map(
        &self,
        name: &str,
        items: Option<&Vec<KeyToPath>>,
        default_mode: u32,
        may_lack: bool,
    ) -> Result<Payload, String> {
        let found = self.kubelet.config_maps.get(self.uid(), self.namespace(), name).await;
        let data = optional(found, may_lack)?.map(|c| of_config_map(&c)).unwrap_or_default();
        pick("configmap", &data, items, default_mode, may_lack)
    }

    pub(crate) async fn secret(
        &self,
        name: &str,
        items: Option<&Vec<KeyToPath>>,
        default_mode: u32,
        may_lack: bool,
    ) -> Result<Payload, String> {
        let found = self.kubelet.secrets.get(self.uid(), self.namespace(), name).await;
        let data = optional(found, may_lack)?.map(|s| of_secret(&s)).unwrap_or_default();
        pick("secret", &data, items, default_mode, may_lack)
    }

    pub(crate) fn downward(
        &self,
        items: &[DownwardAPIVolumeFile],
        default_mode: u32,
    ) -> Result<Payload, String> {
        let addresses = self.kubelet.addresses(self.uid());
        let node = self.kubelet.node();
        let mut out = Payload::new();
        for item in items {
            let text = match (&item.field_ref, &item.resource_field_ref) {
                (Some(f), _) => downward::field(f, self.pod, &addresses)?,
                (None, Some(r)) => downward::resource(r, self.pod, "", &node)?,
                (None, None) => return Err(format!("downward API file {:?} has no source", item.path)),
            };
            let mode = item.mode.map_or(default_mode, |m| mode(Some(m)));
            out.insert(item.path.clone(), File { data: text.into_bytes(), mode, uid: None });
        }
        Ok(out)
    }

    async fn token(
        &self,
        source: &ServiceAccountTokenProjection,
        default_mode: u32,
    ) -> Result<(String, File, Timestamp), String> {
        let audience = source.audience.as_deref().unwrap_or_default();
        let (token, renew_at) = self
            .kubelet
            .tokens
            .get(self.pod, audience, source.expiration_seconds)
            .await
            .map_err(|e| format!("failed to fetch token: {e}"))?;
        let context = spec::of(self.pod).security_context.as_ref();
        let group = context.and_then(|c| c.fs_group).is_some();
        let user = sole_user(self.pod);
        // A token is for the pod's user alone where there is only one, or for the volume's group.
        let mode = if user.is_some() || group { 0o600 } else { default_mode };
        Ok((source.path.clone(), File { data: token.into_bytes(), mode, uid: user }, renew_at))
    }

    pub(crate) async fn projected(&self, v: &ProjectedVolumeSource) -> Result<Made, String> {
        let default_mode = mode(v.default_mode);
        let mut made = Made::default();
        for s in v.sources.iter().flatten() {
            if let Some(c) = &s.config_map {
                let optional = c.optional == Some(true);
                let part = self.config_map(&c.name, c.items.as_ref(), default_mode, optional).await?;
                made.payload.extend(part);
            }
            if let Some(c) = &s.secret {
                let optional = c.optional == Some(true);
                let part = self.secret(&c.name, c.items.as_ref(), default_mode, optional).await?;
                made.payload.extend(part);
            }
            if let Some(d) = &s.downward_api {
                made.payload.extend(self.downward(d.items.as_deref().unwrap_or_default(), default_mode)?);
            }
            if let Some(t) = &s.service_account_token {
                let (path, file, renew_at) = self.token(t, default_mode).await?;
                made.payload.insert(path, file);
                made.renew_at = Some(made.renew_at.map_or(renew_at, |r| r.min(renew_at)));
            }
            if s.cluster_trust_bundle.is_some() || s.pod_certificate.is_some() {
                return Err("clusterTrustBundle and podCertificate projections are not supported".into());
            }
        }
        Ok(made)
    }
}

/// Mode of a volume's files where an item does not say.
pub(crate) fn default_mode(m: Option<i32>) -> u32 {
    mode(m)
}

/// The user that all containers of a pod run as, if the spec says so and it is one.
fn sole_user(pod: &Pod) -> Option<u32> {
    let s = spec::of(pod);
    let of_pod = s.security_context.as_ref().and_then(|c| c.run_as_user);
    let mut users = spec::init(pod)
        .iter()
        .chain(spec::main(pod))
        .map(|c| c.security_context.as_ref().and_then(|c| c.run_as_user).or(of_pod));
    let first = users.next()??;
    users.all(|u| u == Some(first)).then_some(first).and_then(|u| u32::try_from(u).ok())
}
