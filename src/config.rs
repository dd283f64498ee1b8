//! From files and the environment to checked values.
//!
//! Three layers, the later over the earlier: the built-in `config/default.toml`, the profile's file
//! (`config/<profile>.toml` in the working directory, else the built-in one), the environment. The
//! names are the environment's; in files they stand in lower case.
//!
//! A secret may stand in a file of its own instead ([`secret_file`]): `POSTHORN_ADMIN_KEY_FILE` and the like.
//!
//! Everything is read once and checked whole. A value that makes no sense is an error that names
//! the variable and what it takes.

mod names;
mod read;
mod secret_file;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use posthorn_domain::egress::{EGRESS_PROXY_EXPECTED, EgressProxy};
use posthorn_domain::encryption_key::EncryptionKey;
use posthorn_domain::limits::{
    BURST_MAX, DATABASE_CONNECTIONS_MAX, DATABASE_CONNECTIONS_MIN, PAYLOAD_BYTES_MAX, RATE_MAX, RATE_MIN,
    RETRIES_MAX, RETRY_DELAY_MAX, TENANT_STORED_BYTES_MAX, TENANT_SUBSCRIPTIONS_MAX, TIMEOUT_MAX,
    TIMEOUT_MIN,
};
use posthorn_domain::strength::{KEY_CHARS_MIN, is_guessable};

pub use names::UnknownName;
use read::Reader;

const DEFAULT: &str = include_str!("../config/default.toml");
const DEVELOPMENT: &str = include_str!("../config/development.toml");
const PRODUCTION: &str = include_str!("../config/production.toml");

/// Why there is no configuration; one line for the operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

/// How strict to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// A laptop.
    Development,
    /// A service.
    Production,
}

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// An API key; shows nothing of itself through `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct AdminKey(pub String);

impl std::fmt::Debug for AdminKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AdminKey(…)")
    }
}

/// Where a database or a cache is. It may hold a password, so `Debug` shows its scheme alone.
#[derive(Clone, PartialEq, Eq)]
pub struct Address(pub String);

impl std::fmt::Debug for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Address({}…)", self.0.split_once("://").map_or("", |(scheme, _)| scheme))
    }
}

/// The whole configuration, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `POSTHORN_PROFILE`.
    pub profile: Profile,
    /// `POSTHORN_LISTEN`.
    pub listen: SocketAddr,
    /// `POSTHORN_BEHIND_PROXY`.
    pub behind_proxy: bool,
    /// `POSTHORN_START_PATIENCE_SECONDS`.
    pub start_patience: Duration,
    /// `POSTHORN_IDLE_TIMEOUT_SECONDS`.
    pub idle_timeout: Duration,
    /// `POSTHORN_TLS_CERTIFICATE`.
    pub tls_certificate: Option<PathBuf>,
    /// `POSTHORN_TLS_KEY`.
    pub tls_key: Option<PathBuf>,
    /// `DATABASE_URL`.
    pub database_url: Address,
    /// `DATABASE_LISTEN_URL`.
    pub database_listen_url: Option<Address>,
    /// `POSTHORN_DATABASE_SCHEMA`.
    pub database_schema: String,
    /// `POSTHORN_DATABASE_CONNECTIONS`.
    pub database_connections: Option<u32>,
    /// `REDIS_URL`.
    pub redis_url: Option<Address>,
    /// `POSTHORN_ADMIN_KEY`.
    pub admin_key: Option<AdminKey>,
    /// `POSTHORN_ENCRYPTION_KEY`.
    pub encryption_key: Option<EncryptionKey>,
    /// `POSTHORN_PREVIOUS_ENCRYPTION_KEY`.
    pub previous_encryption_key: Option<EncryptionKey>,
    /// `POSTHORN_EGRESS_PROXY`.
    pub egress_proxy: Option<EgressProxy>,
    /// `POSTHORN_ALLOWED_PRIVATE_NETWORKS`.
    pub allowed_private_networks: Vec<IpNet>,
    /// `WEBHOOK_MAX_RETRIES`.
    pub max_retries: u32,
    /// `INITIAL_RETRY_DELAY_SECONDS`.
    pub retry_delay: Duration,
    /// `MAX_RETRY_BACKOFF_SECONDS`.
    pub retry_delay_max: Duration,
    /// `WEBHOOK_DELIVERY_TIMEOUT_SECONDS`.
    pub timeout: Duration,
    /// `POSTHORN_CIRCUIT_FAILURE_THRESHOLD`.
    pub circuit_failure_threshold: u32,
    /// `POSTHORN_CIRCUIT_COOL_DOWN_SECONDS`.
    pub circuit_cool_down: Duration,
    /// `POSTHORN_DISABLE_AFTER_HOURS`; none: never.
    pub disable_after: Option<Duration>,
    /// `POSTHORN_MAX_PAYLOAD_BYTES`.
    pub payload_bytes_max: usize,
    /// `POSTHORN_MAX_IN_FLIGHT`.
    pub in_flight_max: u32,
    /// `POSTHORN_MAX_BACKLOG`.
    pub backlog_max: i64,
    /// `POSTHORN_TENANT_MAX_SUBSCRIPTIONS`.
    pub tenant_subscriptions_max: Option<u32>,
    /// `POSTHORN_TENANT_MAX_STORED_BYTES`.
    pub tenant_stored_bytes_max: Option<u64>,
    /// `POSTHORN_TENANT_CONTROL_REQUESTS_PER_SECOND`.
    pub tenant_control_rate: Option<f64>,
    /// `POSTHORN_TENANT_CONTROL_BURST`.
    pub tenant_control_burst: Option<u32>,
    /// `POSTHORN_LEASE_SECONDS`.
    pub lease: Duration,
    /// `LOG_RETENTION_HOURS`.
    pub retention: Duration,
    /// `POSTHORN_AUDIT_RETENTION_HOURS`.
    pub audit_retention: Duration,
    /// `CLEANUP_INTERVAL_SECONDS`.
    pub cleanup_interval: Duration,
    /// `POSTHORN_LOG_FORMAT`.
    pub log_format: LogFormat,
    /// Variables that name a secret's file which every user of the machine may read: for a warning.
    pub readable_by_others: Vec<String>,
    /// What was set and is not read: for a warning.
    pub unknown: Vec<UnknownName>,
}

