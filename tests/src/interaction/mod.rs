//! A cluster in one process that does only what it is told, and shows everything it did.
//!
//! An [`Environment`] holds nodes (each a `RawNode` with its storage and an application) and one list of messages that
//! are on their way. Nothing moves by itself: `campaign 1` starts an election, `process-ready 1` lets node 1 carry out
//! one Ready, `deliver-msgs 2` hands node 2 its mail, and `stabilize` does both until nothing is left to do. Each
//! command's output is what the nodes logged, and what went in and out of them.
//!
//! The commands, their output and the environment's rules are those of etcd's `rafttest` package, so that etcd's
//! expected traces run here unchanged. What etcd's driver cannot say is added under names that it does not use: nodes
//! crash, restart and lose data, links are cut, hostile messages come in, errors are expected. [`COMMANDS`] lists all.
//!
//! | file | holds |
//! |---|---|
//! | `output.rs` | what is shown, and how log lines get there |
//! | `node.rs` | one node: state machine, storage, application |
//! | `args.rs` | reading the words of a command |
//! | `commands.rs` | etcd's commands |
//! | `faults.rs` | the added ones |
//! | `help.rs` | the table of all commands, for people |
//!
//! Left out: time and randomness. An election timeout never runs out here unless a command pins it and ticks.

mod args;
mod commands;
mod faults;
mod help;
mod node;
mod output;

use std::collections::BTreeSet;

use raft_core::pb::{Message, MessageType};
use raft_core::{describe, is_local_thread, Error, StorageError};

use crate::datadriven::Directive;

use node::Node;
use output::{capture, Level, Output};

pub use help::{help, Command, COMMANDS};

/// Why a directive did not do what it was told.
#[derive(Clone, Debug)]
pub enum Failure {
    /// The node refused.
    Raft(Error),
    /// Anything else; the text says what.
    Text(String),
}

impl Failure {
    pub(crate) fn text(text: impl Into<String>) -> Self {
        Failure::Text(text.into())
    }

    fn storage(error: StorageError) -> Self {
        Failure::Raft(Error::Storage(error))
    }

    /// As etcd's driver shows it; `None` for refusals that etcd makes without an error.
    fn etcd_text(&self) -> Option<String> {
        match self {
            Failure::Text(text) => Some(text.clone()),
            Failure::Raft(error) => etcd_text(error),
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Raft(error) => error.fmt(f),
            Failure::Text(text) => f.write_str(text),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Raft(error)
    }
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Failure::Text(text)
    }
}

fn etcd_text(error: &Error) -> Option<String> {
    match error {
        Error::ProposalDropped(_) => Some("raft proposal dropped".to_string()),
        Error::StepLocalMessage => Some("raft: cannot step raft local message".to_string()),
        Error::StepPeerNotFound { .. } => Some("raft: cannot step as peer not found".to_string()),
        // There, a log line is all that tells of these.
        Error::ConfChangeRefused(_) | Error::ReadDropped(_) | Error::TransferDropped(_) => None,
        other => Some(other.to_string()),
    }
}

/// Nodes, and the messages between them.
#[derive(Debug)]
pub struct Environment {
    /// The node with id `n` stands at `n - 1`.
    nodes: Vec<Node>,
    /// On their way, oldest first, whoever they are for.
    network: Vec<Message>,
    /// Directed links that lose everything, as (from, to).
    cuts: BTreeSet<(u64, u64)>,
    output: Output,
}

impl Default for Environment {
    fn default() -> Self {
        Self::new()
    }
}

impl Environment {
    /// No nodes; everything is shown.
    pub fn new() -> Self {
        Environment { nodes: Vec::new(), network: Vec::new(), cuts: BTreeSet::new(), output: Output::new() }
    }

    /// Carries out one directive and answers its output.
    pub fn handle(&mut self, directive: &Directive) -> String {
        let output = self.output.clone();
        output.take();
        let failure = capture(&output, || self.dispatch(directive)).err().and_then(|failure| failure.etcd_text());
        let shown = output.take();
        match failure {
            // Errors are shown even where nothing else is.
            Some(failure) if output.level() == Level::None => failure,
            Some(failure) => shown + &failure,
            None if shown.is_empty() => "ok".to_string(),
            None => shown,
        }
    }

    fn node(&mut self, id: u64) -> Result<&mut Node, Failure> {
        let position = usize::try_from(id).ok().and_then(|id| id.checked_sub(1));
        let node = position.and_then(|position| self.nodes.get_mut(position));
        node.ok_or_else(|| Failure::text(format!("there is no node {id}")))
    }

    fn ids(&self) -> Vec<u64> {
        self.nodes.iter().map(|node| node.id).collect()
    }

    /// Takes the messages for `to` off the network, in order; `kind` picks one type. Between a node and its own storage
    /// threads nothing is ever dropped.
    fn take_mail(&mut self, to: u64, kind: Option<MessageType>, drop: bool) -> Vec<Message> {
        let wanted = |message: &Message| {
            message.to == to && !(drop && is_local(message)) && (kind.is_none() || message.kind() == kind)
        };
        let (mail, rest) = std::mem::take(&mut self.network).into_iter().partition(wanted);
        self.network = rest;
        mail
    }

    fn has_mail(&self, to: u64) -> bool {
        self.network.iter().any(|message| message.to == to)
    }

    /// Delivers (or drops) the mail of `to`; answers how many messages there were.
    fn deliver(&mut self, to: u64, kind: Option<MessageType>, drop: bool) -> Result<usize, Failure> {
        let mail = self.take_mail(to, kind, drop);
        let count = mail.len();
        for message in mail {
            let text = describe::message(&message);
            let is_cut = self.cuts.contains(&(message.from, message.to));
            if drop {
                self.output.line(&format!("dropped: {text}"));
            } else if is_cut || !self.node(to).is_ok_and(|node| node.is_up()) {
                self.output.line(&format!("lost: {text}"));
            } else {
                self.output.line(&text);
                let refusal = self.node(to)?.raw()?.step(message).err();
                if let Some(text) = refusal.as_ref().and_then(etcd_text) {
                    self.output.line(&text);
                }
            }
        }
        Ok(count)
    }
}

fn is_local(message: &Message) -> bool {
    message.from == message.to || is_local_thread(message.from) || is_local_thread(message.to)
}
