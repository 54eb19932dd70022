//! The command line: from words to options that need no further checks.
//!
//! Flags and defaults are the original's (`--id`, `--cluster`, `--port`, `--join`), with those added that an operator
//! of a real node misses (`--data-dir`, `--snapshot-count`, …). Whatever is wrong with them is one line on stderr and
//! an exit code other than 0; the many-line usage text is for `--help`.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};

use crate::address::PeerUrl;
use crate::members::given;
use crate::tls::TlsFiles;
use crate::wal_tool::WalTask;

/// How far apart the demo's nodes are: base, base + 10000, base + 20000, as in the original's Procfile.
pub const DEMO_PORT_STEP: u16 = 10_000;

/// Over the flags for TLS in the help.
const TLS_HEADING: &str = "TLS (files are read anew when they change)";

const EXAMPLES: &str = "\
Examples:
  Three nodes at once, to play with:
    raftexample demo

  The same by hand, one terminal each:
    raftexample --id 1 --cluster http://127.0.0.1:12379,http://127.0.0.1:22379,http://127.0.0.1:32379 --port 12380
    raftexample --id 2 --cluster http://127.0.0.1:12379,http://127.0.0.1:22379,http://127.0.0.1:32379 --port 22380
    raftexample --id 3 --cluster http://127.0.0.1:12379,http://127.0.0.1:22379,http://127.0.0.1:32379 --port 32380

  Write at one node, read at another:
    curl -L http://127.0.0.1:12380/my-key -X PUT -d hello
    curl -L http://127.0.0.1:32380/my-key

  Add a fourth node, then start it:
    curl -L http://127.0.0.1:12380/4 -X POST -d http://127.0.0.1:42379
    raftexample --id 4 --cluster http://127.0.0.1:12379,http://127.0.0.1:22379,http://127.0.0.1:32379,http://127.0.0.1:42379 --port 42380 --join

  Remove node 3; its process stops by itself:
    curl -L http://127.0.0.1:12380/3 -X DELETE

Environment:
  RUST_LOG  what to log on stderr: error, warn, info (the default), debug, trace; or per part: raft_core=debug,info";

#[derive(Debug, Parser)]
#[command(
    name = "raftexample",
    version,
    about = "One node of a replicated key-value store on Raft",
    after_help = EXAMPLES,
    args_conflicts_with_subcommands = true
)]
struct CommandLine {
    #[command(subcommand)]
    command: Option<SubcommandLine>,
    #[command(flatten)]
    node: NodeLine,
}

#[derive(Debug, Subcommand)]
enum SubcommandLine {
    /// Start three nodes on this machine, print what to try, stop them all on Ctrl-C
    Demo(DemoLine),
    /// Look at the log of a node that is stopped: dump, verify, repair
    #[command(subcommand)]
    Wal(WalTask),
}

