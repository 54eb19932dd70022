//! Opening a log again: what is there, what it proves, and the one verdict that follows.
//!
//! Recovery reads every segment from its header on, batch by batch, as long as each next batch validates and fits the
//! chain. Where that stops, the question is always the same: is this where the log ended, is it a batch that a crash
//! left half written (never acknowledged, so it may go), or is it something acknowledged that is not readable any more
//! (so nothing may go)? The facts that decide are put into an [`Observation`], and [`judge`] gives exactly one
//! [`Verdict`] for it.
//!
//! The proofs, strongest first:
//!
//! 1. *A successor says where this segment ended.* The chain record of the next segment names offset and checksum; up
//!    to there everything was durable before the next segment began.
//! 2. *Something valid stands further on* and its header says that the place in question had been synced before. To
//!    find it, every multiple of 8 behind the place is tried, whatever the bytes between say about their own length.
//! 3. *The file has its final name.* It gets that name only after its first batch was synced.
//! 4. *A valid batch that does not fit the chain.* No crash makes that: the batch before it was exchanged.
//!
//! None of these: what stands there was never acknowledged. It is passed over, and [`Torn`] says so; the log goes on in
//! the next segment. A begun segment under its temporary name whose first batch is torn like that is removed, since its
//! name is needed: nothing in it was ever acknowledged, for the first sync of a segment covers that batch.
//!
//! Until something is written again, a torn end stays the end, and every opening says so once.
//!
//! What no format can tell: the *last* group of batches that a sync acknowledged, damaged before anything that proves
//! it reached the disk (the next batch, or the mark that is stored after each sync and is written back within seconds,
//! or at a clean stop). It looks like a crash in the middle of that sync.
//!
//! Everything here is a function of names and bytes; files are changed by [`crate::Wal`] afterwards.

use std::path::Path;

use bytes::Bytes;

use crate::error::WalError;
use crate::format::{
    self, BatchHeader, Body, HeaderFault, RecordKind, RecordView, SealMark, Seed, SegmentHeader, BATCH_HEADER_BYTES,
    BATCH_MAGIC, FLAG_SEALED, FORMAT_VERSION, SEGMENT_HEADER_BYTES,
};
use crate::state::Replay;
use crate::verdict::{
    admit, judge, Ahead, Head, Holds, Membership, Name, Observation, Place, Reason, Role, Stop, Verdict,
};
use crate::Torn;

/// A file of the log directory.
#[derive(Clone, Debug)]
pub struct Image {
    /// Its name, without the directory.
    pub name: String,
    /// All of its bytes.
    pub bytes: Bytes,
}

/// A segment that belongs to the log.
#[derive(Clone, Debug)]
pub(crate) struct SegmentInfo {
    pub(crate) name: String,
    pub(crate) sequence: u64,
    pub(crate) first_index: u64,
    /// The highest index of anything in it; it may be purged once a snapshot covers this.
    pub(crate) max_index: u64,
}

/// Where the log goes on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LiveEnd {
    pub(crate) seed: Seed,
    /// Behind the last batch.
    pub(crate) offset: usize,
    /// The checksum that the next batch repeats.
    pub(crate) checksum: u32,
    /// Everything before this had been synced, as a header says that was read. What lies between here and `offset` was
    /// read back, but may not be on the disk.
    pub(crate) proven: usize,
    /// Behind `offset` stands what a crash left. Nothing may be stored over it: should that not reach the disk, a later
    /// crash would bring back some of what stood there, behind batches that it does not follow.
    pub(crate) torn: bool,
}

/// What a directory holds.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) identity: u64,
    pub(crate) replay: Replay,
    /// Oldest first; the last one is live. Empty: a new log.
    pub(crate) segments: Vec<SegmentInfo>,
    pub(crate) live: Option<LiveEnd>,
    /// Of the segments, by position, those that are followed by one without a final name, and the mark that must say so
    /// before that one gets it.
    pub(crate) unsealed: Vec<(usize, SealMark)>,
    /// Prepared files that were never acknowledged.
    pub(crate) discard: Vec<String>,
    pub(crate) torn: Option<Torn>,
}

