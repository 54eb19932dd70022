//! The search for an order.
//!
//! Calls and answers stand in one list, by time. The operations that may come next are those whose calls stand before the
//! first answer: whoever was called after it must come after that operation. An operation that is taken leaves the list with
//! its answer. When an answer is reached, none of the candidates fits, and the last choice is taken back.
//!
//! ```text
//!   call a · call b · answer a · call c · answer b · answer c        a or b may be first, c may not
//! ```
//!
//! Two things keep this short. What remains to be ordered depends only on *which* operations were taken and on the value
//! they left, so a situation that was met before is not tried again. And a read that fits is taken at once and for good:
//! it changes nothing, so an order in which it comes later is right too when it is moved here.

use std::collections::HashSet;

use super::{Action, Operation};

/// The list's end. Position 0 is its head; `events[position]` has the links of the event at that position.
const HEAD: usize = 0;

/// A call or an answer in the list.
#[derive(Clone, Copy, Debug)]
struct Event {
    operation: usize,
    /// Of a call: where its answer stands, if there is one.
    answer: Option<usize>,
    is_call: bool,
    previous: usize,
    next: usize,
}

/// A doubly linked ring of events by time, from which operations can be lifted and put back in reverse order.
struct Timeline {
    events: Vec<Event>,
}

impl Timeline {
    fn new(operations: &[Operation]) -> Timeline {
        // At equal times calls come first: operations that touch count as overlapping.
        let mut order: Vec<(u64, bool, usize)> = Vec::with_capacity(2 * operations.len());
        for (index, operation) in operations.iter().enumerate() {
            order.push((operation.called_ns, false, index));
            order.extend(operation.answered_ns.map(|answered| (answered, true, index)));
        }
        order.sort_unstable();
        let count = order.len();
        let head =
            Event { operation: usize::MAX, answer: None, is_call: false, previous: count, next: 1 % (count + 1) };
        let mut events = vec![head];
        let mut calls = vec![HEAD; operations.len()];
        for (at, (_, is_answer, operation)) in (1..).zip(order) {
            events.push(Event {
                operation,
                answer: None,
                is_call: !is_answer,
                previous: at - 1,
                next: (at + 1) % (count + 1),
            });
            if is_answer {
                events[calls[operation]].answer = Some(at);
            } else {
                calls[operation] = at;
            }
        }
        Timeline { events }
    }

    fn unlink(&mut self, at: usize) {
        let Event { previous, next, .. } = self.events[at];
        self.events[previous].next = next;
        self.events[next].previous = previous;
    }

    fn link(&mut self, at: usize) {
        let Event { previous, next, .. } = self.events[at];
        self.events[previous].next = at;
        self.events[next].previous = at;
    }

    /// Takes a call and its answer out.
    fn lift(&mut self, call: usize) {
        self.unlink(call);
        if let Some(answer) = self.events[call].answer {
            self.unlink(answer);
        }
    }

    /// Puts both back; the last that was lifted comes first.
    fn put_back(&mut self, call: usize) {
        if let Some(answer) = self.events[call].answer {
            self.link(answer);
        }
        self.link(call);
    }
}

/// Which operations were taken.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Taken(Box<[u64]>);

impl Taken {
    fn flip(&mut self, operation: usize) {
        self.0[operation / 64] ^= 1 << (operation % 64);
    }
}

/// An operation that was taken, and how to take it back.
struct Step {
    call: usize,
    value_before: Option<u64>,
    is_read: bool,
}

/// Whether operations on one key, which holds nothing at first, are linearizable.
pub fn is_linearizable(operations: &[Operation]) -> bool {
    let mut timeline = Timeline::new(operations);
    let mut unanswered = operations.iter().filter(|operation| operation.answered_ns.is_some()).count();
    let mut taken = Taken(vec![0; operations.len().div_ceil(64)].into());
    let mut value = None;
    let mut steps: Vec<Step> = Vec::new();
    let mut tried: HashSet<(Taken, Option<u64>)> = HashSet::new();
    let mut at = timeline.events[HEAD].next;
    while unanswered > 0 {
        let event = timeline.events[at];
        if event.is_call {
            let (fits, value_after, is_read) = match operations[event.operation].action {
                Action::Put(written) => (true, Some(written), false),
                Action::Delete => (true, None, false),
                Action::Get(found) => (found == value, value, true),
            };
            if fits {
                taken.flip(event.operation);
                if is_read || tried.insert((taken.clone(), value_after)) {
                    steps.push(Step { call: at, value_before: value, is_read });
                    timeline.lift(at);
                    unanswered -= usize::from(event.answer.is_some());
                    value = value_after;
                    at = timeline.events[HEAD].next;
                    continue;
                }
                taken.flip(event.operation);
            }
            at = event.next;
            continue;
        }
        // An answer: the operation it belongs to should have been taken before. A read is never the wrong choice.
        loop {
            let Some(step) = steps.pop() else { return false };
            let event = timeline.events[step.call];
            timeline.put_back(step.call);
            taken.flip(event.operation);
            unanswered += usize::from(event.answer.is_some());
            value = step.value_before;
            if !step.is_read {
                at = event.next;
                break;
            }
        }
    }
    true
}
