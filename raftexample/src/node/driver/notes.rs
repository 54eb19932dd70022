//! The two numbers in the address book: who proposes them, and what this node does when others say that its own do not fit.
//!
//! A leader that has applied everything of earlier terms and finds no cluster number proposes one. Each member that knows
//! it, and whose data directory has no number in the book, proposes its own. Nobody waits for either: if it is not there after an election
//! timeout, it is proposed again. The first one that is applied counts.
//!
//! **A node that is refused** because of its numbers is none of the cluster's nodes, or the others are none of its. Which
//! it is, is for the majority to say: a node without a leader ends when most of the other members refuse it. That its
//! cluster is another one takes two voices at least, because between two nodes nobody can say which is wrong. And a node
//! whose own number stands in its book knows better than one that may be behind.
//!
//! What is left out: nodes that are refused and have a leader. They hear from it, so they belong.

use raft_core::pb::{Entry, Message, MessageType};

use super::{Driver, Fatal};
use crate::codec::Note;
use crate::transport::register::Number;

impl Driver {
    /// Proposes the numbers that the address book lacks.
    pub(super) fn propose_notes(&mut self) -> Result<(), Fatal> {
        if !self.extensions || self.leader == 0 || self.note_pause_ticks > 0 || self.end_at.is_some() {
            return Ok(());
        }
        let mut notes = Vec::new();
        let up_to_date = self.applied.1 == self.raw.basic_status().hard_state.term;
        if self.leader == self.id && up_to_date && self.members.birth().is_none() {
            notes.push(Note::Birth(self.birth_offer));
        }
        // A node that has founded a cluster of its own, where it should have joined this one, must not leave its number
        // behind: it has none of the cluster's log, so it does not know the cluster's number.
        let belongs = self.members.birth().is_some() && self.members.contains(self.id);
        if let (Some(number), true, None) = (self.own_data, belongs, self.members.data(self.id)) {
            notes.push(Note::Data { node: self.id, number });
        }
        if notes.is_empty() {
            return Ok(());
        }
        self.note_pause_ticks = usize::from(self.timing.election_ticks);
        let entries = notes.into_iter().filter_map(|note| self.codec.encode_note(note)).map(Entry::normal).collect();
        self.step(Message { from: self.id, entries, ..Message::of(MessageType::MsgProp) }).map(drop)
    }

    /// A note has been committed.
    pub(super) fn apply_note(&mut self, note: Note) {
        let news = match note {
            Note::Birth(birth) => {
                let news = self.members.set_birth(birth);
                if news {
                    log::info!("this is cluster {birth:016x}");
                    // Now the members may say theirs.
                    self.note_pause_ticks = 0;
                }
                news
            }
            Note::Data { node, number } => self.members.set_data(node, number),
        };
        if news {
            self.follow_members();
        }
    }

