//! Label and field selectors, with upstream's grammar and error texts.

use crate::{Value, names};
use std::collections::BTreeMap;

/// The relation of one requirement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operator {
    /// The key's value is one of these.
    In(Vec<String>),
    /// The key is absent, or its value is none of these.
    NotIn(Vec<String>),
    /// The key is there.
    Exists,
    /// The key is not there.
    DoesNotExist,
    /// The key's value is an integer greater than this.
    GreaterThan(i64),
    /// The key's value is an integer less than this.
    LessThan(i64),
}

/// One requirement of a selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// Label key.
    pub key: String,
    /// Relation.
    pub operator: Operator,
}

/// Requirements that all must hold; none selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    /// The requirements.
    pub requirements: Vec<Requirement>,
    nothing: bool,
}

/// Anything that labels can be looked up in.
pub trait Labels {
    /// The value of a key.
    fn label(&self, key: &str) -> Option<&str>;
}

impl Labels for BTreeMap<String, String> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).map(String::as_str)
    }
}

impl Labels for crate::Object {
    fn label(&self, key: &str) -> Option<&str> {
        crate::Object::label(self, key)
    }
}

impl Requirement {
    /// Whether the labels satisfy the requirement.
    pub fn matches(&self, labels: &impl Labels) -> bool {
        let value = labels.label(&self.key);
        let number = || value.and_then(|v| v.parse::<i64>().ok());
        match &self.operator {
            Operator::In(values) => value.is_some_and(|v| values.iter().any(|w| w == v)),
            Operator::NotIn(values) => !value.is_some_and(|v| values.iter().any(|w| w == v)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan(than) => number().is_some_and(|n| n > *than),
            Operator::LessThan(than) => number().is_some_and(|n| n < *than),
        }
    }
}

impl LabelSelector {
    /// Selects everything.
    pub fn everything() -> Self {
        Self::default()
    }
    /// Selects nothing, as a null `metav1.LabelSelector` does.
    pub fn nothing() -> Self {
        LabelSelector { requirements: Vec::new(), nothing: true }
    }
    /// Whether it selects everything.
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty() && !self.nothing
    }
    /// Whether the labels are selected.
    pub fn matches(&self, labels: &impl Labels) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches(labels))
    }
    /// Every pair of `labels` must be there, as in the selectors of Services and ReplicationControllers.
    pub fn from_map(labels: &BTreeMap<String, String>) -> Self {
        let requirements = labels
            .iter()
            .map(|(k, v)| Requirement { key: k.clone(), operator: Operator::In(vec![v.clone()]) })
            .collect();
        LabelSelector { requirements, nothing: false }
    }

    /// Reads the text form: `a=b,c!=d,e in (f,g),h notin (i),j,!k,l>1`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut requirements = Parser { rest: text }.selector()?;
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(LabelSelector { requirements, nothing: false })
    }

    /// Reads a `metav1.LabelSelector` (`matchLabels`, `matchExpressions`); null selects nothing.
    pub fn from_value(value: &Value) -> Result<Self, String> {
        if value.is_null() {
            return Ok(Self::nothing());
        }
        let mut out = Self::default();
        if let Some(Value::Object(labels)) = value.get("matchLabels") {
            for (key, value) in labels {
                let value = value.as_str().unwrap_or_default().to_owned();
                out.requirements.push(Requirement { key: key.clone(), operator: Operator::In(vec![value]) });
            }
        }
        if let Some(Value::Array(expressions)) = value.get("matchExpressions") {
            for e in expressions {
                let text = |key: &str| e.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
                let values: Vec<String> = match e.get("values") {
                    Some(Value::Array(v)) => v.iter().filter_map(|v| Some(v.as_str()?.to_owned())).collect(),
                    _ => Vec::new(),
                };
                let operator = match text("operator").as_str() {
                    "In" => Operator::In(values),
                    "NotIn" => Operator::NotIn(values),
                    "Exists" => Operator::Exists,
                    "DoesNotExist" => Operator::DoesNotExist,
                    other => return Err(format!("{other:?} is not a valid label selector operator")),
                };
                out.requirements.push(Requirement { key: text("key"), operator });
            }
        }
        Ok(out)
    }
}

impl std::fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, Requirement { key, operator }) in self.requirements.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            match operator {
                Operator::In(v) if v.len() == 1 => write!(f, "{key}={}", v[0])?,
                Operator::In(v) => write!(f, "{key} in ({})", v.join(","))?,
                Operator::NotIn(v) if v.len() == 1 => write!(f, "{key}!={}", v[0])?,
                Operator::NotIn(v) => write!(f, "{key} notin ({})", v.join(","))?,
                Operator::Exists => f.write_str(key)?,
                Operator::DoesNotExist => write!(f, "!{key}")?,
                Operator::GreaterThan(n) => write!(f, "{key}>{n}")?,
                Operator::LessThan(n) => write!(f, "{key}<{n}")?,
            }
        }
        Ok(())
    }
}

