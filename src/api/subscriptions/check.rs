//! From what a client sent to a configuration that the domain allows, or to every fault in it.

use std::collections::BTreeMap;
use std::time::Duration;

use poem_openapi::types::MaybeUndefined;
use posthorn_domain::address::{AddressGuard, ForbiddenAddress};
use posthorn_domain::certificate::ClientCertificate;
use posthorn_domain::header::StaticHeaders;
use posthorn_domain::limits::{
    DESCRIPTION_CHARS_MAX, IN_FLIGHT_MAX, RETRIES_MAX, RETRY_DELAY_MAX, SECRET_OVERLAP_DEFAULT,
    SECRET_OVERLAP_MAX, TIMEOUT_MAX, TIMEOUT_MIN,
};
use posthorn_domain::signature::{SecretKey, SigningSecret};
use posthorn_domain::subscription::{
    OnExhausted, Ordering, RateLimit, RetryOverrides, SecretField, Subscription, SubscriptionConfig,
};
use posthorn_domain::target::TargetUrl;
use posthorn_domain::tenant::Tenant;
use posthorn_domain::time::Timestamp;

use super::input::{
    ClientCertificate as ClientCertificateInput, Policies, RetrySettings, SigningSecretRotation,
    SubscriptionCreate, SubscriptionUpdate,
};
use super::own::Own;
use crate::api::body::push_segment;
use crate::api::change::{field, set, set_or, within};
use crate::api::problem::{Faults, Problem};
use crate::api::rate_limit::check_rate_limit;

/// A checked change: what is undefined stays, null clears.
#[derive(Clone, Debug, Default)]
pub(super) struct Change {
    target: Option<TargetUrl>,
    secret_key: MaybeUndefined<SecretKey>,
    secret_key_overlap: Option<Duration>,
    description: MaybeUndefined<String>,
    headers: MaybeUndefined<StaticHeaders>,
    ordering: MaybeUndefined<Ordering>,
    max_in_flight: MaybeUndefined<u32>,
    rate_limit: MaybeUndefined<RateLimit>,
    retry: MaybeUndefined<RetryChange>,
    timeout: MaybeUndefined<Duration>,
    asymmetric_signature: MaybeUndefined<bool>,
    client_certificate: MaybeUndefined<ClientCertificate>,
}

#[derive(Clone, Copy, Debug, Default)]
struct RetryChange {
    max_retries: MaybeUndefined<u32>,
    delay: MaybeUndefined<Duration>,
    delay_max: MaybeUndefined<Duration>,
    on_exhausted: MaybeUndefined<OnExhausted>,
}

/// What a target must keep to.
#[derive(Clone, Copy, Debug)]
pub(super) struct TargetRules<'a> {
    /// Which addresses may be delivered to.
    pub(super) guard: &'a AddressGuard,
    /// Where this server is.
    pub(super) own: Own<'a>,
}

/// A new subscription's tenant and configuration; `own` is the tenant where none is named.
pub(super) fn creation(
    body: SubscriptionCreate,
    own: Option<&Tenant>,
    rules: &TargetRules<'_>,
) -> Result<(Tenant, SubscriptionConfig), Problem> {
    let mut faults = Faults::default();
    let tenant = body.tenant.as_deref().map_or_else(|| Ok(own.cloned().unwrap_or_default()), str::parse);
    let tenant = faults.take("/tenant", tenant);
    let target = target(&body.target_url, rules, &mut faults);
    let change = policies(body.into_policies(), &mut faults);
    // Where either is missing a fault was noted, so the check below ends it.
    let config = target.map(|target| {
        let mut config = SubscriptionConfig {
            target,
            description: None,
            headers: StaticHeaders::default(),
            ordering: Ordering::Strict,
            max_in_flight: None,
            rate_limit: None,
            retry: RetryOverrides::default(),
            timeout: None,
            secret_key: None,
            asymmetric_signature: false,
            client_certificate: None,
        };
        change.check_with(&config, &mut faults);
        change.apply_to(&mut config);
        config
    });
    faults.check()?;
    tenant.zip(config).ok_or_else(Problem::internal)
}

