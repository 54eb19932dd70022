//! Messages of either library in one form to compare them in, and ours in the other's encoding.

use protobuf::Message as _;
use raft::eraftpb as theirs;
use raft_core::pb::{self, MessageType};
use raft_core::ConfChangeKind;

/// A configuration, ids ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Members {
    pub(crate) voters: Vec<u64>,
    pub(crate) outgoing: Vec<u64>,
    learners: Vec<u64>,
    learners_next: Vec<u64>,
    pub(crate) auto_leave: bool,
}

fn ascending(ids: &[u64]) -> Vec<u64> {
    let mut ids = ids.to_vec();
    ids.sort_unstable();
    ids
}

impl Members {
    pub(crate) fn of_ours(state: &pb::ConfState) -> Self {
        Members {
            voters: ascending(&state.voters),
            outgoing: ascending(&state.voters_outgoing),
            learners: ascending(&state.learners),
            learners_next: ascending(&state.learners_next),
            auto_leave: state.auto_leave,
        }
    }

    pub(crate) fn of_theirs(state: &theirs::ConfState) -> Self {
        Members {
            voters: ascending(&state.voters),
            outgoing: ascending(&state.voters_outgoing),
            learners: ascending(&state.learners),
            learners_next: ascending(&state.learners_next),
            auto_leave: state.auto_leave,
        }
    }

    /// Whether this node votes.
    pub(crate) fn votes(&self, id: u64) -> bool {
        self.voters.contains(&id) || self.outgoing.contains(&id)
    }
}

/// A message of either library, field by field.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Said {
    pub(crate) kind: i32,
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) term: u64,
    pub(crate) log_term: u64,
    pub(crate) index: u64,
    /// Index, term, type, payload (not of configuration changes, which are encoded differently).
    pub(crate) entries: Vec<(u64, u64, i32, Vec<u8>)>,
    pub(crate) commit: u64,
    pub(crate) reject: bool,
    pub(crate) reject_hint: u64,
    /// Vote requests: the campaign type. Heartbeats: whether reads are asked about.
    pub(crate) context: Vec<u8>,
    /// Index, term, configuration and data of a snapshot.
    pub(crate) snapshot: Option<(u64, u64, Members, Vec<u8>)>,
}

fn is_heartbeat(kind: i32) -> bool {
    kind == MessageType::MsgHeartbeat as i32 || kind == MessageType::MsgHeartbeatResp as i32
}

pub(crate) fn said_here(message: &pb::Message) -> Said {
    let entries = message.entries.iter();
    let data = |entry: &pb::Entry| if entry.is_conf_change() { Vec::new() } else { entry.data.to_vec() };
    Said {
        kind: message.msg_type,
        from: message.from,
        to: message.to,
        term: message.term,
        log_term: message.log_term,
        index: message.index,
        entries: entries.map(|entry| (entry.index, entry.term, entry.entry_type, data(entry))).collect(),
        commit: message.commit,
        reject: message.reject,
        reject_hint: message.reject_hint,
        context: if is_heartbeat(message.msg_type) { Vec::new() } else { message.context.to_vec() },
        snapshot: message.snapshot.as_ref().map(|snapshot| {
            let metadata = &snapshot.metadata;
            (metadata.index, metadata.term, Members::of_ours(&metadata.conf_state), snapshot.data.to_vec())
        }),
    }
}

pub(crate) fn said_there(message: &theirs::Message) -> Said {
    let kind = message.get_msg_type() as i32;
    let entries = message.get_entries().iter().map(|entry| {
        let kind = entry.get_entry_type() as i32;
        let data = if kind == 0 { entry.data.to_vec() } else { Vec::new() };
        (entry.index, entry.term, kind, data)
    });
    Said {
        kind,
        from: message.from,
        to: message.to,
        term: message.term,
        log_term: message.log_term,
        index: message.index,
        entries: entries.collect(),
        commit: message.commit,
        reject: message.reject,
        reject_hint: message.reject_hint,
        context: if is_heartbeat(kind) { Vec::new() } else { message.context.to_vec() },
        snapshot: message.has_snapshot().then(|| {
            let (snapshot, metadata) = (message.get_snapshot(), message.get_snapshot().get_metadata());
            (metadata.index, metadata.term, Members::of_theirs(metadata.get_conf_state()), snapshot.data.to_vec())
        }),
    }
}

