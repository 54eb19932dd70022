//! The model check: every state that small clusters of real nodes can reach. `tests::model` says how and what.
#![forbid(unsafe_code)]

use std::env;
use std::process::ExitCode;

use tests::model::{scenarios, search, story, Limits, Scenario};

const USAGE: &str = "usage: model [--scenario NAME] [--states N] [--threads N] [--least N] [--replay PATH]

Searches all scenarios, or one, breadth-first until there are N states (default 150000) or no more to be had.
Ends with code 1 and the shortest story if an invariant is broken. --replay plays such a story again.
--least N fails unless there are so many different states in all scenarios together.
--list names the scenarios with their bounds.
";

struct Options {
    scenario: Option<String>,
    limits: Limits,
    least: usize,
    replay: Option<String>,
    list: bool,
}

fn main() -> ExitCode {
    match parse(env::args().skip(1)).and_then(run) {
        Ok(code) => code,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::from(2)
        }
    }
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Options, String> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let limits = Limits { states: 150_000, threads };
    let mut options = Options { scenario: None, limits, least: 0, replay: None, list: false };
    while let Some(word) = words.next() {
        if word == "--list" {
            options.list = true;
            continue;
        }
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value\n\n{USAGE}"));
        match word.as_str() {
            "--scenario" => options.scenario = Some(value()?),
            "--replay" => options.replay = Some(value()?),
            "--states" => options.limits.states = number(&value()?)?,
            "--least" => options.least = number(&value()?)?,
            "--threads" => options.limits.threads = number(&value()?)?,
            _ => return Err(USAGE.to_string()),
        }
    }
    Ok(options)
}

fn number(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| format!("{text:?} is no number\n\n{USAGE}"))
}

fn run(options: Options) -> Result<ExitCode, String> {
    let wanted = |scenario: &Scenario| options.scenario.as_ref().is_none_or(|name| *name == scenario.name);
    let chosen: Vec<Scenario> = scenarios().into_iter().filter(wanted).collect();
    let Some(first) = chosen.first() else {
        let names: Vec<&str> = scenarios().iter().map(|scenario| scenario.name).collect();
        return Err(format!("there is no such scenario; there are {}", names.join(", ")));
    };
    if options.list {
        for scenario in &chosen {
            println!("{}", story::bounds(scenario));
        }
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(path) = &options.replay {
        if options.scenario.is_none() {
            return Err("--replay needs --scenario".to_string());
        }
        print!("{}", story::tell(first, &story::parse_path(path)?)?);
        return Ok(ExitCode::SUCCESS);
    }
    search_all(&chosen, options.limits, options.least)
}

fn search_all(chosen: &[Scenario], limits: Limits, least: usize) -> Result<ExitCode, String> {
    let (mut states, mut transitions, mut violations) = (0, 0, 0);
    for scenario in chosen {
        println!("{}", story::bounds(scenario));
        let report = search(scenario, limits)?;
        println!("{}", story::summary(scenario, &report));
        if let Some(violation) = &report.violation {
            println!("\n{}", story::tell_violation(scenario, violation)?);
            violations += 1;
        }
        states += report.states;
        transitions += report.transitions;
    }
    println!("model scenarios={} states={states} transitions={transitions} violations={violations}", chosen.len());
    if states < least {
        println!("too little to prove anything: {states} states of {least}");
    }
    Ok(if violations == 0 && states >= least { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
