//! What goes wrong in a history: a few faults drawn from its seed, some of them at the same time.
//!
//! Each history draws the *kinds* of fault it will have first (swarm testing: few kinds at a time reach states that all at
//! once do not), then steps: something breaks, time passes, most of the time everything is repaired, some time passes.
//! Every second victim is the leader. At the end everything is repaired, and every node that was not meant to be gone must
//! still be there.

use std::collections::BTreeSet;
use std::thread::sleep;
use std::time::Duration;

use super::small_disk::SmallDisk;
use super::Counts;
use crate::cluster::{Cluster, Fault, Network, PATIENCE};
use crate::random::Random;

/// A way to break something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// `kill -9` of one node.
    Kill,
    /// `kill -9` of all.
    KillAll,
    /// SIGSTOP.
    Pause,
    /// One node is cut off.
    Isolate,
    /// One node is not heard.
    Mute,
    /// One node does not hear.
    Deafen,
    /// Two nodes do not reach each other.
    Part,
    /// Everybody's network is bad.
    BadNetwork,
    /// One node's disk is full.
    FullDisk,
}

const KINDS: [Kind; 9] = [
    Kind::Kill,
    Kind::KillAll,
    Kind::Pause,
    Kind::Isolate,
    Kind::Mute,
    Kind::Deafen,
    Kind::Part,
    Kind::BadNetwork,
    Kind::FullDisk,
];

/// The faults of one history.
pub struct Faults<'a> {
    cluster: &'a Cluster,
    network: &'a Network,
    disks: &'a [SmallDisk],
    election: Duration,
    random: Random,
    /// Stopped and not yet continued.
    paused: BTreeSet<u64>,
    /// May have ended, by our hand or for want of room on their disks.
    excused: BTreeSet<u64>,
    /// What happened.
    pub counts: Counts,
}

impl<'a> Faults<'a> {
    /// Nothing has happened yet. `disks` may be empty.
    pub fn new(
        cluster: &'a Cluster,
        network: &'a Network,
        disks: &'a [SmallDisk],
        election: Duration,
        seed: u64,
    ) -> Faults<'a> {
        let (random, counts) = (Random::new(seed), Counts::default());
        Faults { cluster, network, disks, election, random, paused: BTreeSet::new(), excused: BTreeSet::new(), counts }
    }

    /// Goes through the script; leaves broken what is broken.
    pub fn happen(&mut self) {
        let mut kinds: Vec<Kind> = KINDS.into_iter().filter(|_| self.random.below(3) == 0).collect();
        kinds.push(KINDS[self.random.below(KINDS.len() as u64) as usize]);
        if self.disks.is_empty() {
            kinds.retain(|kind| *kind != Kind::FullDisk);
        }
        // A while in which nothing is wrong, so that there is something to lose.
        self.pass(0, self.election / 2);
        if kinds.is_empty() {
            return;
        }
        for _ in 0..2 + self.random.below(3) {
            let kind = kinds[self.random.below(kinds.len() as u64) as usize];
            self.apply(kind);
            self.pass(1, self.election * 2);
            if self.random.below(4) != 0 {
                self.mend();
                self.pass(0, self.election);
            }
        }
    }

    /// Lets between `least_ms` and `longest` pass.
    fn pass(&mut self, least_ms: u64, longest: Duration) {
        sleep(Duration::from_millis(least_ms + self.random.below(longest.as_millis() as u64)));
    }

    fn apply(&mut self, kind: Kind) {
        if kind == Kind::KillAll {
            self.counts.kills += self.cluster.running().len() as u64;
            self.excused.extend(1..=self.cluster.nodes().len() as u64);
            self.cluster.kill_all();
            self.paused.clear();
            return;
        }
        let Some(victim) = self.victim() else { return };
        let node = self.cluster.node(victim);
        let others = || (1..=self.cluster.nodes().len() as u64).filter(|&id| id != victim);
        match kind {
            Kind::Kill => {
                self.excused.insert(victim);
                node.kill();
                self.counts.kills += 1;
            }
            Kind::Pause => {
                node.pause();
                self.paused.insert(victim);
                self.counts.pauses += 1;
            }
            Kind::FullDisk => {
                self.excused.insert(victim);
                self.disks.iter().filter(|disk| disk.is_at(node.data_dir())).for_each(SmallDisk::fill);
            }
            Kind::BadNetwork => {
                let faults = [
                    Fault::Delay(self.election / 10),
                    Fault::Loss { percent: 30 },
                    Fault::Break { percent: 10 },
                    Fault::Throttle { bytes_per_second: 100_000 },
                ];
                self.network.set_everywhere(faults[self.random.below(faults.len() as u64) as usize]);
                self.counts.bad_networks += 1;
            }
            _ => {
                self.counts.partitions += 1;
                let other = others().nth(self.random.below(2) as usize).filter(|_| kind == Kind::Part);
                for other in others().filter(|&id| other.is_none_or(|other| id == other)) {
                    if kind != Kind::Deafen {
                        self.network.set(victim, other, Fault::Cut);
                    }
                    if kind != Kind::Mute {
                        self.network.set(other, victim, Fault::Cut);
                    }
                }
            }
        }
    }

    /// A node that runs: the leader, or any.
    fn victim(&mut self) -> Option<u64> {
        let mut awake = self.cluster.running();
        awake.retain(|id| !self.paused.contains(id));
        if self.random.below(2) == 0 {
            let leads = |id: &&u64| self.cluster.node(**id).status().is_some_and(|status| status.role == "leader");
            if let Some(leader) = awake.iter().find(leads) {
                return Some(*leader);
            }
        }
        let at = self.random.below(awake.len() as u64) as usize;
        awake.get(at).copied()
    }

    /// Repairs everything, and starts whoever is gone and excused.
    fn mend(&mut self) {
        self.network.set_everywhere(Fault::None);
        for id in std::mem::take(&mut self.paused) {
            self.cluster.node(id).resume();
        }
        self.disks.iter().for_each(SmallDisk::clear);
        self.start_the_excused();
    }

    fn start_the_excused(&mut self) {
        for &id in &self.excused {
            let node = self.cluster.node(id);
            if !node.is_running() {
                let lines = node.process().stderr();
                self.counts.full_disks += u64::from(lines.last().is_some_and(|line| line.contains("No space left")));
                node.start();
            }
        }
    }

    /// Repairs everything and waits until all nodes follow one leader.
    ///
    /// # Errors
    /// When a node has ended that had no reason to, or when no leader is found.
    pub fn repair(&mut self) -> Result<(), String> {
        self.mend();
        let ids: Vec<u64> = self.cluster.nodes().iter().map(|node| node.id).collect();
        let deadline = std::time::Instant::now() + PATIENCE;
        while self.cluster.leader_now(&ids).is_none() {
            // One whose disk was full may end a moment after there is room again.
            self.start_the_excused();
            for node in self.cluster.nodes().iter().filter(|node| !node.is_running()) {
                if !self.excused.contains(&node.id) {
                    return Err(format!("node {} has ended by itself: {:#?}", node.id, node.process().stderr()));
                }
            }
            if std::time::Instant::now() > deadline {
                return Err(format!("no leader within {PATIENCE:?} after everything was repaired"));
            }
            sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}
