//! Volumes of a pod: exactly one source each, with what that source needs.

use std::collections::{BTreeMap, BTreeSet};

use isopod_api::names;

use super::container::{Volumes, descending_path, no_backsteps};
use super::{affinity, env, resources};
use crate::kinds::check::At;
use crate::kinds::meta;

/// Longest life of a token, in seconds.
const TOKEN_SECONDS_MAX: i64 = 1 << 32;
const ONE_SOURCE: &str = "may not specify more than 1 volume type";

/// Checks of one source of volumes.
type SourceRule = fn(&At<'_>);

/// Every source with the texts it needs and its further checks.
const SOURCES: &[(&str, &[&str], SourceRule)] = &[
    ("emptyDir", &[], empty_dir),
    ("hostPath", &["path"], host_path),
    ("gitRepo", &["repository"], |git| descending_path(&git.field("directory"))),
    ("gcePersistentDisk", &["pdName"], partition),
    ("awsElasticBlockStore", &["volumeID"], partition),
    ("secret", &["secretName"], key_files),
    ("nfs", &["server", "path"], nfs),
    ("iscsi", &["targetPortal", "iqn"], |iscsi| iscsi.field("lun").within(0, 255)),
    ("glusterfs", &["endpoints", "path"], nothing),
    ("flocker", &[], flocker),
    ("rbd", &["image"], monitors),
    ("cinder", &["volumeID"], nothing),
    ("cephfs", &[], monitors),
    ("quobyte", &["registry", "volume"], nothing),
    ("downwardAPI", &[], downward_api),
    ("fc", &[], nothing),
    ("persistentVolumeClaim", &["claimName"], nothing),
    ("configMap", &["name"], key_files),
    ("azureFile", &["secretName", "shareName"], nothing),
    ("flexVolume", &["driver"], nothing),
    ("vsphereVolume", &["volumePath"], nothing),
    ("photonPersistentDisk", &["pdID"], nothing),
    ("portworxVolume", &["volumeID"], nothing),
    ("azureDisk", &["diskName", "diskURI"], nothing),
    ("storageos", &[], nothing),
    ("projected", &[], projected),
    ("scaleIO", &["gateway", "system"], nothing),
    ("csi", &["driver"], csi),
    ("ephemeral", &[], ephemeral),
    ("image", &[], image),
];

fn nothing(_: &At<'_>) {}

/// Validates `volumes` and gives them by name.
pub(super) fn volumes<'v>(volumes: &At<'v>) -> Volumes<'v> {
    let mut by_name = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for volume in volumes.items() {
        source(&volume);
        let name = volume.field("name");
        name.needs(names::is_dns1123_label);
        name.unique(&mut seen);
        by_name.insert(name.str(), volume.value());
    }
    by_name
}

fn source(volume: &At<'_>) {
    let mut found = 0;
    for (kind, needed, rule) in SOURCES {
        let source = volume.field(kind);
        if !source.is_set() {
            continue;
        }
        found += 1;
        if found > 1 {
            source.forbidden(ONE_SOURCE);
            continue;
        }
        for field in *needed {
            source.field(field).needs_text();
        }
        rule(&source);
    }
    if found == 0 {
        volume.required("must specify a volume type");
    }
}

fn empty_dir(source: &At<'_>) {
    let limit = source.field("sizeLimit");
    if limit.quantity().is_some_and(|q| q.signum() < 0) {
        limit.forbidden("SizeLimit field must be a valid resource quantity");
    }
}