/// In one line for whatever is wrong with it.
const ADMIN_KEY_EXPECTED: &str =
    "22 to 512 visible ASCII characters that are hard to guess: openssl rand -hex 32 prints a key";

const DATABASE_EXPECTED: &str =
    "sqlite://PATH, a file since what is in memory ends with the process, or postgres://…";

const SCHEMA_EXPECTED: &str =
    "1 to 63 of the characters a-z, 0-9 and _, no digit first, and not pg_… or information_schema";

/// The longest time that a configuration may ask for.
const YEAR: Duration = Duration::from_hours(365 * 24);
const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);

impl Config {
    /// The configuration of this process.
    pub fn load() -> Result<Self, Error> {
        Self::from_layers(environment()?)
    }

    /// For a look around on a machine, whatever service its environment is set up for: the built-in settings of
    /// `development`, and the address.
    pub fn load_for_demo() -> Result<Self, Error> {
        Self::from_layers(environment()?.into_iter().filter(|(name, _)| name == "POSTHORN_LISTEN"))
    }

    fn from_layers(environment: impl IntoIterator<Item = (String, String)>) -> Result<Self, Error> {
        // Line ends and blanks around a value come from the file or the shell that set it.
        let trimmed = environment.into_iter().map(|(name, value)| (name, value.trim().to_owned()));
        let environment: Vec<(String, String)> = trimmed.collect();
        let named = environment.iter().find(|(name, _)| name == "POSTHORN_PROFILE");
        let profile = named.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty());
        let (profile, built_in) = match profile {
            None | Some("development") => (Profile::Development, DEVELOPMENT),
            Some("production") => (Profile::Production, PRODUCTION),
            Some(other) => {
                return Err(Error(format!(
                    "POSTHORN_PROFILE: expected development or production, got {other:?}"
                )));
            }
        };
        let file = match profile {
            Profile::Development => Path::new("config/development.toml"),
            Profile::Production => Path::new("config/production.toml"),
        };
        let reader = Reader::new([DEFAULT, built_in], file, environment)?;
        Self::read(profile, &reader)
    }

    fn read(profile: Profile, from: &Reader) -> Result<Self, Error> {
        Self {
            profile,
            listen: from.parsed("POSTHORN_LISTEN", "an address with a port, such as 127.0.0.1:8000")?,
            behind_proxy: from.one_of("POSTHORN_BEHIND_PROXY", &[("true", true), ("false", false)])?,
            start_patience: from.seconds("POSTHORN_START_PATIENCE_SECONDS", MILLISECOND, 3600 * SECOND)?,
            idle_timeout: from.seconds("POSTHORN_IDLE_TIMEOUT_SECONDS", SECOND, 3600 * SECOND)?,
            tls_certificate: from
                .optional("POSTHORN_TLS_CERTIFICATE", "a file", |_| true)?
                .map(PathBuf::from),
            tls_key: from.optional("POSTHORN_TLS_KEY", "a file", |_| true)?.map(PathBuf::from),
            database_url: from.text("DATABASE_URL", DATABASE_EXPECTED, is_database).map(Address)?,
            database_listen_url: from
                .optional("DATABASE_LISTEN_URL", "postgres://…", |url| {
                    ["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme))
                })?
                .map(Address),
            database_schema: from.text("POSTHORN_DATABASE_SCHEMA", SCHEMA_EXPECTED, is_schema)?,
            database_connections: from.optional_number(
                "POSTHORN_DATABASE_CONNECTIONS",
                "a whole number",
                DATABASE_CONNECTIONS_MIN,
                DATABASE_CONNECTIONS_MAX,
            )?,
            redis_url: from
                .optional("REDIS_URL", "redis://… or rediss://…", |url| {
                    ["redis://", "rediss://"].iter().any(|scheme| url.starts_with(scheme))
                })?
                .map(Address),
            admin_key: from
                .optional("POSTHORN_ADMIN_KEY", ADMIN_KEY_EXPECTED, |key| {
                    (KEY_CHARS_MIN..=512).contains(&key.len())
                        && key.bytes().all(|byte| byte.is_ascii_graphic())
                        && !is_guessable(key)
                })?
                .map(AdminKey),
            encryption_key: from.strong_encryption_key("POSTHORN_ENCRYPTION_KEY")?,
            // A weak one may be replaced.
            previous_encryption_key: from.encryption_key("POSTHORN_PREVIOUS_ENCRYPTION_KEY")?,
            egress_proxy: from
                .optional("POSTHORN_EGRESS_PROXY", EGRESS_PROXY_EXPECTED, |text| {
                    EgressProxy::parse(text).is_ok()
                })?
                .and_then(|text| EgressProxy::parse(&text).ok()),
            allowed_private_networks: from.networks("POSTHORN_ALLOWED_PRIVATE_NETWORKS")?,
            max_retries: from.whole("WEBHOOK_MAX_RETRIES", 0, RETRIES_MAX)?,
            retry_delay: from.seconds("INITIAL_RETRY_DELAY_SECONDS", MILLISECOND, RETRY_DELAY_MAX)?,
            retry_delay_max: from.seconds("MAX_RETRY_BACKOFF_SECONDS", MILLISECOND, RETRY_DELAY_MAX)?,
            timeout: from.seconds("WEBHOOK_DELIVERY_TIMEOUT_SECONDS", TIMEOUT_MIN, TIMEOUT_MAX)?,
            circuit_failure_threshold: from.whole("POSTHORN_CIRCUIT_FAILURE_THRESHOLD", 1, 1_000_000)?,
            circuit_cool_down: from.seconds(
                "POSTHORN_CIRCUIT_COOL_DOWN_SECONDS",
                MILLISECOND,
                RETRY_DELAY_MAX,
            )?,
            disable_after: Some(from.hours("POSTHORN_DISABLE_AFTER_HOURS", Duration::ZERO, YEAR)?)
                .filter(|hours| !hours.is_zero()),
            payload_bytes_max: from.whole("POSTHORN_MAX_PAYLOAD_BYTES", 1, PAYLOAD_BYTES_MAX)?,
            in_flight_max: from.whole("POSTHORN_MAX_IN_FLIGHT", 1, 65_536)?,
            backlog_max: from.whole("POSTHORN_MAX_BACKLOG", 1, 1_000_000_000_000)?,
            tenant_subscriptions_max: from.optional_number(
                "POSTHORN_TENANT_MAX_SUBSCRIPTIONS",
                "a whole number",
                0,
                TENANT_SUBSCRIPTIONS_MAX,
            )?,
            tenant_stored_bytes_max: from.optional_number(
                "POSTHORN_TENANT_MAX_STORED_BYTES",
                "a whole number",
                0,
                TENANT_STORED_BYTES_MAX,
            )?,
            tenant_control_rate: from.optional_number(
                "POSTHORN_TENANT_CONTROL_REQUESTS_PER_SECOND",
                "a number",
                RATE_MIN,
                RATE_MAX,
            )?,
            tenant_control_burst: from.optional_number(
                "POSTHORN_TENANT_CONTROL_BURST",
                "a whole number",
                1,
                BURST_MAX,
            )?,
            lease: from.seconds("POSTHORN_LEASE_SECONDS", SECOND, 600 * SECOND)?,
            retention: from.hours("LOG_RETENTION_HOURS", MILLISECOND, 10 * YEAR)?,
            audit_retention: from.hours("POSTHORN_AUDIT_RETENTION_HOURS", MILLISECOND, 10 * YEAR)?,
            cleanup_interval: from.seconds("CLEANUP_INTERVAL_SECONDS", 10 * MILLISECOND, 86_400 * SECOND)?,
            log_format: from
                .one_of("POSTHORN_LOG_FORMAT", &[("text", LogFormat::Text), ("json", LogFormat::Json)])?,
            readable_by_others: from.readable_by_others(),
            unknown: from.unknown(),
        }
        .check()
    }

    /// What several values together must be.
    fn check(self) -> Result<Self, Error> {
        if self.encryption_key.is_none() && self.profile == Profile::Production {
            return Err(Error(
                "POSTHORN_ENCRYPTION_KEY: expected a key in the production profile: the base64 of 32 random bytes"
                    .to_owned(),
            ));
        }
        let missing = match (self.tenant_control_rate, self.tenant_control_burst) {
            (Some(_), None) => {
                Some(("POSTHORN_TENANT_CONTROL_BURST", "POSTHORN_TENANT_CONTROL_REQUESTS_PER_SECOND"))
            }
            (None, Some(_)) => {
                Some(("POSTHORN_TENANT_CONTROL_REQUESTS_PER_SECOND", "POSTHORN_TENANT_CONTROL_BURST"))
            }
            _ => None,
        };
        if let Some((missing, set)) = missing {
            return Err(Error(format!("{missing}: expected a number where {set} is set")));
        }
        let missing = match (&self.tls_certificate, &self.tls_key) {
            (Some(_), None) => Some(("POSTHORN_TLS_KEY", "POSTHORN_TLS_CERTIFICATE")),
            (None, Some(_)) => Some(("POSTHORN_TLS_CERTIFICATE", "POSTHORN_TLS_KEY")),
            _ => None,
        };
        if let Some((missing, set)) = missing {
            return Err(Error(format!("{missing}: expected a file where {set} is set")));
        }
        let open_to_others = !self.listen.ip().is_loopback();
        if open_to_others
            && self.tls_certificate.is_none()
            && !self.behind_proxy
            && self.profile == Profile::Production
        {
            return Err(Error(format!(
                "POSTHORN_LISTEN: expected a loopback address in the production profile, or POSTHORN_TLS_CERTIFICATE, \
                 or POSTHORN_BEHIND_PROXY=true where a proxy in front speaks TLS, got {}",
                self.listen
            )));
        }
        Ok(self)
    }

    /// Whether who reaches the server may do everything as long as there has never been a key: on a laptop, where
    /// nobody else reaches it.
    #[must_use]
    pub fn may_be_open(&self) -> bool {
        self.profile == Profile::Development && self.listen.ip().is_loopback() && !self.behind_proxy
    }

    /// What the configuration and the API keys in the database together must be. One that has expired counts: else a
    /// server would not come back from a crash because a key ended meanwhile. It opens nothing for that.
    pub fn check_keys(&self, any: bool, admin: bool) -> Result<(), Error> {
        if self.admin_key.is_some() {
            return Ok(());
        }
        if !any && !self.listen.ip().is_loopback() {
            return Err(Error(format!(
                "POSTHORN_LISTEN: expected a loopback address while POSTHORN_ADMIN_KEY is not set and there is \
                 no API key, got {}",
                self.listen
            )));
        }
        if !any && self.behind_proxy {
            return Err(Error(
                "POSTHORN_BEHIND_PROXY: expected false while POSTHORN_ADMIN_KEY is not set and there is no API key: \
                 a proxy lets others in"
                    .to_owned(),
            ));
        }
        if !admin && self.profile == Profile::Production {
            return Err(Error(
                "POSTHORN_ADMIN_KEY: expected a key in the production profile, or one made by posthorn keys create"
                    .to_owned(),
            ));
        }
        Ok(())
    }
}

