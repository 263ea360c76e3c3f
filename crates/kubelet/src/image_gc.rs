//! Removal of unused images when the disk that holds them fills up.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use isopod_cri::v1;
use jiff::{SignedDuration, Timestamp};

use crate::kubelet::Kubelet;
use crate::node::facts;

/// How often the disk is looked at, as upstream does it.
const INTERVAL: Duration = Duration::from_secs(300);

/// What is remembered of an image.
#[derive(Clone, Copy)]
struct Seen {
    first: Timestamp,
    last_used: Timestamp,
}

/// Looks after images until shutdown.
pub(crate) async fn run(kubelet: Arc<Kubelet>) {
    let mut seen: HashMap<String, Seen> = HashMap::new();
    let mut timer = tokio::time::interval(INTERVAL);
    loop {
        timer.tick().await;
        if let Err(error) = collect(&kubelet, &mut seen, None).await {
            tracing::warn!(error, "image garbage collection");
            kubelet.node_event(true, "ImageGCFailed", error);
        }
    }
}

/// Use of the image file system: capacity and available bytes.
pub(crate) async fn usage(kubelet: &Kubelet) -> Result<facts::Disk, String> {
    let info = kubelet.images.image_fs_info(v1::ImageFsInfoRequest {}).await.map_err(|e| e.message)?;
    let point = info.image_filesystems.first().and_then(|f| f.fs_id.as_ref()).map(|f| f.mountpoint.clone());
    let disk = facts::disk(Path::new(point.as_deref().unwrap_or("/")));
    if disk.capacity == 0 {
        return Err("invalid capacity 0 on image filesystem".to_owned());
    }
    Ok(disk)
}

/// Frees space down to the lower threshold if use is above the upper one.
async fn collect(
    kubelet: &Kubelet,
    seen: &mut HashMap<String, Seen>,
    only_free: Option<u64>,
) -> Result<(), String> {
    let now = kubelet.now();
    let disk = usage(kubelet).await?;
    let images =
        kubelet.images.list_images(v1::ListImagesRequest::default()).await.map_err(|e| e.message)?.images;
    let used = in_use(kubelet).await?;
    for i in &images {
        let s = seen.entry(i.id.clone()).or_insert(Seen { first: now, last_used: now });
        if used.contains(&i.id) {
            s.last_used = now;
        }
    }
    seen.retain(|id, _| images.iter().any(|i| i.id == *id));
    let gc = kubelet.config.image_gc;
    let percent = 100 - disk.available * 100 / disk.capacity;
    if only_free.is_none() && percent < u64::from(gc.high_percent) {
        return Ok(());
    }
    let target = disk.capacity * u64::from(100 - gc.low_percent) / 100;
    let wanted = only_free.unwrap_or(target.saturating_sub(disk.available));
    let age = SignedDuration::try_from(gc.minimum_age).unwrap_or(SignedDuration::MAX);
    let mut candidates: Vec<(&v1::Image, Seen)> = images
        .iter()
        .filter(|i| !i.pinned && !used.contains(&i.id))
        .filter_map(|i| seen.get(&i.id).map(|s| (i, *s)))
        .filter(|(_, s)| now.duration_since(s.first) >= age)
        .collect();
    candidates.sort_by_key(|(_, s)| (s.last_used, s.first));
    let freed = remove(kubelet, &candidates, wanted).await;
    if freed < wanted {
        return Err(format!(
            "Failed to garbage collect required amount of images. Attempted to free {wanted} bytes, but only found {freed} bytes eligible to free."
        ));
    }
    Ok(())
}

async fn remove(kubelet: &Kubelet, candidates: &[(&v1::Image, Seen)], wanted: u64) -> u64 {
    let mut freed = 0;
    for (image, _) in candidates {
        if freed >= wanted {
            break;
        }
        let spec = v1::ImageSpec { image: image.id.clone(), ..v1::ImageSpec::default() };
        match kubelet.images.remove_image(v1::RemoveImageRequest { image: Some(spec) }).await {
            Ok(_) => {
                tracing::info!(image = image.id, bytes = image.size, "removed an unused image");
                freed += image.size;
            }
            Err(error) => tracing::warn!(image = image.id, %error, "remove image"),
        }
    }
    freed
}

/// Ids of the images that containers were made from.
async fn in_use(kubelet: &Kubelet) -> Result<HashSet<String>, String> {
    let list = kubelet.runtime.list_containers(v1::ListContainersRequest { filter: None }).await;
    let list = list.map_err(|e| e.message)?.containers;
    let mut out = HashSet::new();
    for c in list {
        if !c.image_id.is_empty() {
            out.insert(c.image_id.clone());
        }
        // Some runtimes only tell the reference: its image is looked up.
        match crate::images::look_up(&*kubelet.images, &c.image_ref).await {
            Ok(Some(image)) => drop(out.insert(image.id)),
            _ => drop(out.insert(c.image_ref)),
        }
    }
    Ok(out)
}

/// Frees what can be freed, because the node is short of disk.
pub(crate) async fn free_all(kubelet: &Kubelet) {
    let mut seen = HashMap::new();
    let age = kubelet.config.image_gc.minimum_age;
    let long_ago = kubelet.now().checked_sub(age).unwrap_or(Timestamp::MIN);
    if let Ok(list) = kubelet.images.list_images(v1::ListImagesRequest::default()).await {
        for i in list.images {
            seen.insert(i.id, Seen { first: long_ago, last_used: long_ago });
        }
    }
    // Whether it was enough is seen at the next look at the disk.
    let _ = collect(kubelet, &mut seen, Some(u64::MAX)).await;
}
