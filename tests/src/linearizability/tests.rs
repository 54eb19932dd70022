use proptest::prelude::*;

use super::*;

/// A history on one key in the notation of files, without key and client.
fn history(lines: &[&str]) -> Vec<Operation> {
    let text: Vec<String> = (0..).zip(lines).map(|(client, line): (u32, _)| format!("{client} k {line}\n")).collect();
    text::read(&text.concat()).expect("it is a history")
}

#[track_caller]
fn good(lines: &[&str]) {
    assert_eq!(check(&history(lines)), Ok(()));
}

/// Is rejected, and this much of it is the reason.
#[track_caller]
fn bad(lines: &[&str], reason: &[&str]) {
    let violation = check(&history(lines)).expect_err("it is impossible");
    let found: Vec<String> = violation.contradiction.iter().map(|operation| operation.action.to_string()).collect();
    assert_eq!(found, reason, "\n{violation}");
    assert!(violation.to_string().lines().count() == reason.len() + 2, "\n{violation}");
}

#[test]
fn what_one_machine_could_have_said_is_accepted() {
    good(&[]);
    good(&["1 2 get -", "3 4 put 1", "5 6 get 1", "7 8 delete", "9 10 get -"]);
    // Overlapping writes in either order.
    good(&["1 10 put 1", "2 9 put 2", "11 12 get 1", "13 14 get 1"]);
    good(&["1 10 put 1", "2 9 put 2", "11 12 get 2"]);
    // A read during a write finds either, and so do two reads that overlap.
    good(&["1 2 put 1", "3 10 put 2", "4 9 get 2", "4 8 get 1"]);
    // Called at the moment of the answer counts as overlapping.
    good(&["1 2 put 1", "2 3 get -"]);
}

#[test]
fn a_write_of_unknown_outcome_may_have_been_done_at_any_time_or_never() {
    good(&["1 ? put 1", "2 3 get -", "4 5 get -"]);
    good(&["1 ? put 1", "2 3 get 1"]);
    good(&["1 ? put 1", "2 3 get -", "4 5 put 2", "6 7 get 2", "8 9 get 1", "10 11 get 1"]);
    good(&["1 2 put 1", "3 ? delete", "4 5 get 1", "6 7 get -", "8 9 put 2", "10 11 get 2"]);
    good(&["1 2 put 1", "3 ? delete", "3 ? delete", "4 5 get -", "6 7 put 2", "8 9 get 2", "10 11 get -"]);
}

#[test]
fn a_stale_read_is_rejected() {
    bad(
        &["1 2 put 1", "3 4 get 1", "5 6 put 2", "7 8 get 2", "9 10 get 1", "11 12 get 2"],
        &["put 1", "put 2", "get 1"],
    );
    bad(&["1 2 put 1", "3 4 get -"], &["put 1", "get -"]);
    // Two reads that do not overlap, during one write: the second may not go back.
    bad(&["1 2 put 1", "3 10 put 2", "4 5 get 2", "6 7 get 1"], &["put 1", "put 2", "get 2", "get 1"]);
}

#[test]
fn a_lost_write_is_rejected() {
    bad(&["1 2 put 1", "3 4 put 2", "5 6 get 1", "7 8 get 1"], &["put 1", "put 2", "get 1"]);
    bad(&["1 2 put 1", "3 4 delete", "5 6 get 1"], &["put 1", "delete", "get 1"]);
}

#[test]
fn a_write_that_was_done_twice_is_rejected() {
    bad(&["1 2 put 1", "3 4 put 2", "5 6 get 2", "7 8 get 1"], &["put 1", "put 2", "get 1"]);
    // Also when nobody knows when the first time was.
    bad(&["1 ? put 1", "2 3 get 1", "4 5 put 2", "6 7 get 2", "8 9 get 1"], &["put 1", "get 1", "put 2", "get 1"]);
    bad(
        &["1 2 put 1", "3 ? delete", "4 5 get -", "6 7 put 2", "8 9 get 2", "10 11 get -"],
        &["put 1", "delete", "get -", "put 2", "get -"],
    );
}

#[test]
fn writes_that_were_reordered_are_rejected() {
    bad(&["1 2 put 1", "3 4 put 2", "3 20 put 3", "5 6 get 1"], &["put 1", "put 2", "get 1"]);
    // Two readers who disagree about the order of two writes.
    bad(
        &["1 20 put 1", "1 20 put 2", "2 3 get 1", "4 5 get 2", "6 7 get 1"],
        &["put 1", "put 2", "get 1", "get 2", "get 1"],
    );
}

#[test]
fn a_write_that_was_seen_may_not_be_unseen() {
    bad(&["1 ? put 1", "2 3 get 1", "4 5 get -"], &["put 1", "get 1", "get -"]);
    bad(&["1 2 put 1", "3 ? put 2", "4 5 get 2", "6 7 get 1"], &["put 1", "put 2", "get 2", "get 1"]);
}

#[test]
fn a_value_that_nobody_wrote_or_that_was_read_before_it_was_written_is_rejected() {
    // For instance one whose write was refused, and therefore is not in the history.
    bad(&["1 2 put 1", "3 4 get 7"], &["get 7"]);
    bad(&["1 2 get 1", "3 ? put 1"], &["get 1", "put 1"]);
    bad(&["1 2 get 1", "3 4 put 1"], &["get 1", "put 1"]);
}

