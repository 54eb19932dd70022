//! What a node says when it cannot do what it was asked: never "done", never nothing.
//!
//! The original acknowledged the first write on a lone node and let every later one hang for ever; and a leader that
//! had lost its followers went on acknowledging writes that the next leader knew nothing of.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use tests::cluster::{eventually, Cluster, Http, Response, PATIENCE};

/// "Within a few seconds": the longest that an answer may take.
const A_FEW_SECONDS: Duration = Duration::from_secs(8);

/// Asks, and checks that the answer is an honest refusal that came in time.
fn refused(http: &Http, method: &str, path: &str, body: &[u8]) -> Response {
    let started = Instant::now();
    let answer = http.request(method, path, body);
    let took = started.elapsed();
    assert!(took < A_FEW_SECONDS, "{method} {path} took {took:?}");
    assert!(matches!(answer.status, 503 | 504), "{method} {path}: {} {}", answer.status, answer.text());
    assert!(!answer.body.is_empty(), "{method} {path}: {} without a word of explanation", answer.status);
    if answer.status == 503 {
        let retry_after = answer.header("retry-after").unwrap_or_else(|| panic!("{method} {path}: no Retry-After"));
        assert!(retry_after.parse::<u32>().is_ok_and(|seconds| seconds >= 1), "Retry-After: {retry_after}");
    }
    answer
}

/// Everything that needs a quorum is refused with 503 once the node knows that it has no leader.
fn refuses_everything_that_needs_a_quorum(http: &Http) {
    // At first it may still take itself for the leader, or trust one that is gone: then the outcome is open (504).
    eventually("the node knows that it has no leader", PATIENCE, || {
        (refused(http, "PUT", "/lonely", b"x").status == 503).then_some(())
    });
    for round in 0..2 {
        assert_eq!(refused(http, "PUT", "/lonely", b"x").status, 503, "PUT in round {round}");
        assert_eq!(refused(http, "GET", "/before", b"").status, 503, "GET in round {round}");
        assert_eq!(refused(http, "DELETE", "/before", b"").status, 503, "DELETE in round {round}");
        assert_eq!(refused(http, "POST", "/4", b"http://127.0.0.1:1").status, 503, "POST in round {round}");
        assert_eq!(refused(http, "DELETE", "/1", b"").status, 503, "DELETE of a member in round {round}");
    }
    // What needs no quorum is still there.
    assert_eq!(http.must_get("/before?read=local"), b"acknowledged");
}

#[test]
fn a_leader_that_is_alone_answers_503_and_serves_again_when_a_peer_is_back() {
    let cluster = Cluster::start(3);
    let leader = cluster.wait_for_leader();
    let followers = cluster.followers_of(leader);
    cluster.http(leader).must_put("/before", "acknowledged");
    for &follower in &followers {
        cluster.node(follower).kill();
    }
    refuses_everything_that_needs_a_quorum(&cluster.http(leader));

    cluster.node(followers[0]).start();
    cluster.wait_for_leader();
    cluster.http(followers[0]).must_put("/after", "again");
    assert_eq!(cluster.http(leader).must_get("/after"), b"again");
    assert_eq!(cluster.http(leader).must_get("/before"), b"acknowledged");
}

#[test]
fn a_follower_that_is_alone_answers_503_and_its_local_reads_go_on() {
    let cluster = Cluster::start(3);
    let leader = cluster.wait_for_leader();
    let followers = cluster.followers_of(leader);
    let survivor = followers[0];
    cluster.http(survivor).must_put("/before", "acknowledged");
    cluster.node(followers[1]).kill();
    cluster.node(leader).kill();
    refuses_everything_that_needs_a_quorum(&cluster.http(survivor));
}

#[test]
fn a_node_that_is_started_alone_serves_its_status_and_answers_503() {
    let cluster = Cluster::prepare(3, &[]);
    cluster.node(1).start_and_wait();
    let http = cluster.http(1);
    assert_eq!(refused(&http, "PUT", "/first", b"x").status, 503);
    assert_eq!(refused(&http, "GET", "/first", b"").status, 503);
    assert_eq!(http.get("/first?read=local").status, 404);
}

