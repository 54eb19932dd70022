//! The `msgapp` stream: a leader's entries, in a shorthand that fits what a leader says most of the time.
//!
//! A leader that streams sends MsgApp after MsgApp, each continuing where the one before ended, all in one term. Both ends
//! therefore keep a position, the term and the last index that went by, and a message that continues there is sent
//! as nothing but its entries and the commit index. All integers are 64 bits, most significant byte first.
//!
//! ```text
//!   00                                              heartbeat of the link: the sender lives
//!   01  n  n × (size, entry)  commit                MsgApp that continues at the position
//!   02  size  message                               any other MsgApp: it sets the position
//! ```
//!
//! ```text
//!   a message continues  ⇔  index = position.index ∧ log_term = position.term ∧ log_term = term
//!   after it             position.index += n
//!   after any other      position = (term, index of its last entry, or its index if it has none)
//! ```
//!
//! The position begins at (0, 0) with every connection, so the first MsgApp of a connection, of a term, after a rejection
//! and after a probe goes as a whole. (etcd calls this encoding msgappv2; the path of the stream says `msgapp`.)
//!
//! **Limits** are this side's own: the original allocates whatever a prefix announces. Here memory grows with what has
//! arrived, and a prefix that announces too much ends the stream at once.
//!
//! What is left out: every other type of message. The other direction of this stream carries heartbeats only.

use bytes::{Buf, BufMut, BytesMut};
use prost::Message as _;
use raft_core::pb::{Message, MessageType};

use super::stream::{take_frame, Decode, Encode, Frame, FRAME_MAX_BYTES};
use super::wire::{self, WireError, MAX_ENTRIES};

const HEARTBEAT: u8 = 0;
const APPEND_ENTRIES: u8 = 1;
const WHOLE_MESSAGE: u8 = 2;
/// Bytes of an integer.
const INTEGER: usize = 8;

/// What has gone by on a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Position {
    term: u64,
    index: u64,
}

impl Position {
    fn continues(self, message: &Message) -> bool {
        message.index == self.index && message.log_term == self.term && message.log_term == message.term
    }

    fn after_whole(message: &Message) -> Position {
        let index = message.entries.last().map_or(message.index, |entry| entry.index);
        Position { term: message.term, index }
    }

    fn advance(&mut self, entries: usize) {
        self.index = self.index.saturating_add(entries as u64);
    }
}

/// The sending end.
#[derive(Clone, Debug, Default)]
pub struct Encoder {
    position: Position,
}

impl Encode for Encoder {
    fn heartbeat(&mut self, into: &mut BytesMut) {
        into.put_u8(HEARTBEAT);
    }

    fn message(&mut self, mut message: Message, into: &mut BytesMut) {
        if self.position.continues(&message) {
            into.put_u8(APPEND_ENTRIES);
            into.put_u64(message.entries.len() as u64);
            for entry in &message.entries {
                into.put_u64(entry.encoded_len() as u64);
                entry.encode_raw(into);
            }
            into.put_u64(message.commit);
            self.position.advance(message.entries.len());
        } else {
            wire::prepare(&mut message);
            into.put_u8(WHOLE_MESSAGE);
            into.put_u64(message.encoded_len() as u64);
            message.encode_raw(into);
            self.position = Position::after_whole(&message);
        }
    }
}

/// The receiving end.
#[derive(Clone, Debug)]
pub struct Decoder {
    /// The peer that was dialled: it is the sender of what comes in shorthand.
    from: u64,
    /// This node.
    to: u64,
    position: Position,
    /// How far the frame at the buffer's beginning has been looked at.
    seen: Option<Seen>,
}

/// The part of an unfinished list of entries that is known.
#[derive(Clone, Copy, Debug)]
struct Seen {
    bytes: usize,
    entries: usize,
    entries_left: u64,
}

impl Decoder {
    /// For a new connection from this node to the peer `from`.
    pub fn new(from: u64, to: u64) -> Decoder {
        Decoder { from, to, position: Position::default(), seen: None }
    }

