//! [`Node`]: a [`RawNode`] behind a thread and channels, for applications with threads of their own.
//!
//! The thread owns the state machine; every method sends it a request. The application takes [`Ready`]s from a channel,
//! carries them out as `raw_node.rs` says, and passes each to [`Node::advance`]. A `Ready` is built at the moment it is
//! taken, so it always holds everything that has come in until then.
//!
//! The rules of the loop (etcd `node.go`):
//!
//! - A proposal waits while no leader is known; it is taken up, or dropped with a reason, once there is one.
//! - Ticks never wait: [`TICK_BACKLOG`] of them are remembered, further ones are dropped with a warning.
//! - A message that is refused is dropped, as if the network had lost it. A fatal fault ends the thread; from then on
//!   every call returns it.
//!
//! The storage is read by the node's thread while the application writes it: share it as `Arc<RwLock<_>>`.
//!
//! Left out: batching of proposals, and everything that needs the state machine at once. An application that wants its
//! own loop around the state machine, as `raftexample` does, drives a [`RawNode`].

use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel::{bounded, select, Receiver, RecvTimeoutError, Select, SendTimeoutError, Sender, TrySendError};

use crate::confchange::ConfChangeKind;
use crate::config::NONE;
use crate::error::{DropReason, Error};
use crate::pb::{ConfState, Message};
use crate::raw_node::{RawNode, SnapshotStatus};
use crate::ready::{Persisted, Ready};
use crate::status::Status;
use crate::storage::Storage;

/// How many ticks a busy node remembers.
pub const TICK_BACKLOG: usize = 128;

/// How many requests wait for a busy node; further callers wait themselves.
const INPUT_BACKLOG: usize = 1024;

/// A running node; see the module's text. Dropping it stops it.
#[derive(Debug)]
pub struct Node {
    inputs: Sender<Input>,
    proposals: Sender<Proposal>,
    ticks: Sender<()>,
    readys: Receiver<Ready>,
    stop: Sender<()>,
    /// Disconnected when the thread has ended.
    ended: Receiver<()>,
    /// What ended the thread, if not `stop`.
    fault: Arc<OnceLock<Error>>,
}

/// Requests that are always taken in.
enum Input {
    Step(Message),
    Campaign,
    ReadIndex(Bytes, Sender<Result<(), Error>>),
    TransferLeader(u64),
    ForgetLeader,
    ReportUnreachable(u64),
    ReportSnapshot(u64, SnapshotStatus),
    ApplyConfChange(ConfChangeKind, Sender<Result<ConfState, Error>>),
    Status(Sender<Status>),
    Advance(Persisted, Sender<Result<(), Error>>),
}

/// A request that waits for a leader.
struct Proposal {
    what: Proposed,
    outcome: Sender<Result<(), Error>>,
}

enum Proposed {
    Data(Bytes),
    ConfChange(ConfChangeKind),
}

