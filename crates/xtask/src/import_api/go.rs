//! Reads the Go type declarations of an API package: enough of the language for generated-API style files, where
//! every field stands on a line of its own.

use super::PackageDir;
use anyhow::{Context, Result};
use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub(crate) struct Package {
    pub(crate) key: String,
    pub(crate) group: String,
    pub(crate) model_prefix: String,
    pub(crate) types: BTreeMap<String, GoType>,
    /// Constants by name: (declared type, literal).
    pub(crate) consts: Vec<(String, String, String)>,
    /// Import path of each file-level alias. The files of a package agree on them.
    pub(crate) imports: BTreeMap<String, String>,
}

#[derive(Debug, Default)]
pub(crate) struct GoType {
    pub(crate) markers: Vec<String>,
    /// Fields of a struct; `None` for a named type.
    pub(crate) fields: Option<Vec<GoField>>,
    /// What a named type stands for.
    pub(crate) alias: String,
}

#[derive(Debug, Default, Clone)]
pub(crate) struct GoField {
    pub(crate) ty: String,
    pub(crate) json: String,
    pub(crate) inline: bool,
    pub(crate) omitempty: bool,
    pub(crate) omitzero: bool,
    pub(crate) tag: u32,
    pub(crate) proto_name: String,
    pub(crate) patch_strategy: String,
    pub(crate) patch_merge_key: String,
    pub(crate) markers: Vec<String>,
}

pub(crate) type Packages = BTreeMap<String, Package>;

/// Loads every package; the result is keyed by Go import path.
pub(crate) fn load(dirs: &[PackageDir]) -> Result<Packages> {
    let mut packages = Packages::new();
    for dir in dirs {
        let mut package = Package { key: dir.key.clone(), ..Package::default() };
        package.model_prefix = model_prefix(&dir.import);
        for entry in std::fs::read_dir(&dir.dir)? {
            let path = entry?.path();
            let name = super::file_name(&path);
            let wanted = name.ends_with(".go")
                && !name.ends_with("_test.go")
                && !name.starts_with("zz_")
                && !name.contains("swagger_doc")
                && !name.contains(".pb.");
            if wanted {
                let text =
                    std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
                parse_file(&text, &mut package);
            }
        }
        packages.insert(dir.import.clone(), package);
    }
    Ok(packages)
}

/// `k8s.io/api/core/v1` is published as `io.k8s.api.core.v1`.
fn model_prefix(import: &str) -> String {
    let rest = import.strip_prefix("k8s.io/").unwrap_or(import);
    format!("io.k8s.{}", rest.replace('/', "."))
}

fn parse_file(text: &str, package: &mut Package) {
    let mut comments: Vec<String> = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let trimmed = line.trim();
        if let Some(comment) = trimmed.strip_prefix("//") {
            comments.push(comment.trim().to_owned());
            continue;
        }
        if trimmed.is_empty() {
            continue;
        }
        if line.starts_with("import (") {
            parse_imports(&mut lines, package);
        } else if line.starts_with("const (") || line.starts_with("var (") {
            parse_consts(&mut lines, package);
        } else if let Some(rest) = line.strip_prefix("const ") {
            parse_const(rest, package);
        } else if let Some(rest) = line.strip_prefix("type ") {
            parse_type(rest, markers(&comments), &mut lines, package);
        }
        comments.clear();
    }
}

fn parse_imports<'a>(lines: &mut impl Iterator<Item = &'a str>, package: &mut Package) {
    for line in lines.by_ref() {
        let line = line.trim();
        if line == ")" {
            return;
        }
        let Some((alias, rest)) = line.split_once('"') else { continue };
        let path = rest.trim_end_matches('"');
        let alias = match alias.trim() {
            "" => path.rsplit('/').next().unwrap_or(path),
            alias => alias,
        };
        package.imports.insert(alias.to_owned(), path.to_owned());
    }
}

fn parse_consts<'a>(lines: &mut impl Iterator<Item = &'a str>, package: &mut Package) {
    for line in lines.by_ref() {
        if line.starts_with(')') {
            return;
        }
        parse_const(line, package);
    }
}

