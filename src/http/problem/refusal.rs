//! What the framework refuses by itself, told as problems like all else.

use poem::error::{MethodNotAllowedError, NotFoundError, ReadBodyError};
use poem::http::StatusCode;
use poem::{Error, IntoResponse as _, Response};
use poem_openapi::error::{ContentTypeError, ParseParamError, ParsePathError};

use super::{Kind, Problem, ProblemHeader};
use crate::http::operations::Operations;

/// The answer to a request for `path` that ended in an error, be it ours or the framework's.
pub(crate) fn to_response(error: Error, path: &str, operations: &Operations) -> Response {
    match error.downcast::<Problem>() {
        Ok(problem) => problem.into_response(),
        Err(error) => explain(&error, path, operations).into_response(),
    }
}

fn explain(error: &Error, path: &str, operations: &Operations) -> Problem {
    if error.is::<NotFoundError>() {
        return Problem::new(Kind::NotFound, "nothing is served at this path");
    }
    if error.is::<MethodNotAllowedError>() {
        return method_not_allowed(operations.allow(path));
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
            let problem = explain(&error, "/", &Operations::default());
            assert_eq!(problem.kind(), kind, "{detail}");
            assert!(problem.to_string().starts_with(detail), "{problem}");
        }
    }
}
