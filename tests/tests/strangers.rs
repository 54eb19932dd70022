//! Nodes that are not who they seem to be: started on other data, on none, twice, or without `--join`. Each is refused
//! before it does harm, says why, and says what to do.
#![forbid(unsafe_code)]

use std::path::Path;

use tests::cluster::{eventually, free_port, raftexample, Cluster, Process, PATIENCE};

/// The one line with which a process ends that cannot go on.
fn last_words(process: &Process) -> String {
    let status = process.wait_for_exit(PATIENCE);
    assert_eq!(status.code(), Some(1), "{status}");
    let lines = process.stderr();
    let last = lines.last().expect("it says why").clone();
    assert!(last.starts_with("raftexample: "), "{lines:#?}");
    last
}

fn remove(folder: &Path) {
    std::fs::remove_dir_all(folder).expect("the folder can be removed");
}

/// What is in this node's log says that somebody and it do not belong together.
fn noticed(cluster: &Cluster, node: u64) -> bool {
    cluster.node(node).process().lines().iter().any(|line| line.contains("do not belong together"))
}

/// The reason for all of this: with its data, a member loses what it had promised. Of three, one has never heard of a
/// write, and the other two have acknowledged it; when one of these two comes back with nothing, it must not make up a
/// majority with the first.
#[test]
fn a_wiped_member_cannot_help_to_forget_what_it_had_acknowledged() {
    let cluster = Cluster::start(3);
    let leader = cluster.wait_for_leader();
    let (wiped, behind) = (cluster.followers_of(leader)[0], cluster.followers_of(leader)[1]);
    cluster.node(behind).pause();
    cluster.http(leader).must_put("/acknowledged", "by two of three");
    cluster.node(leader).kill();
    cluster.node(wiped).kill();
    remove(cluster.node(wiped).data_dir());
    cluster.node(behind).resume();
    cluster.node(wiped).start_and_wait();

    // Both campaign, and neither gets the other's vote. A client is told so after three election timeouts.
    let answer = cluster.http(behind).put("/forgotten", "by two of three");
    assert_eq!(answer.status, 503, "{}", answer.text());
    eventually("both have noticed", PATIENCE, || (noticed(&cluster, behind) && noticed(&cluster, wiped)).then_some(()));
    assert_eq!(cluster.node(wiped).status().expect("a status").leader, 0);

    cluster.node(leader).start();
    let told = last_words(&cluster.node(wiped).process());
    assert!(told.contains("its data was lost") && told.contains("add it again under a new id"), "{told}");
    cluster.wait_for_leader();
    assert_eq!(cluster.http(behind).must_get("/acknowledged"), b"by two of three");
    cluster.http(behind).must_put("/later", "x");
}

#[test]
fn a_node_on_the_data_of_another_cluster_is_refused_and_changes_nothing() {
    let (ours, theirs) = (Cluster::start(3), Cluster::start(3));
    for number in 0..20 {
        theirs.http(1).must_put("/whose", format!("theirs, {number}"));
    }
    ours.http(1).must_put("/whose", "ours");
    theirs.kill_all();
    ours.node(3).kill();
    let own = ours.node(3).data_dir().display().to_string();
    let other = theirs.node(3).data_dir().display().to_string();
    // Its log is longer, of another term perhaps, and its ids fit.
    ours.node(3).start_with_arguments(|argument| argument.replace(&own, &other));
    let told = last_words(&ours.node(3).process());
    assert!(told.contains("belongs to another cluster") && told.contains("--join"), "{told}");
    for id in [1, 2] {
        eventually("the others say so, too", PATIENCE, || noticed(&ours, id).then_some(()));
        assert_eq!(ours.http(id).must_get("/whose"), b"ours");
    }
    ours.node(3).start_and_wait();
    ours.wait_for_leader();
    assert_eq!(ours.http(3).must_get("/whose"), b"ours");
}

/// More of them than of us: a majority of strangers is no majority.
#[test]
fn two_nodes_on_the_data_of_another_cluster_find_each_other_and_not_the_third() {
    let (ours, theirs) = (Cluster::start(3), Cluster::start(3));
    ours.http(1).must_put("/whose", "ours");
    theirs.http(1).must_put("/whose", "theirs");
    theirs.kill_all();
    for id in [2, 3] {
        let own = ours.node(id).data_dir().display().to_string();
        let other = theirs.node(id).data_dir().display().to_string();
        ours.node(id).kill();
        ours.node(id).start_with_arguments(|argument| argument.replace(&own, &other));
    }
    // Two of theirs are a majority of theirs, and go on with what is theirs. The one of ours is refused by both.
    let told = last_words(&ours.node(1).process());
    assert!(told.contains("belongs to another cluster"), "{told}");
    ours.wait_for_leader();
    assert_eq!(ours.http(2).must_get("/whose"), b"theirs");
    for id in [2, 3] {
        ours.node(id).kill();
        ours.node(id).start();
    }
    ours.node(1).start();
    ours.wait_for_leader();
    assert_eq!(ours.http(2).must_get("/whose"), b"ours", "it was never touched");
}

