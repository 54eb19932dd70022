//! Many writers at once, and a memory of what was acknowledged to them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::http::Connection;
use super::{eventually, Http, PATIENCE};

/// Writes `/{prefix}{n}` for every `n` below `count`, from `connections` connections at once, spread over `targets`.
/// `value` makes the value from the number.
///
/// # Panics
/// When a write is not acknowledged: for healthy clusters only.
pub fn put_all(
    targets: &[Http],
    connections: usize,
    prefix: &str,
    count: u64,
    value: impl Fn(u64) -> Vec<u8> + Send + Sync,
) {
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for writer in 0..connections {
            let (next, value, http) = (&next, &value, &targets[writer % targets.len()]);
            scope.spawn(move || {
                let mut connection = http.connect().expect("a healthy node accepts connections");
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return;
                    }
                    let target = format!("/{prefix}{number}");
                    let response = connection.request("PUT", target.as_bytes(), &[], &value(number));
                    let response = response.unwrap_or_else(|error| panic!("PUT {target}: {error}"));
                    assert_eq!(response.status, 204, "PUT {target}: {}", response.text());
                }
            });
        }
    });
}

/// Writers that go on whatever happens to the nodes, until they are told to stop.
///
/// Each writer uses keys of its own and writes 1, 2, 3 … to them, so for each key the last acknowledged number is the
/// least that a later read may return.
pub struct Writers {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<BTreeMap<String, u64>>>,
    count: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Writers {
    /// Starts `writers` threads; each of them moves on to the next of `targets` when one does not answer 204.
    pub fn start(targets: &[Http], writers: usize) -> Writers {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(Mutex::new(BTreeMap::new()));
        let count = Arc::new(AtomicU64::new(0));
        let threads = (0..writers)
            .map(|writer| {
                let targets: Vec<Http> =
                    targets.iter().map(|target| target.with_timeout(Duration::from_secs(8))).collect();
                let (stop, acknowledged, count) = (Arc::clone(&stop), Arc::clone(&acknowledged), Arc::clone(&count));
                std::thread::spawn(move || write_until(&stop, writer, &targets, &acknowledged, &count))
            })
            .collect();
        Writers { stop, acknowledged, count, threads }
    }

    /// How many writes were acknowledged so far.
    pub fn acknowledged_count(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }

    /// Waits for this many more acknowledged writes.
    pub fn wait_for_progress(&self, writes: u64) {
        let goal = self.acknowledged_count() + writes;
        eventually("writes go on", PATIENCE, || (self.acknowledged_count() >= goal).then_some(()));
    }

    /// Stops them; returns for each key the last number that was acknowledged.
    pub fn stop(mut self) -> BTreeMap<String, u64> {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            thread.join().expect("a writer does not panic");
        }
        self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

fn write_until(
    stop: &AtomicBool,
    writer: usize,
    targets: &[Http],
    acknowledged: &Mutex<BTreeMap<String, u64>>,
    count: &AtomicU64,
) {
    let mut target = writer;
    let mut connection: Option<Connection> = None;
    let mut number = 0;
    while !stop.load(Ordering::SeqCst) {
        number += 1;
        let key = format!("writer{writer}-key{}", number % 10);
        let http = &targets[target % targets.len()];
        let answer = connection.take().map_or_else(|| http.connect(), Ok).and_then(|mut open| {
            let path = format!("/{key}");
            open.request("PUT", path.as_bytes(), &[], number.to_string().as_bytes()).map(|response| (response, open))
        });
        match answer {
            Ok((response, open)) if response.status == 204 => {
                connection = Some(open);
                acknowledged.lock().unwrap_or_else(PoisonError::into_inner).insert(key, number);
                count.fetch_add(1, Ordering::SeqCst);
            }
            // Refused, or its outcome unknown: it may or may not take effect. The next number says which were acknowledged.
            _ => {
                target += 1;
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

/// Checks that every acknowledged write is there: each key holds the acknowledged number or a later one.
///
/// # Panics
/// When one is lost.
pub fn assert_nothing_lost(http: &Http, acknowledged: &BTreeMap<String, u64>) {
    let mut connection = http.connect().expect("a healthy node accepts connections");
    for (key, &least) in acknowledged {
        let path = format!("/{key}");
        let response = connection.request("GET", path.as_bytes(), &[], b"").expect("an answer");
        assert_eq!(response.status, 200, "{key}, acknowledged as {least}, is gone: {}", response.text());
        let found: u64 = response.text().parse().expect("a number was written");
        assert!(found >= least, "{key} holds {found}, but {least} was acknowledged later");
    }
}
