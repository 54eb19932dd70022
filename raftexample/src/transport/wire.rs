//! Messages as bytes, the same on every channel: protobuf as etcd 3.4 writes it, read with a limit on what it may cost.
//!
//! **Writing.** 3.4 puts an empty snapshot into every message that has none, and writes every number, zeros included.
//! Readers of all versions take that form, so it is the one that leaves this node.
//!
//! **Reading.** A decoder allocates a structure for every element of a list, and an element can be as short as two bytes:
//! a frame of a few megabytes would unfold into gigabytes. So [`decode`] walks over the fields first, which costs nothing,
//! and counts. It also refuses what never crosses a network: messages within messages, which only a node's own storage
//! threads get. Data itself is not copied; it stays a part of the bytes that it came in.
//!
//! What is left out: what the numbers mean. Raft checks that, at its own boundary.

use std::fmt;

use bytes::Bytes;
use prost::Message as _;
use raft_core::pb::{Entry, Message};

/// A message may not have more entries. The original fills one up to 1 MiB, with entries of at least six bytes.
pub const MAX_ENTRIES: usize = 1 << 18;
/// Index, term and members of a snapshot may not be longer: three thousand members in each role.
pub const SNAPSHOT_METADATA_MAX_BYTES: usize = 64 << 10;

/// Field numbers of `Message` and `Snapshot` that the walk must know.
const MESSAGE_ENTRIES: u64 = 7;
const MESSAGE_SNAPSHOT: u64 = 9;
const MESSAGE_RESPONSES: u64 = 14;
const SNAPSHOT_METADATA: u64 = 2;

/// Why bytes are not what a peer may send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WireError {
    /// More than this side takes.
    TooLarge {
        /// What of.
        what: &'static str,
        /// How much there is.
        found: u64,
        /// How much there may be.
        limit: u64,
    },
    /// A frame begins with a byte that means nothing.
    UnknownFrame(u8),
    /// Not protobuf, or not a message.
    Malformed(String),
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WireError::TooLarge { what, found, limit } => write!(f, "{found} {what}, more than {limit}"),
            WireError::UnknownFrame(first) => write!(f, "a frame of the unknown kind {first}"),
            WireError::Malformed(reason) => write!(f, "malformed: {reason}"),
        }
    }
}

impl std::error::Error for WireError {}

impl WireError {
    /// Checks a number against its limit.
    pub(super) fn limit(what: &'static str, found: u64, limit: usize) -> Result<(), WireError> {
        let limit = limit as u64;
        if found > limit {
            return Err(WireError::TooLarge { what, found, limit });
        }
        Ok(())
    }
}

/// Gives the message the form of 3.4: an empty snapshot where there is none.
pub fn prepare(message: &mut Message) {
    message.snapshot.get_or_insert_default();
}

/// The bytes of a message, as 3.4 writes them.
pub fn encode(mut message: Message) -> Bytes {
    prepare(&mut message);
    message.encode_to_vec().into()
}

/// Reads a message of any version. Its data shares the memory of `bytes`; an empty snapshot counts as none.
pub fn decode(bytes: Bytes) -> Result<Message, WireError> {
    check(&bytes)?;
    let mut message = Message::decode(bytes).map_err(|error| WireError::Malformed(error.to_string()))?;
    message.snapshot = message.take_snapshot();
    Ok(message)
}

/// Reads an entry that comes without a message around it.
pub fn decode_entry(bytes: Bytes) -> Result<Entry, WireError> {
    Entry::decode(bytes).map_err(|error| WireError::Malformed(error.to_string()))
}

/// Whether a message will not unfold into more than its bytes justify.
fn check(bytes: &[u8]) -> Result<(), WireError> {
    let mut entries = 0;
    let mut metadata_bytes = 0;
    walk(bytes, |number, contents| match number {
        MESSAGE_ENTRIES => {
            entries += 1;
            WireError::limit("entries in a message", entries, MAX_ENTRIES)
        }
        MESSAGE_SNAPSHOT => walk(contents, |number, contents| {
            if number == SNAPSHOT_METADATA {
                metadata_bytes += contents.len() as u64;
            }
            WireError::limit("bytes of snapshot metadata", metadata_bytes, SNAPSHOT_METADATA_MAX_BYTES)
        }),
        MESSAGE_RESPONSES => Err(WireError::Malformed("a message within a message".into())),
        _ => Ok(()),
    })
}

