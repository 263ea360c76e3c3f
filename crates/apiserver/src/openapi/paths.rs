//! The `paths` of the OpenAPI documents, made from the served resources and their verbs.

use isopod_api::openapi::{Flavor, model_name};
use isopod_api::{Map, Value};
use serde_json::json;

use crate::registry::Resource;
use crate::server::ApiServer;

const PATCH_TYPES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];
const OBJECT_TYPES: [&str; 3] =
    ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

/// One operation to be described.
struct Operation<'a> {
    resource: &'a Resource,
    /// Subresource with its own kind.
    sub: Option<&'a isopod_api::facts::SubresourceFacts>,
    verb: &'a str,
    flavor: Flavor,
}

/// The paths of a group version, or of all.
pub(super) fn of(server: &ApiServer, only: Option<(&str, &str)>, flavor: Flavor) -> Map {
    let mut paths = Map::new();
    for resource in server.registry().resources() {
        let facts = resource.facts;
        if only.is_some_and(|o| o != (facts.group, facts.version)) {
            continue;
        }
        let root = match facts.group {
            "" => format!("/api/{}", facts.version),
            group => format!("/apis/{group}/{}", facts.version),
        };
        let place = if facts.namespaced { "/namespaces/{namespace}" } else { "" };
        let collection = format!("{root}{place}/{}", facts.plural);
        for verb in &facts.verbs {
            let operation = Operation { resource, sub: None, verb, flavor };
            match *verb {
                "list" | "create" | "deletecollection" => operation.add(&mut paths, &collection),
                "get" | "update" | "patch" | "delete" => {
                    operation.add(&mut paths, &format!("{collection}/{{name}}"))
                }
                _ => {}
            }
            if *verb == "list" && facts.namespaced {
                operation.add(&mut paths, &format!("{root}/{}", facts.plural));
            }
        }
        for sub in &facts.subresources {
            let path = format!("{collection}/{{name}}/{}", sub.name);
            for verb in &sub.verbs {
                Operation { resource, sub: Some(sub), verb, flavor }.add(&mut paths, &path);
            }
        }
    }
    paths
}

