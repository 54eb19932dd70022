//! [`Message::to_bytes`] and [`Message::from_bytes`]: the wire form of the messages that fly all the time.
//!
//! [`pb`](crate::pb) says what the bytes are, and the code derived there reads and writes any of them. But it takes a
//! message field by field through general machinery, asks every entry twice for its length, and costs more than all
//! that the protocol does with the message. Nearly all messages are of one form: plain numbers, a context, and entries, in
//! the order of their fields. That form is written and read here in a straight line; whatever is of another (a snapshot,
//! storage work, fields of later versions, another order) goes the derived way. The bytes are the same, and so is what
//! comes out of them; tests hold both against each other.
//!
//! It is for whoever sends messages as they are. `raftexample` does not: its streams have etcd's own frames.
//!
//! Left out: [`Entry`] by itself, which the log writes and reads one at a time.

use bytes::Bytes;
use prost::{DecodeError, Message as _};

use crate::pb::{Entries, Entry, Message};

/// A field's number and how its value is written, as one byte stands for both (up to field 15).
const fn number_field(field: u8) -> u8 {
    field << 3
}

/// As above, for what follows on its length.
const fn bytes_field(field: u8) -> u8 {
    field << 3 | 2
}

const TYPE: u8 = number_field(1);
const TO: u8 = number_field(2);
const FROM: u8 = number_field(3);
const TERM: u8 = number_field(4);
const LOG_TERM: u8 = number_field(5);
const INDEX: u8 = number_field(6);
const ENTRIES: u8 = bytes_field(7);
const COMMIT: u8 = number_field(8);
const REJECT: u8 = number_field(10);
const REJECT_HINT: u8 = number_field(11);
const CONTEXT: u8 = bytes_field(12);
const VOTE: u8 = number_field(13);

const ENTRY_TYPE: u8 = number_field(1);
const ENTRY_TERM: u8 = number_field(2);
const ENTRY_INDEX: u8 = number_field(3);
const ENTRY_DATA: u8 = bytes_field(4);

/// An entry of up to so many bytes that is a message's only one is copied. To share, it would need a counter of its
/// own, and it would hold the rest of the message; the log keeps it for long, and memory that no cache holds costs most.
const MOST_COPIED: usize = 512;

/// For how many entries of a message there is room before they are read.
const MOST_EXPECTED: usize = 1024;

impl Message {
    /// Encodes the message.
    pub fn to_bytes(&self) -> Bytes {
        if self.snapshot.is_some() || !self.responses.is_empty() {
            return self.encode_to_vec().into();
        }
        let mut out = Vec::with_capacity(self.usual_len());
        // Fields go in the order of their numbers, as the derived code writes them; zeros too, but for the last two.
        put_number(&mut out, TYPE, enum_number(self.msg_type));
        put_number(&mut out, TO, self.to);
        put_number(&mut out, FROM, self.from);
        put_number(&mut out, TERM, self.term);
        put_number(&mut out, LOG_TERM, self.log_term);
        put_number(&mut out, INDEX, self.index);
        for entry in &self.entries {
            put_entry(&mut out, entry);
        }
        put_number(&mut out, COMMIT, self.commit);
        put_number(&mut out, REJECT, u64::from(self.reject));
        put_number(&mut out, REJECT_HINT, self.reject_hint);
        if !self.context.is_empty() {
            put_number(&mut out, CONTEXT, self.context.len() as u64);
            out.extend_from_slice(&self.context);
        }
        if self.vote != 0 {
            put_number(&mut out, VOTE, self.vote);
        }
        out.into()
    }

    /// How many bytes a message of the usual form encodes to.
    #[inline]
    fn usual_len(&self) -> usize {
        let mut len = number_len(enum_number(self.msg_type))
            + number_len(self.to)
            + number_len(self.from)
            + number_len(self.term)
            + number_len(self.log_term)
            + number_len(self.index)
            + self.entries.iter().map(|entry| nested_len(entry_len(entry))).sum::<usize>()
            + number_len(self.commit)
            + number_len(u64::from(self.reject))
            + number_len(self.reject_hint);
        if !self.context.is_empty() {
            len += nested_len(self.context.len());
        }
        if self.vote != 0 {
            len += number_len(self.vote);
        }
        len
    }

