//! What the original raftexample writes into entries and snapshots, as a [`Codec`] for our node.
//!
//! **An entry** is Go's `struct{ Key, Val string }` in gob: a message that describes the type, then a message with the
//! value. Every entry is a stream of its own, so the description is always the same bytes when *we* write. Go's versions
//! number the type differently, and gob matches fields by name, so when we read we take nothing for granted but that it
//! is a struct of strings.
//!
//! Gob has no room for the id by which our node recognises its own entries. But a Go process reads one value and looks no
//! further, so the id follows behind the value, marked as ours.
//!
//! **A snapshot** is a JSON object of strings. JSON text is not bytes: what is not UTF-8 is replaced, by us as by Go.
//! It holds no addresses; who is a member says the snapshot's metadata, where they are the command line.
//!
//! What is left out: deleting a key. The original cannot.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use bytes::{BufMut, Bytes, BytesMut};
use kvstore::{Command, Store};
use raft_core::pb::SnapshotMetadata;
use raftexample::address::PeerUrl;
use raftexample::codec::{Codec, CodecError, Content, Note, RequestId};
use raftexample::members::Members;

/// "Type 65 is a struct `kv` with the strings `Key` and `Val`", as Go 1.19 says it.
const DESCRIPTION: [u8; 33] =
    *b"\x20\xff\x81\x03\x01\x01\x02kv\x01\xff\x82\x00\x01\x02\x01\x03Key\x01\x0c\x00\x01\x03Val\x01\x0c\x00\x00\x00";
/// "A value of type 65".
const VALUE_OF_KV: [u8; 2] = [0xff, 0x82];
/// Stands before the id behind the value.
const ID_MARK: [u8; 8] = *b"\0raft-id";
/// The id of Go's `string` type.
const STRING_TYPE: i64 = 6;

/// Writes and reads as the original does.
#[derive(Clone, Copy, Debug, Default)]
pub struct GobCodec;

impl Codec for GobCodec {
    fn encode_request(&self, id: RequestId, command: &Command) -> Result<Bytes, CodecError> {
        let Command::Put { key, value } = command else {
            return Err(CodecError::new("the original's entries have no word for deleting a key"));
        };
        let mut data = BytesMut::from(&encode_pair(key, value)[..]);
        data.put_slice(&ID_MARK);
        for number in [id.node, id.boot, id.counter] {
            data.put_u64(number);
        }
        Ok(data.freeze())
    }

    fn encode_note(&self, _: Note) -> Option<Bytes> {
        None
    }

    fn decode_entry(&self, data: Bytes) -> Result<Content, CodecError> {
        let mut reader = Reader(&data);
        let (key, value) = reader.pair().ok_or_else(|| CodecError::new("not a gob of a key and a value"))?;
        let id = reader.0.strip_prefix(&ID_MARK).and_then(|rest| {
            let mut numbers =
                rest.chunks_exact(8).map(|chunk| u64::from_be_bytes(chunk.try_into().unwrap_or_default()));
            Some(RequestId { node: numbers.next()?, boot: numbers.next()?, counter: numbers.next()? })
        });
        Ok(Content::Request(id, Command::Put { key, value }))
    }

    fn write_image(&self, _members: &Members, store: &Store, into: &mut dyn Write) -> io::Result<()> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let map: BTreeMap<String, String> = store.iter().map(|(key, value)| (text(key), text(value))).collect();
        serde_json::to_writer(into, &map).map_err(io::Error::from)
    }

    fn read_image(
        &self,
        metadata: &SnapshotMetadata,
        from: &mut dyn Read,
        cluster: &[PeerUrl],
    ) -> Result<(Members, Store), CodecError> {
        let mut data = Vec::new();
        from.read_to_end(&mut data).map_err(CodecError::new)?;
        // Go writes `null` for a map that was never made.
        let map: Option<BTreeMap<String, String>> = serde_json::from_slice(&data).map_err(CodecError::new)?;
        let mut store = Store::new();
        for (index, (key, value)) in (1..).zip(map.unwrap_or_default()) {
            store.apply(index, Command::Put { key: key.into(), value: value.into() });
        }
        store.skip(metadata.index);
        let mut members = Members::default();
        for &voter in &metadata.conf_state.voters {
            members.add_founder(voter, cluster);
        }
        Ok((members, store))
    }
}

