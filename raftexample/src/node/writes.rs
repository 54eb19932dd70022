//! Writes that wait for their answer: which may be proposed, which are on their way, and what is known of those.
//!
//! The rule that everything here serves: **a request is never applied twice, and never answered wrongly.** So a request
//! is handed to Raft again only when it is certain that its entry will never commit. The states:
//!
//! ```text
//!            propose                    applied here
//!   held ───────────────► proposed ───────────────────► done
//!    ▲                       │
//!    └───────────────────────┤ certain that it is lost
//!                            │ not certain
//!                            └───────────────────► outcome unknown
//! ```
//!
//! When is it certain? Terms in a log never fall. If this node led term 3 when it took the request, its entry bears term
//! 3; once an entry of a later term is applied, every entry of term 3 that will ever be applied has been. If it is not
//! among them, it is lost. If the request was *forwarded*, it may sit in a socket somewhere and be taken by the next
//! leader: nothing is certain then, except when the transport never sent it.
//!
//! What is left out: a memory of finished requests, which would let clients repeat them without harm.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft_core::pb::Entry;

use super::{Leader, Refused, Reply, NO_LEADER, REQUEST_TIMEOUT, TOO_MUCH_WAITS};

/// How long a forwarded request may still turn up once a new leader's entries are applied.
const GRACE: Duration = Duration::from_secs(1);

/// All writes under way, by the counter of their request id. Bounded by what clients may have under way.
#[derive(Default)]
pub(super) struct Writes {
    waiting: BTreeMap<u64, Waiting>,
    /// Those to be proposed, oldest first. May name some that are gone.
    held: VecDeque<u64>,
}

struct Waiting {
    data: Bytes,
    reply: Reply,
    deadline: Instant,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In nobody's log.
    Held,
    /// Appended by this node when it led this term.
    Appended { term: u64 },
    /// Sent to the leader that this node knew in this term.
    Forwarded { term: u64 },
}

/// Requests to be proposed together.
#[derive(Debug, Default)]
pub(super) struct Batch {
    counters: Vec<u64>,
    pub(super) entries: Vec<Entry>,
}

impl Writes {
    /// Takes in a new request.
    pub(super) fn add(&mut self, counter: u64, data: Bytes, reply: Reply, now: Instant) {
        let deadline = now + REQUEST_TIMEOUT;
        self.waiting.insert(counter, Waiting { data, reply, deadline, state: State::Held });
        self.held.push_back(counter);
    }

    /// How many wait for their answer.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether anything waits to be proposed.
    pub(super) fn any_held(&self) -> bool {
        !self.held.is_empty()
    }

    /// Requests to propose now, oldest first: as many as fit into `max_bytes`, but one at least if there is any.
    pub(super) fn next_batch(&mut self, max_bytes: usize) -> Batch {
        let mut batch = Batch::default();
        let mut bytes = 0;
        while let Some(counter) = self.held.pop_front() {
            // It may have timed out meanwhile.
            let Some(waiting) = self.waiting.get(&counter) else { continue };
            bytes += waiting.data.len();
            if bytes > max_bytes && !batch.counters.is_empty() {
                self.held.push_front(counter);
                break;
            }
            batch.counters.push(counter);
            batch.entries.push(Entry::normal(waiting.data.clone()));
        }
        batch
    }

    /// Raft has taken the batch, in this term; `leading` says whether into this node's own log.
    pub(super) fn proposed(&mut self, batch: Vec<u64>, term: u64, leading: bool) {
        for counter in batch {
            if let Some(waiting) = self.waiting.get_mut(&counter) {
                waiting.state = if leading { State::Appended { term } } else { State::Forwarded { term } };
            }
        }
    }

    /// Raft has not taken the batch: it comes first next time.
    pub(super) fn put_back(&mut self, batch: Vec<u64>) {
        for counter in batch.into_iter().rev() {
            self.held.push_front(counter);
        }
    }

    /// The transport has certainly not sent this one.
    pub(super) fn undelivered(&mut self, counter: u64) {
        if let Some(waiting) = self.waiting.get_mut(&counter) {
            if matches!(waiting.state, State::Forwarded { .. }) {
                waiting.state = State::Held;
                self.held.push_back(counter);
            }
        }
    }

    /// Its entry is applied on this node: whoever waits may be told.
    pub(super) fn applied(&mut self, counter: u64) -> Option<Reply> {
        self.waiting.remove(&counter).map(|waiting| waiting.reply)
    }

