//! Three nodes on one machine, to play with and to break.
//!
//! The demo starts this very program three times, as three processes: one can be killed like any process, and the demo
//! says how to start it again. It shows their log lines with a prefix, waits until they have a leader, and prints what to
//! try.
//!
//! **No process is left behind.** Each node's stdin is a pipe whose other end the demo holds, and a node that was
//! started by the demo stops when its stdin ends. So Ctrl-C, SIGTERM, a crash and `kill -9` of the demo all have the same
//! effect: the kernel closes the pipes. A node that would not go is killed, by its process id.
//!
//! **No data is mixed or pulled away.** A temporary folder is a new one for each demo, under a name that nobody can
//! know before. It is removed at the end, except when a node that was started by hand is still using its part.
//!
//! With `--tls` everything is spoken over TLS, with a certificate authority of the demo's own.
//!
//! What is left out: starting nodes again. Doing that by hand is the point.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::signal::unix::{signal, SignalKind};
use tokio::sync::mpsc;
use wal::disk::Disk;
use wal::OsDisk;

use crate::cli::{DemoOptions, DEMO_PORT_STEP};
use crate::http::request::STATUS_PATH;
use crate::tls::throwaway::Throwaway;
use crate::tls::Tls;

/// How many nodes.
const NODES: u16 = 3;
/// A leader must be found within this time.
const LEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// A node that was told to stop must end within this time: two election timeouts and three seconds, by its own rules.
const STOP_TIMEOUT: Duration = Duration::from_secs(8);
/// Between two looks at something.
const POLL_PAUSE: Duration = Duration::from_millis(50);

