//! A policy as a part of a larger file, in whatever format serde reads: the same tree, without places.

use super::{
    OfflinePolicy,
    document::{Entry, MAX_DEPTH, Node, Value, cut},
    read,
};
use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::{collections::BTreeSet, fmt};

/// As a part of a larger file, the keys are those of [`from_toml`](OfflinePolicy::from_toml).
///
/// Errors name the key and what was expected; the line is the format's business.
///
/// ```
/// use tower_reauth::OfflinePolicy;
///
/// #[derive(serde::Deserialize)]
/// struct Settings {
///     offline: OfflinePolicy,
/// }
/// let text = r#"{ "offline": { "capabilities": { "jobs.view": { "max_offline": "7d" } } } }"#;
/// let settings: Settings = serde_json::from_str(text)?;
/// println!("{}", settings.offline);
/// # Ok::<(), serde_json::Error>(())
/// ```
impl<'de> Deserialize<'de> for OfflinePolicy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let document = Tree { depth: 1 }.deserialize(deserializer)?;
        read::document(&document, false).map_err(|fault| D::Error::custom(fault.what()))
    }
}

/// A value, so deep in the document.
#[derive(Clone, Copy)]
struct Tree {
    depth: usize,
}

impl Tree {
    fn inner<E: Error>(self) -> Result<Self, E> {
        match self.depth > MAX_DEPTH {
            true => Err(E::custom("nested deeper than anything in a policy")),
            false => Ok(Self { depth: self.depth + 1 }),
        }
    }
}

fn node<E>(value: Value) -> Result<Node, E> {
    Ok(Node { at: 0, value })
}

fn other<E>(text: impl fmt::Display) -> Result<Node, E> {
    node(Value::Other(cut(&text.to_string())))
}

impl<'de> DeserializeSeed<'de> for Tree {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an offline policy")
    }

    fn visit_bool<E: Error>(self, it: bool) -> Result<Node, E> {
        node(Value::Bool(it))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Node, E> {
        node(Value::Text(text.to_owned()))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Node, E> {
        other(number)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Node, E> {
        other(number)
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Node, E> {
        other(number)
    }

    fn visit_unit<E: Error>(self) -> Result<Node, E> {
        other("null")
    }

    fn visit_none<E: Error>(self) -> Result<Node, E> {
        other("null")
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let inner = self.inner()?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(inner)? {
            list.push(item);
        }
        node(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Node, A::Error> {
        let inner = self.inner()?;
        let (mut entries, mut names) = (Vec::new(), BTreeSet::new());
        while let Some(key) = members.next_key::<String>()? {
            if !names.insert(key.clone()) {
                return Err(A::Error::custom(format!("`{}` stands here for the second time", cut(&key))));
            }
            entries.push(Entry { key, at: 0, node: members.next_value_seed(inner)? });
        }
        node(Value::Table(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        serde_json::from_str::<OfflinePolicy>(text).unwrap_err().to_string()
    }

    #[test]
    fn a_part_of_a_larger_file_is_the_same_policy() {
        let text = r#"{
            "grants_max_age": "24h",
            "capabilities": {
                "read": { "max_offline": "7d", "scope": ["a", "b"], "sensitivity": "high" },
                "write": { "any_of": [{ "online": true, "token": "fresh" }, { "max_offline": "5m" }] }
            },
            "tiers": { "high": { "step_up_within": "1h30m" } }
        }"#;
        let embedded: OfflinePolicy = serde_json::from_str(text).unwrap();
        assert_eq!(embedded, OfflinePolicy::from_json(text).unwrap());
        assert_eq!(serde_json::from_value::<OfflinePolicy>(serde_json::from_str(text).unwrap()).unwrap(), embedded);
    }

    #[test]
    fn errors_name_the_key_and_what_was_expected() {
        let typo = error(r#"{ "capabilities": { "read": { "max_ofline": "7d" } } }"#);
        assert!(
            typo.contains("`capabilities.read.max_ofline`") && typo.contains("did you mean `max_offline`?"),
            "{typo}"
        );
        let null = error(r#"{ "capabilities": { "read": { "max_offline": null } } }"#);
        assert!(null.contains("`capabilities.read.max_offline` is null: expected a duration"), "{null}");
        assert!(error(r#"{ "capabilities": {}, "capabilities": {} }"#).contains("second time"));
        assert!(error(r#"{ "capabilities": { "a": { "any_of": [[[[[[1]]]]]] } } }"#).contains("nested deeper"));
        assert!(error("7").contains("expected keys"), "{}", error("7"));
    }
}
