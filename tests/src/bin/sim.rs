//! The simulator's command line: runs seeds, prints one line about them, and shrinks what fails.
//!
//! ```text
//! cargo run --release -p tests --bin sim -- --seeds 2000 --nodes 3..7     many seeds
//! cargo run --release -p tests --bin sim -- --seed 42 --nodes 3..7        one of them
//! ```
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::Duration;

use tests::sim::campaign::{shrink, Campaign, Summary};
use tests::sim::plan::{Fault, FaultSet, Order, FAULTS};

const USAGE: &str =
    "usage: sim [--seeds N | --seed S] [--first S] [--nodes LOW..HIGH] [--ticks T] [--without FAULT,...]
           [--minutes M] [--threads N] [--marks] [--least FIGURE=N,...] [--log]

  --seeds N        how many seeds to run (100, or without end if there is a time)
  --first S        the first of them (0)
  --seed S         one seed only
  --nodes L..H     nodes of a cluster, drawn by each seed; one number for exactly so many (3..7)
  --ticks T        ticks with faults, of 100 ms each (3600)
  --without F,...  faults to leave out: FAULTS
  --minutes M      begin no new seed after M minutes
  --threads N      threads (as many as there are cores)
  --marks          fail unless every place was reached
  --least F=N,...  fail unless the figure (hours, messages or crashes) is at least N
  --log            print what happens, and what raft-core and wal say to it (for one seed)

Prints one line about what ran. A failure is printed with the command that runs it again, then shrunk.";

/// Prints what everybody says.
struct Logger;

static LOGGER: Logger = Logger;

impl log::Log for Logger {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        println!("{:9} {}", record.target().split("::").next().unwrap_or_default(), record.args());
    }

    fn flush(&self) {}
}

struct Arguments {
    campaign: Campaign,
    marks: bool,
    least: Vec<(Figure, u64)>,
}

/// A figure of the last line for which there can be a least, with its name.
type Figure = (&'static str, fn(&Summary) -> u64);

const FIGURES: [Figure; 3] = [
    ("hours", |summary| summary.cluster_hours() as u64),
    ("messages", |summary| summary.stats.messages),
    ("crashes", |summary| summary.stats.crashes),
];

fn main() -> ExitCode {
    let names: Vec<&str> = FAULTS.iter().map(|(_, name)| *name).collect();
    let usage = USAGE.replace("FAULTS", &names.join(", "));
    if std::env::args().any(|word| word == "--help" || word == "-h") {
        println!("{usage}");
        return ExitCode::SUCCESS;
    }
    let arguments = match parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(message) => {
            eprintln!("{message}\n\n{usage}");
            return ExitCode::from(2);
        }
    };
    // A panic is a finding like any other and is reported below.
    std::panic::set_hook(Box::new(|_| {}));
    match arguments.campaign.run() {
        Ok(summary) => {
            println!("{summary}");
            let too_few = arguments.least.iter().filter(|((_, figure), least)| figure(&summary) < *least);
            let too_few: Vec<String> = too_few.map(|((name, _), least)| format!("{name} below {least}")).collect();
            if !too_few.is_empty() {
                println!("too little to prove anything: {}", too_few.join(", "));
                return ExitCode::FAILURE;
            }
            let missing = summary.marks.missing();
            if arguments.marks && !missing.is_empty() {
                println!("never reached:\n  {}", missing.join("\n  "));
                return ExitCode::FAILURE;
            }
            ExitCode::SUCCESS
        }
        Err(failure) => {
            println!(
                "{}\nat {} ms. To run it again:\n\n  {}\n",
                failure.violation,
                failure.at_ms,
                failure.order.command()
            );
            if log::max_level() != log::LevelFilter::Off {
                return ExitCode::FAILURE;
            }
            println!("shrinking ...");
            let smallest = shrink(&failure, |smaller| println!("  {}", smaller.order.command()));
            println!("\n{}\nat {} ms:\n\n  {}", smallest.violation, smallest.at_ms, smallest.order.command());
            ExitCode::FAILURE
        }
    }
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let order = Order::new(0);
    let mut campaign = Campaign { first_seed: 0, seeds: 0, order, threads, time: None };
    let (mut seeds, mut marks, mut least) = (None, false, Vec::new());
    while let Some(word) = words.next() {
        if word == "--log" {
            log::set_logger(&LOGGER).map_err(|error| error.to_string())?;
            log::set_max_level(log::LevelFilter::Debug);
            campaign.threads = 1;
            continue;
        }
        if word == "--marks" {
            marks = true;
            continue;
        }
        let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
        let number = || value.parse::<u64>().map_err(|_| format!("{word} needs a number, not {value}"));
        match word.as_str() {
            "--seeds" => seeds = Some(number()?),
            "--first" => campaign.first_seed = number()?,
            "--seed" => (campaign.first_seed, seeds) = (number()?, Some(1)),
            "--nodes" => campaign.order.nodes = range(&value)?,
            "--ticks" => campaign.order.ticks = number()?,
            "--minutes" => campaign.time = Some(Duration::from_secs(60 * number()?)),
            "--threads" => campaign.threads = number()? as usize,
            "--least" => least = figures(&value)?,
            "--without" => campaign.order.without = faults(&value)?,
            _ => return Err(format!("there is no {word}")),
        }
    }
    campaign.seeds = seeds.unwrap_or(if campaign.time.is_some() { u64::MAX } else { 100 });
    Ok(Arguments { campaign, marks, least })
}

fn range(text: &str) -> Result<(u64, u64), String> {
    let (low, high) = text.split_once("..").unwrap_or((text, text));
    match (low.parse(), high.parse()) {
        (Ok(low), Ok(high)) if 1 <= low && low <= high && high <= 15 => Ok((low, high)),
        _ => Err(format!("--nodes needs a range like 3..7, from 1 to 15, not {text}")),
    }
}

fn figures(text: &str) -> Result<Vec<(Figure, u64)>, String> {
    let figure = |word: &str| {
        let (name, least) = word.split_once('=')?;
        let figure = FIGURES.into_iter().find(|(known, _)| *known == name)?;
        Some((figure, least.parse().ok()?))
    };
    let each = text.split(',');
    each.map(|word| figure(word).ok_or_else(|| format!("--least needs hours=N, messages=N or crashes=N, not {word}")))
        .collect()
}

fn faults(text: &str) -> Result<FaultSet, String> {
    text.split(',').try_fold(FaultSet::default(), |set, name| {
        Fault::from_name(name).map(|fault| set.with(fault)).ok_or_else(|| format!("there is no fault {name}"))
    })
}