/// The facts' "leader cut off": the old leader gets no answers, a new one is elected, the old one comes back.
#[test]
fn a_leader_that_is_cut_off_acknowledges_nothing_that_the_next_leader_does_not_know() {
    let cluster = Cluster::start(3);
    let old_leader = cluster.wait_for_leader();
    let followers = cluster.followers_of(old_leader);
    cluster.http(old_leader).must_put("/key", "before the cut");
    // Killed and not paused: a paused process would find the cut-off messages in its sockets when it goes on.
    for &follower in &followers {
        cluster.node(follower).kill();
    }
    // Written to its own log at most: no acknowledgement, whichever way it says so.
    refused(&cluster.http(old_leader), "PUT", "/key", b"during the cut");
    refused(&cluster.http(old_leader), "PUT", "/cut", b"during the cut");
    refused(&cluster.http(old_leader), "GET", "/key", b"");

    // Now it is the old leader that hears nothing, while the others go on.
    cluster.node(old_leader).pause();
    for &follower in &followers {
        cluster.node(follower).start();
    }
    let new_leader = cluster.wait_for_leader_among(&followers);
    assert_ne!(new_leader, old_leader);
    cluster.http(new_leader).must_put("/key", "after the cut");

    cluster.node(old_leader).resume();
    // It was without followers for so long that it may refuse, until it has heard of the new leader.
    let answer = eventually("an answer of the deposed leader", PATIENCE, || {
        Some(cluster.http(old_leader).get("/key")).filter(|answer| answer.status != 503)
    });
    assert_eq!(answer.text(), "after the cut", "a deposed leader reads no stale value");
    for id in 1..=3 {
        let answer = cluster.http(id).get("/cut");
        assert_eq!(answer.status, 404, "node {id}: {}", answer.text());
    }
}

/// What stands in the leader's own log may still be committed by those who come later: "nothing was done" would be a lie.
#[test]
fn a_write_that_the_leader_took_and_could_not_commit_is_answered_504() {
    let cluster = Cluster::start(3);
    for attempt in 0..5 {
        let leader = cluster.wait_for_leader();
        let followers = cluster.followers_of(leader);
        for &follower in &followers {
            cluster.node(follower).pause();
        }
        // It notices only after an election timeout that nobody answers. Until then it takes writes.
        let value = format!("a value that is written in attempt {attempt}.");
        let answer = refused(&cluster.http(leader), "PUT", "/open", value.as_bytes());
        let taken = cluster.node(leader).files_with_extension("wal").iter().any(|(path, _)| {
            let log = std::fs::read(path).expect("a log file can be read");
            log.windows(value.len()).any(|window| window == value.as_bytes())
        });
        if taken {
            assert_eq!(answer.status, 504, "{}", answer.text());
        } else {
            assert_eq!(answer.status, 503, "{}", answer.text());
        }
        for &follower in &followers {
            cluster.node(follower).resume();
        }
        cluster.wait_for_leader();
        if taken {
            // Nobody knows which, but all nodes say the same.
            let found: Vec<_> = (1..=3).map(|id| cluster.http(id).get("/open")).map(|a| (a.status, a.body)).collect();
            assert!(found.windows(2).all(|pair| pair[0] == pair[1]), "{found:?}");
            return;
        }
        // This machine was so busy that the leader had stepped down before the write came.
    }
    panic!("no leader took a write after its followers were paused");
}

/// Two of five may be gone and nothing is refused.
#[test]
fn five_nodes_go_on_without_two_of_them() {
    let cluster = Cluster::start(5);
    let leader = cluster.wait_for_leader();
    cluster.http(leader).must_put("/five", "all");
    cluster.node(leader).kill();
    let second = cluster.wait_for_leader();
    cluster.node(second).kill();
    cluster.wait_for_leader();
    let survivors = cluster.running();
    cluster.http(survivors[0]).must_put("/five", "three");
    assert_eq!(cluster.http(survivors[2]).must_get("/five"), b"three");
}
