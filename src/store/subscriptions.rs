//! Subscriptions: reading and changing them.
//!
//! A change locks its row, applies a closure to what is stored, and raises the version, so that
//! simultaneous changes follow one another and of two copies the newer is known.

mod delete;
mod row;

pub(super) use row::{circuit_code, from_subscription, to_subscription};

use posthorn_domain::audit::{Action, Stamp, Subject};
use posthorn_domain::circuit::{CircuitState, CircuitView};
use posthorn_domain::id::{Sequence, SubscriptionId};
use posthorn_domain::subscription::Subscription;
use posthorn_domain::tenant::Tenant;
use posthorn_domain::time::Timestamp;
use posthorn_domain::views::{Page, SubscriptionFilter, SubscriptionView};
use sea_orm::{
    ActiveModelTrait as _, ColumnTrait as _, ConnectionTrait, DbBackend, EntityTrait as _,
    IntoActiveModel as _, PaginatorTrait as _, QueryFilter as _, QueryOrder as _, QuerySelect as _,
    Statement,
};
use tracing::error;

use uuid::Uuid;

use super::database::Transaction;
use super::entity::{lane_health, subscriptions};
use super::notices::{self, Notice};
use super::vault::Vault;
use super::{Error, Store, audit, secrets, tx};

/// Rows of a list that are read at once: 2 MB with the largest headers.
const LISTED_AT_ONCE: usize = 16;

/// What dispatch remembers of a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneHealth {
    /// Whether requests go through.
    pub circuit: CircuitState,
    /// Failed attempts in a row.
    pub failures: u32,
    /// How long the circuit stays open, where it is not closed.
    pub cool_down: Option<std::time::Duration>,
    /// When the next probe may go, where the circuit is open.
    pub probe_at: Option<Timestamp>,
    /// The first failure since the last success.
    pub failing_since: Option<Timestamp>,
}

impl LaneHealth {
    /// Of a lane that nothing is known of.
    pub const NEW: Self = Self {
        circuit: CircuitState::Closed,
        failures: 0,
        cool_down: None,
        probe_at: None,
        failing_since: None,
    };
}

/// What a lane starts from.
#[derive(Clone, Debug, PartialEq)]
pub struct LaneStart {
    /// The subscription.
    pub subscription: Subscription,
    /// What is remembered of its endpoint.
    pub health: LaneHealth,
    /// The highest number that a delivery has got.
    pub last: Sequence,
}

/// What a change came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    /// As it was.
    pub before: Subscription,
    /// As it is now.
    pub after: SubscriptionView,
}

impl Store {
    /// Stores a new subscription with its lane; false where its tenant has `max` already.
    pub async fn insert_subscription(
        &self,
        subscription: &Subscription,
        max: Option<u32>,
        stamp: Stamp,
    ) -> Result<bool, Error> {
        let row = row::from_subscription(subscription, &self.vault)?.into_active_model();
        let (id, tenant, vault) = (subscription.id, subscription.tenant.clone(), self.vault.clone());
        tx::run(self, move |tx| {
            Box::pin(async move {
                if let Some(max) = max
                    && !has_room(tx, &tenant, max).await?
                {
                    return Ok(false);
                }
                secrets::may_write(tx, &vault).await?;
                row.insert(tx).await?;
                tx::execute(
                    tx,
                    "INSERT INTO lanes (subscription_id, next_sequence) VALUES ($1, 1)",
                    [id.0.into()],
                )
                .await?;
                tx::execute(
                    tx,
                    "INSERT INTO lane_health (subscription_id, circuit, failures) VALUES ($1, 0, 0)",
                    [id.0.into()],
                )
                .await?;
                audit::note(tx, stamp, Action::SubscriptionCreated, &Subject::Subscription(id), &[]).await?;
                Ok(true)
            })
        })
        .await
    }

    /// One subscription, by primary key; none where it is not there or deleted.
    pub async fn subscription_view(&self, id: SubscriptionId) -> Result<Option<SubscriptionView>, Error> {
        view(&self.orm, id, &self.vault).await
    }

