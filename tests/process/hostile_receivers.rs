//! What endpoints answer to hold the sender up, fill its memory, or break its records (P10).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rcgen::{CertificateParams, CertifiedKey, KeyPair};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::open_circuits::memory;
use crate::support::reply::Ending;
use crate::support::server::FAST;
use crate::support::{Backend, Posthorn, Receiver, Reply, on_both_databases};

on_both_databases!(
    endless_answers_are_cut_off,
    compressed_answers_are_left_alone,
    odd_bytes_are_recorded_and_shown,
    cookies_are_not_kept,
    connections_without_trust_are_refused,
);

/// Answers each request with `start` and then `part` without end, as fast as it is taken or each `pace`; counts the
/// bytes that were taken.
async fn endless(start: Vec<u8>, part: Vec<u8>, pace: Duration) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let taken = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&taken);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (start, part, counted) = (start.clone(), part.clone(), Arc::clone(&counted));
            tokio::spawn(async move {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(&start).await;
                while stream.write_all(&part).await.is_ok() {
                    counted.fetch_add(part.len(), Ordering::SeqCst);
                    tokio::time::sleep(pace).await;
                }
            });
        }
    });
    (address, taken)
}

async fn endless_answers_are_cut_off(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, FAST).await;
    let client = posthorn.client();
    let (at_once, slowly) = (Duration::ZERO, Duration::from_millis(50));
    let ok = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
    let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    let header = format!("x-a: {}\r\n", "b".repeat(1000)).into_bytes();
    let interim = b"HTTP/1.1 102 Processing\r\n\r\n".repeat(100);
    let cases = [
        ("a body", ok.clone(), vec![b'x'; 65_536], at_once, "success", Value::Null, 4096),
        (
            "a body of a failure",
            b"HTTP/1.1 500 X\r\n\r\n".to_vec(),
            vec![b'x'; 65_536],
            at_once,
            "failed",
            json!("unexpected status 500"),
            4096,
        ),
        ("a body, byte by byte", ok.clone(), b"x".to_vec(), slowly, "success", Value::Null, 1),
        (
            "a chunk's extension",
            [&chunked[..], b"1;"].concat(),
            vec![b'x'; 65_536],
            at_once,
            "success",
            Value::Null,
            0,
        ),
        ("trailers", [&chunked[..], b"0\r\n"].concat(), header.clone(), at_once, "success", Value::Null, 0),
        ("a head", b"HTTP/1.1 200 OK\r\n".to_vec(), header, at_once, "failed", json!("invalid response"), 0),
        (
            "one header",
            b"HTTP/1.1 200 OK\r\nx: ".to_vec(),
            vec![b'y'; 65_536],
            at_once,
            "failed",
            json!("invalid response"),
            0,
        ),
        (
            "a reason",
            b"HTTP/1.1 200 ".to_vec(),
            vec![b'y'; 65_536],
            at_once,
            "failed",
            json!("invalid response"),
            0,
        ),
        (
            "a head, byte by byte",
            b"HTTP/1.1 200 OK\r\nx: ".to_vec(),
            b"y".to_vec(),
            slowly,
            "failed",
            json!("timeout"),
            0,
        ),
        ("interim answers", Vec::new(), interim, at_once, "failed", json!("timeout"), 0),
    ];
    let before = memory(posthorn.process_id(), "VmRSS:");
    join_all(cases.map(async |(case, start, part, pace, status, error, kept)| {
        let (address, taken) = endless(start, part, pace).await;
        let fields = json!({"timeout_seconds": 1, "retry": {"max_retries": 0}});
        let id = client.subscribe(&format!("http://{address}/"), fields).await.id;
        let delivery = client.ingest(&id, json!(1)).await;
        let begun = Instant::now();
        let ended =
            client.delivery_once(&delivery, "it ends", |shown| !shown["completed_at"].is_null()).await;
        assert!(begun.elapsed() < Duration::from_secs(8), "{case}: {:?}", begun.elapsed());
        let attempt = client.attempts(&delivery).await.remove(0);
        assert_eq!(
            (&ended["status"], &attempt["error_message"]),
            (&json!(status), &error),
            "{case}: {attempt}"
        );
        let body = attempt["response_body"].as_str().unwrap_or_default();
        let exact = pace == at_once;
        assert!(if exact { body.len() == kept } else { body.len() >= kept }, "{case}: {} bytes", body.len());
        assert!(attempt["duration_ms"].as_i64().unwrap() < 2500, "{case}: {attempt}");
        // The sockets' buffers on both sides take most of it. What is no answer at all ends by its time alone.
        let taken = taken.load(Ordering::SeqCst);
        assert!(case == "interim answers" || taken < 16 << 20, "{case}: {taken} bytes");
    }))
    .await;
    let grown = memory(posthorn.process_id(), "VmRSS:").saturating_sub(before);
    println!("{grown} bytes more in memory");
    assert!(grown < 64 * 1024 * 1024, "{grown} bytes");
}

