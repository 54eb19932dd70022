//! The loop, turned by hand: tests tick, hand in what a peer would send, and look at what has become of it. No clock, no
//! thread and no socket takes part (messages to peers go to ports where nobody listens), only a real disk.

use super::*;
use crate::cli::Timing;
use crate::codec::{self, RequestId};
use crate::node::{Change, Refused, Step, NO_LEADER, REQUEST_TIMEOUT};
use crate::transport::Received;
use bytes::Bytes;
use kvstore::Command;
use prost::Message as _;
use raft_core::pb::{ConfChange, ConfChangeType, EntryType, Snapshot, SnapshotMetadata};
use std::path::Path;
use tokio::sync::oneshot::{error::TryRecvError, Receiver};

mod membership;

const BOOT: u64 = 77;
const ELECTION_TICKS: usize = 10;

type Waiting = Receiver<Result<(), Refused>>;

pub(super) struct Bench {
    pub(super) driver: Driver,
    // The transport's tasks need one; nothing is ever waited for.
    _runtime: tokio::runtime::Runtime,
}

/// Node 1 of `size` founders, on what `dir` holds. Nobody listens at the others' addresses.
pub(super) fn open(dir: &Path, size: u16, change: impl FnOnce(&mut NodeOptions)) -> Bench {
    let cluster: Vec<PeerUrl> = (1..=size).map(|n| format!("http://127.0.0.1:{n}").parse().unwrap()).collect();
    let mut options = NodeOptions {
        id: 1,
        own_url: cluster[0].clone(),
        cluster,
        port: 1,
        bind: None,
        join: false,
        data_dir: dir.to_path_buf(),
        snapshot_count: None,
        wal_segment_bytes: 1 << 20,
        timing: Timing::default(),
        client_tls: None,
        peer_tls: None,
        stop_with_stdin: false,
    };
    change(&mut options);
    let (disk, state) = Disk::open(dir, options.id, 0x1000, options.wal_segment_bytes).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let register = Register::default();
    let sending = crate::snapshots::testing::no_sending();
    let handle = runtime.handle().clone();
    let transport = Transport::new(options.id, Arc::new(|_| Ok(())), Arc::clone(&register), handle, None, sending);
    // Tests hand inputs in by calling `take`.
    let (_, inbox) = crossbeam_channel::bounded(1);
    let driver = Driver::new(
        &options,
        &Dialect::own(),
        BOOT,
        (disk, state),
        transport,
        Arc::clone(&register),
        inbox,
        Arc::new(Metrics::new(1)),
    )
    .unwrap();
    let mut bench = Bench { driver, _runtime: runtime };
    bench.turn();
    bench
}

impl Bench {
    /// Turns, and turns again when a snapshot is written that has been begun: tests depend on no thread's pace.
    pub(super) fn turn(&mut self) {
        self.driver.turn().unwrap_or_else(|Fatal(reason)| panic!("{reason}"));
        if self.driver.snapshots.wait_for_taking() {
            self.turn();
        }
    }

    fn take(&mut self, input: Input) {
        self.driver.take(input, Instant::now()).unwrap_or_else(|Fatal(reason)| panic!("{reason}"));
        self.turn();
    }

    pub(super) fn tick(&mut self, times: usize) {
        for _ in 0..times {
            self.driver.tick().unwrap_or_else(|Fatal(reason)| panic!("{reason}"));
            self.driver.look_at_clock(Instant::now());
            self.turn();
        }
    }

    pub(super) fn elect(&mut self) {
        self.tick(2 * ELECTION_TICKS);
        assert_eq!(self.driver.leader, 1);
    }

    pub(super) fn message(&mut self, message: Message) {
        self.take(Input::peer(Event::Message(message)));
    }

    /// Has itself elected, among founders, by the votes of node 2, which then has everything.
    pub(super) fn lead(&mut self) {
        for kind in [MessageType::MsgPreVoteResp, MessageType::MsgVoteResp] {
            if kind == MessageType::MsgPreVoteResp {
                self.tick(2 * ELECTION_TICKS - 1);
            }
            let term = self.driver.raw.basic_status().hard_state.term;
            let term = if kind == MessageType::MsgPreVoteResp { term + 1 } else { term };
            self.message(Message { from: 2, to: 1, term, ..Message::of(kind) });
        }
        assert_eq!(self.driver.leader, 1);
        self.acknowledge(2);
        // It has found that the cluster has no number yet.
        self.turn();
        self.acknowledge(2);
        assert!(self.driver.members.birth().is_some());
    }

