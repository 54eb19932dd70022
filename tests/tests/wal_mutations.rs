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
//! What no format can tell is counted apart: the last group of batches that a sync acknowledged, in a log that was cut
//! off before the mark behind it and the watermark were stored, or damaged together with both of them.

use std::path::Path;

use bytes::Bytes;
use tests::fault_disk::SECTOR_BYTES;
use tests::random::Random;
use tests::wal_workload::{self, Expected, Shape};
use wal::{recover_images, Image, WalError};

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

/// Whether the bytes at these places are not what they were.
fn all_differ(bytes: &[u8], before: &[u8], places: &[usize]) -> bool {
    let at = |bytes: &[u8], place: usize| bytes.get(place..place + 40).map(<[u8]>::to_vec);
    places.iter().all(|place| at(bytes, *place) != at(before, *place))
}

#[derive(Default, Debug)]
struct Count {
    images: usize,
    unchanged: usize,
    /// Everything acknowledged is there (the damage hit unused space, a mark, or what was never acknowledged).
    whole: usize,
    /// Refused, with a place.
    named: usize,
    /// The last synced group is gone, and nothing in the image can say that it had been there.
    indistinguishable: usize,
    /// The same, with a damage to two places.
    pairs: usize,
}

/// Where the mark behind the last batch and the watermark stand: in the last file that has been written to.
fn proofs(shape: &Shape) -> (usize, [usize; 2]) {
    let used = |file: &Image| file.bytes.iter().any(|byte| *byte != 0);
    let file = shape.files.iter().rposition(used).expect("a file that was written to");
    let at = shape.files[file].bytes.windows(4).rposition(|window| window == b"BTCH").expect("a batch");
    (file, [at, SECTOR_BYTES])
}

fn check(
    shape: &Shape,
    images: &[Image],
    (proofs_hit, pair): (bool, bool),
    context: &dyn std::fmt::Debug,
    count: &mut Count,
) {
    match recover_images(Path::new("wal"), images) {
        Ok(recovered) => {
            let found = Expected::of(&recovered);
            let steps = (0..=shape.workload.steps.len()).rev().find(|steps| shape.workload.after(*steps) == &found);
            let Some(steps) = steps else { panic!("{}: {context:?} invented {:?}", shape.name, found.end()) };
            if steps >= shape.workload.certain(shape.done) {
                count.whole += 1;
                return;
            }
            let last_group_only = steps >= shape.before_last_group();
            assert!(
                // With every proof damaged besides, a sector takes down whatever batches it holds.
                (last_group_only && (proofs_hit || !shape.has_mark)) || (pair && proofs_hit),
                "{}: {context:?} lost acknowledged steps in silence: {steps} of {} are left",
                shape.name,
                shape.done
            );
            count.indistinguishable += 1;
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
        let (mark_file, places) = proofs(shape);
        let mut images = shape.files.clone();
        while number < catalogue.count() {
            let mutation = catalogue.get(number);
            // Not a multiple of anything: within each stride another one is taken.
            number += if step == 1 { 1 } else { step - 1 + (number * 7919) % 3 };
            let mut bytes = shape.files[catalogue.file].bytes.to_vec();
            let changed = apply(&mut bytes, mutation, &shape.older[catalogue.file]);
            let hit = catalogue.file == mark_file && all_differ(&bytes, &shape.files[mark_file].bytes, &places);
            images[catalogue.file].bytes = Bytes::from(bytes);
            counts[*of].images += 1;
            counts[*of].unchanged += usize::from(!changed);
            check(shape, &images, (hit, false), &(catalogue.file, mutation), &mut counts[*of]);
        }
        number -= catalogue.count();
    }
    // Two damages at once, as many as are wanted beyond the single ones.
    let mut random = Random::new(21);
    let mut total: usize = counts.iter().map(|count| count.images).sum();
    while total < wanted {
        let (of, catalogue) = &catalogues[random.below(catalogues.len() as u64) as usize];
        let shape = &shapes[*of];
        let (mark_file, places) = proofs(shape);
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
        let hit = catalogue.file == mark_file && all_differ(&bytes, &shape.files[mark_file].bytes, &places);
        images[catalogue.file].bytes = Bytes::from(bytes);
        counts[*of].images += 1;
        counts[*of].pairs += 1;
        check(shape, &images, (hit, true), &(catalogue.file, one, other), &mut counts[*of]);
        total += 1;
    }
    for (shape, count) in shapes.iter().zip(&counts) {
        println!("wal mutations {}: {count:?}", shape.name);
        assert!(count.named > 0 && count.whole > 0, "{}: {count:?}", shape.name);
    }
    let sum = |part: fn(&Count) -> usize| counts.iter().map(part).sum::<usize>();
    println!(
        "wal mutations: {} images of {singles} single damages, {} shapes: 0 panics, 0 lost in silence, {} named, {} whole, {} \
         indistinguishable by any format (the last synced group, with nothing behind it)",
        total,
        shapes.len(),
        sum(|count| count.named),
        sum(|count| count.whole),
        sum(|count| count.indistinguishable),
    );
    assert!(total >= wanted.min(singles) * 9 / 10);
}
