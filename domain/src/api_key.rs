//! API keys: what opens the API, and how far.

use std::fmt;

use sha2::{Digest as _, Sha256};

use crate::id::KeyId;
use crate::limits::KEY_NAME_CHARS_MAX;
use crate::tenant::Tenant;
use crate::time::Timestamp;

/// Whether the last key that opens everything may be revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastAdminKey {
    /// It may: there is another one elsewhere, or none is needed.
    MayGo,
    /// It may not.
    Stays,
}

/// What came of revoking a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revocation {
    /// It is gone; this was kept of it.
    Done(KeyDigest),
    /// There is no such key.
    NotFound,
    /// It stays, since no other key that opens everything is in force.
    LastAdminKey,
}

/// So that secret scanners know one where they find it: this, and 64 digits of lower-case hex.
const PREFIX: &str = "posthorn_";

/// A key's random bytes: nobody guesses 256 bits, so a plain hash is enough to keep of it.
pub const API_KEY_BYTES: usize = 32;

/// An API key itself, as it is shown once; shows nothing through `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(String);

impl ApiKey {
    /// From fresh random bytes.
    #[must_use]
    pub fn from_random(bytes: [u8; API_KEY_BYTES]) -> Self {
        let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 0x0f]);
        let digits = digits.map(|digit| char::from_digit(u32::from(digit), 16).unwrap_or('0'));
        Self(PREFIX.chars().chain(digits).collect())
    }

    /// The key as clients send it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// What is kept of it.
    #[must_use]
    pub fn digest(&self) -> KeyDigest {
        KeyDigest::of(self.0.as_bytes())
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(…)")
    }
}

/// What is kept of an API key: its SHA-256. Two keys are compared by theirs, so that how long a comparison takes
/// says nothing of the keys.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyDigest(pub [u8; 32]);

impl KeyDigest {
    /// Of the key as clients send it.
    #[must_use]
    pub fn of(key: &[u8]) -> Self {
        Self(Sha256::digest(key).into())
    }
}

impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyDigest(…)")
    }
}

/// How far a key opens the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everything.
    Admin,
    /// What is this tenant's.
    Tenant(Tenant),
}

impl Access {
    /// Whose things it opens.
    #[must_use]
    pub const fn scope(&self) -> Scope<'_> {
        match self {
            Self::Admin => Scope::All,
            Self::Tenant(own) => Scope::Tenant(own),
        }
    }

    /// The one tenant that it is limited to.
    #[must_use]
    pub const fn tenant(&self) -> Option<&Tenant> {
        match self {
            Self::Admin => None,
            Self::Tenant(own) => Some(own),
        }
    }
}

/// Whose things a caller sees. A type of its own, so that "no tenant" is never read as "all tenants".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope<'a> {
    /// Everybody's.
    All,
    /// One tenant's.
    Tenant(&'a Tenant),
    /// Nobody's.
    Nothing,
}

impl<'a> Scope<'a> {
    /// Whether it includes what is `tenant`'s.
    #[must_use]
    pub fn sees(self, tenant: &Tenant) -> bool {
        match self {
            Self::All => true,
            Self::Tenant(own) => own == tenant,
            Self::Nothing => false,
        }
    }

    /// The part of it that is `asked`'s; all of it where no tenant is asked for.
    #[must_use]
    pub fn narrowed(self, asked: Option<&'a Tenant>) -> Self {
        match asked {
            Some(tenant) if self.sees(tenant) => Self::Tenant(tenant),
            Some(_) => Self::Nothing,
            None => self,
        }
    }
}

/// An API key as it is kept: all but the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRecord {
    /// Names it without giving it away.
    pub id: KeyId,
    /// For people: who has it.
    pub name: KeyName,
    /// How far it opens the API.
    pub access: Access,
    /// When it was made.
    pub created_at: Timestamp,
    /// From when on it opens nothing; none: it does until it is revoked.
    pub expires_at: Option<Timestamp>,
    /// When it was used last, to the minute.
    pub last_used_at: Option<Timestamp>,
}

