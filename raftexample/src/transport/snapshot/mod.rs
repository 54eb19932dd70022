//! The snapshot channel: `POST /raft/snapshot`, from file to file.
//!
//! A snapshot can be larger than memory has room for twice, and take minutes. It must neither hold up anything else nor
//! be lost without a word. So each travels on a connection of its own, beside the streams, and on neither side is there
//! ever more of it in memory than a few pieces, until its store is loaded.
//!
//! ```text
//!  request body:  8 bytes: length of the message, big endian
//!                 the message (MsgSnap, whose snapshot has metadata and no data)
//!                 the snapshot's file, from its header to its end mark, each chunk with its checksum
//! ```
//!
//! That is etcd's channel, down to the file, which is ours (crate `wal`, `snapshot`). The length of the body is
//! announced, so that a node without room can say so before anything is written.
//!
//! [`send`] is the one side, [`receive`] the other. Either says how far it is, in the log and on the status page:
//! [`Transfers`] keeps the list.
//!
//! **Whatever goes wrong** (a cut, a byte that is not what it was, a full disk, silence) ends this transfer only. The
//! receiver has given up nothing: its state stays until a snapshot has passed every check. The sender tells Raft that the
//! snapshot was lost, and Raft sends the newest one again.
//!
//! What is left out: going on where a broken transfer ended. By then there may be a newer snapshot.

pub mod receive;
pub mod send;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Serialize;

/// Where to post.
pub const PATH: &str = "/raft/snapshot";
/// The message before the file may not be longer.
pub const MESSAGE_MAX_BYTES: usize = 128 << 10;
/// A transfer that has not moved for so long is given up.
pub const SILENCE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a transfer is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// A transfer that takes long is logged at least this often.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Which way a snapshot goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// To the peer.
    Out,
    /// From the peer.
    In,
}

/// A snapshot on its way, as the status page shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TransferStatus {
    /// The other node.
    pub peer: u64,
    /// Which way it goes.
    pub direction: Direction,
    /// The snapshot's index.
    pub index: u64,
    /// Bytes that have gone out, or come in.
    pub bytes: u64,
    /// How many there will be.
    pub total: u64,
    /// Counts from 1; on the sending side, goes up with every transfer to this peer that fails.
    pub attempt: u32,
}

/// The snapshots on their way. Clones share the list. A lock, because the tasks that move them write it and the raft
/// thread reads it for the status page.
#[derive(Clone, Default)]
pub struct Transfers(Arc<Mutex<Vec<Arc<Counter>>>>);

struct Counter {
    /// Its `bytes` are as of the beginning.
    status: TransferStatus,
    bytes: AtomicU64,
}

impl Transfers {
    /// All of them, in the order in which they began.
    pub fn list(&self) -> Vec<TransferStatus> {
        let current = |counter: &Arc<Counter>| {
            let bytes = counter.bytes.load(Ordering::Relaxed);
            TransferStatus { bytes, ..counter.status.clone() }
        };
        self.0.lock().iter().map(current).collect()
    }

    /// Notes that one begins. It is on the list until the returned value is dropped.
    fn begin(&self, status: TransferStatus) -> Transfer {
        let counter = Arc::new(Counter { status, bytes: AtomicU64::new(0) });
        self.0.lock().push(Arc::clone(&counter));
        let now = Instant::now();
        Transfer { all: self.clone(), counter, began: now, moved: (0, now), logged: (0, now) }
    }
}

/// One transfer, in the hands of whoever moves it.
struct Transfer {
    all: Transfers,
    counter: Arc<Counter>,
    began: Instant,
    /// Bytes, and when they were first seen.
    moved: (u64, Instant),
    /// Tenths of the whole, and when they were logged.
    logged: (u64, Instant),
}

impl Transfer {
    fn bytes(&self) -> u64 {
        self.counter.bytes.load(Ordering::Relaxed)
    }

    fn is_complete(&self) -> bool {
        self.bytes() >= self.counter.status.total
    }

    fn add(&self, bytes: usize) {
        self.counter.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Logs when there is news; says for how long nothing has moved.
    fn look(&mut self) -> Duration {
        let (bytes, now) = (self.bytes(), Instant::now());
        if bytes != self.moved.0 {
            self.moved = (bytes, now);
        }
        let tenths = bytes.saturating_mul(10).checked_div(self.counter.status.total).unwrap_or(10);
        if !self.is_complete() && (tenths > self.logged.0 || now >= self.logged.1 + LOG_INTERVAL) {
            self.logged = (tenths, now);
            log::info!("{self}");
        }
        now.saturating_duration_since(self.moved.1)
    }
}

/// As in "snapshot of index 7 to node 2: 3 of 10 MiB (30 %)".
impl fmt::Display for Transfer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TransferStatus { peer, direction, index, total, attempt, .. } = self.counter.status;
        let word = match direction {
            Direction::Out => "to",
            Direction::In => "from",
        };
        let bytes = self.bytes();
        let percent = bytes.saturating_mul(100).checked_div(total).unwrap_or(100);
        write!(
            f,
            "snapshot of index {index} {word} node {peer}: {} of {} MiB ({percent} %)",
            bytes >> 20,
            total >> 20
        )?;
        write!(f, " after {} s", self.began.elapsed().as_secs())?;
        if attempt > 1 {
            write!(f, ", attempt {attempt}")?;
        }
        Ok(())
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.all.0.lock().retain(|counter| !Arc::ptr_eq(counter, &self.counter));
    }
}

#[cfg(test)]
mod tests;
