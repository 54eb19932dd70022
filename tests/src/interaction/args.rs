//! Reading the words of a command.

use std::str::FromStr;

use raft_core::pb::MessageType;

use crate::confchange_traces::parse_bool;
use crate::datadriven::{Arg, Directive};

use super::Failure;

/// Reads one value; says which argument is wrong.
pub(super) fn parse<T: FromStr>(key: &str, value: &str) -> Result<T, Failure> {
    value.parse().map_err(|_| Failure::text(format!("{key}: {value:?} is not understood")))
}

/// Reads `true` or `false`, as Go does.
pub(super) fn parse_flag(key: &str, value: &str) -> Result<bool, Failure> {
    parse_bool(value).map_err(|error| Failure::text(format!("{key}: {error}")))
}

/// All values of an argument.
pub(super) fn all<T: FromStr>(arg: &Arg) -> Result<Vec<T>, Failure> {
    arg.values.iter().map(|value| parse(&arg.key, value)).collect()
}

/// The only value of an argument.
pub(super) fn one(arg: &Arg) -> Result<&str, Failure> {
    match arg.values.as_slice() {
        [value] => Ok(value),
        _ => Err(Failure::text(format!("{} takes one value", arg.key))),
    }
}

/// An argument that must be there.
pub(super) fn required<T: FromStr>(directive: &Directive, key: &str) -> Result<T, Failure> {
    let arg = directive.args.iter().find(|arg| arg.key == key);
    let arg = arg.ok_or_else(|| Failure::text(format!("{key}= is missing")))?;
    parse(key, one(arg)?)
}

/// An argument that may be there.
pub(super) fn optional<T: FromStr>(directive: &Directive, key: &str) -> Result<Option<T>, Failure> {
    match directive.args.iter().find(|arg| arg.key == key) {
        Some(arg) => parse(key, one(arg)?).map(Some),
        None => Ok(None),
    }
}

/// The word at a place, not counting `key=value` arguments.
pub(super) fn word<'a>(directive: &'a Directive, place: usize, what: &str) -> Result<&'a str, Failure> {
    directive.words().nth(place).ok_or_else(|| Failure::text(format!("{what} is missing")))
}

/// The word at a place, as a number.
pub(super) fn number<T: FromStr>(directive: &Directive, place: usize, what: &str) -> Result<T, Failure> {
    parse(what, word(directive, place, what)?)
}

/// The node that the command is for: its first word.
pub(super) fn node_id(directive: &Directive) -> Result<u64, Failure> {
    number(directive, 0, "node id")
}

/// All single words as node ids.
pub(super) fn node_ids(directive: &Directive) -> Result<Vec<u64>, Failure> {
    directive.words().map(|word| parse("node id", word)).collect()
}

/// A message type by its name.
pub(super) fn message_type(name: &str) -> Result<MessageType, Failure> {
    let mut all = (0..64).filter_map(|number| MessageType::try_from(number).ok());
    all.find(|kind| kind.to_string() == name).ok_or_else(|| Failure::text(format!("unknown message type {name}")))
}
