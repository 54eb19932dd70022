//! What a power failure at one point leaves to chance, and the images that chance makes of it.

use std::collections::BTreeMap;

use super::{sector_range, Image, NameChange, State, SECTOR_BYTES};
use crate::random::Random;

/// A file's durable bytes, and its sectors that differ, as they are live.
type Unsynced = (Vec<u8>, Vec<(usize, Vec<u8>)>);

/// What a crash at this point finds.
#[derive(Clone)]
pub struct Moment {
    /// The number of the call that was about to be made.
    pub call: u64,
    /// What [`super::FaultDisk::set_progress`] said last.
    pub progress: usize,
    files: Vec<Unsynced>,
    names: BTreeMap<String, usize>,
    pub(super) changes: Vec<NameChange>,
}

impl Moment {
    pub(super) fn of(state: &State) -> Self {
        let files = state
            .files
            .iter()
            .map(|file| {
                let sector = |at: &usize| (*at, file.live[sector_range(*at, file.live.len())].to_vec());
                (file.durable.clone(), file.dirty.iter().map(sector).collect())
            })
            .collect();
        Moment {
            call: state.calls,
            progress: state.progress,
            files,
            names: state.durable.clone(),
            changes: state.renames.clone(),
        }
    }

    /// How many things are left to chance here.
    pub fn chances(&self) -> usize {
        self.changes.len() + self.files.iter().map(|(_, dirty)| dirty.len()).sum::<usize>()
    }

    /// Images that a crash here can leave: every combination of what is unsynced if there are at most `all_below`
    /// things, else as many random ones as that would be; and each dirty sector torn at every `tear_bytes`, with the
    /// others written, or only those before it, or at random.
    pub fn images(&self, all_below: usize, tear_bytes: usize, random: &mut Random, mut each: impl FnMut(Image)) {
        let chances = self.chances();
        if chances <= all_below {
            for chosen in 0..1_u64 << chances {
                each(self.image(|thing| chosen >> thing & 1 == 1, None));
            }
        } else {
            each(self.image(|_| true, None));
            each(self.image(|_| false, None));
            for _ in 0..1_u64 << all_below {
                // Few lost, half lost, few kept: each finds other mistakes.
                let odds = [1, 4, 7][random.below(3) as usize];
                let chosen: Vec<bool> = (0..chances).map(|_| random.below(8) < odds).collect();
                each(self.image(|thing| chosen[thing], None));
            }
        }
        for torn in self.changes.len()..chances {
            for tear in (tear_bytes..SECTOR_BYTES).step_by(tear_bytes) {
                each(self.image(|_| true, Some((torn, tear))));
                each(self.image(|thing| thing <= torn, Some((torn, tear))));
                let chosen: Vec<bool> = (0..chances).map(|_| random.below(2) == 0).collect();
                each(self.image(|thing| chosen[thing], Some((torn, tear))));
            }
        }
    }

    /// What a process sees now.
    pub fn live_image(&self) -> Image {
        self.image(|_| true, None)
    }

    pub(super) fn image(&self, happened: impl Fn(usize) -> bool, torn: Option<(usize, usize)>) -> Image {
        let mut names = self.names.clone();
        for (thing, change) in self.changes.iter().enumerate() {
            if !happened(thing) {
                continue;
            }
            match change {
                NameChange::Add(name, id) => {
                    names.insert(name.clone(), *id);
                }
                NameChange::Remove(name) => {
                    names.remove(name);
                }
                NameChange::Rename(from, to, id) => {
                    names.remove(from);
                    names.insert(to.clone(), *id);
                }
            }
        }
        let mut thing = self.changes.len();
        let mut contents = Vec::with_capacity(self.files.len());
        for (durable, dirty) in &self.files {
            let mut bytes = durable.clone();
            for (sector, new) in dirty {
                let range = sector_range(*sector, bytes.len());
                match torn {
                    Some((at, tear)) if at == thing => {
                        let tear = tear.min(new.len());
                        bytes[range.start..range.start + tear].copy_from_slice(&new[..tear]);
                    }
                    _ if happened(thing) => bytes[range].copy_from_slice(new),
                    _ => {}
                }
                thing += 1;
            }
            contents.push(bytes);
        }
        names.into_iter().map(|(name, id)| (name, contents[id].clone())).collect()
    }
}
