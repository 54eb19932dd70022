//! The simulated world: a clock, a queue of what is to happen, machines and links. One step takes the next thing out of
//! the queue and does all that follows from it at once.
//!
//! Nothing here knows of real time, threads or randomness of its own: the plan's streams decide everything, so a history
//! is a function of its [`Plan`]. A digest of every event is folded into the trace; equal plans have equal traces.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap, HashSet, VecDeque};

use raft_core::pb::{HardState, Message};
use raft_core::{Config, Peer, RawNode, StateType, Storage};

use super::drive::{broken, Stop};
use super::invariants::config_safety::ConfigSafety;
use super::invariants::lease::{Lease, Stance};
use super::invariants::monotonic::{Monotonic, Seen};
use super::invariants::quota::Quota;
use super::invariants::recovery::Recovery;
use super::invariants::{store_equality, Invariants, Violation};
use super::journal::{Journal, Opened};
use super::marks::Marks;
use super::network::Links;
use super::node::{Machine, Process};
use super::plan::{Fault, Plan, Stream, FAULTS, TICK_MS};
use super::shadow::fold;
use super::Stats;
use crate::fault_disk::{FaultDisk, Pace};
use crate::random::Random;
use crate::sometimes;

/// What can happen.
#[derive(Debug)]
pub(super) enum Event {
    /// A node's clock ticks.
    Tick { at: usize },
    /// A message arrives.
    Deliver { via: usize, to: usize, message: Box<Message> },
    /// A node looks into its inbox.
    Wake { at: usize, boot: u64 },
    /// A write is done.
    Written { at: usize, boot: u64 },
    /// A piece of work for the log is done.
    Appended { at: usize, boot: u64 },
    /// A piece of work for the store is done.
    Applied { at: usize, boot: u64 },
    /// A machine starts its process.
    Start { at: usize, boot: u64 },
    /// Clients want something.
    Client,
    /// A fault is due.
    Fault(Fault),
    /// The transport tells how a snapshot fared.
    SnapshotReport { at: usize, boot: u64, to: u64, arrived: bool },
    /// The transport could not reach a node.
    Unreachable { at: usize, boot: u64, to: u64 },
}

struct Scheduled {
    at_ms: u64,
    number: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Scheduled {}
impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Scheduled {
    /// The earliest is the greatest: that is what a heap gives out first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at_ms, other.number).cmp(&(self.at_ms, self.number))
    }
}

/// See the module.
pub(super) struct World {
    pub(super) plan: Plan,
    /// Milliseconds since the beginning.
    pub(super) now: u64,
    queue: BinaryHeap<Scheduled>,
    scheduled: u64,
    pub(super) machines: Vec<Machine>,
    pub(super) links: Links,
    pub(super) invariants: Invariants,
    pub(super) marks: Marks,
    pub(super) stats: Stats,
    pub(super) trace: u64,
    /// Situations that the cluster has been in.
    pub(super) situations: HashSet<u64>,
    /// Where configuration changes stand that somebody has applied.
    pub(super) changes_applied: BTreeMap<u64, ()>,
    /// To whom leadership is to go, and until when that may be why it does.
    pub(super) transfers: BTreeMap<u64, u64>,
    /// Numbers the clients' operations.
    pub(super) operations: u64,
    /// Reads that were answered since the faults stopped.
    pub(super) served: HashSet<u64>,
    pub(super) faults_are_on: bool,
    pub(super) network_random: Random,
    pub(super) disk_random: Random,
    pub(super) client_random: Random,
    pub(super) fault_random: Vec<Random>,
}

