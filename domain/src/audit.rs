//! Who changed what, and when.

use std::fmt;
use std::str::FromStr;

use crate::delivery::named_states;
use crate::id::{AuditId, DeliveryId, KeyId, SubscriptionId};
use crate::tenant::Tenant;
use crate::time::Timestamp;

named_states! {
    /// What was done.
    Action {
        /// A subscription came to be.
        SubscriptionCreated = 0 "subscription.created",
        /// Some of its fields were changed.
        SubscriptionUpdated = 1 "subscription.updated",
        /// It was deleted.
        SubscriptionDeleted = 2 "subscription.deleted",
        /// It holds its deliveries.
        SubscriptionPaused = 3 "subscription.paused",
        /// It goes on after a pause.
        SubscriptionResumed = 4 "subscription.resumed",
        /// It goes on after it was disabled.
        SubscriptionEnabled = 5 "subscription.enabled",
        /// Its signing secret was replaced.
        SigningSecretRotated = 6 "signing_secret.rotated",
        /// A delivery that waited for its retry was made due.
        DeliveryRetried = 7 "delivery.retried",
        /// Its event was put at the end of the line once more.
        DeliveryReplayed = 8 "delivery.replayed",
        /// It was ended without another attempt.
        DeliverySkipped = 9 "delivery.skipped",
        /// What a tenant may use was changed.
        TenantUpdated = 10 "tenant.updated",
        /// An API key was made.
        KeyCreated = 11 "key.created",
        /// It was revoked.
        KeyRevoked = 12 "key.revoked",
        /// A subscription neither takes events in nor sends them.
        SubscriptionDisabled = 13 "subscription.disabled",
    }
}

named_states! {
    /// By which right something was done.
    ActorKind {
        /// By none: the server had no API key.
        Anyone = 0 "anyone",
        /// With the admin key of the configuration.
        AdminKey = 1 "admin_key",
        /// With an API key.
        ApiKey = 2 "api_key",
        /// From the command line, beside the service.
        Command = 3 "command",
    }
}

/// Who did something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Actor {
    /// Anybody: the server had no API key.
    Anyone,
    /// Who has the admin key of the configuration.
    AdminKey,
    /// Who has this API key.
    ApiKey(KeyId),
    /// Whoever may run commands beside the service.
    Command,
}

impl Actor {
    /// By which right.
    #[must_use]
    pub const fn kind(self) -> ActorKind {
        match self {
            Self::Anyone => ActorKind::Anyone,
            Self::AdminKey => ActorKind::AdminKey,
            Self::ApiKey(_) => ActorKind::ApiKey,
            Self::Command => ActorKind::Command,
        }
    }

    /// With which API key.
    #[must_use]
    pub const fn key(self) -> Option<KeyId> {
        match self {
            Self::ApiKey(id) => Some(id),
            Self::Anyone | Self::AdminKey | Self::Command => None,
        }
    }
}

/// Who does something, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Who.
    pub by: Actor,
    /// When.
    pub at: Timestamp,
}

/// What it was done to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A subscription.
    Subscription(SubscriptionId),
    /// A delivery of the subscription.
    Delivery(DeliveryId, SubscriptionId),
    /// A tenant.
    Tenant(Tenant),
    /// An API key, and the tenant it is limited to.
    Key(KeyId, Option<Tenant>),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Subscription(id) => id.fmt(f),
            Self::Delivery(id, _) => id.fmt(f),
            Self::Tenant(name) => name.fmt(f),
            Self::Key(id, _) => id.fmt(f),
        }
    }
}

/// One line of the audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// A `UUIDv7`, so that ids sort by age.
    pub id: AuditId,
    /// Who did it, and when.
    pub stamp: Stamp,
    /// What was done.
    pub action: Action,
    /// Whose it was; none: nobody's in particular.
    pub tenant: Option<Tenant>,
    /// What it was done to: an id, or a tenant's name.
    pub subject: String,
    /// Which of its fields were changed, as the API names them.
    pub fields: Vec<String>,
}
