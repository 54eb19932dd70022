//! Streams that we dial: a peer's messages arrive here.
//!
//! One task for each peer and kind dials, reads until the stream ends, and dials again, for as long as the peer is a
//! member. A stream ends when the peer ends it, when a byte is wrong, or when nothing has come for
//! [five seconds](super::stream::SILENCE_TIMEOUT), which is how a peer is noticed whose network has gone without a word.
//!
//! **Dialling again** begins at once at etcd's pace, ten times a second, and slows down while the peer goes on refusing.
//! A peer that is back dials us, too, and that ends the pause: it is awake.
//!
//! **What arrives** goes into the raft thread's inbox. If that is full, the message is dropped, as on a bad network:
//! waiting would only make the next ones as late as this one. Drops are counted as failures, and logged now and then.
//!
//! What is left out: snapshots. They are posted, and one that comes this way is dropped.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::{Method, Response, StatusCode};
use raft_core::pb::{Message, MessageType};
use tokio::time::timeout;

use super::peer::{Channel, Link, SHORTEST_PAUSE};
use super::register::{Number, Said};
use super::server::is_local;
use super::stream::{Frame, Kind, SILENCE_TIMEOUT};
use super::{connection, headers, Event};

/// After so many failures in a row the pause doubles, and again after as many more.
const FAILURES_PER_PACE: u32 = 20;
/// It doubles this often at most, to 1.6 seconds.
const SLOWEST_PACE: u32 = 4;
/// A buffer that has grown beyond this is given back once it is empty.
const BUFFER_KEPT_BYTES: usize = 256 << 10;
/// More of a refusal's text is not read.
const REFUSAL_MAX_BYTES: usize = 4 << 10;

/// Why a stream ended, or never began.
enum Ended {
    /// In words.
    Because(String),
    /// The peer says that this node is no member any more, since the entry at this index.
    Removed { at: u64 },
    /// The peer says that this node is not who it seems to be.
    Stranger { number: Number, text: String },
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ended::Because(reason) => f.write_str(reason),
            Ended::Stranger { text, .. } => write!(f, "it refuses this node: {text}"),
            Ended::Removed { .. } => f.write_str("it says that this node was removed"),
        }
    }
}

/// Receives this peer's messages of this kind, until the task is aborted.
pub(super) async fn receive(link: Arc<Link>, kind: Kind) {
    let mut failures = 0;
    loop {
        // Before it is dialled: a peer that comes up while we fail has dialled us perhaps before the pause begins.
        let awake = link.awake.notified();
        let ended = match dial(&link, kind).await {
            Ok(stream) => {
                failures = 0;
                link.note_active(Channel::of(kind));
                let ended = read(&link, kind, stream).await;
                link.metrics.received_failures.add(1);
                ended
            }
            Err(ended) => ended,
        };
        match &ended {
            Ended::Removed { at } => link.tell(Event::ToldRemoved { by: link.id, at: *at }).await,
            Ended::Stranger { number, .. } => {
                link.note_stranger(&ended);
                link.tell(Event::ToldStranger { by: link.id, number: *number }).await;
            }
            Ended::Because(_) => {}
        }
        link.note_inactive(Channel::of(kind), &format_args!("{} stream: {ended}", kind.name()));
        Link::pause(awake, pause_after(failures)).await;
        failures = failures.saturating_add(1);
    }
}

fn pause_after(failures: u32) -> Duration {
    SHORTEST_PAUSE * 2_u32.pow((failures / FAILURES_PER_PACE).min(SLOWEST_PACE))
}

/// An open stream, and what must be kept for it to stay open.
struct Stream {
    body: Incoming,
    said: Said,
    _sender: connection::Sender,
}

async fn dial(link: &Link, kind: Kind) -> Result<Stream, Ended> {
    let mut sender = connection::open(link).await.map_err(Ended::Because)?;
    let path = format!("/raft/stream/{}/{:x}", kind.name(), link.own_id);
    let mut request = link.request(Method::GET, &path, Full::default());
    headers::set(request.headers_mut(), headers::RAFT_TO, &format!("{:x}", link.id));
    match timeout(SILENCE_TIMEOUT, sender.send_request(request)).await {
        Ok(Ok(response)) => judge(link, response).await.map(|(said, body)| Stream { body, said, _sender: sender }),
        Ok(Err(error)) => Err(Ended::Because(error.to_string())),
        Err(_) => Err(Ended::Because(format!("no answer within {SILENCE_TIMEOUT:?}"))),
    }
}

async fn judge(link: &Link, response: Response<Incoming>) -> Result<(Said, Incoming), Ended> {
    let status = response.status();
    if let (StatusCode::GONE, Some(at)) = (status, headers::removed_at(response.headers())) {
        return Err(Ended::Removed { at });
    }
    if status != StatusCode::OK {
        let number = Number::refused(response.headers());
        let body = Limited::new(response.into_body(), REFUSAL_MAX_BYTES).collect();
        let text = match timeout(SILENCE_TIMEOUT, body).await {
            Ok(Ok(text)) => text.to_bytes(),
            _ => Default::default(),
        };
        let text = String::from_utf8_lossy(&text).trim().escape_debug().to_string();
        return Err(match number {
            Some(number) => Ended::Stranger { number, text },
            None => Ended::Because(format!("it answers {status}: {text}")),
        });
    }
    headers::check_answer(response.headers()).map_err(|reason| Ended::Because(reason.to_string()))?;
    let said = link.check(response.headers()).map_err(|stranger| Ended::Because(stranger.to_string()))?;
    Ok((said, response.into_body()))
}

