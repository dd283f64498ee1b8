//! `/subscriptions`: created, shown, listed, changed, held and deleted.

mod check;
mod input;
mod own;
mod view;

use std::net::SocketAddr;

use poem::Request;
use poem_openapi::param::{Path, Query};
use poem_openapi::{ApiResponse, OpenApi};
use posthorn_domain::address::AddressGuard;
use posthorn_domain::id::SubscriptionId;
use posthorn_domain::subscription::SecretField;
use posthorn_domain::tenant::Tenant;
use posthorn_domain::views::{SubscriptionFilter, SubscriptionView};
use uuid::Uuid;

use super::Tag;
use super::body::{Json, OptionalJson};
use super::ingest::AcceptedAnswer;
use super::paging::{check_limit, check_page};
use super::shown::Changed;
use super::words::SubscriptionStatus;
use crate::http::problem::{Kind, Problem};
use crate::service::{Access, Service, Transition};
use check::{Change, TargetRules};
use input::{SigningSecretRotation, SubscriptionCreate, SubscriptionUpdate};
use own::Own;
use view::{CreatedSubscription, PaginatedSubscriptions, SigningSecret, Subscription};

/// Subscriptions on a page where the client names no number.
const LIMIT_DEFAULT: u32 = 10;

pub(super) struct Subscriptions {
    pub(super) service: Service,
    pub(super) guard: AddressGuard,
    /// Where the server listens.
    pub(super) listen: SocketAddr,
}

#[derive(ApiResponse)]
enum CreateAnswer {
    /// The subscription was created.
    #[oai(status = 201)]
    Created(
        Json<CreatedSubscription>,
        /// Where the subscription is found.
        #[oai(header = "Location")]
        String,
    ),
}

#[derive(ApiResponse)]
enum DeleteAnswer {
    /// The subscription was deleted.
    #[oai(status = 204)]
    Deleted,
}

#[OpenApi(tag = "Tag::Subscriptions")]
impl Subscriptions {
    /// Create a subscription
    ///
    /// The answer to the creation alone also shows the signing secret.
    #[oai(path = "/subscriptions", method = "post", operation_id = "createSubscription")]
    async fn create(
        &self,
        access: Access,
        request: &Request,
        body: Json<SubscriptionCreate>,
    ) -> Result<CreateAnswer, Problem> {
        let (tenant, config) = check::creation(body.0, access.payer(), &self.rules(request))?;
        let view = self.service.create_subscription(&access, tenant, config).await?;
        let location = format!("/subscriptions/{}", view.subscription.id);
        let signing_secret = view.subscription.signing.current.expose();
        Ok(CreateAnswer::Created(
            Json(CreatedSubscription { subscription: self.seen(view), signing_secret }),
            location,
        ))
    }

    /// List subscriptions, the newest first
    ///
    /// Static headers are listed by their names alone: their values are null here.
    #[oai(path = "/subscriptions", method = "get", operation_id = "listSubscriptions")]
    async fn list(
        &self,
        access: Access,
        /// Which page, from 1; 1 where left out.
        page: Query<Option<i64>>,
        /// Subscriptions on a page; 10 where left out.
        limit: Query<Option<i64>>,
        /// Only this tenant's.
        tenant: Query<Option<String>>,
        /// Only those in this standing.
        status: Query<Option<SubscriptionStatus>>,
    ) -> Result<Json<PaginatedSubscriptions>, Problem> {
        let (page, limit) = (check_page(page.0)?, check_limit(limit.0, LIMIT_DEFAULT)?);
        let tenant = tenant.0.as_deref().map(parse_tenant).transpose()?;
        let status = status.0.map(|word| word.0);
        let filter = SubscriptionFilter { tenant, status };
        let found = self.service.list_subscriptions(&access, filter, page, limit).await?;
        Ok(Json(PaginatedSubscriptions {
            items: found.items.into_iter().map(|view| self.seen(view).listed()).collect(),
            total: found.total,
            page,
            limit,
            pages: found.total.div_ceil(u64::from(limit)),
        }))
    }

    /// Show a subscription
    #[oai(path = "/subscriptions/:id", method = "get", operation_id = "getSubscription")]
    async fn show(
        &self,
        access: Access,
        /// The subscription.
        id: Path<Uuid>,
    ) -> Result<Json<Subscription>, Problem> {
        Ok(self.shown(self.service.subscription_view(&access, SubscriptionId(id.0)).await?))
    }

    /// Change a subscription
    ///
    /// What is absent stays, `null` clears. Applies to the next attempt; never cuts a request in
    /// flight.
    #[oai(path = "/subscriptions/:id", method = "put", operation_id = "updateSubscription")]
    async fn update(
        &self,
        access: Access,
        /// The subscription.
        id: Path<Uuid>,
        request: &Request,
        body: Changed<SubscriptionUpdate>,
    ) -> Result<Json<Subscription>, Problem> {
        let id = SubscriptionId(id.0);
        let current = self.service.subscription(&access, id).await?;
        if body.names_fixed_fields() {
            body.check(&self.seen(self.service.subscription_view(&access, id).await?))?;
        }
        let change = Change::check(body.change, &self.rules(request))?;
        change.check_against(&current.config)?;
        let change = move |subscription: &mut _, now| change.clone().apply(subscription, now);
        Ok(self.shown(self.service.update_subscription(&access, id, change).await?))
    }

