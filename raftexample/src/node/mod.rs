//! The node: Raft, log, store and members, owned by one thread, and the handle by which everybody else reaches it.
//!
//! ```text
//!  HTTP tasks ──┐                               ┌──► WAL, snapshots      (disk.rs)
//!  peer server ─┼─► inbox ─► the raft thread ───┼──► store                (shared for reading)
//!  signals ─────┘   bounded    (driver.rs)      ├──► transport            (bounded queues)
//!                                               └──► answers              (writes.rs, reads.rs, waiting_changes.rs)
//! ```
//!
//! One thread owns the state machine and everything that must change in step with it, so that no lock orders what Raft
//! orders already. It never waits for a socket; it waits for its inbox, and for the disk. Whatever has gathered in the
//! inbox meanwhile goes through in one round: one batch in the log, one sync for all of it.
//!
//! **The one lock** is around the store. The raft thread writes it while it applies; readers take it for the time of one
//! look-up, in their own tasks, after the raft thread has told them that the store is recent enough. Sending values
//! through the raft thread instead would make it the bottleneck of reads that have nothing to ask Raft.
//!
//! **Bounds.** The inbox holds [`INBOX_CAPACITY`] inputs. Clients may have [`CLIENT_REQUESTS`] of them under way, fewer
//! than that, and [`CLIENT_BYTES`]: they can never keep the peers' messages out. Of those, [`PEER_BYTES`] may wait. Beyond
//! its share, a client is told to come back later, and a peer's message is dropped, which is counted and logged, and which
//! Raft makes up for.
//!
//! **Snapshots** are the one thing that takes long: seconds to write, minutes to send. A thread of its own writes each from
//! a copy of the store, which costs nothing to make; another checks and loads the one that a peer sends. The raft thread
//! begins and ends these works, and goes on meanwhile (`driver/snapshots.rs`).
//!
//! What is left out: separate threads for the log and for applying.

mod change;
mod data_number;
mod disk;
mod driver;
mod reads;
mod roster;
mod status;
mod waiting_changes;
mod writes;

use std::fmt;
use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender};
use kvstore::{Command, Store};
use parking_lot::RwLock;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::cli::NodeOptions;
use crate::codec::{Codec, Dialect, RequestId};
use crate::members::ChangeRefused;
use crate::metrics::Metrics;
use crate::snapshots::SnapshotFiles;
use crate::tls::Tls;
use crate::transport::peer::Peers;
use crate::transport::register::Register;
use crate::transport::snapshot::receive::Receiving;
use crate::transport::snapshot::send::Sending;
use crate::transport::snapshot::Transfers;
use crate::transport::{Event, Sink, Transport};

pub use change::{Change, Step, STEPS_MAX};
pub use disk::{Disk, StorageFailed};
pub use roster::{Role, Roster, RosterMember};
pub use status::{MemberStatus, NodeStatus, ProgressStatus};

/// Inputs that may wait for the raft thread.
pub const INBOX_CAPACITY: usize = 8192;
/// Requests of clients that may be under way at a time; the rest of the inbox is for the peers.
pub const CLIENT_REQUESTS: usize = 4096;
/// Bytes of requests that may be under way at a time; one more request is taken as long as fewer are.
pub const CLIENT_BYTES: usize = 64 << 20;
/// Bytes of peers' messages that may wait for the raft thread; one more message is taken as long as fewer do. The largest
/// may have half a gigabyte, and thousands must not.
pub const PEER_BYTES: usize = 128 << 20;
/// A client's request is answered within this time, one way or the other.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// The raft thread gives each answer in time itself; a task waits a little longer, in case a disk holds up the thread.
const HELD_UP: Duration = Duration::from_secs(2);

/// How a request ended that was not done, or may not have been.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It was not done and will not be: to repeat it is safe. Says why.
    NotDone(&'static str),
    /// It may have been done, or may be done yet. Says why nobody knows.
    Unknown(&'static str),
    /// The membership does not allow it; nothing has changed.
    Change(ChangeRefused),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::NotDone(why) => write!(f, "not done: {why}; nothing has changed, try again"),
            Refused::Unknown(why) => {
                write!(f, "outcome not known: {why}; it may have been done, or may be done yet: read to find out")
            }
            Refused::Change(refused) => write!(f, "refused: {refused}"),
        }
    }
}

