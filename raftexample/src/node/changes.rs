//! Changes of the membership that wait for their answer.
//!
//! Like writes, with two differences. What is proposed is checked first, against the members as of now, and checked
//! again each time that it is proposed, because another change may have come between. And Raft takes one change at a
//! time: while another is under way, a change is held, for it is certain that it is not in the log.
//!
//! A change that was proposed is never proposed again: a member that was added twice could be one that was removed in
//! between. What became of it is seen when it is applied, or it stays unknown.
//!
//! The entry's id is drawn at random at the start of the process and counted up from there, so that no two changes of
//! a cluster's life share one. (Counting from 1 in every process, as the original does, makes them ambiguous.)

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use bytes::Bytes;
use raft_core::pb::{ConfChange, ConfChangeType};

use super::{Change, Leader, Refused, Reply, NO_LEADER, REQUEST_TIMEOUT};
use crate::members::{ChangeRefused, Members};

/// All changes under way.
pub(super) struct Changes {
    next_id: u64,
    held: VecDeque<Held>,
    /// By the id in the entry.
    proposed: BTreeMap<u64, (Reply, Instant)>,
}

/// A change that is in nobody's log.
pub(super) struct Held {
    id: u64,
    change: Change,
    reply: Reply,
    deadline: Instant,
}

impl Changes {
    /// None yet. Ids are counted from a number drawn at the start of the process.
    pub(super) fn new(boot: u64) -> Changes {
        Changes { next_id: boot, held: VecDeque::new(), proposed: BTreeMap::new() }
    }

    /// Takes in a new change.
    pub(super) fn add(&mut self, change: Change, reply: Reply, now: Instant) {
        self.next_id = self.next_id.wrapping_add(1);
        self.held.push_back(Held { id: self.next_id, change, reply, deadline: now + REQUEST_TIMEOUT });
    }

    /// The next change to propose. Those that make no sense for these members are refused on the way.
    pub(super) fn next(&mut self, members: &Members) -> Option<Held> {
        while let Some(held) = self.held.pop_front() {
            match check(&held.change, members) {
                Ok(()) => return Some(held),
                Err(refused) => {
                    held.reply.send(Err(Refused::Change(refused)));
                }
            }
        }
        None
    }

    /// Whether nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty() && self.proposed.is_empty()
    }

    /// Raft has taken it.
    pub(super) fn proposed(&mut self, held: Held) {
        self.proposed.insert(held.id, (held.reply, held.deadline));
    }

    /// Raft has not taken it: it comes first next time.
    pub(super) fn put_back(&mut self, held: Held) {
        self.held.push_front(held);
    }

    /// The entry with this id is applied on this node: whoever waits may be told.
    pub(super) fn applied(&mut self, id: u64) -> Option<Reply> {
        self.proposed.remove(&id).map(|(reply, _)| reply)
    }

    /// The transport has certainly not sent the entry with this id.
    pub(super) fn undelivered(&mut self, id: u64) {
        if let Some(reply) = self.applied(id) {
            reply.send(Err(Refused::NotDone("the leader could not be reached")));
        }
    }

    /// The state has jumped over entries that this node has not seen.
    pub(super) fn lose_sight(&mut self) {
        for (reply, _) in std::mem::take(&mut self.proposed).into_values() {
            reply.send(Err(Refused::Unknown("this node was far behind and took over a snapshot")));
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
        let expired: Vec<u64> =
            self.proposed.iter().filter(|(_, (_, deadline))| *deadline <= now).map(|(&id, _)| id).collect();
        for (reply, _) in expired.iter().filter_map(|id| self.proposed.remove(id)).collect::<Vec<_>>() {
            reply.send(Err(Refused::Unknown("the leader did not commit it in time, or has changed")));
        }
    }

    /// Answers everybody, at the end.
    pub(super) fn end(&mut self, reason: &'static str) {
        for held in self.held.drain(..) {
            held.reply.send(Err(Refused::NotDone(reason)));
        }
        for (reply, _) in std::mem::take(&mut self.proposed).into_values() {
            reply.send(Err(Refused::Unknown(reason)));
        }
    }
}

