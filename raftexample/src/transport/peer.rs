//! One peer: every channel between it and this node, and the choice among them for each message.
//!
//! | message | goes |
//! |---|---|
//! | snapshot | on a connection of its own, always: on a stream everything else would wait behind it |
//! | a leader's entries | on the `msgapp` stream, if the peer has dialled it |
//! | everything else, and entries while that stream is not there | on the `message` stream, if the peer has dialled it |
//! | whatever is left | by post |
//!
//! Order is kept within one channel only. When a stream comes or goes messages may overtake each other, which Raft takes
//! for a bad network and repairs.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::Arc;
use std::time::Duration;

use hyper::header::HeaderMap;
use hyper::{Method, Request};
use parking_lot::RwLock;
use raft_core::pb::{Message, MessageType};
use tokio::runtime::Handle;
use tokio::sync::futures::Notified;
use tokio::sync::{mpsc, Notify};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use super::outgoing::{Outgoing, Outlet, Refused};
use super::pipeline::Pipeline;
use super::register::{Register, Said, Stranger};
use super::snapshot::send::{self, Outbound, Sending};
use super::stream::Kind;
use super::{headers, incoming, pipeline, probing, Event, Sink};
use crate::address::PeerUrl;
use crate::metrics::{PeerMetrics, Told};
use crate::tls::Tls;

/// Shortest pause after a failure: etcd's.
pub(super) const SHORTEST_PAUSE: Duration = Duration::from_millis(100);

/// What the tasks of one peer have in common.
pub struct Link {
    pub(super) own_id: u64,
    pub(super) id: u64,
    pub(super) url: PeerUrl,
    pub(super) sink: Sink,
    /// With what it is dialled, if its URL begins with `https`.
    pub(super) tls: Option<Tls>,
    register: Register,
    /// Told when the peer dials us: it is there. Also told when it is no peer any more.
    pub(super) awake: Notify,
    msgapp: Outlet,
    message: Outlet,
    pub(super) metrics: PeerMetrics,
    /// Messages from it that were dropped.
    dropped: Told,
    /// It was said in the log that one of us is not who it seems to be.
    strange: AtomicBool,
    /// A bit for each channel that works, so that the log tells of the first to come and the last to go.
    active: AtomicU8,
}

/// A way on which we notice that a peer lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Channel {
    /// Set at first, so that the first failure is told of.
    Unknown = 1,
    MsgApp = 2,
    Message = 4,
    Post = 8,
}

impl Channel {
    pub(super) fn of(kind: Kind) -> Channel {
        match kind {
            Kind::MsgApp => Channel::MsgApp,
            Kind::Message => Channel::Message,
        }
    }
}

impl Link {
    /// Nothing works yet.
    pub(super) fn new(
        own_id: u64,
        id: u64,
        url: PeerUrl,
        sink: Sink,
        register: Register,
        tls: Option<Tls>,
    ) -> Arc<Link> {
        Arc::new(Link {
            own_id,
            id,
            url,
            sink,
            tls,
            register,
            strange: AtomicBool::new(false),
            awake: Notify::new(),
            msgapp: Outlet::new(Kind::MsgApp),
            message: Outlet::new(Kind::Message),
            metrics: PeerMetrics::default(),
            dropped: Told::default(),
            active: AtomicU8::new(Channel::Unknown as u8),
        })
    }

    /// A request to this peer, with everything that any of them has.
    pub(super) fn request<B>(&self, method: Method, path: &str, body: B) -> Request<B> {
        let mut request = headers::request(method, path, &self.url, self.own_id, body);
        self.register.borrow().sign(request.headers_mut(), Some(self.id));
        request
    }

    /// Whether the answer comes from the peer that we know.
    pub(super) fn check(&self, answer: &HeaderMap) -> Result<Said, Stranger> {
        let checked = Said::check(&self.register, self.id, answer);
        if let Err(stranger) = &checked {
            self.note_stranger(stranger);
        }
        checked
    }

