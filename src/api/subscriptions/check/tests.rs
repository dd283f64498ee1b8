use std::collections::BTreeSet;

use posthorn_domain::id::SubscriptionId;
use posthorn_domain::rotation::Replaced;
use serde_json::{Value, json};

use super::*;

/// Loopback is allowed, and the server listens on port 8000 of it.
fn with_rules<T>(check: impl FnOnce(&TargetRules<'_>) -> T) -> T {
    let guard = AddressGuard::new(vec!["127.0.0.0/8".parse().unwrap()]);
    check(&TargetRules { guard: &guard, own: Own { listen: ([127, 0, 0, 1], 8000).into(), host: None } })
}

fn create(fields: &Value) -> Result<(Tenant, SubscriptionConfig), Problem> {
    let mut body = json!({"target_url": "http://127.0.0.1/"});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    with_rules(|rules| creation(serde_json::from_value(body).unwrap(), None, rules))
}

fn change(config: &mut SubscriptionConfig, body: Value) -> Result<(), Problem> {
    let change = with_rules(|rules| Change::check(serde_json::from_value(body).unwrap(), rules))?;
    change.check_against(config)?;
    let mut subscription = subscription(config.clone());
    change.apply(&mut subscription, NOW);
    *config = subscription.config;
    Ok(())
}

const NOW: Timestamp = Timestamp::from_millis(1_000_000);

fn subscription(config: SubscriptionConfig) -> Subscription {
    let secret = SigningSecret::from_random([7; 32]);
    Subscription::new(SubscriptionId(uuid::Uuid::nil()), Tenant::default(), config, secret, NOW)
}

/// Keys that are taken right after each of some changes, and after half an hour and a day.
#[test]
fn replaced_keys_are_taken_for_their_time() {
    let (_, config) = create(&json!({"secret_key": "a"})).unwrap();
    let start = subscription(config);
    for (bodies, now, half_an_hour, day) in [
        (vec![json!({"secret_key": "b"})], "ba", "ba", "b"),
        (vec![json!({"secret_key": "b"}), json!({"secret_key": "c"})], "cba", "cba", "c"),
        (vec![json!({"secret_key": "b"}), json!({"secret_key": "b"})], "ba", "ba", "b"),
        (vec![json!({"secret_key": "b"}), json!({"secret_key": "a"})], "ab", "ab", "a"),
        (vec![json!({"secret_key": "b"}), json!({"description": "d"})], "ba", "ba", "b"),
        (vec![json!({"secret_key": "b", "secret_key_overlap_seconds": 900})], "ba", "b", "b"),
        (vec![json!({"secret_key": "b", "secret_key_overlap_seconds": 604_800})], "ba", "ba", "ba"),
        (vec![json!({"secret_key": "b", "secret_key_overlap_seconds": 0})], "b", "b", "b"),
        (vec![json!({"secret_key": "b"}), json!({"secret_key_overlap_seconds": 0})], "b", "b", "b"),
        (vec![json!({"secret_key": "b"}), json!({"secret_key_overlap_seconds": 900})], "ba", "b", "b"),
        (vec![json!({"secret_key": "b"}), json!({"secret_key": null})], "", "", ""),
        (
            vec![json!({"secret_key": "b"}), json!({"secret_key": null}), json!({"secret_key": "c"})],
            "c",
            "c",
            "c",
        ),
    ] {
        let mut subscription = start.clone();
        for body in &bodies {
            let change =
                with_rules(|rules| Change::check(serde_json::from_value(body.clone()).unwrap(), rules))
                    .unwrap();
            change.apply(&mut subscription, NOW);
        }
        for (after, expected) in [(0, now), (30, half_an_hour), (24 * 60, day)] {
            let at = NOW.plus(Duration::from_mins(after));
            let taken: String = subscription.secret_keys(at).map(SecretKey::expose).collect();
            assert_eq!(taken, expected, "{bodies:?} after {after} min");
        }
    }
}

#[test]
fn overlaps_have_bounds() {
    for (seconds, ok) in [(0, true), (604_800, true), (604_801, false)] {
        let body = json!({"overlap_seconds": seconds});
        assert_eq!(rotation(&serde_json::from_value(body).unwrap()).is_ok(), ok, "{seconds}");
        let body = json!({"secret_key_overlap_seconds": seconds});
        assert_eq!(
            with_rules(|rules| Change::check(serde_json::from_value(body.clone()).unwrap(), rules)).is_ok(),
            ok,
            "{seconds}"
        );
    }
}

/// What is set anew can be read again; what is not stays as it is.
#[test]
fn unreadable_secrets_are_set_anew() {
    let (_, config) = create(&json!({"secret_key": "a"})).unwrap();
    let all: BTreeSet<_> = SecretField::ALL.iter().copied().collect();
    for (body, set) in [
        (json!({"description": "d"}), &[][..]),
        (json!({"headers": {}}), &[SecretField::Headers]),
        (json!({"headers": null}), &[SecretField::Headers]),
        (json!({"client_certificate": null}), &[SecretField::ClientCertificate]),
        (json!({"secret_key": "b"}), &[SecretField::SecretKey, SecretField::ReplacedSecretKeys]),
        (json!({"secret_key": null}), &[SecretField::SecretKey, SecretField::ReplacedSecretKeys]),
    ] {
        let mut subscription = Subscription { unreadable: all.clone(), ..subscription(config.clone()) };
        let change =
            with_rules(|rules| Change::check(serde_json::from_value(body.clone()).unwrap(), rules)).unwrap();
        change.apply(&mut subscription, NOW);
        let mended: Vec<_> = all.difference(&subscription.unreadable).copied().collect();
        assert_eq!(mended, set, "{body}");
        assert_eq!(subscription.replaced_keys, Replaced::default(), "nobody's key is not taken: {body}");
    }
}

#[test]
fn every_fault_is_told_at_once() {
    let problem = create(&json!({
        "target_url": "http://10.0.0.1/",
        "tenant": "a b",
        "secret_key": "",
        "description": "nul\u{0}",
        "headers": {"Host": "x"},
        "max_in_flight": 0,
        "rate_limit": {"requests_per_second": 0, "burst": 0},
        "retry": {"max_retries": 101, "initial_delay_seconds": -0.1, "max_delay_seconds": 1e308, "give_up_on": ["404", "2xx"]},
        "forward_headers": ["x-event", "cookie"],
        "idempotency_header": "authorization",
        "timeout_seconds": 0.05,
    }));
    let problem = problem.unwrap_err();
    let pointers: Vec<_> = problem.errors().iter().map(|error| error.pointer.as_str()).collect();
    assert_eq!(
        pointers,
        [
            "/tenant",
            "/target_url",
            "/secret_key",
            "/description",
            "/headers/Host",
            "/max_in_flight",
            "/rate_limit/requests_per_second",
            "/rate_limit/burst",
            "/retry/max_retries",
            "/retry/initial_delay_seconds",
            "/retry/max_delay_seconds",
            "/retry/give_up_on/1",
            "/timeout_seconds",
            "/forward_headers/1",
            "/idempotency_header",
        ]
    );
    assert!(problem.errors()[1].detail.contains("POSTHORN_ALLOWED_PRIVATE_NETWORKS"));
}

#[test]
fn bounds_are_the_domains() {
    for (fields, ok) in [
        (json!({"timeout_seconds": 0.1}), true),
        (json!({"timeout_seconds": 0.0999}), false),
        (json!({"timeout_seconds": 120}), true),
        (json!({"timeout_seconds": 120.0001}), false),
        (json!({"retry": {"initial_delay_seconds": 0, "max_delay_seconds": 86400}}), true),
        (json!({"retry": {"max_delay_seconds": 86400.01}}), false),
        (json!({"rate_limit": {"requests_per_second": 0.001, "burst": 1}}), true),
        (json!({"rate_limit": {"requests_per_second": 100_001, "burst": 1}}), false),
        (json!({"max_in_flight": 1}), true),
        (json!({"max_in_flight": 2}), false),
        (json!({"max_in_flight": 2, "ordering": "key"}), true),
        (json!({"max_in_flight": 1001, "ordering": "none"}), false),
        (json!({"description": "ä".repeat(1024)}), true),
        (json!({"description": "ä".repeat(1025)}), false),
        (json!({"forward_headers": vec!["x-a"; 16]}), true),
        (json!({"forward_headers": vec!["x-a"; 17]}), false),
        (json!({"retry": {"give_up_on": vec!["404"; 101]}}), false),
        (json!({"tenant": null, "headers": null, "retry": null, "ordering": null}), true),
    ] {
        assert_eq!(create(&fields).is_ok(), ok, "{fields}");
    }
}

#[test]
fn objects_are_not_written_as_lists() {
    for body in [json!({"rate_limit": [1, 1]}), json!({"retry": [1]}), json!({"rate_limit": {"burst": 1}})] {
        assert!(serde_json::from_value::<SubscriptionUpdate>(body.clone()).is_err(), "{body}");
    }
}

#[test]
fn what_is_absent_stays_and_null_clears() {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap();
    let client_certificate = json!({"certificate": certificate.pem(), "private_key": key.serialize_pem()});
    let everything = json!({
        "secret_key": "k", "description": "d", "headers": {"X-A": "1"}, "ordering": "key",
        "max_in_flight": 7, "rate_limit": {"requests_per_second": 2.5, "burst": 3},
        "retry": {
            "max_retries": 2, "initial_delay_seconds": 0.5, "on_exhausted": "pause", "give_up_on": [404, "4XX"],
        },
        "forward_headers": ["X-GitHub-Event"], "idempotency_header": "X-GitHub-Delivery",
        "timeout_seconds": 1.5, "asymmetric_signature": true, "client_certificate": client_certificate,
    });
    let (_, full) = create(&everything).unwrap();
    let (_, empty) = create(&json!({})).unwrap();
    let mut config = full.clone();
    change(&mut config, json!({})).unwrap();
    assert_eq!(config, full);
    assert_eq!(config.retry.give_up_on.words(), ["4xx"]);
    change(&mut config, json!({"retry": {"max_retries": null, "max_delay_seconds": 9}})).unwrap();
    let retry = RetryOverrides { max_retries: None, delay_max: Some(Duration::from_secs(9)), ..full.retry };
    assert_eq!(config.retry, retry);
    for field in [
        "secret_key",
        "description",
        "headers",
        "max_in_flight",
        "ordering",
        "rate_limit",
        "retry",
        "timeout_seconds",
        "asymmetric_signature",
        "client_certificate",
        "forward_headers",
        "idempotency_header",
    ] {
        change(&mut config, json!({field: null})).unwrap();
    }
    assert_eq!(config, empty);
    change(&mut config, json!({"target_url": "http://127.0.0.2/"})).unwrap();
    assert_eq!(config.target.as_str(), "http://127.0.0.2/");
}

#[test]
fn strict_stays_with_one_in_flight() {
    let (_, mut config) = create(&json!({"ordering": "key", "max_in_flight": 7})).unwrap();
    for (body, pointer) in [
        (json!({"ordering": "strict"}), "/ordering"),
        (json!({"ordering": null}), "/ordering"),
        (json!({"ordering": "strict", "max_in_flight": 2}), "/max_in_flight"),
    ] {
        let problem = change(&mut config, body).unwrap_err();
        assert_eq!(problem.errors()[0].pointer, pointer);
    }
    change(&mut config, json!({"ordering": "strict", "max_in_flight": null})).unwrap();
    assert_eq!(change(&mut config, json!({"max_in_flight": 2})).unwrap_err().errors().len(), 1);
}
