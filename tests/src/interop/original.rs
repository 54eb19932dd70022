//! Where the original raftexample comes from: Debian's packages `golang-go` and `golang-etcd-server-dev`, which hold a
//! compiler and the sources of etcd 3.4 with all they need. Nothing is downloaded, and nothing is installed here.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The package that brings the sources.
const PACKAGE: &str = "golang-etcd-server-dev";
/// Where they are within a Go source tree.
const IMPORT_PATH: &str = "go.etcd.io/etcd/contrib/raftexample";

/// Path of the original program, built below `folder` when the first caller asks.
///
/// # Panics
/// When the packages are missing, or do not compile; the message says how to install them.
pub fn original(folder: &Path) -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| build(folder))
}

fn build(folder: &Path) -> PathBuf {
    let folder = folder.join("original");
    std::fs::create_dir_all(&folder).expect("a folder for the program");
    let program = folder.join("raftexample");
    let output = Command::new("go")
        .args(["build", "-o"])
        .arg(&program)
        .arg(IMPORT_PATH)
        // The tree is older than modules.
        .env("GO111MODULE", "off")
        .env("GOPATH", source_tree())
        .env("GOCACHE", folder.join("cache"))
        .env("GOFLAGS", "")
        .output()
        .unwrap_or_else(|error| panic!("no Go compiler ({error}): apt-get install golang-go {PACKAGE}"));
    assert!(output.status.success(), "go cannot build the original: {}", String::from_utf8_lossy(&output.stderr));
    program
}

/// The folder above `src`, from the package's own list of files.
fn source_tree() -> PathBuf {
    let output = Command::new("dpkg").args(["-L", PACKAGE]).output().expect("dpkg can be started");
    let files = String::from_utf8_lossy(&output.stdout);
    let ending = format!("/src/{IMPORT_PATH}/main.go");
    let tree = files.lines().find_map(|line| line.strip_suffix(&ending));
    PathBuf::from(tree.unwrap_or_else(|| panic!("no sources of the original: apt-get install golang-go {PACKAGE}")))
}
