//! Parses the committed types table, whose head describes its format.

use super::{ElementId, FieldDef, ListType, PackageDef, Span, Ty, TypeDef, TypeId, Types, flag};
use std::borrow::Cow;
use std::collections::HashMap;

/// Most fields a type may have as JSON shows it: decoding marks them in a machine word.
pub(crate) const FIELDS_MAX: usize = 128;

struct Parser {
    text: &'static str,
    types: Types,
    names: HashMap<(&'static str, &'static str), u32>,
    enums: HashMap<(&'static str, &'static str), u16>,
    elements: HashMap<Ty, ElementId>,
    package: &'static str,
}

/// Builds the arena of the built-in types.
///
/// # Panics
/// When the table is malformed, which its tests exclude.
pub(crate) fn parse(text: &'static str) -> Types {
    let mut parser = Parser {
        text,
        types: Types { text: Cow::Borrowed(text), ..Types::default() },
        names: HashMap::new(),
        enums: HashMap::new(),
        elements: HashMap::new(),
        package: "",
    };
    parser.declare();
    parser.define();
    parser.index();
    parser.types.types.shrink_to_fit();
    parser.types.fields.shrink_to_fit();
    parser.types.by_name.shrink_to_fit();
    parser.types
}

impl Parser {
    fn span(&self, part: &str) -> Span {
        if part.is_empty() {
            return Span::default();
        }
        let start = part.as_ptr() as usize - self.text.as_ptr() as usize;
        Span { start: start as u32, len: part.len() as u32 }
    }

    /// First pass: names, so that references resolve whatever the order.
    fn declare(&mut self) {
        for line in self.text.lines() {
            match line.as_bytes().first() {
                Some(b'P') => self.declare_package(line),
                Some(b'E') => {
                    let (name, values) = line[2..].split_once(' ').unwrap_or((&line[2..], ""));
                    self.types.enums.push(self.span(values));
                    self.enums.insert((self.package, name), self.types.enums.len() as u16);
                }
                Some(b'T') => {
                    let mut words = line[2..].split(' ');
                    let name = words.next().expect("a type has a name");
                    let flags: Vec<&str> = words.collect();
                    self.names.insert((self.package, name), self.types.types.len() as u32);
                    self.types.types.push(TypeDef {
                        name: self.span(name),
                        package: (self.types.packages.len() - 1) as u16,
                        is_kind: flags.contains(&"k"),
                        atomic: flags.contains(&"s"),
                        preserve_unknown: flags.contains(&"u"),
                        ..TypeDef::default()
                    });
                }
                _ => {}
            }
        }
    }

    fn declare_package(&mut self, line: &'static str) {
        let parts: Vec<&'static str> = line.split(' ').collect();
        let [_, key, prefix, group, version] = parts[..] else { panic!("malformed package line {line:?}") };
        self.package = key;
        let group = if group == "-" { "" } else { group };
        self.types.packages.push(PackageDef {
            key: self.span(key),
            model_prefix: self.span(prefix),
            group: self.span(group),
            version: self.span(version),
        });
    }

    /// Second pass: fields.
    fn define(&mut self) {
        let mut current: Option<usize> = None;
        let mut next = 0;
        for line in self.text.lines() {
            match line.as_bytes().first() {
                Some(b'P') => self.package = line.split(' ').nth(1).expect("a package has a key"),
                Some(b'T') => {
                    let start = self.types.fields.len() as u32;
                    self.types.types[next].fields = (start, start);
                    current = Some(next);
                    next += 1;
                }
                Some(b' ') => {
                    let field = self.field(&line[1..]);
                    self.types.fields.push(field);
                    let owner = current.expect("a field follows a type");
                    self.types.types[owner].fields.1 = self.types.fields.len() as u32;
                }
                _ => {}
            }
        }
    }

    fn field(&mut self, line: &'static str) -> FieldDef {
        let mut words = line.split(' ');
        let name = words.next().unwrap_or_default();
        let tag = words.next().and_then(|tag| tag.parse().ok()).expect("a field has a tag");
        let written = words.next().expect("a field has a type");
        let mut flags = 0;
        let pointed = written.strip_prefix('*').inspect(|_| flags |= flag::POINTER).unwrap_or(written);
        let json = name.strip_prefix('@').inspect(|_| flags |= flag::INLINE).unwrap_or(name);
        let mut def = FieldDef {
            json: self.span(json),
            default: Span::default(),
            list_keys: Span::default(),
            merge_key: Span::default(),
            ty: self.ty(pointed),
            flags,
            tag,
            enumeration: 0,
            list_type: ListType::Atomic,
        };
        for word in words {
            self.attribute(word, &mut def);
        }
        def
    }

