//! Changes of what GET shows: its fields that nobody sets may come back with it, as long as they are unchanged.
//!
//! So who reads a resource, changes a field and puts it back need not know which fields are whose.

use std::fmt;

use poem::Request;
use poem_openapi::impl_apirequest_for_payload;
use poem_openapi::payload::{ParsePayload, Payload};
use poem_openapi::registry::{MetaSchemaRef, Registry};
use poem_openapi::types::Type;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, DeserializeSeed, IntoDeserializer as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::body::{Json, push_segment};
use crate::http::problem::{Faults, Problem};

/// A change of a resource, as its fields that may be changed.
pub(super) trait Changes: Type + DeserializeOwned {
    /// What else GET shows of the resource, and changes by itself: whatever is said of it is left alone.
    const MOVING: &'static [&'static str];
    /// What else GET shows of the resource.
    const FIXED: &'static [&'static str];
}

/// A body with a change in it, and with what else GET showed.
#[derive(Debug)]
pub(super) struct Changed<T> {
    /// What is to be changed.
    pub(super) change: T,
    /// What came back unchanged, if it is.
    shown: Map<String, Value>,
}

impl<T: Changes> Changed<T> {
    /// Whether there is something to be held against what GET shows.
    pub(super) fn names_fixed_fields(&self) -> bool {
        !self.shown.is_empty()
    }

    /// Refuses what came back otherwise than GET shows it.
    pub(super) fn check(&self, current: &impl Serialize) -> Result<(), Problem> {
        let current = serde_json::to_value(current).unwrap_or_default();
        let mut faults = Faults::default();
        for (name, _) in self.shown.iter().filter(|(name, value)| current.get(name) != Some(value)) {
            let mut pointer = String::new();
            push_segment(&mut pointer, name);
            faults.add(&pointer, "cannot be changed here: expected what GET shows, or nothing");
        }
        faults.check()
    }
}

impl<'de, T: Changes> Deserialize<'de> for Changed<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<T>(std::marker::PhantomData<T>);

        impl<'de, T: Changes> Visitor<'de> for Fields<T> {
            type Value = Changed<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Changed<T>, A::Error> {
                let mut shown = Map::new();
                let sieve = Sieve { map, moving: T::MOVING, fixed: T::FIXED, shown: &mut shown };
                let change = T::deserialize(MapAccessDeserializer::new(sieve))?;
                Ok(Changed { change, shown })
            }
        }

        deserializer.deserialize_map(Fields(std::marker::PhantomData))
    }
}

/// The fields of an object without those that are shown alone.
struct Sieve<'a, A> {
    map: A,
    moving: &'static [&'static str],
    fixed: &'static [&'static str],
    shown: &'a mut Map<String, Value>,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Sieve<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        while let Some(name) = self.map.next_key::<String>()? {
            if self.fixed.contains(&name.as_str()) {
                let value = self.map.next_value()?;
                self.shown.insert(name, value);
            } else if self.moving.contains(&name.as_str()) {
                self.map.next_value::<Value>()?;
            } else {
                return seed.deserialize(name.into_deserializer()).map(Some);
            }
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.map.next_value_seed(seed)
    }
}

/// In the document it is the change alone.
impl<T: Changes> Payload for Changed<T> {
    const CONTENT_TYPE: &'static str = Json::<T>::CONTENT_TYPE;

    fn check_content_type(content_type: &str) -> bool {
        Json::<T>::check_content_type(content_type)
    }

    fn schema_ref() -> MetaSchemaRef {
        T::schema_ref()
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}

impl<T: Changes> ParsePayload for Changed<T> {
    const IS_REQUIRED: bool = true;

    async fn from_request(request: &Request, body: &mut poem::RequestBody) -> poem::Result<Self> {
        super::body::read_json(request, body).await
    }
}

impl_apirequest_for_payload!(Changed<T>, T: Changes);

#[cfg(test)]
mod tests {
    use poem_openapi::Object;
    use serde_json::json;

    use super::*;
    use crate::api::body::parse;

    #[derive(Debug, Deserialize, Object)]
    #[serde(deny_unknown_fields)]
    struct Change {
        name: Option<String>,
    }

    impl Changes for Change {
        const MOVING: &'static [&'static str] = &["age"];
        const FIXED: &'static [&'static str] = &["id", "a/b"];
    }

    #[test]
    fn what_get_shows_may_come_back() {
        let current = json!({"id": 7, "a/b": [1], "age": 3, "name": "x"});
        for (body, refused) in [
            (json!({}), None),
            (json!({"name": "y"}), None),
            (current.clone(), None),
            (json!({"id": 7, "age": 99}), None),
            (json!({"id": 8, "name": "y"}), Some("/id")),
            (json!({"id": null}), Some("/id")),
            (json!({"a/b": []}), Some("/a~1b")),
            (json!({"zz": 1}), Some("/zz")),
            (json!({"name": 7}), Some("/name")),
        ] {
            let parsed = parse::<Changed<Change>>(body.to_string().as_bytes());
            let checked = parsed.and_then(|changed| {
                let is_fixed = |name: &&str| body.get(name).is_some();
                assert_eq!(changed.names_fixed_fields(), Change::FIXED.iter().any(is_fixed));
                assert_eq!(changed.change.name.as_deref(), body["name"].as_str());
                changed.check(&current)
            });
            let pointer = checked.err().map(|problem| problem.errors()[0].pointer.clone());
            assert_eq!(pointer.as_deref(), refused, "{body}");
        }
        assert!(parse::<Changed<Change>>(br#"{"name": "x", "id": 7, "name": "y"}"#).is_err(), "once");
    }
}
