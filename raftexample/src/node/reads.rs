//! Linearizable reads, batched: many readers, one question to the leader.
//!
//! A read must see every write that was acknowledged before the read began. ReadIndex answers with the index of the log
//! up to which a store must have applied for that; the leader proves, by a round of heartbeats, that it still is the
//! leader. The round costs the same for one reader as for a thousand, so all who wait when a question is asked share
//! it. Those who come while it is under way may *not* join: the index was fixed before they began, and a write may have
//! been acknowledged since. They share the next one.
//!
//! ```text
//!   fresh ──ask──► asked ──answer──► confirmed at an index ──applied that far──► done
//!     ▲              │
//!     └──────────────┘ dropped: asked again, with a new context
//! ```
//!
//! A question may be lost without notice (the wire has no "no" for it), so another is asked after a while, until the
//! readers' time is over. The former one is not given up: where a round trip takes longer than that while, its answer
//! only comes late. Any answer serves all who were there when its question was asked: its own readers, and those of
//! every question before it. When the leader changes, all questions are asked anew. Reading changes nothing: a read can
//! always be refused with "not done".

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Leader, Refused, Reply, BEHIND, NO_LEADER, REQUEST_TIMEOUT, UNCONFIRMED};

/// When a question has had no answer for this time, another is asked beside it.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// All reads under way. Bounded by what clients may have under way.
pub(super) struct Reads {
    /// Distinguishes this process's questions from those of its former life.
    boot: u64,
    questions: u64,
    fresh: Vec<Reader>,
    /// In the order in which they were asked. Few: no reader waits for more than some rounds of [`ASK_AGAIN`].
    asked: VecDeque<Question>,
    /// By the index that must be applied first.
    confirmed: BTreeMap<u64, Vec<Reader>>,
}

struct Reader {
    reply: Reply,
    deadline: Instant,
}

struct Question {
    context: Bytes,
    /// Those who were not there yet when the question before it was asked.
    readers: Vec<Reader>,
    asked_at: Instant,
}

impl Reads {
    /// No reads yet. `boot` is the number drawn at the start of the process.
    pub(super) fn new(boot: u64) -> Reads {
        Reads { boot, questions: 0, fresh: Vec::new(), asked: VecDeque::new(), confirmed: BTreeMap::new() }
    }

    /// Takes in a new reader.
    pub(super) fn add(&mut self, reply: Reply, now: Instant) {
        self.fresh.push(Reader { reply, deadline: now + REQUEST_TIMEOUT });
    }

    /// Whether nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.fresh.is_empty() && self.confirmed.is_empty() && self.asked.iter().all(|asked| asked.readers.is_empty())
    }

    /// The context of the question to ask now, if there is one to ask.
    pub(super) fn next_question(&mut self, now: Instant) -> Option<Bytes> {
        let nobody_waits = match self.asked.back() {
            Some(newest) if now.duration_since(newest.asked_at) < ASK_AGAIN => return None,
            newest => newest.is_none() && self.fresh.is_empty(),
        };
        if nobody_waits {
            return None;
        }
        self.questions += 1;
        let context = Bytes::from([self.boot.to_le_bytes(), self.questions.to_le_bytes()].concat());
        let readers = std::mem::take(&mut self.fresh);
        self.asked.push_back(Question { context: context.clone(), readers, asked_at: now });
        Some(context)
    }

    /// The question was not taken, or will not be answered, or its leader is gone: it is to be asked again. `None`
    /// stands for all questions under way.
    pub(super) fn dropped(&mut self, context: Option<&[u8]>) {
        let Some(context) = context else {
            self.fresh.extend(self.asked.drain(..).flat_map(|question| question.readers));
            return;
        };
        let Some(at) = self.asked.iter().position(|question| question.context == context) else { return };
        let readers = self.asked.remove(at).map(|question| question.readers).unwrap_or_default();
        // The next question was asked later: its answer serves them too.
        self.asked.get_mut(at).map_or(&mut self.fresh, |next| &mut next.readers).extend(readers);
    }

    /// The leader's answer. It is of use to all who came before the question was asked.
    pub(super) fn answered(&mut self, context: &[u8], index: u64) {
        if let Some(at) = self.asked.iter().position(|question| question.context == context) {
            let served = self.asked.drain(..=at).flat_map(|question| question.readers);
            self.confirmed.entry(index).or_default().extend(served);
            self.forget_idle_questions();
        }
    }

    /// Gives up the first questions if nobody is left whom their answers could serve: newcomers need not wait for them.
    fn forget_idle_questions(&mut self) {
        while self.asked.front().is_some_and(|question| question.readers.is_empty()) {
            self.asked.pop_front();
        }
    }

    /// Everything up to `applied` is applied: lets those go who waited for that.
    pub(super) fn release(&mut self, applied: u64) {
        while let Some(entry) = self.confirmed.first_entry() {
            if *entry.key() > applied {
                return;
            }
            for reader in entry.remove() {
                reader.reply.send(Ok(()));
            }
        }
    }

    /// Refuses those whose time is over; without hope, all whom nobody is there to answer.
    pub(super) fn expire(&mut self, now: Instant, leader: Leader) {
        let hopeless = leader == Leader::Hopeless;
        let mut expired = take_expired(&mut self.fresh, now, hopeless);
        for question in &mut self.asked {
            expired.extend(take_expired(&mut question.readers, now, hopeless));
        }
        self.forget_idle_questions();
        let reason = if leader == Leader::Known { UNCONFIRMED } else { NO_LEADER };
        for reader in expired {
            reader.reply.send(Err(Refused::NotDone(reason)));
        }
        for reader in self.confirmed.values_mut().flat_map(|readers| take_expired(readers, now, false)) {
            reader.reply.send(Err(Refused::NotDone(BEHIND)));
        }
    }

    /// Refuses everybody, at the end.
    pub(super) fn end(&mut self, reason: &'static str) {
        let confirmed = std::mem::take(&mut self.confirmed).into_values().flatten();
        let asked = self.asked.drain(..).flat_map(|question| question.readers);
        for reader in confirmed.chain(asked).chain(self.fresh.drain(..)) {
            reader.reply.send(Err(Refused::NotDone(reason)));
        }
    }
}

