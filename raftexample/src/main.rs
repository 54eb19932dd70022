//! The program `raftexample`; everything it does is in the library beside it.
#![forbid(unsafe_code)]

use std::process::ExitCode;

/// What a socket's thread allocates, the raft thread frees: the system's allocator takes a lock for that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    raftexample::run(std::env::args_os())
}
