//! [`RawNode`]'s contract: what a `Ready` holds and in which order it is worked off, the three constructors, paging of
//! committed entries, asynchronous storage writes.
#![forbid(unsafe_code)]

use raft_core::confchange::parse_changes;
use raft_core::pb::*;
use raft_core::testing::Cluster;
use raft_core::{
    ConfChangeKind, Config, Error, MemoryStorage, Peer, Persisted, RawNode, Ready, StateType, Storage, StorageError,
    LOCAL_APPEND_THREAD, LOCAL_APPLY_THREAD, NO_LIMIT,
};
use MessageType::*;

type Node = RawNode<MemoryStorage>;

fn config(id: u64) -> Config {
    Config { check_quorum: false, pre_vote: false, max_inflight_bytes: 0, ..Config::new(id) }
}

fn peers(count: u64) -> Vec<Peer> {
    (1..=count).map(|id| Peer { id, ..Peer::default() }).collect()
}

fn message(kind: MessageType, from: u64, term: u64) -> Message {
    Message { from, to: 1, term, ..Message::of(kind) }
}

fn members(voters: &[u64]) -> ConfState {
    ConfState { voters: voters.to_vec(), ..ConfState::default() }
}

fn indexes(entries: &[Entry]) -> Vec<u64> {
    entries.iter().map(|entry| entry.index).collect()
}

fn persist(raw: &mut Node, ready: &Ready) {
    let storage = raw.storage_mut();
    if let Some(snapshot) = ready.snapshot() {
        storage.apply_snapshot(snapshot.clone()).unwrap();
    }
    storage.append(ready.entries()).unwrap();
    if let Some(hard_state) = ready.hard_state() {
        storage.set_hard_state(hard_state);
    }
}

fn apply(raw: &mut Node, persisted: &mut Persisted) -> Entries {
    let entries = persisted.take_committed_entries();
    for entry in entries.iter().filter(|entry| entry.is_conf_change()) {
        raw.apply_conf_change(ConfChangeKind::decode(entry).unwrap()).unwrap();
    }
    entries
}

/// One Ready, carried out as it should be: what was sent, what was applied.
fn handle(raw: &mut Node) -> (Vec<Message>, Entries) {
    let mut ready = raw.ready().unwrap();
    let mut sent: Vec<_> = ready.take_messages().collect();
    persist(raw, &ready);
    let mut persisted = ready.persisted();
    sent.extend(persisted.take_messages());
    let applied = apply(raw, &mut persisted);
    raw.advance(persisted).unwrap();
    (sent, applied)
}

fn handle_all(raw: &mut Node) -> (Vec<Message>, Entries) {
    let (mut sent, mut applied) = (Vec::new(), Entries::new());
    while raw.has_ready() {
        let (more_sent, more_applied) = handle(raw);
        sent.extend(more_sent);
        applied.extend(more_applied);
    }
    (sent, applied)
}

/// Alone, leading, everything applied.
fn lone_leader(change: impl FnOnce(&mut Config)) -> Node {
    let mut config = config(1);
    change(&mut config);
    let mut raw = RawNode::bootstrap(config, MemoryStorage::new(), &peers(1)).unwrap();
    handle_all(&mut raw);
    raw.campaign().unwrap();
    handle_all(&mut raw);
    assert_eq!(raw.basic_status().soft_state.state, StateType::Leader);
    raw
}

#[test]
fn step_takes_what_peers_send_and_nothing_else() {
    let mut raw = lone_leader(|_| {});
    for number in 0..24 {
        let kind = MessageType::try_from(number).unwrap();
        let result = raw.step(Message { entries: [Entry::default()].into(), ..message(kind, 2, 1) });
        if raft_core::is_local_message(kind) {
            assert_eq!(result, Err(Error::StepLocalMessage), "{kind:?}");
        } else if raft_core::is_response_message(kind) {
            assert_eq!(result, Err(Error::StepPeerNotFound { from: 2 }), "{kind:?}");
        } else {
            assert!(!matches!(result, Err(Error::StepLocalMessage | Error::StepPeerNotFound { .. })), "{kind:?}");
        }
    }
    let elsewhere = Message { to: 2, ..message(MsgHeartbeat, 2, 9) };
    assert_eq!(raw.step(elsewhere), Err(Error::Malformed { from: 2, what: "it is addressed to another node" }));
    assert_eq!(
        raw.step(Message { msg_type: 99, ..message(MsgApp, 2, 1) }),
        Err(Error::Malformed { from: 2, what: "its type is unknown" })
    );
    assert_eq!(raw.basic_status().hard_state.term, 2, "nothing of all that moved the term");
}

