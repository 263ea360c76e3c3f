//! Schemas in memory: what every type of the API looks like in JSON and in protobuf.
//!
//! One form serves built-in types (parsed once from the committed table) and, compiled from their structural
//! schemas, custom resources. All types of one origin live in an arena ([`Types`]): names are spans of one text and
//! types refer to each other by number, so that the whole built-in API takes well under a megabyte and recursion
//! costs nothing. A field is found by binary search over the names of its type.

mod table;

use std::borrow::Cow;
use std::sync::Arc;

pub(crate) use table::parse;

/// A piece of the arena's text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    start: u32,
    len: u32,
}

impl Span {
    pub(crate) fn of(self, text: &str) -> &str {
        &text[self.start as usize..(self.start + self.len) as usize]
    }
}

/// Number of a type in its arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TypeId(pub(crate) u32);

/// Number of an element type in its arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ElementId(pub(crate) u32);

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are the API's own")]
pub enum Ty {
    Bool,
    Int32,
    Int64,
    Double,
    String,
    Bytes,
    Quantity,
    IntOrString,
    Time,
    MicroTime,
    FieldsV1,
    /// `runtime.RawExtension`: an embedded object of any kind.
    Raw,
    /// `apiextensions/v1.JSON`.
    Json,
    /// Any JSON, without a protobuf form.
    Any,
    SchemaOrArray,
    SchemaOrBool,
    SchemaOrStrings,
    Struct(TypeId),
    List(ElementId),
    /// A list that is a message with `items` in protobuf, so that empty and absent differ.
    Wrapped,
    /// A map with string keys.
    Map(ElementId),
}

/// How the items of a list are told apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ListType {
    /// One value as a whole.
    #[default]
    Atomic,
    /// Scalars without duplicates.
    Set,
    /// Objects keyed by some of their fields.
    Map,
}

