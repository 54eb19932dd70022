//! The API for clients: what curl sees.
//!
//! | call | does | answers |
//! |---|---|---|
//! | `PUT /key` | stores the body | 204 once it is committed and applied here |
//! | `GET /key` | reads, linearizable | 200 and the value, 404 |
//! | `GET /key?read=local` | reads this node's copy, which may be behind | 200, 404 |
//! | `DELETE /key` | removes the key | 204 whether or not there was one |
//! | `POST /4` | adds member 4, whose peer URL is the body | 204 once it is applied here, 409 |
//! | `POST /4?learner=true` | adds member 4, which does not vote | 204, 409 |
//! | `POST /4?promote=true` | lets learner 4 vote, if it has nine tenths of the leader's log | 204, 404, 409 |
//! | `POST /4?demote=true` | lets voter 4 learn | 204, 404, 409 |
//! | `POST /4?move=true` | member 4 listens at the peer URL in the body from now on | 204, 404, 409 |
//! | `DELETE /3` | removes member 3 | 204 once it is applied here, 404, 409 |
//! | `POST /_/members` | changes several members together; see `members` | 204 once that is complete, 404, 409 |
//! | `GET /_/members` | who is a member, in which role | 200, JSON |
//! | `POST /_/leader` | hands leadership to the member whose id is the body | 204 once it leads, 404, 409, 504 |
//! | `GET /_/status` | how the node is | 200, JSON |
//! | `GET /_/metrics` | what was counted, for Prometheus | 200, text |
//! | `GET /_/livez` | whether the process works | 200, 503 |
//! | `GET /_/readyz` | whether the node can serve clients | 200, 503 |
//!
//! `HEAD` works wherever `GET` does. [`request`] says what a key is.
//!
//! **What a failure means** is the part that counts, because a client must know whether to try again:
//!
//! | status | meaning |
//! |---|---|
//! | 400, 404, 405, 408, 409, 413, 414 | the request is at fault; nothing was done |
//! | 503 with `Retry-After` | not now: no leader, no quorum, or too much to do, the text says which; nothing was done and nothing will be |
//! | 504 | nobody knows: the write may have been done, or may be done yet; read to find out, or repeat if it does no harm |
//!
//! What is left out: lists of keys, conditions, transactions, watches.

mod health;
mod members;
pub mod request;

use std::convert::Infallible;
use std::pin::pin;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use hyper::header::{HeaderValue, ALLOW, CONTENT_TYPE, EXPECT, RETRY_AFTER};
use hyper::{Request, Response, StatusCode};
use kvstore::Command;
use serde::Serialize;

use crate::node::{NodeHandle, Refused, Step};
use request::{Call, Nonsense, Wish};

/// A value may not be larger.
pub const VALUE_MAX_BYTES: usize = 1 << 20;
/// Of a body that is too large this much is read and thrown away, so that a client that is still sending gets to see
/// the answer instead of a broken connection.
const DRAINED_MAX_BYTES: usize = 16 << 20;
/// A body must arrive within this time.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// The version of the format that Prometheus reads.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

type Answer = Response<Full<Bytes>>;

/// Answers one request of a client.
pub async fn answer(node: NodeHandle, request: Request<Incoming>) -> Result<Answer, Infallible> {
    let uri = request.uri();
    Ok(match request::parse(request.method(), uri.path(), uri.query()) {
        Ok(call) => {
            // A client that asks before it sends need not send in vain.
            let sending = !request.headers().contains_key(EXPECT);
            let (asked, began) = (call.asked(), Instant::now());
            let answer = carry_out(&node, call, request.into_body(), sending).await.unwrap_or_else(|refusal| refusal);
            node.metrics().count_request(asked, answer.status().as_u16(), began.elapsed());
            answer
        }
        Err(Nonsense { status, text, allow }) => {
            let mut answer = line(StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST), &text);
            if let Some(allow) = allow {
                answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
            }
            answer
        }
    })
}

