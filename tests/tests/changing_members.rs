//! Changing who votes, who learns, who is where and who leads, while everybody works.
#![forbid(unsafe_code)]

use serde_json::{json, Value};
use tests::cluster::{eventually, free_port, Cluster, PATIENCE};

/// The members page of a node.
fn roster(cluster: &Cluster, node: u64) -> Value {
    serde_json::from_slice(&cluster.http(node).must_get("/_/members")).expect("the page is JSON")
}

/// The members that `node` knows, with their roles.
fn roles(cluster: &Cluster, node: u64) -> Vec<(u64, String)> {
    let page = roster(cluster, node);
    let member =
        |member: &Value| (member["id"].as_u64().expect("an id"), member["role"].as_str().expect("a role").to_string());
    page["members"].as_array().expect("a list").iter().map(member).collect()
}

/// Waits until all of these nodes say the same.
fn wait_for_roles(cluster: &Cluster, nodes: &[u64], expected: &[(u64, &str)]) {
    for &node in nodes {
        eventually(&format!("node {node} knows {expected:?}"), PATIENCE, || {
            let found = roles(cluster, node);
            let found: Vec<(u64, &str)> = found.iter().map(|(id, role)| (*id, role.as_str())).collect();
            (found == expected).then_some(())
        });
    }
}

/// Sends a call that must be answered 204.
fn must(cluster: &Cluster, through: u64, path: &str, body: impl AsRef<[u8]>) {
    let answer = cluster.http(through).post(path, body);
    assert_eq!((answer.status, answer.text()), (204, String::new()), "POST {path}");
}

fn restart_everybody(cluster: &Cluster) {
    let running = cluster.running();
    cluster.kill_all();
    for &id in &running {
        cluster.node(id).start();
    }
    cluster.wait_for_leader();
}

#[test]
fn a_learner_catches_up_before_it_votes() {
    let mut cluster = Cluster::start(3);
    let leader = cluster.wait_for_leader();
    let follower = cluster.followers_of(leader)[0];
    for number in 0..50 {
        cluster.http(1).must_put(format!("/key-{number}"), "x");
    }
    let learner = cluster.prepare_joining_node();
    must(&cluster, follower, &format!("/{learner}?learner=true"), cluster.node(learner).peer_url());
    wait_for_roles(&cluster, &[1, 2, 3], &[(1, "voter"), (2, "voter"), (3, "voter"), (4, "learner")]);

    // It has not even been started. Whoever is asked, the leader says how far it is.
    for through in [leader, follower] {
        let answer = cluster.http(through).post(format!("/{learner}?promote=true"), "");
        assert_eq!(answer.status, 409, "{}", answer.text());
        assert!(answer.text().contains("learner 4 is not ready to vote: it has the log up to entry 0"));
    }

    cluster.node(learner).start_and_wait();
    eventually("the learner has what was written", PATIENCE, || {
        (cluster.http(learner).get("/key-49?read=local").status == 200).then_some(())
    });
    assert_eq!(cluster.http(learner).must_get("/key-0"), b"x", "a learner serves reads");
    cluster.http(learner).must_put("/by-the-learner", "and takes writes");
    // It does not vote: one of three voters may fail, and two of them may not, learner or no learner.
    eventually("it is promoted", PATIENCE, || {
        let answer = cluster.http(follower).post(format!("/{learner}?promote=true"), "");
        assert!(matches!(answer.status, 204 | 409), "{}: {}", answer.status, answer.text());
        (answer.status == 204).then_some(())
    });
    wait_for_roles(&cluster, &[1, 2, 3, 4], &[(1, "voter"), (2, "voter"), (3, "voter"), (4, "voter")]);
    let answer = cluster.http(leader).post(format!("/{learner}?promote=true"), "");
    assert_eq!(answer.status, 409, "it votes already: {}", answer.text());

    // And back.
    must(&cluster, leader, &format!("/{learner}?demote=true"), "");
    restart_everybody(&cluster);
    wait_for_roles(&cluster, &[1, 2, 3, 4], &[(1, "voter"), (2, "voter"), (3, "voter"), (4, "learner")]);
    // Two of the three voters have to agree, the learner is not asked.
    cluster.node(learner).kill();
    cluster.node(1).kill();
    cluster.wait_for_leader();
    cluster.http(2).must_put("/two-of-three", "x");
}

#[test]
fn a_removed_learner_ends_and_says_why() {
    let mut cluster = Cluster::start(1);
    let learner = cluster.prepare_joining_node();
    must(&cluster, 1, &format!("/{learner}?learner=true"), cluster.node(learner).peer_url());
    cluster.node(learner).start_and_wait();
    cluster.http(1).must_put("/k", "x");
    assert_eq!(cluster.http(learner).must_get("/k"), b"x");
    let answer = cluster.http(1).delete("/1");
    assert_eq!(answer.status, 409, "a learner cannot decide anything: {}", answer.text());
    assert_eq!(cluster.http(learner).delete(format!("/{learner}")).status, 204);
    let status = cluster.node(learner).wait_for_exit(PATIENCE);
    assert!(status.success(), "{status}");
    let lines = cluster.node(learner).process().stderr();
    assert!(lines.iter().any(|line| line.contains("was removed from the cluster")), "{lines:#?}");
}