/// The gob of one pair.
pub fn encode_pair(key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut body = VALUE_OF_KV.to_vec();
    // A field is announced by its distance from the one before; empty ones are left out.
    let mut skipped = 1;
    for text in [key, value] {
        if text.is_empty() {
            skipped += 1;
            continue;
        }
        body.push(skipped);
        put_number(&mut body, text.len() as u64);
        body.extend_from_slice(text);
        skipped = 1;
    }
    body.push(0);
    let mut gob = DESCRIPTION.to_vec();
    put_number(&mut gob, body.len() as u64);
    gob.extend_from_slice(&body);
    gob
}

/// Small numbers are one byte; larger ones say their length first, as its negative.
fn put_number(into: &mut Vec<u8>, number: u64) {
    if number < 128 {
        into.push(number as u8);
        return;
    }
    let bytes = number.to_be_bytes();
    let length = 8 - number.leading_zeros() as usize / 8;
    into.push((length as u8).wrapping_neg());
    into.extend_from_slice(&bytes[8 - length..]);
}

/// What is left to be read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    fn take(&mut self, length: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(usize::try_from(length).ok()?)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u64> {
        let first = self.byte()?;
        if first < 128 {
            return Some(u64::from(first));
        }
        let length = first.wrapping_neg();
        if length > 8 {
            return None;
        }
        let bytes = self.take(u64::from(length))?;
        Some(bytes.iter().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }

    /// The lowest bit says whether the others are to be inverted.
    fn signed(&mut self) -> Option<i64> {
        let number = self.number()?;
        let magnitude = (number >> 1) as i64;
        Some(if number & 1 == 1 { !magnitude } else { magnitude })
    }

    fn text(&mut self) -> Option<&'a [u8]> {
        let length = self.number()?;
        self.take(length)
    }

    fn expect(&mut self, number: u64) -> Option<()> {
        (self.number()? == number).then_some(())
    }

    /// Descriptions, then a value of one of the types that they describe.
    fn pair(&mut self) -> Option<(Bytes, Bytes)> {
        let mut types: BTreeMap<i64, Vec<&'a [u8]>> = BTreeMap::new();
        loop {
            let length = self.number()?;
            let mut message = Reader(self.take(length)?);
            let id = message.signed()?;
            if id >= 0 {
                return message.value(types.get(&id)?);
            }
            types.insert(id.checked_neg()?, message.description()?);
        }
    }

    /// The names of a struct's fields, all of which must be strings.
    fn description(&mut self) -> Option<Vec<&'a [u8]>> {
        // The third kind of type is a struct, its first part what all types have in common: name and id.
        self.expect(3)?;
        self.expect(1)?;
        self.expect(1)?;
        self.text()?;
        self.expect(1)?;
        self.signed()?;
        self.expect(0)?;
        // The second part is its fields.
        self.expect(1)?;
        let count = self.number()?;
        let mut names = Vec::new();
        for _ in 0..count {
            self.expect(1)?;
            names.push(self.text()?);
            self.expect(1)?;
            (self.signed()? == STRING_TYPE).then_some(())?;
            self.expect(0)?;
        }
        Some(names)
    }

    fn value(&mut self, names: &[&[u8]]) -> Option<(Bytes, Bytes)> {
        let (mut key, mut value) = (Bytes::new(), Bytes::new());
        let mut position: u64 = 0;
        loop {
            match self.number()? {
                0 => return Some((key, value)),
                distance => position = position.checked_add(distance)?,
            }
            let name = names.get(usize::try_from(position.checked_sub(1)?).ok()?)?;
            let text = Bytes::copy_from_slice(self.text()?);
            match *name {
                b"Key" => key = text,
                b"Val" => value = text,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &'static [u8], value: &'static [u8]) -> Command {
        Command::Put { key: Bytes::from_static(key), value: Bytes::from_static(value) }
    }

    fn decode(data: &[u8]) -> Result<Content, CodecError> {
        GobCodec.decode_entry(Bytes::copy_from_slice(data))
    }

    /// Captured from the original.
    const FOO_BAR: &[u8] = b"\x20\xff\x81\x03\x01\x01\x02kv\x01\xff\x82\x00\x01\x02\x01\x03Key\x01\x0c\x00\x01\x03Val\x01\x0c\x00\x00\x00\x0e\xff\x82\x01\x04/foo\x01\x03bar\x00";

    #[test]
    fn a_pair_is_written_as_go_writes_it() {
        assert_eq!(encode_pair(b"/foo", b"bar"), FOO_BAR);
        assert_eq!(encode_pair(b"/empty", b"")[33..], *b"\x0b\xff\x82\x01\x06/empty\x00");
        assert_eq!(encode_pair(b"", b"v")[33..], *b"\x06\xff\x82\x02\x01v\x00");
        assert_eq!(encode_pair(b"", b"")[33..], *b"\x03\xff\x82\x00");
        let long = encode_pair(b"k", &[b'x'; 311]);
        assert_eq!(long[33..43], *b"\xfe\x01\x41\xff\x82\x01\x01k\x01\xfe");
    }

    #[test]
    fn what_go_writes_is_read() {
        assert_eq!(decode(FOO_BAR), Ok(Content::Request(None, put(b"/foo", b"bar"))));
        // A newer Go starts to count its types at 64.
        let newer = b"\x1f\x7f\x03\x01\x01\x02kv\x01\xff\x80\x00\x01\x02\x01\x03Key\x01\x0c\x00\x01\x03Val\x01\x0c\x00\x00\x00\x0e\xff\x80\x01\x04/foo\x01\x03bar\x00";
        assert_eq!(decode(newer), Ok(Content::Request(None, put(b"/foo", b"bar"))));
        // Fields go by their names.
        let swapped = b"\x20\xff\x81\x03\x01\x01\x02zz\x01\xff\x82\x00\x01\x02\x01\x03Val\x01\x0c\x00\x01\x03Key\x01\x0c\x00\x00\x00\x0e\xff\x82\x01\x03bar\x01\x04/foo\x00";
        assert_eq!(decode(swapped), Ok(Content::Request(None, put(b"/foo", b"bar"))));
    }

    #[test]
    fn our_id_survives_and_every_value_does() {
        let id = RequestId { node: 3, boot: u64::MAX, counter: 7 };
        for (key, value) in [(&b"/k"[..], &b"\0\xff"[..]), (b"", b""), (b"/k", &[7; 300])] {
            let data = GobCodec.encode_request(id, &put(key, value)).unwrap();
            assert_eq!(GobCodec.decode_entry(data), Ok(Content::Request(Some(id), put(key, value))));
        }
        assert!(GobCodec.encode_request(id, &Command::Delete { key: "/k".into() }).is_err());
    }

    #[test]
    fn cut_gobs_are_errors() {
        for length in 0..FOO_BAR.len() {
            assert!(decode(&FOO_BAR[..length]).is_err(), "{length} bytes");
        }
        assert!(decode(b"\xff\xff\xff").is_err());
    }

    #[test]
    fn a_snapshot_is_a_json_object() {
        let mut store = Store::new();
        store.apply(9, put(b"/k", b"v"));
        let mut data = Vec::new();
        GobCodec.write_image(&Members::default(), &store, &mut data).unwrap();
        assert_eq!(data, b"{\"/k\":\"v\"}");
        let mut metadata = SnapshotMetadata { index: 9, ..SnapshotMetadata::default() };
        metadata.conf_state.voters = vec![1];
        let cluster = ["http://h:1".parse().unwrap()];
        let read = |mut data: &[u8]| GobCodec.read_image(&metadata, &mut data, &cluster);
        let (members, restored) = read(&data).unwrap();
        assert_eq!(restored, store);
        assert!(members.contains(1));
        assert!(read(b"null").unwrap().1.is_empty());
        assert!(read(b"[]").is_err());
    }
}