/// Runs until Ctrl-C or SIGTERM.
pub fn run(options: &DemoOptions) -> Result<(), String> {
    let ports: Vec<Ports> = (0..NODES).map(|n| Ports::of(options.base_port, n)).collect();
    for port in ports.iter().flat_map(|ports| [ports.peers, ports.clients]) {
        // The node itself will bind it; this is for a clear word before anything is started.
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(|error| format!("cannot use port {port}: {error}"))?;
    }
    let folder = Folder::new(options.data_dir.as_deref())?;
    let tls = match options.tls {
        true => Some(Throwaway::make(&folder.path.join("tls"), &["127.0.0.1", "localhost"])?),
        false => None,
    };
    let program = std::env::current_exe().map_err(|error| format!("cannot find my own program: {error}"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("cannot start: {error}"))?;
    runtime.block_on(async {
        // From here on a signal ends the demo in order.
        let failed = |error: std::io::Error| format!("cannot listen for signals: {error}");
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let (events, mut happened) = mpsc::unbounded_channel();
        let mut nodes = Vec::new();
        for n in 0..NODES {
            nodes.push(Node::start(n, &ports, &program, (&folder.path, tls.as_ref()), &events)?);
        }
        let ended = Arc::new(AtomicBool::new(false));
        let search = look_for_leader(ports.clone(), tls.clone(), events, Arc::clone(&ended));
        let result = loop {
            let event = tokio::select! {
                _ = interrupt.recv() => break Ok(()),
                _ = terminate.recv() => break Ok(()),
                event = happened.recv() => event,
            };
            match event {
                Some(Event::Leader(leader)) => introduce(leader, &nodes, &folder, tls.as_ref()),
                Some(Event::NoLeader) => break Err(format!("no leader within {LEADER_TIMEOUT:?}")),
                Some(Event::Ended(n)) => {
                    if let Some(node) = nodes.iter_mut().find(|node| node.n == n) {
                        let status = node.wait();
                        if !search.is_finished() {
                            break Err(format!("node {} has ended before there was a leader ({status})", n + 1));
                        }
                        say(&format!("node {} has ended ({status}); start it again with:\n  {}", n + 1, node.command));
                    }
                }
                None => break Ok(()),
            }
        };
        ended.store(true, Ordering::Relaxed);
        stop(nodes);
        result
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ports {
    peers: u16,
    clients: u16,
}

impl Ports {
    /// `base` is small enough: the command line has been checked.
    fn of(base: u16, n: u16) -> Ports {
        let peers = base.saturating_add(n.saturating_mul(DEMO_PORT_STEP));
        Ports { peers, clients: peers.saturating_add(1) }
    }
}

enum Event {
    Leader(u64),
    NoLeader,
    /// Counted from 0.
    Ended(u16),
}

/// Where the nodes' data is; a temporary one is removed at the end.
struct Folder {
    path: PathBuf,
    temporary: bool,
}

impl Folder {
    fn new(wanted: Option<&Path>) -> Result<Folder, String> {
        let failed = |path: &Path, error: std::io::Error| format!("cannot create {}: {error}", path.display());
        match wanted {
            Some(path) => {
                // The commands that the demo prints must work in any folder.
                let path = std::path::absolute(path).map_err(|error| failed(path, error))?;
                std::fs::create_dir_all(&path).map_err(|error| failed(&path, error))?;
                Ok(Folder { path, temporary: false })
            }
            None => {
                let temporary = std::env::temp_dir();
                let temporary = std::path::absolute(&temporary).map_err(|error| failed(&temporary, error))?;
                // The standard library seeds each `RandomState` from the system's randomness.
                let suffix = RandomState::new().build_hasher().finish();
                let path = temporary.join(format!("raftexample-demo-{suffix:016x}"));
                // It must not exist: whatever is there belongs to somebody else.
                std::fs::DirBuilder::new().mode(0o700).create(&path).map_err(|error| failed(&path, error))?;
                Ok(Folder { path, temporary: true })
            }
        }
    }

    /// Removes everything, unless a node is using a part of it: then that node's folder is returned.
    fn remove(&self) -> std::io::Result<Option<PathBuf>> {
        // Held until all is gone, so that no node can start on what is being removed.
        let mut locks = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            let node = entry?.path();
            let log = node.join("wal");
            if !log.is_dir() {
                continue;
            }
            match OsDisk.lock(&log) {
                Ok(lock) => locks.push(lock),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Some(node)),
                Err(error) => return Err(error),
            }
        }
        std::fs::remove_dir_all(&self.path)?;
        Ok(None)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.temporary {
            return;
        }
        let path = self.path.display();
        match self.remove() {
            Ok(None) => {}
            Ok(Some(node)) => crate::complain(&format!("{path} is kept: a node is using {}", node.display())),
            Err(error) => crate::complain(&format!("cannot remove {path}: {error}")),
        }
    }
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:,=+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_string()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// One process.
struct Node {
    n: u16,
    ports: Ports,
    child: Child,
    log: Option<JoinHandle<()>>,
    /// How to start it by hand.
    command: String,
    ended: Option<ExitStatus>,
}

impl Node {
    fn start(
        n: u16,
        ports: &[Ports],
        program: &Path,
        (folder, tls): (&Path, Option<&Throwaway>),
        events: &mpsc::UnboundedSender<Event>,
    ) -> Result<Node, String> {
        let own = ports.get(usize::from(n)).copied().ok_or("a node without ports")?;
        let cluster: Vec<String> =
            ports.iter().map(|ports| format!("{}://127.0.0.1:{}", scheme(tls), ports.peers)).collect();
        let data_dir = folder.join(format!("node{}", n + 1));
        let mut arguments = vec![
            "--id".to_string(),
            (n + 1).to_string(),
            "--cluster".to_string(),
            cluster.join(","),
            "--port".to_string(),
            own.clients.to_string(),
            "--bind".to_string(),
            "127.0.0.1".to_string(),
            "--data-dir".to_string(),
            data_dir.display().to_string(),
        ];
        if let Some(tls) = tls {
            arguments.push("--peer-client-cert-auth".to_string());
            let files = [
                ("--cert-file", &tls.cert),
                ("--key-file", &tls.key),
                ("--peer-cert-file", &tls.cert),
                ("--peer-key-file", &tls.key),
                ("--peer-trusted-ca-file", &tls.ca),
            ];
            arguments.extend(files.into_iter().flat_map(|(flag, file)| [flag.to_string(), file.display().to_string()]));
        }
        let words = std::iter::once(program.display().to_string()).chain(arguments.iter().cloned());
        let command = words.map(|word| quoted(&word)).collect::<Vec<_>>().join(" ");
        let mut child = Command::new(program)
            .args(&arguments)
            .arg("--stop-with-stdin")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("cannot start node {}: {error}", n + 1))?;
        let log = child.stderr.take().map(|stderr| {
            let events = events.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
                    // An error means that nobody reads it.
                    let _ = writeln!(std::io::stderr(), "node {} | {}", n + 1, String::from_utf8_lossy(&line));
                }
                // Its stderr ends when it does.
                let _ = events.send(Event::Ended(n));
            })
        });
        Ok(Node { n, ports: own, child, log, command, ended: None })
    }

    fn wait(&mut self) -> String {
        match self.child.wait() {
            Ok(status) => {
                self.ended = Some(status);
                status.to_string()
            }
            Err(error) => error.to_string(),
        }
    }
}

