//! What a leader knows about one follower, and how fast it may send to it.
//!
//! Raft's paper gives a leader two numbers per follower: `matchIndex`, up to which the follower's log is known to agree,
//! and `nextIndex`, from which to send (figure 2). The gap between them is a guess, and the state says how sure it is:
//!
//! ```text
//!            ┌── rejection, unreachable ──┐
//!            ▼                            │
//!   ┌──► Probe ───── acknowledged ───► Replicate
//!   │        │
//!   │        └── entries compacted ──► Snapshot ── acknowledged far enough ──► Replicate
//!   └──── reported done or failed ────────┘
//! ```
//!
//! - **Probe**: the guess may be wrong. One append with entries at a time, until an answer or a heartbeat's reply.
//! - **Replicate**: the guess was right. `next` runs ahead of `match` as appends are sent, within [`Inflights`].
//! - **Snapshot**: the entries that the follower needs are compacted; nothing is sent until the snapshot arrived.
//!
//! Compare etcd's `tracker/progress.go`. Left out: raft-rs' group commit and requested snapshots.

use std::fmt;

use super::Inflights;

/// How a leader sends to a follower.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ProgressState {
    /// Where the logs agree is not known: one append at a time.
    #[default]
    Probe,
    /// The logs agree up to `match_index`: appends are sent ahead of their acknowledgement.
    Replicate,
    /// A snapshot is on its way: nothing else is sent.
    Snapshot,
}

impl fmt::Display for ProgressState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ProgressState::Probe => "StateProbe",
            ProgressState::Replicate => "StateReplicate",
            ProgressState::Snapshot => "StateSnapshot",
        })
    }
}

/// A leader's view of one follower (or of itself).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Progress {
    /// The follower durably holds the leader's log up to here. `0 ≤ match_index < next_index`
    pub match_index: u64,
    /// The next entry to send. Entries in `(match_index, next_index)` are under way, or in a snapshot:
    /// `pending_snapshot < next_index`
    pub next_index: u64,
    /// The highest commit index that was sent, as if nothing were lost; lowered to `next_index - 1` when `next_index`
    /// falls back. A follower can commit only what it holds, so more than `next_index - 1` is not worth telling.
    pub sent_commit: u64,
    /// How appends are paced.
    pub state: ProgressState,
    /// Index of the snapshot under way. `state ≠ Snapshot ⇒ pending_snapshot = 0`
    pub pending_snapshot: u64,
    /// Something was heard from the follower since the last quorum check.
    pub recent_active: bool,
    /// No further append with entries may be sent now. In `Probe`: one is under way. In `Replicate`:
    /// `inflights.is_full()` as of the last append. Cleared by acknowledgements and by heartbeats' replies.
    pub msg_app_flow_paused: bool,
    /// Appends under way. `state ≠ Replicate ⇒ inflights.count() = 0`
    pub inflights: Inflights,
    /// Does not vote. `is_learner ⇔ id ∈ config.learners`
    pub is_learner: bool,
}

impl Progress {
    /// A follower of which nothing is known: probe it from `next_index`.
    pub fn new(next_index: u64, inflights: Inflights) -> Self {
        Progress {
            match_index: 0,
            next_index,
            sent_commit: 0,
            state: ProgressState::Probe,
            pending_snapshot: 0,
            recent_active: false,
            msg_app_flow_paused: false,
            inflights,
            is_learner: false,
        }
    }

    /// Enters a state with nothing under way.
    pub fn reset_state(&mut self, state: ProgressState) {
        self.msg_app_flow_paused = false;
        self.pending_snapshot = 0;
        self.state = state;
        self.inflights.reset();
    }

    /// Falls back to probing. After a snapshot the probe goes behind it: had the snapshot failed, its index would have
    /// been set to 0 first.
    pub fn become_probe(&mut self) {
        let after_match = self.match_index.saturating_add(1);
        let after_snapshot = match self.state {
            ProgressState::Snapshot => self.pending_snapshot.saturating_add(1),
            ProgressState::Probe | ProgressState::Replicate => 0,
        };
        self.reset_state(ProgressState::Probe);
        self.set_next(after_match.max(after_snapshot));
    }

    /// Starts to stream appends from behind what is known to match.
    pub fn become_replicate(&mut self) {
        self.reset_state(ProgressState::Replicate);
        self.next_index = self.match_index.saturating_add(1);
    }

