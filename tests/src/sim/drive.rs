//! The ready loop of a simulated node: the model of a correct user of `raft-core`, in both storage modes.
//!
//! Synchronous: as `raftexample` does it. Messages that may leave at once leave; snapshot, hard state and entries are
//! written and synced; then promises leave, committed entries are applied, and the `Ready` is given back. On a slow disk
//! the loop stands still in between, and input gathers.
//!
//! Asynchronous: storage work goes into two queues, one for the log and one for the store, each carried out in order and
//! each at its own pace. A snapshot from the leader makes everything void that waits to be applied below it.

use raft_core::pb::{ConfChangeV2, Entry, HardState, Message, MessageType, Snapshot};
use raft_core::{is_local_thread, ConfChangeKind, Error, Ready, SoftState, StateType, Storage, LOCAL_APPEND_THREAD};

use super::invariants::{
    acknowledged, committed_durable, config_safety, elected, ensure, leader_append_only,
    lease::{Lease, Stance},
    monotonic::Seen,
    progress_bounds,
    quota::Quota,
    read_index, store_equality, Violation,
};
use super::journal::DiskFailed;
use super::node::Process;
use super::plan::Fault;
use super::shadow::{Mark, Shadow};
use super::world::{Event, World};
use crate::sometimes;

/// Why a node's work is over for now.
#[derive(Debug)]
pub(super) enum Stop {
    /// Its disk failed.
    Disk(DiskFailed),
    /// A promise is broken.
    Broken(Violation),
}

impl From<DiskFailed> for Stop {
    fn from(failure: DiskFailed) -> Stop {
        Stop::Disk(failure)
    }
}

impl From<Violation> for Stop {
    fn from(violation: Violation) -> Stop {
        Stop::Broken(violation)
    }
}

/// A violation for what must not fail among correct nodes.
pub(super) fn broken(what: impl std::fmt::Display) -> Stop {
    Stop::Broken(Violation { invariant: "no fault of its own", what: what.to_string() })
}

impl World {
    /// Does what the node asks for until it asks for nothing, or waits for its disk.
    pub(super) fn drive(&mut self, at: usize, process: &mut Process) -> Result<(), Stop> {
        if self.plan.config.async_storage_writes {
            self.drive_async(at, process)?;
        } else {
            self.drive_sync(at, process)?;
        }
        self.serve_reads(process)?;
        self.snapshot_if_due(at, process, false)?;
        self.check_node(at, process)?;
        Ok(())
    }

    fn drive_sync(&mut self, at: usize, process: &mut Process) -> Result<(), Stop> {
        while process.writing.is_none() && process.raw.has_ready() {
            let mut ready = process.raw.ready().map_err(broken)?;
            self.see_ready(at, process, &ready)?;
            self.send_all(at, process, ready.take_messages())?;
            let delay = if ready.must_sync() || ready.snapshot().is_some() { self.disk_delay_ms() } else { 0 };
            if delay == 0 {
                self.finish_ready(at, process, ready, false)?;
                continue;
            }
            sometimes!(self.marks, SyncSlow);
            if ready.snapshot().is_none() {
                // On its way to the disk: a crash may find any part of it.
                let recovery = &mut self.machines[at].recovery;
                process.journal.append(recovery, ready.hard_state(), ready.entries())?;
            }
            process.writing = Some(ready);
            let boot = self.machines[at].boot;
            self.schedule(delay, Event::Written { at, boot });
        }
        Ok(())
    }

    /// The write that was under way is done, but for the sync.
    pub(super) fn written(&mut self, at: usize, process: &mut Process) -> Result<(), Stop> {
        if let Some(ready) = process.writing.take() {
            let begun = ready.snapshot().is_none();
            self.finish_ready(at, process, ready, begun)?;
        }
        self.drive(at, process)
    }

