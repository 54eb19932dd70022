//! How a membership change is written: in log entries, and for people.

use bytes::Bytes;
use prost::Message as _;

use super::ConfChangeError;
use crate::pb::{ConfChange, ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, Entry, EntryType};

impl ConfChange {
    /// A change of one node.
    pub fn new(change_type: ConfChangeType, node_id: u64) -> Self {
        ConfChange { change_type: change_type as i32, node_id, ..ConfChange::default() }
    }

    /// The same change in the newer form. The application's request id has no place there and is lost.
    pub fn into_v2(self) -> ConfChangeV2 {
        let change = ConfChangeSingle { change_type: self.change_type, node_id: self.node_id };
        ConfChangeV2 {
            transition: ConfChangeTransition::ConfChangeTransitionAuto as i32,
            changes: vec![change],
            context: self.context,
        }
    }
}

impl ConfChangeSingle {
    /// One step of a change.
    pub fn new(change_type: ConfChangeType, node_id: u64) -> Self {
        ConfChangeSingle { change_type: change_type as i32, node_id }
    }
}

impl ConfChangeV2 {
    /// A change of any number of nodes.
    pub fn new(transition: ConfChangeTransition, changes: impl Into<Vec<ConfChangeSingle>>) -> Self {
        ConfChangeV2 { transition: transition as i32, changes: changes.into(), context: Bytes::new() }
    }

    /// Whether to carry this out in a joint configuration, and if so, whether that is left automatically.
    pub fn enter_joint(&self) -> Result<Option<bool>, ConfChangeError> {
        match ConfChangeTransition::try_from(self.transition) {
            Ok(ConfChangeTransition::ConfChangeTransitionAuto) if self.changes.len() > 1 => Ok(Some(true)),
            Ok(ConfChangeTransition::ConfChangeTransitionAuto) => Ok(None),
            Ok(ConfChangeTransition::ConfChangeTransitionJointImplicit) => Ok(Some(true)),
            Ok(ConfChangeTransition::ConfChangeTransitionJointExplicit) => Ok(Some(false)),
            Err(_) => Err(ConfChangeError::UnknownTransition(self.transition)),
        }
    }

    /// Whether this asks to leave the joint configuration: it changes nothing, and asks for no transition. A context
    /// is allowed.
    pub fn leave_joint(&self) -> bool {
        self.transition == ConfChangeTransition::ConfChangeTransitionAuto as i32 && self.changes.is_empty()
    }
}

/// A change in either form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfChangeKind {
    /// One node; all versions of etcd understand it.
    V1(ConfChange),
    /// Any number of nodes.
    V2(ConfChangeV2),
}

impl ConfChangeKind {
    /// What goes into the log entry.
    pub fn encode(&self) -> (EntryType, Bytes) {
        match self {
            ConfChangeKind::V1(change) => (EntryType::EntryConfChange, change.encode_to_vec().into()),
            ConfChangeKind::V2(change) => (EntryType::EntryConfChangeV2, change.encode_to_vec().into()),
        }
    }

    /// Reads it back from a log entry.
    pub fn decode(entry: &Entry) -> Result<Self, ConfChangeError> {
        let undecodable = |error: prost::DecodeError| ConfChangeError::Undecodable(error.to_string());
        match entry.kind() {
            Some(EntryType::EntryConfChange) => {
                ConfChange::decode(entry.data.clone()).map(ConfChangeKind::V1).map_err(undecodable)
            }
            Some(EntryType::EntryConfChangeV2) => {
                ConfChangeV2::decode(entry.data.clone()).map(ConfChangeKind::V2).map_err(undecodable)
            }
            Some(EntryType::EntryNormal) | None => Err(ConfChangeError::NotAConfChange),
        }
    }

    /// The same change in the newer form.
    pub fn into_v2(self) -> ConfChangeV2 {
        match self {
            ConfChangeKind::V1(change) => change.into_v2(),
            ConfChangeKind::V2(change) => change,
        }
    }

    /// What the application attached.
    pub fn context(&self) -> &Bytes {
        match self {
            ConfChangeKind::V1(change) => &change.context,
            ConfChangeKind::V2(change) => &change.context,
        }
    }
}

impl From<ConfChange> for ConfChangeKind {
    fn from(change: ConfChange) -> Self {
        ConfChangeKind::V1(change)
    }
}

impl From<ConfChangeV2> for ConfChangeKind {
    fn from(change: ConfChangeV2) -> Self {
        ConfChangeKind::V2(change)
    }
}

impl From<ConfChange> for ConfChangeV2 {
    fn from(change: ConfChange) -> Self {
        change.into_v2()
    }
}

/// Reads changes in the short notation: `v1` makes 1 a voter, `l2` makes 2 a learner, `r3` removes 3, `u4` updates 4.
///
/// ```
/// use raft_core::confchange::{parse_changes, print_changes};
/// let changes = parse_changes("v1 l2 r3 u4")?;
/// assert_eq!(changes.len(), 4);
/// assert_eq!(print_changes(&changes), "v1 l2 r3 u4");
/// assert!(parse_changes("v1 x2").is_err());
/// # Ok::<(), raft_core::confchange::ConfChangeError>(())
/// ```
pub fn parse_changes(text: &str) -> Result<Vec<ConfChangeSingle>, ConfChangeError> {
    let parse = |word: &str| {
        let mut rest = word.chars();
        let change_type = match rest.next()? {
            'v' => ConfChangeType::ConfChangeAddNode,
            'l' => ConfChangeType::ConfChangeAddLearnerNode,
            'r' => ConfChangeType::ConfChangeRemoveNode,
            'u' => ConfChangeType::ConfChangeUpdateNode,
            _ => return None,
        };
        let id = rest.as_str().parse().ok()?;
        Some(ConfChangeSingle::new(change_type, id))
    };
    text.split_whitespace()
        .map(|word| parse(word).ok_or_else(|| ConfChangeError::BadNotation(word.to_string())))
        .collect()
}

/// Prints changes in the short notation; see [`parse_changes`].
pub fn print_changes(changes: &[ConfChangeSingle]) -> String {
    let print = |change: &ConfChangeSingle| {
        let letter = match ConfChangeType::try_from(change.change_type) {
            Ok(ConfChangeType::ConfChangeAddNode) => "v",
            Ok(ConfChangeType::ConfChangeAddLearnerNode) => "l",
            Ok(ConfChangeType::ConfChangeRemoveNode) => "r",
            Ok(ConfChangeType::ConfChangeUpdateNode) => "u",
            Err(_) => "unknown",
        };
        format!("{letter}{}", change.node_id)
    };
    changes.iter().map(print).collect::<Vec<_>>().join(" ")
}
