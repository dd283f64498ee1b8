//! One endpoint with its policies.

mod creation;

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::certificate::ClientCertificate;
use crate::circuit::CircuitPolicy;
use crate::concurrency::{Adaptive, InFlight};
use crate::delivery::named_states;
use crate::forward::{ForwardHeaders, IdempotencyHeader};
use crate::give_up::GiveUpOn;
use crate::header::StaticHeaders;
use crate::id::SubscriptionId;
use crate::retry::RetryPolicy;
use crate::rotation::Replaced;
use crate::signature::{SecretKey, SigningSecret};
use crate::target::TargetUrl;
use crate::tenant::Tenant;
use crate::time::Timestamp;

named_states! {
    /// Which deliveries wait for which.
    Ordering {
        /// Each waits for every earlier one.
        Strict = 0 "strict",
        /// Each waits for the earlier ones with the same key; those without a key wait for none.
        Key = 1 "key",
        /// None waits for another.
        None = 2 "none",
    }
}

named_states! {
    /// Whether a subscription takes events in and sends them.
    SubscriptionStatus {
        /// Both.
        Active = 0 "active",
        /// Takes in and holds.
        Paused = 1 "paused",
        /// Neither.
        Disabled = 2 "disabled",
    }
}

named_states! {
    /// Why a subscription is not active, where no person wished it.
    StatusReason {
        /// A delivery used up its retries and the policy says to pause.
        RetriesExhausted = 0 "retries_exhausted",
        /// It failed for too long without one success.
        Failing = 1 "failing",
        /// The endpoint answered 410.
        Gone = 2 "gone",
        /// Some of its secrets cannot be read, so that nothing can be sent as it should be.
        SecretsUnreadable = 3 "secrets_unreadable",
    }
}

named_states! {
    /// What of a subscription is secret.
    SecretField {
        /// The values of its static headers.
        Headers = 0 "headers",
        /// What signs its deliveries.
        SigningSecret = 1 "signing_secret",
        /// What signed them before, and still does.
        ReplacedSigningSecrets = 2 "replaced_signing_secrets",
        /// What guards its ingest.
        SecretKey = 3 "secret_key",
        /// What guarded it before, and still does.
        ReplacedSecretKeys = 4 "replaced_secret_keys",
        /// What its endpoint is shown.
        ClientCertificate = 5 "client_certificate",
    }
}

named_states! {
    /// What becomes of a lane whose delivery used up its retries.
    OnExhausted {
        /// The delivery ends `failed`, and the next one goes.
        Continue = 0 "continue",
        /// The subscription is paused, with that delivery at its head.
        Pause = 1 "pause",
    }
}

/// At most so many requests per second, with so many at once after a rest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateLimit {
    /// The sustained rate, from `RATE_MIN` to `RATE_MAX`.
    pub requests_per_second: f64,
    /// Requests that may go at once after a rest, from 1 to `BURST_MAX`.
    pub burst: u32,
}

/// What a subscription says of its own retries; what is left out follows the configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryOverrides {
    /// Retries after the first attempt.
    pub max_retries: Option<u32>,
    /// Before the first retry.
    pub delay: Option<Duration>,
    /// The longest delay.
    pub delay_max: Option<Duration>,
    /// See [`OnExhausted`].
    pub on_exhausted: Option<OnExhausted>,
    /// Answers after which a delivery is not tried again.
    pub give_up_on: GiveUpOn,
}