/// A thousand letters, packed.
const PACKED: &[(&str, &[u8])] = &[
    ("gzip", b"\x1f\x8b\x08\0\0\0\0\0\x02\x03\xab\xa8\x18\x05\xa3`\x14\x0cw\0\0\xe6\xc9A;\xe8\x03\0\0"),
    ("deflate", b"x\x9c\xab\xa8\x18\x05\xa3`\x14\x0cw\0\0\xaa\xf4\xd4\xd0"),
    ("br", b"\x1b\xe7\x03\0\xa4\xb0\xb2k\x81\x30\x4c\x00"),
    ("zstd", b"\x28\xb5\x2f\xfd\x60\xe8\x02\x4d\0\0\x08x\x01\0\xe4\x2b\x80\x05"),
    ("gzip, gzip", b"\x1f\x8b\x08\0\0\0\0\0\x02\x03\xab\xa8\x18\x05\xa3`\x14\x0cw\0\0\xe6\xc9A;\xe8\x03\0\0"),
];

async fn compressed_answers_are_left_alone(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, FAST).await;
    let client = posthorn.client();
    for (encoding, bytes) in PACKED {
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-encoding: {encoding}\r\ncontent-length: {}\r\n\r\n",
            bytes.len()
        );
        let receiver =
            Receiver::always(Reply::raw(&[head.as_bytes(), bytes].concat(), Ending::KeepAlive)).await;
        let id = client.subscribe(&receiver.url("/"), json!({})).await.id;
        let delivery = client.ingest(&id, json!(1)).await;
        client.delivery_in(&delivery, "success").await;
        let attempt = client.attempts(&delivery).await.remove(0);
        assert_eq!(attempt["response_body"], *String::from_utf8_lossy(bytes), "{encoding}");
        assert!(receiver.requests()[0].all("accept-encoding").is_empty(), "nothing packed is asked for");
    }
}

async fn odd_bytes_are_recorded_and_shown(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, FAST).await;
    let client = posthorn.client();
    let body = b"a\0b\xffc\x1b[31m\r\n\xed\xa0\x80</script>";
    let shown = String::from_utf8_lossy(body);
    assert!(shown.contains('\u{fffd}') && shown.contains('\0'));
    let cut = [&[b'x'; 4095][..], "ü".as_bytes(), b"more"].concat();
    for (case, reason, body, text) in [
        ("odd bytes", "OK".to_owned(), &body[..], shown.into_owned()),
        ("no reason", String::new(), b"", String::new()),
        ("a long reason", "r".repeat(20_000), b"fine", "fine".to_owned()),
        ("a reason beyond ASCII", "\u{fffd} größe".to_owned(), b"fine", "fine".to_owned()),
        ("cut within a character", "OK".to_owned(), &cut, format!("{}…", "x".repeat(4093))),
    ] {
        for (status, ended) in [(200, "success"), (500, "failed")] {
            let head = format!(
                "HTTP/1.1 {status} {reason}\r\nx-odd: \u{fffd}\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            let receiver =
                Receiver::always(Reply::raw(&[head.as_bytes(), body].concat(), Ending::Close)).await;
            let id = client.subscribe(&receiver.url("/"), json!({"retry": {"max_retries": 0}})).await.id;
            let delivery = client.ingest(&id, json!(1)).await;
            client.delivery_in(&delivery, ended).await;
            let attempt = client.attempts(&delivery).await.remove(0);
            assert_eq!(
                (&attempt["status_code"], &attempt["response_body"]),
                (&json!(status), &json!(text)),
                "{case}"
            );
            let error = if status == 200 { Value::Null } else { json!("unexpected status 500") };
            assert_eq!(attempt["error_message"], error, "{case}: nothing of what it said");
        }
    }
}

