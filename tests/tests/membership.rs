//! Adding and removing nodes over HTTP, and every way in which that can be asked for wrongly.
//!
//! In the original a wrong id or a wrong URL was answered 204, crashed every node, and crashed them again at every
//! restart, because the entry stayed in the log.
#![forbid(unsafe_code)]

use tests::cluster::{eventually, Cluster, SharedCluster, PATIENCE};

/// For tests whose requests are all refused, so that the membership stays as it is.
static UNCHANGED: SharedCluster = SharedCluster::of(3);

/// Ids of the members that `node` knows.
fn members(cluster: &Cluster, node: u64) -> Vec<u64> {
    let status = cluster.node(node).status().expect("a status");
    let mut ids: Vec<u64> = status.page["members"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|member| member["id"].as_u64().expect("an id"))
        .collect();
    ids.sort_unstable();
    ids
}

/// Waits until `node` knows these members and no others.
fn wait_for_members(cluster: &Cluster, node: u64, expected: &[u64]) {
    eventually(&format!("node {node} knows the members {expected:?}"), PATIENCE, || {
        (members(cluster, node) == expected).then_some(())
    });
}

/// Nobody died, nobody restarted, and writes go on.
fn everybody_is_well(cluster: &Cluster) {
    assert_eq!(cluster.running().len(), cluster.nodes().len());
    cluster.http(1).must_put("/well", "x");
    for node in cluster.nodes() {
        assert_eq!(node.http().must_get("/well"), b"x");
        assert_eq!(members(cluster, node.id), (1..=cluster.nodes().len() as u64).collect::<Vec<_>>());
    }
}

fn add(cluster: &mut Cluster, through: u64) -> u64 {
    let id = cluster.prepare_joining_node();
    let url = cluster.node(id).peer_url();
    let answer = cluster.http(through).post(format!("/{id}"), url);
    assert_eq!((answer.status, answer.text()), (204, String::new()));
    id
}

/// The original panicked "no peers given" on `--join`.
#[test]
fn a_fourth_node_joins_at_its_first_start_and_has_everything() {
    let mut cluster = Cluster::start(3);
    cluster.http(1).must_put("/old", "written before it came");
    let follower = cluster.followers_of(cluster.wait_for_leader())[0];
    let fourth = add(&mut cluster, follower);
    assert_eq!(fourth, 4);
    cluster.node(fourth).start_and_wait();
    cluster.wait_for_leader();
    assert_eq!(cluster.http(fourth).must_get("/old"), b"written before it came");
    cluster.http(fourth).must_put("/new", "written by it");
    assert_eq!(cluster.http(2).must_get("/new"), b"written by it");
    for id in 1..=4 {
        wait_for_members(&cluster, id, &[1, 2, 3, 4]);
    }

    // It counts: with one old node dead, it is needed for the quorum of three.
    cluster.node(1).kill();
    cluster.wait_for_leader();
    cluster.http(2).must_put("/three-of-four", "x");
    assert_eq!(cluster.http(fourth).must_get("/three-of-four"), b"x");

    // The membership is in the log and not on the command lines: all of them know each other after a restart.
    cluster.kill_all();
    for node in cluster.nodes() {
        node.start();
    }
    cluster.wait_for_leader();
    for id in 1..=4 {
        assert_eq!(cluster.http(id).must_get("/three-of-four"), b"x");
        wait_for_members(&cluster, id, &[1, 2, 3, 4]);
    }
}

#[test]
fn a_removed_node_exits_and_says_why_and_says_so_again_when_it_is_started() {
    let cluster = Cluster::start(3);
    let leader = cluster.wait_for_leader();
    let gone = cluster.followers_of(leader)[1];
    let stays = cluster.followers_of(leader)[0];
    cluster.http(leader).must_put("/kept", "x");
    let answer = cluster.http(leader).delete(format!("/{gone}"));
    assert_eq!((answer.status, answer.text()), (204, String::new()));
    cluster.node(gone).wait_for_exit(PATIENCE);
    let lines = cluster.node(gone).process().lines();
    assert!(lines.iter().any(|line| line.contains("removed")), "no word of the removal: {lines:#?}");
    assert!(!lines.iter().any(|line| line.contains("panicked")), "{lines:#?}");
    for id in [leader, stays] {
        let mut expected = vec![leader, stays];
        expected.sort_unstable();
        wait_for_members(&cluster, id, &expected);
    }
    cluster.http(stays).must_put("/two", "x");

    // Two of two are needed now, so a write proves that the removed one is not counted and not asked.
    cluster.node(gone).start();
    cluster.node(gone).wait_for_exit(PATIENCE);
    let lines = cluster.node(gone).process().lines();
    assert!(lines.iter().any(|line| line.contains("removed")), "no word of the removal: {lines:#?}");
    cluster.http(leader).must_put("/two", "y");
    assert_eq!(cluster.http(stays).must_get("/kept"), b"x");
}