/// What a person may set of a subscription.
#[derive(Clone, Debug, PartialEq)]
pub struct SubscriptionConfig {
    /// Where its deliveries go.
    pub target: TargetUrl,
    /// A line for people.
    pub description: Option<String>,
    /// Sent along with each delivery.
    pub headers: StaticHeaders,
    /// Which deliveries wait for which.
    pub ordering: Ordering,
    /// Requests in flight at most; always 1 for `strict`. None: found out by how the endpoint answers.
    pub max_in_flight: Option<u32>,
    /// Requests per second at most.
    pub rate_limit: Option<RateLimit>,
    /// Its own retries.
    pub retry: RetryOverrides,
    /// Its own time-out for one attempt.
    pub timeout: Option<Duration>,
    /// Guards ingest.
    pub secret_key: Option<SecretKey>,
    /// Deliveries are also signed with an [`AsymmetricKey`](crate::asymmetric::AsymmetricKey), and its public key is
    /// shown to everyone. Costs twenty times what the other signature does (17 µs and 0.9 µs for 1 KiB).
    pub asymmetric_signature: bool,
    /// Shown to an endpoint that asks who calls.
    pub client_certificate: Option<ClientCertificate>,
    /// Headers of ingest that travel on.
    pub forward_headers: ForwardHeaders,
    /// The header of ingest that serves as `Idempotency-Key` where that is absent.
    pub idempotency_header: Option<IdempotencyHeader>,
}

/// The signing secret of now and, for a while after each rotation, those before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SigningSecrets {
    /// Signs every delivery.
    pub current: SigningSecret,
    /// Sign beside it until their ends.
    pub replaced: Replaced<SigningSecret>,
}

impl SigningSecrets {
    /// Those that sign what goes out at `at`, the newest first, with the time from which each does not any more.
    pub fn in_force(&self, at: Timestamp) -> impl Iterator<Item = (&SigningSecret, Option<Timestamp>)> {
        let replaced = self.replaced.in_force(at).map(|(secret, until)| (secret, Some(until)));
        std::iter::once((&self.current, None)).chain(replaced)
    }

    /// `new` signs from `now` on, and the one before for `overlap` more. Without an overlap all others end at once. Where
    /// `new` is the current one already, that stays as it is: the same rotation twice is one.
    pub fn rotate(&mut self, new: SigningSecret, overlap: Duration, now: Timestamp) {
        if overlap.is_zero() {
            self.replaced.clear();
        }
        if new != self.current {
            self.replaced.forget(&new);
            let old = std::mem::replace(&mut self.current, new);
            self.replaced.add(old, now.plus(overlap), now);
        }
    }
}

/// One endpoint with its policies.
#[derive(Clone, Debug, PartialEq)]
pub struct Subscription {
    /// A `UUIDv7`.
    pub id: SubscriptionId,
    /// On whose behalf it exists; never changes.
    pub tenant: Tenant,
    /// What a person may set.
    pub config: SubscriptionConfig,
    /// What its deliveries are signed with.
    pub signing: SigningSecrets,
    /// Guard ingest beside [`SubscriptionConfig::secret_key`] until their ends.
    pub replaced_keys: Replaced<SecretKey>,
    /// Its secrets that cannot be read. In place of each stands one that nobody knows, or none.
    pub unreadable: BTreeSet<SecretField>,
    /// Whether it takes in and sends, as it was set. See [`standing`](Self::standing).
    pub status: SubscriptionStatus,
    /// Why not, where no person wished it.
    pub status_reason: Option<StatusReason>,
    /// Grows with every change, so that of two copies the newer is known.
    pub version: i64,
    /// The version since which its endpoint's record holds: it began anew then (see
    /// [`starts_fresh`](Self::starts_fresh)), and outcomes of requests from before say nothing of it.
    pub endpoint_version: i64,
    /// The version that last gave deliveries that failed a fresh set of retries (see
    /// [`forgives_retries`](Self::forgives_retries)); 1 where none did.
    pub retries_version: i64,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

/// What the configuration says where a subscription says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// Retries of a delivery.
    pub retry: RetryPolicy,
    /// Time-out of one attempt.
    pub timeout: Duration,
    /// When circuits open.
    pub circuit: CircuitPolicy,
    /// Failing this long without one success disables a subscription; none: never.
    pub disable_after: Option<Duration>,
    /// Requests in flight of a `key` or `none` subscription that names no number.
    pub in_flight: Adaptive,
}

impl SubscriptionConfig {
    /// The retry policy in force.
    #[must_use]
    pub fn retry_policy(&self, defaults: &Defaults) -> RetryPolicy {
        RetryPolicy {
            max_retries: self.retry.max_retries.unwrap_or(defaults.retry.max_retries),
            delay: self.retry.delay.unwrap_or(defaults.retry.delay),
            delay_max: self.retry.delay_max.unwrap_or(defaults.retry.delay_max),
        }
    }

