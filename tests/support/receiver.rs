//! An endpoint that records what arrives, byte for byte, and answers as the test says.
//!
//! It speaks HTTP/1.1 over plain sockets, so that it can reset, stall and answer nonsense.
//! A request is open from its first byte until just before the answer's first byte is sent, or
//! until the other side closes: never longer than the sender takes it to be open.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::reply::{Ending, Reply};
use super::wait::PATIENCE;

/// No test sends more in one request.
const REQUEST_BYTES_MAX: usize = 33 * 1024 * 1024;

/// One request as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    /// Its place in the order of arrival, from 0.
    pub(crate) index: usize,
    /// The method.
    pub(crate) method: String,
    /// Path and query.
    pub(crate) path: String,
    /// In the order they came; names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    /// The exact bytes.
    pub(crate) body: Vec<u8>,
    /// When its first byte was read.
    pub(crate) opened: Instant,
    /// When the answer began or the other side closed; none while it is open.
    pub(crate) closed: Option<Instant>,
    /// Whether a whole answer began before the other side left. It is set before the first byte goes
    /// out: who has read the answer finds it set.
    pub(crate) answered: bool,
    /// Wall-clock time of arrival.
    pub(crate) arrived: SystemTime,
}

impl Received {
    /// The header's value; fails where it came not at all or twice.
    pub(crate) fn header(&self, name: &str) -> &str {
        let values = self.all(name);
        assert_eq!(values.len(), 1, "{name} should stand once among {:?}", self.headers);
        values[0]
    }

    /// Every value of the header.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str()).collect()
    }

    /// The delivery's id.
    pub(crate) fn delivery_id(&self) -> &str {
        self.header("webhook-id")
    }

    /// `Posthorn-Sequence`.
    pub(crate) fn sequence(&self) -> i64 {
        self.header("posthorn-sequence").parse().expect("a whole number in Posthorn-Sequence")
    }

    /// `Posthorn-Attempt`.
    pub(crate) fn attempt(&self) -> i64 {
        self.header("posthorn-attempt").parse().expect("a whole number in Posthorn-Attempt")
    }
}

type Answering = Box<dyn Fn(&Received) -> Reply + Send + Sync>;

struct Shared {
    log: Mutex<Vec<Received>>,
    answering: Mutex<Arc<Answering>>,
    changed: watch::Sender<()>,
    connections: watch::Sender<usize>,
}

