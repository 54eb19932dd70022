//! The state as one piece of bytes.
//!
//! A snapshot stands for the log up to an index: a node that restores it must not be told apart from one that applied
//! every entry. Two nodes with equal states write equal bytes, because pairs go out in key order and nothing else (no
//! time, no node id) goes with them: a checksum of a snapshot is a checksum of the state.
//!
//! The layout is protobuf: `{1: version, 2: applied index, 3: pairs {1: key, 2: value} …}`. Reading is strict: an
//! unknown version, a key out of order or twice, a field that this version does not know are errors, and the node that
//! was to be restored keeps what it had.
//!
//! What is left out: compression, and checksums (whoever writes snapshots to disk or wire guards all of their bytes).

use bytes::{Bytes, BytesMut};
use prost::Message;

use crate::Store;

/// The version that [`Store::snapshot`] writes and the only one that [`Store::restore`] reads.
const VERSION: u32 = 1;

#[derive(Clone, PartialEq, prost::Message)]
struct WirePair {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireImage {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(uint64, tag = "2")]
    applied: u64,
    #[prost(message, repeated, tag = "3")]
    pairs: Vec<WirePair>,
}

/// Why bytes are not a snapshot that this version can restore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RestoreError {
    /// Not protobuf, or cut short; says what the decoder stumbled over.
    Malformed(String),
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
    /// The whole state. Equal states give equal bytes.
    pub fn snapshot(&self) -> Bytes {
        let pairs = self.pairs.iter().map(|(key, value)| WirePair { key: key.clone(), value: value.clone() });
        let image = WireImage { version: VERSION, applied: self.applied, pairs: pairs.collect() };
        let mut bytes = BytesMut::with_capacity(image.encoded_len());
        // Encoding fails only for want of room, and a BytesMut grows.
        let written = image.encode(&mut bytes);
        debug_assert!(written.is_ok());
        bytes.freeze()
    }

    /// The state that [`Store::snapshot`] wrote. Keys and values are copies: the input may be dropped.
    pub fn restore(snapshot: &[u8]) -> Result<Store, RestoreError> {
        let image = WireImage::decode(snapshot).map_err(|error| RestoreError::Malformed(error.to_string()))?;
        if image.version != VERSION {
            return Err(RestoreError::UnknownVersion(image.version));
        }
        if image.encoded_len() != snapshot.len() {
            return Err(RestoreError::UnknownContents);
        }
        let ordered = |window: &[WirePair]| matches!(window, [one, two] if one.key < two.key);
        if let Some(position) = image.pairs.windows(2).position(|window| !ordered(window)) {
            return Err(RestoreError::KeysOutOfOrder { position: position + 1 });
        }
        let pairs = image.pairs.into_iter().map(|pair| (pair.key, pair.value)).collect();
        Ok(Store { applied: image.applied, pairs })
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
                prop_assert_eq!(store.snapshot().len(), data.len());
            }
        }
    }
}