impl World {
    /// The world at the beginning: every machine is about to start for the first time.
    pub(super) fn new(plan: Plan) -> World {
        let count = plan.nodes as usize;
        let seed = plan.seed;
        let mut skew = Fault::Skew.stream(seed);
        let machine = |position: usize| {
            let rate = plan.every(Fault::Skew);
            let off = skew.below(2 * rate + 1);
            let tick_ms = if plan.has(Fault::Skew) { TICK_MS + off - rate } else { TICK_MS };
            Machine {
                id: position as u64 + 1,
                disk: FaultDisk::new(),
                recovery: Recovery::default(),
                monotonic: Monotonic::default(),
                boot: 0,
                process: None,
                nothing_lost: true,
                armed: false,
                failed_unseen: false,
                tick_ms,
                paused_until: 0,
                inbox: VecDeque::new(),
                woken: false,
            }
        };
        let machines = (0..count).map(machine).collect();
        let invariants = Invariants { config_safety: ConfigSafety::new(plan.founders), ..Invariants::default() };
        let mut world = World {
            now: 0,
            queue: BinaryHeap::new(),
            scheduled: 0,
            machines,
            links: Links::new(count),
            invariants,
            marks: Marks::default(),
            stats: Stats::default(),
            trace: fold(0, seed),
            situations: HashSet::new(),
            changes_applied: BTreeMap::new(),
            transfers: BTreeMap::new(),
            operations: 0,
            served: HashSet::new(),
            faults_are_on: true,
            network_random: Stream::Network.of(seed),
            disk_random: Stream::Disk.of(seed),
            client_random: Stream::Clients.of(seed),
            fault_random: FAULTS.iter().map(|(fault, _)| fault.stream(seed)).collect(),
            plan,
        };
        for at in 0..count {
            let phase = world.network_random.below(TICK_MS);
            world.schedule(0, Event::Start { at, boot: 0 });
            world.schedule(phase, Event::Tick { at });
        }
        world.schedule(1, Event::Client);
        for fault in world.plan.faults.iter() {
            world.schedule_fault(fault);
        }
        world
    }

    /// Puts an event into the queue, `delay` milliseconds from now.
    pub(super) fn schedule(&mut self, delay: u64, event: Event) {
        self.scheduled += 1;
        self.queue.push(Scheduled { at_ms: self.now + delay, number: self.scheduled, event });
    }

    /// Runs until the time has come.
    pub(super) fn run_until(&mut self, end_ms: u64) -> Result<(), Violation> {
        while self.queue.peek().is_some_and(|next| next.at_ms < end_ms) {
            let Some(next) = self.queue.pop() else { break };
            self.now = next.at_ms;
            self.happen(next.event)?;
        }
        self.now = end_ms;
        Ok(())
    }

    fn happen(&mut self, event: Event) -> Result<(), Violation> {
        self.trace_event(&event);
        match event {
            Event::Tick { at } => {
                let tick_ms = if self.faults_are_on { self.machines[at].tick_ms } else { TICK_MS };
                self.schedule(tick_ms, Event::Tick { at });
                if at == 0 {
                    self.note_situation();
                }
                if self.machines[at].paused_until > self.now {
                    return Ok(());
                }
                self.stats.node_ticks += 1;
                self.with(at, |world, process| {
                    // A node that waits for its disk cannot listen; what it missed is no reason to campaign.
                    if process.is_busy() {
                        return Ok(());
                    }
                    process.lease.tick();
                    let before = process.stance_now();
                    process.raw.tick().map_err(broken)?;
                    world.see_campaign(process, before)?;
                    world.drive(at, process)
                })
            }
            Event::Deliver { via, to, message } => self.arrive(via, to, *message),
            Event::Wake { at, boot } if self.machines[at].boot == boot => {
                self.machines[at].woken = false;
                self.with(at, |world, process| world.work(at, process))
            }
            Event::Written { at, boot } if self.machines[at].boot == boot => self.with(at, |world, process| {
                world.written(at, process)?;
                world.work(at, process)
            }),
            Event::Appended { at, boot } if self.machines[at].boot == boot => {
                self.with(at, |world, process| world.appended(at, process))
            }
            Event::Applied { at, boot } if self.machines[at].boot == boot => {
                self.with(at, |world, process| world.applied(at, process))
            }
            Event::Start { at, boot } if self.machines[at].boot == boot => self.start(at),
            Event::Client => self.clients(),
            Event::Fault(fault) => self.strike(fault),
            Event::SnapshotReport { at, boot, to, arrived } if self.machines[at].boot == boot => {
                self.report_snapshot(at, to, arrived)
            }
            Event::Unreachable { at, boot, to } if self.machines[at].boot == boot => self.with(at, |world, process| {
                if !process.is_busy() {
                    process.raw.report_unreachable(to);
                    world.drive(at, process)?;
                }
                Ok(())
            }),
            // Meant for a process that is gone.
            _ => Ok(()),
        }
    }

