//! Small logs of every shape, damaged in every way that a disk can: recovery finds everything that was acknowledged, or
//! names damage.
//!
//! 500 000 damaged images are tried, chosen by chance over all that there are, and some pairs of damages, in one file or in
//! two; `WAL_MUTATION_IMAGES=5000000` tries every single damage, and more pairs:
//!
//! ```text
//! WAL_MUTATION_IMAGES=5000000 cargo test --release -p tests --test wal_mutations -- --nocapture
//! ```
//!
//! What no format can tell is counted apart, and held against the bytes themselves: acknowledged batches may be missing
//! only if *every* structure that the log ever wrote to say that they had been synced (each batch header and mark behind
//! the cut, and the watermark, with a claim that reaches beyond the cut) is itself no longer what was written. That
//! happens to the last synced group of a log that was cut off before its mark and its watermark were stored, and, with
//! two damages at once, where the one takes the watermark and the other a sector with batch, later headers and mark.
//! What is left then is byte for byte what a crash in the middle of that sync leaves, but for debris that proves nothing.
//!
//! Most images go through the judge alone. A sample of them goes through [`Wal::open`] as well, on a disk in memory: it
//! must say the same, and where it opens the log, the log must go on.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use raft_core::pb::{Entry, HardState};
use stats_alloc::{Region, StatsAlloc, INSTRUMENTED_SYSTEM};
use tests::fault_disk::{log_dir, FaultDisk, SECTOR_BYTES};
use tests::random::Random;
use tests::wal_workload::{self, Expected, Shape};
use wal::{recover_images, Image, Recovered, Wal, WalError};

#[global_allocator]
static GLOBAL: &StatsAlloc<std::alloc::System> = &INSTRUMENTED_SYSTEM;

/// One image in so many goes through `Wal::open` too.
const OPENED_ONE_IN: u64 = 20;
/// Of the images that are wanted, one in so many has two damages at least.
const PAIRS_ONE_IN: usize = 10;

/// One damage. Everything is in numbers, so that the n-th of all damages can be had without making the others.
#[derive(Clone, Copy, Debug)]
enum Mutation {
    Flip { bit: usize },
    Cut { len: usize },
    Zero { sector: usize },
    Duplicate { from: usize, to: usize },
    Swap { one: usize, other: usize },
    Older { sector: usize, version: usize },
}

/// All damages of one file, by number.
struct Catalogue {
    file: usize,
    len: usize,
    sectors: usize,
    older: Vec<(usize, usize)>,
}

impl Catalogue {
    fn of(shape: &Shape, file: usize) -> Self {
        let len = shape.files[file].bytes.len();
        let versions = shape.older[file].iter().enumerate();
        let older = versions.flat_map(|(sector, old)| (0..old.len()).map(move |version| (sector, version))).collect();
        Catalogue { file, len, sectors: len.div_ceil(SECTOR_BYTES), older }
    }

    fn count(&self) -> usize {
        self.len * 8 + self.len + self.sectors + 2 * self.sectors * self.sectors + self.older.len()
    }

    fn get(&self, mut number: usize) -> Mutation {
        let sectors = self.sectors;
        for (kind, count) in
            [self.len * 8, self.len, sectors, sectors * sectors, sectors * sectors].into_iter().enumerate()
        {
            if number < count {
                return match kind {
                    0 => Mutation::Flip { bit: number },
                    1 => Mutation::Cut { len: number },
                    2 => Mutation::Zero { sector: number },
                    3 => Mutation::Duplicate { from: number / sectors, to: number % sectors },
                    _ => Mutation::Swap { one: number / sectors, other: number % sectors },
                };
            }
            number -= count;
        }
        let (sector, version) = self.older[number];
        Mutation::Older { sector, version }
    }
}

