//! What a peer may send, and everything else: a million arbitrary, damaged and cut inputs through the decoders of all
//! channels. None panics, and none makes this node allocate more than a bounded multiple of what has arrived.
//!
//! `FRAME_CASES=N` chooses another number of cases, `FRAME_SEED=N` other ones. A fiftieth of as many bodies go
//! through everything that answers a snapshot, with a disk behind it.

use std::alloc::System;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::{Cursor, Read};
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use hyper::body::{Body, SizeHint};
use hyper::Request;
use kvstore::{Command, Store};
use raft_core::pb::{Entry, Message, MessageType, Snapshot, SnapshotMetadata};
use raftexample::codec::OwnCodec;
use raftexample::members::Members;
use raftexample::snapshots::{Orders, SnapshotFiles};
use raftexample::transport::register::Register;
use raftexample::transport::server::PeerServer;
use raftexample::transport::snapshot::receive::Receiving;
use raftexample::transport::snapshot::Transfers;
use raftexample::transport::stream::{Frame, Kind, FRAME_MAX_BYTES};
use raftexample::transport::wire::{self, MAX_ENTRIES};
use raftexample::transport::{Event, Sink};
use stats_alloc::{Region, StatsAlloc, INSTRUMENTED_SYSTEM};
use wal::snapshot::{SnapshotDir, SnapshotReader, CHUNK_BYTES};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// An entry of two bytes becomes a structure of some fifty, in a list that doubles as it grows.
const BYTES_PER_BYTE: usize = 128;
/// Buffers, and the text of an error.
const BYTES_AT_ALL: usize = 4096;

/// The buffer of a chunk, counted twice when it grows.
const FILE_BYTES: usize = 2 * CHUNK_BYTES;
/// A chunk that is read, one that is written, and what lies about them.
const SNAPSHOT_BYTES: usize = 4 * CHUNK_BYTES;

/// The same numbers for the same seed (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn bytes(&mut self, max: usize) -> Vec<u8> {
        let length = self.below(max + 1);
        (0..length).map(|_| self.next() as u8).collect()
    }

    /// Mostly small, sometimes at the edge of what fits.
    fn number(&mut self) -> u64 {
        match self.below(10) {
            0 => self.next(),
            1 => u64::MAX - self.next() % 3,
            _ => self.next() % 5,
        }
    }

    fn message(&mut self) -> Message {
        let kinds = [MessageType::MsgApp, MessageType::MsgApp, MessageType::MsgProp, MessageType::MsgHeartbeat];
        let mut message = Message::of(kinds[self.below(kinds.len())]);
        (message.from, message.to, message.term) = (self.number(), self.number(), self.number());
        (message.log_term, message.index, message.commit) = (self.number(), self.number(), self.number());
        message.context = self.bytes(5).into();
        for _ in 0..self.below(4) {
            let mut entry = Entry::normal(self.bytes(20));
            (entry.term, entry.index) = (self.number(), self.number());
            message.entries.push(entry);
        }
        if self.below(10) == 0 {
            let mut snapshot = Snapshot { data: self.bytes(20).into(), ..Snapshot::default() };
            snapshot.metadata.index = self.number();
            snapshot.metadata.conf_state.voters = vec![1, 2, 3];
            message.snapshot = Some(Box::new(snapshot));
        }
        message
    }

    /// What one connection carries: noise, or frames with some damage.
    fn stream(&mut self, kind: Kind) -> Vec<u8> {
        if self.below(4) == 0 {
            return self.bytes(120);
        }
        let (mut encoder, mut out) = (kind.encoder(), BytesMut::new());
        for _ in 0..1 + self.below(3) {
            match self.below(6) {
                0 => encoder.heartbeat(&mut out),
                _ => encoder.message(self.message(), &mut out),
            }
        }
        self.damage(out.to_vec())
    }

    /// Flips, cuts, repeats, replaces; or does nothing.
    fn damage(&mut self, mut bytes: Vec<u8>) -> Vec<u8> {
        for _ in 0..self.below(4) {
            let length = bytes.len();
            if length == 0 {
                return bytes;
            }
            let at = self.below(length);
            match self.below(5) {
                0 => bytes[at] ^= 1 << self.below(8),
                1 => bytes[at] = self.next() as u8,
                2 => bytes.truncate(at),
                3 => {
                    bytes.remove(at);
                }
                _ => bytes.extend_from_within(at..),
            }
        }
        bytes
    }
}

