//! Receiving snapshots: from the socket into a file, from the file into a store, and only then to the raft thread.
//!
//! | check | answer |
//! |---|---|
//! | method; version, cluster; sender was removed; numbers fit | 405; 412; 403; 412 |
//! | length is announced | 411 |
//! | there is room on the disk | 507 |
//! | begins with a message, of the right kind, with metadata and no data | 400 |
//! | addressed to this node | 412 |
//! | no other snapshot is arriving that matters more | 503 |
//! | every chunk's checksum, the length, the store | 400 |
//! | it could be written | 507 |
//! | the raft thread has taken it | 503 |
//!
//! **One at a time.** A second snapshot is refused while one arrives, unless it makes the first one pointless: it comes
//! from the same sender, who has given the first one up, or from the leader of a later term. A snapshot that has arrived
//! in full and is being loaded is not disturbed. So a node never holds more than one store beside its own.
//!
//! **Who comes first.** Anybody may send a snapshot: a newcomer need not know the leader yet. But a stranger's must not
//! keep a member's out, nor push it aside. So a sender gives way to another of better `Standing`, and never to one of
//! worse. And what it said of itself is compared once more before its snapshot counts: this node may have learned since
//! who is who.
//!
//! **A task feeds, a thread eats.** The task that answers the request hands pieces of the body to a thread that may block
//! on the disk, through a short queue: the disk's pace becomes the sender's. If the request breaks off, the queue ends,
//! the thread sees a file that is cut, and removes what it has written.
//!
//! A snapshot may also come within its message, by the pipeline; the original knows no other way. It is taken in here as
//! well, and counts as one that arrives.

use std::future::Future;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Body;
use hyper::{Response, StatusCode};
use parking_lot::Mutex;
use raft_core::pb::{Message, MessageType, SnapshotMetadata};
use tokio::sync::{mpsc, Notify};
use tokio::time::{sleep, timeout_at, Instant};

use super::super::arriving::Pace;
use super::super::register::Said;
use super::super::server::{empty, text};
use super::super::{wire, Event, Received, Sink};
use super::{Direction, Transfer, TransferStatus, Transfers, MESSAGE_MAX_BYTES, SILENCE_TIMEOUT};
use crate::background;
use crate::snapshots::{Image, NotReceived, SnapshotFiles};

/// Pieces of a body that wait for the disk.
const PIECES_AHEAD: usize = 4;
/// The raft thread may take so long to make room in its inbox; a gigabyte is not thrown away for a full inbox.
const INBOX_TIMEOUT: Duration = Duration::from_secs(30);
const INBOX_PAUSE: Duration = Duration::from_millis(10);

/// Takes snapshots in. Clones share what is arriving.
#[derive(Clone)]
pub struct Receiving {
    own_id: u64,
    files: SnapshotFiles,
    transfers: Transfers,
    sink: Sink,
    arriving: Arc<Mutex<Option<Arriving>>>,
}

/// How much speaks for a sender's being who it says it is; more is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in super::super) enum Standing {
    /// It is no peer of this node.
    Stranger,
    /// It bears the id of a peer.
    Named,
    /// It also knows the number of that peer's data directory.
    Known,
}

/// Who sends.
pub(in super::super) struct Sender {
    /// The id that its headers name; 0 if they name none.
    pub(in super::super) id: u64,
    /// What speaks for that.
    pub(in super::super) standing: Standing,
    /// The numbers that it has said.
    pub(in super::super) said: Said,
}

impl Sender {
    /// Its standing as the sender of this message.
    fn standing(&self, message: &Message) -> Standing {
        if message.from == self.id {
            self.standing
        } else {
            Standing::Stranger
        }
    }
}

/// The snapshot that is arriving.
struct Arriving {
    from: u64,
    term: u64,
    standing: Standing,
    /// Told when another takes its place.
    replaced: Arc<Notify>,
    /// It has arrived, and is being loaded.
    complete: bool,
}

