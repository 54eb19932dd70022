//! Elections: when a node campaigns, how it votes, and what a change of role resets.
//!
//! Raft paper §5.2 and §5.4.1; PreVote and CheckQuorum are thesis §9.6 and §6.2, leadership transfer §3.10.
//!
//! A node votes for itself by a message to itself, which counts only once the vote is durable, like any other vote.

use crate::config::NONE;
use crate::error::Error;
use crate::log::EntryId;
use crate::pb::{Entry, Message, MessageType};
use crate::quorum::VoteResult;
use crate::storage::Storage;
use crate::tracker::Progress;

use super::{validate, Raft, StateType};

/// What kind of campaign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Campaign {
    /// Asks whether an election could be won.
    PreElection,
    /// Raises the term and asks for votes.
    Election,
    /// Like `Election`, on the leader's own wish: leases do not stand in its way.
    Transfer,
}

impl Campaign {
    /// What a vote request of a transfer carries as its context (etcd `raft.go`, campaignTransfer).
    pub(super) const TRANSFER_CONTEXT: &'static [u8] = b"CampaignTransfer";
}

impl<S: Storage> Raft<S> {
    /// A tick of a node that does not lead: time passes towards an election.
    pub(super) fn tick_election(&mut self) -> Result<(), Error> {
        self.election_elapsed += 1;
        if self.promotable() && self.election_elapsed >= self.randomized_election_timeout {
            self.election_elapsed = 0;
            return self.step(Message { from: self.id, ..Message::of(MessageType::MsgHup) });
        }
        Ok(())
    }

    /// Whether this node has heard from a leader so recently that it will not help to depose it.
    pub(super) fn in_lease(&self) -> bool {
        self.config.check_quorum && self.lead != NONE && self.election_elapsed < self.config.election_tick
    }

    pub(super) fn lease_text(&self) -> String {
        let remaining = self.config.election_tick.saturating_sub(self.election_elapsed);
        format!(": lease is not expired (remaining ticks: {remaining})")
    }

    /// Starts a campaign, unless something forbids it.
    pub(super) fn hup(&mut self, campaign: Campaign) -> Result<(), Error> {
        if self.state == StateType::Leader {
            debug!("{:x} ignoring MsgHup because already leader", self.id);
            return Ok(());
        }
        if !self.promotable() {
            warning!("{:x} is unpromotable and can not campaign", self.id);
            return Ok(());
        }
        if self.lease.is_promised() && campaign != Campaign::Transfer {
            warning!("{:x} cannot campaign at term {}: its leader may rely on its promise", self.id, self.term);
            return Ok(());
        }
        if self.term >= validate::MAX_NUMBER {
            // The next term would be refused by everybody. Only forged messages lead here.
            warning!("{:x} cannot campaign at term {}: there is no later one", self.id, self.term);
            return Ok(());
        }
        // Whoever leads from here on must know the latest committed configuration: a change that is committed and not
        // applied yet could make this very candidacy void.
        if self.log.has_conf_change(self.log.applied, self.log.committed)? && !bug!(CampaignBeforeChange) {
            warning!(
                "{:x} cannot campaign at term {} since there are still pending configuration changes to apply",
                self.id,
                self.term
            );
            return Ok(());
        }
        info!("{:x} is starting a new election at term {}", self.id, self.term);
        self.campaign(campaign)
    }

    /// Asks every voter, both halves while joint, and itself.
    pub(super) fn campaign(&mut self, campaign: Campaign) -> Result<(), Error> {
        let (request, response, term) = match campaign {
            Campaign::PreElection => {
                self.become_pre_candidate();
                (MessageType::MsgPreVote, MessageType::MsgPreVoteResp, self.term + 1)
            }
            Campaign::Election | Campaign::Transfer => {
                self.become_candidate()?;
                (MessageType::MsgVote, MessageType::MsgVoteResp, self.term)
            }
        };
        let last = self.log.last_id()?;
        for to in self.tracker.voter_ids().iter() {
            if to == self.id && bug!(OwnVoteBeforeSync) {
                self.poll(to, response, true);
            }
            if to == self.id {
                self.send(response, to, |vote| vote.term = term);
                continue;
            }
            info!(
                "{:x} [logterm: {}, index: {}] sent {request:?} request to {to:x} at term {}",
                self.id, last.term, last.index, self.term
            );
            self.send(request, to, |message| {
                (message.term, message.log_term, message.index) = (term, last.term, last.index);
                if campaign == Campaign::Transfer {
                    message.context = bytes::Bytes::from_static(Campaign::TRANSFER_CONTEXT);
                }
            });
        }
        Ok(())
    }

