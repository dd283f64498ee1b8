use std::collections::BTreeSet;

use posthorn_domain::limits::{
    BURST_MAX, DESCRIPTION_CHARS_MAX, IN_FLIGHT_MAX, PAGE_LIMIT_MAX, PAGE_NUMBER_MAX, RATE_MAX, RATE_MIN,
    RETRIES_MAX, RETRY_DELAY_MAX, SECRET_KEY_BYTES_MAX, TARGET_URL_CHARS_MAX, TENANT_CHARS_MAX,
    TENANT_IN_FLIGHT_MAX, TIMEOUT_MAX, TIMEOUT_MIN,
};

use super::*;

fn operations(document: &Value) -> Vec<(String, &Value)> {
    let paths = document["paths"].as_object().unwrap();
    paths
        .iter()
        .flat_map(|(path, item)| {
            item.as_object()
                .unwrap()
                .iter()
                .map(move |(method, operation)| (format!("{method} {path}"), operation))
        })
        .collect()
}

/// The document is committed, so that a change of the contract shows in a review.
#[test]
fn committed_document_is_fresh() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.json");
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(committed == json(), "openapi.json is stale: `posthorn openapi > openapi.json` writes it anew");
}

#[test]
fn yaml_says_the_same() {
    assert_eq!(serde_yaml::from_str::<Value>(&yaml()).unwrap(), build());
}

#[test]
fn operations_are_complete() {
    let document = build();
    let mut ids = BTreeSet::new();
    for (name, operation) in operations(&document) {
        let id = operation["operationId"].as_str().unwrap();
        assert!(ids.insert(id), "{name}: {id} is there twice");
        assert!(id.chars().all(char::is_alphanumeric) && id.starts_with(char::is_lowercase), "{id}");
        assert_eq!(operation["tags"].as_array().unwrap().len(), 1, "{name}");
        assert!(operation["summary"].as_str().is_some_and(|text| !text.is_empty()), "{name}");
        let responses = operation["responses"].as_object().unwrap();
        assert!(responses.keys().any(|status| status.starts_with('2')), "{name}");
        assert!(responses.keys().any(|status| status.starts_with('4')), "{name}");
        for (status, response) in responses {
            check_response(&format!("{name} {status}"), status, response);
        }
    }
    assert_eq!(ids.len(), 33, "{ids:?}");
}

fn check_response(name: &str, status: &str, response: &Value) {
    assert!(response["description"].as_str().is_some_and(|text| !text.is_empty()), "{name}");
    let problem = status.starts_with(['4', '5']);
    let kind = if problem { "application/problem+json" } else { "application/json" };
    let Some(content) = response["content"].as_object() else {
        assert_eq!(status, "204", "{name}");
        return;
    };
    assert_eq!(content.keys().collect::<Vec<_>>(), [kind], "{name}");
    assert!(!content[kind]["example"].is_null(), "{name}: no example");
}

#[test]
fn tags_are_explained() {
    let document = build();
    let explained: BTreeSet<_> = document["tags"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tag| {
            assert!(tag["description"].is_string(), "{tag}");
            tag["name"].as_str().unwrap()
        })
        .collect();
    for (name, operation) in operations(&document) {
        assert!(explained.contains(operation["tags"][0].as_str().unwrap()), "{name}");
    }
}

#[test]
fn only_the_public_needs_no_key() {
    let document = build();
    assert_eq!(document["security"], json!([{"bearer": []}]));
    for (name, operation) in operations(&document) {
        let expected = match name.as_str() {
            "get /health" | "get /health/ready" | "get /.well-known/webhook-keys/{id}" => json!([]),
            "post /ingest/{subscription_id}" => json!([{"bearer": []}, {}]),
            _ => Value::Null,
        };
        assert_eq!(operation["security"], expected, "{name}");
        let refuses = operation["responses"]["401"].is_object();
        assert_eq!(refuses, expected != json!([]), "{name}");
    }
}

/// Every value in the document has a type, and every number, text and list an end.
#[test]
fn schemas_are_typed_and_bounded() {
    let document = build();
    let mut checked = 0;
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        checked += check_schema(name, schema);
    }
    for (name, operation) in operations(&document) {
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            let name = format!("{name} {}", parameter["name"]);
            assert!(parameter["description"].is_string(), "{name}");
            checked += check_schema(&name, &parameter["schema"]);
        }
    }
    assert!(checked > 100, "{checked}");
}

