//! The bytes of the log: one place that draws them, writes them and reads them back.
//!
//! A log is a directory of *segments*, files named `{sequence:016x}-{first index:016x}.wal`. A segment that was
//! prepared ahead of time is called `{sequence:016x}.next` until its first batch is durable. All numbers are
//! little-endian, every structure starts at a multiple of 8, and every byte of a segment up to where its log ends is one
//! of: under a checksum, compared exactly, or required to be zero.
//!
//! ```text
//! segment   = header (64 bytes), zeros, at 512 a watermark (40 bytes), zeros, from 1024 on batches one after the other,
//!             then zeros up to the end of the file, or what a crash left of batches that were never acknowledged
//! batch     = batch header (40 bytes), body (records)                 one call of save = one batch
//! record    = record header (32 bytes), payload, 0 to 7 zero bytes up to a multiple of 8
//!
//! segment header            batch header                     record header
//!  0  8  magic               0  4  magic "BTCH"               0  4  checksum of the record
//!  8  4  format version      4  4  checksum of the header     4  4  payload length (bytes)
//! 12  4  checksum of 0..12   8  8  synced before (offset)     8  1  kind: 1 metadata, 2 entry, 3 state,
//! 16  8  identity           16  8  body length (bytes)               4 chain, 5 snapshot
//! 24  8  sequence           24  4  number of records          9  3  zero
//! 32  8  first index        28  4  checksum of the spine     12  4  detail
//! 40  8  file length        32  4  previous checksum         16  8  term
//! 48 12  zero               36  4  flags: 0, 1 = sealed      24  8  index
//! 60  4  checksum of 0..60
//! ```
//!
//! **Seeds.** The checksums of batch headers and records start from a seed made of the log's identity and the segment's
//! sequence, and take in the offset of the structure in its file. The same bytes anywhere else (an older file whose
//! blocks were reused, a sector written to the wrong place, a copy of a segment stored as a value) do not validate.
//!
//! **Spine and chain.** A record's checksum covers its header and payload. The *spine* is the record headers of a batch
//! one after the other, so its checksum ties the records together without reading any payload twice. The batch header's
//! checksum covers the spine's; the next batch repeats it as `previous checksum` (the first batch repeats the segment
//! header's). An older version of a batch, valid once at this very place, does not fit the chain.
//!
//! **Synced before.** When the header was written, every byte of this segment below that offset, and every earlier
//! segment, had been made durable. A valid header therefore proves what had been acknowledged, even if what it points
//! at is unreadable now. A header without records and with `synced before` equal to its own offset is a *mark*: it is
//! stored (not synced) after each sync, claims that the log is durable up to itself, and is overwritten by the next
//! batch. A mark with the flag `sealed` says in addition that the log goes on in the next segment.
//!
//! **Watermark.** The same 40 bytes as a mark, in a sector of their own, stored whenever a mark is: `synced before` is how
//! far the segment is durable, `previous checksum` that of the last batch there. A mark goes down with the sector that it
//! shares with the last batches; the watermark does not. It is never waited for either (the system writes it back
//! within seconds, or when the log is closed), so it may lag behind, and one that does not validate means nothing. Where
//! a segment ends so close to the end of its file that no mark fits, the watermark has the flag `sealed` in its place.
//!
//! **Details by kind.**
//!
//! | kind | detail | term | index | payload |
//! |---|---|---|---|---|
//! | metadata | 0 | 0 | 0 | opaque, given when the log was created |
//! | entry | entry type | of the entry | of the entry | the entry's data |
//! | state | 0 | current term | commit | 8 bytes: vote |
//! | chain | 0 | sequence of the segment before | offset where it ends | 8 bytes: its last checksum, zero |
//! | snapshot | 0 taken here, 1 reset, 2 repeated | of the snapshot | of the snapshot | `ConfState`, protobuf |
//!
//! The first batch of a segment begins with chain (not in sequence 0), metadata, state and the snapshots that are still
//! useful, so that a log whose older segments are purged stands on its own.
//!
//! **Versions.** Magic, version and the checksum over both stay where they are for ever, so that any reader can name
//! the version of any segment.

