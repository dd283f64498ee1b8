//! What changes of all resources have in common: what is absent stays, null clears, and every fault
//! is noted.

use std::fmt::Display;

use poem_openapi::types::MaybeUndefined;
use serde::{Deserialize, Deserializer};

use super::body::OnlyObject;
use crate::http::problem::Faults;

/// Makes a change; null takes the value away.
pub(super) fn set<T>(field: &mut Option<T>, change: MaybeUndefined<T>) {
    match change {
        MaybeUndefined::Undefined => {}
        MaybeUndefined::Null => *field = None,
        MaybeUndefined::Value(value) => *field = Some(value),
    }
}

/// Makes a change; null brings back what is there from the start.
pub(super) fn set_or<T>(field: &mut T, change: MaybeUndefined<T>, cleared: T) {
    match change {
        MaybeUndefined::Undefined => {}
        MaybeUndefined::Null => *field = cleared,
        MaybeUndefined::Value(value) => *field = value,
    }
}

/// The field's value, checked; undefined where it is at fault, which is noted.
pub(super) fn field<T, U>(
    value: MaybeUndefined<T>,
    pointer: &str,
    faults: &mut Faults,
    check: impl FnOnce(T) -> Result<U, String>,
) -> MaybeUndefined<U> {
    match value {
        MaybeUndefined::Undefined => MaybeUndefined::Undefined,
        MaybeUndefined::Null => MaybeUndefined::Null,
        MaybeUndefined::Value(value) => match faults.take(pointer, check(value)) {
            Some(value) => MaybeUndefined::Value(value),
            None => MaybeUndefined::Undefined,
        },
    }
}

/// The number, where it is from `min` to `max`.
pub(super) fn within<T: Copy + PartialOrd + Display>(value: T, min: T, max: T) -> Result<T, String> {
    if (min..=max).contains(&value) {
        Ok(value)
    } else {
        Err(format!("expected a whole number from {min} to {max}"))
    }
}

/// An object or null.
pub(super) fn object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<MaybeUndefined<T>, D::Error> {
    let value = Option::<OnlyObject<T>>::deserialize(deserializer)?;
    Ok(value.map_or(MaybeUndefined::Null, |OnlyObject(value)| MaybeUndefined::Value(value)))
}
