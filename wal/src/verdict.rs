//! The tables of verdicts: what can be observed, and what follows from it.
//!
//! [`admit`] says of each file whether it belongs to the log, by its name, its place among the others and whether it was
//! ever begun; [`judge`] says how a segment that belongs to it ends. For each of the possible combinations there is exactly
//! one verdict; the compiler checks that none is missing, and tests enumerate them all: the second table against the proofs
//! that [`mod@crate::recovery`] names, the first one in `tests/file_sets.rs` with every set of files that a few segments can
//! leave. Nothing else in the crate decides to cut or to drop. What else is refused needs no table: a place that the disk
//! fails to read, a `.wal` with a name that is none, and entries that go on from nothing that is known.

/// How the file is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Name {
    /// `.wal`: its first batch was synced.
    Published,
    /// `.next`: prepared, perhaps begun.
    Prepared,
}

/// Where a file stands among those that were admitted before it: all published ones in order, then the prepared ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    /// There is none before it.
    First,
    /// It has the next sequence.
    Next,
    /// The log has gone past its sequence.
    Passed,
    /// Sequences are missing before it.
    Apart,
}

/// What is in a file, as far as that bears on whether it belongs to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Holds {
    /// A sound header, and of a prepared one a first batch; of the very first one more than that.
    Begun,
    /// Nothing that was ever acknowledged.
    Nothing,
    /// Neither is certain: [`judge`] refuses it.
    Unclear,
    /// What another version of the format has written: not ours to say.
    OtherVersion,
}

/// Whether a file belongs to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Membership {
    /// It does.
    Joins,
    /// It may be removed.
    Goes,
    /// It must, but it cannot be read.
    Unreadable,
    /// Leave everything as it is: files before it are missing.
    Gap,
    /// Leave everything as it is: another file has its place.
    Doubled,
    /// Leave everything as it is: the only file, in use, and its final name is gone.
    NameLost,
}

/// The table of files. Total, like [`judge`].
pub(crate) fn admit(name: Name, place: Place, holds: Holds) -> Membership {
    match (place, name, holds) {
        // Whatever else is the matter: that program is needed.
        (_, _, Holds::OtherVersion) => Membership::Unreadable,
        (Place::Apart, _, _) => Membership::Gap,
        (Place::Passed, Name::Prepared, Holds::Nothing) => Membership::Goes,
        (Place::Passed, _, _) => Membership::Doubled,
        // Creation gives the first segment its final name before it reports success.
        (Place::First, Name::Prepared, Holds::Nothing) => Membership::Goes,
        (Place::First, Name::Prepared, Holds::Begun) => Membership::NameLost,
        (Place::Next, Name::Prepared, Holds::Nothing) => Membership::Goes,
        (Place::First | Place::Next, Name::Published, Holds::Nothing) => Membership::Unreadable,
        (Place::First | Place::Next, _, Holds::Unclear) => Membership::Unreadable,
        (Place::First | Place::Next, Name::Published, Holds::Begun) => Membership::Joins,
        (Place::Next, Name::Prepared, Holds::Begun) => Membership::Joins,
    }
}

/// What the segment header turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Head {
    /// Valid and in the right place.
    Sound,
    /// Zeros.
    Blank,
    /// Neither.
    Broken,
    /// Valid, of another format version.
    OtherVersion,
    /// Valid, but of another file: name, length or identity differ.
    Misplaced,
}

/// Whether a later segment vouches for this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Role {
    /// The next segment has begun and says where this one ends.
    Sealed,
    /// There is no next segment, or none that has begun.
    Last,
}

/// Where the walk from batch to batch came to an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Stop {
    /// Exactly where, and with the checksum that, the next segment says.
    AtSeal,
    /// At zeros, or at the end of the file.
    Blank,
    /// At a mark.
    Mark,
    /// At a mark that says there is a next segment.
    SealMark,
    /// At bytes that are no valid batch.
    Broken,
    /// At a valid batch that does not follow the one before it.
    Unchained,
    /// In a valid batch whose records contradict the log or are of unknown kind.
    Nonsense,
}

/// What stands behind the place where the walk stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Ahead {
    /// Zeros only.
    Nothing,
    /// Bytes that prove nothing.
    Debris,
    /// A valid batch header which says that the place had been synced.
    Proof,
}

