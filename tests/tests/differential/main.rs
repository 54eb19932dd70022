//! The same random life, led twice: by our nodes and by those of crate `raft` 0.7, in lock-step.
//!
//! Two clusters of three nodes, one of each kind, are given the same events in the same order. After each event the node
//! that it happened to is compared with its double: role, term, vote, leader, commit index, the log, what was applied,
//! and every message that left. Messages under way are ours; their double is given the same one in its own encoding, so
//! that one difference does not hide the next.
//!
//! A difference must have a rule here, as narrow as it can be, or the test fails. Every rule says which of both does what
//! and why, and the summary line counts how often it was needed.
//!
//! | rule | crate `raft` 0.7 | here | why |
//! |---|---|---|---|
//! | `pacing` | a heartbeat's answer frees one place in a full window and the next entries go; a paused probe is answered at once | a full window is probed with an empty append; a member that can commit more is told so at once (etcd since 3.6) | when appends go is flow control; what they say is compared with the sender's log, commit indexes at every step, and how many there are has a ceiling for each side |
//! | `commit-told` | answers and vote messages carry the sender's commit index | only refusals of nodes that are no voters do | group commit and elections by commit index need it there |
//! | `removed-campaigns` | a node that is no voter campaigns when it is told to | refuses, as etcd does | the script ends there |
//! | `removed-leader` | panics when it next commits | steps down (switched off here), else goes on beating, as in etcd | the script ends there |
//! | `early-read` | a read that comes before the leader's first commit is dropped | waits for it | it is not delivered |
//! | `old-vote` | with quorum checks or pre-votes on, a request for a vote of a lower term is ignored | it is refused, with the term | delivered to both |
//! | `commit-heard` | only a candidate learns from a vote's answer what is committed | whoever gets it does | it is not delivered |
//! | `leave-sooner` | a leader proposes to leave a joint configuration at once, also while it hands over or has applied nothing of its term | it tries at each apply, and as everybody's proposal | the script ends there |
//! | `commit-asked` | | a candidate tells a node that refused it, and is not a voter that it knows of, how far the log is committed | it is not delivered |
//! | (no rule) | of two reads with one context, one is answered | both are | reads are not repeated |
//! | `read-answer` | the answer to a forwarded read is taken from anybody, and also moves the commit index | only from the leader, and it moves nothing | that it is sent is compared; it is not delivered |
//!
//! Half of the scripts change members, one at a time and through joint configurations; half compact logs, so that who falls
//! behind needs a snapshot, which is lost or arrives, and whose fate is reported. Both keep their logs and snapshots in
//! storages that do the same. When a snapshot is sent is flow control; what it says is compared with the sender's newest.
//!
//! Left out: asynchronous storage, and what only one of them has (priorities, group commit, fetched snapshots; storage
//! threads, `forget_leader`).
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use raft::eraftpb as theirs;
use raft_core::pb::{self, MessageType};
use raft_core::{ConfChangeKind, Config, SnapshotStatus, StateType, NO_LIMIT};
use tests::random::Random;

use nodes::{Here, Shown, There};
use said::{change_there, message_there, said_here, said_there, Said};

mod nodes;
mod said;
mod storage;

const NODES: u64 = 3;
const ELECTION_TICK: usize = 4;
const SCRIPTS: u64 = 1_500;
const STEPS: usize = 400;

/// How many appends and snapshots one of both may send that the other does not: more would be a storm, and no matter of
/// pacing. There are 24 at most in a step (the entries of a long log, one by one) and 126 in a script, and 3.0 of ours and
/// 2.6 of theirs in a hundred steps.
const ALONE_IN_A_STEP: u64 = 32;
const ALONE_IN_A_SCRIPT: u64 = 200;
const ALONE_IN_A_HUNDRED_STEPS: u64 = 5;

/// A message under way: ours, and the context that their double of it had.
type Letter = (pb::Message, Vec<u8>);