fn parse_const(line: &str, package: &mut Package) {
    let Some((left, right)) = line.trim().split_once('=') else { return };
    let mut words = left.split_whitespace();
    let Some(name) = words.next() else { return };
    let ty = words.next().unwrap_or_default();
    if name == "GroupName" {
        package.group = right.trim().trim_matches('"').to_owned();
    }
    let value = right.trim();
    let literal = match value.strip_prefix('"').and_then(|rest| rest.split_once('"')) {
        Some((text, _)) => format!("\"{text}\""),
        None => value.split("//").next().unwrap_or(value).trim().to_owned(),
    };
    package.consts.push((name.to_owned(), ty.to_owned(), literal));
}

fn parse_type<'a>(
    rest: &str,
    markers: Vec<String>,
    lines: &mut impl Iterator<Item = &'a str>,
    package: &mut Package,
) {
    let Some((name, body)) = rest.split_once(' ') else { return };
    let body = body.trim();
    if body.starts_with("interface") || body.starts_with("func") {
        return;
    }
    let mut parsed = GoType { markers, ..GoType::default() };
    if body.starts_with("struct") {
        let mut fields = Vec::new();
        if !body.ends_with('}') {
            parse_fields(lines, &mut fields);
        }
        parsed.fields = Some(fields);
    } else {
        let alias = body.trim_start_matches('=').trim();
        parsed.alias = alias.split("//").next().unwrap_or(alias).trim().to_owned();
    }
    package.types.insert(name.to_owned(), parsed);
}

fn parse_fields<'a>(lines: &mut impl Iterator<Item = &'a str>, fields: &mut Vec<GoField>) {
    let mut comments = Vec::new();
    for line in lines.by_ref() {
        if line.starts_with('}') {
            return;
        }
        let trimmed = line.trim();
        if let Some(comment) = trimmed.strip_prefix("//") {
            comments.push(comment.trim().to_owned());
            continue;
        }
        if trimmed.is_empty() {
            continue;
        }
        if let Some(mut field) = parse_field(trimmed) {
            field.markers = markers(&comments);
            fields.push(field);
        }
        comments.clear();
    }
}

fn parse_field(line: &str) -> Option<GoField> {
    let (declaration, tags) = line.split_once('`')?;
    let tags = tags.split('`').next()?;
    let mut words = declaration.split_whitespace();
    let first = words.next()?;
    let ty = words.next().unwrap_or(first).to_owned();
    let json = tag_value(tags, "json").unwrap_or_default();
    let mut options = json.split(',');
    let name = options.next().unwrap_or_default().to_owned();
    if name == "-" {
        return None;
    }
    let options: Vec<&str> = options.collect();
    let protobuf = tag_value(tags, "protobuf").unwrap_or_default();
    let parts: Vec<&str> = protobuf.split(',').collect();
    let named = parts.iter().find_map(|part| part.strip_prefix("name=")).unwrap_or_default();
    let proto_name = match (named, name.as_str()) {
        ("", "") => lower_first(ty.rsplit('.').next().unwrap_or(&ty)),
        ("", json) => json.to_owned(),
        (named, _) => named.to_owned(),
    };
    Some(GoField {
        ty,
        inline: options.contains(&"inline") || name.is_empty(),
        omitempty: options.contains(&"omitempty"),
        omitzero: options.contains(&"omitzero"),
        json: name,
        tag: parts.get(1).and_then(|tag| tag.parse().ok()).unwrap_or(0),
        proto_name,
        patch_strategy: tag_value(tags, "patchStrategy").unwrap_or_default(),
        patch_merge_key: tag_value(tags, "patchMergeKey").unwrap_or_default(),
        markers: Vec::new(),
    })
}

fn lower_first(name: &str) -> String {
    let mut chars = name.chars();
    chars.next().map(|first| first.to_lowercase().collect::<String>() + chars.as_str()).unwrap_or_default()
}

fn tag_value(tags: &str, name: &str) -> Option<String> {
    let start = tags.find(&format!("{name}:\""))? + name.len() + 2;
    let rest = &tags[start..];
    Some(rest[..rest.find('"')?].to_owned())
}

fn markers(comments: &[String]) -> Vec<String> {
    comments.iter().filter_map(|line| line.strip_prefix('+')).map(str::to_owned).collect()
}
