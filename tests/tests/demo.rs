//! `raftexample demo`: three processes by one command, and none left behind, however the demo ends.
//!
//! One demo runs at a time: what is measured here must not depend on the other tests.
#![forbid(unsafe_code)]

use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tests::cluster::{
    eventually, free_base_port, process_is_alive, raftexample, Http, Process, Signal, PATIENCE, STATUS_PATH,
};

/// Peer and client ports of the three nodes, as distances from the base port.
const PORT_OFFSETS: [u16; 6] = [0, 1, 10_000, 10_001, 20_000, 20_001];

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn one_at_a_time() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A demo and the process ids of its nodes. All of them are gone when it is dropped, even if the demo forgot them.
struct Demo {
    process: Process,
    base_port: u16,
    nodes: Vec<u32>,
    /// From the moment the third process was there until a leader was.
    election: Duration,
}

fn children_of(parent: u32) -> Vec<u32> {
    let mut children = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten() {
        let text = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        children.extend(text.split_whitespace().filter_map(|id| id.parse::<u32>().ok()));
    }
    children
}

impl Demo {
    /// Starts it in `folder`, with its temporary files in `folder/tmp`.
    ///
    /// As a shell does, it gives it a process group of its own; and it waits until the demo says what to try.
    fn start(folder: &Path, arguments: &[&str]) -> Demo {
        let base_port = free_base_port(&PORT_OFFSETS);
        let temporary = folder.join("tmp");
        std::fs::create_dir_all(&temporary).expect("a folder can be made");
        let mut command = Command::new(raftexample());
        command.args(["demo", "--base-port", &base_port.to_string()]).args(arguments);
        command.current_dir(folder).env_remove("RUST_LOG").env("TMPDIR", temporary).process_group(0);
        let process = Process::start_command("the demo", command);
        let mut demo = Demo { process, base_port, nodes: Vec::new(), election: Duration::ZERO };
        demo.nodes = eventually("three nodes run", PATIENCE, || {
            Some(children_of(demo.process.id())).filter(|children| children.len() == 3)
        });
        let started = Instant::now();
        eventually("they have a leader", PATIENCE, || demo.agreed_leader());
        demo.election = started.elapsed();
        demo.process.wait_for_line("what to try", PATIENCE, |line| line.contains("curl "));
        demo
    }

    fn http(&self, id: u16) -> Http {
        Http::new(self.base_port + (id - 1) * 10_000 + 1)
    }

    fn agreed_leader(&self) -> Option<u64> {
        let leaders: Vec<u64> = (1..=3).map(|id| self.leader_seen_by(id)).collect::<Option<_>>()?;
        leaders.windows(2).all(|pair| pair[0] == pair[1] && pair[0] != 0).then_some(leaders[0])
    }

    fn leader_seen_by(&self, id: u16) -> Option<u64> {
        let answer = self.http(id).with_timeout(Duration::from_secs(2)).try_get(STATUS_PATH).ok()?;
        serde_json::from_slice::<serde_json::Value>(&answer.body).ok()?["leader"].as_u64()
    }

    fn wait_until_no_process_is_left(&self) {
        eventually("the demo and its nodes are gone", PATIENCE, || {
            let left = self.nodes.iter().any(|&id| process_is_alive(id));
            (!left && !self.process.is_running()).then_some(())
        });
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        for &id in &self.nodes {
            if is_a_node(id) {
                if let Some(pid) = rustix::process::Pid::from_raw(id as i32) {
                    let _ = rustix::process::kill_process(pid, Signal::KILL);
                }
            }
        }
    }
}

/// Whether the process of this id is still one of ours: ids are given to others in the end.
fn is_a_node(id: u32) -> bool {
    std::fs::read_link(format!("/proc/{id}/exe")).is_ok_and(|program| program == raftexample())
}

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// What a user may expect on a machine that has nothing else to do.
const ELECTION: Duration = Duration::from_secs(3);
/// On top of it, for once: the first votes may be split, which costs another election timeout (two seconds at most), and
/// a machine that builds or tests something else meanwhile delays every step.
const ELECTION_ALLOWANCE: Duration = Duration::from_secs(3);