/// Shows `visit` each field: its number, and its contents if it is a string of bytes (nothing, if it is a number).
fn walk(mut bytes: &[u8], mut visit: impl FnMut(u64, &[u8]) -> Result<(), WireError>) -> Result<(), WireError> {
    let cut = || WireError::Malformed("it ends within a field".into());
    while !bytes.is_empty() {
        let key = varint(&mut bytes).ok_or_else(cut)?;
        let length = match key & 7 {
            0 => {
                varint(&mut bytes).ok_or_else(cut)?;
                0
            }
            1 => 8,
            2 => varint(&mut bytes).ok_or_else(cut)?,
            5 => 4,
            _ => return Err(WireError::Malformed("a field of an unknown kind".into())),
        };
        let length = usize::try_from(length).map_err(|_| cut())?;
        let (contents, rest) = bytes.split_at_checked(length).ok_or_else(cut)?;
        visit(key >> 3, contents)?;
        bytes = rest;
    }
    Ok(())
}

/// Seven bits a byte, the lowest first; the highest bit says that more follow.
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (&first, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(first & 0x7f) << shift;
        if first < 0x80 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft_core::pb::{MessageType, Snapshot};

    #[test]
    fn messages_leave_in_the_form_of_3_4() {
        // Captured from the original: a vote request of node 1 to node 3.
        let mut vote = Message::of(MessageType::MsgVote);
        (vote.to, vote.from, vote.term, vote.log_term, vote.index) = (3, 1, 2, 1, 3);
        let expected: [u8; 30] = [
            0x08, 0x05, 0x10, 0x03, 0x18, 0x01, 0x20, 0x02, 0x28, 0x01, 0x30, 0x03, 0x40, 0x00, 0x4a, 0x0a, 0x12, 0x08,
            0x0a, 0x02, 0x28, 0x00, 0x10, 0x00, 0x18, 0x00, 0x50, 0x00, 0x58, 0x00,
        ];
        assert_eq!(encode(vote.clone()).as_ref(), expected);
        assert_eq!(decode(encode(vote.clone())), Ok(vote));
    }

    #[test]
    fn a_snapshot_of_the_original_is_read() {
        // Captured: three keys as JSON, voters 1 to 3, index 10106.
        let mut bytes = vec![8, 7, 16, 3, 24, 1, 32, 2, 40, 0, 48, 0, 64, 0, 0x4a, 0x41, 0x0a, 0x2e];
        bytes.extend_from_slice(b"{\"/k0\":\"v10101\",\"/k1\":\"v10102\",\"/k2\":\"v10103\"}");
        bytes.extend_from_slice(&[0x12, 0x0f, 0x0a, 8, 8, 1, 8, 2, 8, 3, 40, 0, 16, 0xfa, 0x4e, 24, 2, 80, 0, 88, 0]);
        let message = decode(bytes.clone().into()).unwrap();
        let snapshot: &Snapshot = message.snapshot.as_deref().unwrap();
        assert_eq!((snapshot.metadata.index, snapshot.metadata.term), (10_106, 2));
        assert_eq!(snapshot.metadata.conf_state.voters, [1, 2, 3]);
        assert_eq!(encode(message).as_ref(), bytes);
    }

    #[test]
    fn what_would_unfold_is_refused_before_it_does() {
        let entries = [0x3a, 0].repeat(MAX_ENTRIES);
        assert_eq!(decode(entries.clone().into()).map(|message| message.entries.len()), Ok(MAX_ENTRIES));
        let one_more = [entries, vec![0x3a, 0]].concat();
        assert!(matches!(decode(one_more.into()), Err(WireError::TooLarge { .. })));
        assert!(decode(vec![0x72, 0].into()).is_err(), "a message within a message");
        let metadata = [vec![0x12, 0x81, 0x80, 0x04, 0x0a, 0xfd, 0xff, 0x03], vec![8; 0xfffd]].concat();
        let length = metadata.len();
        let key = vec![0x4a, length as u8 | 0x80, (length >> 7) as u8 | 0x80, (length >> 14) as u8];
        let error = decode([key, metadata].concat().into());
        assert!(matches!(error, Err(WireError::TooLarge { what: "bytes of snapshot metadata", .. })), "{error:?}");
    }

    #[test]
    fn cut_messages_are_errors_or_shorter_messages_but_never_more() {
        let mut message = Message::of(MessageType::MsgApp);
        message.entries = [Entry::normal("data"), Entry::normal("more")].into();
        let whole = encode(message);
        for length in 0..whole.len() {
            if let Ok(part) = decode(whole.slice(..length)) {
                assert!(part.entries.len() <= 2);
            }
        }
        for bytes in
            [&b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"[..], b"\x0b", b"\x3a\xff\xff\xff\xff\x0f", b"\x80"]
        {
            assert!(decode(Bytes::copy_from_slice(bytes)).is_err());
        }
    }
}