    /// Lets a node work, if its process runs; sees to it if it stops.
    pub(super) fn with(
        &mut self,
        at: usize,
        work: impl FnOnce(&mut World, &mut Process) -> Result<(), Stop>,
    ) -> Result<(), Violation> {
        let Some(mut process) = self.machines[at].process.take() else { return Ok(()) };
        match work(self, &mut process) {
            Ok(()) => {
                self.machines[at].process = Some(process);
                if self.machines[at].armed && self.machines[at].disk.has_failed() {
                    self.machines[at].armed = false;
                    self.machines[at].failed_unseen = true;
                    sometimes!(self.marks, DiskFailureSurvived);
                }
                Ok(())
            }
            Err(Stop::Broken(violation)) => Err(violation),
            Err(Stop::Disk(failure)) => {
                let disk = &self.machines[at].disk;
                if disk.is_cut_off() {
                    self.go_down(at, Some(process), true);
                    return Ok(());
                }
                let known = disk.has_failed() || std::mem::take(&mut self.machines[at].failed_unseen);
                if !known {
                    return Err(Violation { invariant: "no fault of its own", what: failure.0 });
                }
                sometimes!(self.marks, SyncFailed);
                let power = self.fault_random[Fault::FailedSync as usize].below(2) == 0;
                self.go_down(at, Some(process), power);
                Ok(())
            }
        }
    }

    /// Ends a process: it is killed, or the power fails. It will start again.
    pub(super) fn go_down(&mut self, at: usize, process: Option<Box<Process>>, power: bool) {
        let process = process.or_else(|| self.machines[at].process.take());
        let machine = &mut self.machines[at];
        machine.boot += 1;
        let (failed, cut_off) = (machine.disk.has_failed(), machine.disk.is_cut_off());
        // Whatever it would still do when it is dropped does not happen.
        machine.disk.cut_off(0);
        drop(process);
        machine.disk = if power {
            let kept = [1, 4, 7][self.disk_random.below(3) as usize];
            machine.disk.after_crash(&mut self.disk_random, kept, true)
        } else {
            machine.disk.after_kill()
        };
        machine.nothing_lost = !power && !failed && !cut_off;
        machine.failed_unseen = !power && (failed || machine.failed_unseen);
        machine.armed = false;
        machine.woken = false;
        machine.paused_until = 0;
        let unread = std::mem::take(&mut machine.inbox);
        let boot = machine.boot;
        for (via, message) in unread {
            self.lose(via, &message);
        }
        let down = self.disk_random.below(self.plan.down_ticks_max * TICK_MS + 1);
        self.stats.crashes += 1;
        self.schedule(down, Event::Start { at, boot });
    }

    /// Starts a machine's process from what its disk has.
    fn start(&mut self, at: usize) -> Result<(), Violation> {
        let (id, disk) = (self.machines[at].id, self.machines[at].disk.clone());
        if self.faults_are_on && self.plan.has(Fault::CrashInRecovery) && self.machines[at].boot > 0 {
            let rate = self.plan.every(Fault::CrashInRecovery);
            let random = &mut self.fault_random[Fault::CrashInRecovery as usize];
            if random.below(rate) == 0 {
                disk.cut_off(disk.calls() + random.below(25));
            }
        }
        disk.set_pace(self.housekeeper(at));
        let opened = Journal::open(&disk, id, self.plan.segment_bytes);
        if disk.is_cut_off() {
            sometimes!(self.marks, RecoveryCrashed);
            drop(opened);
            self.go_down(at, None, true);
            return Ok(());
        }
        disk.cut_off(u64::MAX);
        if opened.is_err() && (disk.has_failed() || std::mem::take(&mut self.machines[at].failed_unseen)) {
            sometimes!(self.marks, RecoveryFailed);
            let power = self.fault_random[Fault::FailedSync as usize].below(2) == 0;
            drop(opened);
            self.go_down(at, None, power);
            return Ok(());
        }
        let (journal, opened) =
            opened.map_err(|failure| Violation { invariant: "recovery", what: format!("node {id}: {}", failure.0) })?;
        self.judge_recovery(at, &opened)?;
        if let Some((index, _, conf_state)) = &opened.snapshot {
            // What a snapshot on the disk holds is what everybody had there.
            self.invariants.store_equality.applied(id, *index, store_equality::digest(&opened.store))?;
            self.invariants.config_safety.applied(id, self.newest_change(*index), conf_state)?;
        }
        let process = self.make_process(at, journal, opened)?;
        let status = process.raw.basic_status();
        let HardState { term, vote, commit } = status.hard_state;
        let durable = self.machines[at].recovery.durable().hard_state;
        let seen = Seen { term, vote, commit, applied: status.applied };
        self.machines[at].monotonic.starts(id, seen, (durable.term, durable.vote))?;
        self.machines[at].process = Some(Box::new(process));
        self.with(at, |world, process| world.drive(at, process))
    }

