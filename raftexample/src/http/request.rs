//! What a client asks, from method, path and query: a pure function, so that every rule of the API has a test here.
//!
//! **Keys.** A key is the request path, percent-decoded, with its leading slash: any bytes, the empty path `/` included.
//! `%2F` is a slash like any other, `+` is a plus sign, dots and double slashes mean nothing special. What is not valid
//! percent-encoding is refused rather than guessed at. The decoded path is what counts everywhere: no spelling of a
//! reserved path is a key.
//!
//! **Numbers.** A path of decimal digits names a member to `POST` and `DELETE`, as it did in the original; a query says
//! what becomes of it. To `PUT` and `GET` it is a key like any other.
//!
//! **Reserved.** No key begins with `/_/`: the node's own pages live there.
//!
//! **Queries.** `GET` knows `read=local` and `read=linearizable`; `POST` of a member knows `learner=true`,
//! `promote=true`, `demote=true` and `move=true`. Anything else is refused: a misspelt wish for a consistent read must
//! not be answered by another kind of read.

use hyper::Method;
use serde::Deserialize;

/// Paths that begin like this are pages of the node, never keys.
pub const RESERVED_PREFIX: &str = "/_/";
/// The page that says how the node is.
pub const STATUS_PATH: &str = "/_/status";
/// The page that says who is a member; `POST` changes several at once.
pub const MEMBERS_PATH: &str = "/_/members";
/// `POST` hands over leadership.
pub const LEADER_PATH: &str = "/_/leader";
/// The page for Prometheus.
pub const METRICS_PATH: &str = "/_/metrics";
/// The page that says whether the process works.
pub const LIVE_PATH: &str = "/_/livez";
/// The page that says whether the node can serve clients.
pub const READY_PATH: &str = "/_/readyz";
/// A key may not be longer.
pub const KEY_MAX_BYTES: usize = 4096;

/// A request that makes sense so far; bodies are still to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// Store the body under this key.
    Put {
        /// The key.
        key: Vec<u8>,
    },
    /// Answer with the value of this key (HEAD: with its headers).
    Get {
        /// The key.
        key: Vec<u8>,
        /// From this node's own copy, which may be behind.
        local: bool,
    },
    /// Remove this key.
    DeleteKey {
        /// The key.
        key: Vec<u8>,
    },
    /// Change one member.
    ChangeMember {
        /// Its id, not 0.
        id: u64,
        /// What becomes of it.
        wish: Wish,
    },
    /// Change several members together; the body says how.
    ChangeMembers,
    /// Say who is a member.
    Members,
    /// Hand leadership over to the member whose id is the body.
    Transfer,
    /// Say how the node is.
    Status,
    /// Say what was counted.
    Metrics,
    /// Say whether the process works.
    Live,
    /// Say whether the node can serve clients.
    Ready,
}

impl Call {
    /// What it asks, as [metrics](crate::metrics::ASKED) call it.
    pub fn asked(&self) -> &'static str {
        match self {
            Call::Put { .. } => "put",
            Call::Get { local: false, .. } => "get",
            Call::Get { local: true, .. } => "get-local",
            Call::DeleteKey { .. } => "delete",
            Call::Members | Call::Status | Call::Metrics | Call::Live | Call::Ready => "page",
            _ => "member",
        }
    }
}

/// What a client wants of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wish {
    /// Add a voter; the body is its peer URL.
    Add,
    /// Add a learner; the body is its peer URL.
    AddLearner,
    /// Let a learner vote.
    Promote,
    /// Let a voter learn.
    Demote,
    /// Another address; the body is its peer URL.
    Move,
    /// Remove it.
    Remove,
}

impl Wish {
    /// Whether an address belongs to it.
    pub fn needs_url(self) -> bool {
        matches!(self, Wish::Add | Wish::AddLearner | Wish::Move)
    }
}

