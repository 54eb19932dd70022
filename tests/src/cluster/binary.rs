//! Where the `raftexample` program comes from.
//!
//! Cargo tells a test the path of its own package's binaries only, and a dev-dependency builds the library, not the
//! binary. Looking for a file in the target folder is not enough either: `cargo test -p tests` after an edit would find
//! yesterday's program. So the first caller in each test process asks cargo itself to build it, in the profile and the
//! target folder that the test was built in; when nothing changed that takes a fraction of a second. Cargo has let go
//! of its lock on the target folder by the time it runs tests, so the inner cargo does not wait for the outer one.
//!
//! The program is built as users get it, with its own choice of features, and not with what the test crates would
//! add by feature unification.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Path of the `raftexample` program, built when the first caller asks. The environment variable `RAFTEXAMPLE_BIN`
/// names another program to test instead, one that is installed for instance.
///
/// # Panics
/// When the program does not compile; the compiler's messages stand on stderr.
pub fn raftexample() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| match std::env::var_os("RAFTEXAMPLE_BIN") {
        Some(path) => PathBuf::from(path),
        None => build(),
    })
}

fn build() -> PathBuf {
    let own_path = std::env::current_exe().expect("a test knows its own path");
    // <target folder>/<profile folder>/deps/<test>-<hash>, or without `deps` for a program of this package.
    let mut profile_dir = own_path.parent().expect("a program lies in a folder");
    if profile_dir.ends_with("deps") || profile_dir.ends_with("examples") {
        profile_dir = profile_dir.parent().expect("deps lies in a profile folder");
    }
    let target_dir = profile_dir.parent().expect("a profile folder lies in the target folder");
    let profile = match profile_dir.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    forget_package(&mut command);
    let output = command
        .args(["build", "--quiet", "--package", "raftexample", "--bin", "raftexample", "--profile", profile])
        .args(["--message-format", "json-render-diagnostics", "--target-dir"])
        .arg(target_dir)
        .current_dir(workspace_root())
        .stderr(std::process::Stdio::inherit())
        .output()
        .expect("cargo can be started");
    assert!(output.status.success(), "cargo could not build raftexample: {}", output.status);
    executable_of(&output.stdout).expect("cargo names the program that it has built")
}

/// What the outer cargo says of the test's own package is not for an inner one: build scripts that look at it would run
/// anew each time, and everything that depends on them be compiled again.
pub fn forget_package(command: &mut Command) {
    let about_package = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_CRATE_NAME", "CARGO_BIN_NAME"];
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| about_package.iter().any(|start| name.starts_with(start))) {
            command.env_remove(name);
        }
    }
}

/// The path in the `compiler-artifact` message about the program, among cargo's JSON lines.
fn executable_of(messages: &[u8]) -> Option<PathBuf> {
    messages
        .split(|&byte| byte == b'\n')
        .filter_map(|line| serde_json::from_slice::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == "raftexample")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
}

/// The folder of the workspace manifest.
pub(crate) fn workspace_root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this package lies in the workspace")
}