#[derive(Debug, Args)]
struct NodeLine {
    /// This node's id: its position in --cluster, from 1
    #[arg(long, default_value_t = 1, value_name = "N")]
    id: u64,
    /// The peer URLs of all members, separated by commas, in the order of their ids
    #[arg(long, default_value = "http://127.0.0.1:9021", value_name = "URL,URL,…", value_delimiter = ',')]
    cluster: Vec<PeerUrl>,
    /// The port that serves clients
    #[arg(long, default_value_t = 9121, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// Join a cluster that is already running and to which this node was added
    #[arg(long)]
    join: bool,
    /// Where the log and the snapshots are kept [default: raftexample-<id>]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Take a snapshot, and drop the log behind it, every so many entries [default: 10000, or as many as weigh one and a
    /// half times what the state weighs, if those are more]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    snapshot_count: Option<u64>,
    /// Serve clients on this address only [default: all addresses]
    #[arg(long, value_name = "IP")]
    bind: Option<IpAddr>,
    /// The size of one file of the log, in MiB
    #[arg(long, default_value_t = 64, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=1024))]
    wal_segment_mib: u64,
    /// One tick of Raft's clock, in milliseconds; as the next two, the same on all nodes of a cluster
    #[arg(long, default_value_t = 100, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    tick_ms: u64,
    /// The leader sends a heartbeat every so many ticks; more than a round trip to the farthest node
    #[arg(long, default_value_t = 1, value_name = "TICKS", value_parser = clap::value_parser!(u16).range(1..))]
    heartbeat_ticks: u16,
    /// An election begins after so many ticks without a heartbeat, or up to twice as many; at least five heartbeats
    #[arg(long, default_value_t = 10, value_name = "TICKS", value_parser = clap::value_parser!(u16).range(1..))]
    election_ticks: u16,
    /// Serve clients over TLS with this certificate and those between it and its CA (PEM)
    #[arg(long, value_name = "FILE", help_heading = TLS_HEADING)]
    cert_file: Option<PathBuf>,
    /// The private key of --cert-file (PEM)
    #[arg(long, value_name = "FILE", help_heading = TLS_HEADING)]
    key_file: Option<PathBuf>,
    /// Serve only clients that have a certificate from --trusted-ca-file
    #[arg(long, help_heading = TLS_HEADING)]
    client_cert_auth: bool,
    /// Who vouches for clients (PEM)
    #[arg(long, value_name = "FILE", help_heading = TLS_HEADING)]
    trusted_ca_file: Option<PathBuf>,
    /// This node's certificate for its peers; its name must be the host in its peer URL, which begins with https:// then
    #[arg(long, value_name = "FILE", help_heading = TLS_HEADING)]
    peer_cert_file: Option<PathBuf>,
    /// The private key of --peer-cert-file
    #[arg(long, value_name = "FILE", help_heading = TLS_HEADING)]
    peer_key_file: Option<PathBuf>,
    /// Let only those connect as peers who have a certificate from --peer-trusted-ca-file: without it, anybody may
    #[arg(long, help_heading = TLS_HEADING)]
    peer_client_cert_auth: bool,
    /// Who vouches for peers
    #[arg(long, value_name = "FILE", help_heading = TLS_HEADING)]
    peer_trusted_ca_file: Option<PathBuf>,
    /// Stop when stdin is closed (how the demo's nodes notice that the demo is gone)
    #[arg(long, hide = true)]
    stop_with_stdin: bool,
}

#[derive(Debug, Args)]
struct DemoLine {
    /// Node n listens to its peers at this port + (n-1)*10000, and to clients one port above
    #[arg(long, default_value_t = 12_379, value_name = "PORT",
          value_parser = clap::value_parser!(u16).range(1..=(u16::MAX - 2 * DEMO_PORT_STEP - 1) as i64))]
    base_port: u16,
    /// Speak TLS everywhere, with certificates of a CA that is made for this demo
    #[arg(long)]
    tls: bool,
    /// Keep the nodes' data here; without it, a temporary folder is used and removed
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// What the program was asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// Be one node.
    Node(Box<NodeOptions>),
    /// Start three.
    Demo(DemoOptions),
    /// Look at a log.
    Wal(WalTask),
}

/// Raft's clock. Heartbeats and elections are counted in ticks, because that is what Raft counts: an interval that is no
/// whole number of ticks would be rounded without a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// The length of a tick; not 0.
    pub tick: Duration,
    /// Ticks between two heartbeats; at least 1.
    pub heartbeat_ticks: u16,
    /// Ticks without a heartbeat before an election, at least; at most one less than twice as many. Five times
    /// `heartbeat_ticks` or more: a heartbeat that is lost must not cost the leader its place.
    pub election_ticks: u16,
}

/// An election timeout may be as many heartbeats as this at least. etcd demands the same.
const HEARTBEATS_PER_ELECTION: u16 = 5;
/// Nobody means to wait longer for an election. etcd's limit.
const ELECTION_TIMEOUT_MAX: Duration = Duration::from_secs(50);

impl Default for Timing {
    /// Ticks of 100 ms, a heartbeat each, an election after ten: etcd's.
    fn default() -> Timing {
        Timing { tick: Duration::from_millis(100), heartbeat_ticks: 1, election_ticks: 10 }
    }
}

impl Timing {
    /// Checks what the fields must fulfil together; the error is one line that names the flags.
    pub fn new(tick: Duration, heartbeat_ticks: u16, election_ticks: u16) -> Result<Timing, String> {
        let timing = Timing { tick, heartbeat_ticks, election_ticks };
        let least = heartbeat_ticks.saturating_mul(HEARTBEATS_PER_ELECTION);
        if election_ticks < least {
            return Err(format!(
                "--election-ticks {election_ticks} is too short for --heartbeat-ticks {heartbeat_ticks}: it must be at \
                 least {least}, {HEARTBEATS_PER_ELECTION} heartbeats, or a late heartbeat ends a leader's term"
            ));
        }
        if timing.election_timeout() > ELECTION_TIMEOUT_MAX {
            return Err(format!(
                "--election-ticks {election_ticks} of --tick-ms {} are {:?}: more than {ELECTION_TIMEOUT_MAX:?} without \
                 a leader is refused",
                tick.as_millis(),
                timing.election_timeout()
            ));
        }
        Ok(timing)
    }

