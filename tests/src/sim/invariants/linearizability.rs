//! Linearizability, by the order of the log: every acknowledged write has one place in it, after all that was finished
//! before it began; every read shows the state at a place that is not before anything finished before it began. Herlihy
//! and Wing 1990; Raft paper §8; thesis §6.3 and §6.4.
//!
//! Because the log is the order, nothing has to be searched for: the check costs a constant per operation. That the log
//! is the same for all is the business of other invariants.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::{ensure, Verdict};

const NAME: &str = "linearizability";

/// What a write leaves behind under its key: a value, or nothing.
type Left = Option<Bytes>;

/// See the module.
#[derive(Debug, Default)]
pub struct Linearizability {
    /// Everything up to here was finished: acknowledged to a writer, or shown to a reader.
    finished: u64,
    /// Writes that were refused: they must never come up.
    refused: BTreeSet<u64>,
    /// write → its place in the log.
    places: BTreeMap<u64, u64>,
    /// key → what it held from which place on.
    versions: BTreeMap<Bytes, Vec<(u64, Left)>>,
    /// The last place that was told.
    last: u64,
    /// Operations that were checked.
    checked: u64,
}

impl Linearizability {
    /// An operation begins: it must not end before this.
    pub fn begins(&self) -> u64 {
        self.finished
    }

    /// A write was refused, with the promise that it will never happen.
    pub fn refused(&mut self, write: u64) {
        self.refused.insert(write);
    }

    /// The log has this write at `index`. Told by every node that applies it.
    pub fn placed(&mut self, write: u64, index: u64, key: &Bytes, left: Left) -> Verdict {
        if index <= self.last {
            let place = self.places.get(&write).copied();
            return ensure(NAME, place == Some(index), || format!("write {write} is at {place:?} and at {index}"));
        }
        ensure(NAME, !self.refused.contains(&write), || format!("write {write} was refused and is at {index}"))?;
        self.last = index;
        let before = self.places.insert(write, index);
        ensure(NAME, before.is_none(), || format!("write {write} is in the log twice, at {before:?} and {index}"))?;
        let versions = match self.versions.get_mut(key) {
            Some(versions) => versions,
            None => self.versions.entry(Bytes::copy_from_slice(key)).or_default(),
        };
        versions.push((index, left));
        Ok(())
    }

    /// A write that began when everything up to `begun` was finished is acknowledged.
    pub fn acknowledged(&mut self, write: u64, begun: u64) -> Verdict {
        self.checked += 1;
        let place = self.places.get(&write).copied().unwrap_or(0);
        ensure(NAME, place > begun, || {
            format!("write {write} is acknowledged at {place}; {begun} was finished before it began")
        })?;
        self.finished = self.finished.max(place);
        Ok(())
    }

    /// A read that began when everything up to `begun` was finished shows `value`, in the state as of `index`.
    pub fn read(&mut self, key: &[u8], value: Option<&Bytes>, index: u64, begun: u64) -> Verdict {
        self.checked += 1;
        ensure(NAME, index >= begun, || {
            format!("a read shows the state as of {index}; {begun} was finished before it began")
        })?;
        let expected = self.versions.get(key).and_then(|versions| {
            let position = versions.partition_point(|(place, _)| *place <= index).checked_sub(1)?;
            versions.get(position).and_then(|(_, left)| left.as_ref())
        });
        ensure(NAME, value == expected, || format!("a read as of {index} shows {value:?}, the log says {expected:?}"))?;
        self.finished = self.finished.max(index);
        Ok(())
    }

    /// How many operations were checked.
    pub fn checked(&self) -> u64 {
        self.checked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Bytes = Bytes::from_static(b"k");

    fn value(text: &'static str) -> Left {
        Some(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn a_stale_read_is_found() {
        let mut history = Linearizability::default();
        assert_eq!(history.placed(1, 5, &KEY, value("a")), Ok(()));
        assert_eq!(history.placed(2, 7, &KEY, value("b")), Ok(()));
        assert_eq!(history.acknowledged(2, 0), Ok(()));
        let begun = history.begins();
        assert!(history.read(b"k", value("a").as_ref(), 6, begun).is_err(), "after 7 was acknowledged");
        assert_eq!(history.read(b"k", value("a").as_ref(), 6, 0), Ok(()), "begun before");
        assert!(history.read(b"k", value("a").as_ref(), 8, begun).is_err(), "a value that was overwritten");
        assert!(history.read(b"k", None, 8, begun).is_err(), "a lost write");
        assert_eq!(history.read(b"k", value("b").as_ref(), 9, begun), Ok(()));
        assert!(history.read(b"k", value("b").as_ref(), 8, history.begins()).is_err(), "before an earlier read");
        assert_eq!(history.checked(), 7);
    }

    #[test]
    fn lost_doubled_and_reordered_writes_are_found() {
        let mut history = Linearizability::default();
        assert!(history.acknowledged(1, 0).is_err(), "it is nowhere");
        assert_eq!(history.placed(2, 5, &KEY, None), Ok(()));
        assert_eq!(history.placed(2, 5, &KEY, None), Ok(()), "another node applies it");
        assert!(history.placed(2, 8, &KEY, None).is_err(), "twice");
        history.refused(4);
        assert!(history.placed(4, 8, &KEY, None).is_err(), "it was refused");
        assert_eq!(history.placed(3, 9, &KEY, None), Ok(()));
        assert_eq!(history.acknowledged(3, 0), Ok(()));
        assert!(history.acknowledged(2, history.begins()).is_err(), "it began after 9 was acknowledged, and is at 5");
    }
}
