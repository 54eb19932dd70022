//! Changes of the membership that wait for their answer.
//!
//! Like writes, with two differences. What is proposed is judged first, by the members as of now, and judged again each
//! time that it is proposed, because another change may have come between. And Raft takes one change at a time: while
//! another is under way, a change is held, for it is certain that it is not in the log.
//!
//! ```text
//!            propose                   applied, joint               left
//!   held ───────────────► proposed ───────────────────► entered ───────────► done
//!    ▲                      │  └─────────────────────────────────────────────► done
//!    └──────────────────────┘ the leader has not taken it, and says so
//! ```
//!
//! A change that was proposed is proposed again only if the leader has given it back: a member that was added twice could
//! be one that was removed in between. What became of it is seen when it is applied, or it stays unknown.
//!
//! The entry's id is drawn at random at the start of the process and counted up from there, so that no two changes of
//! a cluster's life share one. (Counting from 1 in every process, as the original does, makes them ambiguous.)

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use raft_core::confchange::ConfChangeKind;

use super::change::Change;
use super::{Leader, Refused, Reply, NO_LEADER, REQUEST_TIMEOUT};
use crate::members::ChangeRefused;

/// All changes under way.
#[derive(Default)]
pub(super) struct WaitingChanges {
    next_id: u64,
    held: VecDeque<Held>,
    /// By the id in the entry.
    proposed: BTreeMap<u64, Held>,
    /// Applied, and the joint configuration that they began is not left yet.
    entered: Vec<Held>,
}

/// A change, and who waits for it.
pub(super) struct Held {
    id: u64,
    pub(super) change: Change,
    /// The leader that is to go has been asked to hand over first.
    pub(super) handed_over: bool,
    reply: Reply,
    deadline: Instant,
}

impl WaitingChanges {
    /// None yet. Ids are counted from a number drawn at the start of the process.
    pub(super) fn new(boot: u64) -> WaitingChanges {
        WaitingChanges { next_id: boot, held: VecDeque::new(), proposed: BTreeMap::new(), entered: Vec::new() }
    }

    /// Takes in a new change.
    pub(super) fn add(&mut self, change: Change, reply: Reply, now: Instant) {
        self.next_id = self.next_id.wrapping_add(1);
        let deadline = now + REQUEST_TIMEOUT;
        self.held.push_back(Held { id: self.next_id, change, handed_over: false, reply, deadline });
    }

    /// The next change to propose. Those that the judge refuses are answered on the way.
    pub(super) fn next(&mut self, judge: impl Fn(&Change) -> Result<(), ChangeRefused>) -> Option<Held> {
        while let Some(held) = self.held.pop_front() {
            match judge(&held.change) {
                Ok(()) => return Some(held),
                Err(refused) => held.reply.send(Err(Refused::Change(refused))),
            }
        }
        None
    }

    /// Whether nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty() && self.proposed.is_empty() && self.entered.is_empty()
    }

    /// Raft has taken it.
    pub(super) fn proposed(&mut self, held: Held) {
        self.proposed.insert(held.id, held);
    }

    /// Raft has not taken it: it comes first next time.
    pub(super) fn put_back(&mut self, held: Held) {
        self.held.push_front(held);
    }

    /// The entry with this id is applied on this node: whoever waits may be told.
    pub(super) fn applied(&mut self, id: u64) -> Option<Reply> {
        self.proposed.remove(&id).map(|held| held.reply)
    }

    /// The entry with this id is applied on this node, and a joint configuration has begun with it.
    pub(super) fn entered(&mut self, id: u64) {
        self.entered.extend(self.proposed.remove(&id));
    }

    /// The joint configuration is left: whoever waited for that may be told.
    pub(super) fn left(&mut self) -> impl Iterator<Item = Reply> {
        std::mem::take(&mut self.entered).into_iter().map(|held| held.reply)
    }

    /// The transport has certainly not sent the entry with this id.
    pub(super) fn undelivered(&mut self, id: u64) {
        if let Some(reply) = self.applied(id) {
            reply.send(Err(Refused::NotDone("the leader could not be reached")));
        }
    }

    /// The leader has not taken the entry with this id, and will not.
    pub(super) fn given_back(&mut self, id: u64) {
        self.held.extend(self.proposed.remove(&id));
    }

    /// The leader has refused the entry with this id.
    pub(super) fn refused(&mut self, id: u64, refused: ChangeRefused) {
        if let Some(reply) = self.applied(id) {
            reply.send(Err(Refused::Change(refused)));
        }
    }

    /// The state has jumped over entries that this node has not seen.
    pub(super) fn lose_sight(&mut self) {
        for held in self.out_of_hand() {
            held.reply.send(Err(Refused::Unknown("this node was far behind and took over a snapshot")));
        }
    }

    /// Answers those whose time has come; without hope, those too that nobody is there to propose to.
    pub(super) fn expire(&mut self, now: Instant, leader: Leader) {
        let hopeless = leader == Leader::Hopeless;
        let all = std::mem::take(&mut self.held).into_iter();
        let (over, held): (VecDeque<Held>, _) = all.partition(|held| hopeless || held.deadline <= now);
        self.held = held;
        for held in over {
            let reason = match leader {
                Leader::Known => "the leader did not take it: another change is under way, or too much waits",
                Leader::Unknown | Leader::Hopeless => NO_LEADER,
            };
            held.reply.send(Err(Refused::NotDone(reason)));
        }
        let (expired, rest): (BTreeMap<u64, Held>, _) =
            std::mem::take(&mut self.proposed).into_iter().partition(|(_, held)| held.deadline <= now);
        self.proposed = rest;
        for held in expired.into_values() {
            held.reply.send(Err(Refused::Unknown("the leader did not commit it in time, or has changed")));
        }
        let (expired, rest): (Vec<Held>, _) =
            std::mem::take(&mut self.entered).into_iter().partition(|held| held.deadline <= now);
        self.entered = rest;
        for held in expired {
            held.reply.send(Err(Refused::Unknown(
                "the joint configuration was entered, but not left in time: most of the old voters, and most of the \
                 new ones, must be there",
            )));
        }
    }

    /// Answers everybody, at the end.
    pub(super) fn end(&mut self, reason: &'static str) {
        for held in self.held.drain(..) {
            held.reply.send(Err(Refused::NotDone(reason)));
        }
        for held in self.out_of_hand() {
            held.reply.send(Err(Refused::Unknown(reason)));
        }
    }

    /// Takes out those whose fate the log decides.
    fn out_of_hand(&mut self) -> Vec<Held> {
        let mut all = std::mem::take(&mut self.entered);
        all.extend(std::mem::take(&mut self.proposed).into_values());
        all
    }
}