fn check_schema(name: &str, schema: &Value) -> usize {
    let has = |key: &str| !schema[key].is_null();
    if has("oneOf") {
        check_nullable_reference(name, schema);
        return 1;
    }
    if has("$ref") || has("allOf") {
        assert!(!(has("$ref") && has("description")), "{name}: nothing may stand beside a reference");
        assert!(schema["allOf"].as_array().is_none_or(|parts| parts.len() == 1), "{name}");
        return 1;
    }
    assert!(!has("default"), "{name}");
    match schema["type"].as_str() {
        Some("object") => {
            let properties = schema["properties"].as_object();
            assert!(properties.is_some() || has("additionalProperties"), "{name}");
            let of_property = |(property, schema): (&String, &Value)| {
                let name = format!("{name}.{property}");
                assert!(has_description(schema), "{name}: no description");
                check_schema(&name, schema)
            };
            1 + properties.into_iter().flatten().map(of_property).sum::<usize>()
        }
        Some("array") => {
            assert!(has("maxItems"), "{name}");
            1 + check_schema(&format!("{name}[]"), &schema["items"])
        }
        Some("string") => {
            let ended = has("maxLength")
                || has("enum")
                || matches!(schema["format"].as_str(), Some("uuid" | "date-time"));
            assert!(ended, "{name}: how long?");
            1
        }
        Some("integer" | "number") => {
            assert!(has("minimum") && has("maximum") && has("format"), "{name}: {schema}");
            1
        }
        Some("boolean") => 1,
        other => panic!("{name}: {other:?}"),
    }
}

/// Null is allowed by the property and by one of its choices, whichever a reader looks at.
fn check_nullable_reference(name: &str, schema: &Value) {
    let nothing = json!({"type": schema["type"], "nullable": true, "enum": [null]});
    assert_eq!(schema["nullable"], true, "{name}");
    assert!(schema["type"].is_string() && schema["oneOf"][0]["$ref"].is_string(), "{name}: {schema}");
    assert_eq!(schema["oneOf"][1], nothing, "{name}");
}

fn has_description(schema: &Value) -> bool {
    schema["description"].is_string() || schema["$ref"].is_string()
}

#[test]
fn null_is_where_it_may_be() {
    let document = build();
    let property =
        |schema: &str, name: &str| document["components"]["schemas"][schema]["properties"][name].clone();
    for (schema, name, nullable) in [
        ("SubscriptionCreate", "target_url", false),
        ("SubscriptionCreate", "tenant", true),
        ("SubscriptionUpdate", "target_url", false),
        ("SubscriptionUpdate", "ordering", true),
        ("SubscriptionUpdate", "headers", true),
        ("SubscriptionUpdate", "retry", true),
        ("RetrySettings", "max_retries", true),
        ("RateLimit", "burst", false),
        ("Subscription", "id", false),
        ("Subscription", "description", true),
        ("Subscription", "retry", true),
        ("CreatedSubscription", "description", true),
        ("CreatedSubscription", "signing_secret", false),
        ("Delivery", "waiting_for", true),
        ("TenantUpdate", "max_in_flight", true),
        ("TenantUpdate", "ingest_limit", true),
        ("Tenant", "tenant", false),
        ("Tenant", "rate_limit", true),
        ("Tenant", "max_in_flight", true),
        ("SystemStats", "success_rate", true),
        ("Problem", "errors", false),
    ] {
        let property = property(schema, name);
        assert_eq!(property["nullable"].as_bool().unwrap_or(false), nullable, "{schema}.{name}: {property}");
    }
    for (schema, required) in [
        ("SubscriptionCreate", &["target_url"][..]),
        ("RateLimit", &["burst", "requests_per_second"]),
        ("DeliveryStatus", &["attempts", "delivery"]),
        (
            "Tenant",
            &[
                "control_limit",
                "ingest_limit",
                "max_in_flight",
                "max_stored_bytes",
                "max_subscriptions",
                "rate_limit",
                "tenant",
            ],
        ),
        ("WaitingFor", &["reason", "sequence", "until"]),
        ("Problem", &["detail", "status", "title", "type"]),
    ] {
        assert_eq!(document["components"]["schemas"][schema]["required"], json!(required), "{schema}");
    }
    for update in ["SubscriptionUpdate", "TenantUpdate", "SigningSecretRotation"] {
        assert!(document["components"]["schemas"][update]["required"].is_null());
    }
}

#[test]
fn operations_are_those_of_the_document() {
    let operations = known_operations();
    assert_eq!(operations.allow("/subscriptions/7"), "DELETE, GET, HEAD, PUT");
    let parameters = operations.parameters(&Method::GET, "/subscriptions/");
    assert_eq!(parameters.unwrap().join(" "), "page limit tenant status");
}

