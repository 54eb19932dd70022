//! What a peer may send, and everything else: a million arbitrary, damaged and cut inputs through the decoders of all
//! channels. None panics, and none makes this node allocate more than a bounded multiple of what has arrived.
//!
//! `FRAME_CASES=N` chooses another number of cases, `FRAME_SEED=N` other ones.

use std::alloc::System;

use bytes::{Bytes, BytesMut};
use raft_core::pb::{Entry, Message, MessageType, Snapshot};
use raftexample::transport::stream::{Frame, Kind, FRAME_MAX_BYTES};
use raftexample::transport::wire::{self, MAX_ENTRIES};
use stats_alloc::{Region, StatsAlloc, INSTRUMENTED_SYSTEM};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// An entry of two bytes becomes a structure of some fifty, in a list that doubles as it grows.
const BYTES_PER_BYTE: usize = 128;
/// Buffers, and the text of an error.
const BYTES_AT_ALL: usize = 4096;

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

/// Bytes allocated meanwhile, whether or not they were given back.
fn allocated(work: impl FnOnce()) -> usize {
    let region = Region::new(ALLOCATOR);
    work();
    let change = region.change();
    change.bytes_allocated + change.bytes_reallocated.max(0) as usize
}

#[test]
fn no_input_panics_or_allocates_without_bound() {
    let (cases, seed) = (from_environment("FRAME_CASES", 1_000_000), from_environment("FRAME_SEED", 1));
    let (mut random, mut messages, mut worst) = (Random(seed), 0, 0);
    for case in 0..cases {
        let channel = [Some(Kind::MsgApp), Some(Kind::Message), None][random.below(3)];
        let piece = 1 + random.below(64);
        let bytes = match channel {
            Some(kind) => random.stream(kind),
            None => {
                let body = wire::encode(random.message()).to_vec();
                random.damage(body)
            }
        };
        let used = allocated(|| match channel {
            Some(kind) => messages += read(kind, &bytes, piece),
            None => messages += usize::from(wire::decode(Bytes::copy_from_slice(&bytes)).is_ok()),
        });
        assert!(
            used <= BYTES_AT_ALL + BYTES_PER_BYTE * bytes.len(),
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