impl Change {
    /// What a client wants changed.
    pub(super) fn check(body: SubscriptionUpdate, rules: &TargetRules<'_>) -> Result<Self, Problem> {
        let mut faults = Faults::default();
        let target = body.target_url.as_deref().and_then(|text| target(text, rules, &mut faults));
        let secret_key_overlap =
            overlap(body.secret_key_overlap_seconds, "/secret_key_overlap_seconds", &mut faults);
        let change = Self { target, secret_key_overlap, ..policies(body.into_policies(), &mut faults) };
        faults.check()?;
        Ok(change)
    }

    /// Whether it may be applied to `config`.
    pub(super) fn check_against(&self, config: &SubscriptionConfig) -> Result<(), Problem> {
        let mut faults = Faults::default();
        self.check_with(config, &mut faults);
        faults.check()
    }

    fn check_with(&self, config: &SubscriptionConfig, faults: &mut Faults) {
        let mut ordering = config.ordering;
        set_or(&mut ordering, self.ordering, Ordering::Strict);
        let mut max_in_flight = config.max_in_flight;
        set(&mut max_in_flight, self.max_in_flight);
        if ordering == Ordering::Strict && max_in_flight.is_some_and(|max| max > 1) {
            let pointer = if self.max_in_flight.is_undefined() { "/ordering" } else { "/max_in_flight" };
            faults.add(
                pointer,
                "with ordering strict one request is in flight: expected max_in_flight 1 or null",
            );
        }
    }

    /// Makes the change at `now`.
    pub(super) fn apply(mut self, subscription: &mut Subscription, now: Timestamp) {
        let overlap = self.secret_key_overlap;
        match std::mem::take(&mut self.secret_key) {
            MaybeUndefined::Undefined => {
                if let Some(overlap) = overlap {
                    subscription.end_replaced_keys(overlap, now);
                }
            }
            given => {
                let overlap = overlap.unwrap_or(SECRET_OVERLAP_DEFAULT);
                subscription.replace_secret_key(given.take(), overlap, now);
            }
        }
        for (field, is_set) in [
            (SecretField::Headers, !self.headers.is_undefined()),
            (SecretField::ClientCertificate, !self.client_certificate.is_undefined()),
        ] {
            if is_set {
                subscription.unreadable.remove(&field);
            }
        }
        self.apply_to(&mut subscription.config);
    }

    fn apply_to(self, config: &mut SubscriptionConfig) {
        if let Some(target) = self.target {
            config.target = target;
        }
        set(&mut config.secret_key, self.secret_key);
        set(&mut config.description, self.description);
        set_or(&mut config.headers, self.headers, StaticHeaders::default());
        set_or(&mut config.ordering, self.ordering, Ordering::Strict);
        set(&mut config.max_in_flight, self.max_in_flight);
        set(&mut config.rate_limit, self.rate_limit);
        set(&mut config.timeout, self.timeout);
        set_or(&mut config.asymmetric_signature, self.asymmetric_signature, false);
        set(&mut config.client_certificate, self.client_certificate);
        match self.retry {
            MaybeUndefined::Undefined => {}
            MaybeUndefined::Null => config.retry = RetryOverrides::default(),
            MaybeUndefined::Value(retry) => retry.apply(&mut config.retry),
        }
    }
}

impl RetryChange {
    fn apply(self, retry: &mut RetryOverrides) {
        set(&mut retry.max_retries, self.max_retries);
        set(&mut retry.delay, self.delay);
        set(&mut retry.delay_max, self.delay_max);
        set(&mut retry.on_exhausted, self.on_exhausted);
    }
}

/// The secret that is to sign from now on, where one is given, and how long the one before does.
pub(super) fn rotation(body: &SigningSecretRotation) -> Result<(Option<SigningSecret>, Duration), Problem> {
    let mut faults = Faults::default();
    let secret = body.signing_secret.as_deref().map(SigningSecret::parse);
    let secret = secret.and_then(|secret| faults.take("/signing_secret", secret));
    let overlap = overlap(body.overlap_seconds, "/overlap_seconds", &mut faults);
    faults.check()?;
    Ok((secret, overlap.unwrap_or(SECRET_OVERLAP_DEFAULT)))
}