impl Drop for Node {
    /// Whatever goes wrong here, no process is left.
    fn drop(&mut self) {
        if self.ended.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Lets all nodes stop in order; those that do not are killed when they are dropped.
fn stop(mut nodes: Vec<Node>) {
    for node in &mut nodes {
        // The end of its stdin tells it to stop.
        drop(node.child.stdin.take());
    }
    let deadline = Instant::now() + STOP_TIMEOUT;
    while Instant::now() < deadline && nodes.iter().any(|node| node.ended.is_none()) {
        for node in nodes.iter_mut().filter(|node| node.ended.is_none()) {
            node.ended = node.child.try_wait().ok().flatten();
        }
        std::thread::sleep(POLL_PAUSE);
    }
    for node in &mut nodes {
        if node.ended.is_none() {
            crate::complain(&format!("node {} does not stop: killing process {}", node.n + 1, node.child.id()));
            let _ = node.child.kill();
            node.wait();
        }
        if let Some(log) = node.log.take() {
            let _ = log.join();
        }
    }
}

fn say(text: &str) {
    // An error means that nobody reads it.
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn introduce(leader: u64, nodes: &[Node], folder: &Folder, tls: Option<&Throwaway>) {
    let scheme = scheme(tls);
    let trust = tls.map(|tls| format!("--cacert {} ", quoted(&tls.ca.display().to_string()))).unwrap_or_default();
    let fate = if folder.temporary { "removed at the end; --data-dir DIR keeps it" } else { "kept" };
    say(&format!(
        "\nThree nodes are running, and node {leader} leads. Their data: {} ({fate}).",
        folder.path.display()
    ));
    for node in nodes {
        let Ports { peers, clients } = node.ports;
        let process = node.child.id();
        say(&format!(
            "  node {}: clients {scheme}://127.0.0.1:{clients}  peers {scheme}://127.0.0.1:{peers}  process {process}",
            node.n + 1
        ));
    }
    let [first, second, third] = nodes else { return };
    let client = |node: &Node| format!("{scheme}://127.0.0.1:{}", node.ports.clients);
    say("\nIn another terminal, write at one node and read at another:");
    say(&format!("  curl {trust}-L {}/my-key -X PUT -d hello", client(second)));
    say(&format!("  curl {trust}-L {}/my-key", client(third)));
    say("Ask a node how it is, and whom it follows:");
    say(&format!("  curl {trust}{}{STATUS_PATH}", client(first)));
    if let Some(node) = nodes.iter().find(|node| u64::from(node.n) + 1 == leader) {
        say("Kill the leader; another one takes over, and nothing that was acknowledged is lost:");
        say(&format!("  kill -9 {}", node.child.id()));
        say("Start it again:");
        say(&format!("  {}", node.command));
    }
    say("\nCtrl-C stops all three.\n");
}

/// Asks the nodes again and again until one says that it leads.
fn look_for_leader(
    ports: Vec<Ports>,
    tls: Option<Throwaway>,
    events: mpsc::UnboundedSender<Event>,
    ended: Arc<AtomicBool>,
) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let deadline = Instant::now() + LEADER_TIMEOUT;
        while Instant::now() < deadline && !ended.load(Ordering::Relaxed) {
            if let Some(leader) = ports.iter().find_map(|ports| leader_by_its_own_word(ports.clients, tls.as_ref())) {
                let _ = events.send(Event::Leader(leader));
                return;
            }
            std::thread::sleep(POLL_PAUSE);
        }
        let _ = events.send(Event::NoLeader);
    })
}