fn host_path(source: &At<'_>) {
    no_backsteps(&source.field("path"));
    let kind = source.field("type");
    if !kind.is_empty() {
        let kinds =
            ["BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
        kind.one_of(&kinds);
    }
}

fn partition(source: &At<'_>) {
    source.field("partition").within(0, 255);
}

fn nfs(source: &At<'_>) {
    let path = source.field("path");
    if !path.is_empty() && !path.str().starts_with('/') {
        path.invalid("must be an absolute path");
    }
}

fn monitors(source: &At<'_>) {
    if source.field("monitors").is_empty() {
        source.field("monitors").required("");
    }
}

fn flocker(source: &At<'_>) {
    let (name, uuid) = (source.field("datasetName"), source.field("datasetUUID"));
    if name.is_empty() == uuid.is_empty() {
        source.required("one of datasetName and datasetUUID is required");
    }
}

/// Permissions of a file.
pub(super) fn mode(mode: &At<'_>) {
    if mode.int().is_some_and(|m| !(0..=0o777).contains(&m)) {
        mode.invalid("must be a number between 0 and 0777 (octal), both inclusive");
    }
}

/// The path of a file below a volume.
pub(super) fn file_path(path: &At<'_>) {
    descending_path(path);
    if path.str().starts_with("..") && !path.str().starts_with("../") && path.str() != ".." {
        path.invalid("must not start with '..'");
    }
}

fn key_files(source: &At<'_>) {
    mode(&source.field("defaultMode"));
    for item in source.field("items").items() {
        item.field("key").needs_text();
        if item.field("path").needs_text() {
            file_path(&item.field("path"));
        }
        mode(&item.field("mode"));
    }
}

fn downward_api(source: &At<'_>) {
    mode(&source.field("defaultMode"));
    env::downward_items(&source.field("items"));
}

fn projected(projected: &At<'_>) {
    mode(&projected.field("defaultMode"));
    let mut paths = BTreeSet::new();
    for source in projected.field("sources").items() {
        let mut found = 0;
        let kinds = [
            "secret",
            "configMap",
            "downwardAPI",
            "serviceAccountToken",
            "clusterTrustBundle",
            "podCertificate",
        ];
        for (kind, part) in kinds.map(|kind| (kind, source.field(kind))) {
            if !part.is_set() {
                continue;
            }
            found += 1;
            if found > 1 {
                source.forbidden(ONE_SOURCE);
                continue;
            }
            projected_source(kind, &part);
            projected_paths(kind, &part, &mut paths);
        }
        if found == 0 {
            source.required("must specify a volume type");
        }
    }
}

fn projected_source(kind: &str, part: &At<'_>) {
    match kind {
        "secret" | "configMap" => {
            part.field("name").needs_text();
            key_files(part);
        }
        "downwardAPI" => env::downward_items(&part.field("items")),
        "serviceAccountToken" => {
            let seconds = part.field("expirationSeconds");
            if seconds.int().is_some_and(|s| s < 10 * 60) {
                seconds.invalid("may not specify a duration less than 10 minutes");
            }
            if seconds.int().is_some_and(|s| s > TOKEN_SECONDS_MAX) {
                seconds.invalid("may not specify a duration larger than 2^32 seconds");
            }
            file(&part.field("path"));
        }
        "clusterTrustBundle" => {
            let (name, signer) = (part.field("name"), part.field("signerName"));
            match (name.is_set(), signer.is_set()) {
                (true, true) => part.invalid_as(name.str(), "only one of name and signerName may be used"),
                (false, false) => part.required("either name or signerName must be specified"),
                _ => {}
            }
            file(&part.field("path"));
        }
        _ => {
            part.field("signerName").needs_text();
            let keys = ["ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519", "RSA3072", "RSA4096"];
            part.field("keyType").needs_one_of(&keys);
            let paths = ["credentialBundlePath", "keyPath", "certificateChainPath"].map(|p| part.field(p));
            paths.iter().filter(|path| !path.is_empty()).for_each(file_path);
        }
    }
}

fn file(path: &At<'_>) {
    if path.needs_text() {
        file_path(path);
    }
}

/// No two sources may write the same file.
fn projected_paths<'v>(kind: &str, part: &At<'v>, seen: &mut BTreeSet<&'v str>) {
    let conflict = "conflicting duplicate paths";
    match kind {
        "secret" | "configMap" | "downwardAPI" => {
            for item in part.field("items").items() {
                let path = item.field("path");
                if !path.is_empty() && !seen.insert(path.str()) {
                    part.invalid_as(part.field("name").str(), conflict);
                }
            }
        }
        _ => {
            for path in ["path", "credentialBundlePath", "keyPath", "certificateChainPath"] {
                let path = part.field(path);
                if !path.is_empty() && !seen.insert(path.str()) {
                    part.invalid_as(path.str(), conflict);
                }
            }
        }
    }
}