#[test]
fn which_types_are_local_and_which_are_responses() {
    for number in 0..24 {
        let kind = MessageType::try_from(number).unwrap();
        let local = matches!(number, 0 | 1 | 10 | 11 | 12 | 19 | 20 | 21 | 22);
        let response = matches!(number, 4 | 6 | 9 | 10 | 16 | 18 | 20 | 22);
        assert_eq!(
            (raft_core::is_local_message(kind), raft_core::is_response_message(kind)),
            (local, response),
            "{kind:?}"
        );
    }
}

#[test]
fn a_founder_starts_with_its_members_committed() {
    let mut raw = RawNode::bootstrap(config(1), MemoryStorage::new(), &peers(2)).unwrap();
    let ready = raw.ready().unwrap();
    assert_eq!(ready.hard_state(), Some(HardState { term: 1, vote: 0, commit: 2 }));
    assert!(ready.must_sync());
    assert_eq!((indexes(ready.entries()), indexes(ready.committed_entries())), (vec![1, 2], vec![1, 2]));
    assert!(ready.entries().iter().all(|entry| entry.is_conf_change() && entry.term == 1));
    persist(&mut raw, &ready);
    let mut persisted = ready.persisted();
    apply(&mut raw, &mut persisted);
    raw.advance(persisted).unwrap();
    assert!(!raw.has_ready());
    assert_eq!(raw.status().config.to_string(), "voters=(1 2)");
}

#[test]
fn each_constructor_refuses_the_others_storage() {
    let mut used = MemoryStorage::new();
    used.set_hard_state(HardState { term: 1, vote: 0, commit: 0 });
    let mut configured = MemoryStorage::new();
    configured.set_conf_state(members(&[1]));
    for storage in [used, configured] {
        assert!(matches!(RawNode::bootstrap(config(1), storage.clone(), &peers(1)), Err(Error::WrongConstructor(_))));
        assert!(matches!(RawNode::join(config(1), storage.clone()), Err(Error::WrongConstructor(_))));
        RawNode::restart(config(1), storage).unwrap();
    }
    assert!(matches!(RawNode::restart(config(1), MemoryStorage::new()), Err(Error::WrongConstructor(_))));
    assert!(matches!(RawNode::bootstrap(config(1), MemoryStorage::new(), &[]), Err(Error::WrongConstructor(_))));
    let nobody = [Peer { id: 0, ..Peer::default() }];
    assert!(matches!(RawNode::bootstrap(config(1), MemoryStorage::new(), &nobody), Err(Error::ConfChange(_))));
    let mut raw = RawNode::join(config(1), MemoryStorage::new()).unwrap();
    raw.campaign().unwrap();
    assert!(!raw.has_ready(), "who joins waits to be called");
}

#[test]
fn a_restart_hands_out_what_was_committed_and_nothing_to_persist() {
    let mut storage = MemoryStorage::new();
    storage.set_conf_state(members(&[1]));
    storage
        .append(&[Entry { term: 1, index: 1, ..Entry::default() }, Entry { term: 1, index: 2, ..Entry::normal("foo") }])
        .unwrap();
    storage.set_hard_state(HardState { term: 1, vote: 0, commit: 1 });
    let mut raw = RawNode::restart(config(1), storage).unwrap();
    let ready = raw.ready().unwrap();
    assert_eq!((ready.hard_state(), ready.soft_state(), ready.must_sync()), (None, None, false));
    assert_eq!((indexes(ready.entries()), indexes(ready.committed_entries())), (vec![], vec![1]));
    raw.advance(ready.persisted()).unwrap();
    assert!(!raw.has_ready());
}

