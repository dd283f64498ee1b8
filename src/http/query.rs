//! Query parameters as a whole: one that an operation does not have is refused, and so is one that stands twice. Either
//! would else be left out silently, and a list would show other things than were asked for.
//!
//! Ingest is left alone: its address is written into other services, which add parameters of their own.

use std::sync::Arc;

use poem::{Endpoint, Request, Result};
use url::form_urlencoded;

use super::operations::{Operations, segments};
use super::problem::{Kind, Problem};

/// How much of an unknown name an answer repeats.
const NAME_CHARS_MAX: usize = 64;

/// Refuses a call with a parameter that its operation does not have, or with one twice.
pub(crate) async fn check<E: Endpoint>(
    next: Arc<E>,
    operations: Arc<Operations>,
    request: Request,
) -> Result<E::Output> {
    let path = request.uri().path();
    if let Some(query) = request.uri().query()
        && segments(path).next() != Some("ingest")
        && let Some(names) = operations.parameters(request.method(), path)
    {
        check_query(query, names)?;
    }
    next.call(request).await
}

fn check_query(query: &str, names: &[String]) -> std::result::Result<(), Problem> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_and_repeated_parameters_are_named() {
        for (names, query, refusal) in [
            (&["limit", "cursor"][..], "limit=1&cursor=x", None),
            (&["limit", "cursor"], "", None),
            (&["limit", "cursor"], "limit=1&limit=1", Some("limit: expected once")),
            (&["limit", "cursor"], "l%69mit=1&limit=1", Some("limit: expected once")),
            (
                &["limit", "cursor"],
                "Limit=1",
                Some("Limit: there is no such parameter; this path takes limit, cursor"),
            ),
            (&[], "limit=1", Some("limit: there is no such parameter; this path takes none")),
        ] {
            let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
            let refused = check_query(query, &names).err().map(|problem| problem.to_string());
            assert_eq!(refused.as_deref(), refusal, "{query}");
        }
    }
}
