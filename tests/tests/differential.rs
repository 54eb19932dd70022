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
//! | `pacing` | a heartbeat's answer frees one place in a full window and the next entries go; a paused probe is answered at once | a full window is probed with an empty append; a member that can commit more is told so at once (etcd since 3.6) | when appends go is flow control; what they say is compared with the sender's log, and commit indexes at every step |
//! | `commit-told` | answers and vote messages carry the sender's commit index | only refusals of nodes that are no voters do | group commit and elections by commit index need it there |
//! | `removed-campaigns` | a node that is no voter campaigns when it is told to | refuses, as etcd does | the script ends there |
//! | `removed-leader` | panics when it next commits | steps down (switched off here), else goes on beating, as in etcd | the script ends there |
//! | `early-read` | a read that comes before the leader's first commit is dropped | waits for it | it is not delivered |
//! | `old-vote` | with quorum checks or pre-votes on, a request for a vote of a lower term is ignored | it is refused, with the term | delivered to both |
//! | `commit-asked` | | a candidate tells a node that refused it, and is not a voter that it knows of, how far the log is committed | it is not delivered |
//! | (no rule) | of two reads with one context, one is answered | both are | reads are not repeated |
//! | `read-answer` | the answer to a forwarded read is taken from anybody, and also moves the commit index | only from the leader, and it moves nothing | that it is sent is compared; it is not delivered |
//!
//! Left out: snapshots, whose contents the two libraries leave to storages that differ, asynchronous storage, and what
//! only one of them has (priorities, group commit, fetched snapshots; storage threads, `forget_leader`).
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use protobuf::Message as _;
use raft::eraftpb as theirs;
use raft::storage::MemStorage;
use raft_core::pb::{self, MessageType};
use raft_core::{ConfChangeKind, Config, MemoryStorage, RawNode, StateType, NO_LIMIT};
use tests::random::Random;

const NODES: u64 = 3;
const ELECTION_TICK: usize = 4;
const SCRIPTS: u64 = 1_500;
const STEPS: usize = 400;

/// A message of either library, field by field.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Said {
    kind: i32,
    from: u64,
    to: u64,
    term: u64,
    log_term: u64,
    index: u64,
    /// Index, term, type, payload (not of configuration changes, which are encoded differently).
    entries: Vec<(u64, u64, i32, Vec<u8>)>,
    commit: u64,
    reject: bool,
    reject_hint: u64,
    /// Vote requests: the campaign type. Heartbeats: whether reads are asked about.
    context: Vec<u8>,
}

fn is_heartbeat(kind: i32) -> bool {
    kind == MessageType::MsgHeartbeat as i32 || kind == MessageType::MsgHeartbeatResp as i32
}

fn said_here(message: &pb::Message) -> Said {
    let entries = message.entries.iter();
    let data = |entry: &pb::Entry| if entry.is_conf_change() { Vec::new() } else { entry.data.to_vec() };
    Said {
        kind: message.msg_type,
        from: message.from,
        to: message.to,
        term: message.term,
        log_term: message.log_term,
        index: message.index,
        entries: entries.map(|entry| (entry.index, entry.term, entry.entry_type, data(entry))).collect(),
        commit: message.commit,
        reject: message.reject,
        reject_hint: message.reject_hint,
        context: if is_heartbeat(message.msg_type) { Vec::new() } else { message.context.to_vec() },
    }
}

fn said_there(message: &theirs::Message) -> Said {
    let kind = message.get_msg_type() as i32;
    let entries = message.get_entries().iter().map(|entry| {
        let kind = entry.get_entry_type() as i32;
        let data = if kind == 0 { entry.data.to_vec() } else { Vec::new() };
        (entry.index, entry.term, kind, data)
    });
    Said {
        kind,
        from: message.from,
        to: message.to,
        term: message.term,
        log_term: message.log_term,
        index: message.index,
        entries: entries.collect(),
        commit: message.commit,
        reject: message.reject,
        reject_hint: message.reject_hint,
        context: if is_heartbeat(kind) { Vec::new() } else { message.context.to_vec() },
    }
}

