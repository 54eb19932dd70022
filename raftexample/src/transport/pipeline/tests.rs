//! The sending side against peers of every temper, on sockets of this machine.

use super::*;
use crate::serve;
use crate::snapshots::testing;
use crate::transport::register::Register;
use crate::transport::server::PeerServer;
use crate::transport::snapshot::receive::Receiving;
use crate::transport::snapshot::Transfers;
use crate::transport::Sink;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::mpsc as channel;
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// Longer than anything here takes; a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(20);

struct Bench {
    peer: Pipeline,
    events: channel::Receiver<Event>,
    runtime: Runtime,
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn sink() -> (Sink, channel::Receiver<Event>) {
    let (sender, events) = channel::channel();
    (Arc::new(move |event| sender.send(event).map_err(|error| Box::new(error.0))), events)
}

/// Node 1's way to node 2, which is said to listen at `port`.
fn bench(port: u16) -> Bench {
    let (sink, events) = sink();
    let runtime = runtime();
    let url = format!("http://127.0.0.1:{port}").parse().unwrap();
    let peer = Pipeline::start(&Link::new(1, 2, url, sink, Register::default(), None), runtime.handle());
    Bench { peer, events, runtime }
}

fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

fn message(kind: MessageType, index: u64) -> Message {
    let mut message = Message::of(kind);
    (message.from, message.to, message.term, message.index) = (1, 2, 3, index);
    message
}

fn proposal() -> Message {
    let mut message = Message::of(MessageType::MsgProp);
    (message.from, message.to) = (1, 2);
    message.entries = [Entry::normal("wish")].into();
    message
}

impl Bench {
    fn next(&self) -> Event {
        self.events.recv_timeout(PATIENCE).expect("an event")
    }
}

/// Answers each request on each connection, one connection after the other, with what `answer` says; nothing means to
/// hang up.
fn serve_raw(listener: TcpListener, mut answer: impl FnMut(usize) -> Option<&'static str> + Send + 'static) {
    std::thread::spawn(move || {
        let mut count = 0;
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut buffer = [0; 4096];
            while matches!(stream.read(&mut buffer), Ok(read) if read > 0) {
                count += 1;
                match answer(count) {
                    Some(text) => stream.write_all(text.as_bytes()).unwrap(),
                    None => break,
                }
            }
        }
    });
}

const TAKEN: &str = "HTTP/1.1 204 No Content\r\n\r\n";

#[test]
fn messages_arrive_in_order_at_a_node() {
    let (listener, port) = listen();
    listener.set_nonblocking(true).unwrap();
    let bench = bench(port);
    let (sink, arrived) = sink();
    let dir = tempfile::tempdir().unwrap();
    let snapshots = Receiving::new(2, testing::files(dir.path()), Transfers::default(), Arc::clone(&sink));
    let server = Arc::new(PeerServer {
        own_id: 2,
        peers: Arc::default(),
        sink,
        register: Register::default(),
        snapshots,
        arriving: Default::default(),
    });
    let (_stop, stopped) = watch::channel(serve::Phase::Serving);
    let listening =
        serve::Server { limits: serve::limits::Limits::peers(), tls: None, metrics: Arc::default(), phase: stopped };
    bench.runtime.spawn(listening.accept(listener, move |request| Arc::clone(&server).answer(request)));
    for index in 0..50 {
        bench.peer.queue(message(MessageType::MsgApp, index)).unwrap();
    }
    for index in 0..50 {
        assert_eq!(arrived.recv_timeout(PATIENCE), Ok(Event::Message(message(MessageType::MsgApp, index))));
    }
    assert!(bench.events.try_recv().is_err(), "nothing to report");
}

#[test]
fn a_snapshot_is_posted_with_its_data_where_there_is_no_other_way() {
    let (listener, port) = listen();
    listener.set_nonblocking(true).unwrap();
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let files = testing::files(here.path());
    testing::save(&files, &testing::metadata(7), &testing::store(3));
    let (received, arrived) = sink();
    let snapshots = Receiving::new(2, testing::files(there.path()), Transfers::default(), Arc::clone(&received));
    let server = Arc::new(PeerServer {
        own_id: 2,
        peers: Arc::default(),
        sink: received,
        register: Register::default(),
        snapshots,
        arriving: Default::default(),
    });
    let runtime = runtime();
    let (_stop, stopped) = watch::channel(serve::Phase::Serving);
    let listening =
        serve::Server { limits: serve::limits::Limits::peers(), metrics: Arc::default(), phase: stopped, tls: None };
    runtime.spawn(listening.accept(listener, move |request| Arc::clone(&server).answer(request)));
    let (sink, events) = sink();
    let link = Link::new(1, 2, format!("http://127.0.0.1:{port}").parse().unwrap(), sink, Register::default(), None);
    let (sender, queue) = mpsc::channel(2);
    runtime.spawn(post_snapshots(link, files, queue));
    let snapshot_message = |index| {
        let mut announced = message(MessageType::MsgSnap, 0);
        announced.snapshot.insert(Box::default()).metadata = testing::metadata(index);
        announced
    };
    sender.try_send(Outbound { transfer: 1, message: snapshot_message(7) }).unwrap();
    assert_eq!(events.recv_timeout(PATIENCE), Ok(Event::SnapshotSent { id: 2, transfer: 1, delivered: true }));
    let Ok(Event::Snapshot(received)) = arrived.try_recv() else { panic!("no snapshot") };
    assert_eq!(received.message, snapshot_message(7), "Raft sees no data");
    assert_eq!(received.image.store, testing::store(3));
    sender.try_send(Outbound { transfer: 2, message: snapshot_message(8) }).unwrap();
    assert_eq!(events.recv_timeout(PATIENCE), Ok(Event::Unreachable { id: 2 }), "there is no such file");
    assert_eq!(events.recv_timeout(PATIENCE), Ok(Event::SnapshotSent { id: 2, transfer: 2, delivered: false }));
}

