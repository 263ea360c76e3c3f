//! Parses the committed resources table, whose head describes its format.

use super::{Facts, GroupFacts, ResourceFacts, SubresourceFacts};

/// Fills groups and resources of `facts`, whose kinds are there already.
///
/// # Panics
/// When the table is malformed, which its tests exclude.
pub(super) fn parse(text: &'static str, facts: &mut Facts) {
    for line in text.lines() {
        let words: Vec<&'static str> = line.split(' ').collect();
        match words[..] {
            ["G", name, priority, ref versions @ ..] => facts.groups.push(GroupFacts {
                name: dash(name),
                priority: priority.parse().expect("a priority is a number"),
                versions: versions.to_vec(),
            }),
            ["R", ..] => {
                let resource = resource(&words, facts);
                let key = (resource.group, resource.version, resource.plural);
                facts.by_resource.insert(key, facts.resources.len());
                facts.resources.push(resource);
            }
            ["S", name, group, version, kind, verbs] => {
                let owner = facts.resources.last_mut().expect("a subresource follows its resource");
                owner.subresources.push(SubresourceFacts {
                    name,
                    group: dash(group),
                    version,
                    kind,
                    verbs: list(verbs),
                });
            }
            _ => assert!(line.starts_with('#'), "malformed line in the resources table: {line:?}"),
        }
    }
    let rank = |group: &str| facts.groups.iter().position(|known| known.name == group);
    let mut resources = std::mem::take(&mut facts.resources);
    resources.sort_by_key(|resource| rank(resource.group));
    facts.by_resource =
        resources.iter().enumerate().map(|(at, r)| ((r.group, r.version, r.plural), at)).collect();
    facts.resources = resources;
}

fn resource(words: &[&'static str], facts: &Facts) -> ResourceFacts {
    let [_, group, version, plural, kind, scope, served, verbs, stored, path, short, categories] = words[..]
    else {
        panic!("malformed resource line {words:?}")
    };
    let group = dash(group);
    let (storage_group, storage_version) = stored.split_once('/').expect("a storage version has a group");
    let known = facts.kind(group, version, kind);
    ResourceFacts {
        group,
        version,
        plural,
        singular: kind.to_lowercase(),
        kind,
        namespaced: scope == "N",
        served: served == "1",
        short_names: list(short),
        categories: list(categories),
        verbs: list(verbs),
        subresources: Vec::new(),
        storage_path: path,
        storage_group: dash(storage_group),
        storage_version,
        schema: known.unwrap_or_else(|| panic!("no type for {group}/{version} {kind}")).schema.clone(),
    }
}

fn dash(text: &'static str) -> &'static str {
    if text == "-" { "" } else { text }
}

fn list(text: &'static str) -> Vec<&'static str> {
    dash(text).split(',').filter(|word| !word.is_empty()).collect()
}