use std::ops::Range;

use crc32fast::Hasher;

/// The format that this code writes, and the only one it reads.
pub const FORMAT_VERSION: u32 = 1;

// Segment header. 0x89 is not text, CR LF and ^Z catch transfers that think it is.
pub(crate) const SEGMENT_MAGIC: [u8; 8] = *b"\x89RWAL\r\n\x1a"; // 0..8
const VERSION_AT: usize = 8;
const PRELUDE_CHECKSUM_AT: usize = 12;
const IDENTITY_AT: usize = 16;
const SEQUENCE_AT: usize = 24;
const FIRST_INDEX_AT: usize = 32;
const FILE_BYTES_AT: usize = 40;
const HEADER_CHECKSUM_AT: usize = 60;
const HEADER_BYTES: usize = 64;
/// Where the watermark stands.
pub(crate) const WATERMARK_AT: usize = 512;
/// Header, watermark and the zeros around it; the first batch starts here.
pub(crate) const SEGMENT_HEADER_BYTES: usize = 1024;

// Batch header.
pub(crate) const BATCH_MAGIC: [u8; 4] = *b"BTCH"; // 0..4
const BATCH_CHECKSUM_AT: usize = 4;
const SYNCED_BEFORE_AT: usize = 8;
const BODY_BYTES_AT: usize = 16;
const RECORD_COUNT_AT: usize = 24;
const SPINE_CHECKSUM_AT: usize = 28;
const PREVIOUS_AT: usize = 32;
const FLAGS_AT: usize = 36;
/// Bytes of a batch header.
pub(crate) const BATCH_HEADER_BYTES: usize = 40;
/// Flag of a mark: the log goes on in the next segment.
pub(crate) const FLAG_SEALED: u32 = 1;

// Record header.
const RECORD_CHECKSUM_AT: usize = 0;
const PAYLOAD_BYTES_AT: usize = 4;
const KIND_AT: usize = 8;
const DETAIL_AT: usize = 12;
const TERM_AT: usize = 16;
const INDEX_AT: usize = 24;
/// Bytes of a record header.
pub(crate) const RECORD_HEADER_BYTES: usize = 32;
/// Structures start at multiples of this.
pub(crate) const ALIGNMENT_BYTES: usize = 8;

/// What a record holds. The numbers are etcd's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecordKind {
    /// The node's own opaque metadata.
    Metadata = 1,
    /// One log entry.
    Entry = 2,
    /// Term, vote and commit.
    State = 3,
    /// Where and with which checksum the segment before this one ends.
    Chain = 4,
    /// A durable snapshot file exists for this index.
    Snapshot = 5,
}

impl RecordKind {
    fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Metadata,
            2 => Self::Entry,
            3 => Self::State,
            4 => Self::Chain,
            5 => Self::Snapshot,
            _ => return None,
        })
    }

    /// The name as the tools print it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Metadata => "metadata",
            Self::Entry => "entry",
            Self::State => "state",
            Self::Chain => "chain",
            Self::Snapshot => "snapshot",
        }
    }
}

/// Detail of a snapshot record: taken by this node from its own log.
pub(crate) const SNAPSHOT_TAKEN: i32 = 0;
/// Detail of a snapshot record: everything before it, and every entry so far, is no longer part of the log.
pub(crate) const SNAPSHOT_RESET: i32 = 1;
/// Detail of a snapshot record: repeated from an earlier segment.
pub(crate) const SNAPSHOT_REPEATED: i32 = 2;

/// What a record is, without what it carries: kind, term, index.
pub type RecordId = (RecordKind, u64, u64);