/// Why a request makes no sense: the status code, what to say, and what would be allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nonsense {
    /// 400, 404, 405 or 414.
    pub status: u16,
    /// One line.
    pub text: String,
    /// The `Allow` header of a 405.
    pub allow: Option<&'static str>,
}

/// Methods for keys and members.
pub const KEY_METHODS: &str = "GET, HEAD, PUT, POST, DELETE";
/// Methods for pages.
pub const PAGE_METHODS: &str = "GET, HEAD";
/// Methods for the page of members.
const MEMBERS_METHODS: &str = "GET, HEAD, POST";
/// Methods for leadership.
const LEADER_METHODS: &str = "POST";

fn nonsense(status: u16, text: impl Into<String>) -> Nonsense {
    Nonsense { status, text: text.into(), allow: None }
}

/// Reads the request line: `path` and `query` as they were sent.
pub fn parse(method: &Method, path: &str, query: Option<&str>) -> Result<Call, Nonsense> {
    let failed = |reason: &'static str| nonsense(400, format!("Failed on {method}: {reason}"));
    let key = percent_decode(path.as_bytes()).ok_or_else(|| failed("% must be followed by two hexadecimal digits"))?;
    if key.starts_with(RESERVED_PREFIX.as_bytes()) {
        return page(method, &key, query);
    }
    let verb = match *method {
        Method::GET | Method::HEAD => Verb::Get,
        Method::PUT => Verb::Put,
        Method::POST => Verb::Post,
        Method::DELETE => Verb::Delete,
        _ => {
            let text = "Method not allowed".to_string();
            return Err(Nonsense { status: 405, text, allow: Some(KEY_METHODS) });
        }
    };
    let mut wish = Wish::Add;
    let local = match (verb, query.unwrap_or("")) {
        (_, "") | (Verb::Get, "read=linearizable") => false,
        (Verb::Get, "read=local") => true,
        (Verb::Post, query) => {
            wish = match query {
                "learner=true" => Wish::AddLearner,
                "promote=true" => Wish::Promote,
                "demote=true" => Wish::Demote,
                "move=true" => Wish::Move,
                _ => return Err(failed("the query may be learner, promote, demote or move, with =true behind it")),
            };
            false
        }
        (Verb::Get, _) => return Err(failed("the query may be read=local or read=linearizable, and nothing else")),
        _ => return Err(failed("there may be no query; a question mark in a key is written %3F")),
    };
    if key.len() > KEY_MAX_BYTES {
        return Err(nonsense(414, format!("Failed on {method}: a key has at most {KEY_MAX_BYTES} bytes")));
    }
    let digits = key.strip_prefix(b"/").filter(|rest| !rest.is_empty() && rest.iter().all(u8::is_ascii_digit));
    match (verb, digits) {
        (Verb::Get, _) => Ok(Call::Get { key, local }),
        (Verb::Put, _) => Ok(Call::Put { key }),
        (Verb::Post, Some(digits)) => Ok(Call::ChangeMember { id: member_id(digits).map_err(failed)?, wish }),
        (Verb::Post, None) => Err(failed("the path must be the decimal id of a member, like /4")),
        (Verb::Delete, Some(digits)) => {
            Ok(Call::ChangeMember { id: member_id(digits).map_err(failed)?, wish: Wish::Remove })
        }
        (Verb::Delete, None) => Ok(Call::DeleteKey { key }),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verb {
    Get,
    Put,
    Post,
    Delete,
}

fn page(method: &Method, path: &[u8], query: Option<&str>) -> Result<Call, Nonsense> {
    let reads = matches!(*method, Method::GET | Method::HEAD);
    let posts = *method == Method::POST;
    let (call, allow) = match std::str::from_utf8(path) {
        Ok(STATUS_PATH) => (reads.then_some(Call::Status), PAGE_METHODS),
        Ok(METRICS_PATH) => (reads.then_some(Call::Metrics), PAGE_METHODS),
        Ok(LIVE_PATH) => (reads.then_some(Call::Live), PAGE_METHODS),
        Ok(READY_PATH) => (reads.then_some(Call::Ready), PAGE_METHODS),
        Ok(MEMBERS_PATH) if posts => (Some(Call::ChangeMembers), MEMBERS_METHODS),
        Ok(MEMBERS_PATH) => (reads.then_some(Call::Members), MEMBERS_METHODS),
        Ok(LEADER_PATH) => (posts.then_some(Call::Transfer), LEADER_METHODS),
        _ => {
            let text = format!("there is no such page; {RESERVED_PREFIX} is no key, see {STATUS_PATH}");
            return Err(nonsense(404, text));
        }
    };
    match (call, query) {
        (None, _) => Err(Nonsense { status: 405, text: "Method not allowed".into(), allow: Some(allow) }),
        (Some(call), None | Some("")) => Ok(call),
        (Some(_), Some(_)) => Err(nonsense(400, format!("Failed on {method}: this page knows no query"))),
    }
}

/// The original read `010` as octal, 8; others would read 10. Nobody means either.
pub(super) fn member_id(digits: &[u8]) -> Result<u64, &'static str> {
    if digits.starts_with(b"0") || digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err("a member id is a decimal number from 1, without leading zeros");
    }
    std::str::from_utf8(digits)
        .ok()
        .and_then(|digits| digits.parse::<u64>().ok())
        .filter(|&id| is_member_id(id))
        .ok_or("there is no member id as large as that")
}

