//! How much a connection may cost: how many there may be, and for how long one may do nothing.
//!
//! A node must go on serving whatever strangers do at its ports. So whoever connects gets a little and no more until it
//! has asked something, and nothing waits for anybody without a limit:
//!
//! | what | clients | peers |
//! |---|---|---|
//! | connections at a time | [8192](Limits::clients) | [4096](Limits::peers) |
//! | from the connection to the end of its first request's header | 10 s | 10 s |
//! | between two requests, header included | 60 s | 300 s |
//! | a request's header | 64 KiB | 64 KiB |
//! | an answer of which nothing is taken | 30 s | 30 s |
//!
//! Bodies have limits where they are read. A connection beyond the number is closed at once, the others stay: who is
//! being served is worth more than who comes, and those who do nothing are gone after ten seconds.
//!
//! **Files.** Each connection is an open file, and a process may have only so many: a log that cannot open its next
//! segment ends the node. So the process asks for as many as it may have, some are kept for the disk, and the numbers
//! above shrink to what is left.
//!
//! What is left out: limits for each address. Behind a proxy all clients have the same.

use std::time::Duration;

use rustix::process::{getrlimit, setrlimit, Resource, Rlimit};

/// What connections on one port may cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Who connects there, for the log: "client" or "peer".
    pub who: &'static str,
    /// Connections at a time.
    pub connections: u64,
    /// From the connection to the end of its first request's header, handshake included.
    pub first_request: Duration,
    /// Between two requests, header included.
    pub idle: Duration,
    /// For how long nothing may be taken of an answer.
    pub stalled: Duration,
}

/// A request's header may not be longer.
pub(super) const HEADER_MAX_BYTES: usize = 64 << 10;
/// Open files that are kept for everything but connections.
const RESERVED_FILES: u64 = 256;
/// As many files as the process asks for, if it may.
const WANTED_FILES: u64 = 65_536;

impl Limits {
    /// What clients may have.
    pub fn clients() -> Limits {
        Limits {
            who: "client",
            connections: 8192,
            first_request: Duration::from_secs(10),
            idle: Duration::from_secs(60),
            stalled: Duration::from_secs(30),
        }
    }

    /// What peers may have. They are idle for longer: what a stream carries is not posted.
    pub fn peers() -> Limits {
        Limits { who: "peer", connections: 4096, idle: Duration::from_secs(300), ..Limits::clients() }
    }

    /// Both, for a process that may have so many open files.
    pub fn for_files(files: u64) -> (Limits, Limits) {
        let (mut clients, mut peers) = (Limits::clients(), Limits::peers());
        let available = files.saturating_sub(RESERVED_FILES);
        if available < clients.connections + peers.connections {
            // Without clients a node is of little use, without peers of none.
            peers.connections = peers.connections.min((available / 3).max(16));
            clients.connections = clients.connections.min(available.saturating_sub(peers.connections).max(16));
        }
        (clients, peers)
    }
}

/// Asks the system for more open files; returns how many there may be.
pub fn raise_file_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    // No limit is none.
    let (Some(current), maximum) = (limit.current, limit.maximum.unwrap_or(u64::MAX)) else { return u64::MAX };
    let wanted = WANTED_FILES.min(maximum);
    if current >= wanted {
        return current;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum }) {
        Ok(()) => wanted,
        Err(error) => {
            log::warn!("cannot raise the limit of open files (ulimit -n) from {current} to {wanted}: {error}");
            current
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_never_take_the_files_that_the_disk_needs() {
        let connections = |files| {
            let (clients, peers) = Limits::for_files(files);
            (clients.connections, peers.connections)
        };
        assert_eq!(connections(u64::MAX), (8192, 4096));
        assert_eq!(connections(20_000), (8192, 4096));
        assert_eq!(connections(1024), (512, 256));
        for files in [1000, 1024, 4096, 12_543] {
            let (clients, peers) = connections(files);
            assert!(clients + peers + RESERVED_FILES <= files, "{files}");
        }
        assert_eq!(connections(0), (16, 16), "it tries");
    }

    #[test]
    fn the_limit_of_open_files_is_raised() {
        let files = raise_file_limit();
        assert_eq!(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX), files);
        assert!(files >= getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX).min(WANTED_FILES));
    }
}
