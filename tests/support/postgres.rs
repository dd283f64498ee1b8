//! A PostgreSQL of its own, to be stopped and started.

use std::path::PathBuf;
use std::process::Command;

/// A running server; it is stopped and removed with its owner.
pub(crate) struct Server {
    directory: tempfile::TempDir,
    programs: PathBuf,
    port: u16,
    more: String,
}

impl Server {
    /// With as many connections as a few nodes need, and everything on disk that should be.
    pub(crate) fn start() -> Self {
        Self::start_with("")
    }

    /// With more for its command line.
    pub(crate) fn start_with(more: &str) -> Self {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = free.local_addr().expect("an address").port();
        drop(free);
        let directory = tempfile::tempdir().expect("a directory");
        let server = Self { directory, programs: programs(), port, more: more.to_owned() };
        // PostgreSQL refuses to run as root.
        run(Command::new("chmod").arg("777").arg(server.directory.path()));
        let data = server.data();
        run(server.program("initdb").args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "-D"]).arg(&data));
        server.come_back();
        server
    }

    /// Where databases may be created.
    pub(crate) fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// As a crash does it: no checkpoint, no word to the clients.
    pub(crate) fn crash(&self) {
        run(self.program("pg_ctl").args(["-m", "immediate", "-w", "stop", "-D"]).arg(self.data()));
    }

    /// Starts it again.
    pub(crate) fn come_back(&self) {
        let socket = self.directory.path().display();
        let options = format!(
            "-p {} -c listen_addresses=127.0.0.1 -c unix_socket_directories={socket} -c max_connections=200 {}",
            self.port, self.more
        );
        let log = self.directory.path().join("log");
        let mut start = self.program("pg_ctl");
        run(start.args(["-w", "start", "-o", &options, "-l"]).arg(log).arg("-D").arg(self.data()));
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// One of PostgreSQL's programs, as a user that may run it.
    fn program(&self, name: &str) -> Command {
        let program = self.programs.join(name);
        if !nix::unistd::geteuid().is_root() {
            return Command::new(program);
        }
        let mut command = Command::new("runuser");
        command.args(["-u", "postgres", "--"]).arg(program);
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let mut stop = self.program("pg_ctl");
        let stop = stop.args(["-m", "immediate", "-w", "stop", "-D"]).arg(self.data());
        // It may be down already.
        let _ = stop.current_dir(self.directory.path()).output();
    }
}

/// Debian's newest, else what PATH finds.
fn programs() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut programs: Vec<_> = versions.map(|version| version.path().join("bin")).collect();
    programs.retain(|folder| folder.join("initdb").exists());
    programs.sort();
    programs.pop().unwrap_or_default()
}

fn run(command: &mut Command) {
    // Output is to be read to its end only where nobody keeps it open, as a server would.
    let done = command.current_dir("/").stdout(std::process::Stdio::null()).status();
    assert!(done.is_ok_and(|status| status.success()), "{command:?}");
}