/// Everything that bears on the verdict about one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Observation {
    pub(crate) name: Name,
    pub(crate) head: Head,
    pub(crate) role: Role,
    /// Whether not even the first batch could be read.
    pub(crate) at_first_batch: bool,
    pub(crate) stop: Stop,
    pub(crate) ahead: Ahead,
    /// Whether what was read still reaches the hard state's commit and the newest recorded snapshot.
    pub(crate) reaches_commit: bool,
}

/// What to do with a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Verdict {
    /// Whole; goes on in the next one.
    Sealed,
    /// Whole; the log goes on here.
    Live,
    /// What follows the place was never acknowledged: leave it, and go on in the next segment.
    TornTail,
    /// Never acknowledged at all: remove the file.
    Discard,
    /// Leave everything as it is and say why.
    Refuse(Reason),
}

/// Why a log is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Reason {
    OtherVersion,
    Misplaced,
    HeaderDamaged,
    FirstBatchDamaged,
    SealedDamaged,
    AcknowledgedDamaged,
    Unchained,
    Nonsense,
    NextSegmentMissing,
    CommitOutOfReach,
    /// The observation contradicts itself. Cannot come about; refused all the same.
    Impossible,
}

/// The table. Total: the compiler checks that every combination is matched, a test that each verdict is right.
pub(crate) fn judge(seen: &Observation) -> Verdict {
    use Verdict::{Discard, Live, Refuse, TornTail};
    if bug!(DamageIsTorn) && seen.ahead == Ahead::Proof {
        return judge(&Observation { ahead: Ahead::Debris, ..*seen });
    }
    match (seen.head, seen.name) {
        (Head::OtherVersion, _) => Refuse(Reason::OtherVersion),
        // No crash leaves that, whatever the file is called: a header is stored when the file has its length and its place.
        (Head::Misplaced, _) => Refuse(Reason::Misplaced),
        (Head::Blank | Head::Broken, Name::Published) => Refuse(Reason::HeaderDamaged),
        (Head::Blank | Head::Broken, Name::Prepared) => match (seen.role, seen.ahead) {
            (Role::Sealed, _) | (_, Ahead::Proof) => Refuse(Reason::HeaderDamaged),
            (Role::Last, Ahead::Nothing | Ahead::Debris) => Discard,
        },
        (Head::Sound, name) => match (seen.role, seen.stop) {
            (Role::Sealed, Stop::AtSeal) if !seen.at_first_batch => Verdict::Sealed,
            (Role::Sealed, _) => Refuse(Reason::SealedDamaged),
            (Role::Last, Stop::AtSeal) => Refuse(Reason::Impossible),
            (Role::Last, Stop::Unchained) => Refuse(Reason::Unchained),
            (Role::Last, Stop::Nonsense) => Refuse(Reason::Nonsense),
            (Role::Last, Stop::SealMark) => Refuse(Reason::NextSegmentMissing),
            (Role::Last, Stop::Blank | Stop::Mark | Stop::Broken) => match (seen.ahead, seen.at_first_batch, name) {
                (Ahead::Proof, _, _) => Refuse(Reason::AcknowledgedDamaged),
                (_, true, Name::Published) => Refuse(Reason::FirstBatchDamaged),
                (_, true, Name::Prepared) => Discard,
                (_, false, _) if !seen.reaches_commit => Refuse(Reason::CommitOutOfReach),
                (Ahead::Nothing, false, _) if seen.stop != Stop::Broken => Live,
                (Ahead::Nothing | Ahead::Debris, false, _) => TornTail,
            },
        },
    }
}

#[cfg(test)]
mod tests {
    use super::Ahead::Proof;
    use super::*;

    fn every_observation() -> Vec<Observation> {
        let mut all = Vec::new();
        for name in [Name::Published, Name::Prepared] {
            for head in [Head::Sound, Head::Blank, Head::Broken, Head::OtherVersion, Head::Misplaced] {
                for role in [Role::Sealed, Role::Last] {
                    for at_first_batch in [false, true] {
                        for stop in [
                            Stop::AtSeal,
                            Stop::Blank,
                            Stop::Mark,
                            Stop::SealMark,
                            Stop::Broken,
                            Stop::Unchained,
                            Stop::Nonsense,
                        ] {
                            for ahead in [Ahead::Nothing, Ahead::Debris, Ahead::Proof] {
                                for reaches_commit in [false, true] {
                                    all.push(Observation {
                                        name,
                                        head,
                                        role,
                                        at_first_batch,
                                        stop,
                                        ahead,
                                        reaches_commit,
                                    });
                                }
                            }
                        }
                    }
                }
            }
        }
        all
    }

