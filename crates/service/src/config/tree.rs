//! A serde deserializer over TOML's spanned tree that keeps what the checks need: the path and span of an error,
//! every key that the type ignored, and the fields of every struct that it asked for.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::Range;

use serde::de::value::{MapAccessDeserializer, StringDeserializer};
use serde::de::{DeserializeSeed, Deserializer, Error as _, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;
use toml::Spanned;
use toml::de::{DeInteger, DeString, DeTable, DeValue};

pub(super) type KeyPath = Vec<String>;

/// What the type did with the tree.
#[derive(Debug, Default)]
pub(super) struct Trace {
    /// Keys that the type has no field for, with the key's span.
    pub(super) unknown: Vec<(KeyPath, Range<usize>)>,
    /// The fields of each struct that was read, by its path.
    pub(super) structs: BTreeMap<KeyPath, &'static [&'static str]>,
    /// Where deserialization is now.
    path: KeyPath,
}

/// The first value that the type refused.
#[derive(Debug)]
pub(super) struct TreeError {
    pub(super) message: String,
    pub(super) path: KeyPath,
    pub(super) span: Option<Range<usize>>,
}

impl TreeError {
    /// Fills in where the error happened; the innermost value to do so wins.
    fn located(mut self, path: &[String], span: &Range<usize>) -> Self {
        if self.span.is_none() {
            self.span = Some(span.clone());
            self.path = path.to_vec();
        }
        self
    }
}

impl Display for TreeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for TreeError {}

impl serde::de::Error for TreeError {
    fn custom<T: Display>(message: T) -> Self {
        Self { message: message.to_string(), path: Vec::new(), span: None }
    }
}

/// Takes the value at `path` out of the tree, or the nearest keyed value around it; false if nothing was there.
pub(super) fn remove(root: &mut DeTable<'_>, path: &[String]) -> bool {
    let Some((first, rest)) = path.split_first() else { return false };
    if !rest.is_empty()
        && let Some(DeValue::Table(inner)) = root.get_mut(first.as_str()).map(Spanned::get_mut)
        && remove(inner, rest)
    {
        return true;
    }
    root.remove(first.as_str()).is_some()
}

/// Puts `text` in the place of a value that isn't text; false if there is no such value.
pub(super) fn replace_with_text(root: &mut DeTable<'_>, path: &[String], text: &str) -> bool {
    let Some((first, rest)) = path.split_first() else { return false };
    match root.get_mut(first.as_str()).map(Spanned::get_mut) {
        Some(DeValue::Table(inner)) if !rest.is_empty() => replace_with_text(inner, rest, text),
        None | Some(DeValue::String(_) | DeValue::Table(_)) => false,
        Some(value) => {
            *value = DeValue::String(DeString::Owned(text.to_owned()));
            true
        }
    }
}

/// One value of the tree, as serde sees it.
pub(super) struct Node<'t, 'i> {
    value: DeValue<'i>,
    /// The span of the key that it belongs to, where it has one.
    key: Option<Range<usize>>,
    trace: &'t RefCell<Trace>,
}

impl<'t, 'i> Node<'t, 'i> {
    pub(super) fn root(table: DeTable<'i>, trace: &'t RefCell<Trace>) -> Self {
        Self { value: DeValue::Table(table), key: None, trace }
    }

    fn table(table: DeTable<'i>, trace: &'t RefCell<Trace>) -> Entries<'t, 'i> {
        Entries { rest: table.into_iter().collect::<Vec<_>>().into_iter(), value: None, trace }
    }
}

