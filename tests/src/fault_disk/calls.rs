//! The calls: the seam of the log, on files that are in memory.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;

use bytes::Bytes;
use wal::disk::{Disk, Listed, Region, Sink, Source};

use super::{dir_of, name_of, sector_range, Call, Content, Fault, FaultDisk, NameChange, Pace, State, SECTOR_BYTES};

/// Gives the lock back.
struct Lock(FaultDisk);

impl Drop for Lock {
    fn drop(&mut self) {
        self.0.state().locked = false;
    }
}

impl Disk for FaultDisk {
    fn create_dir(&self, _dir: &Path) -> io::Result<()> {
        self.state().begin(|_| Call::CreateDir).map_or(Ok(()), |fault| Err(fault.error()))
    }

    fn lock(&self, _dir: &Path) -> io::Result<Box<dyn Send>> {
        let mut state = self.state();
        if let Some(fault) = state.begin(|_| Call::Lock) {
            return Err(fault.error());
        }
        if std::mem::replace(&mut state.locked, true) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(Lock(self.clone())))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Listed>> {
        let mut state = self.state();
        if let Some(fault) = state.begin(|_| Call::List) {
            return Err(fault.error());
        }
        let prefix = dir_of(dir);
        let listed = state.live.iter().filter_map(|(name, id)| {
            let name = name.strip_prefix(&prefix)?.to_owned();
            Some(Listed { name, len_bytes: state.files[*id].live.len() as u64 })
        });
        Ok(listed.collect())
    }