pub(crate) fn change_there(entry: &pb::Entry) -> theirs::ConfChangeV2 {
    let change = ConfChangeKind::decode(entry).expect("a change of ours").into_v2();
    let mut double = theirs::ConfChangeV2::default();
    double.set_transition(match change.transition {
        0 => theirs::ConfChangeTransition::Auto,
        1 => theirs::ConfChangeTransition::Implicit,
        _ => theirs::ConfChangeTransition::Explicit,
    });
    for single in &change.changes {
        let mut one = theirs::ConfChangeSingle { node_id: single.node_id, ..Default::default() };
        one.set_change_type(match single.change_type {
            0 => theirs::ConfChangeType::AddNode,
            1 => theirs::ConfChangeType::RemoveNode,
            _ => theirs::ConfChangeType::AddLearnerNode,
        });
        double.mut_changes().push(one);
    }
    double
}

fn entry_there(entry: &pb::Entry) -> theirs::Entry {
    let mut double = theirs::Entry { index: entry.index, term: entry.term, ..Default::default() };
    if entry.is_conf_change() {
        double.set_entry_type(theirs::EntryType::EntryConfChangeV2);
        if !entry.data.is_empty() {
            double.data = change_there(entry).write_to_bytes().expect("encode").into();
        }
    } else {
        double.data = entry.data.clone();
    }
    double
}

/// Our message in their encoding, with the context that their own had: what identifies reads is each library's own.
pub(crate) fn message_there(message: &pb::Message, context: &[u8]) -> theirs::Message {
    use theirs::MessageType as There;
    let mut double = theirs::Message {
        from: message.from,
        to: message.to,
        term: message.term,
        log_term: message.log_term,
        index: message.index,
        commit: message.commit,
        reject: message.reject,
        reject_hint: message.reject_hint,
        context: context.to_vec().into(),
        ..Default::default()
    };
    let kinds = [
        There::MsgHup,
        There::MsgBeat,
        There::MsgPropose,
        There::MsgAppend,
        There::MsgAppendResponse,
        There::MsgRequestVote,
        There::MsgRequestVoteResponse,
        There::MsgSnapshot,
        There::MsgHeartbeat,
        There::MsgHeartbeatResponse,
        There::MsgUnreachable,
        There::MsgSnapStatus,
        There::MsgCheckQuorum,
        There::MsgTransferLeader,
        There::MsgTimeoutNow,
        There::MsgReadIndex,
        There::MsgReadIndexResp,
        There::MsgRequestPreVote,
        There::MsgRequestPreVoteResponse,
    ];
    double.set_msg_type(kinds[message.msg_type as usize]);
    let is_vote_answer =
        [MessageType::MsgVoteResp, MessageType::MsgPreVoteResp].contains(&message.kind().expect("known"));
    if is_vote_answer && message.commit != 0 {
        (double.commit_term, double.log_term) = (message.log_term, 0);
    }
    if let Some(snapshot) = &message.snapshot {
        double.set_snapshot(snapshot_there(snapshot));
    }
    double.set_entries(message.entries.iter().map(entry_there).collect::<Vec<_>>().into());
    double
}

fn snapshot_there(snapshot: &pb::Snapshot) -> theirs::Snapshot {
    let (metadata, state) = (&snapshot.metadata, &snapshot.metadata.conf_state);
    let mut double = theirs::Snapshot { data: snapshot.data.clone(), ..Default::default() };
    (double.mut_metadata().index, double.mut_metadata().term) = (metadata.index, metadata.term);
    let members = double.mut_metadata().mut_conf_state();
    members.voters = state.voters.clone();
    members.voters_outgoing = state.voters_outgoing.clone();
    members.learners = state.learners.clone();
    members.learners_next = state.learners_next.clone();
    members.auto_leave = state.auto_leave;
    double
}
