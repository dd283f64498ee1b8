//! TLS to PostgreSQL and to Redis: each documented form of their addresses, with the system's roots and with named ones.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use serde_json::json;

use crate::support::command::run;
use crate::support::postgres::Server;
use crate::support::{Backend, Database, Posthorn, Receiver, Reply, eventually};

/// A certificate of 127.0.0.1 that vouches for itself, with its key, where a server finds them.
struct Identity {
    folder: tempfile::TempDir,
}

impl Identity {
    fn create() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let key = KeyPair::generate().unwrap();
        let identity = Self { folder };
        std::fs::write(identity.certificate(), params.self_signed(&key).unwrap().pem()).unwrap();
        std::fs::write(identity.key(), key.serialize_pem()).unwrap();
        // PostgreSQL wants its key for itself, and runs as another user where this is root.
        std::fs::set_permissions(identity.key(), PermissionsExt::from_mode(0o600)).unwrap();
        std::fs::set_permissions(identity.folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        identity
    }

    fn certificate(&self) -> PathBuf {
        self.folder.path().join("server.pem")
    }

    fn key(&self) -> PathBuf {
        self.folder.path().join("server.key")
    }

    fn is_of_postgres(&self) {
        if nix::unistd::geteuid().is_root() {
            let changed = Command::new("chown").arg("postgres").arg(self.key()).status().unwrap();
            assert!(changed.success());
        }
    }
}

async fn delivers(posthorn: &Posthorn) {
    let receiver = Receiver::always(Reply::status(200)).await;
    let id = posthorn.client().subscribe(&receiver.url("/"), json!({})).await.id;
    posthorn.client().ingest(&id, json!(1)).await;
    receiver.arrived(1).await;
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_over_tls() {
    let (identity, other) = (Identity::create(), Identity::create());
    identity.is_of_postgres();
    let server = Server::start_with(&format!(
        "-c ssl=on -c ssl_cert_file={} -c ssl_key_file={}",
        identity.certificate().display(),
        identity.key().display()
    ));
    let root = text(&identity.certificate());
    let database = Arc::new(Database::create_on(server.url().parse().unwrap()).await);
    let at = |options: &str| format!("{}?{options}", database.url());
    for (url, system_roots) in [
        (at("sslmode=require"), None),
        (at(&format!("sslmode=verify-ca&sslrootcert={root}")), None),
        (at(&format!("sslmode=verify-full&sslrootcert={root}")), None),
        (at("sslmode=verify-ca"), Some(&root)),
        (at("sslmode=verify-full"), Some(&root)),
        (at("sslmode=disable"), None),
        (at("sslmode=prefer"), None),
    ] {
        let mut settings = vec![("DATABASE_URL", url.as_str())];
        settings.extend(system_roots.map(|file| ("SSL_CERT_FILE", file.as_str())));
        let mut posthorn = Posthorn::start_on(Arc::clone(&database), &settings).await;
        delivers(&posthorn).await;
        assert!(posthorn.terminate().await.success(), "{url}");
    }
    let other = text(&other.certificate());
    for options in [
        "sslmode=verify-full".to_owned(),
        format!("sslmode=verify-full&sslrootcert={other}"),
        "sslmode=verify-full&sslrootcert=/nowhere/at/all".to_owned(),
        "sslmode=nonsense".to_owned(),
    ] {
        let url = at(&options);
        let settings = [("DATABASE_URL", url.as_str()), ("POSTHORN_START_PATIENCE_SECONDS", "0.1")];
        let refused = run(&database, &["serve"], &settings).await;
        let last = refused.stderr.last().unwrap();
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(last.starts_with("posthorn: ") && last.contains("DATABASE_URL"), "{options}: {last}");
    }
}

/// A Redis that speaks TLS alone; it is killed with its owner.
struct TlsRedis {
    child: Child,
    port: u16,
}

impl TlsRedis {
    fn start(identity: &Identity) -> Self {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let (certificate, key) = (text(&identity.certificate()), text(&identity.key()));
        let child = Command::new("redis-server")
            .args(["--port", "0", "--tls-port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""])
            .args(["--tls-cert-file", &certificate, "--tls-key-file", &key, "--tls-auth-clients", "no"])
            .args(["--tls-ca-cert-file", &certificate, "--appendonly", "no"])
            .current_dir(identity.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        Self { child, port }
    }
}

impl Drop for TlsRedis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_over_tls() {
    let identity = Identity::create();
    let redis = TlsRedis::start(&identity);
    let root = text(&identity.certificate());
    let url = format!("rediss://127.0.0.1:{}", redis.port);
    let database = Arc::new(Database::create(Backend::Postgres).await);
    for (settings, line) in [
        (vec![("REDIS_URL", url.as_str()), ("SSL_CERT_FILE", &root)], "Redis answers"),
        (vec![("REDIS_URL", &url)], "Redis does not answer"),
    ] {
        let mut posthorn = Posthorn::start_on(Arc::clone(&database), &settings).await;
        eventually(line, async || {
            let log = posthorn.log();
            let said = log.iter().any(|said| said.contains(line));
            if said { Ok(()) } else { Err(log.join("\n")) }
        })
        .await;
        delivers(&posthorn).await;
        assert!(posthorn.terminate().await.success());
        let log = posthorn.log().join("\n");
        assert!(!log.contains("panic"), "{log}");
    }
}
