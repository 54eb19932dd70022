//! Probing: "do you live, and how long does it take you to say so?"
//!
//! Every four seconds each peer is asked, on a connection of its own that nothing else can hold up. The answer is for the
//! log, where it tells a slow network from a slow node, and for the page of active peers; Raft finds out about dead peers
//! by itself.
//!
//! What is left out: comparing clocks. The answer holds the peer's time, but nothing here depends on it.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::Method;
use tokio::time::{interval, timeout, Instant, MissedTickBehavior};

use super::connection;
use super::peer::{Channel, Link};

/// Where to ask.
pub const PATH: &str = "/raft/probing";
/// Time between two questions.
const INTERVAL: Duration = Duration::from_secs(4);
/// An answer that takes longer is none.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// An answer that takes longer is worth a line in the log.
const SLOW: Duration = Duration::from_millis(500);
/// More of an answer is not read.
const ANSWER_MAX_BYTES: usize = 4 << 10;

/// Asks this peer, again and again, until the task is aborted.
pub(super) async fn probe(link: Arc<Link>) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let began = Instant::now();
        let answer = timeout(ANSWER_TIMEOUT, ask(&link)).await;
        let took = began.elapsed();
        let reason = match answer {
            Ok(Ok(())) => {
                link.metrics.round_trip.observe(took);
                if took >= SLOW {
                    log::warn!("peer {} at {} took {took:?} to answer a probe", link.id, link.url);
                }
                continue;
            }
            Ok(Err(reason)) => reason,
            Err(_) => format!("nothing within {ANSWER_TIMEOUT:?}"),
        };
        // Posts alone would not tell: perhaps there is nothing to be posted.
        link.note_inactive(Channel::Post, &format_args!("it does not answer a probe: {reason}"));
    }
}

async fn ask(link: &Link) -> Result<(), String> {
    let mut sender = connection::open(link).await?;
    let request = link.request(Method::GET, PATH, Full::<Bytes>::default());
    let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
    let status = response.status();
    Limited::new(response.into_body(), ANSWER_MAX_BYTES).collect().await.map_err(|error| error.to_string())?;
    if status.is_success() {
        return Ok(());
    }
    Err(format!("it answers {status}"))
}

/// Our own answer: JSON with the time, and a newline.
pub(super) fn answer() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{{\"OK\":true,\"Now\":\"{}\"}}\n", rfc3339(now.as_secs(), now.subsec_nanos()))
}

/// A time in UTC as RFC 3339 writes it. The calendar repeats every 400 years = 146 097 days; counted from the first of
/// March, so that the leap day comes last.
fn rfc3339(unix_seconds: u64, nanos: u32) -> String {
    let (days, second) = (unix_seconds / 86_400 + 719_468, unix_seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, TcpListener};

    #[test]
    fn a_peer_that_does_not_answer_a_probe_is_not_active() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        // Whoever comes is hung up on.
        std::thread::spawn(move || listener.incoming().for_each(drop));
        let link = Link::new(1, 2, url, Arc::new(|_| Ok(())), Default::default(), None);
        link.note_active(Channel::Post);
        assert!(link.is_active());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let probing = tokio::spawn(probe(Arc::clone(&link)));
            let gone = timeout(Duration::from_secs(60), async {
                while link.is_active() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            });
            assert!(gone.await.is_ok(), "the post that worked once is long ago");
            probing.abort();
        });
    }

    #[test]
    fn times_are_written_as_rfc_3339() {
        assert_eq!(rfc3339(0, 0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(rfc3339(951_782_400, 1), "2000-02-29T00:00:00.000000001Z");
        assert_eq!(rfc3339(1_709_251_199, 999_999_999), "2024-02-29T23:59:59.999999999Z");
        assert_eq!(rfc3339(4_107_542_400, 0), "2100-03-01T00:00:00.000000000Z");
    }
}