/// Applies the damage; says whether it changes anything.
fn apply(bytes: &mut Vec<u8>, mutation: Mutation, older: &[Vec<Vec<u8>>]) -> bool {
    let sector = |number: usize| number * SECTOR_BYTES..(number + 1) * SECTOR_BYTES;
    match mutation {
        Mutation::Flip { bit } => {
            bytes[bit / 8] ^= 1 << (bit % 8);
            true
        }
        Mutation::Cut { len } => {
            bytes.truncate(len);
            true
        }
        Mutation::Zero { sector: number } => {
            let place = &mut bytes[sector(number)];
            let changed = place.iter().any(|byte| *byte != 0);
            place.fill(0);
            changed
        }
        Mutation::Duplicate { from, to } => {
            let changed = bytes[sector(from)] != bytes[sector(to)];
            bytes.copy_within(sector(from), to * SECTOR_BYTES);
            changed
        }
        Mutation::Swap { one, other } => {
            let changed = bytes[sector(one)] != bytes[sector(other)];
            let kept = bytes[sector(one)].to_vec();
            bytes.copy_within(sector(other), one * SECTOR_BYTES);
            bytes[sector(other)].copy_from_slice(&kept);
            changed
        }
        Mutation::Older { sector: number, version } => {
            bytes[sector(number)].copy_from_slice(&older[number][version]);
            true
        }
    }
}

/// Something that the undamaged log says about what had been synced.
#[derive(Debug)]
struct Claim {
    at: usize,
    synced_before: u64,
}

const CLAIM_BYTES: usize = 40;

/// All claims of a segment: batch headers, marks, the watermark. Found by their magic, not by the code under test.
fn claims(bytes: &[u8]) -> Vec<Claim> {
    let places = (0..bytes.len().saturating_sub(CLAIM_BYTES)).step_by(8);
    let found = places.filter(|at| bytes[*at..].starts_with(b"BTCH"));
    let number = |at: usize| bytes[at..at + 8].try_into().map_or(0, u64::from_le_bytes);
    found.map(|at| Claim { at, synced_before: number(at + 8) }).collect()
}

/// The first claim that was not damaged and says that something at or behind the cut had been synced.
fn evidence(before: &[u8], now: &[u8], cut: usize) -> Option<Claim> {
    claims(before).into_iter().find(|claim| {
        let place = claim.at..claim.at + CLAIM_BYTES;
        let reaches = claim.synced_before > cut as u64 && (claim.at >= cut || claim.at == SECTOR_BYTES);
        reaches && now.get(place.clone()) == before.get(place)
    })
}

/// The same over the file of the cut and all behind it, none of which is part of the log any more.
fn evidence_behind(shape: &Shape, images: &[Image], (file, cut): (usize, usize)) -> Option<Claim> {
    let files = shape.files.iter().zip(images).enumerate().skip(file);
    files.filter_map(|(at, (before, now))| evidence(&before.bytes, &now.bytes, if at == file { cut } else { 0 })).next()
}

/// Where the log was cut: the file, and the offset.
fn cut_of(recovered: &Recovered, shape: &Shape, images: &[Image]) -> (usize, usize) {
    let by_name = |name: &str| images.iter().position(|image| image.name == name);
    let torn = recovered.torn.as_ref().and_then(|torn| {
        let file = by_name(torn.file.file_name()?.to_str()?)?;
        Some((file, usize::try_from(torn.offset).ok()?))
    });
    torn.unwrap_or_else(|| {
        // No debris: behind the last batch stand a mark, or zeros only. It ended where one of the claims stands or points.
        let used = |image: &Image| image.bytes.iter().rposition(|byte| *byte != 0);
        let file = images.iter().rposition(|image| used(image).is_some()).unwrap_or(0);
        let end = used(&images[file]).map_or(0, |last| last + 1);
        let claims = claims(&shape.files[file].bytes);
        let places = || claims.iter().flat_map(|claim| [claim.at, claim.synced_before as usize]);
        let is_mark = |at: usize| {
            let bytes = images[file].bytes.get(at..at + CLAIM_BYTES);
            bytes.is_some_and(|bytes| bytes.starts_with(b"BTCH") && bytes[16..24] == [0; 8])
        };
        let mark = places().find(|at| *at > SECTOR_BYTES && (*at..at + CLAIM_BYTES).contains(&end) && is_mark(*at));
        (file, mark.or(places().filter(|at| *at >= end).min()).unwrap_or(end))
    })
}

#[derive(Default, Debug)]
struct Count {
    images: usize,
    unchanged: usize,
    /// Everything acknowledged is there (the damage hit unused space, a mark, or what was never acknowledged).
    whole: usize,
    /// Refused, with a place.
    named: usize,
    /// Acknowledged batches are gone, and nothing in the image can say that they had been there. By one damage, by two.
    indistinguishable: usize,
    indistinguishable_pairs: usize,
    /// How many of the images have two damages, and how many of those in two files.
    pairs: usize,
    pairs_in_two_files: usize,
    /// How many went through `Wal::open` too, and how many of those it opened.
    opened: (usize, usize),
    /// The most memory that reading one image took beside the image, in lengths of the log.
    most_memory: f64,
}

