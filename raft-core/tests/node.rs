//! [`Node`]: the state machine behind a thread. What waits, what does not, and how it ends. Nothing here depends on how
//! fast anything is: waits that must end have generous bounds, and no test waits for something that must not happen.
#![forbid(unsafe_code)]

use std::sync::{Arc, RwLock};
use std::time::Duration;

use raft_core::pb::{ConfChange, ConfChangeType, ConfState, Entries, Entry, HardState, Message, MessageType, Snapshot};
use raft_core::{
    ConfChangeKind, Config, DropReason, Error, MemoryStorage, Node, Peer, RawNode, StateType, Storage, StorageError,
    TICK_BACKLOG,
};

const LONG: Duration = Duration::from_secs(30);
const AT_ONCE: Duration = Duration::ZERO;

type Shared = Arc<RwLock<MemoryStorage>>;

fn config(id: u64) -> Config {
    Config { check_quorum: false, pre_vote: false, ..Config::new(id) }
}

fn start(peers: u64) -> (Node, Shared) {
    start_with(peers, config(1))
}

fn start_with(peers: u64, config: Config) -> (Node, Shared) {
    let storage = Shared::default();
    let peers: Vec<Peer> = (1..=peers).map(|id| Peer { id, ..Peer::default() }).collect();
    let raw = RawNode::bootstrap(config, Arc::clone(&storage), &peers).unwrap();
    (Node::start(raw).unwrap(), storage)
}

/// Takes one Ready and carries it out; returns its messages, and what it applied.
fn handle(node: &Node, storage: &Shared) -> (Vec<Message>, Entries) {
    let mut ready = node.ready(LONG).unwrap().expect("there is work");
    let mut sent: Vec<_> = ready.take_messages().collect();
    {
        let mut storage = storage.write().unwrap();
        if let Some(hard_state) = ready.hard_state() {
            storage.set_hard_state(hard_state);
        }
        storage.append(ready.entries()).unwrap();
    }
    let mut persisted = ready.persisted();
    sent.extend(persisted.take_messages());
    let applied = persisted.take_committed_entries();
    for entry in applied.iter().filter(|entry| entry.is_conf_change()) {
        node.apply_conf_change(ConfChangeKind::decode(entry).unwrap()).unwrap();
    }
    node.advance(persisted).unwrap();
    (sent, applied)
}

fn work_until(node: &Node, storage: &Shared, done: impl Fn(&raft_core::Status, &[Entry]) -> bool) -> Vec<Entry> {
    let mut applied = Vec::new();
    while !done(&node.status().unwrap(), &applied) {
        applied.extend(handle(node, storage).1);
    }
    applied
}

fn lead(node: &Node, storage: &Shared) {
    work_until(node, storage, |status, _| status.basic.applied >= 1);
    node.campaign().unwrap();
    work_until(node, storage, |status, _| {
        status.basic.soft_state.state == StateType::Leader && status.basic.applied >= 2
    });
}

fn message(kind: MessageType, from: u64, term: u64) -> Message {
    Message { from, to: 1, term, ..Message::of(kind) }
}

#[test]
fn a_node_starts_elects_itself_and_applies_what_is_proposed() {
    let (node, storage) = start(1);
    let (_, founders) = handle(&node, &storage);
    assert!(founders.len() == 1 && founders[0].is_conf_change());
    lead(&node, &storage);
    node.propose("foo", LONG).unwrap();
    let applied = work_until(&node, &storage, |_, applied| !applied.is_empty());
    assert_eq!((applied[0].index, &applied[0].data[..]), (3, &b"foo"[..]));
    node.read_index("ctx").unwrap();
    let ready = node.ready(LONG).unwrap().unwrap();
    assert_eq!((ready.read_states()[0].index, &ready.read_states()[0].request_ctx[..]), (3, &b"ctx"[..]));
}

#[test]
fn a_restarted_node_goes_on_where_it_was() {
    let storage = {
        let (node, storage) = start(1);
        lead(&node, &storage);
        node.propose("foo", LONG).unwrap();
        work_until(&node, &storage, |_, applied| !applied.is_empty());
        node.stop().unwrap();
        storage
    };
    let again = |applied: u64| {
        let raw = RawNode::restart(Config { applied, ..config(1) }, Arc::clone(&storage)).unwrap();
        Node::start(raw).unwrap()
    };
    let commit = storage.read().unwrap().initial_state().unwrap().0.commit;
    let node = again(0);
    let ready = node.ready(LONG).unwrap().unwrap();
    assert_eq!(ready.committed_entries().len() as u64, commit);
    assert!(ready.entries().is_empty() && ready.hard_state().is_none());
    // Behind a snapshot, or told what was applied, less comes out.
    let conf_state = ConfState { voters: vec![1], ..ConfState::default() };
    storage.write().unwrap().create_snapshot(2, Some(conf_state), "state").unwrap();
    storage.write().unwrap().compact(2).unwrap();
    let node = again(0);
    let ready = node.ready(LONG).unwrap().unwrap();
    assert_eq!(ready.committed_entries().first().map(|entry| entry.index), Some(3));
    let node = again(commit);
    assert_eq!(node.status().unwrap().basic.applied, commit);
}

