//! The checks in their order, each answer, and what comes to the raft thread.

use super::*;
use crate::codec::{Codec, OwnCodec};
use crate::members::Members;
use crate::snapshots::testing;
use crate::transport::peer::Link;
use crate::transport::register::{self, Known, Number};
use crate::transport::snapshot::Transfers;
use http_body_util::BodyExt;
use parking_lot::Mutex;
use prost::Message as _;
use std::collections::BTreeMap;

struct Bench {
    server: PeerServer,
    taken: Arc<Mutex<Vec<Event>>>,
    _dir: tempfile::TempDir,
}

fn bench() -> Bench {
    let taken = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&taken);
    let peers = Arc::<Peers>::default();
    let sink: Sink = Arc::new(move |event| {
        if kept.lock().len() == 2 {
            return Err(Box::new(event));
        }
        kept.lock().push(event);
        Ok(())
    });
    let dir = tempfile::tempdir().unwrap();
    let snapshots = Receiving::new(2, testing::files(dir.path()), Transfers::default(), Arc::clone(&sink));
    let register = Register::default();
    register.send_modify(|known| {
        known.removed.insert(9, 1);
    });
    let url = "http://127.0.0.1:1".parse().unwrap();
    peers.insert(Link::new(2, 1, url, Arc::clone(&sink), Arc::clone(&register), None));
    let server = PeerServer { own_id: 2, peers, sink, register, snapshots, arriving: Arriving::default() };
    Bench { server, taken, _dir: dir }
}

fn post(body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    Request::post("/raft")
        .header(headers::CLUSTER_ID, "1000")
        .header(headers::SERVER_VERSION, "3.4.23")
        .header(headers::SERVER_FROM, "1")
        .body(Full::new(body.into()))
        .unwrap()
}

fn heartbeat(to: u64) -> Vec<u8> {
    let mut message = Message::of(MessageType::MsgHeartbeat);
    (message.to, message.from, message.term) = (to, 1, 4);
    message.encode_to_vec()
}

fn answer(bench: &Bench, request: Request<Full<Bytes>>) -> (u16, String) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let response = bench.server.pipeline(request).await;
        let status = response.status().as_u16();
        let cluster = response.headers().contains_key(headers::CLUSTER_ID);
        assert_eq!(cluster, status != 405, "every answer but 405 names the cluster");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8_lossy(&body).trim_end().to_string())
    })
}

#[test]
fn a_message_is_delivered() {
    let bench = bench();
    assert_eq!(answer(&bench, post(heartbeat(2))), (204, String::new()));
    let taken = bench.taken.lock();
    assert!(matches!(&taken[..], [Event::Message(message)] if message.term == 4));
}

#[test]
fn the_first_failing_check_answers() {
    let bench = bench();
    let mut request = post(heartbeat(2));
    *request.method_mut() = Method::PUT;
    assert_eq!(answer(&bench, request), (405, "Method Not Allowed".into()));
    let mut request = post(heartbeat(2));
    request.headers_mut().remove(headers::SERVER_VERSION);
    request.headers_mut().remove(headers::CLUSTER_ID);
    assert_eq!(answer(&bench, request), (412, "incompatible version".into()));
    let mut request = post(heartbeat(2));
    request.headers_mut().remove(headers::CLUSTER_ID);
    assert_eq!(answer(&bench, request), (412, "cluster ID mismatch".into()));
    assert_eq!(answer(&bench, post("\u{1}garbage")), (400, "error unmarshalling raft message".into()));
    assert_eq!(answer(&bench, post(heartbeat(3))), (412, "to field mismatch".into()));
    assert!(bench.taken.lock().is_empty());
}

#[test]
fn a_removed_member_is_told_if_it_asks() {
    let bench = bench();
    let mut request = post(heartbeat(2));
    request.headers_mut().insert(headers::SERVER_FROM, HeaderValue::from_static("9"));
    assert_eq!(answer(&bench, request.clone()).0, 204, "the original would end its process at a 403");
    request.headers_mut().insert(headers::TELL_REMOVED, HeaderValue::from_static("1"));
    assert_eq!(answer(&bench, request), (403, "removed member".into()));
}

