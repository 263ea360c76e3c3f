//! Audit policies: which requests are recorded, how much of them, and at which stages.
//!
//! The form and the meaning are those of `audit.k8s.io/v1` `Policy`: the first rule that fits decides, and what no
//! rule fits is not recorded. Beside that, the bodies of requests that carry live credentials are never recorded,
//! whatever a policy says ([`carries_credentials`]).

use isopod_api::Value;
use isopod_api::identity::UserInfo;
use serde::Deserialize;

/// The policy of a server that is given none: everything at `Metadata`, but for what the cluster's own parts read
/// and renew all the time.
pub const DEFAULT_POLICY: &str = include_str!("default_policy.json");

/// How much of a request is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum Level {
    /// Nothing.
    None,
    /// Who, what and when.
    Metadata,
    /// The body of the request too.
    Request,
    /// The body of the answer too.
    RequestResponse,
}

impl Level {
    /// The name.
    pub fn name(self) -> &'static str {
        match self {
            Level::None => "None",
            Level::Metadata => "Metadata",
            Level::Request => "Request",
            Level::RequestResponse => "RequestResponse",
        }
    }
}

/// When in the life of a request an event is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Stage {
    /// Before anybody handles it.
    RequestReceived,
    /// The answer has begun and goes on: watches, logs, streams.
    ResponseStarted,
    /// The answer is complete.
    ResponseComplete,
    /// The handler panicked.
    Panic,
}

impl Stage {
    /// The name.
    pub fn name(self) -> &'static str {
        match self {
            Stage::RequestReceived => "RequestReceived",
            Stage::ResponseStarted => "ResponseStarted",
            Stage::ResponseComplete => "ResponseComplete",
            Stage::Panic => "Panic",
        }
    }
}

/// A set of stages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stages(u8);

impl Stages {
    /// Whether a stage is in the set.
    pub fn contains(self, stage: Stage) -> bool {
        self.0 & (1 << stage as u8) != 0
    }

    fn of(stages: &[Stage]) -> Stages {
        Stages(stages.iter().fold(0, |set, stage| set | 1 << *stage as u8))
    }
}

/// What a rule is asked about.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Who asks; `None` when authentication failed.
    pub user: Option<&'a UserInfo>,
    /// Verb.
    pub verb: &'a str,
    /// Whether this is about a resource.
    pub is_resource: bool,
    /// API group.
    pub group: &'a str,
    /// Plural resource.
    pub resource: &'a str,
    /// Subresource or empty.
    pub subresource: &'a str,
    /// Namespace or empty.
    pub namespace: &'a str,
    /// Name or empty.
    pub name: &'a str,
    /// Path, for requests that are about no resource.
    pub path: &'a str,
}

/// What a policy says about a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judgement {
    /// How much is recorded.
    pub level: Level,
    /// Stages at which nothing is.
    pub omit: Stages,
    /// Whether `metadata.managedFields` is left out of bodies.
    pub omit_managed_fields: bool,
}

/// Why a policy cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// It is no Policy, or has fields that no Policy has.
    #[error("not an audit.k8s.io/v1 Policy: {0}")]
    Form(String),
    /// Another version or kind.
    #[error("apiVersion and kind are {0:?} and {1:?}, expected audit.k8s.io/v1 and Policy")]
    Kind(String, String),
    /// Without rules nothing would be recorded.
    #[error("a policy needs at least one rule")]
    NoRules,
    /// A rule contradicts itself.
    #[error("rules[{0}]: {1}")]
    Rule(usize, &'static str),
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct GroupResources {
    group: String,
    resources: Vec<String>,
    resource_names: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    level: Level,
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    user_groups: Vec<String>,
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default)]
    resources: Vec<GroupResources>,
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(default, rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    omit_managed_fields: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    api_version: String,
    kind: String,
    #[serde(default, rename = "metadata")]
    _metadata: Value,
    #[serde(default)]
    rules: Vec<Rule>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    #[serde(default)]
    omit_managed_fields: bool,
}

/// A policy.
#[derive(Debug, Clone)]
pub struct Policy {
    rules: Vec<(Rule, Judgement)>,
    otherwise: Judgement,
}

