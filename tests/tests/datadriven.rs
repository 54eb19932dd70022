//! Golden traces: files of commands with the exact output that they must have.
//!
//! The project's own stand in `testdata/{interaction,quorum,confchange}`. With `RAFT_TESTDATA=DIR`, every file in
//! `DIR/{interaction,quorum,confchange}` is run too: etcd's, unchanged. A relative `DIR` is one of the workspace.
//! `REWRITE=1` writes what was seen into the project's own files, for a person to read through; never into others.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use tests::confchange_traces::Membership;
use tests::datadriven::{self, Directive, Mode};
use tests::interaction::Environment;
use tests::quorum_traces;

#[test]
fn interaction() {
    run_all("interaction", || {
        let mut environment = Environment::new();
        move |directive| environment.handle(directive)
    });
}

#[test]
fn quorum() {
    run_all("quorum", || quorum_traces::handle);
}

#[test]
fn confchange() {
    run_all("confchange", || {
        let mut membership = Membership::default();
        move |directive| membership.handle(directive)
    });
}

/// Runs all files of one kind, each with a fresh handler.
fn run_all<H: FnMut(&Directive) -> String>(kind: &str, fresh: impl Fn() -> H) {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(kind);
    let mode = if env::var_os("REWRITE").is_some_and(|value| value == "1") { Mode::Rewrite } else { Mode::Compare };
    let mut runs: Vec<(PathBuf, Mode)> = files(&own).into_iter().map(|file| (file, mode)).collect();
    assert!(!runs.is_empty(), "{} holds no traces", own.display());
    if let Some(given) = given_testdata() {
        let theirs = files(&given.join(kind));
        assert!(!theirs.is_empty(), "RAFT_TESTDATA: {} holds no traces", given.join(kind).display());
        runs.extend(theirs.into_iter().map(|file| (file, Mode::Compare)));
    }
    let mut directives = 0;
    let mut failures = Vec::new();
    for (file, mode) in &runs {
        match datadriven::run(file, *mode, fresh()) {
            Ok(count) => directives += count,
            Err(failure) => failures.push(failure),
        }
    }
    let passed = runs.len() - failures.len();
    println!("{kind}: {passed} of {} files pass, {directives} directives", runs.len());
    assert!(failures.is_empty(), "{} of {} files differ:\n\n{}", failures.len(), runs.len(), failures.join("\n\n"));
}

fn given_testdata() -> Option<PathBuf> {
    let given = PathBuf::from(env::var_os("RAFT_TESTDATA")?);
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    let directory = workspace.join(given);
    assert!(directory.is_dir(), "RAFT_TESTDATA: there is no directory {}", directory.display());
    Some(directory)
}

/// The trace files of a directory, in order. A directory that is not there has none.
fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).map(|entries| entries.flatten().collect()).unwrap_or_else(|_| Vec::new());
    let mut files: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    files.sort();
    files
}
