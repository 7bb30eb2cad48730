//! JSON-RPC 2.0 text: requests out, answers and events in.
//!
//! TrueNAS's rules (`ws_handler/rpc.py`): positional parameters, no batches, answers in any order, events in between.
//! A result stays the part of the message that it is, text, until the typed caller reads it: a listing of many volumes is
//! tens of megabytes, of which there is one copy.

use std::fmt;
use std::io;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use tokio_tungstenite::tungstenite::{Bytes, Utf8Bytes};
use zeroize::Zeroizing;

use crate::error::{ApiError, FieldError};

/// Largest request in bytes after login (the appliance closes the connection with 1009 beyond it).
pub const MAX_REQUEST: usize = 65_536;
/// Largest request in bytes before login (the appliance closes the connection with 1007 beyond it).
pub(crate) const MAX_REQUEST_BEFORE_LOGIN: usize = 8_192;

/// JSON-RPC code of "too many concurrent calls": nothing was done.
pub(crate) const TOO_MANY_CALLS: i64 = -32000;

/// Why a request was not written.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum EncodeError {
    TooLarge { bytes: usize },
    Json,
}

#[derive(Serialize)]
struct Request<'a, P: ?Sized> {
    jsonrpc: &'static str,
    id: u64,
    method: &'a str,
    params: &'a P,
}

/// Counts what would be written.
struct Size(usize);

impl io::Write for Size {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0 += buf.len();
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes one request. The buffer is allocated once in its final size and zeroed when dropped, because requests carry
/// keys; the copies inside the WebSocket and TLS write buffers are out of reach.
pub(crate) fn encode<P: Serialize + ?Sized>(
    id: u64,
    method: &str,
    params: &P,
    limit: usize,
) -> Result<Utf8Bytes, EncodeError> {
    let request = Request { jsonrpc: "2.0", id, method, params };
    let mut size = Size(0);
    serde_json::to_writer(&mut size, &request).map_err(|_| EncodeError::Json)?;
    if size.0 > limit {
        return Err(EncodeError::TooLarge { bytes: size.0 });
    }
    let mut text = Zeroizing::new(Vec::with_capacity(size.0));
    serde_json::to_writer(&mut *text, &request).map_err(|_| EncodeError::Json)?;
    Utf8Bytes::try_from(Bytes::from_owner(text)).map_err(|_| EncodeError::Json)
}

/// A message of the appliance.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// Answer to the request with this id.
    Answer { id: u64, outcome: Result<Utf8Bytes, RpcError> },
    /// A change in a collection (`collection_update`).
    Event(Event),
    /// Any other notification.
    Other,
}

/// `params` of a `collection_update`.
#[derive(Debug, Deserialize)]
pub(crate) struct Event {
    /// Name of the collection, e.g. `core.get_jobs`.
    pub(crate) collection: String,
    /// The object; absent on removal.
    #[serde(default)]
    pub(crate) fields: Option<Box<RawValue>>,
}

/// The `error` object of an answer, without the appliance's stack trace.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct RpcError {
    pub(crate) code: i64,
    message: String,
    errno: i32,
    errname: String,
    reason: String,
    class: Option<String>,
    fields: Vec<FieldError>,
}

impl RpcError {
    pub(crate) fn into_api_error(self, method: &'static str) -> ApiError {
        ApiError {
            method,
            code: self.code,
            message: self.message,
            errno: self.errno,
            errname: self.errname,
            reason: self.reason,
            class: self.class,
            fields: self.fields,
        }
    }
}

/// A message that is no JSON-RPC of this appliance. The text tells what is wrong with it without repeating it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Garbage(pub(crate) String);

/// The place of a JSON error without the text at that place (which may be a secret).
pub(crate) struct JsonPlace<'a>(pub(crate) &'a serde_json::Error);

impl fmt::Display for JsonPlace<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.0.classify() {
            serde_json::error::Category::Io => "input error",
            serde_json::error::Category::Syntax => "not JSON",
            serde_json::error::Category::Data => "unexpected shape",
            serde_json::error::Category::Eof => "ends too early",
        };
        write!(f, "{kind} at line {} column {}", self.0.line(), self.0.column())
    }
}

#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    result: Option<&'a RawValue>,
    #[serde(default)]
    error: Option<WireError>,
    #[serde(default)]
    method: Option<String>,
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
}

/// Tells `"result": null` (a value) from no result.
fn present<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

