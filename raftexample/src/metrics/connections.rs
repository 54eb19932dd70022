//! What becomes of connections: counted each time, logged now and then.
//!
//! A thousand connections that send nonsense must not become a thousand lines a second. Each kind of trouble has a line
//! every ten seconds at most, which says how many there were since the one before.

use std::fmt::Display;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use super::text::{Counter, Gauge, Kind, Page};

/// Time between two lines about the same kind of trouble.
const PAUSE_SECONDS: u64 = 10;

/// Connections on one port.
#[derive(Debug, Default)]
pub struct ConnectionMetrics {
    /// Now.
    pub open: Gauge,
    /// Since the start, those that were turned away included.
    pub accepted: Counter,
    troubles: [Told; Trouble::ALL.len()],
}

/// Why a connection was turned away or cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// There were too many.
    Refused,
    /// It did not ask anything in time.
    Silent,
    /// It sent what is no request.
    Nonsense,
    /// It did not take its answer.
    Stalled,
    /// The handshake failed.
    Handshake,
}

impl Trouble {
    const ALL: [Trouble; 5] =
        [Trouble::Refused, Trouble::Silent, Trouble::Nonsense, Trouble::Stalled, Trouble::Handshake];

    fn label(self) -> &'static str {
        match self {
            Trouble::Refused => "refused",
            Trouble::Silent => "silent",
            Trouble::Nonsense => "nonsense",
            Trouble::Stalled => "stalled",
            Trouble::Handshake => "handshake",
        }
    }
}

/// Something that may happen very often: counted each time, logged now and then.
#[derive(Debug, Default)]
pub struct Told {
    count: Counter,
    /// The count when the last line was written.
    told: AtomicU64,
    /// The second, since 1970, before which no other line is written.
    quiet_until: AtomicU64,
}

impl Told {
    /// Counts it, and writes a line about it unless there was one just now.
    pub fn tell(&self, what: &dyn Display) {
        self.count.add(1);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let quiet_until = self.quiet_until.load(Ordering::Relaxed);
        // A clock that was set back must not silence it for long.
        if now < quiet_until && quiet_until - now <= PAUSE_SECONDS {
            log::debug!("{what}");
            return;
        }
        let next = now + PAUSE_SECONDS;
        let first = self.quiet_until.compare_exchange(quiet_until, next, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if first {
            let count = self.count.get();
            match count - self.told.swap(count, Ordering::Relaxed).min(count) {
                0 | 1 => log::warn!("{what}"),
                more => log::warn!("{what} (and {} more like it since the last such line)", more - 1),
            }
        }
    }

    /// How often it happened.
    pub fn count(&self) -> u64 {
        self.count.get()
    }
}

impl ConnectionMetrics {
    /// Counts a trouble, and writes a line about it unless there was one just now.
    pub fn tell(&self, trouble: Trouble, what: &dyn Display) {
        if let Some(told) = self.trouble(trouble) {
            told.tell(what);
        }
    }

    /// How often that happened.
    pub fn troubles(&self, trouble: Trouble) -> u64 {
        self.trouble(trouble).map_or(0, Told::count)
    }

    fn trouble(&self, trouble: Trouble) -> Option<&Told> {
        Trouble::ALL.iter().position(|known| *known == trouble).and_then(|n| self.troubles.get(n))
    }
}

pub(super) fn describe(sides: &[(&str, &ConnectionMetrics)], page: &mut Page) {
    page.family("raftexample_connections", Kind::Gauge, "Connections that are open.");
    for (side, metrics) in sides {
        page.sample(&[("port", side)], metrics.open.get());
    }
    page.family("raftexample_connections_total", Kind::Counter, "Connections that came.");
    for (side, metrics) in sides {
        page.sample(&[("port", side)], metrics.accepted.get());
    }
    page.family("raftexample_connections_ended_total", Kind::Counter, "Connections turned away or cut off, and why.");
    for (side, metrics) in sides {
        for trouble in Trouble::ALL {
            page.sample(&[("port", side), ("reason", trouble.label())], metrics.troubles(trouble));
        }
    }
}
