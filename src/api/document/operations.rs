//! Operations: parameters, bodies, answers and problems.

use poem::http::StatusCode;
use posthorn_domain::limits::{KEY_CHARS_MAX, PAGE_LIMIT_MAX, PAGE_NUMBER_MAX};
use serde_json::{Map, Value, json};

use super::examples;
use super::schemas::bound_length;
use crate::http::problem::{CONTENT_TYPE, Kind};

/// How headers are usually spelt; poem-openapi writes them in capitals.
const HEADERS: &[&str] = &["Location", "Idempotent-Replayed"];

/// Problems that any operation may answer.
const ANY: &[Kind] = &[Kind::MalformedRequest, Kind::MisdirectedRequest, Kind::Internal];
/// Where a key is needed.
const GUARDED: &[Kind] = &[Kind::ApiKeyRequired, Kind::TooManyGuesses];
/// Where a tenant's calls are counted: wherever a key is needed, but at ingest.
const COUNTED: &[Kind] = &[Kind::ControlSpent];
/// Where it must be an admin's, or may not name another tenant.
const FORBIDDEN: &[Kind] = &[Kind::Forbidden];
/// Where the store is asked.
const STORED: &[Kind] = &[Kind::StoreUnavailable];
/// Where the store is changed by an admin.
const ADMINISTERED: &[Kind] = &[Kind::StoreUnavailable, Kind::OutcomeUnknown];
/// Where the store is changed on behalf of a tenant.
const CHANGED: &[Kind] = &[Kind::StoreUnavailable, Kind::OutcomeUnknown, Kind::OverShare];
/// Where a secret is read or written.
const SECRET: &[Kind] = &[Kind::SecretsUnreadable];
/// Where an id stands in the path.
const NAMED: &[Kind] = &[Kind::InvalidParameter, Kind::NotFound];
/// Where a name stands in the path that needs not be known.
const PARAMETER: &[Kind] = &[Kind::InvalidParameter];
/// Where there is a query.
const QUERIED: &[Kind] = &[Kind::InvalidParameter, Kind::InvalidFields];
/// Where an event is handed in.
const HANDED_IN: &[Kind] = &[Kind::QuotaSpent, Kind::BacklogFull, Kind::StorageFull];
/// Where there is a body.
const BODY: &[Kind] = &[
    Kind::MalformedJson,
    Kind::RequestTimeout,
    Kind::PayloadTooLarge,
    Kind::UnsupportedMediaType,
    Kind::InvalidFields,
];

/// The problems of each operation, beside those of [`ANY`].
fn problems(operation: &str) -> Vec<&'static [Kind]> {
    match operation {
        "getHealth" => vec![],
        "getWebhookKeys" => vec![STORED, NAMED, SECRET],
        "getSigningSecret" => vec![GUARDED, STORED, NAMED, SECRET],
        "getReadiness" => vec![&[Kind::NotReady]],
        "getSystemStats" => vec![GUARDED, STORED],
        "getCluster" => vec![GUARDED, FORBIDDEN, STORED],
        "listApiKeys" => vec![GUARDED, FORBIDDEN, STORED, QUERIED],
        "revokeApiKey" => vec![GUARDED, FORBIDDEN, ADMINISTERED, NAMED, &[Kind::LastAdminKey]],
        "listActivity" | "listSubscriptions" | "listAudit" => vec![GUARDED, STORED, QUERIED],
        "listDeliveries" | "listDeliveryAttempts" => vec![GUARDED, STORED, NAMED, QUERIED],
        "updateTenant" => vec![GUARDED, FORBIDDEN, CHANGED, PARAMETER, BODY],
        "createSubscription" => {
            vec![GUARDED, FORBIDDEN, CHANGED, BODY, &[Kind::TooManySubscriptions], SECRET]
        }
        "createApiKey" => vec![GUARDED, FORBIDDEN, ADMINISTERED, BODY],
        "updateSubscription" | "rotateSigningSecret" => vec![GUARDED, CHANGED, NAMED, BODY, SECRET],
        "pauseSubscription" | "resumeSubscription" => {
            vec![GUARDED, CHANGED, NAMED, &[Kind::SubscriptionDisabled], SECRET]
        }
        "disableSubscription" => vec![GUARDED, CHANGED, NAMED, SECRET],
        "enableSubscription" => vec![GUARDED, CHANGED, NAMED, &[Kind::SubscriptionPaused], SECRET],
        "sendTestEvent" => vec![GUARDED, CHANGED, NAMED, &[Kind::SubscriptionDisabled], HANDED_IN],
        "replayDelivery" => {
            let own = &[Kind::QuotaSpent, Kind::BacklogFull, Kind::SubscriptionDeleted];
            vec![GUARDED, CHANGED, NAMED, own]
        }
        "retryDelivery" | "skipDelivery" => vec![GUARDED, CHANGED, NAMED, &[Kind::DeliveryFinished]],
        "deleteSubscription" => vec![GUARDED, CHANGED, NAMED],
        "ingestEvent" => vec![
            GUARDED,
            CHANGED,
            NAMED,
            &[
                Kind::InvalidSignature,
                Kind::MalformedJson,
                Kind::RequestTimeout,
                Kind::PayloadTooLarge,
                Kind::UnsupportedMediaType,
                Kind::SubscriptionDisabled,
                Kind::KeyReused,
                Kind::EventLoop,
            ],
            HANDED_IN,
            SECRET,
        ],
        // Reading one thing by its id; also the least that a new operation can answer.
        _ => vec![GUARDED, STORED, NAMED],
    }
}

