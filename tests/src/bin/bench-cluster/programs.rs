//! The programs that are compared, each as a running cluster on this machine, with its own defaults.
//!
//! Clusters run one beside the other for as long as the measurement takes; the one that is not asked costs its
//! heartbeats. Every process is ended by its id when its cluster goes out of scope. Data lies in temporary folders, below
//! `TMPDIR` if that is set.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ::tests::cluster::{eventually, free_port, Cluster, Http, Process, PATIENCE};
use ::tests::interop::original;
use tempfile::TempDir;

use crate::cost::Cost;
use crate::requests::Language;

/// How often a program is looked at that should come to rest, and what part of one processor all of its nodes together may
/// use then, for their heartbeats.
const SETTLE_INTERVAL: Duration = Duration::from_millis(200);
const IDLE_LOAD: f64 = 0.15;
/// The original may still have half of its million puts to do when it has answered the last one.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(600);
/// So often in a row it must be found at rest: a slow sync, or a pause on purpose, looks like rest.
const IDLE_LOOKS: usize = 3;

/// Against whom we are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// Debian's `etcd-server`, through its JSON gateway.
    Etcd,
    /// etcd's raftexample, built from Debian's sources.
    Raftexample,
    /// Nobody.
    None,
}

/// A running cluster.
pub(crate) struct Program {
    /// What it is called in what is printed.
    pub(crate) name: &'static str,
    /// How it is spoken to.
    pub(crate) language: Language,
    nodes: Nodes,
}

enum Nodes {
    Ours(Cluster),
    // Dropped in this order: no process writes into a folder that is being removed.
    Foreign(Vec<ForeignNode>, #[allow(dead_code)] TempDir),
}

struct ForeignNode {
    client_port: u16,
    process: Process,
}

impl Program {
    /// Ours. Waits until it serves.
    pub(crate) fn ours(nodes: u64) -> Program {
        Program { name: "ours", language: Language::Ours, nodes: Nodes::Ours(Cluster::start(nodes)) }
    }

    /// The peer, if there is to be one. Waits until it serves; the error says what to install.
    pub(crate) fn peer(peer: Peer, nodes: u64) -> Result<Option<Program>, String> {
        let program = match peer {
            Peer::None => return Ok(None),
            Peer::Etcd => Program { name: "etcd", language: Language::Gateway, nodes: start_etcd(nodes)? },
            Peer::Raftexample => {
                let nodes = start_original(nodes)?;
                Program { name: "original", language: Language::Original, nodes }
            }
        };
        eventually("a leader of the peer's", PATIENCE, || program.leader());
        Ok(Some(program))
    }

    /// Where clients go, the leader first: that is where a lone client is.
    pub(crate) fn targets(&self) -> Vec<SocketAddr> {
        let ports: Vec<u16> = match &self.nodes {
            Nodes::Ours(cluster) => cluster.nodes().iter().map(|node| node.client_port).collect(),
            Nodes::Foreign(nodes, _) => nodes.iter().map(|node| node.client_port).collect(),
        };
        let mut targets: Vec<SocketAddr> =
            ports.into_iter().map(|port| SocketAddr::from(([127, 0, 0, 1], port))).collect();
        let leader = eventually("a leader", PATIENCE, || self.leader());
        targets.rotate_left(leader);
        targets
    }

    /// What it has cost so far.
    pub(crate) fn cost(&self) -> Result<Cost, String> {
        let ids: Vec<u32> = match &self.nodes {
            Nodes::Ours(cluster) => cluster.nodes().iter().map(|node| node.process().id()).collect(),
            Nodes::Foreign(nodes, _) => nodes.iter().map(|node| node.process.id()).collect(),
        };
        Cost::of(&ids)
    }

    /// Waits until it has nothing left to do, and returns what it has cost until then. The original answers before the
    /// work is done: what it leaves for later must not be done while somebody else is measured. The error says that it
    /// does not come to rest.
    pub(crate) fn settle(&self) -> Result<Cost, String> {
        let deadline = Instant::now() + SETTLE_TIMEOUT;
        let (mut cost, mut quiet) = (self.cost()?, 0);
        while quiet < IDLE_LOOKS {
            if Instant::now() > deadline {
                return Err(format!(
                    "{} still works or writes {} s after the load",
                    self.name,
                    SETTLE_TIMEOUT.as_secs()
                ));
            }
            std::thread::sleep(SETTLE_INTERVAL);
            let now = self.cost()?;
            let works = now.cpu_seconds - cost.cpu_seconds > SETTLE_INTERVAL.as_secs_f64() * IDLE_LOAD;
            quiet = if works || now.written_bytes > cost.written_bytes { 0 } else { quiet + 1 };
            cost = now;
        }
        Ok(cost)
    }