#[test]
fn whoever_is_not_who_it_seems_to_be_is_refused() {
    for (birth, data, to_data, number) in
        [(8, 11, 22, Number::Birth), (7, 12, 22, Number::Data), (7, 11, 23, Number::Data)]
    {
        let bench = bench();
        let known = Known { birth: Some(7), own_data: Some(22), data: BTreeMap::from([(1, 11)]), ..Known::default() };
        bench.server.register.send_replace(known);
        let mut request = post(heartbeat(2));
        let sender = Known {
            birth: Some(birth),
            own_data: Some(data),
            data: BTreeMap::from([(2, to_data)]),
            ..Known::default()
        };
        sender.sign(request.headers_mut(), Some(2));
        let mut stream = request.headers().clone();
        let (status, text) = answer(&bench, request);
        assert_eq!(status, 412);
        assert!(text.contains("mismatch"), "{text}");
        stream.insert(headers::RAFT_TO, HeaderValue::from_static("2"));
        let refused = bench.server.stream(&Method::GET, &stream, "msgapp/1");
        assert_eq!((refused.status().as_u16(), Number::refused(refused.headers())), (412, Some(number)));
        assert_eq!(refused.headers()[register::DATA], "16", "it says its own number");
        assert_eq!(*bench.taken.lock(), [], "whoever comes is no witness against this node");
    }
}

/// A node that has just started may not know yet, when a peer dials it, with which data it is known.
#[test]
fn a_stream_ends_when_what_becomes_known_says_that_its_reader_is_somebody_else() {
    let bench = bench();
    let known = |data: &[(u64, u64)]| {
        let data = data.iter().copied().collect();
        Known { birth: Some(7), own_data: Some(22), data, ..Known::default() }
    };
    bench.server.register.send_replace(known(&[]));
    let mut request = post("");
    Known { birth: Some(7), own_data: Some(11), ..Known::default() }.sign(request.headers_mut(), Some(2));
    request.headers_mut().insert(headers::RAFT_TO, HeaderValue::from_static("2"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let mut stream = bench.server.stream(&Method::GET, request.headers(), "message/1").into_body();
        assert!(stream.frame().await.is_some(), "nothing is known of it");
        bench.server.register.send_replace(known(&[(1, 11)]));
        assert!(stream.frame().await.is_some(), "it is who it says it is");
        bench.server.register.send_replace(known(&[(1, 12)]));
        assert!(stream.frame().await.is_none());
    });
    assert_eq!(bench.server.stream(&Method::GET, request.headers(), "message/1").status().as_u16(), 412);
}

#[test]
fn local_messages_are_answered_and_dropped() {
    let bench = bench();
    assert_eq!(answer(&bench, post("")).0, 204, "no bytes at all are a MsgHup");
    let mut unknown = Message::of(MessageType::MsgHup);
    (unknown.msg_type, unknown.to) = (99, 2);
    assert_eq!(answer(&bench, post(unknown.encode_to_vec())).0, 204);
    assert!(bench.taken.lock().is_empty());
}

#[test]
fn a_snapshot_that_cannot_be_restored_is_refused() {
    let bench = bench();
    let snapshot = |data: Vec<u8>| {
        let mut message = Message::of(MessageType::MsgSnap);
        message.to = 2;
        let snapshot = message.snapshot.insert(Box::default());
        snapshot.data = data.into();
        snapshot.metadata = testing::metadata(7);
        message.encode_to_vec()
    };
    let mut good = Vec::new();
    OwnCodec.write_image(&Members::default(), &testing::store(2), &mut good).unwrap();
    assert_eq!(answer(&bench, post(snapshot(b"evil".to_vec()))).0, 400);
    assert_eq!(answer(&bench, post(snapshot(good))), (204, String::new()));
    assert_eq!(bench.taken.lock().len(), 1);
}

#[test]
fn an_empty_snapshot_counts_as_none() {
    let bench = bench();
    let mut message = Message::of(MessageType::MsgApp);
    message.to = 2;
    message.snapshot = Some(Box::default());
    answer(&bench, post(message.encode_to_vec()));
    assert!(matches!(&bench.taken.lock()[..], [Event::Message(message)] if message.snapshot.is_none()));
}

