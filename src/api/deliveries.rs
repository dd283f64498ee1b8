//! `/deliveries` and each subscription's list of them.

mod view;

use poem::{IntoResponse, Response};
use poem_openapi::param::{Path, Query};
use poem_openapi::registry::{
    MetaMediaType, MetaResponse, MetaResponses, MetaSchema, MetaSchemaRef, Registry,
};
use poem_openapi::{ApiResponse, OpenApi};
use posthorn_domain::id::{DeliveryId, SubscriptionId};
use posthorn_domain::payload::Payload;
use posthorn_domain::views::DeliveryFilter;
use uuid::Uuid;

use super::Tag;
use super::body::Json;
use super::paging::{check_limit, read_cursor, write_cursor};
use super::words::{DeliveryState, Time};
use crate::http::problem::Problem;
use crate::service::{Access, Service};
pub(super) use view::{Delivery, DeliveryAttempt, DeliveryPage, ReplayedDelivery};

/// Deliveries on a page where the client names no number.
const LIMIT_DEFAULT: u32 = 20;

pub(super) struct Deliveries {
    pub(super) service: Service,
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
        access: Access,
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
        let (found, go_on_before) = self.service.list_deliveries(&access, id, &filter, limit).await?;
        let items = found.into_iter().map(Delivery::from).collect();
        Ok(Json(DeliveryPage { items, next_cursor: go_on_before.map(write_cursor) }))
    }

    /// Show a delivery
    #[oai(path = "/deliveries/:id", method = "get", operation_id = "getDelivery")]
    async fn show(
        &self,
        access: Access,
        /// The delivery.
        id: Path<Uuid>,
    ) -> Result<Json<Delivery>, Problem> {
        Ok(Json(self.service.delivery(&access, DeliveryId(id.0)).await?.into()))
    }

    /// Show a delivery's payload
    ///
    /// The bytes as they came, with their content type.
    #[oai(path = "/deliveries/:id/payload", method = "get", operation_id = "getDeliveryPayload")]
    async fn payload(
        &self,
        access: Access,
        /// The delivery.
        id: Path<Uuid>,
    ) -> Result<PayloadAnswer, Problem> {
        Ok(PayloadAnswer(self.service.payload(&access, DeliveryId(id.0)).await?))
    }

    /// Retry a delivery now
    ///
    /// What waits for its retry time is due now; order and circuit still hold it.
    #[oai(path = "/deliveries/:id/retry", method = "post", operation_id = "retryDelivery")]
    async fn retry(
        &self,
        access: Access,
        /// The delivery.
        id: Path<Uuid>,
    ) -> Result<RetryAnswer, Problem> {
        Ok(RetryAnswer::Due(Json(self.service.retry(&access, DeliveryId(id.0)).await?.into())))
    }

    /// Replay a delivery
    ///
    /// A new delivery of the same event at the end of the line, with a number of its own and the
    /// header `Posthorn-Replay-Of`; so what the endpoint sees never goes backwards.
    #[oai(path = "/deliveries/:id/replay", method = "post", operation_id = "replayDelivery")]
    async fn replay(
        &self,
        access: Access,
        /// The delivery.
        id: Path<Uuid>,
    ) -> Result<ReplayAnswer, Problem> {
        let accepted = self.service.replay(&access, DeliveryId(id.0)).await?;
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
        access: Access,
        /// The delivery.
        id: Path<Uuid>,
    ) -> Result<Json<Delivery>, Problem> {
        Ok(Json(self.service.skip(&access, DeliveryId(id.0)).await?.into()))
    }
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
