//! How the protocol's objects are printed, for logs, traces and people.
//!
//! The formats are those of etcd's `raft/util.go`, character by character, because traces of both are compared:
//! `1->2 MsgApp Term:1 Log:1/10 Commit:9 Entries:[1/11 EntryNormal "foo"]`. Ids are hexadecimal, everything else
//! decimal; an entry's payload is quoted as Go's `%q` does it, by [`quote`].
//!
//! Left out: what belongs to a `Ready` (printed beside its definition), and contexts, which are not shown.

use std::fmt::{self, Write as _};

use crate::confchange::{print_changes, ConfChangeKind};
use crate::config::{LOCAL_APPEND_THREAD, LOCAL_APPLY_THREAD};
use crate::pb::{
    ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState, Entry, EntryType, HardState, Message, MessageType,
    Snapshot,
};

/// Prints a payload.
pub type PayloadFormatter<'a> = &'a dyn Fn(&[u8]) -> String;

impl fmt::Display for EntryType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl fmt::Display for MessageType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl fmt::Display for ConfChangeType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl fmt::Display for ConfChangeTransition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The name of a number from the wire, or the number if it has none here.
fn name<T: TryFrom<i32> + fmt::Display>(number: i32) -> String {
    T::try_from(number).map_or_else(|_| number.to_string(), |known| known.to_string())
}

/// A sender or receiver: a node's id, or one of the local threads.
pub fn target(id: u64) -> String {
    match id {
        0 => "None".to_string(),
        LOCAL_APPEND_THREAD => "AppendThread".to_string(),
        LOCAL_APPLY_THREAD => "ApplyThread".to_string(),
        id => format!("{id:x}"),
    }
}

/// `Term:1 Vote:2 Commit:3`; no vote is not shown.
pub fn hard_state(state: &HardState) -> String {
    let vote = if state.vote == 0 { String::new() } else { format!(" Vote:{}", state.vote) };
    format!("Term:{}{vote} Commit:{}", state.term, state.commit)
}

/// `Voters:[1 2 3] VotersOutgoing:[] Learners:[] LearnersNext:[] AutoLeave:false`
pub fn conf_state(state: &ConfState) -> String {
    let list = |ids: &[u64]| ids.iter().map(u64::to_string).collect::<Vec<_>>().join(" ");
    format!(
        "Voters:[{}] VotersOutgoing:[{}] Learners:[{}] LearnersNext:[{}] AutoLeave:{}",
        list(&state.voters),
        list(&state.voters_outgoing),
        list(&state.learners),
        list(&state.learners_next),
        state.auto_leave
    )
}

/// `Index:4 Term:1 ConfState:Voters:[1 2] …`; the data is not shown.
pub fn snapshot(snapshot: &Snapshot) -> String {
    let metadata = &snapshot.metadata;
    format!("Index:{} Term:{} ConfState:{}", metadata.index, metadata.term, conf_state(&metadata.conf_state))
}

/// `1/11 EntryNormal "foo"` or `1/12 EntryConfChangeV2 v1 l2`.
pub fn entry(entry: &Entry) -> String {
    entry_with(entry, &quote)
}

/// Like [`entry`](fn@entry), with another way to print the payload of normal entries.
pub fn entry_with(entry: &Entry, payload: PayloadFormatter<'_>) -> String {
    let payload = match entry.kind() {
        Some(EntryType::EntryNormal) => payload(&entry.data),
        Some(EntryType::EntryConfChange | EntryType::EntryConfChangeV2) => match ConfChangeKind::decode(entry) {
            Ok(kind) => print_changes(&kind.into_v2().changes),
            Err(error) => error.to_string(),
        },
        None => String::new(),
    };
    let gap = if payload.is_empty() { "" } else { " " };
    format!("{}/{} {}{gap}{payload}", entry.term, entry.index, name::<EntryType>(entry.entry_type))
}

/// One entry per line, each with its newline.
pub fn entries(entries: &[Entry]) -> String {
    entries_with(entries, &quote)
}

/// Like [`entries`](fn@entries), with another way to print the payload of normal entries.
pub fn entries_with(entries: &[Entry], payload: PayloadFormatter<'_>) -> String {
    entries.iter().map(|entry| entry_with(entry, payload) + "\n").collect()
}