impl std::error::Error for Refused {}

/// Where the answer to a request goes, and the request's share of the inbox, which is given back with the answer. It is
/// kept here and not by the client's task: a client that hangs up must not make room while its request is still held.
pub(crate) struct Reply {
    sender: oneshot::Sender<Result<(), Refused>>,
    _permit: Option<Permit>,
}

impl Reply {
    /// Answers. A client that has gone away misses it.
    pub(crate) fn send(self, answer: Result<(), Refused>) {
        let _ = self.sender.send(answer);
    }

    /// For tests: a reply that holds no share.
    #[cfg(test)]
    pub(crate) fn channel() -> (Reply, oneshot::Receiver<Result<(), Refused>>) {
        let (sender, answer) = oneshot::channel();
        (Reply { sender, _permit: None }, answer)
    }
}

/// What is known of the leader, when requests are refused whose time is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leader {
    /// There is one.
    Known,
    /// There is none at the moment.
    Unknown,
    /// There has been none for so long that waiting for one is in vain.
    Hopeless,
}

/// What the raft thread can be told.
pub(crate) enum Input {
    /// Get this request into the log.
    Write { counter: u64, data: Bytes, reply: Reply },
    /// Say when a read that begins now would not be stale.
    Read { reply: Reply },
    /// Change the membership.
    Change { change: Change, reply: Reply },
    /// Hand leadership over to this node.
    Transfer { to: u64, reply: Reply },
    /// Say who is a member.
    Roster { reply: oneshot::Sender<Roster> },
    /// Say how things are.
    Status { reply: oneshot::Sender<NodeStatus> },
    /// Something from the transport, and its share of the bytes that peers may have waiting.
    Peer(Event, Option<Permit>),
    /// Hand over, answer everybody and end.
    Stop,
}

/// How the raft thread ended.
#[derive(Debug)]
pub enum Ending {
    /// It was told to stop.
    Stopped,
    /// This node was removed from the cluster.
    Removed,
    /// It could not go on: the disk failed, or the log holds what this version cannot read.
    Failed(String),
}

/// The node as the rest of the process sees it. Clones share it.
#[derive(Clone)]
pub struct NodeHandle {
    shared: Arc<Shared>,
}

struct Shared {
    inbox: Sender<Input>,
    store: Arc<RwLock<Store>>,
    codec: Arc<dyn Codec>,
    node: u64,
    boot: u64,
    counter: AtomicU64,
    under_way: Arc<UnderWay>,
    /// Bodies that are still arriving. A share of their own, so that slow senders keep nobody from reading.
    arriving: Arc<UnderWay>,
    metrics: Arc<Metrics>,
    /// Whether this cluster's peers speak TLS.
    secure_peers: bool,
    /// A wish that another node should lead is answered within this time.
    transfer_timeout: Duration,
    peers: Arc<Peers>,
    /// It was told to stop.
    stopping: AtomicBool,
}

/// What somebody has under way, and may have.
struct UnderWay {
    requests: AtomicUsize,
    bytes: AtomicUsize,
    max_requests: usize,
    max_bytes: usize,
}

impl UnderWay {
    fn up_to(max_requests: usize, max_bytes: usize) -> Arc<UnderWay> {
        Arc::new(UnderWay { requests: AtomicUsize::new(0), bytes: AtomicUsize::new(0), max_requests, max_bytes })
    }

    fn of_clients() -> Arc<UnderWay> {
        UnderWay::up_to(CLIENT_REQUESTS, CLIENT_BYTES)
    }
}

/// One request's share, given back when dropped.
pub struct Permit {
    under_way: Arc<UnderWay>,
    bytes: usize,
}