fn change_there(entry: &pb::Entry) -> theirs::ConfChangeV2 {
    let change = ConfChangeKind::decode(entry).expect("a change of ours").into_v2();
    let mut double = theirs::ConfChangeV2::default();
    double.set_transition(match change.transition {
        0 => theirs::ConfChangeTransition::Auto,
        1 => theirs::ConfChangeTransition::Implicit,
        _ => theirs::ConfChangeTransition::Explicit,
    });
    for single in &change.changes {
        let mut one = theirs::ConfChangeSingle { node_id: single.node_id, ..Default::default() };
        one.set_change_type(match single.change_type {
            0 => theirs::ConfChangeType::AddNode,
            1 => theirs::ConfChangeType::RemoveNode,
            _ => theirs::ConfChangeType::AddLearnerNode,
        });
        double.mut_changes().push(one);
    }
    double
}

fn entry_there(entry: &pb::Entry) -> theirs::Entry {
    let mut double = theirs::Entry { index: entry.index, term: entry.term, ..Default::default() };
    if entry.is_conf_change() {
        double.set_entry_type(theirs::EntryType::EntryConfChangeV2);
        if !entry.data.is_empty() {
            double.data = change_there(entry).write_to_bytes().expect("encode").into();
        }
    } else {
        double.data = entry.data.clone();
    }
    double
}

/// Our message in their encoding, with the context that their own had: what identifies reads is each library's own.
fn message_there(message: &pb::Message, context: &[u8]) -> theirs::Message {
    use theirs::MessageType as There;
    let mut double = theirs::Message {
        from: message.from,
        to: message.to,
        term: message.term,
        log_term: message.log_term,
        index: message.index,
        commit: message.commit,
        reject: message.reject,
        reject_hint: message.reject_hint,
        context: context.to_vec().into(),
        ..Default::default()
    };
    let kinds = [
        There::MsgHup,
        There::MsgBeat,
        There::MsgPropose,
        There::MsgAppend,
        There::MsgAppendResponse,
        There::MsgRequestVote,
        There::MsgRequestVoteResponse,
        There::MsgSnapshot,
        There::MsgHeartbeat,
        There::MsgHeartbeatResponse,
        There::MsgUnreachable,
        There::MsgSnapStatus,
        There::MsgCheckQuorum,
        There::MsgTransferLeader,
        There::MsgTimeoutNow,
        There::MsgReadIndex,
        There::MsgReadIndexResp,
        There::MsgRequestPreVote,
        There::MsgRequestPreVoteResponse,
    ];
    double.set_msg_type(kinds[message.msg_type as usize]);
    let is_vote_answer =
        [MessageType::MsgVoteResp, MessageType::MsgPreVoteResp].contains(&message.kind().expect("known"));
    if is_vote_answer && message.commit != 0 {
        (double.commit_term, double.log_term) = (message.log_term, 0);
    }
    double.set_entries(message.entries.iter().map(entry_there).collect::<Vec<_>>().into());
    double
}

/// What is compared of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Shown {
    role: StateType,
    term: u64,
    vote: u64,
    lead: u64,
    commit: u64,
    log: Vec<(u64, u64)>,
    applied: Vec<(u64, u64)>,
    reads: Vec<(Vec<u8>, u64)>,
    voters: Vec<u64>,
}

struct Here {
    raw: RawNode<MemoryStorage>,
    config: Config,
    applied: Vec<(u64, u64)>,
    reads: Vec<(Vec<u8>, u64)>,
    voters: Vec<u64>,
}

impl Here {
    fn new(config: Config) -> Self {
        let mut storage = MemoryStorage::new();
        let voters: Vec<u64> = (1..=NODES).collect();
        storage.set_conf_state(pb::ConfState { voters: voters.clone(), ..Default::default() });
        let raw = RawNode::restart(config.clone(), storage).expect("a node");
        Here { raw, config, applied: Vec::new(), reads: Vec::new(), voters }
    }

