//! What must hold in every state. Each function names its source.
//!
//! A step touches one node, so most are checked between that node and the rest; that they hold in every state follows,
//! because they held before.

use std::sync::Arc;

use raft_core::pb::{ConfState, Message, MessageType};
use raft_core::StateType;

use super::history::{chain, Committed, History};
use super::state::{digest_of, Event, LogView, Member, State};
use super::step::Effects;

type Verdict = Result<(), String>;

pub(super) fn check(
    state: &State,
    history: &mut Arc<History>,
    before: &Member,
    after: &Member,
    event: Event,
    effects: &Effects,
) -> Verdict {
    let restarted = matches!(event, Event::Crash(_) | Event::CrashHalfway(_));
    let id = after.raw.basic_status().id;
    monotonic(before, after, restarted)?;
    if matches!(event, Event::Sync(_) | Event::Answer(_) | Event::Apply(_)) {
        storage_replaces_nothing(before, after)?;
    }
    log_matching(state, after)?;
    let mut in_force = vec![(0, before.raw.status().config.conf_state())];
    in_force.extend(effects.configured.iter().cloned());
    committed_is_agreed_and_durable(state, history, after, &in_force)?;
    applied_is_agreed(history, after)?;
    one_vote_a_term(history, id, after)?;
    election_safety(history, id, after)?;
    if after.role() == StateType::Leader {
        if before.role() != StateType::Leader || before.term() != after.term() {
            leader_completeness(history, after)?;
            elected_by_a_quorum(history, id, before, after)?;
        } else {
            leader_append_only(before, after)?;
        }
        progress_is_true(state, after)?;
    }
    for message in &effects.sent {
        promises_are_durable(history, id, after, message)?;
    }
    one_change_at_a_time(history, after)?;
    in_force_is_applied(after)?;
    for (index, configuration) in &effects.configured {
        let digest = digest_of(configuration);
        if history.configurations.get(index) != Some(&digest) {
            Arc::make_mut(history).configurations.entry(*index).or_insert(digest);
        }
        if history.configurations.get(index) != Some(&digest) {
            return Err(format!("config safety: the change at index {index} leads to different configurations"));
        }
    }
    for (number, index) in &effects.answered {
        reads_are_fresh(history, *number, *index)?;
    }
    Ok(())
}

/// Raft paper, figure 2: a term never falls, and neither does what is known to be committed; a restart falls back to
/// what was durable, and not further.
fn monotonic(before: &Member, after: &Member, restarted: bool) -> Verdict {
    let (old, new) = (before.raw.basic_status().hard_state, after.raw.basic_status().hard_state);
    let floor = if restarted { before.durable_state } else { old };
    let vote_kept = new.term != floor.term || floor.vote == 0 || new.vote == floor.vote;
    if new.term < floor.term || new.commit < floor.commit || !vote_kept {
        return Err(format!("monotonic hard state: {floor:?} became {new:?}"));
    }
    if !restarted && after.applied < before.applied {
        return Err(format!("monotonic applied index: {} became {}", before.applied, after.applied));
    }
    if after.applied > new.commit {
        return Err(format!("applied {} is beyond committed {}", after.applied, new.commit));
    }
    Ok(())
}

/// What storage does and says makes entries durable; it takes none away and puts none in another's place (etcd
/// `rawnode.go`, newStorageAppendRespMsg: the ABA problem).
fn storage_replaces_nothing(before: &Member, after: &Member) -> Verdict {
    for index in before.log.base.0.max(after.log.base.0) + 1..=before.log.last() {
        if before.log.get(index) != after.log.get(index) {
            let id = after.raw.basic_status().id;
            return Err(format!(
                "storage replaces nothing: node {id}'s entry {index} changes by a word of its storage"
            ));
        }
    }
    Ok(())
}

/// Raft paper, figure 3, Log Matching: if two logs hold an entry of the same index and term, they agree up to there.
fn log_matching(state: &State, after: &Member) -> Verdict {
    let own = after.raw.basic_status().id;
    for (other, id) in state.members.iter().zip(1u64..).filter(|(_, id)| *id != own) {
        match_logs(&after.log, &other.log).map_err(|index| {
            format!("log matching: nodes {own} and {id} agree on a later entry and differ at index {index}")
        })?;
    }
    Ok(())
}

fn match_logs(one: &LogView, two: &LogView) -> Result<(), u64> {
    let first = one.base.0.max(two.base.0) + 1;
    let mut same_above = false;
    for index in (first..=one.last().min(two.last())).rev() {
        let (Some(left), Some(right)) = (one.get(index), two.get(index)) else { continue };
        same_above |= left.term == right.term;
        if same_above && left != right {
            return Err(index);
        }
    }
    Ok(())
}

