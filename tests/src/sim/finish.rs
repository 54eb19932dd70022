//! The end of a history: the faults stop, and within a bounded time the cluster serves again.
//!
//! Everybody starts, links heal, disks are fast. From then on the cluster must, within [`LIMIT_TICKS`] (more where a
//! long log can only travel entry by entry): elect a leader,
//! commit a new write on every member, serve a read, and hold the same state on every member as of the same index.
//!
//! An operator helps where Raft leaves something to one: a joint configuration whose way out is explicit is left, and
//! nodes that are no members any more are stopped, since without pre-vote and quorum checks they may disturb the others
//! for ever (thesis §4.2.3). In clusters with neither, nothing is demanded: as in etcd, a leader of a lower term is then
//! not told so, and a node that is needed for a quorum may ignore it for ever.

use std::collections::BTreeSet;

use raft_core::pb::ConfChangeV2;

use super::invariants::{ensure, Violation};
use super::plan::TICK_MS;
use super::world::{Event, World};
use crate::fault_disk::Pace;
use crate::sometimes;

/// How long recovery may take.
pub const LIMIT_TICKS: u64 = 1_000;

/// One way through the network, at most (`network.rs`: a message is never later, unless a fault delays it).
const WAY_MS: u64 = 4;

/// What a disk without faults takes at most (`drive.rs`: asynchronous storage lags behind a little).
const DISK_MS: u64 = 2;

/// What an entry has besides the value that a client chose: key, request number, encoding.
const ENVELOPE_BYTES: u64 = 64;

impl World {
    /// Stops the faults and waits for the cluster to serve.
    pub(super) fn finish(&mut self) -> Result<(), Violation> {
        self.heal()?;
        let begun = self.now;
        let demanded = self.plan.config.check_quorum || self.plan.config.pre_vote;
        let limit = if demanded { LIMIT_TICKS + self.backlog_ticks() } else { LIMIT_TICKS / 10 };
        let (mut written, mut read): (Option<u64>, Option<u64>) = (None, None);
        for round in 0..limit {
            self.run_until(self.now + TICK_MS)?;
            if round % 25 == 24 {
                self.operate(round)?;
            }
            let Some(at) = self.leader() else { continue };
            if round % 5 == 0 {
                let before = self.invariants.state_machine_safety.last();
                self.with(at, |world, process| {
                    if !process.is_busy() {
                        if world.write(at, process)?.is_some() {
                            written = written.or(Some(before + 1));
                        }
                        read = world.read(process)?.or(read);
                        world.drive(at, process)?;
                    }
                    Ok(())
                })?;
            }
            if written.is_some_and(|index| self.all_members_have(at, index)) && !self.served.is_empty() {
                let ticks = (self.now - begun) / TICK_MS;
                let timeout = self.plan.config.election_tick as u64;
                sometimes!(self.marks, Recovered);
                sometimes!(self.marks, RecoveredAtOnce, ticks <= 2 * timeout);
                sometimes!(self.marks, RecoveredSlowly, ticks > 10 * timeout);
                return Ok(());
            }
        }
        ensure("liveness", !demanded, || format!("{limit} ticks after the last fault:\n{}", self.describe()))
    }

    /// How long the longest log takes until it is everywhere, window by window, with the settings of this history. Tiny
    /// messages in tiny windows make a log of thousands last minutes; where they are of the usual sizes, this is next to
    /// nothing, and the limit is what it was.
    ///
    /// That is no favour to a mistake: a cluster that stands still does so for any time, and one that goes on does it
    /// within what its settings cost. Every figure is a bound from the settings and from the simulated network, and what
    /// else recovery may need (elections, probes, a snapshot) must still fit into [`LIMIT_TICKS`].
    fn backlog_ticks(&self) -> u64 {
        let ends = self.machines.iter().map(|machine| {
            let durable = machine.recovery.durable().log.last();
            machine.process.as_ref().map_or(durable, |process| process.log.last().max(durable))
        });
        let entries = ends.clone().max().unwrap_or(0) - ends.min().unwrap_or(0);
        entries / self.window_entries() * 2 * (WAY_MS + self.plan.gather_ms + DISK_MS) / TICK_MS
    }