    fn finish_ready(&mut self, at: usize, process: &mut Process, ready: Ready, begun: bool) -> Result<(), Stop> {
        if let Some(snapshot) = ready.snapshot() {
            self.install(at, process, snapshot)?;
        }
        self.persist(at, process, ready.hard_state(), ready.entries(), begun)?;
        let mut ready = ready;
        self.take_reads(at, process, &mut ready)?;
        let mut persisted = ready.persisted();
        self.send_all(at, process, persisted.take_messages())?;
        sometimes!(self.marks, CommitPaged, {
            let last = persisted.committed_entries().last().map_or(u64::MAX, |entry| entry.index);
            last < process.raw.basic_status().hard_state.commit
        });
        let committed = persisted.take_committed_entries();
        self.apply(at, process, &committed)?;
        process.raw.advance(persisted).map_err(broken)?;
        self.count_applied(process, &committed);
        Ok(())
    }

    fn drive_async(&mut self, at: usize, process: &mut Process) -> Result<(), Stop> {
        loop {
            while process.raw.has_ready() {
                let mut ready = process.raw.ready().map_err(broken)?;
                self.see_ready(at, process, &ready)?;
                let messages: Vec<_> = ready.take_messages().collect();
                if let Some(snapshot) = ready.snapshot() {
                    process.snapshot_under_way = snapshot.metadata.index;
                }
                self.take_reads(at, process, &mut ready)?;
                for message in messages {
                    match message.to {
                        LOCAL_APPEND_THREAD => process.appends.push_back(message),
                        to if is_local_thread(to) => process.applies.push_back(message),
                        _ => self.send(at, process, message)?,
                    }
                }
            }
            let mut idle = true;
            if !process.appending && !process.appends.is_empty() {
                idle &= self.begin_append(at, process)?;
            }
            if !process.applying && !process.applies.is_empty() {
                idle &= self.begin_apply(at, process)?;
            }
            if idle && !process.raw.has_ready() {
                return Ok(());
            }
        }
    }

    /// Begins the oldest piece of work for the log. `true` if it takes time.
    fn begin_append(&mut self, at: usize, process: &mut Process) -> Result<bool, Stop> {
        let delay = self.disk_delay_ms();
        if let Some(job) = process.appends.front().filter(|job| job.snapshot.is_none()) {
            let recovery = &mut self.machines[at].recovery;
            process.journal.append(recovery, hard_state_of(job), &job.entries)?;
        }
        process.appending = true;
        if delay == 0 {
            self.finish_append(at, process)?;
            return Ok(false);
        }
        let boot = self.machines[at].boot;
        self.schedule(delay, Event::Appended { at, boot });
        Ok(true)
    }

    /// The log's oldest piece of work is done, but for the sync.
    pub(super) fn appended(&mut self, at: usize, process: &mut Process) -> Result<(), Stop> {
        self.finish_append(at, process)?;
        self.drive(at, process)
    }

    fn finish_append(&mut self, at: usize, process: &mut Process) -> Result<(), Stop> {
        process.appending = false;
        let Some(mut job) = process.appends.pop_front() else { return Ok(()) };
        let hard_state = hard_state_of(&job);
        let snapshot = job.take_snapshot();
        if bug!(AppendThreadAnswersFirst) {
            self.respond(at, process, std::mem::take(&mut job.responses))?;
        }
        if let Some(snapshot) = &snapshot {
            self.install(at, process, snapshot)?;
        }
        self.persist(at, process, hard_state, &job.entries, snapshot.is_none())?;
        self.respond(at, process, job.responses)
    }

    fn begin_apply(&mut self, at: usize, process: &mut Process) -> Result<bool, Stop> {
        process.applying = true;
        let delay = self.disk_delay_ms();
        if delay == 0 {
            self.finish_apply(at, process)?;
            return Ok(false);
        }
        let boot = self.machines[at].boot;
        self.schedule(delay, Event::Applied { at, boot });
        Ok(true)
    }

    /// The store's oldest piece of work is done.
    pub(super) fn applied(&mut self, at: usize, process: &mut Process) -> Result<(), Stop> {
        self.finish_apply(at, process)?;
        self.drive(at, process)
    }

    fn finish_apply(&mut self, at: usize, process: &mut Process) -> Result<(), Stop> {
        process.applying = false;
        let Some(job) = process.applies.pop_front() else { return Ok(()) };
        sometimes!(self.marks, ApplyBeforeSync, process.appending);
        self.apply(at, process, &job.entries)?;
        self.count_applied(process, &job.entries);
        self.respond(at, process, job.responses)
    }

