//! The pipeline: one message a request, `POST /raft`, for what no stream can take.
//!
//! That is everything as long as the peer has not dialled its streams: at the start, and whenever a connection has
//! broken. Each peer has two *lanes*, each a bounded queue with a task and a kept-alive connection of its own, because
//! one slow message must not hold up another that matters more:
//!
//! | lane | carries | why apart |
//! |---|---|---|
//! | control | heartbeats, votes, reads | small and urgent: late heartbeats cause elections |
//! | log | entries and their acknowledgements, forwarded proposals | kept in order, or the follower refuses them |
//!
//! In a cluster with the original, whose only way for a snapshot this is, there is a third for snapshots
//! (`post_snapshots`). Their data is read from the file when their turn has come.
//!
//! **When a queue is full**, the message is refused and the raft thread counts it as lost; it is Raft's own flow control
//! that keeps this from happening to a peer that is merely slow. **When a post fails**, everything else that waits in
//! that queue is thrown away with it: by the time the peer is back it is stale, and Raft will send what is still needed.
//!
//! **What is known about a failure matters for proposals.** A heartbeat that arrives twice is harmless; a forwarded
//! proposal that arrives twice is two writes. A proposal is therefore posted once at most, and it is reported back for
//! another try only if it certainly was not taken: never sent, or refused by an answer that says so.
//!
//! What is left out: several posts of one lane at a time, as etcd has them. Order would be lost, and with it more than is
//! won. The receiving side is in [`server`](super::server).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::CONTENT_TYPE;
use hyper::{Method, Request, StatusCode};
use raft_core::pb::{Entry, Message, MessageType};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::peer::{Channel, Link};
use super::snapshot::send::Outbound;
use super::{connection, headers, wire, Event};
use crate::snapshots::SnapshotFiles;

/// Where to post.
pub const PATH: &str = "/raft";
/// Messages that may wait in the control lane, and in the log lane. Beyond that they are lost.
const QUEUED_MESSAGES: usize = 64;
/// Longest wait for the answer to a post.
const POST_TIMEOUT: Duration = Duration::from_secs(5);
/// A post may take a second longer for each of these many bytes.
const SLOWEST_BYTES_PER_SECOND: usize = 1 << 20;
/// Pause after a failure, during which whatever is queued is lost.
const REDIAL_PAUSE: Duration = Duration::from_millis(100);
/// More of an answer's body than this is not read.
const ANSWER_MAX_BYTES: usize = 64 * 1024;

/// The lanes of one peer. Dropping it lets the tasks send what is queued and end.
pub struct Pipeline {
    control: mpsc::Sender<Message>,
    log: mpsc::Sender<Message>,
}

impl Pipeline {
    /// Starts the tasks. Nothing is dialled before there is something to send.
    pub(super) fn start(link: &Arc<Link>, runtime: &Handle) -> Pipeline {
        let lane = |capacity| {
            let (sender, receiver) = mpsc::channel(capacity);
            runtime.spawn(Lane { link: Arc::clone(link), connection: None }.run(receiver));
            sender
        };
        Pipeline { control: lane(QUEUED_MESSAGES), log: lane(QUEUED_MESSAGES) }
    }

    /// Queues a message, or gives it back if there is no room.
    // The message comes back by value as it went in; it is dismantled at once, and boxing it would cost every one.
    #[allow(clippy::result_large_err)]
    pub fn queue(&self, message: Message) -> Result<(), Message> {
        let lane = match message.kind() {
            Some(MessageType::MsgApp | MessageType::MsgAppResp | MessageType::MsgProp) => &self.log,
            _ => &self.control,
        };
        lane.try_send(message).map_err(not_queued)
    }

    /// How many messages wait.
    #[cfg(test)]
    pub(super) fn queued(&self) -> usize {
        [&self.control, &self.log].map(|lane| lane.max_capacity() - lane.capacity()).iter().sum()
    }
}

/// The message that found no room.
pub(super) fn not_queued<T>(error: mpsc::error::TrySendError<T>) -> T {
    match error {
        mpsc::error::TrySendError::Full(message) | mpsc::error::TrySendError::Closed(message) => message,
    }
}

