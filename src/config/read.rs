//! Typed reads of the layered texts, each with an error that names the variable.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use config::{Config, Environment, File, FileFormat, Source as _};
use ipnet::IpNet;
use posthorn_domain::encryption_key::EncryptionKey;
use posthorn_domain::strength;

use super::Error;
use super::names::{self, NAMES, UnknownName};
use super::secret_file::SecretFile;

/// Settings that are secrets or hold one. Each may be read from the file that `<name>_FILE` names.
pub(super) const SECRETS: [&str; 7] = [
    "DATABASE_URL",
    "DATABASE_LISTEN_URL",
    "REDIS_URL",
    "POSTHORN_EGRESS_PROXY",
    "POSTHORN_ADMIN_KEY",
    "POSTHORN_ENCRYPTION_KEY",
    "POSTHORN_PREVIOUS_ENCRYPTION_KEY",
];

/// The layers as one.
pub(super) struct Reader {
    layers: Config,
    /// What was read from files of its own, by its setting.
    files: BTreeMap<&'static str, SecretFile>,
    unknown: Vec<UnknownName>,
}

impl Reader {
    /// `built_in` texts, then the file at `path` if there is one, then `environment`.
    pub(super) fn new(
        built_in: [&str; 2],
        path: &Path,
        environment: Vec<(String, String)>,
    ) -> Result<Self, Error> {
        let mut all = Config::builder();
        for text in built_in {
            all = all.add_source(File::from_str(text, FileFormat::Toml));
        }
        let file = File::from(path).format(FileFormat::Toml).required(false);
        let mut unknown = names::unknown_in_environment(environment.iter().map(|(name, _)| name.as_str()));
        let environment =
            Environment::default().ignore_empty(true).source(Some(environment.into_iter().collect()));
        let wrong = |error| Error(one_line(&format!("{}: {error}", path.display())));
        let chosen = Config::builder().add_source(file.clone()).add_source(environment.clone());
        let chosen = chosen.build().map_err(wrong)?;
        check_texts(&chosen)?;
        unknown.extend(names::unknown_in_file(file.collect().map_err(wrong)?.keys().map(String::as_str)));
        let layers = all.add_source(file).add_source(environment).build().map_err(wrong)?;
        Ok(Self { layers, files: read_files(&chosen)?, unknown })
    }

    fn value(&self, name: &str) -> Option<String> {
        match self.files.get(name) {
            Some(file) => Some(file.text.clone()),
            None => text_of(&self.layers, name),
        }
    }

    /// What an error about the setting names: where its value came from.
    fn source(&self, name: &str) -> String {
        if self.files.contains_key(name) { format!("{name}_FILE") } else { name.to_owned() }
    }

    /// The variables that name files which every user of the machine may read.
    pub(super) fn readable_by_others(&self) -> Vec<String> {
        let loose = self.files.iter().filter(|(_, file)| file.is_readable_by_others);
        loose.map(|(name, _)| format!("{name}_FILE")).collect()
    }

    /// What was set and is not read.
    pub(super) fn unknown(&self) -> Vec<UnknownName> {
        self.unknown.clone()
    }

    /// A value that is there or an error.
    fn read<T>(&self, name: &str, expected: &str, parse: impl FnOnce(&str) -> Option<T>) -> Result<T, Error> {
        let value = self.value(name).unwrap_or_default();
        parse(&value).ok_or_else(|| Error(one_line(&format!("{name}: expected {expected}, got {value:?}"))))
    }

    pub(super) fn parsed<T: FromStr>(&self, name: &str, expected: &str) -> Result<T, Error> {
        self.read(name, expected, |value| value.parse().ok())
    }

    /// A text that passes `check`. Errors do not repeat it, since it may hold a secret.
    pub(super) fn text(
        &self,
        name: &str,
        expected: &str,
        check: impl FnOnce(&str) -> bool,
    ) -> Result<String, Error> {
        let missing = || Error(format!("{}: expected {expected}", self.source(name)));
        self.optional(name, expected, check)?.ok_or_else(missing)
    }

    /// As [`text`](Self::text), or nothing.
    pub(super) fn optional(
        &self,
        name: &str,
        expected: &str,
        check: impl FnOnce(&str) -> bool,
    ) -> Result<Option<String>, Error> {
        match self.value(name) {
            Some(value) if check(&value) => Ok(Some(value)),
            Some(_) => Err(Error(format!("{}: expected {expected}", self.source(name)))),
            None => Ok(None),
        }
    }

    pub(super) fn whole<T: Copy + FromStr + PartialOrd + Display>(
        &self,
        name: &str,
        min: T,
        max: T,
    ) -> Result<T, Error> {
        let expected = format!("a whole number from {min} to {max}");
        self.read(name, &expected, |value| value.parse().ok().filter(|n| *n >= min && *n <= max))
    }