/// How long a replaced secret stays in force, where it is said.
fn overlap(seconds: Option<u32>, pointer: &str, faults: &mut Faults) -> Option<Duration> {
    let overlap = Duration::from_secs(seconds?.into());
    let checked = if overlap <= SECRET_OVERLAP_MAX { Ok(overlap) } else { Err(OVERLAP_EXPECTED) };
    faults.take(pointer, checked)
}

const OVERLAP_EXPECTED: &str = "expected whole seconds from 0 to 604800";
const _: () = assert!(SECRET_OVERLAP_MAX.as_secs() == 604_800);

fn target(text: &str, rules: &TargetRules<'_>, faults: &mut Faults) -> Option<TargetUrl> {
    let target = faults.take("/target_url", TargetUrl::parse(text))?;
    let allowed = rules.guard.check_target(&target).map_err(ForbiddenAddress::advice);
    faults.take("/target_url", allowed)?;
    if rules.own.takes_in(&target) {
        faults.add(
            "/target_url",
            "expected another place than an ingest of this server: an event would come in again and go round in a loop",
        );
        return None;
    }
    Some(target)
}

fn policies(body: Policies, faults: &mut Faults) -> Change {
    Change {
        target: None,
        secret_key_overlap: None,
        secret_key: field(body.secret_key, "/secret_key", faults, |text| secret_key(&text)),
        description: field(body.description, "/description", faults, description),
        headers: headers(body.headers, faults),
        ordering: body.ordering.map_value(|word| word.0),
        max_in_flight: field(body.max_in_flight, "/max_in_flight", faults, |max| {
            within(max, 1, IN_FLIGHT_MAX)
        }),
        rate_limit: check_rate_limit(body.rate_limit, "/rate_limit", faults),
        retry: body.retry.map_value(|settings| retry(settings, faults)),
        timeout: field(body.timeout_seconds, "/timeout_seconds", faults, |timeout| {
            seconds(timeout, TIMEOUT_MIN, TIMEOUT_MAX)
        }),
        asymmetric_signature: body.asymmetric_signature,
        client_certificate: client_certificate(body.client_certificate, faults),
    }
}

fn client_certificate(
    given: MaybeUndefined<ClientCertificateInput>,
    faults: &mut Faults,
) -> MaybeUndefined<ClientCertificate> {
    field(given, "/client_certificate", faults, |given| {
        ClientCertificate::parse(&given.certificate, &given.private_key).map_err(|error| error.to_string())
    })
}

fn secret_key(text: &str) -> Result<SecretKey, String> {
    check_text(text)?;
    SecretKey::parse(text).map_err(|error| error.to_string())
}

fn description(text: String) -> Result<String, String> {
    let is_odd = |c: char| c.is_control() && !matches!(c, '\n' | '\r' | '\t');
    if text.contains(is_odd) {
        return Err("expected text without control characters but line breaks and tabs".to_owned());
    }
    // In bytes first: a text of megabytes is not walked.
    if text.len() > 4 * DESCRIPTION_CHARS_MAX || text.chars().count() > DESCRIPTION_CHARS_MAX {
        return Err(format!("expected at most {DESCRIPTION_CHARS_MAX} characters"));
    }
    Ok(text)
}

fn check_text(text: &str) -> Result<(), String> {
    if text.contains(char::is_control) {
        return Err("expected text without control characters".to_owned());
    }
    Ok(())
}

fn headers(
    headers: MaybeUndefined<BTreeMap<String, String>>,
    faults: &mut Faults,
) -> MaybeUndefined<StaticHeaders> {
    let headers = match headers {
        MaybeUndefined::Undefined => return MaybeUndefined::Undefined,
        MaybeUndefined::Null => return MaybeUndefined::Null,
        MaybeUndefined::Value(headers) => headers,
    };
    match StaticHeaders::parse(headers) {
        Ok(headers) => MaybeUndefined::Value(headers),
        Err(error) => {
            let mut pointer = "/headers".to_owned();
            // Nameless where their number is at fault; a header without a name is one, too.
            if !error.name.is_empty() {
                push_segment(&mut pointer, &error.name);
            }
            faults.add(pointer, error);
            MaybeUndefined::Undefined
        }
    }
}

