//! What is whose: to a tenant's key, what is another's is not there.

use posthorn_domain::id::{DeliveryId, SubscriptionId};

use super::auth::Caller;
use super::problem::Problem;
use crate::dispatch::Control;

/// Refuses a subscription that is not there for the caller, with the words for one that is not there at all.
pub(super) async fn check_subscription(
    control: &Control,
    caller: &Caller,
    id: SubscriptionId,
) -> Result<(), Problem> {
    if caller.is_admin() {
        return Ok(());
    }
    let found = control.subscription(id).await?.filter(|found| caller.sees(&found.tenant));
    found.map(|_| ()).ok_or_else(Problem::no_subscription)
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
