//! `/deliveries` and each subscription's list of them.

mod view;

use poem::{IntoResponse, Response};
use poem_openapi::param::{Path, Query};
use poem_openapi::registry::{
    MetaMediaType, MetaResponse, MetaResponses, MetaSchema, MetaSchemaRef, Registry,
};
use poem_openapi::{ApiResponse, OpenApi};
use posthorn_domain::delivery;
use posthorn_domain::id::{DeliveryId, SubscriptionId};
use posthorn_domain::payload::Payload;
use posthorn_domain::views::DeliveryFilter;
use uuid::Uuid;

use super::Tag;
use super::body::Json;
use super::paging::{check_limit, read_cursor, write_cursor};
use super::scope::{check_delivery, find_subscription};
use super::words::{DeliveryState, Time};
use crate::dispatch::{Control, IngestError};
use crate::http::auth::Caller;
use crate::http::problem::{Kind, Problem};
use crate::store::Change;
pub(super) use view::{Delivery, DeliveryAttempt, DeliveryPage, ReplayedDelivery};

/// Deliveries on a page where the client names no number.
const LIMIT_DEFAULT: u32 = 20;

pub(super) struct Deliveries {
    pub(super) control: Control,
}

#[derive(ApiResponse)]
enum RetryAnswer {
    /// The delivery is due.
    #[oai(status = 202)]
    Due(Json<Delivery>),
}

#[derive(ApiResponse)]
enum ReplayAnswer {
    /// The event stands at the end of the line once more.
    #[oai(status = 202)]
    Replayed(
        Json<ReplayedDelivery>,
        /// Where it is told what became of the new delivery.
        #[oai(header = "Location")]
        String,
    ),
}

#[OpenApi(tag = "Tag::Deliveries")]
impl Deliveries {
    /// List a subscription's deliveries, the newest first
    ///
    /// A page looks at a bounded part of the history: with a filter it may hold fewer than `limit`, even none, and yet
    /// have a `next_cursor`, which goes on from there.
    #[expect(clippy::too_many_arguments, reason = "one for each parameter")]
    #[oai(path = "/subscriptions/:id/deliveries", method = "get", operation_id = "listDeliveries")]
    async fn list(
        &self,
        caller: Caller,
        /// The subscription.
        id: Path<Uuid>,
        /// Only those in this standing.
        status: Query<Option<DeliveryState>>,
        /// Only those accepted at this time or later.
        since: Query<Option<Time>>,
        /// Only those accepted before this time.
        until: Query<Option<Time>>,
        /// Deliveries on a page; 20 where left out.
        limit: Query<Option<i64>>,
        /// The `next_cursor` of the page before.
        cursor: Query<Option<String>>,
    ) -> Result<Json<DeliveryPage>, Problem> {
        let id = SubscriptionId(id.0);
        let limit = check_limit(limit.0, LIMIT_DEFAULT)?;
        let filter = DeliveryFilter {
            status: status.0.map(|word| word.0),
            since: since.0.map(|time| time.0),
            until: until.0.map(|time| time.0),
            before: cursor.0.as_deref().map(read_cursor).transpose()?,
        };
        let store = self.control.read(caller.payer()).await?;
        find_subscription(&self.control, &caller, id).await?;
        let found = store.list_deliveries(id, &filter, limit).await?;
        let next_cursor = found.go_on_before.map(write_cursor);
        let waiting = self.control.waiting_for(id, &found.items).await?;
        let items =
            found.items.into_iter().zip(waiting).map(|(delivery, waiting)| Delivery::new(delivery, waiting));
        Ok(Json(DeliveryPage { items: items.collect(), next_cursor }))
    }

    /// Show a delivery
    #[oai(path = "/deliveries/:id", method = "get", operation_id = "getDelivery")]
    async fn show(
        &self,
        caller: Caller,
        /// The delivery.
        id: Path<Uuid>,
    ) -> Result<Json<Delivery>, Problem> {
        let store = self.control.read(caller.payer()).await?;
        let id = self.own(&caller, id.0).await?;
        let found = store.delivery(id).await?;
        Ok(Json(explained(&self.control, found.ok_or_else(Problem::no_delivery)?).await?))
    }