/// How far one segment could be read.
struct Walk {
    offset: usize,
    /// See [`LiveEnd`].
    proven: usize,
    checksum: u32,
    stop: Stop,
    /// For `Nonsense`: what is wrong, at `offset`.
    detail: String,
    max_index: u64,
}

/// A segment that has a sound header.
struct Sound<'a> {
    image: &'a Image,
    /// Its batches up to there are known to be sound, one by one.
    sound_until: usize,
    name: Name,
    header: SegmentHeader,
    checksum: u32,
    seed: Seed,
}

/// What a segment's first record says about the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) sequence: u64,
    pub(crate) end: u64,
    checksum: u32,
}

/// Reads a whole log. `dir` is for messages only; `progress` is told how many bytes are done.
pub(crate) fn recover(dir: &Path, images: &[Image], progress: &mut dyn FnMut(u64)) -> Result<Outcome, WalError> {
    recover_checked(dir, images, &[], progress)
}

/// [`recover`] of images that were checked already, each up to there ([`format::sound_until`]).
pub(crate) fn recover_checked(
    dir: &Path,
    images: &[Image],
    sound_until: &[usize],
    progress: &mut dyn FnMut(u64),
) -> Result<Outcome, WalError> {
    let mut outcome = Outcome {
        identity: 0,
        replay: Replay::new(0),
        segments: Vec::new(),
        live: None,
        unsealed: Vec::new(),
        discard: Vec::new(),
        torn: None,
    };
    let mut sound: Vec<Sound<'_>> = Vec::new();
    for file in sort_by_name(dir, images, sound_until)? {
        let place = match sound.last().map(|last| last.header.sequence) {
            None if file.name == Name::Published || file.sequence == 0 => Place::First,
            None => Place::Apart,
            Some(last) if file.sequence <= last => Place::Passed,
            Some(last) if file.sequence - last == 1 => Place::Next,
            Some(_) => Place::Apart,
        };
        let identity = sound.first().map(|first| first.header.identity);
        let found = match file.name {
            Name::Published => read_published(dir, &file, identity).map(Some),
            Name::Prepared => adopt(dir, &file, identity),
        };
        let holds = match &found {
            Ok(Some(segment)) if file.name == Name::Prepared && place == Place::First => holds_more(segment),
            Ok(Some(_)) => Holds::Begun,
            Ok(None) => Holds::Nothing,
            Err(WalError::OtherVersion { .. }) => Holds::OtherVersion,
            Err(_) => Holds::Unclear,
        };
        let missing = |what| Err(WalError::Missing { dir: dir.into(), what });
        let (name, sequence) = (&file.image.name, file.sequence);
        match (admit(file.name, place, holds), found) {
            (Membership::Joins, Ok(Some(segment))) => sound.push(segment),
            (Membership::Goes, _) => {
                let used = file.image.bytes.len() - trailing_zeros(&file.image.bytes);
                if used > 0 && place == Place::Next {
                    let file = dir.join(name);
                    outcome.torn = Some(Torn { file, offset: 0, len_bytes: used as u64 });
                }
                outcome.discard.push(name.clone());
            }
            (Membership::Gap, _) => {
                return missing(format!("{name} is there, but segment {} is not", sequence.saturating_sub(1)));
            }
            (Membership::Doubled, _) => {
                return missing(format!("{name} is not empty, but another file has the place of segment {sequence}"));
            }
            (Membership::NameLost, _) => {
                return missing(format!(
                    "{name} holds more than the beginning of a log, and has lost its final name ({})",
                    format::segment_name(0, 1)
                ));
            }
            (Membership::Unreadable, Err(error)) => return Err(error),
            (Membership::Unreadable | Membership::Joins, _) => {
                return Err(refusal(dir, file.image, Reason::Impossible, 0, ""));
            }
        }
    }
    if let Some(first) = sound.first() {
        outcome.identity = first.header.identity;
        read_segments(dir, &sound, &mut outcome, progress)?;
    }
    Ok(outcome)
}

