//! Whole clusters under load, ours beside a peer's: how fast, how late, at what cost.
//!
//! ```text
//! cargo run --release -p tests --bin bench-cluster -- --peer etcd
//! cargo run --release -p tests --bin bench-cluster -- --help
//! ```
//!
//! Three processes of ours and three of the peer's run on this machine with their default settings, and the same load
//! generator ([`load`]) drives them in turns, so that whatever else the machine does meets both alike. One line for each
//! case and program, and one with the ratios:
//!
//! ```text
//! put connections=64   ours     per_s=… p50_us=… p99_us=… p99.9_us=… cpu_us=… written_bytes=… peak_mib=… failed=…
//! ```
//!
//! | operation | ours | etcd | the original raftexample |
//! |---|---|---|---|
//! | `put` | acknowledged when committed and applied | the same | acknowledged at once, whatever becomes of it |
//! | `get` | linearizable | the same | has none |
//! | `local` | `?read=local` | `serializable` | every read |
//!
//! | figure | is |
//! |---|---|
//! | `per_s` | good answers a second, the median of the rounds; a ratio is of two medians |
//! | `p50_us`… | from sending a request to the end of its answer, over all rounds |
//! | `cpu_us`, `written_bytes` | of all nodes together, for each operation, until they have come to rest. Bytes count in whole pages, each time a page is written. What the kernel's own threads do for them is not in it |
//! | `peak_mib` | the most memory that one node has held since it began |
//! | `failed` | other answers, or none: should be 0; with more than one in a thousand there are no figures |
//!
//! A lone connection goes to the leader; more are spread over all nodes. Clients take part of the same processors: what a
//! cluster of machines would do is not measured here, only how two programs compare. Compare ratios, not figures, from
//! one machine to the next.
//!
//! **Footprint**: with `--footprint PUTS`, so many puts over 100 000 keys from 64 connections instead, and for each
//! program its peak memory and the bytes that all nodes together wrote for each byte of an acknowledged value.
//!
//! **Growth**: `--nodes 1`, `3` and `5`, one run each.
//!
//! What is left out: faults (see `tests/linearizability.rs`), a returning follower (see `benches/catch_up.rs`).
#![forbid(unsafe_code)]

mod cost;
mod load;
mod plot;
mod programs;
mod report;
mod requests;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use load::{drive, Until};
use plot::Series;
use programs::{Peer, Program};
use report::Measured;
use requests::Operation;

const USAGE: &str =
    "usage: bench-cluster [--peer etcd|raftexample|none] [--connections N,...] [--seconds N] [--rounds N]
                     [--value-bytes N] [--operations put,get,local] [--nodes N] [--plot FILE.svg]
                     [--footprint PUTS]

  --peer P          whom to measure beside us (etcd): etcd needs Debian's etcd-server, raftexample its golang-go and
                    golang-etcd-server-dev
  --connections N   how many connections at a time, one case each (1,64,256)
  --seconds N       how long each round of a case takes, for each program (3)
  --rounds N        rounds of each case (3)
  --value-bytes N   size of a value, 32768 at most (100)
  --operations O    what clients do, one case each: put, get (linearizable), local (put,get,local)
  --nodes N         nodes of each cluster (3)
  --plot FILE       draw p50 and p99 of puts over throughput
  --footprint PUTS  so many puts over 100000 keys instead, and what they cost in memory and bytes written

Data lies in temporary folders: set TMPDIR to a folder on the disk that is to be measured.";

/// Different keys.
const KEYS: usize = 10_000;
/// The same, and connections, for a footprint.
const FOOTPRINT_KEYS: usize = 100_000;
const FOOTPRINT_CONNECTIONS: usize = 64;
/// Of so many answers one may be bad. A program that refuses quickly would have the best latencies.
const FAILED_SHARE: u64 = 1000;
/// Nobody sends more at once without a second thought, and each connection needs a file.
const CONNECTIONS_MAX: usize = 10_000;

