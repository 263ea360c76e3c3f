//! Hashes that the kubelet writes on containers and static pods to see later whether they changed.
//!
//! As upstream, a container's hash covers name and image only: those are what an update may change and what
//! needs a new container. FNV-1a is enough, nobody attacks it: a pod's author can only fool himself.

use k8s_openapi::api::core::v1::Container;

/// FNV-1a over bytes.
#[must_use]
pub fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}

/// Hash of what makes a running container stale when it changes.
#[must_use]
pub fn container(c: &Container) -> u64 {
    let mut bytes = c.name.clone().into_bytes();
    bytes.push(0);
    bytes.extend_from_slice(c.image.as_deref().unwrap_or_default().as_bytes());
    // Zero means "not recorded" on the other side.
    fnv1a(&bytes).max(1)
}
