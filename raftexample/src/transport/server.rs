//! The answering side: what a peer may ask, and etcd's answers in etcd's order of checks, of which the first that fails
//! answers.
//!
//! | path | method | answer |
//! |---|---|---|
//! | `/raft` | POST | one message; 204 once the raft thread's inbox has it |
//! | `/raft/snapshot` | POST | a snapshot; 204 once the raft thread's inbox has it, checked and loaded |
//! | `/raft/stream/<kind>/<id>` | GET | 200, and messages for node `id` for as long as both live |
//! | `/raft/probing` | GET | 200, JSON with the time: this node is alive |
//! | anything else | any | 404 |
//!
//! | check of a post | answer | | check of a stream | answer |
//! |---|---|---|---|---|
//! | method | 405 | | method | 405 |
//! | version | 412 | | version | 412 |
//! | cluster | 412 | | cluster | 412 |
//! | sender was removed | 403 | | kind of stream; id | 404 |
//! | numbers fit | 412 | | receiver was removed | 410 |
//! | size; time | 413; 408 | | numbers fit | 412 |
//! | is a message | 400 | | receiver is a peer | 404 |
//! | addressed to this node | 412 | | addressed to this node | 412 |
//! | snapshot can be restored | 400 | | | |
//! | room in the inbox | 503 | | | |
//!
//! The checks of a snapshot stand in [`receive`](super::snapshot::receive).
//!
//! 403 and 410 get those only who ask for them: a process of the original ends over either. Three checks are ours. The
//! numbers of cluster and data directories tell who is not who it seems to be, see [`register`](super::register). A
//! message for another id would be taken for our own: a vote given in somebody else's name. And a snapshot that cannot be
//! restored must be refused before the state that it was to replace is given up.
//!
//! What is left out: who may connect. Peers trust whoever reaches their port, unless TLS asks for certificates
//! (`--peer-client-cert-auth`); which member a certificate belongs to is not asked.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{HeaderMap, HeaderValue, ALLOW, CONTENT_TYPE};
use hyper::{Method, Request, Response, StatusCode};
use raft_core::pb::{Message, MessageType};

pub use super::arriving::Arriving;
use super::outgoing::Outgoing;
use super::peer::{Link, Peers};
use super::register::{Register, Said, Stranger};
use super::snapshot::receive::Receiving;
use super::stream::Kind;
use super::{headers, pipeline, probing, snapshot, wire, Event, Sink};

/// Where streams are; kind and id follow.
const STREAMS: &str = "/raft/stream/";
/// A body may not be longer. Memory is used as bytes arrive, not as a length announces them.
pub const MESSAGE_MAX_BYTES: usize = 512 << 20;

/// Everything that the receiving side needs to know.
#[derive(Clone)]
pub struct PeerServer {
    /// This node.
    pub own_id: u64,
    /// Who may dial.
    pub peers: Arc<Peers>,
    /// Where messages go.
    pub sink: Sink,
    /// Who must be told that they were removed, and who is who.
    pub register: Register,
    /// Where snapshots go first.
    pub snapshots: Receiving,
    /// What bodies may still take.
    pub arriving: Arriving,
}

/// The body of an answer.
pub enum PeerBody {
    /// Known when the answer begins.
    Whole(Full<Bytes>),
    /// Messages, for as long as both sides live and fit.
    Stream(Box<Stream>),
}

/// A stream that a peer has asked for.
pub struct Stream {
    body: Outgoing,
    link: Arc<Link>,
    said: Said,
}

impl PeerServer {
    /// Answers one request.
    pub async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<PeerBody>, Infallible> {
        let path = request.uri().path();
        if let Some(rest) = path.strip_prefix(STREAMS) {
            return Ok(self.stream(request.method(), request.headers(), rest));
        }
        let answer = match path {
            pipeline::PATH => self.pipeline(request).await,
            snapshot::PATH => self.snapshot(request).await,
            probing::PATH => probe_answer(),
            _ => text(StatusCode::NOT_FOUND, "404 page not found"),
        };
        Ok(answer.map(PeerBody::Whole))
    }

    /// `rest` is the path behind `/raft/stream/`.
    fn stream(&self, method: &Method, request_headers: &HeaderMap, rest: &str) -> Response<PeerBody> {
        if method != Method::GET {
            return method_not_allowed("GET").map(PeerBody::Whole);
        }
        let mut response = match self.open_stream(request_headers, rest) {
            Ok(stream) => Response::new(PeerBody::Stream(Box::new(stream))),
            Err(refusal) => refusal.map(PeerBody::Whole),
        };
        headers::set(response.headers_mut(), headers::SERVER_VERSION, headers::OWN_VERSION);
        headers::set(response.headers_mut(), headers::CLUSTER_ID, headers::CLUSTER_ID_VALUE);
        self.register.borrow().sign(response.headers_mut(), None);
        response
    }

