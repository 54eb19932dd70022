//! The calls that change who is in the cluster and who leads it: their bodies.
//!
//! One member is changed by `POST` or `DELETE` of its id; `POST /_/members` changes several together. Its body is a list
//! of steps in JSON, each about another member:
//!
//! ```json
//! [{"id": 4, "change": "add", "url": "http://127.0.0.1:42379"}, {"id": 2, "change": "remove"}]
//! ```
//!
//! `change` is `add`, `add-learner` and `move`, which need a `url`, or `promote`, `demote` and `remove`, which have none.
//!
//! What is left out: whether a change makes sense. That is the node's business.

use serde::Deserialize;

use super::request::Wish;
use crate::address::PeerUrl;
use crate::node::{Change, Step};

/// A body of one of these calls may not be longer.
pub(super) const BODY_MAX_BYTES: usize = 16 * 1024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WireStep {
    id: u64,
    change: Wish,
    url: Option<String>,
}

/// The step that a member call asks for; the error is what to say about its body.
pub(super) fn step(id: u64, wish: Wish, body: &[u8]) -> Result<Step, String> {
    if wish.needs_url() {
        let url = peer_url(body).map_err(|reason| format!("the body must be the peer URL: {reason}"))?;
        return Ok(with_url(id, wish, url));
    }
    match trimmed(body) {
        b"" => Ok(without_url(id, wish)),
        _ => Err("this call has no body".into()),
    }
}

/// The change that the body of `POST /_/members` describes; the error is what to say about it.
pub(super) fn change(body: &[u8]) -> Result<Change, String> {
    let steps: Vec<WireStep> = serde_json::from_slice(body).map_err(|error| {
        format!("the body must be a JSON list of changes like {{\"id\": 4, \"change\": \"promote\"}}: {error}")
    })?;
    let step = |WireStep { id, change, url }: WireStep| {
        if !super::request::is_member_id(id) {
            return Err(format!("{id} cannot be the id of a member"));
        }
        match (url, change.needs_url()) {
            (Some(url), true) => {
                let url = url.parse().map_err(|error: crate::address::PeerUrlError| error.to_string())?;
                Ok(with_url(id, change, url))
            }
            (None, true) => Err(format!("the change of node {id} needs a \"url\"")),
            (Some(_), false) => Err(format!("the change of node {id} has no \"url\"")),
            (None, false) => Ok(without_url(id, change)),
        }
    };
    Change::of(steps.into_iter().map(step).collect::<Result<_, _>>()?)
}

/// The id in the body of `POST /_/leader`.
pub(super) fn leader(body: &[u8]) -> Result<u64, String> {
    let digits = trimmed(body);
    super::request::member_id(digits).map_err(|reason| format!("the body must be the id of the next leader: {reason}"))
}

fn with_url(id: u64, wish: Wish, url: PeerUrl) -> Step {
    match wish {
        Wish::AddLearner => Step::AddLearner { id, url },
        Wish::Move => Step::Move { id, url },
        _ => Step::Add { id, url },
    }
}

fn without_url(id: u64, wish: Wish) -> Step {
    match wish {
        Wish::Promote => Step::Promote { id },
        Wish::Demote => Step::Demote { id },
        _ => Step::Remove { id },
    }
}

fn peer_url(body: &[u8]) -> Result<PeerUrl, String> {
    let text = std::str::from_utf8(trimmed(body)).map_err(|_| "it is not text".to_string())?;
    text.parse().map_err(|error: crate::address::PeerUrlError| error.to_string())
}

/// `curl -d @file` and `echo | curl -d @-` end with a newline.
fn trimmed(mut body: &[u8]) -> &[u8] {
    while let [rest @ .., b'\r' | b'\n'] = body {
        body = rest;
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(port: u16) -> PeerUrl {
        format!("http://h:{port}").parse().unwrap()
    }

    #[test]
    fn a_peer_url_may_end_with_a_newline() {
        assert!(peer_url(b"http://127.0.0.1:42379").is_ok());
        assert!(peer_url(b"http://127.0.0.1:42379\r\n").is_ok());
        assert!(peer_url(b" http://127.0.0.1:42379").is_err());
        assert!(peer_url(b"\xff").is_err());
        assert!(peer_url(b"").is_err());
    }

    #[test]
    fn one_step_has_a_url_or_no_body() {
        assert_eq!(step(4, Wish::AddLearner, b"http://h:4\n"), Ok(Step::AddLearner { id: 4, url: url(4) }));
        assert_eq!(step(4, Wish::Move, b"http://h:5"), Ok(Step::Move { id: 4, url: url(5) }));
        assert!(step(4, Wish::Add, b"").is_err());
        assert_eq!(step(4, Wish::Promote, b"\n"), Ok(Step::Promote { id: 4 }));
        assert!(step(4, Wish::Demote, b"http://h:4").is_err());
    }

    #[test]
    fn several_steps_are_a_json_list() {
        let body = br#"[{"id": 4, "change": "add", "url": "http://h:4"}, {"id": 5, "change": "add-learner", "url":
            "http://h:5"}, {"id": 1, "change": "remove"}, {"id": 2, "change": "demote"}, {"id": 3, "change": "promote"},
            {"id": 6, "change": "move", "url": "http://h:6"}]"#;
        let steps = vec![
            Step::Add { id: 4, url: url(4) },
            Step::AddLearner { id: 5, url: url(5) },
            Step::Remove { id: 1 },
            Step::Demote { id: 2 },
            Step::Promote { id: 3 },
            Step::Move { id: 6, url: url(6) },
        ];
        assert_eq!(change(body), Change::of(steps));
        for bad in [
            &b""[..],
            b"[]",
            b"{}",
            b"[{\"id\": 4}]",
            b"[{\"id\": 0, \"change\": \"remove\"}]",
            b"[{\"id\": 18446744073709551615, \"change\": \"remove\"}]",
            b"[{\"id\": 4, \"change\": \"delete\"}]",
            b"[{\"id\": 4, \"change\": \"add\"}]",
            b"[{\"id\": 4, \"change\": \"add\", \"url\": \"nowhere\"}]",
            b"[{\"id\": 4, \"change\": \"remove\", \"url\": \"http://h:4\"}]",
            b"[{\"id\": 4, \"change\": \"remove\", \"when\": \"now\"}]",
            b"[{\"id\": 4, \"change\": \"remove\"}, {\"id\": 4, \"change\": \"demote\"}]",
        ] {
            let reason = change(bad).expect_err(&String::from_utf8_lossy(bad));
            assert_eq!(reason.lines().count(), 1, "{reason}");
        }
    }

    #[test]
    fn a_leader_is_an_id() {
        assert_eq!(leader(b"3\n"), Ok(3));
        for bad in [&b""[..], b"0", b"03", b"three", b"+3", b"3 4", b"18446744073709551615"] {
            assert!(leader(bad).is_err(), "{}", bad.escape_ascii());
        }
    }
}
