//! Attempts against real sockets that behave and misbehave.

mod answers;
mod cost;
mod egress;
mod endpoint;
mod failures;
mod http2;
mod requests;
mod tls;

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use posthorn_domain::address::AddressGuard;
use posthorn_domain::certificate::ClientCertificate;
use posthorn_domain::forward::ForwardedHeaders;
use posthorn_domain::header::StaticHeaders;
use posthorn_domain::hops::Hops;
use posthorn_domain::id::{AttemptNumber, DeliveryId, Sequence};
use posthorn_domain::rotation::Replaced;
use posthorn_domain::signature::{SecretKey, SigningSecret};
use posthorn_domain::subscription::SigningSecrets;
use posthorn_domain::target::TargetUrl;
use posthorn_domain::tenant::Tenant;
use posthorn_domain::time::Timestamp;
use uuid::Uuid;

use super::resolver::Resolver;
use super::resolver::tests::{Listed, Silent};
use super::{Reply, Request, Sender, Settings};

/// Longer than any answer of the test's endpoints takes, on a busy machine too.
const AMPLE: Duration = Duration::from_secs(20);

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    Timestamp::from_millis(since.as_millis().try_into().unwrap())
}

/// What a request borrows from.
struct Case {
    tenant: Tenant,
    target: TargetUrl,
    headers: StaticHeaders,
    forwarded: ForwardedHeaders,
    secret_key: Option<SecretKey>,
    signing: SigningSecrets,
    client_certificate: Option<ClientCertificate>,
    replay_of: Option<DeliveryId>,
    content_type: &'static str,
    payload: Bytes,
    timeout: Duration,
    at: Timestamp,
}

impl Case {
    fn to(url: &str) -> Self {
        Self {
            tenant: Tenant::default(),
            target: TargetUrl::parse(url).unwrap(),
            headers: StaticHeaders::default(),
            forwarded: ForwardedHeaders::default(),
            secret_key: None,
            signing: SigningSecrets {
                current: SigningSecret::from_random([1; 32]),
                replaced: Replaced::default(),
            },
            client_certificate: None,
            replay_of: None,
            content_type: "application/json",
            payload: Bytes::from_static(b"{}"),
            timeout: AMPLE,
            at: now(),
        }
    }

    fn of(self, tenant: &str) -> Self {
        Self { tenant: tenant.parse().unwrap(), ..self }
    }

    fn within(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    fn request(&self) -> Request<'_> {
        Request {
            tenant: &self.tenant,
            target: &self.target,
            headers: &self.headers,
            secret_key: self.secret_key.as_ref(),
            signing: &self.signing,
            asymmetric_signature: false,
            client_certificate: self.client_certificate.as_ref(),
            delivery_id: DeliveryId(Uuid::from_u128(0x0199_0000_7000_8000_0000_0000_0001)),
            sequence: Sequence(42),
            attempt: AttemptNumber::after(2),
            replay_of: self.replay_of,
            hops: Hops::default(),
            forwarded: &self.forwarded,
            content_type: self.content_type,
            payload: self.payload.clone(),
            timeout: self.timeout,
            at: self.at,
        }
    }

    async fn send(&self, sender: &Sender) -> Reply {
        let request = self.request();
        let attempt = sender.attempt(&request);
        tokio::time::timeout(2 * AMPLE, attempt).await.expect("an attempt ends within its time-out")
    }
}

fn settings(allowed: &[&str]) -> Settings {
    let guard = AddressGuard::new(allowed.iter().map(|network| network.parse().unwrap()).collect());
    Settings { guard, user_agent: "Posthorn/0.0.0".to_owned(), proxy: None }
}

/// May dial 127.0.0.1 and nothing else of this machine.
fn sender() -> Sender {
    sender_with(&["127.0.0.1/32"])
}

fn sender_with(allowed: &[&str]) -> Sender {
    let settings = settings(allowed);
    let resolver = Resolver::new(settings.guard.clone(), Listed(test_names), None);
    Sender::build(settings, resolver, Vec::new()).unwrap()
}

/// The test's own name server.
fn test_names(name: &str) -> io::Result<Vec<SocketAddr>> {
    let addresses: &[[u8; 4]] = match name {
        "allowed.example" => &[[127, 0, 0, 1]],
        "forbidden.example" => &[[127, 0, 0, 2], [10, 0, 0, 1]],
        "mixed.example" => &[[127, 0, 0, 2], [127, 0, 0, 1]],
        _ => return Err(io::Error::other("no such name, said with its http://secret/path?query")),
    };
    Ok(addresses.iter().map(|&address| (address, 0).into()).collect())
}