    fn respond(&mut self, at: usize, process: &mut Process, responses: Vec<Message>) -> Result<(), Stop> {
        for message in responses {
            if message.to == self.machines[at].id {
                sometimes!(self.marks, StaleStorageReport, {
                    message.kind() == Some(MessageType::MsgStorageAppendResp) && message.term < process.stance.term
                });
                match process.raw.step(message) {
                    Err(error) if error.is_fatal() => return Err(broken(error)),
                    Err(error @ Error::Malformed { .. }) => return Err(broken(error)),
                    _ => {}
                }
            } else {
                self.send(at, process, message)?;
            }
        }
        Ok(())
    }

    /// Makes entries and hard state durable, then lets the readable copy of the log follow. `begun`: they are written
    /// already, but for the sync.
    fn persist(
        &mut self,
        at: usize,
        process: &mut Process,
        hard_state: Option<HardState>,
        entries: &[Entry],
        begun: bool,
    ) -> Result<(), Stop> {
        let recovery = &mut self.machines[at].recovery;
        if !begun {
            process.journal.append(recovery, hard_state, entries)?;
        }
        let last = recovery.durable().log.last();
        sometimes!(self.marks, DurableEntriesReplaced, entries.first().is_some_and(|entry| entry.index <= last));
        process.journal.sync(recovery)?;
        let storage = process.raw.storage_mut();
        storage.append(entries).map_err(broken)?;
        if let Some(hard_state) = hard_state {
            storage.set_hard_state(hard_state);
        }
        let segments = process.journal.segments();
        sometimes!(self.marks, SegmentRotated, segments > process.segments);
        sometimes!(self.marks, HousekeeperBehind, self.machines[at].disk.most_waiting() > 1);
        process.segments = segments;
        Ok(())
    }

    /// Takes over a leader's snapshot in place of log and store.
    fn install(&mut self, at: usize, process: &mut Process, snapshot: &Snapshot) -> Result<(), Stop> {
        let metadata = &snapshot.metadata;
        let store = kvstore::Store::restore(&snapshot.data).map_err(broken)?;
        ensure("recovery", metadata.index > process.applied.0, || {
            format!("a snapshot of {} is to be taken over after {:?}", metadata.index, process.applied)
        })?;
        process.journal.save_snapshot(&mut self.machines[at].recovery, snapshot)?;
        process.journal.purge()?;
        process.raw.storage_mut().apply_snapshot(snapshot.clone()).map_err(broken)?;
        let id = self.machines[at].id;
        self.invariants.store_equality.applied(id, metadata.index, store_equality::digest(&store))?;
        self.invariants.config_safety.applied(id, self.newest_change(metadata.index), &metadata.conf_state)?;
        process.store = store;
        process.conf_state = metadata.conf_state.clone();
        process.applied = (metadata.index, metadata.term);
        process.snapshot_index = metadata.index;
        if process.snapshot_under_way <= metadata.index {
            process.snapshot_under_way = 0;
        }
        // Whether what was proposed is in it, nobody can tell.
        process.writes.clear();
        self.stats.snapshots += 1;
        sometimes!(self.marks, SnapshotInstalled);
        Ok(())
    }

    /// The index of the last change at or before this one.
    pub(super) fn newest_change(&self, index: u64) -> u64 {
        self.changes_applied.range(..=index).next_back().map_or(0, |(index, _)| *index)
    }