    fn work(&mut self) -> Vec<pb::Message> {
        let mut sent = Vec::new();
        while self.raw.has_ready() {
            let mut ready = self.raw.ready().expect("ready");
            sent.extend(ready.take_messages());
            for read in ready.take_read_states() {
                self.reads.push((read.request_ctx.to_vec(), read.index));
            }
            let storage = self.raw.storage_mut();
            if let Some(hard_state) = ready.hard_state() {
                storage.set_hard_state(hard_state);
            }
            storage.append(ready.entries()).expect("append");
            let mut persisted = ready.persisted();
            sent.extend(persisted.take_messages());
            for entry in persisted.take_committed_entries() {
                self.applied.push((entry.index, entry.term));
                if entry.is_conf_change() {
                    let change = ConfChangeKind::decode(&entry).expect("a change of ours");
                    if let Ok(conf_state) = self.raw.apply_conf_change(change) {
                        self.voters = conf_state.voters;
                    }
                }
            }
            self.raw.advance(persisted).expect("advance");
        }
        self.raw.forget_history();
        sent
    }

    fn shown(&self) -> Shown {
        let status = self.raw.basic_status();
        let (base, _, entries) = self.raw.whole_log().expect("log");
        assert_eq!(base, 0, "nothing is compacted here");
        Shown {
            role: status.soft_state.state,
            term: status.hard_state.term,
            vote: status.hard_state.vote,
            lead: status.soft_state.lead,
            commit: status.hard_state.commit,
            log: entries.iter().map(|entry| (entry.index, entry.term)).collect(),
            applied: self.applied.clone(),
            reads: self.reads.clone(),
            voters: self.voters.clone(),
        }
    }
}

struct There {
    raw: raft::RawNode<MemStorage>,
    storage: MemStorage,
    config: raft::Config,
    applied: Vec<(u64, u64)>,
    reads: Vec<(Vec<u8>, u64)>,
    voters: Vec<u64>,
}

impl There {
    fn new(config: raft::Config) -> Self {
        let voters: Vec<u64> = (1..=NODES).collect();
        let storage = MemStorage::new_with_conf_state((voters.clone(), vec![]));
        let raw = Self::start(&config, &storage);
        There { raw, storage, config, applied: Vec::new(), reads: Vec::new(), voters }
    }

    fn start(config: &raft::Config, storage: &MemStorage) -> raft::RawNode<MemStorage> {
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        raft::RawNode::new(config, storage.clone(), &logger).expect("a node")
    }

    fn apply(&mut self, entries: Vec<theirs::Entry>) {
        for entry in entries {
            self.applied.push((entry.index, entry.term));
            if entry.get_entry_type() == theirs::EntryType::EntryConfChangeV2 {
                let mut change = theirs::ConfChangeV2::default();
                change.merge_from_bytes(&entry.data).expect("a change of ours");
                if let Ok(conf_state) = self.raw.apply_conf_change(&change) {
                    self.voters = conf_state.voters.clone();
                    self.voters.sort_unstable();
                    self.storage.wl().set_conf_state(conf_state);
                }
            }
        }
    }

    fn work(&mut self) -> Vec<theirs::Message> {
        let mut sent = Vec::new();
        while self.raw.has_ready() {
            let mut ready = self.raw.ready();
            sent.extend(ready.take_messages());
            for read in ready.take_read_states() {
                self.reads.push((read.request_ctx, read.index));
            }
            self.apply(ready.take_committed_entries());
            {
                let mut storage = self.storage.wl();
                storage.append(ready.entries()).expect("append");
                if let Some(hard_state) = ready.hs() {
                    storage.set_hardstate(hard_state.clone());
                }
            }
            sent.extend(ready.take_persisted_messages());
            let mut light = self.raw.advance(ready);
            if let Some(commit) = light.commit_index() {
                self.storage.wl().mut_hard_state().set_commit(commit);
            }
            sent.extend(light.take_messages());
            self.apply(light.take_committed_entries());
            self.raw.advance_apply();
        }
        sent
    }

    fn shown(&self) -> Shown {
        let raft = &self.raw.raft;
        let entries = raft.raft_log.all_entries();
        Shown {
            role: match raft.state {
                raft::StateRole::Follower => StateType::Follower,
                raft::StateRole::Candidate => StateType::Candidate,
                raft::StateRole::Leader => StateType::Leader,
                raft::StateRole::PreCandidate => StateType::PreCandidate,
            },
            term: raft.term,
            vote: raft.vote,
            lead: raft.leader_id,
            commit: raft.raft_log.committed,
            log: entries.iter().map(|entry| (entry.index, entry.term)).collect(),
            applied: self.applied.clone(),
            reads: self.reads.clone(),
            voters: self.voters.clone(),
        }
    }
}

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
    parted: bool,
}