/// A snapshot of a few keys: its files, what it stands for, and its bytes.
fn small_snapshot(dir: &Path) -> (SnapshotFiles, SnapshotMetadata, Vec<u8>) {
    let files = SnapshotFiles::new(SnapshotDir::open(dir).expect("a folder"), Arc::new(OwnCodec), Vec::new());
    let mut metadata = SnapshotMetadata { index: 7, term: 3, ..SnapshotMetadata::default() };
    metadata.conf_state.voters = vec![1, 2];
    let mut store = Store::new();
    for number in 1..=3_u8 {
        store.apply(number.into(), Command::Put { key: vec![number; 3].into(), value: vec![number; 50].into() });
    }
    let written = files.write(&metadata, (&Members::default(), &store), &Orders::default()).expect("written");
    written.publish().expect("published");
    let mut bytes = Vec::new();
    files.open(&metadata).expect("it is there").source.read_to_end(&mut bytes).expect("readable");
    (files, metadata, bytes)
}

/// Reads a snapshot's file to its end, if it is one; says whether.
fn read_file(bytes: Vec<u8>) -> bool {
    let Ok(mut reader) = SnapshotReader::of_stream(Box::new(Cursor::new(bytes))) else { return false };
    loop {
        match reader.next_chunk() {
            Ok(Some(_)) => {}
            Ok(None) => return true,
            Err(_) => return false,
        }
    }
}

/// Reads a connection to its end, in pieces; returns how many messages there were.
fn read(kind: Kind, bytes: &[u8], piece: usize) -> usize {
    let (mut decoder, mut buffer, mut messages) = (kind.decoder(1, 2), BytesMut::new(), 0);
    for chunk in bytes.chunks(piece) {
        buffer.extend_from_slice(chunk);
        loop {
            match decoder.frame(&mut buffer) {
                Ok(Some(Frame::Message(_))) => messages += 1,
                Ok(Some(Frame::Heartbeat)) => {}
                Ok(None) => break,
                Err(_) => return messages,
            }
        }
    }
    messages
}

fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// What is counted is what the whole process allocates.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Bytes allocated meanwhile, whether or not they were given back.
fn allocated(work: impl FnOnce()) -> usize {
    let region = Region::new(ALLOCATOR);
    work();
    let change = region.change();
    change.bytes_allocated + change.bytes_reallocated.max(0) as usize
}

#[test]
fn no_input_panics_or_allocates_without_bound() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = tempfile::tempdir().expect("a folder");
    let (_files, _metadata, file) = small_snapshot(dir.path());
    let (cases, seed) = (from_environment("FRAME_CASES", 1_000_000), from_environment("FRAME_SEED", 1));
    let (mut random, mut messages, mut worst) = (Random(seed), 0, 0);
    for case in 0..cases {
        let channel = [Some(Kind::MsgApp), Some(Kind::Message), None][random.below(3)];
        let is_file = channel.is_none() && random.below(4) == 0;
        let piece = 1 + random.below(64);
        let bytes = match channel {
            Some(kind) => random.stream(kind),
            None if is_file && random.below(4) == 0 => random.bytes(120),
            None if is_file => random.damage(file.clone()),
            None => {
                let body = wire::encode(random.message()).to_vec();
                random.damage(body)
            }
        };
        let used = allocated(|| match channel {
            Some(kind) => messages += read(kind, &bytes, piece),
            None if is_file => messages += usize::from(read_file(bytes.clone())),
            None => messages += usize::from(wire::decode(Bytes::copy_from_slice(&bytes)).is_ok()),
        });
        assert!(
            used <= BYTES_AT_ALL + BYTES_PER_BYTE * bytes.len() + if is_file { FILE_BYTES } else { 0 },
            "case {case} of seed {seed}: {} bytes on {channel:?} made it allocate {used}",
            bytes.len()
        );
        worst = worst.max(used);
    }
    println!("frames: {cases} inputs, {messages} messages in them, at most {worst} bytes allocated for one");
    assert!(messages as u64 > cases / 4, "most of this must be more than noise");

    // What unfolds most: as many of the shortest entries as there may be, and more than that.
    for count in [MAX_ENTRIES, MAX_ENTRIES + 1, 16 * MAX_ENTRIES] {
        let body = [0x3a, 0].repeat(count);
        let used = allocated(|| assert_eq!(wire::decode(Bytes::from(body)).is_ok(), count == MAX_ENTRIES));
        let limit = 3 * MAX_ENTRIES * size_of::<Entry>();
        assert!(used < limit, "{count} empty entries made it allocate {used}");
    }
    // What announces most: nothing is set aside for what has not arrived.
    for prefix in [0, 1, FRAME_MAX_BYTES as u64, FRAME_MAX_BYTES as u64 + 1, u64::MAX / 2, u64::MAX] {
        let prefix = prefix.to_be_bytes();
        for (kind, bytes) in [
            (Kind::Message, prefix.to_vec()),
            (Kind::MsgApp, [&[2], &prefix[..]].concat()),
            (Kind::MsgApp, [&[1], &prefix[..]].concat()),
            (Kind::MsgApp, [&[1], &1_u64.to_be_bytes()[..], &prefix].concat()),
        ] {
            let used = allocated(|| {
                read(kind, &bytes, bytes.len());
            });
            assert!(used <= BYTES_AT_ALL, "{bytes:?} on {kind:?} made it allocate {used}");
        }
    }
}