    /// An entry of `term` is about to be applied, the first of its term.
    pub(super) fn term_begins(&mut self, term: u64, now: Instant) {
        for (&counter, waiting) in &mut self.waiting {
            match waiting.state {
                State::Appended { term: own } if own < term => {
                    waiting.state = State::Held;
                    self.held.push_back(counter);
                }
                State::Forwarded { term: own } if own < term => {
                    waiting.deadline = waiting.deadline.min(now + GRACE);
                }
                _ => {}
            }
        }
    }

    /// The state has jumped over entries that this node has not seen: any of its requests may have been among them.
    pub(super) fn lose_sight(&mut self) {
        let all = std::mem::take(&mut self.waiting).into_iter();
        let (kept, lost): (_, BTreeMap<u64, Waiting>) = all.partition(|(_, waiting)| waiting.state == State::Held);
        self.waiting = kept;
        for waiting in lost.into_values() {
            answer(waiting.reply, Refused::Unknown("this node was far behind and took over a snapshot"));
        }
    }

    /// Answers those whose time has come; without hope, those too that nobody is there to propose to.
    pub(super) fn expire(&mut self, now: Instant, leader: Leader) {
        let hopeless = leader == Leader::Hopeless;
        let not_done = if leader == Leader::Known { TOO_MUCH_WAITS } else { NO_LEADER };
        let over = |waiting: &Waiting| waiting.deadline <= now || (hopeless && waiting.state == State::Held);
        let expired: Vec<u64> =
            self.waiting.iter().filter(|(_, waiting)| over(waiting)).map(|(&counter, _)| counter).collect();
        for waiting in expired.iter().filter_map(|counter| self.waiting.remove(counter)).collect::<Vec<_>>() {
            self.refuse(waiting, not_done, "the leader did not commit it in time, or has changed");
        }
        if self.waiting.is_empty() {
            self.held.clear();
        }
    }

    /// Answers everybody, at the end.
    pub(super) fn end(&mut self, reason: &'static str) {
        for waiting in std::mem::take(&mut self.waiting).into_values() {
            self.refuse(waiting, reason, reason);
        }
        self.held.clear();
    }

    fn refuse(&self, waiting: Waiting, not_done: &'static str, unknown: &'static str) {
        let refused = match waiting.state {
            State::Held => Refused::NotDone(not_done),
            State::Appended { .. } | State::Forwarded { .. } => Refused::Unknown(unknown),
        };
        answer(waiting.reply, refused);
    }
}

impl Batch {
    /// Whether there is nothing in it.
    pub(super) fn is_empty(&self) -> bool {
        self.counters.is_empty()
    }

    /// The entries to propose, and the ticket for [`Writes::proposed`] or [`Writes::put_back`].
    pub(super) fn split(self) -> (Vec<Entry>, Vec<u64>) {
        (self.entries, self.counters)
    }
}

