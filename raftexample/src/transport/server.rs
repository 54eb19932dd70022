//! The receiving side: what a peer may ask, and etcd's answers in etcd's order of checks.
//!
//! | path | method | answer |
//! |---|---|---|
//! | `/raft` | POST | one message; 204 once the raft thread's inbox has it |
//! | `/raft/probing` | GET | 200, JSON with the time: the peer is alive |
//! | `/raft/stream/…` | GET | 404 `error sender not found`, etcd's word for "not now": streams are not served yet |
//! | anything else | any | 404 |
//!
//! The checks of a post, first failure wins: method 405, version 412, cluster 412, removed sender 403 (only for a sender
//! that asks to be told), size 413, protobuf 400, receiver 412, snapshot 400, room in the inbox 503.
//!
//! Two of them are ours. A message for another id would be taken for our own: a vote given in somebody else's name. And
//! a snapshot that cannot be restored must be refused before the state that it was to replace is given up.
//!
//! What is left out: who may connect. Peers trust each other until there is TLS.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{Buf, Bytes};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Incoming};
use hyper::header::{HeaderMap, HeaderValue, ALLOW, CONTENT_TYPE};
use hyper::{Method, Request, Response, StatusCode};
use prost::Message as _;
use raft_core::pb::{Message, MessageType, Snapshot};

use super::{headers, Event, Removed, Sink};

/// A body may not be longer. Memory is used as bytes arrive, not as a length announces them.
pub const MESSAGE_MAX_BYTES: usize = 512 << 20;

/// Says whether a snapshot could be restored, and if not, why.
pub type SnapshotCheck = Arc<dyn Fn(&Snapshot) -> Result<(), String> + Send + Sync>;

/// Everything that the receiving side needs to know.
#[derive(Clone)]
pub struct PeerServer {
    /// This node.
    pub own_id: u64,
    /// Where messages go.
    pub sink: Sink,
    /// Who must be told that they were removed.
    pub removed: Removed,
    /// Looked at before a snapshot is passed on.
    pub check_snapshot: SnapshotCheck,
}

impl PeerServer {
    /// Answers one request.
    pub async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let path = request.uri().path();
        Ok(if path == "/raft" {
            self.pipeline(request).await
        } else if path == "/raft/probing" {
            probing()
        } else if path.starts_with("/raft/stream/") {
            no_stream(request.method(), request.headers())
        } else {
            text(StatusCode::NOT_FOUND, "404 page not found")
        })
    }

    async fn pipeline<B>(&self, request: Request<B>) -> Response<Full<Bytes>>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        if request.method() != Method::POST {
            return method_not_allowed("POST");
        }
        let mut response = match self.admit(request.headers()) {
            Ok(()) => match Limited::new(request.into_body(), MESSAGE_MAX_BYTES).collect().await {
                Ok(body) => self.deliver(body.aggregate()),
                Err(error) if error.is::<http_body_util::LengthLimitError>() => {
                    text(StatusCode::PAYLOAD_TOO_LARGE, "raft message too large")
                }
                Err(_) => text(StatusCode::BAD_REQUEST, "error reading raft message"),
            },
            Err(refusal) => refusal,
        };
        response.headers_mut().insert(headers::CLUSTER_ID, HeaderValue::from_static(headers::CLUSTER_ID_VALUE));
        response
    }

    // The error is the answer to send: nothing is gained by boxing it.
    #[allow(clippy::result_large_err)]
    fn admit(&self, headers: &HeaderMap) -> Result<(), Response<Full<Bytes>>> {
        headers::check(headers).map_err(|mismatch| text(StatusCode::PRECONDITION_FAILED, mismatch.text()))?;
        let asks = headers.contains_key(headers::TELL_REMOVED);
        let removed_at = headers::sender(headers).and_then(|id| self.removed.read().get(&id).copied());
        match removed_at.filter(|_| asks) {
            None => Ok(()),
            Some(index) => {
                let mut refusal = text(StatusCode::FORBIDDEN, "removed member");
                refusal.headers_mut().insert(headers::REMOVED_AT, HeaderValue::from(index));
                Err(refusal)
            }
        }
    }

    fn deliver(&self, body: impl Buf) -> Response<Full<Bytes>> {
        let Ok(mut message) = Message::decode(body) else {
            return text(StatusCode::BAD_REQUEST, "error unmarshalling raft message");
        };
        if is_local(&message) {
            // etcd answers 204 and lets its raft ignore them.
            return empty();
        }
        if message.to != self.own_id {
            return text(StatusCode::PRECONDITION_FAILED, "to field mismatch");
        }
        message.snapshot = message.take_snapshot();
        if let Some(Err(reason)) = message.snapshot.as_deref().map(|snapshot| (self.check_snapshot)(snapshot)) {
            log::warn!("refused a snapshot from node {}: {reason}", message.from);
            return text(StatusCode::BAD_REQUEST, "snapshot cannot be restored");
        }
        match (self.sink)(Event::Message(message)) {
            Ok(()) => empty(),
            Err(_) => text(StatusCode::SERVICE_UNAVAILABLE, "too many messages waiting"),
        }
    }
}

