//! Who asks, and what is there for it.

use posthorn_domain::api_key::Scope;
use posthorn_domain::audit::Actor;
use posthorn_domain::id::SubscriptionId;
use posthorn_domain::tenant::Tenant;

use super::Error;

/// Who asks. Every use case takes one, so that a check that is left out does not compile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Sees and does everything.
    Admin(Actor),
    /// Sees and does what is one tenant's.
    Tenant(Tenant, Actor),
    /// Knows the secret of one subscription: may hand in its events, and sees nothing.
    Ingest(SubscriptionId),
    /// Has no valid key: sees nothing.
    Anonymous,
}

impl Access {
    /// Whose things it sees.
    #[must_use]
    pub const fn scope(&self) -> Scope<'_> {
        match self {
            Self::Admin(_) => Scope::All,
            Self::Tenant(tenant, _) => Scope::Tenant(tenant),
            Self::Ingest(_) | Self::Anonymous => Scope::Nothing,
        }
    }

    /// The tenant that a bounded resource is counted for, or `None` for an admin and for callers without a key.
    #[must_use]
    pub const fn payer(&self) -> Option<&Tenant> {
        match self {
            Self::Tenant(tenant, _) => Some(tenant),
            Self::Admin(_) | Self::Ingest(_) | Self::Anonymous => None,
        }
    }

    /// Whether what is `tenant`'s is there for it.
    #[must_use]
    pub fn sees(&self, tenant: &Tenant) -> bool {
        self.scope().sees(tenant)
    }

    /// Whether it may hand in events for a subscription of `tenant`.
    #[must_use]
    pub fn may_ingest(&self, id: SubscriptionId, tenant: &Tenant) -> bool {
        *self == Self::Ingest(id) || self.sees(tenant)
    }

    /// Whether it sees everything.
    #[must_use]
    pub const fn is_admin(&self) -> bool {
        matches!(self, Self::Admin(_))
    }

    /// Who it is to the audit log.
    #[must_use]
    pub const fn actor(&self) -> Actor {
        match self {
            Self::Admin(actor) | Self::Tenant(_, actor) => *actor,
            Self::Ingest(_) | Self::Anonymous => Actor::Anyone,
        }
    }

    /// Refuses who does not see everything.
    pub const fn check_admin(&self) -> Result<(), Error> {
        if self.is_admin() { Ok(()) } else { Err(Error::Forbidden) }
    }

    /// Refuses who sees nothing.
    pub const fn check_known(&self) -> Result<(), Error> {
        match self {
            Self::Admin(_) | Self::Tenant(..) => Ok(()),
            Self::Ingest(_) | Self::Anonymous => Err(Error::KeyRequired),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_admin_is_one() {
        let (own, id) = (Tenant::default(), SubscriptionId(uuid::Uuid::nil()));
        let tenant = Access::Tenant(own.clone(), Actor::Anyone);
        for (access, admin, sees, ingests) in [
            (Access::Admin(Actor::Anyone), true, true, true),
            (tenant, false, true, true),
            (Access::Tenant("other".parse().unwrap(), Actor::Anyone), false, false, false),
            (Access::Ingest(id), false, false, true),
            (Access::Anonymous, false, false, false),
        ] {
            assert_eq!(access.check_admin().is_ok(), admin, "{access:?}");
            assert_eq!(access.sees(&own), sees, "{access:?}");
            assert_eq!(access.may_ingest(id, &own), ingests, "{access:?}");
        }
        assert_eq!(Access::Anonymous.scope(), Scope::Nothing, "no tenant is not all tenants");
    }
}
