//! How nodes talk to each other: etcd's rafthttp, of which this holds the pipeline (`POST /raft`, one message each).
//!
//! Raft asks little of a network: messages may be lost, doubled, reordered, delayed. What it must not do is wait. The
//! raft thread hands messages over with [`Transport::send`], which only ever puts them into bounded queues; sockets are
//! the business of tasks on the tokio runtime. What cannot be delivered comes back as an [`Event`], so that the leader
//! stops streaming to a peer that does not hear it.
//!
//! Each peer has three [lanes](pipeline), each a queue with a task and a connection of its own, because one slow message
//! must not hold up another that matters more:
//!
//! | lane | carries | why apart |
//! |---|---|---|
//! | control | heartbeats, votes, reads | small and urgent: late heartbeats cause elections |
//! | log | entries and their acknowledgements, forwarded proposals | kept in order, or the follower refuses them |
//! | snapshot | snapshots | large and rare |
//!
//! Versions 3.4 to 3.8 of etcd's protocol agree on all of this. [`headers`] has the names, [`server`] the receiving side
//! with its checks.
//!
//! What is left out, and answered with 404, which every version takes for "not now": the long-lived streams, over which
//! two nodes that have them would rather talk; chunked snapshots; TLS.

pub mod headers;
pub mod pipeline;
pub mod server;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::RwLock;
use raft_core::pb::{Entry, Message, MessageType};
use tokio::runtime::Handle;

use crate::address::PeerUrl;
use pipeline::Peer;

/// Something that the raft thread should know.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A peer's message.
    Message(Message),
    /// A message to this peer was lost.
    Unreachable {
        /// Which peer.
        id: u64,
    },
    /// These proposals did certainly not reach this peer: they may be proposed again.
    Undelivered {
        /// What was to be proposed.
        entries: Vec<Entry>,
    },
    /// A snapshot to this peer was delivered, or lost.
    SnapshotSent {
        /// Which peer.
        id: u64,
        /// Whether it arrived.
        delivered: bool,
    },
    /// This peer says that we were removed from the cluster.
    ToldRemoved {
        /// Which peer.
        by: u64,
        /// By the entry with this index.
        at: u64,
    },
}

/// Takes events to the raft thread, without waiting; gives the event back when its inbox is full.
pub type Sink = Arc<dyn Fn(Event) -> Result<(), Box<Event>> + Send + Sync>;

/// Ids that were removed from the cluster, with the index of the entry that did it. A lock, because the peer server asks on every request and the raft thread
/// changes it once in a cluster's life.
pub type Removed = Arc<RwLock<BTreeMap<u64, u64>>>;

/// The sending side: who is reachable where. Owned by the raft thread.
pub struct Transport {
    own_id: u64,
    sink: Sink,
    runtime: Handle,
    peers: BTreeMap<u64, (PeerUrl, Peer)>,
}

/// Messages that [`Transport::send`] could not even queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Peers that lost something.
    pub unreachable: BTreeSet<u64>,
    /// Peers whose snapshot was lost.
    pub snapshots: BTreeSet<u64>,
    /// Proposals that did not leave this node.
    pub proposals: Vec<Entry>,
}

impl Transport {
    /// A transport without peers; its tasks run on `runtime`.
    pub fn new(own_id: u64, sink: Sink, runtime: Handle) -> Transport {
        Transport { own_id, sink, runtime, peers: BTreeMap::new() }
    }

    /// Lets messages to `id` go to `url` from now on. Nothing happens for this node's own id.
    pub fn add(&mut self, id: u64, url: &PeerUrl) {
        if id == self.own_id || self.peers.get(&id).is_some_and(|(known, _)| known == url) {
            return;
        }
        let peer = Peer::start(self.own_id, id, url.clone(), Arc::clone(&self.sink), &self.runtime);
        self.peers.insert(id, (url.clone(), peer));
    }

    /// Forgets a peer. What is queued for it is still sent: the news of its own removal may be among it.
    pub fn remove(&mut self, id: u64) {
        self.peers.remove(&id);
    }

    /// Queues messages; never waits. What finds no room, or no such peer, is lost and reported.
    pub fn send(&mut self, messages: Vec<Message>) -> Lost {
        let mut lost = Lost::default();
        for message in messages {
            let refused = match self.peers.get(&message.to) {
                Some((_, peer)) => peer.queue(message).err(),
                None => Some(message),
            };
            let Some(message) = refused else { continue };
            lost.unreachable.insert(message.to);
            match message.kind() {
                Some(MessageType::MsgSnap) => {
                    lost.snapshots.insert(message.to);
                }
                Some(MessageType::MsgProp) => lost.proposals.extend(message.entries),
                _ => {}
            }
        }
        lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(id: u64, kind: MessageType) -> Message {
        Message { to: id, ..Message::of(kind) }
    }

    #[test]
    fn what_cannot_be_queued_is_said_by_kind() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut transport = Transport::new(1, Arc::new(|_| Ok(())), runtime.handle().clone());
        transport.add(1, &"http://127.0.0.1:1".parse().unwrap());
        transport.add(2, &"http://127.0.0.1:2".parse().unwrap());
        let wish = Entry::normal("wish");
        let proposal = Message { entries: vec![wish.clone()], ..to(3, MessageType::MsgProp) };
        let messages =
            vec![to(2, MessageType::MsgApp), to(1, MessageType::MsgApp), to(4, MessageType::MsgSnap), proposal];
        let lost = transport.send(messages);
        // Node 2 is a peer; node 1 is this node, 3 and 4 nobody knows.
        assert_eq!(lost.unreachable, BTreeSet::from([1, 3, 4]));
        assert_eq!(lost.snapshots, BTreeSet::from([4]));
        assert_eq!(lost.proposals, [wish]);
        transport.remove(2);
        assert_eq!(transport.send(vec![to(2, MessageType::MsgApp)]).unreachable, BTreeSet::from([2]));
    }
}