/// Types that never come from another node.
fn is_local(message: &Message) -> bool {
    match message.kind() {
        None => true,
        Some(kind) => matches!(
            kind,
            MessageType::MsgHup
                | MessageType::MsgBeat
                | MessageType::MsgUnreachable
                | MessageType::MsgSnapStatus
                | MessageType::MsgCheckQuorum
                | MessageType::MsgStorageAppend
                | MessageType::MsgStorageAppendResp
                | MessageType::MsgStorageApply
                | MessageType::MsgStorageApplyResp
                | MessageType::MsgForgetLeader
        ),
    }
}

fn no_stream(method: &Method, request_headers: &HeaderMap) -> Response<Full<Bytes>> {
    if method != Method::GET {
        return method_not_allowed("GET");
    }
    let mut response = match headers::check(request_headers) {
        Err(mismatch) => text(StatusCode::PRECONDITION_FAILED, mismatch.text()),
        Ok(()) => text(StatusCode::NOT_FOUND, "error sender not found"),
    };
    response.headers_mut().insert(headers::SERVER_VERSION, HeaderValue::from_static(headers::OWN_VERSION));
    response.headers_mut().insert(headers::CLUSTER_ID, HeaderValue::from_static(headers::CLUSTER_ID_VALUE));
    response
}

