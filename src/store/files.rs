//! The files of an SQLite database: they hold every payload, so nobody but their owner reads them.
//!
//! SQLite makes its log and its index (`-wal`, `-shm`) with the mode of the database, so that file is made here
//! before SQLite would make it by the process's umask. Files that are there already with a wider mode, of an earlier
//! version or restored by hand, get the narrow one as well: whoever else is to read the database needs a copy. The
//! folder is made for the owner alone; one that exists is somebody's own choice and stays as it is.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// The owner reads and writes.
const FILE_MODE: u32 = 0o600;
/// The owner enters.
const FOLDER_MODE: u32 = 0o700;
/// What SQLite and the lock add to the database's name.
const SUFFIXES: [&str; 5] = ["", "-wal", "-shm", "-journal", ".lock"];

/// Makes the folder and the database's file, where they are not there, and closes to others what is.
pub(super) fn prepare(database: &Path) -> io::Result<()> {
    if let Some(folder) = database.parent().filter(|folder| *folder != Path::new("")) {
        DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(folder)?;
    }
    // Where it is there already it isn't opened: closing it would end the locks that this process has on it. What
    // can't be made is SQLite's to complain of.
    let made = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(database);
    drop(made);
    for suffix in SUFFIXES {
        close_to_others(&beside(database, suffix))?;
    }
    Ok(())
}

/// The file that tells that a process runs on the database.
pub(super) fn open_lock(database: &Path) -> io::Result<File> {
    let path = beside(database, ".lock");
    OpenOptions::new().write(true).create(true).truncate(false).mode(FILE_MODE).open(path)
}

fn close_to_others(path: &Path) -> io::Result<()> {
    let mode = match fs::metadata(path) {
        Ok(found) if found.is_file() => found.permissions().mode(),
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if mode & 0o777 & !FILE_MODE == 0 {
        return Ok(());
    }
    match fs::set_permissions(path, Permissions::from_mode(mode & FILE_MODE)) {
        Ok(()) => {
            tracing::info!(path = %path.display(), "others could read this file of the database: no more");
        }
        // Somebody else's, who lets this process in: it works, and that is theirs to mend.
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "others may read this file of the database");
        }
    }
    Ok(())
}

fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut path = database.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn what_is_made_and_what_is_there_is_the_owners() {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        let database = folder.path().join("a/b/posthorn.db");
        prepare(&database).unwrap();
        open_lock(&database).unwrap();
        for (path, expected) in [("", 0o755), ("a", 0o700), ("a/b", 0o700), ("a/b/posthorn.db", 0o600)] {
            assert_eq!(mode(&folder.path().join(path)), expected, "{path}");
        }
        fs::write(&database, "kept").unwrap();
        for suffix in SUFFIXES {
            let path = beside(&database, suffix);
            OpenOptions::new().append(true).create(true).open(&path).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o664)).unwrap();
        }
        prepare(&database).unwrap();
        for suffix in SUFFIXES {
            assert_eq!(mode(&beside(&database, suffix)), 0o600, "{suffix}");
        }
        assert_eq!(fs::read(&database).unwrap(), b"kept");
        // One that may not even be written is not made writable.
        fs::set_permissions(&database, Permissions::from_mode(0o444)).unwrap();
        prepare(&database).unwrap();
        assert_eq!(mode(&database), 0o400);
    }
}
