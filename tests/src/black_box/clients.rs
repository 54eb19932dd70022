//! Clients that ask and note down what they were told, and when.
//!
//! | answer | to a write | to a read |
//! |---|---|---|
//! | 200, 404, 204 | done | what it found |
//! | 503 | not done and never will be: not noted down, and whoever finds it finds a value that nobody wrote | nothing |
//! | no connection | never asked | nothing |
//! | 504, no answer, half an answer | nobody knows | nothing |
//!
//! Each write has a value of its own, so that a read tells which write it found.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use super::Clock;
use crate::cluster::http::Connection;
use crate::cluster::{eventually, Cluster, Http, PATIENCE};
use crate::linearizability::{Action, Operation};
use crate::random::Random;

/// Clients at a time.
const CLIENTS: u32 = 8;
/// Keys of one history. Few, so that clients get into each other's way.
const KEYS: u64 = 3;
/// Values are longer than their numbers, by up to so many bytes.
const PADDING_MAX_BYTES: u64 = 1500;
/// The numbers of a client's values begin at its own number times this.
const VALUES_PER_CLIENT: u64 = 1_000_000;
/// The longest pause between an answer and the next request.
const THOUGHT_MAX: Duration = Duration::from_millis(8);
/// Some clients give up before a node would, some wait until a node that was stopped goes on.
const TIMEOUTS: [Duration; 2] = [Duration::from_millis(700), Duration::from_secs(4)];

/// How clients read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// As the API promises them to be linearizable.
    Linearizable,
    /// From a node's own copy, which may be behind: clients must notice.
    Local,
}

/// Clients at work.
pub struct Clients {
    stop: Arc<AtomicBool>,
    clock: Clock,
    targets: Vec<Http>,
    keys: Vec<String>,
    reads: Reads,
    threads: Vec<JoinHandle<Result<Notes, String>>>,
}

/// What one client noted down.
#[derive(Default)]
struct Notes {
    operations: Vec<Operation>,
    refused: u64,
}

impl Clients {
    /// Sends them to all nodes of the cluster.
    pub fn start(cluster: &Cluster, seed: u64, reads: Reads) -> Clients {
        let (stop, clock) = (Arc::new(AtomicBool::new(false)), Clock::start());
        let targets: Vec<Http> = cluster.nodes().iter().map(|node| node.http()).collect();
        let keys: Vec<String> = (0..KEYS).map(|key| format!("history-{seed}-key-{key}")).collect();
        let threads = (0..CLIENTS)
            .map(|id| {
                let timeout = TIMEOUTS[id as usize % TIMEOUTS.len()];
                let client = Client {
                    id,
                    random: Random::new(seed << 8 | u64::from(id)),
                    clock,
                    targets: targets.iter().map(|target| target.with_timeout(timeout)).collect(),
                    target: id as usize % targets.len(),
                    connection: None,
                    reads,
                    notes: Notes::default(),
                };
                let (stop, keys) = (Arc::clone(&stop), keys.clone());
                std::thread::spawn(move || client.ask_until(&stop, &keys))
            })
            .collect();
        Clients { stop, clock, targets, keys, reads, threads }
    }

