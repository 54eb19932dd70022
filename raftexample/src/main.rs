//! The program `raftexample`; everything it does is in the library beside it.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    raftexample::run(std::env::args_os())
}
