//! Every use case, asked by another tenant.

use posthorn_domain::api_key::{self, KeyName, KeyRecord};
use posthorn_domain::audit::Actor;
use posthorn_domain::forward::ForwardedHeaders;
use posthorn_domain::hops::Hops;
use posthorn_domain::id::{DeliveryId, KeyId, SubscriptionId};
use posthorn_domain::subscription::SubscriptionConfig;
use posthorn_domain::target::TargetUrl;
use posthorn_domain::tenant::Tenant;
use posthorn_domain::views::{DeliveryFilter, SubscriptionFilter};
use uuid::Uuid;

use super::{Access, Error, Missing, NewEvent, Service, Transition};
use crate::clock::Clock;

const NO_SUBSCRIPTION: Error = Error::NotFound(Missing::Subscription);
const NO_DELIVERY: Error = Error::NotFound(Missing::Delivery);

/// Use cases that take no access, each for its reason.
const OPEN: [&str; 9] = [
    "new",
    // For everybody.
    "check_ready",
    "check_store",
    "verifiable_subscription",
    // They find out who asks.
    "access_of_key",
    "is_open",
    "was_open",
    "addressed_subscription",
    // Of a subscription that somebody was shown.
    "in_flight_limit",
];

#[tokio::test(flavor = "multi_thread")]
async fn what_is_anothers_is_not_there() {
    let service = Service::for_tests(None).await;
    let own = Access::Tenant("own".parse().unwrap(), Actor::Anyone);
    let (id, delivery) = with_a_delivery(&service, &own).await;
    let other = Access::Tenant("other".parse().unwrap(), Actor::Anyone);
    let mut asked = Vec::new();
    for access in [&other, &Access::Ingest(SubscriptionId(Uuid::nil())), &Access::Anonymous] {
        asked = ask(&service, access, id, delivery).await;
        let is_known = access.check_known().is_ok();
        for (name, answer, to_known) in &asked {
            let expected = match (to_known, is_known) {
                (Some(Error::Forbidden), false) if *name == "create_subscription" => {
                    Some(&Error::KeyRequired)
                }
                (None, false) if ["stats", "activity"].contains(name) => Some(&Error::KeyRequired),
                (expected, _) => expected.as_ref(),
            };
            assert_eq!(answer.as_ref(), expected, "{name} as {access:?}");
        }
    }
    // To its own tenant it is there, so that what was refused could have been had.
    assert!(service.delivery(&own, delivery).await.is_ok());
    assert!(service.subscription_view(&own, id).await.is_ok());

    let asked: Vec<_> = asked.into_iter().map(|(name, ..)| name).collect();
    let unasked: Vec<_> = use_cases()
        .into_iter()
        .filter(|name| !asked.contains(&&**name) && !OPEN.contains(&&**name))
        .collect();
    assert!(unasked.is_empty(), "nobody looked whether these keep tenants apart: {unasked:?}");
}