/// The node's id, if it answers and leads.
fn leader_by_its_own_word(port: u16, tls: Option<&Throwaway>) -> Option<u64> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
    match tls {
        None => ask_whether_it_leads(stream),
        Some(tls) => ask_whether_it_leads(Tls::load(tls.files(false)).ok()?.dial(stream, "127.0.0.1")?),
    }
}

fn ask_whether_it_leads(mut stream: impl Read + Write) -> Option<u64> {
    let request = format!("GET {STATUS_PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.take(1 << 20).read_to_string(&mut answer).ok()?;
    leader_in(&answer)
}

fn scheme(tls: Option<&Throwaway>) -> &'static str {
    if tls.is_some() {
        "https"
    } else {
        "http"
    }
}

fn leader_in(answer: &str) -> Option<u64> {
    let (_, body) = answer.split_once("\r\n\r\n")?;
    let status: serde_json::Value = serde_json::from_str(body).ok()?;
    let id = status.get("id")?.as_u64()?;
    (status.get("role")?.as_str()? == "leader").then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_the_originals() {
        let ports: Vec<(u16, u16)> =
            (0..3).map(|n| Ports::of(12_379, n)).map(|ports| (ports.peers, ports.clients)).collect();
        assert_eq!(ports, [(12_379, 12_380), (22_379, 22_380), (32_379, 32_380)]);
    }

    #[test]
    fn a_leader_is_believed_by_its_own_word_only() {
        let answer = |body: &str| format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{body}");
        assert_eq!(leader_in(&answer(r#"{"id": 2, "role": "leader", "leader": 2}"#)), Some(2));
        assert_eq!(leader_in(&answer(r#"{"id": 2, "role": "follower", "leader": 1}"#)), None);
        assert_eq!(leader_in(&answer("no JSON")), None);
        assert_eq!(leader_in(""), None);
    }

    #[test]
    fn a_temporary_folder_goes_and_a_wanted_one_stays() {
        let outer = tempfile::tempdir().unwrap();
        let wanted = outer.path().join("a").join("b");
        drop(Folder::new(Some(&wanted)).unwrap());
        assert!(wanted.is_dir());
        let (one, other) = (Folder::new(None).unwrap(), Folder::new(None).unwrap());
        assert_ne!(one.path, other.path);
        for folder in [one, other] {
            let path = folder.path.clone();
            std::fs::create_dir_all(path.join("node1").join("wal")).unwrap();
            drop(folder);
            assert!(!path.exists());
        }
    }

    #[test]
    fn a_temporary_folder_stays_while_a_node_uses_a_part_of_it() {
        let outer = tempfile::tempdir().unwrap();
        let folder = Folder { path: outer.path().join("demo"), temporary: true };
        for node in ["node1", "node2"] {
            std::fs::create_dir_all(folder.path.join(node).join("wal")).unwrap();
        }
        let lock = OsDisk.lock(&folder.path.join("node2").join("wal")).unwrap();
        assert_eq!(folder.remove().unwrap(), Some(folder.path.join("node2")));
        assert!(folder.path.join("node1").is_dir() && folder.path.join("node2").is_dir());
        drop(lock);
        assert_eq!(folder.remove().unwrap(), None);
        assert!(!folder.path.exists());
        std::fs::create_dir(&folder.path).unwrap();
    }

    #[test]
    fn words_are_quoted_for_a_shell() {
        assert_eq!(quoted("/tmp/raftexample-demo-1/node1"), "/tmp/raftexample-demo-1/node1");
        assert_eq!(quoted("http://127.0.0.1:1,http://127.0.0.1:2"), "http://127.0.0.1:1,http://127.0.0.1:2");
        assert_eq!(quoted("/my data/$x"), "'/my data/$x'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }
}