    /// Decodes a message; its payloads go on sharing the memory of `bytes`, but for a small one that comes alone.
    ///
    /// # Errors
    /// What is wrong with `bytes`.
    pub fn from_bytes(bytes: Bytes) -> Result<Self, DecodeError> {
        match read_message(&bytes) {
            Some(message) => Ok(message),
            // Of another form, or damaged: the derived code knows, and says what is wrong.
            None => Message::decode(bytes),
        }
    }
}

#[inline]
fn put_entry(out: &mut Vec<u8>, entry: &Entry) {
    put_number(out, ENTRIES, entry_len(entry) as u64);
    put_number(out, ENTRY_TYPE, enum_number(entry.entry_type));
    put_number(out, ENTRY_TERM, entry.term);
    put_number(out, ENTRY_INDEX, entry.index);
    if !entry.data.is_empty() {
        put_number(out, ENTRY_DATA, entry.data.len() as u64);
        out.extend_from_slice(&entry.data);
    }
}

/// A key and the number behind it. Inlined always, like its counterpart below, for numbers of up to two bytes: most are
/// so small, and a call costs as much as such a one.
#[inline(always)]
fn put_number(out: &mut Vec<u8>, key: u8, value: u64) {
    match value {
        0..=0x7f => out.extend_from_slice(&[key, value as u8]),
        0x80..=0x3fff => out.extend_from_slice(&[key, value as u8 | 0x80, (value >> 7) as u8]),
        _ => put_large_number(out, key, value),
    }
}

/// The usual lengths go at once: `out` has to look for room each time that something is written.
fn put_large_number(out: &mut Vec<u8>, key: u8, mut value: u64) {
    let last = |shift: u32| (value >> shift) as u8;
    let more = |shift: u32| last(shift) | 0x80;
    match value {
        0x4000..=0x1f_ffff => out.extend_from_slice(&[key, more(0), more(7), last(14)]),
        0x20_0000..=0xfff_ffff => out.extend_from_slice(&[key, more(0), more(7), more(14), last(21)]),
        _ => {
            out.push(key);
            while value >= 0x80 {
                out.push(value as u8 | 0x80);
                value >>= 7;
            }
            out.push(value as u8);
        }
    }
}

/// How many bytes an entry encodes to: what `encoded_len` says, in half the time.
#[inline]
pub(crate) fn entry_len(entry: &Entry) -> usize {
    let numbers = number_len(enum_number(entry.entry_type)) + number_len(entry.term) + number_len(entry.index);
    numbers + if entry.data.is_empty() { 0 } else { nested_len(entry.data.len()) }
}

/// What a number takes up as a field.
#[inline]
fn number_len(value: u64) -> usize {
    1 + varint_len(value)
}

/// What `length` bytes take up as a field.
#[inline]
fn nested_len(length: usize) -> usize {
    1 + varint_len(length as u64) + length
}

/// Seven bits to a byte, and one byte at least.
#[inline]
fn varint_len(value: u64) -> usize {
    match value {
        0..=0x7f => 1,
        0x80..=0x3fff => 2,
        0x4000..=0x1f_ffff => 3,
        // A seventh, rounded up: 9/64 is near enough for up to 64 bits, and takes no division.
        _ => (value.ilog2() as usize * 9 + 73) / 64,
    }
}

/// An enum is written as a sign-extended number.
#[inline]
fn enum_number(value: i32) -> u64 {
    i64::from(value) as u64
}

