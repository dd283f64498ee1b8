//! Query parameters as a whole: one that an operation does not have is refused, and so is one that stands twice. Either
//! would else be left out silently, and a list would show other things than were asked for.
//!
//! Ingest is left alone: its address is written into other services, which add parameters of their own.

use std::sync::Arc;

use poem::http::Method;
use poem::{Endpoint, Request, Result};
use serde_json::Value;
use url::form_urlencoded;

use super::problem::refusal::segments;
use super::problem::{Kind, Problem};

/// How much of an unknown name an answer repeats.
const NAME_CHARS_MAX: usize = 64;

/// The query parameters of each operation.
#[derive(Debug)]
pub(super) struct Parameters(Vec<Operation>);

#[derive(Debug)]
struct Operation {
    /// The path's parts; one that begins with `{` stands for any.
    parts: Vec<String>,
    method: String,
    names: Vec<String>,
}

impl Parameters {
    /// As the `OpenAPI` document has them.
    pub(super) fn of(document: &Value) -> Self {
        let mut operations = Vec::new();
        let paths = document.get("paths").and_then(Value::as_object).into_iter().flatten();
        for (path, item) in paths {
            for (method, operation) in item.as_object().into_iter().flatten() {
                let parameters = operation.get("parameters").and_then(Value::as_array).into_iter().flatten();
                let text = |parameter: &'_ Value, name| Some(parameter.get(name)?.as_str()?.to_owned());
                let in_query =
                    parameters.filter(|parameter| text(parameter, "in").as_deref() == Some("query"));
                let names = in_query.filter_map(|parameter| text(parameter, "name"));
                operations.push(Operation {
                    parts: segments(path).map(str::to_owned).collect(),
                    method: method.to_uppercase(),
                    names: names.collect(),
                });
            }
        }
        // Where two fit, the one that names more of the path is meant.
        operations
            .sort_by_key(|operation| operation.parts.iter().filter(|part| part.starts_with('{')).count());
        Self(operations)
    }

    fn check(&self, method: &Method, path: &str, query: &str) -> std::result::Result<(), Problem> {
        let method = if method == Method::HEAD { "GET" } else { method.as_str() };
        let fits = |operation: &&Operation| operation.method == method && operation.fits(path);
        let Some(Operation { names, .. }) = self.0.iter().find(fits) else { return Ok(()) };
        let refuse = |name: &str, why: String| {
            let name: String = name.chars().take(NAME_CHARS_MAX).collect();
            Err(Problem::new(Kind::InvalidParameter, format!("{name}: {why}")))
        };
        let mut seen: Vec<&String> = Vec::new();
        for (name, _) in form_urlencoded::parse(query.as_bytes()) {
            let Some(known) = names.iter().find(|known| **known == name) else {
                let takes = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
                return refuse(&name, format!("there is no such parameter; this path takes {takes}"));
            };
            if seen.contains(&known) {
                return refuse(&name, "expected once".to_owned());
            }
            seen.push(known);
        }
        Ok(())
    }
}

impl Operation {
    fn fits(&self, path: &str) -> bool {
        self.parts.len() == segments(path).count()
            && self
                .parts
                .iter()
                .zip(segments(path))
                .all(|(part, asked)| part.starts_with('{') || part == asked)
    }
}

/// Refuses a call with a parameter that its operation does not have, or with one twice.
pub(super) async fn check<E: Endpoint>(
    next: Arc<E>,
    parameters: Arc<Parameters>,
    request: Request,
) -> Result<E::Output> {
    let path = request.uri().path();
    if let Some(query) = request.uri().query()
        && segments(path).next() != Some("ingest")
    {
        parameters.check(request.method(), path, query)?;
    }
    next.call(request).await
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn unknown_and_repeated_parameters_are_named() {
        let takes = |names: &[&str]| {
            let parameters: Vec<_> = names.iter().map(|name| json!({"in": "query", "name": name})).collect();
            json!({"get": {"parameters": parameters}})
        };
        let parameters = Parameters::of(&json!({"paths": {
            "/a/{id}": takes(&["limit", "cursor"]), "/a/b": takes(&[]), "/a/": takes(&["status"]),
        }}));
        for (path, query, refusal) in [
            ("/a/7", "limit=1&cursor=x", None),
            ("/a/7/", "limit=1", None),
            ("/a/7", "limit=1&limit=1", Some("limit: expected once")),
            ("/a/7", "l%69mit=1&limit=1", Some("limit: expected once")),
            ("/a/7", "Limit=1", Some("Limit: there is no such parameter; this path takes limit, cursor")),
            ("/a/b", "limit=1", Some("limit: there is no such parameter; this path takes none")),
            ("/a", "state=x", Some("state: there is no such parameter; this path takes status")),
            ("/a", "", None),
            ("/elsewhere", "x=y", None),
        ] {
            for method in [Method::GET, Method::HEAD] {
                let refused = parameters.check(&method, path, query).err().map(|problem| problem.to_string());
                assert_eq!(refused.as_deref(), refusal, "{path}?{query}");
            }
        }
        assert!(parameters.check(&Method::POST, "/a/7", "x=y").is_ok(), "it is not there");
    }
}