#[test]
fn a_full_inbox_is_said_and_counted() {
    let bench = bench();
    let failures = || bench.server.peers.get(1).unwrap().metrics.received_failures.get();
    for (status, dropped) in [(204, 0), (204, 0), (503, 1)] {
        assert_eq!((answer(&bench, post(heartbeat(2))).0, failures()), (status, dropped));
    }
}

#[test]
fn each_path_has_its_answer() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let ask = |path: &'static str| {
        let server = Arc::new(bench().server);
        let request = Request::get(path).body(Full::<Bytes>::default()).unwrap();
        let response = runtime.block_on(server.answer(request)).unwrap();
        let location = response.headers().get(LOCATION).map(|location| location.to_str().unwrap().to_string());
        (response.status().as_u16(), location)
    };
    assert_eq!(ask("/raft/probing"), (200, None));
    assert_eq!(ask("/raft"), (405, None));
    assert_eq!(ask("/raft/snapshot"), (405, None));
    assert_eq!(ask("/raft/stream"), (301, Some("/raft/stream/".into())));
    assert_eq!(ask("/raft/stream/"), (412, None), "no version");
    for path in ["/", "/raft/", "/raft/streams", "/raft/streamer/msgapp/1", "/members"] {
        assert_eq!(ask(path), (404, None), "{path}");
    }
}

/// Asks for a stream: path, and headers that differ from what node 1 would send. Answers status and text.
fn ask(path: &str, change: &[(&'static str, Option<&'static str>)]) -> (u16, String) {
    let mut headers = HeaderMap::new();
    let usual =
        [(headers::CLUSTER_ID, Some("1000")), (headers::SERVER_VERSION, Some("3.4.23")), (headers::RAFT_TO, Some("2"))];
    for &(name, value) in usual.iter().chain(change) {
        headers.remove(name);
        value.map(|value| headers.insert(name, HeaderValue::from_static(value)));
    }
    let bench = bench();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let response = bench.server.stream(&Method::GET, &headers, path);
        assert_eq!(response.headers()[headers::SERVER_VERSION], "3.4.23", "on refusals too");
        assert_eq!(response.headers()[headers::CLUSTER_ID], "1000");
        let status = response.status().as_u16();
        let mut body = response.into_body();
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        (status, String::from_utf8_lossy(&first).trim_end().to_string())
    })
}

#[test]
fn a_stream_begins_with_a_heartbeat() {
    assert_eq!(ask("msgapp/1", &[]), (200, "\0".into()));
    assert_eq!(ask("message/1", &[]).0, 200);
}

#[test]
fn the_first_failing_check_of_a_stream_answers() {
    let no_version = (headers::SERVER_VERSION, None);
    let other_cluster = (headers::CLUSTER_ID, Some("1001"));
    let tell = (headers::TELL_REMOVED, Some("1"));
    let misdirected = (headers::RAFT_TO, Some("3"));
    assert_eq!(ask("what/x", &[no_version, other_cluster]), (412, "incompatible version".into()));
    assert_eq!(ask("what/x", &[other_cluster]), (412, "cluster ID mismatch".into()));
    for path in ["what/x", "msgappv2/1", "msgapp", "msgapp/1/1", ""] {
        assert_eq!(ask(path, &[]), (404, "invalid path".into()), "{path}");
    }
    assert_eq!(ask("msgapp/x", &[misdirected]), (404, "invalid from".into()));
    assert_eq!(ask("msgapp/9", &[misdirected, tell]), (410, "removed member".into()));
    assert_eq!(ask("msgapp/9", &[misdirected]), (404, "error sender not found".into()), "nobody ends who did not ask");
    assert_eq!(ask("msgapp/1", &[misdirected]), (412, "to field mismatch".into()));
    assert_eq!(ask("msgapp/1", &[(headers::RAFT_TO, None)]), (412, "to field mismatch".into()));
}

#[test]
fn a_stream_is_fetched_and_nothing_else() {
    let response = bench().server.stream(&Method::POST, &HeaderMap::new(), "msgapp/1");
    assert_eq!((response.status().as_u16(), &response.headers()[ALLOW]), (405, &HeaderValue::from_static("GET")));
}
