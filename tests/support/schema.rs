//! Holds a JSON value against a schema of OpenAPI 3.0: the part of it that the document uses.

use serde_json::Value;

/// No schema of the document nests deeper.
const DEPTH_MAX: usize = 32;

/// Says where and why the value is not as the schema says.
pub(crate) fn check(root: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    check_at(root, schema, value, "", DEPTH_MAX)
}

fn check_at(root: &Value, schema: &Value, value: &Value, at: &str, depth: usize) -> Result<(), String> {
    let Some(depth) = depth.checked_sub(1) else { return Err(format!("{at}: nested too deep")) };
    if let Some(reference) = schema["$ref"].as_str() {
        let target = root.pointer(reference.trim_start_matches('#'));
        let target = target.ok_or_else(|| format!("{at}: {reference} leads nowhere"))?;
        return check_at(root, target, value, at, depth);
    }
    if value.is_null() {
        return may_be_null(schema).then_some(()).ok_or_else(|| format!("{at}: null, but not nullable"));
    }
    for part in schema["allOf"].as_array().into_iter().flatten() {
        check_at(root, part, value, at, depth)?;
    }
    for choice in ["anyOf", "oneOf"] {
        if let Some(parts) = schema[choice].as_array() {
            let fits = parts.iter().any(|part| check_at(root, part, value, at, depth).is_ok());
            fits.then_some(()).ok_or_else(|| format!("{at}: fits nothing of {choice}"))?;
        }
    }
    check_kind(schema, value, at)?;
    check_members(root, schema, value, at, depth)
}

/// Whether the schema allows null; one without a type allows anything.
fn may_be_null(schema: &Value) -> bool {
    let bare = ["type", "allOf", "anyOf", "oneOf", "enum"].iter().all(|word| schema[word].is_null());
    schema["nullable"] == true || bare
}

fn check_kind(schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    let fits = match schema["type"].as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("number") => value.is_number(),
        _ => true,
    };
    if !fits {
        return Err(format!("{at}: {value} is no {}", schema["type"]));
    }
    if schema["enum"].as_array().is_some_and(|values| !values.contains(value)) {
        return Err(format!("{at}: {value} is not among {}", schema["enum"]));
    }
    if let Some(number) = value.as_f64() {
        let below = schema["minimum"].as_f64().is_some_and(|minimum| number < minimum);
        let above = schema["maximum"].as_f64().is_some_and(|maximum| number > maximum);
        if below || above {
            return Err(format!("{at}: {number} is out of the bounds of {schema}"));
        }
    }
    match (schema["format"].as_str(), value.as_str()) {
        (Some("uuid"), Some(text)) if uuid::Uuid::parse_str(text).is_err() => {
            Err(format!("{at}: {text} is no UUID"))
        }
        (Some("date-time"), Some(text)) if chrono::DateTime::parse_from_rfc3339(text).is_err() => {
            Err(format!("{at}: {text} is no time"))
        }
        _ => Ok(()),
    }
}

fn check_members(root: &Value, schema: &Value, value: &Value, at: &str, depth: usize) -> Result<(), String> {
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        check_at(root, &schema["items"], item, &format!("{at}/{index}"), depth)?;
    }
    let Some(members) = value.as_object() else { return Ok(()) };
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        members.get(name).ok_or_else(|| format!("{at}: {name} is required and absent"))?;
    }
    let Some(properties) = schema["properties"].as_object() else { return Ok(()) };
    for (name, member) in members {
        let property = properties.get(name).ok_or_else(|| format!("{at}: {name} is not documented"))?;
        check_at(root, property, member, &format!("{at}/{name}"), depth)?;
    }
    Ok(())
}

/// The judge must be able to say no.
#[test]
fn schema_refuses_what_it_should() {
    let root = serde_json::json!({"components": {"schemas": {"Thing": {
        "type": "object",
        "required": ["a"],
        "properties": {
            "a": {"type": "integer", "maximum": 9},
            "b": {"type": "string", "nullable": true},
            "c": {"type": "string", "enum": ["x"]},
        },
    }}}});
    let schema = serde_json::json!({"$ref": "#/components/schemas/Thing"});
    for (value, fits) in [
        (serde_json::json!({"a": 1}), true),
        (serde_json::json!({"a": 1, "b": null, "c": "x"}), true),
        (serde_json::json!({"b": "text"}), false),
        (serde_json::json!({"a": null}), false),
        (serde_json::json!({"a": 10}), false),
        (serde_json::json!({"a": "1"}), false),
        (serde_json::json!({"a": 1, "c": "y"}), false),
        (serde_json::json!({"a": 1, "unknown": 1}), false),
    ] {
        assert_eq!(check(&root, &schema, &value).is_ok(), fits, "{value}");
    }
}
