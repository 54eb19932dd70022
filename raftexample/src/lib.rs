//! A node of a replicated key-value store: how to build a server around `raft-core`.
//!
//! Raft turns a log that several machines agree on into a service that survives any one of them. The protocol itself is
//! a state machine without hands or senses (crate `raft-core`); this crate gives it both: a clock, a disk, sockets, a
//! store to apply the log to, and clients to answer. Follow three things through the code and you have read it.
//!
//! # The life of a write
//!
//! 1. `PUT /colour` arrives at any node. [`http`] reads the request line into a [`Call`](http::request::Call), and the
//!    body up to a limit. [`NodeHandle::write`](node::NodeHandle::write) gives the command an id of its own ([`codec`]),
//!    puts it into the raft thread's inbox, and waits.
//! 2. The raft thread (`node/driver.rs`) takes *everything* that waits in its inbox and proposes it as one message. On
//!    a follower that message goes to the leader.
//! 3. The leader appends, and hands out a `Ready`. Messages to the followers leave at once ([`transport`]), then the
//!    entries go to the log on disk, in one batch with one sync (`node/disk.rs`). While the disk works, the next writes
//!    gather in the inbox: the slower the disk, the larger the batch.
//! 4. The followers do the same, and only after their sync their acknowledgements leave. With a majority's, the entry is
//!    committed, on the leader first, then, with its next message, on the others.
//! 5. Every node applies it to its store. The node that holds the client's connection recognises the id, and answers 204
//!    (`node/writes.rs`). If it cannot know how things ended, because the leader changed on the way, it says that
//!    instead.
//!
//! # The life of a read
//!
//! `GET /colour` must not miss a write that was acknowledged anywhere before it began. The raft thread asks the leader
//! how far the log was committed just now, and the leader makes sure, by a round of heartbeats, that it still is the
//! leader; all who wait share one question (`node/reads.rs`). As soon as this node's store has applied that far, the
//! reader looks the key up by itself. Nothing is written to any log. `?read=local` skips the question.
//!
//! # The life of a restart
//!
//! A process may die at any moment. What it had promised is on disk: [`node::Disk::open`] finds the newest valid
//! snapshot and the log behind it. The node starts as a follower, takes the snapshot as its store and applies what the
//! log's commit index covers; the rest of the log may or may not survive, the leader decides. A node that was away for
//! long finds that the others have compacted their logs, and is sent a snapshot: a file that travels on a connection of its own, is checked and loaded
//! beside the raft thread, and only then takes the place of the old state ([`snapshots`], [`transport::snapshot`]).
//!
//! | module | is |
//! |---|---|
//! | [`cli`] | the command line |
//! | [`http`] | the API for clients |
//! | [`node`] | the raft thread and what it owns |
//! | [`transport`] | messages between nodes |
//! | [`snapshots`] | the state as a file, and back |
//! | [`codec`], [`members`], [`address`] | what is in entries and snapshots; who is where |
//! | [`serve`], [`tls`] | listening; certificates |
//! | [`metrics`] | what is counted |
//! | [`demo`] | three nodes at once |
//! | `background` | threads for what can wait |
//! | [`wal_tool`] | a stopped node's log, for people |
//!
//! What is left out: the protocol (`raft-core`), the log's format (`wal`), what a command does (`kvstore`).
#![forbid(unsafe_code)]

pub mod address;
mod background;
pub mod cli;
pub mod codec;
pub mod demo;
pub mod http;
pub mod members;
pub mod metrics;
pub mod node;
pub mod serve;
pub mod snapshots;
pub mod tls;
pub mod transport;
pub mod wal_tool;

use std::ffi::OsString;
use std::io::{Read, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{signal, SignalKind};
use tokio::sync::watch;

use cli::{NodeOptions, NotATask, Task};
use codec::Dialect;
use node::{Disk, Ending, NodeHandle};
use serve::limits::{raise_file_limit, Limits};
use serve::{Phase, Server};
use tls::{Tls, TlsFiles};
use transport::server::{Arriving, PeerServer};

/// Threads for sockets, at most; the raft thread has its own. With two processors there is one: it answers more requests a
/// second than the raft thread gets through, and a second one would be woken each time that there is work, only to find
/// that the first has done it.
const SOCKET_THREADS_MAX: usize = 2;
/// How long requests that are being answered may take to finish at the end.
const FINISH_TIMEOUT: Duration = Duration::from_secs(2);
/// The cluster id of the original raftexample; part of every data directory's identity.
const CLUSTER_ID: u64 = 0x1000;

fn socket_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |processors| (processors.get() / 2).clamp(1, SOCKET_THREADS_MAX))
}

/// Does what the command line says, in a cluster of this program; returns the exit code: 0, 1 for what went wrong, 2 for
/// a wrong command line.
pub fn run(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    run_as(words, &Dialect::own())
}