    /// Show a delivery's payload
    ///
    /// The bytes as they came, with their content type.
    #[oai(path = "/deliveries/:id/payload", method = "get", operation_id = "getDeliveryPayload")]
    async fn payload(
        &self,
        caller: Caller,
        /// The delivery.
        id: Path<Uuid>,
    ) -> Result<PayloadAnswer, Problem> {
        let store = self.control.read(caller.payer()).await?;
        let id = self.own(&caller, id.0).await?;
        let found = store.payload(id).await?;
        found.map(PayloadAnswer).ok_or_else(Problem::no_delivery)
    }

    /// Retry a delivery now
    ///
    /// What waits for its retry time is due now; order and circuit still hold it.
    #[oai(path = "/deliveries/:id/retry", method = "post", operation_id = "retryDelivery")]
    async fn retry(
        &self,
        caller: Caller,
        /// The delivery.
        id: Path<Uuid>,
    ) -> Result<RetryAnswer, Problem> {
        let id = self.own(&caller, id.0).await?;
        let delivery = unfinished(self.control.retry(caller.actor(), id).await?)?;
        Ok(RetryAnswer::Due(Json(explained(&self.control, delivery).await?)))
    }

    /// Replay a delivery
    ///
    /// A new delivery of the same event at the end of the line, with a number of its own and the
    /// header `Posthorn-Replay-Of`; so what the endpoint sees never goes backwards.
    #[oai(path = "/deliveries/:id/replay", method = "post", operation_id = "replayDelivery")]
    async fn replay(
        &self,
        caller: Caller,
        /// The delivery.
        id: Path<Uuid>,
    ) -> Result<ReplayAnswer, Problem> {
        let id = self.own(&caller, id.0).await?;
        let accepted = self.control.replay(caller.actor(), id).await.map_err(|error| match error {
            IngestError::NotFound => Problem::no_delivery(),
            other => Problem::ingest(other),
        })?;
        let delivery_id = accepted.delivery_id.0;
        let location = format!("/status/deliveries/{delivery_id}/status");
        Ok(ReplayAnswer::Replayed(Json(ReplayedDelivery { delivery_id }), location))
    }

    /// Skip a delivery
    ///
    /// An unfinished delivery ends `failed` with the error `skipped`; one that paused its
    /// subscription lets it go on.
    #[oai(path = "/deliveries/:id/skip", method = "post", operation_id = "skipDelivery")]
    async fn skip(
        &self,
        caller: Caller,
        /// The delivery.
        id: Path<Uuid>,
    ) -> Result<Json<Delivery>, Problem> {
        let id = self.own(&caller, id.0).await?;
        let delivery = unfinished(self.control.skip(caller.actor(), id).await?)?;
        Ok(Json(explained(&self.control, delivery).await?))
    }
}

impl Deliveries {
    /// The delivery, where it is there for the caller.
    async fn own(&self, caller: &Caller, id: Uuid) -> Result<DeliveryId, Problem> {
        let id = DeliveryId(id);
        check_delivery(&self.control, caller, id).await?;
        Ok(id)
    }
}

fn unfinished(change: Change) -> Result<delivery::Delivery, Problem> {
    match change {
        Change::Done(delivery) => Ok(delivery),
        Change::Finished => Err(Problem::new(
            Kind::DeliveryFinished,
            "the delivery is finished; POST /deliveries/{id}/replay sends its event once more",
        )),
        Change::NotFound => Err(Problem::no_delivery()),
    }
}

/// A delivery, with why it waits.
pub(super) async fn explained(control: &Control, delivery: delivery::Delivery) -> Result<Delivery, Problem> {
    let waiting = control.waiting_for(delivery.subscription_id, std::slice::from_ref(&delivery)).await?;
    Ok(Delivery::new(delivery, waiting.into_iter().next().flatten()))
}

/// A payload, byte for byte.
struct PayloadAnswer(Payload);

impl IntoResponse for PayloadAnswer {
    fn into_response(self) -> Response {
        Response::builder().content_type(self.0.content_type).body(self.0.bytes)
    }
}

impl ApiResponse for PayloadAnswer {
    fn meta() -> MetaResponses {
        let any = MetaSchema { description: Some("Any JSON value."), ..MetaSchema::ANY };
        let content = vec![MetaMediaType {
            content_type: "application/json",
            schema: MetaSchemaRef::Inline(Box::new(any)),
        }];
        let response = MetaResponse {
            description: "The bytes as they came, with their content type.",
            status: Some(200),
            status_range: None,
            content,
            headers: Vec::new(),
        };
        MetaResponses { responses: vec![response] }
    }

    fn register(_: &mut Registry) {}
}