struct Script {
    seed: u64,
    random: Random,
    here: Vec<Here>,
    there: Vec<There>,
    network: Vec<Letter>,
    rules: BTreeMap<&'static str, u64>,
    compared: u64,
    count: u64,
    story: Vec<String>,
    with_changes: bool,
    with_snapshots: bool,
    /// Appends and snapshots that only ours sent, and only theirs.
    alone: BTreeMap<&'static str, u64>,
    /// Snapshots that were taken over.
    restored: u64,
    /// Steps inside of joint configurations.
    joint: u64,
    parted: bool,
}

impl Script {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let check_quorum = random.below(2) == 0;
        let pre_vote = random.below(2) == 0;
        let with_changes = random.below(2) == 0;
        let with_snapshots = random.below(2) == 0;
        let one_by_one = random.below(3) == 0;
        let window = [1, 2, 256][random.below(3) as usize];
        let size = if one_by_one { 0 } else { NO_LIMIT };
        let here = (1..=NODES).map(|id| {
            Here::new(Config {
                election_tick: ELECTION_TICK,
                heartbeat_tick: 1,
                check_quorum,
                pre_vote,
                max_size_per_msg: size,
                max_committed_size_per_ready: NO_LIMIT,
                max_uncommitted_entries_size: 0,
                max_inflight_msgs: window,
                max_inflight_bytes: 0,
                step_down_on_removal: false,
                ..Config::new(id)
            })
        });
        let there = (1..=NODES).map(|id| {
            There::new(raft::Config {
                election_tick: ELECTION_TICK,
                heartbeat_tick: 1,
                min_election_tick: ELECTION_TICK,
                max_election_tick: ELECTION_TICK + 1,
                check_quorum,
                pre_vote,
                max_size_per_msg: size,
                max_committed_size_per_ready: NO_LIMIT,
                max_inflight_msgs: window,
                ..raft::Config::new(id)
            })
        });
        let (here, there) = (here.collect(), there.collect());
        Script {
            seed,
            random,
            here,
            there,
            network: Vec::new(),
            rules: BTreeMap::new(),
            compared: 0,
            count: 0,
            story: Vec::new(),
            with_changes,
            with_snapshots,
            alone: BTreeMap::new(),
            restored: 0,
            joint: 0,
            parted: false,
        }
    }

    fn rule(&mut self, name: &'static str) {
        *self.rules.entry(name).or_default() += 1;
    }

    fn step(&mut self) {
        // Theirs panics when a leader that has removed itself next commits.
        let removed = |(node, id): (&Here, u64)| {
            let shown = node.shown();
            shown.role == StateType::Leader && !shown.members.votes(id)
        };
        if self.here.iter().zip(1..).any(removed) {
            self.rule("removed-leader");
            self.parted = true;
            return;
        }
        let id = 1 + self.random.below(NODES);
        let at = id as usize - 1;
        let what = match self.random.below(100) {
            0..=11 => {
                let _ = self.here[at].raw.tick();
                self.there[at].raw.tick();
                format!("tick {id}")
            }
            12..=13 => {
                let _ = self.here[at].raw.campaign();
                let _ = self.there[at].raw.campaign();
                format!("campaign {id}")
            }
            14..=22 => {
                self.count += 1;
                let data = format!("p{}", self.count);
                let here = self.here[at].raw.propose(data.clone()).is_ok();
                let there = self.there[at].raw.propose(vec![], data.into_bytes()).is_ok();
                assert_eq!(here, there, "seed {}: whether a proposal is taken", self.seed);
                format!("propose {id}")
            }
            23..=26 if !self.with_changes && self.leader_may_read(at) => {
                self.count += 1;
                let context = self.count.to_le_bytes().to_vec();
                let _ = self.here[at].raw.read_index(context.clone());
                self.there[at].raw.read_index(context);
                format!("read {id}")
            }
            27 => {
                let to = 1 + self.random.below(NODES);
                let _ = self.here[at].raw.transfer_leader(to);
                self.there[at].raw.transfer_leader(to);
                format!("transfer {id} to {to}")
            }
            28 => {
                self.restart(at);
                format!("restart {id}")
            }
            29..=30 if self.with_changes => {
                self.change(at);
                format!("change {id}")
            }
            31..=33 if !self.network.is_empty() => {
                let lost = self.random.below(self.network.len() as u64) as usize;
                let (message, _) = self.network.remove(lost);
                if message.snapshot.is_some() {
                    self.report(message.from, message.to, false);
                }
                return;
            }
            34..=39 if self.with_snapshots && self.compact(at) => format!("compact {id}"),
            _ => return self.deliver(),
        };
        self.compare(at, what);
    }

    /// Whether the leader that this node knows of has committed an entry of its term.
    fn leader_may_read(&self, at: usize) -> bool {
        let lead = self.here[at].shown().lead;
        let Some(leader) = self.here.get((lead as usize).wrapping_sub(1)).map(Here::shown) else { return false };
        leader.role == StateType::Leader && leader.holds((leader.commit, leader.term))
    }

    fn restart(&mut self, at: usize) {
        self.here[at].restart();
        self.there[at].restart();
    }

    /// One member more, less, or a learner; or several at once, through a joint configuration; or the way out of one.
    fn change(&mut self, at: usize) {
        let draw = |random: &mut Random| {
            let change_type = [0, 0, 1, 3][random.below(4) as usize];
            pb::ConfChangeSingle { change_type, node_id: 1 + random.below(NODES) }
        };
        let change = match self.random.below(8) {
            0..=3 => pb::ConfChangeV2 { changes: vec![draw(&mut self.random)], ..Default::default() },
            4 => pb::ConfChangeV2::default(),
            _ => {
                let transition = self.random.below(3) as i32;
                let count = 1 + self.random.below(3);
                let changes = (0..count).map(|_| draw(&mut self.random)).collect();
                pb::ConfChangeV2 { transition, changes, ..Default::default() }
            }
        };
        let (kind, data) = ConfChangeKind::V2(change.clone()).encode();
        let entry = pb::Entry { entry_type: kind as i32, data, ..Default::default() };
        let _ = self.here[at].raw.propose_conf_change(change);
        let _ = self.there[at].raw.propose_conf_change(vec![], change_there(&entry));
    }

    /// A snapshot of what this node has applied; its log is dropped up to there, or nearly.
    fn compact(&mut self, at: usize) -> bool {
        let keep = [0, 0, 1, 4][self.random.below(4) as usize];
        let done = self.here[at].compact(keep);
        if let Some(done) = done {
            self.there[at].compact(done);
        }
        done.is_some()
    }

    /// The transport's word on a snapshot that node `to` got, or did not get.
    fn report(&mut self, from: u64, to: u64, arrived: bool) {
        let at = from as usize - 1;
        let (here, there) = match arrived {
            true => (SnapshotStatus::Finish, raft::SnapshotStatus::Finish),
            false => (SnapshotStatus::Failure, raft::SnapshotStatus::Failure),
        };
        self.here[at].raw.report_snapshot(to, here);
        self.there[at].raw.report_snapshot(to, there);
        self.compare(at, format!("{from} hears of the snapshot to {to}: {arrived}"));
    }

    fn deliver(&mut self) {
        if self.network.is_empty() {
            return;
        }
        let window = if self.random.below(8) == 0 { self.network.len() } else { self.network.len().min(5) };
        let which = self.random.below(window as u64) as usize;
        let repeatable = self.network[which].0.kind() != Some(MessageType::MsgReadIndex);
        let (message, context) = match self.random.below(30) {
            0 if repeatable => self.network[which].clone(),
            _ => self.network.remove(which),
        };
        let at = message.to as usize - 1;
        // What ours keep for later, and whom they believe: see the table.
        let kind = message.kind().expect("known");
        let early = kind == MessageType::MsgReadIndex && !self.leader_may_read(at);
        let late = kind == MessageType::MsgReadIndexResp;
        if early || late {
            self.rule(if early { "early-read" } else { "read-answer" });
            return;
        }
        let is_vote = matches!(kind, MessageType::MsgVoteResp | MessageType::MsgPreVoteResp);
        let role = self.here[at].shown().role;
        if is_vote && message.commit != 0 && !matches!(role, StateType::Candidate | StateType::PreCandidate) {
            self.rule("commit-heard");
            return;
        }
        let what = format!("deliver {}", raft_core::describe::message(&message));
        let double = message_there(&message, &context);
        let snapshot = message.snapshot.is_some().then_some((message.from, message.to));
        let before = self.here[at].shown().base;
        let _ = self.here[at].raw.step(message);
        let _ = self.there[at].raw.step(double);
        self.compare(at, what);
        self.restored += u64::from(snapshot.is_some() && self.here[at].shown().base > before);
        if let Some((from, to)) = snapshot.filter(|_| !self.parted) {
            self.report(from, to, true);
        }
    }

    fn compare(&mut self, at: usize, what: String) {
        let here = self.here[at].work();
        let there = self.there[at].work();
        self.compared += 1;
        self.story.push(what);
        self.compare_messages(at, here, there);
        let (one, two) = (self.here[at].shown(), self.there[at].shown());
        self.joint += u64::from(!one.members.outgoing.is_empty());
        if !self.parted && is_left_sooner_there(&one, &two) {
            self.rule("leave-sooner");
            self.parted = true;
        }
        if one != two && !self.parted {
            self.fail(at, &format!("here  {one:?}\nthere {two:?}"));
        }
    }

    fn fail(&self, at: usize, what: &str) -> ! {
        let story = self.story.iter().rev().take(40).rev().cloned().collect::<Vec<_>>().join("\n");
        panic!("{story}\n\nseed {}, step {}, node {}: they differ\n{what}", self.seed, self.story.len(), at + 1);
    }

    fn compare_messages(&mut self, at: usize, here: Vec<pb::Message>, there: Vec<theirs::Message>) {
        let mut left: Vec<Option<theirs::Message>> = there.into_iter().map(Some).collect();
        let mut unmatched = Vec::new();
        for message in here {
            let said = said_here(&message);
            let double = left.iter_mut().find(|one| {
                one.as_ref().is_some_and(|one| {
                    let mut other = said_there(one);
                    normalise(&said, &mut other);
                    other == said
                })
            });
            match double.and_then(Option::take) {
                Some(double) => {
                    let mut other = said_there(&double);
                    for rule in normalise(&said, &mut other) {
                        self.rule(rule);
                    }
                    self.network.push((message, double.context.to_vec()));
                }
                None => unmatched.push(message),
            }
        }
        // When to send appends, and how much in one, is each library's own affair, but what they say must be true of
        // the sender's log. Ours go under way, for both; theirs is lost.
        let shown = self.here[at].shown();
        let (mut here, mut there) = (Vec::new(), Vec::new());
        let mut alone = [0; 2];
        for message in unmatched {
            let said = said_here(&message);
            if is_true_append(&shown, &said) || is_true_snapshot(&shown, &said) {
                self.rule("pacing");
                alone[0] += 1;
                self.network.push((message, Vec::new()));
            } else if is_refusal_of_an_old_request(&shown, &said, self.story.last()) {
                self.rule("old-vote");
                self.network.push((message, Vec::new()));
            } else if said.commit != 0 && said.commit == said.index && is_request(&said) {
                self.rule("commit-asked");
            } else {
                here.push(said);
            }
        }
        for said in left.iter().flatten().map(said_there) {
            if is_true_append(&shown, &said) || is_true_snapshot(&shown, &said) {
                self.rule("pacing");
                alone[1] += 1;
            } else {
                there.push(said);
            }
        }
        for (side, count) in ["ours", "theirs"].into_iter().zip(alone) {
            self.alone.entry(side).and_modify(|all| *all += count).or_insert(count);
            let all = self.alone[side];
            if count > ALONE_IN_A_STEP || all > ALONE_IN_A_SCRIPT {
                self.fail(at, &format!("a storm: {count} appends that only {side} sends, {all} in this script"));
            }
        }
        if here.is_empty() && there.is_empty() {
            return;
        }
        let is_voter = shown.members.votes(at as u64 + 1);
        if here.is_empty() && there.iter().all(is_request) && !is_voter {
            self.rule("removed-campaigns");
            self.parted = true;
            return;
        }
        self.fail(at, &format!("only here {here:?}\nonly there {there:?}"));
    }
}

