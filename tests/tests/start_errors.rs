//! Everything that can be wrong when a node starts ends in one clear line on stderr and an exit code that is not 0.
#![forbid(unsafe_code)]

use std::net::TcpListener;
use std::path::{Path, PathBuf};

use tests::cluster::{eventually, free_port, raftexample, Cluster, Node, Process, PATIENCE};

/// Starts `raftexample` with these arguments; expects it to refuse, and returns the line in which it says why.
fn refusal(arguments: &[&str], folder: &Path) -> String {
    let process = Process::start("the refused start", raftexample(), arguments, folder);
    let status = process.wait_for_exit(PATIENCE);
    let stderr = process.stderr();
    assert!(status.code().is_some_and(|code| code != 0), "{arguments:?}: {status} {stderr:#?}");
    assert!(!stderr.iter().any(|line| line.contains("panicked")), "{arguments:?}: {stderr:#?}");
    let told: Vec<&String> = stderr.iter().filter(|line| line.starts_with("raftexample: ")).collect();
    assert_eq!(told.len(), 1, "{arguments:?}: one line, and one that starts with the program's name: {stderr:#?}");
    assert_eq!(stderr.last(), Some(told[0]), "{arguments:?}: nothing comes after the error");
    told[0].clone()
}

/// As [`refusal`], and the line must contain each of these words.
fn refusal_names(arguments: &[&str], folder: &Path, words: &[&str]) {
    let line = refusal(arguments, folder);
    for word in words {
        assert!(line.contains(word), "{arguments:?}: {word:?} is not in {line:?}");
    }
}

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

#[test]
fn bad_flags_are_named() {
    let folder = scratch();
    let refused = |arguments: &[&str], words: &[&str]| refusal_names(arguments, folder.path(), words);
    refused(&["--no-such-flag"], &["--no-such-flag"]);
    refused(&["--id"], &["--id"]);
    refused(&["--id", "three"], &["--id", "three"]);
    refused(&["--id", "0"], &["id", "0"]);
    refused(&["--id", "-1"], &["-1"]);
    refused(&["--port", "99999"], &["--port", "99999"]);
    refused(&["--port", "http"], &["--port", "http"]);
    refused(&["--snapshot-count", "many"], &["--snapshot-count", "many"]);
    refused(&["--heartbeat-ticks", "3"], &["--heartbeat-ticks 3", "--election-ticks 10", "15"]);
    refused(&["--tick-ms", "10000"], &["--tick-ms 10000", "100s"]);
    refused(&["no-such-command"], &["no-such-command"]);
    refused(&["demo", "--base-port", "65000"], &["65000"]);
    refused(&["demo", "--base-port", "x"], &["--base-port", "x"]);
}

#[test]
fn a_cluster_list_that_cannot_be_is_refused() {
    let folder = scratch();
    let refused = |arguments: &[&str], words: &[&str]| refusal_names(arguments, folder.path(), words);
    let three = "http://127.0.0.1:1,http://127.0.0.1:2,http://127.0.0.1:3";
    // The id is a position in the list.
    refused(&["--id", "4", "--cluster", three], &["4", "3"]);
    refused(&["--id", "4", "--cluster", three, "--join"], &["4", "3"]);
    refused(&["--id", "1", "--cluster", ""], &["cluster"]);
    refused(&["--id", "1", "--cluster", "nonsense"], &["nonsense"]);
    refused(&["--id", "1", "--cluster", "http://127.0.0.1:1,"], &["cluster"]);
    refused(&["--id", "1", "--cluster", "http://127.0.0.1"], &["127.0.0.1"]);
    refused(&["--id", "1", "--cluster", "ftp://127.0.0.1:1"], &["ftp"]);
    refused(&["--id", "1", "--cluster", "http://127.0.0.1:7,http://127.0.0.1:7"], &["http://127.0.0.1:7"]);
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0, "a refused start leaves no data behind");
}

/// The arguments of the node with these replaced.
fn with(cluster: &Cluster, id: u64, replaced: &[(&str, &str)]) -> Vec<String> {
    let mut arguments = cluster.node(id).arguments().to_vec();
    for (flag, value) in replaced {
        let position = arguments.iter().position(|argument| argument == flag).expect("the flag is there");
        arguments[position + 1] = value.to_string();
    }
    arguments
}

