//! Ports that a child process can bind a moment later, and again after it was killed.
//!
//! "Bind to port 0, note the number, close" leaves a gap in which the system may hand the same port to somebody else,
//! as the local end of an outgoing connection for instance. So the port is bound, connected to and closed from
//! the listening side first: that leaves it in TIME_WAIT, in which the system gives it to nobody who does not name it,
//! while a server that names it (with `SO_REUSEADDR`, as every Rust listener does) gets it at once.

use std::net::{Ipv4Addr, TcpListener, TcpStream};

/// A TCP port on 127.0.0.1 that nobody uses and that the system will not give to anybody else for a minute.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("the system has a free port");
    let port = listener.local_addr().expect("a bound socket has an address").port();
    linger(&listener, port);
    port
}

/// Leaves `port` in TIME_WAIT: the side that closes first keeps the connection there.
fn linger(listener: &TcpListener, port: u16) {
    let Ok(client) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else { return };
    if let Ok((accepted, _)) = listener.accept() {
        drop(accepted);
    }
    drop(client);
}

/// A base port for the demo, such that all of `offsets` above it are free too.
///
/// # Panics
/// When a hundred attempts find no such port.
pub fn free_base_port(offsets: &[u16]) -> u16 {
    let highest = offsets.iter().copied().max().unwrap_or(0);
    for _ in 0..100 {
        let Some(base) = low_port(u16::MAX - highest) else { continue };
        let listeners: Vec<Option<(u16, TcpListener)>> = offsets
            .iter()
            .map(|offset| {
                let port = base + offset;
                TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok().map(|listener| (port, listener))
            })
            .collect();
        if listeners.iter().all(Option::is_some) {
            for (port, listener) in listeners.iter().flatten() {
                linger(listener, *port);
            }
            return base;
        }
    }
    panic!("found no base port with all of {offsets:?} above it free");
}

/// A port from the system, moved below `limit` and out of the range that it hands out itself.
fn low_port(limit: u16) -> Option<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).ok()?;
    let port = listener.local_addr().ok()?.port();
    Some(10_000 + port % limit.checked_sub(10_000)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_free_port_can_be_bound_at_once_and_is_given_once() {
        let ports: Vec<u16> = (0..50).map(|_| free_port()).collect();
        let different: std::collections::BTreeSet<&u16> = ports.iter().collect();
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
}