/// A file whose name is that of a segment.
struct Named<'a> {
    name: Name,
    sequence: u64,
    /// Of a published one.
    first_index: Option<u64>,
    image: &'a Image,
    sound_until: usize,
}

/// The published segments in order, then the prepared ones.
fn sort_by_name<'a>(dir: &Path, images: &'a [Image], sound_until: &[usize]) -> Result<Vec<Named<'a>>, WalError> {
    let mut files = Vec::new();
    for (position, image) in images.iter().enumerate() {
        let sound_until = sound_until.get(position).copied().unwrap_or(0);
        if let Some((sequence, first_index)) = format::parse_segment_name(&image.name) {
            files.push(Named { name: Name::Published, sequence, first_index: Some(first_index), image, sound_until });
        } else if let Some(sequence) = format::parse_prepared_name(&image.name) {
            files.push(Named { name: Name::Prepared, sequence, first_index: None, image, sound_until });
        } else if image.name.ends_with(".wal") {
            let what = "its name is not that of a segment (sequence-index.wal, 16 hexadecimal digits each)".into();
            return Err(WalError::Damaged { file: dir.join(&image.name), offset: 0, what });
        }
    }
    files.sort_by_key(|file| (file.name == Name::Prepared, file.sequence, file.first_index));
    Ok(files)
}

/// The sound header of a file that is where it should be; otherwise what is the matter, and the version that it states.
fn read_head<'a>(file: &Named<'a>, identity: Option<u64>) -> Result<Sound<'a>, (Head, u32)> {
    let image = file.image;
    let (header, checksum) = SegmentHeader::decode(&image.bytes).map_err(|fault| match fault {
        HeaderFault::Blank => (Head::Blank, 0),
        HeaderFault::Broken => (Head::Broken, 0),
        HeaderFault::OtherVersion(version) => (Head::OtherVersion, version),
    })?;
    let in_place = header.sequence == file.sequence
        && file.first_index.is_none_or(|index| index == header.first_index)
        && identity.is_none_or(|identity| identity == header.identity)
        && header.file_bytes == image.bytes.len() as u64
        && header.first_index > 0;
    if !in_place {
        return Err((Head::Misplaced, 0));
    }
    let seed = Seed::new(header.identity, header.sequence);
    Ok(Sound { image, sound_until: file.sound_until, name: file.name, header, checksum, seed })
}

/// What is seen of a segment that cannot be read beyond its header.
fn at_the_beginning(name: Name, head: Head, ahead: Ahead) -> Observation {
    let (role, stop) = (Role::Last, Stop::Broken);
    Observation { name, head, role, at_first_batch: true, stop, ahead, reaches_commit: true }
}

fn read_published<'a>(dir: &Path, file: &Named<'a>, identity: Option<u64>) -> Result<Sound<'a>, WalError> {
    read_head(file, identity).map_err(|(head, version)| {
        let reason = match judge(&at_the_beginning(file.name, head, Ahead::Nothing)) {
            Verdict::Refuse(reason) => reason,
            _ => Reason::Impossible,
        };
        refusal(dir, file.image, reason, 0, &version.to_string())
    })
}

/// A prepared segment that has begun; `None`: it holds nothing that was acknowledged.
fn adopt<'a>(dir: &Path, file: &Named<'a>, identity: Option<u64>) -> Result<Option<Sound<'a>>, WalError> {
    let image = file.image;
    let (head, version, seed, at) = match read_head(file, identity) {
        Ok(segment) => {
            let first = BatchHeader::decode(&image.bytes, SEGMENT_HEADER_BYTES, segment.seed);
            match first.map(|first| (first, format::check_body(&image.bytes, &first, segment.seed))) {
                // Whether it makes sense is found out when it is read in its turn.
                Some((first, Body::Sound | Body::Unknown(_))) if !first.is_mark() => return Ok(Some(segment)),
                _ => (Head::Sound, 0, segment.seed, SEGMENT_HEADER_BYTES),
            }
        }
        Err((head, version)) => (head, version, Seed::new(identity.unwrap_or(0), file.sequence), 0),
    };
    let (ahead, _) = look_ahead(&image.bytes, at, seed);
    match judge(&at_the_beginning(Name::Prepared, head, ahead)) {
        Verdict::Discard => Ok(None),
        Verdict::Refuse(reason) => Err(refusal(dir, image, reason, at, &version.to_string())),
        Verdict::Live | Verdict::TornTail | Verdict::Sealed => Err(refusal(dir, image, Reason::Impossible, at, "")),
    }
}

