//! Names whose servers keep silent, and who waits for them.
//!
//! The server gets a `resolv.conf` of its own, in a mount namespace of its own, with a name server of the test's. That
//! takes root; without it the tests are left out.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;
use tokio::net::UdpSocket;

use crate::support::beside::is_unnoticed;
use crate::support::server::PROGRAM;
use crate::support::{Backend, Client, Database, Posthorn, Receiver, Reply, eventually, on_both_databases};

on_both_databases!(silent_names_are_not_noticed_by_others);

/// More than one tenant may ask for at once.
const SILENT: usize = 300;
const QUICK: usize = 40;

async fn silent_names_are_not_noticed_by_others(backend: Backend) {
    let database = Arc::new(Database::create(backend).await);
    let Some(server) = NameServer::start().await else { return };
    let Some(program) = with_name_server(database.directory(), server.address) else { return };
    let mut posthorn = Posthorn::start_program(&program, database, &[]).await;
    let client = posthorn.client().clone();
    let receiver = Receiver::always(Reply::status(200)).await;
    let quick = subscribe(&client, &receiver, "quick", QUICK * 2).await;
    let silent = subscribe(&client, &receiver, "silent", SILENT).await;

    let alone = times(&client, &receiver, &quick[..QUICK]).await;
    let mut stuck = Vec::new();
    for ids in silent.chunks(20) {
        stuck.extend(join_all(ids.iter().map(|id| client.ingest(id, json!(1)))).await);
    }
    eventually("very many silent names", || async {
        let asked = server.asked.lock().unwrap().len();
        if asked > 100 { Ok(()) } else { Err(format!("{asked} were asked for")) }
    })
    .await;
    let beside = times(&client, &receiver, &quick[QUICK..]).await;
    is_unnoticed("from sending in to receipt, at a new name each", &alone, &beside);

    client.delivery_once(&stuck[0], "tried", |delivery| delivery["attempt_count"] == 1).await;
    let attempts = client.attempts(&stuck[0]).await;
    assert_eq!(attempts[0]["error_message"], "name not resolved in time", "{attempts:?}");
    assert!(receiver.requests().len() == 2 * QUICK, "nothing else arrives");
    assert!(posthorn.terminate().await.success(), "look-ups hold up no end");
}

async fn subscribe(client: &Client, receiver: &Receiver, kind: &str, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for index in 0..count {
        let host = format!("http://{kind}-{index}.example:");
        let url = receiver.url("/").replace("http://127.0.0.1:", &host);
        ids.push(client.subscribe(&url, json!({"tenant": kind})).await.id);
    }
    ids
}

/// From sending an event in to its receipt, four at once, each at an endpoint of its own.
async fn times(client: &Client, receiver: &Receiver, ids: &[String]) -> Vec<Duration> {
    let mut times = Vec::new();
    for ids in ids.chunks(4) {
        let seen = receiver.requests().len();
        let sending = ids.iter().map(|id| async move {
            let began = Instant::now();
            (client.ingest(id, json!(1)).await, began)
        });
        let sent = join_all(sending).await;
        let received = receiver.arrived(seen + ids.len()).await;
        times.extend(sent.iter().map(|(delivery, began)| {
            let request = received.iter().find(|request| request.delivery_id() == delivery).unwrap();
            request.opened.saturating_duration_since(*began)
        }));
    }
    times
}

/// Answers for names that begin with `quick`, and is silent about all others.
struct NameServer {
    address: Ipv4Addr,
    /// The silent names.
    asked: Arc<Mutex<BTreeSet<String>>>,
}

impl NameServer {
    /// None where the port of name servers is not to be had.
    async fn start() -> Option<Self> {
        static COUNT: AtomicU8 = AtomicU8::new(1);
        let [high, low] = u16::try_from(std::process::id() % 65_000).unwrap().to_be_bytes();
        // Of this process and this test.
        let address = Ipv4Addr::new(127, 100 + COUNT.fetch_add(1, Ordering::SeqCst) % 100, high, low);
        let Ok(socket) = UdpSocket::bind((address, 53)).await else {
            println!("left out: port 53 takes root");
            return None;
        };
        let asked = Arc::new(Mutex::new(BTreeSet::new()));
        let log = Arc::clone(&asked);
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                let name = first_label(&buffer[12..length]);
                if !name.starts_with("quick") {
                    log.lock().unwrap().insert(name);
                    continue;
                }
                let _ = socket.send_to(&answer(&buffer[..length]), from).await;
            }
        });
        Some(Self { address, asked })
    }
}

fn first_label(question: &[u8]) -> String {
    String::from_utf8_lossy(&question[1..=usize::from(question[0])]).into_owned()
}

/// 127.0.0.1 for IPv4, and nothing for IPv6 (RFC 1035 §4.1).
fn answer(question: &[u8]) -> Vec<u8> {
    let name = question[12..].iter().position(|byte| *byte == 0).unwrap() + 13;
    let is_ipv4 = question[name + 1] == 1;
    let mut answer = vec![question[0], question[1], 0x81, 0x80, 0, 1, 0, u8::from(is_ipv4), 0, 0, 0, 0];
    answer.extend_from_slice(&question[12..name + 4]);
    if is_ipv4 {
        answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 127, 0, 0, 1]);
    }
    answer
}

/// The binary, seeing that name server alone; none where that may not be had.
fn with_name_server(directory: &Path, address: Ipv4Addr) -> Option<String> {
    let (config, program) = (directory.join("resolv.conf"), directory.join("posthorn.sh"));
    std::fs::write(&config, format!("nameserver {address}\n")).unwrap();
    let script = format!(
        "#!/bin/sh\nexport PATH=/usr/sbin:/usr/bin:/sbin:/bin\n\
         exec unshare -m sh -c 'mount --bind {} /etc/resolv.conf && exec {PROGRAM} \"$@\"' sh \"$@\"\n",
        config.display()
    );
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let tried = Command::new(&program).arg("--version").output().unwrap();
    if !tried.status.success() {
        println!("left out: a mount of its own takes root: {}", String::from_utf8_lossy(&tried.stderr));
        return None;
    }
    Some(program.display().to_string())
}
