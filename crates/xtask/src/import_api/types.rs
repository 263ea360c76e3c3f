//! Writes the types table. Its format is described at the top of the output.

use super::go::{GoField, GoType, Package, Packages};
use anyhow::{Context, Result, bail};
use std::fmt::Write as _;

const HEADER: &str = "\
# Types of the Kubernetes API v1.36, one fact a line. Made by `cargo xtask import-api`; do not edit.
# P key model-prefix group(- is core) version    package
# E name value|…                                 enumeration of the package
# T name [k][s][u]                               type; k: has apiVersion and kind; s: atomic; u: keeps unknown fields
#  field tag type [attribute…]                   field; @ before the name: inlined in JSON, a message in protobuf
# types: * pointer, [] list, {} map with string keys, w list wrapped in a message; lower case is a scalar
# attributes: o omitempty, z omitzero, ? optional, ! required, i immutable, d= default, e= enumeration,
#   l= list type, k= list keys, m= map type, s struct atomic, ps= patch strategy, pk= patch merge key
";

pub(crate) fn render(packages: &Packages) -> Result<String> {
    let mut out = String::from(HEADER);
    for package in packages.values() {
        let version = package.key.rsplit('/').next().unwrap_or_default();
        let group = match package.group.as_str() {
            "" => "-",
            group => group,
        };
        writeln!(out, "P {} {} {group} {version}", package.key, package.model_prefix)?;
        render_enums(packages, package, &mut out)?;
        for (name, ty) in &package.types {
            render_type(packages, package, name, ty, &mut out)
                .with_context(|| format!("type {}.{name}", package.key))?;
        }
    }
    out.push_str(CUSTOM);
    Ok(out)
}

/// What every custom resource is, before its own schema is known.
const CUSTOM: &str = "\
P custom - - -
T Object k u
 metadata 1 meta/v1:ObjectMeta o
";

/// Whether values of the type are enumerated. An alias of another type leaves that to the type it stands for.
fn is_enum(ty: &GoType) -> bool {
    ty.fields.is_none() && ty.alias == "string" && ty.markers.iter().any(|m| m == "enum" || m == "k8s:enum")
}

fn render_enums(packages: &Packages, package: &Package, out: &mut String) -> Result<()> {
    for (name, ty) in &package.types {
        if !is_enum(ty) {
            continue;
        }
        let mut values: Vec<String> = Vec::new();
        for (constant, of, literal) in &package.consts {
            let converted = literal.strip_prefix(&format!("{name}(")).map(|rest| rest.trim_end_matches(')'));
            let expression = match (of == name, converted) {
                (_, Some(inner)) => inner,
                (true, None) => literal,
                (false, None) => continue,
            };
            let value = constant_value(packages, package, expression);
            values.push(value.with_context(|| format!("constant {constant} of {name}"))?);
        }
        values.sort_unstable();
        values.dedup();
        writeln!(out, "E {name} {}", values.join("|"))?;
    }
    Ok(())
}

/// The text of a string literal, or of a constant of this or another package.
fn constant_value(packages: &Packages, package: &Package, expression: &str) -> Option<String> {
    if let Some(text) = expression.strip_prefix('"') {
        return Some(text.trim_end_matches('"').to_owned());
    }
    let (home, name) = match expression.split_once('.') {
        Some((alias, name)) => (packages.get(package.imports.get(alias)?)?, name),
        None => (package, expression),
    };
    let (_, _, literal) = home.consts.iter().find(|(constant, _, _)| constant == name)?;
    constant_value(packages, home, literal)
}

