//! From what Raft says to records: which ones a batch is made of, how long it gets, and how a segment begins.
//!
//! The bytes themselves are [`mod@crate::format`]'s.

use prost::Message as _;
use raft_core::pb::{Entry, HardState, SnapshotMetadata};

use crate::disk::Region;
use crate::error::WalError;
use crate::format::{
    self, Placement, Record, RecordKind, Seed, SegmentHeader, BATCH_HEADER_BYTES, SEGMENT_HEADER_BYTES,
    SNAPSHOT_REPEATED,
};
use crate::recovery::SegmentInfo;
use crate::state::LogState;

/// A batch must fit into memory twice; nobody means to write more than this at once.
const MAX_BATCH_BYTES: usize = 1 << 30;

/// A record with a payload of its own.
pub(crate) struct Owned {
    kind: RecordKind,
    detail: i32,
    term: u64,
    index: u64,
    payload: Vec<u8>,
}

impl Owned {
    pub(crate) fn state(state: &HardState) -> Self {
        let payload = state.vote.to_le_bytes().to_vec();
        Owned { kind: RecordKind::State, detail: 0, term: state.term, index: state.commit, payload }
    }

    pub(crate) fn snapshot(metadata: &SnapshotMetadata, detail: i32) -> Self {
        let payload = metadata.conf_state.encode_to_vec();
        Owned { kind: RecordKind::Snapshot, detail, term: metadata.term, index: metadata.index, payload }
    }

    pub(crate) fn chain(sequence: u64, end: u64, checksum: u32) -> Self {
        let payload = u64::from(checksum).to_le_bytes().to_vec();
        Owned { kind: RecordKind::Chain, detail: 0, term: sequence, index: end, payload }
    }

    pub(crate) fn record(&self) -> Record<'_> {
        let Owned { kind, detail, term, index, payload } = self;
        Record { kind: *kind, detail: *detail, term: *term, index: *index, payload }
    }
}

pub(crate) fn entry_record(entry: &Entry) -> Record<'_> {
    let Entry { entry_type, term, index, data } = entry;
    Record { kind: RecordKind::Entry, detail: *entry_type, term: *term, index: *index, payload: data }
}

/// What every segment begins with, so that it can stand on its own.
pub(crate) fn head_records(state: &LogState, chain: Option<Owned>) -> Vec<Owned> {
    let metadata = state.metadata.clone().unwrap_or_default().to_vec();
    let mut head: Vec<_> = chain.into_iter().collect();
    head.push(Owned { kind: RecordKind::Metadata, detail: 0, term: 0, index: 0, payload: metadata });
    head.push(Owned::state(&state.hard_state));
    head.extend(state.snapshots.iter().map(|snapshot| Owned::snapshot(snapshot, SNAPSHOT_REPEATED)));
    head
}

pub(crate) fn batch_bytes(records: &[Record<'_>]) -> Result<usize, WalError> {
    batch_bytes_of(records.iter().copied())
}

pub(crate) fn batch_bytes_of<'a>(records: impl Iterator<Item = Record<'a>>) -> Result<usize, WalError> {
    let mut total = BATCH_HEADER_BYTES;
    for record in records {
        total = total.saturating_add(format::record_bytes(record.payload.len().min(MAX_BATCH_BYTES)));
        if total > MAX_BATCH_BYTES || record.payload.len() > MAX_BATCH_BYTES {
            return Err(WalError::refused(format!(
                "a batch of more than {MAX_BATCH_BYTES} bytes: save fewer entries at once"
            )));
        }
    }
    Ok(total)
}

/// Stores header and first batch; returns where the batch ends and its checksum.
pub(crate) fn begin_segment(
    region: &mut dyn Region,
    identity: u64,
    info: &SegmentInfo,
    records: &[Record<'_>],
) -> std::io::Result<(usize, u32)> {
    let len_bytes: usize = records.iter().map(|record| format::record_bytes(record.payload.len())).sum();
    let end = SEGMENT_HEADER_BYTES + BATCH_HEADER_BYTES + len_bytes;
    let file_bytes = region.len_bytes() as u64;
    let header = SegmentHeader { identity, sequence: info.sequence, first_index: info.first_index, file_bytes };
    let (bytes, previous) = header.encode();
    let (head, batch) = region.slice_mut(0..end)?.split_at_mut(SEGMENT_HEADER_BYTES);
    let placement = Placement {
        seed: Seed::new(identity, info.sequence),
        offset: SEGMENT_HEADER_BYTES,
        synced_before: 0,
        previous,
    };
    let checksum = format::write_batch(batch, placement, records.iter().copied());
    head[..bytes.len()].copy_from_slice(&bytes);
    Ok((end, checksum))
}
