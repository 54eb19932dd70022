//! A disk that fails: at every single call that the core makes. The node is out of order from there on, says why, and
//! neither panics nor goes on.
#![forbid(unsafe_code)]

use std::cell::Cell;

use raft_core::pb::{ConfState, Entries, Entry, HardState, Message, MessageType, Snapshot};
use raft_core::{Config, Error, MemoryStorage, RawNode, Storage, StorageError};

/// Counts its calls and fails at one of them.
#[derive(Debug, Default)]
struct Faulty {
    inner: MemoryStorage,
    calls: Cell<usize>,
    fails_at: usize,
}

impl Faulty {
    fn call<T>(&self, result: Result<T, StorageError>) -> Result<T, StorageError> {
        self.calls.set(self.calls.get() + 1);
        if self.calls.get() == self.fails_at {
            return Err(StorageError::Other("the disk is gone".to_string()));
        }
        result
    }
}

impl Storage for Faulty {
    fn initial_state(&self) -> Result<(HardState, ConfState), StorageError> {
        self.call(self.inner.initial_state())
    }
    fn entries(&self, low: u64, high: u64, max_bytes: u64) -> Result<Entries, StorageError> {
        self.call(self.inner.entries(low, high, max_bytes))
    }
    fn term(&self, index: u64) -> Result<u64, StorageError> {
        self.call(self.inner.term(index))
    }
    fn first_index(&self) -> Result<u64, StorageError> {
        self.call(self.inner.first_index())
    }
    fn last_index(&self) -> Result<u64, StorageError> {
        self.call(self.inner.last_index())
    }
    fn snapshot(&self) -> Result<Snapshot, StorageError> {
        self.call(self.inner.snapshot())
    }
}

/// A life: restart, election, reads, proposals, a peer that lags and needs entries, one that needs the snapshot, a
/// deposition with a conflict. Ends at the first error.
fn live(raw: &mut RawNode<Faulty>) -> Result<(), Error> {
    fn work(raw: &mut RawNode<Faulty>) -> Result<Vec<Message>, Error> {
        let mut out = Vec::new();
        while raw.has_ready() {
            let mut ready = raw.ready()?;
            out.extend(ready.take_messages());
            let storage = &mut raw.storage_mut().inner;
            if let Some(snapshot) = ready.snapshot() {
                storage.apply_snapshot(snapshot.clone())?;
            }
            if let Some(hard_state) = ready.hard_state() {
                storage.set_hard_state(hard_state);
            }
            storage.append(ready.entries())?;
            let mut persisted = ready.persisted();
            out.extend(persisted.take_messages());
            for entry in persisted.take_committed_entries() {
                if entry.is_conf_change() {
                    raw.apply_conf_change(raft_core::ConfChangeKind::decode(&entry)?)?;
                }
            }
            raw.advance(persisted)?;
        }
        Ok(out)
    }
    let hear = |raw: &mut RawNode<Faulty>, kind, from, change: &dyn Fn(&mut Message)| {
        let term = raw.basic_status().hard_state.term;
        let mut message = Message { from, to: 1, term, ..Message::of(kind) };
        change(&mut message);
        raw.step(message)?;
        work(raw)
    };
    use MessageType::*;
    for _ in 0..25 {
        raw.tick()?;
        work(raw)?;
    }
    raw.campaign()?;
    work(raw)?;
    hear(raw, MsgPreVoteResp, 2, &|m| m.term += 1)?;
    hear(raw, MsgVoteResp, 2, &|_| {})?;
    raw.read_index("r")?;
    raw.propose("x")?;
    work(raw)?;
    let last = raw.storage().inner.last_index()?;
    hear(raw, MsgAppResp, 2, &|m| (m.index, m.reject, m.reject_hint, m.log_term) = (8, true, 6, 1))?;
    hear(raw, MsgAppResp, 2, &|m| m.index = last)?;
    hear(raw, MsgHeartbeatResp, 3, &|_| {})?;
    hear(raw, MsgAppResp, 3, &|m| (m.index, m.reject) = (8, true))?;
    hear(raw, MsgHeartbeatResp, 3, &|_| {})?;
    let change = raft_core::pb::ConfChange::new(raft_core::pb::ConfChangeType::ConfChangeAddNode, 4);
    raw.propose_conf_change(change)?;
    work(raw)?;
    hear(raw, MsgAppResp, 2, &|m| m.index = last + 1)?;
    raw.transfer_leader(2)?;
    work(raw)?;
    let term = raw.basic_status().hard_state.term;
    hear(raw, MsgVote, 3, &|m| (m.term, m.index, m.log_term) = (term + 1, 99, term + 1))?;
    let entry = Entry { term: term + 1, index: last + 2, ..Entry::default() };
    hear(raw, MsgApp, 3, &|m| {
        (m.term, m.index, m.log_term, m.entries) = (term + 1, last + 1, term, [entry.clone()].into())
    })?;
    hear(raw, MsgApp, 3, &|m| (m.index, m.log_term) = (last + 40, term))?;
    hear(raw, MsgHeartbeat, 3, &|m| m.commit = last + 2)?;
    Ok(())
}