fn as_strs(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

#[test]
fn a_taken_port_is_named() {
    let cluster = Cluster::prepare(1, &[]);
    for port in [cluster.node(1).client_port, cluster.node(1).peer_port] {
        let _taken = TcpListener::bind(("0.0.0.0", port)).expect("the port was free");
        let arguments = cluster.node(1).arguments();
        refusal_names(&as_strs(arguments), cluster.folder(), &[&port.to_string(), "in use"]);
    }
    // It was the ports: now it starts.
    cluster.node(1).start_and_wait();
}

#[test]
fn a_data_directory_in_use_is_named() {
    let cluster = Cluster::start(1);
    cluster.http(1).must_put("/mine", "x");
    let (client, peer) = (free_port().to_string(), format!("http://127.0.0.1:{}", free_port()));
    let arguments = with(&cluster, 1, &[("--port", &client), ("--cluster", &peer)]);
    let data_dir = cluster.node(1).data_dir().display().to_string();
    refusal_names(&as_strs(&arguments), cluster.folder(), &[&data_dir, "use"]);
    assert_eq!(cluster.http(1).must_get("/mine"), b"x", "the owner goes on");
}

#[test]
fn a_data_directory_that_cannot_be_one_is_named() {
    let folder = scratch();
    let file = folder.path().join("a-file");
    std::fs::write(&file, "not a folder").expect("a file can be written");
    let (file, below) = (file.display().to_string(), file.join("below").display().to_string());
    let (port, url) = (free_port().to_string(), format!("http://127.0.0.1:{}", free_port()));
    for data_dir in [&file, &below] {
        let arguments = ["--id", "1", "--cluster", &url, "--port", &port, "--data-dir", data_dir];
        refusal_names(&arguments, folder.path(), &[data_dir]);
    }
}

#[test]
fn the_data_directory_of_another_node_is_refused() {
    let cluster = Cluster::start(2);
    cluster.http(1).must_put("/x", "x");
    cluster.kill_all();
    let other = cluster.node(2).data_dir().display().to_string();
    let arguments = with(&cluster, 1, &[("--data-dir", &other)]);
    refusal(&as_strs(&arguments), cluster.folder());
    // Nothing was changed by the attempt.
    for node in cluster.nodes() {
        node.start();
    }
    cluster.wait_for_leader();
    assert_eq!(cluster.http(2).must_get("/x"), b"x");
}

/// The log file of the node in which `needle` stands, its bytes, and where in them.
fn find_in_log(node: &Node, needle: &[u8]) -> (PathBuf, Vec<u8>, usize) {
    for (path, _) in node.files_with_extension("wal") {
        let bytes = std::fs::read(&path).expect("a log file can be read");
        if let Some(position) = bytes.windows(needle.len()).position(|window| window == needle) {
            return (path, bytes, position);
        }
    }
    panic!("no log file holds {}", needle.escape_ascii());
}

#[test]
fn a_damaged_log_is_refused_with_the_file_that_is_damaged() {
    let cluster = Cluster::start(1);
    for number in 0..50 {
        cluster.http(1).must_put(format!("/key-{number}"), format!("the value of key {number}."));
    }
    cluster.node(1).kill();
    let (segment, good, early) = find_in_log(cluster.node(1), b"the value of key 3.");
    let arguments = cluster.node(1).arguments();
    let name = segment.file_name().expect("a name").to_string_lossy().to_string();

    // One bit of an acknowledged value; then a whole sector that reads as zeros.
    let mut flipped = good.clone();
    flipped[early] ^= 1;
    let mut zeroed = good.clone();
    let sector = early / 512 * 512;
    zeroed[sector..sector + 512].fill(0);
    for damaged in [flipped, zeroed] {
        std::fs::write(&segment, &damaged).expect("a log file can be written");
        refusal_names(&as_strs(arguments), cluster.folder(), &[&name]);
        assert!(std::fs::read(&segment).expect("a log file") == damaged, "a refused start changes nothing");
    }
    std::fs::write(&segment, &good).expect("a log file can be written");
    cluster.node(1).start_and_wait();
    cluster.wait_for_leader();
    assert_eq!(cluster.http(1).must_get("/key-49"), b"the value of key 49.");
}

#[test]
fn a_snapshot_that_the_log_needs_and_that_is_damaged_is_refused() {
    let cluster = Cluster::start_with(1, &["--snapshot-count", "20", "--wal-segment-mib", "1"]);
    let node = cluster.node(1);
    let first_segment = || node.files_with_extension("wal").into_iter().map(|(path, _)| path).next();
    let beginning = first_segment().expect("a log file");
    let value = vec![b'x'; 64 << 10];
    eventually("two snapshots are kept, and the log before them is removed", PATIENCE, || {
        cluster.http(1).must_put("/filler", &value);
        let purged = first_segment().is_some_and(|first| first != beginning);
        (purged && node.files_with_extension("snap").len() >= 2).then_some(())
    });
    node.kill();
    let damage = |path: &Path| {
        let mut bytes = std::fs::read(path).expect("a snapshot can be read");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(path, bytes).expect("a snapshot can be written");
    };
    for (path, _) in node.files_with_extension("snap") {
        damage(&path);
    }
    let data_dir = node.data_dir().display().to_string();
    let arguments = as_strs(node.arguments());
    // And again: what was set aside by the first refusal does not make the second start succeed.
    for _ in 0..2 {
        refusal_names(&arguments, cluster.folder(), &[&data_dir, "snapshot"]);
    }
}

#[test]
fn help_explains_with_examples_and_is_no_error() {
    let folder = scratch();
    for (arguments, words) in [
        (
            &["--help"][..],
            &["--cluster", "--id", "--port", "--join", "--data-dir", "--snapshot-count", "demo", "Example"][..],
        ),
        (&["demo", "--help"][..], &["--base-port", "--data-dir"][..]),
        (&["--version"][..], &["raftexample"][..]),
    ] {
        let process = Process::start("help", raftexample(), arguments, folder.path());
        let status = process.wait_for_exit(PATIENCE);
        let text = process.stdout().join("\n");
        assert!(status.success(), "{arguments:?}: {status}");
        for word in words {
            assert!(text.contains(word), "{arguments:?} does not mention {word}: {text}");
        }
    }
}
