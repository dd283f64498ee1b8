//! How often a tenant may call the API: its `control_limit`, over the calls with its keys. An admin's calls are not
//! counted, nor is ingest, which has a limit of its own.

use std::sync::Arc;

use super::auth::access_of;
use super::operations::segments;
use super::problem::Problem;
use crate::service::Service;
use poem::{Endpoint, Request, Result};

/// Refuses a call beyond its tenant's limit.
pub(crate) async fn keep<E: Endpoint>(next: Arc<E>, service: Service, request: Request) -> Result<E::Output> {
    if !is_ingest(request.uri().path()) {
        service.count_call(&access_of(&request)).await.map_err(Problem::from)?;
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