impl Held {
    /// What goes into the log.
    pub(super) fn entry(&self) -> ConfChangeKind {
        self.change.entry(self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::change::Step;
    use std::time::Duration;
    use tokio::sync::oneshot::Receiver;

    type Answer = Receiver<Result<(), Refused>>;

    fn add(changes: &mut WaitingChanges, id: u64, now: Instant) -> Answer {
        let (reply, answer) = Reply::channel();
        changes.add(Step::Remove { id }.into(), reply, now);
        answer
    }

    /// Removing 9 is nonsense.
    fn judge(change: &Change) -> Result<(), ChangeRefused> {
        let id = change.written()[0].id;
        (id != 9).then_some(()).ok_or(ChangeRefused::NotAMember { id })
    }

    /// Proposes the next one; returns the id in its entry.
    fn propose(changes: &mut WaitingChanges) -> u64 {
        let held = changes.next(judge).unwrap();
        let id = held.id;
        changes.proposed(held);
        id
    }

    fn not_done(answer: &mut Answer) -> bool {
        matches!(answer.try_recv(), Ok(Err(Refused::NotDone(_))))
    }

    fn unknown(answer: &mut Answer) -> bool {
        matches!(answer.try_recv(), Ok(Err(Refused::Unknown(_))))
    }

    #[test]
    fn senseless_changes_never_get_as_far_as_a_proposal() {
        let (mut changes, now) = (WaitingChanges::new(5), Instant::now());
        let mut senseless = add(&mut changes, 9, now);
        let _sensible = add(&mut changes, 3, now);
        let held = changes.next(judge).unwrap();
        assert_eq!(held.change.written()[0].id, 3);
        assert_eq!(senseless.try_recv(), Ok(Err(Refused::Change(ChangeRefused::NotAMember { id: 9 }))));
    }

    #[test]
    fn a_change_that_was_held_is_judged_again() {
        let (mut changes, now) = (WaitingChanges::new(5), Instant::now());
        let mut answer = add(&mut changes, 2, now);
        let held = changes.next(judge).unwrap();
        changes.put_back(held);
        assert!(changes.next(|_| Err(ChangeRefused::NotAMember { id: 2 })).is_none());
        assert_eq!(answer.try_recv(), Ok(Err(Refused::Change(ChangeRefused::NotAMember { id: 2 }))));
    }

    #[test]
    fn a_change_is_answered_when_its_own_entry_is_applied() {
        let (mut changes, now) = (WaitingChanges::new(u64::MAX), Instant::now());
        let mut answer = add(&mut changes, 2, now);
        let id = propose(&mut changes);
        assert!(changes.applied(id.wrapping_add(1)).is_none());
        changes.applied(id).unwrap().send(Ok(()));
        assert_eq!(answer.try_recv(), Ok(Ok(())));
    }

    #[test]
    fn a_joint_change_is_answered_when_it_is_left_or_unknown_if_that_takes_too_long() {
        let (mut changes, now) = (WaitingChanges::new(5), Instant::now());
        for in_time in [true, false] {
            let mut answer = add(&mut changes, 2, now);
            let id = propose(&mut changes);
            changes.entered(id);
            assert!(answer.try_recv().is_err());
            if in_time {
                changes.left().for_each(|reply| reply.send(Ok(())));
                assert_eq!(answer.try_recv(), Ok(Ok(())));
            } else {
                changes.expire(now + REQUEST_TIMEOUT, Leader::Known);
                assert!(unknown(&mut answer));
            }
        }
    }

    #[test]
    fn what_the_leader_gives_back_is_proposed_again_and_what_it_refuses_is_not() {
        let (mut changes, now) = (WaitingChanges::new(5), Instant::now());
        let mut answer = add(&mut changes, 2, now);
        let id = propose(&mut changes);
        changes.given_back(id);
        changes.given_back(id);
        assert_eq!(propose(&mut changes), id);
        assert!(changes.next(judge).is_none(), "once");
        let behind = ChangeRefused::LearnerBehind { id: 2, has: 1, needs: 9 };
        changes.refused(id, behind.clone());
        assert_eq!(answer.try_recv(), Ok(Err(Refused::Change(behind))));
    }

    #[test]
    fn what_is_held_was_not_done_and_what_was_proposed_is_unknown() {
        let (mut changes, now) = (WaitingChanges::new(5), Instant::now());
        let mut proposed = add(&mut changes, 2, now);
        propose(&mut changes);
        let mut held = add(&mut changes, 1, now);
        changes.expire(now + REQUEST_TIMEOUT - Duration::from_millis(1), Leader::Known);
        assert!(held.try_recv().is_err() && proposed.try_recv().is_err(), "not yet");
        changes.expire(now + REQUEST_TIMEOUT, Leader::Known);
        assert!(not_done(&mut held));
        assert!(unknown(&mut proposed));
    }
}
