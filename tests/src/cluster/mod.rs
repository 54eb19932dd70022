//! A cluster of real `raftexample` processes, for tests that look at the program from outside.
//!
//! A [`Cluster`] starts nodes on ports from the system, each with its own temporary data folder, and waits for a
//! leader. A test then does what an operator or an accident would do: `kill -9`, `SIGTERM`, `SIGSTOP`, start again,
//! add a node, remove one; and speaks HTTP through the small client in [`http`], which can also send what no
//! well-behaved client would. [`load`] writes from many connections at once and remembers what was acknowledged.
//!
//! Rules the harness keeps, so that tests stay fast and honest:
//! - nothing sleeps for a guessed time: [`eventually`] polls a condition until a deadline;
//! - every process that was started is killed by its id when its owner goes out of scope, also when a test fails;
//! - a failing test prints the last lines that each node logged.
//!
//! A [`Network`] lies between the nodes where a test wants to cut it, delay it or break its connections.
//!
//! Left out: faults of the disk, which the log's own tests inject.

mod binary;
pub mod http;
pub mod load;
mod network;
mod node;
pub mod pace;
mod ports;
mod process;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

pub use binary::{forget_package, raftexample};
pub use http::{Http, Response};
pub use network::{Fault, Network};
pub use node::{Node, Status};
pub use ports::{free_base_port, free_port};
pub use process::{process_is_alive, Process};
pub use rustix::process::Signal;
use tempfile::TempDir;

/// The one path prefix that cannot be a key; node pages such as the status live under it.
pub const RESERVED_PREFIX: &str = "/_/";

/// The page that describes a node in JSON.
pub const STATUS_PATH: &str = "/_/status";

/// The page that says who is a member.
pub const MEMBERS_PATH: &str = "/_/members";

/// The largest value that a node takes.
pub const VALUE_MAX_BYTES: usize = 1024 * 1024;

/// The longest key that a node takes, percent-decoded and with its leading slash.
pub const KEY_MAX_BYTES: usize = 4096;

