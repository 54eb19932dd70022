//! The client API from outside: every status code, what a key may be, and what a request may not be.
//!
//! All tests share one cluster of three and keep to keys of their own.
#![forbid(unsafe_code)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use tests::cluster::http::Connection;
use tests::cluster::{Cluster, Http, SharedCluster, KEY_MAX_BYTES, RESERVED_PREFIX, STATUS_PATH, VALUE_MAX_BYTES};

static SHARED: SharedCluster = SharedCluster::of(3);

/// Two nodes that are not the leader, to write at one and read at the other.
fn two_followers(cluster: &Cluster) -> (u64, u64) {
    let leader = cluster.wait_for_leader();
    let followers = cluster.followers_of(leader);
    (followers[0], followers[1])
}

/// The original answered PUT before the entry was committed and read whatever its own map held: 298 of 300 such reads
/// were stale on the same node.
#[test]
fn a_write_on_a_follower_is_read_on_the_third_node_at_once_500_times_of_500() {
    let cluster = SHARED.get();
    let (writer, reader) = two_followers(&cluster);
    let mut put = cluster.http(writer).connect().expect("a connection");
    let mut get = cluster.http(reader).connect().expect("a connection");
    for number in 0..500 {
        let value = format!("value {number}");
        let answer = put.request("PUT", b"/read-after-write", &[], value.as_bytes()).expect("an answer");
        assert_eq!(answer.status, 204, "write {number}: {}", answer.text());
        let answer = get.request("GET", b"/read-after-write", &[], b"").expect("an answer");
        assert_eq!((answer.status, answer.text()), (200, value), "read {number} is stale");
    }
}

#[test]
fn put_answers_204_without_a_body_and_every_node_then_has_the_value() {
    let cluster = SHARED.get();
    for writer in 1..=3 {
        let path = format!("/by-node-{writer}");
        let answer = cluster.http(writer).put(&path, "hello");
        assert_eq!((answer.status, answer.text()), (204, String::new()));
        for reader in 1..=3 {
            assert_eq!(cluster.http(reader).must_get(&path), b"hello");
        }
    }
}

#[test]
fn a_later_write_replaces_the_value() {
    let cluster = SHARED.get();
    cluster.http(1).must_put("/replaced", "one");
    cluster.http(2).must_put("/replaced", "two, and longer");
    assert_eq!(cluster.http(3).must_get("/replaced"), b"two, and longer");
}

#[test]
fn an_empty_value_is_a_value() {
    let cluster = SHARED.get();
    cluster.http(1).must_put("/empty", "");
    let answer = cluster.http(2).get("/empty");
    assert_eq!((answer.status, answer.body.len()), (200, 0));
    assert_eq!(answer.header("content-length").as_deref(), Some("0"));
}

#[test]
fn a_value_may_hold_any_byte() {
    let cluster = SHARED.get();
    let every_byte: Vec<u8> = (0..=255).cycle().take(1024).collect();
    cluster.http(1).must_put("/binary", &every_byte);
    cluster.http(1).must_put("/not-utf-8", b"a\xff");
    assert_eq!(cluster.http(2).must_get("/binary"), every_byte);
    assert_eq!(cluster.http(3).must_get("/not-utf-8"), b"a\xff");
}

#[test]
fn a_missing_key_is_404_and_the_body_says_so() {
    let cluster = SHARED.get();
    for path in ["/nobody-wrote-this", "/nobody-wrote-this?read=local"] {
        let answer = cluster.http(1).get(path);
        assert_eq!(answer.status, 404);
        assert!(!answer.body.is_empty(), "a 404 explains itself");
    }
}

#[test]
fn delete_of_a_path_that_is_no_number_deletes_the_key() {
    let cluster = SHARED.get();
    cluster.http(1).must_put("/short-lived", "x");
    assert_eq!(cluster.http(2).delete("/short-lived").status, 204);
    assert_eq!(cluster.http(2).delete("/short-lived").status, 204, "gone is gone, whoever did it");
    for reader in 1..=3 {
        assert_eq!(cluster.http(reader).get("/short-lived").status, 404);
    }
    // A name that only begins with a digit is a key.
    cluster.http(1).must_put("/4th", "x");
    assert_eq!(cluster.http(1).delete("/4th").status, 204);
    assert_eq!(cluster.http(3).get("/4th").status, 404);
}

#[test]
fn a_number_is_a_key_for_put_and_get() {
    let cluster = SHARED.get();
    cluster.http(1).must_put("/12", "a dozen");
    assert_eq!(cluster.http(2).must_get("/12"), b"a dozen");
}

