//! Bodies that peers post, while they arrive: bounded in size, in time, and all of them together.
//!
//! A body may be large, for it may be a snapshot; but whoever sends one must send it. It has half a minute, and longer
//! only for what has arrived ([`Pace`]). Memory is used as bytes arrive, not as a length announces them, and what
//! arrives at a time over all connections has a limit of its own: a hundred bodies without end must not take a hundred
//! times the memory of one. Beyond it a post is refused, which its sender takes for a bad network.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Body;
use hyper::StatusCode;
use tokio::sync::Semaphore;
use tokio::time::{timeout_at, Instant};

/// What arrives at a time over all connections: one body of the largest kind, and room for others.
const ALL_MAX_BYTES: usize = 768 << 20;
/// A body has this time,
const PATIENCE: Duration = Duration::from_secs(30);
/// and a second longer for each of these many bytes that have arrived.
const SLOWEST_BYTES_PER_SECOND: u64 = 128 << 10;

/// How slowly a body may arrive: whoever is slower holds a place that others need.
pub(super) struct Pace {
    began: Instant,
}

impl Pace {
    /// It begins to arrive now.
    pub(super) fn begin() -> Pace {
        Pace { began: Instant::now() }
    }

    /// When more than these bytes must have arrived.
    pub(super) fn limit(&self, arrived_bytes: u64) -> Instant {
        self.began + PATIENCE + Duration::from_secs(arrived_bytes / SLOWEST_BYTES_PER_SECOND)
    }
}

/// What all bodies together may still take. Clones share it.
#[derive(Clone)]
pub struct Arriving(Arc<Semaphore>);

impl Default for Arriving {
    fn default() -> Arriving {
        Arriving(Arc::new(Semaphore::new(ALL_MAX_BYTES)))
    }
}

/// Why a body was not read: the status and the text of the answer.
pub(super) type NotRead = (StatusCode, &'static str);

const TOO_LARGE: NotRead = (StatusCode::PAYLOAD_TOO_LARGE, "raft message too large");

impl Arriving {
    /// Reads a body of up to `max_bytes`.
    pub(super) async fn read<B>(&self, body: B, max_bytes: usize) -> Result<Bytes, NotRead>
    where
        B: Body<Data = Bytes>,
    {
        let announced = body.size_hint().exact().unwrap_or(0);
        if announced > max_bytes as u64 {
            return Err(TOO_LARGE);
        }
        let pace = Pace::begin();
        let mut body = pin!(body);
        let mut room = self.0.try_acquire_many(0).map_err(|_| BUSY)?;
        let mut pieces = BytesMut::new();
        loop {
            let frame = timeout_at(pace.limit(pieces.len() as u64), body.frame()).await.map_err(|_| TOO_SLOW)?;
            let Some(frame) = frame else { return Ok(pieces.freeze()) };
            let frame = frame.map_err(|_| (StatusCode::BAD_REQUEST, "error reading raft message"))?;
            // Trailers mean nothing here.
            let Ok(data) = frame.into_data() else { continue };
            if data.len() > max_bytes - pieces.len() {
                return Err(TOO_LARGE);
            }
            // A piece is what a socket had, far less than four gigabytes.
            let bytes = u32::try_from(data.len()).map_err(|_| TOO_LARGE)?;
            room.merge(self.0.try_acquire_many(bytes).map_err(|_| BUSY)?);
            pieces.extend_from_slice(&data);
        }
    }
}

const TOO_SLOW: NotRead = (StatusCode::REQUEST_TIMEOUT, "raft message takes too long");
const BUSY: NotRead = (StatusCode::SERVICE_UNAVAILABLE, "too much is arriving");

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Full;
    use hyper::body::Frame;
    use std::convert::Infallible;
    use std::task::Poll;

    fn run<F: std::future::Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(future)
    }

    #[test]
    fn a_body_is_read_up_to_its_limit() {
        run(async {
            let arriving = Arriving::default();
            let body = |length: usize| Full::new(Bytes::from(vec![7; length]));
            assert_eq!(arriving.read(body(10), 10).await.unwrap().len(), 10);
            assert_eq!(arriving.read(body(11), 10).await, Err(TOO_LARGE));
            assert_eq!(arriving.0.available_permits(), ALL_MAX_BYTES, "all is given back");
        });
    }

    #[test]
    fn a_body_without_end_is_refused_at_its_limit() {
        run(async {
            let piece = Bytes::from_static(&[7; 1000]);
            let endless = unannounced(move || Poll::Ready(Some(piece.clone())));
            assert_eq!(Arriving::default().read(endless, 1 << 20).await, Err(TOO_LARGE));
        });
    }

    #[test]
    fn a_body_that_stays_away_has_its_time_and_no_more() {
        run(async {
            let began = tokio::time::Instant::now();
            let never = unannounced(|| Poll::Pending);
            assert_eq!(Arriving::default().read(never, 10).await.map_err(|(status, _)| status.as_u16()), Err(408));
            assert_eq!(began.elapsed(), PATIENCE);
        });
    }

    #[test]
    fn a_body_that_comes_in_drops_is_given_up_and_one_that_comes_slowly_is_not() {
        run(async {
            let pace = Pace::begin();
            let began = tokio::time::Instant::now();
            assert_eq!(pace.limit(1000), began + PATIENCE);
            assert_eq!(pace.limit(60 * SLOWEST_BYTES_PER_SECOND), began + PATIENCE + Duration::from_secs(60));
        });
    }

    #[test]
    fn all_bodies_together_are_limited() {
        run(async {
            let arriving = Arriving(Arc::new(Semaphore::new(100)));
            let _other = arriving.0.try_acquire_many(95).unwrap();
            let body = |length: usize| Full::new(Bytes::from(vec![7; length]));
            assert_eq!(arriving.read(body(6), 10).await, Err(BUSY));
            assert!(arriving.read(body(5), 10).await.is_ok());
        });
    }

    /// A body whose length nobody announces.
    fn unannounced(next: impl Fn() -> Poll<Option<Bytes>> + Unpin) -> impl Body<Data = Bytes, Error = Infallible> {
        struct Pieces<N>(N);
        impl<N: Fn() -> Poll<Option<Bytes>> + Unpin> Body for Pieces<N> {
            type Data = Bytes;
            type Error = Infallible;

            fn poll_frame(
                self: std::pin::Pin<&mut Self>,
                _: &mut std::task::Context<'_>,
            ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
                (self.0)().map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
            }
        }
        Pieces(next)
    }
}