    /// Takes a snapshot if one is due, or `now`.
    pub(super) fn snapshot_if_due(&mut self, at: usize, process: &mut Process, now: bool) -> Result<(), Stop> {
        let index = process.applied.0;
        if index <= process.snapshot_index || process.writing.is_some() || process.snapshot_under_way != 0 {
            return Ok(());
        }
        let due = now || index >= process.snapshot_index + self.plan.snapshot_every;
        let bears_outdated = self.faults_are_on && self.plan.keeps_outdated;
        let outdated = !due && !bears_outdated && process.snapshot_index > 0 && {
            let storage = process.raw.storage();
            storage.first_index().is_ok_and(|first| first > 1)
                && storage.initial_state().is_ok_and(|(_, state)| state != process.conf_state)
        };
        if !due && !outdated {
            return Ok(());
        }
        let data = process.store.snapshot();
        let conf_state = process.conf_state.clone();
        let snapshot = process.raw.storage_mut().create_snapshot(index, Some(conf_state), data).map_err(broken)?;
        process.journal.save_snapshot(&mut self.machines[at].recovery, &snapshot)?;
        process.snapshot_index = index;
        let keep = if now { 0 } else { self.plan.tail_entries };
        let storage = process.raw.storage_mut();
        let compact_to = index.saturating_sub(keep);
        if storage.first_index().is_ok_and(|first| first <= compact_to) {
            storage.compact(compact_to).map_err(broken)?;
        }
        let removed = process.journal.purge()?;
        sometimes!(self.marks, SegmentPurged, removed > 0);
        process.segments = process.journal.segments();
        self.stats.snapshots += 1;
        sometimes!(self.marks, SnapshotTaken);
        Ok(())
    }

    /// Applies committed entries, in order, and answers those who waited for them.
    fn apply(&mut self, at: usize, process: &mut Process, entries: &[Entry]) -> Result<(), Stop> {
        for entry in entries {
            if entry.index <= process.applied.0.max(process.snapshot_under_way) {
                // A snapshot has overtaken it; that happens only where the store has a thread of its own.
                if self.plan.config.async_storage_writes {
                    continue;
                }
            }
            let id = self.machines[at].id;
            let mark = Mark::of(entry);
            self.invariants.state_machine_safety.applied(id, process.applied.0, entry.index, mark)?;
            process.applied = (entry.index, entry.term);
            if entry.is_conf_change() {
                process.store.skip(entry.index);
                self.apply_change(at, process, entry)?;
            } else if entry.data.is_empty() {
                process.store.skip(entry.index);
            } else {
                self.apply_command(at, process, entry)?;
            }
            let digest = store_equality::digest(&process.store);
            self.invariants.store_equality.applied(id, entry.index, digest)?;
            sometimes!(self.marks, NewcomerCaughtUp, id > self.plan.founders);
        }
        Ok(())
    }

    fn apply_change(&mut self, at: usize, process: &mut Process, entry: &Entry) -> Result<(), Stop> {
        let id = self.machines[at].id;
        let change = ConfChangeKind::decode(entry).map_err(broken)?;
        let leaves = ConfChangeV2::leave_joint(&change.clone().into_v2());
        let before = process.conf_state.clone();
        // What was committed under the old configuration is judged by it, and who was elected.
        self.see_commit(process)?;
        self.see_elected(at, process)?;
        match process.raw.apply_conf_change(change) {
            Ok(conf_state) => process.conf_state = conf_state,
            Err(error) if error.is_fatal() => return Err(broken(error)),
            // It cannot follow on the present configuration, here as everywhere.
            Err(_) => sometimes!(self.marks, ConfNotApplied),
        }
        let now = process.conf_state.clone();
        let first = self.changes_applied.insert(entry.index, ()).is_none();
        self.invariants.config_safety.applied(id, entry.index, &now)?;
        process.lease.begins();
        if first && entry.index > self.plan.founders {
            self.stats.conf_changes += 1;
            let (was, is) = (!before.voters_outgoing.is_empty(), !now.voters_outgoing.is_empty());
            sometimes!(self.marks, ConfSimple, !was && !is && before.voters.len() != now.voters.len());
            sometimes!(self.marks, ConfJointEntered, !was && is);
            sometimes!(self.marks, ConfJointLeft, was && !is);
            sometimes!(self.marks, ConfAutoLeft, was && !is && leaves && before.auto_leave);
            sometimes!(self.marks, LearnerPromoted, before.learners.iter().any(|id| now.voters.contains(id)));
            sometimes!(self.marks, VoterDemoted, now.learners.iter().any(|id| before.voters.contains(id)));
            let gone = !now.voters.contains(&id) && before.voters.contains(&id);
            sometimes!(self.marks, LeaderRemoved, gone && process.leads());
        }
        Ok(())
    }

