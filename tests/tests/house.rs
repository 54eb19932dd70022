//! The rules of the house that a compiler does not check: what lies at the top, where `unsafe` may stand, how many
//! crates `raft-core` pulls in, whether the stated minimum Rust can be true, and that nothing in the tree depends on
//! the machine it was written on.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this package lies in the workspace")
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).current_dir(root()).output().expect("the program starts");
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("its output is text")
}

fn cargo(arguments: &[&str]) -> String {
    run(&std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_string()), arguments)
}

/// What belongs to the project: the files git knows or would add, or every file outside of the target folder when the
/// tree came without git.
fn files() -> Vec<PathBuf> {
    if root().join(".git").exists() {
        let listing = run("git", &["ls-files", "--cached", "--others", "--exclude-standard"]);
        return listing.lines().map(PathBuf::from).filter(|path| root().join(path).is_file()).collect();
    }
    let mut files = Vec::new();
    let mut folders = vec![root().to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder can be read").flatten() {
            let path = entry.path();
            if path.is_file() {
                files.push(path.strip_prefix(root()).expect("it lies below the root").to_path_buf());
            } else if entry.file_name() != "target" {
                folders.push(path);
            }
        }
    }
    files
}

fn text_of(file: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(root().join(file)).expect("a file can be read")).into_owned()
}

/// The workspace as cargo sees it, for this platform.
fn metadata() -> Value {
    let version = run("rustc", &["-vV"]);
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).expect("rustc names its host");
    serde_json::from_str(&cargo(&["metadata", "--format-version", "1", "--filter-platform", host])).expect("JSON")
}

#[test]
fn the_top_level_holds_what_the_plan_names_and_nothing_else() {
    let expected =
        ["Cargo.lock", "Cargo.toml", "LICENSE", "README.md", "kvstore", "raft-core", "raftexample", "tests", "wal"];
    let found: BTreeSet<String> = files()
        .iter()
        .filter_map(|path| Some(path.components().next()?.as_os_str().to_str()?.to_string()))
        .filter(|name| !name.starts_with('.'))
        .collect();
    assert_eq!(found, expected.iter().map(ToString::to_string).collect());
}

#[test]
fn every_package_is_named_as_its_folder_and_takes_the_shared_lints() {
    for package in ["raft-core", "wal", "kvstore", "raftexample", "tests"] {
        let manifest = text_of(&Path::new(package).join("Cargo.toml"));
        assert!(manifest.contains(&format!("name = \"{package}\"")), "the package in {package} has another name");
        assert!(manifest.contains("[lints]\nworkspace = true"), "{package} does not take the workspace's lints");
        for inherited in ["edition", "rust-version", "version"] {
            assert!(
                manifest.contains(&format!("{inherited}.workspace = true")),
                "{package} states its own {inherited}"
            );
        }
    }
}

#[test]
fn unsafe_code_is_forbidden_everywhere_but_in_one_module_of_the_log() {
    let metadata = metadata();
    let members = metadata["workspace_members"].as_array().expect("a list");
    let mut roots = 0;
    for package in metadata["packages"].as_array().expect("a list") {
        if !members.contains(&package["id"]) || package["name"] == "wal" {
            continue;
        }
        for target in package["targets"].as_array().expect("a list") {
            let kinds = target["kind"].as_array().expect("a list");
            if !kinds.iter().any(|kind| kind == "lib" || kind == "bin") {
                continue;
            }
            let path = target["src_path"].as_str().expect("a path");
            let text = std::fs::read_to_string(path).expect("a crate root can be read");
            assert!(text.contains("#![forbid(unsafe_code)]"), "{path} does not forbid unsafe code");
            roots += 1;
        }
    }
    assert!(roots >= 5, "only {roots} crate roots were looked at");

    let in_the_log: BTreeSet<PathBuf> =
        files().into_iter().filter(|path| path.starts_with("wal/src") && uses_unsafe(&text_of(path))).collect();
    assert!(in_the_log.len() <= 1, "more than one module of the log is unsafe: {in_the_log:?}");
}

