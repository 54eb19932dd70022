//! Log entries that are shared, not copied: [`Entries`], and [`Runs`], a stretch of the log made of them.
//!
//! An entry is read in many places at once: it waits to be durable, it is in a message to each follower, storage keeps
//! it, the application applies it. A copy for each of them would cost more than all the rest of the protocol. So
//! entries travel in *runs*, as many as were proposed or received together, and whoever needs a run holds a reference
//! to it.
//!
//! Runs stay what they were when they came in as long as they can: a reader that asks for exactly one of them gets a
//! reference, any other range is copied together. The log's readers ask for what came last, which is why that is enough.
//!
//! Left out: references to a part of a run. They would have to be told apart wherever entries are changed or decoded.

use std::collections::VecDeque;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use crate::config::NO_LIMIT;
use crate::pb::Entry;

/// Entries that may be shared: cloning costs a reference count. Reads like a `Vec<Entry>`, and is changed like one;
/// whoever changes entries that others hold too gets a copy of its own first.
#[derive(Clone, Default)]
pub struct Entries(
    /// `None` stands for no entries, so that a message without any costs no memory.
    Option<Arc<Vec<Entry>>>,
);

/// Longer runs are cut: a run's memory is freed as a whole.
const LONGEST_RUN: usize = 4096;

/// How many runs an empty stretch keeps room for; a burst's memory is given back.
const KEPT_CAPACITY: usize = 1024;

/// What [`Entries`] that are none read as.
static NO_ENTRIES: Vec<Entry> = Vec::new();

impl Entries {
    /// No entries.
    pub const fn new() -> Self {
        Entries(None)
    }

    /// The entries themselves, copied only if somebody else holds them too.
    pub fn into_vec(self) -> Vec<Entry> {
        self.0.map(Arc::unwrap_or_clone).unwrap_or_default()
    }
}

impl Deref for Entries {
    type Target = Vec<Entry>;

    #[inline]
    fn deref(&self) -> &Vec<Entry> {
        self.0.as_deref().unwrap_or(&NO_ENTRIES)
    }
}

impl DerefMut for Entries {
    #[inline]
    fn deref_mut(&mut self) -> &mut Vec<Entry> {
        // Room for one: most runs that are built entry by entry are a decoded message's only entry, and are kept for long.
        Arc::make_mut(self.0.get_or_insert_with(|| Arc::new(Vec::with_capacity(1))))
    }
}

impl From<Vec<Entry>> for Entries {
    #[inline]
    fn from(entries: Vec<Entry>) -> Self {
        Entries((!entries.is_empty()).then(|| Arc::new(entries)))
    }
}

impl From<&[Entry]> for Entries {
    fn from(entries: &[Entry]) -> Self {
        entries.to_vec().into()
    }
}

impl From<&Vec<Entry>> for Entries {
    fn from(entries: &Vec<Entry>) -> Self {
        entries.as_slice().into()
    }
}

impl From<&Entries> for Entries {
    #[inline]
    fn from(entries: &Entries) -> Self {
        entries.clone()
    }
}

impl<const N: usize> From<&[Entry; N]> for Entries {
    fn from(entries: &[Entry; N]) -> Self {
        entries.as_slice().into()
    }
}

impl<const N: usize> From<[Entry; N]> for Entries {
    fn from(entries: [Entry; N]) -> Self {
        Vec::from(entries).into()
    }
}

impl FromIterator<Entry> for Entries {
    fn from_iter<I: IntoIterator<Item = Entry>>(entries: I) -> Self {
        Vec::from_iter(entries).into()
    }
}

impl IntoIterator for Entries {
    type Item = Entry;
    type IntoIter = std::vec::IntoIter<Entry>;

    fn into_iter(self) -> Self::IntoIter {
        self.into_vec().into_iter()
    }
}

impl<'a> IntoIterator for &'a Entries {
    type Item = &'a Entry;
    type IntoIter = std::slice::Iter<'a, Entry>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl PartialEq for Entries {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Entries {}

impl Hash for Entries {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_slice().hash(state);
    }
}

/// Against anything that is a list of entries.
impl<T: AsRef<[Entry]> + ?Sized> PartialEq<T> for Entries {
    fn eq(&self, other: &T) -> bool {
        self.as_slice() == other.as_ref()
    }
}

impl fmt::Debug for Entries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Equal entries hash equally, in whatever runs they are.
impl Hash for Runs {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.start.hash(state);
        self.len().hash(state);
        self.iter_from(self.start).for_each(|entry| entry.hash(state));
    }
}

/// Shows the entries, and not in what runs they are.
impl fmt::Debug for Runs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runs")
            .field("start", &self.start)
            .field("entries", &self.iter_from(self.start).collect::<Vec<_>>())
            .finish()
    }
}