    /// The quota counts what the node has acknowledged to have applied.
    fn count_applied(&mut self, process: &mut Process, entries: &[Entry]) {
        for entry in entries {
            process.quota.applies(entry.data.len() as u64, entry.term == process.stance.term && process.leads());
        }
    }

    /// Looks at a Ready before anything of it is carried out.
    fn see_ready(&mut self, at: usize, process: &mut Process, ready: &Ready) -> Result<(), Stop> {
        log::debug!(target: "sim", "{} gets {ready}", self.machines[at].id);
        let led = process.leads().then_some(process.stance.term);
        let status = process.raw.basic_status();
        let leads_on = led == Some(status.hard_state.term) && status.soft_state.state == StateType::Leader;
        if let Some(snapshot) = ready.snapshot() {
            let metadata = &snapshot.metadata;
            sometimes!(self.marks, SnapshotReset, process.log.last() > process.log.base().0);
            process.log.reset(metadata.index, metadata.term);
            process.changes.clear();
        }
        if let Some(first) = ready.entries().first() {
            leader_append_only::check(leads_on, process.log.last(), first.index)?;
            sometimes!(self.marks, EntriesReplaced, first.index <= process.log.last());
            process.changes.retain(|index| *index < first.index);
        }
        for entry in ready.entries() {
            let mark = Mark::of(entry);
            let Some(previous) = process.log.term(entry.index - 1) else {
                return Err(broken(format!("entry {} follows on nothing", entry.index)));
            };
            self.invariants.log_matching.entry(entry.index, mark, previous)?;
            process.log.put(entry.index, mark);
            if entry.is_conf_change() {
                process.changes.push(entry.index);
                if leads_on {
                    // The way out of a joint configuration is proposed while the way in counts as applied.
                    let applied = status.applied.max(process.applied.0);
                    config_safety::check_pending(status.id, entry.index, applied, process.changes.iter().copied())?;
                }
            }
        }
        if let Some(soft_state) = ready.soft_state() {
            self.see_role(at, process, soft_state)?;
        }
        self.see_commit(process)?;
        let stance = process.stance_now();
        if stance.term != process.stance.term || stance.role != process.stance.role {
            self.see_turn(process, stance);
        }
        process.stance = stance;
        Ok(())
    }

    fn see_role(&mut self, at: usize, process: &mut Process, now: SoftState) -> Result<(), Stop> {
        let id = self.machines[at].id;
        let term = process.raw.basic_status().hard_state.term;
        if now.state == StateType::Leader && (process.stance.role != StateType::Leader || process.stance.term != term) {
            self.see_elected(at, process)?;
            self.invariants.election_safety.leads(term, id)?;
            self.invariants.leader_completeness.leads(term, &process.log)?;
            process.quota = Quota::default();
            process.lease.begins();
            let status = process.raw.status();
            sometimes!(self.marks, ElectionWon);
            sometimes!(self.marks, LeaderOfJoint, status.config.is_joint());
            sometimes!(self.marks, SingleVoterLeads, status.config.voters.ids().len() == 1);
            sometimes!(self.marks, TransferDone, self.transfers.get(&id).is_some_and(|until| self.now < *until));
        }
        Ok(())
    }

    /// Looks at the votes of a leader that has just been elected, before its configuration changes.
    fn see_elected(&mut self, at: usize, process: &mut Process) -> Result<(), Stop> {
        let status = process.raw.status();
        let (id, term) = (status.basic.id, status.basic.hard_state.term);
        if status.basic.soft_state.state == StateType::Leader && process.elected_in != term {
            process.elected_in = term;
            let own = self.machines[at].recovery.durable().hard_state;
            let granted = |voter: u64| self.invariants.vote_once.has(voter, id, term);
            elected::check(id, term, &status.config, (own.term, own.vote), granted)?;
        }
        Ok(())
    }