impl<'de> Deserializer<'de> for Node<'_, '_> {
    type Error = TreeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TreeError> {
        match self.value {
            DeValue::String(text) => visitor.visit_string(text.into_owned()),
            DeValue::Integer(integer) => visit_integer(&integer, visitor),
            DeValue::Float(float) => match float.as_str().parse() {
                Ok(number) => visitor.visit_f64(number),
                Err(_) => Err(TreeError::custom(format!("{float} is not a number"))),
            },
            DeValue::Boolean(value) => visitor.visit_bool(value),
            DeValue::Datetime(datetime) => visitor.visit_string(datetime.to_string()),
            DeValue::Array(array) => {
                visitor.visit_seq(Items { items: array.into_iter().enumerate(), trace: self.trace })
            }
            DeValue::Table(table) => visitor.visit_map(Self::table(table, self.trace)),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TreeError> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, TreeError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, TreeError> {
        {
            let mut trace = self.trace.borrow_mut();
            let path = trace.path.clone();
            trace.structs.insert(path, fields);
        }
        self.deserialize_any(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, TreeError> {
        match self.value {
            DeValue::String(text) => {
                let text: StringDeserializer<TreeError> = text.into_owned().into_deserializer();
                visitor.visit_enum(text)
            }
            DeValue::Table(table) => {
                visitor.visit_enum(MapAccessDeserializer::new(Self::table(table, self.trace)))
            }
            other => Err(TreeError::custom(format!("expected text, found {}", other.type_str()))),
        }
    }

    /// Only a key that no field wants comes here.
    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TreeError> {
        if let Some(key) = self.key {
            let mut trace = self.trace.borrow_mut();
            let path = trace.path.clone();
            trace.unknown.push((path, key));
        }
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool u8 u16 u32 u64 i8 i16 i32 i64 f32 f64 char str string seq
        bytes byte_buf map unit unit_struct tuple_struct tuple identifier
    }
}

fn visit_integer<'de, V: Visitor<'de>>(integer: &DeInteger<'_>, visitor: V) -> Result<V::Value, TreeError> {
    if let Ok(number) = i64::from_str_radix(integer.as_str(), integer.radix()) {
        return visitor.visit_i64(number);
    }
    match u64::from_str_radix(integer.as_str(), integer.radix()) {
        Ok(number) => visitor.visit_u64(number),
        Err(_) => Err(TreeError::custom(format!("{} is too large a number", integer.as_str()))),
    }
}

struct Entries<'t, 'i> {
    rest: std::vec::IntoIter<(Spanned<DeString<'i>>, Spanned<DeValue<'i>>)>,
    value: Option<(Spanned<DeString<'i>>, Spanned<DeValue<'i>>)>,
    trace: &'t RefCell<Trace>,
}

impl<'de> MapAccess<'de> for Entries<'_, '_> {
    type Error = TreeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, TreeError> {
        let Some((key, value)) = self.rest.next() else { return Ok(None) };
        let name: StringDeserializer<TreeError> = key.get_ref().clone().into_owned().into_deserializer();
        let read = seed.deserialize(name).map_err(|error| {
            let mut path = self.trace.borrow().path.clone();
            path.push(key.get_ref().clone().into_owned());
            error.located(&path, &key.span())
        })?;
        self.value = Some((key, value));
        Ok(Some(read))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, TreeError> {
        let (key, value) = self.value.take().ok_or_else(|| TreeError::custom("a value was read twice"))?;
        let span = value.span();
        let node = Node { value: value.into_inner(), key: Some(key.span()), trace: self.trace };
        descend(self.trace, key.into_inner().into_owned(), &span, || seed.deserialize(node))
    }
}

struct Items<'t, 'i, I: Iterator<Item = (usize, Spanned<DeValue<'i>>)>> {
    items: I,
    trace: &'t RefCell<Trace>,
}

impl<'de, 'i, I: Iterator<Item = (usize, Spanned<DeValue<'i>>)>> SeqAccess<'de> for Items<'_, 'i, I> {
    type Error = TreeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, TreeError> {
        let Some((index, item)) = self.items.next() else { return Ok(None) };
        let span = item.span();
        let node = Node { value: item.into_inner(), key: None, trace: self.trace };
        descend(self.trace, index.to_string(), &span, || seed.deserialize(node)).map(Some)
    }
}

/// Runs `read` one step down the path; an error from there is located at `span`.
fn descend<T>(
    trace: &RefCell<Trace>,
    step: String,
    span: &Range<usize>,
    read: impl FnOnce() -> Result<T, TreeError>,
) -> Result<T, TreeError> {
    trace.borrow_mut().path.push(step);
    let result = read().map_err(|error| error.located(&trace.borrow().path, span));
    trace.borrow_mut().path.pop();
    result
}