#[test]
fn three_nodes_have_a_leader_within_seconds_of_the_last_start() {
    let _alone = one_at_a_time();
    let folder = scratch();
    let election = Demo::start(folder.path(), &[]).election;
    assert!(election < ELECTION + ELECTION_ALLOWANCE, "no leader within {ELECTION:?} and the allowance: {election:?}");
}

#[test]
fn the_lines_that_the_demo_says_to_try_work() {
    let _alone = one_at_a_time();
    let folder = scratch();
    let demo = Demo::start(folder.path(), &[]);
    let lines = demo.process.stdout();
    let commands: Vec<&str> = lines.iter().map(|line| line.trim()).filter(|line| line.starts_with("curl ")).collect();
    assert!(commands.len() >= 2, "a write and a read at least: {lines:#?}");
    for command in commands {
        let output = Command::new("bash").args(["-c", command]).output().expect("bash starts");
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    }
    demo.http(1).must_put("/from-one", "x");
    assert_eq!(demo.http(3).must_get("/from-one"), b"x");
}

#[test]
fn the_lines_that_the_nodes_log_are_told_apart() {
    let _alone = one_at_a_time();
    let folder = scratch();
    let demo = Demo::start(folder.path(), &[]);
    for id in 1..=3 {
        let prefix = format!("node {id} | ");
        demo.process.wait_for_line("a line of each node", PATIENCE, |line| line.starts_with(&prefix));
    }
    let leader = demo.agreed_leader().expect("a leader");
    let prefix = format!("node {leader} | ");
    demo.process.wait_for_line("who became the leader", PATIENCE, |line| {
        line.starts_with(&prefix) && line.contains("became leader at term")
    });
}

#[test]
fn ctrl_c_leaves_no_process_and_no_temporary_data_behind() {
    let _alone = one_at_a_time();
    let folder = scratch();
    let temporary = folder.path().join("tmp");
    let demo = Demo::start(folder.path(), &[]);
    let files_in = |folder: &Path| std::fs::read_dir(folder).expect("a folder").count();
    assert_ne!(files_in(&temporary), 0, "its data is somewhere else");
    // A terminal sends the signal to the whole group: to the demo and to its nodes.
    let group = rustix::process::Pid::from_raw(demo.process.id() as i32).expect("an id");
    rustix::process::kill_process_group(group, Signal::INT).expect("the group is there");
    demo.process.wait_for_exit(PATIENCE);
    demo.wait_until_no_process_is_left();
    assert_eq!(files_in(&temporary), 0, "temporary data is left behind");
    assert_eq!(files_in(folder.path()), 1, "something was written beside the temporary folder");
    assert!(!demo.process.lines().iter().any(|line| line.contains("panicked")));
}

#[test]
fn a_signal_to_the_demo_alone_ends_its_nodes_and_the_data_it_was_told_to_keep_stays() {
    let _alone = one_at_a_time();
    let folder = scratch();
    let kept = folder.path().join("kept").display().to_string();
    for (round, signal) in [Signal::INT, Signal::TERM].into_iter().enumerate() {
        let demo = Demo::start(folder.path(), &["--data-dir", &kept]);
        for earlier in 0..round {
            assert_eq!(demo.http(2).must_get(format!("/round-{earlier}")), b"kept");
        }
        demo.http(1).must_put(format!("/round-{round}"), "kept");
        assert!(demo.process.lines().iter().any(|line| line.contains(&kept)), "it names its data folder");
        demo.process.signal(signal);
        demo.process.wait_for_exit(PATIENCE);
        demo.wait_until_no_process_is_left();
        assert!(Path::new(&kept).is_dir());
    }
}

