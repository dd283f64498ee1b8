//! Through a proxy: HTTP's `CONNECT` and absolute form, and SOCKS 5.

use std::net::Ipv4Addr;

use posthorn_domain::egress::EgressProxy;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::TcpStream;

use super::endpoint::Endpoint;
use super::tls::{https, self_signed, serve};
use super::*;
use crate::sender::Failure;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

/// Knows but the proxy's own name, which leads where nothing may be delivered.
fn names(name: &str) -> io::Result<Vec<SocketAddr>> {
    match name {
        "proxy.internal" | "forbidden.example" => Ok(vec![([127, 0, 0, 1], 0).into()]),
        "allowed.example" => Ok(vec![([127, 0, 0, 3], 0).into()]),
        _ => Err(io::Error::other("no such name")),
    }
}

/// May deliver to 127.0.0.3 alone.
fn through(proxy: &str, trusted: Vec<rustls::pki_types::CertificateDer<'static>>) -> Sender {
    let proxy = Some(EgressProxy::parse(proxy).unwrap());
    let settings = Settings { proxy, ..settings(&["127.0.0.3/32"]) };
    let resolver = Resolver::new(settings.guard.clone(), Listed(names), settings.proxy.as_ref());
    Sender::build(settings, resolver, trusted).unwrap()
}

#[tokio::test]
async fn http_targets_are_asked_of_the_proxy() {
    let mut proxy = Endpoint::answering(OK).await;
    let address = proxy.address;
    let sender = through(&format!("http://user:p%40ss@proxy.internal:{}", address.port()), Vec::new());
    // A name that this machine does not know: the proxy may.
    let reply = Case::to("http://somewhere.example:8080/hook?a=b").send(&sender).await;
    assert!(reply.is_success(), "{reply:?}");
    let arrived = proxy.arrived().await;
    let line = "POST http://somewhere.example:8080/hook?a=b HTTP/1.1\r\n";
    assert!(arrived.head.starts_with(line), "{}", arrived.head);
    assert_eq!(arrived.header("host"), Some("somewhere.example:8080"));
    assert_eq!(arrived.header("proxy-authorization"), Some("Basic dXNlcjpwQHNz"));
    assert!(arrived.header("webhook-signature").is_some());
}

#[tokio::test]
async fn what_the_guard_sees_is_refused_unsent() {
    let proxy = Endpoint::answering(OK).await;
    let sender = through(&format!("http://proxy.internal:{}", proxy.address.port()), Vec::new());
    for target in ["http://127.0.0.1/", "https://10.0.0.1/", "http://proxy.internal/", "http://[::1]/"] {
        assert_eq!(Case::to(target).send(&sender).await.error, Some(Failure::ForbiddenAddress), "{target}");
    }
    assert_eq!(proxy.connections().await, 0);
}

#[tokio::test]
async fn https_targets_are_spoken_to_end_to_end() {
    let identity = self_signed(|_| ());
    let endpoint = serve(&identity).await;
    let behind = endpoint.address;
    let proxy = Endpoint::new(move |mut stream| async move {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        let to = format!("CONNECT allowed.example:{} HTTP/1.1\r\n", behind.port());
        assert!(head.starts_with(&to), "{head}");
        assert!(!head.contains("webhook"), "{head}");
        stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
        let mut onward = TcpStream::connect(behind).await.unwrap();
        let _ = copy_bidirectional(&mut stream, &mut onward).await;
    })
    .await;
    let sender = through(&format!("http://{}", proxy.address), vec![identity.cert.der().clone()]);
    let reply = https(&endpoint, "allowed.example").send(&sender).await;
    assert_eq!((reply.status_code, reply.error.clone()), (Some(200), None));
}

#[tokio::test]
async fn a_proxy_that_does_not_help_is_told_from_the_endpoint() {
    let refusing = Endpoint::answering("HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n").await;
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (proxy, target) in [
        (refusing.address, "https://allowed.example/"),
        (gone, "https://allowed.example/"),
        (gone, "http://allowed.example/"),
    ] {
        let reply = Case::to(target).send(&through(&format!("http://{proxy}"), Vec::new())).await;
        assert_eq!(reply.error, Some(Failure::Proxy), "{target}");
    }
    let reply =
        Case::to("http://allowed.example/").send(&through(&format!("socks5://{gone}"), Vec::new())).await;
    assert_eq!(reply.error, Some(Failure::Proxy));
}

#[tokio::test]
async fn socks_is_handed_addresses_that_passed_the_guard() {
    let endpoint = Endpoint::answering(OK).await;
    let behind = endpoint.address;
    let proxy = Endpoint::new(move |mut stream| async move {
        // RFC 1928 and, for the password, RFC 1929.
        let methods = read_counted(&mut stream, 1).await;
        assert!(methods.contains(&2), "{methods:?}");
        stream.write_all(&[5, 2]).await.unwrap();
        assert_eq!(read_counted(&mut stream, 1).await, b"user");
        assert_eq!(read_counted(&mut stream, 0).await, b"pass");
        stream.write_all(&[1, 0]).await.unwrap();
        let mut request = [0; 10];
        stream.read_exact(&mut request).await.unwrap();
        assert_eq!(request[..4], [5, 1, 0, 1], "connect to an address of IPv4");
        assert_eq!(request[4..8], Ipv4Addr::new(127, 0, 0, 3).octets());
        assert_eq!(request[8..], behind.port().to_be_bytes());
        stream.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await.unwrap();
        let mut onward = TcpStream::connect(behind).await.unwrap();
        let _ = copy_bidirectional(&mut stream, &mut onward).await;
    })
    .await;
    let sender = through(&format!("socks5://user:pass@proxy.internal:{}", proxy.address.port()), Vec::new());
    let reply = Case::to(&endpoint.url_at("allowed.example")).send(&sender).await;
    assert!(reply.is_success(), "{reply:?}");
    for (name, failure) in
        [("forbidden.example", Failure::ForbiddenAddress), ("unknown.example", Failure::Dns)]
    {
        assert_eq!(Case::to(&endpoint.url_at(name)).send(&sender).await.error, Some(failure), "{name}");
    }
}

/// Bytes behind their number, which stands behind so many others.
async fn read_counted(stream: &mut TcpStream, others: usize) -> Vec<u8> {
    let mut before = vec![0; others + 1];
    stream.read_exact(&mut before).await.unwrap();
    let mut bytes = vec![0; usize::from(before[others])];
    stream.read_exact(&mut bytes).await.unwrap();
    bytes
}