impl Node {
    /// Starts the thread that owns `raw`.
    ///
    /// # Errors
    /// The operating system's, if there can be no thread.
    pub fn start<S: Storage + Send + 'static>(raw: RawNode<S>) -> std::io::Result<Self> {
        let (inputs, input) = bounded(INPUT_BACKLOG);
        let (proposals, proposal) = bounded(0);
        let (ticks, tick) = bounded(TICK_BACKLOG);
        let (ready, readys) = bounded(0);
        let (stop, stopped) = bounded(1);
        let (alive, ended) = bounded(0);
        let fault = Arc::new(OnceLock::new());
        let worker = Worker { raw, input, proposal, tick, ready, stopped, removed_under: None };
        let cause = Arc::clone(&fault);
        thread::Builder::new().name("raft".to_string()).spawn(move || {
            if let Err(error) = worker.run() {
                let _ = cause.set(error);
            }
            drop::<Sender<()>>(alive);
        })?;
        Ok(Node { inputs, proposals, ticks, readys, stop, ended, fault })
    }

    /// What a call finds when the thread is gone.
    fn ended_by(&self) -> Error {
        // The channels close a moment before the fault is noted.
        let _ = self.ended.recv();
        self.fault.get().cloned().unwrap_or(Error::Stopped)
    }

    fn send(&self, input: Input) -> Result<(), Error> {
        self.inputs.send(input).map_err(|_| self.ended_by())
    }

    /// Sends a request that is answered.
    fn ask<T>(&self, request: impl FnOnce(Sender<T>) -> Input) -> Result<T, Error> {
        let (answer, answered) = bounded(1);
        self.send(request(answer))?;
        // A request that the thread never came to stays in the queue, and its answer's sender with it.
        select! {
            recv(answered) -> answer => answer.map_err(|_| self.ended_by()),
            recv(self.ended) -> _ => answered.try_recv().map_err(|_| self.ended_by()),
        }
    }

    /// One tick of the clock. Never waits.
    pub fn tick(&self) {
        if let Err(TrySendError::Full(())) = self.ticks.try_send(()) {
            warning!("a tick missed to fire: the node is busy for more than {TICK_BACKLOG} ticks");
        }
    }

    /// Starts an election.
    ///
    /// # Errors
    /// [`Error::Stopped`], or the fault that stopped the node; so for all methods.
    pub fn campaign(&self) -> Result<(), Error> {
        self.send(Input::Campaign)
    }

    /// Proposes data and waits until it is taken up or dropped; `timeout` bounds the wait for a leader.
    ///
    /// # Errors
    /// [`Error::ProposalDropped`], with [`DropReason::NoLeader`] when the time runs out.
    pub fn propose(&self, data: impl Into<Bytes>, timeout: Duration) -> Result<(), Error> {
        self.propose_any(Proposed::Data(data.into()), timeout)
    }

    /// Proposes a configuration change, like [`Self::propose`].
    ///
    /// # Errors
    /// Also [`Error::ConfChangeRefused`].
    pub fn propose_conf_change(&self, change: impl Into<ConfChangeKind>, timeout: Duration) -> Result<(), Error> {
        self.propose_any(Proposed::ConfChange(change.into()), timeout)
    }

    fn propose_any(&self, what: Proposed, timeout: Duration) -> Result<(), Error> {
        let (outcome, answered) = bounded(1);
        match self.proposals.send_timeout(Proposal { what, outcome }, timeout) {
            Ok(()) => answered.recv().unwrap_or_else(|_| Err(self.ended_by())),
            Err(SendTimeoutError::Timeout(_)) => Err(Error::ProposalDropped(DropReason::NoLeader)),
            Err(SendTimeoutError::Disconnected(_)) => Err(self.ended_by()),
        }
    }

    /// Hands a peer's message to the node. What is wrong with it is between the node and its log.
    ///
    /// # Errors
    /// As for [`Self::campaign`].
    pub fn step(&self, message: Message) -> Result<(), Error> {
        self.send(Input::Step(message))
    }

    /// The channel on which the node offers its work, for `select!`. It is disconnected when the node has ended.
    pub fn readys(&self) -> &Receiver<Ready> {
        &self.readys
    }

    /// Waits for work; `None` when `timeout` has passed without any.
    ///
    /// # Errors
    /// As for [`Self::campaign`].
    pub fn ready(&self, timeout: Duration) -> Result<Option<Ready>, Error> {
        match self.readys.recv_timeout(timeout) {
            Ok(ready) => Ok(Some(ready)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(self.ended_by()),
        }
    }

    /// The work taken last is done.
    ///
    /// # Errors
    /// [`Error::AdvanceUnexpected`] if it is another node's.
    pub fn advance(&self, persisted: Persisted) -> Result<(), Error> {
        self.ask(|answer| Input::Advance(persisted, answer))?
    }

    /// Puts a committed configuration change in force; see [`RawNode::apply_conf_change`].
    ///
    /// # Errors
    /// [`Error::ConfChange`].
    pub fn apply_conf_change(&self, change: impl Into<ConfChangeKind>) -> Result<ConfState, Error> {
        let change = change.into();
        self.ask(|answer| Input::ApplyConfChange(change, answer))?
    }

    /// Asks for a linearizable read; see [`RawNode::read_index`].
    ///
    /// # Errors
    /// [`Error::ReadDropped`].
    pub fn read_index(&self, context: impl Into<Bytes>) -> Result<(), Error> {
        let context = context.into();
        self.ask(|answer| Input::ReadIndex(context, answer))?
    }

    /// Asks the leader to hand over to `transferee`.
    ///
    /// # Errors
    /// As for [`Self::campaign`].
    pub fn transfer_leader(&self, transferee: u64) -> Result<(), Error> {
        self.send(Input::TransferLeader(transferee))
    }

    /// See [`RawNode::forget_leader`].
    ///
    /// # Errors
    /// As for [`Self::campaign`].
    pub fn forget_leader(&self) -> Result<(), Error> {
        self.send(Input::ForgetLeader)
    }

    /// See [`RawNode::report_unreachable`].
    ///
    /// # Errors
    /// As for [`Self::campaign`].
    pub fn report_unreachable(&self, id: u64) -> Result<(), Error> {
        self.send(Input::ReportUnreachable(id))
    }

    /// See [`RawNode::report_snapshot`].
    ///
    /// # Errors
    /// As for [`Self::campaign`].
    pub fn report_snapshot(&self, id: u64, status: SnapshotStatus) -> Result<(), Error> {
        self.send(Input::ReportSnapshot(id, status))
    }

    /// A copy of the node's status.
    ///
    /// # Errors
    /// As for [`Self::campaign`].
    pub fn status(&self) -> Result<Status, Error> {
        self.ask(Input::Status)
    }

    /// Ends the thread and waits until it has ended. May be called again.
    ///
    /// # Errors
    /// The fault that had ended it before, if one had.
    pub fn stop(&self) -> Result<(), Error> {
        let _ = self.stop.try_send(());
        let _ = self.ended.recv();
        self.fault.get().cloned().map_or(Ok(()), Err)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

/// The thread's side.
struct Worker<S: Storage> {
    raw: RawNode<S>,
    input: Receiver<Input>,
    proposal: Receiver<Proposal>,
    tick: Receiver<()>,
    ready: Sender<Ready>,
    stopped: Receiver<()>,
    /// The leader under which this node was removed: until there is another one, its proposals would only get lost.
    removed_under: Option<u64>,
}

impl<S: Storage> Worker<S> {
    /// Ends with `Ok` when stopped, with the fault when the node is out of order.
    fn run(mut self) -> Result<(), Error> {
        loop {
            let mut select = Select::new();
            let stopped = select.recv(&self.stopped);
            let tick = select.recv(&self.tick);
            let input = select.recv(&self.input);
            let proposal = if self.takes_proposals() { select.recv(&self.proposal) } else { usize::MAX };
            let ready = if self.raw.has_ready() { select.send(&self.ready) } else { usize::MAX };
            let operation = select.select();
            match operation.index() {
                index if index == stopped => {
                    let _ = operation.recv(&self.stopped);
                    return Ok(());
                }
                index if index == tick => match operation.recv(&self.tick) {
                    Ok(()) => self.raw.tick()?,
                    Err(_) => return Ok(()),
                },
                index if index == input => match operation.recv(&self.input) {
                    Ok(input) => self.handle(input)?,
                    Err(_) => return Ok(()),
                },
                index if index == proposal => match operation.recv(&self.proposal) {
                    Ok(proposal) => self.propose(proposal)?,
                    Err(_) => return Ok(()),
                },
                index if index == ready => {
                    // The receiver is waiting; whatever happens, it must get something.
                    let built = self.raw.ready();
                    let (ready, result) = match built {
                        Ok(ready) => (ready, Ok(())),
                        Err(error) => (Ready::default(), Err(error)),
                    };
                    let _ = operation.send(&self.ready, ready);
                    result?;
                }
                _ => return Ok(()),
            }
        }
    }

    fn takes_proposals(&self) -> bool {
        let lead = self.raw.basic_status().soft_state.lead;
        lead != NONE && self.removed_under != Some(lead)
    }

    fn propose(&mut self, proposal: Proposal) -> Result<(), Error> {
        let result = match proposal.what {
            Proposed::Data(data) => self.raw.propose(data),
            Proposed::ConfChange(change) => self.raw.propose_conf_change(change),
        };
        let fatal = fatal(&result);
        let _ = proposal.outcome.send(result);
        fatal
    }

    fn handle(&mut self, input: Input) -> Result<(), Error> {
        match input {
            Input::Step(message) => fatal(&self.raw.step(message)),
            Input::Campaign => fatal(&self.raw.campaign()),
            Input::TransferLeader(transferee) => fatal(&self.raw.transfer_leader(transferee)),
            Input::ForgetLeader => fatal(&self.raw.forget_leader()),
            Input::Advance(persisted, answer) => {
                let result = self.raw.advance(persisted);
                let fatal = fatal(&result);
                let _ = answer.send(result);
                fatal
            }
            Input::ReportUnreachable(id) => {
                self.raw.report_unreachable(id);
                Ok(())
            }
            Input::ReportSnapshot(id, status) => {
                self.raw.report_snapshot(id, status);
                Ok(())
            }
            Input::ReadIndex(context, answer) => {
                let result = self.raw.read_index(context);
                let fatal = fatal(&result);
                let _ = answer.send(result);
                fatal
            }
            Input::ApplyConfChange(change, answer) => {
                let was_member = self.is_member();
                let result = self.raw.apply_conf_change(change);
                if was_member && !self.is_member() {
                    self.removed_under = Some(self.raw.basic_status().soft_state.lead);
                } else if self.is_member() {
                    self.removed_under = None;
                }
                let fatal = fatal(&result);
                let _ = answer.send(result);
                fatal
            }
            Input::Status(answer) => {
                let _ = answer.send(self.raw.status());
                Ok(())
            }
        }
    }

    fn is_member(&self) -> bool {
        self.raw.is_member()
    }
}

/// Refusals are the caller's or nobody's business; a fatal error ends the node.
fn fatal<T>(result: &Result<T, Error>) -> Result<(), Error> {
    match result {
        Err(error) if error.is_fatal() => Err(error.clone()),
        _ => Ok(()),
    }
}
