//! Content negotiation: which form of an answer a client accepts, and what form a body has.

use isopod_api::status::Status;

pub use isopod_api::codec::MediaType as Media;

/// Value of the `Content-Type` header of a watch.
pub fn watch_content_type(media: Media) -> &'static str {
    match media {
        Media::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
        other => other.as_str(),
    }
}

/// The serialisation of a request body by its `Content-Type`; JSON when nothing is said.
pub fn of_body(content_type: Option<&str>) -> Result<Media, Status> {
    let text = content_type.unwrap_or_default();
    if let Some(media) = Media::from_content_type(text) {
        return Ok(media);
    }
    match text.split(';').next().unwrap_or_default().trim() {
        // Plain curl and `kubectl --raw` send these without meaning them.
        "*/*" | "application/x-www-form-urlencoded" | "text/plain" => Ok(Media::Json),
        _ => Err(Status::unsupported_media_type(SUPPORTED)),
    }
}

const SUPPORTED: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";

/// What objects are turned into before they are sent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Target {
    /// As they are.
    #[default]
    Object,
    /// A `meta.k8s.io` Table of this version.
    Table(String),
    /// Metadata alone, in this version of `meta.k8s.io`; a list if the request is a list.
    Metadata(String),
}

/// The answer's form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accept {
    /// Serialisation.
    pub media: Media,
    /// Transformation.
    pub target: Target,
    /// Indented JSON.
    pub pretty: bool,
    /// Whether gzip may be used.
    pub gzip: bool,
}

impl Default for Accept {
    fn default() -> Accept {
        Accept { media: Media::Json, target: Target::Object, pretty: false, gzip: false }
    }
}

/// One range of an `Accept` header.
#[derive(Debug, PartialEq)]
pub struct Range<'h> {
    /// `type/subtype`.
    pub media: &'h str,
    /// Other parameters than `q`.
    pub params: Vec<(&'h str, &'h str)>,
    quality: f32,
}

impl<'h> Range<'h> {
    /// A parameter, empty when absent.
    pub fn param(&self, name: &str) -> &'h str {
        self.params.iter().find(|(k, _)| *k == name).map_or("", |(_, v)| *v)
    }
}

/// The ranges of an `Accept` header, best first.
pub fn ranges(header: &str) -> Vec<Range<'_>> {
    let mut ranges: Vec<Range<'_>> = header
        .split(',')
        .map(|part| {
            let mut pieces = part.split(';').map(str::trim);
            let media = pieces.next().unwrap_or_default();
            let mut range = Range { media, params: Vec::new(), quality: 1.0 };
            for (key, value) in pieces.filter_map(|p| p.split_once('=')) {
                let value = value.trim_matches('"');
                if key == "q" {
                    range.quality = value.parse().unwrap_or(0.0);
                } else {
                    range.params.push((key, value));
                }
            }
            range
        })
        .filter(|r| !r.media.is_empty() && r.quality > 0.0)
        .collect();
    ranges.sort_by(|a, b| b.quality.total_cmp(&a.quality));
    ranges
}

fn media_of(range: &str) -> Option<Media> {
    match range {
        "application/json" | "*/*" | "application/*" => Some(Media::Json),
        "application/yaml" => Some(Media::Yaml),
        "application/vnd.kubernetes.protobuf" => Some(Media::Protobuf),
        _ => None,
    }
}

/// Picks the form of an answer to a request for objects.
pub fn objects(headers: &http::HeaderMap) -> Result<Accept, Status> {
    let text = |name| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let gzip = text(http::header::ACCEPT_ENCODING).split(',').any(|e| e.trim().starts_with("gzip"));
    let header = text(http::header::ACCEPT);
    if header.is_empty() {
        return Ok(Accept { gzip, ..Accept::default() });
    }
    for range in ranges(header) {
        let Some(media) = media_of(range.media) else { continue };
        let version = range.param("v");
        let meta = range.param("g") == "meta.k8s.io" && matches!(version, "v1" | "v1beta1");
        let target = match range.param("as") {
            "" => Target::Object,
            "Table" if meta && media != Media::Protobuf => Target::Table(version.to_owned()),
            "PartialObjectMetadata" | "PartialObjectMetadataList" if meta => {
                Target::Metadata(version.to_owned())
            }
            _ => continue,
        };
        return Ok(Accept { media, target, pretty: false, gzip });
    }
    Err(Status::not_acceptable(SUPPORTED))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pick(accept: &str) -> Option<(Media, Target)> {
        let mut headers = http::HeaderMap::new();
        headers.insert(http::header::ACCEPT, accept.parse().unwrap());
        objects(&headers).ok().map(|a| (a.media, a.target))
    }

    #[test]
    fn picks() {
        for (accept, want) in [
            ("*/*", Some((Media::Json, Target::Object))),
            ("application/json;q=0.5, application/yaml", Some((Media::Yaml, Target::Object))),
            (
                "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
                Some((Media::Json, Target::Table("v1".into()))),
            ),
            (
                "application/json;as=Table;v=v9;g=meta.k8s.io,application/json",
                Some((Media::Json, Target::Object)),
            ),
            (
                "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
                Some((Media::Protobuf, Target::Metadata("v1".into()))),
            ),
            ("text/html", None),
        ] {
            assert_eq!(pick(accept), want, "{accept}");
        }
    }
}
