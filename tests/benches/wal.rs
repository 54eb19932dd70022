//! The log beside its floors: the least that any log would have to do, measured in the same run on the same disk.
//!
//! ```text
//! cargo bench -p tests --bench wal [-- CASE]
//! ```
//!
//! One line a case: `wal <case> ours=… floor=… ratio=…`. For latencies a ratio near 1 is good and more is worse; for throughputs a
//! ratio near 1 is good and less is worse. The two alternate in blocks, so that a busy disk is busy for both, and between
//! blocks nothing is done for a while, so that what a log does in the background counts for the log and not for its floor.
//!
//! | case | ours | floor | aim |
//! |---|---|---|---|
//! | `synced-N` | `save` of one entry of N bytes, p50 | `pwrite` + `fdatasync` of as many bytes on an equal file, p50 | ≤ 1.15, 64 KiB ≤ 1.5 |
//! | `bulk` | `append` of 64 entries of 1 KiB, not synced | copy and crc32fast into an equal mapped file | ≥ 0.6 |
//! | `bulk-memory` | the same | copy and crc32fast into memory that is there already | – |
//! | `recovery` | `open` of a 1 GiB log, and all its entries | read and crc32fast over the same files | ≥ 0.6 |
//! | `rotation` | `save` of 4 KiB with a new segment every 250, p99.9 | the same in one segment, p99.9 | ≤ 2 |
//!
//! An equal file is allocated and prefilled as a segment is. On one that is only allocated, `fdatasync` is slower by half,
//! and a log would look better beside it.
//!
//! **Why `bulk-memory` stays far from 1.** Every page of a mapped file has to be brought in, zeroed and noted as changed by
//! the system before the first byte can be stored: a fault of 3 to 6 microseconds, against half a microsecond for copying and
//! checksumming the page's 4 KiB. A profile of `bulk` has 57 % of its samples in the zeroing, 30 % in
//! the rest of the fault, 9 % in our copy and checksum. Any log that stores into a file pays that, by `write` too; the
//! floor that a mapped log can reach is `bulk`. Bringing the pages in ahead of the writer only moves the work: the thread that
//! does it is slower than the writer, so a long run of appends waits for it instead of for the fault. A map that had been
//! touched from end to end before reached 0.62, but no log can be kept in that state: the pages are dirty then, whoever
//! writes them out protects them again, and to leave them dirty costs a journal commit with every sync (see above).

use std::fs::{self, File, OpenOptions};
use std::hint::black_box;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use raft_core::pb::Entry;
use wal::{Disk, Options, OsDisk, Wal};

type Anything<T> = Result<T, Box<dyn std::error::Error>>;

const MIB: u64 = 1 << 20;

fn entry(index: u64, bytes: usize) -> Entry {
    Entry { term: 1, index, ..Entry::normal(vec![index as u8; bytes]) }
}

/// The value that this part of all values (in thousandths) does not exceed.
fn percentile(values: &mut [Duration], thousandths: usize) -> Duration {
    values.sort_unstable();
    values[(values.len() * thousandths / 1000).min(values.len() - 1)]
}

fn micros(value: Duration) -> f64 {
    value.as_secs_f64() * 1e6
}

fn report_latency(case: &str, ours: Duration, floor: Duration) {
    let (ours, floor) = (micros(ours), micros(floor));
    println!("wal {case} ours={ours:.1}us floor={floor:.1}us ratio={:.2}", ours / floor);
}

fn report_throughput(case: &str, bytes: u64, ours: Duration, floor: Duration) {
    let rate = |time: Duration| bytes as f64 / MIB as f64 / time.as_secs_f64();
    println!(
        "wal {case} ours={:.0}MiB/s floor={:.0}MiB/s ratio={:.2}",
        rate(ours),
        rate(floor),
        rate(ours) / rate(floor)
    );
}

/// A file as ours are prepared: allocated, and its zeros written out.
fn plain_file(path: &Path, bytes: u64) -> Anything<File> {
    let _lock = OsDisk.lock(path.parent().ok_or("a file is in a directory")?)?;
    drop(OsDisk.create(path, bytes)?);
    OsDisk.prefill(path, 0..bytes as usize)?;
    Ok(OpenOptions::new().read(true).write(true).open(path)?)
}

/// How long nothing is done in between: longer than the housekeeper takes for what it has been asked.
const GAP: Duration = Duration::from_millis(30);

/// Alternates blocks of rounds, beginning with ours, until each has done as many as are wanted.
fn alternate(
    rounds: u64,
    block_rounds: u64,
    ours: &mut dyn FnMut(u64) -> Anything<()>,
    floor: &mut dyn FnMut(u64) -> Anything<()>,
) -> Anything<()> {
    for block in (0..rounds).step_by(block_rounds as usize) {
        let block = block..(block + block_rounds).min(rounds);
        block.clone().try_for_each(&mut *ours)?;
        std::thread::sleep(GAP);
        block.into_iter().try_for_each(&mut *floor)?;
        std::thread::sleep(GAP);
    }
    Ok(())
}

fn synced(dir: &Path, bytes: usize, rounds: u64) -> Anything<()> {
    let room = (bytes as u64 + 256) * rounds + MIB;
    let (mut log, _) = Wal::open(&dir.join("ours"), Options { segment_bytes: room }, b"")?;
    let file = plain_file(&dir.join("floor"), room)?;
    // As many bytes in the same places: an entry in a batch of its own takes 72 more, and a multiple of 8.
    let framed = (bytes + 72).next_multiple_of(8);
    let payload = vec![7; framed];
    let (mut ours, mut floor) = (Vec::new(), Vec::new());
    alternate(
        rounds,
        100,
        &mut |round| {
            let entries = [entry(round + 1, bytes)];
            let start = Instant::now();
            log.save(None, &entries)?;
            ours.push(start.elapsed());
            Ok(())
        },
        &mut |round| {
            let start = Instant::now();
            file.write_all_at(&payload, round * framed as u64)?;
            file.sync_data()?;
            floor.push(start.elapsed());
            Ok(())
        },
    )?;
    report_latency(&format!("synced-{bytes}"), percentile(&mut ours, 500), percentile(&mut floor, 500));
    Ok(())
}

