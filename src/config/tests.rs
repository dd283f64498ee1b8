use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

const ENCRYPTION_KEY: &str = "SSrcNMXR3Nljf/YQXgQnV3SIWXhN93O1/v6FfILmk14=";

/// 32 bytes, and each is 1.
const ALL_ONES: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";

fn config(environment: &[(&str, &str)]) -> Result<Config, String> {
    let pairs = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::from_layers(pairs).map_err(|error| error.to_string())
}

#[test]
fn defaults_are_those_of_the_contract() {
    let config = config(&[]).unwrap();
    assert_eq!(config.profile, Profile::Development);
    assert_eq!(config.listen.to_string(), "127.0.0.1:8000");
    assert_eq!(config.max_retries, 5);
    assert_eq!(config.retry_delay, Duration::from_secs(10));
    assert_eq!(config.disable_after, Some(Duration::from_hours(120)));
    assert_eq!(config.allowed_private_networks.len(), 2);
    assert_eq!(config.log_format, LogFormat::Text);
    assert_eq!(config.start_patience, Duration::from_mins(1));
    assert_eq!(config.idle_timeout, Duration::from_secs(75));
}

#[test]
fn the_environment_overrides() {
    let config = config(&[
        ("POSTHORN_PROFILE", "production"),
        ("POSTHORN_ADMIN_KEY", "an-admin-key-of-some-length"),
        ("POSTHORN_ENCRYPTION_KEY", ENCRYPTION_KEY),
        ("POSTHORN_LISTEN", "0.0.0.0:80"),
        ("POSTHORN_BEHIND_PROXY", "true"),
        ("INITIAL_RETRY_DELAY_SECONDS", "0.2"),
        ("POSTHORN_DISABLE_AFTER_HOURS", "0"),
        ("WEBHOOK_MAX_RETRIES", ""),
    ])
    .unwrap();
    assert_eq!(config.retry_delay, Duration::from_millis(200));
    assert_eq!(config.disable_after, None);
    assert_eq!(config.max_retries, 5, "an empty variable counts as not set");
    assert_eq!(config.allowed_private_networks, []);
    assert_eq!(config.log_format, LogFormat::Json);
    assert_eq!(format!("{:?}", config.admin_key), "Some(AdminKey(…))");
}

#[test]
fn what_stands_around_a_value_is_left_out() {
    for (name, value, clean) in [
        ("DATABASE_URL", "sqlite://x.db\n", "sqlite://x.db"),
        ("POSTHORN_LISTEN", " 127.0.0.1:8000\r\n", "127.0.0.1:8000"),
        ("POSTHORN_ADMIN_KEY", "\tan-admin-key-of-some-length ", "an-admin-key-of-some-length"),
        ("WEBHOOK_MAX_RETRIES", " 7", "7"),
        ("WEBHOOK_MAX_RETRIES", " \n", ""),
    ] {
        assert_eq!(config(&[(name, value)]).unwrap(), config(&[(name, clean)]).unwrap(), "{name} {value:?}");
    }
    let none = config(&[("POSTHORN_ALLOWED_PRIVATE_NETWORKS", "none")]).unwrap();
    assert_eq!(none.allowed_private_networks, []);
}

#[test]
fn unknown_names_are_told() {
    let unknown = config(&[("POSTHORN_LISTN", "127.0.0.1:80"), ("HOME", "/root")]).unwrap().unknown;
    let nearest = Some("POSTHORN_LISTEN".to_owned());
    assert_eq!(unknown, [UnknownName { name: "POSTHORN_LISTN".to_owned(), nearest }]);
}

