//! Bodies: read within a limit and a time, and JSON in and out.
//!
//! poem-openapi documents the types; reading them is our own, because its reader takes numbers for
//! strings, and tells of a bad field as text only. Here syntax is one thing (400), and a well-formed
//! body with a field that may not be so another (422, with a JSON pointer to it).

use std::fmt;
use std::io;
use std::marker::PhantomData;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use http_body_util::combinators::BoxBody;
use poem::http::{HeaderMap, header};
use poem::{Body, IntoResponse, Request, RequestBody, Response};
use poem_openapi::error::ContentTypeError;
use poem_openapi::payload::{ParsePayload, Payload};
use poem_openapi::registry::{
    MetaMediaType, MetaRequest, MetaResponse, MetaResponses, MetaSchemaRef, Registry,
};
use poem_openapi::types::Type;
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ApiResponse, ExtractParamOptions, impl_apirequest_for_payload,
};
use posthorn_domain::payload::{check_json, is_json_content_type};
use posthorn_domain::transfer::Transfer;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_path_to_error::{Path, Segment};
use tokio::time::{Instant, timeout_at};

use crate::http::problem::{FieldError, Kind, Problem};
use crate::http::server::{Client, PACE};

/// The largest body of the API, other than events: room for 32 static headers of 4 KiB, and for
/// what escaping adds.
pub(super) const BODY_BYTES_MAX: usize = 256 * 1024;

/// The whole body, where it is no longer than `bytes_max`.
///
/// A body that declares a greater length is refused unread, so that a client that waits for
/// `100 Continue` never sends it. Memory grows with what arrives, not with what is declared, and is
/// held in the name of who calls until the answer is taken.
pub(super) async fn read(request: &Request, body: Body, bytes_max: usize) -> Result<Bytes, Problem> {
    let declared = check_declared_length(request.headers(), bytes_max)?;
    let client = request.extensions().get::<Client>();
    collect(client, body.into(), declared.unwrap_or(bytes_max), bytes_max).await
}

/// One buffer, not the pieces: those of a byte each would cost forty times what they hold.
async fn collect(
    client: Option<&Client>,
    mut body: BoxBody<Bytes, io::Error>,
    expected: usize,
    bytes_max: usize,
) -> Result<Bytes, Problem> {
    let mut taking = client.map(Client::takes_body);
    let mut transfer = Transfer::new(now());
    let mut bytes = Vec::new();
    loop {
        let frame = match timeout_at(Instant::from_std(transfer.deadline(&PACE)), body.frame()).await {
            Ok(None) => return Ok(bytes.into()),
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(_))) => {
                let detail = "the body ended half-way or is badly framed";
                return Err(Problem::new(Kind::MalformedRequest, detail));
            }
            Err(_) => return Err(too_slow()),
        };
        // Trailers are ignored.
        let Ok(piece) = frame.into_data() else { continue };
        let needed = bytes.len().saturating_add(piece.len());
        if needed > bytes_max {
            return Err(Problem::too_large(bytes_max));
        }
        if needed > bytes.capacity() {
            let capacity = bytes.capacity().saturating_mul(2).min(expected).max(needed);
            if let Some(taking) = &mut taking {
                let begun = now();
                taking.room_for(capacity).await?;
                transfer.excuse(begun.elapsed());
            }
            bytes.reserve_exact(capacity.saturating_sub(bytes.len()));
        }
        bytes.extend_from_slice(&piece);
        transfer.progress(piece.len(), now());
        if let Some(taking) = &taking {
            taking.received(piece.len());
        }
    }
}

fn too_slow() -> Problem {
    Problem::new(
        Kind::RequestTimeout,
        format!(
            "the body did not arrive within {} seconds and at {} bytes a second after that",
            PACE.grace.as_secs(),
            PACE.bytes_per_second
        ),
    )
}

/// Now, also where a test holds the time still.
fn now() -> std::time::Instant {
    Instant::now().into_std()
}

/// The length that the head declares, where it does and the length is allowed.
pub(super) fn check_declared_length(headers: &HeaderMap, bytes_max: usize) -> Result<Option<usize>, Problem> {
    let declared =
        headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    let Some(length) = declared else { return Ok(None) };
    match usize::try_from(length) {
        Ok(length) if length <= bytes_max => Ok(Some(length)),
        _ => Err(Problem::too_large(bytes_max)),
    }
}

/// A JSON body, in or out.
#[derive(Debug)]
pub(super) struct Json<T>(pub(super) T);

impl<T: Type> Payload for Json<T> {
    const CONTENT_TYPE: &'static str = "application/json";

    fn check_content_type(content_type: &str) -> bool {
        is_json_content_type(content_type)
    }

    fn schema_ref() -> MetaSchemaRef {
        T::schema_ref()
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}

impl<T: DeserializeOwned + Type> ParsePayload for Json<T> {
    const IS_REQUIRED: bool = true;

