//! Why an attempt failed, by kind and in our own words.
//!
//! The client's own texts hold URLs with paths and queries, and change with its versions; so a
//! failure is told by the types in its chain of causes, and what none of them explains is just a
//! failed request.

use std::error::Error;
use std::io;

use rustls::{AlertDescription, CertificateError};

use crate::sender::resolver::ResolveError;

/// Why an attempt failed. `Display` is the attempt log's text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The endpoint answered, but not 2xx.
    #[error("unexpected status {0}")]
    UnexpectedStatus(u16),
    /// The endpoint says that it is elsewhere. Whoever subscribed has to say so: a redirect is not followed.
    #[error("unexpected status {status}: a redirect to {origin}, which is not followed")]
    Redirect {
        /// The status.
        status: u16,
        /// Scheme, host and port of where it leads; path and query may hold secrets.
        origin: String,
    },
    /// The egress proxy is not there, or makes no connection to the endpoint.
    #[error("no connection through the egress proxy")]
    Proxy,
    /// No head of an answer within the time-out, or no sign of life on its HTTP/2 connection.
    #[error("timeout")]
    Timeout,
    /// Nothing listens there.
    #[error("connection refused")]
    ConnectionRefused,
    /// The other side broke the connection off, or the request's stream of it.
    #[error("connection reset")]
    ConnectionReset,
    /// The other side closed the connection before it had answered.
    #[error("connection closed without an answer")]
    ConnectionClosed,
    /// No way leads there.
    #[error("network unreachable")]
    Unreachable,
    /// The name has no address, or none that could be found out.
    #[error("dns failure")]
    Dns,
    /// Whoever knows the name's addresses did not say them in time.
    #[error("name not resolved in time")]
    NameNotInTime,
    /// The certificate's time is over.
    #[error("tls failure: certificate expired")]
    CertificateExpired,
    /// The certificate's time has not begun.
    #[error("tls failure: certificate not valid yet")]
    CertificateNotYetValid,
    /// The certificate does not name the target's host.
    #[error("tls failure: certificate of another name")]
    CertificateOfAnotherName,
    /// The certificate is self-signed, an intermediate one is missing, or its authority is not trusted.
    #[error("tls failure: certificate of unknown issuer")]
    CertificateOfUnknownIssuer,
    /// The server's own certificate is one to sign others with (`CA:TRUE`).
    #[error("tls failure: certificate of an authority and not of a server")]
    CertificateOfAuthority,
    /// The certificate is wrong in another way, such as a key that is too short.
    #[error("tls failure: invalid certificate")]
    InvalidCertificate,
    /// The endpoint asks for a certificate, and the subscription has none.
    #[error("tls failure: client certificate wanted")]
    ClientCertificateWanted,
    /// The endpoint refuses the subscription's certificate, or, over TLS 1.2, that there is none.
    #[error("tls failure: client certificate refused")]
    ClientCertificateRefused,
    /// No TLS connection came about for another reason.
    #[error("tls failure")]
    Tls,
    /// All addresses of the target lie where nothing may be delivered.
    #[error("forbidden address")]
    ForbiddenAddress,
    /// What came is no HTTP or against its rules, or its head is too large.
    #[error("invalid response")]
    InvalidResponse,
    /// A header that cannot be sent.
    #[error("invalid request")]
    InvalidRequest,
    /// Anything else.
    #[error("request failed")]
    Other,
}

impl Failure {
    /// Told by the chain of causes, from the outermost in.
    pub(super) fn of(error: &reqwest::Error) -> Self {
        match told_by_causes(error) {
            // While connecting only a TLS handshake waits for bytes that may end.
            Some(Self::ConnectionClosed) if error.is_connect() => Self::Tls,
            Some(failure) => failure,
            None if error.is_timeout() => Self::Timeout,
            None => Self::Other,
        }
    }
}

impl Failure {
    /// As [`of`](Self::of), of a request through a proxy: what is dialled is the proxy, which dials in turn.
    pub(super) fn of_proxied(error: &reqwest::Error) -> Self {
        match Self::of(error) {
            Self::ConnectionRefused | Self::ConnectionReset | Self::Unreachable | Self::Other
                if error.is_connect() =>
            {
                Self::Proxy
            }
            failure => failure,
        }
    }
}

