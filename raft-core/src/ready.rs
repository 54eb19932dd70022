//! [`Ready`]: a batch of work for the application, and [`Persisted`], what it becomes once its state is durable.
//!
//! The two types keep the order of the work; `raw_node.rs` says what that order is and makes them.

use std::fmt;
use std::vec::Drain;

use bytes::Bytes;

use crate::describe;
use crate::pb::{Entries, HardState, Message, Snapshot};
use crate::raft::{ReadState, SoftState};

/// A batch of work for the application; see [`RawNode`](crate::RawNode)'s file for the order.
#[must_use = "work that is not carried out is lost: persist it, then call persisted() and advance()"]
#[derive(Clone, Debug, Default, Hash)]
pub struct Ready {
    /// In a box, because it moves a lot and its memory comes back with [`Persisted`], for the next one.
    pub(crate) work: Box<Work>,
}

/// What is to be done.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct Work {
    /// The node that it is the work of.
    pub(crate) node: u64,
    pub(crate) number: u64,
    pub(crate) soft_state: Option<SoftState>,
    pub(crate) hard_state: Option<HardState>,
    pub(crate) read_states: Vec<ReadState>,
    pub(crate) dropped_reads: Vec<Bytes>,
    pub(crate) entries: Entries,
    pub(crate) snapshot: Option<Snapshot>,
    pub(crate) committed_entries: Entries,
    pub(crate) messages: Vec<Message>,
    pub(crate) promises: Vec<Message>,
    pub(crate) must_sync: bool,
}

impl Work {
    /// Nothing to do; the lists keep their memory.
    pub(crate) fn clear(&mut self) {
        self.read_states.clear();
        self.dropped_reads.clear();
        self.entries = Entries::new();
        self.snapshot = None;
        self.committed_entries = Entries::new();
        self.messages.clear();
        self.promises.clear();
    }
}

impl Ready {
    /// Role and leader, if they changed.
    pub fn soft_state(&self) -> Option<SoftState> {
        self.work.soft_state
    }

    /// Term, vote and commit index, if they changed; to be persisted with the entries.
    pub fn hard_state(&self) -> Option<HardState> {
        self.work.hard_state
    }

    /// Reads that may be served once their index is applied.
    pub fn read_states(&self) -> &[ReadState] {
        &self.work.read_states
    }

    /// Takes [`Self::read_states`] out.
    pub fn take_read_states(&mut self) -> Vec<ReadState> {
        std::mem::take(&mut self.work.read_states)
    }

    /// Contexts of this node's own reads that will not be answered, because it lost leadership. They may be asked again.
    pub fn dropped_reads(&self) -> &[Bytes] {
        &self.work.dropped_reads
    }

    /// Entries to be persisted. They replace whatever the log holds from the first one's index on.
    pub fn entries(&self) -> &Entries {
        &self.work.entries
    }

    /// A snapshot to be persisted, and to be taken over as the application's state.
    pub fn snapshot(&self) -> Option<&Snapshot> {
        self.work.snapshot.as_ref()
    }

    /// Entries that are committed, for a look ahead. To apply them, take them from [`Persisted`].
    pub fn committed_entries(&self) -> &Entries {
        &self.work.committed_entries
    }

    /// Whether hard state and entries must be durable before [`Self::persisted`] is called. If not, writing them is
    /// enough: only the commit index has moved. A snapshot must be durable in any case.
    pub fn must_sync(&self) -> bool {
        self.work.must_sync
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.work.soft_state.is_none()
            && self.work.hard_state.is_none()
            && self.work.read_states.is_empty()
            && self.work.dropped_reads.is_empty()
            && self.work.entries.is_empty()
            && self.work.snapshot.is_none()
            && self.work.committed_entries.is_empty()
            && self.work.messages.is_empty()
            && self.work.promises.is_empty()
    }

    /// Takes the messages that may leave before anything is durable. With asynchronous storage writes, the work for
    /// the storage threads is among them.
    pub fn take_messages(&mut self) -> Drain<'_, Message> {
        self.work.messages.drain(..)
    }

    /// [`Self::take_messages`] to the end of a list, all in one move.
    pub fn append_messages_to(&mut self, outbox: &mut Vec<Message>) {
        outbox.append(&mut self.work.messages);
    }

    /// The caller's word that snapshot, hard state and entries are durable.
    pub fn persisted(self) -> Persisted {
        Persisted { work: self.work }
    }
}

/// A [`Ready`] whose state is durable: what it promised may be sent, what is committed may be applied.
#[must_use = "the node waits until this is passed to advance()"]
#[derive(Debug)]
pub struct Persisted {
    pub(crate) work: Box<Work>,
}

impl Persisted {
    /// Takes the votes and acknowledgements, which were not to leave before now.
    pub fn take_messages(&mut self) -> Drain<'_, Message> {
        self.work.promises.drain(..)
    }

    /// [`Self::take_messages`] to the end of a list, all in one move.
    pub fn append_messages_to(&mut self, outbox: &mut Vec<Message>) {
        outbox.append(&mut self.work.promises);
    }

    /// The entries to apply, in order.
    pub fn committed_entries(&self) -> &Entries {
        &self.work.committed_entries
    }

    /// Takes [`Self::committed_entries`] out.
    pub fn take_committed_entries(&mut self) -> Entries {
        std::mem::take(&mut self.work.committed_entries)
    }
}

/// In the form of etcd's traces; what waits for persistence is shown with the rest.
impl fmt::Display for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("<empty Ready>");
        }
        writeln!(f, "Ready MustSync={}:", self.work.must_sync)?;
        if let Some(soft_state) = &self.work.soft_state {
            writeln!(f, "{soft_state}")?;
        }
        if let Some(hard_state) = &self.work.hard_state {
            writeln!(f, "HardState {}", describe::hard_state(hard_state))?;
        }
        if !self.work.read_states.is_empty() {
            let states: Vec<String> = self.work.read_states.iter().map(ToString::to_string).collect();
            writeln!(f, "ReadStates [{}]", states.join(" "))?;
        }
        if !self.work.entries.is_empty() {
            write!(f, "Entries:\n{}", describe::entries(&self.work.entries))?;
        }
        if let Some(snapshot) = &self.work.snapshot {
            writeln!(f, "Snapshot {}", describe::snapshot(snapshot))?;
        }
        if !self.work.committed_entries.is_empty() {
            write!(f, "CommittedEntries:\n{}", describe::entries(&self.work.committed_entries))?;
        }
        if !self.work.messages.is_empty() || !self.work.promises.is_empty() {
            writeln!(f, "Messages:")?;
        }
        for message in self.work.messages.iter().chain(&self.work.promises) {
            writeln!(f, "{}", describe::message(message))?;
        }
        Ok(())
    }
}
