//! What a seed decides before its history begins: the cluster's settings, which faults are on, and how often they come.
//!
//! **Swarm.** A history with every fault on finds less than many histories with a few each: faults hide each other (a
//! cluster that loses every second message never fills a queue). So each seed draws its own set, and a rate for each
//! member of it.
//!
//! **Shrinking needs independence.** Every subject has a stream of random numbers of its own ([`Stream`]), so that a
//! fault that is switched off leaves the draws of all others as they were.

use std::fmt;

use crate::random::Random;
use raft_core::{Config, ReadOnlyOption};

/// Milliseconds of simulated time in a tick.
pub const TICK_MS: u64 = 100;

/// How far a tick may be off, where reads rely on leases: those hold while a tick is at most 10/9 as long as another
/// (`raft-core/src/raft/lease.rs`), and 105 to 95 is a little less.
const LEASE_SKEW_MS: u64 = 5;

/// The subjects that draw random numbers, each from a stream of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Stream {
    /// How many nodes there are.
    Nodes = 1,
    /// Settings of the cluster.
    Settings,
    /// Which faults are on, and their rates.
    Faults,
    /// What becomes of messages.
    Network,
    /// What becomes of bytes.
    Disk,
    /// What clients want.
    Clients,
    /// The first of the faults' own streams: one each, in the order of [`FAULTS`].
    Fault,
}

impl Stream {
    /// This subject's numbers in the history of `seed`.
    pub fn of(self, seed: u64) -> Random {
        stream(seed, self as u64)
    }
}

fn stream(seed: u64, number: u64) -> Random {
    // Neighbouring seeds must not be neighbours in a sequence.
    let start = Random::new(seed.wrapping_mul(0x2545_f491_4f6c_dd1d).wrapping_add(number)).number();
    Random::new(start)
}

/// Something that goes wrong, or that is done to a cluster while it works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Fault {
    /// Messages get lost.
    Loss,
    /// Messages arrive twice.
    Duplicate,
    /// Messages of one link overtake each other.
    Reorder,
    /// Messages take many ticks.
    Delay,
    /// The cluster falls into parts.
    Partition,
    /// One direction of a link is cut.
    OneWay,
    /// A link holds everything back, then lets it all out.
    Clog,
    /// The power fails: unsynced sectors and names are lost or kept by chance, one may be torn.
    Crash,
    /// A process is killed; its disk loses nothing.
    Kill,
    /// The power fails in the middle of a write, at any of the calls that it makes.
    CrashInWrite,
    /// A node that is starting crashes again while it reads its log.
    CrashInRecovery,
    /// Writes take a while. With asynchronous storage, the storage threads lag behind.
    SlowDisk,
    /// A call to the disk fails: the node must stop.
    FailedSync,
    /// A process is stopped and continued.
    Pause,
    /// Nodes tick at different rates.
    Skew,
    /// Single members are added, removed, promoted, demoted.
    Membership,
    /// Several members are changed at once.
    Joint,
    /// Leadership is handed over.
    Transfer,
    /// Snapshots are taken at any moment, and the log is cut right behind them.
    Snapshots,
    /// Nodes campaign, or forget their leader, without a reason.
    Unrest,
    /// The transport reports what is not so: unreachable nodes, failed snapshots.
    Rumours,
    /// The log's housekeeper is late: segments are prepared, named and removed when the log cannot go on without it.
    SlowHousekeeper,
}

/// All of them, with the names that `--without` takes.
pub const FAULTS: [(Fault, &str); 22] = [
    (Fault::Loss, "loss"),
    (Fault::Duplicate, "duplicate"),
    (Fault::Reorder, "reorder"),
    (Fault::Delay, "delay"),
    (Fault::Partition, "partition"),
    (Fault::OneWay, "one-way"),
    (Fault::Clog, "clog"),
    (Fault::Crash, "crash"),
    (Fault::Kill, "kill"),
    (Fault::CrashInWrite, "crash-in-write"),
    (Fault::CrashInRecovery, "crash-in-recovery"),
    (Fault::SlowDisk, "slow-disk"),
    (Fault::FailedSync, "failed-sync"),
    (Fault::Pause, "pause"),
    (Fault::Skew, "skew"),
    (Fault::Membership, "membership"),
    (Fault::Joint, "joint"),
    (Fault::Transfer, "transfer"),
    (Fault::Snapshots, "snapshots"),
    (Fault::Unrest, "unrest"),
    (Fault::Rumours, "rumours"),
    (Fault::SlowHousekeeper, "slow-housekeeper"),
];

impl Fault {
    /// The name on the command line.
    pub fn name(self) -> &'static str {
        FAULTS.iter().find(|(fault, _)| *fault == self).map_or("?", |(_, name)| name)
    }

    /// The fault of that name.
    pub fn from_name(name: &str) -> Option<Fault> {
        FAULTS.iter().find(|(_, known)| *known == name).map(|(fault, _)| *fault)
    }

    /// The fault's own random numbers in the history of `seed`.
    pub fn stream(self, seed: u64) -> Random {
        stream(seed, Stream::Fault as u64 + self as u64)
    }
}

