//! The messages of Raft, as etcd's `raftpb` package lays them out on the wire.
//!
//! Field numbers and types are etcd's (`raftpb/raft.proto`, the same from 3.4 to 3.7); `proto/raft.proto` beside this
//! crate's `src` states them in protobuf's own language and a test proves that both agree.
//!
//! **Encoding.** The schema is proto2, where every scalar knows "absent" from "zero". etcd up to 3.6 always writes its
//! scalars, even zeros; 3.7 writes those that were set. Readers of all versions treat absent as zero, and so does this
//! module: fields are plain values, what was always written up to 3.6 is written here too (`required` in the derive),
//! the rest is left out when empty. Decoding accepts every style: nothing is required, unknown fields are skipped,
//! lists of ids may be packed or not.
//!
//! **An enum from the wire is a number.** A message of a type this version does not know must not turn into another
//! one, so enum fields are `i32` and [`Message::kind`] and its like answer `None` for what they do not know.
//!
//! The derived code reads and writes everything; [`Message::to_bytes`] and [`Message::from_bytes`] do the same faster
//! for the messages that fly all the time.
//!
//! What is left out: the 3.7 pointer style (`Some(0)` is not told apart from `None`), and raft-rs' incompatible fields.

use bytes::Bytes;

pub use crate::entries::Entries;

/// What a log entry carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum EntryType {
    /// Application data, or nothing (the entry a new leader appends, or a refused configuration change).
    EntryNormal = 0,
    /// An encoded [`ConfChange`].
    EntryConfChange = 1,
    /// An encoded [`ConfChangeV2`]; no data at all means "leave the joint configuration".
    EntryConfChangeV2 = 2,
}

/// The kind of a [`Message`]. The comments say which way it goes; "local" ones never cross the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum MessageType {
    /// Local: start a campaign.
    MsgHup = 0,
    /// Local: the leader's heartbeat timer fired.
    MsgBeat = 1,
    /// Application or follower → leader: append `entries`. Carries no term.
    MsgProp = 2,
    /// Leader → peer: `entries` that follow the entry (`log_term`, `index`), and the leader's `commit`.
    MsgApp = 3,
    /// Peer → leader: log matches up to `index`; or `reject` of the probe at `index`, with `reject_hint` and `log_term`.
    MsgAppResp = 4,
    /// Candidate → voter: my last entry is (`log_term`, `index`).
    MsgVote = 5,
    /// Voter → candidate: granted, or `reject`.
    MsgVoteResp = 6,
    /// Leader → peer: a `snapshot` in place of entries that are compacted away.
    MsgSnap = 7,
    /// Leader → peer: I lead; `commit` is bounded by what the peer is known to have; `context` counts reads.
    MsgHeartbeat = 8,
    /// Peer → leader: `context` echoed.
    MsgHeartbeatResp = 9,
    /// Local: the transport could not reach `from`.
    MsgUnreachable = 10,
    /// Local: the snapshot sent to `from` was delivered, or failed (`reject`).
    MsgSnapStatus = 11,
    /// Local: the leader checks whether a quorum was active lately.
    MsgCheckQuorum = 12,
    /// Application or follower → leader: hand leadership to `from`.
    MsgTransferLeader = 13,
    /// Leader → transferee: campaign now.
    MsgTimeoutNow = 14,
    /// Application or follower → leader: a linearizable read; `entries[0].data` is the caller's context.
    MsgReadIndex = 15,
    /// Leader → follower: the read may be served once `index` is applied.
    MsgReadIndexResp = 16,
    /// Pre-candidate → voter: would you vote for me at `term`?
    MsgPreVote = 17,
    /// Voter → pre-candidate.
    MsgPreVoteResp = 18,
    /// Local: for the append thread (asynchronous storage writes).
    MsgStorageAppend = 19,
    /// Local: from the append thread.
    MsgStorageAppendResp = 20,
    /// Local: for the apply thread.
    MsgStorageApply = 21,
    /// Local: from the apply thread.
    MsgStorageApplyResp = 22,
    /// Application → follower: forget who leads, so that a vote may be granted at once.
    MsgForgetLeader = 23,
}

/// How a [`ConfChangeV2`] is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum ConfChangeTransition {
    /// Simple if one voter changes at most, else joint with an automatic way out.
    ConfChangeTransitionAuto = 0,
    /// Joint, left automatically.
    ConfChangeTransitionJointImplicit = 1,
    /// Joint, left by an empty change that the application proposes.
    ConfChangeTransitionJointExplicit = 2,
}