    /// Node `from` says that it has everything that this leader has.
    pub(super) fn acknowledge(&mut self, from: u64) {
        let term = self.driver.raw.basic_status().hard_state.term;
        let index = self.driver.raw.storage().last_index().unwrap();
        self.message(Message { from, to: 1, term, index, ..Message::of(MessageType::MsgAppResp) });
    }

    pub(super) fn write(&mut self, counter: u64, key: &str) -> Waiting {
        let (reply, answer) = Reply::channel();
        self.take(Input::Write { counter, data: request(counter, key), reply });
        answer
    }

    fn read(&mut self) -> Waiting {
        let (reply, answer) = Reply::channel();
        self.take(Input::Read { reply });
        answer
    }

    fn change(&mut self, change: Change) -> Waiting {
        let (reply, answer) = Reply::channel();
        self.take(Input::Change { change, reply });
        answer
    }

    fn value(&self, key: &str) -> Option<Bytes> {
        self.driver.store.read().get(key.as_bytes())
    }

    /// What node 2, which leads term 5, says: `entries` follow the three founders' ones (or `after` of term 5).
    pub(super) fn append(&mut self, after: u64, entries: Vec<Entry>, commit: u64) -> Result<(), Fatal> {
        let mut message = Message::of(MessageType::MsgApp);
        (message.from, message.to, message.term, message.commit) = (2, 1, 5, commit);
        (message.index, message.log_term) = (after, if after <= 3 { 1 } else { 5 });
        message.entries = entries.into();
        let now = Instant::now();
        self.driver.take(Input::peer(Event::Message(message)), now)?;
        self.driver.turn()?;
        while self.driver.snapshots.wait_for_taking() {
            self.driver.turn()?;
        }
        Ok(())
    }
}

fn request(counter: u64, key: &str) -> Bytes {
    let id = RequestId { node: 1, boot: BOOT, counter };
    codec::encode_request(id, &Command::Put { key: key.to_string().into(), value: key.to_string().into() })
}

fn entry(index: u64, data: Bytes) -> Entry {
    Entry { index, term: 5, ..Entry::normal(data) }
}

fn change_entry(index: u64, change_type: ConfChangeType, node_id: u64, url: &'static str) -> Entry {
    let change = ConfChange { id: index, change_type: change_type as i32, node_id, context: url.into() };
    Entry { entry_type: EntryType::EntryConfChange as i32, ..entry(index, change.encode_to_vec().into()) }
}

fn done(answer: &mut Waiting) -> bool {
    answer.try_recv() == Ok(Ok(()))
}

#[test]
fn a_write_is_answered_after_it_is_applied_and_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = open(dir.path(), 1, |_| {});
    bench.elect();
    let mut answer = bench.write(1, "colour");
    assert!(done(&mut answer));
    assert_eq!(bench.value("colour"), Some("colour".into()));
    drop(bench);
    let bench = open(dir.path(), 1, |_| {});
    assert_eq!(bench.value("colour"), Some("colour".into()), "applied before anything else happens");
}

#[test]
fn what_gathers_goes_into_one_batch() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = open(dir.path(), 1, |_| {});
    bench.elect();
    let before = bench.driver.raw.storage().last_index().unwrap();
    let mut answers = Vec::new();
    for counter in 0..100 {
        let (reply, answer) = Reply::channel();
        let input = Input::Write { counter, data: request(counter, "k"), reply };
        bench.driver.take(input, Instant::now()).ok().unwrap();
        answers.push(answer);
    }
    assert_eq!(bench.driver.raw.storage().last_index().unwrap(), before, "nothing is written yet");
    bench.turn();
    assert_eq!(bench.driver.raw.storage().last_index().unwrap(), before + 100);
    assert!(answers.iter_mut().all(done));
}