    // The error is the answer to send: nothing is gained by boxing it.
    #[allow(clippy::result_large_err)]
    fn open_stream(&self, request_headers: &HeaderMap, rest: &str) -> Result<Stream, Response<Full<Bytes>>> {
        let not_found = |reason| text(StatusCode::NOT_FOUND, reason);
        headers::check(request_headers).map_err(|mismatch| text(StatusCode::PRECONDITION_FAILED, mismatch.text()))?;
        let (name, id) = rest.rsplit_once('/').ok_or_else(|| not_found("invalid path"))?;
        let kind = Kind::by_name(name).ok_or_else(|| not_found("invalid path"))?;
        let id = headers::parse_id(id).ok_or_else(|| not_found("invalid from"))?;
        self.tell_removed(request_headers, id, StatusCode::GONE)?;
        let said = self.tell_stranger(Said::check(&self.register, id, request_headers), Some(id))?;
        let link = self.peers.get(id).ok_or_else(|| not_found("error sender not found"))?;
        let to = request_headers.get(headers::RAFT_TO).and_then(|value| value.to_str().ok());
        if to != Some(format!("{:x}", self.own_id).as_str()) {
            return Err(text(StatusCode::PRECONDITION_FAILED, "to field mismatch"));
        }
        Ok(Stream { body: link.attach(kind), link, said })
    }

    /// Refuses a removed member, if it has asked to be told.
    #[allow(clippy::result_large_err)]
    fn tell_removed(&self, headers: &HeaderMap, id: u64, status: StatusCode) -> Result<(), Response<Full<Bytes>>> {
        let removed_at = self.register.borrow().removed.get(&id).copied();
        match removed_at.filter(|_| headers.contains_key(headers::TELL_REMOVED)) {
            None => Ok(()),
            Some(index) => {
                let mut refusal = text(status, "removed member");
                refusal.headers_mut().insert(headers::REMOVED_AT, HeaderValue::from(index));
                Err(refusal)
            }
        }
    }

    /// Refuses whoever is not who it seems to be.
    #[allow(clippy::result_large_err)]
    fn tell_stranger<T>(&self, checked: Result<T, Stranger>, from: Option<u64>) -> Result<T, Response<Full<Bytes>>> {
        let stranger = match checked {
            Ok(fits) => return Ok(fits),
            Err(stranger) => stranger,
        };
        // What is wrong with this node is said by those whom it dials: anybody may come here and claim to be a member.
        match from.and_then(|id| self.peers.get(id)) {
            Some(link) => link.note_stranger(&stranger),
            None => log::debug!("refused a request of node {from:?}: {stranger}"),
        }
        let mut refusal = text(StatusCode::PRECONDITION_FAILED, &stranger.to_string());
        stranger.number().refuse(refusal.headers_mut());
        Err(refusal)
    }

    async fn pipeline<B>(&self, request: Request<B>) -> Response<Full<Bytes>>
    where
        B: Body<Data = Bytes>,
    {
        self.posted(request, |body| async {
            match self.arriving.read(body, MESSAGE_MAX_BYTES).await {
                Ok(body) => self.deliver(body).await,
                Err((status, reason)) => text(status, reason),
            }
        })
        .await
    }

    async fn snapshot<B>(&self, request: Request<B>) -> Response<Full<Bytes>>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::fmt::Display,
    {
        self.posted(request, |body| self.snapshots.answer(body)).await
    }

    /// What both kinds of posts have in common, around what is done with the body.
    async fn posted<B, F>(&self, request: Request<B>, take: impl FnOnce(B) -> F) -> Response<Full<Bytes>>
    where
        F: Future<Output = Response<Full<Bytes>>>,
    {
        if request.method() != Method::POST {
            return method_not_allowed("POST");
        }
        let mut response = match self.admit(request.headers()) {
            Ok(()) => take(request.into_body()).await,
            Err(refusal) => refusal,
        };
        response.headers_mut().insert(headers::CLUSTER_ID, HeaderValue::from_static(headers::CLUSTER_ID_VALUE));
        response
    }

    // The error is the answer to send: nothing is gained by boxing it.
    #[allow(clippy::result_large_err)]
    fn admit(&self, headers: &HeaderMap) -> Result<(), Response<Full<Bytes>>> {
        headers::check(headers).map_err(|mismatch| text(StatusCode::PRECONDITION_FAILED, mismatch.text()))?;
        let sender = headers::sender(headers);
        if let Some(id) = sender {
            self.tell_removed(headers, id, StatusCode::FORBIDDEN)?;
        }
        let checked = self.register.borrow().check(headers, sender);
        self.tell_stranger(checked, sender)
    }

