//! The script of the original program's README, step by step, with the curl lines as they stood there.
#![forbid(unsafe_code)]

use std::process::Command;

use tests::cluster::{eventually, Cluster, Signal, PATIENCE, VALUE_MAX_BYTES};

/// Runs `curl -L` with these arguments; returns the status code and what it printed.
fn curl(arguments: &[&str]) -> (u16, String) {
    let output = Command::new("curl")
        .args(["-L", "--silent", "--show-error", "--max-time", "20", "--write-out", "\n%{http_code}"])
        .args(arguments)
        .output()
        .expect("curl is installed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "curl {arguments:?}: {text} {}", String::from_utf8_lossy(&output.stderr));
    let (body, code) = text.rsplit_once('\n').expect("curl prints the code in a line of its own");
    (code.parse().expect("a status code"), body.to_string())
}

fn url(cluster: &Cluster, node: u64, path: &str) -> String {
    format!("http://127.0.0.1:{}/{path}", cluster.node(node).client_port)
}

#[test]
fn a_single_node_stores_and_retrieves() {
    let cluster = Cluster::start(1);
    let my_key = url(&cluster, 1, "my-key");
    assert_eq!(curl(&[&my_key, "-XPUT", "-d", "hello"]), (204, String::new()));
    assert_eq!(curl(&[&my_key]), (200, "hello".to_string()));
}

#[test]
fn the_cluster_tolerates_a_fault_grows_and_shrinks() {
    let mut cluster = Cluster::start(3);
    let my_key = |cluster: &Cluster, node| url(cluster, node, "my-key");

    // "Running a local cluster": a key written at one node is read at another.
    assert_eq!(curl(&[&my_key(&cluster, 1), "-XPUT", "-d", "hello"]).0, 204);
    assert_eq!(curl(&[&my_key(&cluster, 2)]), (200, "hello".to_string()));

    // "Fault tolerance": take down a node, overwrite the value, read it at the third; bring the node back, read it there.
    assert_eq!(curl(&[&url(&cluster, 1, "foo"), "-XPUT", "-d", "foo"]).0, 204);
    cluster.node(2).signal(Signal::TERM);
    cluster.node(2).wait_for_exit(PATIENCE);
    // Node 2 may have been the leader.
    eventually("node 1 takes the write", PATIENCE, || {
        (curl(&[&url(&cluster, 1, "foo"), "-XPUT", "-d", "bar"]).0 == 204).then_some(())
    });
    assert_eq!(curl(&[&url(&cluster, 3, "foo")]), (200, "bar".to_string()));
    cluster.node(2).start_and_wait();
    cluster.wait_for_leader();
    assert_eq!(curl(&[&url(&cluster, 2, "foo")]), (200, "bar".to_string()));

    // "Dynamic cluster reconfiguration": add a fourth node, start it, write at it and read it at the others.
    let fourth = cluster.prepare_joining_node();
    let peer_url = cluster.node(fourth).peer_url();
    assert_eq!(curl(&[&url(&cluster, 1, "4"), "-XPOST", "-d", &peer_url]), (204, String::new()));
    cluster.node(fourth).start_and_wait();
    cluster.wait_for_leader();
    assert_eq!(curl(&[&url(&cluster, fourth, "my-key")]), (200, "hello".to_string()));
    assert_eq!(curl(&[&url(&cluster, fourth, "foo"), "-XPUT", "-d", "baz"]).0, 204);
    assert_eq!(curl(&[&url(&cluster, 3, "foo")]), (200, "baz".to_string()));

    // Remove the third: it shuts itself down, and the rest goes on.
    assert_eq!(curl(&[&url(&cluster, 1, "3"), "-XDELETE"]), (204, String::new()));
    cluster.node(3).wait_for_exit(PATIENCE);
    cluster.node(3).process().wait_for_line("that it was removed", PATIENCE, |line| line.contains("removed"));
    cluster.wait_for_leader();
    assert_eq!(curl(&[&url(&cluster, 2, "foo"), "-XPUT", "-d", "last"]).0, 204);
    assert_eq!(curl(&[&url(&cluster, fourth, "foo")]), (200, "last".to_string()));
}

/// curl asks before it sends a large body, and sends a refused one to its end: both must come to an answer.
#[test]
fn curl_stores_a_file_at_the_limit_and_is_told_that_a_larger_one_is_too_large() {
    let cluster = Cluster::start(1);
    let file = cluster.folder().join("file");
    let name = format!("@{}", file.display());
    std::fs::write(&file, vec![b'x'; VALUE_MAX_BYTES]).expect("a file can be written");
    assert_eq!(curl(&[&url(&cluster, 1, "file"), "-XPUT", "--data-binary", &name]), (204, String::new()));
    assert_eq!(curl(&[&url(&cluster, 1, "file")]).1.len(), VALUE_MAX_BYTES);
    for larger in [VALUE_MAX_BYTES + 1, 4 * VALUE_MAX_BYTES] {
        std::fs::write(&file, vec![b'x'; larger]).expect("a file can be written");
        assert_eq!(curl(&[&url(&cluster, 1, "file"), "-XPUT", "--data-binary", &name]).0, 413);
        assert_eq!(curl(&[&url(&cluster, 1, "file"), "-XPUT", "--data-binary", &name, "-H", "Expect:"]).0, 413);
    }
}
