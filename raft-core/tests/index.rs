//! `README.md` beside this file says which test answers which of etcd's. It must not promise what is not there.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::path::Path;

/// How many unit tests etcd's raft package has, by the count that the index was made from.
const ETCD_TESTS: usize = 258;

/// Whether there is a test of this path: in a file of its own beside the code, inside the code's file, or in this
/// directory.
fn exists(root: &Path, test: &str) -> bool {
    let Some((module, name)) = test.rsplit_once("::") else { return false };
    let path = module.replace("::", "/");
    let inline = path.rsplit_once('/').map(|(parent, _)| format!("src/{parent}.rs"));
    let files = [Some(format!("src/{path}.rs")), inline, Some(format!("tests/{path}.rs"))];
    files.into_iter().flatten().any(|file| {
        let text = std::fs::read_to_string(root.join(file)).unwrap_or_default();
        let Some(at) = text.find(&format!("fn {name}(")) else { return false };
        // Its attribute stands on the line before.
        text[..at].lines().rev().nth(1).is_some_and(|line| line.trim() == "#[test]")
            || text[..at].trim_end().ends_with("#[test]")
    })
}

#[test]
fn the_index_names_all_of_etcds_tests_and_only_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let index = std::fs::read_to_string(root.join("tests/README.md")).expect("the index is there");
    let mut etcd = BTreeSet::new();
    for row in index.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| etcd")) {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").collect();
        let [theirs, ours] = cells[..] else { panic!("not two cells: {row}") };
        for name in theirs.split_whitespace() {
            assert!(etcd.insert(name), "{name} is there twice");
        }
        let tests: Vec<&str> = ours.split('`').skip(1).step_by(2).filter(|text| text.contains("::")).collect();
        assert!(!tests.is_empty() || ours.trim().starts_with("not applicable"), "nothing proves {theirs}");
        for test in tests {
            assert!(exists(root, test), "{theirs}: there is no test {test}");
        }
    }
    assert_eq!(etcd.len(), ETCD_TESTS);
    assert!(!exists(root, "raft::tests::elections::no_such_test") && !exists(root, "raft::tests::mod::plain"));
}
