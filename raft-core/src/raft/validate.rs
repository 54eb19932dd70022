//! The boundary: what a message must look like before the protocol looks at it.
//!
//! etcd trusts its peers here and ends the process when they err. Checked is what a message says by itself; what can
//! only be judged beside the node's state (an acknowledgement beyond the log, say) is refused where that state is.
//!
//! Not checked: that the sender is who it claims to be. That is the transport's business.

use crate::confchange::ConfChangeKind;
use crate::config::is_local_thread;
use crate::error::Error;
use crate::pb::{ConfChangeType, Entry, EntryType, Message, MessageType};

/// No term or index of an honest cluster gets here; refusing larger ones makes every `+ 1` below safe.
pub(super) const MAX_NUMBER: u64 = u64::MAX / 2;

/// Refuses what no correct peer or caller sends; returns the type of what is left.
pub(super) fn validate(message: &Message) -> Result<MessageType, Error> {
    match find_fault(message) {
        Ok(kind) => Ok(kind),
        Err(what) => Err(Error::Malformed { from: message.from, what }),
    }
}

fn find_fault(message: &Message) -> Result<MessageType, &'static str> {
    let kind = message.kind().ok_or("its type is unknown")?;
    let largest_term = message.term.max(message.log_term).max(message.reject_hint);
    let largest_index = message.index.max(message.commit);
    if largest_term > MAX_NUMBER || largest_index >= MAX_NUMBER {
        return Err("a term or index is absurdly large");
    }
    let term_expected = match kind {
        MessageType::MsgProp | MessageType::MsgReadIndex => Some(false),
        MessageType::MsgTransferLeader | MessageType::MsgForgetLeader => None,
        _ if is_local(kind) => None,
        _ => Some(true),
    };
    match term_expected {
        Some(true) if message.term == 0 => return Err("it carries no term"),
        Some(false) if message.term != 0 => return Err("it carries a term, but its type has none"),
        _ => {}
    }
    match kind {
        MessageType::MsgApp => validate_append(message)?,
        MessageType::MsgProp if message.entries.is_empty() => return Err("a proposal without entries"),
        MessageType::MsgProp => message.entries.iter().try_for_each(validate_entry)?,
        MessageType::MsgReadIndex if message.entries.len() != 1 => {
            return Err("a read carries exactly one entry, its context");
        }
        MessageType::MsgSnap => match &message.snapshot {
            Some(snapshot) if !snapshot.is_empty() => {
                let metadata = &snapshot.metadata;
                if metadata.index >= MAX_NUMBER || metadata.term > message.term || metadata.term == 0 {
                    return Err("the snapshot's index or term is impossible");
                }
            }
            _ => return Err("it carries no snapshot"),
        },
        _ => {}
    }
    Ok(kind)
}

/// The entries of MsgApp follow on (`log_term`, `index`) without a gap, and their terms never fall.
fn validate_append(message: &Message) -> Result<(), &'static str> {
    if message.log_term > message.term {
        return Err("its previous entry is of a later term than the message");
    }
    let mut term = message.log_term;
    for (entry, index) in message.entries.iter().zip(message.index + 1..) {
        if entry.index != index {
            return Err("its entries are not consecutive");
        }
        if entry.term < term || entry.term == 0 {
            return Err("the terms of its entries are out of order");
        }
        term = entry.term;
        validate_entry(entry)?;
    }
    if term > message.term {
        return Err("its entries are of a later term than the message");
    }
    Ok(())
}

/// The type is known, and what calls itself a configuration change can be read as one.
#[inline]
fn validate_entry(entry: &Entry) -> Result<(), &'static str> {
    match entry.kind() {
        Some(EntryType::EntryNormal) => Ok(()),
        Some(EntryType::EntryConfChange | EntryType::EntryConfChangeV2) => validate_conf_change(entry),
        None => Err("an entry's type is unknown"),
    }
}

#[cold]
fn validate_conf_change(entry: &Entry) -> Result<(), &'static str> {
    let Ok(change) = ConfChangeKind::decode(entry).map(ConfChangeKind::into_v2) else {
        return Err("a configuration change in it cannot be decoded");
    };
    let known = change.changes.iter().all(|single| ConfChangeType::try_from(single.change_type).is_ok());
    if !known || change.enter_joint().is_err() {
        return Err("a configuration change in it is of an unknown kind");
    }
    if change.changes.iter().any(|single| is_local_thread(single.node_id)) {
        return Err("a configuration change in it names a local storage thread");
    }
    Ok(())
}

/// Types that a node only sends to itself or its storage threads (etcd `util.go`, IsLocalMsg).
#[inline]
pub fn is_local(kind: MessageType) -> bool {
    matches!(
        kind,
        MessageType::MsgHup
            | MessageType::MsgBeat
            | MessageType::MsgUnreachable
            | MessageType::MsgSnapStatus
            | MessageType::MsgCheckQuorum
            | MessageType::MsgStorageAppend
            | MessageType::MsgStorageAppendResp
            | MessageType::MsgStorageApply
            | MessageType::MsgStorageApplyResp
    )
}

/// Types that answer something (etcd `util.go`, IsResponseMsg).
#[inline]
pub fn is_response(kind: MessageType) -> bool {
    matches!(
        kind,
        MessageType::MsgAppResp
            | MessageType::MsgVoteResp
            | MessageType::MsgHeartbeatResp
            | MessageType::MsgUnreachable
            | MessageType::MsgReadIndexResp
            | MessageType::MsgPreVoteResp
            | MessageType::MsgStorageAppendResp
            | MessageType::MsgStorageApplyResp
    )
}