/// Held by the one that is arriving.
struct Place {
    arriving: Arc<Mutex<Option<Arriving>>>,
    replaced: Arc<Notify>,
}

impl Place {
    fn is_own(&self, arriving: &Arriving) -> bool {
        Arc::ptr_eq(&arriving.replaced, &self.replaced)
    }

    /// Nothing replaces it any more; `false` if something has.
    fn complete(&self) -> bool {
        match self.arriving.lock().as_mut().filter(|arriving| self.is_own(arriving)) {
            Some(own) => {
                own.complete = true;
                true
            }
            None => false,
        }
    }

    /// Whether another has taken it.
    fn is_lost(&self) -> bool {
        !self.arriving.lock().as_ref().is_some_and(|arriving| self.is_own(arriving))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut arriving = self.arriving.lock();
        if arriving.as_ref().is_some_and(|arriving| self.is_own(arriving)) {
            *arriving = None;
        }
    }
}

/// Status and text of an answer that refuses.
type Refusal = (StatusCode, String);

fn refusal(status: StatusCode, text: impl Into<String>) -> Refusal {
    (status, text.into())
}

fn replaced() -> Refusal {
    refusal(StatusCode::SERVICE_UNAVAILABLE, "a snapshot that matters more takes its place")
}

impl From<NotReceived> for Refusal {
    fn from(not_received: NotReceived) -> Refusal {
        match not_received {
            NotReceived::Unusable(reason) => (StatusCode::BAD_REQUEST, reason),
            NotReceived::NoRoom(reason) => (StatusCode::INSUFFICIENT_STORAGE, reason),
        }
    }
}

impl Receiving {
    /// Nothing is arriving yet.
    pub fn new(own_id: u64, files: SnapshotFiles, transfers: Transfers, sink: Sink) -> Receiving {
        Receiving { own_id, files, transfers, sink, arriving: Arc::default() }
    }

    /// Answers a request whose headers have been checked.
    pub(in super::super) async fn answer<B>(&self, body: B, sender: Sender) -> Response<Full<Bytes>>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::fmt::Display,
    {
        answer_of(self.take(body, sender).await)
    }

    /// Takes in a snapshot that came within its message.
    pub(in super::super) async fn answer_message(&self, mut message: Message, sender: Sender) -> Response<Full<Bytes>> {
        let data = message.snapshot.as_mut().map(|snapshot| std::mem::take(&mut snapshot.data)).unwrap_or_default();
        answer_of(self.take_message(message, data, sender).await)
    }

    async fn take_message(&self, message: Message, data: Bytes, sender: Sender) -> Result<(), Refusal> {
        let metadata = self.check(&message)?;
        self.files.check_room(data.len() as u64)?;
        let place = self.place(&message, sender.standing(&message))?;
        if !place.complete() {
            return Err(replaced());
        }
        let files = self.files.clone();
        self.finish(place, message, sender.said, move || files.keep(&metadata, &data)).await
    }

    async fn take<B>(&self, body: B, sender: Sender) -> Result<(), Refusal>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::fmt::Display,
    {
        let total = body.size_hint().exact();
        let total = total.ok_or_else(|| refusal(StatusCode::LENGTH_REQUIRED, "the length must be announced"))?;
        self.files.check_room(total)?;
        let mut incoming = Incoming { body, pending: BytesMut::new(), pace: Pace::begin(), arrived_bytes: 0 };
        let message = incoming.message().await?;
        let metadata = self.check(&message)?;
        let place = self.place(&message, sender.standing(&message))?;
        let (peer, index) = (message.from, metadata.index);
        let direction = Direction::In;
        let mut transfer = self.transfers.begin(TransferStatus { peer, direction, index, bytes: 0, total, attempt: 1 });
        log::info!("{transfer} begins");
        let (pieces, queue) = mpsc::channel(PIECES_AHEAD);
        let files = self.files.clone();
        let reader = QueueReader { queue, piece: Bytes::new(), place: Arc::clone(&place) };
        let work = move || files.receive(&metadata, Box::new(reader));
        let finished = self.finish(Arc::clone(&place), message, sender.said, work);
        let fed = incoming.feed(pieces, &mut transfer, &place).await;
        let result = match (fed, finished.await) {
            (Err(refusal), _) => Err(refusal),
            (Ok(()), Err(_)) if place.is_lost() => Err(replaced()),
            (Ok(()), finished) => finished,
        };
        match &result {
            Ok(()) => log::info!("{transfer}, arrived"),
            Err((_, reason)) => log::warn!("{transfer}, refused: {reason}"),
        }
        result
    }