/// Raft paper, figure 3, State Machine Safety (what one node holds for committed at an index, all do), and §5.3: committed
/// is what a majority of each half has on disk (etcd's TLA+ specification: CommittedIsDurableInv).
fn committed_is_agreed_and_durable(
    state: &State,
    history: &mut Arc<History>,
    after: &Member,
    in_force: &[(u64, ConfState)],
) -> Verdict {
    let hard_state = after.raw.basic_status().hard_state;
    for index in after.log.base.0 + 1..=hard_state.commit {
        let Some(mark) = after.log.get(index) else {
            return Err(format!("commit {} is beyond the log's end {}", hard_state.commit, after.log.last()));
        };
        match history.committed_at(index) {
            Some(agreed) if agreed.mark != *mark => {
                let id = after.raw.basic_status().id;
                return Err(format!("state machine safety: node {id} holds another entry for committed at {index}"));
            }
            Some(_) => {}
            None => {
                let before = history.chain_at(index - 1).ok_or("an index was committed before the one below it")?;
                let committed = Committed { mark: *mark, known_in: hard_state.term, chain: chain(before, mark) };
                Arc::make_mut(history).committed.push(committed);
                durable_on_a_quorum(state, after, index, in_force)?;
            }
        }
    }
    let base = after.log.base;
    let agreed = history.committed_at(base.0).map_or(0, |committed| committed.mark.term);
    if base.0 > 0 && agreed != base.1 {
        return Err(format!("state machine safety: the log begins behind {base:?}, committed there is term {agreed}"));
    }
    Ok(())
}

/// The node may have gone through several configurations in the step that committed the entry; one of them must have
/// allowed it. A change that stands at `index` or behind it was applied later than `index` was committed.
fn durable_on_a_quorum(state: &State, after: &Member, index: u64, in_force: &[(u64, ConfState)]) -> Verdict {
    let term = after.log.term(index);
    let holds = |id: &&u64| {
        let holder = state.members.get(**id as usize - 1);
        holder.is_some_and(|holder| holder.durable.term(index) == term || holder.durable.base.0 >= index)
    };
    let agrees = |voters: &[u64]| voters.is_empty() || voters.iter().filter(holds).count() > voters.len() / 2;
    let in_time = in_force.iter().filter(|(change, _)| *change < index);
    if in_time.clone().any(|(_, config)| agrees(&config.voters) && agrees(&config.voters_outgoing)) {
        return Ok(());
    }
    let id = after.raw.basic_status().id;
    Err(format!(
        "node {id} holds index {index} for committed, and no majority has it on disk: {:?}",
        in_time.collect::<Vec<_>>()
    ))
}

/// Raft paper, figure 3, State Machine Safety, for what applications made of it.
fn applied_is_agreed(history: &History, after: &Member) -> Verdict {
    if history.chain_at(after.applied) != Some(after.chain) {
        let id = after.raw.basic_status().id;
        return Err(format!("node {id} applied something else than was committed up to index {}", after.applied));
    }
    Ok(())
}

/// Raft paper, figure 3, Election Safety: at most one leader a term.
fn election_safety(history: &mut Arc<History>, id: u64, after: &Member) -> Verdict {
    if after.role() != StateType::Leader {
        return Ok(());
    }
    if !history.leaders.contains_key(&after.term()) {
        Arc::make_mut(history).leaders.insert(after.term(), id);
    }
    let leader = history.leaders.get(&after.term()).copied().unwrap_or(id);
    if leader != id {
        return Err(format!("election safety: nodes {leader} and {id} both lead in term {}", after.term()));
    }
    Ok(())
}

/// Raft paper, figure 3, Leader Completeness: what was committed in a term is in the logs of all later leaders.
fn leader_completeness(history: &History, after: &Member) -> Verdict {
    for (committed, index) in history.committed.iter().zip(1u64..) {
        if committed.known_in >= after.term() || index <= after.log.base.0 {
            continue;
        }
        if after.log.get(index) != Some(&committed.mark) {
            return Err(format!(
                "leader completeness: the leader of term {} lacks index {index}, committed in term {}",
                after.term(),
                committed.known_in
            ));
        }
    }
    Ok(())
}

/// Raft paper §5.2: who leads has the votes of a majority of each half, and they are durable.
fn elected_by_a_quorum(history: &History, id: u64, before: &Member, after: &Member) -> Verdict {
    let config = before.raw.status().config;
    for half in [&config.voters.incoming, &config.voters.outgoing] {
        let votes = half.iter().filter(|voter| history.votes.get(&(*voter, after.term())) == Some(&id)).count();
        if !half.is_empty() && votes <= half.len() / 2 {
            return Err(format!("node {id} leads in term {} without a majority's durable votes", after.term()));
        }
    }
    Ok(())
}