#[test]
fn what_a_follower_has_missed_goes_last_and_in_order() {
    let append = |to, entries: &[u64]| {
        let entries = entries.iter().map(|&index| Entry { index, ..Entry::default() }).collect();
        Message { to, commit: 8, entries, ..Message::of(MessageType::MsgApp) }
    };
    let heartbeat = Message { to: 2, ..Message::of(MessageType::MsgHeartbeat) };
    let behind = [append(2, &[5, 6]), append(2, &[7, 8, 9]), append(2, &[])];
    let up_to_date = [append(3, &[9]), append(3, &[])];
    let all = || [&behind[..], &up_to_date, std::slice::from_ref(&heartbeat)].concat();
    let at_once = [&up_to_date[..], std::slice::from_ref(&heartbeat)].concat();
    assert_eq!(set_apart_what_was_missed(all()), (at_once, behind.to_vec()));
    // What is left of a batch that is not committed yet: clients wait for it.
    let waited_for = vec![append(2, &[7, 8, 9]), append(2, &[10]), heartbeat];
    assert_eq!(set_apart_what_was_missed(waited_for.clone()), (waited_for, vec![]));
    let forwarded = Message { msg_type: MessageType::MsgProp as i32, ..append(1, &[0]) };
    assert_eq!(set_apart_what_was_missed(vec![forwarded.clone()]), (vec![forwarded], vec![]));
}

#[test]
fn a_read_waits_for_a_leader_that_proves_itself() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = open(dir.path(), 1, |_| {});
    let mut answer = bench.read();
    assert!(answer.try_recv().is_err(), "no leader yet");
    bench.elect();
    assert!(done(&mut answer));
}

#[test]
fn without_a_leader_everybody_is_refused_after_a_while() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = open(dir.path(), 3, |_| {});
    let (mut write, mut read) = (bench.write(1, "k"), bench.read());
    let mut change = bench.change(Step::Remove { id: 3 }.into());
    bench.tick(HOPELESS_ELECTIONS * ELECTION_TICKS);
    assert!(write.try_recv().is_err() && read.try_recv().is_err(), "there may be an election going on");
    bench.tick(1);
    for answer in [&mut write, &mut read, &mut change] {
        assert_eq!(answer.try_recv(), Ok(Err(Refused::NotDone(NO_LEADER))));
    }
}

/// Proposed again at once, it would be lost again at once, and the thread would do nothing else.
#[test]
fn a_write_that_cannot_leave_waits_for_a_moment() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = open(dir.path(), 3, |_| {});
    assert!(bench.append(3, vec![], 3).is_ok());
    let leader = bench.driver.leader;
    assert_ne!(leader, 0);
    bench.driver.transport.remove(leader);
    let mut answer = bench.write(1, "k");
    assert!(answer.try_recv().is_err());
    assert!(bench.driver.hold_writes && bench.driver.writes.any_held());
    bench.driver.transport.add(leader, &"http://127.0.0.1:3".parse().unwrap());
    bench.tick(1);
    assert!(!bench.driver.writes.any_held(), "it is on its way");
}

/// A node whose ticks are an hour apart runs by itself.
#[test]
fn what_is_due_by_the_clock_does_not_wait_for_a_tick() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = open(dir.path(), 1, |options| options.timing.tick = Duration::from_secs(3600));
    bench.elect();
    let (sender, inbox) = crossbeam_channel::bounded(8);
    bench.driver.inbox = inbox;
    let (reply, answer) = Reply::channel();
    let long_ago = Instant::now() - REQUEST_TIMEOUT;
    bench.driver.reads.add(reply, long_ago);
    // Nobody will ever ask for it: its question was asked, and is lost.
    bench.driver.reads.next_question(Instant::now() + REQUEST_TIMEOUT).unwrap();
    let (ended, end) = crossbeam_channel::bounded(1);
    let Bench { driver, _runtime: runtime } = bench;
    std::thread::spawn(move || ended.send(driver.run()));
    let patience = Duration::from_secs(60);
    let refused = runtime.block_on(async { tokio::time::timeout(patience, answer).await });
    assert!(matches!(refused, Ok(Ok(Err(Refused::NotDone(_))))), "{refused:?}");
    sender.send(Input::Stop).unwrap_or_else(|_| panic!("it has ended"));
    assert!(matches!(end.recv_timeout(patience), Ok(Ending::Stopped)), "it lingers for a moment only");
}

