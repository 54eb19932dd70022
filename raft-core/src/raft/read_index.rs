//! Linearizable reads without writing to the log (Raft thesis §6.4).
//!
//! A leader notes its commit index when a read arrives, makes sure that it *still* leads, and answers with the noted
//! index: whoever has applied that far may read. Making sure is one round of heartbeats, which all waiting reads share:
//! each heartbeat carries a counter, the number of reads taken in so far, and a quorum's echo of `n` confirms the first
//! `n` reads. The counter is the leader's own; the callers' contexts, which may repeat, play no part (etcd issue 20418,
//! etcd-io/raft PR 397).
//!
//! A leader does not know which entries are committed before it has committed one of its own term (thesis §6.4, step
//! 1), so reads wait for that, also when it is the only voter.
//!
//! Left out: telling a follower that its forwarded read was dropped. The wire has no message for it; the caller's
//! timeout is the answer.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use bytes::Bytes;

use crate::config::NONE;
use crate::error::{DropReason, Error};
use crate::log::EntryId;
use crate::pb::{Message, MessageType};
use crate::storage::Storage;

use super::Raft;

/// A read that may be served from the local state once `index` is applied.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ReadState {
    /// What must be applied first.
    pub index: u64,
    /// The context that was given to `read_index`.
    pub request_ctx: Bytes,
}

impl fmt::Display for ReadState {
    /// As Go prints the struct: `{index [byte byte]}`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes: Vec<String> = self.request_ctx.iter().map(ToString::to_string).collect();
        write!(f, "{{{} [{}]}}", self.index, bytes.join(" "))
    }
}

/// How many reads a leader holds while it cannot confirm them; further ones are dropped.
const MAX_WAITING_READS: usize = 65_536;

/// The reads that a leader has in hand.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct ReadOnly {
    /// How many reads of this leadership are answered. The read at `waiting[i]` is number `confirmed + i + 1`.
    confirmed: u64,
    /// Reads to be confirmed, with the commit index at their arrival.
    pub(super) waiting: VecDeque<(Message, u64)>,
    /// The highest counter echoed by each member.
    acks: BTreeMap<u64, u64>,
    /// Reads that came before the first commit of this term.
    pub(super) pending: Vec<Message>,
    /// Answers for this node's application.
    pub(crate) answered: Vec<ReadState>,
    /// Contexts of this node's own reads that will not be answered: the leadership they relied on is gone.
    pub(crate) dropped: Vec<Bytes>,
}

impl ReadOnly {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// The number of the newest read that waits.
    fn position(&self) -> u64 {
        self.confirmed + self.waiting.len() as u64
    }

    /// The number of the newest read that waits, or nothing.
    fn newest_position(&self) -> Bytes {
        if self.waiting.is_empty() {
            return Bytes::new();
        }
        Bytes::copy_from_slice(&self.position().to_le_bytes())
    }
}

impl<S: Storage> Raft<S> {
    /// A read, of this node's application (`from` 0 or itself) or passed on by a follower.
    pub(super) fn handle_read(&mut self, message: Message) -> Result<(), Error> {
        if self.read_only.waiting.len() + self.read_only.pending.len() >= MAX_WAITING_READS {
            return Err(Error::ReadDropped(DropReason::TooManyReads));
        }
        let committed = EntryId { term: self.term, index: self.log.committed };
        if !self.log.matches(committed)? && !bug!(ReadBeforeFirstCommit) {
            self.read_only.pending.push(message);
            return Ok(());
        }
        let index = self.log.committed;
        if self.lease_holds() || bug!(ReadWithoutQuorum) {
            self.answer_read(message, index);
            return Ok(());
        }
        self.read_only.waiting.push_back((message, index));
        self.read_only.acks.insert(self.id, self.read_only.position());
        self.release_confirmed_reads();
        if !self.read_only.waiting.is_empty() {
            self.broadcast_heartbeat();
        }
        Ok(())
    }

