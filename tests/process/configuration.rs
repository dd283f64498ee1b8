//! Configuration: a value that makes no sense stops the start with one line that names it.

use std::sync::Arc;

use nix::sys::signal::Signal;
use rand::RngExt as _;
use serde_json::json;

use crate::support::command::run;
use crate::support::postgres::Server;
use crate::support::random::seeded;
use crate::support::server::{ENCRYPTION_KEY, Process};
use crate::support::wait::PATIENCE;
use crate::support::{Backend, Database, Posthorn, Receiver, Reply, on_both_databases};

const SEALED: (&str, &str) = (ENCRYPTION_KEY, "Y2FuYXJ5LWVuY3J5cHRpb24ta2V5LW9mLTMyLWJ5dGU=");
const KEY: (&str, &str) = ("POSTHORN_ADMIN_KEY", "canary-admin-key-0123456789abcdef");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mistakes_are_named() {
    let database = Database::create(Backend::Sqlite).await;
    for (name, values) in [
        ("POSTHORN_LISTEN", &["nonsense", "127.0.0.1", "127.0.0.1:99999"][..]),
        ("POSTHORN_BEHIND_PROXY", &["yes", "1"]),
        ("DATABASE_URL", &["mysql://root@127.0.0.1/x", "nonsense", "sqlite://:memory:", "\"sqlite://x.db\""]),
        ("POSTHORN_ALLOWED_PRIVATE_NETWORKS", &["10.0.0.0/99", "everything"]),
        ("WEBHOOK_MAX_RETRIES", &["five", "-1", "101", "1.5"]),
        ("INITIAL_RETRY_DELAY_SECONDS", &["soon", "-1", "NaN", "1e308"]),
        ("MAX_RETRY_BACKOFF_SECONDS", &["x", "-5"]),
        ("WEBHOOK_DELIVERY_TIMEOUT_SECONDS", &["0", "0.05", "121", "inf"]),
        ("LOG_RETENTION_HOURS", &["-1", "x", "NaN"]),
        ("CLEANUP_INTERVAL_SECONDS", &["-1", "x"]),
        ("POSTHORN_MAX_PAYLOAD_BYTES", &["lots", "-1", "99999999999999"]),
        ("POSTHORN_CIRCUIT_FAILURE_THRESHOLD", &["0", "x"]),
        ("POSTHORN_CIRCUIT_COOL_DOWN_SECONDS", &["x", "-1"]),
        ("POSTHORN_DISABLE_AFTER_HOURS", &["-1", "x"]),
        ("POSTHORN_MAX_IN_FLIGHT", &["0", "x"]),
        ("POSTHORN_MAX_BACKLOG", &["0", "-1", "many"]),
        ("POSTHORN_LOG_FORMAT", &["xml"]),
        (
            "POSTHORN_ADMIN_KEY",
            &[
                "short",
                "with a blank in the middle",
                "0123456789abcdef",
                "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            ],
        ),
        ("POSTHORN_ENCRYPTION_KEY", &["c2hvcnQ=", "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="]),
        ("POSTHORN_ADMIN_KEY_FILE", &["/nowhere/at/all", "/"]),
        ("POSTHORN_PROFILE", &["../../etc", "nonsense"]),
    ] {
        for value in values {
            println!("{name}={value}");
            let refused = run(&database, &["serve"], &[(name, value)]).await;
            refused.refused(name);
            assert!(name != "POSTHORN_ADMIN_KEY" || !refused.stderr[0].contains(value), "{refused:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_not_served_without_a_key() {
    let database = Database::create(Backend::Sqlite).await;
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:8000"] {
        run(&database, &["serve"], &[("POSTHORN_LISTEN", address)]).await.refused("POSTHORN_ADMIN_KEY");
    }
    // Nor through a proxy on the same machine.
    let proxied = run(&database, &["serve"], &[("POSTHORN_BEHIND_PROXY", "true")]).await;
    proxied.refused("POSTHORN_BEHIND_PROXY");
    let settings =
        [("POSTHORN_LISTEN", "0.0.0.0:0"), ("POSTHORN_ADMIN_KEY", "a-long-enough-admin-key-0123456789ab")];
    let mut posthorn = Process::spawn(
        &database,
        &settings.map(|(name, value)| (name.to_owned(), value.to_owned())),
        &["serve"],
    );
    posthorn.listening().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn production_is_strict() {
    let database = Arc::new(Database::create(Backend::Sqlite).await);
    let production = ("POSTHORN_PROFILE", "production");
    run(&database, &["serve"], &[production, KEY]).await.refused(ENCRYPTION_KEY);
    run(&database, &["serve"], &[production, SEALED]).await.refused("POSTHORN_ADMIN_KEY");
    let public = ("POSTHORN_LISTEN", "0.0.0.0:0");
    run(&database, &["serve"], &[production, KEY, SEALED, public]).await.refused("POSTHORN_BEHIND_PROXY");
    let posthorn = Posthorn::start_on(Arc::clone(&database), &[production, KEY, SEALED]).await;
    let refused =
        posthorn.client().post_json("/subscriptions/", json!({"target_url": "http://127.0.0.1/"})).await;
    refused.refuses_field(422, "target_url");
    let log = posthorn.log();
    let json =
        |line: &String| serde_json::from_str::<serde_json::Value>(line).is_ok_and(|line| line.is_object());
    assert!(!log.is_empty() && log.iter().all(json), "the log is JSON in production: {log:?}");
}

/// A database that may lose what it says it has is none for production.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn production_asks_for_a_durable_database() {
    let production = ("POSTHORN_PROFILE", "production");
    for setting in ["fsync", "full_page_writes"] {
        let server = Server::start_with(&format!("-c {setting}=off"));
        let database = Arc::new(Database::create_on(server.url().parse().unwrap()).await);
        let refused = run(&database, &["serve"], &[production, KEY, SEALED]).await;
        refused.refused(&format!("DATABASE_URL: expected a PostgreSQL with {setting} on"));
        // On a laptop it is said.
        let posthorn = Posthorn::start_on(Arc::clone(&database), &[]).await;
        assert!(posthorn.log().iter().any(|line| line.contains("WARN") && line.contains(setting)));
    }
}

/// What nobody but its owner may read: the database, its log and index, the lock, and the folder made for them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_are_their_owners() {
    let database = Arc::new(Database::create(Backend::Sqlite).await);
    let folder = database.directory().join("made/by/posthorn");
    let url = format!("sqlite://{}", folder.join("posthorn.db").display());
    let settings = [("DATABASE_URL", url.as_str())];
    let mode = |path: &std::path::Path| {
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(path).unwrap().permissions()) & 0o777
    };
    let check_all = || {
        let files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path()).collect();
        for name in ["posthorn.db", "posthorn.db-wal", "posthorn.db-shm", "posthorn.db.lock"] {
            assert!(files.contains(&folder.join(name)), "{name} is missing: {files:?}");
        }
        for file in &files {
            assert_eq!(mode(file), 0o600, "{}", file.display());
        }
    };
    let mut posthorn = Posthorn::start_on(Arc::clone(&database), &settings).await;
    posthorn.client().subscribe("http://127.0.0.1:9/", json!({})).await;
    for made in [folder.as_path(), folder.parent().unwrap()] {
        assert_eq!(mode(made), 0o700, "{}", made.display());
    }
    check_all();
    // Those of an earlier version, with its log left behind.
    posthorn.kill().await;
    for file in std::fs::read_dir(&folder).unwrap() {
        let wide = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        std::fs::set_permissions(file.unwrap().path(), wide).unwrap();
    }
    posthorn.start_again().await;
    posthorn.client().subscribe("http://127.0.0.1:9/", json!({})).await;
    check_all();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_are_read_from_files() {
    let database = Arc::new(Database::create(Backend::Sqlite).await);
    let write = |name: &str, text: &str, mode: u32| {
        let path = database.directory().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    };
    write("admin", &format!("{}\n", KEY.1), 0o600);
    write("encryption", &format!("{}\r\n", SEALED.1), 0o644);
    write("database", &database.url(), 0o400);
    write("weak", "changeme", 0o600);
    let settings = [
        ("POSTHORN_PROFILE", "production"),
        ("POSTHORN_LOG_FORMAT", "text"),
        ("POSTHORN_ADMIN_KEY_FILE", "admin"),
        ("POSTHORN_ENCRYPTION_KEY_FILE", "encryption"),
        ("DATABASE_URL", ""),
        ("DATABASE_URL_FILE", "database"),
    ];
    let posthorn = Posthorn::start_on(Arc::clone(&database), &settings).await;
    posthorn.client().with_key(Some(KEY.1)).get("/keys").await.expect(200);
    posthorn.client().get("/keys").await.expect(401);
    assert_eq!(database.number("SELECT count(*) FROM api_keys").await, 0, "the database is the named one");
    let warned: Vec<_> = posthorn.log().into_iter().filter(|line| line.contains("WARN")).collect();
    assert_eq!(warned.len(), 1, "{warned:?}");
    assert!(warned[0].contains("POSTHORN_ENCRYPTION_KEY_FILE"), "{warned:?}");
    drop(posthorn);
    for (more, named) in [
        (("POSTHORN_ADMIN_KEY", KEY.1), "POSTHORN_ADMIN_KEY_FILE: expected it or POSTHORN_ADMIN_KEY"),
        (("POSTHORN_ADMIN_KEY_FILE", "absent"), "POSTHORN_ADMIN_KEY_FILE: expected a file that can be read"),
        (("POSTHORN_ADMIN_KEY_FILE", "weak"), "POSTHORN_ADMIN_KEY_FILE: expected 22 to 512"),
    ] {
        let settings = [&settings[..], &[more]].concat();
        run(&database, &["serve"], &settings).await.refused(named);
    }
}

on_both_databases!(secrets_stay_secret);

/// Canary secrets: none stands in the log, at whatever level.
async fn secrets_stay_secret(backend: Backend) {
    let settings = [KEY, SEALED, ("RUST_LOG", "trace")];
    let mut posthorn = Posthorn::start_with(backend, &settings).await;
    let client = posthorn.client();
    let made = client.post_json("/keys", json!({})).await.expect(201).text("key");
    client.with_key(Some(&made)).get("/subscriptions/").await.expect(200);
    client.with_key(Some("canary-wrong-key")).get("/subscriptions/").await.expect(401);
    let receiver = Receiver::script([Reply::status(500), Reply::reset()]).await;
    let headers = json!({"authorization": "Bearer canary-header"});
    let fields = json!({"secret_key": "canary-ingest-secret", "headers": headers, "retry": {"initial_delay_seconds": 0.05}});
    let subscribed = client.subscribe(&receiver.url("/canary-path?canary-query=1"), fields).await;
    let signature =
        crate::support::signature::sha256_signature("canary-ingest-secret", b"\"canary-payload\"");
    let call = client.call(reqwest::Method::POST, format!("/ingest/{}", subscribed.id));
    let call =
        call.bytes("application/json", "\"canary-payload\"").header("x-webhook-signature-256", &signature);
    let delivery = call.send().await.expect(202).text("delivery_id");
    client.delivery_in(&delivery, "success").await;
    posthorn.terminate().await;
    let log = posthorn.log().join("\n");
    assert!(log.len() > 1000, "the log is that of a full run");
    let signed = receiver.requests()[0].header("webhook-signature").to_owned();
    let shown = ["canary-", &signature, &subscribed.signing_secret, &signed, KEY.1, SEALED.1, &made];
    for secret in shown {
        let line = log.lines().find(|line| line.contains(secret));
        assert!(line.is_none(), "{secret} stands in the log: {line:?}");
    }
}

/// A database in which not every text can be stored.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_of_another_encoding_is_refused() {
    let server = Server::start();
    let first = Database::create_on(server.url().parse().unwrap()).await;
    let create = "CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0";
    first.execute(create).await;
    let url = server.url().replace("/postgres", "/latin").replace("latin@", "postgres@");
    let refused = run(&first, &["serve"], &[("DATABASE_URL", &url)]).await;
    refused.refused("DATABASE_URL: expected a database with the encoding UTF8, and it has LATIN1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nothing_reads_is_warned_of() {
    let database = Arc::new(Database::create(Backend::Sqlite).await);
    let folder = database.directory().join("config");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("development.toml"), "posthorn_max_backlogs = 7\n").unwrap();
    let settings = [("POSTHORN_MAX_INFLIGHT", "7"), ("DATABASE_URL", &format!("{}\n", database.url()))];
    let posthorn = Posthorn::start_on(Arc::clone(&database), &settings).await;
    let log = posthorn.log().join("\n");
    assert!(log.contains(r#"name="POSTHORN_MAX_INFLIGHT" nearest="POSTHORN_MAX_IN_FLIGHT""#), "{log}");
    assert!(log.contains(r#"name="posthorn_max_backlogs" nearest="posthorn_max_backlog""#), "{log}");
    assert_eq!(log.matches("nothing reads it").count(), 2, "{log}");
    let files = std::fs::read_dir(database.directory()).unwrap().map(|file| file.unwrap().file_name());
    let odd: Vec<_> = files.filter(|name| name.to_string_lossy().contains('\n')).collect();
    assert!(odd.is_empty(), "{odd:?}");
}

/// Whatever is in its environment, it serves, or ends with one line that says why.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_configuration_panics() {
    let database = Database::create(Backend::Sqlite).await;
    let postgres = Database::create(Backend::Postgres).await;
    let mut random = seeded("no_configuration_panics");
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let with = |url: String, more: &str| format!("{url}{more}");
    let choices: Vec<(&str, Vec<String>)> = vec![
        (
            "DATABASE_URL",
            vec![
                with(postgres.url(), ""),
                with(postgres.url(), "?sslmode=require"),
                with(postgres.url(), "?sslmode=prefer"),
                with(postgres.url(), "?sslmode=verify-full&sslrootcert=/dev/null"),
                with(postgres.url(), "?sslcert=/dev/null"),
                with(postgres.url(), "?options=-c%20nonsense"),
                format!("postgres://nobody@{free}/x"),
                "postgres://".to_owned(),
                "postgres://[::1".to_owned(),
                "postgres:///?host=/nowhere".to_owned(),
                "sqlite://.".to_owned(),
                "sqlite:///dev/null".to_owned(),
                "sqlite:///proc/self/x.db".to_owned(),
                "sqlite://x.db?mode=nonsense".to_owned(),
                "sqlite://\u{0}".replace('\0', "%00"),
                "sqlite://日本.db".to_owned(),
            ],
        ),
        (
            "REDIS_URL",
            [
                "rediss://127.0.0.1:1",
                "rediss://localhost",
                "redis://:secret@127.0.0.1:6379/99",
                "redis://[::1",
                "redis://",
            ]
            .map(str::to_owned)
            .into(),
        ),
        ("POSTHORN_PROFILE", vec!["production".to_owned(), "development".to_owned()]),
        ("POSTHORN_LISTEN", ["[::1]:0", "127.0.0.1:0", "127.0.0.1:1", "0.0.0.0:0"].map(str::to_owned).into()),
        ("POSTHORN_BEHIND_PROXY", vec!["true".to_owned()]),
        ("POSTHORN_ADMIN_KEY", vec![KEY.1.to_owned(), "ü".repeat(30)]),
        (ENCRYPTION_KEY, vec![SEALED.1.to_owned()]),
        ("POSTHORN_TLS_CERTIFICATE", ["/dev/null", "/", "x.db"].map(str::to_owned).into()),
        ("POSTHORN_TLS_KEY", ["/dev/null", "/nowhere"].map(str::to_owned).into()),
        ("POSTHORN_LEASE_SECONDS", vec!["1".to_owned(), "600".to_owned()]),
        ("POSTHORN_MAX_IN_FLIGHT", vec!["1".to_owned(), "65536".to_owned()]),
        ("POSTHORN_ALLOWED_PRIVATE_NETWORKS", ["none", "::/0", "0.0.0.0/0", ",,"].map(str::to_owned).into()),
        ("SSL_CERT_FILE", vec!["/dev/null".to_owned(), "/nowhere".to_owned()]),
        ("RUST_LOG", ["trace", "nonsense=nonsense", "["].map(str::to_owned).into()),
        ("POSTHORN_LOG_FORMAT", vec!["json".to_owned()]),
    ];
    for _ in 0..40 {
        let mut settings = vec![("POSTHORN_START_PATIENCE_SECONDS".to_owned(), "0.1".to_owned())];
        for (name, values) in &choices {
            if random.random_bool(0.3) {
                settings.push(((*name).to_owned(), values[random.random_range(0..values.len())].clone()));
            }
        }
        let mut process = Process::spawn(&database, &settings, &["serve"]);
        let listens = process.log.find(PATIENCE, |line| line.contains("listening").then_some(())).await;
        if listens.is_some() {
            process.signal(Signal::SIGTERM);
        }
        let ended = process.ended().await;
        let log = process.log.lines().join("\n");
        let expected = i32::from(listens.is_none());
        assert_eq!(ended.code(), Some(expected), "{settings:?}:\n{log}");
        assert!(!log.contains("a panic") && !log.contains("panicked"), "{settings:?}:\n{log}");
        let last = log.lines().last().unwrap_or_default();
        assert!(listens.is_some() || last.starts_with("posthorn: "), "{settings:?}:\n{log}");
    }
}