/// Whether it can be the name of a schema of PostgreSQL without quotes around it.
fn is_schema(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    (1..=63).contains(&name.len())
        && name.chars().all(is_plain)
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.starts_with("pg_")
        && name != "information_schema"
}

/// Whether it is the address of a database that outlives the process.
fn is_database(url: &str) -> bool {
    match url.split_once("://") {
        Some(("sqlite", file)) => {
            let (path, options) = file.split_once('?').unwrap_or((file, ""));
            let in_memory = options.split('&').any(|option| option == "mode=memory");
            !path.is_empty() && path != ":memory:" && !path.starts_with("file:") && !in_memory
        }
        Some((scheme, _)) => ["postgres", "postgresql"].contains(&scheme),
        None => false,
    }
}

/// The variables of this process that are texts.
fn environment() -> Result<Vec<(String, String)>, Error> {
    let mut texts = Vec::new();
    for (name, value) in std::env::vars_os() {
        let Ok(name) = name.into_string() else { continue };
        match value.into_string() {
            Ok(value) => texts.push((name, value)),
            Err(_) if names::is_known(&name) => {
                return Err(Error(format!("{name}: expected a text in UTF-8")));
            }
            Err(_) => {}
        }
    }
    Ok(texts)
}

#[cfg(test)]
mod tests;
