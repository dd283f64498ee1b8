//! What may be handed in as a payload: one JSON value (RFC 8259), whatever it says.
//!
//! It is checked, never understood: numbers beyond any range (`1e400`), names that come twice,
//! escapes of lone surrogates and depth without end are JSON, and pass byte for byte.

use bytes::Bytes;
use mime::Mime;
use serde_json::value::RawValue;

use crate::forward::ForwardedHeaders;
use crate::hops::Hops;

/// An event's bytes as they came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    /// What the sender said they are.
    pub content_type: String,
    /// The bytes.
    pub bytes: Bytes,
    /// How often the event had come through a Posthorn before.
    pub hops: Hops,
    /// Sent along with them.
    pub forwarded: ForwardedHeaders,
}

/// Why bytes are no payload; the text is for the client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PayloadError(pub String);

/// Whether `bytes` are one JSON value in UTF-8, without a byte order mark.
///
/// A [`RawValue`] borrowed from bytes is the one reading of `serde_json` that neither recurses (a
/// hundred thousand `[` would end the process), nor looks at what numbers and escapes mean, nor
/// lets invalid UTF-8 pass.
pub fn check_json(bytes: &[u8]) -> Result<(), PayloadError> {
    serde_json::from_slice::<&RawValue>(bytes).map(|_| ()).map_err(|error| explain(bytes, &error))
}

fn explain(bytes: &[u8], error: &serde_json::Error) -> PayloadError {
    PayloadError(if bytes.trim_ascii().is_empty() {
        "expected a JSON value, got an empty body".to_owned()
    } else if bytes.starts_with(b"\xef\xbb\xbf") {
        "expected JSON without a byte order mark".to_owned()
    } else if let Err(error) = std::str::from_utf8(bytes) {
        format!("expected JSON in UTF-8: invalid at byte {}", error.valid_up_to())
    } else {
        format!("expected one JSON value: {error}")
    })
}

/// Whether a content type is `application/json` or `*/*+json` (RFC 6839 §3.1), in any case and with
/// any parameters, empty ones among them (RFC 9110 §5.6.6, §8.3.1).
#[must_use]
pub fn is_json_content_type(value: &str) -> bool {
    let is_json = |value: &str| {
        value
            .trim_matches([' ', '\t'])
            .parse::<Mime>()
            .is_ok_and(|mime| mime.essence_str() == "application/json" || mime.suffix() == Some(mime::JSON))
    };
    let without_empty =
        || value.split(';').map(str::trim).filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; ");
    // The parser refuses empty parameters. Within quotes a value may hold what looks like one.
    is_json(value) || !value.contains('"') && is_json(&without_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    #[test]
    fn any_json_value_passes() {
        for json in [
            "{}",
            " \t\r\n[1.0]\n",
            "null",
            "0",
            "-0.0e-0",
            "1e400",
            "123456789012345678901234567890",
            "\"\"",
            r#""\ud800""#,
            r#""\u0000\udfff\/""#,
            r#"{"a":1,"a":2}"#,
            "\"ä\u{2028}\u{10ffff}\"",
        ] {
            assert_eq!(check_json(json.as_bytes()), Ok(()), "{json}");
        }
    }

    #[test]
    fn depth_is_no_danger() {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let json = format!("{}0{}", open.repeat(1_000_000), close.repeat(1_000_000));
            assert_eq!(check_json(json.as_bytes()), Ok(()));
            assert!(check_json(open.repeat(1_000_000).as_bytes()).is_err());
        }
    }

    #[test]
    fn all_else_is_refused_with_a_reason() {
        for (bytes, reason) in [
            (&b""[..], "empty"),
            (b" \n", "empty"),
            (b"\xef\xbb\xbf{}", "byte order mark"),
            (b"\"\xff\"", "invalid at byte 1"),
            (b"\"\xed\xa0\x80\"", "invalid at byte 1"),
            (b"{}\xff", "invalid at byte 2"),
            (b"\xff\xfe{\0}\0", "invalid at byte 0"),
            (b"{} {}", "trailing characters"),
            (b"1 2", "trailing characters"),
            (b"NaN", "line 1 column 1"),
            (b"Infinity", "line 1 column 1"),
            (b"{}\0", "trailing characters"),
            (b"\"\0\"", "control character"),
            (b"\"\n\"", "control character"),
            (b"01", "invalid number"),
            (b"1.", "invalid number"),
            (b"+1", "line 1 column 1"),
            (b"'a'", "line 1 column 1"),
            (b"{a:1}", "line 1 column 2"),
            (b"[1,]", "line 1 column 4"),
            (b"// note\n{}", "line 1 column 1"),
            (br#""\x""#, "invalid escape"),
            (br#""\u12""#, "EOF"),
            (br#""\u12zz""#, "invalid escape"),
            (b"{\"a\":1", "EOF"),
        ] {
            let PayloadError(text) = check_json(bytes).unwrap_err();
            assert!(text.contains(reason), "{bytes:?}: {text}");
        }
    }

    #[test]
    fn content_types_of_json_are_known() {
        for (value, json) in [
            ("application/json", true),
            ("Application/JSON; charset=UTF-8", true),
            ("application/json;charset=\"utf-8\"", true),
            (" application/json\t", true),
            ("application/cloudevents+json", true),
            ("model/gltf+json; a=b", true),
            ("application/vnd.acme.v1+xml+JSON", true),
            ("application/json;", true),
            ("application/json;;", true),
            ("application/json; ; charset=utf-8 ;", true),
            (";application/xml", false),
            ("", false),
            ("json", false),
            ("application/jsonx", false),
            ("application/json+xml", false),
            ("application/x-json", false),
            ("application/+json", false),
            ("text/json", false),
            ("text/plain", false),
            ("application/json, text/plain", false),
            ("application/json text/plain", false),
            ("application/ json", false),
            ("application/json\r\nx: y", false),
            ("text/plain; a=application/json", false),
            ("text/plain; a=\"+json\"", false),
        ] {
            assert_eq!(is_json_content_type(value), json, "{value:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_makes_them_panic(bytes in any::<Vec<u8>>(), text in ".{0,40}", json in "[\\[\\]{}\",:\\\\0-9e.+-]{0,30}") {
            let _ = check_json(&bytes);
            let _ = is_json_content_type(&text);
            // What a full parser takes passes.
            if serde_json::from_str::<Value>(&json).is_ok() {
                prop_assert_eq!(check_json(json.as_bytes()), Ok(()));
            }
        }
    }
}
