//! Typed reads of the layered texts, each with an error that names the variable.

use std::fmt::Display;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use config::{Config, Environment, File, FileFormat};
use ipnet::IpNet;
use posthorn_domain::encryption_key::EncryptionKey;

use super::Error;

/// The layers as one.
pub(super) struct Reader(Config);

impl Reader {
    /// `built_in` texts, then the file at `path` if there is one, then `environment`.
    pub(super) fn new(
        built_in: [&str; 2],
        path: &Path,
        environment: Vec<(String, String)>,
    ) -> Result<Self, Error> {
        let mut layers = Config::builder();
        for text in built_in {
            layers = layers.add_source(File::from_str(text, FileFormat::Toml));
        }
        layers
            .add_source(File::from(path).format(FileFormat::Toml).required(false))
            .add_source(
                Environment::default().ignore_empty(true).source(Some(environment.into_iter().collect())),
            )
            .build()
            .map(Self)
            .map_err(|error| Error(one_line(&format!("{}: {error}", path.display()))))
    }

    fn value(&self, name: &str) -> Option<String> {
        self.0.get_string(&name.to_lowercase()).ok()
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
        self.optional(name, expected, check)?.ok_or_else(|| Error(format!("{name}: expected {expected}")))
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
            Some(_) => Err(Error(format!("{name}: expected {expected}"))),
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
        key.map_err(|error| Error(format!("{name}: {error}")))
    }

    pub(super) fn networks(&self, name: &str) -> Result<Vec<IpNet>, Error> {
        self.read(name, "networks such as 10.0.0.0/8, separated by commas", |value| {
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

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