impl Policy {
    /// Reads a policy.
    ///
    /// # Errors
    /// When it is no `audit.k8s.io/v1` Policy, or a rule contradicts itself.
    pub fn parse(document: Value) -> Result<Policy, PolicyError> {
        let document: Document =
            serde_json::from_value(document).map_err(|e| PolicyError::Form(e.to_string()))?;
        if document.api_version != "audit.k8s.io/v1" || document.kind != "Policy" {
            return Err(PolicyError::Kind(document.api_version, document.kind));
        }
        if document.rules.is_empty() {
            return Err(PolicyError::NoRules);
        }
        let mut rules = Vec::with_capacity(document.rules.len());
        for (at, rule) in document.rules.into_iter().enumerate() {
            check(&rule).map_err(|why| PolicyError::Rule(at, why))?;
            let stages: Vec<Stage> = document.omit_stages.iter().chain(&rule.omit_stages).copied().collect();
            let judgement = Judgement {
                level: rule.level,
                omit: Stages::of(&stages),
                omit_managed_fields: rule.omit_managed_fields.unwrap_or(document.omit_managed_fields),
            };
            rules.push((rule, judgement));
        }
        let otherwise = Judgement {
            level: Level::None,
            omit: Stages::of(&document.omit_stages),
            omit_managed_fields: document.omit_managed_fields,
        };
        Ok(Policy { rules, otherwise })
    }

    /// What the policy says about a request.
    pub fn judge(&self, subject: &Subject<'_>) -> Judgement {
        self.rules.iter().find(|(rule, _)| fits(rule, subject)).map_or(self.otherwise, |(_, j)| *j)
    }
}

impl Default for Policy {
    fn default() -> Policy {
        let document = serde_json::from_str(DEFAULT_POLICY).expect("the default policy is JSON");
        Policy::parse(document).expect("the default policy is valid")
    }
}

/// Whether the bodies of requests to a resource hold credentials that work: tokens to be reviewed or just issued.
pub fn carries_credentials(group: &str, resource: &str, subresource: &str) -> bool {
    matches!(
        (group, resource, subresource),
        ("authentication.k8s.io", "tokenreviews", _) | ("", "serviceaccounts", "token")
    )
}

fn check(rule: &Rule) -> Result<(), &'static str> {
    let about_resources = !rule.resources.is_empty() || !rule.namespaces.is_empty();
    if about_resources && !rule.non_resource_urls.is_empty() {
        return Err("a rule is about resources and namespaces, or about nonResourceURLs, not both");
    }
    for url in &rule.non_resource_urls {
        if url != "*" && !url.starts_with('/') {
            return Err("nonResourceURLs begin with a slash, or are *");
        }
        if url.strip_suffix('*').unwrap_or(url).contains('*') {
            return Err("nonResourceURLs have a * at the end alone");
        }
    }
    for group in &rule.resources {
        if group.group.contains('/') {
            return Err("group is a group without a version");
        }
        if group.resources.is_empty() && !group.resource_names.is_empty() {
            return Err("resourceNames needs resources");
        }
    }
    Ok(())
}

fn fits(rule: &Rule, subject: &Subject<'_>) -> bool {
    let has = |list: &[String], value: &str| list.iter().any(|item| item == value);
    if !rule.users.is_empty() && !subject.user.is_some_and(|user| has(&rule.users, &user.name)) {
        return false;
    }
    let in_group = |user: &UserInfo| user.groups.iter().any(|group| has(&rule.user_groups, group));
    if !rule.user_groups.is_empty() && !subject.user.is_some_and(in_group) {
        return false;
    }
    if !rule.verbs.is_empty() && !has(&rule.verbs, subject.verb) {
        return false;
    }
    if !rule.namespaces.is_empty() || !rule.resources.is_empty() {
        return subject.is_resource
            && (rule.namespaces.is_empty() || has(&rule.namespaces, subject.namespace))
            && (rule.resources.is_empty() || rule.resources.iter().any(|group| covers(group, subject)));
    }
    if !rule.non_resource_urls.is_empty() {
        return !subject.is_resource && rule.non_resource_urls.iter().any(|url| url_fits(url, subject.path));
    }
    true
}

fn url_fits(url: &str, path: &str) -> bool {
    url == path || url.strip_suffix('*').is_some_and(|start| path.starts_with(start))
}

fn covers(group: &GroupResources, subject: &Subject<'_>) -> bool {
    if group.group != subject.group && group.group != "*" {
        return false;
    }
    if group.resources.is_empty() {
        return true;
    }
    if !group.resource_names.is_empty() && !group.resource_names.iter().any(|name| name == subject.name) {
        return false;
    }
    group.resources.iter().any(|pattern| match (pattern.split_once('/'), subject.subresource) {
        _ if pattern == "*" => true,
        (None, sub) => sub.is_empty() && pattern == subject.resource,
        (Some((resource, "*")), _) => resource == subject.resource,
        (Some(("*", wanted)), sub) => !sub.is_empty() && wanted == sub,
        (Some((resource, wanted)), sub) => resource == subject.resource && wanted == sub,
    })
}

#[cfg(test)]
mod tests;
