//! How much of a lane is unfinished.
//!
//! Counting a backlog of a million takes a tenth of a second, so it is not done with every event.
//! `lanes.finished` is what is known: at least so many deliveries of the lane are finished. As long
//! as that leaves room, events are accepted by it alone, and only where it leaves none is it brought
//! up to date.

use posthorn_domain::id::SubscriptionId;

use super::{Error, Store, tx};

impl Store {
    /// Counts what a lane has unfinished, by `webhook_deliveries_unfinished`, so that the next event
    /// is judged by the truth. Meanwhile nothing is accepted for this lane.
    pub async fn recount_backlog(&self, id: SubscriptionId) -> Result<(), Error> {
        tx::run_patiently(self, move |tx| {
            Box::pin(async move {
                // Locked first: what is accepted while it is counted would count as finished.
                let lock = "UPDATE lanes SET next_sequence = next_sequence WHERE subscription_id = $1";
                tx::execute(tx, lock, [id.0.into()]).await?;
                let count = "UPDATE lanes SET finished = next_sequence - 1 - (SELECT count(*) \
                     FROM webhook_deliveries d WHERE d.subscription_id = lanes.subscription_id \
                     AND d.status < 3) WHERE subscription_id = $1";
                tx::execute(tx, count, [id.0.into()]).await.map(|_| ())
            })
        })
        .await
    }
}
