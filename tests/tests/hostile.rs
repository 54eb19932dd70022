//! Strangers at both ports of a node: thousands who say nothing or nonsense, headers and bodies without end. The node
//! goes on serving its clients and its peers, and gets rid of the strangers.
#![forbid(unsafe_code)]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::{getrlimit, setrlimit, Resource, Rlimit};
use tests::cluster::{eventually, Cluster, PATIENCE};

const STRANGERS: usize = 1000;

/// This process opens thousands of connections itself.
fn raise_own_limit() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(16_384, |maximum| maximum.min(16_384));
    if limit.current.is_some_and(|current| current < wanted) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum })
            .expect("up to the maximum");
    }
    assert!(wanted > 3 * STRANGERS as u64, "this test needs more open files than {wanted}: see ulimit -Hn");
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("the node accepts connections");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
    stream
}

/// What is nobody's protocol.
fn garbage(number: usize) -> Vec<u8> {
    match number % 4 {
        // The beginning of a TLS handshake.
        0 => b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        1 => vec![0xff; 2000],
        2 => b"GET  /  HTTP/9.9\r\n\r\n".to_vec(),
        _ => (0..=255).cycle().take(1500).chain(*b"\r\n\r\n").collect(),
    }
}

/// Writes `piece` again and again until the node has had enough; returns what it said.
fn pour(mut stream: TcpStream, beginning: &[u8], piece: &[u8], stop: &AtomicBool) -> String {
    let mut sent = stream.write_all(beginning);
    while sent.is_ok() && !stop.load(Ordering::Relaxed) {
        sent = stream.write_all(piece);
    }
    let mut answer = Vec::new();
    stream.set_read_timeout(Some(Duration::from_secs(1))).expect("a timeout");
    let _ = stream.take(1 << 20).read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

const ENDLESS_HEADER: &[u8] = b"GET /key HTTP/1.1\r\nHost: x\r\n";
const ENDLESS_PUT: &[u8] = b"PUT /key HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
const ENDLESS_POST: &[u8] =
    b"POST /raft HTTP/1.1\r\nHost: x\r\nX-Etcd-Cluster-ID: 1000\r\nX-Server-Version: 3.4.23\r\n\
    X-Server-From: 2\r\nTransfer-Encoding: chunked\r\n\r\n";

#[test]
fn a_node_goes_on_serving_whatever_strangers_do_at_its_ports() {
    raise_own_limit();
    let cluster = Cluster::start(3);
    let attacked = cluster.wait_for_leader();
    let node = cluster.node(attacked);
    let ports = [node.client_port, node.peer_port];
    let other = cluster.followers_of(attacked)[0];

    let silent: Vec<TcpStream> =
        ports.iter().flat_map(|&port| (0..STRANGERS).map(move |_| port)).map(connect).collect();
    let mut nonsense: Vec<TcpStream> = Vec::new();
    for number in 0..STRANGERS {
        let mut stream = connect(ports[number % 2]);
        // It may have closed the connection already.
        let _ = stream.write_all(&garbage(number / 2));
        nonsense.push(stream);
    }
    let chunk = [b"4000\r\n".as_slice(), &[b'x'; 0x4000], b"\r\n"].concat();
    let (stop, served) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for port in ports {
            for _ in 0..4 {
                let stop = &stop;
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        pour(connect(port), ENDLESS_HEADER, b"X-More: and more\r\n", stop);
                    }
                });
            }
        }
        for (port, beginning) in [(ports[0], ENDLESS_PUT), (ports[1], ENDLESS_POST)] {
            let (stop, chunk) = (&stop, &chunk);
            scope.spawn(move || pour(connect(port), beginning, chunk, stop));
        }
        // Meanwhile: clients are served, and a peer that begins anew gets its streams.
        let http = cluster.http(attacked);
        let work = |name: &str| {
            for number in 0..50 {
                let key = format!("/{name}-{number}");
                eventually("a write is taken", PATIENCE, || (http.put(&key, name).status == 204).then_some(()));
                eventually("and read", PATIENCE, || {
                    Some(http.get(&key)).filter(|answer| answer.body == name.as_bytes())
                });
                served.fetch_add(1, Ordering::Relaxed);
            }
        };
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            work("among-strangers");
            cluster.node(other).kill();
            work("with-one-less");
            cluster.node(other).start_and_wait();
            let goal = node.status().expect("a status").commit;
            cluster.node(other).wait_until_applied(goal);
        }));
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
    assert_eq!(served.load(Ordering::Relaxed), 100);

    // All of them are sent away: those who said nothing after some seconds, the others at once.
    for mut stream in nonsense.into_iter().chain(silent) {
        let mut answer = Vec::new();
        // Closed in order, or reset; a connection that stays open is an error of another kind.
        let end = stream.read_to_end(&mut answer).map_err(|error| error.kind());
        let reset = Err(std::io::ErrorKind::ConnectionReset);
        assert!(end.is_ok() || end == reset, "{end:?} after {}", answer.escape_ascii());
    }
    // The log tells of them, in a few lines.
    let told: Vec<String> =
        node.process().stderr().into_iter().filter(|line| line.contains("closed the connection of a")).collect();
    assert!(told.iter().any(|line| line.contains("no request within 10s")), "{told:#?}");
    assert!(told.len() < 60, "{} lines", told.len());
    let metrics = node.http().get("/_/metrics").text();
    for port in ["clients", "peers"] {
        let wanted = format!("raftexample_connections_ended_total{{port=\"{port}\",reason=\"silent\"}} ");
        let count = metrics.lines().find_map(|line| line.strip_prefix(&wanted)).expect("the count of silent strangers");
        assert!(count.parse::<usize>().expect("a number") >= STRANGERS, "{wanted}{count}");
    }
    assert!(cluster.running().len() == 3);
}

#[test]
fn a_body_without_end_is_refused_and_a_header_without_end_too() {
    let cluster = Cluster::start(1);
    let node = cluster.node(1);
    let never = AtomicBool::new(false);
    for port in [node.client_port, node.peer_port] {
        let answer = pour(connect(port), ENDLESS_HEADER, b"X-More: and more\r\n", &never);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }
    let chunk = [b"10000\r\n".as_slice(), &[b'x'; 0x10000], b"\r\n"].concat();
    let answer = pour(connect(node.client_port), ENDLESS_PUT, &chunk, &never);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 413 "), "{answer}");
    cluster.http(1).must_put("/still", "here");
}