async fn cookies_are_not_kept(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, FAST).await;
    let client = posthorn.client();
    let receiver = Receiver::script([
        Reply::header(500, "Set-Cookie", "canary=1; Path=/; Max-Age=1000"),
        Reply::header(200, "Set-Cookie", "canary=2"),
    ])
    .await;
    let id = client.subscribe(&receiver.url("/"), json!({})).await.id;
    for event in 0..3 {
        let delivery = client.ingest(&id, json!(event)).await;
        client.delivery_in(&delivery, "success").await;
    }
    for request in receiver.ended(4).await {
        assert!(request.all("cookie").is_empty(), "{:?}", request.headers);
    }
}

fn certificate(customize: impl FnOnce(&mut CertificateParams)) -> CertifiedKey<KeyPair> {
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    customize(&mut params);
    let signing_key = KeyPair::generate().unwrap();
    CertifiedKey { cert: params.self_signed(&signing_key).unwrap(), signing_key }
}

/// Answers 200 over TLS.
async fn serve_tls(identity: &CertifiedKey<KeyPair>) -> SocketAddr {
    let key = PrivateKeyDer::try_from(identity.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![identity.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    serve(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let _ =
                stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await;
            let _ = stream.shutdown().await;
        }
    })
    .await
}

async fn serve<F>(behave: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(behave(stream));
        }
    });
    address
}

/// Answers whatever comes first with `bytes`, and waits for the end.
async fn saying(bytes: Vec<u8>) -> SocketAddr {
    serve(move |mut stream| {
        let bytes = bytes.clone();
        async move {
            let mut hello = [0; 4096];
            let _ = stream.read(&mut hello).await;
            let _ = stream.write_all(&bytes).await;
            while stream.read(&mut hello).await.is_ok_and(|read| read > 0) {}
        }
    })
    .await
}

/// A server's hello of an older version of TLS (RFC 4346 §7.4.1.3): `TLS_RSA_WITH_AES_128_CBC_SHA`, no extensions.
fn old_hello(minor: u8) -> Vec<u8> {
    let hello = [&[3, minor][..], &[7; 32], &[0, 0x00, 0x2f, 0]].concat();
    let length = u8::try_from(hello.len()).unwrap();
    let handshake = [&[2, 0, 0, length][..], &hello].concat();
    [&[0x16, 3, minor, 0, length + 4][..], &handshake].concat()
}

async fn connections_without_trust_are_refused(backend: Backend) {
    let trusted = certificate(|_| ());
    let expired = certificate(|params| params.not_after = rcgen::date_time_ymd(2020, 1, 1));
    let of_another_name = {
        let signing_key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["other.example".to_owned()]).unwrap();
        CertifiedKey { cert: params.self_signed(&signing_key).unwrap(), signing_key }
    };
    let folder = tempfile::tempdir().unwrap();
    let anchors = folder.path().join("trusted.pem");
    let known = [&trusted, &expired, &of_another_name].map(|identity| identity.cert.pem());
    std::fs::write(&anchors, known.concat()).unwrap();
    let settings =
        [FAST, &[("SSL_CERT_FILE", anchors.to_str().unwrap()), ("WEBHOOK_MAX_RETRIES", "0")]].concat();
    let posthorn = Posthorn::start_with(backend, &settings).await;
    let client = posthorn.client();
    let nobodys = certificate(|_| ());
    let cases = [
        ("trusted", serve_tls(&trusted).await, Value::Null),
        // It bears the name of one that is trusted, and so is a wrong signature.
        ("self-signed", serve_tls(&nobodys).await, json!("tls failure: invalid certificate")),
        ("expired", serve_tls(&expired).await, json!("tls failure: certificate expired")),
        (
            "of another name",
            serve_tls(&of_another_name).await,
            json!("tls failure: certificate of another name"),
        ),
        ("TLS 1.1", saying(old_hello(2)).await, json!("tls failure")),
        ("TLS 1.0", saying(old_hello(1)).await, json!("tls failure")),
        ("HTTP in clear", saying(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()).await, json!("tls failure")),
        ("stalled", saying(Vec::new()).await, json!("timeout")),
    ];
    join_all(cases.map(async |(case, address, error)| {
        let fields = json!({"timeout_seconds": 2});
        let id = client.subscribe(&format!("https://{address}/"), fields).await.id;
        let begun = Instant::now();
        let delivery = client.ingest(&id, json!(1)).await;
        client.delivery_once(&delivery, "it ends", |shown| !shown["completed_at"].is_null()).await;
        assert!(begun.elapsed() < Duration::from_secs(8), "{case}: {:?}", begun.elapsed());
        let attempt = client.attempts(&delivery).await.remove(0);
        assert_eq!(attempt["error_message"], error, "{case}");
    }))
    .await;
}
