//! A program's own wall clock, set by the test while it runs: Debian's libfaketime. The clock that only counts on
//! (`CLOCK_MONOTONIC`) is left alone, as it is on a machine whose time is set.

use std::path::PathBuf;

/// What the program takes for the wall clock.
pub(crate) struct WallClock {
    library: String,
    offset: tempfile::NamedTempFile,
}

impl WallClock {
    /// One that is right; none where libfaketime is not installed, which under `CI=true` is a failure.
    pub(crate) fn new() -> Option<Self> {
        let libraries = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
        let library = libraries.map(|entry| entry.path().join("faketime/libfaketime.so.1"));
        let Some(library) = library.into_iter().find(|path: &PathBuf| path.exists()) else {
            super::left_out("libfaketime");
            return None;
        };
        let offset = tempfile::NamedTempFile::new().expect("a file");
        let clock = Self { library: library.to_str().expect("plain text").to_owned(), offset };
        clock.set(0);
        Some(clock)
    }

    /// So many seconds before or after the right time, from now on.
    pub(crate) fn set(&self, seconds: i64) {
        // In place of the old one at once: the program may look at any time.
        let next = self.offset.path().with_extension("next");
        std::fs::write(&next, format!("{seconds:+}\n")).expect("a file of its own");
        std::fs::rename(next, self.offset.path()).expect("the same folder");
    }

    /// What gives a program this clock, beside its settings.
    pub(crate) fn settings(&self) -> [(&str, &str); 4] {
        [
            ("LD_PRELOAD", &self.library),
            ("FAKETIME_TIMESTAMP_FILE", self.offset.path().to_str().expect("plain text")),
            ("FAKETIME_NO_CACHE", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ]
    }
}
