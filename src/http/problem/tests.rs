use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::*;

#[tokio::test]
async fn problems_are_written_as_rfc_9457_says() {
    let errors = vec![FieldError { pointer: "/a~1b".to_owned(), detail: "expected a number".to_owned() }];
    let response = Problem::fields(errors).into_response();
    assert_eq!(response.status(), 422);
    assert_eq!(response.content_type(), Some("application/problem+json"));
    let body: Value = response.into_body().into_json().await.unwrap();
    let expected = json!({
        "type": "/problems/invalid-fields",
        "title": "Some fields are not as they must be",
        "status": 422,
        "detail": "/a~1b: expected a number",
        "errors": [{"pointer": "/a~1b", "detail": "expected a number"}],
    });
    assert_eq!(body, expected);
}

#[test]
fn headers_go_with_their_kinds() {
    let moment = Duration::from_nanos(1);
    for (problem, name, value) in [
        (Problem::api_key_required(), "www-authenticate", "Bearer"),
        (Problem::invalid_signature(""), "www-authenticate", "X-Webhook-Signature-256"),
        (Problem::store_unavailable(Duration::from_millis(1)), "retry-after", "1"),
        (Problem::outcome_unknown(Duration::from_millis(1001)), "retry-after", "2"),
        (Error::QuotaSpent { retry_after: moment }.into(), "retry-after", "1"),
        (Error::BacklogFull { retry_after: moment }.into(), "retry-after", "1"),
        (Error::ReadsBusy { retry_after: moment }.into(), "retry-after", "1"),
    ] {
        assert_eq!(problem.into_response().headers()[name], value);
    }
}

#[test]
fn what_is_too_much_names_the_limit() {
    let retry_after = Duration::from_secs(1);
    for (error, kind, name) in [
        (Error::QuotaSpent { retry_after }, Kind::QuotaSpent, "ingest_limit"),
        (Error::BacklogFull { retry_after }, Kind::BacklogFull, "POSTHORN_MAX_BACKLOG"),
    ] {
        let problem = Problem::from(error);
        assert_eq!((problem.kind(), problem.status()), (kind, StatusCode::TOO_MANY_REQUESTS));
        assert!(problem.to_string().contains(name), "{problem}");
    }
}

#[test]
fn names_are_unique() {
    let names: BTreeSet<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
    assert_eq!(names.len(), Kind::ALL.len());
}
