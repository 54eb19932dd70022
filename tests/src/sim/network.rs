//! The simulated network: links that lose, double, delay, reorder, hold back and cut; and what a node does with a message
//! that arrives.
//!
//! Without faults a link is a connection: in order, a few milliseconds. A proposal that is passed on may be lost or late
//! but never arrives twice: nothing in Raft would tell the second one from a new one, so a transport must not do that.
//! A lost snapshot is reported to its sender, as Raft demands of a transport; other losses are reported at times.

use raft_core::pb::{Message, MessageType};
use raft_core::{DropReason, Error, SnapshotStatus, StateType};

use super::drive::{broken, Stop};
use super::invariants::lease::Lease;
use super::invariants::{acknowledged, Violation};
use super::node::{Process, INBOX_MESSAGES};
use super::plan::Fault;
use super::world::{Event, World};
use crate::sometimes;

/// What a vote request of a transfer carries: leases do not stand in its way.
const TRANSFER: &[u8] = b"CampaignTransfer";

/// One direction between two machines.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Link {
    /// Nothing gets through before.
    pub(super) cut_until: u64,
    /// Everything is held back until then.
    pub(super) clogged_until: u64,
    /// When the last message arrives.
    last_arrival: u64,
}

/// All of them.
pub(super) struct Links {
    count: usize,
    links: Vec<Link>,
}

impl Links {
    pub(super) fn new(count: usize) -> Links {
        Links { count, links: vec![Link::default(); count * count] }
    }

    /// From one machine to another.
    pub(super) fn link(&mut self, from: usize, to: usize) -> &mut Link {
        &mut self.links[from * self.count + to]
    }

    /// Everything works again.
    pub(super) fn heal(&mut self) {
        for link in &mut self.links {
            (link.cut_until, link.clogged_until) = (0, 0);
        }
    }
}

impl World {
    /// Sends messages.
    pub(super) fn send_all(
        &mut self,
        at: usize,
        process: &mut Process,
        mut messages: impl Iterator<Item = Message>,
    ) -> Result<(), Stop> {
        messages.try_for_each(|message| self.send(at, process, message))
    }

    /// Sends a message; what it promises must hold now.
    pub(super) fn send(&mut self, at: usize, process: &mut Process, message: Message) -> Result<(), Stop> {
        self.see_sent(at, process, &message)?;
        self.stats.messages += 1;
        let Some(to) = message.to.checked_sub(1).map(|to| to as usize).filter(|to| *to < self.machines.len()) else {
            return Err(broken(format!("a message to {}: {message:?}", message.to)));
        };
        let rate = |fault: Fault| self.plan.every(fault);
        let (loss, double) = (rate(Fault::Loss), rate(Fault::Duplicate));
        let lost = self.chance(Fault::Loss, loss) || self.links.link(at, to).cut_until > self.now;
        if lost {
            self.lose(at, &message);
            return Ok(());
        }
        if message.kind() == Some(MessageType::MsgTimeoutNow) {
            self.handed_over(at);
        }
        let once = matches!(message.kind(), Some(MessageType::MsgProp));
        if !once && self.chance(Fault::Duplicate, double) {
            let delay = self.latency(at, to, true);
            self.schedule(delay, Event::Deliver { via: at, to, message: Box::new(message.clone()) });
        }
        let delay = self.latency(at, to, false);
        self.schedule(delay, Event::Deliver { via: at, to, message: Box::new(message) });
        Ok(())
    }

    /// One in so many, if the fault is on.
    fn chance(&mut self, fault: Fault, rate: u64) -> bool {
        self.faults_are_on && self.plan.has(fault) && self.network_random.below(rate) == 0
    }

    fn latency(&mut self, at: usize, to: usize, again: bool) -> u64 {
        let (reorder, delay) = (self.plan.every(Fault::Reorder), self.plan.every(Fault::Delay));
        let mut arrival = self.now + 1 + self.network_random.below(4);
        let mut in_order = !again;
        if self.chance(Fault::Reorder, reorder) {
            arrival += self.network_random.below(300);
            in_order = false;
        }
        if self.chance(Fault::Delay, delay) {
            arrival += self.network_random.below(3_000);
            in_order &= !self.plan.has(Fault::Reorder);
        }
        let link = self.links.link(at, to);
        arrival = arrival.max(link.clogged_until);
        if in_order {
            arrival = arrival.max(link.last_arrival);
            link.last_arrival = arrival;
        }
        arrival - self.now
    }

