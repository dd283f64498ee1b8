//! HTTP below the contract: connections, TLS, who calls, and how whatever goes wrong is told.
//!
//! A request goes through [`server`] (connections, limits of heads and time), then the shell built here: errors become
//! problems ([`problem`]), panics too, the host is checked where nobody needs a key ([`host`]), [`auth`] says
//! who calls ([`Access`](crate::service::Access)), and a slash at the end of a path makes no difference. What is served, the routes
//! of [`api`](crate::api) know.

pub(crate) mod auth;
pub(crate) mod control_limit;
pub(crate) mod event_signature;
mod head;
pub(crate) mod header;
mod host;
pub(crate) mod operations;
pub(crate) mod problem;
pub(crate) mod query;
pub mod server;
pub mod tls;

use std::sync::Arc;

use poem::middleware::{CatchPanic, NormalizePath, TrailingSlash};
use poem::{Endpoint, EndpointExt as _, IntoResponse as _, Request, Response};

use crate::service::Service;
use operations::Operations;
use problem::Problem;
use problem::refusal::to_response;

/// All that stands before the routes.
pub(crate) fn shell(
    routes: impl Endpoint<Output = Response> + 'static,
    service: Service,
    behind_proxy: bool,
    operations: Arc<Operations>,
) -> impl Endpoint<Output = Response> {
    routes
        .with(NormalizePath::new(TrailingSlash::Trim))
        .around(move |next, request| auth::guard(next, service.clone(), behind_proxy, request))
        .with(CatchPanic::new().with_handler(|_| Problem::internal().into_response()))
        .around(move |next, request| answer(next, operations.clone(), request))
        .map_to_response()
}

/// Makes an answer of whatever comes back, and says what no answer of ours goes without.
async fn answer<E: Endpoint>(
    next: Arc<E>,
    operations: Arc<Operations>,
    request: Request,
) -> poem::Result<Response> {
    let (uri, scheme) = (request.uri().clone(), request.scheme().clone());
    let mut response = match head::check_transfer_encoding(request.headers()) {
        Err(problem) => problem.into_response(),
        Ok(()) => match next.call(request).await {
            Ok(output) => output.into_response(),
            Err(error) => to_response(error, uri.path(), &operations),
        },
    };
    head::secure(response.headers_mut(), &scheme);
    Ok(response)
}