    /// What a message must be to announce a snapshot for this node.
    fn check(&self, message: &Message) -> Result<SnapshotMetadata, Refusal> {
        let bad = |text| refusal(StatusCode::BAD_REQUEST, text);
        if message.kind() != Some(MessageType::MsgSnap) {
            return Err(bad("wrong raft message type"));
        }
        if message.to != self.own_id {
            return Err(refusal(StatusCode::PRECONDITION_FAILED, "to field mismatch"));
        }
        match message.snapshot.as_deref() {
            Some(snapshot) if !snapshot.data.is_empty() => Err(bad("the data must be in the file")),
            Some(snapshot) if snapshot.metadata.index > 0 && snapshot.metadata.term > 0 => {
                Ok(snapshot.metadata.clone())
            }
            _ => Err(bad("the message carries no snapshot")),
        }
    }

    /// The place of the one snapshot that may arrive.
    fn place(&self, message: &Message, standing: Standing) -> Result<Arc<Place>, Refusal> {
        let mut arriving = self.arriving.lock();
        if let Some(present) = arriving.as_ref() {
            let newer = message.from == present.from || message.term > present.term;
            let matters_more = standing > present.standing || (standing == present.standing && newer);
            if present.complete || !matters_more {
                return Err(refusal(StatusCode::SERVICE_UNAVAILABLE, "another snapshot is arriving"));
            }
            present.replaced.notify_one();
        }
        let replaced = Arc::new(Notify::new());
        let (from, term) = (message.from, message.term);
        *arriving = Some(Arriving { from, term, standing, replaced: Arc::clone(&replaced), complete: false });
        Ok(Arc::new(Place { arriving: Arc::clone(&self.arriving), replaced }))
    }

    /// Does the work on a thread that may block, and brings what comes of it to the raft thread. Goes on if nobody waits
    /// any more: a snapshot that has arrived is worth having.
    fn finish<W>(
        &self,
        place: Arc<Place>,
        message: Message,
        mut said: Said,
        work: W,
    ) -> impl Future<Output = Result<(), Refusal>>
    where
        W: FnOnce() -> Result<Image, NotReceived> + Send + 'static,
    {
        let sink = Arc::clone(&self.sink);
        let task = tokio::spawn(async move {
            let broken = |error: String| refusal(StatusCode::INTERNAL_SERVER_ERROR, error);
            let image = background::run("receive", work).await.map_err(broken)??;
            if let Err(stranger) = said.still_fits() {
                // The place last: the next one needs the room.
                background::discard((image, place));
                return Err(refusal(StatusCode::PRECONDITION_FAILED, stranger.to_string()));
            }
            deliver(&sink, Received { message, image }, place).await
        });
        async { task.await.unwrap_or_else(|error| Err(refusal(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))) }
    }
}

fn answer_of(result: Result<(), Refusal>) -> Response<Full<Bytes>> {
    match result {
        Ok(()) => empty(),
        Err((status, reason)) => text(status, &reason),
    }
}