/// Posts snapshots with their data, for peers that have no channel for them, until the queue is closed.
pub(super) async fn post_snapshots(link: Arc<Link>, files: SnapshotFiles, mut queue: mpsc::Receiver<Outbound>) {
    let mut lane = Lane { link, connection: None };
    while let Some(Outbound { transfer, mut message }) = queue.recv().await {
        let Some(snapshot) = message.snapshot.as_mut() else { continue };
        let (files, metadata) = (files.clone(), snapshot.metadata.clone());
        let read = tokio::task::spawn_blocking(move || files.data(&metadata)).await;
        let posted = match read.map_err(|error| error.to_string()).and_then(|read| read) {
            Ok(data) => {
                snapshot.data = data;
                lane.post(message).await
            }
            Err(reason) => Err(Failure::NotTaken(reason)),
        };
        let delivered = posted.is_ok();
        match posted {
            Ok(bytes) => {
                lane.link.note_active(Channel::Post);
                lane.link.metrics.sent_bytes.add(bytes as u64);
            }
            Err(failure) => {
                lane.connection = None;
                log::warn!("a snapshot did not get to node {}: {failure:?}", lane.link.id);
                lane.lost(failure, Vec::new()).await;
                sleep(REDIAL_PAUSE).await;
            }
        }
        lane.link.tell(Event::SnapshotSent { id: lane.link.id, transfer, delivered }).await;
    }
}

struct Lane {
    link: Arc<Link>,
    connection: Option<connection::Sender>,
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
            let proposals = proposals_of(&message);
            match self.post(message).await {
                Ok(bytes) => {
                    self.link.note_active(Channel::Post);
                    self.link.metrics.sent_bytes.add(bytes as u64);
                }
                Err(failure) => {
                    self.connection = None;
                    self.lost(failure, proposals).await;
                    sleep(REDIAL_PAUSE).await;
                    while let Ok(stale) = queue.try_recv() {
                        let failure = Failure::NotTaken("the peer is inactive".into());
                        self.lost(failure, proposals_of(&stale)).await;
                    }
                }
            }
        }
    }

    async fn lost(&mut self, failure: Failure, proposals: Vec<Entry>) {
        let link = &self.link;
        link.metrics.sent_failures.add(1);
        match failure {
            Failure::NotTaken(reason) => {
                link.note_inactive(Channel::Post, &reason);
                if !proposals.is_empty() {
                    link.tell(Event::Undelivered { entries: proposals }).await;
                }
            }
            Failure::Unknown(reason) => link.note_inactive(Channel::Post, &reason),
            Failure::Removed { at } => {
                link.note_inactive(Channel::Post, &"it says that this node was removed");
                link.tell(Event::ToldRemoved { by: link.id, at }).await;
            }
        }
        // One lost message more or less makes no difference to Raft: this one need not wait for room.
        let _ = (link.sink)(Event::Unreachable { id: link.id });
    }

    /// Posts one message and waits for the answer; returns its length in bytes.
    async fn post(&mut self, message: Message) -> Result<usize, Failure> {
        let body = wire::encode(message);
        let bytes = body.len();
        let limit = POST_TIMEOUT + Duration::from_secs((body.len() / SLOWEST_BYTES_PER_SECOND) as u64);
        let mut dialled = false;
        loop {
            let mut connection = match self.connection.take() {
                Some(connection) if !connection.is_closed() => connection,
                _ => {
                    dialled = true;
                    connection::open(&self.link).await.map_err(Failure::NotTaken)?
                }
            };
            let exchange = async {
                connection.ready().await.map_err(|error| (Failure::NotTaken(error.to_string()), true))?;
                let request = self.request(body.clone());
                let sent = connection.try_send_request(request).await;
                let response = sent.map_err(|mut error| match error.take_message() {
                    Some(_) => (Failure::NotTaken(error.into_error().to_string()), true),
                    None => (Failure::Unknown(error.into_error().to_string()), false),
                })?;
                let (status, removed_at) = (response.status(), headers::removed_at(response.headers()));
                let text = Limited::new(response.into_body(), ANSWER_MAX_BYTES).collect().await;
                Ok((status, removed_at, text))
            };
            match timeout(limit, exchange).await {
                Ok(Ok((status, removed_at, text))) => {
                    if let Ok(text) = text {
                        self.connection = Some(connection);
                        return judge(status, removed_at, &text.to_bytes()).map(|()| bytes);
                    }
                    return judge(status, removed_at, b"").map(|()| bytes);
                }
                // The peer had closed the idle connection, and the request never left: once more on a new one.
                Ok(Err((Failure::NotTaken(_), true))) if !dialled => {}
                Ok(Err((failure, _))) => return Err(failure),
                Err(_) => return Err(Failure::Unknown(format!("no answer within {limit:?}"))),
            }
        }
    }

    fn request(&self, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = self.link.request(Method::POST, PATH, Full::new(body));
        headers::set(request.headers_mut(), CONTENT_TYPE.as_str(), "application/protobuf");
        request
    }
}

/// The proposals in a message, if they are to be proposed again should it be lost.
fn proposals_of(message: &Message) -> Vec<Entry> {
    match message.kind() {
        Some(MessageType::MsgProp) => message.entries.to_vec(),
        _ => Vec::new(),
    }
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