/// What a configuration change does with one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum ConfChangeType {
    /// Make it a voter.
    ConfChangeAddNode = 0,
    /// Remove it, voter or learner.
    ConfChangeRemoveNode = 1,
    /// Leave the configuration as it is; the application may use the context.
    ConfChangeUpdateNode = 2,
    /// Make it a learner, demoting it if it was a voter.
    ConfChangeAddLearnerNode = 3,
}

/// One entry of the log.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Entry {
    /// An [`EntryType`]; see [`Entry::kind`].
    #[prost(enumeration = "EntryType", required, tag = "1")]
    pub entry_type: i32,
    /// The term of the leader that made it. 0 only in a proposal.
    #[prost(uint64, required, tag = "2")]
    pub term: u64,
    /// Its place in the log, from 1. 0 only in a proposal.
    #[prost(uint64, required, tag = "3")]
    pub index: u64,
    /// The payload; the core never looks into it except in configuration changes.
    #[prost(bytes = "bytes", tag = "4")]
    pub data: Bytes,
}

/// What a snapshot stands for: the log up to `index`, whose last entry had `term`.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct SnapshotMetadata {
    /// The configuration as of `index`.
    #[prost(message, required, tag = "1")]
    pub conf_state: ConfState,
    /// The last index that the snapshot includes; 0 means "no snapshot".
    #[prost(uint64, required, tag = "2")]
    pub index: u64,
    /// The term of the entry at `index`.
    #[prost(uint64, required, tag = "3")]
    pub term: u64,
}

/// The application's state at an index, in place of the log up to there.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Snapshot {
    /// The application's bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub data: Bytes,
    /// What they stand for.
    #[prost(message, required, tag = "2")]
    pub metadata: SnapshotMetadata,
}

/// Everything that nodes say to each other, and to themselves. One flat struct for all types, as on the wire.
#[derive(Clone, PartialEq, Hash, prost::Message)]
pub struct Message {
    /// A [`MessageType`]; see [`Message::kind`].
    #[prost(enumeration = "MessageType", required, tag = "1")]
    pub msg_type: i32,
    /// Receiver.
    #[prost(uint64, required, tag = "2")]
    pub to: u64,
    /// Sender.
    #[prost(uint64, required, tag = "3")]
    pub from: u64,
    /// The sender's term; 0 in local messages and in proposals.
    #[prost(uint64, required, tag = "4")]
    pub term: u64,
    /// The term of the entry at `index`.
    #[prost(uint64, required, tag = "5")]
    pub log_term: u64,
    /// A log position; which one depends on the type.
    #[prost(uint64, required, tag = "6")]
    pub index: u64,
    /// Entries to append, propose, apply, or the context of a read. Shared with whoever else holds them.
    #[prost(message, repeated, tag = "7")]
    pub entries: Entries,
    /// The sender's commit index.
    #[prost(uint64, required, tag = "8")]
    pub commit: u64,
    /// The snapshot of MsgSnap and of the storage messages. etcd up to 3.5 sends an empty one in every message: read
    /// an index of 0 as none ([`Message::take_snapshot`]).
    #[prost(message, optional, boxed, tag = "9")]
    pub snapshot: Option<Box<Snapshot>>,
    /// The request was refused.
    #[prost(bool, required, tag = "10")]
    pub reject: bool,
    /// With `reject`: the last index worth probing.
    #[prost(uint64, required, tag = "11")]
    pub reject_hint: u64,
    /// Opaque: campaign type of a vote, read counter of a heartbeat.
    #[prost(bytes = "bytes", tag = "12")]
    pub context: Bytes,
    /// MsgStorageAppend: the vote to persist.
    #[prost(uint64, tag = "13")]
    pub vote: u64,
    /// Storage messages: to be sent once the work is done.
    #[prost(message, repeated, tag = "14")]
    pub responses: Vec<Message>,
}

/// What must be durable before a promise leaves the node (Raft paper, figure 2; commit is kept for a faster restart).
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct HardState {
    /// Latest term seen.
    #[prost(uint64, required, tag = "1")]
    pub term: u64,
    /// Who got this node's vote in `term`; 0 if nobody.
    #[prost(uint64, required, tag = "2")]
    pub vote: u64,
    /// Highest index known to be committed.
    #[prost(uint64, required, tag = "3")]
    pub commit: u64,
}