#[test]
fn keys_are_judged_apart() {
    let text = "0 a 1 2 put 1\n0 b 3 4 put 1\n0 a 5 6 get 1\n0 b 7 8 get 1\n";
    assert_eq!(check(&text::read(text).expect("a history")), Ok(()));
    let text = format!("{text}0 a 9 10 get -\n");
    let violation = check(&text::read(&text).expect("a history")).expect_err("a lost its value");
    assert!(violation.contradiction.iter().all(|operation| operation.key == "a"));
}

#[test]
fn a_contradiction_is_drawn() {
    let violation = check(&history(&["1000000 2000000 put 1", "3000000 ? put 2", "4000000 5000000 get -"]));
    let expected = "\
not linearizable: no order explains these 2 operations on k
 client      called ms    answered ms  action                   when
      0       1.000000       2.000000  put 1                    |-|
      2       4.000000       5.000000  get -                        |-|
";
    assert_eq!(violation.expect_err("it is impossible").to_string(), expected);
}

#[test]
fn files_are_read_as_they_were_written_and_nonsense_is_refused() {
    let all = history(&["1 2 put 1", "3 ? delete", "4 4 get -", "5 6 get 18446744073709551615"]);
    assert_eq!(text::read(&text::write(&all, "two\nlines")), Ok(all));
    for nonsense in ["0 k 2 1 put 1", "0 k 1 2 put", "0 k 1 ? get 1", "0 k 1 2 frob", "0 k 1", "x k 1 2 delete"] {
        assert!(text::read(nonsense).is_err_and(|error| error.contains(nonsense)), "{nonsense}");
    }
}

/// Every order, one after the other: too slow for anything but a handful of operations, and too simple to be wrong.
fn some_order_explains(operations: &[Operation], value: Option<u64>) -> bool {
    if operations.iter().all(|operation| operation.answered_ns.is_none()) {
        return true;
    }
    (0..operations.len()).any(|at| {
        let mut rest = operations.to_vec();
        let next = rest.remove(at);
        let after = match next.action {
            Action::Put(written) => Some(written),
            Action::Delete => None,
            Action::Get(found) if found == value => value,
            Action::Get(_) => return false,
        };
        !rest.iter().any(|other| other.precedes(&next)) && some_order_explains(&rest, after)
    })
}

fn operation(values: u64, times: u64) -> impl Strategy<Value = Operation> {
    let action = prop_oneof![
        (0..values).prop_map(Action::Put),
        Just(Action::Delete),
        Just(Action::Get(None)),
        (0..values).prop_map(|value| Action::Get(Some(value))),
        (0..values).prop_map(|value| Action::Get(Some(value))),
    ];
    (action, 0..times, 0..times, prop::bool::weighted(0.2)).prop_map(|(action, one, other, unknown)| {
        let unknown = unknown && !matches!(action, Action::Get(_));
        let answered_ns = (!unknown).then_some(one.max(other));
        Operation { client: 0, key: "k".into(), called_ns: one.min(other), answered_ns, action }
    })
}

/// What a register did, one operation after the other, and what its clients saw of that.
fn sequential_history() -> impl Strategy<Value = Vec<Operation>> {
    let step = (0..10_u32, 0..400_u64, 0..400_u64, prop::bool::weighted(0.1));
    prop::collection::vec(step, 0..150).prop_map(|steps| {
        let mut value = None;
        let mut seen = Vec::new();
        for (number, (kind, early, late, unknown)) in (0..).zip(steps) {
            let done_at = 1_000 + 50 * number;
            let (action, changes) = match kind {
                0..=3 => (Action::Put(number), true),
                4 => (Action::Delete, true),
                // Never done, and nobody was told.
                5 => (Action::Put(number), false),
                _ => (Action::Get(value), false),
            };
            if changes {
                value = if let Action::Put(written) = action { Some(written) } else { None };
            }
            let is_read = matches!(action, Action::Get(_));
            let known = is_read || (changes && !unknown);
            let answered_ns = known.then_some(done_at + late);
            seen.push(Operation { client: 0, key: "k".into(), called_ns: done_at - early, answered_ns, action });
        }
        seen
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn what_a_register_did_is_always_accepted(history in sequential_history()) {
        prop_assert_eq!(check(&history), Ok(()));
    }

    #[test]
    fn a_read_that_is_changed_is_judged_as_by_trying_every_order(
        history in sequential_history(),
        at in any::<prop::sample::Index>(),
        found in prop::option::of(0..7_u64),
    ) {
        let mut history: Vec<Operation> = history.into_iter().take(7).collect();
        if !history.is_empty() {
            let at = at.index(history.len());
            let answered_ns = Some(history[at].answered_ns.unwrap_or(2_000));
            history[at] = Operation { action: Action::Get(found), answered_ns, ..history[at].clone() };
        }
        prop_assert_eq!(check(&history).is_ok(), some_order_explains(&history, None));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    /// Few values, so that some are written twice, and few moments, so that many coincide.
    #[test]
    fn any_handful_of_operations_is_judged_as_by_trying_every_order(
        history in prop::collection::vec(operation(3, 12), 0..7),
    ) {
        match check(&history) {
            Ok(()) => prop_assert!(some_order_explains(&history, None)),
            Err(violation) => {
                prop_assert!(!some_order_explains(&history, None));
                prop_assert!(!some_order_explains(&violation.contradiction, None), "{}", violation);
            }
        }
    }
}
