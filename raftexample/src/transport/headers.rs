//! Names and values that etcd's peers expect on requests, and the check of what they say about themselves.
//!
//! Every request names the cluster, so that a node of another cluster, started with a wrong address, is turned away
//! before its messages do harm; and two versions, its own and the oldest it can talk to. We present ourselves as the
//! version whose protocol this is, 3.4, because a peer compares the numbers before it reads anything else. The original
//! drains a stream whose answer names no version or a low one without reading it, and ends its process over one that it
//! cannot parse.

use std::fmt::Write as _;

use hyper::header::{HeaderMap, HeaderName, HeaderValue, HOST};
use hyper::{Method, Request, Uri};

use crate::address::PeerUrl;

/// Names the cluster, in hexadecimal digits.
pub const CLUSTER_ID: &str = "x-etcd-cluster-id";
/// The sender's id, in hexadecimal digits.
pub const SERVER_FROM: &str = "x-server-from";
/// The sender's version.
pub const SERVER_VERSION: &str = "x-server-version";
/// The oldest version that the sender can talk to.
pub const MIN_CLUSTER_VERSION: &str = "x-min-cluster-version";
/// Whom the sender wants to dial, in hexadecimal digits; on streams only.
pub const RAFT_TO: &str = "x-raft-to";
/// Sent by this program only: "say so if I was removed" (403 to a post, 410 to a stream). A process of the original would
/// end at once, so nobody gets that answer who did not ask for it.
pub const TELL_REMOVED: &str = "x-raftexample-tell-removed";

/// With that answer: the index of the entry that removed the sender, in decimal digits.
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
    parse_id(headers.get(SERVER_FROM)?.to_str().ok()?)
}

/// Reads an id as paths and headers have it: hexadecimal digits and nothing else.
pub fn parse_id(text: &str) -> Option<u64> {
    // The standard library would take a sign.
    text.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| u64::from_str_radix(text, 16).ok())?
}

/// With which entry the peer says that we were removed, if it says so.
pub fn removed_at(headers: &HeaderMap) -> Option<u64> {
    headers.get(REMOVED_AT)?.to_str().ok()?.parse().ok()
}

/// Whether the answer to a stream comes from somebody who speaks this protocol; says why not.
pub fn check_answer(headers: &HeaderMap) -> Result<(), &'static str> {
    match headers.get(SERVER_VERSION).map(major_minor) {
        Some(Some(version)) if version >= (3, 0) => Ok(()),
        Some(Some(_)) => Err("its version is too old"),
        Some(None) => Err("its version cannot be read"),
        None => Err("it does not say its version"),
    }
}

/// A request from this node to the peer at `url`, with everything that any of them has.
pub fn request<B>(method: Method, path: &str, url: &PeerUrl, own_id: u64, body: B) -> Request<B> {
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = Uri::try_from(path).unwrap_or_default();
    let mut from = String::new();
    // Writing to a string does not fail.
    let _ = write!(from, "{own_id:x}");
    let authority = url.authority();
    let all = [
        (HOST.as_str(), authority.as_str()),
        (CLUSTER_ID, CLUSTER_ID_VALUE),
        (SERVER_FROM, from.as_str()),
        (SERVER_VERSION, OWN_VERSION),
        (MIN_CLUSTER_VERSION, OWN_MIN_VERSION),
        (TELL_REMOVED, "1"),
    ];
    for (name, value) in all {
        set(request.headers_mut(), name, value);
    }
    request
}

/// Sets a header. Every value here is made of digits and names, which always are valid.
pub fn set(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(HeaderName::from_static(name), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http_body_util::Full;

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
        for (text, id) in [("ff", Some(255)), ("+1", None), ("-1", None), ("", None), ("g", None)] {
            assert_eq!(parse_id(text), id, "{text}");
        }
        assert_eq!(parse_id("10000000000000000"), None, "64 bits");
    }

    #[test]
    fn a_request_says_who_we_are() {
        let url = "http://127.0.0.1:12379".parse().unwrap();
        let request = request(Method::GET, "/raft/stream/message/a", &url, 10, Full::<Bytes>::default());
        assert_eq!(request.uri().path(), "/raft/stream/message/a");
        let value = |name: &str| request.headers().get(name).unwrap().to_str().unwrap();
        assert_eq!((value("host"), value(SERVER_FROM)), ("127.0.0.1:12379", "a"));
        assert_eq!(check(request.headers()), Ok(()));
    }

    #[test]
    fn an_answer_must_name_a_version_that_we_know_how_to_read() {
        let verdict = |version: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            version.map(|version| headers.insert(SERVER_VERSION, HeaderValue::from_static(version)));
            check_answer(&headers).is_ok()
        };
        assert!(verdict(Some("3.4.23")) && verdict(Some("3.6.5")) && verdict(Some("4.0.0")));
        assert!(!verdict(Some("2.3.0")) && !verdict(Some("0.1")) && !verdict(Some("new")) && !verdict(None));
    }
}