#[test]
fn several_members_change_in_one_step_and_those_who_go_say_so() {
    let mut cluster = Cluster::start(3);
    let leader = cluster.wait_for_leader();
    let (stays, goes) = (cluster.followers_of(leader)[0], cluster.followers_of(leader)[1]);
    cluster.http(stays).must_put("/kept", "x");
    let (four, five) = (cluster.prepare_joining_node(), cluster.prepare_joining_node());
    // Both can be started before: they wait to be called.
    cluster.node(four).start_and_wait();
    cluster.node(five).start_and_wait();
    // The leader itself goes, too.
    let body = json!([
        {"id": four, "change": "add", "url": cluster.node(four).peer_url()},
        {"id": five, "change": "add-learner", "url": cluster.node(five).peer_url()},
        {"id": goes, "change": "remove"},
        {"id": leader, "change": "remove"},
    ]);
    must(&cluster, stays, "/_/members", body.to_string());
    let page = roster(&cluster, stays);
    assert_eq!(page["joint"], json!(false), "it is complete when it is answered: {page}");
    for id in [goes, leader] {
        assert!(cluster.node(id).wait_for_exit(PATIENCE).success());
        let lines = cluster.node(id).process().stderr();
        assert!(lines.iter().any(|line| line.contains("was removed from the cluster")), "{lines:#?}");
    }
    cluster.wait_for_leader();
    let expected = [(stays, "voter"), (four, "voter"), (five, "learner")];
    wait_for_roles(&cluster, &[stays, four, five], &expected);
    assert_eq!(cluster.http(five).must_get("/kept"), b"x");
    cluster.http(four).must_put("/after", "x");
    restart_everybody(&cluster);
    wait_for_roles(&cluster, &[stays, four, five], &expected);
    assert_eq!(cluster.http(five).must_get("/after"), b"x");
}

#[test]
fn a_change_of_several_members_that_makes_no_sense_is_refused_as_a_whole() {
    let cluster = Cluster::start(3);
    let before = roster(&cluster, 1)["members"].clone();
    let free = format!("http://127.0.0.1:{}", free_port());
    let post = |body: Value| {
        let answer = cluster.http(1).post("/_/members", body.to_string());
        (answer.status, answer.text())
    };
    for (body, status, says) in [
        (json!([]), 400, "nothing to change"),
        (json!({"id": 4}), 400, "JSON list"),
        (json!([{"id": 3, "change": "remove"}, {"id": 3, "change": "demote"}]), 400, "named twice"),
        (json!([{"id": 4, "change": "add"}]), 400, "url"),
        (json!([{"id": 4, "change": "add", "url": free}, {"id": 9, "change": "remove"}]), 404, "no member 9"),
        (json!([{"id": 4, "change": "add", "url": free}, {"id": 5, "change": "add", "url": free}]), 409, "at http"),
        (
            json!([{"id": 1, "change": "remove"}, {"id": 2, "change": "remove"}, {"id": 3, "change": "remove"}]),
            409,
            "last",
        ),
    ] {
        let (found, text) = post(body.clone());
        assert!(found == status && text.contains(says), "{body}: {found} {text}");
    }
    assert_eq!(roster(&cluster, 1)["members"], before);
    cluster.http(1).must_put("/well", "x");
}

#[test]
fn a_joint_configuration_that_cannot_be_left_is_shown_and_left_when_that_becomes_possible() {
    let mut cluster = Cluster::start(3);
    let (four, five, six) =
        (cluster.prepare_joining_node(), cluster.prepare_joining_node(), cluster.prepare_joining_node());
    // None of the new ones runs, so there is no majority of the new voters: the change begins and does not end.
    let url = |id: u64| cluster.node(id).peer_url();
    let body = json!([
        {"id": four, "change": "add", "url": url(four)},
        {"id": five, "change": "add", "url": url(five)},
        {"id": six, "change": "add", "url": url(six)},
        {"id": 3, "change": "remove"},
    ]);
    let leader = cluster.wait_for_leader();
    if leader == 3 {
        must(&cluster, 1, "/_/leader", "1");
    }
    let answer = cluster.http(1).post("/_/members", body.to_string());
    assert_eq!(answer.status, 504, "{}", answer.text());
    assert!(answer.text().contains("joint"), "{}", answer.text());
    let page = roster(&cluster, 1);
    assert_eq!(page["joint"], json!(true), "{page}");
    let expected =
        [(1, "voter"), (2, "voter"), (3, "outgoing"), (four, "incoming"), (five, "incoming"), (six, "incoming")];
    wait_for_roles(&cluster, &[1, 2, 3], &expected);
    assert_eq!(cluster.http(1).delete("/2").status, 503, "one change at a time");
    for id in [four, five, six] {
        cluster.node(id).start_and_wait();
    }
    assert!(cluster.node(3).wait_for_exit(PATIENCE).success());
    let voters = [1, 2, four, five, six].map(|id| (id, "voter"));
    wait_for_roles(&cluster, &[1, 2, four, five, six], &voters);
    cluster.http(six).must_put("/done", "x");
}

