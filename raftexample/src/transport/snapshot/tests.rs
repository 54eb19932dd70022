//! Both sides of the channel: the receiving one against bodies of every kind, the sending one against peers of every
//! temper, and both together.

use super::receive::{Receiving, Sender, Standing};
use super::send::{run, Outbound, Sending};
use super::*;
use crate::serve;
use crate::snapshots::{testing, SnapshotFiles};
use crate::transport::peer::Link;
use crate::transport::register::{Known, Register, Said};
use crate::transport::server::PeerServer;
use crate::transport::{wire, Event, Received, Sink};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::HeaderMap;
use raft_core::pb::{Message, MessageType, SnapshotMetadata};
use std::cell::Cell;
use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::pin::Pin;
use std::sync::mpsc as channel;
use std::task::{Context, Poll};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};

/// Longer than anything here takes; a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(20);
const INDEX: u64 = 7;

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn sink() -> (Sink, channel::Receiver<Event>) {
    let (sender, events) = channel::channel();
    (Arc::new(move |event| sender.send(event).map_err(|error| Box::new(error.0))), events)
}

/// From node 1, which leads term 4, to node 2.
fn message(metadata: &SnapshotMetadata) -> Message {
    let mut message = Message::of(MessageType::MsgSnap);
    (message.from, message.to, message.term) = (1, 2, 4);
    message.snapshot.insert(Box::default()).metadata = metadata.clone();
    message
}

fn with_message(message: Message, file: &[u8]) -> Vec<u8> {
    let message = wire::encode(message);
    [&(message.len() as u64).to_be_bytes()[..], &message, file].concat()
}

/// The file of a snapshot with so many keys.
fn file(keys: u64) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let files = testing::files(dir.path());
    testing::save(&files, &testing::metadata(INDEX), &testing::store(keys));
    let mut bytes = Vec::new();
    files.open(&testing::metadata(INDEX)).unwrap().source.read_to_end(&mut bytes).unwrap();
    bytes
}

/// What node 1 would send.
fn body(keys: u64) -> Vec<u8> {
    with_message(message(&testing::metadata(INDEX)), &file(keys))
}

/// Node 2, receiving.
struct Bench {
    receiving: Receiving,
    arrived: channel::Receiver<Event>,
    transfers: Transfers,
    dir: TempDir,
    runtime: Runtime,
}

fn bench() -> Bench {
    let (sink, arrived) = sink();
    let (dir, transfers) = (tempfile::tempdir().unwrap(), Transfers::default());
    let receiving = Receiving::new(2, testing::files(dir.path()), transfers.clone(), sink);
    Bench { receiving, arrived, transfers, dir, runtime: runtime() }
}

async fn post<B>(receiving: Receiving, body: B) -> (u16, String)
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    post_as((1, Standing::Named), receiving, body).await
}

/// Posts as a node with this id, for which so much speaks.
async fn post_as<B>((id, standing): (u64, Standing), receiving: Receiving, body: B) -> (u16, String)
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let said = Said::check(&Register::default(), 1, &HeaderMap::new()).ok().unwrap();
    let answer = receiving.answer(body, Sender { id, standing, said }).await;
    let status = answer.status().as_u16();
    let text = answer.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8_lossy(&text).trim_end().to_string())
}

impl Bench {
    fn post(&self, body: impl Into<Bytes>) -> (u16, String) {
        self.runtime.block_on(post(self.receiving.clone(), Full::new(body.into())))
    }

    /// Nothing has come to the raft thread, and nothing is left on disk.
    fn assert_untouched(&self, case: &str) {
        assert!(self.arrived.try_recv().is_err(), "{case}");
        assert_eq!(count(self.dir.path()), 0, "{case}");
        assert!(self.transfers.list().is_empty(), "{case}");
    }
}

fn count(dir: &Path) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}

/// What another thread brings about.
fn eventually(what: &str, happened: impl Fn() -> bool) {
    let limit = std::time::Instant::now() + PATIENCE;
    while !happened() {
        assert!(std::time::Instant::now() < limit, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A body that a test feeds: it announces a length, and ends or breaks when told.
struct Fed {
    announced: Option<u64>,
    pieces: mpsc::UnboundedReceiver<Result<Bytes, &'static str>>,
}

fn fed(announced: Option<u64>) -> (Fed, mpsc::UnboundedSender<Result<Bytes, &'static str>>) {
    let (sender, pieces) = mpsc::unbounded_channel();
    (Fed { announced, pieces }, sender)
}

impl Body for Fed {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.pieces.poll_recv(context).map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }

    fn size_hint(&self) -> SizeHint {
        self.announced.map(SizeHint::with_exact).unwrap_or_default()
    }
}

/// A body that begins with these bytes and never ends.
struct Endless(Option<Bytes>, u64);

impl Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.0.take().unwrap_or_else(|| Bytes::from_static(&[0; 4096]));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.1)
    }
}