/// A founder that has never had a leader knows no number of its cluster. Foreign nodes at its peers' addresses have one,
/// and a leader who takes it for a member that they know.
#[test]
fn foreign_nodes_do_not_take_over_a_node_that_has_had_no_leader_yet() {
    let theirs = Cluster::start(3);
    theirs.http(1).must_put("/whose", "theirs");
    theirs.wait_until_all_are_known();
    theirs.kill_all();
    let ours = Cluster::prepare(3, &[]);
    for id in [2, 3] {
        let own = ours.node(id).data_dir().display().to_string();
        let other = theirs.node(id).data_dir().display().to_string();
        ours.node(id).start_with_arguments(|argument| argument.replace(&own, &other));
    }
    ours.node(1).start();
    let told = last_words(&ours.node(1).process());
    assert!(told.contains("node 1") && told.contains("data was lost"), "{told}");
    // They have made nothing of it theirs: with its own peers it becomes a cluster, which knows nothing of their data.
    for id in [2, 3] {
        ours.node(id).kill();
        ours.node(id).start();
    }
    ours.node(1).start();
    ours.wait_for_leader();
    assert_eq!(ours.http(1).get("/whose").status, 404);
    ours.http(1).must_put("/whose", "ours");
    assert_eq!(ours.http(3).must_get("/whose"), b"ours");
}

#[test]
fn a_second_process_with_an_id_that_is_in_use_is_refused_and_disturbs_nobody() {
    let cluster = Cluster::start(3);
    cluster.http(1).must_put("/k", "x");
    let term = cluster.node(2).status().expect("a status").term;
    let (url, port) = (cluster.node(2).peer_url(), cluster.node(2).client_port.to_string());
    let folder = cluster.node(2).data_dir().display().to_string();
    let (other_url, other_port) = (format!("http://127.0.0.1:{}", free_port()), free_port().to_string());
    let arguments: Vec<String> = cluster
        .node(2)
        .arguments()
        .iter()
        .map(|argument| match argument {
            argument if *argument == port => other_port.clone(),
            argument if *argument == folder => format!("{folder}-again"),
            argument => argument.replace(&url, &other_url),
        })
        .collect();
    let second = Process::start("the second node 2", raftexample(), &arguments, cluster.folder());
    let told = last_words(&second);
    assert!(told.contains("node 2") && told.contains("a second process was started with its id"), "{told}");
    cluster.http(2).must_put("/k", "y");
    let status = cluster.node(2).status().expect("a status");
    assert_eq!(status.term, term, "nobody was elected because of it");
}

#[test]
fn a_forgotten_join_is_explained_and_the_next_start_is_a_good_one() {
    let mut cluster = Cluster::start(3);
    cluster.http(1).must_put("/kept", "x");
    let new = cluster.prepare_joining_node();
    assert_eq!(cluster.http(1).post(format!("/{new}"), cluster.node(new).peer_url()).status, 204);
    cluster.node(new).start_with_arguments(|argument| argument.replace("--join", "--snapshot-count=10000"));
    let told = last_words(&cluster.node(new).process());
    assert!(told.contains("instead of joining") && told.contains("with an empty data directory"), "{told}");
    remove(cluster.node(new).data_dir());
    cluster.node(new).start_and_wait();
    cluster.wait_for_leader();
    assert_eq!(cluster.http(new).must_get("/kept"), b"x");
    cluster.wait_until_all_are_known();
}

#[test]
fn a_cluster_whose_directories_have_no_numbers_yet_gets_them() {
    let cluster = Cluster::start(3);
    cluster.http(1).must_put("/kept", "x");
    cluster.kill_all();
    // As if node 2 had been written by an older version; its number in the address book is the one that it had.
    let number = cluster.node(2).data_dir().join("number");
    let kept = std::fs::read_to_string(&number).expect("the file is there");
    for node in cluster.nodes() {
        node.start();
    }
    cluster.wait_for_leader();
    cluster.wait_until_all_are_known();
    assert_eq!(std::fs::read_to_string(&number).expect("the file is there"), kept, "a number is drawn once");
    assert_eq!(cluster.http(2).must_get("/kept"), b"x");
}