/// A stretch of the log: consecutive entries, in the runs in which they came.
#[derive(Clone, Default)]
pub(crate) struct Runs {
    /// The index of the first entry that counts; that of the next one to come if there is none.
    start: u64,
    /// One past the last entry's index; `start` if there is none.
    end: u64,
    /// Each run with the index of its first entry; none is empty, and each begins where the one before it ends. The
    /// first one may begin below `start`: what is released is freed when its run is.
    runs: VecDeque<(u64, Entries)>,
}

impl Runs {
    /// No entries, the next one to come being that of index `start`.
    pub(crate) fn starting_at(start: u64) -> Self {
        Runs { start, end: start, runs: VecDeque::new() }
    }

    #[inline]
    pub(crate) fn start(&self) -> u64 {
        self.start
    }

    /// One past the last entry's index.
    #[inline]
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    /// Which run holds `index`, or would if it were long enough; only for indexes not below `start`.
    #[inline]
    fn position(&self, index: u64) -> usize {
        match self.runs.back() {
            // What is asked for is mostly what came last.
            Some((first, _)) if *first <= index => self.runs.len() - 1,
            _ => self.runs.partition_point(|(first, _)| *first <= index).saturating_sub(1),
        }
    }

    #[inline]
    pub(crate) fn get(&self, index: u64) -> Option<&Entry> {
        if index < self.start {
            return None;
        }
        let (first, run) = match self.runs.back() {
            // What is asked for is mostly what came last.
            Some(last) if last.0 <= index => last,
            _ => self.runs.get(self.position(index))?,
        };
        run.get((index - first) as usize)
    }

    /// The entries from index `low` on, which is not below `start`.
    fn iter_from(&self, low: u64) -> impl Iterator<Item = &Entry> + Clone {
        let position = self.position(low).min(self.runs.len());
        self.runs
            .range(position..)
            .flat_map(move |(first, run)| run.get(low.saturating_sub(*first) as usize..).unwrap_or_default())
    }

    /// The entries in `[low, high)`, as many from the start as encode to `max_bytes`, but one at least. Of the range,
    /// what is not here is left out.
    #[inline]
    pub(crate) fn slice(&self, low: u64, high: u64, max_bytes: u64) -> Entries {
        let (low, high) = (low.max(self.start), high.min(self.end()));
        if low >= high {
            return Entries::new();
        }
        let wanted = (high - low) as usize;
        if let Some((first, run)) = self.runs.get(self.position(low)) {
            if *first == low && run.len() == wanted && crate::storage::count_within(run.iter(), max_bytes) == wanted {
                return run.clone();
            }
        }
        let count = crate::storage::count_within(self.iter_from(low).take(wanted), max_bytes);
        // The iterator cannot tell how many there will be.
        let mut copied = Vec::with_capacity(count);
        copied.extend(self.iter_from(low).take(count).cloned());
        copied.into()
    }

    /// The entries from index `low` on, as one run from now on.
    #[inline]
    pub(crate) fn join_from(&mut self, low: u64) -> Entries {
        let joined = self.slice(low, self.end(), NO_LIMIT);
        if self.runs.len() > self.position(low) + 1 {
            self.truncate(low);
            self.push(joined.clone());
        }
        joined
    }

    /// Adds entries that follow on the last one.
    #[inline]
    pub(crate) fn push(&mut self, entries: Entries) {
        if entries.len() <= LONGEST_RUN {
            if !entries.is_empty() {
                self.push_run(entries);
            }
            return;
        }
        for part in entries.chunks(LONGEST_RUN) {
            self.push_run(part.into());
        }
    }

    #[inline]
    fn push_run(&mut self, run: Entries) {
        let first = self.end;
        self.end += run.len() as u64;
        self.runs.push_back((first, run));
    }

    /// Drops the entries from index `end` on.
    pub(crate) fn truncate(&mut self, end: u64) {
        if end >= self.end {
            return;
        }
        self.end = end.max(self.start);
        while self.runs.back().is_some_and(|(first, _)| *first >= end) {
            self.runs.pop_back();
        }
        if end <= self.start {
            self.runs.clear();
        }
        if let Some((first, run)) = self.runs.back_mut() {
            let count = (end - *first) as usize;
            if count < run.len() {
                *run = run.iter().take(count).cloned().collect();
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn to_vec(&self) -> Vec<Entry> {
        self.iter_from(self.start).cloned().collect()
    }

    /// Drops the entries below index `start`.
    #[inline]
    pub(crate) fn release(&mut self, start: u64) {
        self.start = self.start.max(start);
        self.end = self.end.max(self.start);
        while self.runs.front().is_some_and(|(first, run)| first + run.len() as u64 <= start) {
            self.runs.pop_front();
        }
        if self.runs.is_empty() && self.runs.capacity() > KEPT_CAPACITY {
            self.runs = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests;
