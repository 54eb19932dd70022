//! What this program writes into log entries and snapshots. Raft carries both as bytes that it never looks into.
//!
//! **An entry** is a request: who asked ([`RequestId`]) and the store's command. The id is how the node that holds the
//! client's connection recognises its own entry when it comes back committed, and it must never be mistaken for
//! another: it is made of the node's id, a number drawn at random when the process started, and a counter.
//!
//! **A note** is the other kind of entry: not a client's, but the cluster's own, for the address book.
//!
//! **A snapshot** is the address book and the store. Both begin with what tells a later version's bytes apart, and both
//! are read strictly: an unknown field is an error, because ignoring it would let nodes differ. The store comes last and
//! is written and read as a stream: it may be larger than what is left of memory.
//!
//! All nodes of a cluster must write alike. What that comprises is a [`Dialect`], and the node is given one at its start:
//! [`Dialect::own`], unless somebody embeds the node in a cluster of another program, whose entries it is to read and
//! write. The ready loop knows the [`Codec`] only.
//!
//! What is left out: membership entries, whose layout is Raft's own (`ConfChange`; the context is the peer's URL).

use std::io::{self, Read, Write};
use std::sync::Arc;

use bytes::Bytes;
use kvstore::{Command, Store};
use prost::encoding::{decode_varint, encode_varint};
use prost::Message;
use raft_core::pb::SnapshotMetadata;

use crate::address::PeerUrl;
use crate::members::{Member, Members};

/// Names one request of one client, in the whole cluster and for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestId {
    /// The node that took the request.
    pub node: u64,
    /// Drawn at random when that node's process started.
    pub boot: u64,
    /// Counts the requests of that process.
    pub counter: u64,
}

/// Bytes in the log or in a snapshot that this version cannot read. The node must stop: to go on would be to guess.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodecError(String);

impl std::fmt::Display for CodecError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for CodecError {}

impl CodecError {
    /// An error that says why, in one line.
    pub fn new(reason: impl std::fmt::Display) -> CodecError {
        error(reason)
    }
}

/// What a log entry holds, other than a change of the membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// What a client wants. There is no id if another program wrote it.
    Request(Option<RequestId>, Command),
    /// Something for the address book.
    Note(Note),
}

/// Something for the address book; see [`members`](crate::members).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// The number of this cluster, never 0. The first one counts.
    Birth(u64),
    /// The number of a member's data directory. The first one counts.
    Data {
        /// The member.
        node: u64,
        /// Its data directory's number, never 0.
        number: u64,
    },
}

/// How requests and snapshots are written.
pub trait Codec: Send + Sync {
    /// The data of a log entry, never empty. An error means that this command cannot be expressed.
    fn encode_request(&self, id: RequestId, command: &Command) -> Result<Bytes, CodecError>;

    /// The data of a log entry with a note. Asked for only if [`Dialect::extensions`] allows it.
    fn encode_note(&self, note: Note) -> Option<Bytes>;

    /// Reads the data of a log entry.
    fn decode_entry(&self, data: Bytes) -> Result<Content, CodecError>;

    /// Writes the data of a snapshot. Errors are the stream's.
    fn write_image(&self, members: &Members, store: &Store, into: &mut dyn Write) -> io::Result<()>;

    /// Reads the data of the snapshot with this metadata, to the stream's end, for that may be where it is checked;
    /// `cluster` is what this node's command line says.
    fn read_image(
        &self,
        metadata: &SnapshotMetadata,
        from: &mut dyn Read,
        cluster: &[PeerUrl],
    ) -> Result<(Members, Store), CodecError>;
}

/// What all nodes of a cluster must do alike.
#[derive(Clone)]
pub struct Dialect {
    /// How requests and snapshots are written.
    pub codec: Arc<dyn Codec>,
    /// Whether leaders keep a lease: one that does not hear from a quorum steps down, and whoever hears from a leader
    /// ignores candidates. A candidate that is ignored is brought back by an answer of its peers, which those nodes only
    /// give that keep the rule themselves: with one node that does not, a cluster can be left with a member that
    /// campaigns for ever. So either all keep it, or none.
    pub check_quorum: bool,
    /// Whether all nodes run this program, so that they may say to each other what processes of the original do not
    /// understand: changes of the membership other than adding or removing one voter, proposals that are given back, and
    /// snapshots of any size over a channel of their own, and notes. Without it a snapshot is part of the message that
    /// announces it, and 512 MiB is the limit.
    pub extensions: bool,
}