/// Of the very first segment under its temporary name: a crash while the log was being created leaves its first batch
/// and nothing else.
fn holds_more(segment: &Sound<'_>) -> Holds {
    let bytes = &segment.image.bytes;
    let first = BatchHeader::decode(bytes, SEGMENT_HEADER_BYTES, segment.seed);
    let end = first.and_then(|first| first.end(bytes.len())).unwrap_or(SEGMENT_HEADER_BYTES);
    match format::is_zero(bytes.get(end..).unwrap_or_default()) {
        true => Holds::Nothing,
        false => Holds::Begun,
    }
}

fn read_segments(
    dir: &Path,
    sound: &[Sound<'_>],
    outcome: &mut Outcome,
    progress: &mut dyn FnMut(u64),
) -> Result<(), WalError> {
    let mut done_bytes = 0;
    let first_index = sound.first().map_or(1, |segment| segment.header.first_index);
    outcome.replay = Replay::new(first_index - 1);
    let mut before: Option<(u64, usize, u32)> = None;
    for (position, segment) in sound.iter().enumerate() {
        let successor = match sound.get(position + 1) {
            Some(next) => Some(first_chain(&next.image.bytes, next.seed).ok_or_else(|| {
                refusal(
                    dir,
                    next.image,
                    Reason::FirstBatchDamaged,
                    SEGMENT_HEADER_BYTES,
                    "it does not begin with a chain record",
                )
            })?),
            None => None,
        };
        let walk = walk(segment, successor, before, &mut outcome.replay);
        let (ahead, debris_end) = match successor {
            // The successor settles it; and a sealed segment may hold unsynced leftovers behind its end.
            Some(_) => (Ahead::Nothing, walk.offset),
            None => look_ahead(&segment.image.bytes, walk.offset, segment.seed),
        };
        let state = &outcome.replay.state;
        let newest = state.snapshots.last().map_or(0, |snapshot| snapshot.index);
        let seen = Observation {
            name: segment.name,
            head: Head::Sound,
            role: if successor.is_some() { Role::Sealed } else { Role::Last },
            at_first_batch: walk.offset == SEGMENT_HEADER_BYTES,
            stop: walk.stop,
            ahead,
            reaches_commit: state.last_index() >= state.hard_state.commit.max(newest),
        };
        match judge(&seen) {
            Verdict::Sealed => {
                if sound.get(position + 1).is_some_and(|next| next.name == Name::Prepared) {
                    // Also if it is there: it may be in memory only, and its sync may have failed.
                    let len_bytes = segment.image.bytes.len();
                    let mark = SealMark::new(segment.seed, walk.offset, walk.checksum, len_bytes);
                    outcome.unsealed.push((position, mark));
                }
            }
            verdict @ (Verdict::Live | Verdict::TornTail) => {
                if verdict == Verdict::TornTail {
                    let len_bytes = (debris_end - walk.offset) as u64;
                    let file = dir.join(&segment.image.name);
                    outcome.torn = Some(Torn { file, offset: walk.offset as u64, len_bytes });
                }
                let Walk { offset, proven, checksum, .. } = walk;
                let torn = verdict == Verdict::TornTail;
                outcome.live = Some(LiveEnd { seed: segment.seed, offset, proven, checksum, torn });
            }
            Verdict::Refuse(reason) => return Err(refusal(dir, segment.image, reason, walk.offset, &walk.detail)),
            Verdict::Discard => return Err(refusal(dir, segment.image, Reason::Impossible, walk.offset, "")),
        }
        outcome.segments.push(SegmentInfo {
            name: segment.image.name.clone(),
            sequence: segment.header.sequence,
            first_index: segment.header.first_index,
            max_index: walk.max_index,
        });
        before = Some((segment.header.sequence, walk.offset, walk.checksum));
        done_bytes += segment.image.bytes.len() as u64;
        progress(done_bytes);
    }
    let state = &mut outcome.replay.state;
    let base = state.base.index;
    state.snapshots.retain(|snapshot| snapshot.index >= base);
    if !state.is_anchored() {
        let what = format!(
            "it begins with entry {}, and no recorded snapshot covers what came before",
            base.saturating_add(1)
        );
        return Err(WalError::Missing { dir: dir.into(), what });
    }
    Ok(())
}

/// The chain record with which a segment begins.
pub(crate) fn first_chain(bytes: &[u8], seed: Seed) -> Option<Chain> {
    let header = BatchHeader::decode(bytes, SEGMENT_HEADER_BYTES, seed)?;
    let is_sound = format::check_body(bytes, &header, seed) == Body::Sound;
    header.records(bytes).next().filter(|_| is_sound).and_then(|record| parse_chain(&record))
}

fn parse_chain(record: &RecordView<'_>) -> Option<Chain> {
    if record.kind != RecordKind::Chain || record.payload.len() != 8 {
        return None;
    }
    let checksum = format::get_u32(record.payload, 0);
    Some(Chain { sequence: record.term, end: record.index, checksum })
}

/// Reads batch after batch into `replay`.
fn walk(segment: &Sound<'_>, successor: Option<Chain>, before: Option<(u64, usize, u32)>, replay: &mut Replay) -> Walk {
    let bytes = &segment.image.bytes;
    let mut watermark = format::read_watermark(bytes, segment.seed);
    let mut at = Walk {
        offset: SEGMENT_HEADER_BYTES,
        proven: 0,
        checksum: segment.checksum,
        stop: Stop::Broken,
        detail: String::new(),
        max_index: segment.header.first_index - 1,
    };
    loop {
        if let Some(chain) = successor {
            if at.offset as u64 >= chain.end {
                let met = at.offset as u64 == chain.end
                    && at.checksum == chain.checksum
                    && chain.sequence == segment.header.sequence;
                at.stop = if met { Stop::AtSeal } else { Stop::Unchained };
                return at;
            }
        }
        if let Some(reached) = watermark.filter(|watermark| at.offset as u64 >= watermark.end) {
            // What was durable then cannot have changed since.
            if (reached.end, reached.checksum) != (at.offset as u64, at.checksum) {
                at.stop = Stop::Unchained;
                return at;
            }
            if reached.sealed {
                at.stop = Stop::SealMark;
                return at;
            }
            watermark = None;
        }
        let Some(header) = BatchHeader::decode(bytes, at.offset, segment.seed) else {
            let rest = bytes.get(at.offset..).unwrap_or_default();
            let here = &rest[..rest.len().min(BATCH_HEADER_BYTES)];
            at.stop = if format::is_zero(here) { Stop::Blank } else { Stop::Broken };
            return at;
        };
        let body = match header.end(bytes.len()).is_some_and(|end| end <= segment.sound_until) {
            true => Body::Sound,
            false => format::check_body(bytes, &header, segment.seed),
        };
        match body {
            Body::Sound => {}
            Body::Broken(_) => {
                at.stop = Stop::Broken;
                return at;
            }
            Body::Unknown(offset) => {
                at.stop = Stop::Nonsense;
                at.detail = format!("the record at {offset} is of a kind that this version does not know");
                return at;
            }
        }
        if header.previous != at.checksum {
            at.stop = Stop::Unchained;
            return at;
        }
        at.proven = at.proven.max(usize::try_from(header.synced_before).unwrap_or(0).min(at.offset));
        if header.is_mark() {
            at.stop = if header.flags & FLAG_SEALED != 0 { Stop::SealMark } else { Stop::Mark };
            return at;
        }
        let first = at.offset == SEGMENT_HEADER_BYTES;
        if let Err(what) = take_batch(segment, &header, first, before, replay, &mut at.max_index) {
            at.stop = Stop::Nonsense;
            at.detail = what;
            return at;
        }
        // `end` was checked by `check_body`.
        at.offset = header.end(bytes.len()).unwrap_or(bytes.len());
        at.checksum = header.checksum;
    }
}

fn take_batch(
    segment: &Sound<'_>,
    header: &BatchHeader,
    first: bool,
    before: Option<(u64, usize, u32)>,
    replay: &mut Replay,
    max_index: &mut u64,
) -> Result<(), String> {
    if header.synced_before > header.offset as u64 || header.flags != 0 {
        return Err("a batch header that claims more than was possible".into());
    }
    let bytes = &segment.image.bytes;
    if first {
        let chain = header.records(bytes).next().and_then(|record| parse_chain(&record));
        match (chain, before) {
            (None, None) if segment.header.sequence == 0 => {}
            (Some(chain), None) if chain.sequence.checked_add(1) == Some(segment.header.sequence) => {}
            (Some(chain), Some((sequence, end, checksum)))
                if chain == Chain { sequence, end: end as u64, checksum } => {}
            _ => return Err("the segment does not say which one it follows".into()),
        }
    }
    for (position, record) in header.records(bytes).enumerate() {
        if record.kind == RecordKind::Chain && !(first && position == 0) {
            return Err(format!("a chain record at {} that does not begin the segment", record.offset));
        }
        if matches!(record.kind, RecordKind::Entry | RecordKind::Snapshot) {
            *max_index = (*max_index).max(record.index);
        }
        replay
            .apply(segment.image, &record)
            .map_err(|what| format!("the {} record at {} cannot follow: {what}", record.kind.name(), record.offset))?;
    }
    Ok(())
}

/// What stands behind `from`, and where the last byte that is not zero ends.
fn look_ahead(bytes: &[u8], from: usize, seed: Seed) -> (Ahead, usize) {
    let rest = bytes.get(from..).unwrap_or_default();
    let used = rest.len() - trailing_zeros(rest);
    let end = from + used;
    // What stands at `from` itself was looked at already, and a mark there is no debris.
    let own = match BatchHeader::decode(bytes, from, seed) {
        Some(header) if header.is_mark() && header.synced_before == from as u64 => BATCH_HEADER_BYTES,
        _ => 0,
    };
    if format::read_watermark(bytes, seed).is_some_and(|watermark| watermark.end > from as u64) {
        return (Ahead::Proof, end);
    }
    if used <= own {
        return (Ahead::Nothing, end);
    }
    let mut offset = from + format::ALIGNMENT_BYTES;
    while offset + BATCH_HEADER_BYTES <= bytes.len() && offset < end {
        if bytes[offset..offset + 4] == BATCH_MAGIC {
            if let Some(header) = BatchHeader::decode(bytes, offset, seed) {
                if header.synced_before > from as u64 && header.synced_before <= offset as u64 {
                    return (Ahead::Proof, end);
                }
            }
        }
        offset += format::ALIGNMENT_BYTES;
    }
    (Ahead::Debris, end)
}

fn trailing_zeros(bytes: &[u8]) -> usize {
    const BLOCK_BYTES: usize = 4096;
    let mut end = bytes.len();
    while end > 0 {
        let start = end.saturating_sub(BLOCK_BYTES);
        if !format::is_zero(&bytes[start..end]) {
            let used = bytes[start..end].iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
            return bytes.len() - start - used;
        }
        end = start;
    }
    bytes.len()
}

fn refusal(dir: &Path, image: &Image, reason: Reason, offset: usize, detail: &str) -> WalError {
    let file = dir.join(&image.name);
    let what = match reason {
        Reason::OtherVersion => {
            return WalError::OtherVersion { file, found: detail.parse().unwrap_or(0), known: FORMAT_VERSION }
        }
        Reason::NextSegmentMissing => {
            let what =
                format!("{} says at offset {offset} that another segment follows it, and there is none", image.name);
            return WalError::Missing { dir: dir.into(), what };
        }
        Reason::Misplaced => "its header is that of another file (name, length or log differ)".into(),
        Reason::HeaderDamaged => "its header cannot be read".into(),
        Reason::FirstBatchDamaged => join("its first batch, which had been synced, cannot be read", detail),
        Reason::SealedDamaged => {
            join("it was complete when the next segment began, but cannot be read beyond here", detail)
        }
        Reason::AcknowledgedDamaged => {
            "what stands here cannot be read, and a later batch proves that it had been synced".into()
        }
        Reason::Unchained => "the batch here does not follow the one before it, which must have been exchanged".into(),
        Reason::Nonsense => detail.to_owned(),
        Reason::CommitOutOfReach => "the log ends here, before what it says is committed".into(),
        Reason::Impossible => "its state contradicts itself".into(),
    };
    WalError::Damaged { file, offset: offset as u64, what }
}

fn join(what: &str, detail: &str) -> String {
    if detail.is_empty() {
        what.to_owned()
    } else {
        format!("{what} ({detail})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looking_ahead_finds_proof_whatever_lies_between() {
        let seed = Seed::new(1, 2);
        let mut bytes = vec![0_u8; 4096];
        assert_eq!(look_ahead(&bytes, 64, seed), (Ahead::Nothing, 64));
        bytes[1000..1500].fill(0xAB);
        assert_eq!(look_ahead(&bytes, 64, seed), (Ahead::Debris, 1500));
        let put = |bytes: &mut [u8], offset, synced_before| {
            let placement = format::Placement { seed, offset, synced_before, previous: 9 };
            bytes[offset..offset + BATCH_HEADER_BYTES].copy_from_slice(&format::mark(placement, 0));
        };
        put(&mut bytes, 2000, 64);
        assert_eq!(look_ahead(&bytes, 64, seed).0, Ahead::Debris, "it claims only what lies before the place");
        put(&mut bytes, 2400, 72);
        assert_eq!(look_ahead(&bytes, 64, seed).0, Ahead::Proof);
        assert_eq!(look_ahead(&bytes, 64, Seed::new(1, 3)).0, Ahead::Debris, "of another segment");
    }

    #[test]
    fn the_watermark_proves_even_what_nothing_stands_behind() {
        let seed = Seed::new(1, 2);
        let mut bytes = vec![0_u8; 4096];
        let place = format::WATERMARK_AT..format::WATERMARK_AT + BATCH_HEADER_BYTES;
        bytes[place].copy_from_slice(&format::watermark(seed, 2000, 9));
        assert_eq!(look_ahead(&bytes, 1992, seed).0, Ahead::Proof);
        assert_eq!(look_ahead(&bytes, 2000, seed), (Ahead::Nothing, 2000));
        bytes[format::WATERMARK_AT..format::WATERMARK_AT + BATCH_HEADER_BYTES]
            .copy_from_slice(&format::watermark(seed, 4104, 9));
        assert_eq!(look_ahead(&bytes, 2000, seed).0, Ahead::Proof, "also what the file is too short for");
    }

    #[test]
    fn a_mark_is_no_debris_at_its_own_place() {
        let seed = Seed::new(1, 2);
        let mut bytes = vec![0_u8; 4096];
        let placement = format::Placement { seed, offset: 64, synced_before: 64, previous: 9 };
        bytes[64..104].copy_from_slice(&format::mark(placement, 0));
        assert_eq!(look_ahead(&bytes, 64, seed).0, Ahead::Nothing);
        bytes[200] = 1;
        assert_eq!(look_ahead(&bytes, 64, seed), (Ahead::Debris, 201));
    }
}
