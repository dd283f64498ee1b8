//! One run of the command line, to its end.

use super::database::Database;
use super::server::Process;

/// What a run left behind.
#[derive(Debug)]
pub(crate) struct Run {
    /// The exit code; none where a signal ended it.
    pub(crate) code: Option<i32>,
    /// Standard output.
    pub(crate) stdout: String,
    /// Standard error, its lines that are not empty.
    pub(crate) stderr: Vec<String>,
}

/// Runs `posthorn` with the arguments and settings beside the database and waits for its end.
pub(crate) async fn run(database: &Database, arguments: &[&str], settings: &[(&str, &str)]) -> Run {
    let settings: Vec<_> = settings.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    let mut process = Process::spawn(database, &settings, arguments);
    let ended = process.ended().await;
    let stderr = process.log.lines().into_iter().filter(|line| !line.trim().is_empty()).collect();
    Run { code: ended.code(), stdout: process.output.lines().join("\n"), stderr }
}

impl Run {
    /// The run ended well.
    pub(crate) fn succeeded(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }

    /// The run was refused with one line that names what is wrong.
    pub(crate) fn refused(&self, naming: &str) {
        assert!(self.code.is_some_and(|code| code != 0), "should fail: {self:?}");
        assert_eq!(self.stderr.len(), 1, "should say one line: {self:?}");
        assert!(self.stderr[0].contains(naming), "should name {naming}: {self:?}");
    }
}