    /// How many requests may be in flight.
    #[must_use]
    pub fn in_flight(&self, defaults: &Defaults) -> InFlight {
        match (self.ordering, self.max_in_flight) {
            (Ordering::Strict, _) => InFlight::Fixed(1),
            (Ordering::Key | Ordering::None, Some(given)) => InFlight::Fixed(given),
            (Ordering::Key | Ordering::None, None) => InFlight::Adaptive(defaults.in_flight),
        }
    }

    /// The time-out in force.
    #[must_use]
    pub fn timeout(&self, defaults: &Defaults) -> Duration {
        self.timeout.unwrap_or(defaults.timeout)
    }
}

impl SubscriptionConfig {
    /// The fields in which it differs from `before`, as the API names them.
    #[must_use]
    pub fn changed_fields(&self, before: &Self) -> Vec<&'static str> {
        let changes = [
            ("target_url", self.target != before.target),
            ("description", self.description != before.description),
            ("headers", self.headers != before.headers),
            ("ordering", self.ordering != before.ordering),
            ("max_in_flight", self.max_in_flight != before.max_in_flight),
            ("rate_limit", self.rate_limit != before.rate_limit),
            ("retry", self.retry != before.retry),
            ("timeout_seconds", self.timeout != before.timeout),
            ("secret_key", self.secret_key != before.secret_key),
            ("client_certificate", self.client_certificate != before.client_certificate),
            ("asymmetric_signature", self.asymmetric_signature != before.asymmetric_signature),
            ("forward_headers", self.forward_headers != before.forward_headers),
            ("idempotency_header", self.idempotency_header != before.idempotency_header),
        ];
        changes.into_iter().filter_map(|(field, changed)| changed.then_some(field)).collect()
    }
}

impl Subscription {
    /// Whether it takes in and sends now, and why not: while a secret cannot be read it is paused, whatever was set.
    #[must_use]
    pub fn standing(&self) -> (SubscriptionStatus, Option<StatusReason>) {
        if self.unreadable.is_empty() || self.status == SubscriptionStatus::Disabled {
            (self.status, self.status_reason)
        } else {
            (SubscriptionStatus::Paused, Some(StatusReason::SecretsUnreadable))
        }
    }

    /// Whether its deliveries are sent.
    #[must_use]
    pub fn sends(&self) -> bool {
        self.standing().0 == SubscriptionStatus::Active
    }

    /// Whether a signature that none of [`secret_keys`](Self::secret_keys) made may be right all the same.
    #[must_use]
    pub fn has_unknown_keys(&self) -> bool {
        [SecretField::SecretKey, SecretField::ReplacedSecretKeys]
            .iter()
            .any(|field| self.unreadable.contains(field))
    }

    /// `new` signs from `now` on; see [`SigningSecrets::rotate`]. What could not be read is gone.
    pub fn rotate_signing_secret(&mut self, new: SigningSecret, overlap: Duration, now: Timestamp) {
        if self.unreadable.remove(&SecretField::SigningSecret) {
            self.signing.current = new.clone();
        }
        self.unreadable.remove(&SecretField::ReplacedSigningSecrets);
        self.signing.rotate(new, overlap, now);
    }

    /// The secrets any of which proves an event at `at`, the current one first; none where ingest is not guarded.
    pub fn secret_keys(&self, at: Timestamp) -> impl Iterator<Item = &SecretKey> {
        let replaced = self.replaced_keys.in_force(at).map(|(key, _)| key);
        // Where ingest is not guarded no replaced key guards it.
        self.config.secret_key.iter().chain(replaced.filter(|_| self.config.secret_key.is_some()))
    }

