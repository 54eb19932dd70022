//! Clusters of real processes, judged by what their clients saw while everything went wrong.
//!
//! A *history* is a few seconds in the life of a cluster of three: clients write, read and delete a handful of fresh keys
//! over HTTP, while a script of faults drawn from the history's seed kills nodes, stops and continues them, cuts, delays
//! and breaks their network, and fills their disks. Then everything is repaired, every key is read once more at every node,
//! and all that was answered must be [linearizable](crate::linearizability).
//!
//! Several clusters, each with its own settings ([`Shape`]), work through the histories side by side; a cluster lives on from
//! history to history, so that its log, its snapshots and its scars are those of all before.
//!
//! A seed decides what clients ask for and which faults come, not how the machine schedules processes: the same seed makes
//! a similar history, not the same one. So a history that fails is kept in a file, and `check-history` judges it again.
//!
//! | part | is |
//! |---|---|
//! | [`clients`] | who asks, and what they note down |
//! | [`faults`] | what goes wrong |
//! | [`small_disk`] | a disk that can be filled |
//!
//! Left out: changes of the membership, power loss (the log's own tests crash it at every point), damaged files.

pub mod clients;
pub mod faults;
pub mod small_disk;

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, Network};
use crate::linearizability::{check, text, Operation};
use crate::random::Random;
use clients::{Clients, Reads};
use faults::Faults;
use small_disk::SmallDisk;

/// How a cluster is set up.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Flags of every node.
    pub arguments: &'static [&'static str],
    /// The longest that a leader's silence goes unnoticed with these flags; faults last about as long.
    pub election: Duration,
    /// Its nodes' disks can be filled, where the system lets us mount one.
    pub small_disks: bool,
}

/// Clusters that differ in their clocks, in how often they take snapshots, and in the size of their files.
pub const SHAPES: [Shape; 5] = [
    Shape { arguments: &["--snapshot-count", "1000"], election: Duration::from_millis(1900), small_disks: false },
    Shape {
        arguments: &["--tick-ms", "20", "--snapshot-count", "100", "--wal-segment-mib", "1"],
        election: Duration::from_millis(380),
        small_disks: true,
    },
    Shape {
        arguments: &["--tick-ms", "30", "--snapshot-count", "1000", "--wal-segment-mib", "1"],
        election: Duration::from_millis(570),
        small_disks: false,
    },
    Shape {
        arguments: &["--tick-ms", "10", "--heartbeat-ticks", "2", "--election-ticks", "20", "--snapshot-count", "10"],
        election: Duration::from_millis(390),
        small_disks: false,
    },
    Shape {
        arguments: &["--tick-ms", "50", "--snapshot-count", "100", "--wal-segment-mib", "1"],
        election: Duration::from_millis(950),
        small_disks: true,
    },
];

/// What went on, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Histories that were checked.
    pub histories: u64,
    /// Operations in them: `ok` and `unknown`.
    pub operations: u64,
    /// Operations that were answered.
    pub ok: u64,
    /// Writes that were not, or not with certainty.
    pub unknown: u64,
    /// Writes that were refused with the promise that nothing was done; they are not in the histories.
    pub refused: u64,
    /// Nodes that were ended by `kill -9`.
    pub kills: u64,
    /// Nodes that were stopped and continued.
    pub pauses: u64,
    /// Cuts of the network, in one direction or both.
    pub partitions: u64,
    /// Times when the network was late, slow, lossy or broke connections.
    pub bad_networks: u64,
    /// Nodes that ended because their disk was full.
    pub full_disks: u64,
    /// Histories that were possible.
    pub linearizable: u64,
}

impl Counts {
    fn add(&mut self, other: &Counts) {
        self.histories += other.histories;
        self.operations += other.operations;
        self.ok += other.ok;
        self.unknown += other.unknown;
        self.refused += other.refused;
        self.kills += other.kills;
        self.pauses += other.pauses;
        self.partitions += other.partitions;
        self.bad_networks += other.bad_networks;
        self.full_disks += other.full_disks;
        self.linearizable += other.linearizable;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "black-box histories={} operations={} ok={} unknown={} refused={} kills={} pauses={} partitions={} \
             bad_networks={} full_disks={} linearizable={}",
            self.histories,
            self.operations,
            self.ok,
            self.unknown,
            self.refused,
            self.kills,
            self.pauses,
            self.partitions,
            self.bad_networks,
            self.full_disks,
            self.linearizable
        )
    }
}

