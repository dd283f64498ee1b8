//! What an attempt costs beside the bare client:
//! `cargo test --release --lib sender::tests::cost -- --ignored --nocapture`.

use std::convert::Infallible;
use std::fs::read_to_string;
use std::time::Instant;

use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{CertifiedKey, KeyPair};
use reqwest::Method;
use reqwest::header::HeaderMap;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Builder;

use super::endpoint::Endpoint;
use super::tls::{acceptor, self_signed, trusting};
use super::*;
use crate::sender::headers::headers_of;

const AT_ONCE: usize = 64;
const REQUESTS: usize = 40_000;

/// The receiver has a thread of its own; only the sender's is counted. It prints, and judges nothing.
#[test]
#[ignore = "a measurement"]
fn cost() {
    let identity = self_signed(|_| ());
    for (name, protocol) in
        [("HTTP/1.1", None), ("HTTP/1.1 over TLS", Some("http/1.1")), ("HTTP/2 over TLS", Some("h2"))]
    {
        let case = Case { payload: Bytes::from(vec![b'x'; 500]), ..Case::to(&receiver(&identity, protocol)) };
        let sender = trusting(&identity);
        let (attempt, rate) = measure(&case, &async |case: &Case| {
            assert!(case.send(&sender).await.is_success());
        });
        let headers = headers_of(&case.request()).unwrap();
        let (bare, bare_rate) = measure(&case, &async |case: &Case| bare(&sender, case, &headers).await);
        println!(
            "{name}: attempt {attempt:.1} µs ({rate:.0}/s), bare client {bare:.1} µs ({bare_rate:.0}/s)"
        );
    }
}

async fn bare(sender: &Sender, case: &Case, headers: &HeaderMap) {
    let mut request = reqwest::Request::new(Method::POST, case.target.as_url().clone());
    *request.headers_mut() = headers.clone();
    *request.body_mut() = Some(case.payload.clone().into());
    let (client, _turn) = sender.clients.client(&case.request()).await.unwrap();
    let response = client.execute(request).await.unwrap();
    assert!(response.status().is_success());
    response.bytes().await.unwrap();
}

/// Processor time of one request in µs, and requests in a second.
fn measure(case: &Case, request: &impl AsyncFn(&Case)) -> (f64, f64) {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let run = |requests: usize| {
        let lane = async || {
            for _ in 0..requests / AT_ONCE {
                request(case).await;
            }
        };
        runtime.block_on(futures_util::future::join_all((0..AT_ONCE).map(|_| lane())));
    };
    run(REQUESTS / 10);
    let (used, begun) = (used(), Instant::now());
    run(REQUESTS);
    let count = f64::from(u32::try_from(REQUESTS).unwrap());
    ((self::used() - used) / count / 1000.0, count / begun.elapsed().as_secs_f64())
}

/// Nanoseconds that this thread has run.
fn used() -> f64 {
    let text = read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

/// Answers until the process ends; its URL.
fn receiver(identity: &CertifiedKey<KeyPair>, protocol: Option<&'static str>) -> String {
    let acceptor = protocol.map(|protocol| acceptor(identity, &[protocol]));
    let (report, reported) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let endpoint = Endpoint::new(move |stream| {
                let acceptor = acceptor.clone();
                async move {
                    stream.set_nodelay(true).unwrap();
                    match acceptor {
                        None => serve(stream, protocol).await,
                        Some(acceptor) => serve(acceptor.accept(stream).await.unwrap(), protocol).await,
                    }
                }
            })
            .await;
            let scheme = if protocol.is_some() { "https" } else { "http" };
            let url = format!("{scheme}://allowed.example:{}/hook", endpoint.address.port());
            report.send(url).unwrap();
            std::future::pending::<()>().await;
        });
    });
    reported.recv().unwrap()
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, protocol: Option<&str>) {
    let service = service_fn(async |request: hyper::Request<Incoming>| {
        request.into_body().collect().await.unwrap();
        Ok::<_, Infallible>(hyper::Response::new(Full::new(Bytes::from_static(b"ok"))))
    });
    let stream = TokioIo::new(stream);
    let _ = if protocol == Some("h2") {
        http2::Builder::new(TokioExecutor::new()).serve_connection(stream, service).await
    } else {
        http1::Builder::new().serve_connection(stream, service).await
    };
}
