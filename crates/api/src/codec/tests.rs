use super::*;
use crate::facts;
use serde_json::json;

fn schema(group: &str, version: &str, kind: &str) -> Schema {
    facts::builtin().kind(group, version, kind).unwrap().schema.clone()
}

fn check(kind: &str, text: &str, validation: FieldValidation) -> String {
    let group = if kind == "Deployment" { "apps" } else { "" };
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
    assert!(check(&format!("{}{}", r#"{"a":"#.repeat(5000), "1")).contains("recursion limit"));
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

/// Fixtures of upstream's round trip tests, in the test data of this crate: one object of every kind, in JSON, YAML and
/// protobuf.
mod fixtures {
    use super::*;

    fn each(mut check: impl FnMut(&str, Schema, &str)) {
        for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/objects")).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let Some(name) = name.strip_suffix(".json") else { continue };
            let (rest, kind) = name.rsplit_once('.').unwrap();
            let (group, version) = rest.rsplit_once('.').unwrap();
            let group = if group == "core" { "" } else { group };
            let facts = facts::builtin().kind(group, version, kind).unwrap_or_else(|| panic!("kind {name}"));
            check(name, facts.schema.clone(), path.with_extension("").to_str().unwrap());
        }
    }

    #[test]
    fn every_kind_goes_round() {
        let mut count = 0;
        let mut failures = Vec::new();
        each(|name, schema, stem| {
            count += 1;
            let json: Value =
                serde_json::from_slice(&std::fs::read(format!("{stem}.json")).unwrap()).unwrap();
            let yaml = std::fs::read(format!("{stem}.yaml")).unwrap();
            let proto = std::fs::read(format!("{stem}.pb")).unwrap();
            let text = json.to_string();
            let read = |bytes: &[u8], media| {
                decode(bytes, media, &schema, FieldValidation::Strict).map(|decoded| decoded.value)
            };
            let from_json = read(text.as_bytes(), MediaType::Json);
            if from_json.as_ref() != Ok(&json) {
                failures.push(format!("{name} json: {from_json:?}\nwanted {json}"));
            }
            if read(&yaml, MediaType::Yaml).as_ref() != Ok(&json) {
                failures.push(format!("{name} yaml"));
            }
            let from_proto = proto::decode_as(&schema, &proto).map(|decoded| decoded.value);
            if from_proto.as_ref() != Ok(&json) {
                failures.push(format!("{name} pb: {from_proto:?}\nwanted {json}"));
            }
            let encoded = proto::encode_object(&schema, &json);
            if encoded != proto {
                failures.push(format!(
                    "{name} to pb:\n{}\nwanted\n{}",
                    encoded.escape_ascii(),
                    proto.escape_ascii()
                ));
            }
        });
        assert!(count >= 185, "{count} fixtures");
        assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n\n"));
    }
}
