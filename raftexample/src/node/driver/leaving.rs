//! Leaving in order: what a node does between "stop" and its end, so that its clients and the cluster hardly notice.
//!
//! A leader that just goes away leaves the others without one for an election timeout, and its clients with writes of
//! which nobody knows what became. So a leader that is told to stop hands over first (thesis §3.10): it brings the voter
//! that has most of the log up to date and tells it to campaign at once. Its own entries are in the successor's log by
//! then; they are committed there, applied here, and their clients get their answers. Then it goes on for a moment as a
//! follower, so that what others had sent to it as their leader still gets to the new one.
//!
//! ```text
//!   told to stop ─► hand over ─► a new leader is known, all is answered, a moment has passed ─► end
//!        │             │ nobody takes it                                                         ▲
//!        │             └──────────► all is answered ─────────────────────────────────────────────┤
//!        └───────────────────────── time is over, or no majority is there ───────────────────────┘
//! ```
//!
//! **Proposals during a handover.** Raft drops them: the leader must not append while the successor catches up. A
//! client's write that another node has forwarded would so be lost without anybody knowing it. [`Handover`] keeps them
//! instead, and they go to the new leader, or, if the handover fails, to the old one.
//!
//! What is left out: handing over from a node that does not lead, which needs nothing; and choosing a successor by any
//! other measure than how much of the log it has.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use raft_core::pb::{Message, MessageType};
use raft_core::StateType;

use super::{Driver, Fatal};

/// How long a node goes on when all is settled: for messages that were sent to it as the leader, and for clients that
/// have begun a request on a connection which they could not know to be closing.
const LINGER: Duration = Duration::from_millis(250);
/// Leaving takes no longer than this, whatever the election timeout is.
const LEAVING_MAX: Duration = Duration::from_secs(10);
/// Proposals of other nodes that are kept during a handover, at most; one more may exceed the bytes.
const KEPT_PROPOSALS: usize = 4096;
const KEPT_BYTES: usize = 32 << 20;

/// A node that was told to stop.
pub(super) struct Leaving {
    /// When it ends, whatever is still under way.
    ends_at: Instant,
    /// Since when there has been nothing left to hand over.
    settled: Option<Instant>,
    /// Who was asked to take over.
    asked: BTreeSet<u64>,
}

/// Proposals that wait for a change of leadership to end.
#[derive(Default)]
pub(super) struct Handover {
    /// From the moment this node begins to hand over until it knows of a leader again.
    under_way: bool,
    kept: Vec<Message>,
    kept_bytes: usize,
}

impl Driver {
    /// Takes in the wish to stop.
    pub(super) fn begin_to_leave(&mut self, now: Instant) {
        if self.leaving.is_none() {
            let limit = (2 * self.timing.election_timeout() + Duration::from_secs(1)).min(LEAVING_MAX);
            self.leaving = Some(Leaving { ends_at: now + limit, settled: None, asked: BTreeSet::new() });
        }
    }

    /// Goes on with leaving, if this node was told to stop; answers whether it may end.
    pub(super) fn has_left(&mut self, now: Instant) -> Result<bool, Fatal> {
        let Some(ends_at) = self.leaving.as_ref().map(|leaving| leaving.ends_at) else { return Ok(false) };
        if now >= ends_at {
            log::warn!("stopping before all is answered: it takes too long");
            return Ok(true);
        }
        if !self.majority_is_there() {
            log::info!("stopping at once: there is no majority to hand over to");
            return Ok(true);
        }
        let settled = match self.raw.basic_status() {
            status if status.soft_state.state != StateType::Leader => {
                status.soft_state.lead != 0 || !self.handover.under_way
            }
            status if self.transport.is_active(status.lead_transferee) => false,
            _ => !self.ask_a_successor()?,
        };
        let Some(leaving) = self.leaving.as_mut() else { return Ok(false) };
        if !settled {
            leaving.settled = None;
            return Ok(false);
        }
        let since = *leaving.settled.get_or_insert(now);
        let idle =
            self.writes.is_empty() && self.reads.is_empty() && self.changes.is_empty() && self.transfers.is_empty();
        Ok(idle && self.inbox.is_empty() && now >= since + LINGER)
    }

    /// Asks the voter with most of the log to take over, if there is one that has not been asked; answers whether.
    fn ask_a_successor(&mut self) -> Result<bool, Fatal> {
        let asked = self.leaving.as_ref().map(|leaving| &leaving.asked);
        let successor = self.best_voter(|id| !asked.is_some_and(|asked| asked.contains(&id)));
        let Some(successor) = successor else { return Ok(false) };
        if let Some(leaving) = self.leaving.as_mut() {
            leaving.asked.insert(successor);
        }
        log::info!("handing leadership over to node {successor}");
        self.ask_to_lead(successor)?;
        self.turn()?;
        Ok(true)
    }

    /// Whether so many voters can be reached that they could elect somebody.
    fn majority_is_there(&self) -> bool {
        let there = |voters: &[u64]| {
            let there = voters.iter().filter(|&&id| id == self.id || self.transport.is_active(id)).count();
            voters.is_empty() || there > voters.len() / 2
        };
        there(&self.conf_state.voters) && there(&self.conf_state.voters_outgoing)
    }

    /// Takes a message from a peer, or keeps it while leadership changes hands.
    pub(super) fn take_message(&mut self, message: Message) -> Result<(), Fatal> {
        match message.kind() {
            Some(MessageType::MsgProp) if !message.reject && self.is_handing_over() && self.handover.has_room() => {
                self.handover.keep(message);
                Ok(())
            }
            // Leadership would have to be handed over once more, perhaps to one that leaves, too.
            Some(MessageType::MsgTimeoutNow) if self.leaving.is_some() => Ok(()),
            _ => self.step_from_peer(message),
        }
    }

    fn is_handing_over(&self) -> bool {
        self.handover.under_way || self.raw.basic_status().lead_transferee != 0
    }

    /// Notices when a handover begins and when it is over; what was kept goes on its way then.
    pub(super) fn note_handover(&mut self) -> Result<(), Fatal> {
        let status = self.raw.basic_status();
        if status.lead_transferee != 0 {
            self.handover.under_way = true;
        } else if self.handover.under_way && status.soft_state.lead != 0 {
            self.handover.under_way = false;
            if status.soft_state.lead != self.id {
                log::info!("node {} leads now", status.soft_state.lead);
            }
            for message in self.handover.take() {
                self.step_from_peer(message)?;
            }
        }
        Ok(())
    }
}

impl Handover {
    fn has_room(&self) -> bool {
        self.kept.len() < KEPT_PROPOSALS && self.kept_bytes < KEPT_BYTES
    }

    fn keep(&mut self, message: Message) {
        self.kept_bytes += message.entries.iter().map(|entry| entry.data.len()).sum::<usize>();
        self.kept.push(message);
    }

    fn take(&mut self) -> Vec<Message> {
        self.kept_bytes = 0;
        std::mem::take(&mut self.kept)
    }

    /// Forgets what is kept: nobody waits for it any more.
    pub(super) fn give_up(&mut self) {
        self.take();
    }
}

#[cfg(test)]
impl Handover {
    /// How many messages are kept.
    pub(super) fn kept(&self) -> usize {
        self.kept.len()
    }
}
