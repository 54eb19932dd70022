//! Membership: the driver proposes changes, and applies them to everything that they concern in one step.
//!
//! A change takes effect when its entry is applied: on Raft's configuration, on the address book, and on the transport.
//! Nothing comes between, because one thread does all three. A change that makes no sense any more when it is applied
//! is passed over, and since every node judges the same entry by the same state, on all of them alike.
//!
//! Left out: changes of several members at once, and members that only learn.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use prost::Message as _;
use raft_core::pb::{ConfChange, ConfChangeType, Entry, EntryType};

use super::{Answer, Driver, Fatal};
use crate::address::PeerUrl;
use crate::members::ChangeRefused;
use crate::node::{Change, Refused, Reply, REMOVED};

/// How long a removed node goes on, so that the others hear of its removal; and how long who asked it for its own removal
/// waits for the answer. The last thing that a removed leader sends is that its removal is committed. Of two nodes, the
/// one that is left is stuck if it never learns that: it still takes the other one for a member whose vote it needs.
/// Nothing in the protocol acknowledges it, so the answer leaves time for it to arrive, which makes this unlikely, not
/// impossible.
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

    /// Proposes what is held, one change after the other, as long as Raft takes them.
    pub(super) fn propose_changes(&mut self) -> Result<(), Fatal> {
        if self.leader == 0 || self.end_at.is_some() {
            return Ok(());
        }
        while let Some(held) = self.changes.next(&self.members) {
            match self.raw.propose_conf_change(held.entry()) {
                Ok(()) => self.changes.proposed(held),
                Err(error) if error.is_fatal() => return Err(error.into()),
                Err(error) => {
                    log::debug!("a change of the membership was not taken: {error}");
                    self.changes.put_back(held);
                    break;
                }
            }
        }
        Ok(())
    }

    /// Changes configuration, address book and transport together. Returns the answer for who waits for it.
    pub(super) fn apply_change(&mut self, entry: &Entry) -> Result<Option<Answer>, Fatal> {
        let unreadable = |what: &dyn std::fmt::Display| {
            Fatal(format!(
                "this node stops at entry {}, a change of the membership that it cannot read: {what}",
                entry.index
            ))
        };
        if entry.kind() != Some(EntryType::EntryConfChange) {
            return Err(unreadable(&"changes of several members at once are of a newer version"));
        }
        let change = ConfChange::decode(entry.data.clone()).map_err(|error| unreadable(&error))?;
        let answer = |driver: &mut Driver, answer| driver.changes.applied(change.id).map(|reply| (reply, answer));
        if let Err(refused) = self.check_again(&change) {
            log::info!("the change of the membership at index {} has no effect: {refused}", entry.index);
            return Ok(answer(self, Err(Refused::Change(refused))));
        }
        match self.raw.apply_conf_change(change.clone()) {
            Ok(conf_state) => self.conf_state = conf_state,
            Err(error) if error.is_fatal() => return Err(error.into()),
            Err(error) => {
                // Every node finds the same fault in the same entry, so all of them pass over it.
                log::warn!("the change of the membership at index {} has no effect: {error}", entry.index);
                return Ok(answer(self, Err(Refused::NotDone("the configuration does not allow it"))));
            }
        }
        let id = change.node_id;
        match ConfChangeType::try_from(change.change_type) {
            Ok(ConfChangeType::ConfChangeRemoveNode) => {
                self.members.remove(id, entry.index);
                log::info!("node {id} was removed from the cluster");
                if id == self.id {
                    self.farewell = self.changes.applied(change.id);
                }
            }
            Ok(_) => self.add_member(id, &change.context),
            Err(_) => return Err(unreadable(&"its type is unknown")),
        }
        self.follow_members();
        Ok(answer(self, Ok(())))
    }

    /// A change was checked before it was proposed, by a node that may have been behind, and another one may have come
    /// between. The second of two additions of one id must not move the member, and its proposer must hear of it.
    fn check_again(&self, change: &ConfChange) -> Result<(), ChangeRefused> {
        let id = change.node_id;
        match ConfChangeType::try_from(change.change_type) {
            Ok(ConfChangeType::ConfChangeAddNode) if self.members.contains(id) => {
                Err(ChangeRefused::AlreadyMember { id, url: self.members.url(id).cloned() })
            }
            Ok(ConfChangeType::ConfChangeRemoveNode) => self.members.check_remove(id),
            _ => Ok(()),
        }
    }

    /// The address of a founder is not in its entry. An address that cannot be used is no reason to stop: the entry is
    /// committed, every node would stop with this one, and again at every start.
    fn add_member(&mut self, id: u64, context: &[u8]) {
        let agreed = std::str::from_utf8(context).ok().and_then(|text| text.parse::<PeerUrl>().ok());
        if let Some(url) = agreed {
            log::info!("node {id} at {url} is a member");
            self.members.add_agreed(id, url);
            return;
        }
        if !context.is_empty() {
            log::warn!("node {id} was added with an address that is none: \"{}\"", context.escape_ascii());
        }
        match self.members.add_founder(id, &self.cluster) {
            Some(url) => log::info!("node {id} at {url} is a member (the address is the command line's)"),
            None => log::warn!("node {id} is a member, but --cluster does not say where it is"),
        }
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
        *self.removed.write() = removed;
    }

    /// A member says that this node was removed at index `at`. It may be behind, and not know of an addition that
    /// followed. This node knows better if it has a leader, or has applied that entry; and one voice is not enough to
    /// end it, most of the other members must say the same.
    pub(super) fn hear_of_removal(&mut self, by: u64, at: u64, now: Instant) {
        if self.leader != 0 || at <= self.applied.0 || self.end_at.is_some() || !self.members.contains(by) {
            return;
        }
        if self.told_removed.insert(by) {
            log::info!("node {by} says that this node was removed from the cluster");
        }
        let others = self.members.iter().filter(|(id, _)| *id != self.id).count();
        if self.told_removed.len() > others / 2 {
            self.end_at = Some(now);
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
