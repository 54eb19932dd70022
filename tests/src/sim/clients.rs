//! Clients: writes and reads at any node, at any time, each judged when it is answered.
//!
//! A write is answered when the node that took it applies it; a read when the node has applied what the read's index
//! asks for. Who is not answered, because a process ended or a message was lost, never knows; nobody tries again, so
//! every write has one place in the log at most.

use bytes::Bytes;
use kvstore::Command;
use raft_core::pb::Entry;
use raft_core::{DropReason, Error};
use raftexample::codec::{encode_request, Codec as _, Content, OwnCodec, RequestId};

use super::drive::{broken, Stop};
use super::invariants::Violation;
use super::node::{PendingRead, PendingWrite, Process};
use super::world::{Event, World};
use crate::sometimes;

/// Reads that one node holds.
const READS: usize = 64;

fn key_of(number: u64) -> Bytes {
    Bytes::from(format!("key {number}"))
}

impl World {
    /// Some client wants something of some node.
    pub(super) fn clients(&mut self) -> Result<(), Violation> {
        if !self.faults_are_on {
            return Ok(());
        }
        let every = self.plan.client_every_ms;
        let next = 1 + self.client_random.below(2 * every);
        self.schedule(next, Event::Client);
        let count = self.machines.len() as u64;
        let at = match self.client_random.below(2) {
            0 => self.leader().unwrap_or(0),
            _ => self.client_random.below(count) as usize,
        };
        // Some stay with the leader that they know for as long as it says so itself.
        let at = match self.client_random.below(4) {
            0 => self.oldest_leader().unwrap_or(at),
            _ => at,
        };
        let wishes = if self.client_random.below(40) == 0 { 30 } else { 1 };
        let paused = self.machines[at].paused_until > self.now;
        self.with(at, |world, process| {
            if paused || process.is_busy() {
                return Ok(());
            }
            for _ in 0..wishes {
                if world.client_random.below(5) < 3 {
                    world.write(at, process)?;
                } else {
                    world.read(process)?;
                }
            }
            world.drive(at, process)
        })
    }

    /// Proposes a write. Answers its number if it was taken.
    pub(super) fn write(&mut self, at: usize, process: &mut Process) -> Result<Option<u64>, Stop> {
        self.operations += 1;
        let number = self.operations;
        let key = key_of(self.client_random.below(self.plan.keys));
        let command = if self.client_random.below(8) == 0 {
            Command::Delete { key }
        } else {
            let mut value = format!("value {number} ").into_bytes();
            value.resize(value.len() + self.client_random.below(self.plan.value_bytes) as usize, b'.');
            Command::Put { key, value: value.into() }
        };
        let id = RequestId { node: self.machines[at].id, boot: self.machines[at].boot, counter: number };
        let data = encode_request(id, &command);
        let (payload, leading) = (data.len() as u64, process.leads());
        let result = process.raw.propose(data);
        if leading {
            self.see_proposal(at, process, payload, false, &result)?;
        }
        match result {
            Ok(()) => {
                let begun = self.invariants.linearizability.begins();
                process.writes.insert(number, PendingWrite { begun, leading });
                Ok(Some(number))
            }
            Err(error) if error.is_fatal() => Err(broken(error)),
            Err(error) => {
                sometimes!(self.marks, ProposalWithoutLeader, error == Error::ProposalDropped(DropReason::NoLeader));
                self.invariants.linearizability.refused(number);
                Ok(None)
            }
        }
    }

    /// Asks for a read. Answers its number if it was taken.
    pub(super) fn read(&mut self, process: &mut Process) -> Result<Option<u64>, Stop> {
        self.operations += 1;
        let number = self.operations;
        let key = self.client_random.below(self.plan.keys);
        let read = PendingRead {
            key,
            begun: self.invariants.linearizability.begins(),
            committed: self.invariants.state_machine_safety.last(),
            index: None,
            leading: process.leads(),
            heard: process.heard,
        };
        match process.raw.read_index(Bytes::copy_from_slice(&number.to_le_bytes())) {
            Ok(()) => {
                process.reads.insert(number, read);
                while process.reads.len() > READS {
                    if let Some((_, gone)) = process.reads.pop_first() {
                        process.waiting -= usize::from(gone.index.is_some());
                    }
                }
                Ok(Some(number))
            }
            Err(error) if error.is_fatal() => Err(broken(error)),
            Err(_) => Ok(None),
        }
    }

    /// Answers the reads whose index is applied.
    pub(super) fn serve_reads(&mut self, process: &mut Process) -> Result<(), Stop> {
        if process.waiting == 0 {
            return Ok(());
        }
        let applied = process.applied.0;
        let due: Vec<u64> = process
            .reads
            .iter()
            .filter(|(_, read)| read.index.is_some_and(|index| index <= applied))
            .map(|(number, _)| *number)
            .collect();
        for number in due {
            let Some(read) = process.reads.remove(&number) else { continue };
            process.waiting -= 1;
            let key = key_of(read.key);
            let value = process.store.get(&key);
            self.invariants.linearizability.read(&key, value.as_ref(), applied, read.begun)?;
            self.stats.reads += 1;
            self.served.insert(number);
            sometimes!(self.marks, ReadServed);
            sometimes!(self.marks, ReadServedByFollower, !read.leading && !process.leads());
        }
        Ok(())
    }

    /// Applies a command, and answers who asked for it.
    pub(super) fn apply_command(&mut self, at: usize, process: &mut Process, entry: &Entry) -> Result<(), Stop> {
        let (request, command) = match OwnCodec.decode_entry(entry.data.clone()).map_err(broken)? {
            Content::Request(Some(request), command) => (request, command),
            other => return Err(broken(format_args!("entry {} was not proposed here: {other:?}", entry.index))),
        };
        let left = match &command {
            Command::Put { value, .. } => Some(value.clone()),
            Command::Delete { .. } => None,
        };
        let number = request.counter;
        self.invariants.linearizability.placed(number, entry.index, command.key(), left)?;
        process.store.apply(entry.index, command);
        if (request.node, request.boot) == (self.machines[at].id, self.machines[at].boot) {
            if let Some(write) = process.writes.remove(&number) {
                self.invariants.linearizability.acknowledged(number, write.begun)?;
                self.stats.writes += 1;
                sometimes!(self.marks, ProposalForwarded, !write.leading);
            }
        }
        Ok(())
    }
}