/// Whether a line of code, not of commentary, opens an unsafe block, function or implementation.
fn uses_unsafe(text: &str) -> bool {
    text.lines()
        .map(str::trim_start)
        .filter(|line| !line.starts_with("//"))
        .any(|line| ["{", "fn ", "impl "].iter().any(|what| line.contains(&format!("unsafe {what}"))))
}

#[test]
fn the_search_for_unsafe_code_finds_it() {
    assert!(uses_unsafe("    let byte = unsafe { *pointer };"));
    assert!(uses_unsafe("pub unsafe fn f() {}"));
    assert!(!uses_unsafe("// unsafe { } is forbidden here\n#![forbid(unsafe_code)]"));
}

#[test]
fn the_core_pulls_in_at_most_a_dozen_crates() {
    let tree = cargo(&["tree", "--package", "raft-core", "--edges", "normal", "--prefix", "none", "--no-dedupe"]);
    let crates: BTreeSet<&str> = tree.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(
        crates.contains("raft-core") && crates.contains("prost"),
        "not what was expected of cargo tree: {crates:?}"
    );
    assert!(crates.len() <= 12, "{} crates: {crates:?}", crates.len());
}

/// `1.85` and `1.85.0` are the same version.
fn parse_version(text: &str) -> (u64, u64, u64) {
    let mut parts = text.split(['.', '-', '+']).map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

/// As far as one toolchain can tell: no dependency asks for a newer Rust than we promise, the edition is one that the
/// promised compiler knows (a compiler's own job), and clippy refuses newer parts of the standard library.
#[test]
fn the_stated_minimum_rust_is_not_older_than_what_the_dependencies_state() {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().expect("a list");
    let core = packages.iter().find(|package| package["name"] == "raft-core").expect("raft-core is there");
    let ours = parse_version(core["rust_version"].as_str().expect("raft-core states its minimum Rust"));
    // The packages that this platform really needs; `packages` also lists other platforms'.
    let needed: BTreeSet<&str> = metadata["resolve"]["nodes"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|node| node["id"].as_str())
        .collect();
    let mut stated = 0;
    let mut too_new = BTreeMap::new();
    for package in packages.iter().filter(|package| package["id"].as_str().is_some_and(|id| needed.contains(id))) {
        let Some(theirs) = package["rust_version"].as_str() else { continue };
        stated += 1;
        if parse_version(theirs) > ours {
            too_new.insert(format!("{} {}", package["name"], package["version"]), theirs.to_string());
        }
    }
    assert!(stated > 20, "only {stated} packages state a minimum Rust");
    assert!(too_new.is_empty(), "we promise {ours:?}, but these need more: {too_new:#?}");
}

#[test]
fn clippy_refuses_a_standard_library_newer_than_the_stated_minimum() {
    let manifest = text_of(Path::new("Cargo.toml"));
    let lints = manifest.split("[workspace.lints.clippy]").nth(1).expect("the workspace sets clippy's lints");
    assert!(lints.contains("incompatible_msrv = \"deny\""), "incompatible_msrv is not set to deny");
}

#[test]
fn nothing_in_the_tree_names_a_machine_or_a_registry() {
    // Put together here, so that this file does not find itself.
    let slash = '/';
    let paths = ["work", "root", "home", "Users", "workspace"].map(|name| format!("{slash}{name}{slash}"));
    let hosts = [
        ["arti", "factory"],
        ["registry", ".npm"],
        ["proxy", ".golang"],
        ["spar", "se+"],
        ["mir", "ror."],
        ["nex", "us."],
    ]
    .map(|parts| parts.concat());
    let mut found = Vec::new();
    for file in files() {
        for (number, line) in text_of(&file).lines().enumerate() {
            let suspicious = paths.iter().chain(&hosts).any(|word| line.contains(word.as_str()));
            // The public index is what a lock file names when no other registry is set.
            let elsewhere =
                line.contains("registry+") && !line.contains("registry+https://github.com/rust-lang/crates.io-index");
            if suspicious || elsewhere {
                found.push(format!("{}:{}: {line}", file.display(), number + 1));
            }
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}