/// A record on its way to the disk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record<'a> {
    pub(crate) kind: RecordKind,
    pub(crate) detail: i32,
    pub(crate) term: u64,
    pub(crate) index: u64,
    pub(crate) payload: &'a [u8],
}

/// A record that was read back and whose checksum was right.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RecordView<'a> {
    /// Where it stands in its segment.
    pub(crate) offset: usize,
    pub(crate) kind: RecordKind,
    pub(crate) detail: i32,
    pub(crate) term: u64,
    pub(crate) index: u64,
    pub(crate) payload: &'a [u8],
}

impl<'a> RecordView<'a> {
    /// The record at `offset` of a segment, where [`check_body`] has found one.
    pub(crate) fn read(segment: &'a [u8], offset: usize) -> Option<Self> {
        let head = segment.get(offset..)?.get(..RECORD_HEADER_BYTES)?;
        let [number, ..] = get_u32(head, KIND_AT).to_le_bytes();
        Some(RecordView {
            offset,
            kind: RecordKind::from_number(number)?,
            detail: get_u32(head, DETAIL_AT) as i32,
            term: get_u64(head, TERM_AT),
            index: get_u64(head, INDEX_AT),
            payload: segment.get(offset + RECORD_HEADER_BYTES..)?.get(..get_u32(head, PAYLOAD_BYTES_AT) as usize)?,
        })
    }

    /// Where its payload stands in the segment.
    pub(crate) fn payload_range(&self) -> Range<usize> {
        let start = self.offset + RECORD_HEADER_BYTES;
        start..start + self.payload.len()
    }
}

/// What a segment header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) identity: u64,
    pub(crate) sequence: u64,
    pub(crate) first_index: u64,
    pub(crate) file_bytes: u64,
}

/// Why a segment header cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderFault {
    Blank,
    Broken,
    OtherVersion(u32),
}

impl SegmentHeader {
    /// The 64 bytes, and their checksum, which starts the chain.
    pub(crate) fn encode(&self) -> ([u8; HEADER_BYTES], u32) {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&SEGMENT_MAGIC);
        put_u32(&mut bytes, VERSION_AT, FORMAT_VERSION);
        let prelude = crc32fast::hash(&bytes[..PRELUDE_CHECKSUM_AT]);
        put_u32(&mut bytes, PRELUDE_CHECKSUM_AT, prelude);
        put_u64(&mut bytes, IDENTITY_AT, self.identity);
        put_u64(&mut bytes, SEQUENCE_AT, self.sequence);
        put_u64(&mut bytes, FIRST_INDEX_AT, self.first_index);
        put_u64(&mut bytes, FILE_BYTES_AT, self.file_bytes);
        let checksum = crc32fast::hash(&bytes[..HEADER_CHECKSUM_AT]);
        put_u32(&mut bytes, HEADER_CHECKSUM_AT, checksum);
        (bytes, checksum)
    }

    /// Reads the header at the start of a segment, with its checksum.
    pub(crate) fn decode(segment: &[u8]) -> Result<(Self, u32), HeaderFault> {
        let Some(bytes) = segment.get(..SEGMENT_HEADER_BYTES) else {
            return Err(if is_zero(segment) { HeaderFault::Blank } else { HeaderFault::Broken });
        };
        if is_zero(bytes) {
            return Err(HeaderFault::Blank);
        }
        if bytes[..8] != SEGMENT_MAGIC
            || get_u32(bytes, PRELUDE_CHECKSUM_AT) != crc32fast::hash(&bytes[..PRELUDE_CHECKSUM_AT])
        {
            return Err(HeaderFault::Broken);
        }
        let version = get_u32(bytes, VERSION_AT);
        if version != FORMAT_VERSION {
            return Err(HeaderFault::OtherVersion(version));
        }
        let checksum = crc32fast::hash(&bytes[..HEADER_CHECKSUM_AT]);
        let zeros =
            [48..HEADER_CHECKSUM_AT, HEADER_BYTES..WATERMARK_AT, WATERMARK_AT + BATCH_HEADER_BYTES..bytes.len()];
        if checksum != get_u32(bytes, HEADER_CHECKSUM_AT) || zeros.into_iter().any(|range| !is_zero(&bytes[range])) {
            return Err(HeaderFault::Broken);
        }
        let header = SegmentHeader {
            identity: get_u64(bytes, IDENTITY_AT),
            sequence: get_u64(bytes, SEQUENCE_AT),
            first_index: get_u64(bytes, FIRST_INDEX_AT),
            file_bytes: get_u64(bytes, FILE_BYTES_AT),
        };
        Ok((header, checksum))
    }
}

