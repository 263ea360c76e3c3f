//! The CRI image service.

use std::collections::BTreeMap;

use async_trait::async_trait;
use isopod_cri::v1::*;
use isopod_cri::{Error, ImageService};

use crate::client::blocking;
use crate::images::{Credentials, ImageRecord};
use crate::runtime::{Inner, Runtime, now};

fn item(image: &ImageRecord) -> Image {
    let user = image.user.split(':').next().unwrap_or_default();
    let (uid, username) = match (user, user.parse::<i64>()) {
        ("", _) => (Some(Int64Value { value: 0 }), String::new()),
        (_, Ok(uid)) => (Some(Int64Value { value: uid }), String::new()),
        (name, Err(_)) => (None, name.to_owned()),
    };
    Image {
        id: image.id.clone(),
        repo_tags: image.tags.clone(),
        repo_digests: image.digests.clone(),
        size: image.bytes,
        uid,
        username,
        spec: Some(ImageSpec { image: image.id.clone(), ..ImageSpec::default() }),
        pinned: image.pinned,
    }
}

#[async_trait]
impl ImageService for Runtime {
    async fn list_images(&self, request: ListImagesRequest) -> Result<ListImagesResponse, Error> {
        let wanted =
            request.filter.and_then(|filter| filter.image).map(|image| image.image).unwrap_or_default();
        let images = match wanted.as_str() {
            "" => self.inner.images.list()?,
            name => self.inner.images.find(name)?.into_iter().collect(),
        };
        Ok(ListImagesResponse { images: images.iter().map(item).collect() })
    }

    async fn image_status(&self, request: ImageStatusRequest) -> Result<ImageStatusResponse, Error> {
        let name = request.image.unwrap_or_default().image;
        let image = self.inner.images.find(&name)?;
        let mut info = BTreeMap::new();
        if request.verbose
            && let Some(image) = &image
        {
            info.insert("info".to_owned(), serde_json::to_string(image).map_err(Error::internal)?);
        }
        Ok(ImageStatusResponse { image: image.as_ref().map(item), info })
    }

    async fn pull_image(&self, request: PullImageRequest) -> Result<PullImageResponse, Error> {
        let name = request.image.unwrap_or_default().image;
        let credentials = Credentials::from_cri(request.auth.as_ref())?;
        let image =
            self.inner.images.pull(&name, &credentials, &self.inner.config.insecure_registries).await?;
        Ok(PullImageResponse { image_ref: image.id })
    }

    async fn remove_image(&self, request: RemoveImageRequest) -> Result<RemoveImageResponse, Error> {
        let name = request.image.unwrap_or_default().image;
        let images = self.inner.images.clone();
        let in_use: Vec<String> =
            self.inner.containers.read().values().map(|c| c.record.lock().image_id.clone()).collect();
        blocking(move || match images.find(&name)? {
            // Its layers are mounted; the kubelet asks only for unused images, others may not know.
            Some(image) if in_use.contains(&image.id) => {
                Err(crate::Error::Precondition(format!("image {name:?} is used by a container")))
            }
            Some(_) => images.remove(&name),
            None => Ok(false),
        })
        .await?;
        Ok(RemoveImageResponse {})
    }

    async fn image_fs_info(&self, _request: ImageFsInfoRequest) -> Result<ImageFsInfoResponse, Error> {
        let at = now();
        let images = &self.inner.images;
        let containers = self.inner.config.root.join("containers");
        Ok(ImageFsInfoResponse {
            image_filesystems: vec![Inner::fs_usage(&images.images_root(), images.usage()?, at)],
            container_filesystems: vec![Inner::fs_usage(&containers, self.inner.containers_usage(), at)],
        })
    }
}