    /// A message is gone, and its sender may hear of it.
    pub(super) fn lose(&mut self, at: usize, message: &Message) {
        let (boot, to) = (self.machines[at].boot, message.to);
        if message.kind() == Some(MessageType::MsgSnap) {
            sometimes!(self.marks, SnapshotLost);
            self.schedule(50, Event::SnapshotReport { at, boot, to, arrived: false });
        } else if self.network_random.below(8) == 0 {
            self.schedule(20, Event::Unreachable { at, boot, to });
        }
    }

    /// What a message says about its sender.
    fn see_sent(&mut self, at: usize, process: &Process, message: &Message) -> Result<(), Stop> {
        let id = self.machines[at].id;
        let durable = self.machines[at].recovery.durable();
        match message.kind() {
            Some(MessageType::MsgVoteResp) if !message.reject => {
                let held = (durable.hard_state.term, durable.hard_state.vote);
                self.invariants.vote_once.grants(id, message.to, message.term, held)?;
                sometimes!(self.marks, VoteGranted);
                sometimes!(self.marks, LearnerGrantedVote, !process.conf_state.voters.contains(&id));
            }
            Some(MessageType::MsgVoteResp) => sometimes!(self.marks, VoteRefused),
            Some(MessageType::MsgAppResp) if !message.reject => {
                let disk = acknowledged::OnDisk { term: durable.hard_state.term, last: durable.log.last() };
                acknowledged::check(id, message.index, message.term, disk)?;
            }
            Some(MessageType::MsgAppResp) => sometimes!(self.marks, AppendRefused),
            Some(MessageType::MsgApp | MessageType::MsgHeartbeat) => {
                self.invariants.election_safety.leads(message.term, id)?;
            }
            Some(MessageType::MsgSnap) => {
                self.invariants.election_safety.leads(message.term, id)?;
                sometimes!(self.marks, SnapshotSent);
            }
            _ => {}
        }
        Ok(())
    }

    /// A message arrives at a machine.
    pub(super) fn arrive(&mut self, via: usize, to: usize, message: Message) -> Result<(), Violation> {
        let cut = self.links.link(via, to).cut_until > self.now;
        let down = self.machines[to].process.is_none();
        let full = self.machines[to].inbox.len() >= INBOX_MESSAGES;
        sometimes!(self.marks, QueueFull, full);
        if cut || down || full {
            self.lose(via, &message);
            return Ok(());
        }
        self.machines[to].inbox.push_back((via, message));
        if self.machines[to].woken || self.machines[to].paused_until > self.now {
            return Ok(());
        }
        if self.plan.gather_ms > 0 {
            self.machines[to].woken = true;
            let delay = self.network_random.below(self.plan.gather_ms + 1);
            let boot = self.machines[to].boot;
            self.schedule(delay, Event::Wake { at: to, boot });
            return Ok(());
        }
        self.with(to, |world, process| world.work(to, process))
    }

    /// Takes in all that waits, unless the node waits for its disk itself.
    pub(super) fn work(&mut self, at: usize, process: &mut Process) -> Result<(), Stop> {
        if self.machines[at].paused_until > self.now {
            return Ok(());
        }
        let mut any = false;
        while !process.is_busy() {
            let Some((via, message)) = self.machines[at].inbox.pop_front() else { break };
            any = true;
            self.step(at, via, process, message)?;
            if self.plan.gather_ms == 0 || process.leads() != (process.stance_now().role == StateType::Leader) {
                self.drive(at, process)?;
            }
        }
        if any && !process.is_busy() {
            self.drive(at, process)?;
        }
        Ok(())
    }