async fn deliver(sink: &Sink, received: Received, place: Arc<Place>) -> Result<(), Refusal> {
    let limit = Instant::now() + INBOX_TIMEOUT;
    let mut event = Event::Snapshot(Box::new(received));
    while let Err(refused) = sink(event) {
        if Instant::now() >= limit {
            background::discard((refused, place));
            return Err(refusal(StatusCode::SERVICE_UNAVAILABLE, "too many messages waiting"));
        }
        event = *refused;
        sleep(INBOX_PAUSE).await;
    }
    Ok(())
}

/// A body that arrives.
struct Incoming<B> {
    body: B,
    /// What has come and was not used yet.
    pending: BytesMut,
    pace: Pace,
    arrived_bytes: u64,
}

impl<B> Incoming<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    /// The next piece; `None` at the end.
    async fn piece(&mut self) -> Result<Option<Bytes>, Refusal> {
        loop {
            let limit = self.pace.limit(self.arrived_bytes).min(Instant::now() + SILENCE_TIMEOUT);
            return match timeout_at(limit, self.body.frame()).await {
                Ok(None) => Ok(None),
                Ok(Some(Ok(frame))) => match frame.into_data() {
                    Ok(piece) => {
                        self.arrived_bytes += piece.len() as u64;
                        Ok(Some(piece))
                    }
                    // Trailers mean nothing here.
                    Err(_) => continue,
                },
                Ok(Some(Err(error))) => Err(refusal(StatusCode::BAD_REQUEST, format!("it broke off: {error}"))),
                Err(_) => Err(refusal(StatusCode::REQUEST_TIMEOUT, "it takes too long")),
            };
        }
    }

    /// Reads on until so many bytes are pending.
    async fn gather(&mut self, bytes: usize) -> Result<(), Refusal> {
        while self.pending.len() < bytes {
            let Some(piece) = self.piece().await? else {
                return Err(refusal(StatusCode::BAD_REQUEST, "failed to decode raft message (unexpected EOF)"));
            };
            self.pending.extend_from_slice(&piece);
        }
        Ok(())
    }

    /// The message at the beginning.
    async fn message(&mut self) -> Result<Message, Refusal> {
        let bad = |text: &dyn std::fmt::Display| {
            refusal(StatusCode::BAD_REQUEST, format!("failed to decode raft message ({text})"))
        };
        self.gather(8).await?;
        let length = self.pending.get_u64();
        if length > MESSAGE_MAX_BYTES as u64 {
            return Err(bad(&"it is too long"));
        }
        self.gather(length as usize).await?;
        let message = self.pending.split_to(length as usize).freeze();
        wire::decode(message).map_err(|error| bad(&error))
    }

    /// Hands what comes to the thread at the other end of the queue, until that has got everything or wants no more. The
    /// error says that the body broke off, or that another took its place.
    async fn feed(
        &mut self,
        pieces: mpsc::Sender<Bytes>,
        transfer: &mut Transfer,
        place: &Place,
    ) -> Result<(), Refusal> {
        let mut next = Some(self.pending.split().freeze());
        while let Some(piece) = next {
            transfer.add(piece.len());
            transfer.look();
            let step = async {
                match pieces.send(piece).await {
                    Ok(()) => self.piece().await,
                    // The thread knows why.
                    Err(_) => Ok(None),
                }
            };
            next = tokio::select! {
                next = step => next?,
                () = place.replaced.notified() => return Err(replaced()),
            };
        }
        Ok(())
    }
}

/// The thread's end of the queue. When it ends, nothing replaces the snapshot any more.
struct QueueReader {
    queue: mpsc::Receiver<Bytes>,
    piece: Bytes,
    place: Arc<Place>,
}

impl Read for QueueReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.queue.blocking_recv() {
                Some(piece) => self.piece = piece,
                // Whether it was the end or a break is seen by what has come. But all of it may have come of one whose
                // place another has: two must not be loaded, and only the newer one counts.
                None if self.place.complete() => return Ok(0),
                None => return Err(io::Error::other("another has taken its place")),
            }
        }
        let count = self.piece.len().min(into.len());
        self.piece.copy_to_slice(&mut into[..count]);
        Ok(count)
    }
}
