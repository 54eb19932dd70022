//! Known mistakes (`raft-core/src/zoo.rs`) are in no build that anybody uses.

use std::path::{Path, PathBuf};
use std::process::Command;

const FLAG: &str = "raft_bug_zoo";
const WRAPPER: &str = "with-bug-zoo";

/// The zoo's own program, built as everything is built, has none to show.
#[test]
fn a_usual_build_has_no_mistakes_in_it() {
    let output = Command::new(env!("CARGO_BIN_EXE_zoo")).output().expect("the program starts");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("no mistakes in this build"), "{output:?}");
}

/// Nothing that decides how crates are built sets the flag: only the wrapper does that CI calls for the zoo alone.
#[test]
fn nothing_sets_the_flag_but_the_zoo_s_own_wrapper() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files = Vec::new();
    find(&root, &mut files);
    assert!(files.len() > 5);
    for file in &files {
        let text = std::fs::read_to_string(file).expect("a text");
        for line in text.lines().filter(|line| line.contains(FLAG)) {
            let declares = line.trim_start().starts_with("unexpected_cfgs");
            assert!(declares || file.ends_with(".ci/with-bug-zoo"), "{}: {line}", file.display());
        }
        // For the one command that it stands before, not for those that follow.
        for line in text.lines().filter(|line| line.contains(WRAPPER)) {
            let is_zoo = line.starts_with("RUSTC_WORKSPACE_WRAPPER=") && line.contains(" --bin zoo");
            let is_comment = line.trim_start().starts_with('#');
            assert!(is_zoo || is_comment, "{}: {line}", file.display());
        }
    }
}

/// Manifests, cargo's settings, build scripts, and everything that CI runs.
fn find(dir: &Path, files: &mut Vec<PathBuf>) {
    let skipped = [".git", "target", "src", "tests", "benches", "examples"];
    for entry in std::fs::read_dir(dir).expect("a folder").flatten() {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        if path.is_dir() {
            let is_crate = path.join("Cargo.toml").exists();
            if is_crate || !(skipped.contains(&name.as_str()) || name.starts_with("target")) {
                find(&path, files);
            }
        } else if ["Cargo.toml", "build.rs"].contains(&name.as_str())
            || dir.file_name().is_some_and(|of| of == ".cargo" || of == ".ci")
        {
            files.push(path);
        }
    }
}