#[derive(Deserialize)]
struct WireError {
    code: i64,
    #[serde(default)]
    message: String,
    #[serde(default)]
    data: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
struct WireData {
    #[serde(default)]
    error: Option<i32>,
    #[serde(default)]
    errname: Option<String>,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    trace: Option<WireTrace>,
    #[serde(default)]
    extra: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
struct WireTrace {
    #[serde(default)]
    class: Option<String>,
}

/// Reads one message.
pub(crate) fn parse(message: &Utf8Bytes) -> Result<Incoming, Garbage> {
    let wire: Wire<'_> =
        serde_json::from_str(message.as_str()).map_err(|e| Garbage(JsonPlace(&e).to_string()))?;
    if let Some(method) = wire.method {
        if method != "collection_update" {
            return Ok(Incoming::Other);
        }
        let params = wire.params.ok_or_else(|| Garbage("an event without parameters".to_owned()))?;
        let event = serde_json::from_str(params.get())
            .map_err(|e| Garbage(format!("an event: {}", JsonPlace(&e))))?;
        return Ok(Incoming::Event(event));
    }
    let outcome = match (wire.result, wire.error) {
        (_, Some(error)) => Err(rpc_error(error)),
        (Some(result), None) => Ok(part_of(message, result.get())?),
        (None, None) => return Err(Garbage("neither an answer nor an event".to_owned())),
    };
    let id = wire.id.and_then(|id| id.get().parse().ok());
    match (id, outcome) {
        (Some(id), outcome) => Ok(Incoming::Answer { id, outcome }),
        // The appliance answers without an id when it could not read a request at all.
        (None, Err(error)) => Err(Garbage(format!("an error without request id (code {})", error.code))),
        (None, Ok(_)) => Err(Garbage("an answer without a known request id".to_owned())),
    }
}

/// The result without a copy: `text` lies in `message`.
fn part_of(message: &Utf8Bytes, text: &str) -> Result<Utf8Bytes, Garbage> {
    let bytes: &Bytes = message.as_ref();
    Utf8Bytes::try_from(bytes.slice_ref(text.as_bytes())).map_err(|_| Garbage("not UTF-8".to_owned()))
}

/// Keeps what it can read: a `data` of an unknown shape still leaves code and message.
fn rpc_error(wire: WireError) -> RpcError {
    let mut error = RpcError { code: wire.code, message: wire.message, ..RpcError::default() };
    let Some(data) = wire.data.and_then(|d| serde_json::from_str::<WireData>(d.get()).ok()) else {
        return error;
    };
    error.errno = data.error.unwrap_or_default();
    error.errname = data.errname.unwrap_or_default();
    error.reason = data.reason.unwrap_or_default();
    error.class = data.trace.and_then(|t| t.class);
    error.fields = data.extra.map_or_else(Vec::new, |extra| field_errors(&extra));
    error
}

/// `[[attribute, message, errno], ...]`; anything else (method-specific data) gives no fields.
pub(crate) fn field_errors(extra: &RawValue) -> Vec<FieldError> {
    let triples: Vec<(Option<String>, String, i32)> = serde_json::from_str(extra.get()).unwrap_or_default();
    triples.into_iter().map(|(attribute, message, errno)| FieldError { attribute, message, errno }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Incoming, Garbage> {
        super::parse(&Utf8Bytes::from(text))
    }

    use proptest::prelude::*;

    /// The WebSocket library prints every message, logins included, at the `trace` level of the `log` crate.
    #[test]
    fn the_level_at_which_messages_would_be_printed_is_not_compiled_in() {
        assert!(log::STATIC_MAX_LEVEL <= log::LevelFilter::Debug);
    }

    #[test]
    fn a_null_result_is_an_answer() {
        let Ok(Incoming::Answer { id: 3, outcome: Ok(raw) }) =
            parse(r#"{"jsonrpc":"2.0","id":3,"result":null}"#)
        else {
            panic!("not an answer")
        };
        assert_eq!(raw.as_str(), "null");
    }

    #[test]
    fn a_validation_error_keeps_every_field() {
        let text = r#"{"jsonrpc":"2.0","id":9,"error":{"code":-32602,"message":"Invalid params","data":{"error":22,
            "errname":"EINVAL","reason":"","trace":{"class":"ValidationErrors","formatted":"long","repr":"r"},
            "extra":[["pool_dataset_create.name","Path already exists",22],[null,"Dataset x does not exist",2]]}}}"#;
        let Ok(Incoming::Answer { id: 9, outcome: Err(error) }) = parse(text) else {
            panic!("not an answer")
        };
        let error = error.into_api_error("pool.dataset.create");
        assert_eq!((error.code, error.errno, error.fields.len()), (-32602, 22, 2));
        assert!(error.mentions("name") && error.is_not_found() && error.is_exists());
        assert_eq!(error.class.as_deref(), Some("ValidationErrors"));
    }