#[test]
fn nonsense_is_named() {
    for (name, value, expected) in [
        ("WEBHOOK_MAX_RETRIES", "five", r#"expected a whole number from 0 to 100, got "five""#),
        ("WEBHOOK_MAX_RETRIES", "101", r#"expected a whole number from 0 to 100, got "101""#),
        ("WEBHOOK_MAX_RETRIES", "-1", r#"expected a whole number from 0 to 100, got "-1""#),
        ("WEBHOOK_DELIVERY_TIMEOUT_SECONDS", "0", r#"expected seconds from 0.1 to 120, got "0""#),
        ("WEBHOOK_DELIVERY_TIMEOUT_SECONDS", "NaN", r#"expected seconds from 0.1 to 120, got "NaN""#),
        ("POSTHORN_TENANT_MAX_SUBSCRIPTIONS", "-1", r#"expected a whole number from 0 to 1000000, got "-1""#),
        ("POSTHORN_TENANT_CONTROL_BURST", "0", r#"expected a whole number from 1 to 100000, got "0""#),
        ("LOG_RETENTION_HOURS", "1e308", r#"expected hours from 0.0000003 to 87600, got "1e308""#),
        ("DATABASE_URL", "mysql://x", "expected sqlite://PATH, a file"),
        ("DATABASE_URL", "sqlite://:memory:", "expected sqlite://PATH, a file"),
        ("DATABASE_URL", "sqlite://x.db?cache=shared&mode=memory", "expected sqlite://PATH, a file"),
        ("DATABASE_URL", "sqlite://file::memory:", "expected sqlite://PATH, a file"),
        ("DATABASE_URL", "sqlite://", "expected sqlite://PATH, a file"),
        ("DATABASE_URL", "\"sqlite://x.db\"", "expected a value without quotes around it"),
        ("POSTHORN_LISTEN", "'127.0.0.1:8000'", "expected a value without quotes around it"),
        ("REDIS_URL", "redis://a\nredis://b", "expected one line without control characters"),
        ("DATABASE_LISTEN_URL", "sqlite://x", "expected postgres://…"),
        ("REDIS_URL", "localhost:6379", "expected redis://… or rediss://…"),
        ("POSTHORN_LOG_FORMAT", "xml", r#"expected text or json, got "xml""#),
        ("POSTHORN_LISTEN", "8000", "expected an address with a port, such as 127.0.0.1:8000"),
        ("POSTHORN_ADMIN_KEY", "short", "expected 22 to 512 visible ASCII characters"),
        (
            "POSTHORN_ADMIN_KEY",
            "changemechangemechangemechangeme",
            "expected 22 to 512 visible ASCII characters",
        ),
        ("POSTHORN_ENCRYPTION_KEY", ALL_ONES, "expected random bytes, and these follow a pattern"),
        ("DATABASE_URL_FILE", "/nowhere/at/all", "expected a file that can be read: No such file"),
        ("POSTHORN_ADMIN_KEY_FILE", "/", "expected a file"),
        ("POSTHORN_ENCRYPTION_KEY", "short", "expected the base64 of 32 random bytes"),
        ("POSTHORN_PREVIOUS_ENCRYPTION_KEY", "AAAA", "expected the base64 of 32 random bytes"),
        (
            "POSTHORN_ALLOWED_PRIVATE_NETWORKS",
            "10/8",
            "expected networks such as 10.0.0.0/8, separated by commas, or none",
        ),
        ("POSTHORN_PROFILE", "staging", r#"expected development or production, got "staging""#),
    ] {
        let error = config(&[(name, value)]).unwrap_err();
        assert!(error.starts_with(&format!("{name}: {expected}")), "{error}");
        assert_eq!(error.lines().count(), 1);
    }
}

#[test]
fn secrets_come_from_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    let path = path.to_str().unwrap();
    let write = |text: &str, mode: u32| {
        std::fs::write(path, text).unwrap();
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    };
    let values = [
        "sqlite://of/a/file.db",
        "postgres://of/a-file",
        "redis://of-a-file",
        "http://of:a@file:3128",
        "an-admin-key-of-some-length",
        ENCRYPTION_KEY,
        ENCRYPTION_KEY,
    ];
    for (name, value) in read::SECRETS.into_iter().zip(values) {
        let file = format!("{name}_FILE");
        write(&format!("{value}\n"), 0o600);
        let in_file = config(&[(&file, path)]).unwrap();
        assert_eq!(in_file, config(&[(name, value)]).unwrap(), "{name}");
        assert_eq!(in_file, config(&[(&file, path), (name, "")]).unwrap(), "an empty variable is not set");
        let both = config(&[(&file, path), (name, value)]).unwrap_err();
        assert_eq!(both, format!("{name}_FILE: expected it or {name}, not both"));
        // What is wrong is where it was read.
        write("canary", 0o644);
        let wrong = config(&[(&file, path)]).unwrap_err();
        assert!(wrong.starts_with(&format!("{file}: expected ")) && !wrong.contains("canary"), "{wrong}");
        write(value, 0o644);
        assert_eq!(config(&[(&file, path)]).unwrap().readable_by_others, [file]);
    }
}

#[test]
fn quotas_of_tenants_are_none_by_default() {
    let none = config(&[("POSTHORN_TENANT_MAX_STORED_BYTES", "")]).unwrap();
    assert_eq!((none.tenant_subscriptions_max, none.tenant_stored_bytes_max), (None, None));
    let (rate, burst) =
        (("POSTHORN_TENANT_CONTROL_REQUESTS_PER_SECOND", "0.5"), ("POSTHORN_TENANT_CONTROL_BURST", "7"));
    let both = config(&[rate, burst, ("POSTHORN_TENANT_MAX_STORED_BYTES", "0")]).unwrap();
    assert_eq!((both.tenant_control_rate, both.tenant_control_burst), (Some(0.5), Some(7)));
    assert_eq!(both.tenant_stored_bytes_max, Some(0));
    for (alone, missing) in [(rate, burst.0), (burst, rate.0)] {
        let error = config(&[alone]).unwrap_err();
        assert!(error.starts_with(&format!("{missing}: expected a number where {}", alone.0)), "{error}");
    }
}

#[test]
fn a_weak_encryption_key_can_be_replaced() {
    let config = config(&[
        ("POSTHORN_ENCRYPTION_KEY", ENCRYPTION_KEY),
        ("POSTHORN_PREVIOUS_ENCRYPTION_KEY", ALL_ONES),
    ]);
    assert!(config.unwrap().previous_encryption_key.is_some());
}

#[test]
fn production_encrypts() {
    let error = config(&[("POSTHORN_PROFILE", "production")]).unwrap_err();
    assert!(error.starts_with("POSTHORN_ENCRYPTION_KEY: expected a key"), "{error}");
    let config = config(&[("POSTHORN_ENCRYPTION_KEY", ENCRYPTION_KEY)]).unwrap();
    assert!(config.encryption_key.is_some() && config.previous_encryption_key.is_none());
    assert!(!format!("{config:?}").contains(ENCRYPTION_KEY));
}

#[test]
fn nothing_secret_is_shown() {
    let config = config(&[
        ("DATABASE_URL", "postgres://posthorn:canary@db.example/posthorn?sslkey=canary"),
        ("DATABASE_LISTEN_URL", "postgresql://posthorn:canary@db.example/posthorn"),
        ("REDIS_URL", "rediss://:canary@cache.example"),
        ("POSTHORN_ADMIN_KEY", "canary-0123456789abcdef"),
        ("POSTHORN_ENCRYPTION_KEY", "Y2FuYXJ5LWVuY3J5cHRpb24ta2V5LW9mLTMyLWJ5dGU="),
    ])
    .unwrap();
    let shown = format!("{config:?}");
    assert!(!shown.contains("canary") && !shown.contains("Y2FuYXJ5"), "{shown}");
    assert!(shown.contains("Address(postgres…)") && shown.contains("Address(rediss…)"), "{shown}");
}

#[test]
fn production_speaks_tls_to_others() {
    let production = [("POSTHORN_PROFILE", "production"), ("POSTHORN_ENCRYPTION_KEY", ENCRYPTION_KEY)];
    let public = ("POSTHORN_LISTEN", "[::]:443");
    let (certificate, key) = (("POSTHORN_TLS_CERTIFICATE", "a.pem"), ("POSTHORN_TLS_KEY", "a.key"));
    for (more, wrong) in [
        (&[][..], None),
        (&[public], Some("POSTHORN_LISTEN: expected a loopback address in the production profile")),
        (&[public, certificate, key], None),
        (&[public, ("POSTHORN_BEHIND_PROXY", "true")], None),
        (&[certificate], Some("POSTHORN_TLS_KEY: expected a file where POSTHORN_TLS_CERTIFICATE is set")),
        (&[key], Some("POSTHORN_TLS_CERTIFICATE: expected a file where POSTHORN_TLS_KEY is set")),
        (&[("POSTHORN_BEHIND_PROXY", "yes")], Some("POSTHORN_BEHIND_PROXY: expected true or false")),
    ] {
        let error = config(&[&production[..], more].concat()).err();
        let starts = error.as_deref().zip(wrong).is_some_and(|(error, wrong)| error.starts_with(wrong));
        assert!(starts || (error.is_none() && wrong.is_none()), "{more:?}: {error:?}");
    }
}

#[test]
fn what_is_open_to_others_or_in_production_has_a_key() {
    let key = ("POSTHORN_ADMIN_KEY", "an-admin-key-of-some-length");
    let (public, production) = (("POSTHORN_LISTEN", "0.0.0.0:8000"), ("POSTHORN_PROFILE", "production"));
    let proxied = ("POSTHORN_BEHIND_PROXY", "true");
    for (environment, any, admin, wrong) in [
        (&[][..], false, false, None),
        (&[public], false, false, Some("POSTHORN_LISTEN: expected a loopback address")),
        (&[public], true, false, None),
        (&[public, key], false, false, None),
        (&[proxied], false, false, Some("POSTHORN_BEHIND_PROXY: expected false")),
        (&[proxied], true, false, None),
        (&[proxied, key], false, false, None),
        (&[production], false, false, Some("POSTHORN_ADMIN_KEY: expected a key")),
        (&[production], true, false, Some("POSTHORN_ADMIN_KEY: expected a key")),
        (&[production], true, true, None),
        (&[production, key], false, false, None),
    ] {
        let environment = [environment, &[("POSTHORN_ENCRYPTION_KEY", ENCRYPTION_KEY)]].concat();
        let checked = config(&environment).unwrap().check_keys(any, admin);
        let error = checked.err().map(|error| error.to_string());
        let starts = error.as_deref().zip(wrong).is_some_and(|(error, wrong)| error.starts_with(wrong));
        assert!(starts || (error.is_none() && wrong.is_none()), "{environment:?}: {error:?}");
    }
}

#[test]
fn only_a_laptop_that_nobody_else_reaches_is_open() {
    let sealed = ("POSTHORN_ENCRYPTION_KEY", ENCRYPTION_KEY);
    for (environment, open) in [
        (&[][..], true),
        (&[("POSTHORN_LISTEN", "[::1]:8000")], true),
        (&[("POSTHORN_LISTEN", "0.0.0.0:8000")], false),
        (&[("POSTHORN_BEHIND_PROXY", "true")], false),
        (&[("POSTHORN_PROFILE", "production")], false),
    ] {
        let environment = [environment, &[sealed]].concat();
        assert_eq!(config(&environment).unwrap().may_be_open(), open, "{environment:?}");
    }
}

/// Every variable, with values at and beyond its edges.
const VALUES: [(&str, &[&str]); 35] = [
    ("POSTHORN_PROFILE", &["development", "production", "Production"]),
    ("POSTHORN_LISTEN", &["127.0.0.1:8000", "[::]:443", "0.0.0.0:0", "localhost:80", ":80"]),
    ("POSTHORN_BEHIND_PROXY", &["true", "false", "1"]),
    ("POSTHORN_START_PATIENCE_SECONDS", &["0.001", "3600", "0", "3601"]),
    ("POSTHORN_IDLE_TIMEOUT_SECONDS", &["1", "75", "0.5", "3601"]),
    ("POSTHORN_TLS_CERTIFICATE", &["a.pem", "/"]),
    ("POSTHORN_TLS_KEY", &["a.key"]),
    ("DATABASE_URL", &["sqlite://x", "postgres://user:canary@host/x", "mysql://user:canary@host/x"]),
    ("DATABASE_LISTEN_URL", &["postgresql://user:canary@host/x", "sqlite://canary"]),
    ("REDIS_URL", &["rediss://:canary@host", "http://:canary@host"]),
    ("POSTHORN_ADMIN_KEY", &["canary-0123456789abcdef", "canary"]),
    ("POSTHORN_ENCRYPTION_KEY", &[ENCRYPTION_KEY, "canary"]),
    ("POSTHORN_PREVIOUS_ENCRYPTION_KEY", &[ENCRYPTION_KEY, "canary"]),
    ("DATABASE_URL_FILE", FILES),
    ("DATABASE_LISTEN_URL_FILE", FILES),
    ("REDIS_URL_FILE", FILES),
    ("POSTHORN_ADMIN_KEY_FILE", FILES),
    ("POSTHORN_ENCRYPTION_KEY_FILE", FILES),
    ("POSTHORN_PREVIOUS_ENCRYPTION_KEY_FILE", FILES),
    ("POSTHORN_ALLOWED_PRIVATE_NETWORKS", &["", ",", "10.0.0.0/8, ::1/128", "10.0.0.0/33"]),
    ("WEBHOOK_MAX_RETRIES", NUMBERS),
    ("INITIAL_RETRY_DELAY_SECONDS", NUMBERS),
    ("MAX_RETRY_BACKOFF_SECONDS", NUMBERS),
    ("WEBHOOK_DELIVERY_TIMEOUT_SECONDS", NUMBERS),
    ("POSTHORN_CIRCUIT_FAILURE_THRESHOLD", NUMBERS),
    ("POSTHORN_CIRCUIT_COOL_DOWN_SECONDS", NUMBERS),
    ("POSTHORN_DISABLE_AFTER_HOURS", NUMBERS),
    ("POSTHORN_MAX_PAYLOAD_BYTES", NUMBERS),
    ("POSTHORN_MAX_IN_FLIGHT", NUMBERS),
    ("POSTHORN_MAX_BACKLOG", NUMBERS),
    ("POSTHORN_LEASE_SECONDS", NUMBERS),
    ("LOG_RETENTION_HOURS", NUMBERS),
    ("POSTHORN_AUDIT_RETENTION_HOURS", NUMBERS),
    ("CLEANUP_INTERVAL_SECONDS", NUMBERS),
    ("POSTHORN_LOG_FORMAT", &["text", "json", "xml"]),
];
/// Somebody may take the variable for that of the secret itself.
const FILES: &[&str] = &["/nowhere/canary", "canary", "/"];
const NUMBERS: &[&str] = &[
    "0",
    "1",
    "1.5",
    "100",
    "1000000",
    "-1",
    "-0",
    "+1",
    "1e3",
    "1e308",
    "1e-308",
    "inf",
    "NaN",
    "0x10",
    " 1",
    "18446744073709551616",
    "1_000",
    "٣",
];

fn any_variable() -> impl Strategy<Value = (String, String)> {
    select(VALUES.to_vec()).prop_flat_map(|(name, values)| {
        let value = prop_oneof![4 => select(values).prop_map(str::to_owned), 1 => any::<String>()];
        value.prop_map(move |value| (name.to_owned(), value))
    })
}

proptest! {
    /// Whatever the environment says is taken within its bounds, or refused in one line that begins with a variable.
    #[test]
    fn any_environment_is_taken_or_named(environment in vec(any_variable(), 0..6)) {
        match Config::from_layers(environment.clone()) {
            Ok(config) => {
                let times = [config.retry_delay, config.retry_delay_max, config.circuit_cool_down];
                prop_assert!(times.iter().all(|time| (MILLISECOND..=RETRY_DELAY_MAX).contains(time)), "{config:?}");
                prop_assert!((TIMEOUT_MIN..=TIMEOUT_MAX).contains(&config.timeout), "{config:?}");
                prop_assert!(config.max_retries <= RETRIES_MAX, "{config:?}");
                prop_assert!((1..=PAYLOAD_BYTES_MAX).contains(&config.payload_bytes_max), "{config:?}");
                prop_assert!(config.in_flight_max > 0 && config.backlog_max > 0, "{config:?}");
                let shown = format!("{config:?}");
                prop_assert!(!shown.contains("canary") && !shown.contains(ENCRYPTION_KEY), "{shown}");
            }
            Err(error) => {
                let text = error.to_string();
                let named = |(name, _): &(&str, _)| text.starts_with(&format!("{name}: expected "));
                prop_assert!(VALUES.iter().any(named), "{text}");
                prop_assert!(text.lines().count() == 1 && !text.contains("canary"), "{text}");
            }
        }
    }
}
