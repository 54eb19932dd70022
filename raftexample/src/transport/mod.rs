//! How nodes talk to each other: etcd's rafthttp, so that a node of etcd's original example is a peer like any other.
//!
//! Raft asks little of a network: messages may be lost, doubled, reordered, delayed. What it must not do is wait. The
//! raft thread hands messages over with [`Transport::send`], which only ever puts them into bounded queues; sockets are
//! the business of tasks on the tokio runtime. What cannot be delivered comes back as an [`Event`], so that the leader
//! stops streaming to a peer that does not hear it.
//!
//! # Channels
//!
//! Everything is HTTP/1.1 on one port. Between two nodes there are, in each direction:
//!
//! | channel | carries | path |
//! |---|---|---|
//! | [`msgapp`] stream | a leader's entries, in a shorthand | `GET /raft/stream/msgapp/<receiver>` |
//! | [`message`] stream | everything else that is small | `GET /raft/stream/message/<receiver>` |
//! | [`pipeline`] | whatever no stream can take now | `POST /raft` |
//! | [`snapshot`] | snapshots, from file to file | `POST /raft/snapshot` |
//! | [`probing`] | "do you live?" | `GET /raft/probing` |
//!
//! The receiver dials a [`stream`], and the sender answers it with messages for as long as both live. [`incoming`] is the
//! side that dials, [`outgoing`] the side that serves. [`peer`] holds what belongs to one peer and chooses the channel,
//! [`server`] answers requests, with etcd's checks in etcd's order; [`wire`] is what a message looks like, [`headers`]
//! what every request says about its sender.
//!
//! # Trust
//!
//! Whatever a peer sends may be wrong, and must then cost little: each frame and body has a limit, memory grows with what
//! has arrived and not with what a prefix announces, and a byte that cannot be understood ends that connection only. In
//! the other direction more care is due: processes of the original end when a peer sends them what they do not expect.
//!
//! Versions 3.4 to 3.8 of etcd's protocol agree on all of this. The original raftexample has no snapshot channel: in a
//! cluster with it, snapshots are part of their message and take the pipeline.
//!
//! # What differs from rafthttp
//!
//! A peer of the original notices none of it.
//!
//! | | rafthttp | here |
//! |---|---|---|
//! | probes of a peer | two, one on a kept connection and one on a fresh one | one, on a fresh one: what a kept connection shows, the streams show sooner |
//! | dialling again | ten times a second for ever | slows down to once in 1.6 seconds, until the peer dials us |
//! | pipeline | four posts at a time, in no order | two lanes, each in order |
//! | frames and bodies | as long as their prefix says | limited; memory as bytes arrive |
//! | a posted body | may take for ever | 30 seconds, one more for each 128 KiB: a slower snapshot gets 408 |
//! | the inbox | 4096 messages, and as many proposals | limited in number and in bytes |
//! | messages | taken whoever they are for | 412 unless for this node |
//! | removed members, wrong ids | 403 and 410 for whoever comes | for those who ask, see [`server`] |
//!
//! What is left out: several clusters on one port.

mod arriving;
mod connection;
pub mod headers;
pub mod incoming;
pub mod message;
pub mod msgapp;
pub mod outgoing;
pub mod peer;
pub mod pipeline;
pub mod probing;
pub mod register;
pub mod server;
pub mod snapshot;
pub mod stream;
pub mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use raft_core::pb::{Entry, Message, MessageType};
use tokio::runtime::Handle;

use crate::address::PeerUrl;
use crate::snapshots::Image;
use crate::tls::Tls;
use peer::{Link, Peer, Peers};
use register::{Number, Register};
use snapshot::send::{Outbound, Sending};
use snapshot::TransferStatus;

/// A snapshot that has arrived, was checked and is loaded.
#[derive(Debug)]
pub struct Received {
    /// What its sender says to Raft: the snapshot in it has metadata and no data.
    pub message: Message,
    /// The data.
    pub image: Image,
}

/// Two of one message: nothing else of them can be compared.
impl PartialEq for Received {
    fn eq(&self, other: &Received) -> bool {
        self.message == other.message
    }
}

/// Something that the raft thread should know.
#[derive(Debug, PartialEq)]
pub enum Event {
    /// A peer's message. Never a snapshot.
    Message(Message),
    /// A peer's snapshot.
    Snapshot(Box<Received>),
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
    /// A snapshot to this peer was delivered, or lost. It concerns Raft only if it is still the newest one, see
    /// [`Transport::is_newest_transfer`].
    SnapshotSent {
        /// Which peer.
        id: u64,
        /// Which transfer: they are numbered as they are begun.
        transfer: u64,
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
    /// This peer says that we are not who we seem to be.
    ToldStranger {
        /// Which peer.
        by: u64,
        /// By which number.
        number: Number,
    },
}

impl Event {
    /// What a peer makes this node keep in memory for it, roughly: a message and its entries.
    pub fn bytes(&self) -> usize {
        let Event::Message(message) = self else { return 0 };
        let data: usize = message.entries.iter().map(|entry| size_of::<Entry>() + entry.data.len()).sum();
        size_of::<Message>() + data + message.context.len()
    }
}

/// Takes events to the raft thread, without waiting; gives the event back when its inbox is full.
pub type Sink = Arc<dyn Fn(Event) -> Result<(), Box<Event>> + Send + Sync>;

/// The sending side: who is reachable where. Owned by the raft thread.
pub struct Transport {
    own_id: u64,
    sink: Sink,
    /// With what peers are dialled; `None` is without TLS.
    tls: Option<Tls>,
    register: Register,
    runtime: Handle,
    sending: Sending,
    /// Snapshots that were to be sent so far: the newest one's number.
    transfers_begun: u64,
    /// The number of the newest one to each peer, at whatever address.
    newest_transfers: BTreeMap<u64, u64>,
    peers: BTreeMap<u64, Peer>,
    /// The same peers, for the server.
    registry: Arc<Peers>,
    /// Every peer counts as active: tests of the raft thread have none that really are.
    #[cfg(test)]
    pub(crate) all_active: bool,
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
    pub fn new(
        own_id: u64,
        sink: Sink,
        register: Register,
        runtime: Handle,
        tls: Option<Tls>,
        sending: Sending,
    ) -> Transport {
        Transport {
            own_id,
            sink,
            register,
            tls,
            runtime,
            sending,
            transfers_begun: 0,
            newest_transfers: BTreeMap::new(),
            peers: BTreeMap::new(),
            registry: Arc::default(),
            #[cfg(test)]
            all_active: false,
        }
    }