fn render_type(
    packages: &Packages,
    package: &Package,
    name: &str,
    ty: &GoType,
    out: &mut String,
) -> Result<()> {
    let Some(fields) = &ty.fields else { return Ok(()) };
    let is_api = fields.iter().any(|field| field.tag != 0 || !field.json.is_empty());
    if special(&package.key, name).is_some() || !is_api && !fields.is_empty() && !has_type_meta(fields) {
        return Ok(());
    }
    if !name.starts_with(|c: char| c.is_ascii_uppercase()) {
        return Ok(());
    }
    write!(out, "T {name}")?;
    if has_type_meta(fields) {
        out.push_str(" k");
    }
    if ty.markers.iter().any(|marker| marker == "structType=atomic") {
        out.push_str(" s");
    }
    out.push('\n');
    for field in fields {
        if field.inline && field.ty.ends_with("TypeMeta") {
            continue;
        }
        render_field(packages, package, field, out).with_context(|| format!("field {}", field.json))?;
    }
    Ok(())
}

fn has_type_meta(fields: &[GoField]) -> bool {
    fields.iter().any(|field| field.inline && field.ty.ends_with("TypeMeta"))
}

fn render_field(packages: &Packages, package: &Package, field: &GoField, out: &mut String) -> Result<()> {
    let mut enumeration = None;
    let ty = resolve(packages, package, &field.ty, &mut enumeration)?;
    match field.inline {
        true => write!(out, " @{} {} {ty}", field.proto_name, field.tag)?,
        false => write!(out, " {} {} {ty}", field.json, field.tag)?,
    }
    if field.omitempty {
        out.push_str(" o");
    }
    if field.omitzero {
        out.push_str(" z");
    }
    if let Some(name) = enumeration {
        write!(out, " e={name}")?;
    }
    let mut keys = Vec::new();
    for marker in &field.markers {
        let (name, value) = marker.split_once('=').unwrap_or((marker.as_str(), ""));
        let value = value.split_whitespace().next().unwrap_or_default();
        match name.trim() {
            "optional" | "k8s:optional" => once(out, " ?"),
            "required" | "k8s:required" | "kubebuilder:validation:Required" => once(out, " !"),
            "k8s:immutable" => once(out, " i"),
            "listType" => write!(out, " l={value}")?,
            "mapType" => write!(out, " m={value}")?,
            "structType" if value == "atomic" => out.push_str(" s"),
            "listMapKey" => keys.push(value),
            "default" => write!(out, " d={}", default(package, value)?)?,
            _ => {}
        }
    }
    if !keys.is_empty() {
        write!(out, " k={}", keys.join(","))?;
    }
    if !field.patch_strategy.is_empty() {
        write!(out, " ps={}", field.patch_strategy)?;
    }
    if !field.patch_merge_key.is_empty() {
        write!(out, " pk={}", field.patch_merge_key)?;
    }
    out.push('\n');
    Ok(())
}

/// Adds a flag unless the field's line has it already.
fn once(out: &mut String, flag: &str) {
    let line = out.rsplit('\n').next().unwrap_or_default();
    if !line.split(' ').any(|word| word == flag.trim()) {
        out.push_str(flag);
    }
}

fn default(package: &Package, value: &str) -> Result<String> {
    let Some(name) = value.strip_prefix("ref(").and_then(|rest| rest.strip_suffix(')')) else {
        return Ok(value.to_owned());
    };
    let found = package.consts.iter().find(|(constant, _, _)| constant == name);
    Ok(found.with_context(|| format!("no constant {name}"))?.2.clone())
}

/// The types with a form of their own in JSON or protobuf, which are scalars of the table.
fn special(package: &str, name: &str) -> Option<&'static str> {
    Some(match (package, name) {
        ("meta/v1", "Time" | "Timestamp") => "time",
        ("meta/v1", "MicroTime") => "microtime",
        ("meta/v1", "Duration") => "duration",
        ("meta/v1", "FieldsV1") => "fieldsv1",
        ("meta/v1", "TypeMeta" | "InternalEvent") => "none",
        ("apiextensions/v1", "JSON") => "json",
        ("apiextensions/v1", "JSONSchemaPropsOrArray") => "schema-or-array",
        ("apiextensions/v1", "JSONSchemaPropsOrBool") => "schema-or-bool",
        ("apiextensions/v1", "JSONSchemaPropsOrStringArray") => "schema-or-strings",
        ("runtime", "RawExtension" | "Object") => "raw",
        ("runtime", "Unknown") => "raw",
        ("intstr", "IntOrString") => "intstr",
        ("resource", "Quantity") => "quantity",
        _ => return None,
    })
}

