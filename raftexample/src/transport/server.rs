//! The answering side: what a peer may ask, and etcd's answers in etcd's order of checks, of which the first that fails
//! answers.
//!
//! | path | method | answer |
//! |---|---|---|
//! | `/raft` | POST | one message; 204 once the raft thread's inbox has it |
//! | `/raft/snapshot` | POST | a snapshot; 204 once the raft thread's inbox has it, checked and loaded |
//! | `/raft/stream/<kind>/<id>` | GET | 200, and messages for node `id` for as long as both live |
//! | `/raft/probing` | GET | 200, JSON with the time: this node is alive |
//! | `/raft/stream` | any | 301: the original's answer to a path without its slash |
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
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{HeaderMap, HeaderValue, ALLOW, CONTENT_TYPE, LOCATION};
use hyper::{Method, Request, Response, StatusCode};
use raft_core::pb::{Message, MessageType};

pub use super::arriving::Arriving;
use super::outgoing::Outgoing;
use super::peer::{Link, Peers};
use super::register::{Register, Said, Stranger};
use super::snapshot::receive::{Receiving, Sender, Standing};
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
    pub async fn answer<B>(self: Arc<Self>, request: Request<B>) -> Result<Response<PeerBody>, Infallible>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::fmt::Display,
    {
        let path = request.uri().path();
        if let Some(rest) = path.strip_prefix(STREAMS) {
            return Ok(self.stream(request.method(), request.headers(), rest));
        }
        let answer = match path {
            pipeline::PATH => self.pipeline(request).await,
            snapshot::PATH => self.snapshot(request).await,
            probing::PATH => probe_answer(),
            path if path == STREAMS.trim_end_matches('/') => moved(STREAMS),
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
        self.posted(request, |body, sender| async {
            match self.arriving.read(body, MESSAGE_MAX_BYTES).await {
                Ok(body) => self.deliver(body, sender).await,
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
        self.posted(request, |body, sender| self.snapshots.answer(body, sender)).await
    }

    /// What both kinds of posts have in common, around what is done with the body.
    async fn posted<B, F>(&self, request: Request<B>, take: impl FnOnce(B, Sender) -> F) -> Response<Full<Bytes>>
    where
        F: Future<Output = Response<Full<Bytes>>>,
    {
        if request.method() != Method::POST {
            return method_not_allowed("POST");
        }
        let mut response = match self.admit(request.headers()) {
            Ok(sender) => take(request.into_body(), sender).await,
            Err(refusal) => refusal,
        };
        response.headers_mut().insert(headers::CLUSTER_ID, HeaderValue::from_static(headers::CLUSTER_ID_VALUE));
        response
    }

    // The error is the answer to send: nothing is gained by boxing it.
    #[allow(clippy::result_large_err)]
    fn admit(&self, headers: &HeaderMap) -> Result<Sender, Response<Full<Bytes>>> {
        headers::check(headers).map_err(|mismatch| text(StatusCode::PRECONDITION_FAILED, mismatch.text()))?;
        let sender = headers::sender(headers);
        if let Some(id) = sender {
            self.tell_removed(headers, id, StatusCode::FORBIDDEN)?;
        }
        // 0 is nobody's id.
        let id = sender.unwrap_or(0);
        let said = self.tell_stranger(Said::check(&self.register, id, headers), sender)?;
        let standing = match self.peers.get(id) {
            None => Standing::Stranger,
            Some(_) if self.register.borrow().recognises(headers, id) => Standing::Known,
            Some(_) => Standing::Named,
        };
        Ok(Sender { id, standing, said })
    }

    async fn deliver(&self, body: Bytes, sender: Sender) -> Response<Full<Bytes>> {
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
        let link = self.peers.get(message.from);
        if let Some(link) = &link {
            link.metrics.received_bytes.add(bytes);
        }
        if message.kind() == Some(MessageType::MsgSnap) {
            return self.snapshots.answer_message(message, sender).await;
        }
        match (self.sink)(Event::Message(message)) {
            Ok(()) => empty(),
            Err(refused) => {
                if let (Event::Message(message), Some(link)) = (*refused, &link) {
                    link.note_dropped(&message);
                }
                text(StatusCode::SERVICE_UNAVAILABLE, "too many messages waiting")
            }
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

fn moved(to: &'static str) -> Response<Full<Bytes>> {
    let mut response = text(StatusCode::MOVED_PERMANENTLY, "Moved Permanently");
    response.headers_mut().insert(LOCATION, HeaderValue::from_static(to));
    response
}

fn method_not_allowed(allowed: &'static str) -> Response<Full<Bytes>> {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}

#[cfg(test)]
mod tests;
