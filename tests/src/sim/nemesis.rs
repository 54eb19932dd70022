//! What goes wrong, and when. Each fault comes at random times about its rate apart, and draws from its own stream.

use raft_core::pb::{ConfChange, ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2};
use raft_core::{ConfChangeKind, SnapshotStatus};

use super::drive::{broken, Stop};
use super::invariants::Violation;
use super::plan::{Fault, TICK_MS};
use super::world::{Event, World};
use crate::fault_disk::FAULTS as DISK_FAULTS;

const CHANGES: [ConfChangeType; 4] = [
    ConfChangeType::ConfChangeAddNode,
    ConfChangeType::ConfChangeRemoveNode,
    ConfChangeType::ConfChangeAddLearnerNode,
    ConfChangeType::ConfChangeUpdateNode,
];

impl World {
    /// Plans the next occurrence of a fault that comes by the clock.
    pub(super) fn schedule_fault(&mut self, fault: Fault) {
        let by_message = matches!(fault, Fault::Loss | Fault::Duplicate | Fault::Reorder | Fault::Delay);
        let otherwise =
            matches!(fault, Fault::CrashInRecovery | Fault::SlowDisk | Fault::SlowHousekeeper | Fault::Skew);
        if by_message || otherwise {
            return;
        }
        let delay = 1 + self.draw(fault, 2 * self.plan.every(fault) * TICK_MS);
        self.schedule(delay, Event::Fault(fault));
    }

    fn draw(&mut self, fault: Fault, limit: u64) -> u64 {
        self.fault_random[fault as usize].below(limit)
    }

    fn any_machine(&mut self, fault: Fault) -> usize {
        let count = self.machines.len() as u64;
        self.draw(fault, count) as usize
    }

    /// A fault is due.
    pub(super) fn strike(&mut self, fault: Fault) -> Result<(), Violation> {
        if !self.faults_are_on {
            return Ok(());
        }
        self.schedule_fault(fault);
        let at = self.any_machine(fault);
        match fault {
            Fault::Partition => self.partition(),
            Fault::OneWay => {
                let to = self.any_machine(fault);
                let until = self.now + TICK_MS + self.draw(fault, 60 * TICK_MS);
                self.links.link(at, to).cut_until = until;
            }
            Fault::Clog => {
                let to = self.any_machine(fault);
                let until = self.now + TICK_MS + self.draw(fault, 40 * TICK_MS);
                self.links.link(at, to).clogged_until = until;
            }
            Fault::Crash | Fault::Kill => {
                // At times all of them: a rack loses its power.
                let all = fault == Fault::Crash && self.draw(fault, 12) == 0;
                for other in 0..self.machines.len() {
                    if (all || other == at) && self.machines[other].process.is_some() {
                        self.go_down(other, None, fault == Fault::Crash);
                    }
                }
            }
            Fault::CrashInWrite => {
                let ahead = self.draw(fault, 40);
                let disk = &self.machines[at].disk;
                disk.cut_off(disk.calls() + ahead);
            }
            Fault::FailedSync => {
                let ahead = self.draw(fault, 30);
                let kind = DISK_FAULTS[self.draw(fault, DISK_FAULTS.len() as u64) as usize];
                let machine = &mut self.machines[at];
                machine.disk.fail(machine.disk.calls() + ahead, kind);
                machine.armed = true;
            }
            Fault::Pause => self.pause(at),
            Fault::Membership | Fault::Joint => return self.change_members(fault, at),
            Fault::Transfer => return self.hand_over(at),
            Fault::Snapshots => {
                return self.with(at, |world, process| match process.is_busy() {
                    true => Ok(()),
                    false => world.snapshot_if_due(at, process, true),
                })
            }
            Fault::Unrest => return self.unrest(at),
            Fault::Rumours => return self.rumours(at),
            _ => {}
        }
        Ok(())
    }

    /// Cuts the cluster into two parts, each node's side by chance; or one node off from all others.
    fn partition(&mut self) {
        let fault = Fault::Partition;
        let alone = self.draw(fault, 2) == 0;
        let one = match self.draw(fault, 2) {
            0 => self.leader().unwrap_or(0),
            _ => self.any_machine(fault),
        };
        let until = self.now + TICK_MS + self.draw(fault, 100 * TICK_MS);
        let count = self.machines.len();
        let sides: Vec<bool> = (0..count).map(|at| if alone { at == one } else { self.draw(fault, 2) == 0 }).collect();
        for from in 0..count {
            for to in 0..count {
                if sides[from] != sides[to] {
                    self.links.link(from, to).cut_until = until;
                }
            }
        }
    }

    fn pause(&mut self, at: usize) {
        let length = TICK_MS + self.draw(Fault::Pause, 60 * TICK_MS);
        let machine = &mut self.machines[at];
        machine.paused_until = self.now + length;
        machine.woken = true;
        let boot = machine.boot;
        self.schedule(length, Event::Wake { at, boot });
    }