    fn append_entries(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, WireError> {
        let Some(seen) = self.look_ahead(buffer)? else { return Ok(None) };
        self.seen = None;
        let mut frame = take_frame(buffer, seen.bytes + INTEGER);
        frame.advance(1 + INTEGER);
        let mut message = Message::of(MessageType::MsgApp);
        message.entries.reserve_exact(seen.entries);
        for _ in 0..seen.entries {
            // The look ahead has found as many bytes as each size says.
            let size = frame.get_u64() as usize;
            message.entries.push(wire::decode_entry(frame.split_to(size))?);
        }
        (message.from, message.to, message.commit) = (self.from, self.to, frame.get_u64());
        (message.term, message.log_term, message.index) = (self.position.term, self.position.term, self.position.index);
        self.position.advance(seen.entries);
        Ok(Some(Frame::Message(message)))
    }

    /// Goes from size to size until the last entry, as far as there are bytes. What it has seen it will not look at
    /// again: a list that arrives in small pieces costs no more than one that arrives at once.
    fn look_ahead(&mut self, buffer: &[u8]) -> Result<Option<Seen>, WireError> {
        let mut seen = match (self.seen, integer_at(buffer, 1)) {
            (Some(seen), _) => seen,
            (None, None) => return Ok(None),
            (None, Some(count)) => {
                WireError::limit("entries in a frame", count, MAX_ENTRIES)?;
                Seen { bytes: 1 + INTEGER, entries: 0, entries_left: count }
            }
        };
        while seen.entries_left > 0 {
            let Some(size) = integer_at(buffer, seen.bytes) else { break };
            let end = size.saturating_add((seen.bytes + INTEGER) as u64);
            WireError::limit("bytes in a frame", end, FRAME_MAX_BYTES)?;
            let end = end as usize;
            if buffer.len() < end {
                break;
            }
            seen = Seen { bytes: end, entries: seen.entries + 1, entries_left: seen.entries_left - 1 };
        }
        self.seen = Some(seen);
        let complete = seen.entries_left == 0 && buffer.len() >= seen.bytes + INTEGER;
        Ok(complete.then_some(seen))
    }

    fn whole_message(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, WireError> {
        let Some(size) = integer_at(buffer, 1) else { return Ok(None) };
        WireError::limit("bytes in a frame", size, FRAME_MAX_BYTES)?;
        let end = 1 + INTEGER + size as usize;
        if buffer.len() < end {
            return Ok(None);
        }
        let message = wire::decode(take_frame(buffer, end).slice(1 + INTEGER..))?;
        self.position = Position::after_whole(&message);
        Ok(Some(Frame::Message(message)))
    }
}

impl Decode for Decoder {
    fn frame(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, WireError> {
        match buffer.first() {
            None => Ok(None),
            Some(&HEARTBEAT) => {
                buffer.advance(1);
                Ok(Some(Frame::Heartbeat))
            }
            Some(&APPEND_ENTRIES) => self.append_entries(buffer),
            Some(&WHOLE_MESSAGE) => self.whole_message(buffer),
            Some(&other) => Err(WireError::UnknownFrame(other)),
        }
    }
}

fn integer_at(buffer: &[u8], offset: usize) -> Option<u64> {
    buffer.get(offset..)?.first_chunk().map(|bytes: &[u8; INTEGER]| u64::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use raft_core::pb::Entry;

    /// The frames that the original sent from node 1 to node 2, taken together (a leader's first seconds).
    fn captured() -> Vec<(Vec<u8>, Frame)> {
        let gob = Bytes::from(vec![0x67; 48]);
        let entry = |index, data: Bytes| Entry { term: 4, index, data, ..Entry::default() };
        let append = |log_term, index, entries, commit| {
            let mut message = Message::of(MessageType::MsgApp);
            (message.to, message.from, message.term) = (2, 1, 4);
            (message.log_term, message.index, message.entries, message.commit) = (log_term, index, entries, commit);
            Frame::Message(message)
        };
        let hex = |text: &str| -> Vec<u8> {
            let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
            digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
        };
        let whole =
            "02 0000000000000026 08031002180120042801 3003 3a06080010041804 40034a0a12080a0228001000180050005800";
        let empty = "01 0000000000000000 0000000000000004";
        let with_entry =
            format!("01 0000000000000001 0000000000000038 08001004180522 30 {} 0000000000000004", "67".repeat(48));
        vec![
            (hex("00"), Frame::Heartbeat),
            (hex(whole), append(1, 3, [entry(4, Bytes::new())].into(), 3)),
            (hex(empty), append(4, 4, Vec::new().into(), 4)),
            (hex(&with_entry), append(4, 4, [entry(5, gob)].into(), 4)),
        ]
    }

    fn frames(decoder: &mut Decoder, buffer: &mut BytesMut) -> Vec<Frame> {
        std::iter::from_fn(|| decoder.frame(buffer).unwrap()).collect()
    }

    #[test]
    fn captured_frames_are_reproduced_to_the_byte() {
        let mut encoder = Encoder::default();
        for (bytes, frame) in captured() {
            let mut out = BytesMut::new();
            match frame {
                Frame::Heartbeat => encoder.heartbeat(&mut out),
                Frame::Message(message) => encoder.message(message, &mut out),
            }
            assert_eq!(out, bytes);
        }
        assert_eq!(encoder.position, Position { term: 4, index: 5 });
    }

    #[test]
    fn captured_frames_are_read_whatever_the_pieces() {
        let bytes: Vec<u8> = captured().into_iter().flat_map(|(bytes, _)| bytes).collect();
        let expected: Vec<Frame> = captured().into_iter().map(|(_, frame)| frame).collect();
        for piece in 1..=bytes.len() {
            let (mut decoder, mut buffer, mut found) = (Decoder::new(1, 2), BytesMut::new(), Vec::new());
            for chunk in bytes.chunks(piece) {
                buffer.extend_from_slice(chunk);
                found.extend(frames(&mut decoder, &mut buffer));
            }
            assert_eq!(found, expected, "in pieces of {piece}");
            assert!(buffer.is_empty());
        }
    }

    #[test]
    fn a_change_of_the_membership_is_read() {
        // Captured: entry 20105 adds node 4; the position before it was (2, 20104).
        let mut bytes =
            vec![1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0x28, 8, 1, 16, 2, 24, 0x89, 0x9d, 1, 0x22];
        bytes.extend_from_slice(b"\x1e\x08\x01\x10\x00\x18\x04\x22\x16http://127.0.0.1:23034\0\0\0\0\0\0\x4e\x88");
        let mut decoder = Decoder { position: Position { term: 2, index: 20_104 }, ..Decoder::new(1, 2) };
        let found = frames(&mut decoder, &mut BytesMut::from(&bytes[..]));
        let [Frame::Message(message)] = &found[..] else { panic!("{found:?}") };
        assert!(message.entries[0].is_conf_change());
        assert_eq!((message.entries[0].index, message.commit), (20_105, 20_104));
    }

    #[test]
    fn whatever_a_leader_sends_arrives() {
        let mut encoder = Encoder::default();
        let mut decoder = Decoder::new(1, 2);
        let mut shorthand = 0;
        let mut sent = 0_u64;
        // Terms, indexes and lengths that sometimes continue and sometimes jump.
        for (term, log_term, index, count) in (0..2_000_u64).map(|n| {
            sent += n % 3;
            (1 + n / 700, 1 + n / 700 - u64::from(n % 97 == 96), sent - n % 3 + u64::from(n % 31 == 30), n % 3)
        }) {
            let mut message = Message::of(MessageType::MsgApp);
            (message.from, message.to, message.term, message.log_term) = (1, 2, term, log_term);
            (message.index, message.commit) = (index, index);
            message.entries =
                (1..=count).map(|n| Entry { term, index: index + n, ..Entry::normal(vec![n as u8; 5]) }).collect();
            let mut buffer = BytesMut::new();
            encoder.message(message.clone(), &mut buffer);
            shorthand += u32::from(buffer.first() == Some(&APPEND_ENTRIES));
            assert_eq!(frames(&mut decoder, &mut buffer), [Frame::Message(message)]);
        }
        assert!(shorthand > 1_000, "{shorthand} went in shorthand");
    }

    #[test]
    fn a_prefix_that_announces_too_much_ends_the_stream() {
        let decode = |bytes: &[u8]| Decoder::new(1, 2).frame(&mut BytesMut::from(bytes));
        let too_many = [&[1][..], &(MAX_ENTRIES as u64 + 1).to_be_bytes()].concat();
        assert!(matches!(decode(&too_many), Err(WireError::TooLarge { .. })));
        let too_long = [&[1][..], &1_u64.to_be_bytes(), &u64::MAX.to_be_bytes()].concat();
        assert!(matches!(decode(&too_long), Err(WireError::TooLarge { .. })));
        let too_long = [&[2][..], &(FRAME_MAX_BYTES as u64 + 1).to_be_bytes()].concat();
        assert!(matches!(decode(&too_long), Err(WireError::TooLarge { .. })));
        assert_eq!(decode(b"\x03"), Err(WireError::UnknownFrame(3)));
        let not_an_entry = [&[1][..], &1_u64.to_be_bytes(), &1_u64.to_be_bytes(), &[0xff], &[0; 8]].concat();
        assert!(matches!(decode(&not_an_entry), Err(WireError::Malformed(_))));
    }
}