fn check(shape: &Shape, images: &[Image], pair: bool, context: &dyn std::fmt::Debug, count: &mut Count) {
    let memory = Region::new(GLOBAL);
    let result = recover_images(Path::new("wal"), images);
    let used = memory.change();
    let log: usize = images.iter().map(|image| image.bytes.len()).sum();
    // All that was ever asked for, given back or not: more than was held at any time.
    let allocated = used.bytes_allocated + usize::try_from(used.bytes_reallocated).unwrap_or(0);
    count.most_memory = count.most_memory.max(allocated as f64 / log.max(SECTOR_BYTES) as f64);
    // With the image itself, no more than twice the log.
    assert!(allocated <= log.max(SECTOR_BYTES), "{}: {context:?}: {allocated} bytes for a log of {log}", shape.name);
    match result {
        Ok(recovered) => {
            let found = Expected::of(&recovered);
            let steps = (0..=shape.workload.steps.len()).rev().find(|steps| shape.workload.after(*steps) == &found);
            let Some(steps) = steps else { panic!("{}: {context:?} invented {:?}", shape.name, found.end()) };
            if steps >= shape.workload.certain(shape.done) {
                count.whole += 1;
                return;
            }
            let (file, cut) = cut_of(&recovered, shape, images);
            let proof = evidence_behind(shape, images, (file, cut));
            assert!(
                proof.is_none(),
                "{}: {context:?} lost acknowledged steps in silence: {steps} of {} are left, cut at {cut} in spite of {proof:?}",
                shape.name,
                shape.done
            );
            // One damage alone never takes more than the last group, and that only before its mark was stored.
            let last_group_of_a_log_without_mark = !shape.has_mark && steps >= shape.before_last_group();
            assert!(pair || last_group_of_a_log_without_mark, "{}: {context:?} left {steps}", shape.name);
            match pair {
                true => count.indistinguishable_pairs += 1,
                false => count.indistinguishable += 1,
            }
        }
        Err(WalError::Damaged { .. } | WalError::Missing { .. } | WalError::OtherVersion { .. }) => count.named += 1,
        Err(other) => panic!("{}: {context:?} is named {other}", shape.name),
    }
}

/// What the judge says of an image must be what opening the log comes to; and a log that opens goes on.
fn check_opened(shape: &Shape, images: &[Image], context: &dyn std::fmt::Debug, count: &mut Count) {
    let name = |image: &Image| format!("wal/{}", image.name);
    let disk = FaultDisk::with_image(&images.iter().map(|image| (name(image), image.bytes.to_vec())).collect());
    let open =
        |disk: &FaultDisk| Wal::open_on(Arc::new(disk.clone()), &log_dir(), shape.workload.options(), b"workload");
    let judged = recover_images(&log_dir(), images);
    count.opened.0 += 1;
    match (open(&disk), judged) {
        (Err(error), Err(judged)) => {
            assert_eq!(error.to_string(), judged.to_string(), "{}: {context:?}", shape.name);
            let kept = disk.image();
            assert!(images
                .iter()
                .all(|image| kept.get(&name(image)).is_some_and(|bytes| bytes[..] == image.bytes[..])));
        }
        (Ok((mut log, recovered)), Ok(judged)) => {
            assert_eq!(recovered, judged, "{}: {context:?}", shape.name);
            count.opened.1 += 1;
            let last = log.last_index();
            let old = recovered.hard_state;
            let state = HardState { term: old.term + 1, vote: 1, commit: old.commit };
            let next = Entry { term: state.term, index: last + 1, ..Entry::normal("goes on") };
            log.save(Some(&state), std::slice::from_ref(&next)).expect("a log that opens goes on");
            drop(log);
            let (_, again) = open(&disk.after_power_failure()).expect("and opens again");
            assert_eq!((again.hard_state, again.torn.as_ref()), (state, None), "{}: {context:?}", shape.name);
            assert_eq!(again.entries(last).expect("they follow"), [next], "{}: {context:?}", shape.name);
        }
        (opened, judged) => {
            panic!(
                "{}: {context:?}: opened {:?}, judged {judged:?}",
                shape.name,
                opened.map(|(_, recovered)| recovered)
            )
        }
    }
}