    /// The proofs of the module's essay, said independently of the table: something that had been acknowledged is not
    /// readable, or the files contradict each other.
    fn is_proven_damage(seen: &Observation) -> bool {
        let readable = seen.head == Head::Sound;
        let successor_says_more =
            seen.role == Role::Sealed && (!readable || seen.stop != Stop::AtSeal || seen.at_first_batch);
        let later_header_says_more = seen.role == Role::Last && seen.ahead == Proof && seen.head != Head::OtherVersion;
        let final_name_says_more =
            seen.name == Name::Published && (!readable || (seen.role == Role::Last && seen.at_first_batch));
        let contradiction = readable
            && seen.role == Role::Last
            && matches!(seen.stop, Stop::Unchained | Stop::Nonsense | Stop::SealMark | Stop::AtSeal);
        let of_another_file = seen.head == Head::Misplaced;
        successor_says_more || later_header_says_more || final_name_says_more || contradiction || of_another_file
    }
    #[test]
    fn each_of_all_combinations_has_the_one_verdict_that_its_proofs_allow() {
        let all = every_observation();
        assert_eq!(all.len(), 2 * 5 * 2 * 2 * 7 * 3 * 2);
        let mut counts = std::collections::BTreeMap::new();
        for seen in &all {
            let verdict = judge(seen);
            let refused = matches!(verdict, Verdict::Refuse(_));
            let other_version = seen.head == Head::OtherVersion;
            let would_cut_commit =
                seen.head == Head::Sound && seen.role == Role::Last && !seen.at_first_batch && !seen.reaches_commit;
            assert_eq!(refused, is_proven_damage(seen) || other_version || would_cut_commit, "{seen:?}: {verdict:?}");
            match verdict {
                Verdict::Sealed => assert!(seen.role == Role::Sealed && seen.stop == Stop::AtSeal, "{seen:?}"),
                Verdict::Live => assert!(
                    seen.head == Head::Sound && seen.ahead == Ahead::Nothing && seen.stop != Stop::Broken,
                    "{seen:?}"
                ),
                Verdict::TornTail => assert!(
                    seen.head == Head::Sound && (seen.ahead == Ahead::Debris || seen.stop == Stop::Broken),
                    "{seen:?}"
                ),
                Verdict::Discard => assert!(seen.name == Name::Prepared && seen.role == Role::Last, "{seen:?}"),
                Verdict::Refuse(_) => {}
            }
            let kind = format!("{verdict:?}");
            *counts.entry(kind.split('(').next().unwrap_or_default().to_owned()).or_insert(0) += 1;
        }
        println!("verdicts over {} combinations: {counts:?}", all.len());
        assert!(counts.len() == 5, "every verdict is reachable: {counts:?}");
    }

    /// The first table's rule, said the other way round: what each verdict needs.
    #[test]
    fn each_file_has_the_one_membership_that_its_place_and_contents_allow() {
        let mut counts = std::collections::BTreeMap::new();
        for name in [Name::Published, Name::Prepared] {
            for place in [Place::First, Place::Next, Place::Passed, Place::Apart] {
                for holds in [Holds::Begun, Holds::Nothing, Holds::Unclear, Holds::OtherVersion] {
                    let verdict = admit(name, place, holds);
                    let (prepared, fits) = (name == Name::Prepared, matches!(place, Place::First | Place::Next));
                    let case = format!("{name:?} {place:?} {holds:?}: {verdict:?}");
                    assert_eq!(
                        verdict == Membership::Goes,
                        prepared && holds == Holds::Nothing && place != Place::Apart,
                        "only what holds nothing and never had its final name may go: {case}"
                    );
                    assert_eq!(
                        verdict == Membership::Joins,
                        fits && holds == Holds::Begun && !(prepared && place == Place::First),
                        "only what has begun, where it belongs: {case}"
                    );
                    let expected = match verdict {
                        Membership::Goes | Membership::Joins => true,
                        Membership::Gap => place == Place::Apart,
                        Membership::Doubled => place == Place::Passed,
                        Membership::NameLost => prepared && place == Place::First && holds == Holds::Begun,
                        Membership::Unreadable => holds == Holds::OtherVersion || fits && holds != Holds::Begun,
                    };
                    assert!(expected && (holds != Holds::OtherVersion || verdict == Membership::Unreadable), "{case}");
                    *counts.entry(format!("{verdict:?}")).or_insert(0) += 1;
                }
            }
        }
        assert_eq!((counts.values().sum::<i32>(), counts.len()), (2 * 4 * 4, 6), "{counts:?}");
    }
}