impl Dialect {
    /// This program's own.
    pub fn own() -> Dialect {
        Dialect { codec: Arc::new(OwnCodec), check_quorum: true, extensions: true }
    }
}

/// The layout that this module describes.
#[derive(Clone, Copy, Debug, Default)]
pub struct OwnCodec;

impl Codec for OwnCodec {
    fn encode_request(&self, id: RequestId, command: &Command) -> Result<Bytes, CodecError> {
        Ok(encode_request(id, command))
    }

    fn encode_note(&self, note: Note) -> Option<Bytes> {
        Some(encode_note(note))
    }

    fn decode_entry(&self, data: Bytes) -> Result<Content, CodecError> {
        decode_entry(data)
    }

    fn write_image(&self, members: &Members, store: &Store, into: &mut dyn Write) -> io::Result<()> {
        write_image(members, store, into)
    }

    fn read_image(
        &self,
        _metadata: &SnapshotMetadata,
        from: &mut dyn Read,
        cluster: &[PeerUrl],
    ) -> Result<(Members, Store), CodecError> {
        read_image(from, cluster)
    }
}

fn error(reason: impl std::fmt::Display) -> CodecError {
    CodecError(reason.to_string())
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireRequest {
    #[prost(uint64, tag = "1")]
    node: u64,
    #[prost(fixed64, tag = "2")]
    boot: u64,
    #[prost(uint64, tag = "3")]
    counter: u64,
    #[prost(bytes = "bytes", tag = "4")]
    command: Bytes,
    /// Alone: the entry is a note.
    #[prost(message, optional, tag = "5")]
    note: Option<WireNote>,
}

/// Without a node, the cluster's number; with one, that of its data directory.
#[derive(Clone, PartialEq, prost::Message)]
struct WireNote {
    #[prost(uint64, tag = "1")]
    node: u64,
    #[prost(fixed64, tag = "2")]
    number: u64,
}

/// The version of the snapshot that is written, and the only one that is read.
const IMAGE_VERSION: u32 = 1;

#[derive(Clone, PartialEq, prost::Message)]
struct WireMember {
    #[prost(uint64, tag = "1")]
    id: u64,
    /// Empty if it is not known.
    #[prost(string, tag = "2")]
    url: String,
    #[prost(bool, tag = "3")]
    agreed: bool,
    /// 0 if it is not known.
    #[prost(fixed64, tag = "4")]
    data: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireRemoval {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    index: u64,
}

/// A snapshot without the store, which follows as field 4.
#[derive(Clone, PartialEq, prost::Message)]
struct WireHead {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(message, repeated, tag = "2")]
    members: Vec<WireMember>,
    #[prost(message, repeated, tag = "3")]
    removed: Vec<WireRemoval>,
    /// 0 if it is not known.
    #[prost(uint64, tag = "5")]
    birth: u64,
}

/// What stands before the store: field 4, bytes with their length.
const FIELD_STORE: u8 = 0x22;
/// Everything before the store may not be longer.
const HEAD_MAX_BYTES: u64 = 1 << 20;

/// The data of a log entry.
pub fn encode_request(id: RequestId, command: &Command) -> Bytes {
    let wire = WireRequest { node: id.node, boot: id.boot, counter: id.counter, command: command.encode(), note: None };
    wire.encode_to_vec().into()
}

/// The data of a log entry with a note.
fn encode_note(note: Note) -> Bytes {
    let (node, number) = match note {
        Note::Birth(number) => (0, number),
        Note::Data { node, number } => (node, number),
    };
    WireRequest { note: Some(WireNote { node, number }), ..WireRequest::default() }.encode_to_vec().into()
}

/// Reads the data of a log entry. The command's key and value share the memory of `data`.
fn decode_entry(data: Bytes) -> Result<Content, CodecError> {
    let length_bytes = data.len();
    let wire = WireRequest::decode(data).map_err(error)?;
    if wire.encoded_len() != length_bytes {
        return Err(error("it holds something that this version does not know; upgrade this node"));
    }
    if let Some(WireNote { node, number }) = wire.note {
        if wire != (WireRequest { note: wire.note.clone(), ..WireRequest::default() }) || number == 0 {
            return Err(error("a note with something else in it"));
        }
        return Ok(Content::Note(if node == 0 { Note::Birth(number) } else { Note::Data { node, number } }));
    }
    let command = Command::decode(wire.command).map_err(error)?;
    let id = RequestId { node: wire.node, boot: wire.boot, counter: wire.counter };
    Ok(Content::Request(Some(id), command))
}

/// Writes the data of a snapshot.
fn write_image(members: &Members, store: &Store, into: &mut dyn Write) -> io::Result<()> {
    let wire_member = |(id, member): (u64, &Member)| {
        let url = member.url.as_ref().map(ToString::to_string).unwrap_or_default();
        WireMember { id, url, agreed: member.agreed, data: member.data.unwrap_or(0) }
    };
    let head = WireHead {
        version: IMAGE_VERSION,
        members: members.iter().map(wire_member).collect(),
        removed: members.removed().map(|(id, index)| WireRemoval { id, index }).collect(),
        birth: members.birth().unwrap_or(0),
    };
    let mut bytes = head.encode_to_vec();
    bytes.push(FIELD_STORE);
    encode_varint(store.image_bytes(), &mut bytes);
    into.write_all(&bytes)?;
    store.write_image(into)
}

/// Reads the data of a snapshot, to the stream's end; `cluster` is what this node's command line says.
fn read_image(from: &mut dyn Read, cluster: &[PeerUrl]) -> Result<(Members, Store), CodecError> {
    let (head, store_bytes) = read_head(from)?;
    let length_bytes = head.len();
    let head = WireHead::decode(&head[..])
        .map_err(|reason| error(format_args!("not a snapshot of this program: {reason}")))?;
    if head.version != IMAGE_VERSION {
        return Err(error(format_args!("a snapshot in version {}, this program reads {IMAGE_VERSION}", head.version)));
    }
    if head.encoded_len() != length_bytes {
        return Err(error("the snapshot holds something that this version does not know; upgrade this node"));
    }
    let mut members = Vec::with_capacity(head.members.len());
    for WireMember { id, url, agreed, data } in head.members {
        let url = if url.is_empty() { None } else { Some(url.parse().map_err(error)?) };
        members.push((id, Member { url, agreed, data: Some(data).filter(|&data| data != 0) }));
    }
    let mut image = from.take(store_bytes);
    let store = Store::read_image(&mut image).map_err(error)?;
    // The end of the store is where it was announced, and the end of everything.
    if image.limit() != 0 || next_byte(from)?.is_some() {
        return Err(error("the snapshot is longer or shorter than it says"));
    }
    let removed = head.removed.into_iter().map(|WireRemoval { id, index }| (id, index));
    let mut members = Members::restore(members, removed, cluster);
    if head.birth != 0 {
        members.set_birth(head.birth);
    }
    Ok((members, store))
}

/// The fields before the store, and the length of the store.
fn read_head(from: &mut dyn Read) -> Result<(Vec<u8>, u64), CodecError> {
    let mut head = Vec::new();
    loop {
        let field =
            next_byte(from)?.ok_or_else(|| error("not a snapshot of this program: it ends before the store"))?;
        if field == FIELD_STORE {
            return Ok((head, read_number(from, &mut Vec::new())?));
        }
        head.push(field);
        match field & 7 {
            0 => drop(read_number(from, &mut head)?),
            2 => {
                let length = read_number(from, &mut head)?;
                let read = from.take(length.min(HEAD_MAX_BYTES)).read_to_end(&mut head).map_err(error)?;
                if read as u64 != length {
                    return Err(error("not a snapshot of this program: a field is cut or too long"));
                }
            }
            _ => return Err(error("not a snapshot of this program: a field of an unknown kind")),
        }
        if head.len() as u64 > HEAD_MAX_BYTES {
            return Err(error("the snapshot has too much before its store"));
        }
    }
}

/// Reads a number, and keeps its bytes.
fn read_number(from: &mut dyn Read, kept: &mut Vec<u8>) -> Result<u64, CodecError> {
    let start = kept.len();
    while kept.len() < start + 10 {
        let byte = next_byte(from)?.ok_or_else(|| error("not a snapshot of this program: cut within a number"))?;
        kept.push(byte);
        if byte < 0x80 {
            break;
        }
    }
    decode_varint(&mut &kept[start..]).map_err(error)
}

/// `None` at the end.
fn next_byte(from: &mut dyn Read) -> Result<Option<u8>, CodecError> {
    let mut byte = [0];
    loop {
        match from.read(&mut byte) {
            Ok(read) => return Ok((read == 1).then_some(byte[0])),
            Err(interrupted) if interrupted.kind() == io::ErrorKind::Interrupted => {}
            Err(failed) => return Err(error(failed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command() -> Command {
        Command::Put { key: "/k".into(), value: Bytes::from_static(b"\0\xff") }
    }

    #[test]
    fn a_request_survives_the_log() {
        let id = RequestId { node: 3, boot: u64::MAX, counter: 0 };
        assert_eq!(decode_entry(encode_request(id, &command())), Ok(Content::Request(Some(id), command())));
    }

    #[test]
    fn a_note_survives_the_log_and_stands_alone() {
        for note in [Note::Birth(u64::MAX), Note::Data { node: 3, number: 1 }] {
            let data = encode_note(note);
            assert_eq!(decode_entry(data.clone()), Ok(Content::Note(note)));
            let both = [&encode_request(RequestId { node: 1, boot: 2, counter: 3 }, &command())[..], &data].concat();
            assert!(decode_entry(both.into()).is_err());
        }
        assert!(decode_entry(encode_note(Note::Birth(0))).is_err());
    }

    #[test]
    fn requests_that_cannot_be_read_in_full_are_errors() {
        let whole = encode_request(RequestId { node: 1, boot: 2, counter: 3 }, &command());
        for length in 0..whole.len() {
            assert!(decode_entry(whole.slice(..length)).is_err(), "{length} bytes");
        }
        let mut longer = whole.to_vec();
        longer.extend_from_slice(&[0x30, 1]);
        assert!(decode_entry(longer.into()).is_err(), "a field 6");
    }

    #[test]
    fn a_snapshot_holds_addresses_and_store() {
        let cluster: Vec<PeerUrl> = vec!["http://a:1".parse().unwrap(), "http://b:2".parse().unwrap()];
        let mut members = Members::default();
        members.add_founder(1, &cluster);
        members.set_address(7, "http://c:3".parse().unwrap());
        members.add_founder(8, &cluster);
        members.remove(2, 6);
        members.set_birth(u64::MAX);
        members.set_data(7, 5);
        let mut store = Store::new();
        store.apply(9, command());
        let mut image = Vec::new();
        write_image(&members, &store, &mut image).unwrap();
        assert_eq!(read_image(&mut &image[..], &cluster), Ok((members, store)));
        for length in 0..image.len() {
            assert!(read_image(&mut &image[..length], &cluster).is_err(), "{length} bytes");
        }
        image.push(0);
        assert!(read_image(&mut &image[..], &cluster).is_err(), "a byte too many");
        assert!(read_image(&mut &b"{\"json\":\"map\"}"[..], &cluster).is_err());
        assert!(read_image(&mut &b"\x08\x01\x12\xff\xff\xff\xff\xff\xff\xff\x7f"[..], &cluster).is_err());
    }

    #[test]
    fn the_layout_of_a_snapshot_stays_what_it_is() {
        let mut members = Members::default();
        members.set_address(7, "http://c:3".parse().unwrap());
        let mut store = Store::new();
        store.apply(9, command());
        let mut image = Vec::new();
        write_image(&members, &store, &mut image).unwrap();
        let expected = b"\x08\x01\x12\x10\x08\x07\x12\x0ahttp://c:3\x18\x01\x22\x0e\x08\x01\x10\x09\x1a\x08\x0a\x02/k\x12\x02\0\xff";
        assert_eq!(image, expected);
        assert!(members.set_data(7, 5) && members.set_birth(300));
        image.clear();
        write_image(&members, &store, &mut image).unwrap();
        let expected = b"\x08\x01\x12\x19\x08\x07\x12\x0ahttp://c:3\x18\x01\x21\x05\0\0\0\0\0\0\0\x28\xac\x02\x22\x0e\x08\x01\x10\x09\x1a\x08\x0a\x02/k\x12\x02\0\xff";
        assert_eq!(image, expected, "with the numbers");
        assert_eq!(read_image(&mut &image[..], &[]), Ok((members, store)));
    }
}
