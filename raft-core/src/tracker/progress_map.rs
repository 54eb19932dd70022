//! The progress of each member, by id: an ordered map that is made for few members.
//!
//! A leader looks members up several times for each message, and a cluster has three or five of them for months. In a
//! sorted vector they lie side by side, and to find one takes half of what a tree takes. It reads like the
//! standard library's `BTreeMap`, and keeps its promise: always in ascending order of ids.
//!
//! Left out: removing while iterating, ranges, and whatever else nobody needs.

use super::Progress;

/// One [`Progress`] per member, in ascending order of ids.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ProgressMap {
    /// `members[i].0 < members[i + 1].0`
    members: Vec<(u64, Progress)>,
}

impl ProgressMap {
    /// No members.
    pub const fn new() -> Self {
        ProgressMap { members: Vec::new() }
    }

    /// Where `id` is, or where it would have to be.
    #[inline]
    fn position(&self, id: u64) -> Result<usize, usize> {
        self.members.binary_search_by_key(&id, |(member, _)| *member)
    }

    /// What is known about a member.
    #[inline]
    pub fn get(&self, id: &u64) -> Option<&Progress> {
        let (_, progress) = self.members.get(self.position(*id).ok()?)?;
        Some(progress)
    }

    /// The same, to be changed.
    #[inline]
    pub fn get_mut(&mut self, id: &u64) -> Option<&mut Progress> {
        let position = self.position(*id).ok()?;
        let (_, progress) = self.members.get_mut(position)?;
        Some(progress)
    }

    /// Whether `id` is a member.
    #[inline]
    pub fn contains_key(&self, id: &u64) -> bool {
        self.position(*id).is_ok()
    }

    /// Sets a member's progress, and answers with the one before.
    pub fn insert(&mut self, id: u64, progress: Progress) -> Option<Progress> {
        match self.get_mut(&id) {
            Some(known) => Some(std::mem::replace(known, progress)),
            None => {
                self.get_or_insert_with(id, || progress);
                None
            }
        }
    }

    /// A member's progress, which it is given now if it has none.
    pub fn get_or_insert_with(&mut self, id: u64, make: impl FnOnce() -> Progress) -> &mut Progress {
        let position = self.position(id).unwrap_or_else(|position| {
            self.members.insert(position, (id, make()));
            position
        });
        &mut self.members[position].1
    }

    /// Removes a member, and answers with what was known about it.
    pub fn remove(&mut self, id: &u64) -> Option<Progress> {
        let position = self.position(*id).ok()?;
        Some(self.members.remove(position).1)
    }

    /// How many members there are.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The members' ids.
    #[inline]
    pub fn keys(&self) -> impl DoubleEndedIterator<Item = &u64> + ExactSizeIterator {
        self.members.iter().map(|(id, _)| id)
    }

    /// All of them with their progress.
    #[inline]
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&u64, &Progress)> + ExactSizeIterator {
        self.into_iter()
    }

    /// The same, to be changed.
    #[inline]
    pub fn iter_mut(&mut self) -> impl DoubleEndedIterator<Item = (&u64, &mut Progress)> + ExactSizeIterator {
        self.members.iter_mut().map(|(id, progress)| (&*id, progress))
    }
}

impl<'a> IntoIterator for &'a ProgressMap {
    type Item = (&'a u64, &'a Progress);
    type IntoIter = std::iter::Map<std::slice::Iter<'a, (u64, Progress)>, fn(&'a (u64, Progress)) -> Self::Item>;

    #[inline]
    fn into_iter(self) -> Self::IntoIter {
        self.members.iter().map(|(id, progress)| (id, progress))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::tracker::Inflights;

    proptest! {
        #[test]
        fn reads_like_a_map(steps in prop::collection::vec((0u64..8, 0u8..3, 1u64..100), 0..60)) {
            let progress = |next| Progress::new(next, Inflights::new(1, 0));
            let mut ours = ProgressMap::new();
            let mut model = BTreeMap::new();
            for (id, what, next) in steps {
                match what {
                    0 => prop_assert_eq!(ours.insert(id, progress(next)), model.insert(id, progress(next))),
                    1 => prop_assert_eq!(ours.remove(&id), model.remove(&id)),
                    _ => prop_assert_eq!(
                        ours.get_or_insert_with(id, || progress(next)),
                        model.entry(id).or_insert_with(|| progress(next))
                    ),
                }
                prop_assert_eq!((ours.len(), ours.is_empty()), (model.len(), model.is_empty()));
                prop_assert!(ours.iter().eq(&model) && ours.keys().eq(model.keys()));
                prop_assert!(ours.iter_mut().eq(model.iter_mut()));
                for id in 0..8 {
                    prop_assert_eq!(ours.get(&id), model.get(&id));
                    prop_assert_eq!(ours.get_mut(&id), model.get_mut(&id));
                    prop_assert_eq!(ours.contains_key(&id), model.contains_key(&id));
                }
            }
        }
    }
}