    /// What dispatch needs to start a lane, by primary keys; none where the subscription is not there.
    pub async fn lane_start(&self, id: SubscriptionId) -> Result<Option<LaneStart>, Error> {
        let found = live(id).find_also_related(lane_health::Entity).one(&self.lanes).await?;
        let Some((row, health)) = found else { return Ok(None) };
        let ask = Statement::from_sql_and_values(
            self.lanes.get_database_backend(),
            "SELECT next_sequence - 1 FROM lanes WHERE subscription_id = $1",
            [id.0.into()],
        );
        // Without a lane it was deleted in between.
        let Some(lane) = self.lanes.query_one(ask).await? else { return Ok(None) };
        secrets::settle_doubts(&self.lanes, &self.vault, [&row]).await?;
        Ok(Some(LaneStart {
            subscription: row::to_subscription(row, &self.vault)?,
            health: row::to_health(health)?,
            last: Sequence(lane.try_get_by_index(0)?),
        }))
    }

    /// One page of subscriptions, the newest first; uses `subscriptions_by_tenant`,
    /// `subscriptions_by_status` or the primary key. Without the values of static headers, of which a page may hold
    /// 13 MB: few rows at once are read with them.
    pub async fn list_subscriptions(
        &self,
        filter: &SubscriptionFilter,
        page: u32,
        limit: u32,
    ) -> Result<Page<SubscriptionView>, Error> {
        let mut query = subscriptions::Entity::find().filter(subscriptions::Column::DeletedAtMs.is_null());
        if let Some(tenant) = &filter.tenant {
            query = query.filter(subscriptions::Column::Tenant.eq(tenant.as_str()));
        }
        if let Some(status) = filter.status {
            query = query.filter(subscriptions::Column::Status.eq(status.code()));
        }
        let total = query.clone().count(&self.orm).await?;
        let offset = u64::from(page.saturating_sub(1)) * u64::from(limit);
        if offset >= total {
            return Ok(Page { items: Vec::new(), total });
        }
        // What is skipped is read in the index alone.
        let ids: Vec<Uuid> = query
            .select_only()
            .column(subscriptions::Column::Id)
            .order_by_desc(subscriptions::Column::Id)
            .limit(u64::from(limit))
            .offset(offset)
            .into_tuple()
            .all(&self.orm)
            .await?;
        let mut items = Vec::with_capacity(ids.len());
        for ids in ids.chunks(LISTED_AT_ONCE) {
            let rows = subscriptions::Entity::find()
                .filter(subscriptions::Column::Id.is_in(ids.iter().copied()))
                .filter(subscriptions::Column::DeletedAtMs.is_null())
                .find_also_related(lane_health::Entity)
                .order_by_desc(subscriptions::Column::Id)
                .all(&self.orm)
                .await?;
            secrets::settle_doubts(&self.orm, &self.vault, rows.iter().map(|(row, _)| row)).await?;
            for (row, health) in rows {
                let view = to_view(row, health, &self.vault).map(without_header_values);
                // What no version would have written cannot be shown, and keeps nothing else from being shown.
                items.extend(
                    view.inspect_err(|error| error!(%error, "a subscription is left out of a list")).ok(),
                );
                // A row with the largest headers takes a millisecond to read.
                tokio::task::yield_now().await;
            }
        }
        Ok(Page { items, total })
    }

    /// Applies `change` to a subscription; none where it is not there. A new target closes the
    /// circuit and makes waiting retries due at once. Noted as `action`. Where nothing changes, nothing is written.
    pub async fn update_subscription(
        &self,
        id: SubscriptionId,
        stamp: Stamp,
        action: Action,
        change: impl FnOnce(&mut Subscription) + Send + 'static,
    ) -> Result<Option<Update>, Error> {
        let vault = self.vault.clone();
        tx::run(self, move |tx| {
            Box::pin(async move {
                let Some(row) = tx::locking(tx, live(id)).one(tx).await? else { return Ok(None) };
                secrets::settle_doubts(tx, &vault, [&row]).await?;
                let before = row::to_subscription(row.clone(), &vault)?;
                let now = stamp.at;
                let mut after = before.clone();
                change(&mut after);
                if after == before {
                    let after =
                        view(tx, id, &vault).await?.ok_or_else(|| Error::corrupt("subscription", id))?;
                    return Ok(Some(Update { before, after }));
                }
                after.version = before.version.saturating_add(1);
                after.updated_at = now.max(before.updated_at);
                if after.starts_fresh(&before) {
                    after.endpoint_version = after.version;
                }
                if after.forgives_retries(&before) {
                    after.retries_version = after.version;
                }
                secrets::may_write(tx, &vault).await?;
                row::change_row(&after, row, &vault)?.into_active_model().reset_all().update(tx).await?;
                follow_up(tx, &before, &after, now).await?;
                let fields = after.changed_fields(&before);
                audit::note(tx, stamp, action, &Subject::Subscription(id), &fields).await?;
                notices::tell(tx, &Notice::Changed(id)).await?;
                // Read in the same transaction that locked it, so it is there.
                let after = view(tx, id, &vault).await?.ok_or_else(|| Error::corrupt("subscription", id))?;
                Ok(Some(Update { before, after }))
            })
        })
        .await
    }
}

