//! The state as bytes, written and read as a stream.
//!
//! A snapshot stands for the log up to an index: a node that restores it must not be told apart from one that applied
//! every entry. Two nodes with equal states write equal bytes, because pairs go out in key order and nothing else (no
//! time, no node id) goes with them: a checksum of a snapshot is a checksum of the state.
//!
//! The layout is protobuf: `{1: version, 2: applied index, 3: pairs {1: key, 2: value} …}`; numbers that are zero and
//! bytes that are empty are left out. A state may be larger than what is left of memory, so neither side ever holds more
//! of it than one pair: [`Store::write_image`] writes to any stream, [`Store::read_image`] reads from any.
//!
//! Reading is strict: exactly the bytes that would be written for the same state are taken. An unknown version, a key out
//! of order or twice, a field that this version does not know, a number written in more bytes than it needs are errors,
//! and the node that was to be restored keeps what it had. Memory is used as bytes arrive, not as a length announces them.
//!
//! What is left out: compression, and checksums (whoever writes snapshots to disk or wire guards all of their bytes).

use std::io::{self, BufRead, BufReader, Read, Write};

use bytes::Bytes;
use prost::encoding::{encode_varint, encoded_len_varint};

use crate::store::Key;
use crate::Store;

/// The version that is written, and the only one that is read.
const VERSION: u32 = 1;

/// Field numbers with their protobuf kinds, as they stand before each field: a number, or bytes with their length.
const FIELD_VERSION: u8 = 0x08;
const FIELD_APPLIED: u8 = 0x10;
const FIELD_PAIR: u8 = 0x1a;
const PAIR_KEY: u8 = 0x0a;
const PAIR_VALUE: u8 = 0x12;

/// Room that is made for a string before any of it has arrived, at most.
const ROOM_BYTES: u64 = 64 << 10;

/// Why bytes are not a snapshot that this version can restore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RestoreError {
    /// The stream that it was to be read from failed; says how.
    Unreadable(String),
    /// Not what is written, or cut short; says what the reader stumbled over.
    Malformed(&'static str),
    /// Written by a version whose layout this one does not know.
    UnknownVersion(u32),
    /// It holds something this version has no name for.
    UnknownContents,
    /// Keys must ascend, each greater than the one before; the first that does not is number `position`, from 0.
    KeysOutOfOrder {
        /// Which pair.
        position: usize,
    },
}

impl std::fmt::Display for RestoreError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            RestoreError::Unreadable(reason) => write!(f, "a snapshot of the store cannot be read: {reason}"),
            RestoreError::Malformed(reason) => write!(f, "not a snapshot of the store: {reason}"),
            RestoreError::UnknownVersion(version) => {
                write!(f, "a snapshot of the store in version {version}, this program reads version {VERSION}")
            }
            RestoreError::UnknownContents => write!(f, "a snapshot of the store with contents of a newer version"),
            RestoreError::KeysOutOfOrder { position } => {
                write!(f, "a damaged snapshot of the store: pair {position} is out of order")
            }
        }
    }
}

impl std::error::Error for RestoreError {}

impl Store {
    /// How many bytes [`Store::write_image`] will write. Looks at every pair.
    pub fn image_bytes(&self) -> u64 {
        let applied = if self.applied == 0 { 0 } else { 1 + encoded_len_varint(self.applied) };
        let pair = |(key, value): (&Key, &Bytes)| {
            let bytes = string_bytes(key) + string_bytes(value);
            1 + encoded_len_varint(bytes as u64) + bytes
        };
        let pairs: u64 = self.pairs.iter().map(|entry| pair(entry) as u64).sum();
        (1 + encoded_len_varint(VERSION.into()) + applied) as u64 + pairs
    }

    /// Writes the whole state, in many small pieces. Equal states give equal bytes.
    pub fn write_image(&self, into: &mut (impl Write + ?Sized)) -> io::Result<()> {
        let mut head = vec![FIELD_VERSION];
        encode_varint(VERSION.into(), &mut head);
        if self.applied != 0 {
            head.push(FIELD_APPLIED);
            encode_varint(self.applied, &mut head);
        }
        into.write_all(&head)?;
        for (key, value) in &self.pairs {
            head.clear();
            head.push(FIELD_PAIR);
            encode_varint((string_bytes(key) + string_bytes(value)) as u64, &mut head);
            for (field, string) in [(PAIR_KEY, &key[..]), (PAIR_VALUE, &value[..])] {
                if string.is_empty() {
                    continue;
                }
                head.push(field);
                encode_varint(string.len() as u64, &mut head);
                into.write_all(&head)?;
                into.write_all(string)?;
                head.clear();
            }
            into.write_all(&head)?;
        }
        Ok(())
    }