    /// Who may dial this node.
    pub fn registry(&self) -> Arc<Peers> {
        Arc::clone(&self.registry)
    }

    /// Snapshots that are being sent or received.
    pub fn snapshot_transfers(&self) -> Vec<TransferStatus> {
        self.sending.transfers.list()
    }

    /// Lets messages to `id` go to `url` from now on, and takes those that come from there. Nothing happens for this
    /// node's own id.
    pub fn add(&mut self, id: u64, url: &PeerUrl) {
        if id == self.own_id || self.peers.get(&id).is_some_and(|peer| peer.url() == url) {
            return;
        }
        let link = Link::new(
            self.own_id,
            id,
            url.clone(),
            Arc::clone(&self.sink),
            Arc::clone(&self.register),
            self.tls.clone(),
        );
        self.registry.insert(Arc::clone(&link));
        self.peers.insert(id, Peer::start(link, &self.runtime, &self.sending));
    }

    /// Forgets a peer. What is queued for it is still sent: the news of its own removal may be among it.
    pub fn remove(&mut self, id: u64) {
        self.registry.remove(id);
        self.peers.remove(&id);
    }

    /// Whether this peer gives a sign of life on any channel.
    pub fn is_active(&self, id: u64) -> bool {
        #[cfg(test)]
        if self.all_active {
            return true;
        }
        self.peers.get(&id).is_some_and(Peer::is_active)
    }

    /// Whether no newer snapshot was to be sent to this peer: what became of an earlier one says nothing about it.
    pub fn is_newest_transfer(&self, id: u64, transfer: u64) -> bool {
        self.newest_transfers.get(&id) == Some(&transfer)
    }

    /// Queues messages; never waits. What finds no room, or no such peer, is lost and reported.
    pub fn send(&mut self, messages: Vec<Message>) -> Lost {
        let mut lost = Lost::default();
        for message in messages {
            let refused = match self.peers.get(&message.to) {
                Some(peer) if message.kind() == Some(MessageType::MsgSnap) => {
                    self.transfers_begun += 1;
                    self.newest_transfers.insert(message.to, self.transfers_begun);
                    peer.queue_snapshot(Outbound { transfer: self.transfers_begun, message }).err()
                }
                Some(peer) => peer.queue(message).err(),
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
    use crate::snapshots::testing::no_sending;

    fn to(id: u64, kind: MessageType) -> Message {
        Message { to: id, ..Message::of(kind) }
    }

    #[test]
    fn what_cannot_be_queued_is_said_by_kind() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (sink, handle): (Sink, _) = (Arc::new(|_| Ok(())), runtime.handle().clone());
        let mut transport = Transport::new(1, sink, Register::default(), handle, None, no_sending());
        transport.add(1, &"http://127.0.0.1:1".parse().unwrap());
        transport.add(2, &"http://127.0.0.1:2".parse().unwrap());
        let wish = Entry::normal("wish");
        let proposal = Message { entries: [wish.clone()].into(), ..to(3, MessageType::MsgProp) };
        let messages =
            vec![to(2, MessageType::MsgApp), to(1, MessageType::MsgApp), to(4, MessageType::MsgSnap), proposal];
        let lost = transport.send(messages);
        // Node 2 is a peer; node 1 is this node, 3 and 4 nobody knows.
        assert_eq!(lost.unreachable, BTreeSet::from([1, 3, 4]));
        assert_eq!(lost.snapshots, BTreeSet::from([4]));
        assert_eq!(lost.proposals, [wish]);
        // Each is a transfer of its own, whatever becomes of the one before.
        transport.send(vec![to(2, MessageType::MsgSnap)]);
        assert!(transport.is_newest_transfer(2, 1));
        transport.add(2, &"http://127.0.0.1:3".parse().unwrap());
        assert!(transport.is_newest_transfer(2, 1), "Raft still waits for that one");
        transport.send(vec![to(2, MessageType::MsgSnap)]);
        assert!(!transport.is_newest_transfer(2, 1) && transport.is_newest_transfer(2, 2));
        assert!(!transport.is_newest_transfer(3, 2));
        transport.remove(2);
        assert_eq!(transport.send(vec![to(2, MessageType::MsgApp)]).unreachable, BTreeSet::from([2]));
    }
}