    /// Member `by` says that one of this node's numbers does not fit.
    pub(super) fn hear_of_strangeness(&mut self, by: u64, number: Number) -> Result<(), Fatal> {
        let own = self.members.data(self.id);
        let sure = number == Number::Data && own.is_some() && own == self.own_data;
        if self.leader != 0 || self.end_at.is_some() || sure || !self.has_a_voice(by) {
            return Ok(());
        }
        self.told_strange.insert((number, by));
        let voices = self.told_strange.iter().filter(|(of, _)| *of == number).count();
        let others = self.other_members();
        match number {
            Number::Data if voices > others / 2 => Err(Fatal(format!(
                "this node's data directory is not the one with which the cluster knows node {}: its data was lost or \
                 replaced, or a second process was started with its id; to replace a member whose data is gone, \
                 remove it from the cluster and add it again under a new id with an empty data directory",
                self.id
            ))),
            Number::Birth if voices > others / 2 && voices > 1 => Err(Fatal(format!(
                "this node's data belongs to another cluster ({:016x}) than most of its members do; start it with the \
                 data directory of node {} of their cluster, or, as a new member, with an empty one and --join",
                self.members.birth().unwrap_or(0),
                self.id
            ))),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{open, Bench};
    use super::*;
    use crate::codec::{Codec as _, OwnCodec};
    use crate::node::Input;
    use crate::transport::Event;
    use std::time::Instant;

    const ELECTION_TICKS: usize = 10;

    fn told(bench: &mut Bench, by: u64, number: Number) -> Option<String> {
        let taken = bench.driver.take(Input::peer(Event::ToldStranger { by, number }), Instant::now());
        taken.err().map(|Fatal(reason)| reason)
    }

    fn note(index: u64, note: Note) -> Entry {
        Entry { index, term: 5, ..Entry::normal(OwnCodec.encode_note(note).unwrap()) }
    }

    #[test]
    fn a_leader_gives_the_cluster_a_number_and_each_member_says_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let mut bench = open(dir.path(), 1, |_| {});
        bench.driver.own_data = Some(11);
        bench.elect();
        bench.tick(ELECTION_TICKS);
        let birth = bench.driver.members.birth();
        assert!(birth.is_some());
        assert_eq!(bench.driver.members.data(1), Some(11));
        let last = bench.driver.applied.0;
        bench.tick(3 * ELECTION_TICKS);
        assert_eq!(bench.driver.applied.0, last, "once");
        let register = bench.driver.register.borrow().clone();
        assert_eq!((register.birth, register.data.get(&1)), (birth, Some(&11)));
        drop(bench);
        let bench = open(dir.path(), 1, |_| {});
        assert_eq!(bench.driver.members.birth(), birth);
        assert_eq!(bench.driver.register.borrow().birth, birth, "known before anybody calls");
    }

    #[test]
    fn the_first_number_counts_and_it_is_part_of_snapshots() {
        let dir = tempfile::tempdir().unwrap();
        let mut bench = open(dir.path(), 3, |options| options.snapshot_count = Some(1));
        let notes = [
            Note::Birth(7),
            Note::Birth(8),
            Note::Data { node: 2, number: 22 },
            Note::Data { node: 2, number: 23 },
            Note::Data { node: 9, number: 99 },
        ];
        let entries = (4..).zip(notes).map(|(index, of)| note(index, of)).collect();
        assert!(bench.append(3, entries, 8).is_ok());
        drop(bench);
        let bench = open(dir.path(), 3, |_| {});
        assert_eq!(bench.driver.snapshots.index, 8);
        let members = &bench.driver.members;
        assert_eq!((members.birth(), members.data(2), members.data(9)), (Some(7), Some(22), None));
    }

    #[test]
    fn a_node_that_most_others_refuse_ends_with_advice_unless_it_has_a_leader_or_knows_better() {
        let dir = tempfile::tempdir().unwrap();
        let mut bench = open(dir.path(), 3, |_| {});
        bench.driver.own_data = Some(11);
        assert_eq!(told(&mut bench, 2, Number::Data), None);
        assert_eq!(told(&mut bench, 2, Number::Data), None, "one voice");
        assert_eq!(told(&mut bench, 9, Number::Data), None, "a stranger's");
        assert_eq!(told(&mut bench, 3, Number::Birth), None, "another matter");
        let reason = told(&mut bench, 3, Number::Data).unwrap();
        assert!(reason.contains("node 1") && reason.contains("new id"), "{reason}");
        assert!(bench.append(3, vec![], 3).is_ok());
        assert_eq!(told(&mut bench, 3, Number::Data), None, "it has a leader");
        assert!(bench.append(3, vec![note(4, Note::Data { node: 1, number: 11 })], 4).is_ok());
        bench.tick(3 * ELECTION_TICKS);
        assert_eq!(bench.driver.leader, 0);
        assert_eq!([2, 3].map(|by| told(&mut bench, by, Number::Data)), [None, None], "its number is in the book");
        assert_eq!(told(&mut bench, 2, Number::Birth), None);
        assert!(told(&mut bench, 3, Number::Birth).unwrap().contains("another cluster"));
    }

    #[test]
    fn of_two_nodes_of_different_clusters_neither_ends() {
        let dir = tempfile::tempdir().unwrap();
        let mut bench = open(dir.path(), 2, |_| {});
        assert_eq!(told(&mut bench, 2, Number::Birth), None);
        assert!(told(&mut bench, 2, Number::Data).is_some(), "but a directory that is not the known one is certain");
    }

    #[test]
    fn a_newcomer_takes_the_word_of_those_whom_its_command_line_names() {
        let dir = tempfile::tempdir().unwrap();
        let mut bench = open(dir.path(), 3, |options| options.join = true);
        assert_eq!(told(&mut bench, 2, Number::Data), None);
        assert!(told(&mut bench, 3, Number::Data).is_some());
    }
}