    /// The state that [`Store::write_image`] wrote, read to the stream's end.
    pub fn read_image(from: impl Read) -> Result<Store, RestoreError> {
        let mut from = ImageReader { source: BufReader::with_capacity(ROOM_BYTES as usize, from) };
        match from.byte()? {
            None => return Err(RestoreError::UnknownVersion(0)),
            Some(FIELD_VERSION) => {}
            Some(_) => return Err(RestoreError::Malformed("it does not begin with a version")),
        }
        let version = from.number()?;
        if version != u64::from(VERSION) {
            return Err(RestoreError::UnknownVersion(u32::try_from(version).unwrap_or(u32::MAX)));
        }
        let mut store = Store::new();
        let mut next = from.byte()?;
        if next == Some(FIELD_APPLIED) {
            store.applied = match from.number()? {
                0 => return Err(RestoreError::Malformed("a zero that should not be there")),
                applied => applied,
            };
            next = from.byte()?;
        }
        let mut last: Option<Bytes> = None;
        while let Some(field) = next {
            if field != FIELD_PAIR {
                return Err(RestoreError::UnknownContents);
            }
            let (key, value) = from.pair()?;
            if last.is_some_and(|last| last >= key) {
                return Err(RestoreError::KeysOutOfOrder { position: store.pairs.len() });
            }
            store.pairs.insert(Key::from_slice(&key), value);
            last = Some(key);
            next = from.byte()?;
        }
        Ok(store)
    }

    /// [`Store::write_image`], in one piece: for small states.
    pub fn snapshot(&self) -> Bytes {
        let mut image = Vec::new();
        // Writing fails only for want of room, and a vector grows.
        let written = self.write_image(&mut image);
        debug_assert!(written.is_ok());
        image.into()
    }

    /// [`Store::read_image`], from one piece. Keys and values are copies: the input may be dropped.
    pub fn restore(snapshot: &[u8]) -> Result<Store, RestoreError> {
        Store::read_image(snapshot)
    }
}

/// Bytes of a string with its field number and length; an empty one is left out.
fn string_bytes(string: &[u8]) -> usize {
    match string.len() {
        0 => 0,
        length => 1 + encoded_len_varint(length as u64) + length,
    }
}

struct ImageReader<R> {
    source: BufReader<R>,
}

/// Where an image must not end.
const CUT: RestoreError = RestoreError::Malformed("it ends too early");

