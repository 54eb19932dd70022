//! One cluster of our nodes and of processes of the original Go raftexample.
//!
//! **How ours takes part.** Peers agree on the protocol; what is in the entries is each program's own business, and the
//! original's is gob. Our node is given that as its [`Dialect`] at the start, by the small program `interop-node` beside
//! this library, which is the shipped one in every other respect. So `raftexample` knows nothing of gob, and a cluster
//! of it cannot be made to speak it by a flag.
//!
//! **What else must be alike.** The original runs without PreVote and without CheckQuorum. PreVote may differ: a node
//! that does not use it still answers those who do, and one that uses it brings a leader of an older term up to date.
//! CheckQuorum may not: our nodes would ignore a candidate of the original for as long as they hear from a leader, and
//! the original would not accept that leader's messages any more, since its own term is higher. It would be locked out for ever.
//! So the dialect switches CheckQuorum off.
//!
//! **Snapshots** are part of their message here: the original has no channel for them.
//!
//! **What the original cannot stand**, and no test here does to it: entries that are not gob, a heartbeat with a commit
//! index that it does not have (a wiped data folder), removal of a node that it does not know, status 403 or 410, and a
//! restart after it has taken a snapshot (it then never serves clients again).
//!
//! **What it gets wrong by itself**, so that a test must not blame anybody for it: a snapshot may lack the last entry before
//! its index, because it does not wait for its store.
//!
//! The original acknowledges a write before it is committed, and drops those that it cannot forward at once. Only what
//! *our* nodes acknowledge must never be lost; writes at an original are looked for, and repeated.

pub mod gob;
mod original;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prost::Message as _;
use raft_core::pb::{Message, MessageType};
use raftexample::codec::Dialect;
use serde_json::Value;
use tempfile::TempDir;

use crate::cluster::http::Connection;
use crate::cluster::{eventually, free_port, Http, Process, Signal, PATIENCE, STATUS_PATH};
pub use original::original;

/// How our node must speak to be understood by the original.
pub fn dialect() -> Dialect {
    Dialect { codec: Arc::new(gob::GobCodec), check_quorum: false, extensions: false }
}

/// Which program a node runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// This workspace's.
    Ours,
    /// The original, in Go.
    Original,
}

/// Where the two programs are.
#[derive(Clone, Copy, Debug)]
pub struct Programs<'a> {
    /// The program `interop-node` of this package.
    pub ours: &'a Path,
    /// The original; see [`original()`].
    pub original: &'a Path,
}

/// A node of a mixed cluster.
pub struct MixedNode {
    /// Its id.
    pub id: u64,
    /// Which program it runs.
    pub kind: Kind,
    /// The port on which it serves clients.
    pub client_port: u16,
    /// The port on which it listens to its peers.
    pub peer_port: u16,
    program: PathBuf,
    arguments: Vec<String>,
    working_dir: PathBuf,
    process: Mutex<Option<Arc<Process>>>,
}

/// A cluster of both kinds of nodes, with at least one of ours. When it goes out of scope, every process has been killed
/// and every original is known not to have ended by itself before.
pub struct Mixed {
    nodes: Vec<MixedNode>,
    // Dropped after the nodes.
    _folder: TempDir,
}