/// Fields in the order of their numbers, each once at most; `None` if there is anything else.
fn read_message(bytes: &Bytes) -> Option<Message> {
    let mut rest: &[u8] = bytes;
    let mut message = Message {
        msg_type: take_number(&mut rest, TYPE)? as i32,
        to: take_number(&mut rest, TO)?,
        from: take_number(&mut rest, FROM)?,
        term: take_number(&mut rest, TERM)?,
        log_term: take_number(&mut rest, LOG_TERM)?,
        index: take_number(&mut rest, INDEX)?,
        entries: read_entries(bytes, &mut rest)?,
        commit: take_number(&mut rest, COMMIT)?,
        snapshot: None,
        reject: take_number(&mut rest, REJECT)? != 0,
        reject_hint: take_number(&mut rest, REJECT_HINT)?,
        context: Bytes::new(),
        vote: 0,
        responses: Vec::new(),
    };
    if take_key(&mut rest, CONTEXT) {
        message.context = bytes.slice_ref(take_bytes(&mut rest)?);
    }
    message.vote = take_number(&mut rest, VOTE)?;
    rest.is_empty().then_some(message)
}

/// `rest` is a part of `bytes`.
#[inline(always)]
fn read_entries(bytes: &Bytes, rest: &mut &[u8]) -> Option<Entries> {
    if !take_key(rest, ENTRIES) {
        return Some(Entries::new());
    }
    let mut nested = take_bytes(rest)?;
    // No other entry follows.
    if nested.len() <= MOST_COPIED && rest.first() != Some(&ENTRIES) {
        return Some([read_entry(nested, Bytes::copy_from_slice)?].into());
    }
    // Room for as many as there can be, if they are all like the first one. A stranger's first one may be empty.
    let mut entries = Vec::with_capacity(1 + (rest.len() / (nested.len() + 2)).min(MOST_EXPECTED));
    loop {
        entries.push(read_entry(nested, |data| bytes.slice_ref(data))?);
        if !take_key(rest, ENTRIES) {
            return Some(entries.into());
        }
        nested = take_bytes(rest)?;
    }
}

/// `hold` makes the payload of a part of `nested`.
#[inline(always)]
fn read_entry<'a>(nested: &'a [u8], hold: impl Fn(&'a [u8]) -> Bytes) -> Option<Entry> {
    let mut rest = nested;
    let entry_type = take_number(&mut rest, ENTRY_TYPE)? as i32;
    let term = take_number(&mut rest, ENTRY_TERM)?;
    let index = take_number(&mut rest, ENTRY_INDEX)?;
    let data = if take_key(&mut rest, ENTRY_DATA) { hold(take_bytes(&mut rest)?) } else { Bytes::new() };
    rest.is_empty().then_some(Entry { entry_type, term, index, data })
}

/// Whether the field of this key comes next.
#[inline(always)]
fn take_key(rest: &mut &[u8], key: u8) -> bool {
    match rest.split_first() {
        Some((first, behind)) if *first == key => {
            *rest = behind;
            true
        }
        _ => false,
    }
}

/// The number that comes next if it has this key, else 0; `None` if it is none.
#[inline(always)]
fn take_number(rest: &mut &[u8], key: u8) -> Option<u64> {
    if take_key(rest, key) {
        take_varint(rest)
    } else {
        Some(0)
    }
}

/// What comes next on its own length.
#[inline(always)]
fn take_bytes<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(take_varint(rest)?).ok()?;
    let (bytes, behind) = rest.split_at_checked(length)?;
    *rest = behind;
    Some(bytes)
}

#[inline(always)]
fn take_varint(rest: &mut &[u8]) -> Option<u64> {
    let (value, behind) = match **rest {
        [byte, ref behind @ ..] if byte < 0x80 => (u64::from(byte), behind),
        [low, high, ref behind @ ..] if high < 0x80 => (u64::from(low & 0x7f) | u64::from(high) << 7, behind),
        _ => split_long_varint(rest)?,
    };
    *rest = behind;
    Some(value)
}

/// A number of any length, and what is behind it. (A slice that is only passed on, and not changed in its place, stays in
/// registers where it comes from.)
fn split_long_varint(mut rest: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0;
    for shift in (0..70).step_by(7) {
        let (byte, behind) = rest.split_first()?;
        rest = behind;
        // The tenth byte has room for one bit.
        if shift == 63 && *byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << shift;
        if *byte < 0x80 {
            return Some((value, rest));
        }
    }
    None
}

#[cfg(test)]
mod tests;