impl Held {
    /// What goes into the log: etcd's layout, with the peer URL as the context of an addition.
    pub(super) fn entry(&self) -> ConfChange {
        let (change_type, node_id, context) = match &self.change {
            Change::Add { id, url } => (ConfChangeType::ConfChangeAddNode, *id, Bytes::from(url.to_string())),
            Change::Remove { id } => (ConfChangeType::ConfChangeRemoveNode, *id, Bytes::new()),
        };
        ConfChange { id: self.id, change_type: change_type as i32, node_id, context }
    }
}

fn check(change: &Change, members: &Members) -> Result<(), ChangeRefused> {
    match change {
        Change::Add { id, url } => members.check_add(*id, url),
        Change::Remove { id } => members.check_remove(*id),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::PeerUrl;
    use std::time::Duration;
    use tokio::sync::oneshot::Receiver;

    fn url(port: u16) -> PeerUrl {
        format!("http://h:{port}").parse().unwrap()
    }

    fn members() -> Members {
        let mut members = Members::default();
        members.add_founder(1, &[url(1), url(2)]);
        members.add_founder(2, &[url(1), url(2)]);
        members
    }

    fn add(changes: &mut Changes, change: Change, now: Instant) -> Receiver<Result<(), Refused>> {
        let (reply, answer) = Reply::channel();
        changes.add(change, reply, now);
        answer
    }

    #[test]
    fn senseless_changes_never_get_as_far_as_a_proposal() {
        let (mut changes, now) = (Changes::new(5), Instant::now());
        let mut unknown = add(&mut changes, Change::Remove { id: 9 }, now);
        let mut twice = add(&mut changes, Change::Add { id: 2, url: url(9) }, now);
        let _sensible = add(&mut changes, Change::Add { id: 3, url: url(3) }, now);
        let held = changes.next(&members()).unwrap();
        let entry = held.entry();
        assert_eq!((entry.node_id, entry.context), (3, "http://h:3".into()));
        assert_eq!(unknown.try_recv(), Ok(Err(Refused::Change(ChangeRefused::NotAMember { id: 9 }))));
        assert!(matches!(twice.try_recv(), Ok(Err(Refused::Change(ChangeRefused::AlreadyMember { .. })))));
    }

    #[test]
    fn a_change_that_was_held_is_checked_again() {
        let (mut changes, now) = (Changes::new(5), Instant::now());
        let mut answer = add(&mut changes, Change::Remove { id: 2 }, now);
        let mut members = members();
        let held = changes.next(&members).unwrap();
        changes.put_back(held);
        members.remove(2, 9);
        assert!(changes.next(&members).is_none());
        assert_eq!(answer.try_recv(), Ok(Err(Refused::Change(ChangeRefused::NotAMember { id: 2 }))));
    }

    #[test]
    fn a_change_is_answered_when_its_own_entry_is_applied() {
        let (mut changes, now) = (Changes::new(u64::MAX), Instant::now());
        let mut answer = add(&mut changes, Change::Remove { id: 2 }, now);
        let held = changes.next(&members()).unwrap();
        let id = held.entry().id;
        changes.proposed(held);
        assert!(changes.applied(id.wrapping_add(1)).is_none());
        changes.applied(id).unwrap().send(Ok(()));
        assert_eq!(answer.try_recv(), Ok(Ok(())));
    }

    #[test]
    fn what_is_held_was_not_done_and_what_was_proposed_is_unknown() {
        let (mut changes, now) = (Changes::new(5), Instant::now());
        let mut proposed = add(&mut changes, Change::Remove { id: 2 }, now);
        let held = changes.next(&members()).unwrap();
        changes.proposed(held);
        let mut held = add(&mut changes, Change::Remove { id: 1 }, now);
        changes.expire(now + REQUEST_TIMEOUT - Duration::from_millis(1), Leader::Known);
        assert!(held.try_recv().is_err() && proposed.try_recv().is_err(), "not yet");
        changes.expire(now + REQUEST_TIMEOUT, Leader::Known);
        assert!(matches!(held.try_recv(), Ok(Err(Refused::NotDone(_)))));
        assert!(matches!(proposed.try_recv(), Ok(Err(Refused::Unknown(_)))));
    }
}
