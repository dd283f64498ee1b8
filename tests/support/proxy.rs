//! A way to another server that can be made to swallow everything, its connections open.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub(crate) struct Proxy {
    pub(crate) port: u16,
    open: watch::Sender<bool>,
}

impl Proxy {
    pub(crate) async fn start((host, port): (&str, u16)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let proxy =
            Self { port: listener.local_addr().expect("an address").port(), open: watch::Sender::new(true) };
        let (host, open) = (host.to_owned(), proxy.open.subscribe());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if let Ok(server) = TcpStream::connect((host.as_str(), port)).await {
                    let ((from_client, to_client), (from_server, to_server)) =
                        (client.into_split(), server.into_split());
                    tokio::spawn(pass(from_client, to_server, open.clone()));
                    tokio::spawn(pass(from_server, to_client, open.clone()));
                }
            }
        });
        proxy
    }

    /// Nothing comes through any more.
    pub(crate) fn cut(&self) {
        self.open.send_replace(false);
    }
}

async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    open: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if *open.borrow() && to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
