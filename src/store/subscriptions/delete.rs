//! Deleting a subscription: one transaction with the end of its unfinished deliveries.

use posthorn_domain::audit::{Action, Stamp, Subject};
use posthorn_domain::id::SubscriptionId;

use super::super::notices::{self, Notice};
use super::super::stats::{Counts, Writer};
use super::super::{Error, Store, audit, tx};

/// What the deliveries that were still to come end with.
const ERROR: &str = "subscription deleted";

impl Store {
    /// Deletes a subscription; false where it is not there. Its unfinished deliveries end `failed`;
    /// they and the others stay readable until retention removes them. Its secrets go at once.
    pub async fn delete_subscription(&self, id: SubscriptionId, stamp: Stamp) -> Result<bool, Error> {
        let now = stamp.at;
        tx::run(self, move |tx| {
            Box::pin(async move {
                let marked = tx::execute(tx, "UPDATE subscriptions SET deleted_at_ms = $2, version = version + 1, secret_key = NULL, \
                         headers = '{}', signing_secret = '', previous_signing_secret = NULL, \
                         previous_signing_until_ms = NULL, client_certificate = NULL, sealed_by = NULL \
                         WHERE id = $1 AND deleted_at_ms IS NULL", [id.0.into(), now.as_millis().into()]).await?;
                if marked == 0 {
                    return Ok(false);
                }
                // The lane first: no event is accepted once it is gone.
                tx::execute(tx, "DELETE FROM lanes WHERE subscription_id = $1", [id.0.into()]).await?;
                tx::execute(tx, "DELETE FROM lane_health WHERE subscription_id = $1", [id.0.into()]).await?;
                let ended = tx::execute(tx, "UPDATE webhook_deliveries SET status = 4, completed_at_ms = $2, next_attempt_at_ms = NULL, \
                         error = $3 WHERE subscription_id = $1 AND status < 3", [id.0.into(), now.as_millis().into(), ERROR.into()]).await?;
                let counts = Counts { failed: ended, ..Counts::default() };
                counts.add(tx, now, Writer::Control).await?;
                let subject = Subject::Subscription(id);
                audit::note(tx, stamp, Action::SubscriptionDeleted, &subject, &[]).await?;
                notices::tell(tx, &Notice::Deleted(id)).await?;
                Ok(true)
            })
        })
        .await
    }
}