#[test]
fn a_snapshot_arrives_checked_and_loaded_and_without_a_name() {
    let bench = bench();
    assert_eq!(bench.post(body(3000)), (204, String::new()));
    let Ok(Event::Snapshot(received)) = bench.arrived.try_recv() else { panic!("no snapshot") };
    let Received { message: taken, image } = *received;
    assert_eq!(taken, message(&testing::metadata(INDEX)));
    assert!(image.store == testing::store(3000));
    assert_eq!(image.file.metadata(), &testing::metadata(INDEX));
    assert_eq!(count(bench.dir.path()), 1);
    drop(image);
    bench.assert_untouched("a snapshot that Raft does not want leaves nothing");
}

#[test]
fn a_snapshot_that_the_inbox_has_no_room_for_leaves_nothing_and_makes_way() {
    let dir = tempfile::tempdir().unwrap();
    let full: Sink = Arc::new(|event| Err(Box::new(event)));
    let receiving = Receiving::new(2, testing::files(dir.path()), Transfers::default(), full);
    // Its clock leaps over the time for which the inbox is asked.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let post = || runtime.block_on(post(receiving.clone(), Full::new(Bytes::from(body(3000)))));
    let refused = (503, "too many messages waiting".to_string());
    assert_eq!(post(), refused);
    eventually("its file is gone", || count(dir.path()) == 0);
    eventually("the next one is taken in as far", || post() == refused);
}

#[test]
fn a_snapshot_that_is_cut_anywhere_is_refused_and_leaves_nothing() {
    let bench = bench();
    let whole = body(2);
    for length in 0..whole.len() {
        let (status, text) = bench.post(whole[..length].to_vec());
        assert_eq!(status, 400, "{length} of {} bytes: {text}", whole.len());
        bench.assert_untouched(&format!("{length} bytes"));
    }
    for length in [0, 5, 60, 2000] {
        let (body, sender) = fed(Some(whole.len() as u64));
        sender.send(Ok(whole[..length].to_vec().into())).unwrap();
        sender.send(Err("connection reset")).unwrap();
        let (status, text) = bench.runtime.block_on(post(bench.receiving.clone(), body));
        assert_eq!((status, text.as_str()), (400, "it broke off: connection reset"));
        bench.assert_untouched("broken off");
    }
    assert_eq!(bench.post(whole).0, 204, "and the next one is taken");
}

#[test]
fn a_byte_that_is_not_what_it_was_is_noticed_wherever_it_is() {
    let bench = bench();
    let small = body(2);
    let begin = small.len() - file(2).len();
    for at in begin..small.len() {
        let mut flipped = small.clone();
        flipped[at] ^= 1;
        assert_eq!(bench.post(flipped).0, 400, "byte {at}");
        bench.assert_untouched(&format!("byte {at}"));
    }
    // Of a larger one, a byte in each chunk.
    let large = body(3000);
    for at in (begin + 500_000..large.len()).step_by(1 << 20) {
        let mut flipped = large.clone();
        flipped[at] ^= 0x80;
        assert_eq!(bench.post(flipped).0, 400, "byte {at}");
        bench.assert_untouched(&format!("byte {at}"));
    }
}

#[test]
fn a_body_without_an_end_or_without_a_length_is_refused() {
    let bench = bench();
    let (body, _sender) = fed(None);
    assert_eq!(bench.runtime.block_on(post(bench.receiving.clone(), body)).0, 411);
    let (body, _sender) = fed(Some(u64::MAX / 2));
    let (status, text) = bench.runtime.block_on(post(bench.receiving.clone(), body));
    assert_eq!(status, 507, "{text}");
    bench.assert_untouched("no room");
    for beginning in [self::body(2), Vec::new(), self::body(2)[..1500].to_vec(), vec![0xff; 64]] {
        let endless = Endless(Some(beginning.into()), 1 << 30);
        assert_eq!(bench.runtime.block_on(post(bench.receiving.clone(), endless)).0, 400);
        bench.assert_untouched("endless");
    }
}