/// A set of faults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultSet(u32);

impl FaultSet {
    /// Every fault.
    pub fn all() -> Self {
        FAULTS.iter().fold(FaultSet(0), |set, (fault, _)| set.with(*fault))
    }

    /// The set with this one in it.
    #[must_use]
    pub fn with(self, fault: Fault) -> Self {
        FaultSet(self.0 | 1 << fault as u8)
    }

    /// The set without this one.
    #[must_use]
    pub fn without(self, fault: Fault) -> Self {
        FaultSet(self.0 & !(1 << fault as u8))
    }

    /// Whether it is in.
    pub fn has(self, fault: Fault) -> bool {
        self.0 >> fault as u8 & 1 == 1
    }

    /// Those in it, in order.
    pub fn iter(self) -> impl Iterator<Item = Fault> {
        FAULTS.iter().map(|(fault, _)| *fault).filter(move |fault| self.has(*fault))
    }
}

impl fmt::Display for FaultSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.iter().map(Fault::name).collect();
        f.write_str(&names.join(","))
    }
}

/// What is asked of a run: which seed, and how much of what it would draw is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// The seed.
    pub seed: u64,
    /// The range that the number of nodes is drawn from.
    pub nodes: (u64, u64),
    /// Ticks of the part with faults.
    pub ticks: u64,
    /// Faults that are off whatever the seed draws.
    pub without: FaultSet,
}

impl Order {
    /// The ticks that a history has unless something else is asked for: six minutes.
    pub const TICKS: u64 = 3_600;

    /// The usual order for a seed.
    pub fn new(seed: u64) -> Self {
        Order { seed, nodes: (3, 7), ticks: Self::TICKS, without: FaultSet::default() }
    }

    /// The command that runs it again.
    pub fn command(&self) -> String {
        let Order { seed, nodes, ticks, without } = self;
        let mut command = format!(
            "cargo run --release -p tests --bin sim -- --seed {seed} --nodes {}..{} --ticks {ticks}",
            nodes.0, nodes.1
        );
        if *without != FaultSet::default() {
            command += &format!(" --without {without}");
        }
        command
    }
}

/// Everything that a seed decides.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// How many nodes there are; ids from 1.
    pub nodes: u64,
    /// How many of them found the cluster; the others may be added.
    pub founders: u64,
    /// Ticks of the part with faults.
    pub ticks: u64,
    /// The settings that all nodes share; `id`, `applied` and `seed` are each node's own.
    pub config: Config,
    /// Length of a log segment.
    pub segment_bytes: u64,
    /// Entries between two snapshots.
    pub snapshot_every: u64,
    /// Entries kept in the log behind a snapshot.
    pub tail_entries: u64,
    /// While the faults last, a snapshot stays the newest though the configuration has changed since: who is sent it does
    /// not find itself in it.
    pub keeps_outdated: bool,
    /// Milliseconds between two wishes of clients.
    pub client_every_ms: u64,
    /// How many keys there are.
    pub keys: u64,
    /// Longest value.
    pub value_bytes: u64,
    /// A node that was woken waits so long for more input before it works.
    pub gather_ms: u64,
    /// The longest time that a node stays down.
    pub down_ticks_max: u64,
    /// The faults that are on.
    pub faults: FaultSet,
    /// Ticks between two occurrences of a fault, about; for faults of messages: one in so many. A slow housekeeper that is
    /// 0 works only when the log cannot go on without it, one that is 1 sometimes before.
    pub every: [u64; FAULTS.len()],
}

impl Plan {
    /// What the seed decides, within the order.
    pub fn draw(order: &Order) -> Plan {
        let seed = order.seed;
        let (low, high) = order.nodes;
        let nodes = low + Stream::Nodes.of(seed).below(high.saturating_sub(low) + 1);
        let mut faults = FaultSet::default();
        let mut every = [0; FAULTS.len()];
        let mut random = Stream::Faults.of(seed);
        // Some histories are rough, some calm.
        let odds = 2 + random.below(5);
        for (position, (fault, _)) in FAULTS.iter().enumerate() {
            let on = random.below(8) < odds;
            let (from, to) = fault.range();
            every[position] = from + random.below(to - from);
            if on {
                faults = faults.with(*fault);
            }
        }
        let mut random = Stream::Settings.of(seed);
        let config = draw_config(&mut random);
        let lease = config.read_only_option == ReadOnlyOption::LeaseBased;
        if lease {
            // A lease is a promise about clocks: it holds only where they run on, and hardly apart.
            faults = faults.without(Fault::Pause);
            let skew = &mut every[Fault::Skew as usize];
            *skew = LEASE_SKEW_MS.min(*skew);
            if !config.async_storage_writes {
                // A node that waits for its disk does not count its ticks.
                faults = faults.without(Fault::SlowDisk);
            }
        }
        faults = order.without.iter().fold(faults, FaultSet::without);
        let founders = match random.below(3) {
            0 => nodes,
            _ => (1 + random.below(nodes)).max(nodes.min(3)),
        };
        Plan {
            seed,
            nodes,
            founders,
            ticks: order.ticks,
            segment_bytes: [4096, 8192, 16384][random.below(3) as usize],
            snapshot_every: [10, 50, 200][random.below(3) as usize],
            tail_entries: [0, 5, 50][random.below(3) as usize],
            client_every_ms: [30, 100, 300, 1000][random.below(4) as usize],
            keys: 1 + random.below(12),
            value_bytes: [16, 64, 400][random.below(3) as usize],
            gather_ms: [0, 0, 3, 30][random.below(4) as usize],
            down_ticks_max: 1 + [5, 20, 80][random.below(3) as usize],
            keeps_outdated: random.below(2) == 0,
            config,
            faults,
            every,
        }
    }