struct Parser<'a> {
    rest: &'a str,
}

fn is_special(c: char) -> bool {
    "=!(),><".contains(c)
}

impl<'a> Parser<'a> {
    /// The next token without taking it: one of `= == != ! ( ) , > <`, a word, or nothing at the end.
    fn peek(&mut self) -> &'a str {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\r', '\n']);
        let rest = self.rest;
        if rest.starts_with("==") || rest.starts_with("!=") {
            return &rest[..2];
        }
        let end = rest.find(|c: char| is_special(c) || c.is_ascii_whitespace()).unwrap_or(rest.len());
        if end == 0 { &rest[..rest.len().min(1)] } else { &rest[..end] }
    }
    fn take(&mut self) -> &'a str {
        let token = self.peek();
        self.rest = &self.rest[token.len()..];
        token
    }
    fn word(token: &str) -> bool {
        !token.is_empty() && !token.starts_with(is_special)
    }

    fn selector(&mut self) -> Result<Vec<Requirement>, String> {
        let mut out = Vec::new();
        if self.peek().is_empty() {
            return Ok(out);
        }
        loop {
            let token = self.peek();
            if token != "!" && !Self::word(token) {
                return Err(format!("found '{token}', expected: !, identifier, or 'end of string'"));
            }
            out.push(self.requirement().map_err(|e| format!("unable to parse requirement: {e}"))?);
            match self.take() {
                "" => return Ok(out),
                "," => {
                    let next = self.peek();
                    if next != "!" && !Self::word(next) {
                        return Err(format!("found '{next}', expected: identifier after ','"));
                    }
                }
                other => return Err(format!("found '{other}', expected: ',' or 'end of string'")),
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let negated = self.peek() == "!";
        if negated {
            self.take();
        }
        let key = self.take();
        if !Self::word(key) {
            return Err(format!("found '{key}', expected: identifier"));
        }
        let faults = names::is_qualified_name(key);
        if !faults.is_empty() {
            return Err(format!("<nil>: Invalid value: {key:?}: {}", faults.join("; ")));
        }
        let key = key.to_owned();
        if negated {
            return Ok(Requirement { key, operator: Operator::DoesNotExist });
        }
        let operator = match self.peek() {
            "" | "," => return Ok(Requirement { key, operator: Operator::Exists }),
            _ => self.take(),
        };
        let operator = match operator {
            "=" | "==" => Operator::In(vec![self.exact(&key)?]),
            "!=" => Operator::NotIn(vec![self.exact(&key)?]),
            "in" => Operator::In(self.values(&key)?),
            "notin" => Operator::NotIn(self.values(&key)?),
            ">" => Operator::GreaterThan(self.number(&key)?),
            "<" => Operator::LessThan(self.number(&key)?),
            other => {
                return Err(format!("found '{other}', expected: in, notin, =, ==, !=, gt, lt"));
            }
        };
        Ok(Requirement { key, operator })
    }

    fn exact(&mut self, key: &str) -> Result<String, String> {
        match self.peek() {
            "" | "," => Ok(String::new()),
            token if Self::word(token) => {
                let value = self.take().to_owned();
                check_value(key, &value)?;
                Ok(value)
            }
            token => Err(format!("found '{token}', expected: identifier")),
        }
    }

    fn number(&mut self, key: &str) -> Result<i64, String> {
        let value = self.exact(key)?;
        value
            .parse()
            .map_err(|_| format!("values[0][{key}]: Invalid value: {value:?}: for 'Gt', 'Lt' operators, the value must be an integer"))
    }

    fn values(&mut self, key: &str) -> Result<Vec<String>, String> {
        match self.take() {
            "(" => {}
            token => return Err(format!("found '{token}' expected: '('")),
        }
        let mut out = Vec::new();
        loop {
            match self.peek() {
                "," | ")" => out.push(String::new()),
                token if Self::word(token) => {
                    let value = self.take().to_owned();
                    check_value(key, &value)?;
                    out.push(value);
                }
                token => return Err(format!("found '{token}', expected: ',', ')' or identifier")),
            }
            match self.take() {
                "," => {}
                ")" => break,
                token => return Err(format!("found '{token}', expected: ',' or ')'")),
            }
        }
        out.sort();
        out.dedup();
        Ok(out)
    }
}

fn check_value(key: &str, value: &str) -> Result<(), String> {
    let faults = names::is_label_value(value);
    if faults.is_empty() {
        return Ok(());
    }
    Err(format!("values[0][{key}]: Invalid value: {value:?}: {}", faults.join("; ")))
}

/// `metadata.name=x,spec.nodeName!=y`: each field equals, or does not equal, a value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    /// Field path, value, and whether they must be equal.
    pub requirements: Vec<(String, String, bool)>,
}