/// A listening endpoint; it closes with its owner.
pub(crate) struct Receiver {
    address: SocketAddr,
    /// Bound and never listening: it keeps the port while nobody listens there.
    _port: TcpSocket,
    shared: Arc<Shared>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Receiver {
    /// Answers each request as the function says.
    pub(crate) async fn start(answering: impl Fn(&Received) -> Reply + Send + Sync + 'static) -> Self {
        let port = TcpSocket::new_v4().expect("a socket");
        port.set_reuseaddr(true).expect("an option of every socket");
        port.bind(([127, 0, 0, 1], 0).into()).expect("a free port");
        let address = port.local_addr().unwrap();
        let listener = TcpListener::bind(address).await.expect("nobody else listens there");
        let shared = Arc::new(Shared {
            log: Mutex::default(),
            answering: Mutex::new(Arc::new(Box::new(answering))),
            changed: watch::Sender::new(()),
            connections: watch::Sender::new(0),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self { address, _port: port, shared, accepting }
    }

    /// Dies: its connections break off, and new ones are refused.
    pub(crate) async fn go_away(&mut self) {
        self.accepting.abort();
        let _ = (&mut self.accepting).await;
        for request in self.shared.log.lock().unwrap().iter_mut() {
            request.closed.get_or_insert_with(Instant::now);
        }
        self.shared.changed.send_replace(());
    }

    /// Listens again where it did before it went away.
    pub(crate) async fn come_back(&mut self) {
        let listener = TcpListener::bind(self.address).await.expect("nobody else listens there");
        self.accepting = tokio::spawn(accept(listener, Arc::clone(&self.shared)));
    }

    /// Answers each request alike.
    pub(crate) async fn always(reply: Reply) -> Self {
        Self::start(move |_| reply.clone()).await
    }

    /// Answers the n-th request with the n-th reply, and all after the last with 200.
    pub(crate) async fn script(replies: impl Into<Vec<Reply>>) -> Self {
        let replies: Vec<Reply> = replies.into();
        Self::start(move |request| replies.get(request.index).cloned().unwrap_or(Reply::status(200))).await
    }

    /// Answers otherwise from the next request on.
    pub(crate) fn answer(&self, answering: impl Fn(&Received) -> Reply + Send + Sync + 'static) {
        *self.shared.answering.lock().unwrap() = Arc::new(Box::new(answering));
    }

    /// The address of a path here.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Everything that arrived so far.
    pub(crate) fn requests(&self) -> Vec<Received> {
        self.shared.log.lock().unwrap().clone()
    }

    /// What arrived so far at the path.
    pub(crate) fn requests_at(&self, path: &str) -> Vec<Received> {
        self.requests().into_iter().filter(|request| request.path == path).collect()
    }

    /// Connections accepted so far.
    pub(crate) fn connections(&self) -> usize {
        *self.shared.connections.borrow()
    }

    /// Everything, as soon as so many requests have arrived.
    pub(crate) async fn arrived(&self, count: usize) -> Vec<Received> {
        self.until(&format!("{count} requests"), |log| log.len() >= count).await
    }

    /// Everything, as soon as so many requests have come to their end.
    pub(crate) async fn ended(&self, count: usize) -> Vec<Received> {
        let enough =
            |log: &[Received]| log.iter().filter(|request| request.closed.is_some()).count() >= count;
        self.until(&format!("{count} requests ended"), enough).await
    }

    /// Everything, as soon as the condition holds for it.
    pub(crate) async fn until(&self, what: &str, enough: impl Fn(&[Received]) -> bool) -> Vec<Received> {
        let mut changed = self.shared.changed.subscribe();
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let log = self.requests();
            if enough(&log) {
                return log;
            }
            let change = tokio::time::timeout_at(deadline, changed.changed()).await;
            assert!(change.is_ok(), "receiver: not within {PATIENCE:?}: {what}; saw {}", summary(&log));
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// The requests in one line each, for failures.
pub(crate) fn summary(log: &[Received]) -> String {
    let line = |request: &Received| {
        let of = |name: &str| request.all(name).first().copied().unwrap_or("-").to_owned();
        format!(
            "\n  {} sequence {} attempt {} open {:?} {}",
            request.path,
            of("posthorn-sequence"),
            of("posthorn-attempt"),
            request.closed.map(|closed| closed - request.opened),
            of("webhook-id"),
        )
    };
    let newest = log.len().saturating_sub(30);
    format!("{} requests, the newest:{}", log.len(), log[newest..].iter().map(line).collect::<String>())
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        shared.connections.send_modify(|count| *count += 1);
        connections.spawn(converse(stream, Arc::clone(&shared)));
        while connections.try_join_next().is_some() {}
    }
}

/// Serves one connection to its end; errors of the socket end it too.
async fn converse(mut stream: TcpStream, shared: Arc<Shared>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::new();
    while let Some((request, rest)) = read_request(&mut stream, buffer).await? {
        buffer = rest;
        let index = shared.record(request);
        let reply = shared.reply_to(index);
        if !peer_stays(&stream, wait_for_turn(&reply)).await {
            shared.change(index, |request| request.closed = Some(Instant::now()));
            return Ok(());
        }
        if reply.ending != Ending::Stall || !reply.bytes.is_empty() {
            let answered = matches!(reply.ending, Ending::KeepAlive | Ending::Close);
            shared.change(index, |request| {
                request.closed = Some(Instant::now());
                request.answered = answered;
            });
        }
        stream.write_all(&reply.bytes).await?;
        match reply.ending {
            Ending::KeepAlive => {}
            Ending::Close => return stream.shutdown().await,
            Ending::Reset => return stream.set_zero_linger(),
            Ending::Stall => {
                peer_stays(&stream, std::future::pending()).await;
                shared.change(index, |request| {
                    request.closed.get_or_insert_with(Instant::now);
                });
                return Ok(());
            }
        }
    }
    Ok(())
}

async fn wait_for_turn(reply: &Reply) {
    tokio::time::sleep(reply.delay).await;
    if let Some(gate) = &reply.gate {
        gate.wait().await;
    }
}

/// Waits; false as soon as the other side closes before that.
async fn peer_stays(stream: &TcpStream, waiting: impl Future<Output = ()>) -> bool {
    let gone = async {
        // More bytes before the answer would be pipelining, which no sender of ours does.
        while let Ok(1..) = stream.peek(&mut [0; 1]).await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        biased;
        () = waiting => true,
        () = gone => false,
    }
}

impl Shared {
    fn record(&self, request: Received) -> usize {
        let mut log = self.log.lock().unwrap();
        let index = log.len();
        log.push(Received { index, ..request });
        drop(log);
        self.changed.send_replace(());
        index
    }

    fn reply_to(&self, index: usize) -> Reply {
        let request = self.log.lock().unwrap()[index].clone();
        let answering = Arc::clone(&*self.answering.lock().unwrap());
        answering(&request)
    }

    fn change(&self, index: usize, change: impl FnOnce(&mut Received)) {
        change(&mut self.log.lock().unwrap()[index]);
        self.changed.send_replace(());
    }
}

/// The next request and what was read beyond it; none at the end of the connection.
async fn read_request(
    stream: &mut TcpStream,
    mut buffer: Vec<u8>,
) -> std::io::Result<Option<(Received, Vec<u8>)>> {
    let mut opened = None;
    loop {
        if let Some((mut request, length)) = parse(&buffer) {
            request.opened = opened.unwrap_or_else(Instant::now);
            return Ok(Some((request, buffer.split_off(length))));
        }
        assert!(buffer.len() < REQUEST_BYTES_MAX, "receiver: the request never ends");
        if stream.read_buf(&mut buffer).await? == 0 {
            return Ok(None);
        }
        opened.get_or_insert_with(Instant::now);
    }
}

/// A whole request at the buffer's beginning, with its length.
fn parse(buffer: &[u8]) -> Option<(Received, usize)> {
    let mut headers = [httparse::EMPTY_HEADER; 100];
    let mut head = httparse::Request::new(&mut headers);
    let Ok(httparse::Status::Complete(start)) = head.parse(buffer) else { return None };
    let headers: Vec<(String, String)> = head
        .headers
        .iter()
        .map(|header| (header.name.to_lowercase(), String::from_utf8_lossy(header.value).into_owned()))
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length").map_or("0", |(_, value)| value);
    let end = start + length.parse::<usize>().expect("receiver: a length in Content-Length");
    let now = Instant::now();
    Some((
        Received {
            index: 0,
            method: head.method?.to_owned(),
            path: head.path?.to_owned(),
            headers,
            body: buffer.get(start..end)?.to_vec(),
            opened: now,
            closed: None,
            answered: false,
            arrived: SystemTime::now(),
        },
        end,
    ))
}