impl<R: Read> ImageReader<R> {
    /// The next byte; `None` at the end.
    fn byte(&mut self) -> Result<Option<u8>, RestoreError> {
        loop {
            match self.source.fill_buf() {
                Ok(buffer) => {
                    let first = buffer.first().copied();
                    self.source.consume(usize::from(first.is_some()));
                    return Ok(first);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(RestoreError::Unreadable(error.to_string())),
            }
        }
    }

    /// Seven bits a byte, the lowest first; the highest bit says that more follow.
    fn number(&mut self) -> Result<u64, RestoreError> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?.ok_or(CUT)?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            number |= bits << shift;
            if byte < 0x80 {
                if byte == 0 && shift > 0 {
                    return Err(RestoreError::Malformed("a number longer than it need be"));
                }
                return Ok(number);
            }
        }
        Err(RestoreError::Malformed("a number beyond 64 bits"))
    }

    fn pair(&mut self) -> Result<(Bytes, Bytes), RestoreError> {
        let mut left = self.number()?;
        let mut field = self.pair_field(&mut left)?;
        let mut strings = [Bytes::new(), Bytes::new()];
        for (string, expected) in strings.iter_mut().zip([PAIR_KEY, PAIR_VALUE]) {
            if field == Some(expected) {
                *string = self.string(&mut left)?;
                field = self.pair_field(&mut left)?;
            }
        }
        if field.is_some() {
            return Err(RestoreError::UnknownContents);
        }
        let [key, value] = strings;
        Ok((key, value))
    }

    /// What stands before a field of a pair of which so many bytes are left; `None` if none are.
    fn pair_field(&mut self, left: &mut u64) -> Result<Option<u8>, RestoreError> {
        if *left == 0 {
            return Ok(None);
        }
        *left -= 1;
        Ok(Some(self.byte()?.ok_or(CUT)?))
    }

    fn string(&mut self, left: &mut u64) -> Result<Bytes, RestoreError> {
        let length = self.number()?;
        let taken = (encoded_len_varint(length) as u64).saturating_add(length);
        *left = left.checked_sub(taken).ok_or(RestoreError::Malformed("a pair shorter than what is in it"))?;
        if length == 0 {
            return Err(RestoreError::Malformed("an empty string that should not be there"));
        }
        let mut string = Vec::with_capacity(length.min(ROOM_BYTES) as usize);
        let read = self.source.by_ref().take(length).read_to_end(&mut string);
        read.map_err(|error| RestoreError::Unreadable(error.to_string()))?;
        if string.len() as u64 != length {
            return Err(CUT);
        }
        // Without the room that was left over: it would be kept as long as the store.
        Ok(string.into_boxed_slice().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Command;
    use proptest::prelude::*;

    fn sample() -> Store {
        let mut store = Store::new();
        store.apply(3, Command::Put { key: "b".into(), value: Bytes::from_static(b"a\xff") });
        store.apply(4, Command::Put { key: "a".into(), value: Bytes::new() });
        store
    }

    #[test]
    fn the_layout_stays_what_it_is() {
        let expected = b"\x08\x01\x10\x04\x1a\x03\x0a\x01a\x1a\x07\x0a\x01b\x12\x02a\xff";
        assert_eq!(sample().snapshot().as_ref(), expected);
        assert_eq!(Store::restore(expected), Ok(sample()));
    }

    #[test]
    fn an_empty_store_has_a_snapshot_too() {
        assert_eq!(Store::restore(&Store::new().snapshot()), Ok(Store::new()));
    }

    #[test]
    fn what_is_not_a_snapshot_is_refused() {
        assert_eq!(Store::restore(b""), Err(RestoreError::UnknownVersion(0)));
        assert_eq!(Store::restore(b"\x08\x02"), Err(RestoreError::UnknownVersion(2)));
        assert_eq!(Store::restore(b"\x08\x01\x20\x05"), Err(RestoreError::UnknownContents));
        assert!(matches!(Store::restore(b"\x1a\x7f"), Err(RestoreError::Malformed(_))));
        for not_as_written in [
            &b"\x08\x81\x00"[..],
            b"\x08\x01\x10\x00",
            b"\x08\x01\x1a\x02\x0a\x00",
            b"\x08\x01\x1a\x82\x00\x0a\x00",
            b"\x08\x01\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02",
            b"\x08\x01\x1a\x02\x0a\x01a",
        ] {
            let refused = Store::restore(not_as_written);
            assert!(matches!(refused, Err(RestoreError::Malformed(_))), "{not_as_written:?}: {refused:?}");
        }
        assert_eq!(Store::restore(b"\x08\x01\x1a\x03\x1a\x01a"), Err(RestoreError::UnknownContents));
        let twice = b"\x08\x01\x1a\x03\x0a\x01a\x1a\x03\x0a\x01a";
        assert_eq!(Store::restore(twice), Err(RestoreError::KeysOutOfOrder { position: 1 }));
        let descending = b"\x08\x01\x1a\x03\x0a\x01b\x1a\x03\x0a\x01a";
        assert_eq!(Store::restore(descending), Err(RestoreError::KeysOutOfOrder { position: 1 }));
    }

    #[test]
    fn a_snapshot_cut_short_is_not_taken_for_a_smaller_state() {
        // A cut between pairs is a valid, smaller message: only a checksum can see it, and that is the file's. A cut
        // anywhere else must be seen here.
        let whole = sample().snapshot();
        let borders = [4, 9];
        for length in (5..whole.len()).filter(|length| !borders.contains(length)) {
            assert!(Store::restore(&whole[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn a_length_that_is_not_kept_takes_no_memory() {
        let announced = b"\x08\x01\x1a\xff\xff\xff\xff\xff\xff\xff\xff\x7f\x0a\xf0\xff\xff\xff\xff\xff\xff\xff\x7fabc";
        assert_eq!(Store::restore(announced), Err(CUT));
    }

    #[test]
    fn a_stream_that_fails_is_said() {
        struct Failing;
        impl Read for Failing {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("the disk is gone"))
            }
        }
        let whole = sample().snapshot();
        for length in 0..whole.len() {
            let restored = Store::read_image((&whole[..length]).chain(Failing));
            assert_eq!(restored, Err(RestoreError::Unreadable("the disk is gone".into())), "{length} bytes");
        }
    }

    proptest! {
        #[test]
        fn restore_undoes_snapshot(pairs: Vec<(Vec<u8>, Vec<u8>)>, applied in 1u64..) {
            let mut store = Store::new();
            for (position, (key, value)) in pairs.into_iter().enumerate() {
                store.apply(position as u64 + 1, Command::Put { key: key.into(), value: value.into() });
            }
            store.skip(applied);
            let bytes = store.snapshot();
            let copy = Store::restore(&bytes);
            prop_assert_eq!(copy.as_ref(), Ok(&store));
            prop_assert_eq!(store.image_bytes(), bytes.len() as u64);
            prop_assert_eq!(copy.map(|copy| copy.snapshot()), Ok(bytes));
        }

        #[test]
        fn the_way_to_a_state_does_not_show_in_its_snapshot(mut keys in proptest::collection::vec(0u32..100, 1..20)) {
            let build = |keys: &[u32]| {
                let mut store = Store::new();
                for (position, key) in keys.iter().enumerate() {
                    let key = Bytes::from(key.to_string());
                    store.apply(position as u64 + 1, Command::Put { key: key.clone(), value: key });
                }
                store
            };
            let one = build(&keys);
            keys.reverse();
            prop_assert_eq!(one.snapshot(), build(&keys).snapshot());
        }

        #[test]
        fn arbitrary_bytes_never_panic(data: Vec<u8>) {
            if let Ok(store) = Store::restore(&data) {
                prop_assert_eq!(store.snapshot(), data);
            }
        }
    }
}