    /// Waits for a snapshot, sent just now, that ends at `index`.
    pub fn become_snapshot(&mut self, index: u64) {
        self.reset_state(ProgressState::Snapshot);
        self.pending_snapshot = index;
        self.next_index = index.saturating_add(1);
        self.sent_commit = index;
    }

    /// Notes an append of `count` entries with `bytes` of payload, sent from `next_index` on. `false` if none was
    /// allowed (a snapshot is under way, or the window was full): then nothing is noted and it must not be sent.
    #[must_use]
    #[inline]
    pub fn sent_entries(&mut self, count: usize, bytes: u64) -> bool {
        match self.state {
            ProgressState::Replicate => {
                if count > 0 {
                    let next = self.next_index.saturating_add(count as u64);
                    if !self.inflights.add(next.saturating_sub(1), bytes) {
                        return false;
                    }
                    self.next_index = next;
                }
                // Also after an empty append, which is how a stalled window is probed: the next one has to wait again.
                self.msg_app_flow_paused = self.inflights.is_full();
                true
            }
            ProgressState::Probe => {
                // An empty append costs nothing, so it does not use up the one that may be under way.
                if count > 0 {
                    self.msg_app_flow_paused = true;
                }
                true
            }
            ProgressState::Snapshot => false,
        }
    }

    /// Notes that a message told the follower of this commit index.
    #[inline]
    pub fn sent_commit(&mut self, commit: u64) {
        self.sent_commit = commit;
    }

    /// Whether a message with this commit index would tell the follower anything: it has not been told as much, nor
    /// already all that it can commit with the entries it was sent.
    #[inline]
    pub fn can_bump_commit(&self, commit: u64) -> bool {
        commit > self.sent_commit && self.sent_commit < self.next_index.saturating_sub(1)
    }

    /// Takes an acknowledgement up to `index`; `false` if it says nothing new.
    #[inline]
    pub fn maybe_update(&mut self, index: u64) -> bool {
        if index <= self.match_index {
            return false;
        }
        self.match_index = index;
        self.next_index = self.next_index.max(index.saturating_add(1));
        self.msg_app_flow_paused = false;
        true
    }

    /// Takes the rejection of an append that followed the entry at `rejected`; the follower suggests `hint` as the next
    /// entry to try. `false` if the rejection is stale: an answer to something else than what was sent last.
    pub fn maybe_decr_to(&mut self, rejected: u64, hint: u64) -> bool {
        if self.state == ProgressState::Replicate {
            // Up to match_index the follower has agreed already, durably: this answer was overtaken.
            if rejected <= self.match_index {
                return false;
            }
            self.set_next(self.match_index.saturating_add(1));
            return true;
        }
        // Since the snapshot nothing was sent that could be rejected: the answer is to an older probe, which may have been
        // for the very entry that the snapshot ends at.
        if self.state == ProgressState::Snapshot {
            return false;
        }
        // A probe is sent from next_index, so it is only answered for the entry before.
        if self.next_index.saturating_sub(1) != rejected {
            return false;
        }
        let guess = rejected.min(hint.saturating_add(1));
        self.set_next(guess.max(self.match_index.saturating_add(1)));
        self.msg_app_flow_paused = false;
        true
    }

    /// Whether appends are held back.
    #[inline]
    pub fn is_paused(&self) -> bool {
        match self.state {
            ProgressState::Probe | ProgressState::Replicate => self.msg_app_flow_paused,
            ProgressState::Snapshot => true,
        }
    }

    /// Moves `next_index`, possibly back: what was sent beyond it counts as never sent.
    fn set_next(&mut self, next: u64) {
        self.next_index = next;
        self.sent_commit = self.sent_commit.min(next.saturating_sub(1));
    }
}

impl fmt::Display for Progress {
    /// `StateReplicate match=3 next=6 paused inflight=2[full]`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} match={} next={}", self.state, self.match_index, self.next_index)?;
        if self.is_learner {
            f.write_str(" learner")?;
        }
        if self.is_paused() {
            f.write_str(" paused")?;
        }
        if self.pending_snapshot > 0 {
            write!(f, " pendingSnap={}", self.pending_snapshot)?;
        }
        if !self.recent_active {
            f.write_str(" inactive")?;
        }
        if self.inflights.count() > 0 {
            write!(f, " inflight={}", self.inflights.count())?;
            if self.inflights.is_full() {
                f.write_str("[full]")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
