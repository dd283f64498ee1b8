//! The OpenAPI document: what poem-openapi writes of the handlers, made into what the contract says.
//!
//! poem-openapi knows the paths, parameters and types. It does not know what may be null, which
//! problems an operation answers, or how headers are usually spelt; and it writes a described
//! reference in a form that generators of clients stumble over. That is put right here, on the
//! finished document ([`schemas`], [`operations`]), with examples added ([`examples`]).
//!
//! The document is the same for every server, and is committed as `openapi.json`.

mod examples;
mod operations;
mod schemas;

use std::collections::HashMap;

use poem::endpoint::BoxEndpoint;
use poem::http::Method;
use poem_openapi::registry::{MetaApi, Registry};
use poem_openapi::{ContactObject, LicenseObject, OpenApi, OpenApiService, ServerObject};
use serde::Serialize;
use serde_json::{Value, json};

use super::audit::Audit;
use super::cluster::Cluster;
use super::deliveries::Deliveries;
use super::ingest::Ingest;
use super::keys::Keys;
use super::status::Status;
use super::subscriptions::Subscriptions;
use super::tenants::Tenants;
use super::webhook_keys::WebhookKeys;
use crate::http::operations::Operations;

const DESCRIPTION: &str = "A webhook is a promise: what you hand in arrives, once accepted, in order, at \
    the pace the other side can bear.\n\nEvents are handed in at `/ingest/{subscription_id}` and delivered \
    to the subscription's `target_url`, signed (Standard Webhooks), at least once. Every path answers with \
    and without a trailing slash. Every error is a problem of RFC 9457.";

/// The document as JSON.
#[must_use]
pub fn json() -> String {
    // A value of our own making: this cannot fail.
    serde_json::to_string_pretty(&Written::new(build())).unwrap_or_default() + "\n"
}

/// The document as YAML.
#[must_use]
pub fn yaml() -> String {
    serde_yaml::to_string(&Written::new(build())).unwrap_or_default()
}

/// The document with what people look for first.
#[derive(Serialize)]
struct Written {
    openapi: Value,
    info: Value,
    #[serde(flatten)]
    rest: Value,
}

impl Written {
    fn new(mut document: Value) -> Self {
        let mut take =
            |name| document.as_object_mut().and_then(|fields| fields.remove(name)).unwrap_or_default();
        Self { openapi: take("openapi"), info: take("info"), rest: document }
    }
}

/// What each path takes.
pub(super) fn known_operations() -> Operations {
    Operations::of(&build())
}

/// A page that shows the document.
pub(super) fn swagger_ui() -> String {
    let service = service();
    service.swagger_ui_html().replace(&service.spec(), &embedded())
}

/// Another.
pub(super) fn redoc() -> String {
    let service = service();
    let html = service.redoc_html().replace(&service.spec(), &embedded());
    // The page would fetch its fonts from elsewhere.
    html.lines()
        .filter(|line| !line.trim_start().starts_with("<link "))
        .fold(String::new(), |html, line| html + line + "\n")
}

/// The document within a page's script: nothing in it may end the script. What is tried out there goes
/// to the server that the page came from, wherever that is: the page may not reach any other.
fn embedded() -> String {
    let mut document = build();
    if let Some(document) = document.as_object_mut() {
        document.insert("servers".to_owned(), json!([{ "url": "/" }]));
    }
    document.to_string().replace("</", "<\\/")
}

/// The handlers' descriptions without the handlers, so that no database is needed.
struct Described;

type Api = (Subscriptions, Ingest, Deliveries, Tenants, Keys, Audit, Cluster, WebhookKeys, Status);

impl OpenApi for Described {
    fn meta() -> Vec<MetaApi> {
        Api::meta()
    }

    fn register(registry: &mut Registry) {
        Api::register(registry);
    }

    fn add_routes(self, _: &mut HashMap<String, HashMap<Method, BoxEndpoint<'static>>>) {}
}

fn service() -> OpenApiService<Described, ()> {
    OpenApiService::new(Described, "Posthorn", env!("CARGO_PKG_VERSION"))
        .description(DESCRIPTION)
        .contact(ContactObject::new().name("The maintainers of Posthorn"))
        .license(LicenseObject::new("Apache-2.0").url("https://www.apache.org/licenses/LICENSE-2.0"))
        .server(ServerObject::new("http://127.0.0.1:8000").description("As started without configuration"))
}

fn build() -> Value {
    // What poem-openapi writes is JSON; were it not, the test of the committed document would say so.
    let mut document: Value = serde_json::from_str(&service().spec()).unwrap_or_default();
    add_security(&mut document);
    schemas::finish(&mut document);
    operations::finish(&mut document);
    document
}

fn add_security(document: &mut Value) {
    if let Some(components) = document.get_mut("components").and_then(Value::as_object_mut) {
        let bearer = json!({
            "type": "http",
            "scheme": "bearer",
            "description": "An API key. A server without configured keys asks for none.",
        });
        components.insert("securitySchemes".to_owned(), json!({ "bearer": bearer }));
    }
    if let Some(document) = document.as_object_mut() {
        document.insert("security".to_owned(), json!([{ "bearer": [] }]));
    }
}

#[cfg(test)]
mod tests;