    /// How many entries go to a follower at once, at least: as many messages as its window takes, each as full as it may
    /// be, or with one entry in it.
    fn window_entries(&self) -> u64 {
        let config = &self.plan.config;
        let entry_bytes = self.plan.value_bytes + ENVELOPE_BYTES;
        let entries = (config.max_size_per_msg / entry_bytes).max(1);
        let messages = match config.max_inflight_bytes {
            0 => config.max_inflight_msgs as u64,
            bytes => (bytes / config.max_size_per_msg.max(entry_bytes)).clamp(1, config.max_inflight_msgs as u64),
        };
        entries * messages
    }

    fn heal(&mut self) -> Result<(), Violation> {
        self.faults_are_on = false;
        self.links.heal();
        self.served.clear();
        for at in 0..self.machines.len() {
            let machine = &mut self.machines[at];
            machine.disk.cut_off(u64::MAX);
            machine.disk.disarm();
            machine.disk.set_pace(Pace::AtOnce);
            machine.armed = false;
            machine.paused_until = 0;
            machine.woken = machine.process.is_some();
            if machine.process.is_none() {
                // Sooner than it was going to.
                machine.boot += 1;
                let boot = machine.boot;
                self.schedule(1, Event::Start { at, boot });
            } else {
                let boot = machine.boot;
                self.schedule(1, Event::Wake { at, boot });
            }
        }
        Ok(())
    }

    /// What an operator does.
    fn operate(&mut self, round: u64) -> Result<(), Violation> {
        let Some(at) = self.leader() else { return Ok(()) };
        self.propose_change(at, ConfChangeV2::default().into())?;
        // While a change may be under way, nobody knows who is a member.
        let settled = self.machines[at].process.as_ref().is_some_and(|leader| leader.applied.0 == leader.log.last());
        if round < 100 || !settled {
            return Ok(());
        }
        let members = self.members();
        for at in 0..self.machines.len() {
            let machine = &mut self.machines[at];
            if !members.contains(&machine.id) && machine.process.is_some() {
                machine.process = None;
                machine.boot += 1;
                machine.inbox.clear();
            }
        }
        Ok(())
    }

    /// The members as of the newest change that was applied.
    fn members(&self) -> BTreeSet<u64> {
        match self.invariants.config_safety.newest() {
            None => (1..=self.plan.founders).collect(),
            Some(state) => {
                [&state.voters, &state.voters_outgoing, &state.learners].into_iter().flatten().copied().collect()
            }
        }
    }

    /// Whether every member has applied as much as this leader, which is `index` at least, and holds the same.
    fn all_members_have(&self, at: usize, index: u64) -> bool {
        let Some(leader) = &self.machines[at].process else { return false };
        let same = |id: &u64| {
            let process = id.checked_sub(1).and_then(|at| self.machines.get(at as usize)?.process.as_ref());
            process.is_some_and(|process| process.applied == leader.applied && process.store == leader.store)
        };
        leader.applied.0 >= index && leader.conf_state.voters_outgoing.is_empty() && self.members().iter().all(same)
    }

    /// The cluster in words.
    pub(super) fn describe(&self) -> String {
        let mut text = String::new();
        for machine in &self.machines {
            match &machine.process {
                None => text += &format!("  {}: down\n", machine.id),
                Some(process) => {
                    let status = process.raw.status();
                    text += &format!(
                        "  {}: {} {:?} applied {:?} log to {} {} busy {}\n",
                        machine.id,
                        status.basic.soft_state,
                        status.basic.hard_state,
                        process.applied,
                        process.log.last(),
                        status.config,
                        process.is_busy()
                    );
                    for (id, progress) in &status.progress {
                        text += &format!("       {id}: {progress}\n");
                    }
                }
            }
        }
        text
    }
}
