//! The OpenAPI document and two pages that show it, all without the internet.
//!
//! The pages come from poem-openapi with their scripts inside. They get a policy that lets exactly
//! these scripts run and nothing be fetched from elsewhere.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use poem::endpoint::make_sync;
use poem::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, REFERRER_POLICY};
use poem::{Endpoint, Response, Route, get};
use sha2::{Digest as _, Sha256};

use super::document;

/// The paths served here.
pub(super) const PATHS: &[&str] = &["/openapi.json", "/openapi.yaml", "/docs", "/redoc"];

/// `/openapi.json`, `/openapi.yaml`, `/docs` and `/redoc`.
pub(super) fn routes() -> Route {
    Route::new()
        .at("/openapi.json", get(serve("application/json", document::json(), None)))
        .at("/openapi.yaml", get(serve("application/yaml", document::yaml(), None)))
        .at("/docs", get(page(document::swagger_ui())))
        .at("/redoc", get(page(document::redoc())))
}

fn page(html: String) -> impl Endpoint<Output = Response> {
    let policy = policy(&html);
    serve("text/html; charset=utf-8", html, Some(policy))
}

fn serve(
    content_type: &'static str,
    text: String,
    policy: Option<String>,
) -> impl Endpoint<Output = Response> {
    let text = Bytes::from(text);
    make_sync(move |_| {
        // The same until another version is started.
        let mut response = Response::builder().content_type(content_type).header(CACHE_CONTROL, "no-cache");
        if let Some(policy) = &policy {
            response =
                response.header(CONTENT_SECURITY_POLICY, policy).header(REFERRER_POLICY, "no-referrer");
        }
        response.body(text.clone())
    })
}

/// A Content-Security-Policy (level 3) that names each script of the page by its digest. Styles are
/// made by the scripts as they go, so they cannot be named.
fn policy(html: &str) -> String {
    let mut policy = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                      connect-src 'self'; font-src data:; img-src 'self' data:; \
                      style-src 'unsafe-inline'; worker-src blob:; script-src"
        .to_owned();
    for script in scripts(html) {
        let digest = BASE64.encode(Sha256::digest(script));
        // Writing to a string cannot fail.
        let _ = write!(policy, " 'sha256-{digest}'");
    }
    policy
}

/// The text of each script element. Scripts hold no `</script` of their own, or browsers would end
/// them there, too.
fn scripts(html: &str) -> impl Iterator<Item = &str> {
    let mut rest = html;
    std::iter::from_fn(move || {
        let (_, element) = rest.split_once("<script")?;
        let (_, text) = element.split_once('>')?;
        let (script, after) = text.split_once("</script")?;
        rest = after;
        Some(script)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_show_the_document_and_need_nothing_else() {
        for html in [document::swagger_ui(), document::redoc()] {
            assert!(html.contains("ingestEvent"), "the document is in the page");
            assert_eq!(scripts(&html).count(), 2, "the library and the call of it");
            for outside in ["fonts.googleapis.com", "<link", "src=\"http", "url(http"] {
                let markup: String =
                    scripts(&html).fold(html.clone(), |html, script| html.replace(script, ""));
                assert!(!markup.contains(outside), "{outside}");
            }
            let policy = policy(&html);
            assert_eq!(policy.matches("'sha256-").count(), 2, "{policy}");
        }
    }

    #[test]
    fn scripts_are_found_as_browsers_do() {
        let html = "<script>a</script><p><script charset=\"UTF-8\">b < c</script >";
        assert_eq!(scripts(html).collect::<Vec<_>>(), ["a", "b < c"]);
    }
}