fn csi(source: &At<'_>) {
    let driver = source.field("driver");
    if driver.str().len() > 63 {
        driver.report(isopod_api::field::Error::too_long(&driver.path(), 63));
    }
    if !driver.is_empty() {
        let lower = driver.str().to_lowercase();
        names::is_dns1123_subdomain(&lower).into_iter().for_each(|message| driver.invalid(message));
    }
    let secret = source.field("nodePublishSecretRef");
    if secret.is_set() {
        secret.field("name").needs_text();
    }
}

fn image(source: &At<'_>) {
    if source.field("reference").is_empty() {
        source.field("reference").required("");
    }
    source.field("pullPolicy").one_of(&["Always", "IfNotPresent", "Never"]);
}

fn ephemeral(source: &At<'_>) {
    let template = source.field("volumeClaimTemplate");
    if !template.is_set() {
        return template.required("");
    }
    let metadata = template.field("metadata");
    for (key, value) in metadata.entries() {
        if !matches!(key, "annotations" | "labels" | "creationTimestamp") && !value.is_empty() {
            metadata.field(key).forbidden("may not be set for an ephemeral volume");
        }
    }
    let labels = metadata.field("labels");
    metadata.report_all(meta::validate_labels(Some(labels.value()), &labels.path()));
    claim_spec(&template.field("spec"));
}

const ACCESS_MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

/// Ways in which a volume can be mounted.
pub(in crate::kinds) fn access_modes(modes: &At<'_>) {
    if modes.is_empty() {
        modes.required("at least 1 access mode is required");
    }
    modes.items().for_each(|mode| {
        if !ACCESS_MODES.contains(&mode.str()) {
            modes.report(isopod_api::field::Error::not_supported(&modes.path(), mode.str(), ACCESS_MODES));
        }
    });
    if modes.len() > 1 && modes.texts().any(|mode| mode == "ReadWriteOncePod") {
        modes.forbidden("may not use ReadWriteOncePod with other access modes");
    }
}

/// The spec of a claim.
pub(in crate::kinds) fn claim_spec(spec: &At<'_>) {
    affinity::label_selector(&spec.field("selector"));
    access_modes(&spec.field("accessModes"));
    let storage = spec.field("resources.requests").entry("storage");
    match storage.quantity() {
        None => storage.required(""),
        Some(amount) if amount.signum() <= 0 => storage.invalid("must be greater than zero"),
        Some(_) => resources::quantity("storage", &storage),
    }
    spec.field("storageClassName").follows(names::is_dns1123_subdomain);
    spec.field("volumeAttributesClassName").follows(names::is_dns1123_subdomain);
    spec.field("volumeMode").one_of(&["Block", "Filesystem"]);
    for source in ["dataSource", "dataSourceRef"].map(|field| spec.field(field)) {
        if source.is_set() {
            data_source(&source);
        }
    }
}

fn data_source(source: &At<'_>) {
    source.field("name").needs_text();
    source.field("kind").needs_text();
    let (group, kind) = (source.field("apiGroup"), source.field("kind"));
    if group.is_empty() && kind.str() != "PersistentVolumeClaim" {
        source
            .invalid_as(kind.str(), "must be 'PersistentVolumeClaim' when referencing the default apiGroup");
    }
    group.follows(names::is_dns1123_subdomain);
}
