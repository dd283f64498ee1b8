//! Schemas: what may be null, what is always there, how long and how large.

use poem_openapi::registry::Registry;
use poem_openapi::types::Type as _;
use posthorn_domain::limits::{
    DESCRIPTION_CHARS_MAX, ERROR_MESSAGE_CHARS_MAX, KEY_CHARS_MAX, PAGE_LIMIT_MAX, RESPONSE_BODY_KEPT_BYTES,
    SECRETS_IN_FORCE_MAX, STATIC_HEADER_BYTES_MAX, STATIC_HEADER_NAME_BYTES_MAX, STATIC_HEADERS_MAX,
    TARGET_URL_CHARS_MAX, TENANT_CHARS_MAX,
};
use serde_json::{Map, Value, json};

use crate::http::problem::ProblemBody;

/// What clients send. Everything else is sent to them.
const REQUESTS: &[&str] = &[
    "SigningSecretRotation",
    "SubscriptionCreate",
    "SubscriptionUpdate",
    "TenantUpdate",
    "ApiKeyCreate",
    "RetrySettings",
    "RateLimit",
];

/// Fields of requests that may be left out but not be null.
const NEVER_NULL: &[(&str, &str)] = &[("SubscriptionUpdate", "target_url")];

/// Fields of answers that are not always there.
const SOMETIMES: &[(&str, &str)] = &[("Problem", "errors"), ("RetryPolicy", "give_up_on")];

/// The largest integer that every language reads right (RFC 8259 §6); counts stay far below.
const INTEGER_MAX: u64 = (1 << 53) - 1;

/// What an entry of the audit log names of changed fields.
const AUDIT_FIELDS_MAX: usize = 32;
/// A field's name.
const AUDIT_FIELD_CHARS_MAX: usize = 64;

/// Texts and lists by the name of their field, with how long they get at most.
const LONGEST: &[(&str, usize)] = &[
    ("attempts", 1010),
    ("cursor", 64),
    ("description", DESCRIPTION_CHARS_MAX),
    ("detail", 8192),
    ("error", ERROR_MESSAGE_CHARS_MAX),
    ("error_message", ERROR_MESSAGE_CHARS_MAX),
    ("errors", 1000),
    ("items", PAGE_LIMIT_MAX as usize),
    ("next_cursor", 64),
    ("ordering_key", KEY_CHARS_MAX),
    ("keys", SECRETS_IN_FORCE_MAX),
    ("pointer", 8192),
    ("public_key", 128),
    ("response_body", RESPONSE_BODY_KEPT_BYTES),
    ("signing_secret", 128),
    ("summary", 4096),
    ("target_url", TARGET_URL_CHARS_MAX),
    ("tenant", TENANT_CHARS_MAX),
    ("title", 128),
    ("type", 128),
];

/// Puts every schema of the document right.
pub(super) fn finish(document: &mut Value) {
    let Some(schemas) = document.pointer_mut("/components/schemas").and_then(Value::as_object_mut) else {
        return;
    };
    add_problem(schemas);
    let types = types(schemas);
    for (name, schema) in schemas.iter_mut() {
        let Some(schema) = schema.as_object_mut() else { continue };
        if REQUESTS.contains(&name.as_str()) {
            schema.insert("additionalProperties".to_owned(), false.into());
        }
        finish_properties(name, schema, &types);
    }
    walk(document, &mut |value| {
        straighten_reference(value);
        bound_number(value);
        join_lines(value);
    });
}

/// Problems stand in no handler's answer, so poem-openapi leaves their schema out.
fn add_problem(schemas: &mut Map<String, Value>) {
    let mut registry = Registry::new();
    ProblemBody::register(&mut registry);
    for (name, schema) in registry.schemas {
        // A schema is plain data: this cannot fail.
        schemas.insert(name, serde_json::to_value(schema).unwrap_or_default());
    }
}

/// The type of each schema by the reference that leads to it.
fn types(schemas: &Map<String, Value>) -> Map<String, Value> {
    let of = |(name, schema): (&String, &Value)| {
        Some((format!("#/components/schemas/{name}"), schema.get("type")?.clone()))
    };
    schemas.iter().filter_map(of).collect()
}

fn finish_properties(of: &str, schema: &mut Map<String, Value>, types: &Map<String, Value>) {
    let required: Vec<Value> = schema.get("required").and_then(Value::as_array).cloned().unwrap_or_default();
    let is_request = REQUESTS.contains(&of);
    let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) else { return };
    let mut always = Vec::new();
    for (name, property) in properties.iter_mut() {
        let is_among = |list: &[(&str, &str)]| list.contains(&(of, name.as_str()));
        let may_miss = !required.contains(&name.as_str().into());
        let Some(property) = property.as_object_mut() else { continue };
        // A default would make generators send the field, or say it is always there.
        property.remove("default");
        bound_length(name, property);
        if (of, name.as_str()) == ("Problem", "status") {
            property.extend([("minimum".to_owned(), 400.into()), ("maximum".to_owned(), 599.into())]);
        }
        if may_miss && !is_among(NEVER_NULL) && !is_among(SOMETIMES) {
            make_nullable(property, types);
        }
        if !may_miss || !(is_request || is_among(SOMETIMES)) {
            always.push(Value::from(name.as_str()));
        }
    }
    if !always.is_empty() {
        schema.insert("required".to_owned(), always.into());
    }
}

