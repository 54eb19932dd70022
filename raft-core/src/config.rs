//! What a node is told at its start.
//!
//! Defaults are the safe ones: two-phase elections, leases and step-down are on, and every queue has a limit.
//! etcd has them off; `DIVERGENCE.md` lists each difference. Nothing here changes while a node runs.

use crate::error::Error;

/// No node: nobody was voted for, no leader is known.
pub const NONE: u64 = 0;
/// The pseudo node that appends to storage, when storage writes are asynchronous.
pub const LOCAL_APPEND_THREAD: u64 = u64::MAX;
/// The pseudo node that applies committed entries, when storage writes are asynchronous.
pub const LOCAL_APPLY_THREAD: u64 = u64::MAX - 1;
/// A byte limit that limits nothing.
pub const NO_LIMIT: u64 = u64::MAX;

/// How a leader makes sure that a read is not stale (Raft thesis §6.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ReadOnlyOption {
    /// It asks a quorum, by one round of heartbeats that all waiting reads share.
    #[default]
    Safe,
    /// It trusts its lease: for nine tenths of an election timeout after a round of heartbeats that a quorum answered, it
    /// asks nobody; otherwise as `Safe`. Never stale while ticks of no two nodes differ in length by more than a ninth,
    /// and nodes that stood still are given the ticks that they missed before anything else. Needs `check_quorum`, and
    /// all nodes of a cluster to have it on. A node that starts again keeps out of elections for an election timeout.
    LeaseBased,
}

/// The settings of one node (etcd `raft.go`, `Config`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Config {
    /// The node's own id: unique in the cluster for all times, not 0 and not one of the two local threads'.
    pub id: u64,
    /// Election timeout in ticks, > `heartbeat_tick`. The actual timeout is drawn anew from `[n, 2n - 1]` each time.
    pub election_tick: usize,
    /// Ticks between a leader's heartbeats, > 0.
    pub heartbeat_tick: usize,
    /// The index up to which the application has applied already; entries up to there are not handed out again.
    pub applied: u64,
    /// Storage work leaves as messages to the two local threads instead of through [`Ready`](crate::Ready)'s fields.
    pub async_storage_writes: bool,
    /// Limit of the encoded entries in one MsgApp; one entry always passes. 0 means one entry a message.
    pub max_size_per_msg: u64,
    /// Limit of the encoded entries handed out for applying and not yet acknowledged. 0 means `max_size_per_msg`.
    pub max_committed_size_per_ready: u64,
    /// Limit of the payload bytes that a leader holds uncommitted; further proposals are dropped. 0 means none.
    pub max_uncommitted_entries_size: u64,
    /// How many MsgApps may be unacknowledged per follower, > 0.
    pub max_inflight_msgs: usize,
    /// How many payload bytes may be unacknowledged per follower; 0 means no limit, else ≥ `max_size_per_msg`.
    pub max_inflight_bytes: u64,
    /// A leader that does not hear from a quorum for an election timeout steps down, and a node that hears from a
    /// leader does not help to depose it.
    pub check_quorum: bool,
    /// A node asks whether it could win before it raises its term (Raft thesis §9.6).
    pub pre_vote: bool,
    /// How reads are made linearizable.
    pub read_only_option: ReadOnlyOption,
    /// Followers drop proposals instead of forwarding them to the leader.
    pub disable_proposal_forwarding: bool,
    /// Configuration changes are appended without the checks at proposal time. For tests of what follows from that.
    pub disable_conf_change_validation: bool,
    /// A leader that is removed or demoted becomes a follower when it applies that change.
    pub step_down_on_removal: bool,
    /// Where the randomness of election timeouts comes from. Two runs with equal seeds and inputs are equal; nodes of
    /// one cluster may share a seed, their ids keep them apart.
    pub seed: u64,
}

impl Config {
    /// Safe settings for the node `id`: ten ticks to an election, 1 MiB messages, 16 MiB in flight per follower,
    /// 256 MiB uncommitted.
    pub fn new(id: u64) -> Self {
        const MIB: u64 = 1 << 20;
        Config {
            id,
            election_tick: 10,
            heartbeat_tick: 1,
            applied: 0,
            async_storage_writes: false,
            max_size_per_msg: MIB,
            max_committed_size_per_ready: 16 * MIB,
            max_uncommitted_entries_size: 256 * MIB,
            max_inflight_msgs: 256,
            max_inflight_bytes: 16 * MIB,
            check_quorum: true,
            pre_vote: true,
            read_only_option: ReadOnlyOption::Safe,
            disable_proposal_forwarding: false,
            disable_conf_change_validation: false,
            step_down_on_removal: true,
            seed: 0,
        }
    }

    /// Checks what each field and their combinations must fulfil.
    ///
    /// # Errors
    /// [`Error::Config`] names the first field that does not.
    pub fn validate(&self) -> Result<(), Error> {
        let bad = |what: &str| Err(Error::Config(what.to_string()));
        if self.id == NONE || is_local_thread(self.id) {
            return bad("id must not be 0 nor one of the two highest numbers, which stand for local threads");
        }
        if self.heartbeat_tick == 0 {
            return bad("heartbeat_tick must be greater than 0");
        }
        if self.election_tick <= self.heartbeat_tick {
            return bad("election_tick must be greater than heartbeat_tick");
        }
        if self.max_inflight_msgs == 0 {
            return bad("max_inflight_msgs must be greater than 0");
        }
        if self.max_inflight_bytes != 0 && self.max_inflight_bytes < self.max_size_per_msg {
            return bad("max_inflight_bytes must be 0 or at least max_size_per_msg");
        }
        if self.read_only_option == ReadOnlyOption::LeaseBased && !self.check_quorum {
            return bad("check_quorum must be on when read_only_option is LeaseBased");
        }
        Ok(())
    }

    /// The limit on what is being applied, in encoded bytes. Never 0: that would be reached by nothing at all, and
    /// nothing would ever be applied.
    pub(crate) fn max_applying_bytes(&self) -> u64 {
        match self.max_committed_size_per_ready {
            0 => self.max_size_per_msg.max(1),
            limit => limit,
        }
    }
}

/// `0` means "no limit" in the settings that say so.
pub(crate) fn limit_or_none(limit: u64) -> u64 {
    if limit == 0 {
        NO_LIMIT
    } else {
        limit
    }
}

/// Whether `id` stands for one of the two storage threads.
#[inline]
pub fn is_local_thread(id: u64) -> bool {
    id == LOCAL_APPEND_THREAD || id == LOCAL_APPLY_THREAD
}