    fn create(&self, path: &Path, len_bytes: u64) -> io::Result<Box<dyn Region>> {
        let mut state = self.state();
        let fault = state.begin(|_| Call::Create(name_of(path)));
        let name = name_of(path);
        if state.live.contains_key(&name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        // Half done: a shorter file is left behind, as by a process that could not clean up.
        let len = match fault {
            Some(Fault::Short) => len_bytes as usize / 2,
            Some(fault) => return Err(fault.error()),
            None => len_bytes as usize,
        };
        let id = state.files.len();
        state.files.push(Content { live: vec![0; len], durable: vec![0; len], ..Content::default() });
        state.live.insert(name.clone(), id);
        state.renames.push(NameChange::Add(name, id));
        match fault {
            Some(_) => Err(Fault::NoSpace.error()),
            None => Ok(Box::new(FaultRegion { disk: self.clone(), id, live: vec![0; len], stored: 0..0 })),
        }
    }

    fn prefill(&self, path: &Path, range: Range<usize>) -> io::Result<()> {
        let mut state = self.state();
        let fault = state.begin(|_| Call::Prefill(name_of(path), range.clone()));
        let id = state.id(path)?;
        if range.is_empty() || range.end > state.files[id].live.len() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        match fault {
            // The pages cannot be brought in.
            Some(Fault::NoSpace) => Err(Fault::NoSpace.error()),
            // They cannot be written back, and the writer may have stored into them meanwhile. Without power, nothing is tried.
            Some(fault) => {
                state.files[id].failed_write_back |= !state.is_cut_off();
                state.sync_file(id, range, Some(fault))
            }
            None => state.sync_file(id, range, None),
        }
    }

    fn map(&self, path: &Path) -> io::Result<Box<dyn Region>> {
        let mut state = self.state();
        if let Some(fault) = state.begin(|_| Call::Map(name_of(path))) {
            return Err(fault.error());
        }
        let id = state.id(path)?;
        let live = state.files[id].live.clone();
        Ok(Box::new(FaultRegion { disk: self.clone(), id, live, stored: 0..0 }))
    }

    fn read(&self, path: &Path) -> io::Result<Bytes> {
        let mut state = self.state();
        if let Some(fault) = state.begin(|_| Call::Read(name_of(path))) {
            return Err(fault.error());
        }
        let id = state.id(path)?;
        match state.files[id].bad.is_empty() {
            true => Ok(Bytes::from(state.files[id].live.clone())),
            false => Err(Fault::Io.error()),
        }
    }

    fn settle(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        let fault = state.begin(|_| Call::Settle(name_of(path)));
        let id = state.id(path)?;
        state.sync_file(id, 0..usize::MAX, fault)?;
        if !state.keeps_caches {
            let file = &mut state.files[id];
            file.live.clone_from(&file.durable);
        }
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        let fault = state.begin(|_| Call::Rename(name_of(from), name_of(to)));
        if matches!(fault, Some(Fault::Io | Fault::NoSpace)) {
            return Err(Fault::Io.error());
        }
        let id = state.id(from)?;
        state.live.remove(&name_of(from));
        state.live.insert(name_of(to), id);
        state.renames.push(NameChange::Rename(name_of(from), name_of(to), id));
        fault.map_or(Ok(()), |fault| Err(fault.error()))
    }

    fn link(&self, path: &Path, name: &Path) -> io::Result<()> {
        let mut state = self.state();
        let fault = state.begin(|_| Call::Link(name_of(path), name_of(name)));
        if matches!(fault, Some(Fault::Io | Fault::NoSpace)) {
            return Err(Fault::Io.error());
        }
        let id = state.id(path)?;
        if state.live.contains_key(&name_of(name)) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.live.insert(name_of(name), id);
        state.renames.push(NameChange::Add(name_of(name), id));
        fault.map_or(Ok(()), |fault| Err(fault.error()))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        let fault = state.begin(|_| Call::Remove(name_of(path)));
        if matches!(fault, Some(Fault::Io | Fault::NoSpace)) {
            return Err(Fault::Io.error());
        }
        state.id(path)?;
        state.live.remove(&name_of(path));
        state.renames.push(NameChange::Remove(name_of(path)));
        fault.map_or(Ok(()), |fault| Err(fault.error()))
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        match state.begin(|_| Call::SyncDir) {
            Some(Fault::Short) => {
                // The first of the changes only.
                let changes = std::mem::take(&mut state.renames);
                for (position, change) in changes.into_iter().enumerate() {
                    if position == 0 {
                        settle_name(&mut state, change);
                    } else {
                        state.renames.push(change);
                    }
                }
                Err(Fault::Io.error())
            }
            Some(fault) => Err(fault.error()),
            None => {
                for change in std::mem::take(&mut state.renames) {
                    settle_name(&mut state, change);
                }
                Ok(())
            }
        }
    }

    fn create_stream(&self, path: &Path) -> io::Result<Box<dyn Sink>> {
        let mut state = self.state();
        if let Some(fault) = state.begin(|_| Call::CreateStream(name_of(path))) {
            return Err(fault.error());
        }
        if state.live.contains_key(&name_of(path)) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let id = state.files.len();
        state.files.push(Content::default());
        state.live.insert(name_of(path), id);
        state.renames.push(NameChange::Add(name_of(path), id));
        Ok(Box::new(FaultSink { disk: self.clone(), id }))
    }

    fn open_stream(&self, path: &Path) -> io::Result<Box<dyn Source>> {
        let mut state = self.state();
        if let Some(fault) = state.begin(|_| Call::OpenStream(name_of(path))) {
            return Err(fault.error());
        }
        let id = state.id(path)?;
        let Content { live, bad, .. } = &state.files[id];
        Ok(Box::new(FaultSource { disk: self.clone(), bytes: live.clone(), bad: bad.clone(), at: 0 }))
    }

    fn unique(&self) -> u64 {
        let mut state = self.state();
        state.unique += 1;
        0x5eed_0000 + state.unique
    }

    fn background(&self) -> bool {
        self.state().background
    }

    fn due_jobs(&self, waiting: usize) -> usize {
        let mut state = self.state();
        state.most_waiting = state.most_waiting.max(waiting);
        match &mut state.pace {
            Pace::AtOnce => waiting,
            Pace::WhenNeeded => 0,
            Pace::ByChance(random) => match random.below(3) {
                0 => random.below(waiting as u64 + 1) as usize,
                _ => 0,
            },
        }
    }
}

fn settle_name(state: &mut State, change: NameChange) {
    match change {
        NameChange::Add(name, id) => {
            state.durable.insert(name, id);
        }
        NameChange::Remove(name) => {
            state.durable.remove(&name);
        }
        NameChange::Rename(from, to, id) => {
            state.durable.remove(&from);
            state.durable.insert(to, id);
        }
    }
}

/// A mapped file. Stores go into a copy of its own, which the disk gets to see at the next call or when it is dropped.
struct FaultRegion {
    disk: FaultDisk,
    id: usize,
    live: Vec<u8>,
    stored: Range<usize>,
}

impl FaultRegion {
    fn show(&mut self) {
        let stored = std::mem::replace(&mut self.stored, 0..0);
        let mut state = self.disk.state();
        let Some(file) = state.files.get_mut(self.id) else { return };
        for sector in stored.start / SECTOR_BYTES..stored.end.div_ceil(SECTOR_BYTES) {
            let range = sector_range(sector, self.live.len());
            // Also what is as it was: a system does not compare.
            if file.durable[range.clone()] != self.live[range.clone()]
                || file.live[range.clone()] != self.live[range.clone()]
            {
                file.live[range.clone()].copy_from_slice(&self.live[range]);
                file.dirty.insert(sector);
            }
        }
    }
}

impl Region for FaultRegion {
    fn len_bytes(&self) -> usize {
        self.live.len()
    }