// Both sides of the result are answers: nothing is gained by boxing one.
#[allow(clippy::result_large_err)]
async fn carry_out(node: &NodeHandle, call: Call, body: Incoming, sending: bool) -> Result<Answer, Answer> {
    match call {
        Call::Put { key } => {
            let value = take_body(node, body, VALUE_MAX_BYTES, sending, "PUT").await?;
            node.write(Command::Put { key: key.into(), value }).await.map_err(refusal)?;
            Ok(done())
        }
        Call::DeleteKey { key } => {
            node.write(Command::Delete { key: key.into() }).await.map_err(refusal)?;
            Ok(done())
        }
        Call::Get { key, local } => {
            if !local {
                node.wait_until_current().await.map_err(refusal)?;
            }
            node.local_value(&key).map(value).ok_or_else(|| line(StatusCode::NOT_FOUND, "Failed to GET"))
        }
        Call::ChangeMember { id, wish: Wish::Remove } => {
            node.change_members(Step::Remove { id }.into()).await.map_err(refusal)?;
            Ok(done())
        }
        Call::ChangeMember { id, wish } => {
            let body = take_body(node, body, members::BODY_MAX_BYTES, sending, "POST").await?;
            let step = members::step(id, wish, &body).map_err(bad_post)?;
            node.change_members(step.into()).await.map_err(refusal)?;
            Ok(done())
        }
        Call::ChangeMembers => {
            let body = take_body(node, body, members::BODY_MAX_BYTES, sending, "POST").await?;
            let change = members::change(&body).map_err(bad_post)?;
            node.change_members(change).await.map_err(refusal)?;
            Ok(done())
        }
        Call::Transfer => {
            let body = take_body(node, body, members::BODY_MAX_BYTES, sending, "POST").await?;
            let to = members::leader(&body).map_err(bad_post)?;
            node.transfer_leadership(to).await.map_err(refusal)?;
            Ok(done())
        }
        Call::Members => json(&node.roster().await.map_err(refusal)?),
        Call::Status => json(&node.status().await.map_err(refusal)?),
        Call::Metrics => {
            let mut answer = Response::new(Full::new(Bytes::from(node.metrics_page())));
            answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(METRICS_TYPE));
            Ok(answer)
        }
        Call::Live => Ok(page_of(health::live(node))),
        Call::Ready => Ok(page_of(health::ready(node).await)),
    }
}

fn bad_post(reason: String) -> Answer {
    line(StatusCode::BAD_REQUEST, &format!("Failed on POST: {reason}"))
}

#[allow(clippy::result_large_err)]
fn json(page: &impl Serialize) -> Result<Answer, Answer> {
    let mut text = serde_json::to_string_pretty(page)
        .map_err(|error| line(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()))?;
    text.push('\n');
    let mut answer = Response::new(Full::new(Bytes::from(text)));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(answer)
}

/// Reads a body once there is room for it.
#[allow(clippy::result_large_err)]
async fn take_body(
    node: &NodeHandle,
    body: Incoming,
    max_bytes: usize,
    sending: bool,
    method: &str,
) -> Result<Bytes, Answer> {
    let announced = body.size_hint().upper().and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(usize::MAX);
    match node.room_for_body(announced.min(max_bytes)) {
        Ok(_room) => read_body(body, max_bytes, sending, method).await,
        Err(refused) => {
            if sending {
                // Thrown away as it comes, so that the client gets to see the answer.
                let _ = read_body(body, 0, sending, method).await;
            }
            Err(refusal(refused))
        }
    }
}

/// Reads a body up to its limit. With `draining`, one that is too large is read on for a while before it is refused.
#[allow(clippy::result_large_err)]
async fn read_body<B>(body: B, max_bytes: usize, draining: bool, method: &str) -> Result<Bytes, Answer>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let limit = if draining { DRAINED_MAX_BYTES } else { max_bytes };
    let too_large = || {
        line(StatusCode::PAYLOAD_TOO_LARGE, &format!("Failed on {method}: the body has more than {max_bytes} bytes"))
    };
    if body.size_hint().lower() > limit as u64 {
        return Err(too_large());
    }
    let reading = async {
        let mut body = pin!(Limited::new(body, limit));
        let mut kept = Vec::new();
        let mut length = 0_usize;
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            length = length.saturating_add(data.len());
            if length <= max_bytes {
                kept.push(data);
            }
        }
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>((length <= max_bytes).then_some(kept))
    };
    match tokio::time::timeout(BODY_TIMEOUT, reading).await {
        Ok(Ok(Some(kept))) => Ok(join(kept)),
        Ok(Ok(None)) => Err(too_large()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(line(StatusCode::BAD_REQUEST, &format!("Failed on {method}: the body did not arrive"))),
        Err(_) => Err(line(StatusCode::REQUEST_TIMEOUT, &format!("Failed on {method}: the body takes too long"))),
    }
}