#[test]
fn what_was_never_sent_is_known_not_to_be_taken() {
    let (listener, port) = listen();
    drop(listener);
    let bench = bench(port);
    bench.peer.queue(proposal()).unwrap();
    assert_eq!(bench.next(), Event::Undelivered { entries: vec![Entry::normal("wish")] });
    assert_eq!(bench.next(), Event::Unreachable { id: 2 });
}

#[test]
fn what_was_refused_before_raft_saw_it_is_known_not_to_be_taken() {
    let (listener, port) = listen();
    serve_raw(listener, |_| Some("HTTP/1.1 412 Precondition Failed\r\nContent-Length: 1\r\n\r\nx"));
    let bench = bench(port);
    bench.peer.queue(proposal()).unwrap();
    assert!(matches!(bench.next(), Event::Undelivered { .. }));
}

#[test]
fn a_proposal_that_may_have_been_taken_is_not_called_undelivered() {
    for answer in [None, Some("HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n")] {
        let (listener, port) = listen();
        serve_raw(listener, move |_| answer);
        let bench = bench(port);
        bench.peer.queue(proposal()).unwrap();
        assert_eq!(bench.next(), Event::Unreachable { id: 2 }, "and nothing before it");
    }
}

#[test]
fn a_connection_that_the_peer_closed_meanwhile_is_replaced() {
    let (listener, port) = listen();
    let (hung_up, closed) = channel::channel();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ = stream.read(&mut [0; 4096]);
            stream.write_all(TAKEN.as_bytes()).unwrap();
            drop(stream);
            hung_up.send(()).unwrap();
        }
    });
    let bench = bench(port);
    for index in 0..3 {
        bench.peer.queue(message(MessageType::MsgHeartbeat, index)).unwrap();
        closed.recv_timeout(PATIENCE).expect("it arrives");
        assert!(bench.events.try_recv().is_err(), "and nothing is lost");
        // The client's side of the connection notices on its own time; both ways must work.
    }
}

#[test]
fn a_peer_that_says_removed_is_passed_on() {
    let (listener, port) = listen();
    serve_raw(listener, |_| {
        Some("HTTP/1.1 403 Forbidden\r\nX-Raftexample-Removed-At: 7\r\nContent-Length: 15\r\n\r\nremoved member\n")
    });
    let bench = bench(port);
    bench.peer.queue(message(MessageType::MsgPreVote, 1)).unwrap();
    assert_eq!(bench.next(), Event::ToldRemoved { by: 2, at: 7 });
}

#[test]
fn a_full_queue_gives_the_message_back() {
    let (_listener, port) = listen();
    // Nobody accepts: the first post waits for an answer, the rest waits behind it.
    let bench = bench(port);
    let refused = (0..100).find_map(|index| bench.peer.queue(message(MessageType::MsgApp, index)).err());
    assert!(refused.is_some());
    assert!(bench.peer.queue(message(MessageType::MsgHeartbeat, 0)).is_ok(), "a lane of its own");
}

#[test]
fn only_an_answer_from_before_raft_proves_that_a_message_was_not_taken() {
    assert!(judge(StatusCode::NO_CONTENT, None, b"").is_ok());
    assert!(matches!(judge(StatusCode::PRECONDITION_FAILED, None, b"x"), Err(Failure::NotTaken(_))));
    assert!(matches!(judge(StatusCode::SERVICE_UNAVAILABLE, None, b"x"), Err(Failure::NotTaken(_))));
    assert!(matches!(judge(StatusCode::INTERNAL_SERVER_ERROR, None, b"x"), Err(Failure::Unknown(_))));
    assert!(matches!(judge(StatusCode::OK, None, b"x"), Err(Failure::Unknown(_))));
    assert!(matches!(judge(StatusCode::FORBIDDEN, Some(7), b"removed member"), Err(Failure::Removed { at: 7 })));
}

/// Its status says what has become of the message; what comes after that is not waited for.
#[test]
fn of_an_answer_that_does_not_end_only_the_beginning_is_read() {
    let (listener, port) = listen();
    let bench = bench(port);
    bench.peer.queue(proposal()).unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    assert!(stream.read(&mut [0; 4096]).unwrap() > 0);
    stream.write_all(b"HTTP/1.1 412 Precondition Failed\r\nContent-Length: 1000000000\r\n\r\n").unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    let mut written = 0;
    while stream.write_all(&[b'x'; 4096]).is_ok() {
        written += 4096;
        assert!(written < 100_000_000, "it reads on");
    }
    assert_eq!(bench.next(), Event::Undelivered { entries: vec![Entry::normal("wish")] });
    assert_eq!(bench.next(), Event::Unreachable { id: 2 });
}