/// A configuration as it is stored and sent: who votes, who learns.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct ConfState {
    /// The voters (of the incoming half, while joint).
    #[prost(uint64, repeated, packed = "false", tag = "1")]
    pub voters: Vec<u64>,
    /// Non-voting members.
    #[prost(uint64, repeated, packed = "false", tag = "2")]
    pub learners: Vec<u64>,
    /// The voters of the outgoing half; empty unless joint.
    #[prost(uint64, repeated, packed = "false", tag = "3")]
    pub voters_outgoing: Vec<u64>,
    /// Outgoing voters that become learners when the joint configuration is left.
    #[prost(uint64, repeated, packed = "false", tag = "4")]
    pub learners_next: Vec<u64>,
    /// The joint configuration is left as soon as it is applied.
    #[prost(bool, required, tag = "5")]
    pub auto_leave: bool,
}

/// A change of one node, in the form that all versions of etcd understand.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct ConfChange {
    /// The application's own id of the request.
    #[prost(uint64, required, tag = "1")]
    pub id: u64,
    /// A [`ConfChangeType`].
    #[prost(enumeration = "ConfChangeType", required, tag = "2")]
    pub change_type: i32,
    /// The node.
    #[prost(uint64, required, tag = "3")]
    pub node_id: u64,
    /// Opaque to Raft: raftexample puts the peer's URL here.
    #[prost(bytes = "bytes", tag = "4")]
    pub context: Bytes,
}

/// One step of a [`ConfChangeV2`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct ConfChangeSingle {
    /// A [`ConfChangeType`].
    #[prost(enumeration = "ConfChangeType", required, tag = "1")]
    pub change_type: i32,
    /// The node.
    #[prost(uint64, required, tag = "2")]
    pub node_id: u64,
}

/// Any number of changes, carried out together.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct ConfChangeV2 {
    /// A [`ConfChangeTransition`].
    #[prost(enumeration = "ConfChangeTransition", required, tag = "1")]
    pub transition: i32,
    /// The steps, in order.
    #[prost(message, repeated, tag = "2")]
    pub changes: Vec<ConfChangeSingle>,
    /// Opaque to Raft.
    #[prost(bytes = "bytes", tag = "3")]
    pub context: Bytes,
}

impl Entry {
    /// The type, or `None` if the number is not one that this version knows.
    #[inline]
    pub fn kind(&self) -> Option<EntryType> {
        // Asked of every entry several times, and this is nearly all of them.
        if self.entry_type == EntryType::EntryNormal as i32 {
            return Some(EntryType::EntryNormal);
        }
        EntryType::try_from(self.entry_type).ok()
    }

    /// A proposal of application data; term and index are the leader's to fill in.
    pub fn normal(data: impl Into<Bytes>) -> Self {
        Entry { data: data.into(), ..Entry::default() }
    }

    /// Whether this is an [`EntryType::EntryConfChange`] or [`EntryType::EntryConfChangeV2`].
    #[inline]
    pub fn is_conf_change(&self) -> bool {
        self.entry_type == EntryType::EntryConfChange as i32 || self.entry_type == EntryType::EntryConfChangeV2 as i32
    }
}

impl Message {
    /// A message of the given type, everything else empty.
    #[inline]
    pub fn of(kind: MessageType) -> Self {
        Message {
            msg_type: kind as i32,
            to: 0,
            from: 0,
            term: 0,
            log_term: 0,
            index: 0,
            entries: Entries::new(),
            commit: 0,
            snapshot: None,
            reject: false,
            reject_hint: 0,
            context: Bytes::new(),
            vote: 0,
            responses: Vec::new(),
        }
    }

    /// The type, or `None` if the number is not one that this version knows.
    #[inline]
    pub fn kind(&self) -> Option<MessageType> {
        MessageType::try_from(self.msg_type).ok()
    }

    /// Takes the snapshot out; an empty one (index 0) counts as none.
    pub fn take_snapshot(&mut self) -> Option<Box<Snapshot>> {
        self.snapshot.take().filter(|snapshot| !snapshot.is_empty())
    }
}

impl Snapshot {
    /// Whether it stands for nothing (index 0).
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.metadata.index == 0
    }
}

impl HardState {
    /// Whether nothing was ever recorded.
    #[inline]
    pub fn is_empty(&self) -> bool {
        matches!(self, HardState { term: 0, vote: 0, commit: 0 })
    }
}
