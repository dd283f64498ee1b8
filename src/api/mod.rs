//! The contract of `api.md`, one file per resource: [`subscriptions`], [`ingest`], [`deliveries`], [`tenants`],
//! [`keys`], [`status`], [`documents`], [`webhook_keys`].
//!
//! A request comes through [`http`], which says who calls. Handlers hold no state and decide nothing: they check what
//! came in, ask the use cases of [`Service`] and show what comes back in types of their own, since the contract
//! and the tables change for different reasons. Bodies are read by [`body`] and changes checked with [`change`], small
//! types stand in [`words`] and [`rate_limit`], pages and cursors in [`paging`].
//!
//! poem-openapi writes the document from the handlers and their types; [`document`] makes of it what
//! generators of clients understand.

mod audit;
mod body;
mod change;
mod cluster;
mod deliveries;
pub mod document;
mod documents;
mod ingest;
mod keys;
mod paging;
mod rate_limit;
mod shown;
mod status;
mod subscriptions;
mod tenants;
mod webhook_keys;
mod words;

use std::net::SocketAddr;
use std::sync::Arc;

use poem::{Endpoint, EndpointExt as _, Response, get};
use poem_openapi::{OpenApiService, Tags};
use posthorn_domain::address::AddressGuard;
use posthorn_domain::signature::SecretKey;

use crate::clock::Clock;
use crate::http::{self, control_limit, problem, query};
use crate::service::Service;
use audit::Audit;
use cluster::Cluster;
use deliveries::Deliveries;
use ingest::Ingest;
use keys::Keys;
use status::Status;
use subscriptions::Subscriptions;
use tenants::Tenants;
use webhook_keys::WebhookKeys;

/// How the API is set up.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The largest payload taken in, in bytes.
    pub payload_bytes_max: usize,
    /// Which addresses subscriptions may name.
    pub guard: AddressGuard,
    /// Where the server listens.
    pub listen: SocketAddr,
    /// Whether what calls is a proxy, which says who calls it in `X-Forwarded-For`.
    pub behind_proxy: bool,
    /// Tells the time.
    pub clock: Clock,
}

/// What the operations are about.
#[derive(Tags)]
#[oai(rename_all = "camelCase")]
enum Tag {
    /// Endpoints with their secrets and policies.
    Subscriptions,
    /// Where events come in.
    Ingest,
    /// Events on their way, and what a person may do to one.
    Deliveries,
    /// Customers on whose behalf subscriptions exist, and what each may use.
    Tenants,
    /// API keys.
    Keys,
    /// Who changed what.
    Audit,
    /// The nodes, and what each does.
    Cluster,
    /// What became of things.
    Status,
    /// Whether the server is there, and ready.
    Health,
}

/// Every route of the API, with all that stands before it.
pub fn routes(service: Service, settings: Settings) -> impl Endpoint<Output = Response> + 'static {
    let Settings { behind_proxy, clock, .. } = settings;
    let decoy = SecretKey::from_random(rand::random());
    let api = (
        Subscriptions { service: service.clone(), guard: settings.guard, listen: settings.listen },
        Ingest { service: service.clone(), payload_bytes_max: settings.payload_bytes_max, decoy, clock },
        Deliveries { service: service.clone() },
        Tenants { service: service.clone() },
        Keys { service: service.clone(), clock },
        Audit { service: service.clone() },
        Cluster { service: service.clone() },
        WebhookKeys { service: service.clone(), clock },
        Status { service: service.clone() },
    );
    let mut operations = document::known_operations();
    for page in documents::PATHS.iter().chain(&["/problems/{name}"]) {
        operations.add_page(page);
    }
    let operations = Arc::new(operations);
    let known = Arc::clone(&operations);
    let routes = documents::routes()
        .at("/problems/:name", get(problem::pages::show))
        .nest("/", OpenApiService::new(api, "", ""))
        .around(move |next, request| query::check(next, known.clone(), request))
        .around({
            let service = service.clone();
            move |next, request| control_limit::keep(next, service.clone(), request)
        });
    http::shell(routes, service, behind_proxy, operations)
}

#[cfg(test)]
mod tests {
    use poem::http::Method;
    use poem::test::TestClient;
    use poem::{Request, handler, post};
    use posthorn_domain::api_key::KeyDigest;
    use serde_json::Value;