/// Where the checksums of one segment start from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seed(u32);

impl Seed {
    pub(crate) fn new(identity: u64, sequence: u64) -> Self {
        let mut bytes = [0; 16];
        put_u64(&mut bytes, 0, identity);
        put_u64(&mut bytes, 8, sequence);
        Seed(crc32fast::hash(&bytes))
    }
}

/// What a valid batch header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchHeader {
    pub(crate) offset: usize,
    pub(crate) synced_before: u64,
    pub(crate) body_bytes: u64,
    pub(crate) record_count: u32,
    pub(crate) spine: u32,
    pub(crate) previous: u32,
    pub(crate) flags: u32,
    pub(crate) checksum: u32,
}

impl BatchHeader {
    /// Whether this is a mark: no records, durable up to itself.
    pub(crate) fn is_mark(&self) -> bool {
        self.record_count == 0
    }

    /// The offset behind the batch; `None` when it cannot be in a segment of this size.
    pub(crate) fn end(&self, segment_bytes: usize) -> Option<usize> {
        let body = usize::try_from(self.body_bytes).ok()?;
        let end = self.offset.checked_add(BATCH_HEADER_BYTES)?.checked_add(body)?;
        (end <= segment_bytes && body % ALIGNMENT_BYTES == 0).then_some(end)
    }

    /// The records of a batch that [`check_body`] has found to be sound.
    pub(crate) fn records<'a>(&self, segment: &'a [u8]) -> impl Iterator<Item = RecordView<'a>> {
        let end = self.end(segment.len()).unwrap_or(0);
        records(segment, self.offset + BATCH_HEADER_BYTES..end)
    }

    fn encode(&mut self, seed: Seed, bytes: &mut [u8]) {
        bytes[..4].copy_from_slice(&BATCH_MAGIC);
        put_u64(bytes, SYNCED_BEFORE_AT, self.synced_before);
        put_u64(bytes, BODY_BYTES_AT, self.body_bytes);
        put_u32(bytes, RECORD_COUNT_AT, self.record_count);
        put_u32(bytes, SPINE_CHECKSUM_AT, self.spine);
        put_u32(bytes, PREVIOUS_AT, self.previous);
        put_u32(bytes, FLAGS_AT, self.flags);
        self.checksum = checksum(seed, self.offset, &bytes[SYNCED_BEFORE_AT..BATCH_HEADER_BYTES], &[]);
        put_u32(bytes, BATCH_CHECKSUM_AT, self.checksum);
    }

    /// The header at `offset`, if there is one whose checksum holds there.
    pub(crate) fn decode(segment: &[u8], offset: usize, seed: Seed) -> Option<Self> {
        let bytes = segment.get(offset..)?.get(..BATCH_HEADER_BYTES)?;
        if bytes[..4] != BATCH_MAGIC {
            return None;
        }
        let stored = get_u32(bytes, BATCH_CHECKSUM_AT);
        if stored != checksum(seed, offset, &bytes[SYNCED_BEFORE_AT..], &[]) {
            return None;
        }
        Some(BatchHeader {
            offset,
            synced_before: get_u64(bytes, SYNCED_BEFORE_AT),
            body_bytes: get_u64(bytes, BODY_BYTES_AT),
            record_count: get_u32(bytes, RECORD_COUNT_AT),
            spine: get_u32(bytes, SPINE_CHECKSUM_AT),
            previous: get_u32(bytes, PREVIOUS_AT),
            flags: get_u32(bytes, FLAGS_AT),
            checksum: stored,
        })
    }
}