    /// How early the log's housekeeper works in the process that is about to start.
    fn housekeeper(&self, at: usize) -> Pace {
        let fault = Fault::SlowHousekeeper;
        let machine = &self.machines[at];
        match self.plan.every(fault) {
            _ if !self.faults_are_on || !self.plan.has(fault) => Pace::AtOnce,
            0 => Pace::WhenNeeded,
            _ => Pace::ByChance(Random::new(fold(fold(self.plan.seed, machine.id), machine.boot))),
        }
    }

    fn judge_recovery(&mut self, at: usize, opened: &Opened) -> Result<(), Violation> {
        let machine = &mut self.machines[at];
        let commit = machine.recovery.durable().hard_state.commit;
        let first = machine.boot == 0;
        let survived = machine.recovery.recovered(
            machine.id,
            &opened.hard_state,
            opened.first_index,
            &opened.entries,
            machine.nothing_lost,
        )?;
        self.trace =
            fold(self.trace, opened.hard_state.term ^ opened.hard_state.commit << 20 ^ opened.entries.len() as u64);
        if first {
            return Ok(());
        }
        let snapshot = opened.snapshot.is_some();
        let known = self.machines[at].monotonic.commit();
        sometimes!(self.marks, RecoveredFresh, opened.empty);
        sometimes!(self.marks, RecoveredAll, survived.lost == 0);
        sometimes!(self.marks, RecoveredLess, survived.lost > 0);
        sometimes!(self.marks, RecoveredMore, survived.kept > 0);
        sometimes!(self.marks, RecoveredTorn, opened.torn.is_some());
        sometimes!(self.marks, RecoveredWithSnapshot, snapshot);
        sometimes!(self.marks, RecoveredWithoutEntries, snapshot && opened.entries.is_empty());
        sometimes!(self.marks, RecoveredCommitBehind, opened.hard_state.commit < known && commit < known);
        sometimes!(self.marks, SnapshotFileWithoutRecord, opened.unrecorded);
        let joint = opened.snapshot.as_ref().is_some_and(|(_, _, state)| !state.voters_outgoing.is_empty());
        sometimes!(self.marks, RecoveredMidJoint, joint);
        Ok(())
    }

    fn make_process(&mut self, at: usize, journal: Journal, opened: Opened) -> Result<Process, Violation> {
        let machine = &self.machines[at];
        let (index, term, conf_state) = opened.snapshot.unwrap_or_default();
        let config = Config {
            id: machine.id,
            applied: index,
            seed: fold(self.plan.seed, machine.boot),
            ..self.plan.config.clone()
        };
        let peers: Vec<Peer> = (1..=self.plan.founders).map(|id| Peer { id, ..Peer::default() }).collect();
        let raw = match (opened.empty, machine.id <= self.plan.founders) {
            (true, true) => RawNode::bootstrap(config, opened.storage, &peers),
            (true, false) => RawNode::join(config, opened.storage),
            (false, _) => RawNode::restart(config, opened.storage),
        };
        let raw = raw.map_err(|error| Violation { invariant: "recovery", what: error.to_string() })?;
        let log = machine.recovery.durable().log.clone();
        let changes = opened.entries.iter().filter(|entry| entry.is_conf_change()).map(|entry| entry.index).collect();
        let status = raw.basic_status();
        let stance =
            Stance { term: status.hard_state.term, vote: status.hard_state.vote, role: StateType::Follower, lead: 0 };
        debug_assert!(raw.storage().first_index().is_ok());
        let mut lease = Lease::default();
        if self.plan.lease() && !opened.empty {
            lease.promises();
        }
        Ok(Process {
            segments: journal.segments(),
            raw,
            journal,
            store: opened.store,
            conf_state,
            applied: (index, term),
            snapshot_index: index,
            snapshot_under_way: 0,
            log,
            changes,
            stance,
            elected_in: 0,
            commit_seen: index,
            lease,
            quota: Quota::default(),
            transferee: 0,
            writing: None,
            appends: VecDeque::new(),
            appending: false,
            applies: VecDeque::new(),
            applying: false,
            writes: BTreeMap::new(),
            reads: BTreeMap::new(),
            waiting: 0,
            heard: 0,
        })
    }