/// A body as a connection brings it: in pieces, with a length that need not be true.
struct Pieces {
    announced: u64,
    pieces: VecDeque<Bytes>,
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.pieces.pop_front().map(|piece| Ok(hyper::body::Frame::data(piece))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.announced)
    }
}

#[test]
fn no_body_on_the_snapshot_channel_panics_allocates_without_bound_or_leaves_anything() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let (cases, seed) = (from_environment("FRAME_CASES", 1_000_000) / 50, from_environment("FRAME_SEED", 1));
    let (here, there) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let (_files, metadata, file) = small_snapshot(here.path());
    let dir = SnapshotDir::open(there.path()).expect("a folder");
    let arrived = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&arrived);
    let sink: Sink = Arc::new(move |event| {
        assert!(matches!(event, Event::Snapshot(_)));
        counted.fetch_add(1, Ordering::Relaxed);
        Ok(())
    });
    let files = SnapshotFiles::new(dir, Arc::new(OwnCodec), Vec::new());
    let server = Arc::new(PeerServer {
        own_id: 2,
        peers: Arc::default(),
        sink: Arc::clone(&sink),
        register: Register::default(),
        snapshots: Receiving::new(2, files, Transfers::default(), sink),
        arriving: Default::default(),
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let (mut random, mut taken, mut worst) = (Random(seed), 0, 0);
    for case in 0..cases {
        let message = match random.below(3) {
            0 => random.message(),
            _ => {
                let mut message = Message::of(MessageType::MsgSnap);
                (message.from, message.to, message.term) = (1, 2, 4);
                message.snapshot.insert(Box::default()).metadata = metadata.clone();
                message
            }
        };
        let message = wire::encode(message);
        let whole = [&(message.len() as u64).to_be_bytes()[..], &message, &file].concat();
        let bytes = match random.below(8) {
            0 => random.bytes(120),
            // Damage to the file alone gets furthest.
            1..=3 => [&whole[..whole.len() - file.len()], &random.damage(file.clone())].concat(),
            _ => random.damage(whole),
        };
        let announced = if random.below(8) == 0 { random.number() } else { bytes.len() as u64 };
        let piece = 1 + random.below(bytes.len() + 1);
        let pieces = bytes.chunks(piece).map(Bytes::copy_from_slice).collect();
        let request = Request::post("/raft/snapshot").header("x-etcd-cluster-id", "1000");
        let request = request.header("x-server-version", "3.4.23").header("x-server-from", "1");
        let request = request.body(Pieces { announced, pieces }).expect("a request");
        let mut status = 0;
        let used = allocated(|| {
            let Ok(response) = runtime.block_on(Arc::clone(&server).answer(request));
            status = response.status().as_u16();
        });
        let said = format!("case {case} of seed {seed}: {} bytes, answered with {status}", bytes.len());
        assert!(matches!(status, 204 | 400 | 412 | 507), "{said}");
        taken += usize::from(status == 204);
        assert_eq!(arrived.load(Ordering::Relaxed), taken, "{said}");
        let limit = BYTES_AT_ALL + BYTES_PER_BYTE * bytes.len() + SNAPSHOT_BYTES;
        assert!(used <= limit, "{said}, allocated {used}");
        worst = worst.max(used);
    }
    let left = std::fs::read_dir(there.path()).expect("a folder").count();
    assert_eq!(left, 0, "nobody wanted what arrived");
    println!("snapshots: {cases} bodies, {taken} taken, at most {worst} bytes allocated for one");
    assert!(taken as u64 > cases / 20, "most of this must be more than noise");
}