    /// A number, or nothing.
    pub(super) fn optional_number<T: Copy + FromStr + PartialOrd + Display>(
        &self,
        name: &str,
        kind: &str,
        min: T,
        max: T,
    ) -> Result<Option<T>, Error> {
        let expected = format!("{kind} from {min} to {max}");
        let within = |value: &str| value.parse().ok().filter(|n| *n >= min && *n <= max);
        self.value(name).map(|_| self.read(name, &expected, within)).transpose()
    }

    pub(super) fn seconds(&self, name: &str, min: Duration, max: Duration) -> Result<Duration, Error> {
        self.duration(name, "seconds", 1.0, min, max)
    }

    pub(super) fn hours(&self, name: &str, min: Duration, max: Duration) -> Result<Duration, Error> {
        self.duration(name, "hours", 3600.0, min, max)
    }

    fn duration(
        &self,
        name: &str,
        unit: &str,
        seconds_of_unit: f64,
        min: Duration,
        max: Duration,
    ) -> Result<Duration, Error> {
        let shown = |duration: Duration| {
            let text = format!("{:.7}", duration.as_secs_f64() / seconds_of_unit);
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        };
        let expected = format!("{unit} from {} to {}", shown(min), shown(max));
        self.read(name, &expected, |value| {
            let number: f64 = value.parse().ok()?;
            let duration = Duration::try_from_secs_f64(number * seconds_of_unit).ok()?;
            (min..=max).contains(&duration).then_some(duration)
        })
    }

    /// Errors do not repeat it.
    pub(super) fn encryption_key(&self, name: &str) -> Result<Option<EncryptionKey>, Error> {
        let key = self.value(name).map(|text| EncryptionKey::parse(&text)).transpose();
        key.map_err(|error| Error(format!("{}: {error}", self.source(name))))
    }

    /// As [`encryption_key`](Self::encryption_key), for one that is encrypted with: random, as far as it shows.
    pub(super) fn strong_encryption_key(&self, name: &str) -> Result<Option<EncryptionKey>, Error> {
        let key = self.encryption_key(name)?;
        if key.as_ref().is_some_and(|key| strength::is_patterned(key.expose())) {
            return Err(Error(format!(
                "{}: expected random bytes, and these follow a pattern: openssl rand -base64 32 prints a key",
                self.source(name)
            )));
        }
        Ok(key)
    }

    pub(super) fn networks(&self, name: &str) -> Result<Vec<IpNet>, Error> {
        self.read(name, "networks such as 10.0.0.0/8, separated by commas, or none", |value| {
            // Nothing is what the profile says.
            let value = if value == "none" { "" } else { value };
            value
                .split(',')
                .map(str::trim)
                .filter(|part| !part.is_empty())
                .map(|part| part.parse().ok())
                .collect()
        })
    }

    pub(super) fn one_of<T: Copy>(&self, name: &str, choices: &[(&str, T)]) -> Result<T, Error> {
        let expected = choices.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(" or ");
        self.read(name, &expected, |value| {
            choices.iter().find(|(word, _)| *word == value).map(|(_, choice)| *choice)
        })
    }
}

fn text_of(config: &Config, name: &str) -> Option<String> {
    Some(config.get_string(&name.to_lowercase()).ok()?.trim().to_owned())
}

/// Refuses what a file of variables or a shell left in a value: quotes around it, and control characters.
fn check_texts(chosen: &Config) -> Result<(), Error> {
    for name in NAMES {
        let Some(text) = text_of(chosen, name) else { continue };
        let mut letters = text.chars();
        let ends = (letters.next(), letters.next_back());
        if matches!(ends, (Some('"'), Some('"')) | (Some('\''), Some('\''))) {
            return Err(Error(format!("{name}: expected a value without quotes around it")));
        }
        if text.contains(char::is_control) {
            return Err(Error(format!("{name}: expected one line without control characters")));
        }
    }
    Ok(())
}

/// The secrets whose files are named in what somebody chose, by file or environment; the value beside it is an
/// error, since nobody could tell which of the two is meant.
fn read_files(chosen: &Config) -> Result<BTreeMap<&'static str, SecretFile>, Error> {
    let mut files = BTreeMap::new();
    for name in SECRETS {
        let Some(path) = text_of(chosen, &format!("{name}_FILE")) else { continue };
        if text_of(chosen, name).is_some() {
            return Err(Error(format!("{name}_FILE: expected it or {name}, not both")));
        }
        let file = SecretFile::read(Path::new(&path));
        let file = file.map_err(|error| Error(one_line(&format!("{name}_FILE: {error}"))))?;
        files.insert(name, file);
    }
    Ok(files)
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