/// Puts every operation of the document right.
pub(super) fn finish(document: &mut Value) {
    let Some(paths) = document.get_mut("paths").and_then(Value::as_object_mut) else { return };
    // The contract's spelling of the one path that it ends with a slash.
    if let Some(item) = paths.remove("/subscriptions") {
        paths.insert("/subscriptions/".to_owned(), item);
    }
    for item in paths.values_mut().filter_map(Value::as_object_mut) {
        for operation in item.values_mut().filter_map(Value::as_object_mut) {
            let id = operation.get("operationId").and_then(Value::as_str).unwrap_or_default().to_owned();
            finish_operation(&id, operation);
        }
    }
}

fn finish_operation(id: &str, operation: &mut Map<String, Value>) {
    let guarded = problems(id).contains(&GUARDED);
    if id == "ingestEvent" {
        // A key, or a right signature instead.
        operation.insert("security".to_owned(), json!([{ "bearer": [] }, {}]));
        add_event(operation);
    } else if !guarded {
        operation.insert("security".to_owned(), json!([]));
    }
    for parameter in operation.get_mut("parameters").and_then(Value::as_array_mut).into_iter().flatten() {
        finish_parameter(parameter);
    }
    add_example(operation.get_mut("requestBody"));
    let Some(responses) = operation.get_mut("responses").and_then(Value::as_object_mut) else { return };
    for response in responses.values_mut() {
        finish_response(response);
    }
    for (status, response) in problem_responses(id) {
        responses.insert(status.as_str().to_owned(), response);
    }
}

fn finish_parameter(parameter: &mut Value) {
    drop_defaults(parameter);
    let name = parameter.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    let Some(schema) = parameter.get_mut("schema").and_then(Value::as_object_mut) else { return };
    let max = match name.as_str() {
        "limit" => PAGE_LIMIT_MAX,
        "page" => PAGE_NUMBER_MAX,
        _ => return bound_length(&name, schema),
    };
    *schema = Map::from_iter([
        ("type".to_owned(), "integer".into()),
        ("format".to_owned(), "int32".into()),
        ("minimum".to_owned(), 1.into()),
        ("maximum".to_owned(), max.into()),
    ]);
}

/// What goes without saying.
fn drop_defaults(value: &mut Value) {
    if let Some(members) = value.as_object_mut() {
        members.retain(|name, value| !(name == "explode" || name == "deprecated" && *value == false));
    }
}

fn finish_response(response: &mut Value) {
    if let Some(headers) = response.get_mut("headers").and_then(Value::as_object_mut) {
        for header in headers.values_mut() {
            drop_defaults(header);
            if let Some(schema) = header.get_mut("schema").and_then(Value::as_object_mut) {
                schema.insert("maxLength".to_owned(), 255.into());
            }
        }
        for name in HEADERS {
            if let Some(header) = headers.remove(&name.to_uppercase()) {
                headers.insert((*name).to_owned(), header);
            }
        }
    }
    if let Some(description) = response.get_mut("description").filter(|text| *text == "") {
        *description = "As asked for.".into();
    }
    add_example(Some(response));
}

/// Adds an example to the JSON of a body or an answer.
fn add_example(content: Option<&mut Value>) {
    let json = content.and_then(|content| content.pointer_mut("/content/application~1json"));
    let Some(media) = json.and_then(Value::as_object_mut) else { return };
    let Some(schema) = media.get_mut("schema").and_then(Value::as_object_mut) else { return };
    let list = schema.get("type").is_some_and(|kind| kind == "array");
    if list {
        schema.insert("maxItems".to_owned(), PAGE_LIMIT_MAX.into());
    }
    let reference =
        if list { schema.get("items").and_then(|items| items.get("$ref")) } else { schema.get("$ref") };
    let name = reference.and_then(Value::as_str).and_then(|reference| reference.rsplit('/').next());
    let example = match name {
        Some(name) => examples::of_schema(name),
        // What has no schema of its own is a payload.
        None => Some(examples::event()),
    };
    if let Some(example) = example {
        media.insert("example".to_owned(), if list { json!([example]) } else { example });
    }
}

