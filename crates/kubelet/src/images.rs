//! Images of containers: looked up, and pulled as the policy says, with credentials, not too many at once.

use std::sync::Arc;
use std::time::Instant;

use isopod_cri::v1;
use isopod_cri::{Code, ImageService};
use isopod_podplan::spec;
use k8s_openapi::api::core::v1::{Container, Pod};
use tokio::sync::Semaphore;

use crate::credentials::{self, Keyring};
use crate::kubelet::Kubelet;

/// Why an image could not be had: the container's waiting reason and message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PullError {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// Limits how many pulls run at once.
pub(crate) struct Puller {
    slots: Arc<Semaphore>,
}

impl Puller {
    pub(crate) fn new(parallel: usize) -> Self {
        Self { slots: Arc::new(Semaphore::new(parallel)) }
    }
}

/// An image that a pod needs: a container's, or a volume's.
#[derive(Clone, Copy)]
pub(crate) struct Wanted<'a> {
    /// The name that the user gave.
    pub(crate) image: &'a str,
    pub(crate) policy: Option<&'a str>,
    /// The container that it is for; none for a volume.
    pub(crate) container: Option<&'a str>,
}

impl<'a> Wanted<'a> {
    /// The image of a container.
    pub(crate) fn of(c: &'a Container) -> Self {
        Self {
            image: c.image.as_deref().unwrap_or_default(),
            policy: c.image_pull_policy.as_deref(),
            container: Some(&c.name),
        }
    }
}

fn policy(policy: Option<&str>, reference: &str) -> &'static str {
    match policy {
        Some("Always") => "Always",
        Some("Never") => "Never",
        Some("IfNotPresent") => "IfNotPresent",
        _ if reference.ends_with(":latest") => "Always",
        _ => "IfNotPresent",
    }
}

/// The image as the runtime has it, if it has it.
pub(crate) async fn look_up(images: &dyn ImageService, reference: &str) -> Result<Option<v1::Image>, String> {
    let image = Some(v1::ImageSpec { image: reference.to_owned(), ..v1::ImageSpec::default() });
    let answer = images.image_status(v1::ImageStatusRequest { image, verbose: false }).await;
    answer.map(|a| a.image).map_err(|e| e.message)
}

/// Makes sure that an image is on the node; answers the reference to use it by.
pub(crate) async fn ensure(kubelet: &Kubelet, pod: &Pod, w: Wanted<'_>) -> Result<String, PullError> {
    let name = w.image;
    let event = |warning, reason: &str, text: String| {
        kubelet.event(pod, w.container, warning, reason, text);
    };
    let reference = credentials::reference(name).map_err(|message| {
        event(true, "InspectFailed", message.clone());
        event(true, "Failed", "Error: InvalidImageName".into());
        PullError { reason: "InvalidImageName", message }
    })?;
    let policy = policy(w.policy, &reference);
    let found = look_up(&*kubelet.images, &reference).await.map_err(|e| {
        let message = format!("Failed to inspect image {reference:?}: {e}");
        event(true, "InspectFailed", message.clone());
        PullError { reason: "ImageInspectError", message }
    })?;
    match (policy, found) {
        ("IfNotPresent" | "Never", Some(image)) => {
            event(
                false,
                "Pulled",
                format!("Container image {name:?} already present on machine and can be accessed by the pod"),
            );
            Ok(image.id)
        }
        ("Never", None) => {
            let message = format!("Container image {name:?} is not present with pull policy of Never");
            event(true, "ErrImageNeverPull", message.clone());
            event(true, "Failed", "Error: ErrImageNeverPull".into());
            Err(PullError { reason: "ErrImageNeverPull", message })
        }
        _ => pull(kubelet, pod, w, &reference).await,
    }
}

async fn pull(kubelet: &Kubelet, pod: &Pod, w: Wanted<'_>, reference: &str) -> Result<String, PullError> {
    let (asked, name) = (Instant::now(), w.image);
    kubelet.event(pod, w.container, false, "Pulling", format!("Pulling image {name:?}"));
    let keys = keyring(kubelet, pod).await;
    let slot = kubelet.puller.slots.clone().acquire_owned().await;
    let began = Instant::now();
    let mut attempts: Vec<Option<v1::AuthConfig>> = keys.find(reference).into_iter().map(Some).collect();
    if attempts.is_empty() {
        attempts.push(None);
    }
    let mut last = None;
    for auth in attempts {
        let image = Some(v1::ImageSpec { image: reference.to_owned(), ..v1::ImageSpec::default() });
        let request = v1::PullImageRequest { image, auth, sandbox_config: None };
        match kubelet.images.pull_image(request).await {
            Ok(answer) => {
                drop(slot);
                let size = look_up(&*kubelet.images, &answer.image_ref).await.ok().flatten();
                let size = size.map_or(0, |i| i.size);
                kubelet.event(
                    pod,
                    w.container,
                    false,
                    "Pulled",
                    format!(
                        "Successfully pulled image {name:?} in {} ({} including waiting). Image size: {size} bytes.",
                        rounded(began.elapsed()),
                        rounded(asked.elapsed())
                    ),
                );
                return Ok(answer.image_ref);
            }
            Err(e) => last = Some(e),
        }
    }
    let error = last.expect("at least one attempt was made");
    let message = format!("failed to pull image {name:?}: {error}");
    let reason = match error.code {
        Code::Unavailable => "RegistryUnavailable",
        _ => "ErrImagePull",
    };
    let text = format!("Failed to pull image {name:?}: {error}");
    kubelet.event(pod, w.container, true, "Failed", text);
    kubelet.event(pod, w.container, true, "Failed", format!("Error: {reason}"));
    Err(PullError { reason, message })
}

async fn keyring(kubelet: &Kubelet, pod: &Pod) -> Keyring {
    let mut keys = Keyring::default();
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    for s in spec::of(pod).image_pull_secrets.iter().flatten() {
        match kubelet.secrets.get(uid, namespace, &s.name).await {
            Ok(secret) => keys.add(&secret),
            Err(e) => {
                // The image may be public; upstream warns and goes on.
                let text = format!(
                    "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                    s.name
                );
                tracing::debug!(error = %e, "image pull secret");
                kubelet.event(pod, None, true, "FailedToRetrieveImagePullSecret", text);
            }
        }
    }
    keys
}

/// A duration as Go prints it, to the millisecond.
fn rounded(d: std::time::Duration) -> String {
    if d.as_secs() == 0 {
        return format!("{}ms", d.as_millis());
    }
    let (m, s) = (d.as_secs() / 60, d.as_secs() % 60);
    let fraction = format!("{:03}", d.subsec_millis());
    let fraction = fraction.trim_end_matches('0');
    let seconds = if fraction.is_empty() { s.to_string() } else { format!("{s}.{fraction}") };
    if m > 0 { format!("{m}m{seconds}s") } else { format!("{seconds}s") }
}