    fn slice_mut(&mut self, range: Range<usize>) -> io::Result<&mut [u8]> {
        self.show();
        if let Some(fault) = self.disk.state().begin(|state| Call::Store(state.name(self.id), range.clone())) {
            return Err(fault.error());
        }
        self.stored = range.clone();
        self.live.get_mut(range).ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    fn sync(&mut self, range: Range<usize>) -> io::Result<()> {
        self.show();
        let mut state = self.disk.state();
        let fault = state.begin(|state| Call::Sync(state.name(self.id), range.clone()));
        // What went wrong when someone else wrote the file back is reported here too, once.
        let failed_before =
            state.files.get_mut(self.id).is_some_and(|file| std::mem::take(&mut file.failed_write_back));
        state.sync_file(self.id, range, fault)?;
        match failed_before {
            true => Err(Fault::Io.error()),
            false => Ok(()),
        }
    }
}

impl Drop for FaultRegion {
    fn drop(&mut self) {
        self.show();
    }
}

struct FaultSink {
    disk: FaultDisk,
    id: usize,
}

impl Write for FaultSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.disk.state();
        let count = match state.begin(|state| Call::Write(state.name(self.id))) {
            Some(Fault::Short) => bytes.len().div_ceil(2),
            Some(fault) => return Err(fault.error()),
            None => bytes.len(),
        };
        let Some(file) = state.files.get_mut(self.id) else { return Err(io::ErrorKind::NotFound.into()) };
        let start = file.live.len();
        file.live.extend_from_slice(&bytes[..count]);
        // Length and data reach the disk together or not at all, sector by sector.
        file.durable.resize(file.live.len(), 0);
        file.dirty.extend(start / SECTOR_BYTES..file.live.len().div_ceil(SECTOR_BYTES));
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink for FaultSink {
    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.disk.state();
        let fault = state.begin(|state| Call::Sync(state.name(self.id), 0..usize::MAX));
        state.sync_file(self.id, 0..usize::MAX, fault)
    }
}

struct FaultSource {
    disk: FaultDisk,
    bytes: Vec<u8>,
    bad: Range<usize>,
    at: usize,
}

impl Seek for FaultSource {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let SeekFrom::Start(at) = to else { return Err(io::ErrorKind::Unsupported.into()) };
        self.at = usize::try_from(at).map_or(self.bytes.len(), |at| at.min(self.bytes.len()));
        Ok(at)
    }
}

impl Read for FaultSource {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut limit = into.len();
        match self.disk.state().begin(|_| Call::ReadStream) {
            Some(Fault::Short) => limit = limit.div_ceil(2),
            Some(fault) => return Err(fault.error()),
            None => {}
        }
        // What comes before a bad place is read, the place itself is not.
        match self.at {
            at if self.bad.contains(&at) => return Err(Fault::Io.error()),
            at if at < self.bad.start => limit = limit.min(self.bad.start - at),
            _ => {}
        }
        let rest = &self.bytes[self.at..];
        let count = rest.len().min(limit);
        into[..count].copy_from_slice(&rest[..count]);
        self.at += count;
        Ok(count)
    }
}