    async fn from_request(request: &Request, body: &mut RequestBody) -> poem::Result<Self> {
        Ok(Self(read_json(request, body).await?))
    }
}

/// A body of the API, as the type says.
pub(super) async fn read_json<T: DeserializeOwned>(
    request: &Request,
    body: &mut RequestBody,
) -> poem::Result<T> {
    let bytes = read(request, body.take()?, BODY_BYTES_MAX).await?;
    Ok(parse(&bytes)?)
}

impl_apirequest_for_payload!(Json<T>, T: DeserializeOwned + Type);

/// A JSON body that may be left out: none where there are no bytes, whatever type they have.
#[derive(Debug)]
pub(super) struct OptionalJson<T>(pub(super) Option<T>);

impl<'a, T: DeserializeOwned + Type> ApiExtractor<'a> for OptionalJson<T> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];

    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        T::register(registry);
    }

    fn request_meta() -> Option<MetaRequest> {
        let content = MetaMediaType { content_type: Json::<T>::CONTENT_TYPE, schema: T::schema_ref() };
        Some(MetaRequest { description: None, content: vec![content], required: false })
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _options: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        let bytes = read(request, body.take()?, BODY_BYTES_MAX).await?;
        if bytes.is_empty() {
            return Ok(Self(None));
        }
        match request.content_type() {
            Some(kind) if Json::<T>::check_content_type(kind) => Ok(Self(Some(parse(&bytes)?))),
            Some(kind) => Err(ContentTypeError::NotSupported { content_type: kind.to_owned() }.into()),
            None => Err(ContentTypeError::ExpectContentType.into()),
        }
    }
}

impl<T: Serialize + Send> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(body) => Response::builder().content_type("application/json").body(body),
            Err(error) => {
                tracing::error!(%error, "an answer cannot be written as JSON");
                Problem::internal().into_response()
            }
        }
    }
}

impl<T: Serialize + Type> ApiResponse for Json<T> {
    fn meta() -> MetaResponses {
        let content = vec![MetaMediaType { content_type: Self::CONTENT_TYPE, schema: Self::schema_ref() }];
        let response = MetaResponse {
            description: "",
            status: Some(200),
            status_range: None,
            content,
            headers: Vec::new(),
        };
        MetaResponses { responses: vec![response] }
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}

/// One JSON value, as the type says.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    check_json(bytes).map_err(|error| Problem::new(Kind::MalformedJson, error.to_string()))?;
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let parsed: Result<OnlyObject<T>, _> = serde_path_to_error::deserialize(&mut json);
    parsed.map(|OnlyObject(value)| value).map_err(|error| explain(error.path(), error.inner()))
}

/// A struct that was written as an object. What serde derives takes a list of the fields' values, too.
#[derive(Debug)]
pub(super) struct OnlyObject<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OnlyObject<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData)).map(Self)
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map))
    }
}

/// Why JSON is not what it should be.
fn explain(path: &Path, error: &serde_json::Error) -> Problem {
    let text = error.to_string();
    if text.starts_with("recursion limit") {
        return Problem::new(Kind::MalformedJson, "expected JSON of at most 128 levels");
    }
    // Line and column help nobody who has a pointer.
    let text = text.rsplit_once(" at line ").map_or(&*text, |(text, _)| text);
    let mut pointer = to_pointer(path);
    let detail = if let Some(name) = quoted(text, "missing field `") {
        push_segment(&mut pointer, name);
        "expected this field"
    } else if let Some(name) = quoted(text, "duplicate field `") {
        push_segment(&mut pointer, name);
        "expected this field once"
    } else if let Some(name) = quoted(text, "unknown field `") {
        let mut last = String::new();
        push_segment(&mut last, name);
        // Most often the path leads to the field already.
        if !pointer.ends_with(&last) {
            pointer.push_str(&last);
        }
        "there is no such field"
    } else {
        text
    };
    Problem::fields(vec![FieldError { pointer, detail: detail.to_owned() }])
}

/// The name that serde quotes after `prefix`.
fn quoted<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    text.strip_prefix(prefix)?.split_once('`').map(|(name, _)| name)
}

/// A JSON pointer (RFC 6901).
fn to_pointer(path: &Path) -> String {
    let mut pointer = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => push_segment(&mut pointer, &index.to_string()),
            Segment::Map { key } => push_segment(&mut pointer, key),
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    pointer
}

