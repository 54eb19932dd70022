//! What a candidate or pre-candidate does with what it hears (Raft paper §5.2).
//!
//! It waits for votes, and for signs that somebody else has won. It takes no proposals and no reads: it knows of no
//! leader who could serve them.

use crate::config::NONE;
use crate::error::{DropReason, Error};
use crate::pb::{Message, MessageType};
use crate::quorum::VoteResult;
use crate::storage::Storage;

use super::election::Campaign;
use super::{Raft, StateType};

impl<S: Storage> Raft<S> {
    pub(super) fn step_candidate(&mut self, kind: MessageType, message: &mut Message) -> Result<(), Error> {
        // Votes for the other kind of candidacy come late and mean nothing.
        let my_vote_response = match self.state {
            StateType::PreCandidate => MessageType::MsgPreVoteResp,
            _ => MessageType::MsgVoteResp,
        };
        match kind {
            MessageType::MsgProp => {
                info!("{:x} no leader at term {}; dropping proposal", self.id, self.term);
                Err(Error::ProposalDropped(DropReason::NoLeader))
            }
            MessageType::MsgReadIndex => Err(Error::ReadDropped(DropReason::NoLeader)),
            MessageType::MsgTransferLeader => Err(Error::TransferDropped(DropReason::NoLeader)),
            // Of this term, so there is a leader of this term, and it is not us.
            MessageType::MsgApp => {
                self.become_follower(message.term, message.from)?;
                self.handle_append(message)
            }
            MessageType::MsgHeartbeat => {
                self.become_follower(message.term, message.from)?;
                self.handle_heartbeat(message)
            }
            MessageType::MsgSnap => {
                self.become_follower(message.term, message.from)?;
                self.handle_snapshot(message)
            }
            kind if kind == my_vote_response => self.handle_vote(kind, message),
            MessageType::MsgTimeoutNow => {
                debug!(
                    "{:x} [term {} state {}] ignored MsgTimeoutNow from {:x}",
                    self.id, self.term, self.state, message.from
                );
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn handle_vote(&mut self, kind: MessageType, message: &Message) -> Result<(), Error> {
        match self.poll(message.from, kind, !message.reject) {
            VoteResult::Won if self.state == StateType::PreCandidate => self.campaign(Campaign::Election),
            // Others have made a majority before this node's own term and vote are durable. Were it to lead now and crash,
            // it could win the same term again, with their votes for it, and fill it with other entries.
            VoteResult::Won if !self.tracker.votes.contains_key(&self.id) => Ok(()),
            VoteResult::Won => {
                self.become_leader()?;
                self.broadcast_append()
            }
            // A pre-candidate keeps its term, which is below the one it asked about.
            VoteResult::Lost => self.become_follower(self.term, NONE),
            VoteResult::Pending => Ok(()),
        }
    }
}
