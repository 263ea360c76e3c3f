//! Names of images, normalised as Docker and containerd do: `busybox` is `docker.io/library/busybox:latest`.

use std::fmt;

use crate::error::Error;

/// The name of an image in a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Host and port of the registry.
    pub registry: String,
    /// Path in the registry.
    pub repository: String,
    /// The tag; `latest` if neither a tag nor a digest was given.
    pub tag: Option<String>,
    /// `sha256:<hex>`.
    pub digest: Option<String>,
}

impl Reference {
    /// Parses and normalises a name.
    pub fn parse(name: &str) -> Result<Self, Error> {
        let bad = |why: &str| Error::Invalid(format!("image name {name:?}: {why}"));
        if name.is_empty() || name.len() > 512 {
            return Err(bad("must have between 1 and 512 characters"));
        }
        let (rest, digest) = match name.split_once('@') {
            Some((rest, digest)) => (rest, Some(check_digest(digest).map_err(|e| bad(&e))?)),
            None => (name, None),
        };
        let (path, tag) = match rest.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
            _ => (rest, None),
        };
        if let Some(tag) = tag
            && !is_tag(tag)
        {
            return Err(bad("the tag has characters that tags cannot have"));
        }
        let (registry, repository) = match path.split_once('/') {
            Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => {
                (first, rest.to_owned())
            }
            Some(_) => ("docker.io", path.to_owned()),
            None => ("docker.io", format!("library/{path}")),
        };
        let registry = if registry == "index.docker.io" { "docker.io" } else { registry };
        if !registry.bytes().all(|b| b.is_ascii_alphanumeric() || b".-:[]".contains(&b)) {
            return Err(bad("the registry has characters that host names cannot have"));
        }
        if repository.split('/').any(|part| !is_path_component(part)) {
            return Err(bad("the repository must be lower-case letters and digits, separated by . _ - or /"));
        }
        let tag = match (tag, &digest) {
            (Some(tag), _) => Some(tag.to_owned()),
            (None, None) => Some("latest".to_owned()),
            (None, Some(_)) => None,
        };
        Ok(Self { registry: registry.to_owned(), repository, tag, digest })
    }

    /// Registry and repository.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The full name with its tag.
    pub fn with_tag(&self) -> String {
        format!("{}:{}", self.name(), self.tag.as_deref().unwrap_or("latest"))
    }

    /// The full name with its digest, if it has one.
    pub fn with_digest(&self) -> Option<String> {
        self.digest.as_ref().map(|digest| format!("{}@{digest}", self.name()))
    }

    /// Whether the registry is on this machine, where plain HTTP is customary.
    pub fn is_loopback(&self) -> bool {
        let host = self.registry.rsplit_once(':').map_or(self.registry.as_str(), |(host, _)| host);
        host == "localhost"
            || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// Checks `sha256:<64 hex digits>`, the only algorithm that registries use.
pub(crate) fn check_digest(digest: &str) -> Result<String, String> {
    match digest.split_once(':') {
        Some(("sha256", hex))
            if hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) =>
        {
            Ok(digest.to_owned())
        }
        _ => Err(format!("{digest:?} is not sha256: and 64 hexadecimal digits")),
    }
}

fn is_tag(tag: &str) -> bool {
    (1..=128).contains(&tag.len())
        && tag.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
        && !tag.starts_with(['.', '-'])
}

fn is_path_component(part: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    !part.is_empty()
        && part.bytes().all(|b| alphanumeric(b) || b"._-".contains(&b))
        && part.bytes().next().is_some_and(alphanumeric)
        && part.bytes().last().is_some_and(alphanumeric)
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn check(name: &str, expect: Expect) {
        expect.assert_eq(&match Reference::parse(name) {
            Ok(reference) => reference.to_string(),
            Err(e) => e.to_string(),
        });
    }

    #[test]
    fn normalised() {
        check("busybox", expect!["docker.io/library/busybox:latest"]);
        check("a/b:1.0", expect!["docker.io/a/b:1.0"]);
        check("localhost:5000/x", expect!["localhost:5000/x:latest"]);
        check("registry.k8s.io/pause:3.10", expect!["registry.k8s.io/pause:3.10"]);
        let digest = format!("x@sha256:{}", "0".repeat(64));
        check(
            &digest,
            expect![
                "docker.io/library/x@sha256:0000000000000000000000000000000000000000000000000000000000000000"
            ],
        );
    }

    #[test]
    fn refused() {
        check("", expect![[r#"image name "": must have between 1 and 512 characters"#]]);
        check("../x", expect!["../x:latest"]);
        check("x:a b", expect![[r#"image name "x:a b": the tag has characters that tags cannot have"#]]);
        check(
            "x@sha256:12",
            expect![[r#"image name "x@sha256:12": "sha256:12" is not sha256: and 64 hexadecimal digits"#]],
        );
    }
}