/// Whether a member can have this id: 0 is nobody, and the last two stand for threads of a node in Raft's own messages.
pub(super) fn is_member_id(id: u64) -> bool {
    (1..u64::MAX - 1).contains(&id)
}

/// `None` if a `%` is not followed by two hexadecimal digits.
fn percent_decode(path: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut bytes = path.iter().copied();
    while let Some(byte) = bytes.next() {
        decoded.push(if byte == b'%' { hex(bytes.next()?)? << 4 | hex(bytes.next()?)? } else { byte });
    }
    Some(decoded)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(method: Method, path: &str, query: Option<&str>) -> u16 {
        parse(&method, path, query).expect_err(path).status
    }

    fn get(key: &[u8], local: bool) -> Result<Call, Nonsense> {
        Ok(Call::Get { key: key.to_vec(), local })
    }

    #[test]
    fn a_key_is_the_decoded_path() {
        assert_eq!(parse(&Method::GET, "/", None), get(b"/", false));
        assert_eq!(parse(&Method::GET, "/a%20b", None), get(b"/a b", false));
        assert_eq!(parse(&Method::GET, "/%00%ff%FF", None), get(b"/\0\xff\xff", false));
        assert_eq!(parse(&Method::GET, "//a/../b+c", None), get(b"//a/../b+c", false));
        assert_eq!(parse(&Method::PUT, "/a%3Fb", None), Ok(Call::Put { key: b"/a?b".to_vec() }));
        assert_eq!(parse(&Method::DELETE, "/a", None), Ok(Call::DeleteKey { key: b"/a".to_vec() }));
        for path in ["/%", "/%2", "/%zz", "/a%+1"] {
            assert_eq!(status(Method::GET, path, None), 400, "{path}");
        }
        let longest = format!("/{}", "a".repeat(KEY_MAX_BYTES - 1));
        assert!(parse(&Method::PUT, &longest, None).is_ok());
        assert_eq!(status(Method::PUT, &format!("{longest}a"), None), 414);
    }

    #[test]
    fn only_a_get_has_a_query_and_only_this_one() {
        assert_eq!(parse(&Method::GET, "/k", Some("read=local")), get(b"/k", true));
        assert_eq!(parse(&Method::HEAD, "/k", Some("read=local")), get(b"/k", true));
        assert_eq!(parse(&Method::GET, "/k", Some("read=linearizable")), get(b"/k", false));
        assert_eq!(parse(&Method::GET, "/k", Some("")), get(b"/k", false));
        for query in ["x=1", "read", "read=", "read=Local", "read=local&", "read=local&read=local", "read=linearisable"]
        {
            assert_eq!(status(Method::GET, "/k", Some(query)), 400, "{query}");
        }
        assert_eq!(status(Method::PUT, "/k", Some("read=local")), 400);
        assert_eq!(status(Method::DELETE, "/4", Some("force")), 400);
    }

    #[test]
    fn numbers_are_members_to_post_and_delete() {
        let change = |wish| Ok(Call::ChangeMember { id: 4, wish });
        assert_eq!(parse(&Method::POST, "/4", None), change(Wish::Add));
        assert_eq!(parse(&Method::DELETE, "/4", None), change(Wish::Remove));
        assert_eq!(parse(&Method::DELETE, "/%34", None), change(Wish::Remove));
        for (query, wish) in [
            ("learner=true", Wish::AddLearner),
            ("promote=true", Wish::Promote),
            ("demote=true", Wish::Demote),
            ("move=true", Wish::Move),
        ] {
            assert_eq!(parse(&Method::POST, "/4", Some(query)), change(wish));
            assert_eq!(status(Method::DELETE, "/4", Some(query)), 400);
            assert_eq!(status(Method::POST, "/x", Some(query)), 400);
        }
        for query in ["learner", "learner=false", "learner=true&promote=true", "read=local"] {
            assert_eq!(status(Method::POST, "/4", Some(query)), 400, "{query}");
        }
        assert_eq!(parse(&Method::GET, "/4", None), get(b"/4", false));
        assert_eq!(parse(&Method::DELETE, "/4a", None), Ok(Call::DeleteKey { key: b"/4a".to_vec() }));
        assert_eq!(parse(&Method::DELETE, "/", None), Ok(Call::DeleteKey { key: b"/".to_vec() }));
        for path in ["/0", "/010", "/18446744073709551614", "/18446744073709551615", "/18446744073709551616"] {
            assert_eq!(status(Method::POST, path, None), 400, "{path}");
            assert_eq!(status(Method::DELETE, path, None), 400, "{path}");
        }
        for path in ["/", "/x", "/0x4", "/-1", "/4/5"] {
            assert_eq!(status(Method::POST, path, None), 400, "{path}");
        }
    }

    #[test]
    fn no_spelling_of_a_page_is_a_key() {
        assert_eq!(parse(&Method::GET, "/_/status", None), Ok(Call::Status));
        assert_eq!(parse(&Method::HEAD, "/%5f/status", None), Ok(Call::Status));
        assert_eq!(status(Method::GET, "/_/status", Some("x")), 400);
        assert_eq!(status(Method::PUT, "/_/key", None), 404);
        assert_eq!(status(Method::PUT, "/%5F%2Fkey", None), 404);
        let refused = parse(&Method::DELETE, "/_/status", None).unwrap_err();
        assert_eq!((refused.status, refused.allow), (405, Some(PAGE_METHODS)));
        assert_eq!(parse(&Method::GET, "/_/members", None), Ok(Call::Members));
        assert_eq!(parse(&Method::POST, "/_/members", None), Ok(Call::ChangeMembers));
        assert_eq!(parse(&Method::DELETE, "/_/members", None).unwrap_err().allow, Some(MEMBERS_METHODS));
        assert_eq!(parse(&Method::POST, "/_/leader", None), Ok(Call::Transfer));
        assert_eq!(parse(&Method::GET, "/_/leader", None).unwrap_err().allow, Some(LEADER_METHODS));
        assert_eq!(parse(&Method::PUT, "/_", None), Ok(Call::Put { key: b"/_".to_vec() }));
    }

    #[test]
    fn other_methods_are_told_which_there_are() {
        for method in [Method::PATCH, Method::OPTIONS, Method::TRACE, Method::from_bytes(b"FROB").unwrap()] {
            let refused = parse(&method, "/k", None).unwrap_err();
            assert_eq!((refused.status, refused.allow), (405, Some(KEY_METHODS)));
        }
    }
}
