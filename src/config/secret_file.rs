//! Secrets in files of their own, as Docker, Kubernetes and systemd hand them in: `POSTHORN_ADMIN_KEY_FILE` names
//! the file that holds `POSTHORN_ADMIN_KEY`.
//!
//! Errors repeat neither the text nor the path: somebody may have put the secret itself where its file's name belongs.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// Longer than any setting.
const BYTES_MAX: u64 = 64 * 1024;
/// Where container engines mount secrets, readable by all: but there is nobody else in a container.
const MOUNTED_SECRETS: &str = "/run/secrets/";

/// A text from a file.
#[derive(Debug)]
pub(super) struct SecretFile {
    /// Without the line ends behind it, which editors and `echo` add.
    pub(super) text: String,
    /// Whether every user of the machine may read the file.
    pub(super) is_readable_by_others: bool,
}

impl SecretFile {
    /// Reads it; the error says what was expected.
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        let unreadable = |error: std::io::Error| format!("expected a file that can be read: {error}");
        // Looked at before it is opened: a pipe would be waited for.
        let metadata = fs::metadata(path).map_err(unreadable)?;
        if !metadata.is_file() {
            return Err("expected a file".to_owned());
        }
        let mode = metadata.permissions().mode();
        if mode & 0o002 != 0 {
            return Err("expected a file that not everybody may write".to_owned());
        }
        let mut bytes = Vec::new();
        File::open(path)
            .and_then(|file| file.take(BYTES_MAX + 1).read_to_end(&mut bytes))
            .map_err(unreadable)?;
        if bytes.len() as u64 > BYTES_MAX {
            return Err(format!("expected at most {BYTES_MAX} bytes"));
        }
        let text = String::from_utf8(bytes).map_err(|_| "expected a text in UTF-8".to_owned())?;
        let text = text.trim_end_matches(['\r', '\n']).to_owned();
        if text.is_empty() {
            return Err("expected a text, and the file is empty".to_owned());
        }
        let is_readable_by_others = mode & 0o004 != 0 && !path.starts_with(MOUNTED_SECRETS);
        Ok(Self { text, is_readable_by_others })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_without_their_line_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        for (content, mode, expected) in [
            (&b"a secret\n"[..], 0o600, Ok(("a secret", false))),
            (b"a secret", 0o400, Ok(("a secret", false))),
            (b"a secret\r\n\n", 0o640, Ok(("a secret", false))),
            (b" two\nlines ", 0o644, Ok((" two\nlines ", true))),
            (b"a secret", 0o666, Err("not everybody may write")),
            (b"\n", 0o600, Err("empty")),
            (b"", 0o600, Err("empty")),
            (b"\xff", 0o600, Err("UTF-8")),
            (&vec![b'a'; 65_537], 0o600, Err("at most 65536 bytes")),
        ] {
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let read = SecretFile::read(&path);
            match expected {
                Ok((text, by_others)) => {
                    let read = read.unwrap();
                    assert_eq!((read.text.as_str(), read.is_readable_by_others), (text, by_others));
                }
                Err(part) => {
                    let error = read.unwrap_err();
                    assert!(error.starts_with("expected ") && error.contains(part), "{error}");
                }
            }
            fs::remove_file(&path).unwrap();
        }
        for path in [path.as_path(), folder.path()] {
            let error = SecretFile::read(path).unwrap_err();
            assert!(error.starts_with("expected a file") && !error.contains("secret"), "{error}");
        }
    }
}