#[test]
fn no_damage_passes_and_no_acknowledged_record_is_lost() {
    let wanted: usize = std::env::var("WAL_MUTATION_IMAGES").ok().and_then(|text| text.parse().ok()).unwrap_or(500_000);
    let shapes = wal_workload::shapes();
    assert!(shapes.len() >= 8);
    let catalogues: Vec<(usize, Catalogue)> = shapes
        .iter()
        .enumerate()
        .flat_map(|(number, shape)| (0..shape.files.len()).map(move |file| (number, Catalogue::of(shape, file))))
        .collect();
    let singles: usize = catalogues.iter().map(|(_, catalogue)| catalogue.count()).sum();
    // By chance when there are too many: a stride would meet the same places of each structure again and again.
    let chosen = wanted - wanted / PAIRS_ONE_IN;
    let mut random = Random::new(21);
    let mut counts: Vec<Count> = shapes.iter().map(|_| Count::default()).collect();
    for (of, catalogue) in &catalogues {
        let shape = &shapes[*of];
        let mut images = shape.files.clone();
        for number in 0..catalogue.count() {
            if random.below(singles as u64) >= chosen as u64 {
                continue;
            }
            let mutation = catalogue.get(number);
            let mut bytes = shape.files[catalogue.file].bytes.to_vec();
            let changed = apply(&mut bytes, mutation, &shape.older[catalogue.file]);
            images[catalogue.file].bytes = Bytes::from(bytes);
            counts[*of].images += 1;
            counts[*of].unchanged += usize::from(!changed);
            let context = (catalogue.file, mutation);
            check(shape, &images, false, &context, &mut counts[*of]);
            if random.below(OPENED_ONE_IN) == 0 {
                check_opened(shape, &images, &context, &mut counts[*of]);
            }
        }
    }
    // Two damages at once: half of them in one file, half in any two of the log's files.
    let mut total: usize = counts.iter().map(|count| count.images).sum();
    while total < wanted {
        let any = |random: &mut Random| &catalogues[random.below(catalogues.len() as u64) as usize];
        let (of, one) = any(&mut random);
        let other = match random.below(2) {
            0 => one,
            _ => match any(&mut random) {
                (other_of, other) if other_of == of => other,
                _ => continue,
            },
        };
        let shape = &shapes[*of];
        let pick = |random: &mut Random, from: &Catalogue| from.get(random.below(from.count() as u64) as usize);
        let pair = [(one.file, pick(&mut random, one)), (other.file, pick(&mut random, other))];
        if pair.iter().any(|(_, mutation)| matches!(mutation, Mutation::Cut { .. })) {
            // What else is wrong with a file of the wrong length is of no interest.
            continue;
        }
        let mut images = shape.files.clone();
        for (file, mutation) in pair {
            let mut bytes = images[file].bytes.to_vec();
            apply(&mut bytes, mutation, &shape.older[file]);
            images[file].bytes = Bytes::from(bytes);
        }
        let count = &mut counts[*of];
        count.images += 1;
        count.pairs += 1;
        count.pairs_in_two_files += usize::from(one.file != other.file);
        check(shape, &images, true, &pair, count);
        if random.below(OPENED_ONE_IN) == 0 {
            check_opened(shape, &images, &pair, count);
        }
        total += 1;
    }
    for (shape, count) in shapes.iter().zip(&counts) {
        println!("wal mutations {}: {count:?}", shape.name);
        assert!(count.named > 0 && count.whole > 0, "{}: {count:?}", shape.name);
    }
    let sum = |part: fn(&Count) -> usize| counts.iter().map(part).sum::<usize>();
    println!(
        "wal mutations: {total} images of {} shapes ({} with one damage out of {singles} possible ones, {} with two, {} of \
         them in two files): 0 panics, 0 lost in silence; {} whole, {} named, {} indistinguishable by any format ({} by one \
         damage, {} by two); {} opened as logs too, {} of them went on",
        shapes.len(),
        total - sum(|count| count.pairs),
        sum(|count| count.pairs),
        sum(|count| count.pairs_in_two_files),
        sum(|count| count.whole),
        sum(|count| count.named),
        sum(|count| count.indistinguishable + count.indistinguishable_pairs),
        sum(|count| count.indistinguishable),
        sum(|count| count.indistinguishable_pairs),
        sum(|count| count.opened.0),
        sum(|count| count.opened.1),
    );
    assert!(total >= wanted && sum(|count| count.pairs_in_two_files) > 0 && sum(|count| count.opened.1) > 0);
}