#[test]
fn what_does_not_begin_as_a_snapshot_for_this_node_is_refused() {
    let bench = bench();
    let metadata = testing::metadata(INDEX);
    let file = file(2);
    let post = |message: Message| bench.post(with_message(message, &file));
    assert_eq!(post(Message { to: 3, ..message(&metadata) }).0, 412);
    let other = Message { msg_type: MessageType::MsgApp as i32, ..message(&metadata) };
    assert_eq!(post(other), (400, "wrong raft message type".into()));
    assert_eq!(post(message(&testing::metadata(INDEX + 1))).0, 400, "another snapshot's file");
    let mut more_members = metadata.clone();
    more_members.conf_state.voters.push(9);
    assert_eq!(post(message(&more_members)).0, 400, "other members");
    let mut with_data = message(&metadata);
    with_data.snapshot.as_mut().unwrap().data = "data".into();
    assert_eq!(post(with_data).0, 400);
    let mut without = message(&metadata);
    without.snapshot = None;
    assert_eq!(post(without).0, 400);
    for length in [0, 1 << 20, u64::MAX] {
        assert_eq!(bench.post([&u64::to_be_bytes(length)[..], &file].concat()).0, 400, "a message of {length} bytes");
    }
    bench.assert_untouched("all of them");
}

#[test]
fn one_arrives_at_a_time_and_gives_way_only_to_one_that_makes_it_pointless() {
    let bench = bench();
    let whole = body(2);
    let begin = || {
        let (body, sender) = fed(Some(whole.len() as u64));
        sender.send(Ok(whole[..1500].to_vec().into())).unwrap();
        let task = bench.runtime.spawn(post(bench.receiving.clone(), body));
        (task, sender)
    };
    let arriving = |bytes: u64| {
        while bench.transfers.list().first().is_none_or(|transfer| transfer.bytes < bytes) {
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    let from = |from: u64, term: u64| {
        let body = with_message(Message { from, term, ..message(&testing::metadata(INDEX)) }, &file(2));
        let body = Full::new(Bytes::from(body));
        bench.runtime.block_on(post_as((from, Standing::Named), bench.receiving.clone(), body))
    };
    let (first, _open) = begin();
    arriving(1000);
    assert_eq!(from(3, 4), (503, "another snapshot is arriving".into()));
    assert_eq!(bench.transfers.list().len(), 1);
    assert_eq!(from(3, 5).0, 204, "a later term's leader");
    let (status, text) = bench.runtime.block_on(first).unwrap();
    assert_eq!((status, text.as_str()), (503, "a snapshot that matters more takes its place"));
    let (second, _open) = begin();
    arriving(1000);
    let (third, sender) = begin();
    assert_eq!(bench.runtime.block_on(second).unwrap().0, 503, "the sender itself has begun again");
    sender.send(Ok(whole[1500..].to_vec().into())).unwrap();
    drop(sender);
    assert_eq!(bench.runtime.block_on(third).unwrap().0, 204);
}

#[test]
fn a_stranger_neither_keeps_a_member_out_nor_pushes_it_aside() {
    let bench = bench();
    let whole = body(2);
    let order = [Standing::Stranger, Standing::Named, Standing::Known];
    let begin = |standing| {
        let (body, sender) = fed(Some(whole.len() as u64));
        sender.send(Ok(whole[..1500].to_vec().into())).unwrap();
        let task = bench.runtime.spawn(post_as((1, standing), bench.receiving.clone(), body));
        (task, sender)
    };
    let (mut arriving, mut open) = begin(order[0]);
    for standing in &order[1..] {
        while bench.transfers.list().first().is_none_or(|transfer| transfer.bytes < 1000) {
            std::thread::sleep(Duration::from_millis(1));
        }
        let (better, better_open) = begin(*standing);
        assert_eq!(bench.runtime.block_on(arriving).unwrap().0, 503, "it gives way to {standing:?}");
        (arriving, open) = (better, better_open);
    }
    let later = Message { term: u64::MAX, ..message(&testing::metadata(INDEX)) };
    let later = || Full::new(Bytes::from(with_message(later.clone(), &file(2))));
    for standing in &order[..2] {
        let refused = bench.runtime.block_on(post_as((1, *standing), bench.receiving.clone(), later()));
        assert_eq!(refused, (503, "another snapshot is arriving".into()), "{standing:?}");
    }
    let other_id = Message { from: 9, term: u64::MAX, ..message(&testing::metadata(INDEX)) };
    let other_id = Full::new(Bytes::from(with_message(other_id, &file(2))));
    let refused = bench.runtime.block_on(post_as((1, Standing::Known), bench.receiving.clone(), other_id));
    assert_eq!(refused.0, 503, "whoever speaks for somebody else is a stranger");
    open.send(Ok(whole[1500..].to_vec().into())).unwrap();
    drop(open);
    assert_eq!(bench.runtime.block_on(arriving).unwrap().0, 204);
}

/// All of it has come when the sender begins again, only its end has not been seen yet.
#[test]
fn a_replaced_snapshot_is_not_delivered_however_much_of_it_has_come() {
    let bench = bench();
    let whole = body(2);
    let (first, open) = fed(Some(whole.len() as u64));
    open.send(Ok(whole.clone().into())).unwrap();
    let first = bench.runtime.spawn(post(bench.receiving.clone(), first));
    while bench.transfers.list().first().is_none_or(|transfer| transfer.bytes < file(2).len() as u64) {
        std::thread::sleep(Duration::from_millis(1));
    }
    let (second, second_open) = fed(Some(whole.len() as u64));
    second_open.send(Ok(whole[..1500].to_vec().into())).unwrap();
    let second = bench.runtime.spawn(post(bench.receiving.clone(), second));
    assert_eq!(bench.runtime.block_on(first).unwrap().0, 503);
    assert!(bench.arrived.try_recv().is_err());
    second_open.send(Ok(whole[1500..].to_vec().into())).unwrap();
    drop(second_open);
    assert_eq!(bench.runtime.block_on(second).unwrap().0, 204);
    assert!(matches!(bench.arrived.try_recv(), Ok(Event::Snapshot(_))));
    assert!(bench.arrived.try_recv().is_err(), "once");
}

#[test]
fn a_snapshot_does_not_count_whose_sender_has_turned_out_to_be_somebody_else() {
    let bench = bench();
    let register = Register::default();
    let known = |birth| Known { birth, own_data: Some(22), ..Known::default() };
    register.send_replace(known(None));
    let mut headers = HeaderMap::new();
    Known { birth: Some(8), own_data: Some(11), ..Known::default() }.sign(&mut headers, Some(2));
    for (birth, status) in [(Some(8), 204), (Some(7), 412)] {
        register.send_replace(known(None));
        let said = Said::check(&register, 1, &headers).ok().unwrap();
        let whole = body(2);
        let (body, open) = fed(Some(whole.len() as u64));
        let (receiving, sender) = (bench.receiving.clone(), Sender { id: 1, standing: Standing::Named, said });
        let task = bench.runtime.spawn(async move { receiving.answer(body, sender).await.status().as_u16() });
        register.send_replace(known(birth));
        open.send(Ok(whole.into())).unwrap();
        drop(open);
        assert_eq!(bench.runtime.block_on(task).unwrap(), status);
        assert_eq!(bench.arrived.try_recv().is_ok(), status == 204);
    }
}

#[test]
fn a_full_inbox_is_waited_for() {
    let (sender, arrived) = channel::sync_channel(1);
    let sink: Sink = Arc::new(move |event| {
        sender.try_send(event).map_err(|error| match error {
            channel::TrySendError::Full(event) | channel::TrySendError::Disconnected(event) => Box::new(event),
        })
    });
    sink(Event::Unreachable { id: 1 }).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let receiving = Receiving::new(2, testing::files(dir.path()), Transfers::default(), sink);
    let runtime = runtime();
    let task = runtime.spawn(post(receiving, Full::new(Bytes::from(body(2)))));
    std::thread::sleep(Duration::from_millis(50));
    assert!(!task.is_finished());
    assert_eq!(arrived.recv_timeout(PATIENCE), Ok(Event::Unreachable { id: 1 }));
    assert!(matches!(arrived.recv_timeout(PATIENCE), Ok(Event::Snapshot(_))));
    assert_eq!(runtime.block_on(task).unwrap().0, 204);
}

/// Node 1, sending to a node 2 that is said to listen at this port.
struct SendingNode {
    queue: mpsc::Sender<Outbound>,
    link: Arc<Link>,
    /// Transfers begun.
    begun: Cell<u64>,
    events: channel::Receiver<Event>,
    files: SnapshotFiles,
    transfers: Transfers,
    dir: TempDir,
    _runtime: Runtime,
}

fn sender(port: u16, keys: u64) -> SendingNode {
    sender_who_knows(Register::default(), port, keys)
}

fn sender_who_knows(register: Register, port: u16, keys: u64) -> SendingNode {
    let (dir, transfers) = (tempfile::tempdir().unwrap(), Transfers::default());
    let files = testing::files(dir.path());
    testing::save(&files, &testing::metadata(INDEX), &testing::store(keys));
    let (sink, events) = sink();
    let link = Link::new(1, 2, format!("http://127.0.0.1:{port}").parse().unwrap(), sink, register, None);
    let runtime = runtime();
    let (queue, waiting) = mpsc::channel(2);
    runtime.spawn(run(Arc::clone(&link), Sending::new(files.clone(), transfers.clone(), true), waiting));
    SendingNode { queue, link, begun: Cell::new(0), events, files, transfers, dir, _runtime: runtime }
}

impl SendingNode {
    fn send(&self) {
        self.begun.set(self.begun.get() + 1);
        let message = message(&testing::metadata(INDEX));
        self.queue.try_send(Outbound { transfer: self.begun.get(), message }).unwrap();
    }

    /// What Raft is told of the transfer that was begun last.
    fn sent(&self, delivered: bool) -> Event {
        Event::SnapshotSent { id: 2, transfer: self.begun.get(), delivered }
    }

    fn next(&self) -> Event {
        self.events.recv_timeout(PATIENCE).expect("an event")
    }

    /// Sends until it has arrived; returns how many attempts failed before.
    fn send_until_delivered(&self) -> usize {
        for failures in 0.. {
            self.send();
            match self.next() {
                event if event == self.sent(true) => return failures,
                event => assert_eq!(event, self.sent(false)),
            }
        }
        0
    }
}

fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// Reads a request's header and returns the length that it announces.
fn read_header(stream: &mut impl Read) -> usize {
    let mut header = Vec::new();
    while !header.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        header.extend_from_slice(&byte);
    }
    let header = String::from_utf8(header).unwrap().to_lowercase();
    assert!(header.starts_with("post /raft/snapshot http/1.1\r\n"), "{header}");
    let length = header.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
    length.parse().unwrap()
}

/// Node 2 answers at this port, for as long as the sender lives.
fn serve(bench: &Bench, register: Register) -> (u16, watch::Sender<serve::Phase>) {
    let (listener, port) = listen();
    listener.set_nonblocking(true).unwrap();
    let (sink, _events) = sink();
    let snapshots = bench.receiving.clone();
    let server = Arc::new(PeerServer {
        own_id: 2,
        peers: Arc::default(),
        sink,
        register,
        snapshots,
        arriving: Default::default(),
    });
    let (stop, stopped) = watch::channel(serve::Phase::Serving);
    let listening =
        serve::Server { limits: serve::limits::Limits::peers(), metrics: Arc::default(), phase: stopped, tls: None };
    bench.runtime.spawn(listening.accept(listener, move |request| Arc::clone(&server).answer(request)));
    (port, stop)
}

#[test]
fn a_snapshot_goes_from_a_node_to_a_node() {
    let bench = bench();
    let (port, _stop) = serve(&bench, Register::default());
    let sender = sender(port, 5000);
    assert_eq!(sender.send_until_delivered(), 0);
    let Ok(Event::Snapshot(received)) = bench.arrived.try_recv() else { panic!("no snapshot") };
    assert!(received.image.store == testing::store(5000));
    assert!(sender.transfers.list().is_empty());
}

#[test]
fn a_snapshot_of_another_cluster_is_refused() {
    let bench = bench();
    let register = |birth| {
        let register = Register::default();
        register.send_replace(Known { birth: Some(birth), own_data: Some(1), ..Known::default() });
        register
    };
    let (port, _stop) = serve(&bench, register(7));
    let stranger = sender_who_knows(register(8), port, 2);
    stranger.send();
    assert_eq!(stranger.next(), stranger.sent(false));
    bench.assert_untouched("of another cluster");
    let member = sender_who_knows(register(7), port, 2);
    assert_eq!(member.send_until_delivered(), 0);
    assert!(matches!(bench.arrived.try_recv(), Ok(Event::Snapshot(_))));
}

#[test]
fn a_broken_transfer_is_reported_and_the_next_attempt_says_that_it_is_one() {
    let (listener, port) = listen();
    let sender = sender(port, 3000);
    let transfers = sender.transfers.clone();
    let (seen, attempts) = channel::channel();
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().map_while(Result::ok).enumerate() {
            let mut stream = stream;
            let length = read_header(&mut stream);
            let share = if number < 2 { length / 3 } else { length };
            let mut taken = vec![0; share];
            stream.read_exact(&mut taken).unwrap();
            seen.send(transfers.list()).unwrap();
            if number >= 2 {
                stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
            }
        }
    });
    assert_eq!(sender.send_until_delivered(), 2);
    for attempt in 1..=3 {
        let list = attempts.recv_timeout(PATIENCE).unwrap();
        let [transfer] = &list[..] else { panic!("{list:?}") };
        assert_eq!((transfer.peer, transfer.index, transfer.attempt), (2, INDEX, attempt));
        assert!(transfer.bytes > 1_000_000 && transfer.bytes <= transfer.total, "{transfer:?}");
    }
    sender.send();
    let _ = sender.next();
    assert_eq!(attempts.recv_timeout(PATIENCE).unwrap()[0].attempt, 1, "after a success it counts anew");
}

