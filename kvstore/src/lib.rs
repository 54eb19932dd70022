//! The replicated state: keys, values, and nothing else.
//!
//! A replicated state machine is a promise: every node that applies the same commands in the same order holds the same
//! state, byte for byte. Keeping it is all that this crate does, and the promise is why it looks the way it does.
//!
//! - **Nothing from outside gets in.** No clock, no randomness, no thread, no file, no address of anything: [`Store`]
//!   changes through [`Store::apply`] alone, and what comes out depends on the index and the [`Command`] alone. Should
//!   time ever matter (leases do), it will come as a command.
//! - **`apply` cannot fail.** A command is either carried out or answered (for example "there was no such key"), the
//!   same way on every node. An error would be a choice that nodes could make differently.
//! - **A command that this version does not know stops the node.** [`Command::decode`] refuses bytes of which it does
//!   not understand every one, instead of skipping what is new to it: to skip is to diverge in silence, to stop is to
//!   wait for an upgrade.
//! - **Keys are in order**, so that a snapshot of equal states is equal bytes ([`Store::write_image`]).
//!
//! ```
//! use kvstore::{Command, Outcome, Store};
//!
//! let mut store = Store::new();
//! let put = Command::Put { key: "colour".into(), value: "blue".into() };
//!
//! // What travels through the log is bytes; what every node does with them is the same.
//! let (outcome, events) = store.apply(7, Command::decode(put.encode())?);
//! assert_eq!(outcome, Outcome::Stored { replaced: false });
//! assert_eq!(events.len(), 1);
//! assert_eq!(store.get(b"colour").as_deref(), Some(&b"blue"[..]));
//!
//! let copy = Store::restore(&store.snapshot())?;
//! assert_eq!((copy.applied(), copy.len()), (7, 1));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | module | holds |
//! |---|---|
//! | [`command`](Command) | what can be asked of the store, and its bytes in the log |
//! | [`store`](Store) | the state, and `apply` |
//! | [`image`](RestoreError) | the state as a stream of bytes, written and read |
//!
//! What is left out: Raft (the caller knows where an index comes from), who asked (the caller matches answers to
//! requests), and everything of etcd's beyond put and delete: revisions, transactions, watches, leases. The shape,
//! `(index, command) -> (answer, events)`, is the one they need.
#![forbid(unsafe_code)]

mod command;
mod image;
mod store;

pub use command::{Command, DecodeError};
pub use image::RestoreError;
pub use store::{Event, Outcome, Store};
