//! Many writers at once, and a memory of what was acknowledged to them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use super::http::Connection;
use super::{eventually, Cluster, Http, Node, PATIENCE};

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

/// What became of the writes of [`Writers`]. Each write had a key of its own, and a value made from the key.
///
#[derive(Clone, Debug, Default)]
pub struct Outcomes {
    /// Answered with 204.
    pub acknowledged: Vec<String>,
    /// Answered with 503, which promises that nothing was done and nothing will be.
    pub refused: Vec<String>,
    /// Whatever else was answered, or nothing: it may take effect at any later time, also after it was read as missing.
    pub unknown: Vec<String>,
}

impl Outcomes {
    /// Adds the outcomes of other writers, which used other keys.
    pub fn extend(&mut self, other: Outcomes) {
        self.acknowledged.extend(other.acknowledged);
        self.refused.extend(other.refused);
        self.unknown.extend(other.unknown);
    }

    /// Checks on every node that runs that what was acknowledged is there and what was refused is not, and that all of
    /// them hold the same of what is not known.
    ///
    /// # Panics
    /// When a promise was broken.
    pub fn assert_kept(&self, cluster: &Cluster) {
        let leader = cluster.wait_for_leader();
        // The leader's answer to a linearizable read has everything that was acknowledged before it.
        let everything = cluster.http(leader).get("/is-everything-applied");
        assert_eq!(everything.status, 404, "{}", everything.text());
        let goal = cluster.node(leader).status().expect("a status").applied;
        for id in cluster.running() {
            cluster.node(id).wait_until_applied(goal);
            let mut connection = cluster.http(id).connect().expect("a healthy node accepts connections");
            let mut read = |key: &str| {
                let target = format!("/{key}?read=local");
                connection.request("GET", target.as_bytes(), &[], b"").expect("an answer")
            };
            for key in &self.acknowledged {
                let answer = read(key);
                assert_eq!((answer.status, answer.body), (200, value_of(key)), "node {id} lost {key}");
            }
            for key in &self.refused {
                assert_eq!(read(key).status, 404, "node {id} has {key}, which was refused");
            }
        }
        self.assert_equal(cluster);
    }

    /// Nodes that have applied equally much hold the same.
    fn assert_equal(&self, cluster: &Cluster) {
        let nodes = cluster.running();
        let applied = || -> Option<Vec<(u64, u64)>> {
            let statuses = nodes.iter().map(|&id| cluster.node(id).status());
            statuses.map(|status| status.map(|s| (s.applied, s.page["keys"].as_u64().unwrap_or(0)))).collect()
        };
        let held = eventually("all nodes have applied the same and hold as many keys", PATIENCE, || {
            let before = applied().filter(|applied| applied.windows(2).all(|pair| pair[0] == pair[1]))?;
            let held: Vec<Vec<u16>> = nodes.iter().map(|&id| self.unknown_held_by(&cluster.http(id))).collect();
            // What is still on its way may come through in between.
            (applied()? == before).then_some(held)
        });
        for (id, theirs) in nodes.iter().zip(&held) {
            for (key, (status, other)) in self.unknown.iter().zip(theirs.iter().zip(&held[0])) {
                assert_eq!(status, other, "node {id} and node {} differ at {key}", nodes[0]);
            }
        }
    }

    /// The status of each write that is not known, in this node's own copy.
    fn unknown_held_by(&self, http: &Http) -> Vec<u16> {
        let mut connection = http.connect().expect("a healthy node accepts connections");
        let mut status = |key: &String| {
            let target = format!("/{key}?read=local");
            connection.request("GET", target.as_bytes(), &[], b"").expect("an answer").status
        };
        self.unknown.iter().map(&mut status).collect()
    }
}

/// The value that [`Writers`] write to a key.
pub fn value_of(key: &str) -> Vec<u8> {
    format!("the value of {key}").into_bytes()
}

/// Writers that go on whatever happens to the nodes, until they are told to stop.
pub struct Writers {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Outcomes>>,
}

impl Writers {
    /// Starts `writers` threads on all nodes of the cluster; each moves on to the next node when one does not answer
    /// 204. Keys begin with `name`, so that several sets of writers can follow each other.
    pub fn start(cluster: &Cluster, name: &str, writers: usize) -> Writers {
        Writers::start_at(&cluster.nodes().iter().map(Node::http).collect::<Vec<_>>(), name, writers)
    }

    /// The same on these nodes only.
    pub fn start_at(targets: &[Http], name: &str, writers: usize) -> Writers {
        let stop = Arc::new(AtomicBool::new(false));
        let count = Arc::new(AtomicU64::new(0));
        let threads = (0..writers)
            .map(|writer| {
                let targets: Vec<Http> =
                    targets.iter().map(|target| target.with_timeout(Duration::from_secs(8))).collect();
                let (stop, count, name) = (Arc::clone(&stop), Arc::clone(&count), format!("{name}-{writer}"));
                std::thread::spawn(move || write_until(&stop, &targets, writer, &name, &count))
            })
            .collect();
        Writers { stop, count, threads }
    }

    /// Waits for this many more acknowledged writes.
    pub fn wait_for_progress(&self, writes: u64) {
        let goal = self.count.load(Ordering::SeqCst) + writes;
        eventually("writes go on", PATIENCE, || (self.count.load(Ordering::SeqCst) >= goal).then_some(()));
    }

    /// Stops them; returns what was answered.
    pub fn stop(mut self) -> Outcomes {
        self.stop.store(true, Ordering::SeqCst);
        let mut outcomes = Outcomes::default();
        for thread in self.threads.drain(..) {
            outcomes.extend(thread.join().expect("a writer does not panic"));
        }
        outcomes
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

fn write_until(stop: &AtomicBool, targets: &[Http], first_target: usize, name: &str, count: &AtomicU64) -> Outcomes {
    let mut outcomes = Outcomes::default();
    let mut target = first_target;
    let mut connection: Option<Connection> = None;
    let mut number = 0;
    while !stop.load(Ordering::SeqCst) {
        number += 1;
        let key = format!("{name}-{number}");
        let http = &targets[target % targets.len()];
        let answer = connection.take().map_or_else(|| http.connect(), Ok).and_then(|mut open| {
            let path = format!("/{key}");
            open.request("PUT", path.as_bytes(), &[], &value_of(&key)).map(|response| (response.status, open))
        });
        match answer {
            Ok((204, open)) => {
                connection = Some(open);
                outcomes.acknowledged.push(key);
                count.fetch_add(1, Ordering::SeqCst);
                continue;
            }
            Ok((503, _)) => outcomes.refused.push(key),
            _ => outcomes.unknown.push(key),
        }
        target += 1;
        std::thread::sleep(Duration::from_millis(20));
    }
    outcomes
}