    /// Stops them, reads every key once more at every node, which must answer now, and returns the history and how many
    /// writes were refused.
    ///
    /// # Errors
    /// What a client was told that no correct node says.
    pub fn stop(mut self) -> Result<(Vec<Operation>, u64), String> {
        self.stop.store(true, Ordering::SeqCst);
        let (mut history, mut refused) = (Vec::new(), 0);
        for thread in self.threads.drain(..) {
            let notes = thread.join().map_err(|_| "a client panicked".to_string())??;
            history.extend(notes.operations);
            refused += notes.refused;
        }
        for (id, target) in (CLIENTS..).zip(&self.targets) {
            for key in &self.keys {
                let called_ns = self.clock.now_ns();
                let path = path_for_reading(key, self.reads);
                let answer = eventually("a node that was repaired answers", PATIENCE, || {
                    target.try_get(&path).ok().filter(|answer| matches!(answer.status, 200 | 404))
                });
                let action = Action::Get(found(answer.status, &answer.body)?);
                let answered_ns = Some(self.clock.now_ns());
                history.push(Operation { client: id, key: key.clone(), called_ns, answered_ns, action });
            }
        }
        history.sort_by_key(|operation| operation.called_ns);
        Ok((history, refused))
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

struct Client {
    id: u32,
    random: Random,
    clock: Clock,
    targets: Vec<Http>,
    target: usize,
    connection: Option<Connection>,
    reads: Reads,
    notes: Notes,
}

impl Client {
    fn ask_until(mut self, stop: &AtomicBool, keys: &[String]) -> Result<Notes, String> {
        let mut value = u64::from(self.id + 1) * VALUES_PER_CLIENT;
        while !stop.load(Ordering::SeqCst) {
            let key = &keys[self.random.below(keys.len() as u64) as usize];
            let well = match self.random.below(100) {
                0..=46 => {
                    value += 1;
                    self.write(key, Action::Put(value), "PUT", &body_of(value))?
                }
                47..=51 => self.write(key, Action::Delete, "DELETE", b"")?,
                _ => self.read(key)?,
            };
            let mut pause = THOUGHT_MAX;
            if !well || self.random.below(50) == 0 {
                self.connection = None;
                self.target = (self.target + 1 + self.random.below(2) as usize) % self.targets.len();
                pause *= 4;
            }
            std::thread::sleep(Duration::from_micros(self.random.below(pause.as_micros() as u64)));
        }
        Ok(self.notes)
    }

    /// A connection that is open, or a new one.
    fn connection(&mut self) -> Option<Connection> {
        self.connection.take().or_else(|| self.targets[self.target].connect().ok())
    }

    /// Whether it went well.
    fn write(&mut self, key: &str, action: Action, method: &str, body: &[u8]) -> Result<bool, String> {
        let Some(mut connection) = self.connection() else { return Ok(false) };
        let called_ns = self.clock.now_ns();
        let answer = connection.request(method, format!("/{key}").as_bytes(), &[], body);
        let now_ns = self.clock.now_ns();
        let answered_ns = match &answer {
            Ok(answer) if answer.status == 204 => Some(now_ns),
            Ok(answer) if answer.status == 503 => {
                self.notes.refused += 1;
                return Ok(false);
            }
            Ok(answer) if answer.status != 504 => {
                return Err(format!("{method} {key} was answered {}: {}", answer.status, answer.text()));
            }
            _ => None,
        };
        self.notes.operations.push(Operation { client: self.id, key: key.into(), called_ns, answered_ns, action });
        if answered_ns.is_some() {
            self.connection = Some(connection);
        }
        Ok(answered_ns.is_some())
    }

    fn read(&mut self, key: &str) -> Result<bool, String> {
        let Some(mut connection) = self.connection() else { return Ok(false) };
        let called_ns = self.clock.now_ns();
        let answer = connection.request("GET", path_for_reading(key, self.reads).as_bytes(), &[], b"");
        let answered_ns = Some(self.clock.now_ns());
        let Ok(answer) = answer else { return Ok(false) };
        if matches!(answer.status, 503 | 504) {
            return Ok(false);
        }
        let action = Action::Get(found(answer.status, &answer.body)?);
        self.notes.operations.push(Operation { client: self.id, key: key.into(), called_ns, answered_ns, action });
        self.connection = Some(connection);
        Ok(true)
    }
}

fn path_for_reading(key: &str, reads: Reads) -> String {
    match reads {
        Reads::Linearizable => format!("/{key}"),
        Reads::Local => format!("/{key}?read=local"),
    }
}

fn body_of(value: u64) -> Vec<u8> {
    let padding = Random::new(value).below(PADDING_MAX_BYTES) as usize;
    let mut body = format!("{value} ").into_bytes();
    body.resize(body.len() + padding, b'.');
    body
}

/// The value in an answer, which must be exactly as it was written.
fn found(status: u16, body: &[u8]) -> Result<Option<u64>, String> {
    let text = String::from_utf8_lossy(body);
    match status {
        404 => Ok(None),
        200 => match text.split(' ').next().and_then(|number| number.parse().ok()) {
            Some(value) if body_of(value) == body => Ok(Some(value)),
            _ => Err(format!("a read found {} bytes that nobody wrote: {:.100}", body.len(), text)),
        },
        _ => Err(format!("a read was answered {status}: {text}")),
    }
}
