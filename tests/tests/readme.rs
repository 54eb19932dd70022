//! The README's tour, run as it stands: every `sh` block in order, and every `text` block must be what was printed.
//!
//! - A block that starts with `cargo run` occupies the reader's terminal; here it runs in the background until the end.
//! - Any other block runs with `bash -euo pipefail` and must succeed.
//! - A `text` block shows what the `sh` block before it prints: each of its lines is looked for, in order; `…` stands
//!   for anything.
//!
//! So that it takes seconds and disturbs nobody, [`the_tour_works`] moves the ports, works in a scratch folder and
//! replaces `cargo run --release --` by the program that the other tests use; and `cargo test` by nothing, since that
//! is what runs this test. [`the_tour_works_with_a_release_build`] calls the real `cargo run --release`.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::Command;

use tests::cluster::{
    eventually, forget_package, free_base_port, process_is_alive, raftexample, Http, Process, Signal, PATIENCE,
    STATUS_PATH,
};

/// The ports that the tour names, as distances from the first.
const PORT_OFFSETS: [u16; 14] =
    [0, 1, 2, 3, 10_000, 10_001, 10_002, 10_003, 20_000, 20_001, 20_002, 20_003, 30_000, 30_001];
const FIRST_PORT: u16 = 12_379;

#[derive(Debug, PartialEq, Eq)]
enum Block {
    /// Commands.
    Shell(String),
    /// What the commands before it print.
    Output(String),
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this package lies in the workspace")
}

fn readme() -> String {
    std::fs::read_to_string(root().join("README.md")).expect("there is a README")
}

/// The fenced blocks of a Markdown text. Panics at a block in another language, which nothing would test.
fn blocks(markdown: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = markdown.lines();
    while let Some(line) = lines.next() {
        let Some(language) = line.strip_prefix("```") else { continue };
        let text: Vec<&str> = lines.by_ref().take_while(|line| !line.starts_with("```")).collect();
        let text = text.join("\n") + "\n";
        match language {
            "sh" => blocks.push(Block::Shell(text)),
            "text" => blocks.push(Block::Output(text)),
            other => panic!("a block in {other:?}: only `sh` and `text` are tested"),
        }
    }
    blocks
}

/// Whether each expected line is found in the output, in order; `…` matches anything. Returns the first that is not.
fn first_missing<'e>(expected: &'e str, output: &str) -> Option<&'e str> {
    let mut rest = output.lines();
    expected.lines().find(|wanted| !rest.any(|line| line_matches(wanted, line)))
}

fn line_matches(pattern: &str, line: &str) -> bool {
    let mut parts = pattern.split('…');
    let Some(mut rest) = line.strip_prefix(parts.next().unwrap_or("")) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        let Some(position) = rest.find(part) else { return false };
        rest = &rest[position + part.len()..];
    }
    rest.ends_with(last)
}

#[test]
fn lines_are_compared_with_wildcards() {
    assert!(line_matches("hello", "hello"));
    assert!(!line_matches("hello", "hello, world"));
    assert!(line_matches("node … is leader…", "node 3 is leader at term 2"));
    assert!(!line_matches("node … is leader", "node 3 is leader at term 2"));
    assert_eq!(first_missing("a\nc\n", "a\nb\nc\n"), None);
    assert_eq!(first_missing("c\na\n", "a\nb\nc\n"), Some("a"));
}

#[test]
fn blocks_are_found_in_their_order() {
    let expected = vec![Block::Shell("one\ntwo\n".to_string()), Block::Output("three\n".to_string())];
    assert_eq!(blocks("# Title\n```sh\none\ntwo\n```\nprose\n```text\nthree\n```\n"), expected);
}

/// Where and how the tour runs.
struct Tour {
    folder: std::path::PathBuf,
    first_port: u16,
    /// Run before each block, in the same shell.
    prelude: String,
    terminals: Vec<Process>,
}

impl Tour {
    /// The text with the ports moved.
    fn moved(&self, text: &str) -> String {
        PORT_OFFSETS.iter().fold(text.to_string(), |text, offset| {
            text.replace(&(FIRST_PORT + offset).to_string(), &(self.first_port + offset).to_string())
        })
    }

    fn shell(&self, script: &str) -> Command {
        let mut command = Command::new("bash");
        command.args(["-euo", "pipefail", "-c"]).arg(format!("{}\n{script}", self.prelude));
        forget_package(&mut command);
        // What the tour makes, temporary folders too, goes away with the folder.
        command.current_dir(&self.folder).env_remove("RUST_LOG").env("TMPDIR", &self.folder);
        command
    }

