//! [`Message::to_bytes`] and [`Message::from_bytes`]: the wire form of the messages that fly all the time.
//!
//! [`pb`](crate::pb) says what the bytes are, and the code derived there reads and writes any of them. But it takes a
//! message field by field through general machinery, asks every entry twice for its length, and costs more than all
//! that the protocol does with the message. Nearly all messages are of one form: plain numbers, a context, and entries. That
//! form is written and read here in a straight line; whatever is of another (a snapshot, storage work, fields of later
//! versions) goes the derived way. The bytes are the same, and so is what comes out of them; tests hold both against
//! each other.
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

impl Message {
    /// Encodes the message.
    pub fn to_bytes(&self) -> Bytes {
        if self.snapshot.is_some() || !self.responses.is_empty() {
            return self.encode_to_vec().into();
        }
        let entries = self.entries.iter().map(|entry| nested_len(entry_len(entry))).sum::<usize>();
        let mut out = Vec::with_capacity(self.len_without_entries() + entries);
        // Fields go in the order of their numbers, as the derived code writes them; zeros too, but for the last two.
        put_number(&mut out, 1, enum_number(self.msg_type));
        put_number(&mut out, 2, self.to);
        put_number(&mut out, 3, self.from);
        put_number(&mut out, 4, self.term);
        put_number(&mut out, 5, self.log_term);
        put_number(&mut out, 6, self.index);
        for entry in &self.entries {
            put_entry(&mut out, entry);
        }
        put_number(&mut out, 8, self.commit);
        put_number(&mut out, 10, u64::from(self.reject));
        put_number(&mut out, 11, self.reject_hint);
        if !self.context.is_empty() {
            put_bytes(&mut out, 12, &self.context);
        }
        if self.vote != 0 {
            put_number(&mut out, 13, self.vote);
        }
        out.into()
    }

    #[inline]
    fn len_without_entries(&self) -> usize {
        let mut len = number_len(enum_number(self.msg_type))
            + number_len(self.to)
            + number_len(self.from)
            + number_len(self.term)
            + number_len(self.log_term)
            + number_len(self.index)
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

    /// Decodes a message; its payloads go on sharing the memory of `bytes`.
    ///
    /// # Errors
    /// What is wrong with `bytes`.
    pub fn from_bytes(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut message = Message::default();
        match read_message(&bytes, &mut message) {
            Some(()) => Ok(message),
            // Of another form, or damaged: the derived code knows, and says what is wrong.
            None => Message::decode(bytes),
        }
    }
}

/// `None` if there is anything but the usual fields.
fn read_message(bytes: &Bytes, message: &mut Message) -> Option<()> {
    let mut entries = Vec::new();
    let mut rest: &[u8] = bytes;
    while let Some((key, behind)) = rest.split_first() {
        rest = behind;
        match *key {
            NUMBER_1 => message.msg_type = take_varint(&mut rest)? as i32,
            NUMBER_2 => message.to = take_varint(&mut rest)?,
            NUMBER_3 => message.from = take_varint(&mut rest)?,
            NUMBER_4 => message.term = take_varint(&mut rest)?,
            NUMBER_5 => message.log_term = take_varint(&mut rest)?,
            NUMBER_6 => message.index = take_varint(&mut rest)?,
            ENTRIES => {
                let nested = take_bytes(&mut rest)?;
                if entries.is_empty() {
                    // Room for as many as there can be, if they are all like the first one.
                    entries.reserve_exact(1 + rest.len() / (nested.len() + 2));
                }
                entries.push(read_entry(bytes, nested)?);
            }
            NUMBER_8 => message.commit = take_varint(&mut rest)?,
            NUMBER_10 => message.reject = take_varint(&mut rest)? != 0,
            NUMBER_11 => message.reject_hint = take_varint(&mut rest)?,
            CONTEXT => message.context = bytes.slice_ref(take_bytes(&mut rest)?),
            NUMBER_13 => message.vote = take_varint(&mut rest)?,
            _ => return None,
        }
    }
    message.entries = Entries::from(entries);
    Some(())
}

const NUMBER_1: u8 = number_field(1);
const NUMBER_2: u8 = number_field(2);
const NUMBER_3: u8 = number_field(3);
const NUMBER_4: u8 = number_field(4);
const NUMBER_5: u8 = number_field(5);
const NUMBER_6: u8 = number_field(6);
const ENTRIES: u8 = bytes_field(7);
const NUMBER_8: u8 = number_field(8);
const NUMBER_10: u8 = number_field(10);
const NUMBER_11: u8 = number_field(11);
const CONTEXT: u8 = bytes_field(12);
const NUMBER_13: u8 = number_field(13);
/// The data of an entry, in it.
const DATA: u8 = bytes_field(4);

/// `nested` is a part of `bytes`.
#[inline]
fn read_entry(bytes: &Bytes, nested: &[u8]) -> Option<Entry> {
    let mut entry = Entry::default();
    let mut rest = nested;
    while let Some((key, behind)) = rest.split_first() {
        rest = behind;
        match *key {
            NUMBER_1 => entry.entry_type = take_varint(&mut rest)? as i32,
            NUMBER_2 => entry.term = take_varint(&mut rest)?,
            NUMBER_3 => entry.index = take_varint(&mut rest)?,
            DATA => entry.data = bytes.slice_ref(take_bytes(&mut rest)?),
            _ => return None,
        }
    }
    Some(entry)
}

#[inline]
fn take_varint(rest: &mut &[u8]) -> Option<u64> {
    match rest.split_first()? {
        (byte, behind) if *byte < 0x80 => {
            *rest = behind;
            Some(u64::from(*byte))
        }
        _ => take_long_varint(rest),
    }
}

fn take_long_varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for (position, byte) in rest.iter().enumerate().take(10) {
        // The tenth byte has room for one bit.
        if position == 9 && *byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << (7 * position);
        if byte & 0x80 == 0 {
            *rest = rest.get(position + 1..)?;
            return Some(value);
        }
    }
    None
}

/// What follows on its own length.
#[inline]
fn take_bytes<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(take_varint(rest)?).ok()?;
    let (bytes, behind) = rest.split_at_checked(length)?;
    *rest = behind;
    Some(bytes)
}

/// Seven bits to a byte, and one byte at least.
#[inline]
fn varint_len(value: u64) -> usize {
    if value < 0x80 {
        return 1;
    }
    (value.ilog2() as usize + 7) / 7
}

/// An enum is written as a sign-extended number.
#[inline]
fn enum_number(value: i32) -> u64 {
    i64::from(value) as u64
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

/// How many bytes an entry encodes to: what `encoded_len` says, in half the time.
#[inline]
pub(crate) fn entry_len(entry: &Entry) -> usize {
    let numbers = number_len(enum_number(entry.entry_type)) + number_len(entry.term) + number_len(entry.index);
    numbers + if entry.data.is_empty() { 0 } else { nested_len(entry.data.len()) }
}

#[inline]
fn put_entry(out: &mut Vec<u8>, entry: &Entry) {
    out.push(ENTRIES);
    put_varint(out, entry_len(entry) as u64);
    put_number(out, 1, enum_number(entry.entry_type));
    put_number(out, 2, entry.term);
    put_number(out, 3, entry.index);
    if !entry.data.is_empty() {
        put_bytes(out, 4, &entry.data);
    }
}

#[inline]
fn put_number(out: &mut Vec<u8>, field: u8, value: u64) {
    out.push(number_field(field));
    put_varint(out, value);
}

#[inline]
fn put_bytes(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    out.push(bytes_field(field));
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

#[inline]
fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests;