#[test]
fn a_restart_goes_on_behind_its_snapshot_or_where_the_application_is() {
    let metadata = SnapshotMetadata { conf_state: members(&[1, 2]), index: 2, term: 1 };
    let mut storage = MemoryStorage::new();
    storage.apply_snapshot(Snapshot { metadata, data: "state".into() }).unwrap();
    storage.append([3, 4].map(|index| Entry { term: 1, index, ..Entry::normal("x") })).unwrap();
    storage.set_hard_state(HardState { term: 1, vote: 0, commit: 4 });
    for (applied, expected) in [(0, vec![3, 4]), (2, vec![3, 4]), (3, vec![4]), (4, vec![])] {
        let mut raw = RawNode::restart(Config { applied, ..config(1) }, storage.clone()).unwrap();
        assert_eq!(raw.has_ready(), !expected.is_empty());
        assert_eq!(indexes(&handle_all(&mut raw).1), expected, "{applied}");
        assert_eq!(raw.basic_status().applied, 4);
    }
}

#[test]
fn a_ready_is_worked_off_before_the_next_one() {
    let mut raw = lone_leader(|_| {});
    raw.propose("a").unwrap();
    assert!(raw.has_ready());
    let ready = raw.ready().unwrap();
    assert!(!raw.has_ready(), "not while one is outstanding");
    assert_eq!(raw.ready().map(drop), Err(Error::ReadyNotAdvanced));
    raw.propose("b").unwrap();
    assert_eq!(raw.basic_status().hard_state.commit, 2, "its own disk has not answered");
    persist(&mut raw, &ready);
    raw.advance(ready.persisted()).unwrap();
    let old = raw.ready().unwrap();
    assert_eq!(
        (indexes(old.entries()), indexes(old.committed_entries())),
        (vec![4], vec![3]),
        "committed after durable"
    );
    persist(&mut raw, &old);
    raw.advance(old.persisted()).unwrap();
    handle_all(&mut raw);
    // What was never handed out, or by another node, is not taken.
    let mut other = lone_leader(|_| {});
    other.propose("x").unwrap();
    let foreign = other.ready().unwrap().persisted();
    assert_eq!(raw.advance(foreign), Err(Error::AdvanceUnexpected));
    raw.propose("c").unwrap();
    let ready = raw.ready().unwrap();
    assert_eq!(raw.advance(Ready::default().persisted()), Err(Error::AdvanceUnexpected));
    raw.advance(ready.persisted()).expect("the right one is still welcome");
}

#[test]
fn there_is_a_ready_exactly_when_there_is_something_in_it() {
    let mut raw = RawNode::bootstrap(config(1), MemoryStorage::new(), &peers(3)).unwrap();
    handle_all(&mut raw);
    assert!(!raw.has_ready() && raw.ready().unwrap().is_empty());
    let empty = raw.ready();
    assert_eq!(empty.map(drop), Err(Error::ReadyNotAdvanced), "an empty one has to be advanced too");
    let mut raw = RawNode::bootstrap(config(1), MemoryStorage::new(), &peers(3)).unwrap();
    handle_all(&mut raw);
    let heard = |raw: &mut Node, message: Message| {
        raw.step(message).unwrap();
        assert!(raw.has_ready());
        let mut ready = raw.ready().unwrap();
        let seen = (
            ready.soft_state().is_some(),
            ready.hard_state().is_some(),
            ready.entries().len(),
            ready.committed_entries().len(),
        );
        let sync = ready.must_sync();
        let at_once = ready.take_messages().len();
        persist(raw, &ready);
        let mut persisted = ready.persisted();
        let after = persisted.take_messages().len();
        raw.advance(persisted).unwrap();
        assert!(!raw.has_ready());
        (seen, sync, at_once, after)
    };
    // A leader shows up in a new term: role, term; the answer to a heartbeat promises nothing.
    assert_eq!(heard(&mut raw, message(MsgHeartbeat, 2, 2)), ((true, true, 0, 0), true, 1, 0));
    assert_eq!(heard(&mut raw, message(MsgHeartbeat, 2, 2)), ((false, false, 0, 0), false, 1, 0));
    // Entries: their acknowledgement is a promise.
    let entries = vec![Entry { term: 2, index: 4, ..Entry::normal("x") }];
    let append = Message { log_term: 1, index: 3, entries: entries.into(), ..message(MsgApp, 2, 2) };
    assert_eq!(heard(&mut raw, append), ((false, false, 1, 0), true, 0, 1));
    // Commit alone need not be synced.
    let commit = Message { log_term: 2, index: 4, commit: 4, ..message(MsgApp, 2, 2) };
    assert_eq!(heard(&mut raw, commit), ((false, true, 0, 1), false, 0, 1));
    // A vote in a new term.
    let vote = Message { log_term: 2, index: 9, ..message(MsgVote, 3, 3) };
    assert_eq!(heard(&mut raw, vote), ((true, true, 0, 0), true, 0, 1));
}