#[test]
fn a_snapshot_is_taken_in_time_and_is_enough_to_start_from() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = open(dir.path(), 1, |options| options.snapshot_count = Some(10));
    bench.elect();
    for counter in 0..30 {
        bench.write(counter, &counter.to_string());
    }
    let storage = bench.driver.raw.storage();
    let (first, last) = (storage.first_index().unwrap(), storage.last_index().unwrap());
    assert!(bench.driver.snapshots.index > 20 && last - bench.driver.snapshots.index < 10);
    assert_eq!(first, bench.driver.snapshots.index - 10 + 1, "a tail is kept for members that are a little behind");
    drop(bench);
    let bench = open(dir.path(), 1, |_| {});
    assert!(bench.driver.raw.storage().first_index().unwrap() > 20, "it started from the snapshot");
    for counter in 0..30 {
        assert!(bench.value(&counter.to_string()).is_some(), "{counter}");
    }
    assert!(bench.driver.members.contains(1));
}

#[test]
fn a_large_state_is_not_written_again_before_more_than_it_has_was_applied_unless_the_user_says_so() {
    use super::snapshots::SMALL_BYTES;
    let dir = tempfile::tempdir().unwrap();
    let mut bench = open(dir.path(), 1, |_| {});
    let snapshots = &mut bench.driver.snapshots;
    snapshots.note(7, SMALL_BYTES);
    snapshots.applied_bytes = 1;
    assert!(snapshots.is_enough(10_000, None) && !snapshots.is_enough(9_999, None), "a small one");
    snapshots.note(7, 2 * SMALL_BYTES);
    for (applied_bytes, enough) in [(1, false), (3 * SMALL_BYTES - 1, false), (3 * SMALL_BYTES, true)] {
        snapshots.applied_bytes = applied_bytes;
        assert_eq!((snapshots.is_enough(10_000, None), snapshots.is_enough(9_999, None)), (enough, false));
        assert!(snapshots.is_enough(10, Some(10)) && !snapshots.is_enough(9, Some(10)), "by number alone");
    }
}

#[test]
fn a_node_that_starts_from_a_large_state_knows_how_large_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let large = "x".repeat(100 << 10);
    {
        let mut bench = open(dir.path(), 1, |options| options.snapshot_count = Some(25));
        bench.elect();
        for counter in 0..25 {
            assert!(done(&mut bench.write(counter, &format!("{counter}{large}"))));
        }
        assert!(bench.driver.snapshots.index > 20);
    }
    let mut bench = open(dir.path(), 1, |_| {});
    let snapshots = &mut bench.driver.snapshots;
    assert!(snapshots.index > 20);
    snapshots.applied_bytes = 1 << 20;
    assert!(!snapshots.is_enough(10_000, None), "a fifth of what is there");
    snapshots.applied_bytes = 10 << 20;
    assert!(snapshots.is_enough(10_000, None));
}

#[test]
fn a_proposal_that_no_node_could_apply_is_not_taken() {
    let dir = tempfile::tempdir().unwrap();
    for extensions in [true, false] {
        let mut bench = open(&dir.path().join(extensions.to_string()), 1, |_| {});
        bench.elect();
        bench.driver.extensions = extensions;
        let before = bench.driver.raw.storage().last_index().unwrap();
        let propose = |bench: &mut Bench, entry: Entry| {
            let entries = vec![entry].into();
            bench.message(Message { from: 2, to: 1, entries, ..Message::of(MessageType::MsgProp) });
            bench.driver.raw.storage().last_index().unwrap() - before
        };
        let change = EntryType::EntryConfChange as i32;
        let unreadable = Bytes::from_static(b"\xff");
        assert_eq!(propose(&mut bench, Entry::normal(unreadable.clone())), 0);
        assert_eq!(propose(&mut bench, Entry { entry_type: change, ..Entry::normal(unreadable) }), 0);
        assert_eq!(propose(&mut bench, Entry { entry_type: 77, ..Entry::normal(Bytes::new()) }), 0);
        assert_eq!(propose(&mut bench, Entry::normal(Bytes::new())), 1, "what can be applied is");
    }
}

#[test]
fn many_bytes_make_a_snapshot_due_before_many_entries_do() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = open(dir.path(), 1, |_| {});
    bench.elect();
    bench.driver.snapshots.due_bytes = 1500;
    let mut counter = 0;
    while bench.driver.snapshots.index == 0 {
        counter += 1;
        assert!(counter < 100);
        bench.write(counter, "0123456789");
    }
    assert!((5..=20).contains(&counter), "{counter} writes of some thirty bytes, which weigh more than that");
    assert_eq!(bench.driver.snapshots.applied_bytes, 0);
    bench.write(counter + 1, "next");
    assert_eq!(bench.driver.snapshots.index + 1, bench.driver.applied.0, "and not again at once");
}