    /// Delete a subscription
    ///
    /// Its unfinished deliveries end as `failed` with the error `subscription deleted`, and stay
    /// readable until retention removes them.
    #[oai(path = "/subscriptions/:id", method = "delete", operation_id = "deleteSubscription")]
    async fn delete(
        &self,
        access: Access,
        /// The subscription.
        id: Path<Uuid>,
    ) -> Result<DeleteAnswer, Problem> {
        self.service.delete_subscription(&access, SubscriptionId(id.0)).await?;
        Ok(DeleteAnswer::Deleted)
    }

    /// Pause a subscription
    ///
    /// Events are accepted and held.
    #[oai(path = "/subscriptions/:id/pause", method = "post", operation_id = "pauseSubscription")]
    async fn pause(
        &self,
        access: Access,
        /// The subscription.
        id: Path<Uuid>,
    ) -> Result<Json<Subscription>, Problem> {
        self.change(&access, Transition::Pause, id.0).await
    }

    /// Resume a paused subscription
    ///
    /// Where retries were exhausted, the delivery at its head gets a fresh set of them.
    #[oai(path = "/subscriptions/:id/resume", method = "post", operation_id = "resumeSubscription")]
    async fn resume(
        &self,
        access: Access,
        /// The subscription.
        id: Path<Uuid>,
    ) -> Result<Json<Subscription>, Problem> {
        self.change(&access, Transition::Resume, id.0).await
    }

    /// Enable a disabled subscription
    ///
    /// One that is active stays so. One that is paused answers 409: resume it.
    #[oai(path = "/subscriptions/:id/enable", method = "post", operation_id = "enableSubscription")]
    async fn enable(
        &self,
        access: Access,
        /// The subscription.
        id: Path<Uuid>,
    ) -> Result<Json<Subscription>, Problem> {
        self.change(&access, Transition::Enable, id.0).await
    }

    /// Disable a subscription
    ///
    /// Ingest answers 409. What was accepted before is held until it is enabled; for longer than the log is kept, it
    /// ends `failed` with the error `subscription disabled`.
    #[oai(path = "/subscriptions/:id/disable", method = "post", operation_id = "disableSubscription")]
    async fn disable(
        &self,
        access: Access,
        /// The subscription.
        id: Path<Uuid>,
    ) -> Result<Json<Subscription>, Problem> {
        self.change(&access, Transition::Disable, id.0).await
    }

    /// Show the signing secret
    #[oai(path = "/subscriptions/:id/signing-secret", method = "get", operation_id = "getSigningSecret")]
    async fn signing_secret(
        &self,
        access: Access,
        /// The subscription.
        id: Path<Uuid>,
    ) -> Result<Json<SigningSecret>, Problem> {
        secret(&self.service.subscription_view(&access, SubscriptionId(id.0)).await?)
    }

    /// Replace the signing secret
    ///
    /// The old one also signs for 24 hours, or as long as the body says, however many are replaced meanwhile: up to five
    /// sign at once, the current one among them, and where one more would the oldest goes. The body may be left out.
    #[oai(
        path = "/subscriptions/:id/signing-secret/rotate",
        method = "post",
        operation_id = "rotateSigningSecret"
    )]
    async fn rotate(
        &self,
        access: Access,
        /// The subscription.
        id: Path<Uuid>,
        body: OptionalJson<SigningSecretRotation>,
    ) -> Result<Json<SigningSecret>, Problem> {
        let id = SubscriptionId(id.0);
        self.service.subscription(&access, id).await?;
        let (new, overlap) = check::rotation(&body.0.unwrap_or_default())?;
        secret(&self.service.rotate_signing_secret(&access, id, new, overlap).await?)
    }

    /// Send a test event
    ///
    /// A signed `posthorn.test` event goes out through the normal path.
    #[oai(path = "/subscriptions/:id/test", method = "post", operation_id = "sendTestEvent")]
    async fn test(
        &self,
        access: Access,
        /// The subscription.
        id: Path<Uuid>,
    ) -> Result<AcceptedAnswer, Problem> {
        let accepted = self.service.send_test(&access, SubscriptionId(id.0)).await?;
        Ok(AcceptedAnswer::new(accepted))
    }
}

impl Subscriptions {
    /// What a target must keep to.
    fn rules<'a>(&'a self, request: &'a Request) -> TargetRules<'a> {
        TargetRules { guard: &self.guard, own: Own::new(self.listen, request) }
    }

    fn seen(&self, view: SubscriptionView) -> Subscription {
        let limit = self.service.in_flight_limit(&view.subscription);
        Subscription::new(view, limit)
    }

    fn shown(&self, view: SubscriptionView) -> Json<Subscription> {
        Json(self.seen(view))
    }

    async fn change(
        &self,
        access: &Access,
        transition: Transition,
        id: Uuid,
    ) -> Result<Json<Subscription>, Problem> {
        Ok(self.shown(self.service.transition(access, transition, SubscriptionId(id)).await?))
    }
}

fn secret(view: &SubscriptionView) -> Result<Json<SigningSecret>, Problem> {
    if view.subscription.unreadable.contains(&SecretField::SigningSecret) {
        return Err(Problem::secrets_unreadable());
    }
    Ok(Json(SigningSecret { signing_secret: view.subscription.signing.current.expose() }))
}

fn parse_tenant(text: &str) -> Result<Tenant, Problem> {
    text.parse().map_err(|error| Problem::new(Kind::InvalidFields, format!("tenant: {error}")))
}
