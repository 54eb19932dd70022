//! Ports that a child process can bind a moment later, and again after it was killed.
//!
//! "Bind to port 0, note the number, close" leaves a gap in which the system may hand the same port to somebody else,
//! as the local end of an outgoing connection for instance, and so does every moment in which a node is dead. So ports are
//! taken from below the range that the system hands out itself.
//!
//! Where there is no room below, they lie anywhere. A port is bound, connected to and closed from the listening side first:
//! that leaves it in TIME_WAIT, in which the system hardly gives it to anybody who does not name it (on the loopback device
//! it may, after a second), while a server that names it (with `SO_REUSEADDR`, as every Rust listener does) gets it at once.

use std::collections::hash_map::RandomState;
use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hasher};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// A TCP port that nobody uses, and that this function gives only once in a process.
///
/// # Panics
/// When all ports have been given.
pub fn free_port() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    for _ in 0..1000 {
        let port = free_base_port(&[0]);
        if GIVEN.lock().unwrap_or_else(PoisonError::into_inner).insert(port) {
            return port;
        }
    }
    panic!("no port is left that was not given before");
}

/// Leaves `port` in TIME_WAIT: the side that closes first keeps the connection there.
fn linger(listener: &TcpListener, port: u16) {
    let Ok(client) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else { return };
    if let Ok((accepted, _)) = listener.accept() {
        drop(accepted);
    }
    drop(client);
}

/// The lowest port that needs no privilege.
const LOWEST_PORT: u16 = 1024;

/// A port, such that all of `offsets` above it are free too, and none of them is a port that the
/// system gives to outgoing connections. (Where its range begins so low that there is no room below, the ports lie
/// anywhere, and lingering has to do.)
///
/// # Panics
/// When a hundred attempts find no such port.
pub fn free_base_port(offsets: &[u16]) -> u16 {
    let highest = offsets.iter().copied().max().unwrap_or(0);
    let bases = bases_below(lowest_port_of_the_system().unwrap_or(u16::MAX), highest)
        .or_else(|| bases_below(u16::MAX, highest))
        .expect("the offsets are small enough for ports");
    for _ in 0..100 {
        let random = RandomState::new().build_hasher().finish();
        let base = bases.start + (random % bases.len() as u64) as u16;
        // On all addresses: a node may serve on all of them.
        let listeners: Option<Vec<(u16, TcpListener)>> = offsets
            .iter()
            .map(|offset| base + offset)
            .map(|port| Some((port, TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).ok()?)))
            .collect();
        if let Some(listeners) = listeners {
            for (port, listener) in &listeners {
                linger(listener, *port);
            }
            return base;
        }
    }
    panic!("found no base port with all of {offsets:?} above it free");
}

/// The base ports for which base + `highest` stays below `limit`, if there are any.
fn bases_below(limit: u16, highest: u16) -> Option<Range<u16>> {
    let bases = LOWEST_PORT..limit.checked_sub(highest)?;
    (!bases.is_empty()).then_some(bases)
}

/// Where the range begins from which the system takes ports for outgoing connections and for those who ask for port 0.
fn lowest_port_of_the_system() -> Option<u16> {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    range.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_free_port_can_be_bound_at_once_and_is_given_once() {
        let ports: Vec<u16> = (0..50).map(|_| free_port()).collect();
        let different: BTreeSet<&u16> = ports.iter().collect();
        assert_eq!(different.len(), ports.len());
        for port in ports {
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("a free port is free");
        }
    }

    #[test]
    fn a_base_port_has_all_of_its_ports_free() {
        let offsets = [0, 1, 10_000, 20_001];
        let base = free_base_port(&offsets);
        for offset in offsets {
            TcpListener::bind((Ipv4Addr::LOCALHOST, base + offset)).expect("a free port is free");
        }
    }

    #[test]
    fn base_ports_leave_room_for_the_highest_and_stay_below_the_limit() {
        assert_eq!(bases_below(32_768, 30_001), Some(1024..2767));
        assert_eq!(bases_below(32_768, 31_743), Some(1024..1025));
        assert_eq!(bases_below(32_768, 31_744), None);
        assert_eq!(bases_below(1024, 30_001), None);
        // Wherever there is room, every port of a group lies below the system's range.
        if let Some(lowest) = lowest_port_of_the_system().filter(|lowest| bases_below(*lowest, 20_001).is_some()) {
            for _ in 0..20 {
                assert!(free_base_port(&[0, 20_001]) + 20_001 < lowest);
            }
        }
    }
}