/// Whether the request failed since its connection ended before any byte of an answer, and not since its stream alone
/// was reset.
pub(super) fn has_ended_connection(error: &reqwest::Error) -> bool {
    let causes = std::iter::successors(Some(error as &(dyn Error + 'static)), |&error| error.source());
    let mut streams = causes.filter_map(|error| error.downcast_ref::<h2::Error>());
    matches!(Failure::of(error), Failure::ConnectionReset | Failure::ConnectionClosed)
        && !streams.any(h2::Error::is_reset)
}

fn told_by_causes(error: &(dyn Error + 'static)) -> Option<Failure> {
    let causes = || std::iter::successors(Some(error), |&error| error.source());
    causes().find_map(told_by).or_else(|| {
        // The connection was gone when the request was to go out on it; why, not every client says.
        let gone = |error: &hyper::Error| error.is_canceled() || error.is_closed();
        let gone = causes().any(|error| error.downcast_ref().is_some_and(gone));
        gone.then_some(Failure::ConnectionClosed)
    })
}

fn told_by(error: &(dyn Error + 'static)) -> Option<Failure> {
    if let Some(error) = error.downcast_ref::<ResolveError>() {
        Some(match error {
            ResolveError::Forbidden => Failure::ForbiddenAddress,
            ResolveError::Failed => Failure::Dns,
            ResolveError::NotInTime => Failure::NameNotInTime,
        })
    } else if let Some(error) = error.downcast_ref::<rustls::Error>() {
        Some(told_by_tls(error))
    } else if let Some(error) = error.downcast_ref::<hyper::Error>() {
        told_by_http(error)
    } else if let Some(error) = error.downcast_ref::<h2::Error>() {
        told_by_http2(error)
    } else {
        error.downcast_ref::<io::Error>().and_then(told_by_io)
    }
}

fn told_by_tls(error: &rustls::Error) -> Failure {
    match error {
        rustls::Error::InvalidCertificate(error) => told_by_certificate(error),
        rustls::Error::AlertReceived(alert) => told_by_alert(*alert),
        _ => Failure::Tls,
    }
}

fn told_by_certificate(error: &CertificateError) -> Failure {
    use CertificateError::{
        Expired, ExpiredContext, NotValidForName, NotValidForNameContext, NotValidYet, NotValidYetContext,
        Other, UnknownIssuer,
    };
    match error {
        Expired | ExpiredContext { .. } => Failure::CertificateExpired,
        NotValidYet | NotValidYetContext { .. } => Failure::CertificateNotYetValid,
        NotValidForName | NotValidForNameContext { .. } => Failure::CertificateOfAnotherName,
        UnknownIssuer => Failure::CertificateOfUnknownIssuer,
        // The library's own error has no type here.
        Other(error) if error.to_string().contains("CaUsedAsEndEntity") => Failure::CertificateOfAuthority,
        _ => Failure::InvalidCertificate,
    }
}

/// What an endpoint says of the client's certificate (RFC 8446 §6.2).
fn told_by_alert(alert: AlertDescription) -> Failure {
    use AlertDescription as Alert;
    match alert {
        Alert::CertificateRequired => Failure::ClientCertificateWanted,
        Alert::BadCertificate
        | Alert::UnsupportedCertificate
        | Alert::CertificateRevoked
        | Alert::CertificateExpired
        | Alert::CertificateUnknown
        | Alert::UnknownCA
        | Alert::AccessDenied => Failure::ClientCertificateRefused,
        _ => Failure::Tls,
    }
}

fn told_by_http(error: &hyper::Error) -> Option<Failure> {
    if error.is_parse() {
        Some(Failure::InvalidResponse)
    } else if error.is_incomplete_message() {
        Some(Failure::ConnectionClosed)
    } else {
        None
    }
}

fn told_by_http2(error: &h2::Error) -> Option<Failure> {
    if error.is_library() {
        // The client itself broke off, over what came.
        Some(Failure::InvalidResponse)
    } else if error.is_go_away() {
        Some(Failure::ConnectionClosed)
    } else if error.is_reset() {
        Some(Failure::ConnectionReset)
    } else {
        None
    }
}

fn told_by_io(error: &io::Error) -> Option<Failure> {
    // An error inside is not among the sources: those begin below it.
    if let Some(failure) = error.get_ref().and_then(|inner| told_by(inner)) {
        return Some(failure);
    }
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Some(Failure::ConnectionRefused),
        // With words inside it is no error of the system's: so the HTTP/2 client calls an end of the
        // connection that came before the answer, or within a frame.
        io::ErrorKind::BrokenPipe | io::ErrorKind::Other if error.get_ref().is_some() => {
            Some(Failure::ConnectionClosed)
        }
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe => {
            Some(Failure::ConnectionReset)
        }
        io::ErrorKind::UnexpectedEof => Some(Failure::ConnectionClosed),
        io::ErrorKind::TimedOut => Some(Failure::Timeout),
        // The HTTP/2 client keeps no more of a TLS error; nobody else has data that may be invalid.
        io::ErrorKind::InvalidData => Some(Failure::Tls),
        io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::AddrNotAvailable => Some(Failure::Unreachable),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Empty;
    use hyper::client::conn::http1::handshake;
    use hyper_util::rt::TokioIo;

    use super::*;

    /// As of an endpoint that says only after the handshake that it wants a certificate.
    #[tokio::test]
    async fn a_connection_that_went_before_the_request_was_closed() {
        let (near, _far) = tokio::io::duplex(64);
        let (mut requests, connection) = handshake::<_, Empty<&[u8]>>(TokioIo::new(near)).await.unwrap();
        drop(connection);
        let error = requests.send_request(hyper::Request::new(Empty::new())).await.unwrap_err();
        assert_eq!(told_by_causes(&error), Some(Failure::ConnectionClosed), "{error:?}");
        let error = requests.ready().await.unwrap_err();
        assert_eq!(told_by_causes(&error), Some(Failure::ConnectionClosed), "{error:?}");
    }
}
