//! What a node says on stderr while it works: etcd's words about its role, as much or as little as `RUST_LOG` asks for.
#![forbid(unsafe_code)]

use std::process::Command;

use tests::cluster::{eventually, free_port, raftexample, Http, Process, Signal, PATIENCE};

/// Runs a node of its own with this `RUST_LOG` until it has taken a write, and stops it; returns all it has logged.
fn lines_with(level: Option<&str>) -> Vec<String> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (port, peers) = (free_port(), format!("http://127.0.0.1:{}", free_port()));
    let mut command = Command::new(raftexample());
    command.args(["--port", &port.to_string(), "--cluster", &peers]).current_dir(folder.path());
    match level {
        Some(level) => command.env("RUST_LOG", level),
        None => command.env_remove("RUST_LOG"),
    };
    let process = Process::start_command("the node", command);
    eventually("it takes a write", PATIENCE, || {
        Http::new(port).try_request("PUT", "/x", b"x").ok().filter(|answer| answer.status == 204)
    });
    // Without --data-dir its data lies where it was started, under the original's name.
    assert!(folder.path().join("raftexample-1").is_dir());
    process.signal(Signal::TERM);
    assert!(process.wait_for_exit(PATIENCE).success());
    assert_eq!(process.stdout(), Vec::<String>::new(), "the log is on stderr");
    process.stderr()
}

#[test]
fn by_default_a_node_tells_of_its_roles_in_etcds_words() {
    let lines = lines_with(None);
    let mut position = 0;
    for words in [
        "became follower at term 1",
        "is starting a new election at term 1",
        "became candidate at term 2",
        "became leader at term 2",
    ] {
        let found = lines.iter().skip(position).position(|line| line.contains(words));
        position += found.unwrap_or_else(|| panic!("{words:?} is missing, or too early, in {lines:#?}"));
    }
    assert!(!lines.iter().any(|line| line.contains(" DEBUG ") || line.contains(" TRACE ")), "{lines:#?}");
}

#[test]
fn rust_log_says_how_much() {
    let errors_only = lines_with(Some("error"));
    assert_eq!(errors_only, Vec::<String>::new());
    // Per part: Raft's own lines away, the others kept.
    let lines = lines_with(Some("raft_core=error,info"));
    assert!(!lines.is_empty() && !lines.iter().any(|line| line.contains("raft_core")), "{lines:#?}");
}