    /// Says so in the log, once until all is well again.
    pub(super) fn note_stranger(&self, what: &dyn fmt::Display) {
        if !self.strange.swap(true, Ordering::Relaxed) {
            log::warn!("peer {} at {} and this node do not belong together: {what}", self.id, self.url);
        }
    }

    fn outlet(&self, kind: Kind) -> &Outlet {
        match kind {
            Kind::MsgApp => &self.msgapp,
            Kind::Message => &self.message,
        }
    }

    /// The peer has dialled: its stream of this kind begins, and an older one ends.
    pub(super) fn attach(&self, kind: Kind) -> Outgoing {
        self.awake.notify_waiters();
        self.strange.store(false, Ordering::Relaxed);
        self.outlet(kind).attach(self.id, Arc::clone(&self.sink))
    }

    /// Waits for `longest`, or until the peer has dialled us since `awake` was made, or is no peer any more; but no less
    /// than [`SHORTEST_PAUSE`].
    pub(super) async fn pause(awake: Notified<'_>, longest: Duration) {
        sleep(SHORTEST_PAUSE).await;
        // An error means that nothing of it has happened.
        let _ = timeout(longest.saturating_sub(SHORTEST_PAUSE), awake).await;
    }

    fn close(&self) {
        self.awake.notify_waiters();
        Kind::ALL.into_iter().for_each(|kind| self.outlet(kind).close());
    }

    /// The inbox had no room for a message from this peer.
    pub(super) fn note_dropped(&self, message: &Message) {
        self.metrics.received_failures.add(1);
        let kind = message.kind();
        self.dropped.tell(&format_args!("dropped a message {kind:?} from node {}: too many are waiting", self.id));
    }