impl FieldSelector {
    /// Reads the text form; `\`, `,` and `=` inside a value are escaped with `\`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut requirements = Vec::new();
        for term in split_terms(text) {
            if term.is_empty() {
                continue;
            }
            let bytes = term.as_bytes();
            let at = (0..bytes.len())
                .find(|&i| matches!(bytes[i], b'=' | b'!') && (i == 0 || bytes[i - 1] != b'\\'))
                .ok_or_else(|| format!("invalid selector: '{text}'; can't understand '{term}'"))?;
            let (key, tail) = term.split_at(at);
            let (value, equal) = if let Some(v) = tail.strip_prefix("!=") {
                (v, false)
            } else if let Some(v) = tail.strip_prefix("==") {
                (v, true)
            } else if let Some(v) = tail.strip_prefix('=') {
                (v, true)
            } else {
                return Err(format!("invalid selector: '{text}'; can't understand '{term}'"));
            };
            requirements.push((key.to_owned(), unescape(value)?, equal));
        }
        Ok(FieldSelector { requirements })
    }
    /// Whether it selects everything.
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }
    /// The value that a field must equal, if one is required.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.requirements.iter().find(|(f, _, equal)| f == field && *equal).map(|(_, v, _)| v.as_str())
    }
    /// Whether an object is selected; `field` gives the text of a field path.
    pub fn matches<'a>(&self, field: impl Fn(&str) -> std::borrow::Cow<'a, str>) -> bool {
        self.requirements.iter().all(|(f, v, equal)| (field(f) == v.as_str()) == *equal)
    }
}

fn split_terms(text: &str) -> Vec<&str> {
    let mut out = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (i, c) in text.char_indices() {
        if escaped {
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if c == ',' {
            out.push(&text[start..i]);
            start = i + 1;
        }
    }
    out.push(&text[start..]);
    out
}

fn unescape(value: &str) -> Result<String, String> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(e @ ('\\' | ',' | '=')) => out.push(e),
                other => {
                    let shown: String = other.into_iter().collect();
                    return Err(format!("invalid field selector: invalid escape sequence: \"\\\\{shown}\""));
                }
            },
            ',' | '=' => return Err(format!("invalid field selector: unescaped character in value: {c:?}")),
            c => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn label_selectors() {
        let have = labels(&[("a", "b"), ("n", "5"), ("e", "")]);
        for (text, want) in [
            ("", true),
            ("a=b", true),
            ("a==b", true),
            ("a!=b", false),
            ("x!=b", true),
            ("a in (b,c)", true),
            ("a notin (b)", false),
            ("a", true),
            ("!a", false),
            ("!x", true),
            ("n>4", true),
            ("n<4", false),
            ("a=b,n=5", true),
            ("a = b , x", false),
            ("e=", true),
            ("a in (c)", false),
            ("e in ()", true),
        ] {
            let selector = LabelSelector::parse(text).expect(text);
            assert_eq!(selector.matches(&have), want, "{text}");
            let again = LabelSelector::parse(&selector.to_string()).expect("what we print, we read");
            assert_eq!(again, selector);
        }
        for bad in ["a=b,", ",a", "a in b", "a in (b", "=b", "a=b c", "a b", "x=/y", "-x"] {
            assert!(LabelSelector::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn null_selects_nothing_and_empty_everything() {
        let have = labels(&[("a", "b")]);
        assert!(!LabelSelector::from_value(&Value::Null).expect("null").matches(&have));
        assert!(LabelSelector::from_value(&serde_json::json!({})).expect("empty").matches(&have));
        let expression =
            serde_json::json!({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["b"]}]});
        assert!(!LabelSelector::from_value(&expression).expect("expression").matches(&have));
    }

    #[test]
    fn field_selectors() {
        let field = |f: &str| match f {
            "metadata.name" => "x,y".into(),
            _ => "".into(),
        };
        for (text, want) in [
            ("", true),
            (r"metadata.name=x\,y", true),
            ("metadata.name!=z,spec.q=", true),
            ("metadata.name=z", false),
        ] {
            assert_eq!(FieldSelector::parse(text).expect(text).matches(field), want, "{text}");
        }
        assert!(FieldSelector::parse("x").is_err());
        assert!(FieldSelector::parse(r"x=a\b").is_err());
    }
}
