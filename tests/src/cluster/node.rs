//! One node of a cluster: its ports, its folder, its process.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use super::{eventually, raftexample, Http, Process, PATIENCE, STATUS_PATH};

/// A node, whether its process runs or not.
pub struct Node {
    /// Its id in the cluster.
    pub id: u64,
    /// The port on which it serves clients.
    pub client_port: u16,
    /// The port on which it listens to its peers.
    pub peer_port: u16,
    data_dir: PathBuf,
    working_dir: PathBuf,
    arguments: Vec<String>,
    process: Mutex<Option<Arc<Process>>>,
}

/// What a node says about itself on its status page.
#[derive(Clone, Debug)]
pub struct Status {
    /// The node's id.
    pub id: u64,
    /// `leader`, `follower`, `candidate` or `pre-candidate`.
    pub role: String,
    /// Its current term.
    pub term: u64,
    /// The leader it knows of, or 0.
    pub leader: u64,
    /// Index of the last entry it knows to be committed.
    pub commit: u64,
    /// Index of the last entry it has applied.
    pub applied: u64,
    /// The whole page.
    pub page: Value,
}

/// How the peers' URLs begin, with these arguments.
pub(super) fn peer_scheme(arguments: &[String]) -> &'static str {
    if arguments.iter().any(|argument| argument == "--peer-cert-file") {
        "https"
    } else {
        "http"
    }
}

impl Node {
    pub(super) fn new(
        id: u64,
        client_port: u16,
        peer_port: u16,
        data_dir: PathBuf,
        working_dir: PathBuf,
        arguments: Vec<String>,
    ) -> Node {
        Node { id, client_port, peer_port, data_dir, working_dir, arguments, process: Mutex::new(None) }
    }

    /// The URL under which its peers reach it.
    pub fn peer_url(&self) -> String {
        format!("{}://127.0.0.1:{}", peer_scheme(&self.arguments), self.peer_port)
    }

    /// An HTTP client for it.
    pub fn http(&self) -> Http {
        Http::new(self.client_port)
    }

    /// The folder it keeps its log and its snapshots in.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Its command line, without the program.
    pub fn arguments(&self) -> &[String] {
        &self.arguments
    }

    /// Starts it on what its data folder holds, and does not wait.
    ///
    /// # Panics
    /// When it runs already.
    pub fn start(&self) {
        self.start_process(&self.arguments);
    }

    fn start_process(&self, arguments: &[String]) {
        let mut slot = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(!slot.as_ref().is_some_and(|process| process.is_running()), "node {} runs already", self.id);
        let name = format!("node {}", self.id);
        *slot = Some(Arc::new(Process::start(&name, raftexample(), arguments, &self.working_dir)));
    }

    /// As [`Node::start`], with each argument of the command line changed by `change`, for this start only.
    ///
    /// # Panics
    /// When it runs already.
    pub fn start_with_arguments(&self, change: impl Fn(&str) -> String) {
        self.start_process(&self.arguments.iter().map(|argument| change(argument)).collect::<Vec<_>>());
    }

    /// Starts it and waits until it answers HTTP.
    pub fn start_and_wait(&self) {
        self.start();
        self.wait_until_it_serves();
    }

    /// Waits until its status page answers.
    ///
    /// # Panics
    /// When the process ends instead.
    pub fn wait_until_it_serves(&self) -> Status {
        eventually(&format!("node {} serves HTTP", self.id), PATIENCE, || {
            assert!(self.is_running(), "node {} ended instead of serving: {:#?}", self.id, self.process().stderr());
            self.status()
        })
    }

    /// The process of the latest start.
    ///
    /// # Panics
    /// When it was never started.
    pub fn process(&self) -> Arc<Process> {
        let slot = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(slot.as_ref().expect("the node was started"))
    }

    /// Whether its process runs (or is paused).
    pub fn is_running(&self) -> bool {
        let slot = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        slot.as_ref().is_some_and(|process| process.is_running())
    }

    /// Sends a signal, if it was started and has not ended.
    pub fn signal(&self, signal: Signal) {
        let slot = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(process) = slot.as_ref() {
            process.signal(signal);
        }
    }

    /// `kill -9`, and waits for the end.
    pub fn kill(&self) {
        self.process().kill();
    }

    /// `SIGSTOP`: it keeps its sockets and answers nothing, as a machine does that has lost its network. Every one of its
    /// threads has stopped afterwards: the signal alone only asks them to.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
        let process = self.process();
        eventually("every thread has stopped", PATIENCE, || {
            (process.has_stopped() || !process.is_running()).then_some(())
        });
    }

    /// `SIGCONT`.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Waits for its end.
    pub fn wait_for_exit(&self, within: Duration) -> ExitStatus {
        self.process().wait_for_exit(within)
    }

    /// Its status page, or nothing if it does not answer.
    pub fn status(&self) -> Option<Status> {
        let response = self.http().with_timeout(Duration::from_secs(2)).try_get(STATUS_PATH).ok()?;
        if response.status != 200 {
            return None;
        }
        let page: Value = serde_json::from_slice(&response.body).expect("the status page is JSON");
        let number = |name: &str| page[name].as_u64().unwrap_or_else(|| panic!("{name} is a number in {page}"));
        Some(Status {
            id: number("id"),
            role: page["role"].as_str().expect("role is a string").to_string(),
            term: number("term"),
            // No leader may be said as 0 or as null.
            leader: page["leader"].as_u64().unwrap_or(0),
            commit: number("commit"),
            applied: number("applied"),
            page,
        })
    }

    /// Waits until it has applied everything up to `index`.
    pub fn wait_until_applied(&self, index: u64) {
        eventually(&format!("node {} has applied {index}", self.id), PATIENCE, || {
            self.status().filter(|status| status.applied >= index)
        });
    }

    /// Every file below its data folder with its size in bytes.
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        let mut files = Vec::new();
        let mut folders = vec![self.data_dir.clone()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
                // A file may go away between the two calls: the node runs.
                let Ok(metadata) = entry.metadata() else { continue };
                if metadata.is_dir() {
                    folders.push(entry.path());
                } else {
                    files.push((entry.path(), metadata.len()));
                }
            }
        }
        files.sort();
        files
    }

    /// As [`Node::files`], those with this extension only.
    pub fn files_with_extension(&self, extension: &str) -> Vec<(PathBuf, u64)> {
        let mut files = self.files();
        files.retain(|(path, _)| path.extension().is_some_and(|found| found == extension));
        files
    }
}