fn stored() -> MemoryStorage {
    let mut storage = MemoryStorage::new();
    let metadata = raft_core::pb::SnapshotMetadata {
        conf_state: ConfState { voters: vec![1, 2, 3], ..ConfState::default() },
        index: 4,
        term: 1,
    };
    storage.apply_snapshot(Snapshot { metadata, data: "state".into() }).expect("newer than nothing");
    let entries: Vec<Entry> = (5..=8).map(|index| Entry { term: 1, index, ..Entry::normal("old") }).collect();
    storage.append(&entries).expect("they follow");
    storage.set_hard_state(HardState { term: 1, vote: 0, commit: 6 });
    storage
}

#[test]
fn whichever_call_fails_the_node_is_out_of_order_and_says_why() {
    let start = |fails_at| {
        let config = Config { check_quorum: false, seed: 3, ..Config::new(1) };
        RawNode::restart(config, Faulty { inner: stored(), calls: Cell::new(0), fails_at })
    };
    let mut raw = start(0).expect("a healthy disk");
    live(&mut raw).expect("a healthy disk");
    let calls = raw.storage().calls.get();
    assert!(calls > 60, "the life is eventful: {calls} calls");
    let gone = || Error::Storage(StorageError::Other("the disk is gone".to_string()));
    for fails_at in 1..=calls {
        let mut raw = match start(fails_at) {
            Ok(raw) => raw,
            Err(error) => {
                assert_eq!(error, gone(), "at call {fails_at}");
                continue;
            }
        };
        assert_eq!(live(&mut raw), Err(gone()), "at call {fails_at} of {calls}");
        assert!(gone().is_fatal());
        let after = raw.storage().calls.get();
        // The disk works again, but the node was in the middle of something.
        assert_eq!((raw.tick(), raw.campaign(), raw.propose("x")), (Err(gone()), Err(gone()), Err(gone())));
        assert_eq!(raw.step(Message { from: 2, term: 9, ..Message::of(MessageType::MsgApp) }), Err(gone()));
        assert_eq!(
            (raw.read_index("r"), raw.transfer_leader(2), raw.forget_leader()),
            (Err(gone()), Err(gone()), Err(gone()))
        );
        raw.report_unreachable(2);
        assert!(!raw.has_ready());
        assert_eq!(raw.ready().map(drop), Err(gone()));
        assert_eq!(raw.storage().calls.get(), after, "it does not even ask the disk any more");
    }
}

/// A storage that answers, but nonsense.
#[derive(Debug)]
struct Liar(MemoryStorage, u8);

