//! The names of all settings, and which of those that were set mean nothing.

use super::read::SECRETS;

/// Every setting, by its name in the environment. A test holds it against the fields of `Config`.
pub(super) const NAMES: [&str; 36] = [
    "POSTHORN_PROFILE",
    "POSTHORN_LISTEN",
    "POSTHORN_BEHIND_PROXY",
    "POSTHORN_START_PATIENCE_SECONDS",
    "POSTHORN_IDLE_TIMEOUT_SECONDS",
    "POSTHORN_TLS_CERTIFICATE",
    "POSTHORN_TLS_KEY",
    "DATABASE_URL",
    "DATABASE_LISTEN_URL",
    "POSTHORN_DATABASE_SCHEMA",
    "POSTHORN_DATABASE_CONNECTIONS",
    "REDIS_URL",
    "POSTHORN_ADMIN_KEY",
    "POSTHORN_ENCRYPTION_KEY",
    "POSTHORN_PREVIOUS_ENCRYPTION_KEY",
    "POSTHORN_EGRESS_PROXY",
    "POSTHORN_ALLOWED_PRIVATE_NETWORKS",
    "WEBHOOK_MAX_RETRIES",
    "INITIAL_RETRY_DELAY_SECONDS",
    "MAX_RETRY_BACKOFF_SECONDS",
    "WEBHOOK_DELIVERY_TIMEOUT_SECONDS",
    "POSTHORN_CIRCUIT_FAILURE_THRESHOLD",
    "POSTHORN_CIRCUIT_COOL_DOWN_SECONDS",
    "POSTHORN_DISABLE_AFTER_HOURS",
    "POSTHORN_MAX_PAYLOAD_BYTES",
    "POSTHORN_MAX_IN_FLIGHT",
    "POSTHORN_MAX_BACKLOG",
    "POSTHORN_TENANT_MAX_SUBSCRIPTIONS",
    "POSTHORN_TENANT_MAX_STORED_BYTES",
    "POSTHORN_TENANT_CONTROL_REQUESTS_PER_SECOND",
    "POSTHORN_TENANT_CONTROL_BURST",
    "POSTHORN_LEASE_SECONDS",
    "LOG_RETENTION_HOURS",
    "POSTHORN_AUDIT_RETENTION_HOURS",
    "CLEANUP_INTERVAL_SECONDS",
    "POSTHORN_LOG_FORMAT",
];

/// What ours begin with. Others' names are nobody's mistake.
const PREFIX: &str = "POSTHORN_";
/// Names of the tests' own.
const TEST_PREFIX: &str = "POSTHORN_TEST_";
/// How many letters a mistyped name may differ in from the one that is meant.
const TYPING_MISTAKES_MAX: usize = 4;

/// A name that is set and that nothing reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownName {
    /// As it was written.
    pub name: String,
    /// The setting that is most like it, where one is.
    pub nearest: Option<String>,
}

/// Whether something reads the environment's variable of this name.
pub(super) fn is_known(name: &str) -> bool {
    NAMES.contains(&name) || name.strip_suffix("_FILE").is_some_and(|secret| SECRETS.contains(&secret))
}

/// What is unknown among names from the environment.
pub(super) fn unknown_in_environment<'a>(names: impl Iterator<Item = &'a str>) -> Vec<UnknownName> {
    let ours = names.filter(|name| name.starts_with(PREFIX) && !name.starts_with(TEST_PREFIX));
    ours.filter(|name| !is_known(name)).map(|name| unknown(name, str::to_owned)).collect()
}

/// What is unknown among names from the profile's file, which are ours alone and in lower case.
pub(super) fn unknown_in_file<'a>(names: impl Iterator<Item = &'a str>) -> Vec<UnknownName> {
    let wrong = names.filter(|name| !is_known(&name.to_uppercase()));
    wrong.map(|name| unknown(name, str::to_lowercase)).collect()
}

fn unknown(name: &str, written: impl Fn(&str) -> String) -> UnknownName {
    let files = SECRETS.iter().map(|secret| format!("{secret}_FILE"));
    let distance = |known: &String| strsim::osa_distance(&name.to_uppercase(), known);
    let all = NAMES.iter().map(|known| (*known).to_owned()).chain(files);
    let nearest = all.min_by_key(distance).filter(|known| distance(known) <= TYPING_MISTAKES_MAX);
    UnknownName { name: name.to_owned(), nearest: nearest.map(|known| written(&known)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_configuration() {
        let fields = include_str!("../config.rs").lines();
        let documented = fields
            .filter_map(|line| line.trim().strip_prefix("/// `")?.split_once('`').map(|(name, _)| name));
        let is_setting =
            |name: &&str| name.len() > 4 && name.chars().all(|c| c.is_ascii_uppercase() || c == '_');
        let mut in_fields: Vec<_> = documented.filter(is_setting).collect();
        let mut names = NAMES.to_vec();
        in_fields.sort_unstable();
        names.sort_unstable();
        assert_eq!(in_fields, names);
    }

    #[test]
    fn mistyped_names_are_told_with_the_nearest() {
        for (name, nearest) in [
            ("POSTHORN_LISTN", Some("POSTHORN_LISTEN")),
            ("POSTHORN_MAX_INFLIGHT", Some("POSTHORN_MAX_IN_FLIGHT")),
            ("POSTHORN_ADMIN_KEYFILE", Some("POSTHORN_ADMIN_KEY_FILE")),
            ("POSTHORN_Admin_Key", Some("POSTHORN_ADMIN_KEY")),
            ("POSTHORN_SOMETHING_ELSE_ENTIRELY", None),
        ] {
            let unknown = unknown_in_environment([name].into_iter());
            assert_eq!(unknown, [UnknownName { name: name.to_owned(), nearest: nearest.map(str::to_owned) }]);
        }
        let known = ["POSTHORN_LISTEN", "POSTHORN_ADMIN_KEY_FILE", "POSTHORN_TEST_REDIS_URL", "DATABASE_URI"];
        assert_eq!(unknown_in_environment(known.into_iter()), []);
        let in_file = unknown_in_file(["database_uri", "posthorn_listen"].into_iter());
        let nearest = Some("database_url".to_owned());
        assert_eq!(in_file, [UnknownName { name: "database_uri".to_owned(), nearest }]);
    }
}