impl Operation<'_> {
    fn add(&self, paths: &mut Map, path: &str) {
        let method = match self.verb {
            "list" | "get" => "get",
            "create" => "post",
            "update" => "put",
            "patch" => "patch",
            "delete" | "deletecollection" => "delete",
            _ => return,
        };
        let item =
            paths.entry(path.to_owned()).or_insert_with(|| json!({"parameters": self.path_parameters(path)}));
        item[method] = self.describe(path);
    }

    fn gvk(&self) -> (&str, &str, &str) {
        let facts = self.resource.facts;
        self.sub.map_or((facts.group, facts.version, facts.kind), |s| (s.group, s.version, s.kind))
    }

    fn describe(&self, path: &str) -> Value {
        let (group, version, kind) = self.gvk();
        let action = match self.verb {
            "create" => "post",
            "update" => "put",
            other => other,
        };
        let mut operation = json!({
            "operationId": self.id(path),
            "tags": [self.tag()],
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": {"group": group, "kind": kind, "version": version},
        });
        let mut parameters = self.query_parameters();
        let model = model_name(group, version, kind);
        let mut answer = match self.verb {
            "list" => model_name(group, version, &format!("{kind}List")),
            "delete" | "deletecollection" => Some("io.k8s.apimachinery.pkg.apis.meta.v1.Status".to_owned()),
            _ => model.clone(),
        };
        if self.sub.is_some_and(|s| s.name == "log") {
            answer = None;
        }
        let body = match self.verb {
            "create" | "update" => model,
            "patch" => Some("io.k8s.apimachinery.pkg.apis.meta.v1.Patch".to_owned()),
            "delete" | "deletecollection" => {
                Some("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions".to_owned())
            }
            _ => None,
        };
        let consumes: &[&str] = if self.verb == "patch" { &PATCH_TYPES } else { &["*/*"] };
        let required = !matches!(self.verb, "delete" | "deletecollection");
        match self.flavor {
            Flavor::V2 => {
                if let Some(body) = body {
                    let schema = json!({"$ref": format!("#/definitions/{body}")});
                    let mut parameter = json!({"name": "body", "in": "body", "schema": schema});
                    if required {
                        parameter["required"] = true.into();
                    }
                    parameters.insert(0, parameter);
                    operation["consumes"] = json!(consumes);
                }
                operation["produces"] = json!(OBJECT_TYPES);
                operation["schemes"] = json!(["https"]);
            }
            Flavor::V3 => {
                if let Some(body) = body {
                    let schema = json!({"schema": {"$ref": format!("#/components/schemas/{body}")}});
                    let content: Map = consumes.iter().map(|c| ((*c).to_owned(), schema.clone())).collect();
                    operation["requestBody"] = json!({"content": content});
                    if required {
                        operation["requestBody"]["required"] = true.into();
                    }
                }
            }
        }
        if !parameters.is_empty() {
            operation["parameters"] = parameters.into();
        }
        operation["responses"] = self.responses(answer.as_deref());
        operation
    }

    fn responses(&self, model: Option<&str>) -> Value {
        let ok = match (self.flavor, model) {
            (Flavor::V2, Some(model)) => {
                json!({"description": "OK", "schema": {"$ref": format!("#/definitions/{model}")}})
            }
            (Flavor::V2, None) => json!({"description": "OK", "schema": {"type": "string"}}),
            (Flavor::V3, model) => {
                let schema = match model {
                    Some(model) => json!({"$ref": format!("#/components/schemas/{model}")}),
                    None => json!({"type": "string"}),
                };
                let types: &[&str] = if model.is_some() { &OBJECT_TYPES } else { &["text/plain"] };
                let content: Map =
                    types.iter().map(|t| ((*t).to_owned(), json!({"schema": schema}))).collect();
                json!({"description": "OK", "content": content})
            }
        };
        let code = if self.verb == "create" { "201" } else { "200" };
        json!({code: ok, "401": {"description": "Unauthorized"}})
    }

    fn parameter(&self, place: &str, name: &str, kind: &str) -> Value {
        match self.flavor {
            Flavor::V2 if place == "path" => {
                json!({"name": name, "in": place, "type": kind, "uniqueItems": true, "required": true})
            }
            Flavor::V2 => json!({"name": name, "in": place, "type": kind, "uniqueItems": true}),
            Flavor::V3 if place == "path" => {
                json!({"name": name, "in": place, "schema": {"type": kind, "uniqueItems": true}, "required": true})
            }
            Flavor::V3 => json!({"name": name, "in": place, "schema": {"type": kind, "uniqueItems": true}}),
        }
    }

    fn path_parameters(&self, path: &str) -> Vec<Value> {
        let mut parameters = Vec::new();
        for name in ["name", "namespace"] {
            if path.contains(&format!("{{{name}}}")) {
                parameters.push(self.parameter("path", name, "string"));
            }
        }
        parameters.push(self.parameter("query", "pretty", "string"));
        parameters
    }

    fn query_parameters(&self) -> Vec<Value> {
        let names: &[(&str, &str)] = match self.verb {
            "create" | "update" => {
                &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")]
            }
            "patch" => &[
                ("dryRun", "string"),
                ("fieldManager", "string"),
                ("fieldValidation", "string"),
                ("force", "boolean"),
            ],
            "delete" => &[
                ("dryRun", "string"),
                ("gracePeriodSeconds", "integer"),
                ("orphanDependents", "boolean"),
                ("propagationPolicy", "string"),
            ],
            "list" | "deletecollection" => &[
                ("allowWatchBookmarks", "boolean"),
                ("continue", "string"),
                ("fieldSelector", "string"),
                ("labelSelector", "string"),
                ("limit", "integer"),
                ("resourceVersion", "string"),
                ("resourceVersionMatch", "string"),
                ("sendInitialEvents", "boolean"),
                ("timeoutSeconds", "integer"),
                ("watch", "boolean"),
            ],
            _ => &[],
        };
        names.iter().map(|(name, kind)| self.parameter("query", name, kind)).collect()
    }

    /// `core_v1`, `rbacAuthorization_v1`.
    fn tag(&self) -> String {
        let facts = self.resource.facts;
        let group = camel_group(facts.group);
        let mut chars = group.chars();
        let first = chars.next().map(|c| c.to_ascii_lowercase()).into_iter();
        format!("{}_{}", first.chain(chars).collect::<String>(), facts.version)
    }

    /// Upstream's operation id, such as `listCoreV1NamespacedPod`.
    fn id(&self, path: &str) -> String {
        let facts = self.resource.facts;
        let verb = match self.verb {
            "get" => "read",
            "update" => "replace",
            "deletecollection" => "delete",
            other => other,
        };
        let collection = if self.verb == "deletecollection" { "Collection" } else { "" };
        let namespaced = if path.contains("{namespace}") { "Namespaced" } else { "" };
        let all = if facts.namespaced && !path.contains("{namespace}") { "ForAllNamespaces" } else { "" };
        let sub = self.sub.map_or(String::new(), |s| capital(s.name));
        format!(
            "{verb}{}{}{collection}{namespaced}{}{sub}{all}",
            camel_group(facts.group),
            capital(facts.version),
            facts.kind
        )
    }
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|c| c.to_ascii_uppercase()).into_iter().chain(chars).collect()
}

/// `Core`, `Apps`, `RbacAuthorization`.
fn camel_group(group: &str) -> String {
    if group.is_empty() {
        return "Core".to_owned();
    }
    group.trim_end_matches(".k8s.io").split('.').map(capital).collect()
}
