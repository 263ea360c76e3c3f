//! Nobody may grant permissions they do not hold themselves.
//!
//! A rule to be granted is broken into single permissions (one verb, one group, one resource, one name) and each
//! must be covered by one rule of the granter. What is missing is put together again for the message.

use std::collections::BTreeSet;

use isopod_api::identity::{GROUP_MASTERS, UserInfo};

use super::rule::{Rule, covers_url};

/// Whether the user is exempt: members of `system:masters` hold everything by definition.
pub fn exempt(user: &UserInfo) -> bool {
    user.in_group(GROUP_MASTERS)
}

/// The permissions in `wanted` that `held` does not cover.
pub fn missing(held: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    wanted
        .iter()
        .flat_map(break_down)
        .filter(|single| !held.iter().any(|rule| covers(rule, single)))
        .collect()
}

/// Refuses a grant of `wanted` by a user who holds `held`; `unresolved` are roles that could not be found.
///
/// # Errors
/// With upstream's message, naming what the user does not hold.
pub fn confirm(user: &UserInfo, held: &[Rule], unresolved: &[String], wanted: &[Rule]) -> Result<(), String> {
    let missing = missing(held, wanted);
    if missing.is_empty() {
        return Ok(());
    }
    let descriptions: BTreeSet<String> = compact(missing).iter().map(describe).collect();
    let descriptions: Vec<String> = descriptions.into_iter().collect();
    let mut message = format!(
        "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
        user.name,
        quoted(&user.groups),
        descriptions.join("\n")
    );
    if !unresolved.is_empty() {
        message.push_str(&format!("; resolution errors: [{}]", unresolved.join(", ")));
    }
    Err(message)
}

/// Everything there is: what must be held to set an aggregation rule.
pub fn full_authority() -> Vec<Rule> {
    let all = || vec!["*".to_owned()];
    vec![
        Rule { verbs: all(), api_groups: all(), resources: all(), ..Rule::default() },
        Rule { verbs: all(), non_resource_urls: all(), ..Rule::default() },
    ]
}

fn break_down(rule: &Rule) -> Vec<Rule> {
    let mut singles = Vec::new();
    let one = |text: &String| vec![text.clone()];
    for verb in &rule.verbs {
        for group in &rule.api_groups {
            for resource in &rule.resources {
                let single = Rule {
                    verbs: one(verb),
                    api_groups: one(group),
                    resources: one(resource),
                    ..Rule::default()
                };
                if rule.resource_names.is_empty() {
                    singles.push(single);
                } else {
                    let named = |name| Rule { resource_names: one(name), ..single.clone() };
                    singles.extend(rule.resource_names.iter().map(named));
                }
            }
        }
        let url = |url| Rule { verbs: one(verb), non_resource_urls: one(url), ..Rule::default() };
        singles.extend(rule.non_resource_urls.iter().map(url));
    }
    singles
}

/// Whether `rule` covers the single permission.
fn covers(rule: &Rule, single: &Rule) -> bool {
    let has = |list: &[String], wanted: &[String]| {
        list.iter().any(|item| item == "*") || wanted.iter().all(|wanted| list.contains(wanted))
    };
    if !has(&rule.verbs, &single.verbs) {
        return false;
    }
    if let Some(url) = single.non_resource_urls.first() {
        return rule.non_resource_urls.iter().any(|pattern| covers_url(pattern, url));
    }
    has(&rule.api_groups, &single.api_groups)
        && single.resources.iter().all(|wanted| covers_resource(&rule.resources, wanted))
        && (rule.resource_names.is_empty()
            || (!single.resource_names.is_empty() && has(&rule.resource_names, &single.resource_names)))
}

fn covers_resource(held: &[String], wanted: &str) -> bool {
    let any_parent = wanted.split_once('/').map(|(_, subresource)| format!("*/{subresource}"));
    held.iter().any(|held| held == "*" || held == wanted || any_parent.as_ref() == Some(held))
}

/// Joins single permissions that differ in the verb alone.
fn compact(singles: Vec<Rule>) -> Vec<Rule> {
    let mut joined: Vec<Rule> = Vec::new();
    for single in singles {
        let same = |rule: &&mut Rule| {
            rule.api_groups == single.api_groups
                && rule.resources == single.resources
                && rule.resource_names == single.resource_names
                && single.non_resource_urls.is_empty()
                && rule.non_resource_urls.is_empty()
        };
        match joined.iter_mut().find(same) {
            Some(rule) => rule.verbs.extend(
                single.verbs.into_iter().filter(|verb| !rule.verbs.contains(verb)).collect::<Vec<_>>(),
            ),
            None => joined.push(single),
        }
    }
    joined
}

fn quoted(list: &[String]) -> String {
    let items: Vec<String> = list.iter().map(|item| format!("{item:?}")).collect();
    format!("[{}]", items.join(" "))
}

fn describe(rule: &Rule) -> String {
    let parts = [
        ("APIGroups", &rule.api_groups),
        ("Resources", &rule.resources),
        ("NonResourceURLs", &rule.non_resource_urls),
        ("ResourceNames", &rule.resource_names),
        ("Verbs", &rule.verbs),
    ];
    let parts: Vec<String> = parts
        .iter()
        .filter(|(_, list)| !list.is_empty())
        .map(|(name, list)| format!("{name}:{}", quoted(list)))
        .collect();
    format!("{{{}}}", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rules(value: isopod_api::Value) -> Vec<Rule> {
        Rule::of_role(&json!({ "rules": value }))
    }

    #[test]
    fn what_is_missing_is_named() {
        let held = rules(json!([
            {"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods", "secrets"]},
            {"verbs": ["get"], "apiGroups": ["*"], "resources": ["*/scale"]},
            {"verbs": ["get"], "nonResourceURLs": ["/healthz/*"]}]));
        let user =
            UserInfo { name: "jane".into(), groups: vec!["devs".into(), "qa".into()], ..Default::default() };
        let fine = rules(json!([
            {"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["x"]},
            {"verbs": ["get"], "apiGroups": ["apps"], "resources": ["deployments/scale"]},
            {"verbs": ["get"], "nonResourceURLs": ["/healthz/ping", "/healthz/a*"]}]));
        assert_eq!(confirm(&user, &held, &[], &fine), Ok(()));
        let wanted = rules(json!([
            {"verbs": ["get", "create", "delete"], "apiGroups": [""], "resources": ["pods"]},
            {"verbs": ["get"], "nonResourceURLs": ["/metrics"]}]));
        let message = "user \"jane\" (groups=[\"devs\" \"qa\"]) is attempting to grant RBAC permissions not currently \
            held:\n{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"create\" \"delete\"]}\n\
            {NonResourceURLs:[\"/metrics\"], Verbs:[\"get\"]}";
        assert_eq!(confirm(&user, &held, &[], &wanted), Err(message.into()));
    }

    #[test]
    fn a_wildcard_is_covered_by_a_wildcard_alone() {
        let everything_by_name = rules(json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"],
            "resourceNames": ["a"]}]));
        let all = rules(json!([{"verbs": ["*"], "apiGroups": [""], "resources": ["pods"]}]));
        assert_eq!(missing(&everything_by_name, &all).len(), 1);
        assert!(missing(&full_authority(), &all).is_empty());
        assert_eq!(missing(&all, &full_authority()).len(), 2);
        let unnamed = rules(json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]));
        assert_eq!(missing(&everything_by_name, &unnamed).len(), 1);
    }
}