fn answer(reply: Reply, refused: Refused) {
    reply.send(Err(refused));
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot::{error::TryRecvError, Receiver};

    type Answer = Receiver<Result<(), Refused>>;

    struct Bench {
        writes: Writes,
        start: Instant,
    }

    fn bench() -> Bench {
        Bench { writes: Writes::default(), start: Instant::now() }
    }

    impl Bench {
        fn add(&mut self, counter: u64) -> Answer {
            let (reply, answer) = Reply::channel();
            self.writes.add(counter, Bytes::from(vec![0; 10]), reply, self.start);
            answer
        }

        /// Proposes everything held; returns how many that were.
        fn propose(&mut self, term: u64, leading: bool) -> usize {
            let (entries, counters) = self.writes.next_batch(usize::MAX).split();
            self.writes.proposed(counters, term, leading);
            entries.len()
        }

        fn after(&self, seconds: f32) -> Instant {
            self.start + Duration::from_secs_f32(seconds)
        }
    }

    fn not_done(answer: &mut Answer) -> bool {
        matches!(answer.try_recv(), Ok(Err(Refused::NotDone(_))))
    }

    fn unknown(answer: &mut Answer) -> bool {
        matches!(answer.try_recv(), Ok(Err(Refused::Unknown(_))))
    }

    fn waits(answer: &mut Answer) -> bool {
        answer.try_recv() == Err(TryRecvError::Empty)
    }

    #[test]
    fn a_write_is_answered_once_it_is_applied() {
        let mut bench = bench();
        let mut answer = bench.add(1);
        assert_eq!(bench.propose(1, true), 1);
        assert!(waits(&mut answer));
        bench.writes.applied(1).unwrap().send(Ok(()));
        assert_eq!(answer.try_recv(), Ok(Ok(())));
        assert!(bench.writes.applied(1).is_none(), "once");
    }

    #[test]
    fn a_batch_has_a_limit_and_keeps_the_order() {
        let mut bench = bench();
        let _answers: Vec<Answer> = (1..=5).map(|counter| bench.add(counter)).collect();
        let (_, first) = bench.writes.next_batch(25).split();
        assert_eq!(first, [1, 2]);
        bench.writes.put_back(first);
        let (_, all) = bench.writes.next_batch(usize::MAX).split();
        assert_eq!(all, [1, 2, 3, 4, 5]);
        assert!(!bench.writes.any_held());
        bench.writes.put_back(all);
        assert_eq!(bench.writes.next_batch(1).split().1, [1], "one always passes");
    }

    #[test]
    fn what_nobody_took_is_certainly_not_done() {
        let mut bench = bench();
        let mut answer = bench.add(1);
        bench.writes.expire(bench.after(4.9), Leader::Known);
        assert!(waits(&mut answer));
        bench.writes.expire(bench.after(5.0), Leader::Known);
        assert_eq!(answer.try_recv(), Ok(Err(Refused::NotDone(TOO_MUCH_WAITS))));
        assert!(bench.writes.next_batch(9).is_empty(), "it is not proposed after that");
    }

    #[test]
    fn without_hope_what_is_held_is_refused_at_once_and_what_is_proposed_is_not() {
        let mut bench = bench();
        let mut proposed = bench.add(1);
        bench.propose(1, true);
        let mut held = bench.add(2);
        bench.writes.expire(bench.start, Leader::Hopeless);
        assert!(not_done(&mut held));
        assert!(waits(&mut proposed));
    }

    #[test]
    fn what_was_proposed_and_not_seen_again_is_unknown() {
        for leading in [true, false] {
            let mut bench = bench();
            let mut answer = bench.add(1);
            bench.propose(1, leading);
            bench.writes.expire(bench.after(5.0), Leader::Known);
            assert!(unknown(&mut answer));
        }
    }

    #[test]
    fn what_this_node_appended_is_lost_for_certain_once_a_later_term_is_applied() {
        let mut bench = bench();
        let mut answer = bench.add(1);
        bench.propose(3, true);
        bench.writes.term_begins(3, bench.start);
        assert_eq!(bench.propose(3, true), 0, "its own term proves nothing");
        bench.writes.term_begins(4, bench.start);
        assert_eq!(bench.propose(4, false), 1, "proposed again, to the new leader");
        assert!(waits(&mut answer));
    }

    #[test]
    fn what_was_forwarded_is_never_proposed_again() {
        let mut bench = bench();
        let mut answer = bench.add(1);
        bench.propose(3, false);
        bench.writes.term_begins(4, bench.after(2.0));
        assert_eq!(bench.propose(4, false), 0);
        bench.writes.expire(bench.after(2.9), Leader::Known);
        assert!(waits(&mut answer), "it may turn up in the new leader's log");
        bench.writes.expire(bench.after(3.0), Leader::Known);
        assert!(unknown(&mut answer));
    }

    #[test]
    fn what_was_never_sent_is_proposed_again() {
        let mut bench = bench();
        let mut answer = bench.add(1);
        bench.propose(3, false);
        bench.writes.undelivered(1);
        bench.writes.undelivered(1);
        assert_eq!(bench.propose(3, false), 1, "once");
        bench.writes.undelivered(2);
        assert_eq!(bench.propose(3, false), 0, "nobody waits for that one");
        assert!(waits(&mut answer));
    }

    #[test]
    fn a_jump_over_unseen_entries_leaves_proposed_writes_unknown() {
        let mut bench = bench();
        let mut proposed = bench.add(1);
        bench.propose(3, true);
        let mut held = bench.add(2);
        bench.writes.lose_sight();
        assert!(unknown(&mut proposed));
        assert!(waits(&mut held));
        bench.writes.term_begins(4, bench.start);
        assert_eq!(bench.propose(4, false), 1, "only the one that was never proposed");
    }

    #[test]
    fn at_the_end_everybody_is_told_what_is_true() {
        let mut bench = bench();
        let mut proposed = bench.add(1);
        bench.propose(3, false);
        let mut held = bench.add(2);
        bench.writes.end("over");
        assert!(unknown(&mut proposed));
        assert!(not_done(&mut held));
    }
}
