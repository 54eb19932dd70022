//! Streams that we serve: our messages leave here, for a peer that has asked for them.
//!
//! ```text
//!   raft thread ─► Outlet::offer ─► bounded queue ─► Outgoing (the body of a response) ─► hyper ─► socket
//! ```
//!
//! An [`Outlet`] is the place where a peer's stream of one kind is attached, if it is. hyper pulls: it asks the body for
//! more when the socket has room, and only then messages are taken off the queue and encoded, as many as there are up to
//! a batch. A peer that reads slowly lets its queue fill up, and a full queue drops what comes: Raft is told that the peer
//! is unreachable and stops streaming to it. Nobody waits.
//!
//! **After each full batch a stream rests** until every other task that is ready has had its turn. A follower that comes
//! back after a long time is sent two or three batches at once, and the clients of the others wait for those few bytes that go to
//! another follower meanwhile.
//!
//! **The newest connection wins.** A peer that dials again has given up its old stream, even if our side of it still looks
//! well; what was queued for the old one is thrown away. Two processes with one id take the stream from each other for
//! ever, which the log shows.
//!
//! **Whatever a stream takes with it when it ends** is reported: proposals that were still in the queue have certainly not
//! been sent, and may be proposed again. What had been handed to the socket may have arrived.

use std::convert::Infallible;
use std::future::Future;
use std::mem::{replace, size_of};
use std::pin::{pin, Pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use bytes::{Bytes, BytesMut};
use hyper::body::{Body, Frame};
use parking_lot::Mutex;
use raft_core::pb::{Message, MessageType};
use tokio::sync::mpsc::error::{TryRecvError, TrySendError};
use tokio::sync::{mpsc, oneshot};
use tokio::task::yield_now;
use tokio::time::{interval_at, Instant, Interval, MissedTickBehavior};

use super::stream::{Encode, Kind, LINK_HEARTBEAT};
use super::{Event, Sink};

/// Messages that may wait for one stream.
pub const QUEUED_MESSAGES: usize = 4096;
/// Bytes that may wait for one stream. One message always may.
pub const QUEUED_BYTES: usize = 32 << 20;
/// Messages are encoded together until there are this many bytes.
const BATCH_BYTES: usize = 64 << 10;

/// Where one peer's stream of one kind is attached.
pub struct Outlet {
    kind: Kind,
    /// A lock, because the peer server attaches, once in a connection's life; otherwise only the raft thread comes here.
    attached: Mutex<Slot>,
}

enum Slot {
    Free,
    Taken(Attached),
    /// The peer is no peer any more, or listens elsewhere: nothing is attached again.
    Closed,
}

struct Attached {
    queue: mpsc::Sender<Message>,
    queued_bytes: Arc<AtomicUsize>,
    /// Tells the stream that a newer one has taken its place. Just dropped, it lets the stream finish what is queued.
    replaced: oneshot::Sender<()>,
}

/// A message that was not queued, and why.
#[derive(Debug)]
pub enum Refused {
    /// There is no stream: another way may be open.
    Detached(Message),
    /// The peer does not read fast enough.
    Full(Message),
}

impl Outlet {
    /// Nothing is attached yet.
    pub fn new(kind: Kind) -> Outlet {
        Outlet { kind, attached: Mutex::new(Slot::Free) }
    }

    /// Queues a message; never waits.
    // The message comes back by value as it went in: boxing it would cost every one.
    #[allow(clippy::result_large_err)]
    pub fn offer(&self, message: Message) -> Result<(), Refused> {
        let slot = self.attached.lock();
        let Slot::Taken(attached) = &*slot else { return Err(Refused::Detached(message)) };
        let bytes = queued_size(&message);
        let queued = attached.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        let sent = match attached.queue.try_reserve() {
            Err(TrySendError::Closed(())) => Err(Refused::Detached(message)),
            Ok(permit) if queued == 0 || queued + bytes <= QUEUED_BYTES => {
                permit.send(message);
                Ok(())
            }
            _ => Err(Refused::Full(message)),
        };
        if sent.is_err() {
            attached.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        sent
    }

    /// Attaches a new stream for the peer `id`, in place of the one that there is.
    pub fn attach(&self, id: u64, sink: Sink) -> Outgoing {
        let (queue, waiting) = mpsc::channel(QUEUED_MESSAGES);
        let (replaced, replacement) = oneshot::channel();
        let queued_bytes = Arc::<AtomicUsize>::default();
        let attached = Attached { queue, queued_bytes: Arc::clone(&queued_bytes), replaced };
        let mut slot = self.attached.lock();
        let ended = match replace(&mut *slot, Slot::Taken(attached)) {
            Slot::Free => false,
            Slot::Taken(old) => {
                // An error means that it has ended already.
                let _ = old.replaced.send(());
                false
            }
            Slot::Closed => {
                *slot = Slot::Closed;
                true
            }
        };
        drop(slot);
        let mut heartbeat = interval_at(Instant::now() + LINK_HEARTBEAT, LINK_HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (kind, encoder) = (self.kind, self.kind.encoder());
        let replacement = Some(replacement);
        let (begun, rest) = (false, None);
        Outgoing { id, kind, encoder, waiting, queued_bytes, replacement, heartbeat, sink, begun, ended, rest }
    }

    /// Lets the stream, if there is one, end after what is queued, and any later one at once.
    pub fn close(&self) {
        *self.attached.lock() = Slot::Closed;
    }
}

/// What a message counts for in a queue.
fn queued_size(message: &Message) -> usize {
    let data: usize = message.entries.iter().map(|entry| entry.data.len()).sum();
    size_of::<Message>() + message.context.len() + data
}

/// One attached stream: the body of a response.
pub struct Outgoing {
    id: u64,
    kind: Kind,
    encoder: Box<dyn Encode>,
    waiting: mpsc::Receiver<Message>,
    queued_bytes: Arc<AtomicUsize>,
    replacement: Option<oneshot::Receiver<()>>,
    heartbeat: Interval,
    sink: Sink,
    begun: bool,
    ended: bool,
    /// What follows a full batch.
    rest: Option<Arc<Rest>>,
}

/// A pause of one stream until all other tasks that are ready have had their turn. The body is asked more often than that,
/// so it must be able to tell whether the pause is over.
struct Rest {
    over: AtomicBool,
    /// The connection's task.
    task: Waker,
}

impl Rest {
    fn begin(context: &Context<'_>) -> Arc<Rest> {
        let rest = Arc::new(Rest { over: AtomicBool::new(false), task: context.waker().clone() });
        let waker = Waker::from(Arc::clone(&rest));
        // It is pending for certain, and the runtime wakes it when nothing else is ready.
        let _ = pin!(yield_now()).poll(&mut Context::from_waker(&waker));
        rest
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }
}

impl Wake for Rest {
    fn wake(self: Arc<Rest>) {
        self.over.store(true, Ordering::Release);
        self.task.wake_by_ref();
    }
}

impl Outgoing {
    fn is_replaced(&mut self, context: &mut Context<'_>) -> bool {
        let Some(replacement) = self.replacement.as_mut() else { return false };
        match Pin::new(replacement).poll(context) {
            Poll::Pending => false,
            Poll::Ready(told) => {
                self.replacement = None;
                told.is_ok()
            }
        }
    }

    /// Heartbeats that are due, the first at once, then what waits, up to a batch. An end of the queue is the end of the stream.
    fn gather(&mut self, context: &mut Context<'_>, batch: &mut BytesMut) {
        if !replace(&mut self.begun, true) {
            self.encoder.heartbeat(batch);
        }
        while self.heartbeat.poll_tick(context).is_ready() {
            self.encoder.heartbeat(batch);
        }
        while batch.len() < BATCH_BYTES {
            match self.waiting.poll_recv(context) {
                Poll::Ready(Some(message)) => {
                    self.queued_bytes.fetch_sub(queued_size(&message), Ordering::Relaxed);
                    self.encoder.message(message, batch);
                }
                Poll::Ready(None) => {
                    self.ended = true;
                    return;
                }
                Poll::Pending => return,
            }
        }
    }
}

#[cfg(test)]
impl Outgoing {
    /// How many messages wait.
    pub(super) fn queued(&self) -> usize {
        self.waiting.len()
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let stream = self.get_mut();
        if stream.ended {
            return Poll::Ready(None);
        }
        if stream.is_replaced(context) {
            log::debug!("a newer {} stream to node {} takes the place of this one", stream.kind.name(), stream.id);
            stream.ended = true;
            return Poll::Ready(None);
        }
        if stream.rest.as_ref().is_some_and(|rest| !rest.is_over()) {
            return Poll::Pending;
        }
        let mut batch = BytesMut::new();
        stream.gather(context, &mut batch);
        stream.rest = (batch.len() >= BATCH_BYTES).then(|| Rest::begin(context));
        match (batch.is_empty(), stream.ended) {
            (false, _) => Poll::Ready(Some(Ok(Frame::data(batch.freeze())))),
            (true, true) => Poll::Ready(None),
            (true, false) => Poll::Pending,
        }
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.waiting.close();
        let mut unsent = Vec::new();
        loop {
            match self.waiting.try_recv() {
                Ok(message) if message.kind() == Some(MessageType::MsgProp) => unsent.extend(message.entries),
                Ok(_) => {}
                // The raft thread has found room just before, and is putting its message there now: closed and
                // empty, the queue is disconnected as soon as nobody is.
                Err(TryRecvError::Empty) => std::thread::yield_now(),
                Err(TryRecvError::Disconnected) => break,
            }
        }
        // Errors mean that the raft thread has no time for it: it will find out by itself.
        if !unsent.is_empty() {
            let _ = (self.sink)(Event::Undelivered { entries: unsent });
        }
        let _ = (self.sink)(Event::Unreachable { id: self.id });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::stream::Frame as StreamFrame;
    use http_body_util::BodyExt;
    use raft_core::pb::Entry;

    fn sink() -> (Sink, Arc<Mutex<Vec<Event>>>) {
        let events = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&events);
        let sink = move |event| {
            kept.lock().push(event);
            Ok(())
        };
        (Arc::new(sink), events)
    }

    fn run<F: Future>(future: F) -> F::Output {
        let builder = &mut tokio::runtime::Builder::new_current_thread();
        builder.enable_time().build().unwrap().block_on(future)
    }

    fn proposal(bytes: usize) -> Message {
        let mut message = Message::of(MessageType::MsgProp);
        message.entries = [Entry::normal(vec![7; bytes])].into();
        message
    }

    /// The frames of the next piece of the body.
    async fn next(stream: &mut Outgoing) -> Option<Vec<StreamFrame>> {
        let piece = stream.frame().await?.unwrap().into_data().unwrap();
        let (mut buffer, mut decoder) = (BytesMut::from(&piece[..]), Kind::Message.decoder(1, 2));
        Some(std::iter::from_fn(|| decoder.frame(&mut buffer).unwrap()).collect())
    }

    #[test]
    fn the_first_heartbeat_comes_at_once_and_messages_behind_it() {
        run(async {
            let (outlet, (sink, _)) = (Outlet::new(Kind::Message), sink());
            assert!(matches!(outlet.offer(proposal(1)), Err(Refused::Detached(_))));
            let mut stream = outlet.attach(2, sink);
            outlet.offer(proposal(1)).unwrap();
            outlet.offer(proposal(2)).unwrap();
            let expected =
                [StreamFrame::Heartbeat, StreamFrame::Message(proposal(1)), StreamFrame::Message(proposal(2))];
            assert_eq!(next(&mut stream).await.unwrap(), expected);
            assert_eq!(next(&mut stream).await.unwrap(), [StreamFrame::Heartbeat], "and the next in its time");
        });
    }

    #[test]
    fn the_newest_stream_wins_and_the_old_ones_queue_is_reported() {
        run(async {
            let (outlet, (sink, events)) = (Outlet::new(Kind::Message), sink());
            let mut old = outlet.attach(2, Arc::clone(&sink));
            next(&mut old).await.unwrap();
            outlet.offer(proposal(1)).unwrap();
            let mut new = outlet.attach(2, sink);
            assert_eq!(next(&mut old).await, None);
            drop(old);
            let undelivered = Event::Undelivered { entries: proposal(1).entries.into_vec() };
            assert_eq!(*events.lock(), [undelivered, Event::Unreachable { id: 2 }]);
            outlet.offer(proposal(2)).unwrap();
            let expected = [StreamFrame::Heartbeat, StreamFrame::Message(proposal(2))];
            assert_eq!(next(&mut new).await.unwrap(), expected);
        });
    }

    #[test]
    fn a_closed_outlets_stream_ends_after_its_queue_and_the_next_at_once() {
        run(async {
            let (outlet, (sink, _)) = (Outlet::new(Kind::Message), sink());
            let mut stream = outlet.attach(2, sink);
            outlet.offer(proposal(1)).unwrap();
            outlet.close();
            assert_eq!(next(&mut stream).await.unwrap().len(), 2);
            assert_eq!(next(&mut stream).await, None);
            let mut late = outlet.attach(2, self::sink().0);
            assert_eq!(next(&mut late).await, None, "it was being answered meanwhile");
            assert!(matches!(outlet.offer(proposal(1)), Err(Refused::Detached(_))));
        });
    }

    #[test]
    fn after_a_full_batch_the_others_have_their_turn() {
        run(async {
            let (outlet, (sink, _)) = (Outlet::new(Kind::Message), sink());
            let mut stream = outlet.attach(2, sink);
            for _ in 0..3 {
                outlet.offer(proposal(BATCH_BYTES)).unwrap();
            }
            let turns = Arc::new(AtomicUsize::new(0));
            let counted = Arc::clone(&turns);
            let other = tokio::spawn(async move {
                loop {
                    counted.fetch_add(1, Ordering::Relaxed);
                    yield_now().await;
                }
            });
            let mut before = Vec::new();
            for _ in 0..3 {
                assert!(!next(&mut stream).await.unwrap().is_empty());
                before.push(turns.load(Ordering::Relaxed));
                // As a connection does: it asks again at once, more than once.
                for _ in 0..2 {
                    let asked = std::future::poll_fn(|context| Poll::Ready(Pin::new(&mut stream).poll_frame(context)));
                    assert!(asked.await.is_pending());
                }
            }
            other.abort();
            assert!(before.windows(2).all(|pair| pair[0] < pair[1]), "{before:?}");
        });
    }

    #[test]
    fn a_queue_is_bounded_in_messages_and_in_bytes() {
        run(async {
            let (outlet, (sink, _)) = (Outlet::new(Kind::Message), sink());
            let mut stream = outlet.attach(2, sink);
            for _ in 0..QUEUED_MESSAGES {
                outlet.offer(proposal(1)).unwrap();
            }
            assert!(matches!(outlet.offer(proposal(1)), Err(Refused::Full(_))));
            let mut sent = 0;
            while sent < QUEUED_MESSAGES {
                let frames = next(&mut stream).await.unwrap();
                sent += frames.iter().filter(|frame| **frame != StreamFrame::Heartbeat).count();
            }
            outlet.offer(proposal(QUEUED_BYTES)).unwrap();
            assert!(matches!(outlet.offer(proposal(1)), Err(Refused::Full(_))), "one always passes, but one");
            next(&mut stream).await.unwrap();
            outlet.offer(proposal(1)).unwrap();
            drop(stream);
            assert!(matches!(outlet.offer(proposal(1)), Err(Refused::Detached(_))));
        });
    }
}