fn probing() -> Response<Full<Bytes>> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let body = format!("{{\"OK\":true,\"Now\":\"{}\"}}\n", rfc3339(now.as_secs(), now.subsec_nanos()));
    let mut response = Response::new(Full::new(Bytes::from(body)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A time in UTC as RFC 3339 writes it. The calendar repeats every 400 years = 146 097 days; counted from the first of
/// March, so that the leap day comes last.
fn rfc3339(unix_seconds: u64, nanos: u32) -> String {
    let (days, second) = (unix_seconds / 86_400 + 719_468, unix_seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z")
}

fn empty() -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

fn text(status: StatusCode, line: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(format!("{line}\n"))));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn method_not_allowed(allowed: &'static str) -> Response<Full<Bytes>> {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;

    struct Bench {
        server: PeerServer,
        taken: Arc<Mutex<Vec<Event>>>,
    }

    fn bench() -> Bench {
        let taken = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&taken);
        let sink: Sink = Arc::new(move |event| {
            if kept.lock().len() == 2 {
                return Err(Box::new(event));
            }
            kept.lock().push(event);
            Ok(())
        });
        let check_snapshot: SnapshotCheck =
            Arc::new(|snapshot| if snapshot.data == "good" { Ok(()) } else { Err("bad".into()) });
        let removed: Removed = Arc::default();
        removed.write().insert(9, 1);
        Bench { server: PeerServer { own_id: 2, sink, removed, check_snapshot }, taken }
    }

    fn post(body: impl Into<Bytes>) -> Request<Full<Bytes>> {
        Request::post("/raft")
            .header(headers::CLUSTER_ID, "1000")
            .header(headers::SERVER_VERSION, "3.4.23")
            .header(headers::SERVER_FROM, "1")
            .body(Full::new(body.into()))
            .unwrap()
    }

    fn heartbeat(to: u64) -> Vec<u8> {
        let mut message = Message::of(MessageType::MsgHeartbeat);
        (message.to, message.from, message.term) = (to, 1, 4);
        message.encode_to_vec()
    }

    fn answer(bench: &Bench, request: Request<Full<Bytes>>) -> (u16, String) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let response = bench.server.pipeline(request).await;
            let status = response.status().as_u16();
            let cluster = response.headers().contains_key(headers::CLUSTER_ID);
            assert_eq!(cluster, status != 405, "every answer but 405 names the cluster");
            let body = response.into_body().collect().await.unwrap().to_bytes();
            (status, String::from_utf8_lossy(&body).trim_end().to_string())
        })
    }

    #[test]
    fn a_message_is_delivered() {
        let bench = bench();
        assert_eq!(answer(&bench, post(heartbeat(2))), (204, String::new()));
        let taken = bench.taken.lock();
        assert!(matches!(&taken[..], [Event::Message(message)] if message.term == 4));
    }

    #[test]
    fn the_first_failing_check_answers() {
        let bench = bench();
        let mut request = post(heartbeat(2));
        *request.method_mut() = Method::PUT;
        assert_eq!(answer(&bench, request), (405, "Method Not Allowed".into()));
        let mut request = post(heartbeat(2));
        request.headers_mut().remove(headers::SERVER_VERSION);
        request.headers_mut().remove(headers::CLUSTER_ID);
        assert_eq!(answer(&bench, request), (412, "incompatible version".into()));
        let mut request = post(heartbeat(2));
        request.headers_mut().remove(headers::CLUSTER_ID);
        assert_eq!(answer(&bench, request), (412, "cluster ID mismatch".into()));
        assert_eq!(answer(&bench, post("\u{1}garbage")), (400, "error unmarshalling raft message".into()));
        assert_eq!(answer(&bench, post(heartbeat(3))), (412, "to field mismatch".into()));
        assert!(bench.taken.lock().is_empty());
    }

    #[test]
    fn a_removed_member_is_told_if_it_asks() {
        let bench = bench();
        let mut request = post(heartbeat(2));
        request.headers_mut().insert(headers::SERVER_FROM, HeaderValue::from_static("9"));
        assert_eq!(answer(&bench, request.clone()).0, 204, "the original would end its process at a 403");
        request.headers_mut().insert(headers::TELL_REMOVED, HeaderValue::from_static("1"));
        assert_eq!(answer(&bench, request), (403, "removed member".into()));
    }

    #[test]
    fn local_messages_are_answered_and_dropped() {
        let bench = bench();
        assert_eq!(answer(&bench, post("")).0, 204, "no bytes at all are a MsgHup");
        let mut unknown = Message::of(MessageType::MsgHup);
        (unknown.msg_type, unknown.to) = (99, 2);
        assert_eq!(answer(&bench, post(unknown.encode_to_vec())).0, 204);
        assert!(bench.taken.lock().is_empty());
    }

    #[test]
    fn a_snapshot_that_cannot_be_restored_is_refused() {
        let bench = bench();
        let snapshot = |data: &'static str| {
            let mut message = Message::of(MessageType::MsgSnap);
            message.to = 2;
            let mut snapshot = Box::<Snapshot>::default();
            snapshot.data = data.into();
            snapshot.metadata.index = 7;
            message.snapshot = Some(snapshot);
            message.encode_to_vec()
        };
        assert_eq!(answer(&bench, post(snapshot("evil"))).0, 400);
        assert_eq!(answer(&bench, post(snapshot("good"))).0, 204);
        assert_eq!(bench.taken.lock().len(), 1);
    }

    #[test]
    fn an_empty_snapshot_counts_as_none() {
        let bench = bench();
        let mut message = Message::of(MessageType::MsgApp);
        message.to = 2;
        message.snapshot = Some(Box::default());
        answer(&bench, post(message.encode_to_vec()));
        assert!(matches!(&bench.taken.lock()[..], [Event::Message(message)] if message.snapshot.is_none()));
    }

    #[test]
    fn a_full_inbox_is_said() {
        let bench = bench();
        for expected in [204, 204, 503] {
            assert_eq!(answer(&bench, post(heartbeat(2))).0, expected);
        }
    }

    #[test]
    fn times_are_written_as_rfc_3339() {
        assert_eq!(rfc3339(0, 0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(rfc3339(951_782_400, 1), "2000-02-29T00:00:00.000000001Z");
        assert_eq!(rfc3339(1_709_251_199, 999_999_999), "2024-02-29T23:59:59.999999999Z");
        assert_eq!(rfc3339(4_107_542_400, 0), "2100-03-01T00:00:00.000000000Z");
    }
}