    /// The shortest silence of a leader that leads to an election.
    pub fn election_timeout(&self) -> Duration {
        self.tick * u32::from(self.election_ticks)
    }

    /// Time between two heartbeats.
    pub fn heartbeat_interval(&self) -> Duration {
        self.tick * u32::from(self.heartbeat_ticks)
    }
}

/// Everything a node needs to know to start. `id` is a valid position in `cluster`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeOptions {
    /// This node's id; 1 ≤ id ≤ `cluster.len()`.
    pub id: u64,
    /// Peer URLs by position: that of node n is at n - 1. All different.
    pub cluster: Vec<PeerUrl>,
    /// This node's own peer URL, one of them.
    pub own_url: PeerUrl,
    /// The client port.
    pub port: u16,
    /// The address to serve clients on; `None` is all of them.
    pub bind: Option<IpAddr>,
    /// Start with an empty configuration and wait for the leader of a running cluster.
    pub join: bool,
    /// Where the log and the snapshots are kept.
    pub data_dir: PathBuf,
    /// Entries between two snapshots, at least 1, whatever snapshots cost; `None` is 10 000, or more if the state is large.
    pub snapshot_count: Option<u64>,
    /// Size of one file of the log.
    pub wal_segment_bytes: u64,
    /// Raft's clock.
    pub timing: Timing,
    /// How clients are served over TLS; `None` is without.
    pub client_tls: Option<TlsFiles>,
    /// How peers speak over TLS, with a CA; there if and only if the URLs in `cluster` begin with `https`.
    pub peer_tls: Option<TlsFiles>,
    /// Stop when stdin ends.
    pub stop_with_stdin: bool,
}

/// Everything the demo needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DemoOptions {
    /// The first node's peer port.
    pub base_port: u16,
    /// Speak TLS everywhere.
    pub tls: bool,
    /// Where to keep the data; `None` is a temporary folder.
    pub data_dir: Option<PathBuf>,
}

/// Words that are no task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotATask {
    /// Help or version was asked for: print it on stdout, exit with 0.
    Information(String),
    /// One line for stderr, exit with 2.
    Mistake(String),
}

/// Reads the command line; the first word is the program's own name.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Task, NotATask> {
    let line = CommandLine::try_parse_from(words).map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => NotATask::Information(error.render().to_string()),
        _ => NotATask::Mistake(first_paragraph(&error.render().to_string())),
    })?;
    match line.command {
        Some(SubcommandLine::Demo(demo)) => {
            Ok(Task::Demo(DemoOptions { base_port: demo.base_port, tls: demo.tls, data_dir: demo.data_dir }))
        }
        Some(SubcommandLine::Wal(task)) => Ok(Task::Wal(task)),
        None => check(line.node).map(Box::new).map(Task::Node).map_err(NotATask::Mistake),
    }
}

/// clap's message without its usage text, in one line.
fn first_paragraph(text: &str) -> String {
    let paragraph = text.split("\n\n").next().unwrap_or(text);
    let paragraph = paragraph.strip_prefix("error: ").unwrap_or(paragraph);
    let lines: Vec<&str> = paragraph.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    format!("{} (--help shows the flags)", lines.join(" "))
}

/// The files of one port, whose flags begin with this.
fn tls_files(
    prefix: &str,
    (cert, key, trusted_ca): (Option<PathBuf>, Option<PathBuf>, Option<PathBuf>),
    client_auth: bool,
) -> Result<Option<TlsFiles>, String> {
    match (cert, key) {
        (Some(cert), Some(key)) if trusted_ca.is_some() || !client_auth => {
            Ok(Some(TlsFiles { cert, key, trusted_ca, client_auth }))
        }
        (Some(_), Some(_)) => Err(format!(
            "--{prefix}client-cert-auth needs --{prefix}trusted-ca-file, which says who vouches for certificates"
        )),
        (None, None) if trusted_ca.is_none() && !client_auth => Ok(None),
        _ => Err(format!("TLS needs both --{prefix}cert-file and --{prefix}key-file")),
    }
}

