//! The zoo: known mistakes, to prove that the project's tests would notice them.
//!
//! `bug!(Name)` marks the place of one. It is `false`, and gone, in everything that is built without
//! `--cfg raft_bug_zoo`, which nothing that ships is. With it, a test lets one mistake loose at a time (`let_loose`).

/// Whether this mistake is made now.
#[cfg(not(raft_bug_zoo))]
macro_rules! bug {
    ($name:ident) => {
        false
    };
}

/// Whether this mistake is made now.
#[cfg(raft_bug_zoo)]
macro_rules! bug {
    ($name:ident) => {
        crate::zoo::is_loose(crate::zoo::Bug::$name)
    };
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
        /// A follower commits what the leader has committed, also beyond what it was sent.
        CommitBeyondAppend,
        /// A heartbeat tells the leader's commit index, also to those who lack the entries.
        CommitBeyondMatch,
        /// A late append is acknowledged up to the end of the log.
        AckWholeLog,
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
