//! The sending side of one peer: three lanes, each a bounded queue, a task, and one kept-alive connection on which it
//! posts one message after the other.
//!
//! **When a queue is full**, the message is refused and the raft thread counts it as lost; it is Raft's own flow control
//! that keeps this from happening to a peer that is merely slow. **When a post fails**, everything else that waits in
//! that queue is thrown away with it: by the time the peer is back it is stale, and Raft will send what is still needed.
//!
//! **What is known about a failure matters for proposals.** A heartbeat that arrives twice is harmless; a forwarded
//! proposal that arrives twice is two writes. A proposal is therefore posted once at most, and it is reported back for
//! another try only if it certainly was not taken: never sent, or refused by an answer that says so.
//!
//! What is left out: several posts at a time. Order would be lost, and with it more than is won.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{handshake, SendRequest};
use hyper::header::{HeaderValue, CONTENT_TYPE, HOST};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use prost::Message as _;
use raft_core::pb::{Entry, Message, MessageType};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::{headers, Event, Sink};
use crate::address::PeerUrl;

/// Messages that may wait in the control lane, and in the log lane. Beyond that they are lost.
const QUEUED_MESSAGES: usize = 4096;
/// Snapshots that may wait; Raft sends a peer one at a time.
const QUEUED_SNAPSHOTS: usize = 2;
/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest wait for the answer to a post.
const POST_TIMEOUT: Duration = Duration::from_secs(5);
/// A post may take a second longer for each of these many bytes.
const SLOWEST_BYTES_PER_SECOND: usize = 1 << 20;
/// Pause after a failure, during which whatever is queued is lost.
const REDIAL_PAUSE: Duration = Duration::from_millis(100);
/// More of an answer's body than this is not read.
const ANSWER_MAX_BYTES: usize = 64 * 1024;

/// One peer, as the raft thread sees it: three queues. Dropping it lets the tasks send what is queued and end.
pub struct Peer {
    control: mpsc::Sender<Message>,
    log: mpsc::Sender<Message>,
    snapshot: mpsc::Sender<Message>,
}

impl Peer {
    /// Starts the tasks. Nothing is dialled before there is something to send.
    pub fn start(own_id: u64, id: u64, url: PeerUrl, sink: Sink, runtime: &Handle) -> Peer {
        let shared = Arc::new(Shared { own_id, id, url, sink, active: AtomicBool::new(true) });
        let lane = |capacity| {
            let (sender, receiver) = mpsc::channel(capacity);
            runtime.spawn(Lane { shared: Arc::clone(&shared), connection: None }.run(receiver));
            sender
        };
        Peer { control: lane(QUEUED_MESSAGES), log: lane(QUEUED_MESSAGES), snapshot: lane(QUEUED_SNAPSHOTS) }
    }

    /// Queues a message, or gives it back if there is no room.
    // The message comes back by value as it went in; it is dismantled at once, and boxing it would cost every one.
    #[allow(clippy::result_large_err)]
    pub fn queue(&self, message: Message) -> Result<(), Message> {
        let lane = match message.kind() {
            Some(MessageType::MsgSnap) => &self.snapshot,
            Some(MessageType::MsgApp | MessageType::MsgAppResp | MessageType::MsgProp) => &self.log,
            _ => &self.control,
        };
        lane.try_send(message).map_err(|error| match error {
            mpsc::error::TrySendError::Full(message) | mpsc::error::TrySendError::Closed(message) => message,
        })
    }
}

/// What the lanes of one peer have in common.
struct Shared {
    own_id: u64,
    id: u64,
    url: PeerUrl,
    sink: Sink,
    /// Whether the latest post succeeded, so that the log tells of changes only.
    active: AtomicBool,
}

struct Lane {
    shared: Arc<Shared>,
    connection: Option<SendRequest<Full<Bytes>>>,
}

/// Why a post failed, and what that says about the message.
#[derive(Debug)]
enum Failure {
    /// The peer did certainly not take it.
    NotTaken(String),
    /// It may or may not have been taken.
    Unknown(String),
    /// The peer says that this node is no member any more, since the entry at this index.
    Removed { at: u64 },
}

impl Lane {
    async fn run(mut self, mut queue: mpsc::Receiver<Message>) {
        while let Some(message) = queue.recv().await {
            let is_snapshot = message.kind() == Some(MessageType::MsgSnap);
            let proposals = proposals_of(&message);
            match self.post(message).await {
                Ok(()) => {
                    self.shared.note_active();
                    if is_snapshot {
                        self.shared.tell(Event::SnapshotSent { id: self.shared.id, delivered: true }).await;
                    }
                }
                Err(failure) => {
                    self.connection = None;
                    self.lost(failure, proposals, is_snapshot).await;
                    sleep(REDIAL_PAUSE).await;
                    while let Ok(stale) = queue.try_recv() {
                        let is_snapshot = stale.kind() == Some(MessageType::MsgSnap);
                        let failure = Failure::NotTaken("the peer is inactive".into());
                        self.lost(failure, proposals_of(&stale), is_snapshot).await;
                    }
                }
            }
        }
    }

    async fn lost(&mut self, failure: Failure, proposals: Vec<Entry>, is_snapshot: bool) {
        let shared = &self.shared;
        match failure {
            Failure::NotTaken(reason) => {
                shared.note_inactive(&reason);
                if !proposals.is_empty() {
                    shared.tell(Event::Undelivered { entries: proposals }).await;
                }
            }
            Failure::Unknown(reason) => shared.note_inactive(&reason),
            Failure::Removed { at } => {
                shared.note_inactive("it says that this node was removed");
                shared.tell(Event::ToldRemoved { by: shared.id, at }).await;
            }
        }
        // One lost message more or less makes no difference to Raft: this one need not wait for room.
        let _ = (shared.sink)(Event::Unreachable { id: shared.id });
        if is_snapshot {
            shared.tell(Event::SnapshotSent { id: shared.id, delivered: false }).await;
        }
    }