/// As [`run`], in a cluster that speaks another [`Dialect`].
pub fn run_as(words: impl IntoIterator<Item = OsString>, dialect: &Dialect) -> ExitCode {
    let result = match cli::parse(words) {
        Ok(Task::Node(options)) => run_node(&options, dialect),
        Ok(Task::Demo(options)) => demo::run(&options),
        Ok(Task::Wal(task)) => return wal_tool::run(&task),
        Err(NotATask::Information(text)) => {
            // An error means that nobody reads it.
            let _ = std::io::stdout().write_all(text.as_bytes());
            return ExitCode::SUCCESS;
        }
        Err(NotATask::Mistake(line)) => {
            complain(&line);
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(line) => {
            complain(&line);
            ExitCode::FAILURE
        }
    }
}

/// One line on stderr, whatever the text.
pub(crate) fn complain(line: &str) {
    let line = line.replace(['\n', '\r'], " ");
    let _ = writeln!(std::io::stderr(), "raftexample: {line}");
}

/// Is one node until it ends. Ports come first: when one is taken, the data directory is left alone.
fn run_node(options: &NodeOptions, dialect: &Dialect) -> Result<(), String> {
    let filter = env_logger::Env::default().default_filter_or("info");
    // An error means that there is a logger already.
    let _ = env_logger::Builder::from_env(filter).format_timestamp_millis().try_init();
    let load = |whose: &str, files: &Option<TlsFiles>| match files.clone().map(Tls::load).transpose() {
        Err(error) => Err(format!("cannot use the certificate files for {whose}: {error}")),
        Ok(tls) => Ok(tls),
    };
    let (client_tls, peer_tls) = (load("clients", &options.client_tls)?, load("peers", &options.peer_tls)?);
    let clients = serve::bind(options.bind, options.port)
        .map_err(|error| format!("cannot listen for clients on port {}: {error}", options.port))?;
    let own_url = &options.own_url;
    let peers = serve::bind_host(own_url.host(), own_url.port())
        .map_err(|error| format!("cannot listen for peers on port {} ({own_url}): {error}", own_url.port()))?;
    let (disk, state) = Disk::open(&options.data_dir, options.id, CLUSTER_ID, options.wal_segment_bytes)
        .map_err(|error| format!("cannot use the data directory {}: {error}", options.data_dir.display()))?;
    let runtime = Builder::new_multi_thread()
        .worker_threads(socket_threads())
        .thread_name("sockets")
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start threads: {error}"))?;
    let running = node::start(options, dialect, disk, state, runtime.handle().clone(), peer_tls.clone())?;
    let (clients_phase, watched) = watch::channel(Phase::Serving);
    let (peers_phase, peers_watched) = watch::channel(Phase::Serving);
    let peer_server = Arc::new(PeerServer {
        own_id: options.id,
        peers: running.peers,
        sink: running.sink,
        register: running.register,
        snapshots: running.snapshots,
        arriving: Arriving::default(),
    });
    let (handle, metrics) = (running.handle.clone(), running.handle.metrics());
    let (client_limits, peer_limits) = Limits::for_files(raise_file_limit());
    for (whose, tls) in [("clients", &client_tls), ("peers", &peer_tls)] {
        if let Some(tls) = tls {
            tls.follow_files(whose, runtime.handle());
        }
    }
    let server = |limits, tls, metrics: &Arc<_>, phase| Server { limits, tls, metrics: Arc::clone(metrics), phase };
    let peers = server(peer_limits, peer_tls, &metrics.peers, peers_watched)
        .accept(peers, move |request| Arc::clone(&peer_server).answer(request));
    let clients = server(client_limits, client_tls, &metrics.clients, watched)
        .accept(clients, move |request| http::answer(handle.clone(), request));
    let servers = (runtime.spawn(peers), runtime.spawn(clients));
    let stop = stop_in_order(running.handle.clone(), clients_phase.clone());
    stop_on_signals(&runtime, Arc::clone(&stop));
    if options.stop_with_stdin {
        stop_with_stdin(stop);
    }
    log::info!("node {} serves clients on port {} and peers at {own_url}", options.id, options.port);

    let ending = running.thread.join().unwrap_or_else(|_| Ending::Failed("the raft thread panicked".into()));
    clients_phase.send_replace(Phase::Over);
    peers_phase.send_replace(Phase::Over);
    let finish = async { tokio::time::timeout(FINISH_TIMEOUT, async { (servers.0.await, servers.1.await) }).await };
    let _ = runtime.block_on(finish);
    runtime.shutdown_timeout(Duration::from_millis(100));
    match ending {
        Ending::Stopped => {
            log::info!("node {} has stopped", options.id);
            Ok(())
        }
        Ending::Removed => {
            complain(&format!(
                "node {} was removed from the cluster, so it stops; its data stays in {} (to bring it back, add it again \
                 under a new id and start it with --join and an empty data directory)",
                options.id,
                options.data_dir.display()
            ));
            Ok(())
        }
        Ending::Failed(reason) => Err(reason),
    }
}

/// Begins the end of the node: no new clients, and the raft thread is told. May wait for room in its inbox.
type Stop = Arc<dyn Fn() + Send + Sync>;

fn stop_in_order(handle: NodeHandle, clients_phase: watch::Sender<Phase>) -> Stop {
    Arc::new(move || {
        clients_phase.send_if_modified(|phase| {
            let serving = *phase == Phase::Serving;
            *phase = Phase::Draining.max(*phase);
            serving
        });
        handle.stop();
    })
}

/// The first SIGINT or SIGTERM stops the node in order, the second ends the process.
fn stop_on_signals(runtime: &Runtime, stop: Stop) {
    runtime.spawn(async move {
        let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
        else {
            log::warn!("cannot listen for signals: the process will end at once when it gets one");
            return;
        };
        for nth in 0.. {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if nth > 0 {
                complain("told twice to stop: ending at once");
                std::process::exit(1);
            }
            log::info!("told to stop: finishing what is under way (once more ends it at once)");
            let stop = Arc::clone(&stop);
            tokio::task::spawn_blocking(move || stop());
        }
    });
}

/// Stops the node when stdin ends: whoever started it holds the other end, and is gone then.
fn stop_with_stdin(stop: Stop) {
    let watch = move || {
        let mut buffer = [0; 64];
        while matches!(std::io::stdin().read(&mut buffer), Ok(read) if read > 0) {}
        stop();
    };
    if let Err(error) = std::thread::Builder::new().name("stdin".into()).spawn(watch) {
        log::warn!("cannot watch stdin: {error}");
    }
}