fn bulk(dir: &Path) -> Anything<()> {
    const BATCH: u64 = 64;
    const ENTRY_BYTES: usize = 1024;
    const ROUNDS: u64 = 2000;
    let room = ROUNDS * BATCH * (ENTRY_BYTES as u64 + 64) + MIB;
    let (mut log, _) = Wal::open(&dir.join("ours"), Options { segment_bytes: room }, b"")?;
    let _lock = OsDisk.lock(dir)?;
    let mut region = OsDisk.create(&dir.join("floor"), room)?;
    let mut memory = vec![1_u8; room as usize];
    let (mut ours, mut floor, mut in_memory) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    let mut at = 0;
    for round in 0..ROUNDS {
        let entries: Vec<_> = (1..=BATCH).map(|number| entry(round * BATCH + number, ENTRY_BYTES)).collect();
        let start = Instant::now();
        log.append(None, &entries)?;
        ours += start.elapsed();
        let end = at + ENTRY_BYTES * BATCH as usize;
        let copy = |into: &mut [u8]| {
            for (entry, place) in entries.iter().zip(into.chunks_exact_mut(ENTRY_BYTES)) {
                place.copy_from_slice(&entry.data);
                black_box(crc32fast::hash(&entry.data));
            }
        };
        let start = Instant::now();
        copy(region.slice_mut(at..end)?);
        floor += start.elapsed();
        let start = Instant::now();
        copy(&mut memory[at..end]);
        in_memory += start.elapsed();
        at = end;
    }
    report_throughput("bulk", at as u64, ours, floor);
    report_throughput("bulk-memory", at as u64, ours, in_memory);
    Ok(())
}

fn recovery(dir: &Path) -> Anything<()> {
    const BATCH: u64 = 64;
    const ENTRY_BYTES: u64 = 1024;
    let path = dir.join("ours");
    let total = 1024 * MIB;
    {
        let (mut log, _) = Wal::open(&path, Options::default(), b"")?;
        let mut index = 0;
        while index * ENTRY_BYTES < total {
            let entries: Vec<_> = (1..=BATCH).map(|number| entry(index + number, ENTRY_BYTES as usize)).collect();
            log.append(None, &entries)?;
            index += BATCH;
        }
        log.sync()?;
    }
    let (mut ours, mut floor) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        let start = Instant::now();
        let mut buffer = vec![0; MIB as usize];
        let mut hasher = crc32fast::Hasher::new();
        for file in fs::read_dir(&path)? {
            let mut file = File::open(file?.path())?;
            loop {
                let count = file.read(&mut buffer)?;
                if count == 0 {
                    break;
                }
                hasher.update(&buffer[..count]);
            }
        }
        black_box(hasher.finalize());
        floor.push(start.elapsed());
        let start = Instant::now();
        let (log, recovered) = Wal::open(&path, Options::default(), b"")?;
        let entries = recovered.held_entries().to_vec()?;
        ours.push(start.elapsed());
        assert_eq!(entries.len() as u64, log.last_index());
    }
    report_throughput("recovery", total, percentile(&mut ours, 500), percentile(&mut floor, 500));
    Ok(())
}

fn rotation(dir: &Path) -> Anything<()> {
    const BYTES: usize = 4096;
    const ROUNDS: u64 = 20_000;
    let room = ROUNDS * (BYTES as u64 + 256) + MIB;
    let (mut rotating, _) = Wal::open(&dir.join("rotating"), Options { segment_bytes: MIB }, b"")?;
    let (mut steady, _) = Wal::open(&dir.join("steady"), Options { segment_bytes: room }, b"")?;
    let (mut ours, mut floor, mut turns) = (Vec::new(), Vec::new(), Vec::new());
    // A block has four turns, so that the next segment is needed while it is being prepared.
    alternate(
        ROUNDS,
        1000,
        &mut |round| {
            let entries = [entry(round + 1, BYTES)];
            let before = rotating.segment_count();
            let start = Instant::now();
            rotating.save(None, &entries)?;
            let took = start.elapsed();
            ours.push(took);
            if rotating.segment_count() > before {
                turns.push(took);
            }
            Ok(())
        },
        &mut |round| {
            let entries = [entry(round + 1, BYTES)];
            let start = Instant::now();
            steady.save(None, &entries)?;
            floor.push(start.elapsed());
            Ok(())
        },
    )?;
    report_latency("rotation-p50-of-turns", percentile(&mut turns, 500), percentile(&mut floor, 500));
    report_latency("rotation", percentile(&mut ours, 999), percentile(&mut floor, 999));
    Ok(())
}

fn main() -> Anything<()> {
    let wanted = std::env::args().skip(1).find(|argument| !argument.starts_with("--")).unwrap_or_default();
    let run = |case: &str, work: &dyn Fn(&Path) -> Anything<()>| -> Anything<()> {
        if !case.starts_with(&wanted) {
            return Ok(());
        }
        // Beside the build, not in /tmp, which may be memory.
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
        work(dir.path())
    };
    run("synced-256", &|dir| synced(dir, 256, 4000))?;
    run("synced-4096", &|dir| synced(dir, 4096, 4000))?;
    run("synced-65536", &|dir| synced(dir, 65536, 1500))?;
    run("bulk", &bulk)?;
    run("recovery", &recovery)?;
    run("rotation", &rotation)
}