impl KeyRecord {
    /// Whether it opens anything at `now`.
    #[must_use]
    pub fn is_valid_at(&self, now: Timestamp) -> bool {
        self.expires_at.is_none_or(|end| now < end)
    }
}

/// What people call a key: up to `KEY_NAME_CHARS_MAX` characters, none of them a control character.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyName(String);

/// Why a text is no key's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected at most {KEY_NAME_CHARS_MAX} characters, none of them a control character")]
pub struct KeyNameError;

impl KeyName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for KeyName {
    type Err = KeyNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let ok = text.chars().count() <= KEY_NAME_CHARS_MAX && !text.chars().any(char::is_control);
        if ok { Ok(Self(text.to_owned())) } else { Err(KeyNameError) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_known_by_their_look_and_show_nothing() {
        let mut bytes = [0; API_KEY_BYTES];
        bytes[0] = 0x0f;
        bytes[31] = 0xa1;
        let key = ApiKey::from_random(bytes);
        let hex = key.expose().strip_prefix("posthorn_").unwrap();
        assert_eq!(hex, format!("0f{}a1", "00".repeat(30)));
        assert_eq!(format!("{key:?} {:?}", key.digest()), "ApiKey(…) KeyDigest(…)");
        assert_eq!(key.digest(), KeyDigest::of(key.expose().as_bytes()));
        assert_ne!(key.digest(), KeyDigest::of(hex.as_bytes()));
    }

    #[test]
    fn scopes_see_what_is_theirs() {
        let tenant = |name: &str| name.parse::<Tenant>().unwrap();
        let (acme, globex) = (tenant("acme"), tenant("globex"));
        let own = Access::Tenant(acme.clone());
        assert_eq!((own.scope(), Access::Admin.scope()), (Scope::Tenant(&acme), Scope::All));
        for (scope, sees_acme, asked_for_acme, asked_for_globex) in [
            (Scope::All, true, Scope::Tenant(&acme), Scope::Tenant(&globex)),
            (Scope::Tenant(&acme), true, Scope::Tenant(&acme), Scope::Nothing),
            (Scope::Nothing, false, Scope::Nothing, Scope::Nothing),
        ] {
            assert_eq!(scope.sees(&acme), sees_acme, "{scope:?}");
            assert!(scope == Scope::All || !scope.sees(&tenant("Acme")), "{scope:?}");
            assert_eq!(scope.narrowed(None), scope);
            assert_eq!(scope.narrowed(Some(&acme)), asked_for_acme, "{scope:?}");
            assert_eq!(scope.narrowed(Some(&globex)), asked_for_globex, "{scope:?}");
        }
    }

    #[test]
    fn keys_end_with_the_millisecond() {
        let at = Timestamp::from_millis;
        let key = |expires_at| KeyRecord {
            id: KeyId(uuid::Uuid::nil()),
            name: KeyName::default(),
            access: Access::Admin,
            created_at: at(0),
            expires_at,
            last_used_at: None,
        };
        for (expires_at, now, valid) in
            [(None, i64::MAX, true), (Some(at(5)), 4, true), (Some(at(5)), 5, false), (Some(at(0)), 0, false)]
        {
            assert_eq!(key(expires_at).is_valid_at(at(now)), valid, "{expires_at:?} at {now}");
        }
    }

    #[test]
    fn names_are_one_line() {
        for (name, ok) in
            [("", true), ("ci, büro", true), ("a\nb", false), ("a\u{1b}[1m", false), ("\0", false)]
        {
            assert_eq!(name.parse::<KeyName>().is_ok(), ok, "{name:?}");
        }
        assert!("ä".repeat(100).parse::<KeyName>().is_ok());
        assert!("a".repeat(101).parse::<KeyName>().is_err());
    }
}