fn retry(settings: RetrySettings, faults: &mut Faults) -> RetryChange {
    let delay = |delay| seconds(delay, Duration::ZERO, RETRY_DELAY_MAX);
    RetryChange {
        max_retries: field(settings.max_retries, "/retry/max_retries", faults, |max| {
            within(max, 0, RETRIES_MAX)
        }),
        delay: field(settings.initial_delay_seconds, "/retry/initial_delay_seconds", faults, delay),
        delay_max: field(settings.max_delay_seconds, "/retry/max_delay_seconds", faults, delay),
        on_exhausted: settings.on_exhausted.map_value(|word| word.0),
    }
}

/// A duration in whole milliseconds, as it is stored: so it reads back the same from the start.
fn seconds(value: f64, min: Duration, max: Duration) -> Result<Duration, String> {
    let duration = Duration::try_from_secs_f64(value)
        .ok()
        .map(|duration| Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)));
    duration
        .filter(|duration| (min..=max).contains(duration) && value <= max.as_secs_f64())
        .ok_or_else(|| format!("expected seconds from {} to {}", min.as_secs_f64(), max.as_secs_f64()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use posthorn_domain::id::SubscriptionId;
    use posthorn_domain::rotation::Replaced;
    use posthorn_domain::subscription::{SigningSecrets, SubscriptionStatus};
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
        Subscription {
            id: SubscriptionId(uuid::Uuid::nil()),
            tenant: Tenant::default(),
            config,
            signing: SigningSecrets {
                current: SigningSecret::from_random([7; 32]),
                replaced: Replaced::default(),
            },
            replaced_keys: Replaced::default(),
            unreadable: BTreeSet::new(),
            status: SubscriptionStatus::Active,
            status_reason: None,
            version: 1,
            endpoint_version: 1,
            retries_version: 1,
            created_at: NOW,
            updated_at: NOW,
        }
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
                with_rules(|rules| Change::check(serde_json::from_value(body.clone()).unwrap(), rules))
                    .is_ok(),
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
                with_rules(|rules| Change::check(serde_json::from_value(body.clone()).unwrap(), rules))
                    .unwrap();
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
            "retry": {"max_retries": 101, "initial_delay_seconds": -0.1, "max_delay_seconds": 1e308},
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
                "/timeout_seconds",
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
            (json!({"tenant": null, "headers": null, "retry": null, "ordering": null}), true),
        ] {
            assert_eq!(create(&fields).is_ok(), ok, "{fields}");
        }
    }

    #[test]
    fn objects_are_not_written_as_lists() {
        for body in
            [json!({"rate_limit": [1, 1]}), json!({"retry": [1]}), json!({"rate_limit": {"burst": 1}})]
        {
            assert!(serde_json::from_value::<SubscriptionUpdate>(body.clone()).is_err(), "{body}");
        }
    }

    #[test]
    fn what_is_absent_stays_and_null_clears() {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap();
        let client_certificate =
            json!({"certificate": certificate.pem(), "private_key": key.serialize_pem()});
        let everything = json!({
            "secret_key": "k", "description": "d", "headers": {"X-A": "1"}, "ordering": "key",
            "max_in_flight": 7, "rate_limit": {"requests_per_second": 2.5, "burst": 3},
            "retry": {"max_retries": 2, "initial_delay_seconds": 0.5, "on_exhausted": "pause"},
            "timeout_seconds": 1.5, "asymmetric_signature": true, "client_certificate": client_certificate,
        });
        let (_, full) = create(&everything).unwrap();
        let (_, empty) = create(&json!({})).unwrap();
        let mut config = full.clone();
        change(&mut config, json!({})).unwrap();
        assert_eq!(config, full);
        change(&mut config, json!({"retry": {"max_retries": null, "max_delay_seconds": 9}})).unwrap();
        let retry =
            RetryOverrides { max_retries: None, delay_max: Some(Duration::from_secs(9)), ..full.retry };
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
}