    /// The position of the leader among the nodes.
    fn leader(&self) -> Option<usize> {
        match (&self.nodes, self.language) {
            (Nodes::Ours(cluster), _) => {
                let leader = cluster.leader_now(&cluster.running())?;
                usize::try_from(leader).ok()?.checked_sub(1)
            }
            (Nodes::Foreign(nodes, _), Language::Gateway) => nodes.iter().position(etcd_leads),
            // It has no page that says it; the lines that it logs do.
            (Nodes::Foreign(nodes, _), _) => {
                let won = |node: &ForeignNode| node.process.lines().iter().filter_map(|line| term_won(line)).max();
                let (term, at) = nodes.iter().enumerate().map(|(at, node)| (won(node), at)).max()?;
                let serves = |node: &ForeignNode| Http::new(node.client_port).try_get("/none").is_ok();
                (term.is_some() && nodes.iter().all(serves)).then_some(at)
            }
        }
    }
}

/// The term in "… 1 became leader at term 2".
fn term_won(line: &str) -> Option<u64> {
    line.split_once("became leader at term ")?.1.trim().parse().ok()
}

fn etcd_leads(node: &ForeignNode) -> bool {
    let page = Http::new(node.client_port).try_request("POST", "/v3/maintenance/status", b"{}").ok();
    let page = page.and_then(|answer| serde_json::from_slice::<serde_json::Value>(&answer.body).ok());
    page.is_some_and(|page| page["leader"].is_string() && page["leader"] == page["header"]["member_id"])
}

fn start_etcd(nodes: u64) -> Result<Nodes, String> {
    let program = in_path("etcd").ok_or("there is no etcd here: apt-get install etcd-server")?;
    let folder = temporary_folder()?;
    let ports: Vec<(u16, u16)> = (0..nodes).map(|_| (free_port(), free_port())).collect();
    let url = |port: u16| format!("http://127.0.0.1:{port}");
    let members: Vec<String> = (1..).zip(&ports).map(|(id, (_, peer))| format!("n{id}={}", url(*peer))).collect();
    let start = |(id, &(client, peer)): (u64, &(u16, u16))| {
        let data = folder.path().join(format!("node{id}")).display().to_string();
        let arguments = [
            ("--name", format!("n{id}")),
            ("--data-dir", data),
            ("--listen-client-urls", url(client)),
            ("--advertise-client-urls", url(client)),
            ("--listen-peer-urls", url(peer)),
            ("--initial-advertise-peer-urls", url(peer)),
            ("--initial-cluster", members.join(",")),
            ("--initial-cluster-state", "new".into()),
        ];
        let words: Vec<String> = arguments.into_iter().flat_map(|(flag, value)| [flag.to_string(), value]).collect();
        let process = Process::start(&format!("etcd {id}"), &program, &words, folder.path());
        ForeignNode { client_port: client, process }
    };
    Ok(Nodes::Foreign((1..).zip(&ports).map(start).collect(), folder))
}

fn start_original(nodes: u64) -> Result<Nodes, String> {
    let build_dir = target_dir().ok_or("this program does not lie in cargo's target folder")?.join("tmp");
    let program = original(&build_dir);
    let folder = temporary_folder()?;
    let ports: Vec<(u16, u16)> = (0..nodes).map(|_| (free_port(), free_port())).collect();
    let urls: Vec<String> = ports.iter().map(|(_, peer)| format!("http://127.0.0.1:{peer}")).collect();
    let start = |(id, &(client_port, _)): (u64, &(u16, u16))| {
        let arguments = [
            ["--id".to_string(), id.to_string()],
            ["--cluster".to_string(), urls.join(",")],
            ["--port".to_string(), client_port.to_string()],
        ];
        // It keeps its data in the folder that it is started in.
        let process = Process::start(&format!("original {id}"), program, &arguments.concat(), folder.path());
        ForeignNode { client_port, process }
    };
    Ok(Nodes::Foreign((1..).zip(&ports).map(start).collect(), folder))
}

fn temporary_folder() -> Result<TempDir, String> {
    tempfile::tempdir().map_err(|error| format!("no temporary folder: {error}"))
}

/// The target folder of the build that this program is from.
fn target_dir() -> Option<PathBuf> {
    Some(std::env::current_exe().ok()?.parent()?.parent()?.to_path_buf())
}

fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| is_program(file))
}

fn is_program(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_original_says_in_its_log_who_leads() {
        assert_eq!(term_won("raft2026/11/21 14:00:00 INFO: 2 became leader at term 17"), Some(17));
        assert_eq!(term_won("raft2026/11/21 14:00:00 INFO: 2 became follower at term 17"), None);
    }

    #[test]
    fn programs_are_found_by_their_names() {
        assert!(in_path("sh").is_some());
        assert_eq!(in_path("no-such-program-anywhere"), None);
    }
}