    /// Looks at what the node has begun of itself, if it was this before.
    pub(super) fn see_campaign(&self, process: &Process, before: Stance) -> Result<(), Stop> {
        let now = process.stance_now();
        if before.role != StateType::Leader && (now.role, now.term) != (before.role, before.term) {
            let id = process.raw.basic_status().id;
            process.lease.check_campaign(id, self.plan.config.election_tick)?;
        }
        Ok(())
    }

    /// Marks what a change of role or term means.
    fn see_turn(&mut self, process: &Process, now: Stance) {
        let (was, same_term) = (process.stance, process.stance.term == now.term);
        match (was.role, now.role) {
            (StateType::Candidate, StateType::Follower) => {
                sometimes!(self.marks, ElectionLost, same_term && now.lead == 0);
                sometimes!(self.marks, ElectionOvertaken, !same_term || now.lead != 0);
            }
            (StateType::Candidate, StateType::Candidate | StateType::PreCandidate) => {
                sometimes!(self.marks, ElectionTimedOut);
            }
            (StateType::PreCandidate, StateType::Candidate | StateType::Leader) => sometimes!(self.marks, PreVoteWon),
            (StateType::PreCandidate, StateType::Follower) => sometimes!(self.marks, PreVoteLost),
            (StateType::Leader, StateType::Follower) => {
                sometimes!(self.marks, LeaderSteppedDown, same_term);
                sometimes!(self.marks, LeaderDeposed, !same_term);
            }
            _ => {}
        }
    }

    /// What must hold whenever the node has nothing left to do.
    fn check_node(&mut self, at: usize, process: &mut Process) -> Result<(), Stop> {
        let status = process.raw.basic_status();
        let id = status.id;
        let HardState { term, vote, commit } = status.hard_state;
        if process.writing.is_none() {
            process.stance = process.stance_now();
        }
        let seen = Seen { term, vote, commit, applied: status.applied };
        self.machines[at].monotonic.runs(id, seen, process.log.last())?;
        self.see_commit(process)?;
        // It differs, if it does, while a change in the log is not applied, or in the middle of a joint change. A snapshot's is
        // in force while the snapshot is on its way to the disk, and founders know each other from the start.
        let changes = process.changes.last().is_some_and(|index| *index > process.applied.0)
            || !process.conf_state.voters_outgoing.is_empty();
        let has_snapshot =
            process.snapshot_under_way != 0 || process.writing.as_ref().is_some_and(|ready| ready.snapshot().is_some());
        if changes && !has_snapshot && process.applied.0 > 0 {
            let in_force = process.raw.status().config.conf_state();
            config_safety::check_in_force(id, &in_force, &process.conf_state)?;
        }
        if status.soft_state.state != StateType::Leader {
            process.transferee = 0;
            return Ok(());
        }
        if process.transferee != 0 && status.lead_transferee == 0 {
            sometimes!(self.marks, TransferGivenUp);
        }
        process.transferee = status.lead_transferee;
        self.check_leader(process)
    }

    /// Looks at what the node takes for committed since the last time.
    fn see_commit(&mut self, process: &mut Process) -> Result<(), Stop> {
        let status = process.raw.basic_status();
        let HardState { term, commit, .. } = status.hard_state;
        let known = std::mem::replace(&mut process.commit_seen, commit);
        for index in known + 1..=commit {
            let mark = process.log.get(index);
            if mark.is_none() && index <= process.log.base().0 {
                // Within a snapshot.
                continue;
            }
            if self.invariants.state_machine_safety.committed(status.id, index, mark)? {
                sometimes!(self.marks, OldTermCommitted, mark.is_some_and(|mark| mark.term < term));
            }
            if let Some(mark) = mark {
                self.invariants.leader_completeness.committed(index, mark, term);
            }
        }
        if commit > known && status.soft_state.state == StateType::Leader {
            self.check_durable(process, commit)?;
        }
        Ok(())
    }

    /// A leader takes everything up to `commit` for committed.
    fn check_durable(&self, process: &Process, commit: u64) -> Result<(), Stop> {
        let term = process.log.term(commit).unwrap_or(0);
        let durable = |id: u64| self.term_on_disk(id, commit);
        committed_durable::check(&process.raw.status().config, commit, term, durable)?;
        Ok(())
    }

