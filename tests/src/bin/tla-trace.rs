//! Writes a random run in the trace format of etcd's TLA+ specification. `tests::tla_trace` says what for.
#![forbid(unsafe_code)]

use std::env;
use std::io::{self, Write};
use std::process::ExitCode;

const USAGE: &str = "usage: tla-trace [--seed N] [--steps N]\n\nWrites one JSON object a line to standard output.";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<(), String> {
    let (mut seed, mut steps) = (1, 300);
    let mut words = env::args().skip(1);
    while let Some(word) = words.next() {
        let number = words.next().and_then(|text| text.parse::<u64>().ok()).ok_or(USAGE)?;
        match word.as_str() {
            "--seed" => seed = number,
            "--steps" => steps = number as usize,
            _ => return Err(USAGE.to_string()),
        }
    }
    let lines = tests::tla_trace::record(seed, steps).map_err(|error| error.to_string())?;
    let mut out = io::stdout().lock();
    for line in lines {
        match writeln!(out, "{line}") {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            result => result.map_err(|error| error.to_string())?,
        }
    }
    Ok(())
}