/// Raft paper, figure 3, Leader Append-Only.
fn leader_append_only(before: &Member, after: &Member) -> Verdict {
    for index in before.log.base.0.max(after.log.base.0) + 1..=before.log.last() {
        if before.log.get(index) != after.log.get(index) {
            return Err(format!("leader append-only: a leader's own entry {index} has changed"));
        }
    }
    Ok(())
}

/// Raft paper, figure 2, matchIndex: "known to be replicated". A member that has moved on to a later term may have been
/// told to give the entries up again.
fn progress_is_true(state: &State, after: &Member) -> Verdict {
    for (id, progress) in &after.raw.status().progress {
        let Some(peer) = state.members.get(*id as usize - 1) else { continue };
        let index = progress.match_index;
        if index >= progress.next_index {
            return Err(format!("progress of {id}: match {index} is not below next {}", progress.next_index));
        }
        let moved_on = peer.durable_state.term > after.term();
        let holds = peer.durable.base.0 >= index || peer.durable.term(index) == after.log.term(index);
        if !moved_on && !holds && index >= after.log.base.0 {
            return Err(format!("progress of {id}: it is said to match up to {index}, and does not on its disk"));
        }
    }
    Ok(())
}

/// Raft paper §5.2: one vote a term, and (§5.1) it survives a crash.
fn one_vote_a_term(history: &mut Arc<History>, id: u64, after: &Member) -> Verdict {
    let hard_state = after.durable_state;
    if hard_state.vote != 0 {
        note_vote(history, id, hard_state.term, hard_state.vote)?;
    }
    Ok(())
}

fn note_vote(history: &mut Arc<History>, voter: u64, term: u64, candidate: u64) -> Verdict {
    if !history.votes.contains_key(&(voter, term)) {
        Arc::make_mut(history).votes.insert((voter, term), candidate);
    }
    let first = history.votes.get(&(voter, term)).copied().unwrap_or(candidate);
    if first != candidate {
        return Err(format!("one vote a term: node {voter} votes for {first} and {candidate} in term {term}"));
    }
    Ok(())
}

/// Raft paper, figure 2: "updated on stable storage before responding". A later term on disk makes an old promise void:
/// its receiver has moved on too, or will never gather a quorum.
fn promises_are_durable(history: &mut Arc<History>, id: u64, after: &Member, message: &Message) -> Verdict {
    let durable = after.durable_state;
    match message.kind() {
        Some(MessageType::MsgVoteResp) if !message.reject => {
            note_vote(history, id, message.term, message.to)?;
            let kept = durable.term > message.term || (durable.term == message.term && durable.vote == message.to);
            if !kept {
                return Err(format!("node {id} promises its vote before it is durable"));
            }
        }
        Some(MessageType::MsgAppResp) if !message.reject => {
            let kept = durable.term > message.term || after.durable.last() >= message.index;
            if !kept {
                return Err(format!("node {id} acknowledges index {} before it is durable", message.index));
            }
        }
        _ => {}
    }
    Ok(())
}

/// Raft thesis §4.1, as etcd has it (`raft.go`, pendingConfIndex): no log holds two uncommitted configuration changes.
fn one_change_at_a_time(history: &History, after: &Member) -> Verdict {
    let first = (history.committed.len() as u64).max(after.log.base.0) + 1;
    let changes =
        (first..=after.log.last()).filter(|index| after.log.get(*index).is_some_and(|mark| mark.is_conf_change));
    if changes.count() > 1 {
        let id = after.raw.basic_status().id;
        return Err(format!("one change at a time: node {id}'s log holds two uncommitted configuration changes"));
    }
    Ok(())
}

/// A change comes into force when it is applied, and not sooner (etcd `raft.go`, applyConfChange, and its README on
/// membership changes): the quorums that the others of these functions count are those of the node's own configuration. That
/// of a snapshot is in force while the snapshot is on its way to the disk.
fn in_force_is_applied(after: &Member) -> Verdict {
    let has_snapshot = after.ready.as_ref().is_some_and(|ready| ready.snapshot().is_some())
        || after.appends.iter().any(|work| work.snapshot.is_some());
    let in_force = after.raw.status().config.conf_state();
    if !has_snapshot && in_force != after.conf_state {
        let id = after.raw.basic_status().id;
        return Err(format!(
            "config safety: node {id} has applied up to {:?} and works under {in_force:?}",
            after.conf_state
        ));
    }
    Ok(())
}

/// Raft thesis §6.4: a read sees everything that was committed when it was asked for.
fn reads_are_fresh(history: &History, number: u64, index: u64) -> Verdict {
    match history.reads.get(&number) {
        Some(floor) if index < *floor => {
            Err(format!("stale read: {floor} was committed when it was asked for, and it is served at {index}"))
        }
        Some(_) => Ok(()),
        None => Err(format!("an answer to a read that nobody asked for: {number}")),
    }
}
