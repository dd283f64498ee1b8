//! What is whose: to a tenant's key, what is another's is not there.

use std::sync::Arc;

use posthorn_domain::id::{DeliveryId, SubscriptionId};
use posthorn_domain::subscription::Subscription;

use crate::dispatch::Control;
use crate::http::auth::Caller;
use crate::http::problem::Problem;

/// The subscription, where it is there for the caller; refused with the words for one that is not there at all.
pub(super) async fn find_subscription(
    control: &Control,
    caller: &Caller,
    id: SubscriptionId,
) -> Result<Arc<Subscription>, Problem> {
    let found = control.subscription(id).await?.filter(|found| caller.sees(&found.tenant));
    found.ok_or_else(Problem::no_subscription)
}

/// As [`find_subscription`], for what finds out by itself whether it is there at all: then nothing is read for who
/// sees everything.
pub(super) async fn check_subscription(
    control: &Control,
    caller: &Caller,
    id: SubscriptionId,
) -> Result<(), Problem> {
    if caller.is_admin() {
        return Ok(());
    }
    find_subscription(control, caller, id).await.map(drop)
}

/// Refuses a delivery that is not there for the caller, with the words for one that is not there at all. Those of a
/// deleted subscription are still its tenant's.
pub(super) async fn check_delivery(
    control: &Control,
    caller: &Caller,
    id: DeliveryId,
) -> Result<(), Problem> {
    if caller.is_admin() {
        return Ok(());
    }
    let tenant = control.store().tenant_of_delivery(id).await?.filter(|tenant| caller.sees(tenant));
    tenant.map(|_| ()).ok_or_else(Problem::no_delivery)
}