/// Bytes that a record with this payload takes.
pub(crate) fn record_bytes(payload_bytes: usize) -> usize {
    RECORD_HEADER_BYTES + payload_bytes.next_multiple_of(ALIGNMENT_BYTES)
}

/// Where a batch goes and what its header says of the past.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placement {
    pub(crate) seed: Seed,
    pub(crate) offset: usize,
    pub(crate) synced_before: u64,
    pub(crate) previous: u32,
}

/// Writes one batch into `space`, which is exactly as long as the batch and stands at `placement.offset` of its
/// segment. Returns the header's checksum, with which the chain goes on. The header is stored last.
pub(crate) fn write_batch<'a>(
    space: &mut [u8],
    placement: Placement,
    records: impl Iterator<Item = Record<'a>>,
) -> u32 {
    let Placement { seed, offset, synced_before, previous } = placement;
    let mut at = BATCH_HEADER_BYTES;
    let mut spine = Hasher::new();
    let mut record_count = 0;
    for record in records {
        let end = at + record_bytes(record.payload.len());
        let (head, body) = space[at..end].split_at_mut(RECORD_HEADER_BYTES);
        let (payload, padding) = body.split_at_mut(record.payload.len());
        payload.copy_from_slice(record.payload);
        padding.fill(0);
        put_u32(head, PAYLOAD_BYTES_AT, record.payload.len() as u32);
        put_u32(head, KIND_AT, u32::from(record.kind as u8));
        put_u32(head, DETAIL_AT, record.detail as u32);
        put_u64(head, TERM_AT, record.term);
        put_u64(head, INDEX_AT, record.index);
        // The caller's bytes are summed, not those in the map: they are in the processor's cache and cannot fault.
        let sum = checksum(seed, offset + at, &head[PAYLOAD_BYTES_AT..], record.payload);
        put_u32(head, RECORD_CHECKSUM_AT, sum);
        spine.update(head);
        record_count += 1;
        at = end;
    }
    let body_bytes = (at - BATCH_HEADER_BYTES) as u64;
    let spine = spine.finalize();
    let mut header =
        BatchHeader { offset, synced_before, body_bytes, record_count, spine, previous, flags: 0, checksum: 0 };
    header.encode(seed, &mut space[..BATCH_HEADER_BYTES]);
    header.checksum
}

/// The bytes of a mark.
pub(crate) fn mark(placement: Placement, flags: u32) -> [u8; BATCH_HEADER_BYTES] {
    let mut bytes = [0; BATCH_HEADER_BYTES];
    let mut header = BatchHeader {
        offset: placement.offset,
        synced_before: placement.synced_before,
        body_bytes: 0,
        record_count: 0,
        spine: Hasher::new().finalize(),
        previous: placement.previous,
        flags,
        checksum: 0,
    };
    header.encode(placement.seed, &mut bytes);
    bytes
}

/// A mark that is stored somewhere else than where it points: the watermark.
pub(crate) fn watermark(seed: Seed, synced_before: u64, previous: u32) -> [u8; BATCH_HEADER_BYTES] {
    mark(Placement { seed, offset: WATERMARK_AT, synced_before, previous }, 0)
}

/// The mark with which a segment says that it ends here and another one follows, and where it is stored: at the end, or
/// if there is no room left, as the watermark.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SealMark {
    pub(crate) offset: usize,
    pub(crate) bytes: [u8; BATCH_HEADER_BYTES],
}

