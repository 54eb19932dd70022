//! The log is crashed at every call, in every way that a disk can leave behind what was not synced.
//!
//! First with a housekeeper that works at once, then with slow ones: segments are named, prepared, prefilled and removed
//! while the log has long gone on.
//!
//! `WAL_CRASH_SCALE=N` takes subsets of N more unsynced sectors, so 2^N times as many images.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use raft_core::pb::{Entry, HardState};
use tests::fault_disk::{FaultDisk, Image, Moment, Pace};
use tests::random::Random;
use tests::wal_workload::{self, last_cannot_vanish, snapshot_data, Expected, Workload};

/// Up to this many unsynced things are combined in every way.
const ALL_BELOW: usize = 10;
/// The same with a slow housekeeper, whose images are many besides.
const ALL_BELOW_SLOW: usize = 4;
const TEAR_BYTES_SLOW: usize = 128;
const TEAR_BYTES: usize = 16;

#[derive(Default, Debug)]
struct Count {
    moments: usize,
    images: usize,
    distinct: usize,
    torn: usize,
    in_flight_kept: usize,
    recoveries_crashed: usize,
    /// With a slow housekeeper: images that no quick one leaves.
    slow: usize,
}

/// Opens what a crash left, checks it against what had been acknowledged, and goes on with it.
fn check(workload: &Workload, moment: &Moment, image: &Image, count: &mut Count, deep: bool) {
    let context = || format!("{} at call {} after {} steps", workload.name, moment.call, moment.progress);
    let disk = FaultDisk::with_image(image);
    if deep {
        disk.record();
    }
    let (mut log, recovered, snapshots) =
        workload.open(&disk).unwrap_or_else(|error| panic!("{}: a crash is no damage: {error}", context()));
    let found = Expected::of(&recovered);
    let steps = workload
        .explain(&found, moment.progress)
        .unwrap_or_else(|| panic!("{}: lost or invented, found {:?}", context(), found.end()));
    count.torn += usize::from(recovered.torn.is_some());
    count.in_flight_kept += usize::from(steps > moment.progress);
    if let Some(newest) = recovered.snapshots.last() {
        let loaded = snapshots.load_newest(&recovered.snapshots).expect("snapshots can be read");
        let loaded = loaded.unwrap_or_else(|| panic!("{}: the recorded snapshot has no file", context()));
        assert_eq!(&loaded.metadata, newest, "{}", context());
        assert!(loaded.data == snapshot_data(newest.index), "{}", context());
        assert!(recovered.first_index <= newest.index + 1, "{}", context());
    } else {
        assert!(!recovered.needs_snapshot(), "{}", context());
    }
    if !deep {
        // What was lost comes once more.
        if recovered.torn.is_some() && count.torn % 8 == 0 {
            workload.redo(&disk, (log, snapshots), steps).unwrap_or_else(|what| panic!("{}: {what}", context()));
        }
        return;
    }
    last_cannot_vanish(image, &context());
    last_cannot_vanish(&disk.image(), &context());
    // A second crash, while the first one is being recovered from, must end in the same place.
    for again in disk.take_moments() {
        count.recoveries_crashed += 1;
        again.images(3, 256, &mut Random::new(9), |image| {
            let (_, recovered, _) =
                workload.open(&FaultDisk::with_image(&image)).expect("a crash in recovery is no damage");
            assert_eq!(Expected::of(&recovered), found, "{}: a crash in recovery", context());
        });
    }
    // The log can be used as if nothing had been.
    let (last, state) = found.end();
    let state = HardState { term: state.term + 1, vote: 2, commit: state.commit };
    let entry = Entry { term: state.term, index: last + 1, ..Entry::normal("after the crash") };
    log.save(Some(&state), std::slice::from_ref(&entry)).expect("the log goes on");
    drop(log);
    let (_, recovered, _) = workload.open(&disk.after_power_failure()).expect("and can be opened again");
    assert_eq!((recovered.hard_state, recovered.torn.as_ref()), (state, None));
    assert_eq!(recovered.entries(last).expect("what follows"), [entry]);
}

/// Checks an image, deeply now and then. The same one after the same acknowledgements needs no second look.
fn look_at(workload: &Workload, moment: &Moment, image: &Image, seen: &mut HashSet<u64>, count: &mut Count) {
    count.images += 1;
    let mut hasher = DefaultHasher::new();
    (image, moment.progress).hash(&mut hasher);
    if seen.insert(hasher.finish()) {
        count.distinct += 1;
        let deep = count.distinct % 80 == 1;
        check(workload, moment, image, count, deep);
    }
}

