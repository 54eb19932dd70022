//! Sending a snapshot: one task for each peer, one transfer at a time, from the file.
//!
//! The file is opened before anything is dialled for it, and stays readable however many newer snapshots are taken
//! meanwhile; a purge takes away its name only. It is read once to be checked, so that damage on this disk is noticed
//! here, and once to be sent. To check a large one takes longer than a peer waits for a request on a new connection, so
//! that comes first as well.
//!
//! **It is not sent as fast as can be**, but at `PIECE_BYTES` in `PIECE_INTERVAL`: clients' messages go through the
//! same threads.
//!
//! **The peer may be slow, but not silent.** A transfer ends when nothing has moved for [`SILENCE_TIMEOUT`]. After the
//! last byte the peer loads what it got, for which it is given time by the snapshot's size.
//!
//! **After a failure** the task pauses, longer each time, and only then tells Raft, which sends the then newest snapshot.
//! The pause is therefore the pace of the attempts. It ends early when the peer dials this node: then it is back.
//!
//! **The newest counts.** A transfer ends when Raft wants a newer snapshot sent to the peer, and when the peer listens
//! elsewhere. Raft is told what became of each by its number, and heeds only the newest: an old transfer that fails late
//! must not end a new one that goes well.

use std::io;
use std::pin::{pin, Pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::CONTENT_TYPE;
use hyper::{Method, StatusCode};
use raft_core::pb::{Message, SnapshotMetadata};
use tokio::sync::{mpsc, Semaphore, SemaphorePermit};
use tokio::time::{timeout, Instant};

use super::super::peer::{Channel, Link, SHORTEST_PAUSE};
use super::super::{connection, headers, wire, Event};
use super::{Direction, Transfer, TransferStatus, Transfers, LOOK_INTERVAL, PATH, SILENCE_TIMEOUT};
use crate::background::{self, Pieces};
use crate::snapshots::SnapshotFiles;

/// Snapshots that may wait for one peer; Raft sends a peer one at a time.
pub(in super::super) const QUEUED_SNAPSHOTS: usize = 2;
/// Transfers that one node has under way at a time; others wait.
const MAX_TRANSFERS: usize = 4;
/// Bytes that are read and sent at a time.
const PIECE_BYTES: usize = 128 << 10;
/// A piece is not read before so long after the one before it, which makes 64 MiB a second. A near connection takes far
/// more than that, but then the sockets' threads and the system's copying take the processor from clients.
const PIECE_INTERVAL: Duration = Duration::from_millis(2);
/// Pieces that wait for the connection.
const PIECES_AHEAD: usize = 4;
/// Longest wait for the answer after the last byte, and a second more for each of these many bytes.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
const SLOWEST_LOAD_BYTES_PER_SECOND: u64 = 4 << 20;
/// The pause after a failure doubles this often at most, to 12.8 seconds.
const LONGEST_PAUSE_DOUBLINGS: u32 = 7;
/// More of an answer's body than this is not read.
const ANSWER_MAX_BYTES: usize = 4 << 10;

/// A snapshot on its way to a peer: Raft's message, and which transfer it is.
#[derive(Debug)]
pub struct Outbound {
    /// Greater than that of any before.
    pub transfer: u64,
    /// Names the snapshot; the data is in its file.
    pub message: Message,
}

/// What all tasks of one node that send snapshots have in common.
#[derive(Clone)]
pub struct Sending {
    /// Where the snapshots are.
    pub files: SnapshotFiles,
    /// Where transfers are listed.
    pub transfers: Transfers,
    /// Whether the peers have the channel. If not, a snapshot is part of its message.
    pub channel: bool,
    /// How many may go on.
    permits: Arc<Semaphore>,
}

impl Sending {
    /// Nothing is under way yet.
    pub fn new(files: SnapshotFiles, transfers: Transfers, channel: bool) -> Sending {
        Sending { files, transfers, channel, permits: Arc::new(Semaphore::new(MAX_TRANSFERS)) }
    }
}

/// Why a transfer failed.
#[derive(Debug)]
enum Failure {
    /// In words.
    Because(String),
    /// There is a newer one to be sent, or another place to send it to.
    Outdated,
}

impl From<String> for Failure {
    fn from(reason: String) -> Failure {
        Failure::Because(reason)
    }
}

/// Sends what is queued, until the queue is closed.
pub(in super::super) async fn run(link: Arc<Link>, sending: Sending, mut queue: mpsc::Receiver<Outbound>) {
    let mut failures: u32 = 0;
    while let Some(Outbound { transfer, message }) = queue.recv().await {
        let index = message.snapshot.as_ref().map_or(0, |snapshot| snapshot.metadata.index);
        let attempt = failures.saturating_add(1);
        // Before anything can fail: a peer that comes back meanwhile has dialled us perhaps before the pause begins.
        let awake = link.awake.notified();
        let sent = send(&link, &sending, message, attempt, &queue).await;
        let delivered = sent.is_ok();
        match sent {
            Ok(()) => {
                link.note_active(Channel::Post);
                failures = 0;
            }
            Err(Failure::Outdated) => log::info!("the snapshot of index {index} to node {} is outdated", link.id),
            Err(Failure::Because(reason)) => {
                failures = attempt;
                link.metrics.sent_failures.add(1);
                let pause = SHORTEST_PAUSE * 2_u32.pow((failures - 1).min(LONGEST_PAUSE_DOUBLINGS));
                log::warn!(
                    "the snapshot of index {index} did not get to node {} (attempt {attempt}): {reason}; the newest one \
                     is sent again in {pause:?}, if it is still needed",
                    link.id
                );
                Link::pause(awake, pause).await;
            }
        }
        link.tell(Event::SnapshotSent { id: link.id, transfer, delivered }).await;
    }
}

async fn send(
    link: &Link,
    sending: &Sending,
    mut message: Message,
    attempt: u32,
    queue: &mpsc::Receiver<Outbound>,
) -> Result<(), Failure> {
    let Some(snapshot) = message.snapshot.as_mut() else { return Ok(()) };
    snapshot.data = Bytes::new();
    let metadata = snapshot.metadata.clone();
    let _permit = wait_for_turn(&sending.permits, queue).await?;
    let head = head(message);
    let (files, asked) = (sending.files.clone(), metadata.clone());
    let file = background::run("check", move || files.open(&asked)).await??;
    check_newest(queue)?;
    let mut connection = connection::open::<FileBody>(link).await?;
    let total = head.len() as u64 + file.len_bytes;
    let mut transfer = sending.transfers.begin(status(link, &metadata, total, attempt));
    log::info!("{transfer} begins");
    let (sender, pieces) = mpsc::channel(PIECES_AHEAD);
    // It ends when the file does, or when nobody takes the pieces any more.
    background::spawn("send", move || read_pieces(file.source, &sender)).map_err(|error| error.to_string())?;
    let body = FileBody { head: Some(head), pieces, left: total, counter: Arc::clone(&transfer.counter) };
    let mut request = link.request(Method::POST, PATH, body);
    headers::set(request.headers_mut(), CONTENT_TYPE.as_str(), "application/octet-stream");
    let exchange = connection.send_request(request);
    tokio::pin!(exchange);
    let answer_timeout = ANSWER_TIMEOUT + Duration::from_secs(total / SLOWEST_LOAD_BYTES_PER_SECOND);
    let mut complete_since = None;
    let response = loop {
        match timeout(LOOK_INTERVAL, &mut exchange).await {
            Ok(response) => break response.map_err(|error| with_cause(&error))?,
            Err(_) => judge_silence(&mut transfer, &mut complete_since, answer_timeout)?,
        }
        check_newest(queue)?;
    };
    let status = response.status();
    let removed_at = headers::removed_at(response.headers());
    if status == StatusCode::NO_CONTENT {
        link.metrics.sent_bytes.add(total);
        log::info!("{transfer}, delivered");
        return Ok(());
    }
    if let (StatusCode::FORBIDDEN, Some(at)) = (status, removed_at) {
        link.tell(Event::ToldRemoved { by: link.id, at }).await;
        return Err(Failure::Because("it says that this node was removed".into()));
    }
    let text = timeout(SILENCE_TIMEOUT, Limited::new(response.into_body(), ANSWER_MAX_BYTES).collect()).await;
    let text = text.ok().and_then(Result::ok).map(|text| text.to_bytes()).unwrap_or_default();
    Err(Failure::Because(format!("it answers {status}: {}", String::from_utf8_lossy(&text).trim().escape_debug())))
}

/// Fails once Raft wants a newer snapshot sent to the peer, or the peer listens elsewhere.
fn check_newest(queue: &mpsc::Receiver<Outbound>) -> Result<(), Failure> {
    if queue.is_closed() || !queue.is_empty() {
        return Err(Failure::Outdated);
    }
    Ok(())
}

/// Waits until fewer than [`MAX_TRANSFERS`] are under way; what is outdated does not go on waiting.
async fn wait_for_turn<'a>(
    permits: &'a Semaphore,
    queue: &mpsc::Receiver<Outbound>,
) -> Result<SemaphorePermit<'a>, Failure> {
    let mut permit = pin!(permits.acquire());
    loop {
        match timeout(LOOK_INTERVAL, permit.as_mut()).await {
            // An error would mean that somebody closes it, which nobody does.
            Ok(permit) => return permit.map_err(|error| Failure::Because(error.to_string())),
            Err(_) => check_newest(queue)?,
        }
    }
}