#[test]
fn a_snapshot_and_committed_entries_never_share_a_ready() {
    let mut raw = RawNode::join(config(1), MemoryStorage::new()).unwrap();
    let metadata = SnapshotMetadata { conf_state: members(&[1, 2]), index: 5, term: 2 };
    let snapshot = Snapshot { metadata, data: "state".into() };
    raw.step(Message { snapshot: Some(Box::new(snapshot.clone())), ..message(MsgSnap, 2, 2) }).unwrap();
    let entries = vec![Entry { term: 2, index: 6, ..Entry::normal("x") }];
    raw.step(Message { log_term: 2, index: 5, commit: 6, entries: entries.into(), ..message(MsgApp, 2, 2) }).unwrap();
    let ready = raw.ready().unwrap();
    assert_eq!(
        (ready.snapshot(), ready.committed_entries().len(), indexes(ready.entries())),
        (Some(&snapshot), 0, vec![6])
    );
    persist(&mut raw, &ready);
    raw.advance(ready.persisted()).unwrap();
    assert_eq!(indexes(&handle(&mut raw).1), [6]);
}

#[test]
fn the_application_gets_its_reads_and_status() {
    let mut raw = lone_leader(|_| {});
    raw.read_index("ctx").unwrap();
    let ready = raw.ready().unwrap();
    let reads: Vec<_> = ready.read_states().iter().map(|read| (read.index, read.request_ctx.clone())).collect();
    assert_eq!(reads, [(2, "ctx".into())]);
    raw.advance(ready.persisted()).unwrap();
    assert!(!raw.has_ready(), "a read is answered once");
    let status = raw.status();
    assert_eq!(
        (status.basic.id, status.basic.applied, status.basic.soft_state.lead, status.basic.lead_transferee),
        (1, 2, 1, 0)
    );
    assert_eq!(status.basic.hard_state, HardState { term: 2, vote: 1, commit: 2 });
    assert_eq!(
        (status.progress.len(), status.progress.get(&1).unwrap().match_index, status.config.to_string()),
        (1, 2, "voters=(1)".into())
    );
    raw.step(message(MsgHeartbeat, 2, 9)).unwrap();
    assert!(raw.status().progress.is_empty(), "only a leader knows");
}

