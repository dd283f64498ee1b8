//! How often a tenant may call the API: its `control_limit`, over the calls with its keys. An admin's calls are not
//! counted, nor is ingest, which has a limit of its own.

use std::sync::Arc;

use poem::{Endpoint, Request, Result};
use posthorn_domain::api_key::Access;

use super::auth::Caller;
use super::operations::segments;
use super::problem::Problem;
use crate::dispatch::Control;

/// Refuses a call beyond its tenant's limit.
pub(crate) async fn keep<E: Endpoint>(next: Arc<E>, control: Control, request: Request) -> Result<E::Output> {
    if let Caller::Known(Access::Tenant(tenant), _) = Caller::of_request(&request)
        && !is_ingest(request.uri().path())
        && let Some(wait) = control.take_call(&tenant).await.map_err(Problem::from)?
    {
        return Err(Problem::control_spent(wait).into());
    }
    next.call(request).await
}

fn is_ingest(path: &str) -> bool {
    segments(path).next() == Some("ingest")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ingest_has_a_limit_of_its_own() {
        for (path, ingest) in
            [("/ingest/7", true), ("//ingest/7/", true), ("/subscriptions/ingest", false), ("/", false)]
        {
            assert_eq!(is_ingest(path), ingest, "{path}");
        }
    }
}