#[test]
fn the_bare_slash_and_slashes_within_are_keys() {
    let cluster = SHARED.get();
    cluster.http(1).must_put("/", "root");
    cluster.http(1).must_put("/a/b/c", "deep");
    cluster.http(1).must_put("/a//b", "two slashes");
    assert_eq!(cluster.http(2).must_get("/"), b"root");
    assert_eq!(cluster.http(2).must_get("/a/b/c"), b"deep");
    assert_eq!(cluster.http(2).must_get("/a//b"), b"two slashes");
    assert_eq!(cluster.http(2).get("/a/b").status, 404);
}

#[test]
fn percent_encoded_bytes_and_the_bytes_themselves_name_the_same_key() {
    let cluster = SHARED.get();
    let http = cluster.http(1);
    http.must_put("/caf%C3%A9", "encoded");
    assert_eq!(http.must_get("/caf\u{e9}"), b"encoded", "raw UTF-8 in the path");
    assert_eq!(http.must_get("/%63af%c3%a9"), b"encoded", "letters may be encoded too, digits in either case");
    http.must_put("/with%20blank", "1");
    http.must_put("/with+plus", "2");
    assert_eq!(http.must_get("/with%20blank"), b"1");
    assert_eq!(http.get("/with%2Bplus").text(), "2", "a plus sign is a plus sign");
    // Bytes that are not UTF-8, a zero byte and a question mark are parts of a key like any other.
    http.must_put("/%FF%00%3Fread", "odd");
    assert_eq!(http.must_get(b"/%ff%00%3fread"), b"odd");
    assert_eq!(http.get("/%FF%00").status, 404);
    // Such bytes must be encoded: HTTP does not allow them as they are.
    assert_eq!(http.get(b"/\xff").status, 400);
}

#[test]
fn a_broken_percent_sequence_is_400() {
    let cluster = SHARED.get();
    for path in ["/%", "/%4", "/%zz", "/ok%G0"] {
        assert_eq!(cluster.http(1).get(path).status, 400, "GET {path}");
        assert_eq!(cluster.http(1).put(path, "x").status, 400, "PUT {path}");
    }
}

#[test]
fn an_unknown_query_parameter_is_400_and_the_body_says_so() {
    let cluster = SHARED.get();
    cluster.http(1).must_put("/queried", "x");
    for method in ["GET", "HEAD", "PUT", "DELETE"] {
        let answer = cluster.http(1).request(method, "/queried?consistency=weak", b"");
        assert_eq!(answer.status, 400, "{method}");
        assert!(method == "HEAD" || answer.text().contains("query"), "{method}: {}", answer.text());
    }
    assert_eq!(cluster.http(1).get("/queried?read=maybe").status, 400);
    assert_eq!(cluster.http(1).get("/queried?read=local&x=1").status, 400);
    assert_eq!(cluster.http(1).must_get("/queried"), b"x", "the PUT and the DELETE had no effect");
}

#[test]
fn a_local_read_is_served_where_it_was_asked_for() {
    let cluster = SHARED.get();
    cluster.http(1).must_put("/near", "by");
    // The node that acknowledged the write has applied it.
    assert_eq!(cluster.http(1).must_get("/near?read=local"), b"by");
}

#[test]
fn head_answers_like_get_without_the_body() {
    let cluster = SHARED.get();
    cluster.http(1).must_put("/headed", "twelve bytes");
    let head = cluster.http(2).request("HEAD", "/headed", b"");
    let get = cluster.http(2).get("/headed");
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(head.header("content-length"), Some("12".to_string()));
    assert_eq!(head.header("content-type"), get.header("content-type"));
    assert_eq!(cluster.http(2).request("HEAD", "/not-headed", b"").status, 404);
    assert_eq!(cluster.http(2).request("HEAD", STATUS_PATH, b"").status, 200);
}

#[test]
fn an_unknown_method_is_405_with_the_methods_that_are_allowed() {
    let cluster = SHARED.get();
    for method in ["PATCH", "OPTIONS", "BREW"] {
        let answer = cluster.http(1).request(method, "/some-key", b"");
        assert_eq!(answer.status, 405, "{method}");
        let allow = answer.header("allow").expect("a 405 names what is allowed");
        let mut allowed: Vec<&str> = allow.split(',').map(str::trim).collect();
        allowed.sort_unstable();
        assert_eq!(allowed, ["DELETE", "GET", "HEAD", "POST", "PUT"], "{method}");
    }
}

