//! The zoo: known mistakes, to prove that the project's tests would notice them.
//!
//! `bug!(Name)` marks the place of one, here, in crate `wal`, or in the simulator's user of both. It is `false`, and
//! gone, in everything that is built without `--cfg raft_bug_zoo`, which nothing that ships is. With it, a test lets one
//! mistake loose at a time (`let_loose`).
//!
//! Two classics are missing because they cannot be told from their absence: to commit, and to acknowledge a late append,
//! up to the end of one's own log instead of the end of what was sent (Raft paper, figure 2, AppendEntries 5). Our
//! leaders back off to the very entry where the logs part and not beyond (`RaftLog::find_conflict_by_term`), and an append
//! that a follower takes for the first time in a term is never empty, so it ends whatever the follower has too much.
//! `CommitBeforeTruncate` and `AckOldEnd` are their kin that can do harm.

use crate::config::NO_LIMIT;
use crate::log::Slice;
use crate::pb::ConfChangeV2;
use crate::raft::Raft;
use crate::{ConfChangeKind, Error, Storage};

/// Whether this mistake, or one of these, is made now.
#[cfg(not(raft_bug_zoo))]
macro_rules! bug {
    ($($name:ident)|+) => {
        false
    };
}

/// Whether this mistake, or one of these, is made now.
#[cfg(raft_bug_zoo)]
macro_rules! bug {
    ($($name:ident)|+) => {
        $(crate::zoo::is_loose(crate::zoo::Bug::$name))||+
    };
}