/// Every kind of change: the configuration in force, and while joint; and the explicit or automatic way out.
#[test]
fn changes_go_through_the_log() {
    use ConfChangeTransition::{
        ConfChangeTransitionAuto as Auto, ConfChangeTransitionJointExplicit as Explicit,
        ConfChangeTransitionJointImplicit as Implicit,
    };
    for (transition, words, joint, left) in [
        (Auto, "v2", None, "voters=(1 2)"),
        (Auto, "l2", None, "voters=(1) learners=(2)"),
        (Auto, "u1", None, "voters=(1)"),
        (Auto, "l2 l3", Some("voters=(1)&&(1) learners=(2 3) autoleave"), "voters=(1) learners=(2 3)"),
        (Implicit, "l2", Some("voters=(1)&&(1) learners=(2) autoleave"), "voters=(1) learners=(2)"),
        (Explicit, "l2", Some("voters=(1)&&(1) learners=(2)"), "voters=(1) learners=(2)"),
        (Explicit, "l1 l2 v3 r3", None, ""), // no voter would be left
    ] {
        let mut raw = lone_leader(|_| {});
        let change = ConfChangeV2::new(transition, parse_changes(words).unwrap());
        raw.propose_conf_change(change.clone()).unwrap();
        let (_, applied) = if left.is_empty() { (vec![], Entries::new()) } else { handle_until_conf_change(&mut raw) };
        if left.is_empty() {
            assert!(raw.apply_conf_change(change).is_err());
            continue;
        }
        assert_eq!(ConfChangeKind::decode(applied.last().unwrap()).unwrap(), change.into());
        if let Some(joint) = joint {
            assert_eq!(raw.status().config.to_string(), joint);
        }
        handle_all(&mut raw);
        if transition == Explicit {
            assert_eq!(raw.status().config.to_string(), joint.unwrap(), "it stays until it is told to leave");
            let another = ConfChangeV2::new(Auto, parse_changes("v9").unwrap());
            assert!(matches!(raw.propose_conf_change(another), Err(Error::ConfChangeRefused(_))));
            handle_all(&mut raw);
            let leave = ConfChangeV2 { context: "bye".into(), ..ConfChangeV2::default() };
            raw.propose_conf_change(leave).unwrap();
            handle_all(&mut raw);
        }
        assert_eq!(raw.status().config.to_string(), left);
    }
}

/// Up to the Ready that applies a change, that one included.
fn handle_until_conf_change(raw: &mut Node) -> (Vec<Message>, Entries) {
    loop {
        let done = handle(raw);
        if done.1.iter().any(Entry::is_conf_change) {
            return done;
        }
    }
}

#[test]
fn adding_a_member_twice_is_two_entries_and_one_member() {
    let mut cluster = Cluster::with(1, |config| config.check_quorum = false).unwrap();
    cluster.elect(50).unwrap();
    cluster.join(config(2)).unwrap();
    for context in ["first", "again"] {
        let mut add = ConfChange::new(ConfChangeType::ConfChangeAddNode, 2);
        add.context = context.into();
        cluster.node(1).unwrap().propose_conf_change(add).unwrap();
        cluster.settle().unwrap();
    }
    let storage = cluster.node(1).unwrap().storage();
    let entries = storage.entries(3, storage.last_index().unwrap() + 1, NO_LIMIT).unwrap();
    let contexts: Vec<_> =
        entries.iter().map(|entry| ConfChangeKind::decode(entry).unwrap().context().clone()).collect();
    assert_eq!(contexts, ["first", "again"]);
    assert_eq!(cluster.member(2).unwrap().conf_state, members(&[1, 2]));
}

#[test]
fn a_follower_that_may_not_forward_says_whom_to_ask() {
    let mut cluster = Cluster::with(3, |config| config.disable_proposal_forwarding = true).unwrap();
    let leader = cluster.elect(100).unwrap().unwrap();
    let other = leader % 3 + 1;
    let refused = cluster.node(other).unwrap().propose("x");
    assert_eq!(refused, Err(Error::ProposalDropped(raft_core::DropReason::ForwardingDisabled { leader })));
    cluster.node(leader).unwrap().propose("y").unwrap();
    cluster.settle().unwrap();
    assert_eq!(cluster.applied(other), ["y"]);
}

/// What a follower asks of a node that led before reaches the new leader, and the answer comes back to who asked.
#[test]
fn a_read_that_takes_a_detour_is_answered_where_it_was_asked() {
    let mut cluster = Cluster::with(3, |config| (config.check_quorum, config.pre_vote) = (false, false)).unwrap();
    cluster.settle().unwrap();
    cluster.node(1).unwrap().campaign().unwrap();
    cluster.settle().unwrap();
    cluster.isolate(2);
    cluster.node(3).unwrap().campaign().unwrap();
    cluster.settle().unwrap();
    cluster.heal();
    // 2 still follows 1, 1 follows 3.
    cluster.node(2).unwrap().read_index("detour").unwrap();
    cluster.settle().unwrap();
    let mut reads =
        |id| cluster.member(id).unwrap().reads.iter().map(|read| read.request_ctx.clone()).collect::<Vec<_>>();
    assert_eq!((reads(1), reads(2)), (vec![], vec!["detour".into()]));
}