    fn attribute(&mut self, word: &'static str, def: &mut FieldDef) {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        match name {
            "o" => def.flags |= flag::OMITEMPTY,
            "z" => def.flags |= flag::OMITZERO,
            "?" => def.flags |= flag::OPTIONAL,
            "!" => def.flags |= flag::REQUIRED,
            "i" => def.flags |= flag::IMMUTABLE,
            "s" => def.flags |= flag::ATOMIC_STRUCT,
            "m" if value == "atomic" => def.flags |= flag::ATOMIC_MAP,
            "m" => {}
            "l" => {
                def.flags |= flag::HAS_LIST_TYPE;
                def.list_type = match value {
                    "map" => ListType::Map,
                    "set" => ListType::Set,
                    _ => ListType::Atomic,
                };
            }
            "k" => def.list_keys = self.span(value),
            "pk" => def.merge_key = self.span(value),
            "d" => def.default = self.span(value),
            "e" => {
                def.enumeration = *self.enums.get(&self.qualified(value)).expect("an enumeration is declared")
            }
            "ps" => {
                for strategy in value.split(',') {
                    def.flags |= match strategy {
                        "merge" => flag::PATCH_MERGE,
                        "retainKeys" => flag::PATCH_RETAIN_KEYS,
                        _ => flag::PATCH_REPLACE,
                    };
                }
            }
            other => panic!("unknown attribute {other:?} in the types table"),
        }
    }

    fn qualified(&self, name: &'static str) -> (&'static str, &'static str) {
        name.split_once(':').unwrap_or((self.package, name))
    }

    fn ty(&mut self, text: &'static str) -> Ty {
        if let Some(item) = text.strip_prefix("[]") {
            let item = self.ty(item.trim_start_matches('*'));
            return Ty::List(self.element(item));
        }
        if let Some(value) = text.strip_prefix("{}") {
            let value = self.ty(value.trim_start_matches('*'));
            return Ty::Map(self.element(value));
        }
        match text {
            "bool" => Ty::Bool,
            "int32" => Ty::Int32,
            "int64" => Ty::Int64,
            "double" => Ty::Double,
            "string" => Ty::String,
            "bytes" => Ty::Bytes,
            "quantity" => Ty::Quantity,
            "intstr" => Ty::IntOrString,
            "time" => Ty::Time,
            "microtime" => Ty::MicroTime,
            "fieldsv1" => Ty::FieldsV1,
            "raw" => Ty::Raw,
            "json" => Ty::Json,
            "any" => Ty::Any,
            "wstring" => Ty::Wrapped,
            "schema-or-array" => Ty::SchemaOrArray,
            "schema-or-bool" => Ty::SchemaOrBool,
            "schema-or-strings" => Ty::SchemaOrStrings,
            name => {
                let found = self.names.get(&self.qualified(name));
                Ty::Struct(TypeId(
                    *found.unwrap_or_else(|| panic!("unknown type {name:?} in the types table")),
                ))
            }
        }
    }

    fn element(&mut self, ty: Ty) -> ElementId {
        let next = ElementId(self.types.elements.len() as u32);
        let id = *self.elements.entry(ty).or_insert(next);
        if id == next {
            self.types.elements.push(ty);
        }
        id
    }

    /// Third pass: fields in the order of their tags, the JSON view of every type, and types by name.
    fn index(&mut self) {
        for at in 0..self.types.types.len() {
            let (start, end) = self.types.types[at].fields;
            self.types.fields[start as usize..end as usize].sort_by_key(|field| field.tag);
        }
        for at in 0..self.types.types.len() {
            let mut shown = Vec::new();
            self.show(TypeId(at as u32), &mut shown);
            let name = |number: &u32| self.types.str(self.types.fields[*number as usize].json).to_owned();
            shown.sort_by_key(name);
            assert!(shown.len() <= FIELDS_MAX, "a type has too many fields to decode");
            let start = self.types.by_name.len() as u32;
            self.types.by_name.extend(shown);
            self.types.types[at].by_name = (start, self.types.by_name.len() as u32);
        }
        let types = &self.types;
        let mut ordered: Vec<u32> = (0..types.types.len() as u32).collect();
        ordered.sort_by_key(|number| {
            let def = &types.types[*number as usize];
            (types.str(types.packages[def.package as usize].key), types.str(def.name))
        });
        self.types.ordered = ordered;
    }

    fn show(&self, id: TypeId, shown: &mut Vec<u32>) {
        let (start, end) = self.types.def(id).fields;
        for number in start..end {
            let def = &self.types.fields[number as usize];
            match def.ty {
                Ty::Struct(inner) if def.flags & flag::INLINE != 0 => self.show(inner, shown),
                _ => shown.push(number),
            }
        }
    }
}