#[test]
fn kill_9_of_the_demo_ends_its_nodes_too() {
    let _alone = one_at_a_time();
    let folder = scratch();
    let demo = Demo::start(folder.path(), &[]);
    demo.process.kill();
    demo.wait_until_no_process_is_left();
}

#[test]
fn the_demo_goes_on_when_a_node_is_killed_and_says_so() {
    let _alone = one_at_a_time();
    let folder = tempfile::Builder::new().prefix("it's a $folder ").tempdir().expect("a temporary folder");
    let demo = Demo::start(folder.path(), &[]);
    demo.http(1).must_put("/kept", "x");
    let victim = demo.nodes[1];
    let pid = rustix::process::Pid::from_raw(victim as i32).expect("an id");
    rustix::process::kill_process(pid, Signal::KILL).expect("the node runs");
    eventually("the node is gone", PATIENCE, || (!process_is_alive(victim)).then_some(()));
    demo.process.wait_for_line("that a node ended", PATIENCE, |line| line.starts_with("node 2 has ended"));
    assert!(demo.process.is_running());
    eventually("the others go on", PATIENCE, || (demo.http(1).put("/after", "x").status == 204).then_some(()));
    assert_eq!(demo.http(3).must_get("/kept"), b"x");

    // The command that it prints then starts the node again, with its data.
    let command = demo.process.wait_for_line("how to start it again", PATIENCE, |line| {
        line.contains("--id 2 ") && !line.starts_with("node ") && line.contains("--data-dir")
    });
    let shell = || {
        let mut shell = Command::new("bash");
        shell.args(["-c", &format!("exec {}", command.trim())]).current_dir("/");
        shell
    };
    let again = Process::start_command("node 2", shell());
    eventually("node 2 is back", PATIENCE, || demo.http(2).try_get("/after").ok().filter(|answer| answer.body == b"x"));

    // It is not the demo's: it goes on when the demo ends, and so does its data.
    demo.process.signal(Signal::INT);
    demo.process.wait_for_exit(PATIENCE);
    let told = demo.process.wait_for_line("that the data is kept", PATIENCE, |line| line.contains("is kept"));
    assert!(told.starts_with("raftexample: ") && told.contains("/node2"), "{told}");
    assert_eq!(demo.http(2).must_get("/after?read=local"), b"x");
    again.kill();
    let again = Process::start_command("node 2", shell());
    eventually("node 2 has its data", PATIENCE, || {
        assert!(again.is_running(), "{:#?}", again.stderr());
        demo.http(2).try_get("/after?read=local").ok().filter(|answer| answer.body == b"x")
    });
}

#[test]
fn a_taken_port_is_named_and_nothing_is_started() {
    let _alone = one_at_a_time();
    let folder = scratch();
    for offset in PORT_OFFSETS {
        let base_port = free_base_port(&PORT_OFFSETS);
        let _taken = TcpListener::bind(("0.0.0.0", base_port + offset)).expect("the port was free");
        let mut command = Command::new(raftexample());
        command.args(["demo", "--base-port", &base_port.to_string()]).env_remove("RUST_LOG");
        command.current_dir(folder.path()).env("TMPDIR", folder.path());
        let process = Process::start_command("the demo", command);
        let status = process.wait_for_exit(PATIENCE);
        let stderr = process.stderr();
        assert!(!status.success(), "{status}");
        let told: Vec<&String> = stderr.iter().filter(|line| line.starts_with("raftexample: ")).collect();
        assert_eq!(told.len(), 1, "{stderr:#?}");
        assert!(told[0].contains(&(base_port + offset).to_string()), "{stderr:#?}");
        // Nobody else listens either.
        for other in PORT_OFFSETS.iter().filter(|&&other| other != offset) {
            TcpListener::bind(("0.0.0.0", base_port + other)).expect("the other ports are free");
        }
    }
}
