//! Applying: committed entries become the store's contents, the address book's, and answers to clients.
//!
//! The store's lock is taken once for a run of ordinary entries, and let go before an entry that concerns the membership.
//! Nobody is answered before the lock is free: whoever reads after an answer finds what was answered for.
//!
//! What is left out: changes of the membership themselves, see `driver/membership.rs`, and notes for the address book, see
//! `driver/notes.rs`.

use std::sync::Arc;
use std::time::Instant;

use kvstore::Store;
use raft_core::pb::{Entries, Entry, EntryType};

use super::snapshots::weight_bytes;
use super::{Answer, Driver, Fatal};
use crate::codec::Content;

impl Driver {
    /// Applies committed entries, in order, and answers those who waited for them.
    pub(super) fn apply(&mut self, entries: Entries) -> Result<(), Fatal> {
        let mut done: Vec<Answer> = Vec::new();
        let store = Arc::clone(&self.store);
        let mut entries = entries.into_iter().peekable();
        while entries.peek().is_some() {
            // One lock for a run of ordinary entries; membership is not the store's business.
            let mut locked = store.write();
            while let Some(entry) = entries.next_if(|entry| entry.kind() == Some(EntryType::EntryNormal)) {
                self.enter_term(&entry);
                self.apply_normal(&mut locked, entry, &mut done)?;
            }
            if let Some(entry) = entries.next() {
                locked.skip(entry.index);
                drop(locked);
                self.enter_term(&entry);
                done.extend(self.apply_change(&entry)?);
            }
        }
        for (reply, answer) in done {
            reply.send(answer);
        }
        Ok(())
    }

    fn enter_term(&mut self, entry: &Entry) {
        if entry.term > self.applied.1 {
            self.writes.term_begins(entry.term, Instant::now());
        }
        self.applied = (entry.index, entry.term);
        self.snapshots.applied_bytes += weight_bytes(entry);
    }

    fn apply_normal(&mut self, store: &mut Store, entry: Entry, done: &mut Vec<Answer>) -> Result<(), Fatal> {
        if entry.data.is_empty() {
            // A new leader's first entry, or a refused change of the membership.
            store.skip(entry.index);
            return Ok(());
        }
        let content = self.codec.decode_entry(entry.data).map_err(|error| {
            Fatal(format!("this node stops at entry {}, which it cannot apply: {error}", entry.index))
        })?;
        let (id, command) = match content {
            Content::Request(id, command) => (id, command),
            Content::Note(note) => {
                store.skip(entry.index);
                self.apply_note(note);
                return Ok(());
            }
        };
        store.apply(entry.index, command);
        if let Some(id) = id.filter(|id| id.node == self.id && id.boot == self.boot) {
            done.extend(self.writes.applied(id.counter).map(|reply| (reply, Ok(()))));
        }
        Ok(())
    }
}