pub(crate) mod flag {
    pub(crate) const OMITEMPTY: u16 = 1;
    pub(crate) const OMITZERO: u16 = 1 << 1;
    pub(crate) const OPTIONAL: u16 = 1 << 2;
    pub(crate) const REQUIRED: u16 = 1 << 3;
    pub(crate) const POINTER: u16 = 1 << 4;
    pub(crate) const INLINE: u16 = 1 << 5;
    pub(crate) const IMMUTABLE: u16 = 1 << 6;
    pub(crate) const ATOMIC_STRUCT: u16 = 1 << 7;
    pub(crate) const ATOMIC_MAP: u16 = 1 << 8;
    pub(crate) const HAS_LIST_TYPE: u16 = 1 << 9;
    pub(crate) const PATCH_MERGE: u16 = 1 << 10;
    pub(crate) const PATCH_RETAIN_KEYS: u16 = 1 << 11;
    pub(crate) const PATCH_REPLACE: u16 = 1 << 12;
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct FieldDef {
    pub(crate) json: Span,
    pub(crate) default: Span,
    pub(crate) list_keys: Span,
    pub(crate) merge_key: Span,
    pub(crate) ty: Ty,
    pub(crate) flags: u16,
    pub(crate) tag: u16,
    /// One more than the number of the enumeration; 0 for none.
    pub(crate) enumeration: u16,
    pub(crate) list_type: ListType,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TypeDef {
    pub(crate) name: Span,
    pub(crate) package: u16,
    /// Has `apiVersion` and `kind`.
    pub(crate) is_kind: bool,
    pub(crate) atomic: bool,
    /// Unknown fields are kept (custom resources).
    pub(crate) preserve_unknown: bool,
    /// Own fields, in the order of their tags.
    pub(crate) fields: (u32, u32),
    /// Fields as JSON shows them (inlined ones included), by name.
    pub(crate) by_name: (u32, u32),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct PackageDef {
    pub(crate) key: Span,
    pub(crate) model_prefix: Span,
    pub(crate) group: Span,
    pub(crate) version: Span,
}

/// An arena of types.
#[derive(Debug, Default)]
pub struct Types {
    pub(crate) text: Cow<'static, str>,
    pub(crate) packages: Vec<PackageDef>,
    pub(crate) types: Vec<TypeDef>,
    pub(crate) fields: Vec<FieldDef>,
    pub(crate) by_name: Vec<u32>,
    pub(crate) elements: Vec<Ty>,
    pub(crate) enums: Vec<Span>,
    /// Type numbers ordered by (package key, name).
    pub(crate) ordered: Vec<u32>,
}

impl Types {
    pub(crate) fn str(&self, span: Span) -> &str {
        span.of(&self.text)
    }

    pub(crate) fn def(&self, id: TypeId) -> &TypeDef {
        &self.types[id.0 as usize]
    }

    pub(crate) fn element(&self, id: ElementId) -> Ty {
        self.elements[id.0 as usize]
    }

    /// Own fields of a type in the order of their tags; inlined types are one field.
    pub(crate) fn own_fields(&self, id: TypeId) -> &[FieldDef] {
        let (start, end) = self.def(id).fields;
        &self.fields[start as usize..end as usize]
    }

    /// Field numbers as JSON shows them, by name.
    pub(crate) fn json_fields(&self, id: TypeId) -> &[u32] {
        let (start, end) = self.def(id).by_name;
        &self.by_name[start as usize..end as usize]
    }

    pub(crate) fn field_def(&self, number: u32) -> &FieldDef {
        &self.fields[number as usize]
    }

    /// Position of a field among [`Types::json_fields`].
    pub(crate) fn position(&self, id: TypeId, name: &str) -> Option<usize> {
        let fields = self.json_fields(id);
        fields.binary_search_by(|number| self.str(self.field_def(*number).json).cmp(name)).ok()
    }

    /// The type called `name` of the package `key`, as (`core/v1`, `Pod`).
    pub fn find(&self, key: &str, name: &str) -> Option<TypeId> {
        let at = |number: &u32| {
            let def = &self.types[*number as usize];
            (self.str(self.packages[def.package as usize].key), self.str(def.name))
        };
        let index = self.ordered.binary_search_by(|number| at(number).cmp(&(key, name))).ok()?;
        Some(TypeId(self.ordered[index]))
    }

    /// Every type there is.
    pub fn ids(&self) -> impl Iterator<Item = TypeId> + use<> {
        (0..self.types.len() as u32).map(TypeId)
    }

    /// Resident size of the arena in bytes, its text included.
    pub fn size_bytes(&self) -> usize {
        self.text.len()
            + size_of_val(self.types.as_slice())
            + size_of_val(self.fields.as_slice())
            + size_of_val(self.by_name.as_slice())
            + size_of_val(self.elements.as_slice())
            + size_of_val(self.ordered.as_slice())
    }
}

/// A schema: a type and the arena it lives in. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Schema {
    types: Arc<Types>,
    ty: Ty,
}

impl Schema {
    /// The schema of a type of an arena.
    pub fn new(types: Arc<Types>, ty: Ty) -> Self {
        Schema { types, ty }
    }

    /// The type to start from.
    pub fn root(&self) -> Node<'_> {
        Node { types: &self.types, ty: self.ty }
    }

    /// Field of the root type by its JSON name.
    pub fn field(&self, name: &str) -> Option<Field<'_>> {
        self.root().field(name)
    }
}

/// A type seen within its arena.
#[derive(Clone, Copy, Debug)]
pub struct Node<'t> {
    pub(crate) types: &'t Types,
    pub(crate) ty: Ty,
}

impl<'t> Node<'t> {
    /// What a value of this type is.
    pub fn ty(self) -> Ty {
        self.ty
    }

    /// Name of a struct type, as `PodSpec`.
    pub fn name(self) -> Option<&'t str> {
        match self.ty {
            Ty::Struct(id) => Some(self.types.str(self.types.def(id).name)),
            _ => None,
        }
    }

    /// Name of a struct type in OpenAPI documents, as `io.k8s.api.core.v1.PodSpec`.
    pub fn model_name(self) -> Option<String> {
        let Ty::Struct(id) = self.ty else { return None };
        let def = self.types.def(id);
        let prefix = self.types.packages.get(def.package as usize)?.model_prefix;
        Some(format!("{}.{}", self.types.str(prefix), self.types.str(def.name)))
    }

    /// Whether the type has `apiVersion` and `kind`.
    pub fn is_kind(self) -> bool {
        matches!(self.ty, Ty::Struct(id) if self.types.def(id).is_kind)
    }

    /// Whether unknown fields are kept.
    pub fn preserves_unknown(self) -> bool {
        match self.ty {
            Ty::Struct(id) => self.types.def(id).preserve_unknown,
            Ty::Any | Ty::Json | Ty::Raw | Ty::FieldsV1 => true,
            _ => false,
        }
    }

    /// Whether a struct type is one value as a whole for merging.
    pub fn is_atomic_struct(self) -> bool {
        matches!(self.ty, Ty::Struct(id) if self.types.def(id).atomic)
    }

    /// Field by its JSON name; `None` too where the type is no struct.
    pub fn field(self, name: &str) -> Option<Field<'t>> {
        let Ty::Struct(id) = self.ty else { return None };
        let position = self.types.position(id, name)?;
        let number = self.types.json_fields(id)[position];
        Some(Field { types: self.types, def: self.types.field_def(number) })
    }

    /// Fields as JSON shows them, by name; `apiVersion` and `kind` are not among them.
    pub fn fields(self) -> impl Iterator<Item = Field<'t>> {
        let numbers = match self.ty {
            Ty::Struct(id) => self.types.json_fields(id),
            _ => &[],
        };
        numbers.iter().map(move |number| Field { types: self.types, def: self.types.field_def(*number) })
    }

    /// Type of the items of a list or of the values of a map.
    pub fn element(self) -> Option<Node<'t>> {
        let ty = match self.ty {
            Ty::List(id) | Ty::Map(id) => self.types.element(id),
            Ty::Wrapped => Ty::String,
            _ => return None,
        };
        Some(Node { types: self.types, ty })
    }
}

