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
//!     └──────────────┘ dropped, or no answer for a while: asked again, with a new context
//! ```
//!
//! A question may be lost without notice (the wire has no "no" for it), so it is asked again after a while and when the
//! leader changes, until the readers' time is over. Reading changes nothing: a read can always be refused with "not
//! done".

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Refused, Reply, NO_LEADER, REQUEST_TIMEOUT};

/// A question without an answer is asked again after this time.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// All reads under way. Bounded by what clients may have under way.
pub(super) struct Reads {
    /// Distinguishes this process's questions from those of its former life.
    boot: u64,
    questions: u64,
    fresh: Vec<Reader>,
    asked: Option<Question>,
    /// By the index that must be applied first.
    confirmed: BTreeMap<u64, Vec<Reader>>,
}

struct Reader {
    reply: Reply,
    deadline: Instant,
}

struct Question {
    context: Bytes,
    readers: Vec<Reader>,
    asked_at: Instant,
}

impl Reads {
    /// No reads yet. `boot` is the number drawn at the start of the process.
    pub(super) fn new(boot: u64) -> Reads {
        Reads { boot, questions: 0, fresh: Vec::new(), asked: None, confirmed: BTreeMap::new() }
    }

    /// Takes in a new reader.
    pub(super) fn add(&mut self, reply: Reply, now: Instant) {
        self.fresh.push(Reader { reply, deadline: now + REQUEST_TIMEOUT });
    }

    /// The context of the question to ask now, if there is one to ask.
    pub(super) fn next_question(&mut self, now: Instant) -> Option<Bytes> {
        let overdue = |question: &mut Question| now.duration_since(question.asked_at) >= ASK_AGAIN;
        if let Some(question) = self.asked.take_if(overdue) {
            self.fresh.extend(question.readers);
        }
        if self.asked.is_some() || self.fresh.is_empty() {
            return None;
        }
        self.questions += 1;
        let context = Bytes::from([self.boot.to_le_bytes(), self.questions.to_le_bytes()].concat());
        let readers = std::mem::take(&mut self.fresh);
        self.asked = Some(Question { context: context.clone(), readers, asked_at: now });
        Some(context)
    }

    /// The question was not taken, or will not be answered, or its leader is gone: it is to be asked again. `None`
    /// stands for whatever question is under way.
    pub(super) fn dropped(&mut self, context: Option<&[u8]>) {
        let meant = |question: &mut Question| context.is_none_or(|context| question.context == context);
        if let Some(question) = self.asked.take_if(meant) {
            self.fresh.extend(question.readers);
        }
    }

    /// The leader's answer. An answer to a question that was given up is of no use to anybody.
    pub(super) fn answered(&mut self, context: &[u8], index: u64) {
        if let Some(question) = self.asked.take_if(|question| question.context == context) {
            self.confirmed.entry(index).or_default().extend(question.readers);
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

    /// Refuses those whose time is over; with `hopeless`, all whom nobody is there to answer.
    pub(super) fn expire(&mut self, now: Instant, hopeless: bool) {
        let mut expired = take_expired(&mut self.fresh, now, hopeless);
        if let Some(question) = &mut self.asked {
            expired.extend(take_expired(&mut question.readers, now, hopeless));
        }
        for readers in self.confirmed.values_mut() {
            expired.extend(take_expired(readers, now, false));
        }
        for reader in expired {
            reader.reply.send(Err(Refused::NotDone(NO_LEADER)));
        }
    }

    /// Refuses everybody, at the end.
    pub(super) fn end(&mut self, reason: &'static str) {
        let confirmed = std::mem::take(&mut self.confirmed).into_values().flatten();
        let asked = self.asked.take().into_iter().flat_map(|question| question.readers);
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
    fn a_question_without_an_answer_is_asked_again_and_its_late_answer_ignored() {
        let (mut reads, now) = (Reads::new(1), Instant::now());
        let mut answer = add(&mut reads, now);
        let first = reads.next_question(now).unwrap();
        let later = now + ASK_AGAIN;
        let mut joined = add(&mut reads, later);
        let second = reads.next_question(later).unwrap();
        assert_ne!(first, second);
        // The late reader shares the second question; the first one's answer may be too old for it.
        reads.answered(&first, 1);
        reads.release(1);
        assert!(waits(&mut answer) && waits(&mut joined));
        reads.answered(&second, 1);
        reads.release(1);
        assert_eq!(answer.try_recv(), Ok(Ok(())));
        assert_eq!(joined.try_recv(), Ok(Ok(())));
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
        reads.expire(now + REQUEST_TIMEOUT, false);
        assert!(matches!(confirmed.try_recv(), Ok(Err(Refused::NotDone(_)))));
        assert!(matches!(asked.try_recv(), Ok(Err(Refused::NotDone(_)))));
        assert!(waits(&mut fresh));
        reads.expire(now, true);
        assert!(matches!(fresh.try_recv(), Ok(Err(Refused::NotDone(_)))));
    }

    #[test]
    fn without_hope_a_confirmed_reader_still_waits() {
        let (mut reads, now) = (Reads::new(1), Instant::now());
        let mut confirmed = add(&mut reads, now);
        let question = reads.next_question(now).unwrap();
        reads.answered(&question, 9);
        reads.expire(now, true);
        assert!(waits(&mut confirmed), "the entries that it waits for are committed");
        reads.end("over");
        assert_eq!(confirmed.try_recv(), Ok(Err(Refused::NotDone("over"))));
    }
}