    /// A request for a vote or pre-vote of this term (or, for a pre-vote, a later one).
    pub(super) fn handle_vote_request(&mut self, kind: MessageType, message: &Message) -> Result<(), Error> {
        let response = match kind {
            MessageType::MsgVote => MessageType::MsgVoteResp,
            _ => MessageType::MsgPreVoteResp,
        };
        self.hear_commit(message)?;
        let can_vote = self.vote == message.from
            || bug!(VoteTwice)
            || (self.vote == NONE && self.lead == NONE)
            || (kind == MessageType::MsgPreVote && message.term > self.term);
        // Some other message may have brought this node into the request's term: its promise to a leader of an earlier one
        // stands all the same. Whom it has voted for already, it may tell again.
        let may_vote = self.vote == message.from
            || message.context == Campaign::TRANSFER_CONTEXT
            || !self.lease.is_promised()
            || bug!(PromiseEndsWithTerm);
        let last = EntryId { term: message.log_term, index: message.index };
        // A learner votes too: it may have been promoted without knowing it yet (etcd `raft.go`, etcd PR 10998).
        if can_vote && may_vote && self.lost_up_to == 0 && (self.log.is_up_to_date(last)? || bug!(VoteWithoutLogCheck))
        {
            self.log_vote("cast", kind, message, "")?;
            // The answer carries the request's term: a pre-candidate is not there yet, and would drop one of ours.
            self.send(response, message.from, |vote| vote.term = message.term);
            if kind == MessageType::MsgVote {
                self.election_elapsed = 0;
                self.vote = message.from;
            }
        } else {
            self.log_vote("rejected", kind, message, "")?;
            let shared = self.commit_to_share()?;
            self.send(response, message.from, |refusal| {
                refusal.reject = true;
                (refusal.log_term, refusal.commit) = (shared.term, shared.index);
            });
        }
        Ok(())
    }

    /// A node that does not vote in its own configuration, but is asked to, knows of a committed change that the
    /// candidate has not heard of, and cannot campaign itself. If its log is the longer one, neither could ever win:
    /// the last leader may have demoted itself and crashed before it could tell. So it says how far it knows the log
    /// to be committed. (raft-rs does so in all vote messages; etcd has no answer.) All zeros on anybody else.
    fn commit_to_share(&self) -> Result<EntryId, Error> {
        if self.tracker.config.voters.contains(self.id) {
            return Ok(EntryId::default());
        }
        let index = self.log.committed;
        Ok(self.log.term(index)?.map_or_else(EntryId::default, |term| EntryId { term, index }))
    }

    /// Takes up what [`Self::commit_to_share`] says: if the entry is in this log too, everything up to it is committed.
    pub(super) fn learn_commit(&mut self, message: &Message) -> Result<(), Error> {
        let id = EntryId { term: message.log_term, index: message.commit };
        if message.reject && self.log.maybe_commit(id)? {
            info!("{:x} [commit: {}] learned the commit index from {:x}", self.id, id.index, message.from);
        }
        self.tell_commit(message)
    }

    /// The other way round: who refused may know less, not know that it was given a vote, and have a longer log all the
    /// same (this node was the leader, and lost what it had not written yet). Then it has to campaign in this node's
    /// place, and for that it must hear how far the log is committed. It is asked once more, for no more than that.
    fn tell_commit(&mut self, message: &Message) -> Result<(), Error> {
        let (request, term) = match self.state {
            StateType::PreCandidate => (MessageType::MsgPreVote, self.term + 1),
            StateType::Candidate => (MessageType::MsgVote, self.term),
            _ => return Ok(()),
        };
        let index = self.log.committed;
        let knows_less = message.reject && message.commit != 0 && message.commit < index;
        // Once in a campaign: an answer to this has been counted before.
        if !knows_less || self.tracker.votes.contains_key(&message.from) {
            return Ok(());
        }
        if let Some(log_term) = self.log.term(index)? {
            self.send(request, message.from, |again| {
                (again.term, again.log_term, again.index, again.commit) = (term, log_term, index, index);
            });
        }
        Ok(())
    }