/// `nullable` only widens a `type` beside it (OpenAPI 3.0.3, Schema Object): where that is a
/// reference, null is one of two choices, and the type is said again for those who look no further.
fn make_nullable(property: &mut Map<String, Value>, types: &Map<String, Value>) {
    if let Some(reference) = take_reference(property) {
        let kind = reference.as_str().and_then(|reference| types.get(reference));
        let nothing = json!({ "type": kind, "nullable": true, "enum": [null] });
        property.insert("type".to_owned(), json!(kind));
        property.insert("oneOf".to_owned(), json!([{ "$ref": reference }, nothing]));
    }
    property.insert("nullable".to_owned(), true.into());
}

fn take_reference(property: &mut Map<String, Value>) -> Option<Value> {
    let parts = property.remove("allOf");
    let mut parts = parts.iter().filter_map(Value::as_array).flatten();
    property.remove("$ref").or_else(|| parts.find_map(|part| part.get("$ref").cloned()))
}

/// Notes how long a text or a list gets at most.
pub(super) fn bound_length(name: &str, schema: &mut Map<String, Value>) {
    let longest = LONGEST.iter().find(|(field, _)| *field == name).map(|(_, max)| *max);
    let kind = schema.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
    match (kind.as_str(), longest) {
        ("string", Some(max)) if !schema.contains_key("format") => {
            schema.entry("maxLength").or_insert(max.into());
        }
        ("array", Some(max)) => {
            schema.entry("maxItems").or_insert(max.into());
        }
        ("array", _) if name == "fields" => {
            let name = json!({ "type": "string", "maxLength": AUDIT_FIELD_CHARS_MAX });
            schema.extend([("maxItems".to_owned(), AUDIT_FIELDS_MAX.into()), ("items".to_owned(), name)]);
        }
        ("array", _) if name == "forward_headers" => {
            let name = json!({ "type": "string", "minLength": 1, "maxLength": STATIC_HEADER_NAME_BYTES_MAX });
            schema.insert("items".to_owned(), name);
        }
        ("array", _) if name == "give_up_on" => {
            let status = json!({ "type": "string", "maxLength": 3, "pattern": "^[345]([0-9]{2}|[xX]{2})$" });
            schema.insert("items".to_owned(), status);
        }
        ("object", _) if name == "headers" => {
            schema.insert("maxProperties".to_owned(), STATIC_HEADERS_MAX.into());
            let value = json!({ "type": "string", "maxLength": STATIC_HEADER_BYTES_MAX });
            schema.insert("additionalProperties".to_owned(), value);
        }
        _ => {}
    }
}

/// poem-openapi writes a described reference as `allOf` of the reference and the description; then
/// generators see two types. The reference alone belongs there, and the rest beside it.
fn straighten_reference(value: &mut Value) {
    let Some(all_of) = value.get_mut("allOf").and_then(Value::as_array_mut) else { return };
    if all_of.iter().any(|part| part.get("$ref").is_some()) {
        all_of.retain(|part| part.get("$ref").is_some());
    }
}

/// Integers by their width, in the formats that OpenAPI knows, and bounds as integers where they are.
fn bound_number(value: &mut Value) {
    let Some(schema) = value.as_object_mut() else { return };
    for bound in ["minimum", "maximum"] {
        if let Some(whole) = schema.get(bound).and_then(Value::as_f64).and_then(as_integer) {
            schema.insert(bound.to_owned(), whole);
        }
    }
    let (format, min, max) = match schema.get("format").and_then(Value::as_str) {
        Some("uint8") => ("int32", Some(0), u64::from(u8::MAX)),
        Some("uint16") => ("int32", Some(0), u64::from(u16::MAX)),
        Some("uint32") => ("int64", Some(0), u64::from(u32::MAX)),
        Some("uint64") => ("int64", Some(0), INTEGER_MAX),
        Some("int64") => ("int64", None, INTEGER_MAX),
        _ => return,
    };
    schema.insert("format".to_owned(), format.into());
    if let Some(min) = min {
        schema.entry("minimum").or_insert(min.into());
    }
    schema.entry("maximum").or_insert(max.into());
}

fn as_integer(number: f64) -> Option<Value> {
    let text = format!("{number:.0}");
    let whole: i64 = text.parse().ok()?;
    (number.fract() == 0.0).then(|| whole.into())
}

/// Comments break their lines where the code's width ends; only empty lines mean something.
fn join_lines(value: &mut Value) {
    if let Some(Value::String(text)) = value.get_mut("description") {
        *text = text.split("\n\n").map(|part| part.replace('\n', " ")).collect::<Vec<_>>().join("\n\n");
    }
}

fn walk(value: &mut Value, visit: &mut impl FnMut(&mut Value)) {
    visit(value);
    match value {
        Value::Object(members) => members.values_mut().for_each(|member| walk(member, visit)),
        Value::Array(items) => items.iter_mut().for_each(|item| walk(item, visit)),
        _ => {}
    }
}