/// One piece; a body that came in one piece is not copied.
fn join(mut pieces: Vec<Bytes>) -> Bytes {
    match pieces.len() {
        0 | 1 => pieces.pop().unwrap_or_default(),
        _ => pieces.concat().into(),
    }
}

/// What to say when the cluster did not do it.
fn refusal(refused: Refused) -> Answer {
    let status = match &refused {
        Refused::NotDone(_) => StatusCode::SERVICE_UNAVAILABLE,
        Refused::Unknown(_) => StatusCode::GATEWAY_TIMEOUT,
        Refused::Change(crate::members::ChangeRefused::NotAMember { .. }) => StatusCode::NOT_FOUND,
        Refused::Change(_) => StatusCode::CONFLICT,
    };
    let mut answer = line(status, &refused.to_string());
    if status == StatusCode::SERVICE_UNAVAILABLE {
        answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    answer
}

fn page_of(health: health::Health) -> Answer {
    line(if health.good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, health.text.trim_end())
}

fn done() -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::NO_CONTENT;
    answer
}

fn value(value: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(value));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    answer
}

fn line(status: StatusCode, text: &str) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(format!("{text}\n"))));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::members::ChangeRefused;

    #[test]
    fn a_refusal_says_whether_to_try_again() {
        let answer = refusal(Refused::NotDone("there is no leader"));
        assert_eq!(answer.status(), 503);
        assert!(answer.headers().contains_key(RETRY_AFTER));
        let answer = refusal(Refused::Unknown("the leader changed"));
        assert_eq!(answer.status(), 504);
        assert!(!answer.headers().contains_key(RETRY_AFTER), "to repeat it may do it twice");
        assert_eq!(refusal(Refused::Change(ChangeRefused::NotAMember { id: 4 })).status(), 404);
        assert_eq!(refusal(Refused::Change(ChangeRefused::LastVoter { id: 4 })).status(), 409);
    }

    #[test]
    fn a_body_is_read_up_to_its_limit() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let body = |length: usize| Full::new(Bytes::from(vec![7; length]));
            for draining in [true, false] {
                assert_eq!(read_body(body(10), 10, draining, "PUT").await.unwrap().len(), 10);
                assert_eq!(read_body(body(11), 10, draining, "PUT").await.unwrap_err().status(), 413);
                // Without an announced length.
                assert_eq!(read_body(Chunks(2), 10, draining, "PUT").await.unwrap(), "fourfour");
                assert_eq!(read_body(Chunks(3), 10, draining, "PUT").await.unwrap_err().status(), 413);
            }
            assert_eq!(read_body(Chunks(DRAINED_MAX_BYTES), 10, true, "PUT").await.unwrap_err().status(), 413);
        });
    }

    #[test]
    fn a_body_that_comes_a_byte_a_second_is_cut_off() {
        let builder = &mut tokio::runtime::Builder::new_current_thread();
        builder.enable_time().start_paused(true).build().unwrap().block_on(async {
            let began = tokio::time::Instant::now();
            let slow = Slow(tokio::time::interval(Duration::from_secs(1)));
            assert_eq!(read_body(slow, VALUE_MAX_BYTES, true, "PUT").await.unwrap_err().status(), 408);
            assert_eq!(began.elapsed(), BODY_TIMEOUT);
        });
    }

    /// A byte a second, for ever.
    struct Slow(tokio::time::Interval);

    impl Body for Slow {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: std::pin::Pin<&mut Self>,
            context: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Infallible>>> {
            self.0.poll_tick(context).map(|_| Some(Ok(hyper::body::Frame::data(Bytes::from_static(b"b")))))
        }
    }

    /// Some chunks of four bytes each, announced by nobody.
    struct Chunks(usize);

    impl Body for Chunks {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Infallible>>> {
            let next = self.0.checked_sub(1).map(|left| {
                self.0 = left;
                Ok(hyper::body::Frame::data(Bytes::from_static(b"four")))
            });
            std::task::Poll::Ready(next)
        }
    }
}