#[test]
fn the_tail_behind_a_snapshot_is_limited_in_bytes_too() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = open(dir.path(), 1, |options| options.wal_segment_bytes = 64 << 20);
    bench.elect();
    let large = "x".repeat(1 << 20);
    for counter in 0..20 {
        // Key and value: two MiB an entry.
        assert!(done(&mut bench.write(counter, &large)));
    }
    let index = bench.driver.applied.0;
    assert_eq!(bench.driver.tail_begins_after(index), Ok(index - 15), "sixteen of them are a little above the limit");
}

#[test]
fn a_change_after_the_log_is_compacted_brings_a_snapshot_that_knows_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = open(dir.path(), 1, |options| options.snapshot_count = Some(10));
    bench.elect();
    for counter in 0..25 {
        bench.write(counter, "k");
    }
    let mut answer = bench.change(Step::Add { id: 4, url: "http://127.0.0.1:9".parse().unwrap() }.into());
    assert!(done(&mut answer));
    let snapshot = bench.driver.raw.storage().snapshot().unwrap();
    assert_eq!(snapshot.metadata.conf_state.voters, [1, 4]);
    assert!(snapshot.data.is_empty(), "it is on disk, and not in memory");
    drop(bench);
    let bench = open(dir.path(), 1, |_| {});
    assert_eq!(bench.driver.history, snapshot.metadata.index);
    assert!(bench.driver.members.contains(4));
}

#[test]
fn an_entry_that_cannot_be_read_stops_the_node_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = open(dir.path(), 3, |_| {});
    let Err(Fatal(reason)) = bench.append(3, vec![entry(4, "\u{1}gibberish".into())], 4) else {
        panic!("it went on");
    };
    assert!(reason.contains("entry 4"), "{reason}");
}

#[test]
fn members_follow_the_log_and_a_removed_node_ends() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = open(dir.path(), 3, |_| {});
    let add = change_entry(4, ConfChangeType::ConfChangeAddNode, 4, "http://127.0.0.1:9");
    assert!(bench.append(3, vec![add], 4).is_ok());
    assert_eq!(bench.driver.members.url(4).map(ToString::to_string), Some("http://127.0.0.1:9".into()));
    assert_eq!(bench.driver.conf_state.voters, [1, 2, 3, 4]);
    let mut waiting = bench.write(1, "k");
    let remove = change_entry(5, ConfChangeType::ConfChangeRemoveNode, 1, "");
    assert!(bench.append(4, vec![remove], 5).is_ok());
    assert!(bench.driver.end_at.is_some());
    assert!(matches!(waiting.try_recv(), Ok(Err(Refused::Unknown(_)))), "it had been sent to the leader");
    assert!(bench.driver.register.borrow().removed.contains_key(&1));
    drop(bench);
    let bench = open(dir.path(), 3, |_| {});
    assert!(bench.driver.end_at.is_some(), "it ends again");
}

#[test]
fn an_address_that_is_none_does_not_stop_a_node() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = open(dir.path(), 3, |_| {});
    let add = change_entry(4, ConfChangeType::ConfChangeAddNode, 4, "nowhere");
    assert!(bench.append(3, vec![add], 4).is_ok());
    assert!(bench.driver.members.contains(4) && bench.driver.members.url(4).is_none());
    assert_eq!(bench.driver.conf_state.voters, [1, 2, 3, 4]);
    let remove = change_entry(5, ConfChangeType::ConfChangeRemoveNode, 4, "");
    assert!(bench.append(4, vec![remove], 5).is_ok());
    assert!(!bench.driver.members.contains(4));
}

#[test]
fn a_removal_that_was_taken_back_is_history() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = open(dir.path(), 3, |_| {});
    let remove = change_entry(4, ConfChangeType::ConfChangeRemoveNode, 1, "");
    let add = change_entry(5, ConfChangeType::ConfChangeAddNode, 1, "http://127.0.0.1:8");
    assert!(bench.append(3, vec![remove, add], 5).is_ok());
    drop(bench);
    let bench = open(dir.path(), 3, |_| {});
    assert_eq!(bench.driver.applied.0, 5);
    assert!(bench.driver.end_at.is_none());
    assert!(bench.driver.register.borrow().removed.is_empty());
}

