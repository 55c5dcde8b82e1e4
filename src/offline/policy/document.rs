//! What a policy file holds, whichever format it is in, and where: TOML and JSON give the same tree, so that both get the
//! same errors.

use crate::error::AuthError;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::{collections::BTreeSet, fmt};

/// Larger files are refused unread, in bytes.
const MAX_SIZE: usize = 1 << 20;
/// The deepest that means anything: document, `capabilities`, capability, `any_of`, clause, list of scopes.
pub(super) const MAX_DEPTH: usize = 6;
/// Longer texts are cut in an error, in characters.
const MAX_QUOTE: usize = 60;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    #[cfg(feature = "policy-toml")]
    Toml,
    Json,
}

/// The text of a policy.
#[derive(Clone, Copy)]
pub(super) struct Source<'t> {
    text: &'t str,
    format: Format,
}

/// A value, and where it stands: `at` counts bytes.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) at: usize,
    pub(super) value: Value,
}

#[derive(Debug)]
pub(super) enum Value {
    Text(String),
    Bool(bool),
    List(Vec<Node>),
    Table(Vec<Entry>),
    /// A number, a date or null, as it is written: none of them is ever expected.
    Other(String),
}

/// A key with its value.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) at: usize,
    pub(super) node: Node,
}

/// What is wrong, and where.
#[derive(Debug)]
pub(super) struct Fault {
    at: usize,
    what: String,
}

impl Fault {
    pub(super) fn new(at: usize, what: impl Into<String>) -> Self {
        Self { at, what: what.into() }
    }

    /// The key, what was found and what was expected.
    pub(super) fn what(&self) -> &str {
        &self.what
    }
}

impl<'t> Source<'t> {
    pub(super) fn new(text: &'t str, format: Format) -> Self {
        // Some editors put a byte order mark before the text.
        Self { text: text.strip_prefix('\u{feff}').unwrap_or(text), format }
    }

    pub(super) fn is_toml(&self) -> bool {
        self.format != Format::Json
    }

    pub(super) fn error(&self, fault: &Fault) -> AuthError {
        let before = self.text.as_bytes().iter().take(fault.at);
        let line = 1 + before.filter(|byte| **byte == b'\n').count();
        AuthError::misconfigured(format!("offline policy, line {line}: {}", fault.what))
    }

    pub(super) fn parse(&self) -> Result<Node, Fault> {
        if self.text.trim().is_empty() && self.format == Format::Json {
            return Err(Fault::new(0, "nothing is there: expected { \"capabilities\": … }"));
        }
        if self.text.len() > MAX_SIZE {
            return Err(Fault::new(0, format!("{} bytes: expected at most {MAX_SIZE}", self.text.len())));
        }
        match self.format {
            #[cfg(feature = "policy-toml")]
            Format::Toml => toml_tree::parse(self.text),
            Format::Json => match serde_json::from_str::<&RawValue>(self.text) {
                Ok(raw) => self.json(raw, "", 1),
                Err(error) => Err(self.not_json(0, &error)),
            },
        }
    }

    // ===== JSON =====

    /// `raw` is a part of the text, which tells where it stands.
    fn json(&self, raw: &'t RawValue, path: &str, depth: usize) -> Result<Node, Fault> {
        let text = raw.get();
        let at = text.as_ptr().addr().saturating_sub(self.text.as_ptr().addr());
        let wrong = |error: serde_json::Error| self.not_json(at, &error);
        let value = match text.as_bytes().first() {
            Some(b'{' | b'[') if depth > MAX_DEPTH => return Err(too_deep(at, path)),
            Some(b'{') => {
                let Members(members) = serde_json::from_str(text).map_err(wrong)?;
                let (mut entries, mut names, mut end) = (Vec::with_capacity(members.len()), BTreeSet::new(), at + 1);
                for (key, value) in members {
                    // Between two members stand a comma and spaces.
                    let at = end + self.text.get(end..).and_then(|rest| rest.find('"')).unwrap_or(0);
                    let path = join(path, &key);
                    if !names.insert(key.clone()) {
                        return Err(Fault::new(at, format!("`{path}` stands here for the second time")));
                    }
                    let node = self.json(value, &path, depth + 1)?;
                    end = node.at + value.get().len();
                    entries.push(Entry { key, at, node });
                }
                Value::Table(entries)
            }
            Some(b'[') => {
                let items: Vec<&RawValue> = serde_json::from_str(text).map_err(wrong)?;
                let items = items.into_iter().enumerate().map(|(number, item)| match item.get().starts_with('{') {
                    true => self.json(item, &format!("{path}[{number}]"), depth + 1),
                    false => self.json(item, path, depth + 1),
                });
                Value::List(items.collect::<Result<_, _>>()?)
            }
            Some(b'"') => Value::Text(serde_json::from_str(text).map_err(wrong)?),
            Some(b't') => Value::Bool(true),
            Some(b'f') => Value::Bool(false),
            _ => Value::Other(cut(text)),
        };
        Ok(Node { at, value })
    }