/// Reads frames until the stream ends; says why it did.
async fn read(link: &Link, kind: Kind, mut stream: Stream) -> Ended {
    let mut decoder = kind.decoder(link.id, link.own_id);
    let mut buffer = BytesMut::new();
    loop {
        let piece = match timeout(SILENCE_TIMEOUT, stream.body.frame()).await {
            Ok(Some(Ok(piece))) => piece,
            Ok(Some(Err(error))) => return Ended::Because(error.to_string()),
            Ok(None) => return Ended::Because("it ended the stream".into()),
            Err(_) => return Ended::Because(format!("silent for {SILENCE_TIMEOUT:?}")),
        };
        if let Err(stranger) = stream.said.still_fits() {
            link.note_stranger(&stranger);
            return Ended::Because(stranger.to_string());
        }
        // Trailers mean nothing here.
        let Ok(data) = piece.into_data() else { continue };
        link.metrics.received_bytes.add(data.len() as u64);
        buffer.extend_from_slice(&data);
        loop {
            match decoder.frame(&mut buffer) {
                Ok(Some(Frame::Heartbeat)) => {}
                Ok(Some(Frame::Message(message))) => deliver(link, message),
                Ok(None) => break,
                Err(error) => return Ended::Because(error.to_string()),
            }
        }
        if buffer.is_empty() && buffer.capacity() > BUFFER_KEPT_BYTES {
            buffer = BytesMut::new();
        }
    }
}

fn deliver(link: &Link, message: Message) {
    let kind = message.kind();
    if is_local(&message) || message.to != link.own_id || kind == Some(MessageType::MsgSnap) {
        log::debug!("dropped a message {kind:?} to node {} from node {}'s stream", message.to, link.id);
        return;
    }
    if let Err(refused) = (link.sink)(Event::Message(message)) {
        if let Event::Message(message) = *refused {
            link.note_dropped(&message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::sleep;

    #[test]
    fn what_finds_no_room_is_counted() {
        let sink: super::super::Sink = Arc::new(|event| match event {
            Event::Message(message) if message.term == 1 => Ok(()),
            event => Err(Box::new(event)),
        });
        let link = Link::new(1, 2, "http://127.0.0.1:1".parse().unwrap(), sink, Default::default(), None);
        let message = |to, term| Message { to, term, ..Message::of(MessageType::MsgHeartbeat) };
        for (message, failures) in [(message(1, 1), 0), (message(9, 2), 0), (message(1, 2), 1), (message(1, 2), 2)] {
            deliver(&link, message);
            assert_eq!(link.metrics.received_failures.get(), failures);
        }
    }

    #[test]
    fn a_peer_that_dials_us_ends_the_pause_whenever_it_does() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let link =
            Link::new(1, 2, "http://127.0.0.1:1".parse().unwrap(), Arc::new(|_| Ok(())), Default::default(), None);
        let longest = pause_after(u32::MAX);
        let paused = |dials_after: Option<u64>| {
            runtime.block_on(async {
                let began = tokio::time::Instant::now();
                // For each of the two streams.
                let pauses = async {
                    tokio::join!(
                        Link::pause(link.awake.notified(), longest),
                        Link::pause(link.awake.notified(), longest)
                    )
                };
                let dials = async {
                    if let Some(millis) = dials_after {
                        sleep(Duration::from_millis(millis)).await;
                        drop(link.attach(Kind::Message));
                    }
                };
                tokio::join!(pauses, dials);
                began.elapsed()
            })
        };
        assert_eq!(paused(None), longest);
        assert_eq!(paused(Some(700)), Duration::from_millis(700));
        assert_eq!(paused(Some(30)), SHORTEST_PAUSE, "not less, but not the whole of it either");
        let early = link.awake.notified();
        link.awake.notify_waiters();
        let elapsed = runtime.block_on(async {
            let began = tokio::time::Instant::now();
            Link::pause(early, longest).await;
            began.elapsed()
        });
        assert_eq!(elapsed, SHORTEST_PAUSE, "while we failed to dial it");
    }

    #[test]
    fn dialling_again_begins_at_etcds_pace_and_slows_down_to_a_limit() {
        assert_eq!(pause_after(0), Duration::from_millis(100));
        assert_eq!(pause_after(FAILURES_PER_PACE - 1), Duration::from_millis(100));
        assert_eq!(pause_after(FAILURES_PER_PACE), Duration::from_millis(200));
        assert_eq!(pause_after(u32::MAX), Duration::from_millis(1_600));
    }
}
