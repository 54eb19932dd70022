//! Whatever is typed at the lab's prompt, it answers: no panic, no endless loop. Commands, options and numbers are
//! picked at random, small ones and absurd ones.

use std::collections::BTreeMap;

use proptest::prelude::*;

use tests::datadriven::{parse_command, Directive};
use tests::interaction::{Environment, COMMANDS};

fn number() -> impl Strategy<Value = String> {
    prop_oneof![
        20 => (0u64..7).prop_map(|number| number.to_string()),
        5 => (9u64..16).prop_map(|number| number.to_string()),
        1 => prop::sample::select(vec![u64::MAX, u64::MAX - 1, u64::MAX / 2, u64::MAX / 2 + 1]).prop_map(|n| n.to_string()),
        1 => "[a-z]{0,3}|-1|1\\.5",
    ]
}

fn word() -> impl Strategy<Value = String> {
    let keys = prop::sample::select(vec![
        "index",
        "voters",
        "learners",
        "term",
        "log-term",
        "commit",
        "from",
        "to",
        "applied",
        "timeout",
        "drop",
        "inflight",
        "max-committed-size-per-ready",
        "max-size-per-msg",
        "max-uncommitted-size",
        "reject-hint",
    ]);
    let flags = prop::sample::select(vec![
        "async-storage-writes=true",
        "prevote=true",
        "checkquorum=true",
        "step-down-on-removal=true",
        "v1=true",
        "disable-conf-change-validation=true",
        "transition=explicit",
        "transition=implicit",
        "type=MsgApp",
        "type=MsgVote",
        "type=MsgSnap",
        "type=MsgAppResp",
        "type=MsgHeartbeatResp",
        "status=failure",
        "status=finish",
        "reject=true",
        "true",
        "false",
        "none",
        "v4",
        "l5",
        "r1",
        "r2 v4",
        "read-only=lease-based",
        "auto-leave=true",
    ]);
    prop_oneof![
        6 => number(),
        2 => (keys, number()).prop_map(|(key, number)| format!("{key}={number}")),
        2 => flags.prop_map(str::to_string),
    ]
}

/// A command with words that may or may not suit it, or a step of an ordinary life.
fn line() -> impl Strategy<Value = String> {
    let names: Vec<&str> = COMMANDS.iter().map(|command| command.name).collect();
    let examples: Vec<&str> = COMMANDS.iter().map(|command| command.example).collect();
    let strange = (prop::sample::select(names), prop::collection::vec(word(), 0..5))
        .prop_map(|(name, words)| format!("{name} {}", words.join(" ")));
    let ordinary = (
        prop::sample::select(vec![
            "stabilize",
            "stabilize ID",
            "campaign ID",
            "propose ID x",
            "tick ID 3",
            "crash ID",
            "restart ID",
            "process-ready ID",
            "deliver-msgs ID",
            "deliver-msgs drop=(ID)",
            "partition ID",
            "heal",
            "read-index ID r",
            "propose-conf-change ID vID rID",
            "propose-conf-change ID lID",
            "propose-conf-change ID",
            "process-append-thread ID",
            "process-apply-thread ID",
            "tick-heartbeat ID",
            "tick-election ID",
            "duplicate-msgs ID",
            "reverse-msgs ID",
            "transfer-leadership from=ID to=ID",
            "forget-leader ID",
            "send-snapshot ID ID",
            "report-snapshot ID ID status=failure",
            "report-unreachable ID ID",
            "wipe ID",
            "lose-log ID from=11",
            "storage-fault ID gone",
            "storage-fault ID none",
            "compact ID 11",
        ]),
        prop::collection::vec(1u64..6, 3),
    )
        .prop_map(|(pattern, ids)| {
            ids.iter().fold(pattern.to_string(), |line, id| line.replacen("ID", &id.to_string(), 1))
        });
    prop_oneof![2 => strange, 8 => ordinary, 1 => prop::sample::select(examples).prop_map(str::to_string)]
}

fn start() -> impl Strategy<Value = String> {
    let options = prop::collection::vec(
        prop::sample::select(vec![
            "async-storage-writes=true",
            "prevote=true",
            "checkquorum=true",
            "step-down-on-removal=true",
            "inflight=1",
            "max-size-per-msg=0",
            "max-committed-size-per-ready=1",
            "disable-conf-change-validation=true",
        ]),
        0..4,
    );
    options.prop_map(|options| format!("add-nodes 3 voters=(1,2,3) index=10 {}", options.join(" ")))
}

fn run(environment: &mut Environment, line: &str) -> String {
    match parse_command(line) {
        Ok((command, args)) => environment.handle(&Directive::new(command, args, String::new())),
        Err(error) => error,
    }
}

/// Who leads which term, as `raft-state` shows it.
fn leaders(state: &str) -> Vec<(String, String)> {
    let leaders = state.lines().filter(|line| line.contains("StateLeader"));
    let word = |line: &str, place: usize| line.split(' ').nth(place).unwrap_or_default().to_string();
    leaders.map(|line| (word(line, 3), word(line, 0))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_typed_is_answered(start in start(), lines in prop::collection::vec(line(), 1..80)) {
        let mut environment = Environment::new();
        run(&mut environment, &start);
        for line in lines {
            prop_assert!(!run(&mut environment, &line).is_empty());
        }
    }

    /// Without forged messages and lost disks, one node at most leads a term.
    #[test]
    fn one_leader_a_term(start in start(), lines in prop::collection::vec(line(), 1..120)) {
        let forged = |line: &String| {
            let words = ["step", "wipe", "lose-log", "add-nodes", "expect-error", "compact"];
            words.iter().any(|word| line.starts_with(word)) || line.contains("applied=")
        };
        let mut environment = Environment::new();
        // Without the checks, membership changes may be stacked that do not overlap.
        run(&mut environment, &start.replace("disable-conf-change-validation=true", ""));
        let mut leader_of: BTreeMap<String, String> = BTreeMap::new();
        for line in lines.iter().filter(|line| !forged(line)) {
            run(&mut environment, line);
            run(&mut environment, "log-level debug");
            for (term, id) in leaders(&run(&mut environment, "raft-state")) {
                let known = leader_of.entry(term.clone()).or_insert_with(|| id.clone());
                prop_assert_eq!(&*known, &id, "{} after {}", term, line);
            }
        }
    }
}