impl SealMark {
    pub(crate) fn new(seed: Seed, end: usize, previous: u32, segment_bytes: usize) -> Self {
        let has_room = end + BATCH_HEADER_BYTES <= segment_bytes;
        let offset = if has_room { end } else { WATERMARK_AT };
        let bytes = mark(Placement { seed, offset, synced_before: end as u64, previous }, FLAG_SEALED);
        SealMark { offset, bytes }
    }

    pub(crate) fn place(&self) -> Range<usize> {
        self.offset..self.offset + BATCH_HEADER_BYTES
    }
}

/// What a valid watermark says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Watermark {
    /// How far the segment is durable.
    pub(crate) end: u64,
    /// The last checksum there.
    pub(crate) checksum: u32,
    /// Another segment follows.
    pub(crate) sealed: bool,
}

/// The watermark of a segment, if it has a valid one.
pub(crate) fn read_watermark(segment: &[u8], seed: Seed) -> Option<Watermark> {
    // One that claims more than the file holds is no less of a proof that something is not there.
    let header = BatchHeader::decode(segment, WATERMARK_AT, seed).filter(BatchHeader::is_mark)?;
    let BatchHeader { synced_before, previous, flags, .. } = header;
    Some(Watermark { end: synced_before, checksum: previous, sealed: flags & FLAG_SEALED != 0 })
}

/// What stands behind a valid batch header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    /// What was written, and all of it of known kinds.
    Sound,
    /// Something that is not what was written. The records that stand before this offset are sound.
    Broken(usize),
    /// What was written; but the record at this offset, under a right checksum, is of a kind that this version does not
    /// know.
    Unknown(usize),
}

/// Checks every record of a batch. Keeps none: a log of small ones would be shorter than a list of what is in it.
pub(crate) fn check_body(segment: &[u8], header: &BatchHeader, seed: Seed) -> Body {
    let mut at = header.offset + BATCH_HEADER_BYTES;
    let Some(end) = header.end(segment.len()) else { return Body::Broken(at) };
    let mut spine = Hasher::new();
    let mut unknown = None;
    let mut count: u64 = 0;
    while at < end {
        if end - at < RECORD_HEADER_BYTES {
            return Body::Broken(unknown.unwrap_or(at));
        }
        let head = &segment[at..at + RECORD_HEADER_BYTES];
        let payload_bytes = get_u32(head, PAYLOAD_BYTES_AT) as usize;
        if payload_bytes > end - at - RECORD_HEADER_BYTES {
            return Body::Broken(unknown.unwrap_or(at));
        }
        let payload = at + RECORD_HEADER_BYTES..at + RECORD_HEADER_BYTES + payload_bytes;
        let next = at + record_bytes(payload_bytes);
        if next > end || !is_zero(&segment[payload.end..next]) {
            return Body::Broken(unknown.unwrap_or(at));
        }
        let is_right =
            get_u32(head, RECORD_CHECKSUM_AT) == checksum(seed, at, &head[PAYLOAD_BYTES_AT..], &segment[payload]);
        if !(is_right || bug!(ChecksumsIgnored)) {
            return Body::Broken(unknown.unwrap_or(at));
        }
        spine.update(head);
        let [number, zeros @ ..] = get_u32(head, KIND_AT).to_le_bytes();
        if RecordKind::from_number(number).is_none() || zeros != [0; 3] {
            unknown = unknown.or(Some(at));
        }
        count += 1;
        at = next;
    }
    match unknown {
        _ if spine.finalize() != header.spine || count != u64::from(header.record_count) => {
            Body::Broken(unknown.unwrap_or(at))
        }
        Some(at) => Body::Unknown(at),
        None => Body::Sound,
    }
}