/// As a list shows it: small, whatever its static headers hold.
fn without_header_values(mut view: SubscriptionView) -> SubscriptionView {
    let config = &mut view.subscription.config;
    config.headers = std::mem::take(&mut config.headers).without_values();
    view
}

/// Whether a tenant has fewer than `max` subscriptions, by `subscriptions_by_tenant`; simultaneous creations for one
/// tenant follow one another.
async fn has_room(tx: &Transaction, tenant: &Tenant, max: u32) -> Result<bool, Error> {
    if tx.get_database_backend() == DbBackend::Postgres {
        // Until the commit. Two tenants whose names have the same hash wait for each other, and no more than that.
        let lock = "SELECT pg_advisory_xact_lock(1886352244, hashtext($1))";
        tx::execute(tx, lock, [tenant.as_str().into()]).await?;
    }
    let count = subscriptions::Entity::find()
        .filter(subscriptions::Column::DeletedAtMs.is_null())
        .filter(subscriptions::Column::Tenant.eq(tenant.as_str()))
        .count(tx)
        .await?;
    Ok(count < u64::from(max))
}

/// What a change of a subscription means for its deliveries and its circuit. The deliveries are not touched, however
/// many there are: `lane_wide.rs` tells what it means for each.
async fn follow_up(
    tx: &Transaction,
    before: &Subscription,
    after: &Subscription,
    now: Timestamp,
) -> Result<(), Error> {
    let (id, version) = (after.id.0, after.version);
    if after.forgives_retries(before) {
        let forgive = "UPDATE subscriptions SET forgiven_version = $2 WHERE id = $1";
        tx::execute(tx, forgive, [id.into(), version.into()]).await?;
    }
    if after.starts_fresh(before) {
        tx::execute(
            tx,
            "UPDATE lane_health SET circuit = 0, failures = 0, cool_down_ms = NULL, probe_at_ms = NULL, \
             failing_since_ms = NULL, endpoint_version = $2 WHERE subscription_id = $1",
            [id.into(), after.endpoint_version.into()],
        )
        .await?;
        let due = "UPDATE subscriptions SET due_version = $2, due_at_ms = $3 WHERE id = $1";
        tx::execute(tx, due, [id.into(), version.into(), now.as_millis().into()]).await?;
    }
    Ok(())
}

/// A subscription that is not deleted.
pub(super) fn live(id: SubscriptionId) -> sea_orm::Select<subscriptions::Entity> {
    subscriptions::Entity::find_by_id(id.0).filter(subscriptions::Column::DeletedAtMs.is_null())
}

async fn view(
    connection: &impl ConnectionTrait,
    id: SubscriptionId,
    vault: &Vault,
) -> Result<Option<SubscriptionView>, Error> {
    let found = live(id).find_also_related(lane_health::Entity).one(connection).await?;
    secrets::settle_doubts(connection, vault, found.iter().map(|(row, _)| row)).await?;
    found.map(|(row, health)| to_view(row, health, vault)).transpose()
}

fn to_view(
    row: subscriptions::Model,
    health: Option<lane_health::Model>,
    vault: &Vault,
) -> Result<SubscriptionView, Error> {
    let health = row::to_health(health)?;
    let circuit = CircuitView {
        state: health.circuit,
        consecutive_failures: health.failures,
        retry_at: health.probe_at,
    };
    Ok(SubscriptionView { subscription: row::to_subscription(row, vault)?, circuit })
}
