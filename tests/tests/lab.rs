//! The lab as a program: what comes through a pipe, what a file shows.

use std::fs;
use std::io::Write;
use std::process::{Command, Output, Stdio};

fn lab(args: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_lab"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the lab starts");
    // A lab that reads no input may have ended by now.
    let _ = child.stdin.take().expect("stdin is piped").write_all(input.as_bytes());
    child.wait_with_output().expect("the lab ends")
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).expect("the lab prints text")
}

#[test]
fn commands_come_through_a_pipe() {
    let script = "# A story.\nadd-nodes 3 voters=(1,2,3) index=2\ncampaign 1\nstabilize log-level=none\nraft-state\n\
                  propose-conf-change 1 r3\nraft-log 9\nhelp campaign\nreset\nraft-state\nquit\nnever reached\n";
    let seen = stdout(&lab(&[], script));
    assert!(seen.starts_with("# A story.\nraft> add-nodes 3 voters=(1,2,3) index=2\nINFO 1 switched"), "{seen}");
    assert!(seen.contains("raft> raft-state\n1: StateLeader (Voter) Term:1 Lead:1\n2: StateFollower"), "{seen}");
    assert!(seen.contains("raft> raft-log 9\nthere is no node 9\n"), "{seen}");
    assert!(seen.contains("raft> help campaign\ncampaign ID\n"), "{seen}");
    assert!(seen.ends_with("raft> reset\nok\nraft> raft-state\nok\nraft> quit\n"), "{seen}");
}

#[test]
fn input_follows_a_colon() {
    let script =
        "add-nodes 2 voters=(1,2) index=2\nstep 2 type=MsgApp from=1 term=1 index=2 log-term=1 :\n1/3 hello\n\n\
                  stabilize 2\nraft-log 2\n";
    let seen = stdout(&lab(&[], script));
    assert!(seen.contains("2->1 MsgAppResp Term:1 Log:0/3\n"), "{seen}");
    assert!(seen.ends_with("raft> raft-log 2\n1/3 EntryNormal \"hello\"\n"), "{seen}");
}

#[test]
fn a_trace_is_told_and_differences_are_named() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("trace.txt");
    let trace = "# Alone.\nadd-nodes 1 voters=(1) index=2\n----\nsomething else\n\nlog-level none\n----\nok\n";
    fs::write(&path, trace).expect("the file is written");
    let seen = stdout(&lab(&[path.to_str().expect("a path in UTF-8")], ""));
    assert!(seen.starts_with("# Alone.\nraft> add-nodes 1 voters=(1) index=2\nINFO 1 switched"), "{seen}");
    assert_eq!(seen.matches("(the file expects something else here)").count(), 1, "{seen}");
    assert!(seen.contains("raft> log-level none\nok\n\n"), "{seen}");
}

#[test]
fn mistakes_are_one_line() {
    let missing = lab(&["/nonexistent/trace.txt"], "");
    assert_eq!(missing.status.code(), Some(2));
    let message = String::from_utf8_lossy(&missing.stderr).into_owned();
    assert!(message.starts_with("/nonexistent/trace.txt: "), "{message}");
    assert_eq!(message.lines().count(), 1);
    let seen = stdout(&lab(&[], "dance 1\nadd-nodes 1 voters=(1\ncampaign\ncampaign x\n"));
    assert_eq!(
        seen,
        "raft> dance 1\nunknown command\nraft> add-nodes 1 voters=(1\n`(` without `)` in `add-nodes 1 voters=(1`\n\
         raft> campaign\nnode id is missing\nraft> campaign x\nnode id: \"x\" is not understood\n"
    );
}
