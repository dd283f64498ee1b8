//! A way to another server that can be made to swallow what comes through, its connections open, or to break them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub(crate) struct Proxy {
    pub(crate) port: u16,
    way: watch::Sender<Way>,
    made: Arc<AtomicUsize>,
}

#[derive(Clone, Default)]
struct Way {
    to_server: bool,
    to_client: bool,
    /// Nothing moves, and nothing is lost.
    frozen: bool,
    /// How often the connections have been broken.
    broken: usize,
    /// Connections with lower numbers are dead: neither side ever hears of the other again, not even of its end.
    dead_below: usize,
    /// And these.
    dead: Vec<usize>,
}

impl Way {
    fn is_dead(&self, number: usize) -> bool {
        number < self.dead_below || self.dead.contains(&number)
    }
}

impl Proxy {
    /// To PostgreSQL at this URL.
    pub(crate) async fn to(url: &str) -> Self {
        let url: url::Url = url.parse().expect("a URL");
        let (host, port) = (url.host_str().expect("a host").to_owned(), url.port().unwrap_or(5432));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let way = watch::Sender::new(Way { to_server: true, to_client: true, ..Way::default() });
        let proxy =
            Self { port: listener.local_addr().expect("an address").port(), way, made: Arc::default() };
        let (way, made) = (proxy.way.subscribe(), Arc::clone(&proxy.made));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if let Ok(server) = TcpStream::connect((host.as_str(), port)).await {
                    let number = made.fetch_add(1, Ordering::SeqCst);
                    tokio::spawn(connect(client, server, number, way.clone()));
                }
            }
        });
        proxy
    }

    /// The URL of the same through here.
    pub(crate) fn through(&self, url: &str) -> String {
        let mut url: url::Url = url.parse().expect("a URL");
        url.set_host(Some("127.0.0.1")).expect("an address");
        url.set_port(Some(self.port)).expect("a URL with a host");
        url.into()
    }

    /// Nothing comes through any more.
    pub(crate) fn cut(&self) {
        self.way.send_modify(|way| (way.to_server, way.to_client) = (false, false));
    }

    /// What the server says does not come through any more.
    pub(crate) fn swallow_answers(&self) {
        self.way.send_modify(|way| way.to_client = false);
    }

    /// All connections end; new ones let everything through.
    pub(crate) fn break_off(&self) {
        self.way.send_modify(|way| {
            (way.to_server, way.to_client, way.frozen, way.broken) = (true, true, false, way.broken + 1);
        });
    }

    /// All goes through again; what was cut is lost.
    pub(crate) fn heal(&self) {
        self.way.send_modify(|way| (way.to_server, way.to_client) = (true, true));
    }

    /// Everything stands still until it is [thawed](Self::thaw).
    pub(crate) fn freeze(&self) {
        self.way.send_modify(|way| way.frozen = true);
    }

    pub(crate) fn thaw(&self) {
        self.way.send_modify(|way| way.frozen = false);
    }

    /// All connections that are there die without a word, as where a host vanishes or a firewall forgets. New ones
    /// are not concerned.
    pub(crate) fn forget(&self) {
        let made = self.made();
        self.way.send_modify(|way| (way.dead_below, way.frozen) = (made, false));
    }

    /// This one dies without a word.
    pub(crate) fn forget_one(&self, number: usize) {
        self.way.send_modify(|way| way.dead.push(number));
    }

    /// How many connections there have been; they are numbered from 0.
    pub(crate) fn made(&self) -> usize {
        self.made.load(Ordering::SeqCst)
    }
}

async fn connect(client: TcpStream, server: TcpStream, number: usize, mut way: watch::Receiver<Way>) {
    let broken = way.borrow().broken;
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let (up, down) = (way.clone(), way.clone());
    tokio::select! {
        ((), ()) = async {
            tokio::join!(
                pass(from_client, to_server, number, up, |way| way.to_server),
                pass(from_server, to_client, number, down, |way| way.to_client),
            )
        } => {}
        _ = way.wait_for(|way| way.broken != broken) => {}
    }
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    number: usize,
    mut way: watch::Receiver<Way>,
    open: impl Fn(&Way) -> bool,
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = from.read(&mut buffer).await;
        let _ = way.wait_for(|way| !way.frozen || way.is_dead(number)).await;
        if way.borrow().is_dead(number) {
            // Neither half is closed.
            return std::future::pending().await;
        }
        let Ok(count @ 1..) = read else { return };
        if open(&way.borrow()) && to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
