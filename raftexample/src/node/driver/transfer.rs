//! Handing over leadership on request.
//!
//! Any node can be asked; the wish goes to the leader as a message of Raft's. Nothing answers that message, and it may get
//! lost: whether it has worked is seen in who leads. The leader brings the chosen one up to date first, takes no
//! proposals meanwhile, and gives up after an election timeout; so whoever asked is told after two of them.

use std::time::{Duration, Instant};

use super::{Driver, Fatal};
use crate::cli::Timing;
use crate::members::ChangeRefused;
use crate::node::{Refused, Reply, NO_LEADER};

/// Whoever asks for another leader is answered within this time.
pub(in crate::node) fn transfer_timeout(timing: &Timing) -> Duration {
    2 * timing.election_timeout()
}

/// Somebody who wants this node to lead, and waits for it.
pub(super) struct Transfer {
    to: u64,
    reply: Reply,
    deadline: Instant,
}

impl Transfer {
    /// For when this node ends before anything is known.
    pub(super) fn give_up(self, reason: &'static str) {
        self.reply.send(Err(Refused::Unknown(reason)));
    }
}

impl Driver {
    /// Takes in a client's wish that `to` should lead.
    pub(super) fn take_transfer(&mut self, to: u64, reply: Reply, now: Instant) -> Result<(), Fatal> {
        if !self.conf_state.voters.contains(&to) {
            let refused = match self.members.contains(to) {
                true => ChangeRefused::NotAVoter { id: to },
                false => ChangeRefused::NotAMember { id: to },
            };
            reply.send(Err(Refused::Change(refused)));
            return Ok(());
        }
        if self.leader == to {
            reply.send(Ok(()));
            return Ok(());
        }
        if self.leader == 0 || !self.ask_to_lead(to)? {
            reply.send(Err(Refused::NotDone(NO_LEADER)));
            return Ok(());
        }
        self.transfers.push(Transfer { to, reply, deadline: now + transfer_timeout(&self.timing) });
        Ok(())
    }

    /// Asks the leader, which may be this node, to hand over; says whether there is one to be asked.
    pub(super) fn ask_to_lead(&mut self, to: u64) -> Result<bool, Fatal> {
        match self.raw.transfer_leader(to) {
            Ok(()) => Ok(true),
            Err(error) if error.is_fatal() => Err(error.into()),
            Err(error) => {
                log::debug!("leadership was not handed over: {error}");
                Ok(false)
            }
        }
    }

    /// On the leader: the voter that has most of the log, among those that can be reached and that `may` take over.
    pub(super) fn best_voter(&self, may: impl Fn(u64) -> bool) -> Option<u64> {
        let status = self.raw.status();
        let voters = status.progress.iter().filter(|(id, progress)| {
            **id != self.id && !progress.is_learner && progress.recent_active && self.transport.is_active(**id)
        });
        voters.filter(|(id, _)| may(**id)).max_by_key(|(_, progress)| progress.match_index).map(|(&id, _)| id)
    }

    /// Tells those who waited for the node that leads now.
    pub(super) fn answer_transfers(&mut self) {
        let (done, waiting): (Vec<Transfer>, _) =
            std::mem::take(&mut self.transfers).into_iter().partition(|transfer| transfer.to == self.leader);
        self.transfers = waiting;
        for transfer in done {
            transfer.reply.send(Ok(()));
        }
    }

    /// Tells those who have waited long enough.
    pub(super) fn expire_transfers(&mut self, now: Instant) {
        let (over, waiting): (Vec<Transfer>, _) =
            std::mem::take(&mut self.transfers).into_iter().partition(|transfer| transfer.deadline <= now);
        self.transfers = waiting;
        for transfer in over {
            transfer.reply.send(Err(Refused::Unknown(
                "it has not taken over in time: it may be down, unreachable, or too far behind",
            )));
        }
    }
}