impl Storage for Liar {
    fn initial_state(&self) -> Result<(HardState, ConfState), StorageError> {
        self.0.initial_state()
    }
    fn entries(&self, low: u64, high: u64, max_bytes: u64) -> Result<Entries, StorageError> {
        let mut entries = self.0.entries(low, high, max_bytes)?;
        match self.1 {
            1 => entries.clear(),
            2 => entries[0].index += 1,
            3 => entries.push(Entry { index: high, term: 1, ..Entry::default() }),
            4 => entries = vec![entries[0].clone(); 7].into(),
            5 => return Err(StorageError::Unavailable),
            _ => return Err(StorageError::Compacted),
        }
        Ok(entries)
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
fn entries_that_were_not_asked_for_are_a_storage_fault() {
    for lie in 1..=6 {
        let mut raw = RawNode::restart(Config::new(1), Liar(stored(), lie)).expect("nothing is read yet");
        assert!(raw.has_ready(), "5 and 6 are committed");
        match raw.ready() {
            Err(error @ Error::Storage(_)) => assert_eq!(raw.tick(), Err(error)),
            other => panic!("lie {lie}: {other:?}"),
        }
    }
}

/// Bounds that were fine at the start.
#[test]
fn bounds_that_become_impossible_are_a_storage_fault() {
    // Where the log ends is asked at the start only, and what is said of it later makes no difference.
    for (first, last) in [(0, 6), (u64::MAX, 6), (0, u64::MAX), (u64::MAX, u64::MAX)] {
        for step in 0..4 {
            let mut raw = RawNode::restart(Config::new(1), Shifting::new(stored())).unwrap();
            raw.storage_mut().lie = Some((first, last));
            // Nothing may panic; what needs the bound reports it, and so does everything after it.
            let append = Message { to: 1, term: 9, log_term: 1, index: 6, ..Message::of(MessageType::MsgApp) };
            let result = match step {
                0 => raw.campaign(),
                1 => raw.step(Message { from: 2, ..append }),
                2 => raw.step(Message { from: 2, log_term: 8, ..append }),
                _ => raw.ready().map(drop),
            };
            if let Err(error) = &result {
                assert!(matches!(error, Error::Storage(_)), "[{first}, {last}] {step}: {error}");
                assert_eq!(raw.tick(), result);
            }
            assert!(result.is_err() || step > 0, "[{first}, {last}]: a campaign looks at the first index");
        }
    }
}

/// A storage whose bounds can be made to change.
#[derive(Debug)]
struct Shifting {
    inner: MemoryStorage,
    lie: Option<(u64, u64)>,
}

impl Shifting {
    fn new(inner: MemoryStorage) -> Self {
        Shifting { inner, lie: None }
    }
}

impl Storage for Shifting {
    fn initial_state(&self) -> Result<(HardState, ConfState), StorageError> {
        self.inner.initial_state()
    }
    fn entries(&self, low: u64, high: u64, max_bytes: u64) -> Result<Entries, StorageError> {
        self.inner.entries(low, high, max_bytes)
    }
    fn term(&self, index: u64) -> Result<u64, StorageError> {
        self.inner.term(index)
    }
    fn first_index(&self) -> Result<u64, StorageError> {
        self.lie.map_or_else(|| self.inner.first_index(), |lie| Ok(lie.0))
    }
    fn last_index(&self) -> Result<u64, StorageError> {
        self.lie.map_or_else(|| self.inner.last_index(), |lie| Ok(lie.1))
    }
    fn snapshot(&self) -> Result<Snapshot, StorageError> {
        self.inner.snapshot()
    }
}

/// Bounds and states that no log has.
#[test]
fn impossible_bounds_are_a_storage_fault() {
    #[derive(Debug)]
    struct Bounds(u64, u64);
    impl Storage for Bounds {
        fn initial_state(&self) -> Result<(HardState, ConfState), StorageError> {
            Ok(Default::default())
        }
        fn entries(&self, _: u64, _: u64, _: u64) -> Result<Entries, StorageError> {
            Err(StorageError::Unavailable)
        }
        fn term(&self, _: u64) -> Result<u64, StorageError> {
            Ok(1)
        }
        fn first_index(&self) -> Result<u64, StorageError> {
            Ok(self.0)
        }
        fn last_index(&self) -> Result<u64, StorageError> {
            Ok(self.1)
        }
        fn snapshot(&self) -> Result<Snapshot, StorageError> {
            Ok(Snapshot::default())
        }
    }
    for (first, last) in [(0, 0), (0, 5), (7, 5), (u64::MAX, 5), (1, u64::MAX), (u64::MAX, u64::MAX)] {
        let result = RawNode::restart(Config::new(1), Bounds(first, last));
        assert!(matches!(result, Err(Error::Storage(_))), "[{first}, {last}]");
    }
}