    fn step(&mut self, at: usize, via: usize, process: &mut Process, message: Message) -> Result<(), Stop> {
        self.stats.delivered += 1;
        let before = process.stance_now();
        let election_tick = self.plan.config.election_tick;
        let kind = message.kind();
        let is_request = matches!(kind, Some(MessageType::MsgVote | MessageType::MsgPreVote));
        let in_lease =
            self.plan.config.check_quorum && message.term > before.term && process.lease.holds(before, election_tick);
        // Unlike the lease, a promise is not over when the term is.
        let is_promised = message.term >= before.term && process.lease.is_promised(election_tick);
        let must_ignore = is_request && message.context != TRANSFER && (in_lease || is_promised);
        let from_leader = matches!(kind, Some(MessageType::MsgApp | MessageType::MsgHeartbeat | MessageType::MsgSnap));
        let is_answer = matches!(kind, Some(MessageType::MsgAppResp | MessageType::MsgHeartbeatResp));
        let (term, from) = (message.term, message.from);
        let payload: u64 = message.entries.iter().map(|entry| entry.data.len() as u64).sum();
        let changes = message.entries.iter().any(raft_core::pb::Entry::is_conf_change);
        let snapshot = message.snapshot.as_ref().map(|snapshot| snapshot.metadata.index);
        let commit = process.raw.basic_status().hard_state.commit;
        process.heard += 1;
        let result = process.raw.step(message);
        let after = process.stance_now();
        if must_ignore {
            Lease::check_request(self.machines[at].id, before, after)?;
            sometimes!(self.marks, VoteIgnoredInLease);
        }
        if from_leader && after.term == term && after.lead == from {
            process.lease.hears_leader();
            if self.plan.lease() && kind == Some(MessageType::MsgHeartbeat) {
                process.lease.promises();
            }
        }
        if is_answer && after.role == StateType::Leader && term <= after.term {
            process.lease.hears(from);
        }
        if kind == Some(MessageType::MsgTransferLeader) {
            process.lease.restarts();
        }
        if kind == Some(MessageType::MsgProp) && before.role == StateType::Leader {
            self.see_proposal(at, process, payload, changes, &result)?;
        }
        if let Some(index) = snapshot {
            let now = process.raw.basic_status().hard_state.commit;
            sometimes!(self.marks, SnapshotIgnored, now == commit && index <= commit);
            sometimes!(
                self.marks,
                SnapshotFastForward,
                now == index && process.log.term(index).is_some() && now > commit
            );
            let boot = self.machines[via].boot;
            let to = self.machines[at].id;
            self.schedule(1, Event::SnapshotReport { at: via, boot, to, arrived: true });
        }
        match result {
            Err(error) if error.is_fatal() => Err(broken(error)),
            Err(error @ Error::Malformed { .. }) => Err(broken(error)),
            _ => Ok(()),
        }
    }

    /// What a leader made of a proposal.
    pub(super) fn see_proposal(
        &mut self,
        at: usize,
        process: &mut Process,
        payload: u64,
        changes: bool,
        result: &Result<(), Error>,
    ) -> Result<(), Stop> {
        let (id, limit) = (self.machines[at].id, self.plan.config.max_uncommitted_entries_size);
        match result {
            Ok(()) => process.quota.takes(id, payload, limit)?,
            Err(Error::ProposalDropped(DropReason::UncommittedLimit)) => {
                process.quota.refuses(id, payload, limit)?;
                sometimes!(self.marks, QuotaFull);
            }
            Err(Error::ProposalDropped(DropReason::TransferInProgress { .. })) => {
                sometimes!(self.marks, TransferDroppedProposal);
            }
            Err(Error::ConfChangeRefused(refusal)) if changes => {
                use raft_core::ConfChangeRefusal as Refusal;
                sometimes!(self.marks, ConfRefusedPending, matches!(refusal, Refusal::Pending { .. }));
                sometimes!(self.marks, ConfRefusedJoint, *refusal == Refusal::MustLeaveJoint);
                sometimes!(self.marks, ConfRefusedNotJoint, *refusal == Refusal::NotJoint);
            }
            _ => {}
        }
        Ok(())
    }

    /// The transport's word on a snapshot.
    pub(super) fn report_snapshot(&mut self, at: usize, to: u64, arrived: bool) -> Result<(), Violation> {
        let status = if arrived { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
        let boot = self.machines[at].boot;
        let mut later = false;
        self.with(at, |world, process| {
            later = process.is_busy();
            if later {
                return Ok(());
            }
            process.raw.report_snapshot(to, status);
            world.drive(at, process)
        })?;
        if later {
            // It must not get lost.
            self.schedule(10, Event::SnapshotReport { at, boot, to, arrived });
        }
        Ok(())
    }
}
