//! A JSON text as a tree of borrowed values, and Sigma's field paths through it.

use std::borrow::Cow;
use std::fmt;

use rsigma_eval::EventValue;
use rsigma_parser::fieldpath::unescape_brackets;
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// One JSON value. Strings without escapes are borrowed from the text.
#[derive(Clone, Debug)]
pub(crate) enum Node<'e> {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(Cow<'e, str>),
    Array(Vec<Node<'e>>),
    Object(Vec<(Cow<'e, str>, Node<'e>)>),
}

impl<'e> Node<'e> {
    /// Parses a text that is known to be bounded; anything that is not JSON is `Null`.
    pub(crate) fn parse(text: &'e str) -> Self {
        serde_json::from_str(text).unwrap_or(Self::Null)
    }

    pub(crate) fn child(&self, key: &str) -> Option<&Self> {
        match self {
            Self::Object(entries) => entries.iter().find(|(k, _)| k == key).map(|(_, node)| node),
            _ => None,
        }
    }

    /// The value at a dotted path. Across an array the path is followed in every member. A key that itself contains
    /// dots (`annotations.authorization.k8s.io/decision`) is found where the rest of the path is that key.
    pub(crate) fn field(&self, path: &str) -> Option<EventValue<'_>> {
        let mut found = Vec::new();
        self.collect(path, &mut found);
        match found.len() {
            0 => None,
            1 => found.pop(),
            _ => Some(EventValue::Array(found)),
        }
    }

    fn collect<'s>(&'s self, path: &str, found: &mut Vec<EventValue<'s>>) {
        match self {
            Self::Object(_) => {
                if let Some(node) = self.child(&unescape_brackets(path)) {
                    found.push(node.value());
                    return;
                }
                let Some((head, rest)) = path.split_once('.') else {
                    self.indexed(path, None, found);
                    return;
                };
                match self.child(&unescape_brackets(head)) {
                    Some(node) => node.collect(rest, found),
                    None => self.indexed(head, Some(rest), found),
                }
            }
            Self::Array(members) => members.iter().for_each(|member| member.collect(path, found)),
            _ => {}
        }
    }

    /// `name[2]`, `name[-1]`: one member of an array (Sigma 3).
    fn indexed<'s>(&'s self, segment: &str, rest: Option<&str>, found: &mut Vec<EventValue<'s>>) {
        let Some((name, index)) = segment.strip_suffix(']').and_then(|s| s.rsplit_once('[')) else { return };
        let (Some(Self::Array(members)), Ok(index)) = (self.child(name), index.parse::<isize>()) else {
            return;
        };
        let at =
            if index < 0 { members.len().checked_add_signed(index) } else { usize::try_from(index).ok() };
        match (at.and_then(|at| members.get(at)), rest) {
            (Some(member), Some(rest)) => member.collect(rest, found),
            (Some(member), None) => found.push(member.value()),
            (None, _) => {}
        }
    }

    pub(crate) fn value(&self) -> EventValue<'_> {
        match self {
            Self::Null => EventValue::Null,
            Self::Bool(value) => EventValue::Bool(*value),
            Self::Int(value) => EventValue::Int(*value),
            Self::Float(value) => EventValue::Float(*value),
            Self::Str(text) => EventValue::Str(Cow::Borrowed(text)),
            Self::Array(members) => EventValue::Array(members.iter().map(Self::value).collect()),
            Self::Object(entries) => EventValue::Map(
                entries.iter().map(|(key, node)| (Cow::Borrowed(&**key), node.value())).collect(),
            ),
        }
    }

    /// Whether any string value satisfies `pred`. Keys are not values.
    pub(crate) fn any_string(&self, pred: &dyn Fn(&str) -> bool) -> bool {
        match self {
            Self::Str(text) => pred(text),
            Self::Array(members) => members.iter().any(|member| member.any_string(pred)),
            Self::Object(entries) => entries.iter().any(|(_, node)| node.any_string(pred)),
            _ => false,
        }
    }

    pub(crate) fn each_string<'s>(&'s self, visit: &mut dyn FnMut(&'s str)) {
        match self {
            Self::Str(text) => visit(text),
            Self::Array(members) => members.iter().for_each(|member| member.each_string(visit)),
            Self::Object(entries) => entries.iter().for_each(|(_, node)| node.each_string(visit)),
            _ => {}
        }
    }
}

impl<'de> Deserialize<'de> for Node<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Node<'de>, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Node<'de>, E> {
        Ok(Node::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Node<'de>, E> {
        Ok(Node::Int(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Node<'de>, E> {
        Ok(i64::try_from(value).map_or(Node::Float(value as f64), Node::Int))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Node<'de>, E> {
        Ok(Node::Float(value))
    }

    fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Node<'de>, E> {
        Ok(Node::Str(Cow::Borrowed(text)))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Node<'de>, E> {
        Ok(Node::Str(Cow::Owned(text.to_owned())))
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<Node<'de>, E> {
        Ok(Node::Str(Cow::Owned(text)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node<'de>, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = seq.next_element()? {
            members.push(member);
        }
        Ok(Node::Array(members))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node<'de>, A::Error> {
        let mut entries: Vec<(Cow<'de, str>, Node<'de>)> = Vec::new();
        while let Some((Key(key), node)) = map.next_entry::<Key<'de>, _>()? {
            // A repeated key: the last one counts, as with every JSON library in reach.
            match entries.iter_mut().find(|(known, _)| *known == key) {
                Some(entry) => entry.1 = node,
                None => entries.push((key, node)),
            }
        }
        Ok(Node::Object(entries))
    }
}

/// An object's key, borrowed where it has no escapes (`Cow`'s own deserialisation always allocates).
struct Key<'k>(Cow<'k, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = Key<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object's key")
            }
            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(text)))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(KeyVisitor)
    }
}

#[cfg(test)]
mod tests;
