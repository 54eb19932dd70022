//! Membership: the driver proposes changes, and applies them to everything that they concern in one step.
//!
//! A change takes effect when its entry is applied: on Raft's configuration, on the address book, and on the transport.
//! Nothing comes between, because one thread does all three. A change that makes no sense any more when it is applied
//! is passed over, and since every node judges the same entry by the same state, on all of them alike.
//!
//! **Changes of several members** are carried out through a joint configuration, which the leader leaves by an entry of
//! its own as soon as it is applied. Whoever is only in the outgoing half still votes, so it stays in the address book
//! until then: the book follows the configuration, and not the single steps. Whoever asked is answered when the joint
//! configuration is left.
//!
//! **A leader that is to go** hands over first, so that the change is carried out by somebody who stays, and who knows
//! that it is committed. If nobody takes over, it does it itself.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use raft_core::pb::{ConfChangeType, Entry};

use super::{Answer, Driver, Fatal};
use crate::members::ChangeRefused;
use crate::node::change::{judge, Address, Change, Judged, Written, WrittenStep};
use crate::node::waiting_changes::WaitingChanges;
use crate::node::{Refused, Reply, REMOVED};
use crate::transport::register::Known;

/// How long a removed node goes on, so that the others hear of its removal. A leader that could not hand over, and so
/// has removed itself, also waits this long with its answer: the last thing that it sends is that its removal is
/// committed. Of two nodes, the one that is left is stuck if it never learns that: it still takes the other one for a
/// member whose vote it needs. Nothing in the protocol acknowledges it, so the answer leaves time for it to arrive, which
/// makes this unlikely, not impossible.
const REMOVAL_LINGER: Duration = Duration::from_secs(1);

impl Driver {
    /// Takes in a client's wish.
    pub(super) fn take_change(&mut self, change: Change, reply: Reply, now: Instant) {
        if self.members.iter().next().is_none() {
            // Not even the founders' entries have come: there is nothing to check the change against.
            reply.send(Err(Refused::NotDone("this node has not heard from the cluster yet")));
            return;
        }
        self.changes.add(change, reply, now);
    }

    /// Whether the change makes sense, as far as this node knows.
    fn judge(&self, change: &Change) -> Result<(), ChangeRefused> {
        if !self.extensions && !change.is_original() {
            return Err(ChangeRefused::NotUnderstood);
        }
        let steps = change.written();
        judge(&steps, &self.members, &self.conf_state, Judged::Before)?;
        self.judge_learners(&steps)
    }

    /// Proposes what is held, one change after the other, as long as Raft takes them.
    pub(super) fn propose_changes(&mut self) -> Result<(), Fatal> {
        // A joint configuration must be left first, and the leader would put an empty entry into the log to say so.
        let joint = !self.conf_state.voters_outgoing.is_empty();
        if self.leader == 0 || self.end_at.is_some() || self.hold_changes || joint {
            return Ok(());
        }
        let mut changes = std::mem::take(&mut self.changes);
        let proposed = self.propose_held(&mut changes);
        self.changes = changes;
        proposed
    }

    fn propose_held(&mut self, changes: &mut WaitingChanges) -> Result<(), Fatal> {
        while let Some(mut held) = changes.next(|change| self.judge(change)) {
            if !held.handed_over {
                if let Some(successor) = self.successor(&held.change) {
                    log::info!("this node leads and is to go: it hands over to node {successor} first");
                    held.handed_over = true;
                    changes.put_back(held);
                    return self.ask_to_lead(successor).map(drop);
                }
            }
            match self.raw.propose_conf_change(held.entry()) {
                Ok(()) => changes.proposed(held),
                Err(error) if error.is_fatal() => return Err(error.into()),
                Err(error) => {
                    log::debug!("a change of the membership was not taken: {error}");
                    changes.put_back(held);
                    self.hold_changes = true;
                    break;
                }
            }
        }
        Ok(())
    }

    /// If this node leads and would not vote any more after this change: who could lead instead.
    fn successor(&self, change: &Change) -> Option<u64> {
        let steps = change.written();
        let goes = |id: u64| {
            let stays = [ConfChangeType::ConfChangeAddNode, ConfChangeType::ConfChangeUpdateNode];
            steps.iter().any(|step| step.id == id && !stays.contains(&step.kind))
        };
        if self.leader != self.id || !self.extensions || !goes(self.id) {
            return None;
        }
        self.best_voter(|id| !goes(id))
    }

    /// Changes configuration, address book and transport together. Returns the answers for those who wait for it.
    pub(super) fn apply_change(&mut self, entry: &Entry) -> Result<Vec<Answer>, Fatal> {
        let written = Written::read(entry).map_err(|what| {
            Fatal(format!(
                "this node stops at entry {}, a change of the membership that it cannot read: {what}",
                entry.index
            ))
        })?;
        let index = entry.index;
        let Written { request, kind, steps } = written;
        let refused = |driver: &mut Driver, answer| {
            driver.changes.applied(request).map(|reply| (reply, Err(answer))).into_iter().collect()
        };
        if let Err(why) = judge(&steps, &self.members, &self.conf_state, Judged::Applied) {
            // Every node finds the same fault in the same entry, so all of them pass over it.
            log::info!("the change of the membership at index {index} has no effect: {why}");
            return Ok(refused(self, Refused::Change(why)));
        }
        match self.raw.apply_conf_change(kind) {
            Ok(conf_state) => self.conf_state = conf_state,
            Err(error) if error.is_fatal() => return Err(error.into()),
            Err(error) => {
                log::info!("the change of the membership at index {index} has no effect: {error}");
                return Ok(refused(self, Refused::NotDone("the configuration does not allow it")));
            }
        }
        for step in &steps {
            self.follow_step(step);
        }
        let removed = self.follow_configuration(index);
        self.follow_members();
        Ok(self.answers_to(request, removed))
    }