impl Script {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let check_quorum = random.below(2) == 0;
        let pre_vote = random.below(2) == 0;
        let with_changes = random.below(2) == 0;
        let one_by_one = random.below(3) == 0;
        let window = [1, 2, 256][random.below(3) as usize];
        let size = if one_by_one { 0 } else { NO_LIMIT };
        let here = (1..=NODES).map(|id| {
            let mut node = Here::new(Config {
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
            });
            node.raw.forget_history();
            node
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
            shown.role == StateType::Leader && !shown.voters.contains(&id)
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
                self.network.remove(lost);
                return;
            }
            _ => return self.deliver(),
        };
        self.compare(at, what);
    }

    /// Whether the leader that this node knows of has committed an entry of its term.
    fn leader_may_read(&self, at: usize) -> bool {
        let lead = self.here[at].shown().lead;
        let Some(leader) = self.here.get((lead as usize).wrapping_sub(1)).map(Here::shown) else { return false };
        leader.role == StateType::Leader && leader.log.contains(&(leader.commit, leader.term))
    }

    fn restart(&mut self, at: usize) {
        let here = &mut self.here[at];
        here.raw = RawNode::restart(here.config.clone(), here.raw.storage().clone()).expect("restart");
        here.raw.forget_history();
        here.applied.clear();
        here.reads.clear();
        let there = &mut self.there[at];
        // Both begin to apply anew, from the founders' configuration.
        let founders: Vec<u64> = (1..=NODES).collect();
        there.storage.wl().set_conf_state((founders.clone(), Vec::<u64>::new()).into());
        there.raw = There::start(&there.config, &there.storage);
        there.applied.clear();
        there.reads.clear();
        (here.voters, there.voters) = (founders.clone(), founders);
    }

    fn change(&mut self, at: usize) {
        let node_id = 1 + self.random.below(NODES);
        let change_type = if self.random.below(2) == 0 { 0 } else { 1 };
        let change =
            pb::ConfChangeV2 { changes: vec![pb::ConfChangeSingle { change_type, node_id }], ..Default::default() };
        let (kind, data) = ConfChangeKind::V2(change.clone()).encode();
        let entry = pb::Entry { entry_type: kind as i32, data, ..Default::default() };
        let _ = self.here[at].raw.propose_conf_change(change);
        let _ = self.there[at].raw.propose_conf_change(vec![], change_there(&entry));
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
        let what = format!("deliver {}", raft_core::describe::message(&message));
        let double = message_there(&message, &context);
        let _ = self.here[at].raw.step(message);
        let _ = self.there[at].raw.step(double);
        self.compare(at, what);
    }

    fn compare(&mut self, at: usize, what: String) {
        let here = self.here[at].work();
        let there = self.there[at].work();
        self.compared += 1;
        self.story.push(what);
        self.compare_messages(at, here, there);
        let (one, two) = (self.here[at].shown(), self.there[at].shown());
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
        for message in unmatched {
            let said = said_here(&message);
            if is_true_append(&shown, &said) {
                self.rule("pacing");
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
            if is_true_append(&shown, &said) {
                self.rule("pacing");
            } else {
                there.push(said);
            }
        }
        if here.is_empty() && there.is_empty() {
            return;
        }
        let is_voter = shown.voters.contains(&(at as u64 + 1));
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
    let holds = |index: u64, term: u64| (index, term) == (0, 0) || sender.log.contains(&(index, term));
    said.kind == MessageType::MsgApp as i32
        && sender.role == StateType::Leader
        && said.term == sender.term
        && said.commit <= sender.commit
        && holds(said.index, said.log_term)
        && said.entries.iter().all(|(index, term, ..)| holds(*index, *term))
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
    let (mut compared, mut rules) = (0, BTreeMap::new());
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
        for (rule, count) in script.rules {
            *rules.entry(rule).or_insert(0) += count;
        }
    }
    assert!(first.is_some() || compared > 100_000, "only {compared} steps were compared");
    println!("differential scripts={scripts} steps={compared} unexplained=0 explained={rules:?}");
}