    use super::*;
    use crate::http::auth::access_of;
    use crate::http::operations::Operations;

    #[handler]
    fn panics() {
        panic!("a secret");
    }

    #[handler]
    fn who(request: &Request) -> String {
        format!("{:?}", access_of(request))
    }

    async fn client(admin_key: Option<&str>) -> TestClient<impl Endpoint<Output = Response>> {
        let routes = documents::routes()
            .at("/problems/:name", get(problem::pages::show))
            .at("/panics", get(panics))
            .at("/who", get(who))
            .at("/ingest/:id", post(who));
        let mut operations = Operations::default();
        operations.add_page("/who");
        let admin_key = admin_key.map(|key| KeyDigest::of(key.as_bytes()));
        let service = Service::for_tests(admin_key).await;
        TestClient::new(http::shell(routes, service, false, Arc::new(operations)))
            .default_header("host", "127.0.0.1:8000")
    }

    #[tokio::test]
    async fn whatever_is_refused_is_a_problem() {
        let client = client(None).await;
        for (method, path, status, kind) in [
            (Method::GET, "/nowhere", 404, "not-found"),
            (Method::GET, "/", 404, "not-found"),
            (Method::GET, "/problems/of-no-such-kind", 404, "not-found"),
            (Method::POST, "/who", 405, "method-not-allowed"),
            (Method::GET, "/panics", 500, "internal-error"),
        ] {
            let answer = client.request(method, path).send().await;
            answer.assert_status(status.try_into().unwrap());
            answer.assert_content_type("application/problem+json");
            answer.assert_header("x-content-type-options", "nosniff");
            if status == 405 {
                answer.assert_header("allow", "GET, HEAD");
            }
            let body = answer.0.into_body().into_string().await.unwrap();
            assert!(!body.contains("secret"), "{body}");
            let body: Value = serde_json::from_str(&body).unwrap();
            assert_eq!(body["type"], format!("/problems/{kind}"), "{path}: {body}");
            assert_eq!(body["status"], status);
        }
    }

    #[tokio::test]
    async fn types_of_problems_lead_to_pages() {
        let client = client(Some("key")).await;
        for &kind in problem::Kind::ALL {
            let answer = client.get(format!("/problems/{}/", kind.name())).send().await;
            answer.assert_status_is_ok();
            answer.assert_content_type("text/html; charset=utf-8");
            let policy = answer.0.header("content-security-policy").unwrap();
            assert!(policy.starts_with("default-src 'none'") && !policy.contains("script-src"), "{policy}");
        }
    }

    #[tokio::test]
    async fn keys_guard_all_but_the_public() {
        let client = client(Some("key")).await;
        for (path, key, status) in [
            ("/who", None, 401),
            ("/who/", None, 401),
            ("//who", Some("Bearer other"), 401),
            ("/nowhere", None, 401),
            ("/who?key=key", None, 401),
            ("/who", Some("Bearer key"), 200),
            ("/openapi.json", None, 200),
            ("/openapi.yaml/", None, 200),
            ("/docs", None, 200),
            ("/redoc", None, 200),
        ] {
            let mut request = client.get(path);
            if let Some(key) = key {
                request = request.header("authorization", key);
            }
            let answer = request.send().await;
            answer.assert_status(status.try_into().unwrap());
            if status == 401 {
                answer.assert_header("www-authenticate", "Bearer");
            }
        }
        // An event may be signed instead, and ingest decides of that.
        let refused = client.post("/ingest/7").send().await;
        refused.assert_status(401.try_into().unwrap());
        for name in ["x-webhook-signature-256", "x-hub-signature-256"] {
            client.post("/ingest/7").header(name, "").send().await.assert_text("Anonymous").await;
        }
    }

    #[tokio::test]
    async fn slashes_and_heads_make_no_difference() {
        let client = client(None).await;
        for path in ["/who", "/who/", "//who//", "/who/?a=b"] {
            client.get(path).send().await.assert_text("Admin(Anyone)").await;
        }
        let answer = client.head("/who").send().await;
        answer.assert_status_is_ok();
        answer.assert_text("").await;
    }
}
