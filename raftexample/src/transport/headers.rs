//! Names and values that etcd's peers expect on requests, and the check of what they say about themselves.
//!
//! Every request names the cluster, so that a node of another cluster, started with a wrong address, is turned away
//! before its messages do harm; and two versions, its own and the oldest it can talk to. We present ourselves as the
//! version whose protocol this is, 3.4, because a peer compares the numbers before it reads anything else.

use hyper::header::{HeaderMap, HeaderValue};

/// Names the cluster, in hexadecimal digits.
pub const CLUSTER_ID: &str = "x-etcd-cluster-id";
/// The sender's id, in hexadecimal digits.
pub const SERVER_FROM: &str = "x-server-from";
/// The sender's version.
pub const SERVER_VERSION: &str = "x-server-version";
/// The oldest version that the sender can talk to.
pub const MIN_CLUSTER_VERSION: &str = "x-min-cluster-version";
/// Sent by this program only: "answer 403 if I was removed". A process of the original would end at once, so nobody
/// gets that answer who did not ask for it.
pub const TELL_REMOVED: &str = "x-raftexample-tell-removed";

/// With the 403: the index of the entry that removed the sender, in decimal digits.
pub const REMOVED_AT: &str = "x-raftexample-removed-at";

/// The cluster id of the original raftexample.
pub const CLUSTER_ID_VALUE: &str = "1000";
/// The version of the protocol that this is.
pub const OWN_VERSION: &str = "3.4.23";
/// The oldest version we can talk to.
pub const OWN_MIN_VERSION: &str = "3.0.0";

/// Why a request is turned away, in etcd's words; all with status 412.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// One side is too old for the other, or does not say how old it is.
    Version,
    /// It belongs to another cluster.
    Cluster,
}

impl Mismatch {
    /// The body of the answer.
    pub fn text(self) -> &'static str {
        match self {
            Mismatch::Version => "incompatible version",
            Mismatch::Cluster => "cluster ID mismatch",
        }
    }
}

/// Checks version, then cluster, as etcd does.
pub fn check(headers: &HeaderMap) -> Result<(), Mismatch> {
    let version = |name: &str| match headers.get(name) {
        // Versions before 2.1 did not say.
        None => Some((2, 0)),
        Some(value) => major_minor(value),
    };
    let sender = version(SERVER_VERSION).ok_or(Mismatch::Version)?;
    let sender_min = version(MIN_CLUSTER_VERSION).ok_or(Mismatch::Version)?;
    if sender < (3, 0) || sender_min > (3, 4) {
        return Err(Mismatch::Version);
    }
    match headers.get(CLUSTER_ID) {
        Some(value) if value == CLUSTER_ID_VALUE => Ok(()),
        _ => Err(Mismatch::Cluster),
    }
}

fn major_minor(value: &HeaderValue) -> Option<(u64, u64)> {
    let mut numbers = value.to_str().ok()?.split('.');
    let mut number = || numbers.next()?.parse::<u64>().ok();
    Some((number()?, number()?))
}

/// The sender's id; `None` if it does not say.
pub fn sender(headers: &HeaderMap) -> Option<u64> {
    u64::from_str_radix(headers.get(SERVER_FROM)?.to_str().ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(version: Option<&str>, min: Option<&str>, cluster: Option<&str>) -> Result<(), Mismatch> {
        let mut headers = HeaderMap::new();
        for (name, value) in [(SERVER_VERSION, version), (MIN_CLUSTER_VERSION, min), (CLUSTER_ID, cluster)] {
            if let Some(value) = value {
                headers.insert(name, HeaderValue::from_str(value).unwrap());
            }
        }
        check(&headers)
    }

    #[test]
    fn the_verdicts_are_etcds() {
        let cluster = Some("1000");
        assert_eq!(verdict(Some("3.4.23"), Some("3.0.0"), cluster), Ok(()));
        assert_eq!(verdict(Some("3.0.0"), Some("3.0.0"), cluster), Ok(()));
        assert_eq!(verdict(Some("9.9.9"), Some("3.0.0"), cluster), Ok(()));
        assert_eq!(verdict(Some("3.4.23"), None, cluster), Ok(()), "no minimum means an old one");
        assert_eq!(verdict(Some("2.3.0"), Some("3.0.0"), cluster), Err(Mismatch::Version));
        assert_eq!(verdict(Some("9.9.9"), Some("3.5.0"), cluster), Err(Mismatch::Version));
        assert_eq!(verdict(None, None, cluster), Err(Mismatch::Version), "no version means a very old one");
        assert_eq!(verdict(Some("new"), Some("3.0.0"), cluster), Err(Mismatch::Version));
        assert_eq!(verdict(Some("3.4.23"), Some("3.0.0"), Some("0x1000")), Err(Mismatch::Cluster));
        assert_eq!(verdict(Some("3.4.23"), Some("3.0.0"), None), Err(Mismatch::Cluster));
        assert_eq!(verdict(Some("2.3.0"), None, None), Err(Mismatch::Version), "the version is looked at first");
    }

    #[test]
    fn ids_are_hexadecimal() {
        let mut headers = HeaderMap::new();
        assert_eq!(sender(&headers), None);
        headers.insert(SERVER_FROM, HeaderValue::from_static("a"));
        assert_eq!(sender(&headers), Some(10));
        headers.insert(SERVER_FROM, HeaderValue::from_static("0x1"));
        assert_eq!(sender(&headers), None);
    }
}