#[test]
fn another_nodes_work_is_not_taken_back() {
    let (one, _storage) = start(1);
    let raw = RawNode::bootstrap(config(2), Shared::default(), &[Peer { id: 2, ..Peer::default() }]).unwrap();
    let other = Node::start(raw).unwrap();
    let foreign = other.ready(LONG).unwrap().unwrap().persisted();
    let own = one.ready(LONG).unwrap().unwrap();
    assert_eq!(one.advance(foreign), Err(Error::AdvanceUnexpected), "its number is the same");
    assert_eq!(one.advance(own.persisted()), Ok(()));
}

#[test]
fn work_is_offered_only_after_the_last_is_done() {
    let (node, storage) = start(1);
    lead(&node, &storage);
    node.propose("a", LONG).unwrap();
    let ready = node.ready(LONG).unwrap().unwrap();
    node.propose("b", LONG).unwrap();
    assert!(node.ready(AT_ONCE).unwrap().is_none(), "the first one is not advanced");
    storage.write().unwrap().append(ready.entries()).unwrap();
    node.advance(ready.persisted()).unwrap();
    let ready = node.ready(LONG).unwrap().unwrap();
    assert_eq!((ready.entries().len(), ready.committed_entries().len()), (1, 1), "b to persist, a to apply");
}

#[test]
fn peers_messages_reach_the_state_machine_and_local_ones_do_not() {
    let (node, storage) = start(3);
    handle(&node, &storage);
    for kind in
        [MessageType::MsgHup, MessageType::MsgBeat, MessageType::MsgCheckQuorum, MessageType::MsgStorageApplyResp]
    {
        node.step(message(kind, 2, 0)).unwrap();
        node.step(message(MessageType::MsgAppResp, 99, 7)).unwrap(); // a stranger's answer
    }
    assert_eq!(node.status().unwrap().basic.soft_state.state, StateType::Follower);
    assert_eq!(node.status().unwrap().basic.hard_state.term, 1);
    node.step(message(MessageType::MsgHeartbeat, 2, 5)).unwrap();
    let status = node.status().unwrap().basic;
    assert_eq!((status.soft_state.lead, status.hard_state.term), (2, 5));
    // All who wait on a busy node get through: it takes input while a Ready is outstanding.
    let _outstanding = node.ready(LONG).unwrap().unwrap();
    for term in 6..200 {
        node.step(message(MessageType::MsgHeartbeat, 2, term)).unwrap();
    }
    assert_eq!(node.status().unwrap().basic.hard_state.term, 199);
}

#[test]
fn a_proposal_waits_for_a_leader() {
    let (node, storage) = start(1);
    work_until(&node, &storage, |status, _| status.basic.applied == 1);
    assert_eq!(node.propose("x", AT_ONCE), Err(Error::ProposalDropped(DropReason::NoLeader)));
    let node = Arc::new(node);
    let waiting = {
        let node = Arc::clone(&node);
        std::thread::spawn(move || node.propose("waited", LONG))
    };
    lead(&node, &storage);
    waiting.join().unwrap().unwrap();
    work_until(&node, &storage, |status, _| status.basic.applied == 3);
    assert_eq!(storage.read().unwrap().entries(3, 4, u64::MAX).unwrap()[0].data, "waited");
}

#[test]
fn a_dropped_proposal_says_why() {
    let (node, storage) = start_with(1, Config { max_uncommitted_entries_size: 10, ..config(1) });
    lead(&node, &storage);
    node.propose("0123456789", LONG).unwrap();
    assert_eq!(node.propose("x", LONG), Err(Error::ProposalDropped(DropReason::UncommittedLimit)));
    let (node, storage) = start_with(3, Config { disable_proposal_forwarding: true, ..config(1) });
    handle(&node, &storage);
    node.step(message(MessageType::MsgHeartbeat, 2, 5)).unwrap();
    let reason = DropReason::ForwardingDisabled { leader: 2 };
    assert_eq!(node.propose("x", LONG), Err(Error::ProposalDropped(reason)));
}