/// An append whose previous entry, entries and commit index are those of the sender.
fn is_true_append(sender: &Shown, said: &Said) -> bool {
    let holds = |index: u64, term: u64| sender.holds((index, term));
    said.kind == MessageType::MsgApp as i32
        && sender.role == StateType::Leader
        && said.term == sender.term
        && said.commit <= sender.commit
        && holds(said.index, said.log_term)
        && said.entries.iter().all(|(index, term, ..)| holds(*index, *term))
}

/// A leader's newest snapshot.
fn is_true_snapshot(sender: &Shown, said: &Said) -> bool {
    let sent = said.snapshot.as_ref().map(|(index, term, ..)| (*index, *term));
    said.kind == MessageType::MsgSnap as i32
        && sender.role == StateType::Leader
        && said.term == sender.term
        && sent.is_some()
        && sent == sender.snapshot
}

/// Their leader has proposed to leave a joint configuration, and ours has not yet: it hands over just now, or it leads anew
/// and has applied nothing of its term.
fn is_left_sooner_there(here: &Shown, there: &Shown) -> bool {
    let later = here.transferee != 0 || here.applied.last().is_none_or(|(_, term)| *term < here.term);
    let leads = here.role == StateType::Leader && here.members.auto_leave;
    let more = there.log.len() == here.log.len() + 1 && there.log.starts_with(&here.log);
    later && leads && more && *there == Shown { log: there.log.clone(), ..here.clone() }
}

