//! What is left of an impossible history when everything is taken away that it is impossible without.
//!
//! Only such things are taken away without which a possible history stays possible; otherwise the rest might be impossible
//! for want of what was taken (a read of a value whose write is gone). These are: a read; a value, that is its write with
//! all of its reads; a delete, when no read has found nothing.

use std::collections::BTreeSet;

use super::{Action, Operation};

/// Takes away as long as `is_possible` says no to the rest; `operations` are impossible and on one key. Returns them in
/// the order of their calls.
pub fn shrink(operations: Vec<Operation>, is_possible: impl Fn(&[Operation]) -> bool) -> Vec<Operation> {
    let mut kept = operations;
    kept.sort_by_key(|operation| (operation.called_ns, operation.answered_ns));
    loop {
        let count = kept.len();
        let values: BTreeSet<u64> = kept.iter().filter_map(|operation| value_of(operation.action)).collect();
        for value in values {
            take_away(&mut kept, &is_possible, |_, operation| value_of(operation.action) == Some(value));
        }
        // In pieces first: most of a long history has nothing to do with it.
        let mut piece = kept.len().div_ceil(2);
        while piece > 0 {
            let mut begin = 0;
            while begin < kept.len() {
                let before = kept.len();
                take_away(&mut kept, &is_possible, |at, operation| {
                    (begin..begin + piece).contains(&at) && matches!(operation.action, Action::Get(_))
                });
                // What followed has moved up.
                begin += piece - (before - kept.len());
            }
            piece /= 2;
        }
        if !kept.iter().any(|operation| operation.action == Action::Get(None)) {
            while take_away_first_delete(&mut kept, &is_possible) {}
        }
        if kept.len() == count {
            return kept;
        }
    }
}

fn value_of(action: Action) -> Option<u64> {
    match action {
        Action::Put(value) | Action::Get(Some(value)) => Some(value),
        Action::Delete | Action::Get(None) => None,
    }
}

/// Takes these away if the rest is still impossible.
fn take_away(
    kept: &mut Vec<Operation>,
    is_possible: impl Fn(&[Operation]) -> bool,
    chosen: impl Fn(usize, &Operation) -> bool,
) -> bool {
    let mut at = 0..;
    let rest: Vec<Operation> =
        kept.iter().filter(|operation| at.next().is_some_and(|at| !chosen(at, operation))).cloned().collect();
    let shrinks = rest.len() < kept.len() && !is_possible(&rest);
    if shrinks {
        *kept = rest;
    }
    shrinks
}

fn take_away_first_delete(kept: &mut Vec<Operation>, is_possible: impl Fn(&[Operation]) -> bool) -> bool {
    (0..kept.len()).any(|at| kept[at].action == Action::Delete && take_away(kept, &is_possible, |other, _| other == at))
}