#[test]
fn removing_a_stranger_or_everybody_has_no_effect_on_any_node() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = open(dir.path(), 2, |_| {});
    let stranger = change_entry(3, ConfChangeType::ConfChangeRemoveNode, 9, "");
    let mut last = change_entry(4, ConfChangeType::ConfChangeRemoveNode, 2, "");
    let mut message = Message::of(MessageType::MsgApp);
    last.index = 4;
    (message.from, message.to, message.term, message.commit) = (2, 1, 5, 5);
    (message.index, message.log_term) = (2, 1);
    message.entries = [stranger, last, change_entry(5, ConfChangeType::ConfChangeRemoveNode, 1, "")].into();
    bench.take(Input::peer(Event::Message(message)));
    assert_eq!(bench.driver.applied.0, 5, "it goes on");
    assert_eq!(bench.driver.conf_state.voters, [1]);
    assert!(bench.driver.members.contains(1) && bench.driver.end_at.is_none());
}

#[test]
fn senseless_changes_are_refused_before_they_are_proposed() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = open(dir.path(), 1, |_| {});
    bench.elect();
    let before = bench.driver.raw.storage().last_index();
    let mut answer = bench.change(Step::Remove { id: 7 }.into());
    assert!(matches!(answer.try_recv(), Ok(Err(Refused::Change(_)))));
    let mut answer = bench.change(Step::Remove { id: 1 }.into());
    assert!(matches!(answer.try_recv(), Ok(Err(Refused::Change(_)))));
    assert_eq!(bench.driver.raw.storage().last_index(), before);
}

#[test]
fn a_snapshot_from_the_leader_replaces_store_members_and_log() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = open(dir.path(), 3, |_| {});
    let mut forwarded = {
        assert!(bench.append(3, vec![], 3).is_ok());
        bench.write(1, "mine")
    };
    let mut members = Members::default();
    for id in [1, 2, 5] {
        members.set_address(id, format!("http://127.0.0.1:{id}").parse().unwrap());
    }
    let mut store = Store::new();
    store.apply(40, Command::Put { key: "theirs".into(), value: Bytes::from_static(b"\xff") });
    let mut metadata = SnapshotMetadata { index: 40, term: 5, ..SnapshotMetadata::default() };
    metadata.conf_state.voters = vec![1, 2, 5];
    let received = |bench: &Bench| Received {
        message: snapshot_message(&metadata),
        image: bench.driver.snapshots.image(&metadata, &members, &store),
    };
    let first = received(&bench);
    bench.take(Input::peer(Event::Snapshot(Box::new(first))));
    assert_eq!(bench.value("theirs"), Some(Bytes::from_static(b"\xff")));
    assert_eq!((bench.driver.applied, bench.driver.snapshots.index), ((40, 5), 40));
    assert!(bench.driver.members.contains(5) && !bench.driver.members.contains(3));
    assert!(matches!(forwarded.try_recv(), Ok(Err(Refused::Unknown(_)))), "it may be in the snapshot");
    let stale = received(&bench);
    bench.take(Input::peer(Event::Snapshot(Box::new(stale))));
    bench.take(Input::peer(Event::Message(snapshot_message(&SnapshotMetadata { index: 50, ..metadata.clone() }))));
    assert_eq!(bench.driver.applied.0, 40, "no snapshot without its data");
    // Of the stale one nothing is left, once the thread that drops it has got to it.
    while std::fs::read_dir(dir.path().join("snap")).unwrap().count() > 1 {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    // The log goes on from there, also after a restart.
    assert!(bench.append(40, vec![entry(41, request(9, "later"))], 41).is_ok());
    drop(bench);
    let bench = open(dir.path(), 3, |_| {});
    assert_eq!(bench.value("later"), Some("later".into()));
    assert_eq!(bench.value("theirs"), Some(Bytes::from_static(b"\xff")));
}

#[test]
fn a_snapshot_that_does_not_know_its_receiver_is_of_no_use_to_it() {
    let mut metadata = SnapshotMetadata { index: 40, term: 5, ..SnapshotMetadata::default() };
    (metadata.conf_state.voters, metadata.conf_state.learners) = (vec![2], vec![3]);
    let to = |to| Message { to, ..snapshot_message(&metadata) };
    assert!(Driver::is_of_use(&to(2)) && Driver::is_of_use(&to(3)));
    assert!(!Driver::is_of_use(&to(1)), "added since");
    assert!(Driver::is_of_use(&Message::of(MessageType::MsgApp)));
}

