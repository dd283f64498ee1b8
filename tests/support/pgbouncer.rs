//! A PgBouncer of its own, in front of a PostgreSQL.

use std::process::{Child, Command, Stdio};

use nix::unistd::geteuid;

/// A running pooler; it is killed with its owner.
pub(crate) struct PgBouncer {
    child: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl PgBouncer {
    /// In front of the server of this URL. Each client keeps its session for itself (`session`), since the release
    /// that Debian has knows no prepared statements otherwise. `None` where it is not installed.
    pub(crate) fn before(url: &str) -> Option<Self> {
        let program = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer"]
            .into_iter()
            .find(|path| std::path::Path::new(path).exists())?;
        let url: url::Url = url.parse().expect("a URL");
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = free.local_addr().expect("an address").port();
        drop(free);
        let folder = tempfile::tempdir().expect("a directory");
        let (host, server) = (url.host_str().expect("a host"), url.port().unwrap_or(5432));
        let user = url.username();
        let config = folder.path().join("pgbouncer.ini");
        // It refuses to run as root.
        let runs_as = if geteuid().is_root() { "user = postgres\n" } else { "" };
        let text = format!(
            "[databases]\n* = host={host} port={server} user={user}\n\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir =\nauth_type = any\npool_mode = session\nmax_client_conn = 500\n\
             default_pool_size = 100\nignore_startup_parameters = extra_float_digits,application_name\n\
             tcp_keepalive = 1\n{runs_as}"
        );
        std::fs::write(&config, text).expect("a file");
        let readable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(folder.path(), readable).expect("a directory of its own");
        let child = Command::new(program)
            .arg("-q")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        Some(Self { child, port, _folder: folder })
    }

    /// The same database through here.
    pub(crate) fn through(&self, url: &str) -> String {
        let mut url: url::Url = url.parse().expect("a URL");
        url.set_host(Some("127.0.0.1")).expect("an address");
        url.set_port(Some(self.port)).expect("a URL with a host");
        url.into()
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
