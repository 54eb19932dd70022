//! What the two kinds of stream have in common: names, frames, limits, timers.
//!
//! A stream is the body of an HTTP response that never ends. **The receiver dials**: it asks a peer for "your messages of
//! this kind, for me", and the peer answers 200 and writes frames for as long as both live. So whoever misses data is the
//! one to dial again, and the sender, while nobody is there to read, posts instead.
//!
//! ```text
//!   A (receives)                                    B (sends)
//!     GET /raft/stream/msgapp/<A> ───────────────►
//!     ◄─────────────────────────── 200, chunked, and then frames, for ever
//! ```
//!
//! For every ordered pair of nodes there are two, one of each [`Kind`]. [`incoming`](super::incoming) dials,
//! [`outgoing`](super::outgoing) serves; [`msgapp`] and [`message`] say what a frame is.
//!
//! **A stream is never silent**: whatever else goes on, a link heartbeat follows at every third of the time after which
//! the receiver takes silence for death. It says nothing about Raft; Raft's own heartbeats are messages.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use raft_core::pb::Message;

use super::wire::WireError;
use super::{message, msgapp};

/// A frame may not be longer. etcd's log cannot hold an entry of more than 10 MiB, and messages are filled up to 1 MiB.
pub const FRAME_MAX_BYTES: usize = 64 << 20;
/// A stream on which nothing arrives for this long is dead.
pub const SILENCE_TIMEOUT: Duration = Duration::from_secs(5);
/// Time between two link heartbeats: a third of that.
pub const LINK_HEARTBEAT: Duration = Duration::from_micros(1_666_667);

/// Which messages a stream carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A leader's entries.
    MsgApp,
    /// Everything else.
    Message,
}

/// What a stream consists of.
#[derive(Clone, Debug, PartialEq)]
pub enum Frame {
    /// The sender lives.
    Heartbeat,
    /// A message for Raft.
    Message(Message),
}

/// The sending end of one connection.
pub trait Encode: Send {
    /// Appends a link heartbeat.
    fn heartbeat(&mut self, into: &mut BytesMut);
    /// Appends a message.
    fn message(&mut self, message: Message, into: &mut BytesMut);
}

/// The receiving end of one connection.
pub trait Decode: Send {
    /// Takes the first frame off the buffer, or nothing if it has not arrived in full. After an error the connection is
    /// of no use.
    fn frame(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, WireError>;
}

impl Kind {
    /// Both.
    pub const ALL: [Kind; 2] = [Kind::MsgApp, Kind::Message];

    /// Its name in paths.
    pub fn name(self) -> &'static str {
        match self {
            Kind::MsgApp => "msgapp",
            Kind::Message => "message",
        }
    }

    /// The kind of that name.
    pub fn by_name(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The sending end of a new connection.
    pub fn encoder(self) -> Box<dyn Encode> {
        match self {
            Kind::MsgApp => Box::new(msgapp::Encoder::default()),
            Kind::Message => Box::new(message::Encoder),
        }
    }

    /// The receiving end of a new connection from the peer `from` to this node, `to`.
    pub fn decoder(self, from: u64, to: u64) -> Box<dyn Decode> {
        match self {
            Kind::MsgApp => Box::new(msgapp::Decoder::new(from, to)),
            Kind::Message => Box::new(message::Decoder),
        }
    }
}

/// Takes a frame of this length off the buffer. It is copied: what is kept of it, in the log for instance, must not keep
/// the whole buffer alive.
pub(super) fn take_frame(buffer: &mut BytesMut, length: usize) -> Bytes {
    let frame = Bytes::copy_from_slice(buffer.get(..length).unwrap_or(buffer));
    buffer.advance(frame.len());
    frame
}