/// The moments of a whole run.
fn moments(workload: &Workload, pace: Pace) -> Vec<Moment> {
    let disk = FaultDisk::new();
    disk.set_pace(pace);
    disk.record();
    let (steps, error) = workload.run(&disk);
    assert!(error.is_none() && steps == workload.steps.len(), "the workload itself: {error:?}");
    disk.take_moments()
}

fn crash_everywhere(workload: &Workload) -> Count {
    let scale = std::env::var("WAL_CRASH_SCALE").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut random = Random::new(7);
    let mut count = Count::default();
    let mut seen = HashSet::new();
    for pace in [Pace::AtOnce, Pace::WhenNeeded, Pace::ByChance(Random::new(1)), Pace::ByChance(Random::new(2))] {
        let slow = !matches!(pace, Pace::AtOnce);
        let (all_below, tear_bytes) = if slow { (ALL_BELOW_SLOW, TEAR_BYTES_SLOW) } else { (ALL_BELOW, TEAR_BYTES) };
        let before = count.distinct;
        for moment in moments(workload, pace) {
            count.moments += 1;
            moment.images(all_below + scale, tear_bytes, &mut random, |image| {
                look_at(workload, &moment, &image, &mut seen, &mut count);
            });
        }
        if slow {
            count.slow += count.distinct - before;
        }
    }
    println!("wal crashes {}: 0 panics, 0 lost, 0 invented in {count:?}", workload.name);
    assert!(count.torn > 0 && count.in_flight_kept > 0 && count.recoveries_crashed > 0 && count.slow > 0, "{count:?}");
    count
}

/// How many crashed logs of each workload have a second life, and how long it is.
const SECOND_LIVES: usize = 8;
const SECOND_LIFE_STEPS: usize = 5;

/// The second life of a log whose first one ended in the midst of a batch: it goes on in the next segment at once, out of
/// one that is closed early, and is crashed at every call from its opening on.
#[test]
fn a_second_life_behind_a_torn_end_survives_a_crash_anywhere() {
    let (mut lives, mut rotated, mut count) = (0, 0, Count::default());
    for workload in wal_workload::all() {
        let first = moments(&workload, Pace::AtOnce);
        let mut from = 0;
        for life in 0..SECOND_LIVES {
            from = from.max(life * first.len() / SECOND_LIVES);
            let Some((image, steps)) = workload.torn_crash(&first, from) else { break };
            lives += 1;
            let newest = |image: &Image| image.keys().rfind(|name| name.ends_with(".wal")).cloned();
            for pace in [Pace::AtOnce, Pace::WhenNeeded] {
                let disk = FaultDisk::with_image(&image);
                disk.set_pace(pace);
                disk.record();
                let (_, error) = workload.go_on(&disk, steps, steps + SECOND_LIFE_STEPS);
                assert!(error.is_none(), "{}: {error:?}", workload.name);
                rotated += usize::from(newest(&disk.image()) > newest(&image));
                let mut seen = HashSet::new();
                for moment in disk.take_moments() {
                    count.moments += 1;
                    moment.images(ALL_BELOW_SLOW, TEAR_BYTES_SLOW, &mut Random::new(3), |image| {
                        look_at(&workload, &moment, &image, &mut seen, &mut count);
                    });
                }
            }
        }
    }
    println!("wal crashes in {lives} second lives: 0 panics, 0 lost, 0 invented in {count:?}");
    assert!(lives >= 20 && rotated >= lives && count.torn > 0 && count.recoveries_crashed > 0, "{lives} {rotated}");
}

#[test]
fn every_workload_survives_a_crash_anywhere() {
    let workloads = wal_workload::all();
    assert!(workloads.len() >= 3);
    let counts: Vec<Count> = std::thread::scope(|scope| {
        let running: Vec<_> =
            workloads.iter().map(|workload| scope.spawn(move || crash_everywhere(workload))).collect();
        running.into_iter().map(|thread| thread.join().expect("a workload that survives")).collect()
    });
    let sum = |part: fn(&Count) -> usize| counts.iter().map(part).sum::<usize>();
    let (images, distinct) = (sum(|count| count.images), sum(|count| count.distinct));
    println!(
        "wal crashes: {} workloads, {} crash points, {images} images, {distinct} of them different and checked ({} \
         only with a slow housekeeper), {} crashes in recovery: 0 panics, 0 lost, 0 invented",
        counts.len(),
        sum(|count| count.moments),
        sum(|count| count.slow),
        sum(|count| count.recoveries_crashed)
    );
    assert!(distinct >= 100_000, "{distinct} different images");
}