/// A field seen within its arena.
#[derive(Clone, Copy, Debug)]
pub struct Field<'t> {
    types: &'t Types,
    def: &'t FieldDef,
}

impl<'t> Field<'t> {
    /// Name in JSON.
    pub fn json(self) -> &'t str {
        self.types.str(self.def.json)
    }

    /// Number in protobuf; 0 where it has none.
    pub fn tag(self) -> u16 {
        self.def.tag
    }

    /// Type of the value.
    pub fn node(self) -> Node<'t> {
        Node { types: self.types, ty: self.def.ty }
    }

    /// Default as JSON text, where the schema declares one.
    pub fn default(self) -> Option<&'t str> {
        Some(self.types.str(self.def.default)).filter(|text| !text.is_empty())
    }

    /// Whether the field may be absent as upstream publishes it.
    pub fn is_optional(self) -> bool {
        let omitted = self.has(flag::OMITEMPTY) || self.has(flag::OMITZERO);
        !self.has(flag::REQUIRED) && (self.has(flag::OPTIONAL) || omitted)
    }

    /// Whether the field must be present.
    pub fn is_required(self) -> bool {
        !self.is_optional()
    }

    /// Whether upstream declares the field immutable.
    pub fn is_immutable(self) -> bool {
        self.has(flag::IMMUTABLE)
    }

    /// Whether absent and zero differ.
    pub fn is_pointer(self) -> bool {
        self.has(flag::POINTER)
    }

    /// How items of a list field merge. Lists that say nothing are atomic.
    pub fn list_type(self) -> ListType {
        self.def.list_type
    }

    /// Whether upstream declares a list type at all.
    pub fn declares_list_type(self) -> bool {
        self.has(flag::HAS_LIST_TYPE)
    }

    /// Key fields of a list whose type is [`ListType::Map`].
    pub fn list_keys(self) -> impl Iterator<Item = &'t str> {
        self.types.str(self.def.list_keys).split(',').filter(|key| !key.is_empty())
    }

    /// Whether a map or struct field is one value as a whole for merging.
    pub fn is_atomic(self) -> bool {
        self.has(flag::ATOMIC_MAP) || self.has(flag::ATOMIC_STRUCT) || self.node().is_atomic_struct()
    }

    /// Whether a map field is declared atomic.
    pub fn is_atomic_map(self) -> bool {
        self.has(flag::ATOMIC_MAP)
    }

    /// Key field for strategic merge of a list.
    pub fn patch_merge_key(self) -> Option<&'t str> {
        Some(self.types.str(self.def.merge_key)).filter(|text| !text.is_empty())
    }

    /// Whether strategic merge merges the items of the list.
    pub fn patch_merges(self) -> bool {
        self.has(flag::PATCH_MERGE)
    }

    /// Whether strategic merge drops the keys that the patch does not name.
    pub fn patch_retains_keys(self) -> bool {
        self.has(flag::PATCH_RETAIN_KEYS)
    }

    /// Whether strategic merge replaces the value as a whole.
    pub fn patch_replaces(self) -> bool {
        self.has(flag::PATCH_REPLACE)
    }

    /// Allowed values, where upstream enumerates them.
    pub fn enum_values(self) -> Option<impl Iterator<Item = &'t str>> {
        let number = usize::from(self.def.enumeration).checked_sub(1)?;
        Some(self.types.str(self.types.enums[number]).split('|'))
    }

    fn has(self, flag: u16) -> bool {
        self.def.flags & flag != 0
    }
}
