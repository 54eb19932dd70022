//! What can be asked of the store, and how it is written into the log.
//!
//! The bytes are protobuf, one field per kind of command: `1` is a put `{1: key, 2: value}`, `2` a delete `{1: key}`. A
//! later version adds fields with new numbers.
//!
//! Protobuf decoders skip fields they do not know. For a replicated command that is the worst that can happen: an old
//! node would carry out half of what a new node carries out. [`Command::decode`] therefore encodes what it understood
//! and refuses if anything of the input is missing from that, so that *every* byte has been understood.
//!
//! What is left out: who asked, and when. That is the envelope's business, not the command's.

use bytes::{Buf, Bytes};
use prost::Message;

/// One thing to do to the store. Keys and values are any bytes, empty ones included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Let `key` have `value`, whether or not it had one.
    Put {
        /// The key.
        key: Bytes,
        /// Its new value.
        value: Bytes,
    },
    /// Let there be no `key`, whether or not there was one.
    Delete {
        /// The key.
        key: Bytes,
    },
}

/// Bytes that are not a command this version knows. The node that meets them in its log must stop: others may know
/// better, and going on without it would let replicas differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// Not protobuf, or cut short; says what the decoder stumbled over.
    Malformed(String),
    /// Well-formed, but it holds something this version has no name for.
    Unknown,
}

impl std::fmt::Display for DecodeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DecodeError::Malformed(reason) => write!(f, "not a command: {reason}"),
            DecodeError::Unknown => {
                write!(f, "a command that this version does not know; it was written by a newer one: upgrade this node")
            }
        }
    }
}

impl std::error::Error for DecodeError {}

#[derive(Clone, PartialEq, prost::Message)]
struct WirePut {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireDelete {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum WireKind {
    #[prost(message, tag = "1")]
    Put(WirePut),
    #[prost(message, tag = "2")]
    Delete(WireDelete),
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireCommand {
    #[prost(oneof = "WireKind", tags = "1, 2")]
    kind: Option<WireKind>,
}

impl Command {
    /// The key that it is about.
    pub fn key(&self) -> &Bytes {
        match self {
            Command::Put { key, .. } | Command::Delete { key } => key,
        }
    }

    /// The bytes for the log.
    pub fn encode(&self) -> Bytes {
        let kind = match self.clone() {
            Command::Put { key, value } => WireKind::Put(WirePut { key, value }),
            Command::Delete { key } => WireKind::Delete(WireDelete { key }),
        };
        WireCommand { kind: Some(kind) }.encode_to_vec().into()
    }

    /// Reads what [`Command::encode`] wrote. Given `Bytes`, key and value share its memory; given a slice, they are
    /// copies.
    pub fn decode(data: impl Buf) -> Result<Command, DecodeError> {
        let length_bytes = data.remaining();
        let wire = WireCommand::decode(data).map_err(|error| DecodeError::Malformed(error.to_string()))?;
        if wire.encoded_len() != length_bytes {
            return Err(DecodeError::Unknown);
        }
        match wire.kind {
            Some(WireKind::Put(WirePut { key, value })) => Ok(Command::Put { key, value }),
            Some(WireKind::Delete(WireDelete { key })) => Ok(Command::Delete { key }),
            None => Err(DecodeError::Unknown),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn put(key: &'static [u8], value: &'static [u8]) -> Command {
        Command::Put { key: Bytes::from_static(key), value: Bytes::from_static(value) }
    }

    #[test]
    fn the_bytes_in_the_log_stay_what_they_are() {
        // Logs outlive versions: these bytes must decode for ever.
        assert_eq!(put(b"k", b"\xff\0").encode().as_ref(), b"\x0a\x07\x0a\x01k\x12\x02\xff\0");
        assert_eq!(Command::Delete { key: Bytes::from_static(b"k") }.encode().as_ref(), b"\x12\x03\x0a\x01k");
        assert_eq!(Command::decode(&b"\x0a\x07\x0a\x01k\x12\x02\xff\0"[..]), Ok(put(b"k", b"\xff\0")));
    }

    #[test]
    fn an_unknown_command_is_refused() {
        assert_eq!(Command::decode(&b"\x1a\x00"[..]), Err(DecodeError::Unknown), "a third kind of command");
        assert_eq!(Command::decode(&b""[..]), Err(DecodeError::Unknown), "no command at all");
    }

    #[test]
    fn an_unknown_field_in_a_known_command_is_refused() {
        // A put with a field 3, as a later version might give it a lease.
        assert_eq!(Command::decode(&b"\x0a\x05\x0a\x01k\x18\x09"[..]), Err(DecodeError::Unknown));
        // The same beside the command.
        assert_eq!(Command::decode(&b"\x12\x03\x0a\x01k\x18\x09"[..]), Err(DecodeError::Unknown));
    }

    #[test]
    fn two_commands_in_one_are_refused() {
        let mut both = put(b"a", b"1").encode().to_vec();
        both.extend_from_slice(&Command::Delete { key: Bytes::from_static(b"a") }.encode());
        assert_eq!(Command::decode(&both[..]), Err(DecodeError::Unknown));
    }

    #[test]
    fn what_is_cut_short_is_malformed() {
        let whole = put(b"key", b"value").encode();
        for length in 1..whole.len() {
            let cut = Command::decode(whole.slice(..length));
            assert!(matches!(cut, Err(DecodeError::Malformed(_))), "{length} bytes gave {cut:?}");
        }
    }

    proptest! {
        #[test]
        fn every_command_survives_the_log(key: Vec<u8>, value: Vec<u8>, delete: bool) {
            let key = Bytes::from(key);
            let command = if delete { Command::Delete { key } } else { Command::Put { key, value: value.into() } };
            prop_assert_eq!(Command::decode(command.encode()), Ok(command));
        }

        #[test]
        fn arbitrary_bytes_never_panic_and_never_lose_a_byte(data: Vec<u8>) {
            if let Ok(command) = Command::decode(&data[..]) {
                prop_assert_eq!(command.encode().len(), data.len());
            }
        }
    }
}
