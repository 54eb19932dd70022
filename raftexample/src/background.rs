//! Work that can wait: threads that get the processor when nobody else wants it, and pauses for what else is shared.
//!
//! A snapshot of 500 MB is half a second's work for a processor, and freeing the room of an old one, in memory or on a
//! disk, takes a tenth of a second in one piece. None of that is urgent, and all of it delays every client if the raft
//! thread does it, or has to share its processor evenly with whoever does. So it is done by threads of low priority
//! ([`spawn`]), which a thread that wakes up need not wait for. Priority has its limits: it says nothing about the disk
//! and the memory's bandwidth. So those threads also work in small pieces, and rest between them ([`Pieces`]).
//!
//! What is left out: threads that take turns. Each work has a thread of its own, and ends with it: a thread can lower its
//! priority, but not raise it again without a privilege.

use std::io;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{getpriority_process, setpriority_process};
use tokio::sync::oneshot;

/// How much nicer its threads are than the rest of the process: beside one busy thread they get a tenth of a processor,
/// and all that is left if it idles. Not more: a snapshot must also come to its end on a node that never idles, or its log
/// grows for ever.
const NICER_BY: i32 = 10;
/// Longest rest after one piece.
const LONGEST_REST: Duration = Duration::from_secs(1);

/// Starts a thread for this work.
pub(crate) fn spawn<T, W>(name: &str, work: W) -> io::Result<JoinHandle<T>>
where
    T: Send + 'static,
    W: FnOnce() -> T + Send + 'static,
{
    Builder::new().name(name.into()).spawn(move || {
        // A thread's number stands for that thread alone here. Where it is not allowed, the work is done all the same.
        let own = Some(rustix::thread::gettid());
        let lowered = getpriority_process(own).and_then(|nice| setpriority_process(own, nice + NICER_BY));
        if let Err(error) = lowered {
            log::debug!("a thread keeps its priority: {error}");
        }
        work()
    })
}

/// As [`spawn`], for who waits for the result. An error says why there is none.
pub(crate) async fn run<T, W>(name: &str, work: W) -> Result<T, String>
where
    T: Send + 'static,
    W: FnOnce() -> T + Send + 'static,
{
    let (done, result) = oneshot::channel();
    // If nobody waits any more, the result is dropped there.
    spawn(name, move || drop(done.send(work()))).map_err(|error| format!("cannot start a thread: {error}"))?;
    result.await.map_err(|_| format!("the thread {name:?} panicked"))
}

/// Lets go of something large, somewhere else.
pub(crate) fn discard<T: Send + 'static>(value: T) {
    // If there is no thread to be had, it is dropped here.
    let _ = spawn("drop", move || drop(value));
}

/// Divides work by bytes into pieces, and rests after each.
pub(crate) struct Pieces {
    piece_bytes: usize,
    /// In the piece that is being worked on.
    bytes: usize,
    began: Instant,
}

impl Pieces {
    /// The first piece begins.
    pub(crate) fn of(piece_bytes: usize) -> Pieces {
        Pieces { piece_bytes, bytes: 0, began: Instant::now() }
    }

    /// So much of the work has been done. If that ends a piece, rests for as long as `rest` makes of the time that it
    /// took, a second at most; says whether it did end one.
    pub(crate) fn add(&mut self, bytes: usize, rest: impl FnOnce(Duration) -> Duration) -> bool {
        self.bytes += bytes;
        if self.bytes < self.piece_bytes {
            return false;
        }
        std::thread::sleep(rest(self.began.elapsed()).min(LONGEST_REST));
        (self.bytes, self.began) = (0, Instant::now());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_threads_are_nice_and_nobody_else_becomes_so() {
        const NICEST: i32 = 19;
        let niceness = || getpriority_process(Some(rustix::thread::gettid())).unwrap();
        let own = niceness();
        let lowered = spawn("test", niceness).unwrap().join().unwrap();
        assert_eq!(lowered, (own + NICER_BY).min(NICEST));
        assert_eq!(niceness(), own);
    }

    #[test]
    fn a_rest_follows_each_piece_and_no_part_of_one() {
        let mut pieces = Pieces::of(10);
        let mut rests = 0;
        let mut ended = Vec::new();
        for bytes in [4, 4, 4, 9, 1, 30] {
            ended.push(pieces.add(bytes, |_| {
                rests += 1;
                Duration::ZERO
            }));
        }
        assert_eq!((ended, rests), (vec![false, false, true, false, true, true], 3));
    }
}
