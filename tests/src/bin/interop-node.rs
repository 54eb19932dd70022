//! Our node in a cluster of the original's processes: the same program, told to read and write their entries.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    raftexample::run_as(std::env::args_os(), &tests::interop::dialect())
}