    /// `new` guards ingest from `now` on, and the one before for `overlap` more. Without an overlap, or without a new
    /// one, all others end at once. Where `new` is the current one already, that stays as it is. What could not be read is
    /// gone.
    pub fn replace_secret_key(&mut self, new: Option<SecretKey>, overlap: Duration, now: Timestamp) {
        if self.unreadable.remove(&SecretField::SecretKey) {
            self.config.secret_key.clone_from(&new);
        }
        self.unreadable.remove(&SecretField::ReplacedSecretKeys);
        if overlap.is_zero() || new.is_none() {
            self.replaced_keys.clear();
        }
        if let Some(new) = &new {
            self.replaced_keys.forget(new);
        }
        if new != self.config.secret_key {
            let old = std::mem::replace(&mut self.config.secret_key, new);
            if let (Some(old), Some(_)) = (old, &self.config.secret_key) {
                self.replaced_keys.add(old, now.plus(overlap), now);
            }
        }
    }

    /// Keys that were replaced before `now` guard ingest for `overlap` more at the most.
    pub fn end_replaced_keys(&mut self, overlap: Duration, now: Timestamp) {
        self.replaced_keys.end_by(now.plus(overlap), now);
        if overlap.is_zero() {
            self.unreadable.remove(&SecretField::ReplacedSecretKeys);
        }
    }

    /// The fields in which it differs from `before`, as the API names them.
    #[must_use]
    pub fn changed_fields(&self, before: &Self) -> Vec<&'static str> {
        let mut fields = self.config.changed_fields(&before.config);
        let mended = before.unreadable.difference(&self.unreadable).map(|field| field.as_str());
        fields.extend(mended.filter(|field| !fields.contains(field)).collect::<Vec<_>>());
        if self.replaced_keys != before.replaced_keys && !fields.contains(&"secret_key") {
            fields.push("secret_key_overlap_seconds");
        }
        fields
    }

    /// Whether a change from `before` starts its endpoint's record anew: the circuit closes and
    /// waiting retries are due now. So it is with another target, and when it is enabled again.
    #[must_use]
    pub fn starts_fresh(&self, before: &Self) -> bool {
        let enabled =
            before.status == SubscriptionStatus::Disabled && self.status == SubscriptionStatus::Active;
        enabled || before.config.target != self.config.target
    }

    /// Whether a change from `before` gives deliveries that failed a fresh set of retries.
    #[must_use]
    pub fn forgives_retries(&self, before: &Self) -> bool {
        before.status_reason == Some(StatusReason::RetriesExhausted)
            && before.status != SubscriptionStatus::Active
            && self.status == SubscriptionStatus::Active
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(byte: u8) -> SigningSecret {
        SigningSecret::from_random([byte; 32])
    }

    fn at(hours: u64) -> Timestamp {
        Timestamp::from_millis(0).plus(Duration::from_hours(hours))
    }

    const DAY: Duration = Duration::from_hours(24);

    #[test]
    fn each_replaced_secret_signs_for_its_time() {
        let mut signing = SigningSecrets { current: secret(1), replaced: Replaced::default() };
        signing.rotate(secret(2), DAY, at(0));
        signing.rotate(secret(3), DAY, at(6));
        signing.rotate(secret(3), DAY, at(7));
        let in_force = |signing: &SigningSecrets, hours| -> Vec<SigningSecret> {
            signing.in_force(at(hours)).map(|(secret, _)| secret.clone()).collect()
        };
        assert_eq!(in_force(&signing, 23), [secret(3), secret(2), secret(1)]);
        assert_eq!(in_force(&signing, 24), [secret(3), secret(2)], "the same rotation twice is one");
        assert_eq!(in_force(&signing, 30), [secret(3)]);
        signing.rotate(secret(1), DAY, at(8));
        assert_eq!(in_force(&signing, 9), [secret(1), secret(3), secret(2)], "and back");
        signing.rotate(secret(4), Duration::ZERO, at(9));
        assert_eq!(in_force(&signing, 9), [secret(4)], "at once");
        for byte in 5..20 {
            signing.rotate(secret(byte), DAY, at(10));
        }
        assert_eq!(in_force(&signing, 10), [19, 18, 17, 16, 15].map(secret));
        signing.rotate(secret(19), Duration::ZERO, at(11));
        assert_eq!(in_force(&signing, 11), [secret(19)], "the others end, and the current one stays");
    }
}
