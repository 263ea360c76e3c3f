//! Archives as other tools write them: skopeo's OCI layout and docker archives, plain and gzipped.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::process::Command;

use isopod_runtime::images::{ImageStore, ImportOptions, PackOptions, pack_binary};

fn skopeo(from: &str, to: &str) {
    let output = Command::new("skopeo")
        .args(["copy", "--quiet", "--insecure-policy", from, to])
        .output()
        .expect("skopeo (Debian's package skopeo) is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn every_kind_of_archive_is_the_same_image() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    std::fs::write(path("ours.tar"), support::docker_archive(support::IMAGE)).unwrap();
    let ours = format!("docker-archive:{}", path("ours.tar"));
    skopeo(&ours, &format!("docker-archive:{}:example.com/a:1", path("docker.tar")));
    skopeo(&ours, &format!("oci-archive:{}:example.com/b:1", path("oci.tar")));
    assert!(Command::new("gzip").args(["-k", &path("docker.tar")]).status().unwrap().success());
    let store = ImageStore::open(&dir.path().join("store")).unwrap();
    let import = |name: &str, tag: Option<&str>| {
        let options = ImportOptions { tag: tag.map(str::to_owned), pinned: false };
        store.import(path(name).as_ref(), &options).unwrap()
    };
    assert_eq!(import("ours.tar", None), [support::IMAGE]);
    assert_eq!(import("docker.tar", None), ["example.com/a:1"]);
    assert_eq!(import("docker.tar.gz", Some("example.com/c:2")), ["example.com/c:2"]);
    assert_eq!(import("oci.tar", None), ["example.com/b:1"]);
    // skopeo writes a configuration of its own for the OCI layout; the layers are the same.
    assert_eq!(std::fs::read_dir(store.layers_root()).unwrap().count(), 2);
    let b = store.find("example.com/b:1").unwrap().unwrap();
    assert_eq!(b.digests.len(), 1);
    assert!(store.find(&b.digests[0]).unwrap().is_some());
    assert!(import_error(&store, "not an archive").contains("not a tar archive"));
    for image in store.list().unwrap() {
        assert!(store.remove(&image.id).unwrap());
    }
    assert_eq!(std::fs::read_dir(store.layers_root()).unwrap().count(), 0);
}

fn import_error(store: &ImageStore, content: &str) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), content.repeat(100)).unwrap();
    store.import(file.path(), &ImportOptions::default()).unwrap_err().to_string()
}

#[test]
fn a_program_becomes_an_image() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let store = ImageStore::open(dir.path()).unwrap();
    let options = PackOptions {
        tag: "isopod.local/tool:1".into(),
        target: "/bin/busybox".into(),
        entrypoint: vec!["/bin/sh".into()],
        cmd: vec![],
        links: vec!["sh".into()],
        user: "65534:65534".into(),
        pinned: true,
    };
    for _ in 0..2 {
        assert_eq!(pack_binary(&store, "/bin/busybox".as_ref(), &options).unwrap(), "isopod.local/tool:1");
    }
    let [image] = store.list().unwrap().try_into().unwrap();
    assert!(image.pinned);
    let layer = store.layers_root().join(store.layer_dirs(&image).unwrap()[0].to_string());
    assert_eq!(std::fs::read_link(layer.join("bin/sh")).unwrap().to_str(), Some("busybox"));
}