impl Mixed {
    /// Starts one node of each of these kinds, ids from 1, with `extra_arguments` for ours, and waits for a leader.
    pub fn start(programs: Programs<'_>, kinds: &[Kind], extra_arguments: &[&str]) -> Mixed {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let peer_ports: Vec<u16> = kinds.iter().map(|_| free_port()).collect();
        let urls: Vec<String> = peer_ports.iter().map(|port| format!("http://127.0.0.1:{port}")).collect();
        let node = |(id, (&kind, &peer_port)): (u64, (&Kind, &u16))| {
            let client_port = free_port();
            let mut arguments = vec!["--id".to_string(), id.to_string(), "--cluster".to_string(), urls.join(",")];
            arguments.extend(["--port".to_string(), client_port.to_string()]);
            if kind == Kind::Ours {
                arguments.extend(extra_arguments.iter().map(ToString::to_string));
            }
            let program = if kind == Kind::Ours { programs.ours } else { programs.original };
            // Both programs keep their data in the folder that they are started in.
            let working_dir = folder.path().join(format!("node{id}"));
            std::fs::create_dir(&working_dir).expect("a folder for the node");
            let (program, process) = (program.to_path_buf(), Mutex::default());
            MixedNode { id, kind, client_port, peer_port, program, arguments, working_dir, process }
        };
        let nodes: Vec<MixedNode> = (1..).zip(kinds.iter().zip(&peer_ports)).map(node).collect();
        assert!(kinds.contains(&Kind::Ours), "only our nodes say who leads");
        for node in &nodes {
            node.start();
        }
        let mixed = Mixed { nodes, _folder: folder };
        mixed.wait_for_leader();
        for node in &mixed.nodes {
            node.wait_until_it_serves();
        }
        mixed
    }

    /// All nodes, by ascending id.
    pub fn nodes(&self) -> &[MixedNode] {
        &self.nodes
    }

    /// The node with this id.
    pub fn node(&self, id: u64) -> &MixedNode {
        &self.nodes[id as usize - 1]
    }

    /// Ids of the nodes of this kind that run.
    pub fn running(&self, kind: Kind) -> Vec<u64> {
        self.nodes.iter().filter(|node| node.kind == kind && node.is_running()).map(|node| node.id).collect()
    }

    /// Waits until all running nodes of ours follow one leader, which runs; returns its id.
    pub fn wait_for_leader(&self) -> u64 {
        eventually("a leader that all of our nodes follow", PATIENCE, || {
            self.assert_no_original_ended();
            let leaders: Option<Vec<u64>> =
                self.running(Kind::Ours).into_iter().map(|id| self.node(id).leader()).collect();
            let leaders = leaders?;
            let first = *leaders.first()?;
            let agreed = first != 0 && leaders.iter().all(|&leader| leader == first);
            (agreed && self.node(first).is_running()).then_some(first)
        })
    }

    /// Has leadership handed over to this node: its peers' message for that is sent in its name.
    pub fn make_leader(&self, id: u64) {
        eventually(&format!("node {id} leads"), PATIENCE, || {
            let leader = self.wait_for_leader();
            if leader == id {
                return Some(());
            }
            let mut transfer = Message::of(MessageType::MsgTransferLeader);
            (transfer.from, transfer.to) = (id, leader);
            transfer.snapshot = Some(Box::default());
            let answer = Http::new(self.node(leader).peer_port).connect().and_then(|mut connection| {
                let from = format!("{id:x}");
                let headers = [
                    ("X-Etcd-Cluster-ID", "1000"),
                    ("X-Server-From", from.as_str()),
                    ("X-Server-Version", "3.4.23"),
                    ("X-Min-Cluster-Version", "3.0.0"),
                ];
                connection.request("POST", b"/raft", &headers, &transfer.encode_to_vec())
            });
            assert_eq!(answer.expect("a leader answers its peers").status, 204);
            std::thread::sleep(Duration::from_millis(50));
            None
        });
    }

    /// Waits until every running node holds exactly this value under each of these keys.
    pub fn wait_for_contents(&self, expected: &BTreeMap<String, String>) {
        for node in self.nodes.iter().filter(|node| node.is_running()) {
            let mut left: Vec<(&String, &String)> = expected.iter().collect();
            eventually(&format!("node {} ({:?}) has all {} values", node.id, node.kind, left.len()), PATIENCE, || {
                self.assert_no_original_ended();
                let mut connection = node.http().connect().ok()?;
                let first_wrong = left
                    .iter()
                    .position(|(key, value)| node.value(&mut connection, key).as_deref() != Some(value.as_bytes()));
                // Keys are written once, so what is right stays right.
                left.drain(..first_wrong.unwrap_or(left.len()));
                left.is_empty().then_some(())
            });
        }
    }