fn is_request(said: &Said) -> bool {
    said.kind == MessageType::MsgVote as i32 || said.kind == MessageType::MsgPreVote as i32
}

/// The answer to a request for a vote of a lower term that was just delivered.
fn is_refusal_of_an_old_request(sender: &Shown, said: &Said, delivered: Option<&String>) -> bool {
    let request = format!("deliver {:x}->{:x} MsgVote Term:", said.to, said.from);
    let term = delivered.and_then(|what| what.strip_prefix(&request)?.split(' ').next()?.parse::<u64>().ok());
    said.kind == MessageType::MsgVoteResp as i32
        && said.reject
        && said.term == sender.term
        && term.is_some_and(|term| term < sender.term)
}

/// Takes out of their message what only they say; the rules that were needed.
fn normalise(here: &Said, there: &mut Said) -> Vec<&'static str> {
    let mut rules = Vec::new();
    let kinds = [
        MessageType::MsgVote,
        MessageType::MsgPreVote,
        MessageType::MsgVoteResp,
        MessageType::MsgPreVoteResp,
        MessageType::MsgAppResp,
        MessageType::MsgHeartbeatResp,
    ];
    if here.commit == 0 && there.commit != 0 && kinds.iter().any(|kind| *kind as i32 == there.kind) {
        there.commit = 0;
        rules.push("commit-told");
    }
    // Ours says the term of the committed entry where theirs has a field of its own.
    if here.reject && here.commit != 0 && here.kind == there.kind && there.kind != MessageType::MsgAppResp as i32 {
        there.log_term = here.log_term;
    }
    rules
}