#[test]
fn a_partitioned_leader_does_not_grow_without_bound() {
    let mut cluster = Cluster::with(3, |config| {
        config.check_quorum = false;
        config.max_uncommitted_entries_size = 1000;
    })
    .unwrap();
    let leader = cluster.elect(100).unwrap().unwrap();
    cluster.isolate(leader);
    let taken = (0..1000).filter(|_| cluster.node(leader).unwrap().propose(vec![0; 100]).is_ok()).count();
    assert_eq!(taken, 10);
    cluster.settle().unwrap();
    cluster.heal();
    for _ in 0..5 {
        cluster.tick().unwrap();
    }
    assert_eq!(cluster.applied(leader).len(), 10);
    cluster.node(leader).unwrap().propose("again").unwrap();
}

#[test]
fn committed_entries_come_in_pages() {
    let size = |count: usize| (count * (6 + 2 + 100)) as u64;
    // Limits: two and a half entries; no byte at all, neither of both settings.
    for (limit, per_msg, expected) in [(size(2) + 50, NO_LIMIT, 2), (1, NO_LIMIT, 1), (0, 0, 1), (0, size(3), 3)] {
        let mut raw = lone_leader(|config| {
            config.max_committed_size_per_ready = limit;
            config.max_size_per_msg = per_msg;
        });
        for _ in 0..9 {
            raw.propose(vec![b'a'; 100]).unwrap();
        }
        let mut pages = Vec::new();
        while raw.has_ready() {
            let applied = handle(&mut raw).1;
            pages.extend((!applied.is_empty()).then(|| indexes(&applied)));
        }
        assert!(pages.iter().all(|page| page.len() <= expected), "{limit} {per_msg}: {pages:?}");
        assert!(pages.iter().any(|page| page.len() == expected), "{limit} {per_msg}: {pages:?}");
        assert_eq!(pages.concat(), (3..=11).collect::<Vec<_>>(), "{limit} {per_msg}");
    }
}

/// A storage that does not care about the limit must not make a page skip entries.
#[derive(Debug)]
struct Generous(MemoryStorage);

impl Storage for Generous {
    fn initial_state(&self) -> Result<(HardState, ConfState), StorageError> {
        self.0.initial_state()
    }
    fn entries(&self, low: u64, high: u64, _: u64) -> Result<Entries, StorageError> {
        self.0.entries(low, high, NO_LIMIT)
    }
    fn term(&self, index: u64) -> Result<u64, StorageError> {
        self.0.term(index)
    }
    fn first_index(&self) -> Result<u64, StorageError> {
        self.0.first_index()
    }
    fn last_index(&self) -> Result<u64, StorageError> {
        self.0.last_index()
    }
    fn snapshot(&self) -> Result<Snapshot, StorageError> {
        self.0.snapshot()
    }
}

#[test]
fn pages_after_a_restart_leave_nothing_out() {
    let mut storage = MemoryStorage::new();
    storage.set_conf_state(members(&[1]));
    let entries: Vec<Entry> = (1..=10).map(|index| Entry { term: 1, index, ..Entry::normal("a") }).collect();
    storage.append(&entries).unwrap();
    storage.set_hard_state(HardState { term: 1, vote: 1, commit: 10 });
    for limit in [1, 20, 25, 60, 89] {
        let config = Config { max_committed_size_per_ready: limit, ..config(1) };
        let mut raw = RawNode::restart(config, Generous(storage.clone())).unwrap();
        let mut applied = Vec::new();
        while raw.has_ready() {
            let ready = raw.ready().unwrap();
            let mut persisted = ready.persisted();
            applied.extend(indexes(&persisted.take_committed_entries()));
            raw.advance(persisted).unwrap();
        }
        assert_eq!(applied, (1..=10).collect::<Vec<_>>(), "{limit}");
    }
}

/// One storage message of the given kind among these.
fn storage_work(ready: &mut Ready, kind: MessageType) -> Option<Message> {
    ready.take_messages().find(|message| message.kind() == Some(kind))
}

