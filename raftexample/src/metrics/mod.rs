//! What is counted, and the page that shows it: `/_/metrics`, for Prometheus.
//!
//! Names are etcd's wherever etcd counts the same, so that dashboards and alerts written for etcd read this page, too;
//! the rest begins with `raftexample_`. Ids in labels are hexadecimal, as there.
//!
//! Each part of the node has its own struct of numbers here and adds to it as it works, one atomic addition at a time.
//! Nothing is gathered before somebody asks: the page is written from the numbers of that moment, and only then the
//! system is asked about the process.
//!
//! What is left out: numbers for each key or client, which would grow without bound.

mod connections;
mod process;
pub mod text;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::transport::peer::Peers;
pub use connections::{ConnectionMetrics, Told, Trouble};
use text::{Counter, Gauge, Histogram, Kind, Page};

/// All numbers of one node, except those that belong to a peer (see [`Peers`]).
#[derive(Debug)]
pub struct Metrics {
    /// This node.
    pub id: u64,
    started: Instant,
    /// What the raft thread knows.
    pub raft: RaftMetrics,
    /// What the disk does.
    pub disk: DiskMetrics,
    /// Requests of clients, by what they ask.
    requests: [RequestMetrics; ASKED.len()],
    /// Connections on the clients' port.
    pub clients: Arc<ConnectionMetrics>,
    /// Connections on the peers' port.
    pub peers: Arc<ConnectionMetrics>,
    /// Writes that ended with anything but "done".
    pub proposals_failed: Counter,
    /// Linearizable reads that were refused.
    pub reads_failed: Counter,
}

/// Written by the raft thread once a turn.
#[derive(Debug, Default)]
pub struct RaftMetrics {
    /// 0 if none is known.
    pub leader: Gauge,
    /// 1 if this node is a learner.
    pub is_learner: Gauge,
    /// How often it got to know a leader that was not the one before.
    pub leader_changes: Counter,
    /// The latest term it knows.
    pub term: Gauge,
    /// The highest index known to be committed.
    pub committed: Gauge,
    /// The highest index applied.
    pub applied: Gauge,
    /// Index of the newest snapshot.
    pub snapshot: Gauge,
    /// Writes that wait for their answer.
    pub pending: Gauge,
    /// When the thread has last come round, in milliseconds since the start.
    last_turn_ms: Gauge,
}

/// Times of the disk.
#[derive(Debug, Default)]
pub struct DiskMetrics {
    /// Storing and syncing one batch of the log.
    pub wal_sync: Histogram,
    /// Bytes of the entries in those batches.
    pub entry_bytes: Counter,
    /// Taking and saving a snapshot.
    pub snapshot_save: Histogram,
}

/// Requests of one kind.
#[derive(Debug, Default)]
pub struct RequestMetrics {
    /// By the first digit of the status code, and two that matter most by themselves: see [`STATUSES`].
    answered: [Counter; STATUSES.len()],
    /// From the request's header to the answer.
    duration: Histogram,
}

/// What a request asks, for labels.
pub const ASKED: [&str; 6] = ["get", "get-local", "put", "delete", "member", "page"];
/// How it is answered, for labels.
const STATUSES: [&str; 5] = ["2xx", "4xx", "503", "504", "other"];

impl RequestMetrics {
    /// Counts one answer.
    fn count(&self, status: u16, duration: Duration) {
        let label = match status {
            503 => "503",
            504 => "504",
            200..=299 => "2xx",
            400..=499 => "4xx",
            _ => "other",
        };
        if let Some(counter) = STATUSES.iter().position(|known| *known == label).and_then(|n| self.answered.get(n)) {
            counter.add(1);
        }
        self.duration.observe(duration);
    }
}

impl Metrics {
    /// Nothing is counted yet.
    pub fn new(id: u64) -> Metrics {
        Metrics {
            id,
            started: Instant::now(),
            raft: RaftMetrics::default(),
            disk: DiskMetrics::default(),
            requests: Default::default(),
            clients: Arc::default(),
            peers: Arc::default(),
            proposals_failed: Counter::default(),
            reads_failed: Counter::default(),
        }
    }

    /// Counts the answer to a request; what it [asked](ASKED).
    pub fn count_request(&self, asked: &str, status: u16, duration: Duration) {
        if let Some(requests) = ASKED.iter().position(|known| *known == asked).and_then(|n| self.requests.get(n)) {
            requests.count(status, duration);
        }
    }

    /// The raft thread has come round.
    pub fn note_turn(&self, now: Instant) {
        self.raft.last_turn_ms.set(now.saturating_duration_since(self.started).as_millis() as u64);
    }

    /// For how long the raft thread has not come round.
    pub fn held_up_for(&self) -> Duration {
        self.started.elapsed().saturating_sub(Duration::from_millis(self.raft.last_turn_ms.get()))
    }

    /// The page.
    pub fn page(&self, peers: &Peers) -> String {
        let mut page = Page::default();
        self.server(&mut page);
        self.storage(&mut page);
        self.clients(&mut page);
        connections::describe(&[("clients", &self.clients), ("peers", &self.peers)], &mut page);
        peers_of(self.id, peers, &mut page);
        process::describe(self.started, &mut page);
        page.finish()
    }