fn check(line: NodeLine) -> Result<NodeOptions, String> {
    let client_files = (line.cert_file, line.key_file, line.trusted_ca_file);
    let client_tls = tls_files("", client_files, line.client_cert_auth)?;
    if client_tls.as_ref().is_some_and(|files| files.trusted_ca.is_some() && !files.client_auth) {
        return Err(
            "--trusted-ca-file is for --client-cert-auth: without it, no client is asked for a certificate".into()
        );
    }
    let peer_files = (line.peer_cert_file, line.peer_key_file, line.peer_trusted_ca_file);
    let peer_tls = tls_files("peer-", peer_files, line.peer_client_cert_auth)?;
    let size = line.cluster.len();
    let Some(own_url) = given(&line.cluster, line.id).cloned() else {
        return Err(format!(
            "--id {} is not in --cluster, which names {size} node{}: ids are positions in the list, from 1",
            line.id,
            if size == 1 { "" } else { "s" }
        ));
    };
    for (index, url) in line.cluster.iter().enumerate() {
        if let Some(first) = line.cluster.iter().take(index).position(|other| other == url) {
            return Err(format!("--cluster names {url} twice, for nodes {} and {}", first + 1, index + 1));
        }
    }
    if let Some(other) = line.cluster.iter().find(|url| url.is_secure() != own_url.is_secure()) {
        return Err(format!("--cluster names {own_url} and {other}: either all peers speak https or none does"));
    }
    match &peer_tls {
        None if own_url.is_secure() => {
            return Err(format!(
                "{own_url} needs --peer-cert-file, --peer-key-file and --peer-trusted-ca-file (https is TLS)"
            ));
        }
        Some(_) if !own_url.is_secure() => {
            return Err(format!("--peer-cert-file is for peers that speak https, and {own_url} does not"));
        }
        Some(files) if files.trusted_ca.is_none() => {
            return Err(
                "--peer-cert-file needs --peer-trusted-ca-file: a node must know who vouches for its peers".into()
            );
        }
        _ => {}
    }
    if own_url.port() == line.port {
        return Err(format!("--port {} is this node's peer port too: clients and peers need one each", line.port));
    }
    let data_dir = line.data_dir.unwrap_or_else(|| PathBuf::from(format!("raftexample-{}", line.id)));
    Ok(NodeOptions {
        id: line.id,
        cluster: line.cluster,
        own_url,
        port: line.port,
        bind: line.bind,
        join: line.join,
        data_dir,
        snapshot_count: line.snapshot_count,
        wal_segment_bytes: line.wal_segment_mib << 20,
        timing: Timing::new(Duration::from_millis(line.tick_ms), line.heartbeat_ticks, line.election_ticks)?,
        client_tls,
        peer_tls,
        stop_with_stdin: line.stop_with_stdin,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_words(words: &str) -> Result<Task, NotATask> {
        parse(std::iter::once("raftexample").chain(words.split_whitespace()).map(OsString::from))
    }

    fn node(words: &str) -> NodeOptions {
        match parse_words(words) {
            Ok(Task::Node(options)) => *options,
            other => panic!("{words:?} gave {other:?}"),
        }
    }

    fn mistake(words: &str) -> String {
        match parse_words(words) {
            Err(NotATask::Mistake(line)) => {
                assert_eq!(line.lines().count(), 1, "one line: {line}");
                line
            }
            other => panic!("{words:?} gave {other:?}"),
        }
    }

    #[test]
    fn the_defaults_are_the_originals() {
        let options = node("");
        assert_eq!((options.id, options.port, options.join), (1, 9121, false));
        assert_eq!(options.own_url.to_string(), "http://127.0.0.1:9021");
        assert_eq!(options.snapshot_count, None, "10 000, or more");
        assert_eq!(options.data_dir, PathBuf::from("raftexample-1"));
        assert_eq!(options.timing, Timing::default());
    }

    #[test]
    fn the_clocks_flags_must_fit_together() {
        let timing = node("--tick-ms 20 --heartbeat-ticks 3 --election-ticks 15").timing;
        assert_eq!(timing.heartbeat_interval(), Duration::from_millis(60));
        assert_eq!(timing.election_timeout(), Duration::from_millis(300));
        let line = mistake("--heartbeat-ticks 3 --election-ticks 14");
        assert!(line.contains("--election-ticks 14") && line.contains("at least 15"), "{line}");
        assert_eq!(node("--heartbeat-ticks 2").timing.heartbeat_ticks, 2);
        assert!(mistake("--heartbeat-ticks 3").contains("--election-ticks 10"), "the default is checked too");
        assert_eq!(node("--tick-ms 5000").timing.election_timeout(), ELECTION_TIMEOUT_MAX);
        assert!(mistake("--tick-ms 5001").contains("50.01s"));
        assert!(mistake("--tick-ms 0").contains("--tick-ms"));
        assert!(mistake("--heartbeat-ticks 0").contains("--heartbeat-ticks"));
    }

    #[test]
    fn the_originals_command_lines_work() {
        let options = node("--id 2 --cluster http://127.0.0.1:12379,http://127.0.0.1:22379 --port 22380 --join");
        assert_eq!((options.id, options.port, options.join), (2, 22380, true));
        assert_eq!(options.own_url.port(), 22379);
        assert_eq!(options.data_dir, PathBuf::from("raftexample-2"));
    }

    #[test]
    fn a_mistake_is_one_line_that_names_it() {
        assert!(mistake("--id 3 --cluster http://a:1,http://b:2").contains("--id 3 is not in --cluster"));
        assert!(mistake("--id 0").contains("--id 0 is not in --cluster"));
        assert!(mistake("--id 18446744073709551615").contains("is not in --cluster"));
        assert!(mistake("--id one").contains("one"));
        assert!(mistake("--cluster 127.0.0.1:9021").contains("http://"));
        assert!(mistake("--cluster http://a:1,http://a:1").contains("twice"));
        assert!(mistake("--cluster http://a:9121").contains("peer port"));
        assert!(mistake("--port 0").contains("--port"));
        assert!(mistake("--snapshot-count 0").contains("--snapshot-count"));
        assert!(mistake("--frobnicate").contains("--frobnicate"));
        assert!(mistake("stray").contains("stray"));
        assert!(mistake("demo --base-port 60000").contains("--base-port"));
        assert!(mistake("--id 1 demo").contains("demo"), "flags of a node mean nothing to the demo");
    }

    #[test]
    fn files_for_tls_go_together_and_with_the_urls() {
        let options = node("--cert-file c --key-file k");
        let files = TlsFiles { cert: "c".into(), key: "k".into(), trusted_ca: None, client_auth: false };
        assert_eq!((options.client_tls, options.peer_tls), (Some(files), None));
        assert!(mistake("--cert-file c").contains("--key-file"));
        assert!(mistake("--trusted-ca-file a").contains("--cert-file"));
        assert!(mistake("--cert-file c --key-file k --client-cert-auth").contains("--trusted-ca-file"));
        assert!(mistake("--cert-file c --key-file k --trusted-ca-file a").contains("--client-cert-auth"));
        let peers = "--peer-cert-file c --peer-key-file k --peer-trusted-ca-file a --peer-client-cert-auth";
        let files = node(&format!("--cluster https://a:1,https://b:2 {peers}")).peer_tls.expect("files");
        assert!(files.client_auth && files.trusted_ca == Some("a".into()));
        assert!(mistake("--cluster https://a:1").contains("--peer-cert-file"));
        assert!(mistake(&format!("--cluster http://a:1 {peers}")).contains("http://a:1"));
        assert!(mistake(&format!("--cluster https://a:1,http://b:2 {peers}")).contains("http://b:2"));
        let line = mistake("--cluster https://a:1 --peer-cert-file c --peer-key-file k");
        assert!(line.contains("--peer-trusted-ca-file"), "{line}");
    }

    #[test]
    fn help_is_not_a_mistake() {
        match parse_words("--help") {
            Err(NotATask::Information(text)) => {
                assert!(text.contains("Examples:") && text.contains("--snapshot-count"))
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_demo_has_its_ports() {
        let expected = DemoOptions { base_port: 12_379, tls: false, data_dir: None };
        assert_eq!(parse_words("demo"), Ok(Task::Demo(expected)));
        let expected = DemoOptions { base_port: 20_000, tls: true, data_dir: Some("d".into()) };
        assert_eq!(parse_words("demo --base-port 20000 --tls --data-dir d"), Ok(Task::Demo(expected)));
    }
}