#[test]
fn a_file_that_is_purged_while_it_is_sent_arrives_whole() {
    let (listener, port) = listen();
    let sender = sender(port, 20_000);
    sender.send();
    let (mut stream, _) = listener.accept().unwrap();
    let length = read_header(&mut stream);
    let mut taken = vec![0; length];
    stream.read_exact(&mut taken[..100_000]).unwrap();
    for entry in std::fs::read_dir(sender.dir.path()).unwrap() {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }
    assert!(sender.files.open(&testing::metadata(INDEX)).is_err());
    stream.read_exact(&mut taken[100_000..]).unwrap();
    stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
    assert_eq!(sender.next(), sender.sent(true));
    let bench = bench();
    assert_eq!(bench.post(taken).0, 204);
}

#[test]
fn a_transfer_ends_when_a_newer_one_is_wanted_or_the_peer_is_none_any_more() {
    let (listener, port) = listen();
    let sender = sender(port, 20_000);
    sender.send();
    let first = sender.sent(false);
    let (mut stream, _) = listener.accept().unwrap();
    read_header(&mut stream);
    // The peer takes nothing more of it, for which it would have ten seconds.
    let began = Instant::now();
    sender.send();
    assert_eq!(sender.next(), first);
    assert!(began.elapsed() < SILENCE_TIMEOUT);
    let (mut stream, _) = listener.accept().unwrap();
    read_header(&mut stream);
    let second = sender.sent(false);
    drop(sender.queue);
    assert_eq!(sender.events.recv_timeout(PATIENCE), Ok(second));
}