    async fn deliver(&self, body: Bytes) -> Response<Full<Bytes>> {
        let bytes = body.len() as u64;
        let message = match wire::decode(body) {
            Ok(message) => message,
            Err(error) => {
                log::debug!("refused a message: {error}");
                return text(StatusCode::BAD_REQUEST, "error unmarshalling raft message");
            }
        };
        if is_local(&message) {
            // etcd answers 204 and lets its raft ignore them.
            return empty();
        }
        if message.to != self.own_id {
            return text(StatusCode::PRECONDITION_FAILED, "to field mismatch");
        }
        if let Some(link) = self.peers.get(message.from) {
            link.metrics.received_bytes.add(bytes);
        }
        if message.kind() == Some(MessageType::MsgSnap) {
            return self.snapshots.answer_message(message).await;
        }
        match (self.sink)(Event::Message(message)) {
            Ok(()) => empty(),
            Err(_) => text(StatusCode::SERVICE_UNAVAILABLE, "too many messages waiting"),
        }
    }
}

/// Types that never come from another node.
pub(super) fn is_local(message: &Message) -> bool {
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

impl Body for PeerBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            PeerBody::Whole(body) => Pin::new(body).poll_frame(context),
            PeerBody::Stream(stream) => {
                // It is polled at every message, and at least at every link heartbeat.
                if let Err(stranger) = stream.said.still_fits() {
                    stream.link.note_stranger(&stranger);
                    return Poll::Ready(None);
                }
                let piece = Pin::new(&mut stream.body).poll_frame(context);
                if let Poll::Ready(Some(Ok(frame))) = &piece {
                    stream.link.metrics.sent_bytes.add(frame.data_ref().map_or(0, Bytes::len) as u64);
                }
                piece
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            PeerBody::Whole(body) => body.is_end_stream(),
            PeerBody::Stream(..) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            PeerBody::Whole(body) => body.size_hint(),
            PeerBody::Stream(..) => SizeHint::default(),
        }
    }
}

fn probe_answer() -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(probing::answer())));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

pub(super) fn empty() -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

