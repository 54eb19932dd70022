//! Crate `raft` 0.7, driven as its crate documentation says ("Processing the `Ready` State"), `advance_append` and
//! `LightReady` included, with its own `MemStorage`.

use bytes::Bytes;
use protobuf::Message as _;
use raft::eraftpb::{ConfChange, ConfChangeV2, Entry, EntryType, Message, MessageType};
use raft::storage::MemStorage;
use raft::{Config, RawNode, NO_LIMIT};

use crate::{ELECTION_TICK, HEARTBEAT_TICK, MAX_INFLIGHT_MESSAGES, MAX_MESSAGE_BYTES};

pub(crate) struct Node {
    raw: RawNode<MemStorage>,
    storage: MemStorage,
}

impl Node {
    fn apply(&mut self, entries: Vec<Entry>) -> u64 {
        for entry in &entries {
            match entry.get_entry_type() {
                EntryType::EntryNormal => {}
                EntryType::EntryConfChange => {
                    let mut change = ConfChange::default();
                    change.merge_from_bytes(&entry.data).expect("a change of ours");
                    self.raw.apply_conf_change(&change).expect("apply");
                }
                EntryType::EntryConfChangeV2 => {
                    let mut change = ConfChangeV2::default();
                    change.merge_from_bytes(&entry.data).expect("a change of ours");
                    self.raw.apply_conf_change(&change).expect("apply");
                }
            }
        }
        entries.len() as u64
    }
}

/// A payload as the codec's entries hold it.
#[cfg(not(rival_prost))]
fn held(payload: &Bytes) -> Bytes {
    payload.clone()
}

#[cfg(rival_prost)]
fn held(payload: &Bytes) -> Vec<u8> {
    payload.to_vec()
}

impl crate::Node for Node {
    type Message = Message;

    fn new(id: u64, nodes: u64) -> Self {
        let config = Config {
            election_tick: ELECTION_TICK,
            heartbeat_tick: HEARTBEAT_TICK,
            max_size_per_msg: MAX_MESSAGE_BYTES,
            max_inflight_msgs: MAX_INFLIGHT_MESSAGES,
            max_uncommitted_size: NO_LIMIT,
            max_committed_size_per_ready: NO_LIMIT,
            ..Config::new(id)
        };
        let storage = MemStorage::new_with_conf_state(((1..=nodes).collect::<Vec<_>>(), vec![]));
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raw = RawNode::new(&config, storage.clone(), &logger).expect("a node");
        Node { raw, storage }
    }

    fn campaign(&mut self) {
        self.raw.campaign().expect("campaign");
    }

    fn tick(&mut self) {
        self.raw.tick();
    }

    fn propose(&mut self, batch: usize, payload: &Bytes) {
        let mut message = Message { from: self.raw.raft.id, ..Message::default() };
        message.set_msg_type(MessageType::MsgPropose);
        let entry = |_| Entry { data: held(payload), ..Entry::default() };
        message.set_entries((0..batch).map(entry).collect::<Vec<_>>().into());
        self.raw.step(message).expect("propose");
    }

    fn step(&mut self, message: Message) {
        self.raw.step(message).expect("step");
    }

    fn has_ready(&self) -> bool {
        self.raw.has_ready()
    }

    fn work(&mut self, outbox: &mut Vec<Message>) -> u64 {
        let mut applied = 0;
        while self.raw.has_ready() {
            let mut ready = self.raw.ready();
            outbox.extend(ready.take_messages());
            applied += self.apply(ready.take_committed_entries());
            {
                let mut storage = self.storage.wl();
                storage.append(ready.entries()).expect("append");
                if let Some(hard_state) = ready.hs() {
                    storage.set_hardstate(hard_state.clone());
                }
            }
            outbox.extend(ready.take_persisted_messages());
            let mut light = self.raw.advance_append(ready);
            if let Some(commit) = light.commit_index() {
                self.storage.wl().mut_hard_state().set_commit(commit);
            }
            outbox.extend(light.take_messages());
            applied += self.apply(light.take_committed_entries());
            self.raw.advance_apply();
        }
        applied
    }

    fn applied(&self) -> u64 {
        self.raw.raft.raft_log.applied
    }

    fn compact(&mut self, index: u64) {
        // It keeps the index that it is given.
        self.storage.wl().compact(index + 1).expect("compact");
    }

    fn receiver(message: &Message) -> u64 {
        message.to
    }

    #[cfg(not(rival_prost))]
    fn over_the_wire(message: Message) -> Message {
        let bytes = Bytes::from(message.write_to_bytes().expect("encode"));
        // The payloads share the message's bytes, as ours do.
        Message::parse_from_carllerche_bytes(&bytes).expect("decode")
    }

    #[cfg(rival_prost)]
    fn over_the_wire(message: Message) -> Message {
        let bytes = message.write_to_bytes().expect("encode");
        let mut message = Message::default();
        message.merge_from_bytes(&bytes).expect("decode");
        message
    }
}