    fn change_members(&mut self, fault: Fault, at: usize) -> Result<(), Violation> {
        let at = match self.draw(fault, 4) {
            0 => at,
            _ => self.leader().unwrap_or(at),
        };
        let change = self.draw_change(fault);
        self.propose_change(at, change)
    }

    fn draw_change(&mut self, fault: Fault) -> ConfChangeKind {
        let nodes = self.plan.nodes;
        // More often added than removed, or clusters would be small.
        let one = |world: &mut World| {
            let kind = CHANGES[[0, 0, 0, 1, 1, 2, 2, 3][world.draw(fault, 8) as usize]];
            ConfChangeSingle::new(kind, 1 + world.draw(fault, nodes))
        };
        if fault == Fault::Membership {
            let change = one(self);
            return match self.draw(fault, 3) {
                0 => ConfChangeV2::new(ConfChangeTransition::ConfChangeTransitionAuto, [change]).into(),
                _ => ConfChange { change_type: change.change_type, node_id: change.node_id, ..ConfChange::default() }
                    .into(),
            };
        }
        if self.draw(fault, 3) == 0 {
            // The way out.
            return ConfChangeV2::default().into();
        }
        let transition = [
            ConfChangeTransition::ConfChangeTransitionAuto,
            ConfChangeTransition::ConfChangeTransitionJointImplicit,
            ConfChangeTransition::ConfChangeTransitionJointExplicit,
        ][self.draw(fault, 3) as usize];
        let count = 1 + self.draw(fault, 3);
        let changes: Vec<ConfChangeSingle> = (0..count).map(|_| one(self)).collect();
        ConfChangeV2::new(transition, changes).into()
    }

    /// Proposes a change at a node.
    pub(super) fn propose_change(&mut self, at: usize, change: ConfChangeKind) -> Result<(), Violation> {
        self.with(at, |world, process| {
            if process.is_busy() {
                return Ok(());
            }
            let payload = change.encode().1.len() as u64;
            let leading = process.leads();
            let result = process.raw.propose_conf_change(change);
            if leading {
                world.see_proposal(at, process, payload, true, &result)?;
            }
            fatal(result)?;
            world.drive(at, process)
        })
    }

    fn hand_over(&mut self, at: usize) -> Result<(), Violation> {
        let fault = Fault::Transfer;
        let at = match self.draw(fault, 3) {
            0 => at,
            _ => self.leader().unwrap_or(at),
        };
        let to = 1 + self.any_machine(fault) as u64;
        let until = self.now + self.plan.config.election_tick as u64 * TICK_MS;
        self.transfers.insert(to, until);
        self.with(at, |world, process| {
            if process.is_busy() {
                return Ok(());
            }
            process.lease.restarts();
            fatal(process.raw.transfer_leader(to))?;
            world.drive(at, process)
        })
    }

    /// A leader has told another to take over. That is done when a machine is about to go, and this one may go before it
    /// hears who leads now: it speaks still, and hears nobody.
    pub(super) fn handed_over(&mut self, at: usize) {
        let fault = Fault::Transfer;
        if !self.faults_are_on || !self.plan.has(fault) || self.draw(fault, 2) == 0 {
            return;
        }
        let until = self.now + TICK_MS + self.draw(fault, 60 * TICK_MS);
        for from in (0..self.machines.len()).filter(|from| *from != at) {
            self.links.link(from, at).cut_until = until;
        }
    }

    fn unrest(&mut self, at: usize) -> Result<(), Violation> {
        let forget = self.draw(Fault::Unrest, 3) == 0;
        self.with(at, |world, process| {
            if process.is_busy() {
                return Ok(());
            }
            let before = process.stance_now();
            fatal(if forget { process.raw.forget_leader() } else { process.raw.campaign() })?;
            world.see_campaign(process, before)?;
            world.drive(at, process)
        })
    }

    fn rumours(&mut self, at: usize) -> Result<(), Violation> {
        let fault = Fault::Rumours;
        let at = match self.draw(fault, 2) {
            0 => self.leader().unwrap_or(at),
            _ => at,
        };
        let about = 1 + self.any_machine(fault) as u64;
        let what = self.draw(fault, 3);
        self.with(at, |world, process| {
            if process.is_busy() {
                return Ok(());
            }
            match what {
                0 => process.raw.report_unreachable(about),
                1 => process.raw.report_snapshot(about, SnapshotStatus::Failure),
                _ => process.raw.report_snapshot(about, SnapshotStatus::Finish),
            }
            world.drive(at, process)
        })
    }
}

/// Only a fatal error is a failure; the others are answers.
fn fatal(result: Result<(), raft_core::Error>) -> Result<(), Stop> {
    match result {
        Err(error) if error.is_fatal() => Err(broken(error)),
        _ => Ok(()),
    }
}
