//! Checks histories that were kept in files: `cargo run -p tests --bin check-history -- FILE…`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use tests::linearizability::{check, text};

fn main() -> ExitCode {
    let files: Vec<String> = std::env::args().skip(1).collect();
    if files.is_empty() {
        eprintln!("usage: check-history FILE…");
        return ExitCode::from(2);
    }
    let mut code = ExitCode::SUCCESS;
    for file in files {
        let history =
            std::fs::read_to_string(&file).map_err(|error| error.to_string()).and_then(|text| text::read(&text));
        let verdict = match history {
            Ok(history) => match check(&history) {
                Ok(()) => Ok(format!("{} operations, linearizable", history.len())),
                Err(violation) => Err(format!("{} operations, {violation}", history.len())),
            },
            Err(error) => Err(error),
        };
        match verdict {
            Ok(line) => println!("{file}: {line}"),
            Err(line) => {
                println!("{file}: {line}");
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}
