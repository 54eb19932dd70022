//! `raft-core`, driven as the text of `raw_node.rs` says.

use bytes::Bytes;
use raft_core::pb::{Entry, Message, MessageType};
use raft_core::{ConfChangeKind, Config, MemoryStorage, Peer, RawNode, Storage, NO_LIMIT};

use crate::{ELECTION_TICK, HEARTBEAT_TICK, MAX_INFLIGHT_MESSAGES, MAX_MESSAGE_BYTES};

pub(crate) struct Node(RawNode<MemoryStorage>);

impl crate::Node for Node {
    type Message = Message;

    fn new(id: u64, nodes: u64) -> Self {
        let config = Config {
            election_tick: ELECTION_TICK,
            heartbeat_tick: HEARTBEAT_TICK,
            max_size_per_msg: MAX_MESSAGE_BYTES,
            max_inflight_msgs: MAX_INFLIGHT_MESSAGES,
            max_inflight_bytes: 0,
            max_uncommitted_entries_size: 0,
            max_committed_size_per_ready: NO_LIMIT,
            // As the rival's defaults are.
            check_quorum: false,
            pre_vote: false,
            ..Config::new(id)
        };
        let peers: Vec<Peer> = (1..=nodes).map(|id| Peer { id, ..Peer::default() }).collect();
        Node(RawNode::bootstrap(config, MemoryStorage::new(), &peers).expect("a founding member"))
    }

    fn campaign(&mut self) {
        self.0.campaign().expect("campaign");
    }

    fn tick(&mut self) {
        self.0.tick().expect("tick");
    }

    fn propose(&mut self, batch: usize, payload: &Bytes) {
        let entries = (0..batch).map(|_| Entry::normal(payload.clone())).collect();
        let id = self.0.basic_status().id;
        self.0.step(Message { from: id, entries, ..Message::of(MessageType::MsgProp) }).expect("propose");
    }

    fn step(&mut self, message: Message) {
        self.0.step(message).expect("step");
    }

    fn has_ready(&self) -> bool {
        self.0.has_ready()
    }

    fn work(&mut self, outbox: &mut Vec<Message>) -> u64 {
        let mut applied = 0;
        while self.0.has_ready() {
            let mut ready = self.0.ready().expect("ready");
            ready.append_messages_to(outbox);
            let storage = self.0.storage_mut();
            storage.append(ready.entries()).expect("append");
            if let Some(hard_state) = ready.hard_state() {
                storage.set_hard_state(hard_state);
            }
            let mut persisted = ready.persisted();
            persisted.append_messages_to(outbox);
            for entry in persisted.committed_entries() {
                applied += 1;
                if entry.is_conf_change() {
                    let change = ConfChangeKind::decode(entry).expect("a change of ours");
                    self.0.apply_conf_change(change).expect("apply");
                }
            }
            self.0.advance(persisted).expect("advance");
        }
        applied
    }

    fn applied(&self) -> u64 {
        self.0.basic_status().applied
    }

    fn compact(&mut self, index: u64) {
        let storage = self.0.storage_mut();
        if index >= storage.first_index().expect("first index") {
            storage.compact(index).expect("compact");
        }
    }

    fn receiver(message: &Message) -> u64 {
        message.to
    }

    fn over_the_wire(message: Message) -> Message {
        Message::from_bytes(message.to_bytes()).expect("decode")
    }
}