    /// Those of these writes that a node does not hold.
    pub fn lacking(&self, id: u64, written: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let node = self.node(id);
        let mut connection = node.http().connect().expect("a node that serves");
        let mut lacks = |key: &str, value: &str| node.value(&mut connection, key).as_deref() != Some(value.as_bytes());
        written
            .iter()
            .filter(|(key, value)| lacks(key, value))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }

    /// Repeats those of these writes that the original `id`, at which they were made, does not come to hold.
    pub fn repeat_lost(&self, id: u64, written: &BTreeMap<String, String>) {
        let node = self.node(id);
        let mut missing: Vec<_> = written.iter().collect();
        eventually(&format!("node {id} has taken {} writes", missing.len()), PATIENCE, || {
            self.assert_no_original_ended();
            let before = missing.len();
            let mut connection = node.http().connect().ok()?;
            missing.retain(|(key, value)| node.value(&mut connection, key).as_deref() != Some(value.as_bytes()));
            if missing.len() == before {
                // Nothing is under way any more.
                for (key, value) in &missing {
                    connection.request("PUT", key.as_bytes(), &[], value.as_bytes()).ok()?;
                }
            }
            std::thread::sleep(Duration::from_millis(if missing.is_empty() { 0 } else { 100 }));
            missing.is_empty().then_some(())
        });
    }

    /// Fails the test if an original has ended that was not killed by [`MixedNode::kill`].
    pub fn assert_no_original_ended(&self) {
        for node in self.nodes.iter().filter(|node| node.kind == Kind::Original) {
            let slot = node.process.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(process) = slot.as_ref() {
                assert!(process.is_running(), "node {}, an original, has ended by itself", node.id);
            }
        }
    }
}

impl Drop for Mixed {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.assert_no_original_ended();
        }
    }
}

impl MixedNode {
    /// Starts it on what its folder holds.
    pub fn start(&self) {
        let name = format!("node {} ({:?})", self.id, self.kind);
        let mut slot = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(slot.is_none(), "{name} runs already");
        *slot = Some(Arc::new(Process::start(&name, &self.program, &self.arguments, &self.working_dir)));
    }

    /// Waits until it answers clients.
    pub fn wait_until_it_serves(&self) {
        eventually(&format!("node {} serves clients", self.id), PATIENCE, || self.http().try_get("/none").ok());
    }

    /// `kill -9`, and waits for the end.
    pub fn kill(&self) {
        let process = self.process.lock().unwrap_or_else(PoisonError::into_inner).take();
        process.expect("it runs").kill();
    }

    /// Stops it for a while, as a machine does that has lost its network.
    pub fn pause(&self) {
        self.process().expect("it runs").signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.process().expect("it runs").signal(Signal::CONT);
    }

    /// Its process, if it was started and not killed.
    pub fn process(&self) -> Option<Arc<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether it runs.
    pub fn is_running(&self) -> bool {
        self.process().is_some_and(|process| process.is_running())
    }

    /// A client for it.
    pub fn http(&self) -> Http {
        Http::new(self.client_port)
    }

    /// The status page, which our nodes have.
    pub fn status(&self) -> Option<Value> {
        let response = self.http().with_timeout(Duration::from_secs(2)).try_get(STATUS_PATH).ok()?;
        serde_json::from_slice(&response.body).ok()
    }

    fn leader(&self) -> Option<u64> {
        self.status()?["leader"].as_u64()
    }

    /// What it holds itself; the original knows no other read.
    fn value(&self, connection: &mut Connection, key: &str) -> Option<Vec<u8>> {
        let query = if self.kind == Kind::Ours { "?read=local" } else { "" };
        let response = connection.request("GET", format!("{key}{query}").as_bytes(), &[], b"").ok()?;
        (response.status == 200).then_some(response.body)
    }
}