    /// Takes up what [`Self::tell_commit`] says.
    fn hear_commit(&mut self, request: &Message) -> Result<(), Error> {
        let id = EntryId { term: request.log_term, index: request.index };
        if request.commit == request.index && self.log.maybe_commit(id)? {
            info!("{:x} [commit: {}] learned the commit index from {:x}", self.id, id.index, request.from);
        }
        Ok(())
    }

    pub(super) fn log_vote(&self, verb: &str, kind: MessageType, message: &Message, why: &str) -> Result<(), Error> {
        let last = self.log.last_id()?;
        info!(
            "{:x} [logterm: {}, index: {}, vote: {:x}] {verb} {kind:?} {} {:x} [logterm: {}, index: {}] at term {}{why}",
            self.id,
            last.term,
            last.index,
            self.vote,
            if verb == "cast" { "for" } else { "from" },
            message.from,
            message.log_term,
            message.index,
            self.term
        );
        Ok(())
    }

    /// Counts a vote and says how the (pre-)election stands.
    pub(super) fn poll(&mut self, from: u64, kind: MessageType, granted: bool) -> VoteResult {
        if granted {
            info!("{:x} received {kind:?} from {from:x} at term {}", self.id, self.term);
        } else {
            info!("{:x} received {kind:?} rejection from {from:x} at term {}", self.id, self.term);
        }
        self.tracker.record_vote(from, granted);
        let (granted, rejected, result) = self.tracker.tally_votes();
        info!("{:x} has received {granted} {kind:?} votes and {rejected} vote rejections", self.id);
        result
    }

    /// Follows `lead` (or nobody yet) in `term`, which is at least the present one.
    pub(super) fn become_follower(&mut self, term: u64, lead: u64) -> Result<(), Error> {
        self.reset(term)?;
        self.lead = lead;
        self.state = StateType::Follower;
        info!("{:x} became follower at term {}", self.id, self.term);
        Ok(())
    }

    /// The first term of a founding member.
    pub(crate) fn start_at_term(&mut self, term: u64) -> Result<(), Error> {
        self.become_follower(term, NONE)
    }

    /// Asks around without changing term or vote: nothing durable happens, and the timers go on.
    fn become_pre_candidate(&mut self) {
        self.tracker.reset_votes();
        self.lead = NONE;
        self.state = StateType::PreCandidate;
        info!("{:x} became pre-candidate at term {}", self.id, self.term);
    }

    fn become_candidate(&mut self) -> Result<(), Error> {
        self.reset(self.term + 1)?;
        self.vote = self.id;
        self.state = StateType::Candidate;
        info!("{:x} became candidate at term {}", self.id, self.term);
        Ok(())
    }

    /// Leads. The empty entry of the new term is what lets it commit its predecessors' entries (Raft paper §5.4.2, §8).
    pub(super) fn become_leader(&mut self) -> Result<(), Error> {
        self.reset(self.term)?;
        self.lead = self.id;
        self.state = StateType::Leader;
        if let Some(own) = self.tracker.progress.get_mut(&self.id) {
            own.become_replicate();
            own.recent_active = true;
        }
        // Whether the log's tail holds a configuration change is not looked up; assuming it is safe, and costs at
        // most a delay until the tail is applied.
        self.pending_conf_index = if bug!(ForgetPendingChange) { 0 } else { self.log.last_index() };
        self.append_entries([Entry::default()].into())?;
        info!("{:x} became leader at term {}", self.id, self.term);
        Ok(())
    }

    /// What every change of role does. Everything that belonged to the old role is forgotten; the vote only with its
    /// term.
    fn reset(&mut self, term: u64) -> Result<(), Error> {
        if self.term != term {
            self.term = term;
            self.vote = NONE;
        }
        self.lead = NONE;
        self.election_elapsed = 0;
        self.heartbeat_elapsed = 0;
        let election_tick = self.config.election_tick;
        self.randomized_election_timeout = election_tick.saturating_add(self.random.below(election_tick));
        self.abort_transfer();
        self.tracker.reset_votes();
        let last = self.log.last_index();
        let inflights = self.tracker.new_inflights();
        for (id, progress) in self.tracker.progress.iter_mut() {
            let is_learner = progress.is_learner;
            *progress = Progress::new(last + 1, inflights.clone());
            progress.is_learner = is_learner;
            if *id == self.id {
                progress.match_index = last;
            }
        }
        self.pending_conf_index = 0;
        self.uncommitted_bytes = 0;
        self.drop_reads();
        self.lease.reset();
        Ok(())
    }

    pub(super) fn abort_transfer(&mut self) {
        self.lead_transferee = NONE;
    }
}
