//! Places that a run must have been at: what is never reached is not tested, however many seeds ran.
//!
//! Each [`Mark`](Place) is set where the simulator *sees* that something happened, in messages, states, recoveries, so
//! the crates under test carry none of it. A run of the size of CI must set every one; those that are missing are
//! listed by name. [`sometimes!`](crate::sometimes) sets one if its condition holds.

/// Declares the places.
macro_rules! places {
    ($($name:ident: $text:literal,)*) => {
        /// A place that a run must reach.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum Place {
            $(#[doc = $text] $name,)*
        }

        /// All of them.
        pub const PLACES: &[(Place, &str, &str)] = &[$((Place::$name, stringify!($name), $text),)*];
    };
}

places! {
    // Elections.
    ElectionWon: "a candidate won",
    ElectionLost: "a candidate became a follower of its own term without a leader",
    ElectionTimedOut: "a candidate ran out of time and tried again",
    ElectionOvertaken: "a candidate met a leader, or a higher term",
    PreVoteWon: "a pre-candidate became a candidate",
    PreVoteLost: "a pre-candidate gave up",
    VoteGranted: "a vote was granted",
    VoteRefused: "a vote was refused",
    VoteIgnoredInLease: "a request for a vote was ignored because a leader was heard lately",
    LeaderSteppedDown: "a leader became a follower of its own term",
    LeaderDeposed: "a leader became a follower of a later term",
    LeaderOfJoint: "a leader was elected in a joint configuration",
    SingleVoterLeads: "a leader was its only voter",
    LearnerGrantedVote: "a node that is no voter in its own configuration granted a vote",
    // Transfers.
    TransferDone: "leadership went to the one it was meant for",
    TransferGivenUp: "a leader gave up a transfer and led on",
    TransferDroppedProposal: "a proposal was dropped because of a transfer",
    // Replication.
    AppendRefused: "a follower refused an append",
    EntriesReplaced: "a follower's entries were replaced by a leader's",
    DurableEntriesReplaced: "entries that had been synced were replaced",
    OldTermCommitted: "a leader committed an entry of an earlier term",
    ProgressProbe: "a follower was probed",
    ProgressSnapshot: "a follower waited for a snapshot",
    WindowFull: "a follower's window was full",
    QuotaFull: "a proposal was dropped because too much was uncommitted",
    ProposalWithoutLeader: "a proposal was dropped because there was no leader",
    ProposalForwarded: "a proposal went through a follower and was committed",
    CommitPaged: "committed entries were handed out in pages",
    QueueFull: "a message was lost because too many waited for its receiver",
    // Storage.
    StaleStorageReport: "a storage thread reported on a term that was over",
    ApplyBeforeSync: "an asynchronous node applied while entries were being written",
    SyncSlow: "a node waited for its disk",
    SyncFailed: "a node stopped because its disk failed",
    DiskFailureSurvived: "a call to the disk failed and the node could go on",
    SegmentRotated: "a log went on in another segment",
    SegmentPurged: "a log's oldest segment was removed",
    HousekeeperBehind: "a log's housekeeper had two pieces of work before it, or more",
    // Recovery.
    RecoveredFresh: "a node that had written nothing started anew",
    RecoveredAll: "a crash lost nothing that was written",
    RecoveredLess: "a crash lost what had not been synced",
    RecoveredMore: "what had not been acknowledged survived a crash",
    RecoveredTorn: "a torn tail was passed over",
    RecoveredWithSnapshot: "a node started from a snapshot",
    RecoveredWithoutEntries: "a node started from a snapshot with nothing behind it",
    RecoveredCommitBehind: "a node came back with a lower commit index",
    RecoveredMidJoint: "a node came back inside a joint configuration",
    RecoveryCrashed: "a node crashed while it recovered",
    RecoveryFailed: "a disk failed while a node read it, and the node tried again later",
    SnapshotFileWithoutRecord: "a snapshot was written, and the crash came before the log knew",
    // Snapshots.
    SnapshotTaken: "a node took a snapshot",
    SnapshotSent: "a leader sent a snapshot",
    SnapshotInstalled: "a follower took over a snapshot",
    SnapshotIgnored: "a follower had no use for a snapshot",
    SnapshotFastForward: "a snapshot told a follower only what was committed",
    SnapshotLost: "a snapshot was lost on its way",
    SnapshotReset: "a snapshot replaced entries that were there",
    // Membership.
    ConfSimple: "one voter was added or removed",
    ConfJointEntered: "a joint configuration was entered",
    ConfJointLeft: "a joint configuration was left",
    ConfAutoLeft: "a leader left a joint configuration of itself",
    ConfRefusedPending: "a change was refused because another was pending",
    ConfRefusedJoint: "a change was refused inside a joint configuration",
    ConfRefusedNotJoint: "a way out was refused where there was no joint configuration",
    ConfNotApplied: "a committed change could not follow and was passed over",
    LearnerPromoted: "a learner became a voter",
    VoterDemoted: "a voter became a learner",
    LeaderRemoved: "a leader was removed",
    NewcomerCaughtUp: "a node that was no founder applied something",
    // Reads.
    ReadServed: "a read was served",
    ReadServedByFollower: "a follower served a read",
    ReadWaited: "a read waited for entries to be applied",
    ReadDropped: "a read was dropped with its leader",
    // The end.
    Recovered: "the cluster served again",
    RecoveredAtOnce: "the cluster served again within two election timeouts",
    RecoveredSlowly: "it took longer than ten election timeouts",
}

/// How often each place was reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marks([u64; PLACES.len()]);

impl Default for Marks {
    fn default() -> Self {
        Marks([0; PLACES.len()])
    }
}

impl Marks {
    /// The place was reached.
    pub fn set(&mut self, place: Place) {
        self.0[place as usize] += 1;
    }

    /// How often it was.
    pub fn count(&self, place: Place) -> u64 {
        self.0[place as usize]
    }

    /// Adds another run's.
    pub fn add(&mut self, other: &Marks) {
        for (own, other) in self.0.iter_mut().zip(other.0) {
            *own += other;
        }
    }

    /// The names of the places that were not reached, with what they mean.
    pub fn missing(&self) -> Vec<String> {
        let unset = PLACES.iter().filter(|(place, _, _)| self.count(*place) == 0);
        unset.map(|(_, name, text)| format!("{name} ({text})")).collect()
    }
}

/// Marks a place if the condition holds.
#[macro_export]
macro_rules! sometimes {
    ($marks:expr, $place:ident) => {
        $marks.set($crate::sim::marks::Place::$place)
    };
    ($marks:expr, $place:ident, $condition:expr) => {
        if $condition {
            $marks.set($crate::sim::marks::Place::$place)
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_reached_is_named() {
        let mut marks = Marks::default();
        assert_eq!(marks.missing().len(), PLACES.len());
        for (position, (place, _, _)) in PLACES.iter().enumerate() {
            assert_eq!(*place as usize, position);
            sometimes!(marks, SnapshotReset, *place == Place::SnapshotReset);
            if *place != Place::SnapshotReset {
                marks.set(*place);
            }
        }
        assert_eq!(marks.missing(), Vec::<String>::new());
        let mut fewer = Marks::default();
        sometimes!(fewer, ReadServed);
        assert!(fewer.missing().iter().all(|name| !name.starts_with("ReadServed (")));
        fewer.add(&marks);
        assert_eq!(fewer.count(Place::ReadServed), 2);
    }
}