    fn server(&self, page: &mut Page) {
        let raft = &self.raft;
        let leader = raft.leader.get();
        page.family("etcd_server_id", Kind::Gauge, "This node's id, in hexadecimal digits.");
        page.sample(&[("server_id", &format!("{:x}", self.id))], 1);
        page.family("raftexample_info", Kind::Gauge, "The program's version.");
        page.sample(&[("version", env!("CARGO_PKG_VERSION"))], 1);
        page.gauge("etcd_server_has_leader", "Whether this node knows a leader.", u8::from(leader != 0));
        page.gauge("etcd_server_is_leader", "Whether this node leads.", u8::from(leader == self.id));
        page.gauge("etcd_server_is_learner", "Whether this node is a learner.", raft.is_learner.get());
        let help = "How often this node got to know a leader that was not the one before.";
        page.counter("etcd_server_leader_changes_seen_total", help, raft.leader_changes.get());
        let help = "The highest index known to be committed.";
        page.gauge("etcd_server_proposals_committed_total", help, raft.committed.get());
        page.gauge("etcd_server_proposals_applied_total", "The highest index applied.", raft.applied.get());
        let help = "Writes of this node's clients that wait for their answer.";
        page.gauge("etcd_server_proposals_pending", help, raft.pending.get());
        let help = "Writes of this node's clients that were refused, or whose outcome is not known.";
        page.counter("etcd_server_proposals_failed_total", help, self.proposals_failed.get());
        let help = "Linearizable reads of this node's clients that were refused.";
        page.counter("etcd_server_read_indexes_failed_total", help, self.reads_failed.get());
        page.gauge("raftexample_term", "The latest term this node knows.", raft.term.get());
        page.gauge("raftexample_snapshot_index", "Index of the newest snapshot; 0 if none.", raft.snapshot.get());
        let help = "For how long the raft thread has not come round; it does so once a tick at least.";
        page.gauge("raftexample_raft_thread_held_up_seconds", help, self.held_up_for().as_secs_f64());
    }

    fn storage(&self, page: &mut Page) {
        let help = "Time to store one batch in the log and to sync it.";
        page.family("etcd_disk_wal_fsync_duration_seconds", Kind::Histogram, help).histogram(&[], &self.disk.wal_sync);
        let help = "Bytes of the entries written to the log, without their framing.";
        page.counter("raftexample_wal_entry_bytes_total", help, self.disk.entry_bytes.get());
        let help = "Time to take a snapshot and to save it.";
        page.family("etcd_debugging_snap_save_total_duration_seconds", Kind::Histogram, help)
            .histogram(&[], &self.disk.snapshot_save);
    }

    fn clients(&self, page: &mut Page) {
        let help = "Requests of clients, by what they ask and how they were answered.";
        page.family("raftexample_http_requests_total", Kind::Counter, help);
        for (call, requests) in ASKED.iter().zip(&self.requests) {
            for (code, counter) in STATUSES.iter().zip(&requests.answered) {
                page.sample(&[("call", call), ("code", code)], counter.get());
            }
        }
        let help = "Time from a request's header to its answer.";
        page.family("raftexample_http_request_duration_seconds", Kind::Histogram, help);
        for (call, requests) in ASKED.iter().zip(&self.requests) {
            page.histogram(&[("call", call)], &requests.duration);
        }
    }
}

/// What is counted for one peer.
#[derive(Debug, Default)]
pub struct PeerMetrics {
    /// Bytes of messages to it, as they were encoded.
    pub sent_bytes: Counter,
    /// Bytes of messages from it.
    pub received_bytes: Counter,
    /// Messages to it that were lost: no room in a queue, or a post that failed.
    pub sent_failures: Counter,
    /// Streams from it that broke, and messages from it for which the inbox had no room.
    pub received_failures: Counter,
    /// Probes that were answered.
    pub round_trip: Histogram,
}

/// A family's name, its label, what it is, and where it is counted.
type PeerCounter = (&'static str, &'static str, &'static str, fn(&PeerMetrics) -> &Counter);

fn peers_of(own_id: u64, peers: &Peers, page: &mut Page) {
    let all = peers.snapshot();
    let counters: [PeerCounter; 4] = [
        ("etcd_network_peer_sent_bytes_total", "To", "Bytes of messages to a peer.", |peer| &peer.sent_bytes),
        ("etcd_network_peer_received_bytes_total", "From", "Bytes of messages from a peer.", |peer| {
            &peer.received_bytes
        }),
        ("etcd_network_peer_sent_failures_total", "To", "Messages to a peer that were lost.", |peer| {
            &peer.sent_failures
        }),
        (
            "etcd_network_peer_received_failures_total",
            "From",
            "Streams that broke and messages that were dropped, from a peer.",
            |peer| &peer.received_failures,
        ),
    ];
    for (name, label, help, counter) in counters {
        page.family(name, Kind::Counter, help);
        for (id, _, metrics) in &all {
            page.sample(&[(label, &format!("{id:x}"))], counter(metrics).get());
        }
    }
    page.family("etcd_network_peer_round_trip_time_seconds", Kind::Histogram, "Time a probe of a peer took.");
    for (id, _, metrics) in &all {
        page.histogram(&[("To", &format!("{id:x}"))], &metrics.round_trip);
    }
    page.family("etcd_network_active_peers", Kind::Gauge, "Whether a peer gives a sign of life.");
    let local = format!("{own_id:x}");
    for (id, active, _) in &all {
        page.sample(&[("Local", &local), ("Remote", &format!("{id:x}"))], u8::from(*active));
    }
}