    /// `error` speaks of the part of the text from `from` on.
    fn not_json(&self, from: usize, error: &serde_json::Error) -> Fault {
        let part = self.text.get(from..).unwrap_or_default();
        let lines = part.split_inclusive('\n').take(error.line().saturating_sub(1));
        let at = from + lines.map(str::len).sum::<usize>() + error.column().saturating_sub(1);
        let before = self.text.as_bytes().iter().take(at);
        let column = 1 + before.rev().take_while(|byte| **byte != b'\n').count();
        let text = error.to_string();
        let what = match text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what) {
            // Its parser does not say so of what it only passes over.
            _ if self.is_trailing_comma(at) => "a comma with nothing after it",
            what => what,
        };
        Fault::new(at, format!("not JSON at column {column}: {what}"))
    }

    fn is_trailing_comma(&self, at: usize) -> bool {
        let (before, after) = self.text.as_bytes().split_at(at.min(self.text.len()));
        before.trim_ascii_end().ends_with(b",") && matches!(after.first(), Some(b'}' | b']'))
    }
}

/// The members of an object, in their order, also those that stand twice.
struct Members<'t>(Vec<(String, &'t RawValue)>);

impl<'t, 'de: 't> Deserialize<'de> for Members<'t> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each;

        impl<'de> Visitor<'de> for Each {
            type Value = Vec<(String, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(members)
            }
        }

        deserializer.deserialize_map(Each).map(Members)
    }
}

// ===== TOML =====

#[cfg(feature = "policy-toml")]
mod toml_tree {
    use super::{Entry, Fault, MAX_DEPTH, Node, Value, cut, join, too_deep};
    use toml::{
        Spanned,
        de::{DeTable, DeValue},
    };

    pub(super) fn parse(text: &str) -> Result<Node, Fault> {
        match DeTable::parse(text) {
            Ok(table) => Ok(Node { at: 0, value: self::table(table.into_inner(), "", 1)? }),
            Err(error) => Err(not_toml(text, &error)),
        }
    }

    fn table(table: DeTable<'_>, path: &str, depth: usize) -> Result<Value, Fault> {
        let entry = |(key, value): (Spanned<_>, _)| {
            let at = key.span().start;
            let key = String::from(key.into_inner());
            let node = node(value, at, &join(path, &key), depth + 1)?;
            Ok(Entry { key, at, node })
        };
        let mut entries = table.into_iter().map(entry).collect::<Result<Vec<_>, _>>()?;
        entries.sort_by_key(|entry| entry.at); // it comes in the order of the names
        Ok(Value::Table(entries))
    }

    /// The span of a table is not its own where a header names several: its key's place stands for it.
    fn node(value: Spanned<DeValue<'_>>, key_at: usize, path: &str, depth: usize) -> Result<Node, Fault> {
        let at = value.span().start;
        let value = match value.into_inner() {
            DeValue::Table(_) | DeValue::Array(_) if depth > MAX_DEPTH => return Err(too_deep(key_at, path)),
            DeValue::Table(inner) => table(inner, path, depth)?,
            DeValue::Array(items) => {
                let items = items.into_iter().map(|item| {
                    let at = item.span().start;
                    node(item, at, path, depth + 1)
                });
                Value::List(items.collect::<Result<_, _>>()?)
            }
            DeValue::String(text) => Value::Text(text.into_owned()),
            DeValue::Boolean(it) => Value::Bool(it),
            DeValue::Integer(number) => Value::Other(cut(&number.to_string())),
            DeValue::Float(number) => Value::Other(cut(&number.to_string())),
            DeValue::Datetime(date) => Value::Other(cut(&date.to_string())),
        };
        Ok(Node { at, value })
    }

    fn not_toml(text: &str, error: &toml::de::Error) -> Fault {
        let span = error.span().unwrap_or_default();
        if error.message() != "duplicate key" {
            return Fault::new(span.start, format!("not TOML: {}", error.message()));
        }
        // The parser tells the last part of the key only; the rest stands before it and in the header above, or in the
        // same one. Within braces it would have to be looked for: there the line and the key are enough.
        let (before, key) = (text.get(..span.start).unwrap_or_default(), text.get(span.clone()).unwrap_or_default());
        let header = |line: &str| Some(line.trim_start().strip_prefix('[')?.trim_start_matches('[').to_owned());
        let mut lines = before.rsplit('\n');
        let here = lines.next().unwrap_or_default();
        let path = match (header(here), lines.find_map(header)) {
            _ if before.matches('{').count() > before.matches('}').count() => key.to_owned(),
            (Some(names), _) => names + key,
            (None, Some(above)) => format!("{}.{}{key}", above.split(']').next().unwrap_or(&above), here.trim_start()),
            (None, None) => here.trim_start().to_owned() + key,
        };
        Fault::new(span.start, format!("`{}` stands here for the second time", cut(&path)))
    }
}

// ===== words =====

impl Value {
    /// As an error names it.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Text(text) => format!("{:?}", cut(text)),
            Self::Bool(it) => it.to_string(),
            Self::List(_) => "[…]".to_owned(),
            Self::Table(_) => "{…}".to_owned(),
            Self::Other(text) => text.clone(),
        }
    }
}

/// `capabilities."jobs.view".max_offline`
pub(super) fn join(path: &str, key: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let key = match !key.is_empty() && key.chars().all(bare) {
        true => cut(key),
        false => format!("{:?}", cut(key)),
    };
    if path.is_empty() { key } else { format!("{path}.{key}") }
}

fn too_deep(at: usize, path: &str) -> Fault {
    let path = if path.is_empty() { "the policy" } else { path };
    Fault::new(at, format!("`{path}` is nested deeper than anything in a policy"))
}

pub(super) fn cut(text: &str) -> String {
    match text.char_indices().nth(MAX_QUOTE) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