/// Takes out those whose time is over, or everybody.
fn take_expired(readers: &mut Vec<Reader>, now: Instant, everybody: bool) -> Vec<Reader> {
    let (expired, kept) = std::mem::take(readers).into_iter().partition(|reader| everybody || reader.deadline <= now);
    *readers = kept;
    expired
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot::{error::TryRecvError, Receiver};

    type Answer = Receiver<Result<(), Refused>>;

    fn add(reads: &mut Reads, now: Instant) -> Answer {
        let (reply, answer) = Reply::channel();
        reads.add(reply, now);
        answer
    }

    fn waits(answer: &mut Answer) -> bool {
        answer.try_recv() == Err(TryRecvError::Empty)
    }

    #[test]
    fn readers_share_a_question_and_wait_for_the_index() {
        let (mut reads, now) = (Reads::new(1), Instant::now());
        let mut answers = [add(&mut reads, now), add(&mut reads, now)];
        let question = reads.next_question(now).unwrap();
        assert_eq!(reads.next_question(now), None);
        reads.answered(&question, 7);
        reads.release(6);
        assert!(answers.iter_mut().all(waits));
        reads.release(7);
        for mut answer in answers {
            assert_eq!(answer.try_recv(), Ok(Ok(())));
        }
    }

    #[test]
    fn a_reader_never_joins_a_question_that_was_asked_before_it_came() {
        let (mut reads, now) = (Reads::new(1), Instant::now());
        let mut early = add(&mut reads, now);
        let first = reads.next_question(now).unwrap();
        let mut late = add(&mut reads, now);
        assert_eq!(reads.next_question(now), None, "one question at a time");
        reads.answered(&first, 1);
        reads.release(1);
        assert_eq!(early.try_recv(), Ok(Ok(())));
        assert!(waits(&mut late));
        let second = reads.next_question(now).unwrap();
        assert_ne!(first, second);
        reads.answered(&second, 1);
        reads.release(1);
        assert_eq!(late.try_recv(), Ok(Ok(())));
    }

    #[test]
    fn a_late_answer_serves_those_who_came_before_its_question_and_nobody_else() {
        let (mut reads, now) = (Reads::new(1), Instant::now());
        let mut early = add(&mut reads, now);
        let first = reads.next_question(now).unwrap();
        let later = now + ASK_AGAIN;
        let mut late = add(&mut reads, later);
        let second = reads.next_question(later).unwrap();
        assert_ne!(first, second);
        reads.answered(&first, 1);
        reads.release(1);
        assert_eq!(early.try_recv(), Ok(Ok(())));
        assert!(waits(&mut late), "a write may have been acknowledged between the first question and this reader");
        reads.answered(&second, 1);
        reads.release(1);
        assert_eq!(late.try_recv(), Ok(Ok(())));
        assert_eq!(reads.next_question(later + ASK_AGAIN), None, "nobody waits any more");
    }

    #[test]
    fn a_later_answer_serves_those_too_whose_own_question_was_lost() {
        let (mut reads, now) = (Reads::new(1), Instant::now());
        let mut early = add(&mut reads, now);
        let lost = reads.next_question(now).unwrap();
        let second = reads.next_question(now + ASK_AGAIN).unwrap();
        reads.answered(&second, 1);
        reads.release(1);
        assert_eq!(early.try_recv(), Ok(Ok(())));
        reads.answered(&lost, 9);
        assert!(reads.confirmed.values().all(Vec::is_empty));
    }

    #[test]
    fn where_every_answer_takes_longer_than_the_patience_all_readers_are_served() {
        let (mut reads, start) = (Reads::new(1), Instant::now());
        let delay = ASK_AGAIN * 3;
        let (mut on_the_way, mut answers) = (VecDeque::new(), Vec::new());
        for step in 0..40 {
            let now = start + Duration::from_millis(100) * step;
            if step < 20 {
                answers.push(add(&mut reads, now));
            }
            on_the_way.extend(reads.next_question(now).map(|context| (context, now + delay)));
            while on_the_way.front().is_some_and(|(_, arrives)| *arrives <= now) {
                reads.answered(&on_the_way.pop_front().unwrap().0, 1);
            }
            reads.release(1);
            reads.expire(now, Leader::Known);
            assert!(reads.asked.len() <= 4, "no more than one for each round of patience");
        }
        assert!(answers.iter_mut().all(|answer| answer.try_recv() == Ok(Ok(()))));
    }

    #[test]
    fn a_newcomer_does_not_wait_for_a_question_that_nobody_needs() {
        let (mut reads, now) = (Reads::new(1), Instant::now());
        let _early = add(&mut reads, now);
        let first = reads.next_question(now).unwrap();
        assert!(reads.next_question(now + ASK_AGAIN).is_some());
        reads.answered(&first, 1);
        let _newcomer = add(&mut reads, now + ASK_AGAIN);
        assert!(reads.next_question(now + ASK_AGAIN).is_some());
    }

    #[test]
    fn the_readers_of_a_dropped_question_share_the_next_one() {
        let (mut reads, now) = (Reads::new(1), Instant::now());
        let mut answer = add(&mut reads, now);
        let first = reads.next_question(now).unwrap();
        let second = reads.next_question(now + ASK_AGAIN).unwrap();
        reads.dropped(Some(&first));
        assert_eq!(reads.next_question(now + ASK_AGAIN), None);
        reads.answered(&second, 1);
        reads.release(1);
        assert_eq!(answer.try_recv(), Ok(Ok(())));
    }

    #[test]
    fn a_dropped_question_is_asked_again_at_once() {
        let (mut reads, now) = (Reads::new(1), Instant::now());
        let _answer = add(&mut reads, now);
        let first = reads.next_question(now).unwrap();
        reads.dropped(Some(b"another"));
        assert_eq!(reads.next_question(now), None);
        reads.dropped(Some(&first));
        assert!(reads.next_question(now).is_some());
        reads.dropped(None);
        assert!(reads.next_question(now).is_some());
    }

    #[test]
    fn no_reader_waits_for_ever() {
        let (mut reads, now) = (Reads::new(1), Instant::now());
        let mut confirmed = add(&mut reads, now);
        let question = reads.next_question(now).unwrap();
        reads.answered(&question, 9);
        let mut asked = add(&mut reads, now);
        reads.next_question(now).unwrap();
        let mut fresh = add(&mut reads, now + Duration::from_secs(1));
        reads.expire(now + REQUEST_TIMEOUT, Leader::Known);
        assert_eq!(confirmed.try_recv(), Ok(Err(Refused::NotDone(BEHIND))));
        assert_eq!(asked.try_recv(), Ok(Err(Refused::NotDone(UNCONFIRMED))));
        assert!(waits(&mut fresh));
        reads.expire(now, Leader::Hopeless);
        assert!(matches!(fresh.try_recv(), Ok(Err(Refused::NotDone(_)))));
    }

    #[test]
    fn without_hope_a_confirmed_reader_still_waits() {
        let (mut reads, now) = (Reads::new(1), Instant::now());
        let mut confirmed = add(&mut reads, now);
        let question = reads.next_question(now).unwrap();
        reads.answered(&question, 9);
        reads.expire(now, Leader::Hopeless);
        assert!(waits(&mut confirmed), "the entries that it waits for are committed");
        reads.end("over");
        assert_eq!(confirmed.try_recv(), Ok(Err(Refused::NotDone("over"))));
    }
}