/// One answer for each status, with every kind of problem that has it.
fn problem_responses(id: &str) -> Vec<(StatusCode, Value)> {
    let of_operation = problems(id);
    let counted = of_operation.contains(&GUARDED) && id != "ingestEvent";
    let counted = counted.then_some(COUNTED);
    let kinds: Vec<Kind> = of_operation.into_iter().chain(counted).chain([ANY]).flatten().copied().collect();
    let mut statuses: Vec<StatusCode> = kinds.iter().map(|kind| kind.status()).collect();
    statuses.sort_unstable();
    statuses.dedup();
    let response = |status: StatusCode| {
        let of_status: Vec<Kind> = kinds.iter().copied().filter(|kind| kind.status() == status).collect();
        (status, problem_response(&of_status))
    };
    statuses.into_iter().map(response).collect()
}

fn problem_response(kinds: &[Kind]) -> Value {
    let titles: Vec<String> =
        kinds.iter().map(|kind| format!("{} (`{}`)", kind.title(), kind.name())).collect();
    let mut response = json!({
        "description": titles.join("; "),
        "content": { CONTENT_TYPE: { "schema": { "$ref": "#/components/schemas/Problem" } } },
    });
    let Some(&kind) = kinds.first() else { return response };
    if let Some(media) =
        response.pointer_mut("/content/application~1problem+json").and_then(Value::as_object_mut)
    {
        media.insert("example".to_owned(), examples::problem(kind));
    }
    let header = match kind.status() {
        StatusCode::UNAUTHORIZED => {
            ("WWW-Authenticate", json!({ "type": "string", "maxLength": 255 }), "How to prove who you are.")
        }
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => (
            "Retry-After",
            json!({ "type": "integer", "format": "int32", "minimum": 1, "maximum": 86400 }),
            "Seconds to wait before trying again.",
        ),
        _ => return response,
    };
    let (name, schema, description) = header;
    if let Some(response) = response.as_object_mut() {
        let header = json!({ "description": description, "required": true, "schema": schema });
        response.insert("headers".to_owned(), json!({ name: header }));
    }
    response
}

/// What the handler reads by itself: the raw body and the headers.
fn add_event(operation: &mut Map<String, Value>) {
    let body = json!({
        "description": "The payload: any JSON value, kept byte for byte. Types that end in `+json` are taken, too.",
        "required": true,
        "content": { "application/json": { "schema": { "description": "Any JSON value." } } },
    });
    operation.insert("requestBody".to_owned(), body);
    let signature =
        json!({ "type": "string", "pattern": "^sha256=[0-9a-f]{64}$", "minLength": 71, "maxLength": 71 });
    let headers = [
        header(
            "X-Webhook-Signature-256",
            "`sha256=` and the lower-case hex of HMAC-SHA256(secret_key, raw body). Needed where the subscription has a `secret_key`.",
            &signature,
        ),
        header(
            "X-Hub-Signature-256",
            "GitHub's name for the same; where both are sent both must be right.",
            &signature,
        ),
        header(
            "Idempotency-Key",
            "While its delivery exists, the same key for the same subscription answers with the first delivery and stores nothing.",
            &key(),
        ),
        header(
            "Posthorn-Ordering-Key",
            "Where the subscription's ordering is `key`: deliveries with the same key keep their order.",
            &key(),
        ),
        header(
            "Posthorn-Hops",
            "How often the event has come through a Posthorn, as its delivery said; 0 where it is left out. Beyond 8 the event is refused.",
            &json!({ "type": "integer", "format": "int32", "minimum": 0, "maximum": 8 }),
        ),
    ];
    let parameters = operation.entry("parameters").or_insert_with(|| json!([]));
    if let Some(parameters) = parameters.as_array_mut() {
        parameters.extend(headers);
    }
}

fn header(name: &str, description: &str, schema: &Value) -> Value {
    json!({ "name": name, "in": "header", "description": description, "required": false, "schema": schema })
}

fn key() -> Value {
    json!({ "type": "string", "pattern": "^[ -~]+$", "minLength": 1, "maxLength": KEY_CHARS_MAX })
}