struct Arguments {
    peer: Peer,
    connections: Vec<usize>,
    round: Duration,
    rounds: usize,
    value_bytes: usize,
    operations: Vec<Operation>,
    nodes: u64,
    plot: Option<PathBuf>,
    footprint: Option<u64>,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.iter().any(|word| word == "--help" || word == "-h") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let arguments = match parse(&words) {
        Ok(arguments) => arguments,
        Err(mistake) => {
            eprintln!("bench-cluster: {mistake}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("bench-cluster: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn parse(words: &[String]) -> Result<Arguments, String> {
    let mut arguments = Arguments {
        peer: Peer::Etcd,
        connections: vec![1, 64, 256],
        round: Duration::from_secs(3),
        rounds: 3,
        value_bytes: 100,
        operations: Operation::ALL.to_vec(),
        nodes: 3,
        plot: None,
        footprint: None,
    };
    let mut words = words.iter();
    while let Some(flag) = words.next() {
        let value = words.next().ok_or_else(|| format!("{flag} wants a value"))?;
        let number = |text: &str, range: std::ops::RangeInclusive<u64>| {
            let number = text.parse().ok().filter(|number| range.contains(number));
            number.ok_or_else(|| format!("{flag} wants a number from {} to {}", range.start(), range.end()))
        };
        match flag.as_str() {
            "--peer" => {
                arguments.peer = match value.as_str() {
                    "etcd" => Peer::Etcd,
                    "raftexample" => Peer::Raftexample,
                    "none" => Peer::None,
                    _ => return Err(format!("--peer is etcd, raftexample or none, not {value}")),
                }
            }
            "--connections" => {
                let one = |text| number(text, 1..=CONNECTIONS_MAX as u64).map(|number| number as usize);
                arguments.connections = value.split(',').map(one).collect::<Result<_, _>>()?;
            }
            "--seconds" => arguments.round = Duration::from_secs(number(value, 1..=3600)?),
            "--rounds" => arguments.rounds = number(value, 1..=1000)? as usize,
            // The load generator sends without waiting: a request must fit into a socket's buffer.
            "--value-bytes" => arguments.value_bytes = number(value, 0..=32 << 10)? as usize,
            "--operations" => {
                let one = |text: &str| Operation::ALL.into_iter().find(|operation| operation.name() == text);
                let all: Option<Vec<Operation>> = value.split(',').map(one).collect();
                arguments.operations = all.ok_or("--operations are put, get and local")?;
            }
            "--nodes" => arguments.nodes = number(value, 1..=9)?,
            "--plot" => arguments.plot = Some(PathBuf::from(value)),
            "--footprint" => arguments.footprint = Some(number(value, 1..=100_000_000)?),
            _ => return Err(format!("there is no {flag}")),
        }
    }
    if arguments.plot.is_some() && (arguments.footprint.is_some() || !arguments.operations.contains(&Operation::Put)) {
        return Err("--plot draws puts: not a footprint, and not without put among the --operations".to_string());
    }
    Ok(arguments)
}

fn run(arguments: &Arguments) -> Result<(), String> {
    refuse_memory(&std::env::temp_dir())?;
    let mut programs = vec![Program::ours(arguments.nodes)];
    programs.extend(Program::peer(arguments.peer, arguments.nodes)?);
    match arguments.footprint {
        Some(puts) => footprint(arguments, &programs, puts),
        None => compare(arguments, &programs),
    }
}

/// Where syncs cost nothing, nothing is measured.
fn refuse_memory(folder: &std::path::Path) -> Result<(), String> {
    const TMPFS_MAGIC: u64 = 0x0102_1994;
    let system = rustix::fs::statfs(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    if system.f_type as u64 == TMPFS_MAGIC {
        return Err(format!("{} is memory, not a disk: set TMPDIR to a folder on a disk", folder.display()));
    }
    Ok(())
}

/// One case of one program; nothing if it cannot do this.
fn round(
    program: &Program,
    operation: Operation,
    connections: usize,
    (keys, value_bytes): (usize, usize),
    until: Until,
    measured: &mut Measured,
) -> Result<bool, String> {
    let Some(requests) = program.language.requests(operation, keys, value_bytes) else { return Ok(false) };
    let (targets, before) = (program.targets(), program.cost()?);
    let status = program.language.good_status(operation);
    let outcome = drive(&targets, connections, &requests, status, until)
        .map_err(|error| format!("{} broke off the load: {error}", program.name))?;
    let good = outcome.latencies_us.len() as u64;
    if outcome.failed > good / FAILED_SHARE {
        return Err(format!("{}: {} requests failed and {good} did not: no figures", program.name, outcome.failed));
    }
    measured.add(&outcome, &before, &program.settle()?);
    Ok(true)
}

fn compare(arguments: &Arguments, programs: &[Program]) -> Result<(), String> {
    let shape = (KEYS, arguments.value_bytes);
    for program in programs {
        // Every key is there before anybody reads, and everybody has warmed up.
        let until = Until::Sent(2 * KEYS as u64);
        round(program, Operation::Put, 32, shape, until, &mut Measured::default())?;
    }
    let mut drawn: Vec<Vec<(usize, Measured)>> = vec![Vec::new(); programs.len()];
    for &operation in &arguments.operations {
        for &connections in &arguments.connections {
            let mut measured = vec![Measured::default(); programs.len()];
            let mut able = vec![true; programs.len()];
            for turn in 0..arguments.rounds {
                for at in 0..programs.len() {
                    // Everybody is first in turn: whoever comes second meets a disk that has just been busy.
                    let at = (turn + at) % programs.len();
                    let until = Until::Elapsed(arguments.round);
                    able[at] = round(&programs[at], operation, connections, shape, until, &mut measured[at])?;
                }
            }
            let case = format!("{} connections={connections:<4}", operation.name());
            for ((program, measured), _) in programs.iter().zip(&measured).zip(&able).filter(|(_, able)| **able) {
                println!("{}", measured.line(&case, program.name));
            }
            if let ([ours, theirs], [true, true]) = (measured.as_slice(), able.as_slice()) {
                println!("{}", ours.ratios(theirs, &case));
            }
            if operation == Operation::Put {
                for (drawn, measured) in drawn.iter_mut().zip(measured) {
                    drawn.push((connections, measured));
                }
            }
        }
    }
    arguments.plot.as_ref().map_or(Ok(()), |file| {
        let drawing = draw(arguments, programs, &drawn);
        std::fs::write(file, drawing).map_err(|error| format!("cannot write {}: {error}", file.display()))
    })
}

fn draw(arguments: &Arguments, programs: &[Program], drawn: &[Vec<(usize, Measured)>]) -> String {
    const COLORS: [&str; 2] = ["#1f6f8b", "#c8553d"];
    let mut series = Vec::new();
    for ((program, drawn), color) in programs.iter().zip(drawn).zip(COLORS) {
        for (percentile, share, dashed) in [("p50", 0.5, false), ("p99", 0.99, true)] {
            let point = |(connections, measured): &(usize, Measured)| {
                (measured.per_second(), measured.within_us(share), connections.to_string())
            };
            let points = drawn.iter().map(point).collect();
            series.push(Series { name: format!("{} {percentile}", program.name), color, dashed, points });
        }
    }
    let title = format!(
        "Puts of {} bytes, {} nodes: latency over throughput (points: connections)",
        arguments.value_bytes, arguments.nodes
    );
    plot::svg(&title, &series)
}

fn footprint(arguments: &Arguments, programs: &[Program], puts: u64) -> Result<(), String> {
    let shape = (FOOTPRINT_KEYS, arguments.value_bytes);
    for program in programs {
        let (mut measured, began) = (Measured::default(), Instant::now());
        round(program, Operation::Put, FOOTPRINT_CONNECTIONS, shape, Until::Sent(puts), &mut measured)?;
        println!("{}", measured.footprint(program.name, arguments.value_bytes, began.elapsed()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Arguments, String> {
        parse(&line.split_whitespace().map(str::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn flags_are_understood_and_mistakes_named() {
        let arguments = parsed("--peer none --connections 1,8 --seconds 2 --operations local,put").unwrap();
        assert_eq!((arguments.peer, arguments.connections), (Peer::None, vec![1, 8]));
        assert_eq!(arguments.operations, [Operation::Local, Operation::Put]);
        for (line, word) in [
            ("--peer zookeeper", "zookeeper"),
            ("--connections 1,x", "--connections"),
            ("--seconds", "--seconds"),
            ("--value-bytes 99999999", "--value-bytes"),
            ("--operations delete", "--operations"),
            ("--faster yes", "--faster"),
            ("--plot x.svg --footprint 9", "--plot"),
            ("--operations get --plot x.svg", "--plot"),
        ] {
            assert!(parsed(line).err().is_some_and(|mistake| mistake.contains(word)), "{line}");
        }
    }

    #[test]
    fn a_cluster_of_ours_can_be_measured() {
        let program = Program::ours(1);
        for operation in Operation::ALL {
            let mut measured = Measured::default();
            assert!(round(&program, operation, 4, (50, 20), Until::Sent(200), &mut measured).unwrap());
            let line = measured.line("case", program.name);
            assert!(line.ends_with("failed=0") && measured.per_second() > 0.0, "{line}");
        }
    }
}
