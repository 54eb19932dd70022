//! Small logs of every shape, damaged in every way that a disk can: recovery finds everything that was acknowledged, or
//! names damage.
//!
//! 500 000 damaged images are tried, spread evenly over all that there are; `WAL_MUTATION_IMAGES=5000000` tries more, and goes
//! on with pairs of damages when every single one has been tried:
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

use std::path::Path;

use bytes::Bytes;
use stats_alloc::{Region, StatsAlloc, INSTRUMENTED_SYSTEM};
use tests::fault_disk::SECTOR_BYTES;
use tests::random::Random;
use tests::wal_workload::{self, Expected, Shape};
use wal::{recover_images, Image, Recovered, WalError};

#[global_allocator]
static GLOBAL: &StatsAlloc<std::alloc::System> = &INSTRUMENTED_SYSTEM;

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
    /// How many of the images have two damages.
    pairs: usize,
    /// The most memory that reading one image took, in lengths of the log.
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
    assert!(
        allocated <= 2 * log.max(SECTOR_BYTES),
        "{}: {context:?}: {allocated} bytes for a log of {log}",
        shape.name
    );
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
            let proof = evidence(&shape.files[file].bytes, &images[file].bytes, cut);
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
    // Spread evenly when there are too many: with a step that the sizes of sectors and files have no part in.
    let step = if wanted >= singles { 1 } else { (singles / wanted).max(1) };
    let mut counts: Vec<Count> = shapes.iter().map(|_| Count::default()).collect();
    let mut number = 0;
    for (of, catalogue) in &catalogues {
        let shape = &shapes[*of];
        let mut images = shape.files.clone();
        while number < catalogue.count() {
            let mutation = catalogue.get(number);
            // Not a multiple of anything: within each stride another one is taken.
            number += if step == 1 { 1 } else { step - 1 + (number * 7919) % 3 };
            let mut bytes = shape.files[catalogue.file].bytes.to_vec();
            let changed = apply(&mut bytes, mutation, &shape.older[catalogue.file]);
            images[catalogue.file].bytes = Bytes::from(bytes);
            counts[*of].images += 1;
            counts[*of].unchanged += usize::from(!changed);
            check(shape, &images, false, &(catalogue.file, mutation), &mut counts[*of]);
        }
        number -= catalogue.count();
    }
    // Two damages at once, as many as are wanted beyond the single ones.
    let mut random = Random::new(21);
    let mut total: usize = counts.iter().map(|count| count.images).sum();
    while total < wanted {
        let (of, catalogue) = &catalogues[random.below(catalogues.len() as u64) as usize];
        let shape = &shapes[*of];
        let mut images = shape.files.clone();
        let mut bytes = shape.files[catalogue.file].bytes.to_vec();
        let pick = |random: &mut Random| catalogue.get(random.below(catalogue.count() as u64) as usize);
        let (one, other) = (pick(&mut random), pick(&mut random));
        if matches!(one, Mutation::Cut { .. }) || matches!(other, Mutation::Cut { .. }) {
            // What else is wrong with a file of the wrong length is of no interest.
            continue;
        }
        for mutation in [one, other] {
            apply(&mut bytes, mutation, &shape.older[catalogue.file]);
        }
        images[catalogue.file].bytes = Bytes::from(bytes);
        counts[*of].images += 1;
        counts[*of].pairs += 1;
        check(shape, &images, true, &(catalogue.file, one, other), &mut counts[*of]);
        total += 1;
    }
    for (shape, count) in shapes.iter().zip(&counts) {
        println!("wal mutations {}: {count:?}", shape.name);
        assert!(count.named > 0 && count.whole > 0, "{}: {count:?}", shape.name);
    }
    let sum = |part: fn(&Count) -> usize| counts.iter().map(part).sum::<usize>();
    println!(
        "wal mutations: {total} images of {} shapes ({} with one damage out of {singles} possible ones, {} with two): 0 panics, 0 \
         lost in silence; {} whole, {} named, {} indistinguishable by any format ({} by one damage, {} by two)",
        shapes.len(),
        total - sum(|count| count.pairs),
        sum(|count| count.pairs),
        sum(|count| count.whole),
        sum(|count| count.named),
        sum(|count| count.indistinguishable + count.indistinguishable_pairs),
        sum(|count| count.indistinguishable),
        sum(|count| count.indistinguishable_pairs),
    );
    assert!(total >= wanted.min(singles) * 9 / 10);
}
