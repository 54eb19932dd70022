//! Where a peer listens: `http://host:port` or `https://host:port`, and nothing more.
//!
//! A peer URL comes from the command line, from an HTTP body, from the log and from snapshots. It is parsed once, at the
//! border, into a [`PeerUrl`]; whoever holds one need not check again, and what is proposed to the cluster is known to be
//! usable. What the original accepted unchecked, and then crashed on at every restart, is refused here: a missing port,
//! a path, another scheme.
//!
//! What is left out: several URLs for one peer.

use std::fmt;
use std::str::FromStr;

/// The address of a peer, parsed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerUrl {
    /// It speaks TLS.
    secure: bool,
    /// A name, an IPv4 address, or an IPv6 address without its brackets; never empty.
    host: String,
    /// Never 0.
    port: u16,
}

/// Why a text is not a peer URL; the text of the error contains it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerUrlError {
    text: String,
    problem: &'static str,
}

impl fmt::Display for PeerUrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\" is not a peer URL like http://127.0.0.1:12379: {}", self.text.escape_debug(), self.problem)
    }
}

impl std::error::Error for PeerUrlError {}

impl PeerUrl {
    /// Whether it is spoken to in TLS.
    pub fn is_secure(&self) -> bool {
        self.secure
    }

    /// `http` or `https`.
    pub fn scheme(&self) -> &'static str {
        if self.secure {
            "https"
        } else {
            "http"
        }
    }

    /// The host, as the resolver wants it (an IPv6 address has no brackets).
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The TCP port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `host:port`, as the `Host` header wants it (an IPv6 address has brackets).
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for PeerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme(), self.authority())
    }
}

impl FromStr for PeerUrl {
    type Err = PeerUrlError;

    fn from_str(text: &str) -> Result<PeerUrl, PeerUrlError> {
        parse(text).map_err(|problem| PeerUrlError { text: text.chars().take(200).collect(), problem })
    }
}

fn parse(text: &str) -> Result<PeerUrl, &'static str> {
    let (secure, authority) = match (text.strip_prefix("http://"), text.strip_prefix("https://")) {
        (Some(authority), _) => (false, authority),
        (None, Some(authority)) => (true, authority),
        (None, None) => return Err("it must begin with http:// or https://"),
    };
    if authority.contains(['/', '?', '#']) {
        return Err("nothing may follow the port");
    }
    let (host, port) = authority.rsplit_once(':').ok_or("the port is missing")?;
    let host = match host.strip_prefix('[') {
        Some(bracketed) => {
            let address = bracketed.strip_suffix(']').ok_or("the bracket is not closed")?;
            address.parse::<std::net::Ipv6Addr>().map_err(|_| "there is no IPv6 address in the brackets")?;
            address
        }
        None => host,
    };
    let is_name = |host: &str| host.chars().all(|char| char.is_ascii_alphanumeric() || matches!(char, '.' | '-' | '_'));
    if host.is_empty() {
        return Err("the host is missing");
    }
    if !host.contains(':') && !is_name(host) {
        return Err("the host is neither a name nor an address");
    }
    if host.contains(':') && !authority.starts_with('[') {
        return Err("an IPv6 address must stand in brackets");
    }
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    match port.parse::<u16>() {
        Ok(port) if digits && port > 0 => Ok(PeerUrl { secure, host: host.to_string(), port }),
        _ => Err("the port must be a number from 1 to 65535"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_a_peer_url() {
        for (text, host, port) in [
            ("http://127.0.0.1:12379", "127.0.0.1", 12379),
            ("http://node-1.example.org:1", "node-1.example.org", 1),
            ("http://[::1]:65535", "::1", 65535),
            ("http://raft_1:80", "raft_1", 80),
            ("https://node-1.example.org:443", "node-1.example.org", 443),
        ] {
            let url: PeerUrl = text.parse().unwrap();
            assert_eq!((url.host(), url.port()), (host, port));
            assert_eq!(url.is_secure(), text.starts_with("https:"));
            assert_eq!(url.to_string(), text, "it is written as it was read");
        }
    }

    #[test]
    fn what_is_not() {
        for text in [
            "",
            "http://",
            "127.0.0.1:12379",
            "https://",
            "httpss://127.0.0.1:12379",
            "HTTP://127.0.0.1:12379",
            "http://127.0.0.1",
            "http://127.0.0.1:",
            "http://127.0.0.1:0",
            "http://127.0.0.1:+1",
            "http://127.0.0.1:65536",
            "http://127.0.0.1:80/",
            "http://127.0.0.1:80/path",
            "http://127.0.0.1:80?x",
            "http://:80",
            "http://::1:80",
            "http://[::1:80",
            "http://[name]:80",
            "http://user@host:80",
            "http://a b:80",
            "http://127.0.0.1:80\n",
        ] {
            let error = text.parse::<PeerUrl>().expect_err(text);
            assert!(!error.to_string().contains('\n'), "an error is one line: {error}");
        }
    }
}