fn status(link: &Link, metadata: &SnapshotMetadata, total: u64, attempt: u32) -> TransferStatus {
    TransferStatus { peer: link.id, direction: Direction::Out, index: metadata.index, bytes: 0, total, attempt }
}

/// What comes before the file.
fn head(message: Message) -> Bytes {
    let message = wire::encode(message);
    let mut head = BytesMut::with_capacity(8 + message.len());
    head.put_u64(message.len() as u64);
    head.put_slice(&message);
    head.freeze()
}

/// Whether the peer has been silent for too long; `complete_since` remembers when the last byte had gone.
fn judge_silence(
    transfer: &mut Transfer,
    complete_since: &mut Option<Instant>,
    answer_timeout: Duration,
) -> Result<(), Failure> {
    let silence = transfer.look();
    if transfer.is_complete() {
        if complete_since.get_or_insert_with(Instant::now).elapsed() >= answer_timeout {
            return Err(Failure::Because("it has everything, but does not answer".into()));
        }
    } else if silence >= SILENCE_TIMEOUT {
        return Err(Failure::Because(format!("nothing moved for {SILENCE_TIMEOUT:?}")));
    }
    Ok(())
}

/// With what lies behind it: hyper's own text says little.
fn with_cause(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

fn read_pieces(mut source: Box<dyn io::Read + Send>, sender: &mpsc::Sender<io::Result<Bytes>>) {
    let mut pieces = Pieces::of(PIECE_BYTES);
    loop {
        let mut piece = vec![0; PIECE_BYTES];
        let read = match source.read(&mut piece) {
            Ok(0) => return,
            Ok(read) => {
                piece.truncate(read);
                Ok(Bytes::from(piece))
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => Err(error),
        };
        let Ok(bytes) = read.as_ref().map(Bytes::len) else {
            let _ = sender.blocking_send(read);
            return;
        };
        if sender.blocking_send(read).is_err() {
            return;
        }
        pieces.add(bytes, |took| PIECE_INTERVAL.saturating_sub(took));
    }
}

/// The request's body: what comes before the file, and the file.
struct FileBody {
    head: Option<Bytes>,
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    /// Bytes that are still to come.
    left: u64,
    counter: Arc<super::Counter>,
}

impl Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let body = self.get_mut();
        let next = match body.head.take() {
            Some(head) => Some(Ok(head)),
            None => match body.pieces.poll_recv(context) {
                Poll::Ready(next) => next,
                Poll::Pending => return Poll::Pending,
            },
        };
        let piece = match next {
            None if body.left == 0 => return Poll::Ready(None),
            None => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the snapshot's file is shorter than it was")),
            Some(piece) => piece,
        };
        Poll::Ready(Some(piece.map(|piece| {
            let bytes = piece.len() as u64;
            body.left = body.left.saturating_sub(bytes);
            body.counter.bytes.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
            Frame::data(piece)
        })))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft_core::pb::MessageType;

    #[test]
    fn what_is_outdated_does_not_wait_for_its_turn() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let snapshot = |transfer| Outbound { transfer, message: Message::of(MessageType::MsgSnap) };
        let permits = Semaphore::new(1);
        runtime.block_on(async {
            let (queued, mut queue) = mpsc::channel(QUEUED_SNAPSHOTS);
            let busy = wait_for_turn(&permits, &queue).await.unwrap();
            let waited = timeout(100 * LOOK_INTERVAL, wait_for_turn(&permits, &queue)).await;
            assert!(waited.is_err(), "it is the newest");
            queued.try_send(snapshot(2)).unwrap();
            assert!(matches!(wait_for_turn(&permits, &queue).await, Err(Failure::Outdated)));
            queue.recv().await.unwrap();
            let (turn, ()) = tokio::join!(wait_for_turn(&permits, &queue), async { drop(busy) });
            drop(turn.unwrap());
            let _busy = permits.acquire().await.unwrap();
            drop(queued);
            assert!(matches!(wait_for_turn(&permits, &queue).await, Err(Failure::Outdated)));
        });
    }

    #[test]
    fn a_peer_may_be_slow_but_not_silent_and_has_its_time_to_answer_when_it_has_everything() {
        let status = TransferStatus { peer: 2, direction: Direction::Out, index: 7, bytes: 0, total: 10, attempt: 1 };
        let mut transfer = Transfers::default().begin(status);
        let mut complete_since = None;
        let mut judge = |transfer: &mut Transfer, answer_timeout| {
            judge_silence(transfer, &mut complete_since, answer_timeout).map_err(|failure| match failure {
                Failure::Because(reason) => reason,
                Failure::Outdated => "outdated".into(),
            })
        };
        transfer.moved.1 -= SILENCE_TIMEOUT;
        transfer.add(1);
        assert_eq!(judge(&mut transfer, SILENCE_TIMEOUT), Ok(()), "something has moved");
        transfer.moved.1 -= SILENCE_TIMEOUT;
        assert_eq!(judge(&mut transfer, SILENCE_TIMEOUT), Err(format!("nothing moved for {SILENCE_TIMEOUT:?}")));
        transfer.add(9);
        assert_eq!(judge(&mut transfer, SILENCE_TIMEOUT), Ok(()), "it is loading");
        let reason = judge(&mut transfer, Duration::ZERO).unwrap_err();
        assert!(reason.contains("does not answer"), "{reason}");
    }
}