/// How far a segment is one sound batch after the other, from its beginning on; 0 if it has no sound header. Whether they
/// follow each other is not looked at.
pub(crate) fn sound_until(segment: &[u8]) -> usize {
    let Ok((header, _)) = SegmentHeader::decode(segment) else { return 0 };
    let seed = Seed::new(header.identity, header.sequence);
    let mut at = SEGMENT_HEADER_BYTES;
    while let Some(batch) = BatchHeader::decode(segment, at, seed) {
        match batch.end(segment.len()) {
            Some(end) if check_body(segment, &batch, seed) == Body::Sound => at = end,
            _ => break,
        }
    }
    at
}

/// The records that stand between two offsets of a segment, where [`check_body`] has found sound ones.
pub(crate) fn records(segment: &[u8], range: Range<usize>) -> impl Iterator<Item = RecordView<'_>> {
    let mut at = range.start;
    std::iter::from_fn(move || {
        let record = RecordView::read(segment, at).filter(|_| at < range.end)?;
        at += record_bytes(record.payload.len());
        Some(record)
    })
}

/// Of a batch that [`check_body`] found to be broken at `bad`: what that record was, if the batch's header still vouches
/// for it, through the spine.
pub(crate) fn bad_record(segment: &[u8], header: &BatchHeader, bad: usize) -> Option<RecordId> {
    let end = header.end(segment.len())?;
    let (mut at, mut spine, mut found) = (header.offset + BATCH_HEADER_BYTES, Hasher::new(), None);
    while at < end {
        let head = segment.get(at..at + RECORD_HEADER_BYTES)?;
        spine.update(head);
        if at == bad {
            let [kind, ..] = get_u32(head, KIND_AT).to_le_bytes();
            found = RecordKind::from_number(kind).map(|kind| (kind, get_u64(head, TERM_AT), get_u64(head, INDEX_AT)));
        }
        at += record_bytes(get_u32(head, PAYLOAD_BYTES_AT) as usize);
    }
    found.filter(|_| at == end && spine.finalize() == header.spine)
}

fn checksum(seed: Seed, offset: usize, head: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = Hasher::new_with_initial(seed.0);
    // One call for offset and head together: short calls are what costs here.
    let mut bytes = [0; 8 + BATCH_HEADER_BYTES];
    put_u64(&mut bytes, 0, offset as u64);
    let end = 8 + head.len();
    bytes[8..end].copy_from_slice(head);
    hasher.update(&bytes[..end]);
    if !payload.is_empty() {
        hasher.update(payload);
    }
    hasher.finalize()
}

/// `{sequence:016x}-{first index:016x}.wal`
pub(crate) fn segment_name(sequence: u64, first_index: u64) -> String {
    format!("{sequence:016x}-{first_index:016x}.wal")
}

/// `{sequence:016x}.next`
pub(crate) fn prepared_name(sequence: u64) -> String {
    format!("{sequence:016x}.next")
}

/// Reads [`segment_name`] back.
pub(crate) fn parse_segment_name(name: &str) -> Option<(u64, u64)> {
    let (sequence, first_index) = name.strip_suffix(".wal")?.split_once('-')?;
    Some((parse_hex(sequence)?, parse_hex(first_index)?))
}

/// Reads [`prepared_name`] back.
pub(crate) fn parse_prepared_name(name: &str) -> Option<u64> {
    parse_hex(name.strip_suffix(".next")?)
}

/// Sixteen lower-case hexadecimal digits, nothing else: one number has one name.
pub(crate) fn parse_hex(digits: &str) -> Option<u64> {
    let plain = digits.len() == 16 && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    plain.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
}

/// Whether every byte is zero. Compares whole words: recovery runs it over the empty rest of a segment.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    const BLOCK: [u8; 256] = [0; 256];
    let mut blocks = bytes.chunks_exact(BLOCK.len());
    blocks.all(|block| block == BLOCK) && blocks.remainder().iter().all(|byte| *byte == 0)
}

// The four below are called with constant offsets into fixed-size headers only.
fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn put_u64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

pub(crate) fn get_u32(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

pub(crate) fn get_u64(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests;