fn async_leader() -> Node {
    let mut storage = MemoryStorage::new();
    storage.set_conf_state(members(&[1]));
    let config = Config { async_storage_writes: true, max_committed_size_per_ready: 30, ..config(1) };
    let mut raw = RawNode::restart(config, storage).unwrap();
    raw.campaign().unwrap();
    raw
}

/// Storage's and the application's threads work as fast as they can.
fn run_threads(raw: &mut Node, applied: &mut Vec<u64>) {
    while raw.has_ready() {
        let mut ready = raw.ready().unwrap();
        for work in ready.take_messages() {
            match work.kind().unwrap() {
                MsgStorageAppend => {
                    if work.term != 0 {
                        let hard_state = HardState { term: work.term, vote: work.vote, commit: work.commit };
                        raw.storage_mut().set_hard_state(hard_state);
                    }
                    raw.storage_mut().append(&work.entries).unwrap();
                }
                MsgStorageApply => applied.extend(indexes(&work.entries)),
                other => panic!("{other:?}"),
            }
            for response in work.responses {
                raw.step(response).unwrap();
            }
        }
    }
}

#[test]
fn asynchronous_storage_work_comes_as_messages_with_the_answers_in_them() {
    let mut raw = async_leader();
    let mut ready = raw.ready().unwrap();
    let work = storage_work(&mut ready, MsgStorageAppend).unwrap();
    assert_eq!((work.to, work.from, work.term, work.vote, work.commit), (LOCAL_APPEND_THREAD, 1, 1, 1, 0));
    assert_eq!(work.responses.iter().map(|m| (m.kind().unwrap(), m.to)).collect::<Vec<_>>(), [(MsgVoteResp, 1)]);
    // There is no cycle to wait for, and nothing to advance.
    assert!(ready.persisted().take_messages().next().is_none());
    assert_eq!(raw.advance(Ready::default().persisted()), Err(Error::AdvanceUnexpected));
    raw.step(work.responses[0].clone()).unwrap();
    let mut ready = raw.ready().unwrap();
    let work = storage_work(&mut ready, MsgStorageAppend).unwrap();
    assert_eq!((work.term, indexes(&work.entries)), (0, vec![1]), "no hard state, if it did not change");
    let answers: Vec<_> = work.responses.iter().map(|m| (m.kind().unwrap(), m.from, m.to, m.term, m.index)).collect();
    assert_eq!(answers, [(MsgAppResp, 1, 1, 1, 1), (MsgStorageAppendResp, LOCAL_APPEND_THREAD, 1, 1, 1)]);
    // Only what is durable here is applied.
    raw.storage_mut().append(&work.entries).unwrap();
    raw.step(work.responses[0].clone()).unwrap();
    assert_eq!(raw.basic_status().hard_state.commit, 1);
    let mut ready = raw.ready().unwrap();
    assert!(ready.committed_entries().is_empty());
    // The commit index is saved; that message repeats the report, in case the first one's term were gone.
    let next = storage_work(&mut ready, MsgStorageAppend).unwrap();
    assert_eq!((next.term, next.commit, next.entries.len(), next.responses.len()), (1, 1, 0, 1));
    raw.step(work.responses[1].clone()).unwrap();
    let mut ready = raw.ready().unwrap();
    let work = storage_work(&mut ready, MsgStorageApply).unwrap();
    assert_eq!((work.to, work.term, indexes(&work.entries), work.responses.len()), (LOCAL_APPLY_THREAD, 0, vec![1], 1));
    assert_eq!((work.responses[0].kind(), work.responses[0].from), (Some(MsgStorageApplyResp), LOCAL_APPLY_THREAD));
    assert_eq!(raw.basic_status().applied, 0);
    raw.step(work.responses[0].clone()).unwrap();
    assert_eq!(raw.basic_status().applied, 1);
}