#[test]
fn both_lead_the_same_life_but_for_what_is_explained() {
    let (mut compared, mut restored, mut joint, mut rules) = (0, 0, 0, BTreeMap::new());
    let mut alone = BTreeMap::new();
    let first = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let seeds = first.map_or(0..SCRIPTS, |seed: u64| seed..seed + 1);
    let scripts = seeds.clone().count();
    for seed in seeds {
        let mut script = Script::new(seed);
        for _ in 0..STEPS {
            script.step();
            if script.parted {
                break;
            }
        }
        compared += script.compared;
        restored += script.restored;
        joint += script.joint;
        for (rule, count) in script.rules {
            *rules.entry(rule).or_insert(0) += count;
        }
        for (side, count) in script.alone {
            *alone.entry(side).or_insert(0) += count;
        }
    }
    let enough = compared > 100_000 && restored > 200 && joint > 2_000;
    assert!(first.is_some() || enough, "too few: {compared} steps, {joint} of them joint, {restored} snapshots");
    let calm = alone.values().all(|count| count * 100 <= compared * ALONE_IN_A_HUNDRED_STEPS);
    assert!(first.is_some() || calm, "a storm: appends that only one of them sends: {alone:?} in {compared} steps");
    println!(
        "differential scripts={scripts} steps={compared} joint={joint} snapshots={restored} unexplained=0 \
         alone={alone:?} explained={rules:?}"
    );
}