fn resolve(
    packages: &Packages,
    package: &Package,
    ty: &str,
    enumeration: &mut Option<String>,
) -> Result<String> {
    if let Some(rest) = ty.strip_prefix('*') {
        return Ok(format!("*{}", resolve(packages, package, rest, enumeration)?));
    }
    if ty == "[]byte" {
        return Ok("bytes".into());
    }
    if let Some(rest) = ty.strip_prefix("[]") {
        return Ok(format!("[]{}", resolve(packages, package, rest, enumeration)?));
    }
    if let Some(rest) = ty.strip_prefix("map[") {
        let (_, value) = rest.split_once(']').with_context(|| format!("map type {ty}"))?;
        return Ok(format!("{{}}{}", resolve(packages, package, value, enumeration)?));
    }
    match ty {
        "string" | "bool" | "int32" | "int64" => return Ok(ty.into()),
        "int" => return Ok("int64".into()),
        "float64" => return Ok("double".into()),
        "interface{}" | "any" => return Ok("any".into()),
        _ => {}
    }
    let Some((alias, name)) = ty.split_once('.') else {
        return named(packages, package, package, ty, enumeration);
    };
    let path = package.imports.get(alias).with_context(|| format!("import of {ty}"))?;
    match path.as_str() {
        "k8s.io/apimachinery/pkg/types" => Ok("string".into()),
        "k8s.io/apimachinery/pkg/runtime" | "k8s.io/apimachinery/pkg/util/intstr" => foreign(path, name),
        "k8s.io/apimachinery/pkg/api/resource" => foreign(path, name),
        path => {
            let target = packages.get(path).with_context(|| format!("package {path} of {ty}"))?;
            named(packages, package, target, name, enumeration)
        }
    }
}

fn foreign(path: &str, name: &str) -> Result<String> {
    let key = path.rsplit('/').next().unwrap_or_default();
    Ok(special(key, name).with_context(|| format!("type {name} of {path}"))?.into())
}

fn named(
    packages: &Packages,
    from: &Package,
    target: &Package,
    name: &str,
    enumeration: &mut Option<String>,
) -> Result<String> {
    if let Some(scalar) = special(&target.key, name) {
        return Ok(scalar.into());
    }
    let ty = target.types.get(name).with_context(|| format!("type {name} of {}", target.key))?;
    let qualified = match from.key == target.key {
        true => name.to_owned(),
        false => format!("{}:{name}", target.key),
    };
    if ty.fields.is_some() {
        return Ok(qualified);
    }
    if is_enum(ty) {
        *enumeration = Some(qualified);
    }
    if ty.alias.is_empty() {
        bail!("{name} stands for nothing");
    }
    let under = resolve(packages, target, &ty.alias, enumeration)?;
    let under = requalify(&under, from, target);
    let wrapped = ty.markers.iter().any(|marker| marker == "protobuf.nullable=true");
    Ok(if wrapped { under.replacen("[]", "w", 1) } else { under })
}

/// An alias resolves in the package that declares it; names that are local there need its key elsewhere.
fn requalify(ty: &str, from: &Package, target: &Package) -> String {
    let start = ty.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(0);
    let (prefix, name) = ty.split_at(start);
    if from.key != target.key && name.starts_with(|c: char| c.is_ascii_uppercase()) && !name.contains(':') {
        return format!("{prefix}{}:{name}", target.key);
    }
    match name.strip_prefix(&format!("{}:", from.key)) {
        Some(local) => format!("{prefix}{local}"),
        None => ty.to_owned(),
    }
}