#[test]
fn the_pause_after_failures_ends_when_the_peer_is_back() {
    let (listener, port) = listen();
    drop(listener);
    let sender = sender(port, 2);
    // The pauses would take 25.5 seconds together.
    let began = Instant::now();
    for _ in 0..8 {
        sender.send();
        while sender.events.try_recv().is_err() {
            sender.link.awake.notify_waiters();
            std::thread::sleep(Duration::from_millis(5));
            assert!(began.elapsed() < PATIENCE);
        }
    }
}

#[test]
fn a_damaged_file_is_noticed_before_its_peer_is_dialled() {
    let (listener, port) = listen();
    let sender = sender(port, 2);
    for entry in std::fs::read_dir(sender.dir.path()).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[100] ^= 1;
        std::fs::write(path, bytes).unwrap();
    }
    sender.send();
    assert_eq!(sender.next(), sender.sent(false));
    // The check may take long, and a peer does not wait for a request: it has come to its end before the peer is dialled.
    listener.set_nonblocking(true).unwrap();
    assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn what_the_peer_answers_is_passed_on() {
    let (listener, port) = listen();
    let sender = sender(port, 2);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut stream = stream;
            let length = read_header(&mut stream);
            stream.read_exact(&mut vec![0; length]).unwrap();
            let answer = b"HTTP/1.1 403 Forbidden\r\nX-Raftexample-Removed-At: 9\r\nContent-Length: 0\r\n\r\n";
            stream.write_all(answer).unwrap();
        }
    });
    sender.send();
    assert_eq!(sender.next(), Event::ToldRemoved { by: 2, at: 9 });
    assert_eq!(sender.next(), sender.sent(false));
}