#[test]
fn an_id_that_was_removed_can_be_added_again_with_an_empty_folder() {
    let mut cluster = Cluster::start(3);
    cluster.http(1).must_put("/kept", "x");
    let fourth = add(&mut cluster, 1);
    cluster.node(fourth).start_and_wait();
    assert_eq!(cluster.http(fourth).must_get("/kept"), b"x");
    assert_eq!(cluster.http(2).delete(format!("/{fourth}")).status, 204);
    cluster.node(fourth).wait_for_exit(PATIENCE);
    std::fs::remove_dir_all(cluster.node(fourth).data_dir()).expect("the folder can be removed");
    assert_eq!(cluster.http(3).post(format!("/{fourth}"), cluster.node(fourth).peer_url()).status, 204);
    cluster.node(fourth).start_and_wait();
    cluster.wait_for_leader();
    assert_eq!(cluster.http(fourth).must_get("/kept"), b"x");

    // It stays when there is no leader for a while, which is when word of its removal would count.
    let leader = cluster.wait_for_leader();
    cluster.node(leader).kill();
    cluster.wait_for_leader();
    cluster.http(fourth).must_put("/kept", "y");
    assert!(cluster.node(fourth).is_running());
}

#[test]
fn a_change_is_judged_by_every_node_with_the_changes_before_it_in_mind() {
    let cluster = Cluster::start(3);
    let leader = cluster.wait_for_leader();
    let url = format!("http://127.0.0.1:{}", tests::cluster::free_port());
    let other = format!("http://127.0.0.1:{}", tests::cluster::free_port());
    for round in 0..20 {
        let through = cluster.followers_of(leader)[round % 2];
        assert_eq!(cluster.http(leader).post("/9", &url).status, 204);
        assert_eq!(cluster.http(through).post("/9", &other).status, 409, "round {round}");
        let answer = cluster.http(through).delete("/9");
        assert_eq!(answer.status, 204, "round {round}: {}", answer.text());
        assert_eq!(cluster.http(leader).delete("/9").status, 404, "round {round}");
    }
}

#[test]
fn the_leader_can_be_removed_and_the_others_elect_another() {
    let cluster = Cluster::start(3);
    let leader = cluster.wait_for_leader();
    let through = cluster.followers_of(leader)[0];
    assert_eq!(cluster.http(through).delete(format!("/{leader}")).status, 204);
    cluster.node(leader).wait_for_exit(PATIENCE);
    let next = cluster.wait_for_leader();
    assert_ne!(next, leader);
    cluster.http(through).must_put("/after", "x");
    assert_eq!(cluster.http(next).must_get("/after"), b"x");
}

/// The one that is left has to know that it is alone, or it waits for the other one's vote.
#[test]
fn of_two_nodes_the_leader_can_be_removed_and_the_other_one_killed_right_after_the_answer() {
    let cluster = Cluster::start(2);
    cluster.http(1).must_put("/kept", "x");
    let leader = cluster.wait_for_leader();
    let stays = cluster.followers_of(leader)[0];
    let answer = cluster.http(leader).delete(format!("/{leader}"));
    assert_eq!((answer.status, answer.text()), (204, String::new()));
    cluster.node(stays).kill();
    cluster.node(leader).wait_for_exit(PATIENCE);
    cluster.node(stays).start_and_wait();
    assert_eq!(cluster.wait_for_leader(), stays);
    assert_eq!(cluster.http(stays).must_get("/kept"), b"x");
}

#[test]
fn a_dead_node_is_replaced_by_a_new_one() {
    let mut cluster = Cluster::start(3);
    let leader = cluster.wait_for_leader();
    let dead = cluster.followers_of(leader)[0];
    cluster.http(leader).must_put("/kept", "x");
    cluster.node(dead).kill();
    assert_eq!(cluster.http(leader).delete(format!("/{dead}")).status, 204);
    let new = add(&mut cluster, leader);
    cluster.node(new).start_and_wait();
    cluster.wait_for_leader();
    assert_eq!(cluster.http(new).must_get("/kept"), b"x");
    assert!(!members(&cluster, new).contains(&dead));
}

/// In etcd this is the crash "tocommit is out of range", on every start. Here the node says what to do, and it works.
#[test]
fn a_node_whose_data_was_deleted_stops_with_advice_that_helps() {
    let mut cluster = Cluster::start(3);
    let leader = cluster.wait_for_leader();
    let wiped = cluster.followers_of(leader)[0];
    for number in 0..20 {
        cluster.http(wiped).must_put(format!("/key-{number}"), "x");
    }
    cluster.node(wiped).kill();
    std::fs::remove_dir_all(cluster.node(wiped).data_dir()).expect("the folder can be removed");
    cluster.node(wiped).start();
    assert!(!cluster.node(wiped).wait_for_exit(PATIENCE).success());
    let stderr = cluster.node(wiped).process().stderr();
    let told = stderr.last().expect("it says why");
    assert!(told.starts_with("raftexample: ") && told.contains("its data was lost"), "{told}");
    assert!(told.contains("remove it") && told.contains("add it again under a new id"), "{told}");

    assert_eq!(cluster.http(leader).delete(format!("/{wiped}")).status, 204);
    let new = add(&mut cluster, leader);
    cluster.node(new).start_and_wait();
    cluster.wait_for_leader();
    assert_eq!(cluster.http(new).must_get("/key-19"), b"x");
}

