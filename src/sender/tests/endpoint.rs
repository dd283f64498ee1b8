//! A receiver of raw bytes: it can answer what no HTTP server would.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// What arrived on the wire.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) head: String,
    pub(super) body: Vec<u8>,
}

impl Arrived {
    /// The value of the only header of that name; none where there is none.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.head.lines().skip(1).filter_map(|line| {
            let (header, value) = line.split_once(": ")?;
            header.eq_ignore_ascii_case(name).then_some(value)
        });
        let value = found.next();
        assert_eq!(found.next(), None, "{name} came twice");
        value
    }
}

/// Listens until it is dropped.
pub(super) struct Endpoint {
    pub(super) address: SocketAddr,
    peers: Arc<Mutex<Vec<SocketAddr>>>,
    arrived: mpsc::UnboundedReceiver<Arrived>,
    task: JoinHandle<()>,
}

impl Endpoint {
    /// Does `behave` with each connection.
    pub(super) async fn on<F>(address: &str, behave: impl Fn(TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::start(address, move |stream, _| behave(stream)).await
    }

    pub(super) async fn new<F>(behave: impl Fn(TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::on("127.0.0.1:0", behave).await
    }

    /// Answers each request with `bytes`, and keeps the connection.
    pub(super) async fn answering(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = Arc::new(bytes.into());
        Self::start("127.0.0.1:0", move |mut stream, arrived| {
            let bytes = Arc::clone(&bytes);
            async move {
                while let Some(request) = read_request(&mut stream).await {
                    let _ = arrived.send(request);
                    if stream.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
            }
        })
        .await
    }

    async fn start<F>(
        address: &str,
        behave: impl Fn(TcpStream, mpsc::UnboundedSender<Arrived>) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let peers = Arc::new(Mutex::new(Vec::new()));
        let (sender, arrived) = mpsc::unbounded_channel();
        let seen = Arc::clone(&peers);
        let task = tokio::spawn(async move {
            loop {
                let (stream, peer) = listener.accept().await.unwrap();
                seen.lock().unwrap().push(peer);
                tokio::spawn(behave(stream, sender.clone()));
            }
        });
        Self { address, peers, arrived, task }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    /// The same port under another host.
    pub(super) fn url_at(&self, host: &str) -> String {
        format!("http://{host}:{}/hook", self.address.port())
    }

    /// Connections so far, those in the listener's queue too: that is in order, so one of the
    /// asker's own, made now, is counted last.
    pub(super) async fn connections(&self) -> usize {
        let own = TcpStream::connect(self.address).await.unwrap().local_addr().unwrap();
        let counted = async {
            loop {
                if let Some(before) = self.peers.lock().unwrap().iter().position(|&peer| peer == own) {
                    return before;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(super::AMPLE, counted).await.expect("connections are accepted")
    }

    /// The next request that arrived.
    pub(super) async fn arrived(&mut self) -> Arrived {
        let next = tokio::time::timeout(super::AMPLE, self.arrived.recv());
        next.await.expect("a request arrives in time").unwrap()
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Reads one request with its body; none where the connection ended.
pub(super) async fn read_request(stream: &mut TcpStream) -> Option<Arrived> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let mut arrived = Arrived { head, body: Vec::new() };
    let length = arrived.header("content-length").map_or(0, |value| value.parse().unwrap());
    arrived.body.resize(length, 0);
    stream.read_exact(&mut arrived.body).await.ok()?;
    Some(arrived)
}

/// Waits until the other side closes; whether it did in time.
pub(super) async fn closed(stream: &mut TcpStream) -> bool {
    let mut rest = [0; 1024];
    let end = async { while !matches!(stream.read(&mut rest).await, Ok(0) | Err(_)) {} };
    tokio::time::timeout(super::AMPLE, end).await.is_ok()
}
