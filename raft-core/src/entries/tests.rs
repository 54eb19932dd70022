use proptest::prelude::*;

use super::*;

fn entry(term: u64, index: u64) -> Entry {
    Entry { term, index, ..Entry::normal(vec![7; (index % 5) as usize]) }
}

fn entries(term: u64, first: u64, count: usize) -> Entries {
    (first..).take(count).map(|index| entry(term, index)).collect()
}

/// Whether both are the same memory.
fn share(one: &Entries, other: &Entries) -> bool {
    std::ptr::eq(one.as_slice(), other.as_slice())
}

#[test]
fn changing_shared_entries_leaves_the_others_alone() {
    let original = entries(1, 1, 3);
    let mut changed = original.clone();
    assert!(share(&original, &changed));
    changed.pop();
    changed[0].term = 9;
    assert_eq!((original.len(), original[0].term), (3, 1));
    assert_eq!((changed.len(), changed[0].term), (2, 9));
    let memory = changed.as_ptr();
    changed[0].term = 8;
    assert_eq!(changed.as_ptr(), memory, "nobody else holds it: no copy");
    assert_eq!(original, original.clone().into_vec());
}

#[test]
fn no_entries_take_no_memory() {
    for none in
        [Entries::new(), Vec::with_capacity(10).into(), Entries::from_iter([]), entries(1, 5, 2).split_off(2).into()]
    {
        assert!(none.0.is_none());
        assert_eq!(none.into_vec().capacity(), 0);
    }
    let mut grown = Entries::new();
    grown.push(entry(1, 1));
    assert_eq!(grown, [entry(1, 1)]);
    grown.clear();
    assert_eq!(grown, Entries::new(), "equal is what reads equally");
}

#[test]
fn whole_runs_are_shared_and_other_ranges_copied() {
    let (first, second) = (entries(1, 5, 3), entries(1, 8, 2));
    let mut runs = Runs::starting_at(5);
    runs.push(first.clone());
    runs.push(second.clone());
    assert!(share(&runs.slice(5, 8, u64::MAX), &first) && share(&runs.slice(8, 10, u64::MAX), &second));
    assert!(share(&runs.slice(8, 10, 1 << 20), &second), "a limit that is not reached changes nothing");
    assert_eq!(runs.slice(6, 9, u64::MAX), entries(1, 6, 3));
    let joined = runs.join_from(5);
    assert_eq!(joined, entries(1, 5, 5));
    assert!(share(&runs.slice(5, 10, u64::MAX), &joined), "whoever reads it later shares it");
    assert!(share(&runs.join_from(5), &joined), "one run is not joined again");
}

#[test]
fn a_long_run_is_freed_in_parts() {
    let mut runs = Runs::starting_at(1);
    runs.push(entries(1, 1, 2 * LONGEST_RUN + 1));
    assert_eq!((runs.runs.len(), runs.len()), (3, 2 * LONGEST_RUN + 1));
    runs.release(LONGEST_RUN as u64);
    assert_eq!(runs.runs.len(), 3);
    runs.release(LONGEST_RUN as u64 + 1);
    assert_eq!((runs.runs.len(), runs.len()), (2, LONGEST_RUN + 1));
}

#[test]
fn a_bursts_memory_is_given_back() {
    let mut runs = Runs::starting_at(1);
    for (count, expected) in [(5000, 0..=0), (10, 10..=KEPT_CAPACITY)] {
        let end = runs.end() + count;
        (runs.end()..end).for_each(|index| runs.push(entries(1, index, 1)));
        runs.release(end);
        assert!(expected.contains(&runs.runs.capacity()), "{count}: {}", runs.runs.capacity());
    }
}

#[derive(Clone, Debug)]
enum Step {
    Push { count: usize },
    Truncate { back: u64 },
    Release { forth: u64 },
    Join { back: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0usize..6).prop_map(|count| Step::Push { count }),
        2 => (0u64..8).prop_map(|back| Step::Truncate { back }),
        2 => (0u64..8).prop_map(|forth| Step::Release { forth }),
        1 => (0u64..12).prop_map(|back| Step::Join { back }),
    ]
}

proptest! {
    #[test]
    fn runs_are_a_list(steps in prop::collection::vec(step(), 0..40), limit in 0u64..200) {
        let mut start = 10;
        let mut runs = Runs::starting_at(start);
        let mut model: Vec<Entry> = Vec::new();
        for (term, step) in (1..).zip(steps) {
            let end = start + model.len() as u64;
            match step {
                Step::Push { count } => {
                    runs.push(entries(term, end, count));
                    model.extend(entries(term, end, count));
                }
                Step::Truncate { back } => {
                    let end = end.saturating_sub(back).max(start);
                    runs.truncate(end);
                    model.truncate((end - start) as usize);
                }
                Step::Release { forth } => {
                    let next = (start + forth).min(end);
                    runs.release(next);
                    model.drain(..(next - start) as usize);
                    start = next;
                }
                Step::Join { back } => {
                    let from = end.saturating_sub(back).max(start);
                    prop_assert_eq!(runs.join_from(from), model[(from - start) as usize..].to_vec());
                }
            }
            let end = start + model.len() as u64;
            prop_assert_eq!((runs.start(), runs.end(), runs.len(), runs.is_empty()), (start, end, model.len(), model.is_empty()));
            prop_assert_eq!(&runs.to_vec(), &model);
            for low in start - 1..=end + 1 {
                prop_assert_eq!(runs.get(low), low.checked_sub(start).and_then(|position| model.get(position as usize)));
                for high in low..=end + 1 {
                    let (from, to) = (low.max(start), high.min(end));
                    let expected = if from < to { &model[(from - start) as usize..(to - start) as usize] } else { &[] };
                    prop_assert_eq!(runs.slice(low, high, u64::MAX), expected.to_vec());
                    let count = crate::storage::count_within(expected.iter(), limit);
                    prop_assert_eq!(runs.slice(low, high, limit), expected[..count].to_vec());
                }
            }
        }
    }
}