/// Appends a step to a JSON pointer.
pub(super) fn push_segment(pointer: &mut String, name: &str) {
    pointer.push('/');
    pointer.push_str(&name.replace('~', "~0").replace('/', "~1"));
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only whether it parses matters")]
    struct Outer {
        text: String,
        #[serde(default)]
        number: Option<u32>,
        #[serde(default)]
        inner: Option<OnlyObject<Inner>>,
        #[serde(default)]
        map: Option<BTreeMap<String, String>>,
        #[serde(default)]
        list: Vec<u8>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only whether it parses matters")]
    struct Inner {
        rate: f64,
    }

    #[test]
    fn fields_at_fault_are_pointed_to() {
        for (body, pointer, detail) in [
            (r#"{"text":7}"#, "/text", "expected a string"),
            (r#"{"text":null}"#, "/text", "expected a string"),
            ("{}", "/text", "expected this field"),
            (r#"{"text":"","zz":1}"#, "/zz", "no such field"),
            (r#"{"text":"","a/b~c":1}"#, "/a~1b~0c", "no such field"),
            (r#"{"text":"","number":-1}"#, "/number", "-1"),
            (r#"{"text":"","number":1.5}"#, "/number", "1.5"),
            (r#"{"text":"","number":"3"}"#, "/number", "expected u32"),
            (r#"{"text":"","number":1e400}"#, "/number", "number out of range"),
            (r#"{"text":"","inner":{}}"#, "/inner/rate", "expected this field"),
            (r#"{"text":"","inner":{"rate":1,"zz":1}}"#, "/inner/zz", "no such field"),
            (r#"{"text":"","inner":{"rate":"1"}}"#, "/inner/rate", "expected f64"),
            (r#"{"text":"","inner":[1]}"#, "/inner", "expected an object"),
            (r#"{"text":"","map":{"x-a":1}}"#, "/map/x-a", "expected a string"),
            (r#"{"text":"","list":[1,300]}"#, "/list/1", "expected u8"),
            (r#"{"text":"","text":""}"#, "/text", "once"),
            (r#"{"text":"\ud800"}"#, "/text", "hex escape"),
            ("[\"\"]", "", "expected an object"),
            ("null", "", "expected an object"),
        ] {
            let problem = parse::<Outer>(body.as_bytes()).unwrap_err();
            let [error] = problem.errors() else { panic!("{body}: {problem}") };
            assert_eq!(error.pointer, pointer, "{body}: {problem}");
            assert!(error.detail.contains(detail), "{body}: {problem}");
            assert_eq!(problem.kind(), Kind::InvalidFields, "{body}");
        }
    }

    #[test]
    fn what_is_no_json_is_malformed() {
        let deep = format!(r#"{{"text":"","zz":{}{}}}"#, "[".repeat(10_000), "]".repeat(10_000));
        for body in ["", "{", r#"{"text":7,"#, r#"{"text":""}}"#, "\u{feff}{}", "{'text':''}"] {
            assert_eq!(parse::<Outer>(body.as_bytes()).unwrap_err().kind(), Kind::MalformedJson, "{body}");
        }
        assert_eq!(
            parse::<BTreeMap<String, serde_json::Value>>(deep.as_bytes()).unwrap_err().kind(),
            Kind::MalformedJson
        );
    }

    #[tokio::test]
    async fn bodies_are_read_within_a_limit() {
        let request = Request::builder().finish();
        assert_eq!(read(&request, Body::from("12345"), 5).await.unwrap(), "12345");
        assert_eq!(read(&request, Body::from("123456"), 5).await.unwrap_err().kind(), Kind::PayloadTooLarge);
        let declared = Request::builder().header(header::CONTENT_LENGTH, 6).finish();
        // Refused by what is declared alone: the body itself would pass.
        assert_eq!(read(&declared, Body::empty(), 5).await.unwrap_err().kind(), Kind::PayloadTooLarge);
    }

    #[tokio::test(start_paused = true)]
    async fn slow_bodies_are_given_up() {
        let pieces = |pause: u64, bytes: usize| {
            let pieces = futures_util::stream::unfold((), move |()| async move {
                tokio::time::sleep(std::time::Duration::from_secs(pause)).await;
                Some((Ok::<_, io::Error>(Bytes::from(vec![b'x'; bytes])), ()))
            });
            Body::from_bytes_stream(pieces)
        };
        for (case, pause, bytes, seconds) in [
            ("nothing comes", 60, 1, 30),
            ("a byte a second", 1, 1, 30),
            ("half of what is asked", 1, 16 * 1024, 60),
        ] {
            let begun = Instant::now();
            let answer = read(&Request::builder().finish(), pieces(pause, bytes), 1 << 30).await;
            assert_eq!(answer.unwrap_err().kind(), Kind::RequestTimeout, "{case}");
            let took = begun.elapsed().as_secs();
            assert!((seconds - 1..=seconds + 1).contains(&took), "{case}: {took}");
        }
        let begun = Instant::now();
        let fast = read(&Request::builder().finish(), pieces(1, 64 * 1024), 6 << 20).await;
        assert_eq!(fast.unwrap_err().kind(), Kind::PayloadTooLarge, "at a good rate it may take long");
        assert!(begun.elapsed().as_secs() > 60);
    }
}