    /// Who is to be told, now that the change of this request is applied. `removed`: this node is no member any more.
    fn answers_to(&mut self, request: u64, removed: bool) -> Vec<Answer> {
        let mut replies: Vec<Reply> = Vec::new();
        if self.conf_state.voters_outgoing.is_empty() {
            replies.extend(self.changes.applied(request));
            replies.extend(self.changes.left());
        } else {
            log::info!("the members change together: until the way out is agreed on, old and new voters both decide");
            self.changes.entered(request);
        }
        // The others may not have recorded yet that it is committed, also when one of them leads.
        if removed {
            self.farewell.append(&mut replies);
        }
        replies.into_iter().map(|reply| (reply, Ok(()))).collect()
    }

    /// What a step says about an address. One that cannot be used is no reason to stop: the entry is committed, every
    /// node would stop with this one, and again at every start.
    fn follow_step(&mut self, step: &WrittenStep) {
        let id = step.id;
        match (step.kind, &step.address) {
            (ConfChangeType::ConfChangeRemoveNode, _) => {}
            (ConfChangeType::ConfChangeUpdateNode, Address::Good(url)) => {
                log::info!("node {id} listens at {url} from now on");
                self.members.set_address(id, url.clone());
            }
            (_, Address::Good(url)) => {
                log::info!("node {id} at {url} is a member");
                self.members.set_address(id, url.clone());
            }
            (_, Address::None) if self.members.contains(id) => {
                let learner = self.conf_state.learners.contains(&id) || self.conf_state.learners_next.contains(&id);
                log::info!("node {id} {}", if learner { "is a learner from now on" } else { "votes from now on" });
            }
            (_, address) => {
                if let Address::Bad(text) = address {
                    log::warn!("node {id} was added with an address that is none: \"{text}\"");
                }
                match self.members.add_founder(id, &self.cluster) {
                    Some(url) => log::info!("node {id} at {url} is a member (the address is the command line's)"),
                    None => log::warn!("node {id} is a member, but --cluster does not say where it is"),
                }
            }
        }
    }

    /// Lets the address book follow the configuration; says whether this node is no member any more since this entry.
    fn follow_configuration(&mut self, index: u64) -> bool {
        let conf_state = &self.conf_state;
        let halves = [&conf_state.voters, &conf_state.voters_outgoing, &conf_state.learners, &conf_state.learners_next];
        let gone = self.members.keep(index, |id| halves.iter().any(|ids| ids.contains(&id)));
        for id in &gone {
            log::info!("node {id} was removed from the cluster");
        }
        gone.contains(&self.id)
    }

    /// Lets the transport, and this node itself, follow the address book.
    pub(super) fn follow_members(&mut self) {
        for (id, member) in self.members.iter() {
            if let Some(url) = &member.url {
                self.transport.add(id, url);
            }
        }
        let removed: BTreeMap<u64, u64> = self.members.removed().collect();
        for &id in removed.keys() {
            self.transport.remove(id);
        }
        let data = self.members.iter().filter_map(|(id, member)| Some((id, member.data?))).collect();
        self.register.send_replace(Known { removed, birth: self.members.birth(), own_data: self.own_data, data });
    }

    /// A member says that this node was removed at index `at`. It may be behind, and not know of an addition that
    /// followed. This node knows better if it has a leader, or has applied that entry; and one voice is not enough to
    /// end it, most of the other members must say the same.
    pub(super) fn hear_of_removal(&mut self, by: u64, at: u64, now: Instant) {
        if self.leader != 0 || at <= self.applied.0 || self.end_at.is_some() || !self.has_a_voice(by) {
            return;
        }
        if self.told_removed.insert(by) {
            log::info!("node {by} says that this node was removed from the cluster");
        }
        if self.told_removed.len() > self.other_members() / 2 {
            self.end_at = Some(now);
        }
    }

    /// Whether it counts what this node says of us: it is a member. A newcomer without a log takes the word of those whom
    /// its command line names.
    pub(super) fn has_a_voice(&self, id: u64) -> bool {
        match self.members.iter().next() {
            Some(_) => self.members.contains(id),
            None => crate::members::given(&self.cluster, id).is_some(),
        }
    }

    /// How many there are besides this node, by the same rule.
    pub(super) fn other_members(&self) -> usize {
        match self.members.iter().next() {
            Some(_) => self.members.iter().filter(|(id, _)| *id != self.id).count(),
            None => self.cluster.len().saturating_sub(1),
        }
    }

    /// A node that was removed goes on for a moment, then ends. History, told again at a restart, may tell of a removal
    /// that was followed by an addition: only its end counts.
    pub(super) fn notice_own_removal(&mut self) {
        if self.end_at.is_none() && self.members.was_removed(self.id) && self.applied.0 >= self.history {
            self.end_at = Some(Instant::now() + REMOVAL_LINGER);
            self.writes.end(REMOVED);
            self.reads.end(REMOVED);
        }
    }
}