    /// The term of the entry at this place in a log; what lies within a snapshot was committed.
    fn term_in(&self, log: &Shadow, index: u64) -> Option<u64> {
        match index < log.base().0 {
            true => self.invariants.state_machine_safety.get(index).map(|mark| mark.term),
            false => log.term(index),
        }
    }

    /// The term of the entry that a node's disk has there for good.
    fn term_on_disk(&self, id: u64, index: u64) -> Option<u64> {
        let machine = self.machines.get(usize::try_from(id.checked_sub(1)?).ok()?)?;
        self.term_in(&machine.recovery.durable().log, index)
    }

    /// What a leader believes.
    fn check_leader(&mut self, process: &Process) -> Result<(), Stop> {
        let status = process.raw.status();
        let id = status.basic.id;
        let limits = progress_bounds::Limits {
            last: process.log.last(),
            max_inflight_msgs: self.plan.config.max_inflight_msgs,
            max_inflight_bytes: self.plan.config.max_inflight_bytes,
            message_bytes: self.plan.config.max_size_per_msg.max(self.plan.value_bytes + 64),
        };
        for (member, progress) in &status.progress {
            progress_bounds::check(id, *member, progress, status.config.learners.contains(*member), limits)?;
            if *member != id {
                let index = progress.match_index;
                let (own, durable) = (self.term_in(&process.log, index), self.term_on_disk(*member, index));
                let disk_term = self
                    .machines
                    .get(*member as usize - 1)
                    .map_or(0, |machine| machine.recovery.durable().hard_state.term);
                let leader = (id, status.basic.hard_state.term);
                acknowledged::check_match(leader, (*member, disk_term), index, own, durable)?;
                sometimes!(self.marks, ProgressProbe, progress.state == raft_core::tracker::ProgressState::Probe);
                sometimes!(self.marks, ProgressSnapshot, progress.pending_snapshot != 0);
                sometimes!(self.marks, WindowFull, progress.inflights.is_full());
            }
        }
        if self.plan.config.check_quorum {
            process.lease.check_leader(id, &status.config, self.plan.config.election_tick)?;
        }
        Ok(())
    }

    /// Reads that may be served, and reads that will not be.
    fn take_reads(&mut self, at: usize, process: &mut Process, ready: &mut Ready) -> Result<(), Stop> {
        for context in ready.dropped_reads() {
            if let Some(read) = number(context) {
                process.reads.remove(&read);
                sometimes!(self.marks, ReadDropped);
            }
        }
        let (id, heard) = (self.machines[at].id, process.heard);
        for state in ready.take_read_states() {
            let Some(read) = number(&state.request_ctx).and_then(|read| process.reads.get_mut(&read)) else { continue };
            if read.index.is_some() {
                continue;
            }
            read_index::check(id, state.index, read.committed)?;
            if read.heard == heard {
                Lease::check_read(id, process.stance.term, self.invariants.election_safety.newest())?;
            }
            read.index = Some(state.index);
            process.waiting += 1;
            sometimes!(self.marks, ReadWaited, state.index > process.applied.0);
        }
        Ok(())
    }

    /// How long the disk takes this time.
    fn disk_delay_ms(&mut self) -> u64 {
        if self.faults_are_on && self.plan.has(Fault::SlowDisk) {
            let rate = self.plan.every(Fault::SlowDisk);
            return match self.disk_random.below(8) {
                0..=3 => 0,
                7 => self.disk_random.below(rate * 200),
                _ => self.disk_random.below(rate * 20),
            };
        }
        if self.plan.config.async_storage_writes {
            // The storage threads are never quite in step.
            return self.disk_random.below(6).saturating_sub(3);
        }
        0
    }
}

/// What a piece of work for the log says about the hard state.
fn hard_state_of(job: &Message) -> Option<HardState> {
    let state = HardState { term: job.term, vote: job.vote, commit: job.commit };
    Some(state).filter(|state| !state.is_empty())
}

/// A read's number, from its context.
pub(super) fn number(context: &[u8]) -> Option<u64> {
    <[u8; 8]>::try_from(context).ok().map(u64::from_le_bytes)
}
