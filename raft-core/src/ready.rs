//! [`Ready`]: a batch of work for the application, and [`Persisted`], what it becomes once its state is durable.
//!
//! The two types keep the order of the work; `raw_node.rs` says what that order is and makes them.

use std::fmt;

use bytes::Bytes;

use crate::describe;
use crate::pb::{Entry, HardState, Message, Snapshot};
use crate::raft::{ReadState, SoftState};

/// A batch of work for the application; see [`RawNode`](crate::RawNode)'s file for the order.
#[must_use = "work that is not carried out is lost: persist it, then call persisted() and advance()"]
#[derive(Clone, Debug, Default, Hash)]
pub struct Ready {
    pub(crate) number: u64,
    pub(crate) soft_state: Option<SoftState>,
    pub(crate) hard_state: Option<HardState>,
    pub(crate) read_states: Vec<ReadState>,
    pub(crate) dropped_reads: Vec<Bytes>,
    pub(crate) entries: Vec<Entry>,
    pub(crate) snapshot: Option<Snapshot>,
    pub(crate) committed_entries: Vec<Entry>,
    pub(crate) messages: Vec<Message>,
    pub(crate) promises: Vec<Message>,
    pub(crate) must_sync: bool,
}

impl Ready {
    /// Role and leader, if they changed.
    pub fn soft_state(&self) -> Option<SoftState> {
        self.soft_state
    }

    /// Term, vote and commit index, if they changed; to be persisted with the entries.
    pub fn hard_state(&self) -> Option<HardState> {
        self.hard_state
    }

    /// Reads that may be served once their index is applied.
    pub fn read_states(&self) -> &[ReadState] {
        &self.read_states
    }

    /// Takes [`Self::read_states`] out.
    pub fn take_read_states(&mut self) -> Vec<ReadState> {
        std::mem::take(&mut self.read_states)
    }

    /// Contexts of this node's own reads that will not be answered, because it lost leadership. They may be asked again.
    pub fn dropped_reads(&self) -> &[Bytes] {
        &self.dropped_reads
    }

    /// Entries to be persisted. They replace whatever the log holds from the first one's index on.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// A snapshot to be persisted, and to be taken over as the application's state.
    pub fn snapshot(&self) -> Option<&Snapshot> {
        self.snapshot.as_ref()
    }

    /// Entries that are committed, for a look ahead. To apply them, take them from [`Persisted`].
    pub fn committed_entries(&self) -> &[Entry] {
        &self.committed_entries
    }

    /// Whether hard state and entries must be durable before [`Self::persisted`] is called. If not, writing them is
    /// enough: only the commit index has moved. A snapshot must be durable in any case.
    pub fn must_sync(&self) -> bool {
        self.must_sync
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.soft_state.is_none()
            && self.hard_state.is_none()
            && self.read_states.is_empty()
            && self.dropped_reads.is_empty()
            && self.entries.is_empty()
            && self.snapshot.is_none()
            && self.committed_entries.is_empty()
            && self.messages.is_empty()
            && self.promises.is_empty()
    }

    /// Takes the messages that may leave before anything is durable. With asynchronous storage writes, the work for
    /// the storage threads is among them.
    pub fn take_messages(&mut self) -> Vec<Message> {
        std::mem::take(&mut self.messages)
    }

    /// The caller's word that snapshot, hard state and entries are durable.
    pub fn persisted(self) -> Persisted {
        Persisted { number: self.number, promises: self.promises, committed_entries: self.committed_entries }
    }
}

/// A [`Ready`] whose state is durable: what it promised may be sent, what is committed may be applied.
#[must_use = "the node waits until this is passed to advance()"]
#[derive(Debug)]
pub struct Persisted {
    pub(crate) number: u64,
    pub(crate) promises: Vec<Message>,
    pub(crate) committed_entries: Vec<Entry>,
}

impl Persisted {
    /// Takes the votes and acknowledgements, which were not to leave before now.
    pub fn take_messages(&mut self) -> Vec<Message> {
        std::mem::take(&mut self.promises)
    }

    /// The entries to apply, in order.
    pub fn committed_entries(&self) -> &[Entry] {
        &self.committed_entries
    }

    /// Takes [`Self::committed_entries`] out.
    pub fn take_committed_entries(&mut self) -> Vec<Entry> {
        std::mem::take(&mut self.committed_entries)
    }
}

/// In the form of etcd's traces; what waits for persistence is shown with the rest.
impl fmt::Display for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("<empty Ready>");
        }
        writeln!(f, "Ready MustSync={}:", self.must_sync)?;
        if let Some(soft_state) = &self.soft_state {
            writeln!(f, "{soft_state}")?;
        }
        if let Some(hard_state) = &self.hard_state {
            writeln!(f, "HardState {}", describe::hard_state(hard_state))?;
        }
        if !self.read_states.is_empty() {
            let states: Vec<String> = self.read_states.iter().map(ToString::to_string).collect();
            writeln!(f, "ReadStates [{}]", states.join(" "))?;
        }
        if !self.entries.is_empty() {
            write!(f, "Entries:\n{}", describe::entries(&self.entries))?;
        }
        if let Some(snapshot) = &self.snapshot {
            writeln!(f, "Snapshot {}", describe::snapshot(snapshot))?;
        }
        if !self.committed_entries.is_empty() {
            write!(f, "CommittedEntries:\n{}", describe::entries(&self.committed_entries))?;
        }
        if !self.messages.is_empty() || !self.promises.is_empty() {
            writeln!(f, "Messages:")?;
        }
        for message in self.messages.iter().chain(&self.promises) {
            writeln!(f, "{}", describe::message(message))?;
        }
        Ok(())
    }
}
