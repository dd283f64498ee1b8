//! How a subscription begins.

use std::collections::BTreeSet;

use super::{Ordering, RetryOverrides, SigningSecrets, Subscription, SubscriptionConfig, SubscriptionStatus};
use crate::forward::ForwardHeaders;
use crate::header::StaticHeaders;
use crate::id::SubscriptionId;
use crate::rotation::Replaced;
use crate::signature::SigningSecret;
use crate::target::TargetUrl;
use crate::tenant::Tenant;
use crate::time::Timestamp;

impl SubscriptionConfig {
    /// Sends to `target`, and leaves all else as the configuration says.
    #[must_use]
    pub fn new(target: TargetUrl) -> Self {
        Self {
            target,
            description: None,
            headers: StaticHeaders::default(),
            ordering: Ordering::Strict,
            max_in_flight: None,
            rate_limit: None,
            retry: RetryOverrides::default(),
            timeout: None,
            secret_key: None,
            asymmetric_signature: false,
            client_certificate: None,
            forward_headers: ForwardHeaders::default(),
            idempotency_header: None,
        }
    }
}

impl Subscription {
    /// A subscription that is created at `now` and is active.
    #[must_use]
    pub fn new(
        id: SubscriptionId,
        tenant: Tenant,
        config: SubscriptionConfig,
        signing_secret: SigningSecret,
        now: Timestamp,
    ) -> Self {
        Self {
            id,
            tenant,
            config,
            signing: SigningSecrets { current: signing_secret, replaced: Replaced::default() },
            replaced_keys: Replaced::default(),
            unreadable: BTreeSet::new(),
            status: SubscriptionStatus::Active,
            status_reason: None,
            version: 1,
            endpoint_version: 1,
            retries_version: 1,
            created_at: now,
            updated_at: now,
        }
    }
}
