//! A way to another server that can be made to swallow what comes through, its connections open, or to break them.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub(crate) struct Proxy {
    pub(crate) port: u16,
    way: watch::Sender<Way>,
}

#[derive(Clone, Copy)]
struct Way {
    to_server: bool,
    to_client: bool,
    /// How often the connections have been broken.
    broken: usize,
}

impl Proxy {
    /// To PostgreSQL at this URL.
    pub(crate) async fn to(url: &str) -> Self {
        let url: url::Url = url.parse().expect("a URL");
        let (host, port) = (url.host_str().expect("a host").to_owned(), url.port().unwrap_or(5432));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let way = watch::Sender::new(Way { to_server: true, to_client: true, broken: 0 });
        let proxy = Self { port: listener.local_addr().expect("an address").port(), way };
        let way = proxy.way.subscribe();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if let Ok(server) = TcpStream::connect((host.as_str(), port)).await {
                    tokio::spawn(connect(client, server, way.clone()));
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
        self.way.send_modify(|way| *way = Way { to_server: true, to_client: true, broken: way.broken + 1 });
    }
}

async fn connect(client: TcpStream, server: TcpStream, mut way: watch::Receiver<Way>) {
    let broken = way.borrow().broken;
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let (up, down) = (way.clone(), way.clone());
    tokio::select! {
        ((), ()) = async {
            tokio::join!(
                pass(from_client, to_server, || up.borrow().to_server),
                pass(from_server, to_client, || down.borrow().to_client),
            )
        } => {}
        _ = way.wait_for(|way| way.broken != broken) => {}
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, open: impl Fn() -> bool) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if open() && to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
