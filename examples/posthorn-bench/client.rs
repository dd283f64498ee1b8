//! One HTTP/1.1 connection that is kept: hyper without a pool, since its cost is part of every figure.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use hmac::{Hmac, Mac as _};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use sha2::Sha256;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

/// Its events with the same value arrive in order.
pub(crate) const ORDERING_KEY: &str = "posthorn-ordering-key";

/// Of a guarded server.
pub(crate) const ADMIN_KEY: &str = "posthorn-bench-admin-key";
/// Of a guarded server's subscriptions.
pub(crate) const SECRET_KEY: &str = "posthorn-bench-secret-key";
const BODY_SIGNATURE: &str = "x-webhook-signature-256";

const ANSWER_BYTES_MAX: usize = 64 * 1024;
const ANSWER_PATIENCE: Duration = Duration::from_secs(30);

/// A connection to one server; opened again when the server has closed it between two requests.
pub(crate) struct Client {
    address: SocketAddr,
    host: HeaderValue,
    /// Shows the admin's key, and signs what it sends.
    guarded: bool,
    connection: Connection,
}

struct Connection {
    sender: SendRequest<Full<Bytes>>,
    _driver: AbortOnDropHandle<()>,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
}

impl Answer {
    /// Whether these words are in the body.
    pub(crate) fn says(&self, words: &str) -> bool {
        String::from_utf8_lossy(&self.body).contains(words)
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status, String::from_utf8_lossy(&self.body))
    }
}

impl Client {
    /// Connects to a server that is guarded, or not.
    pub(crate) async fn connect(address: SocketAddr, guarded: bool) -> anyhow::Result<Self> {
        let host = HeaderValue::try_from(address.to_string())?;
        Ok(Self { address, host, guarded, connection: Connection::open(address).await? })
    }

    /// Posts a JSON body to a path, with an ordering key where there is one, and reads the whole answer.
    pub(crate) async fn post(
        &mut self,
        path: &Uri,
        key: Option<&str>,
        body: Bytes,
    ) -> anyhow::Result<Answer> {
        if self.connection.sender.is_closed() {
            self.connection = Connection::open(self.address).await?;
        }
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(path.clone())
            .header(HOST, self.host.clone())
            .header(CONTENT_TYPE, const { HeaderValue::from_static("application/json") });
        if let Some(key) = key {
            request = request.header(ORDERING_KEY, key);
        }
        if self.guarded {
            let signature =
                Hmac::<Sha256>::new_from_slice(SECRET_KEY.as_bytes())?.chain_update(&body).finalize();
            request = request
                .header(AUTHORIZATION, format!("Bearer {ADMIN_KEY}"))
                .header(BODY_SIGNATURE, format!("sha256={}", hex::encode(signature.into_bytes())));
        }
        let request = request.body(Full::new(body))?;
        let exchange = timeout(ANSWER_PATIENCE, self.connection.exchange(request));
        let Ok(answer) = exchange.await else { bail!("POST {path}: no answer within {ANSWER_PATIENCE:?}") };
        answer.with_context(|| format!("POST {path}"))
    }
}

impl Connection {
    async fn open(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(async move {
            // Its error comes back from the request that it breaks.
            let _ = connection.await;
        });
        Ok(Self { sender, _driver: AbortOnDropHandle::new(driver) })
    }

    async fn exchange(&mut self, request: Request<Full<Bytes>>) -> anyhow::Result<Answer> {
        self.sender.ready().await?;
        let (head, body) = self.sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(anyhow::Error::from_boxed)?;
        Ok(Answer { status: head.status, body: body.to_bytes() })
    }
}