    /// The first commit of this term has come: the reads that waited for it get in line.
    pub(super) fn release_pending_reads(&mut self) -> Result<(), Error> {
        let committed = EntryId { term: self.term, index: self.log.committed };
        if self.read_only.pending.is_empty() || !self.log.matches(committed)? {
            return Ok(());
        }
        for message in std::mem::take(&mut self.read_only.pending) {
            self.handle_read(message)?;
        }
        Ok(())
    }

    /// What a heartbeat carries: the number of the newest read that waits, or nothing; with leases always a number, and
    /// behind it when it was sent.
    pub(super) fn heartbeat_context(&self) -> Bytes {
        if !self.lease_based_reads() {
            return self.read_only.newest_position();
        }
        [self.read_only.position(), self.lease.now()].map(u64::to_le_bytes).concat().into()
    }

    /// Whether reads may rely on the lease alone, now.
    fn lease_holds(&mut self) -> bool {
        let (own, election_tick) = (self.id, self.config.election_tick);
        self.lease_based_reads() && self.lease.holds(own, &self.tracker.config.voters, election_tick)
    }

    /// Refuses an echo of a number that was never sent, before anything of its message is used.
    pub(super) fn check_read_ack(&self, message: &Message) -> Result<(), Error> {
        let (counter, sent) = numbers(&message.context);
        let is_forged = counter.is_some_and(|counter| counter > self.read_only.position())
            || sent.is_some_and(|sent| sent > self.lease.now());
        if is_forged {
            let what = "it confirms reads that were never asked about";
            return Err(Error::Malformed { from: message.from, what });
        }
        Ok(())
    }

    /// A heartbeat's echo.
    pub(super) fn handle_read_ack(&mut self, from: u64, context: &[u8]) {
        let (counter, sent) = numbers(context);
        if let Some(sent) = sent {
            self.lease.hears(from, sent);
        }
        let Some(counter) = counter else { return };
        let counter = if bug!(OldEchoConfirms) { self.read_only.position() } else { counter };
        let acked = self.read_only.acks.entry(from).or_default();
        *acked = counter.max(*acked);
        self.release_confirmed_reads();
    }

    /// Answers the reads whose number a quorum has echoed. Also called when the quorum itself changes.
    pub(super) fn release_confirmed_reads(&mut self) {
        let confirmed = self.tracker.config.voters.committed_index(&self.read_only.acks);
        while self.read_only.confirmed < confirmed {
            let Some((message, index)) = self.read_only.waiting.pop_front() else { return };
            self.read_only.confirmed += 1;
            self.answer_read(message, index);
        }
    }

    fn answer_read(&mut self, mut message: Message, index: u64) {
        if message.from == NONE || message.from == self.id {
            if let Some(entry) = message.entries.pop() {
                self.read_only.answered.push(ReadState { index, request_ctx: entry.data });
            }
            return;
        }
        self.send(MessageType::MsgReadIndexResp, message.from, |answer| {
            answer.index = index;
            answer.entries = message.entries;
        });
    }

    /// The leadership (if there was one) is over, and with it what its reads relied on.
    pub(super) fn drop_reads(&mut self) {
        let reads = &mut self.read_only;
        let waiting = std::mem::take(&mut reads.waiting).into_iter().map(|(message, _)| message);
        for message in waiting.chain(std::mem::take(&mut reads.pending)) {
            if message.from == NONE || message.from == self.id {
                reads.dropped.extend(message.entries.into_iter().map(|entry| entry.data));
            }
        }
        reads.confirmed = 0;
        reads.acks.clear();
    }
}

/// What a heartbeat carries, read back: the number of a read, and when it was sent; `None` for what is nothing of ours.
fn numbers(context: &[u8]) -> (Option<u64>, Option<u64>) {
    let number = |bytes: &[u8]| <[u8; 8]>::try_from(bytes).ok().map(u64::from_le_bytes);
    match context.split_at_checked(8) {
        Some((counter, [])) => (number(counter), None),
        Some((counter, sent)) if sent.len() == 8 => (number(counter), number(sent)),
        _ => (None, None),
    }
}
