//! Tests of `codec`.

use super::*;
use crate::facts;
use serde_json::json;

fn schema(group: &str, version: &str, kind: &str) -> Schema {
    facts::builtin().kind(group, version, kind).unwrap().schema.clone()
}

fn check(kind: &str, text: &str, validation: FieldValidation) -> String {
    let group = if matches!(kind, "Deployment" | "ControllerRevision") { "apps" } else { "" };
    match decode(text.as_bytes(), MediaType::Json, &schema(group, "v1", kind), validation) {
        Ok(decoded) if decoded.warnings.is_empty() => decoded.value.to_string(),
        Ok(decoded) => format!("{}\n{}", decoded.value, decoded.warnings.join("\n")),
        Err(error) => error.to_string(),
    }
}

#[test]
fn writes_what_upstream_always_writes() {
    let got = check(
        "Namespace",
        r#"{"kind":"Namespace","metadata":{"name":"x","labels":{}}}"#,
        FieldValidation::Strict,
    );
    assert_eq!(got, r#"{"kind":"Namespace","metadata":{"name":"x"},"spec":{},"status":{}}"#);
}

#[test]
fn names_unknown_and_duplicate_fields() {
    let text = r#"{"spec":{"containers":[{"name":"a","foo":1,"image":"x","image":"y"}],"containers2":null}}"#;
    assert_eq!(
        check("Pod", text, FieldValidation::Strict),
        "strict decoding error: unknown field \"spec.containers[0].foo\", \
         duplicate field \"spec.containers[0].image\", unknown field \"spec.containers2\""
    );
    assert!(check("Pod", text, FieldValidation::Warn).contains(r#""image":"y""#));
    assert!(!check("Pod", text, FieldValidation::Ignore).contains('\n'));
}

#[test]
fn words_errors_as_upstream() {
    let check = |text: &str| check("Deployment", text, FieldValidation::Ignore);
    assert_eq!(
        check(r#"{"spec":{"replicas":"3"}}"#),
        "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32"
    );
    assert_eq!(
        check(r#"{"spec":{"template":{"spec":{"containers":[{"env":[{"name":"a","value":1}]}]}}}}"#),
        "json: cannot unmarshal number into Go struct field EnvVar.spec.template.spec.containers.env.value of type string"
    );
    assert_eq!(
        check(r#"{"spec":{"template":{"spec":{"containers":{}}}}}"#),
        "json: cannot unmarshal object into Go struct field PodSpec.spec.template.spec.containers of type []v1.Container"
    );
    assert_eq!(check("[]"), "json: cannot unmarshal array into Go value of type v1.Deployment");
    assert_eq!(check(r#"{"spec":"#), "unexpected end of JSON input");
}

#[test]
fn bounds_nesting() {
    let deep = format!("{{\"data\":{}1", "[".repeat(5000));
    assert!(check("ControllerRevision", &deep, FieldValidation::Ignore).contains("recursion limit"));
    let deep = format!("{{\"unknown\":{}1", "[".repeat(500_000));
    check("ControllerRevision", &deep, FieldValidation::Ignore);
}

#[test]
fn normalises_scalars() {
    let text = r#"{"metadata":{"creationTimestamp":"2024-05-01T12:00:00.5+02:00","generation":0},
        "spec":{"containers":[{"name":"a","resources":{"limits":{"cpu":1.5,"memory":"1024Mi","x":2}},
        "ports":[{"containerPort":80}]}]}}"#;
    let decoded =
        decode(text.as_bytes(), MediaType::Json, &schema("", "v1", "Pod"), FieldValidation::Strict).unwrap();
    assert_eq!(decoded.value["metadata"], json!({"creationTimestamp": "2024-05-01T10:00:00Z"}));
    let limits = &decoded.value["spec"]["containers"][0]["resources"]["limits"];
    assert_eq!(*limits, json!({"cpu": "1500m", "memory": "1Gi", "x": "2"}));
}

#[test]
fn reads_yaml_with_any_keys() {
    let text = "metadata:\n  labels:\n    1: a\n    true: b\ndata: {k: 'v'}\n";
    let decoded =
        decode(text.as_bytes(), MediaType::Yaml, &schema("", "v1", "ConfigMap"), FieldValidation::Strict)
            .unwrap();
    assert_eq!(decoded.value["metadata"]["labels"], json!({"1": "a", "true": "b"}));
}

#[test]
fn keeps_what_it_does_not_know_of_custom_resources() {
    let text =
        r#"{"kind":"Crontab","apiVersion":"x/v1","metadata":{"name":"a","foo":1},"spec":{"a":null,"b":[]}}"#;
    let schema = facts::builtin().unstructured();
    let decoded = decode(text.as_bytes(), MediaType::Json, &schema, FieldValidation::Warn).unwrap();
    assert_eq!(decoded.warnings, [r#"unknown field "metadata.foo""#]);
    assert_eq!(decoded.value["spec"], json!({"a": null, "b": []}));
}

/// One object of every kind, from upstream's round-trip tests.
mod every_kind {
    use super::*;
    use std::path::{Path, PathBuf};

    struct Sample {
        name: String,
        schema: Schema,
        json: Value,
        proto: Vec<u8>,
    }

    /// Upstream's round-trip vectors are not part of this repository: they lie in `shared/` beside it, or one
    /// folder further up.
    fn fixtures() -> PathBuf {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let places = ["../shared", "../../shared"];
        let found = places.map(|place| root.join(place).join("upstream-1.36/api-fixtures"));
        found.iter().find(|path| path.is_dir()).cloned().unwrap_or_else(|| {
            panic!("the round-trip vectors of github.com/kubernetes/api at v1.36 are in neither of {found:?}")
        })
    }

    fn samples() -> Vec<Sample> {
        let folder = fixtures();
        let mut paths: Vec<PathBuf> =
            std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()).collect();
        paths.retain(|path| path.extension().is_some_and(|e| e == "json"));
        paths.sort();
        paths.into_iter().map(|path| sample(&path)).collect()
    }

    fn sample(path: &Path) -> Sample {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let (rest, kind) = name.rsplit_once('.').unwrap();
        let (group, version) = rest.rsplit_once('.').unwrap();
        let group = if group == "core" { "" } else { group };
        let facts = facts::builtin().kind(group, version, kind).unwrap_or_else(|| panic!("no kind {name}"));
        Sample {
            schema: facts.schema.clone(),
            json: serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap(),
            proto: std::fs::read(path.with_extension("pb")).unwrap(),
            name,
        }
    }

    #[test]
    fn goes_round() {
        let samples = samples();
        let mut failures = Vec::new();
        for Sample { name, schema, json, proto } in &samples {
            let read = |bytes: &[u8], media| {
                decode(bytes, media, schema, FieldValidation::Strict).map(|decoded| decoded.value)
            };
            let mut expect = |what: &str, got: Result<Value, DecodeError>| {
                if got.as_ref() != Ok(json) {
                    failures.push(format!("{name} {what}: {got:?}\nwanted {json}"));
                }
            };
            expect("json", read(json.to_string().as_bytes(), MediaType::Json));
            expect("yaml", read(&encode(json, MediaType::Yaml, schema), MediaType::Yaml));
            expect("proto", Ok(proto::decode_as(schema, proto).unwrap().value));
            expect("normalised", Ok(normalize(json.clone(), schema, FieldValidation::Strict).unwrap().value));
            let encoded = proto::encode_object(schema, json);
            if encoded != *proto {
                let (got, wanted) = (encoded.escape_ascii(), proto.escape_ascii());
                failures.push(format!("{name} to proto:\n{got}\nwanted\n{wanted}"));
            }
        }
        assert!(samples.len() >= 185, "{} samples", samples.len());
        assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n\n"));
    }

    #[test]
    fn torn_bytes_are_errors_not_panics() {
        for Sample { schema, proto, .. } in samples().iter().step_by(9) {
            for end in (0..proto.len()).step_by(7) {
                // Cut anywhere: an error or a smaller object, and nothing else.
                if let Ok(decoded) = proto::decode_as(schema, &proto[..end]) {
                    assert!(decoded.value.is_object());
                }
            }
        }
    }
}