/// The limit holds over all pages that are under way together.
#[test]
fn asynchronous_pages_wait_for_the_application() {
    let mut raw = async_leader();
    let mut applied = Vec::new();
    run_threads(&mut raw, &mut applied);
    assert_eq!(applied, [1]);
    // Each weighs 12 bytes: two fit into 30.
    (0..5).for_each(|_| raw.propose("data").unwrap());
    let mut waiting = Vec::new();
    while raw.has_ready() {
        let mut ready = raw.ready().unwrap();
        for work in ready.take_messages() {
            if work.kind() == Some(MsgStorageApply) {
                waiting.push(work);
                continue;
            }
            raw.storage_mut().append(&work.entries).unwrap();
            for response in work.responses {
                raw.step(response).unwrap();
            }
        }
    }
    assert_eq!(waiting.iter().map(|work| indexes(&work.entries)).collect::<Vec<_>>(), [vec![2, 3]]);
    for response in waiting.remove(0).responses {
        raw.step(response).unwrap();
    }
    applied.extend([2, 3]);
    run_threads(&mut raw, &mut applied);
    assert_eq!(applied, (1..=6).collect::<Vec<_>>());
}

/// The report of work that was handed out in a term gone by says nothing about what stands there now, not even about the
/// very same entry: it may have been replaced and put back, and storage has yet to do both.
#[test]
fn a_report_of_an_older_term_does_not_make_an_entry_durable() {
    let mut storage = MemoryStorage::new();
    storage.set_conf_state(members(&[1, 2, 3]));
    let mut raw = RawNode::restart(Config { async_storage_writes: true, ..config(1) }, storage).unwrap();
    let mut work = Vec::new();
    // Leaders of terms 1 and 2 write entry 1; the leader of term 3 has the first one's.
    for (term, entry_term) in [(1, 1), (2, 2), (3, 1)] {
        let entries = vec![Entry { term: entry_term, index: 1, ..Entry::default() }];
        raw.step(Message { entries: entries.into(), commit: u64::from(term == 3), ..message(MsgApp, 2, term) })
            .unwrap();
        let mut ready = raw.ready().unwrap();
        assert!(ready.committed_entries().is_empty(), "not on this disk");
        work.push(storage_work(&mut ready, MsgStorageAppend).unwrap());
    }
    for (round, work) in work.iter().enumerate() {
        raw.storage_mut().append(&work.entries).unwrap();
        let report = work.responses.iter().find(|m| m.kind() == Some(MsgStorageAppendResp)).unwrap();
        raw.step(report.clone()).unwrap();
        let ready = raw.ready().unwrap();
        let handed_out: Vec<_> = ready.committed_entries().iter().map(|entry| (entry.term, entry.index)).collect();
        assert_eq!(handed_out, if round == 2 { vec![(1, 1)] } else { vec![] }, "report {round}");
        // What a storage thread cannot know.
        let lie = Message { term: 99, ..report.clone() };
        assert!(matches!(raw.step(lie), Err(Error::Malformed { .. })));
    }
}

#[test]
fn storage_reports_are_no_input_where_storage_is_synchronous() {
    let mut raw = lone_leader(|_| {});
    for (kind, from) in [(MsgStorageAppendResp, LOCAL_APPEND_THREAD), (MsgStorageApplyResp, LOCAL_APPLY_THREAD)] {
        assert_eq!(raw.step(message(kind, from, 0)), Err(Error::StepLocalMessage));
    }
}

/// Why the hard state is written last: an append may bring entries and say that they are committed.
#[test]
fn a_crash_between_entries_and_hard_state_is_survived_only_in_that_order() {
    let mut storage = MemoryStorage::new();
    storage.set_conf_state(members(&[1, 2]));
    let mut raw = RawNode::restart(config(1), storage.clone()).unwrap();
    let entries: Entries = [1, 2].map(|index| Entry { index, term: 1, ..Entry::default() }).into();
    raw.step(Message { entries, commit: 2, ..message(MsgApp, 2, 1) }).unwrap();
    let ready = raw.ready().unwrap();
    assert_eq!((ready.hard_state().unwrap().commit, indexes(ready.entries())), (2, vec![1, 2]));
    let mut in_order = storage.clone();
    in_order.append(ready.entries()).unwrap();
    assert_eq!(RawNode::restart(config(1), in_order).unwrap().basic_status().hard_state.commit, 0);
    storage.set_hard_state(ready.hard_state().unwrap());
    let error = RawNode::restart(config(1), storage).unwrap_err();
    assert_eq!(error, Error::HardStateOutOfRange { commit: 2, last: 0 });
}