    /// Who leads in the highest term, if anybody does.
    pub(super) fn leader(&self) -> Option<usize> {
        let leads = |at: &usize| self.machines[*at].process.as_ref().is_some_and(|process| process.leads());
        let leaders = (0..self.machines.len()).filter(leads);
        leaders.max_by_key(|at| self.machines[*at].process.as_ref().map(|process| process.stance.term))
    }

    /// Who leads in the lowest term: if there are two, it has been deposed and does not know.
    pub(super) fn oldest_leader(&self) -> Option<usize> {
        let leads = |at: &usize| self.machines[*at].process.as_ref().is_some_and(|process| process.leads());
        let leaders = (0..self.machines.len()).filter(leads);
        leaders.min_by_key(|at| self.machines[*at].process.as_ref().map(|process| process.stance.term))
    }

    fn trace_event(&mut self, event: &Event) {
        if log::log_enabled!(target: "sim", log::Level::Debug) {
            match event {
                Event::Tick { at } => log::debug!(target: "sim", "{} ms: {} ticks", self.now, at + 1),
                Event::Deliver { via, to, message } => {
                    let text = raft_core::describe::message(message);
                    log::debug!(target: "sim", "{} ms: from {} to {}: {text}", self.now, via + 1, to + 1);
                }
                other => log::debug!(target: "sim", "{} ms: {other:?}", self.now),
            }
        }
        let number = match event {
            Event::Tick { at } => *at as u64,
            Event::Deliver { via, to, message } => {
                let Message { msg_type, term, index, commit, .. } = **message;
                self.trace = fold(self.trace, term << 40 ^ index << 20 ^ commit);
                (*via as u64) << 8 ^ (*to as u64) << 16 ^ (msg_type as u64) << 24 ^ 1
            }
            Event::Wake { at, .. } => 2 ^ (*at as u64) << 8,
            Event::Written { at, .. } => 3 ^ (*at as u64) << 8,
            Event::Appended { at, .. } => 4 ^ (*at as u64) << 8,
            Event::Applied { at, .. } => 5 ^ (*at as u64) << 8,
            Event::Start { at, boot } => 6 ^ (*at as u64) << 8 ^ boot << 16,
            Event::Client => 7,
            Event::Fault(fault) => 8 ^ (*fault as u64) << 8,
            Event::SnapshotReport { at, to, .. } => 9 ^ (*at as u64) << 8 ^ to << 16,
            Event::Unreachable { at, to, .. } => 10 ^ (*at as u64) << 8 ^ to << 16,
        };
        self.trace = fold(fold(self.trace, self.now), number);
    }

    /// What the cluster looks like from afar: roles, ranks of terms, who is behind, the shape of the configuration.
    fn note_situation(&mut self) {
        let stances = self.machines.iter().map(|machine| machine.process.as_ref().map(|process| process.stance));
        let highest = stances.flatten().map(|stance| stance.term).max().unwrap_or(0);
        let last = self.invariants.state_machine_safety.last();
        let mut digest = 0;
        for machine in &self.machines {
            let Some(process) = &machine.process else {
                digest = fold(digest, u64::MAX);
                continue;
            };
            let stance = process.stance;
            let rank = (highest - stance.term).min(3);
            let behind = 64 - (last - process.applied.0.min(last)).leading_zeros() as u64;
            let tail = 64 - (process.log.last() - process.applied.0.min(process.log.last())).leading_zeros() as u64;
            let shape = (process.conf_state.voters.len() as u64) << 8
                | (process.conf_state.voters_outgoing.len() as u64) << 4
                | process.conf_state.learners.len() as u64;
            let jobs = u64::from(process.writing.is_some() || process.appending) << 1 | u64::from(process.applying);
            digest = fold(digest, stance.role as u64 | rank << 2 | behind.min(6) << 4 | tail.min(6) << 8 | jobs << 12);
            digest = fold(digest, shape << 8 | stance.lead);
        }
        self.situations.insert(digest);
    }
}