impl Permit {
    /// `None` if the share of all is used up.
    fn take(under_way: &Arc<UnderWay>, bytes: usize) -> Option<Permit> {
        let permit = Permit { under_way: Arc::clone(under_way), bytes };
        let requests_before = under_way.requests.fetch_add(1, Ordering::Relaxed);
        let bytes_before = under_way.bytes.fetch_add(bytes, Ordering::Relaxed);
        // Refused, it is given back by dropping it.
        (requests_before < under_way.max_requests && bytes_before < under_way.max_bytes).then_some(permit)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.under_way.requests.fetch_sub(1, Ordering::Relaxed);
        self.under_way.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A started node.
pub struct Running {
    /// The way to talk to it.
    pub handle: NodeHandle,
    /// Ends when the raft thread does.
    pub thread: JoinHandle<Ending>,
    /// Brings the transport's events to it.
    pub sink: Sink,
    /// Who may dial, for the peer server.
    pub peers: Arc<Peers>,
    /// Who was removed, and who is who, for the peer server.
    pub register: Register,
    /// Takes snapshots in, for the peer server.
    pub snapshots: Receiving,
}

/// Starts the raft thread on what the disk holds. Sockets are the business of `runtime`; peers are dialled with `tls`.
pub fn start(
    options: &NodeOptions,
    dialect: &Dialect,
    disk: Disk,
    recovered: disk::State,
    runtime: Handle,
    tls: Option<Tls>,
) -> Result<Running, String> {
    let (sender, inbox) = crossbeam_channel::bounded(INBOX_CAPACITY);
    let boot = random();
    let register = Register::default();
    if dialect.extensions {
        let number = data_number::number_of(&options.data_dir, recovered.empty, random());
        let own_data = Some(number.map_err(|error| error.to_string())?);
        register.send_modify(|known| known.own_data = own_data);
    }
    let sink = sink(sender.clone());
    let files = SnapshotFiles::new(disk.snapshot_dir(), Arc::clone(&dialect.codec), options.cluster.clone());
    let transfers = Transfers::default();
    let snapshots = Receiving::new(options.id, files.clone(), transfers.clone(), Arc::clone(&sink));
    let sending = Sending::new(files, transfers, dialect.extensions);
    let transport = Transport::new(options.id, Arc::clone(&sink), Arc::clone(&register), runtime, tls, sending);
    let peers = transport.registry();
    let metrics = Arc::new(Metrics::new(options.id));
    let counted = Arc::clone(&metrics);
    let driver = driver::Driver::new(
        options,
        dialect,
        boot,
        (disk, recovered),
        transport,
        Arc::clone(&register),
        inbox,
        counted,
    )?;
    let store = driver.store();
    let shared = Shared {
        inbox: sender,
        store,
        codec: Arc::clone(&dialect.codec),
        node: options.id,
        boot,
        counter: AtomicU64::new(0),
        under_way: UnderWay::of_clients(),
        arriving: UnderWay::of_clients(),
        metrics,
        secure_peers: options.own_url.is_secure(),
        transfer_timeout: driver::transfer_timeout(&options.timing),
        peers: Arc::clone(&peers),
        stopping: AtomicBool::new(false),
    };
    let thread = std::thread::Builder::new().name("raft".into()).spawn(|| driver.run());
    let thread = thread.map_err(|error| format!("cannot start a thread: {error}"))?;
    Ok(Running { handle: NodeHandle { shared: Arc::new(shared) }, thread, sink, peers, register, snapshots })
}

fn sink(inbox: Sender<Input>) -> Sink {
    let waiting = UnderWay::up_to(INBOX_CAPACITY, PEER_BYTES);
    Arc::new(move |event| {
        let permit = match event.bytes() {
            // It holds nothing that counts, and may be what must not be forgotten.
            0 => None,
            bytes => match Permit::take(&waiting, bytes) {
                Some(permit) => Some(permit),
                None => return Err(Box::new(event)),
            },
        };
        match inbox.try_send(Input::Peer(event, permit)) {
            Err(crossbeam_channel::TrySendError::Full(Input::Peer(event, _))) => Err(Box::new(event)),
            // Sent; or nobody listens any more, and nobody misses it.
            _ => Ok(()),
        }
    })
}

#[cfg(test)]
impl Input {
    /// For tests: something from the transport that holds no share.
    pub(crate) fn peer(event: Event) -> Input {
        Input::Peer(event, None)
    }
}

/// A number that no other start of any node has: the standard library seeds its hash maps from the system.
fn random() -> u64 {
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

impl NodeHandle {
    /// Has the command carried out. `Ok` once it is committed, and applied on this node.
    pub async fn write(&self, command: Command) -> Result<(), Refused> {
        let counter = self.shared.counter.fetch_add(1, Ordering::Relaxed);
        let id = RequestId { node: self.shared.node, boot: self.shared.boot, counter };
        let data = self.shared.codec.encode_request(id, &command).map_err(|error| {
            log::warn!("refused a request: {error}");
            Refused::NotDone("the cluster's entries cannot express it")
        })?;
        let silent = Refused::Unknown("this node is held up");
        let answer = self.ask(data.len(), |reply| Input::Write { counter, data, reply }, silent).await;
        if answer.is_err() {
            self.shared.metrics.proposals_failed.add(1);
        }
        answer
    }

    /// Waits until the store is as recent as any write that was acknowledged before this call.
    pub async fn wait_until_current(&self) -> Result<(), Refused> {
        let answer = self.ask(0, |reply| Input::Read { reply }, Refused::NotDone("this node is held up")).await;
        if answer.is_err() {
            self.shared.metrics.reads_failed.add(1);
        }
        answer
    }

    /// Looks into this node's own store, as it is now.
    pub fn local_value(&self, key: &[u8]) -> Option<Bytes> {
        self.shared.store.read().get(key)
    }

    /// Changes the membership. `Ok` once the change is applied on this node. It is judged by members as recent as any
    /// change that was acknowledged before this call, on whatever node.
    pub async fn change_members(&self, change: Change) -> Result<(), Refused> {
        if let Some(url) = change.urls().find(|url| url.is_secure() != self.shared.secure_peers) {
            return Err(Refused::Change(ChangeRefused::OtherScheme { url: url.clone() }));
        }
        self.wait_until_current().await?;
        let silent = Refused::Unknown("this node is held up");
        self.ask(0, |reply| Input::Change { change, reply }, silent).await
    }

    /// Hands leadership over to this node. `Ok` once this node knows that it leads.
    pub async fn transfer_leadership(&self, to: u64) -> Result<(), Refused> {
        self.wait_until_current().await?;
        let silent = Refused::Unknown("this node is held up");
        self.ask_for(self.shared.transfer_timeout, 0, |reply| Input::Transfer { to, reply }, silent).await
    }

    /// Who is a member, as far as this node knows.
    pub async fn roster(&self) -> Result<Roster, Refused> {
        self.look(|reply| Input::Roster { reply }).await
    }

    /// Asks for room for a body of up to so many bytes, to be held until it has arrived. Bodies that arrive are bounded
    /// like requests under way, by [`CLIENT_REQUESTS`] and [`CLIENT_BYTES`].
    pub fn room_for_body(&self, bytes: usize) -> Result<Permit, Refused> {
        Permit::take(&self.shared.arriving, bytes).ok_or(Refused::NotDone(TOO_MANY))
    }

    /// How the node is.
    pub async fn status(&self) -> Result<NodeStatus, Refused> {
        self.look(|reply| Input::Status { reply }).await
    }

    async fn look<T>(&self, input: impl FnOnce(oneshot::Sender<T>) -> Input) -> Result<T, Refused> {
        let _permit = self.permit(0)?;
        let (reply, answer) = oneshot::channel();
        self.tell(input(reply))?;
        match tokio::time::timeout(REQUEST_TIMEOUT + HELD_UP, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(Refused::NotDone(STOPPING)),
            Err(_) => Err(Refused::NotDone("this node is held up")),
        }
    }

    /// Whether it was told to stop.
    pub fn is_stopping(&self) -> bool {
        self.shared.stopping.load(Ordering::Relaxed)
    }

    /// What is counted.
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// What was counted, for Prometheus.
    pub fn metrics_page(&self) -> String {
        self.shared.metrics.page(&self.shared.peers)
    }

    /// Tells the raft thread to hand over leadership, to answer everybody, and to end. May wait for room in the inbox.
    pub fn stop(&self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        // An error means that it has ended already.
        let _ = self.shared.inbox.send(Input::Stop);
    }

    /// As [`Self::ask_for`], for what is answered within [`REQUEST_TIMEOUT`].
    async fn ask(&self, bytes: usize, input: impl FnOnce(Reply) -> Input, silent: Refused) -> Result<(), Refused> {
        self.ask_for(REQUEST_TIMEOUT, bytes, input, silent).await
    }

    /// Sends a request of so many bytes in and waits for its answer, which the raft thread gives within `time`; `silent`
    /// is the answer if there is none.
    async fn ask_for(
        &self,
        time: Duration,
        bytes: usize,
        input: impl FnOnce(Reply) -> Input,
        silent: Refused,
    ) -> Result<(), Refused> {
        let permit = self.permit(bytes)?;
        let (sender, answer) = oneshot::channel();
        self.tell(input(Reply { sender, _permit: Some(permit) }))?;
        match tokio::time::timeout(time + HELD_UP, answer).await {
            Ok(Ok(answer)) => answer,
            // The thread answers everybody before it ends, except when it fails.
            Ok(Err(_)) | Err(_) => Err(silent),
        }
    }

    fn permit(&self, bytes: usize) -> Result<Permit, Refused> {
        Permit::take(&self.shared.under_way, bytes).ok_or(Refused::NotDone(TOO_MANY))
    }

    fn tell(&self, input: Input) -> Result<(), Refused> {
        self.shared.inbox.try_send(input).map_err(|error| match error {
            crossbeam_channel::TrySendError::Full(_) => Refused::NotDone(TOO_MANY),
            crossbeam_channel::TrySendError::Disconnected(_) => Refused::NotDone(STOPPING),
        })
    }
}

/// Why a request is refused when the clients' share is used up.
const TOO_MANY: &str = "too many requests are under way";
/// Why a write is refused that the leader did not take in all its time.
pub(crate) const TOO_MUCH_WAITS: &str = "the leader took nothing more: too much waits to be committed";
/// Why a read is refused that got no answer in all its time.
pub(crate) const UNCONFIRMED: &str = "the leader did not confirm in time that it still leads";
/// Why a read is refused whose entries are committed, but not yet here.
pub(crate) const BEHIND: &str = "this node is behind: it has not applied in time what the read has to see";
/// Why a request is refused at the end.
pub(crate) const STOPPING: &str = "this node is stopping";
/// Why a request is refused by a node that is no member any more.
pub(crate) const REMOVED: &str = "this node was removed from the cluster";
/// Why a request is refused when there is nobody to lead.
pub(crate) const NO_LEADER: &str = "there is no leader, or no quorum to elect one";

/// What the raft thread receives from.
pub(crate) type Inbox = Receiver<Input>;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Content;
    use raft_core::pb::{Entry, Message, MessageType};

    fn handle(capacity: usize) -> (NodeHandle, Inbox) {
        let (inbox, receiver) = crossbeam_channel::bounded(capacity);
        let shared = Shared {
            inbox,
            store: Arc::default(),
            codec: Dialect::own().codec,
            node: 1,
            boot: 7,
            counter: AtomicU64::new(0),
            under_way: UnderWay::of_clients(),
            arriving: UnderWay::of_clients(),
            metrics: Arc::new(Metrics::new(1)),
            secure_peers: false,
            transfer_timeout: 10 * REQUEST_TIMEOUT,
            peers: Arc::default(),
            stopping: AtomicBool::new(false),
        };
        (NodeHandle { shared: Arc::new(shared) }, receiver)
    }

    fn block_on<F: std::future::Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
    }

    #[test]
    fn a_full_inbox_refuses_and_gives_the_permit_back() {
        let (handle, inbox) = handle(0);
        let command = Command::Delete { key: "k".into() };
        assert!(matches!(block_on(handle.write(command.clone())), Err(Refused::NotDone(_))));
        assert_eq!(handle.shared.under_way.requests.load(Ordering::Relaxed), 0);
        assert_eq!(handle.shared.under_way.bytes.load(Ordering::Relaxed), 0);
        drop(inbox);
        assert_eq!(block_on(handle.write(command)), Err(Refused::NotDone(STOPPING)));
    }

    #[test]
    fn clients_have_their_share_and_no_more() {
        let (handle, _inbox) = handle(INBOX_CAPACITY);
        let under_way = &handle.shared.under_way;
        for (counter, share) in [(&under_way.requests, CLIENT_REQUESTS), (&under_way.bytes, CLIENT_BYTES)] {
            counter.store(share, Ordering::Relaxed);
            assert!(matches!(block_on(handle.wait_until_current()), Err(Refused::NotDone(_))));
            assert_eq!(counter.swap(0, Ordering::Relaxed), share);
        }
    }

    #[test]
    fn peers_messages_are_limited_in_bytes_until_they_are_taken_out() {
        let (inbox, receiver) = crossbeam_channel::bounded(8);
        let sink = sink(inbox);
        let message = |bytes: usize| {
            let entries = [Entry::normal(vec![0; bytes])].into();
            Event::Message(Message { entries, ..Message::of(MessageType::MsgApp) })
        };
        assert_eq!(sink(message(PEER_BYTES - 1000)), Ok(()));
        assert_eq!(sink(message(2000)), Ok(()), "one more is taken as long as there is any room");
        let heartbeat = || Event::Message(Message::of(MessageType::MsgHeartbeat));
        assert_eq!(sink(heartbeat()), Err(Box::new(heartbeat())));
        assert_eq!(sink(Event::Unreachable { id: 2 }), Ok(()), "it takes no room");
        drop(receiver.recv());
        for _ in 0..6 {
            assert_eq!(sink(heartbeat()), Ok(()));
        }
        assert_eq!(sink(heartbeat()), Err(Box::new(heartbeat())), "they are limited in number, too");
        assert_eq!(receiver.len(), 8);
    }

    #[test]
    fn bodies_that_arrive_have_a_share_of_their_own() {
        let (handle, inbox) = handle(8);
        let large: Vec<Permit> = std::iter::from_fn(|| handle.room_for_body(1 << 20).ok()).take(1000).collect();
        assert_eq!(large.len(), CLIENT_BYTES >> 20);
        assert!(handle.room_for_body(0).is_err());
        drop(inbox);
        assert_eq!(block_on(handle.wait_until_current()), Err(Refused::NotDone(STOPPING)), "others are not kept out");
        drop(large);
        assert!(handle.room_for_body(1 << 20).is_ok());
    }

    #[test]
    fn a_client_that_hangs_up_does_not_make_room_before_its_request_is_answered() {
        let (handle, inbox) = handle(8);
        let command = Command::Put { key: "k".into(), value: vec![0; 1000].into() };
        let hung_up = async {
            tokio::time::timeout(Duration::from_millis(1), handle.write(command)).await.expect_err("nobody answers");
        };
        block_on(hung_up);
        let requests = &handle.shared.under_way.requests;
        assert_eq!(requests.load(Ordering::Relaxed), 1);
        assert!(handle.shared.under_way.bytes.load(Ordering::Relaxed) > 1000);
        let Ok(Input::Write { reply, .. }) = inbox.recv() else { panic!("not a write") };
        reply.send(Ok(()));
        assert_eq!(requests.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_new_leader_is_waited_for_as_long_as_elections_take_here() {
        let (handle, inbox) = handle(8);
        let time = handle.shared.transfer_timeout;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let served = async {
            loop {
                match inbox.try_recv() {
                    Ok(Input::Transfer { reply, .. }) => {
                        tokio::time::sleep(time).await;
                        return reply.send(Ok(()));
                    }
                    Ok(Input::Read { reply }) => reply.send(Ok(())),
                    _ => tokio::time::sleep(Duration::from_millis(1)).await,
                }
            }
        };
        let answer = runtime.block_on(async { tokio::join!(handle.transfer_leadership(2), served).0 });
        assert_eq!(answer, Ok(()));
    }

    #[test]
    fn every_write_has_an_id_of_its_own() {
        let (handle, inbox) = handle(8);
        let served = std::thread::spawn(move || {
            let mut ids = Vec::new();
            for input in inbox.iter().take(2) {
                let Input::Write { data, reply, .. } = input else { panic!("not a write") };
                match Dialect::own().codec.decode_entry(data) {
                    Ok(Content::Request(Some(id), _)) => ids.push(id),
                    other => panic!("{other:?}"),
                }
                reply.send(Ok(()));
            }
            ids
        });
        for _ in 0..2 {
            assert_eq!(block_on(handle.write(Command::Delete { key: "k".into() })), Ok(()));
        }
        let expected = [0, 1].map(|counter| RequestId { node: 1, boot: 7, counter });
        assert_eq!(served.join().unwrap(), expected);
    }

    #[test]
    fn a_thread_that_dies_without_an_answer_leaves_a_write_unknown() {
        let (handle, inbox) = handle(8);
        let served = std::thread::spawn(move || drop(inbox.recv()));
        let answer = block_on(handle.write(Command::Delete { key: "k".into() }));
        assert!(matches!(answer, Err(Refused::Unknown(_))));
        served.join().unwrap();
    }
}