/// `2->1 MsgAppResp Term:1 Log:0/3 Rejected (Hint: 0)`; several entries, a snapshot and responses take lines of their
/// own. No newline at the end.
pub fn message(message: &Message) -> String {
    message_with(message, &quote)
}

/// Like [`message`](fn@message), with another way to print the payload of normal entries.
pub fn message_with(message: &Message, payload: PayloadFormatter<'_>) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write_message(&mut text, message, payload, "");
    text
}

fn write_message(text: &mut String, message: &Message, payload: PayloadFormatter<'_>, indent: &str) -> fmt::Result {
    let Message { term, log_term, index, .. } = message;
    let kind = name::<MessageType>(message.msg_type);
    let (from, to) = (target(message.from), target(message.to));
    write!(text, "{indent}{from}->{to} {kind} Term:{term} Log:{log_term}/{index}")?;
    if message.reject {
        write!(text, " Rejected (Hint: {})", message.reject_hint)?;
    }
    if message.commit != 0 {
        write!(text, " Commit:{}", message.commit)?;
    }
    if message.vote != 0 {
        write!(text, " Vote:{}", message.vote)?;
    }
    match message.entries.as_slice() {
        [] => {}
        [one] => write!(text, " Entries:[{}]", entry_with(one, payload))?,
        many => {
            text.push_str(" Entries:[");
            for one in many {
                write!(text, "\n{indent}  {}", entry_with(one, payload))?;
            }
            write!(text, "\n{indent}]")?;
        }
    }
    if let Some(taken) = message.snapshot.as_deref().filter(|taken| !taken.is_empty()) {
        write!(text, "\n{indent}  Snapshot: {}", snapshot(taken))?;
    }
    if !message.responses.is_empty() {
        text.push_str(" Responses:[");
        let deeper = format!("{indent}  ");
        for response in &message.responses {
            text.push('\n');
            write_message(text, response, payload, &deeper)?;
        }
        write!(text, "\n{indent}]")?;
    }
    Ok(())
}

/// `transition:ConfChangeTransitionAuto changes:{type:ConfChangeAddNode node_id:3} context:"x"`
pub fn conf_change(change: &ConfChangeV2) -> String {
    let mut text = format!("transition:{}", name::<ConfChangeTransition>(change.transition));
    for one in &change.changes {
        let kind = name::<ConfChangeType>(one.change_type);
        text.push_str(&format!(" changes:{{type:{kind} node_id:{}}}", one.node_id));
    }
    if !change.context.is_empty() {
        text.push_str(&format!(" context:{}", quote(&change.context)));
    }
    text
}

/// Bytes between double quotes, printable text kept, everything else escaped: what Go's `%q` prints.
///
/// Which characters are printable is Rust's opinion here; it differs from Go's where their Unicode versions do.
pub fn quote(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() + 2);
    text.push('"');
    for chunk in bytes.utf8_chunks() {
        chunk.valid().chars().for_each(|one| quote_char(&mut text, one));
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text.push('"');
    text
}

fn quote_char(text: &mut String, one: char) {
    match one {
        '"' => text.push_str("\\\""),
        '\\' => text.push_str("\\\\"),
        '\x07' => text.push_str("\\a"),
        '\x08' => text.push_str("\\b"),
        '\x0c' => text.push_str("\\f"),
        '\n' => text.push_str("\\n"),
        '\r' => text.push_str("\\r"),
        '\t' => text.push_str("\\t"),
        '\x0b' => text.push_str("\\v"),
        _ if is_printable(one) => text.push(one),
        _ if one < ' ' || one == '\x7f' => text.push_str(&format!("\\x{:02x}", u32::from(one))),
        _ if u32::from(one) < 0x1_0000 => text.push_str(&format!("\\u{:04x}", u32::from(one))),
        _ => text.push_str(&format!("\\U{:08x}", u32::from(one))),
    }
}

fn is_printable(one: char) -> bool {
    if one.is_ascii() {
        return (' '..='~').contains(&one);
    }
    // Behind another character, `escape_debug` leaves combining marks alone and escapes only what does not print.
    let behind_another = String::from_iter(['x', one]);
    let second = behind_another.escape_debug().nth(1);
    second == Some(one)
}

#[cfg(test)]
mod tests;