    /// Posts one message and waits for the answer.
    async fn post(&mut self, message: Message) -> Result<(), Failure> {
        let body = encode(message);
        let limit = POST_TIMEOUT + Duration::from_secs((body.len() / SLOWEST_BYTES_PER_SECOND) as u64);
        let mut dialled = false;
        loop {
            let mut connection = match self.connection.take() {
                Some(connection) if !connection.is_closed() => connection,
                _ => {
                    dialled = true;
                    self.shared.connect().await?
                }
            };
            let exchange = async {
                connection.ready().await.map_err(|error| (Failure::NotTaken(error.to_string()), true))?;
                let request = self.shared.request(body.clone());
                let sent = connection.try_send_request(request).await;
                sent.map_err(|mut error| match error.take_message() {
                    Some(_) => (Failure::NotTaken(error.into_error().to_string()), true),
                    None => (Failure::Unknown(error.into_error().to_string()), false),
                })
            };
            match timeout(limit, exchange).await {
                Ok(Ok(response)) => {
                    let status = response.status();
                    let removed_at = response.headers().get(headers::REMOVED_AT).and_then(number);
                    let text = Limited::new(response.into_body(), ANSWER_MAX_BYTES).collect().await;
                    if let Ok(text) = text {
                        self.connection = Some(connection);
                        return judge(status, removed_at, &text.to_bytes());
                    }
                    return judge(status, removed_at, b"");
                }
                // The peer had closed the idle connection, and the request never left: once more on a new one.
                Ok(Err((Failure::NotTaken(_), true))) if !dialled => {}
                Ok(Err((failure, _))) => return Err(failure),
                Err(_) => return Err(Failure::Unknown(format!("no answer within {limit:?}"))),
            }
        }
    }
}

impl Shared {
    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, Failure> {
        let not_taken = |error: &dyn std::fmt::Display| Failure::NotTaken(format!("cannot connect: {error}"));
        let stream = match timeout(CONNECT_TIMEOUT, TcpStream::connect((self.url.host(), self.url.port()))).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(not_taken(&error)),
            Err(_) => return Err(not_taken(&"timed out")),
        };
        stream.set_nodelay(true).map_err(|error| not_taken(&error))?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|error| not_taken(&error))?;
        // The connection's own task; it ends when either side closes, and `sender` is told of any error.
        tokio::spawn(connection);
        Ok(sender)
    }

    fn request(&self, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = hyper::Method::POST;
        *request.uri_mut() = hyper::Uri::from_static("/raft");
        let mut set = |name: &'static str, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                request.headers_mut().insert(name, value);
            }
        };
        set(HOST.as_str(), &self.url.authority());
        set(CONTENT_TYPE.as_str(), "application/protobuf");
        set(headers::CLUSTER_ID, headers::CLUSTER_ID_VALUE);
        set(headers::SERVER_FROM, &format!("{:x}", self.own_id));
        set(headers::SERVER_VERSION, headers::OWN_VERSION);
        set(headers::MIN_CLUSTER_VERSION, headers::OWN_MIN_VERSION);
        set(headers::TELL_REMOVED, "1");
        request
    }

    /// Brings an event to the raft thread, waiting for room: for what must not be forgotten.
    async fn tell(&self, event: Event) {
        let mut event = event;
        while let Err(refused) = (self.sink)(event) {
            event = *refused;
            sleep(Duration::from_millis(10)).await;
        }
    }

    fn note_active(&self) {
        if !self.active.swap(true, Ordering::Relaxed) {
            log::info!("peer {} at {} is active again", self.id, self.url);
        }
    }

    fn note_inactive(&self, reason: &str) {
        if self.active.swap(false, Ordering::Relaxed) {
            log::warn!("peer {} at {} became inactive: {reason}", self.id, self.url);
        }
    }
}

/// The proposals in a message, if they are to be proposed again should it be lost.
fn proposals_of(message: &Message) -> Vec<Entry> {
    match message.kind() {
        Some(MessageType::MsgProp) => message.entries.clone(),
        _ => Vec::new(),
    }
}

/// The bytes as 3.4 writes them: an empty snapshot stands in every message that has none.
fn encode(mut message: Message) -> Bytes {
    message.snapshot.get_or_insert_default();
    message.encode_to_vec().into()
}

fn number(value: &HeaderValue) -> Option<u64> {
    value.to_str().ok()?.parse().ok()
}

fn judge(status: StatusCode, removed_at: Option<u64>, text: &[u8]) -> Result<(), Failure> {
    let reason = || format!("it answers {status}: {}", String::from_utf8_lossy(text).trim().escape_debug());
    match (status, removed_at) {
        (StatusCode::NO_CONTENT, _) => Ok(()),
        (StatusCode::FORBIDDEN, Some(at)) => Err(Failure::Removed { at }),
        // These are sent before Raft gets to see the message.
        (StatusCode::PRECONDITION_FAILED | StatusCode::BAD_REQUEST | StatusCode::SERVICE_UNAVAILABLE, _) => {
            Err(Failure::NotTaken(reason()))
        }
        _ => Err(Failure::Unknown(reason())),
    }
}

#[cfg(test)]
mod tests;