    /// Whether a fault is on.
    pub fn has(&self, fault: Fault) -> bool {
        self.faults.has(fault)
    }

    /// Its rate.
    pub fn every(&self, fault: Fault) -> u64 {
        self.every[fault as usize]
    }

    /// Whether reads rely on leases.
    pub fn lease(&self) -> bool {
        self.config.read_only_option == ReadOnlyOption::LeaseBased
    }
}

impl Fault {
    /// The range of its rate: ticks between two of them, or one message in so many.
    fn range(self) -> (u64, u64) {
        match self {
            Fault::Loss | Fault::Duplicate => (3, 100),
            Fault::Reorder => (2, 20),
            Fault::Delay => (5, 200),
            Fault::Partition | Fault::OneWay | Fault::Clog => (40, 400),
            Fault::Crash | Fault::Kill | Fault::CrashInWrite => (40, 300),
            Fault::CrashInRecovery => (2, 8),
            Fault::SlowDisk => (1, 10),
            Fault::FailedSync => (100, 500),
            Fault::Pause => (50, 400),
            Fault::Skew => (2, 60),
            Fault::Membership | Fault::Joint => (20, 200),
            Fault::Transfer => (20, 200),
            Fault::Snapshots => (10, 200),
            Fault::Unrest => (50, 500),
            Fault::Rumours => (10, 100),
            Fault::SlowHousekeeper => (0, 2),
        }
    }
}

fn draw_config(random: &mut Random) -> Config {
    let mut config = Config::new(1);
    config.async_storage_writes = random.below(2) == 0;
    config.check_quorum = random.below(4) != 0;
    config.pre_vote = random.below(4) != 0;
    config.step_down_on_removal = random.below(4) != 0;
    config.disable_proposal_forwarding = random.below(8) == 0;
    config.election_tick = [5, 10, 20][random.below(3) as usize];
    config.heartbeat_tick = [1, 1, 2][random.below(3) as usize];
    config.max_size_per_msg = [0, 200, 1 << 20][random.below(3) as usize];
    config.max_committed_size_per_ready = [0, 100, 1 << 20][random.below(3) as usize];
    config.max_uncommitted_entries_size = [0, 300, 4000][random.below(3) as usize];
    config.max_inflight_msgs = [1, 3, 256][random.below(3) as usize];
    config.max_inflight_bytes = [0, 1 << 20][random.below(2) as usize];
    if config.max_size_per_msg == 200 && random.below(2) == 0 {
        config.max_inflight_bytes = 500;
    }
    let lease = random.below(3) == 0;
    if config.check_quorum && lease {
        config.read_only_option = ReadOnlyOption::LeaseBased;
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switching_a_fault_off_changes_nothing_else() {
        for seed in 0..200 {
            let order = Order::new(seed);
            let plan = Plan::draw(&order);
            for fault in plan.faults.iter() {
                let less = Plan::draw(&Order { without: FaultSet::default().with(fault), ..order.clone() });
                assert_eq!(less.faults, plan.faults.without(fault));
                assert_eq!((less.every, less.nodes, &less.config), (plan.every, plan.nodes, &plan.config));
            }
            let fixed = Plan::draw(&Order { nodes: (plan.nodes, plan.nodes), ..order });
            assert_eq!((fixed.nodes, fixed.faults, &fixed.config), (plan.nodes, plan.faults, &plan.config));
            assert!(plan.config.validate().is_ok());
            assert!(plan.founders >= 1 && plan.founders <= plan.nodes);
        }
    }

    #[test]
    fn every_fault_is_drawn_and_has_a_name_of_its_own() {
        let plans: Vec<Plan> = (0..200).map(|seed| Plan::draw(&Order::new(seed))).collect();
        for (position, (fault, name)) in FAULTS.iter().enumerate() {
            assert_eq!(*fault as usize, position);
            assert_eq!(Fault::from_name(name), Some(*fault));
            assert!(plans.iter().any(|plan| plan.has(*fault)) && plans.iter().any(|plan| !plan.has(*fault)));
        }
        assert_eq!(FaultSet::all().iter().count(), FAULTS.len());
    }
}
