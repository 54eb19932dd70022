//! The `message` stream: everything that is small and is not a leader's entries. Heartbeats, votes, acknowledgements,
//! forwarded proposals; and entries too, while the other stream is not there.
//!
//! ```text
//!   size (64 bits, most significant byte first)  message
//! ```
//!
//! A frame does not depend on those before it. The heartbeat of the link is a MsgHeartbeat from nobody to nobody, which
//! the receiver keeps to itself.
//!
//! What is left out: snapshots. They are posted, because a stream would hold everything else up behind them.

use bytes::{BufMut, BytesMut};
use prost::Message as _;
use raft_core::pb::{Message, MessageType};

use super::stream::{take_frame, Decode, Encode, Frame, FRAME_MAX_BYTES};
use super::wire::{self, WireError};

/// Bytes of the size.
const SIZE: usize = 8;

/// The sending end.
#[derive(Clone, Copy, Debug, Default)]
pub struct Encoder;

impl Encode for Encoder {
    fn heartbeat(&mut self, into: &mut BytesMut) {
        self.message(Message::of(MessageType::MsgHeartbeat), into);
    }

    fn message(&mut self, mut message: Message, into: &mut BytesMut) {
        wire::prepare(&mut message);
        into.put_u64(message.encoded_len() as u64);
        message.encode_raw(into);
    }
}

/// The receiving end.
#[derive(Clone, Copy, Debug, Default)]
pub struct Decoder;

impl Decode for Decoder {
    fn frame(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, WireError> {
        let Some(size) = buffer.first_chunk::<SIZE>().map(|bytes| u64::from_be_bytes(*bytes)) else { return Ok(None) };
        WireError::limit("bytes in a frame", size, FRAME_MAX_BYTES)?;
        let end = SIZE + size as usize;
        if buffer.len() < end {
            return Ok(None);
        }
        let message = wire::decode(take_frame(buffer, end).slice(SIZE..))?;
        let from_the_link = message.kind() == Some(MessageType::MsgHeartbeat) && message.from == 0 && message.to == 0;
        Ok(Some(if from_the_link { Frame::Heartbeat } else { Frame::Message(message) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What stands at the end of every message without a snapshot.
    const REST: [u8; 18] = [0x40, 0, 0x4a, 10, 0x12, 8, 10, 2, 40, 0, 16, 0, 24, 0, 80, 0, 88, 0];

    fn captured() -> Vec<(Vec<u8>, Frame)> {
        let frame = |head: [u8; 12], commit| {
            let mut rest = REST;
            rest[1] = commit;
            [&[0, 0, 0, 0, 0, 0, 0, 30][..], &head, &rest].concat()
        };
        let message = |kind, to, from, log_term, index, commit| {
            let mut message = Message::of(kind);
            (message.to, message.from, message.term) = (to, from, 4);
            (message.log_term, message.index, message.commit) = (log_term, index, commit);
            Frame::Message(message)
        };
        vec![
            (frame([8, 8, 16, 0, 24, 0, 32, 0, 40, 0, 48, 0], 0), Frame::Heartbeat),
            (frame([8, 8, 16, 2, 24, 1, 32, 4, 40, 0, 48, 0], 4), message(MessageType::MsgHeartbeat, 2, 1, 0, 0, 4)),
            (frame([8, 5, 16, 2, 24, 1, 32, 4, 40, 1, 48, 3], 0), message(MessageType::MsgVote, 2, 1, 1, 3, 0)),
            (frame([8, 6, 16, 1, 24, 2, 32, 4, 40, 0, 48, 0], 0), message(MessageType::MsgVoteResp, 1, 2, 0, 0, 0)),
            (frame([8, 4, 16, 1, 24, 2, 32, 4, 40, 0, 48, 4], 0), message(MessageType::MsgAppResp, 1, 2, 0, 4, 0)),
        ]
    }

    #[test]
    fn captured_frames_are_reproduced_to_the_byte() {
        for (bytes, frame) in captured() {
            let mut out = BytesMut::new();
            match frame {
                Frame::Heartbeat => Encoder.heartbeat(&mut out),
                Frame::Message(message) => Encoder.message(message, &mut out),
            }
            assert_eq!(out, bytes);
        }
    }

    #[test]
    fn captured_frames_are_read_whatever_the_pieces() {
        let bytes: Vec<u8> = captured().into_iter().flat_map(|(bytes, _)| bytes).collect();
        let expected: Vec<Frame> = captured().into_iter().map(|(_, frame)| frame).collect();
        for piece in 1..=bytes.len() {
            let (mut buffer, mut found) = (BytesMut::new(), Vec::new());
            for chunk in bytes.chunks(piece) {
                buffer.extend_from_slice(chunk);
                found.extend(std::iter::from_fn(|| Decoder.frame(&mut buffer).unwrap()));
            }
            assert_eq!(found, expected, "in pieces of {piece}");
        }
    }

    #[test]
    fn a_forwarded_proposal_is_read() {
        // Captured from follower 2, with 53 bytes of gob.
        let head = [
            0, 0, 0, 0, 0, 0, 0, 0x5d, 8, 2, 16, 1, 24, 2, 32, 0, 40, 0, 48, 0, 0x3a, 0x3d, 8, 0, 16, 0, 24, 0, 0x22,
            0x35,
        ];
        let bytes = [&head[..], &[0x67; 53], &REST].concat();
        let found = Decoder.frame(&mut BytesMut::from(&bytes[..])).unwrap();
        let Some(Frame::Message(message)) = found else { panic!("{found:?}") };
        assert_eq!((message.kind(), message.entries[0].data.len()), (Some(MessageType::MsgProp), 53));
        let mut out = BytesMut::new();
        Encoder.message(message, &mut out);
        assert_eq!(out, bytes);
    }

    #[test]
    fn a_prefix_that_announces_too_much_ends_the_stream() {
        let prefix = (FRAME_MAX_BYTES as u64 + 1).to_be_bytes();
        assert!(matches!(Decoder.frame(&mut BytesMut::from(&prefix[..])), Err(WireError::TooLarge { .. })));
        let mut cut = BytesMut::from(&(FRAME_MAX_BYTES as u64).to_be_bytes()[..]);
        assert_eq!(Decoder.frame(&mut cut), Ok(None), "not yet");
        assert!(cut.capacity() < 100, "and nothing was reserved for it");
    }
}