    fn run(&mut self, blocks: &[Block]) {
        let mut output = String::new();
        for block in blocks {
            match block {
                Block::Shell(script) if script.starts_with("cargo run") => {
                    output = self.open_terminal(&self.moved(script));
                }
                Block::Shell(script) => {
                    let script = self.moved(script);
                    let result = self.shell(&script).output().expect("bash starts");
                    output = String::from_utf8_lossy(&result.stdout).into_owned();
                    let errors = String::from_utf8_lossy(&result.stderr);
                    assert!(result.status.success(), "{}\n{script}\n{output}\n{errors}", result.status);
                }
                Block::Output(expected) => {
                    let expected = self.moved(expected);
                    if let Some(line) = first_missing(&expected, &output) {
                        panic!(
                            "the README shows\n{expected}\nbut the commands print\n{output}\nwithout the line {line:?}"
                        );
                    }
                }
            }
        }
    }

    /// Starts what runs until it is stopped, and waits until it serves. Returns what it has printed by then.
    fn open_terminal(&mut self, script: &str) -> String {
        let terminal = Process::start_command(script.trim(), self.shell(script));
        // A release build may have to be made first.
        let within = PATIENCE * 40;
        if script.contains(" demo") {
            terminal.wait_for_line("what to try", within, |line| line.contains("curl "));
        } else {
            let mut words = script.split_whitespace().skip_while(|word| *word != "--port").skip(1);
            let port = words.next().and_then(|port| port.parse().ok()).expect("the command names its port");
            eventually("the node serves", within, || {
                assert!(terminal.is_running(), "{script} ended: {:#?}", terminal.stderr());
                Http::new(port).try_get(STATUS_PATH).ok()
            });
        }
        let output = terminal.lines().join("\n");
        self.terminals.push(terminal);
        output
    }

    /// Ctrl-C in every terminal, the latest first.
    fn close(self) {
        for terminal in self.terminals.iter().rev() {
            let children = children_of(terminal.id());
            terminal.signal(Signal::INT);
            terminal.wait_for_exit(PATIENCE);
            for child in children {
                eventually("the nodes end with their demo", PATIENCE, || (!process_is_alive(child)).then_some(()));
            }
        }
    }
}

fn children_of(parent: u32) -> Vec<u32> {
    let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
    children.split_whitespace().filter_map(|id| id.parse().ok()).collect()
}

#[test]
fn the_readme_opens_with_the_two_commands() {
    let readme = readme();
    let blocks = blocks(&readme);
    let commands: Vec<&str> = blocks
        .iter()
        .filter_map(|block| match block {
            Block::Shell(script) => Some(script.as_str()),
            Block::Output(_) => None,
        })
        .collect();
    assert_eq!(commands.first(), Some(&"cargo run --release -- demo\n"));
    assert_eq!(commands.iter().filter(|script| **script == "cargo test --workspace\n").count(), 1);
    assert!(commands.len() >= 8, "a tour has more steps than {}", commands.len());
}

/// Takes the tour on free ports in a scratch folder, where `program ARGUMENTS` stands for `cargo run --release -- ARGUMENTS`.
fn take_the_tour(program: &str) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let first_port = free_base_port(&PORT_OFFSETS);
    let prelude = format!(
        r#"cargo() {{
            case "$*" in
                "run --release -- demo --tls "*) shift 3; exec {program} "$@" ;;
                "run --release -- demo"*) shift 4; exec {program} demo --base-port {first_port} "$@" ;;
                "run --release -- "*) shift 3; exec {program} "$@" ;;
                "test --workspace") ;;
                *) echo "the tour calls cargo $*, which this test does not know" >&2; exit 1 ;;
            esac
        }}"#
    );
    let mut tour = Tour { folder: folder.path().to_path_buf(), first_port, prelude, terminals: Vec::new() };
    tour.run(&blocks(&readme()));
    tour.close();
}

#[test]
fn the_tour_works() {
    take_the_tour(&format!("'{}'", raftexample().display()));
}

#[test]
#[ignore = "makes a release build; run by .ci/run"]
fn the_tour_works_with_a_release_build() {
    let manifest = root().join("Cargo.toml");
    take_the_tour(&format!("cargo run --release --manifest-path '{}' --", manifest.display()));
}