#[test]
fn configuration_changes_are_proposed_and_refused_with_a_reason() {
    let (node, storage) = start(1);
    lead(&node, &storage);
    let add = |id| ConfChange::new(ConfChangeType::ConfChangeAddLearnerNode, id);
    node.propose_conf_change(add(2), LONG).unwrap();
    assert!(matches!(node.propose_conf_change(add(3), LONG), Err(Error::ConfChangeRefused(_))));
    work_until(&node, &storage, |status, _| status.config.learners.contains(2));
    node.propose_conf_change(add(2), LONG).expect("once more is no error");
    work_until(&node, &storage, |_, applied| applied.iter().any(Entry::is_conf_change));
    assert_eq!(node.status().unwrap().config.to_string(), "voters=(1) learners=(2)");
    let change = ConfChange::new(ConfChangeType::ConfChangeRemoveNode, 1);
    assert!(matches!(node.apply_conf_change(change), Err(Error::ConfChange(_))), "the last voter stays");
}

/// Until there is another leader, its proposals would only get lost.
#[test]
fn a_removed_node_takes_no_proposals_until_it_hears_another_leader() {
    let (node, storage) = start(3);
    handle(&node, &storage);
    node.step(message(MessageType::MsgHeartbeat, 2, 5)).unwrap();
    node.propose("passed on", LONG).unwrap();
    node.apply_conf_change(ConfChange::new(ConfChangeType::ConfChangeRemoveNode, 1)).unwrap();
    assert_eq!(node.propose("x", AT_ONCE), Err(Error::ProposalDropped(DropReason::NoLeader)));
    node.step(message(MessageType::MsgHeartbeat, 3, 6)).unwrap();
    node.propose("passed on to another", LONG).unwrap();
}

#[test]
fn ticks_are_remembered_up_to_the_backlog_and_never_wait() {
    let (node, storage) = start_with(1, Config { election_tick: 10, ..config(1) });
    handle(&node, &storage);
    for _ in 0..TICK_BACKLOG * 10 {
        node.tick();
    }
    work_until(&node, &storage, |status, _| status.basic.soft_state.state == StateType::Leader);
}

#[test]
fn a_stopped_node_says_so_to_everybody_and_can_be_stopped_again() {
    let (node, storage) = start(1);
    lead(&node, &storage);
    node.stop().unwrap();
    node.stop().unwrap();
    node.tick();
    assert_eq!(node.propose("x", LONG), Err(Error::Stopped));
    assert_eq!(node.campaign(), Err(Error::Stopped));
    assert_eq!(node.step(message(MessageType::MsgApp, 2, 1)), Err(Error::Stopped));
    assert_eq!(node.status().map(drop), Err(Error::Stopped));
    assert_eq!(node.ready(LONG).map(drop), Err(Error::Stopped));
    assert_eq!(node.read_index("r"), Err(Error::Stopped));
    // Who waits is not forgotten.
    let (node, _storage) = start(1);
    let node = Arc::new(node);
    let waiting = {
        let node = Arc::clone(&node);
        std::thread::spawn(move || node.propose("x", LONG))
    };
    node.stop().unwrap();
    assert_eq!(waiting.join().unwrap(), Err(Error::Stopped));
}

/// Whoever calls after a fault hears of the fault, from the first moment on at which it hears anything.
#[test]
fn a_fault_ends_the_node_and_every_call_returns_it() {
    #[derive(Debug)]
    struct Broken(MemoryStorage);
    impl Storage for Broken {
        fn initial_state(&self) -> Result<(HardState, ConfState), StorageError> {
            self.0.initial_state()
        }
        fn entries(&self, _: u64, _: u64, _: u64) -> Result<Entries, StorageError> {
            Err(StorageError::Other("broken".to_string()))
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
    let fault = Error::Storage(StorageError::Other("broken".to_string()));
    let mut storage = MemoryStorage::new();
    storage.set_conf_state(ConfState { voters: vec![1], ..ConfState::default() });
    storage.append(&[Entry { term: 1, index: 1, ..Entry::default() }]).unwrap();
    storage.set_hard_state(HardState { term: 1, vote: 1, commit: 1 });
    for round in 0..300 {
        let node = Node::start(RawNode::restart(config(1), Broken(storage.clone())).unwrap()).unwrap();
        node.campaign().unwrap(); // has to read the log, for changes that are not applied
        let heard = match round % 4 {
            0 => node.propose("x", LONG),
            1 => loop {
                if let Err(error) = node.step(message(MessageType::MsgTimeoutNow, 1, 1)) {
                    break Err(error);
                }
            },
            2 => loop {
                if let Err(error) = node.status() {
                    break Err(error);
                }
            },
            // Who takes a Ready in the very moment of the fault gets an empty one.
            _ => loop {
                if let Err(error) = node.ready(LONG) {
                    break Err(error);
                }
            },
        };
        assert_eq!(heard, Err(fault.clone()), "round {round}");
        assert_eq!(node.stop(), Err(fault.clone()));
    }
}