    /// Brings an event to the raft thread, waiting for room: for what must not be forgotten.
    pub(super) async fn tell(&self, event: Event) {
        let mut event = event;
        while let Err(refused) = (self.sink)(event) {
            event = *refused;
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Whether any channel works.
    pub(super) fn is_active(&self) -> bool {
        self.active.load(Ordering::Relaxed) & !(Channel::Unknown as u8) != 0
    }

    pub(super) fn note_active(&self, channel: Channel) {
        if self.active.fetch_or(channel as u8, Ordering::Relaxed) & !(Channel::Unknown as u8) == 0 {
            log::info!("peer {} at {} is active", self.id, self.url);
        }
    }

    pub(super) fn note_inactive(&self, channel: Channel, reason: &dyn fmt::Display) {
        let lost = channel as u8 | Channel::Unknown as u8;
        let before = self.active.fetch_and(!lost, Ordering::Relaxed);
        if before != 0 && before & !lost == 0 {
            log::warn!("peer {} at {} became inactive: {reason}", self.id, self.url);
        } else {
            log::debug!("peer {} at {}: {reason}", self.id, self.url);
        }
    }
}

/// One peer, as the raft thread sees it. Dropping it lets what is queued go out, and ends everything else.
pub struct Peer {
    link: Arc<Link>,
    pipeline: Pipeline,
    snapshots: mpsc::Sender<Outbound>,
    tasks: Vec<AbortHandle>,
}

impl Peer {
    /// Starts the tasks that dial its streams and probe it.
    pub(super) fn start(link: Arc<Link>, runtime: &Handle, sending: &Sending) -> Peer {
        let pipeline = Pipeline::start(&link, runtime);
        let (snapshots, queue) = mpsc::channel(send::QUEUED_SNAPSHOTS);
        if sending.channel {
            runtime.spawn(send::run(Arc::clone(&link), sending.clone(), queue));
        } else {
            runtime.spawn(pipeline::post_snapshots(Arc::clone(&link), sending.files.clone(), queue));
        }
        let receive = |kind| runtime.spawn(incoming::receive(Arc::clone(&link), kind)).abort_handle();
        let mut tasks: Vec<AbortHandle> = Kind::ALL.into_iter().map(receive).collect();
        tasks.push(runtime.spawn(probing::probe(Arc::clone(&link))).abort_handle());
        Peer { link, pipeline, snapshots, tasks }
    }

    /// Queues a snapshot, or gives it back if there is no room; never waits.
    #[allow(clippy::result_large_err)]
    pub fn queue_snapshot(&self, snapshot: Outbound) -> Result<(), Message> {
        self.snapshots.try_send(snapshot).map_err(|error| pipeline::not_queued(error).message)
    }

    /// Queues a message that is no snapshot, or gives it back if there is no room; never waits.
    #[allow(clippy::result_large_err)]
    pub fn queue(&self, message: Message) -> Result<(), Message> {
        let kinds: &[Kind] = match message.kind() {
            Some(MessageType::MsgApp) => &[Kind::MsgApp, Kind::Message],
            _ => &[Kind::Message],
        };
        let mut message = message;
        for &kind in kinds {
            match self.link.outlet(kind).offer(message) {
                Ok(()) => return Ok(()),
                Err(Refused::Full(refused)) => {
                    self.link.metrics.sent_failures.add(1);
                    return Err(refused);
                }
                Err(Refused::Detached(refused)) => message = refused,
            }
        }
        self.pipeline.queue(message).inspect_err(|_| self.link.metrics.sent_failures.add(1))
    }

    /// Whether any channel works.
    pub fn is_active(&self) -> bool {
        self.link.is_active()
    }

    /// Where it listens.
    pub fn url(&self) -> &PeerUrl {
        &self.link.url
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.link.close();
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

/// All peers, for the peer server: who may dial. A lock, because it asks for every stream, and the raft thread changes it
/// with the membership.
#[derive(Default)]
pub struct Peers(RwLock<BTreeMap<u64, Arc<Link>>>);

impl Peers {
    pub(super) fn get(&self, id: u64) -> Option<Arc<Link>> {
        self.0.read().get(&id).cloned()
    }

    /// Everybody by id: whether a sign of life was seen lately, and what is counted.
    pub fn snapshot(&self) -> Vec<(u64, bool, Counted)> {
        self.0.read().iter().map(|(&id, link)| (id, link.is_active(), Counted(Arc::clone(link)))).collect()
    }

    pub(super) fn insert(&self, link: Arc<Link>) {
        self.0.write().insert(link.id, link);
    }

    pub(super) fn remove(&self, id: u64) {
        self.0.write().remove(&id);
    }
}

/// What is counted for one peer.
pub struct Counted(Arc<Link>);

impl Deref for Counted {
    type Target = PeerMetrics;

    fn deref(&self) -> &PeerMetrics {
        &self.0.metrics
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshots::testing::no_sending;

    fn message(kind: MessageType) -> Message {
        Message { to: 2, from: 1, ..Message::of(kind) }
    }

    #[test]
    fn each_message_takes_its_channel_and_the_next_one_if_there_is_none() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _guard = runtime.enter();
        let sink: Sink = Arc::new(|_| Ok(()));
        let link = Link::new(1, 2, "http://127.0.0.1:1".parse().unwrap(), sink, Register::default(), None);
        // Its tasks never run: nobody drives the runtime. What is posted stays in the queues.
        let peer = Peer::start(Arc::clone(&link), runtime.handle(), &no_sending());
        let posted = || peer.pipeline.queued();
        peer.queue(message(MessageType::MsgApp)).unwrap();
        peer.queue(message(MessageType::MsgHeartbeat)).unwrap();
        assert_eq!(posted(), 2, "no streams");
        let small = link.attach(Kind::Message);
        peer.queue(message(MessageType::MsgApp)).unwrap();
        assert_eq!((small.queued(), posted()), (1, 2), "entries take the other stream");
        let entries = link.attach(Kind::MsgApp);
        peer.queue(message(MessageType::MsgApp)).unwrap();
        peer.queue(message(MessageType::MsgHeartbeat)).unwrap();
        assert_eq!((entries.queued(), small.queued(), posted()), (1, 2, 2));
        peer.queue_snapshot(Outbound { transfer: 1, message: message(MessageType::MsgSnap) }).unwrap();
        assert_eq!((entries.queued(), small.queued(), posted()), (1, 2, 2), "it has a way of its own");
        drop(entries);
        peer.queue(message(MessageType::MsgApp)).unwrap();
        assert_eq!(small.queued(), 3);
    }
}