fn snapshot_message(metadata: &SnapshotMetadata) -> Message {
    let mut message = Message::of(MessageType::MsgSnap);
    (message.from, message.to, message.term) = (2, 1, 5);
    message.snapshot = Some(Box::new(Snapshot { metadata: metadata.clone(), ..Snapshot::default() }));
    message
}

#[test]
fn a_new_member_waits_to_be_called() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = open(dir.path(), 3, |options| options.join = true);
    bench.tick(5 * ELECTION_TICKS);
    assert_eq!(bench.driver.raw.basic_status().hard_state.term, 0, "it does not campaign");
    let mut answer = bench.change(Step::Remove { id: 2 }.into());
    assert!(matches!(answer.try_recv(), Ok(Err(Refused::NotDone(_)))), "it knows of no member to remove");
}

#[test]
fn word_of_a_removal_counts_only_without_a_leader_and_if_it_is_news_and_most_say_so() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = open(dir.path(), 4, |_| {});
    let told = |bench: &mut Bench, by: u64, at: u64| {
        bench.take(Input::peer(Event::ToldRemoved { by, at }));
        bench.driver.end_at.is_some()
    };
    let led = |bench: &mut Bench| {
        let mut message = Message::of(MessageType::MsgHeartbeat);
        (message.from, message.to, message.term) = (2, 1, 5);
        bench.take(Input::peer(Event::Message(message)));
        assert_eq!(bench.driver.leader, 2);
    };
    led(&mut bench);
    assert!(![2, 3, 4].map(|by| told(&mut bench, by, 9)).contains(&true), "node 2 leads it");
    bench.tick(3 * ELECTION_TICKS);
    assert!(![2, 3, 4].map(|by| told(&mut bench, by, 4)).contains(&true), "it has applied that entry, and is a member");
    assert!(!told(&mut bench, 3, 9) && !told(&mut bench, 3, 9), "one may be behind");
    assert!(!told(&mut bench, 8, 9), "a stranger");
    led(&mut bench);
    bench.tick(3 * ELECTION_TICKS);
    assert!(!told(&mut bench, 2, 9), "a leader came between: what was said before does not count");
    assert!(told(&mut bench, 3, 9), "two of three");
}

/// Added, removed, and only then started: it has no log that tells who is a member.
#[test]
fn a_newcomer_hears_of_its_removal_from_those_whom_its_command_line_names() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = open(dir.path(), 3, |options| options.join = true);
    for (by, ended) in [(9, false), (2, false), (3, true)] {
        bench.take(Input::peer(Event::ToldRemoved { by, at: 9 }));
        assert_eq!(bench.driver.end_at.is_some(), ended, "told by {by}");
    }
}

#[test]
fn a_forwarded_proposal_is_kept_during_a_handover_and_goes_to_the_next_leader() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = open(dir.path(), 3, |_| {});
    // Node 1 leads: node 2 votes for it.
    bench.tick(2 * ELECTION_TICKS);
    for kind in [MessageType::MsgPreVoteResp, MessageType::MsgVoteResp] {
        let term = bench.driver.raw.basic_status().hard_state.term;
        let term = if kind == MessageType::MsgPreVoteResp { term + 1 } else { term };
        bench.take(Input::peer(Event::Message(Message { from: 2, to: 1, term, ..Message::of(kind) })));
    }
    let status = bench.driver.raw.basic_status();
    assert_eq!(status.soft_state.state, StateType::Leader);
    let term = status.hard_state.term;
    bench.driver.raw.transfer_leader(2).unwrap();
    bench.turn();

    let (last, proposal) = (bench.driver.raw.storage().last_index().unwrap(), request(1, "kept"));
    let forwarded =
        Message { from: 3, to: 1, entries: [Entry::normal(proposal)].into(), ..Message::of(MessageType::MsgProp) };
    bench.take(Input::peer(Event::Message(forwarded)));
    assert_eq!(bench.driver.raw.storage().last_index(), Ok(last), "not into this node's log");
    assert_eq!(bench.driver.handover.kept(), 1);
    // A new leader, of which this node learns by its first append.
    let append =
        Message { from: 2, to: 1, term: term + 1, index: last, log_term: term, ..Message::of(MessageType::MsgApp) };
    bench.take(Input::peer(Event::Message(append)));
    assert_eq!((bench.driver.leader, bench.driver.handover.kept()), (2, 0), "it is on its way");
}