#[test]
fn a_member_moves_to_another_address_and_stays_reachable_for_everybody() {
    let cluster = Cluster::start(3);
    let leader = cluster.wait_for_leader();
    let moves = cluster.followers_of(leader)[0];
    cluster.http(leader).must_put("/before", "x");
    let answer = cluster.http(leader).post(format!("/{moves}?move=true"), cluster.node(leader).peer_url());
    assert_eq!(answer.status, 409, "somebody listens there: {}", answer.text());

    // Tell the cluster, then start it there. The command lines of the others still say the old address.
    let port = free_port();
    let url = format!("http://127.0.0.1:{port}");
    must(&cluster, leader, &format!("/{moves}?move=true"), &url);
    cluster.node(moves).kill();
    let old_url = cluster.node(moves).peer_url();
    cluster.node(moves).start_with_arguments(|argument| argument.replace(&old_url, &url));
    cluster.node(moves).wait_until_it_serves();
    cluster.http(leader).must_put("/after", "x");
    assert_eq!(cluster.http(moves).must_get("/after"), b"x");
    for id in 1..=3 {
        let page = roster(&cluster, id);
        let found = page["members"].as_array().and_then(|all| all.iter().find(|member| member["id"] == moves));
        assert_eq!(found.map(|member| &member["url"]), Some(&json!(url)), "{page}");
    }
    // The others restart with their old command lines and reach it all the same: it can be needed, and it can lead.
    for id in [1, 2, 3].into_iter().filter(|&id| id != moves) {
        cluster.node(id).kill();
        cluster.node(id).start();
    }
    cluster.wait_for_leader();
    must(&cluster, leader, "/_/leader", moves.to_string());
    assert_eq!(cluster.wait_for_leader(), moves);
    cluster.http(leader).must_put("/led-by-it", "x");
}

#[test]
fn leadership_goes_where_it_is_asked_to_from_any_node() {
    let mut cluster = Cluster::start(3);
    for (through, to) in [(1, 1), (1, 2), (1, 3), (2, 1), (3, 3), (3, 3)] {
        must(&cluster, through, "/_/leader", to.to_string());
        assert_eq!(cluster.node(through).status().expect("a status").leader, to);
        cluster.wait_for_leader();
    }
    let learner = cluster.prepare_joining_node();
    must(&cluster, 1, &format!("/{learner}?learner=true"), cluster.node(learner).peer_url());
    for (body, status) in [("4", 409), ("9", 404), ("", 400), ("node 1", 400)] {
        let answer = cluster.http(1).post("/_/leader", body);
        assert_eq!(answer.status, status, "{body:?}: {}", answer.text());
    }
    // A dead node cannot take over. That takes an election timeout to find out, then everything goes on as it was.
    cluster.node(2).kill();
    let answer = cluster.http(1).post("/_/leader", "2");
    assert_eq!(answer.status, 504, "{}", answer.text());
    assert_eq!(cluster.wait_for_leader(), 3);
    cluster.http(1).must_put("/still", "x");
}

/// A follower's clients do not notice that the leader takes nothing for a while: what it has not taken comes back.
#[test]
fn no_write_gets_lost_while_leadership_goes_round() {
    let cluster = Cluster::start(3);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (1..=3)
            .map(|id| {
                let http = cluster.http(id);
                scope.spawn(move || {
                    (0..150).map(|number| http.put(format!("/w{id}-{number}"), "x").status).collect::<Vec<_>>()
                })
            })
            .collect();
        for round in 0..6_u64 {
            let answer = cluster.http(round % 3 + 1).post("/_/leader", (round % 2 + 1).to_string());
            assert!(matches!(answer.status, 204 | 503 | 504), "{}: {}", answer.status, answer.text());
        }
        for writer in writers {
            let statuses = writer.join().expect("the writer ends");
            // A forwarded write can be on its way to a leader that has just gone: nobody knows then. That it was dropped
            // is known.
            assert!(statuses.iter().all(|status| matches!(status, 204 | 504)), "{statuses:?}");
            assert!(statuses.iter().filter(|status| **status == 204).count() > 100, "{statuses:?}");
        }
    });
}