#[test]
fn pages_under_the_reserved_prefix_are_not_keys() {
    let cluster = SHARED.get();
    let http = cluster.http(1);
    for path in [STATUS_PATH.to_string(), format!("{RESERVED_PREFIX}mine")] {
        for method in ["PUT", "DELETE", "POST"] {
            let status = http.request(method, &path, b"x").status;
            assert!((400..500).contains(&status), "{method} {path}: {status}");
        }
    }
    assert_eq!(http.get(format!("{RESERVED_PREFIX}mine")).status, 404);
    let answer = http.put(STATUS_PATH, "x");
    assert_eq!(answer.status, 405);
    assert!(answer.header("allow").is_some_and(|allow| allow.contains("GET") && !allow.contains("PUT")));
    // Another spelling of the prefix is no way around it.
    let encoded = RESERVED_PREFIX.replace('_', "%5F");
    assert!((400..500).contains(&http.put(format!("{encoded}mine"), "x").status));
}

#[test]
fn the_status_page_describes_the_node_and_the_leader_its_peers() {
    let cluster = SHARED.get();
    let leader = cluster.wait_for_leader();
    cluster.http(leader).must_put("/seen-in-status", "x");
    for id in 1..=3 {
        let answer = cluster.http(id).get(STATUS_PATH);
        assert_eq!(answer.status, 200);
        assert!(answer.header("content-type").is_some_and(|kind| kind.starts_with("application/json")));
        let status = cluster.node(id).status().expect("a status");
        assert_eq!((status.id, status.leader), (id, leader));
        assert_eq!(status.role, if id == leader { "leader" } else { "follower" });
        assert!(status.term >= 1 && status.commit >= status.applied && status.applied >= 1, "{status:?}");
        // Every member is there with the address at which its peers reach it.
        let members = status.page["members"].as_array().expect("a list of members");
        let mut found: Vec<(u64, String)> = members
            .iter()
            .map(|member| (member["id"].as_u64().expect("an id"), member["url"].as_str().expect("a URL").to_string()))
            .collect();
        found.sort();
        let expected: Vec<(u64, String)> = cluster.nodes().iter().map(|node| (node.id, node.peer_url())).collect();
        assert_eq!(found, expected);
    }
    // The leader knows how far each of them is; the others know nothing of that.
    let progress = |id: u64| cluster.node(id).status().expect("a status").page["progress"].clone();
    let on_leader = progress(leader);
    let mut seen = Vec::new();
    for member in on_leader.as_array().expect("a list of members") {
        assert!(member["match"].as_u64().is_some_and(|index| index >= 1), "{on_leader}");
        seen.extend(member["id"].as_u64());
    }
    seen.sort_unstable();
    assert_eq!(seen, [1, 2, 3]);
    assert_eq!(progress(cluster.followers_of(leader)[0]), serde_json::json!([]));
}

#[test]
fn a_value_at_the_limit_is_stored_and_one_byte_more_is_413() {
    let cluster = SHARED.get();
    let largest = vec![0x5a; VALUE_MAX_BYTES];
    cluster.http(2).must_put("/largest", &largest);
    assert_eq!(cluster.http(3).must_get("/largest"), largest);
    let answer = cluster.http(2).put("/too-large", vec![0x5a; VALUE_MAX_BYTES + 1]);
    assert_eq!(answer.status, 413);
    assert!(answer.text().contains(&VALUE_MAX_BYTES.to_string()), "the limit is named: {}", answer.text());
    assert_eq!(cluster.http(2).get("/too-large").status, 404);
}

#[test]
fn a_key_at_the_limit_is_stored_and_one_byte_more_is_414() {
    let cluster = SHARED.get();
    let longest = format!("/{}", "k".repeat(KEY_MAX_BYTES - 1));
    cluster.http(1).must_put(&longest, "x");
    assert_eq!(cluster.http(2).must_get(&longest), b"x");
    assert_eq!(cluster.http(1).put(format!("{longest}k"), "x").status, 414);
    // The limit is on the key and not on its spelling.
    assert_eq!(cluster.http(3).must_get(longest.replace('k', "%6b")), b"x");
}

#[test]
fn an_announced_length_above_the_limit_is_413_before_the_body_is_sent() {
    let cluster = SHARED.get();
    let mut connection = cluster.http(1).connect().expect("a connection");
    let head = b"PUT /announced HTTP/1.1\r\nHost: test\r\nContent-Length: 1099511627776\r\n\r\n";
    assert_eq!(connection.exchange(head, false).expect("an answer").status, 413);
}