#[test]
fn the_only_member_cannot_be_removed() {
    let cluster = Cluster::start(1);
    let answer = cluster.http(1).delete("/1");
    assert_eq!(answer.status, 409, "{}", answer.text());
    cluster.http(1).must_put("/still", "here");
}

/// The original answered 204 and panicked on every node, at once and at every restart.
#[test]
fn removal_of_an_unknown_id_is_refused_and_nobody_dies_now_or_at_a_restart() {
    let cluster = Cluster::start(3);
    for id in 1..=3 {
        let answer = cluster.http(id).delete("/9");
        assert_eq!(answer.status, 404, "{}", answer.text());
        assert!(answer.text().contains('9'), "the answer names the id: {}", answer.text());
    }
    everybody_is_well(&cluster);
    cluster.kill_all();
    for node in cluster.nodes() {
        node.start();
    }
    cluster.wait_for_leader();
    everybody_is_well(&cluster);
}

/// The original answered 204, and every node died of `failed NewURLs`.
#[test]
fn an_addition_with_a_bad_url_is_refused_and_nothing_is_proposed() {
    // Not the shared cluster: nobody else may write here.
    let cluster = Cluster::start(3);
    let leader = cluster.wait_for_leader();
    let before = cluster.node(leader).status().expect("a status").commit;
    for url in [
        "",
        "nonsense",
        "http://",
        "127.0.0.1:1",
        "ftp://127.0.0.1:1",
        "http://127.0.0.1:99999",
        "http://127.0.0.1:1/path",
        "http://a b:1",
    ] {
        let answer = cluster.http(leader).post("/4", url);
        assert_eq!(answer.status, 400, "{url:?}: {}", answer.text());
        assert!(!answer.body.is_empty());
    }
    let answer = cluster.http(leader).post("/4", b"http://\xff\xfe:1");
    assert_eq!(answer.status, 400, "a URL that is not text");
    assert_eq!(cluster.node(leader).status().expect("a status").commit, before, "something was proposed");
    everybody_is_well(&cluster);
}

#[test]
fn an_addition_with_a_bad_id_is_refused() {
    let cluster = UNCHANGED.get();
    for path in ["/0", "/010", "/0x20", "/abc", "/-4", "/4.5", "/99999999999999999999999", "/", "/4/4"] {
        let answer = cluster.http(1).post(path, "http://127.0.0.1:1");
        assert_eq!(answer.status, 400, "{path}: {}", answer.text());
    }
    everybody_is_well(&cluster);
}

#[test]
fn an_addition_of_a_known_id_or_of_a_known_address_is_a_conflict() {
    let cluster = UNCHANGED.get();
    let answer = cluster.http(1).post("/2", "http://127.0.0.1:1");
    assert_eq!(answer.status, 409, "{}", answer.text());
    let answer = cluster.http(1).post("/4", cluster.node(2).peer_url());
    assert_eq!(answer.status, 409, "{}", answer.text());
    everybody_is_well(&cluster);
}

/// Raft takes one change at a time. Whoever has to wait, or is refused, is told the truth about it.
#[test]
fn changes_asked_for_at_once_are_each_answered_truly() {
    let cluster = Cluster::start(3);
    // Nobody listens there: with both added, the three living nodes of five are still a quorum.
    let answers: Vec<(u64, u16)> = std::thread::scope(|scope| {
        let requests: Vec<_> = (10..12)
            .map(|id| {
                let http = cluster.http(id % 3 + 1);
                let url = format!("http://127.0.0.1:{}", tests::cluster::free_port());
                scope.spawn(move || (id, http.post(format!("/{id}"), url).status))
            })
            .collect();
        requests.into_iter().map(|request| request.join().expect("an answer")).collect()
    });
    assert!(answers.iter().any(|(_, status)| *status == 204), "{answers:?}");
    assert!(answers.iter().all(|(_, status)| matches!(status, 204 | 503 | 504)), "{answers:?}");
    // All nodes agree in the end, on what was acknowledged at least, and on nothing that was refused.
    let agreed = eventually("all nodes know the same members", PATIENCE, || {
        let views: Vec<Vec<u64>> = (1..=3).map(|node| members(&cluster, node)).collect();
        views.windows(2).all(|pair| pair[0] == pair[1]).then(|| views[0].clone())
    });
    for (id, status) in &answers {
        assert!(*status != 204 || agreed.contains(id), "{id} was acknowledged: {agreed:?}");
        assert!(*status != 503 || !agreed.contains(id), "{id} was refused: {agreed:?}");
    }
}