/// How long anything that must happen "soon" may take before a test calls it a failure. Generous, because a busy
/// machine slows everything; no test waits this long unless it fails.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Polls `probe` until it returns a value, and returns that value.
///
/// # Panics
/// When `within` has passed first; the message names `what` was waited for.
pub fn eventually<T>(what: &str, within: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited {within:?} in vain for: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A set of nodes that know each other, in a temporary folder that is removed at the end.
pub struct Cluster {
    nodes: Vec<Node>,
    extra_arguments: Vec<String>,
    // Dropped after the nodes (fields drop in order), so no process writes into a folder that is being removed.
    folder: TempDir,
}

impl Cluster {
    /// Starts `size` nodes with default options and waits until all of them follow one leader.
    pub fn start(size: u64) -> Cluster {
        Cluster::start_with(size, &[])
    }

    /// Starts `size` nodes with `extra_arguments` on each command line and waits until all of them follow one leader.
    pub fn start_with(size: u64, extra_arguments: &[&str]) -> Cluster {
        let cluster = Cluster::prepare(size, extra_arguments);
        for node in &cluster.nodes {
            node.start();
        }
        cluster.wait_for_leader();
        cluster.wait_until_all_are_known();
        cluster
    }

    /// Waits until the running nodes have the number of the cluster, and that of every running node's data directory,
    /// in their address books: a wiped node is noticed only then, and until then they propose entries of their own.
    pub fn wait_until_all_are_known(&self) {
        let running = self.running();
        let knows_all = |page: &serde_json::Value| {
            let said = |value: &serde_json::Value| value.as_str().is_some_and(|number| !number.is_empty());
            let members = page["members"].as_array().cloned().unwrap_or_default();
            let known = |id: &u64| members.iter().any(|member| member["id"] == *id && said(&member["data"]));
            said(&page["cluster"]) && running.iter().all(known)
        };
        for &id in &running {
            eventually(&format!("node {id} knows the numbers of all"), PATIENCE, || {
                let answer = self.http(id).try_get(MEMBERS_PATH).ok()?;
                let page = serde_json::from_slice(&answer.body).ok()?;
                knows_all(&page).then_some(())
            });
        }
    }

    /// Starts `size` nodes that reach each other through a [`Network`] only, with `extra_arguments` on each command line,
    /// and waits for a leader.
    pub fn start_on_network(size: u64, extra_arguments: &[&str]) -> (Cluster, Network) {
        let (cluster, network) = Cluster::prepare_on_network(size, extra_arguments);
        for node in &cluster.nodes {
            node.start();
        }
        cluster.wait_for_leader();
        (cluster, network)
    }

    /// As [`Cluster::start_on_network`], and starts none of them.
    pub fn prepare_on_network(size: u64, extra_arguments: &[&str]) -> (Cluster, Network) {
        let mut cluster = Cluster::prepare(0, extra_arguments);
        let peer_ports: Vec<u16> = (0..size).map(|_| free_port()).collect();
        let network = Network::between(&peer_ports);
        for (id, &own) in (1..).zip(&peer_ports) {
            // Each node has a list of its own: the founders' addresses are what the command line says.
            let seen: Vec<u16> = (1..=size).map(|to| if to == id { own } else { network.port(id, to) }).collect();
            let node = cluster.describe_node(id, own, &seen, false);
            cluster.nodes.push(node);
        }
        (cluster, network)
    }

    /// Chooses ports and folders for `size` nodes, and starts none of them.
    pub fn prepare(size: u64, extra_arguments: &[&str]) -> Cluster {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let extra_arguments = extra_arguments.iter().map(ToString::to_string).collect();
        let peer_ports: Vec<u16> = (0..size).map(|_| free_port()).collect();
        let mut cluster = Cluster { nodes: Vec::new(), extra_arguments, folder };
        for (position, &peer_port) in peer_ports.iter().enumerate() {
            let node = cluster.describe_node(position as u64 + 1, peer_port, &peer_ports, false);
            cluster.nodes.push(node);
        }
        cluster
    }

    fn describe_node(&self, id: u64, peer_port: u16, peer_ports: &[u16], join: bool) -> Node {
        let client_port = free_port();
        let scheme = node::peer_scheme(&self.extra_arguments);
        let urls: Vec<String> = peer_ports.iter().map(|port| format!("{scheme}://127.0.0.1:{port}")).collect();
        let data_dir = self.folder.path().join(format!("node{id}"));
        let mut arguments = vec!["--id".to_string(), id.to_string(), "--cluster".to_string(), urls.join(",")];
        arguments.extend(["--port".to_string(), client_port.to_string()]);
        arguments.extend(["--data-dir".to_string(), data_dir.display().to_string()]);
        if join {
            arguments.push("--join".to_string());
        }
        arguments.extend(self.extra_arguments.iter().cloned());
        Node::new(id, client_port, peer_port, data_dir, self.folder.path().to_path_buf(), arguments)
    }

    /// Describes one more node, which is to be started with `--join`; the caller still has to add it to the
    /// membership (see [`Node::peer_url`]) and to start it. Returns its id.
    pub fn prepare_joining_node(&mut self) -> u64 {
        let id = self.nodes.len() as u64 + 1;
        let peer_port = free_port();
        let mut peer_ports: Vec<u16> = self.nodes.iter().map(|node| node.peer_port).collect();
        peer_ports.push(peer_port);
        let node = self.describe_node(id, peer_port, &peer_ports, true);
        self.nodes.push(node);
        id
    }

    /// All nodes, running or not, by ascending id.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node with this id.
    pub fn node(&self, id: u64) -> &Node {
        &self.nodes[id as usize - 1]
    }

    /// The HTTP client of the node with this id.
    pub fn http(&self, id: u64) -> Http {
        self.node(id).http()
    }

    /// The folder that holds every node's data folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Ids of the nodes whose process runs.
    pub fn running(&self) -> Vec<u64> {
        self.nodes.iter().filter(|node| node.is_running()).map(|node| node.id).collect()
    }

    /// Waits until every running node names the same leader and that leader says so itself; returns its id.
    pub fn wait_for_leader(&self) -> u64 {
        self.wait_for_leader_among(&self.running())
    }

    /// As [`Cluster::wait_for_leader`], asking only these nodes (the others may be paused).
    pub fn wait_for_leader_among(&self, ids: &[u64]) -> u64 {
        eventually("one leader that all of these nodes follow", PATIENCE, || self.leader_now(ids))
    }

    /// The leader that all of these nodes name, if there is one at this moment and it agrees.
    pub fn leader_now(&self, ids: &[u64]) -> Option<u64> {
        let mut leaders = Vec::new();
        for &id in ids {
            let status = self.node(id).status()?;
            leaders.push(status.leader);
            if status.leader == id && status.role != "leader" {
                return None;
            }
        }
        let first = *leaders.first()?;
        (ids.contains(&first) && leaders.iter().all(|&leader| leader == first)).then_some(first)
    }

    /// Ids of the running nodes that are not `leader`.
    pub fn followers_of(&self, leader: u64) -> Vec<u64> {
        self.running().into_iter().filter(|&id| id != leader).collect()
    }

    /// `kill -9` for every running node, all before any of them is waited for.
    pub fn kill_all(&self) {
        let running = self.running();
        for &id in &running {
            self.node(id).signal(Signal::KILL);
        }
        for &id in &running {
            self.node(id).wait_for_exit(PATIENCE);
        }
    }
}

/// One cluster for all tests of a file that only read and write keys of their own.
///
/// It lives as long as some test uses it: a plain `static` would never be dropped and would leave its processes behind.
pub struct SharedCluster {
    cluster: Mutex<Weak<Cluster>>,
    size: u64,
}

impl SharedCluster {
    /// A cluster of `size` nodes, started when the first test asks for it.
    pub const fn of(size: u64) -> SharedCluster {
        SharedCluster { cluster: Mutex::new(Weak::new()), size }
    }

    /// The running cluster.
    pub fn get(&self) -> Arc<Cluster> {
        let mut slot = self.cluster.lock().unwrap_or_else(PoisonError::into_inner);
        slot.upgrade().unwrap_or_else(|| {
            let cluster = Arc::new(Cluster::start(self.size));
            *slot = Arc::downgrade(&cluster);
            cluster
        })
    }
}