#[test]
fn a_body_without_an_announced_length_is_stored_or_413_by_its_size() {
    let cluster = SHARED.get();
    let mut request = b"PUT /chunked HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    request.extend_from_slice(b"5\r\nhello\r\n7\r\n, world\r\n0\r\n\r\n");
    let mut connection = cluster.http(1).connect().expect("a connection");
    assert_eq!(connection.exchange(&request, false).expect("an answer").status, 204);
    assert_eq!(cluster.http(2).must_get("/chunked"), b"hello, world");

    let mut request = b"PUT /chunked-too-large HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for _ in 0..=VALUE_MAX_BYTES / 65_536 {
        request.extend_from_slice(b"10000\r\n");
        request.resize(request.len() + 65_536, b'x');
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"0\r\n\r\n");
    let mut connection = cluster.http(1).connect().expect("a connection");
    assert_eq!(connection.exchange(&request, false).expect("an answer").status, 413);
    assert_eq!(cluster.http(1).get("/chunked-too-large").status, 404);
}

#[test]
fn one_connection_serves_many_requests_and_pipelined_ones_in_order() {
    let cluster = SHARED.get();
    let mut connection: Connection = cluster.http(1).connect().expect("a connection");
    for number in 0..100 {
        let path = format!("/kept-alive-{}", number % 7);
        let value = number.to_string();
        assert_eq!(connection.request("PUT", path.as_bytes(), &[], value.as_bytes()).expect("an answer").status, 204);
        let answer = connection.request("GET", path.as_bytes(), &[], b"").expect("an answer");
        assert_eq!(answer.text(), value);
    }
    let mut pipelined = Vec::new();
    for value in ["first", "second"] {
        pipelined.extend_from_slice(
            format!("PUT /piped HTTP/1.1\r\nHost: t\r\nContent-Length: {}\r\n\r\n{value}", value.len()).as_bytes(),
        );
        pipelined.extend_from_slice(b"GET /piped HTTP/1.1\r\nHost: t\r\n\r\n");
    }
    let first = connection.exchange(&pipelined, false).expect("an answer");
    let answers = [(); 3].map(|()| connection.exchange(b"", false).expect("an answer"));
    assert_eq!(first.status, 204);
    assert_eq!(answers.map(|answer| answer.text()), ["first", "", "second"]);
}

#[test]
fn what_is_not_http_is_turned_away_and_the_node_goes_on() {
    let cluster = SHARED.get();
    for garbage in
        [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"[..], b"PUT\r\n\r\n", b"GET nothing HTTP/9.9\r\n\r\n"]
    {
        let mut stream = TcpStream::connect(("127.0.0.1", cluster.node(1).client_port)).expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout can be set");
        stream.write_all(garbage).expect("a few bytes fit");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("the node closes the connection");
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 400"), "{}", answer.escape_ascii());
    }
    // A body that ends early is not stored.
    let mut stream = TcpStream::connect(("127.0.0.1", cluster.node(1).client_port)).expect("a connection");
    stream
        .write_all(b"PUT /cut-short HTTP/1.1\r\nHost: t\r\nContent-Length: 100\r\n\r\nhalf")
        .expect("a few bytes fit");
    drop(stream);
    assert_eq!(cluster.http(1).get("/cut-short").status, 404);
}

/// Whatever is thrown at the port for peers, nobody dies of it and no message is made of it.
#[test]
fn what_is_no_peer_is_turned_away_at_the_port_for_peers() {
    let cluster = SHARED.get();
    let leader = cluster.wait_for_leader();
    let term = cluster.node(leader).status().expect("a status").term;
    for node in cluster.nodes() {
        let peer = Http::new(node.peer_port);
        for (method, path) in
            [("GET", "/"), ("PUT", "/key"), ("GET", "/raft"), ("POST", "/raft"), ("POST", "/raft/snapshot")]
        {
            let status = peer.request(method, path, b"\xff\xff no message").status;
            assert!((400..500).contains(&status), "{method} {path}: {status}");
        }
        let mut connection = peer.connect().expect("a connection");
        let head = b"POST /raft HTTP/1.1\r\nHost: test\r\nContent-Length: 1099511627776\r\n\r\n";
        assert!((400..500).contains(&connection.exchange(head, false).expect("an answer").status));
    }
    cluster.http(1).must_put("/after-garbage", "x");
    assert_eq!(cluster.node(leader).status().expect("a status").term, term, "the garbage caused an election");
}
