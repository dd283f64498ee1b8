//! What the framework refuses by itself, told as problems like all else.

use poem::error::{MethodNotAllowedError, NotFoundError, ReadBodyError};
use poem::http::{Method, StatusCode};
use poem::{Error, IntoResponse as _, Response};
use poem_openapi::error::{ContentTypeError, ParseParamError, ParsePathError};

use super::{Kind, Problem, ProblemHeader};

/// The methods that each path takes, for `Allow`.
#[derive(Clone, Debug, Default)]
pub(in crate::api) struct Methods(Vec<(Vec<String>, Vec<Method>)>);

impl Methods {
    /// Adds the methods of a path such as `/subscriptions/{id}`.
    pub(in crate::api) fn add(&mut self, template: &str, methods: Vec<Method>) {
        self.0.push((segments(template).map(str::to_owned).collect(), methods));
    }

    /// What `Allow` says for `path` (RFC 9110 §10.2.1).
    fn allow(&self, path: &str) -> String {
        let matches = |template: &[String]| {
            template.len() == segments(path).count()
                && template
                    .iter()
                    .zip(segments(path))
                    .all(|(part, asked)| part.starts_with('{') || part == asked)
        };
        let mut names: Vec<&str> = Vec::new();
        for (_, methods) in self.0.iter().filter(|(template, _)| matches(template)) {
            names.extend(methods.iter().map(Method::as_str));
            if methods.contains(&Method::GET) {
                names.push(Method::HEAD.as_str());
            }
        }
        names.join(", ")
    }
}

/// A path's parts; a slash at the end makes no difference.
pub(in crate::api) fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|segment| !segment.is_empty())
}

/// The answer to a request for `path` that ended in an error, be it ours or the framework's.
pub(in crate::api) fn to_response(error: Error, path: &str, methods: &Methods) -> Response {
    match error.downcast::<Problem>() {
        Ok(problem) => problem.into_response(),
        Err(error) => explain(&error, path, methods).into_response(),
    }
}

fn explain(error: &Error, path: &str, methods: &Methods) -> Problem {
    if error.is::<NotFoundError>() {
        return Problem::new(Kind::NotFound, "nothing is served at this path");
    }
    if error.is::<MethodNotAllowedError>() {
        return method_not_allowed(methods.allow(path));
    }
    if let Some(ParseParamError { name, reason }) = error.downcast_ref() {
        return Problem::new(Kind::InvalidParameter, format!("{name}: {}", own_words(reason)));
    }
    if let Some(ParsePathError { reason, .. }) = error.downcast_ref() {
        return Problem::new(Kind::InvalidParameter, format!("the path: {}", own_words(reason)));
    }
    if let Some(error) = error.downcast_ref::<ContentTypeError>() {
        return content_type(error);
    }
    if error.is::<ReadBodyError>() {
        return Problem::new(Kind::MalformedRequest, "the body could not be read");
    }
    by_status(error)
}

fn method_not_allowed(allow: String) -> Problem {
    let mut problem = Problem::new(Kind::MethodNotAllowed, format!("this path takes {allow}"));
    problem.header = Some(ProblemHeader::Allow(allow));
    problem
}

/// poem-openapi puts the name of its type before or after what parsers say.
fn own_words(reason: &str) -> &str {
    if let Some((own, kind)) = reason.rsplit_once(" (occurred while parsing ") {
        return match kind {
            kind if kind.contains("integer") => "expected a whole number",
            kind if kind.contains("boolean") => "expected true or false",
            _ => own,
        };
    }
    reason
        .strip_prefix("failed to parse ")
        .and_then(|rest| rest.split_once(": "))
        .map_or(reason, |(_, own)| own)
}

pub(super) fn content_type(error: &ContentTypeError) -> Problem {
    match error {
        ContentTypeError::NotSupported { .. } | ContentTypeError::ExpectContentType => Problem::new(
            Kind::UnsupportedMediaType,
            "expected Content-Type: application/json, or one that ends in +json",
        ),
    }
}

/// What no type tells apart: a bad query string or path among it, by its status alone.
fn by_status(error: &Error) -> Problem {
    match error.status() {
        StatusCode::NOT_FOUND => Problem::new(Kind::NotFound, "nothing is served at this path"),
        status if status.is_client_error() => {
            Problem::new(Kind::MalformedRequest, "the request could not be understood")
        }
        status => {
            tracing::error!(%status, "request failed outside of a handler");
            Problem::internal()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allow_names_what_a_path_takes() {
        let mut methods = Methods::default();
        methods.add("/a", vec![Method::GET, Method::POST]);
        methods.add("/a/{id}", vec![Method::PUT]);
        for (path, allow) in
            [("/a", "GET, POST, HEAD"), ("/a/", "GET, POST, HEAD"), ("/a/7/", "PUT"), ("/b", "")]
        {
            assert_eq!(methods.allow(path), allow, "{path}");
        }
    }

    #[test]
    fn refusals_of_the_framework_have_a_kind() {
        let param =
            ParseParamError { name: "limit", reason: "failed to parse \"int\": bad digit".to_owned() };
        let reason = "invalid digit found in string (occurred while parsing \"optional_integer_int64\")";
        let number = ParseParamError { name: "limit", reason: reason.to_owned() };
        let path = ParsePathError { name: "param0", reason: "no UUID".to_owned() };
        for (error, kind, detail) in [
            (Error::from(NotFoundError), Kind::NotFound, "nothing is served at this path"),
            (MethodNotAllowedError.into(), Kind::MethodNotAllowed, "this path takes "),
            (param.into(), Kind::InvalidParameter, "limit: bad digit"),
            (number.into(), Kind::InvalidParameter, "limit: expected a whole number"),
            (path.into(), Kind::InvalidParameter, "the path: no UUID"),
            (ContentTypeError::ExpectContentType.into(), Kind::UnsupportedMediaType, "expected Content-Type"),
            (Error::from_status(StatusCode::BAD_REQUEST), Kind::MalformedRequest, "the request could not"),
            (Error::from_string("SELECT", StatusCode::BAD_GATEWAY), Kind::Internal, "this is a bug"),
        ] {
            let problem = explain(&error, "/", &Methods::default());
            assert_eq!(problem.kind(), kind, "{detail}");
            assert!(problem.to_string().starts_with(detail), "{problem}");
        }
    }
}