pub(super) fn text(status: StatusCode, line: &str) -> Response<Full<Bytes>> {
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
    use crate::codec::{Codec, OwnCodec};
    use crate::members::Members;
    use crate::snapshots::testing;
    use crate::transport::peer::Link;
    use crate::transport::register::{self, Known, Number};
    use crate::transport::snapshot::Transfers;
    use http_body_util::BodyExt;
    use parking_lot::Mutex;
    use prost::Message as _;
    use std::collections::BTreeMap;

    struct Bench {
        server: PeerServer,
        taken: Arc<Mutex<Vec<Event>>>,
        _dir: tempfile::TempDir,
    }

    fn bench() -> Bench {
        let taken = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&taken);
        let peers = Arc::<Peers>::default();
        let sink: Sink = Arc::new(move |event| {
            if kept.lock().len() == 2 {
                return Err(Box::new(event));
            }
            kept.lock().push(event);
            Ok(())
        });
        let dir = tempfile::tempdir().unwrap();
        let snapshots = Receiving::new(2, testing::files(dir.path()), Transfers::default(), Arc::clone(&sink));
        let register = Register::default();
        register.send_modify(|known| {
            known.removed.insert(9, 1);
        });
        let url = "http://127.0.0.1:1".parse().unwrap();
        peers.insert(Link::new(2, 1, url, Arc::clone(&sink), Arc::clone(&register), None));
        let server = PeerServer { own_id: 2, peers, sink, register, snapshots, arriving: Arriving::default() };
        Bench { server, taken, _dir: dir }
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
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
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
    fn whoever_is_not_who_it_seems_to_be_is_refused() {
        for (birth, data, to_data, number) in
            [(8, 11, 22, Number::Birth), (7, 12, 22, Number::Data), (7, 11, 23, Number::Data)]
        {
            let bench = bench();
            let known =
                Known { birth: Some(7), own_data: Some(22), data: BTreeMap::from([(1, 11)]), ..Known::default() };
            bench.server.register.send_replace(known);
            let mut request = post(heartbeat(2));
            let sender = Known {
                birth: Some(birth),
                own_data: Some(data),
                data: BTreeMap::from([(2, to_data)]),
                ..Known::default()
            };
            sender.sign(request.headers_mut(), Some(2));
            let mut stream = request.headers().clone();
            let (status, text) = answer(&bench, request);
            assert_eq!(status, 412);
            assert!(text.contains("mismatch"), "{text}");
            stream.insert(headers::RAFT_TO, HeaderValue::from_static("2"));
            let refused = bench.server.stream(&Method::GET, &stream, "msgapp/1");
            assert_eq!((refused.status().as_u16(), Number::refused(refused.headers())), (412, Some(number)));
            assert_eq!(refused.headers()[register::DATA], "16", "it says its own number");
            assert_eq!(*bench.taken.lock(), [], "whoever comes is no witness against this node");
        }
    }

    /// A node that has just started may not know yet, when a peer dials it, with which data it is known.
    #[test]
    fn a_stream_ends_when_what_becomes_known_says_that_its_reader_is_somebody_else() {
        let bench = bench();
        let known = |data: &[(u64, u64)]| {
            let data = data.iter().copied().collect();
            Known { birth: Some(7), own_data: Some(22), data, ..Known::default() }
        };
        bench.server.register.send_replace(known(&[]));
        let mut request = post("");
        Known { birth: Some(7), own_data: Some(11), ..Known::default() }.sign(request.headers_mut(), Some(2));
        request.headers_mut().insert(headers::RAFT_TO, HeaderValue::from_static("2"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let mut stream = bench.server.stream(&Method::GET, request.headers(), "message/1").into_body();
            assert!(stream.frame().await.is_some(), "nothing is known of it");
            bench.server.register.send_replace(known(&[(1, 11)]));
            assert!(stream.frame().await.is_some(), "it is who it says it is");
            bench.server.register.send_replace(known(&[(1, 12)]));
            assert!(stream.frame().await.is_none());
        });
        assert_eq!(bench.server.stream(&Method::GET, request.headers(), "message/1").status().as_u16(), 412);
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
        let snapshot = |data: Vec<u8>| {
            let mut message = Message::of(MessageType::MsgSnap);
            message.to = 2;
            let snapshot = message.snapshot.insert(Box::default());
            snapshot.data = data.into();
            snapshot.metadata = testing::metadata(7);
            message.encode_to_vec()
        };
        let mut good = Vec::new();
        OwnCodec.write_image(&Members::default(), &testing::store(2), &mut good).unwrap();
        assert_eq!(answer(&bench, post(snapshot(b"evil".to_vec()))).0, 400);
        assert_eq!(answer(&bench, post(snapshot(good))), (204, String::new()));
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

    /// Asks for a stream: path, and headers that differ from what node 1 would send. Answers status and text.
    fn ask(path: &str, change: &[(&'static str, Option<&'static str>)]) -> (u16, String) {
        let mut headers = HeaderMap::new();
        let usual = [
            (headers::CLUSTER_ID, Some("1000")),
            (headers::SERVER_VERSION, Some("3.4.23")),
            (headers::RAFT_TO, Some("2")),
        ];
        for &(name, value) in usual.iter().chain(change) {
            headers.remove(name);
            value.map(|value| headers.insert(name, HeaderValue::from_static(value)));
        }
        let bench = bench();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let response = bench.server.stream(&Method::GET, &headers, path);
            assert_eq!(response.headers()[headers::SERVER_VERSION], "3.4.23", "on refusals too");
            assert_eq!(response.headers()[headers::CLUSTER_ID], "1000");
            let status = response.status().as_u16();
            let mut body = response.into_body();
            let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
            (status, String::from_utf8_lossy(&first).trim_end().to_string())
        })
    }

    #[test]
    fn a_stream_begins_with_a_heartbeat() {
        assert_eq!(ask("msgapp/1", &[]), (200, "\0".into()));
        assert_eq!(ask("message/1", &[]).0, 200);
    }

    #[test]
    fn the_first_failing_check_of_a_stream_answers() {
        let no_version = (headers::SERVER_VERSION, None);
        let other_cluster = (headers::CLUSTER_ID, Some("1001"));
        let tell = (headers::TELL_REMOVED, Some("1"));
        let misdirected = (headers::RAFT_TO, Some("3"));
        assert_eq!(ask("what/x", &[no_version, other_cluster]), (412, "incompatible version".into()));
        assert_eq!(ask("what/x", &[other_cluster]), (412, "cluster ID mismatch".into()));
        for path in ["what/x", "msgappv2/1", "msgapp", "msgapp/1/1", ""] {
            assert_eq!(ask(path, &[]), (404, "invalid path".into()), "{path}");
        }
        assert_eq!(ask("msgapp/x", &[misdirected]), (404, "invalid from".into()));
        assert_eq!(ask("msgapp/9", &[misdirected, tell]), (410, "removed member".into()));
        assert_eq!(
            ask("msgapp/9", &[misdirected]),
            (404, "error sender not found".into()),
            "nobody ends who did not ask"
        );
        assert_eq!(ask("msgapp/1", &[misdirected]), (412, "to field mismatch".into()));
        assert_eq!(ask("msgapp/1", &[(headers::RAFT_TO, None)]), (412, "to field mismatch".into()));
    }

    #[test]
    fn a_stream_is_fetched_and_nothing_else() {
        let response = bench().server.stream(&Method::POST, &HeaderMap::new(), "msgapp/1");
        assert_eq!((response.status().as_u16(), &response.headers()[ALLOW]), (405, &HeaderValue::from_static("GET")));
    }
}