/// What each use case answers, and what it is to answer to a key of another tenant.
type Asked = (&'static str, Option<Error>, Option<Error>);

async fn ask(service: &Service, access: &Access, id: SubscriptionId, delivery: DeliveryId) -> Vec<Asked> {
    let own: Tenant = "own".parse().unwrap();
    let event = event(id, own.clone());
    let filter = SubscriptionFilter { tenant: Some(own.clone()), status: None };
    let listed = service.list_subscriptions(access, filter, 1, 10).await;
    assert!(listed.is_ok_and(|page| page.items.is_empty() && page.total == 0));
    assert!(service.list_audit(access, Some(&own), None, 10).await.is_ok_and(|entries| entries.is_empty()));
    let stats = service.stats(access).await;
    assert!(stats.as_ref().map_or(true, |stats| stats.total_subscriptions == 0));
    let activity = service.activity(access, 10).await;
    assert!(activity.as_ref().map_or(true, Vec::is_empty));
    let subscription = service.addressed_subscription(id).await.unwrap().unwrap();
    let (gone, none) = (|| Some(NO_SUBSCRIPTION), || Some(NO_DELIVERY));
    let forbidden = || Some(Error::Forbidden);
    let secret = service.rotate_signing_secret(access, id, None, std::time::Duration::ZERO).await;
    let pages = DeliveryFilter::default();
    vec![
        ("list_subscriptions", None, None),
        ("list_audit", None, None),
        ("count_call", service.count_call(access).await.err(), None),
        ("stats", stats.err(), None),
        ("activity", activity.err(), None),
        (
            "create_subscription",
            service.create_subscription(access, own.clone(), config()).await.err(),
            forbidden(),
        ),
        ("subscription_view", service.subscription_view(access, id).await.err(), gone()),
        ("subscription", service.subscription(access, id).await.err(), gone()),
        ("update_subscription", service.update_subscription(access, id, |_, _| {}).await.err(), gone()),
        ("delete_subscription", service.delete_subscription(access, id).await.err(), gone()),
        ("transition", service.transition(access, Transition::Pause, id).await.err(), gone()),
        ("rotate_signing_secret", secret.err(), gone()),
        ("attempts", service.attempts(access, id, 10).await.err(), gone()),
        ("list_deliveries", service.list_deliveries(access, id, &pages, 10).await.err(), gone()),
        ("delivery", service.delivery(access, delivery).await.err(), none()),
        ("delivery_with_attempts", service.delivery_with_attempts(access, delivery).await.err(), none()),
        ("payload", service.payload(access, delivery).await.err(), none()),
        ("retry", service.retry(access, delivery).await.err(), none()),
        ("skip", service.skip(access, delivery).await.err(), none()),
        ("replay", service.replay(access, delivery).await.err(), none()),
        ("check_room", service.check_room(access, &subscription, 1).err(), gone()),
        ("ingest", service.ingest(access, event).await.err(), gone()),
        ("send_test", service.send_test(access, id).await.err(), gone()),
        (
            "tenant_settings",
            service.tenant_settings(access, &own).await.err(),
            Some(Error::NotFound(Missing::Tenant)),
        ),
        ("update_tenant", service.update_tenant(access, own, |_| {}).await.err(), forbidden()),
        ("create_key", service.create_key(access, &key()).await.err(), forbidden()),
        ("list_keys", service.list_keys(access, None, 1, 10).await.err(), forbidden()),
        ("revoke_key", service.revoke_key(access, KeyId(Uuid::nil())).await.err(), forbidden()),
        ("cluster", service.cluster(access).await.err(), forbidden()),
    ]
}

/// The public functions of [`Service`], as the sources have them.
fn use_cases() -> Vec<String> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/service");
    let mut names = Vec::new();
    for file in std::fs::read_dir(folder).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        let Some((_, of_service)) = text.split_once("\nimpl Service {\n") else { continue };
        let of_service = of_service.split("\n}\n").next().unwrap();
        let functions = of_service.lines().filter_map(|line| {
            let line = line.strip_prefix("    pub ")?;
            line.strip_prefix("async fn ").or_else(|| line.strip_prefix("fn "))
        });
        names.extend(functions.map(|rest| rest.split(['(', '<']).next().unwrap().to_owned()));
    }
    assert!(names.len() > 30, "too few to be all: {names:?}");
    names
}

async fn with_a_delivery(service: &Service, access: &Access) -> (SubscriptionId, DeliveryId) {
    let tenant: Tenant = "own".parse().unwrap();
    let view = service.create_subscription(access, tenant.clone(), config()).await.unwrap();
    let id = view.subscription.id;
    service.transition(access, Transition::Pause, id).await.unwrap();
    let accepted = service.ingest(access, event(id, tenant)).await.unwrap();
    (id, accepted.delivery_id)
}

fn event(subscription_id: SubscriptionId, tenant: Tenant) -> NewEvent {
    NewEvent {
        subscription_id,
        tenant,
        content_type: "application/json".to_owned(),
        payload: "{}".into(),
        idempotency_key: None,
        ordering_key: None,
        hops: Hops::default(),
        forwarded: ForwardedHeaders::default(),
    }
}

fn config() -> SubscriptionConfig {
    SubscriptionConfig::new(TargetUrl::parse("https://example.com/").unwrap())
}

fn key() -> KeyRecord {
    KeyRecord {
        id: KeyId(Uuid::now_v7()),
        name: KeyName::default(),
        access: api_key::Access::Admin,
        created_at: Clock::system().now(),
        expires_at: None,
        last_used_at: None,
    }
}