/// Mistakes about when a configuration change comes into force, which is when it is applied.
impl<S: Storage> Raft<S> {
    /// Puts in force the changes in the log from `first` on, which nobody has committed.
    pub(crate) fn change_too_early(&mut self, first: u64) -> Result<(), Error> {
        let Slice::Entries(entries) = self.log.entries_from(first, NO_LIMIT)? else { return Ok(()) };
        for entry in entries.iter().filter(|entry| entry.is_conf_change()) {
            let change = ConfChangeKind::decode(entry)?.into_v2();
            if bug!(LeaveJointWhenProposed) && !change.leave_joint() {
                continue;
            }
            match self.apply_conf_change(&change) {
                Err(error) if error.is_fatal() => return Err(error),
                // One that cannot follow is passed over, now as later.
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether a change that is applied has been in force since it was appended.
    pub(crate) fn is_in_force(&self, change: &ConfChangeV2) -> Result<bool, Error> {
        let is_joint = self.tracker.config.is_joint();
        Ok(if change.leave_joint() { !is_joint } else { is_joint && change.enter_joint()?.is_some() })
    }
}

#[cfg(raft_bug_zoo)]
pub use kept::{is_loose, let_loose, Bug};

#[cfg(raft_bug_zoo)]
mod kept {
    use std::sync::atomic::{AtomicUsize, Ordering};

    macro_rules! bugs {
        ($($(#[$doc:meta])+ $name:ident,)+) => {
            /// A known mistake.
            #[derive(Clone, Copy, Debug, PartialEq, Eq)]
            pub enum Bug { $($(#[$doc])+ $name,)+ }
            impl Bug {
                /// All of them.
                pub const ALL: &'static [Bug] = &[$(Bug::$name,)+];
            }
        };
    }

    bugs! {
        /// A leader commits entries of earlier terms by counting (Raft paper, figure 8).
        CommitOldTerm,
        /// A restarted node does not know whom it voted for.
        ForgetVote,
        /// A restarted node does not know its term.
        ForgetTerm,
        /// A node votes for everybody who asks.
        VoteTwice,
        /// A vote is given without looking at the candidate's log.
        VoteWithoutLogCheck,
        /// A vote is given to the longer log, whatever its last term.
        VoteForLength,
        /// A vote leaves before it is durable.
        VoteBeforeSync,
        /// A candidate counts its own vote before it is durable.
        OwnVoteBeforeSync,
        /// Half of the voters elect.
        HalfElects,
        /// An election inside of a joint change asks the incoming voters only.
        JointElectsOneHalf,
        /// A follower acknowledges entries before they are durable.
        AckBeforeSync,
        /// A leader counts its own entries before they are durable.
        OwnAckBeforeSync,
        /// Half of the voters commit.
        HalfCommits,
        /// A commit inside of a joint change asks the incoming voters only.
        JointCommitsOneHalf,
        /// A learner counts towards commits.
        LearnerCommits,
        /// A follower appends without looking at the entry before.
        SkipLogMatching,
        /// A follower takes every append for the end of the log, also an old one.
        TruncateOnOldAppend,
        /// A follower commits what the leader has committed before it gives up the entries that contradict the leader's.
        CommitBeforeTruncate,
        /// A heartbeat tells the leader's commit index, also to those who lack the entries.
        CommitBeyondMatch,
        /// An append is acknowledged up to where the log ended before it.
        AckOldEnd,
        /// A snapshot that brings nothing is acknowledged up to the end of the log.
        AckWholeLogForSnapshot,
        /// A rejection is taken for an acknowledgement.
        RejectionAcknowledges,
        /// Messages of terms gone by are taken as if they were new.
        TakeOldTerms,
        /// A new leader does not expect a configuration change in its log's tail.
        ForgetPendingChange,
        /// Configuration changes are not kept apart.
        TwoChangesAtOnce,
        /// A leader puts a configuration change in force when it appends it.
        ChangeWhenAppended,
        /// Every node puts a configuration change in force when it appends it, as in the paper, but none goes back when
        /// the entry is replaced.
        ChangeNotTakenBack,
        /// A leader leaves a joint configuration as soon as it has proposed the way out.
        LeaveJointWhenProposed,
        /// A node that starts, or takes over a snapshot, in the middle of a joint change knows the incoming voters only.
        RestoreOneHalf,
        /// A node campaigns though it has not applied a configuration change that it knows to be committed: under a
        /// configuration that is over.
        CampaignBeforeChange,
        /// A read is answered without asking a quorum.
        ReadWithoutQuorum,
        /// A read is answered before the leader has committed in its term.
        ReadBeforeFirstCommit,
        /// The echo of an early heartbeat confirms all later reads.
        OldEchoConfirms,
        /// Entries are applied that are not committed.
        ApplyUncommitted,
        /// Committed entries are handed out twice.
        ApplyTwice,
        /// Entries that replace others which are being written are not written.
        ReplacedEntriesNotWritten,
        /// The word of an old term that entries are durable is believed (asynchronous storage).
        BelieveOldStorage,
        /// A received snapshot does not reach the disk.
        SnapshotNotWritten,
        /// A changed vote is not written.
        VoteNotWritten,
        /// A leader that was once sure of its lease stays sure of it.
        LeaseNeverEnds,
        /// A lease outlives a transfer of leadership.
        LeaseOutlivesTransfer,
        /// Who promised a leader not to help others does not keep to it.
        ForgetPromise,
        /// Who promised a leader not to help others votes all the same once another message has raised its term.
        PromiseEndsWithTerm,
        /// A received snapshot counts as one entry less than it holds, and its last index is used again.
        ReuseSnapshotIndex,
        /// The log (crate `wal`) takes damage to what was acknowledged for the end of the log.
        DamageIsTorn,
        /// The log does not look at the checksums of records.
        ChecksumsIgnored,
        /// The log goes on before the remains of a torn batch, and leaves them where they are.
        TornTailLeft,
        /// The application (the simulator's, as are those below) takes a write for durable before the sync.
        JournalSkipsSync,
        /// The application does not sync a changed vote that comes without entries.
        JournalVoteNotSynced,
        /// The application has the log record a snapshot before the snapshot file is there.
        JournalRecordsSnapshotFirst,
        /// The application lets its append thread answer before it has written (asynchronous storage).
        AppendThreadAnswersFirst,
    }

    static LOOSE: AtomicUsize = AtomicUsize::new(usize::MAX);

    /// Whether this mistake is made now.
    pub fn is_loose(bug: Bug) -> bool {
        LOOSE.load(Ordering::Relaxed) == bug as usize
    }

    /// From here on, all nodes of this process make this mistake and no other; or none.
    pub fn let_loose(bug: Option<Bug>) {
        LOOSE.store(bug.map_or(usize::MAX, |bug| bug as usize), Ordering::Relaxed);
    }
}