/// Works through `histories` histories with the seeds from `first_seed` on, `clusters` clusters at a time.
///
/// # Errors
/// What was wrong with the histories that were not linearizable.
pub fn run(first_seed: u64, histories: u64, clusters: usize, reads: Reads) -> (Counts, Vec<String>) {
    let (next, counts, failures) = (AtomicU64::new(0), Mutex::new(Counts::default()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for shape in SHAPES.iter().cycle().take(clusters) {
            let (next, counts, failures) = (&next, &counts, &failures);
            scope.spawn(move || {
                let mut subject = None;
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= histories {
                        return;
                    }
                    let subject = subject.get_or_insert_with(|| Subject::start(*shape));
                    let (counted, failure) = subject.live_through(first_seed + number, reads);
                    counts.lock().unwrap_or_else(PoisonError::into_inner).add(&counted);
                    failures.lock().unwrap_or_else(PoisonError::into_inner).extend(failure);
                }
            });
        }
    });
    (
        counts.into_inner().unwrap_or_else(PoisonError::into_inner),
        failures.into_inner().unwrap_or_else(PoisonError::into_inner),
    )
}

/// A cluster under test.
struct Subject {
    shape: Shape,
    // Dropped first: a lazy unmount lets the nodes go on until they are killed, and the folder be removed behind them.
    disks: Vec<SmallDisk>,
    cluster: Cluster,
    network: Network,
}

impl Subject {
    fn start(shape: Shape) -> Subject {
        let (cluster, network) = Cluster::prepare_on_network(3, shape.arguments);
        let mount = |node: &crate::cluster::Node| SmallDisk::mount(node.data_dir());
        let disks = if shape.small_disks { cluster.nodes().iter().filter_map(mount).collect() } else { Vec::new() };
        for node in cluster.nodes() {
            node.start();
        }
        cluster.wait_for_leader();
        Subject { shape, disks, cluster, network }
    }

    /// One history.
    fn live_through(&mut self, seed: u64, reads: Reads) -> (Counts, Option<String>) {
        let mut random = Random::new(seed);
        let clients = Clients::start(&self.cluster, seed, reads);
        let mut faults = Faults::new(&self.cluster, &self.network, &self.disks, self.shape.election, random.number());
        faults.happen();
        let repaired = faults.repair();
        let mut counts = faults.counts;
        let (history, refused) = match clients.stop() {
            Ok(seen) => seen,
            Err(reason) => return (counts, Some(format!("seed {seed}: {reason}"))),
        };
        counts.histories = 1;
        counts.operations = history.len() as u64;
        counts.ok = history.iter().filter(|operation| operation.answered_ns.is_some()).count() as u64;
        counts.unknown = counts.operations - counts.ok;
        counts.refused = refused;
        let failure = repaired.and_then(|()| check(&history).map_err(|violation| violation.to_string())).err();
        counts.linearizable = u64::from(failure.is_none());
        (counts, failure.map(|reason| report(seed, &history, &reason)))
    }
}

/// Keeps the history in a file and says how to look at it again.
fn report(seed: u64, history: &[Operation], reason: &str) -> String {
    let file = folder_for_failures().join(format!("black-box-{seed}.history"));
    let kept = match std::fs::write(&file, text::write(history, &format!("seed {seed}"))) {
        Ok(()) => format!("cargo run -p tests --bin check-history -- {}", file.display()),
        Err(error) => format!("cannot keep the history in {}: {error}", file.display()),
    };
    format!("seed {seed}: {reason}\nto check it again: {kept}")
}

/// The target folder, which is there, and where nobody minds a file.
fn folder_for_failures() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    program.parent().map_or_else(std::env::temp_dir, PathBuf::from)
}

/// One clock for all of a history's clients.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// Begins at 0.
    pub fn start() -> Clock {
        Clock(Instant::now())
    }

    /// Nanoseconds since the start.
    pub fn now_ns(self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
}