    #[test]
    fn an_error_with_strange_data_keeps_code_and_message() {
        for data in ["null", "7", "\"x\"", "{\"error\":\"EINVAL\"}", "[]"] {
            let text = format!(r#"{{"id":1,"error":{{"code":-32000,"message":"busy","data":{data}}}}}"#);
            let Ok(Incoming::Answer { outcome: Err(error), .. }) = parse(&text) else { panic!("{data}") };
            assert_eq!((error.code, error.message.as_str()), (TOO_MANY_CALLS, "busy"));
        }
    }

    #[test]
    fn method_specific_extra_gives_no_fields() {
        let text = r#"{"id":1,"error":{"code":-32001,"message":"m","data":{"error":14,"errname":"EFAULT",
            "reason":"[EFAULT] Failed","trace":null,"extra":{"a":1}}}}"#;
        let Ok(Incoming::Answer { outcome: Err(error), .. }) = parse(text) else { panic!("not an answer") };
        assert_eq!((error.errno, error.reason.as_str(), error.fields.len()), (14, "[EFAULT] Failed", 0));
    }

    #[test]
    fn events_and_foreign_notifications() {
        let event = r#"{"jsonrpc":"2.0","method":"collection_update","params":{"msg":"changed",
            "collection":"core.get_jobs","id":1,"fields":{"id":1}}}"#;
        assert!(
            matches!(parse(event), Ok(Incoming::Event(e)) if e.collection == "core.get_jobs" && e.fields.is_some())
        );
        let removed = r#"{"method":"collection_update","params":{"msg":"removed","collection":"x","id":1}}"#;
        assert!(matches!(parse(removed), Ok(Incoming::Event(e)) if e.fields.is_none()));
        assert!(matches!(parse(r#"{"method":"notify_unsubscribed","params":{}}"#), Ok(Incoming::Other)));
    }

    #[test]
    fn garbage_is_named_but_not_repeated() {
        for text in [
            "",
            "hush",
            "[]",
            "[{\"id\":1,\"result\":\"hush\"}]",
            "{}",
            "{\"id\":1}",
            "{\"id\":\"hush\",\"result\":1}",
            "{\"id\":-1,\"result\":1}",
            "{\"id\":null,\"error\":{\"code\":-32700,\"message\":\"hush\"}}",
            "{\"id\":1,\"result\":\"hush",
            "{\"id\":1,\"error\":\"hush\"}",
            "{\"method\":\"collection_update\"}",
            "{\"method\":\"collection_update\",\"params\":\"hush\"}",
        ] {
            let Err(Garbage(why)) = parse(text) else { panic!("{text}") };
            assert!(!why.contains("hush"), "{why}");
        }
    }

    #[test]
    fn a_request_at_the_limit_passes_and_one_byte_more_does_not() {
        let overhead = encode(1, "m", &["x"], MAX_REQUEST).unwrap().len() - 1;
        let fits = "x".repeat(MAX_REQUEST - overhead);
        assert_eq!(encode(1, "m", &[&fits], MAX_REQUEST).unwrap().len(), MAX_REQUEST);
        let over = format!("{fits}x");
        assert_eq!(
            encode(1, "m", &[&over], MAX_REQUEST),
            Err(EncodeError::TooLarge { bytes: MAX_REQUEST + 1 })
        );
    }

    #[test]
    fn parameters_are_positional() {
        let none: [(); 0] = [];
        assert_eq!(
            encode(4, "core.ping", &none, MAX_REQUEST).unwrap().as_str(),
            r#"{"jsonrpc":"2.0","id":4,"method":"core.ping","params":[]}"#
        );
        assert!(encode(4, "m", &("a", 1), MAX_REQUEST).unwrap().as_str().ends_with(r#""params":["a",1]}"#));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_without_a_crash(text in ".{0,300}") {
            let _ = parse(&text);
        }

        #[test]
        fn any_cut_or_changed_answer_is_read_or_refused(at in 0usize..400, byte in 32u8..127) {
            let text = r#"{"jsonrpc":"2.0","id":9,"error":{"code":-32602,"message":"Invalid params","data":{"error":22,"errname":"EINVAL","reason":"","trace":{"class":"ValidationErrors"},"extra":[["a.b","c",22],[null,"d",2]]}}}"#;
            let _ = parse(text.get(..at).unwrap_or(text));
            let mut changed = text.as_bytes().to_vec();
            if let Some(place) = changed.get_mut(at) { *place = byte; }
            if let Ok(changed) = std::str::from_utf8(&changed) { let _ = parse(changed); }
        }

        #[test]
        fn every_result_comes_back_unchanged(id in any::<u64>(), text in "\\PC{0,200}") {
            let json = serde_json::to_string(&text).unwrap();
            let Ok(Incoming::Answer { id: got, outcome: Ok(raw) }) = parse(&format!("{{\"id\":{id},\"result\":{json}}}")) else {
                panic!("not an answer")
            };
            prop_assert_eq!(got, id);
            prop_assert_eq!(serde_json::from_str::<String>(raw.as_str()).unwrap(), text);
        }
    }
}