#[test]
fn what_people_look_for_comes_first() {
    assert!(json().starts_with("{\n  \"openapi\": \"3.0.0\",\n  \"info\": {"));
    assert!(yaml().starts_with("openapi: "));
}

/// Examples are what their schemas say: every field there, none beside them, null only where it may be.
#[test]
fn examples_fit() {
    let document = build();
    let mut checked = 0;
    let mut check_media = |name: &str, media: &Value| {
        if let Err(fault) = check_example(&document, &media["schema"], &media["example"]) {
            panic!("{name}: {fault}");
        }
        checked += 1;
    };
    for (name, operation) in operations(&document) {
        let responses = operation["responses"].as_object().unwrap().values();
        for content in
            responses.chain([&operation["requestBody"]]).filter_map(|part| part["content"].as_object())
        {
            content.values().for_each(|media| check_media(&name, media));
        }
    }
    assert!(checked > 100, "{checked}");
}

fn check_example(document: &Value, schema: &Value, example: &Value) -> Result<(), String> {
    let reference =
        [schema, &schema["allOf"][0], &schema["oneOf"][0]].into_iter().find_map(|part| part["$ref"].as_str());
    if example.is_null() {
        return if schema["nullable"] == true { Ok(()) } else { Err("null".to_owned()) };
    }
    if let Some(reference) = reference {
        return check_example(document, document.pointer(&reference[1..]).unwrap(), example);
    }
    for item in example.as_array().into_iter().flatten() {
        check_example(document, &schema["items"], item)?;
    }
    let named =
        |name: &str| schema["required"].as_array().into_iter().flatten().any(|required| required == name);
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        match example.get(name) {
            Some(value) => {
                check_example(document, property, value).map_err(|fault| format!("{name}: {fault}"))?;
            }
            None if named(name) => return Err(format!("{name} is missing")),
            None => {}
        }
    }
    let known =
        |name: &String| schema["properties"].get(name).is_some() || !schema["additionalProperties"].is_null();
    let unknown = example
        .as_object()
        .into_iter()
        .flatten()
        .find(|(name, _)| schema["type"] == "object" && !known(name));
    if let Some((name, _)) = unknown {
        return Err(format!("{name} is not in the schema"));
    }
    let listed = schema["enum"].as_array().is_none_or(|words| words.contains(example));
    listed.then_some(()).ok_or_else(|| format!("{example} is no word of {schema}"))
}

/// The bounds beside the fields are written by hand; those that hold are the domain's.
#[test]
fn bounds_are_the_domains() {
    let document = build();
    for (schema, name, min, max) in [
        ("SubscriptionUpdate", "max_in_flight", 1.0, f64::from(IN_FLIGHT_MAX)),
        ("SubscriptionUpdate", "timeout_seconds", TIMEOUT_MIN.as_secs_f64(), TIMEOUT_MAX.as_secs_f64()),
        ("TenantUpdate", "max_in_flight", 1.0, f64::from(TENANT_IN_FLIGHT_MAX)),
        ("Tenant", "max_in_flight", 1.0, f64::from(TENANT_IN_FLIGHT_MAX)),
        ("RateLimit", "requests_per_second", RATE_MIN, RATE_MAX),
        ("RateLimit", "burst", 1.0, f64::from(BURST_MAX)),
        ("RetrySettings", "max_retries", 0.0, f64::from(RETRIES_MAX)),
        ("RetrySettings", "initial_delay_seconds", 0.0, RETRY_DELAY_MAX.as_secs_f64()),
        ("RetryPolicy", "max_delay_seconds", 0.0, RETRY_DELAY_MAX.as_secs_f64()),
        ("PaginatedSubscriptions", "page", 1.0, f64::from(PAGE_NUMBER_MAX)),
        ("PaginatedSubscriptions", "limit", 1.0, f64::from(PAGE_LIMIT_MAX)),
    ] {
        let property = &document["components"]["schemas"][schema]["properties"][name];
        let bound = |name: &str| property[name].as_f64().unwrap();
        // Written with the digits that a person reads, so not to the last bit.
        assert!((bound("minimum") - min).abs() < 1e-12, "{schema}.{name}: {property}");
        assert!((bound("maximum") - max).abs() < 1e-12, "{schema}.{name}: {property}");
    }
    for (name, longest) in [
        ("target_url", TARGET_URL_CHARS_MAX),
        ("tenant", TENANT_CHARS_MAX),
        ("description", DESCRIPTION_CHARS_MAX),
        ("secret_key", SECRET_KEY_BYTES_MAX),
    ] {
        let property = &document["components"]["schemas"]["SubscriptionCreate"]["properties"][name];
        assert_eq!(property["maxLength"], longest, "{name}");
    }
}
