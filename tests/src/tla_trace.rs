//! Runs of real nodes in the trace format of etcd's TLA+ specification: one JSON object a line.
//!
//! ```text
//! cargo run --release -p tests --bin tla-trace -- --seed 1 --steps 300 > trace.ndjson
//! ```
//!
//! etcd-io/raft keeps a specification of its protocol (`tla/etcdraft.tla`) and one that follows a recorded run through it
//! (`tla/Traceetcdraft.tla`). Whoever has TLC can follow ours: if a line is no step that the specification allows, TLC
//! names it. Written are the events that it knows: how nodes start, change role, replicate, commit, change the
//! configuration and apply that, take a Ready out, and send and receive appends (heartbeats among them), votes, and
//! their answers.
//!
//! The events are seen from outside, between two calls of a node: what one call does is written in the order in which
//! the protocol does it, with the state at its end. A Ready is carried out at once, for the specification takes writing
//! to be atomic. Runs keep to what it covers: simple configuration changes, no pre-votes, no reads, no transfers and no
//! snapshots.
//!
//! Left out: running TLC, which is Java's, and anything that etcd does not trace.

use raft_core::pb::{ConfChange, ConfChangeType, Entry, HardState, Message, MessageType};
use raft_core::{ConfChangeKind, Config, Error, MemoryStorage, Peer, RawNode, StateType};
use serde_json::{json, Map, Value};

use crate::random::Random;

/// The nodes of a run.
const NODES: u64 = 3;

/// A run in the making.
pub struct Run {
    nodes: Vec<RawNode<MemoryStorage>>,
    network: Vec<Message>,
    random: Random,
    lines: Vec<Value>,
}

/// The lines of a run of so many random steps.
///
/// # Errors
/// Fatal ones of any node.
pub fn record(seed: u64, steps: usize) -> Result<Vec<Value>, Error> {
    let peers: Vec<Peer> = (1..=NODES).map(|id| Peer { id, ..Peer::default() }).collect();
    let mut run = Run { nodes: Vec::new(), network: Vec::new(), random: Random::new(seed), lines: Vec::new() };
    for id in 1..=NODES {
        let config = Config { check_quorum: false, pre_vote: false, seed, ..Config::new(id) };
        run.nodes.push(RawNode::bootstrap(config, MemoryStorage::new(), &peers)?);
        run.write(id, "InitState", Map::new());
    }
    for id in 1..=NODES {
        run.carry_out(id)?;
    }
    for _ in 0..steps {
        run.step()?;
    }
    Ok(run.lines)
}

impl Run {
    fn node(&self, id: u64) -> &RawNode<MemoryStorage> {
        &self.nodes[id as usize - 1]
    }

    fn node_mut(&mut self, id: u64) -> &mut RawNode<MemoryStorage> {
        &mut self.nodes[id as usize - 1]
    }

    fn step(&mut self) -> Result<(), Error> {
        let id = 1 + self.random.below(NODES);
        match self.random.below(100) {
            0..=4 => self.call(id, |node| node.campaign()),
            5..=9 => self.call(id, |node| node.tick()),
            10..=24 if self.leads(id) => self.propose(id, Entry::normal("x")),
            25..=27 if self.leads(id) => {
                let change_type = match self.random.below(2) {
                    0 => ConfChangeType::ConfChangeAddNode,
                    _ => ConfChangeType::ConfChangeRemoveNode,
                };
                let node_id = 1 + self.random.below(NODES);
                let change = ConfChange { change_type: change_type as i32, node_id, ..ConfChange::default() };
                let (kind, data) = ConfChangeKind::V1(change).encode();
                self.propose(id, Entry { entry_type: kind as i32, data, ..Entry::default() })
            }
            28..=30 if !self.network.is_empty() => {
                let lost = self.random.below(self.network.len() as u64) as usize;
                self.network.remove(lost);
                Ok(())
            }
            _ if self.network.is_empty() => Ok(()),
            _ => {
                let at = self.random.below(self.network.len().min(4) as u64) as usize;
                let message = self.network.remove(at);
                let to = message.to;
                if let Some(name) = name_of(&message, "Receive") {
                    let mut fields = Map::new();
                    fields.insert("msg".to_string(), message_json(&message));
                    self.write(to, &name, fields);
                }
                self.call(to, |node| node.step(message))
            }
        }
    }

    fn leads(&self, id: u64) -> bool {
        self.node(id).basic_status().soft_state.state == StateType::Leader
    }

    fn propose(&mut self, id: u64, entry: Entry) -> Result<(), Error> {
        let proposal = Message { from: id, entries: [entry].into(), ..Message::of(MessageType::MsgProp) };
        self.call(id, |node| node.step(proposal))
    }

    /// One call of a node and the Readys that follow, with everything that they change written down.
    fn call(
        &mut self,
        id: u64,
        what: impl FnOnce(&mut RawNode<MemoryStorage>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let before = self.look(id)?;
        match what(self.node_mut(id)) {
            Err(error) if error.is_fatal() => return Err(error),
            _ => {}
        }
        self.write_changes(id, &before)?;
        self.carry_out(id)
    }

    fn look(&self, id: u64) -> Result<(StateType, HardState, u64), Error> {
        let status = self.node(id).basic_status();
        let (base, _, entries) = self.node(id).whole_log()?;
        Ok((status.soft_state.state, status.hard_state, base + entries.len() as u64))
    }

    fn write_changes(&mut self, id: u64, before: &(StateType, HardState, u64)) -> Result<(), Error> {
        let (role, hard_state, last) = self.look(id)?;
        let term_rose = hard_state.term > before.1.term;
        if role != before.0 || term_rose {
            let name = match role {
                StateType::Follower => Some("BecomeFollower"),
                StateType::Candidate => Some("BecomeCandidate"),
                StateType::Leader => Some("BecomeLeader"),
                StateType::PreCandidate => None,
            };
            if let Some(name) = name {
                self.write(id, name, Map::new());
            }
        }
        if role == StateType::Leader {
            let (base, _, entries) = self.node(id).whole_log()?;
            for entry in entries.into_iter().skip((before.2 - base) as usize).take((last - before.2) as usize) {
                self.write_appended(id, &entry)?;
            }
        }
        if hard_state.commit > before.1.commit && role == StateType::Leader {
            self.write(id, "Commit", Map::new());
        }
        Ok(())
    }

    fn write_appended(&mut self, id: u64, entry: &Entry) -> Result<(), Error> {
        if !entry.is_conf_change() {
            self.write(id, "Replicate", Map::new());
            return Ok(());
        }
        let change = ConfChangeKind::decode(entry)?.into_v2();
        let changes = change.changes.iter().map(|single| {
            let action = match ConfChangeType::try_from(single.change_type) {
                Ok(ConfChangeType::ConfChangeRemoveNode) => "RemoveServer",
                Ok(ConfChangeType::ConfChangeAddLearnerNode) => "AddLearner",
                _ => "AddNewServer",
            };
            json!({"nid": single.node_id.to_string(), "action": action})
        });
        let changes: Vec<Value> = changes.collect();
        self.write(id, "ChangeConf", properties(json!({"cc": {"changes": changes}})));
        Ok(())
    }

    /// Carries out a node's Readys and writes down what leaves and what comes into force.
    fn carry_out(&mut self, id: u64) -> Result<(), Error> {
        while self.node(id).has_ready() {
            let mut ready = self.node_mut(id).ready()?;
            let mut sent: Vec<_> = ready.take_messages().collect();
            let storage = self.node_mut(id).storage_mut();
            if let Some(hard_state) = ready.hard_state() {
                storage.set_hard_state(hard_state);
            }
            storage.append(ready.entries())?;
            let mut persisted = ready.persisted();
            sent.extend(persisted.take_messages());
            self.write(id, "Ready", Map::new());
            for message in sent {
                if let Some(name) = name_of(&message, "Send") {
                    let mut fields = Map::new();
                    fields.insert("msg".to_string(), message_json(&message));
                    self.write(id, &name, fields);
                }
                if (1..=NODES).contains(&message.to) {
                    self.network.push(message);
                }
            }
            for entry in persisted.take_committed_entries() {
                if entry.is_conf_change() {
                    let change = ConfChangeKind::decode(&entry)?;
                    // A change that cannot follow on the present configuration changes nothing.
                    if let Ok(configuration) = self.node_mut(id).apply_conf_change(change) {
                        let voters: Vec<String> = configuration.voters.iter().map(u64::to_string).collect();
                        self.write(id, "ApplyConfChange", properties(json!({"cc": {"newconf": voters}})));
                    }
                }
            }
            let before = self.look(id)?;
            self.node_mut(id).advance(persisted)?;
            self.write_changes(id, &before)?;
        }
        Ok(())
    }

    fn write(&mut self, id: u64, name: &str, extra: Map<String, Value>) {
        let status = self.node(id).status();
        let (basic, voters) = (&status.basic, &status.config.voters);
        let ids = |half: &raft_core::quorum::MajorityConfig| -> Vec<String> {
            half.ids().iter().map(|id| id.to_string()).collect()
        };
        let last = self.look(id).map(|(_, _, last)| last).unwrap_or_default();
        let mut event = Map::new();
        event.insert("name".to_string(), json!(name));
        event.insert("nid".to_string(), json!(id.to_string()));
        let hard_state = basic.hard_state;
        let state = json!({
            "term": hard_state.term,
            "vote": hard_state.vote.to_string(),
            "commit": hard_state.commit,
        });
        event.insert("state".to_string(), state);
        event.insert("role".to_string(), json!(basic.soft_state.state.to_string()));
        event.insert("log".to_string(), json!(last));
        event.insert("conf".to_string(), json!([ids(&voters.incoming), ids(&voters.outgoing)]));
        event.extend(extra);
        self.lines.push(json!({"tag": "trace", "event": event}));
    }
}

fn properties(value: Value) -> Map<String, Value> {
    Map::from_iter([("prop".to_string(), value)])
}

/// `SendAppendEntriesRequest` and its like; `None` for what is not traced.
fn name_of(message: &Message, verb: &str) -> Option<String> {
    let what = match message.kind()? {
        MessageType::MsgApp | MessageType::MsgHeartbeat | MessageType::MsgSnap => "AppendEntriesRequest",
        MessageType::MsgAppResp | MessageType::MsgHeartbeatResp => "AppendEntriesResponse",
        MessageType::MsgVote => "RequestVoteRequest",
        MessageType::MsgVoteResp => "RequestVoteResponse",
        _ => return None,
    };
    Some(format!("{verb}{what}"))
}

fn message_json(message: &Message) -> Value {
    let kind = message.kind().map(|kind| format!("{kind:?}")).unwrap_or_default();
    json!({
        "type": kind,
        "term": message.term,
        "from": message.from.to_string(),
        "to": message.to.to_string(),
        "entries": message.entries.len(),
        "logTerm": message.log_term,
        "index": message.index,
        "commit": message.commit,
        "vote": message.vote.to_string(),
        "reject": message.reject,
        "rejectHint": message.reject_hint,
    })
}

/// Whether a line has the shape that the specification's reader expects; what is wrong if not.
///
/// # Errors
/// The first thing that is wrong.
pub fn check_line(line: &Value) -> Result<(), String> {
    let event = line.get("event").filter(|_| line["tag"] == "trace").ok_or("it has no tag \"trace\" with an event")?;
    let name = event["name"].as_str().ok_or("its event has no name")?;
    let is_message = name.starts_with("Send") || name.starts_with("Receive");
    let known = ["InitState", "BecomeCandidate", "BecomeFollower", "BecomeLeader", "Commit", "Replicate", "Ready"];
    let changes = ["ChangeConf", "ApplyConfChange"];
    if !is_message && !known.contains(&name) && !changes.contains(&name) {
        return Err(format!("the specification knows no event {name}"));
    }
    decimal(&event["nid"]).ok_or("nid is no decimal string")?;
    let state = &event["state"];
    let numbers = state["term"].is_u64() && state["commit"].is_u64() && event["log"].is_u64();
    decimal(&state["vote"]).filter(|_| numbers).ok_or("term, vote, commit or log is missing")?;
    let roles = ["StateFollower", "StateCandidate", "StateLeader"];
    event["role"].as_str().filter(|role| roles.contains(role)).ok_or("an unknown role")?;
    let halves = event["conf"].as_array().filter(|halves| halves.len() == 2).ok_or("conf has not two halves")?;
    if !halves.iter().all(|half| half.as_array().is_some_and(|ids| ids.iter().all(|id| decimal(id).is_some()))) {
        return Err("an id in conf is no decimal string".to_string());
    }
    if is_message != event.get("msg").is_some() || changes.contains(&name) != event.get("prop").is_some() {
        return Err(format!("msg and prop do not go with {name}"));
    }
    let Some(message) = event.get("msg") else { return Ok(()) };
    let numbers = ["term", "entries", "logTerm", "index", "commit", "rejectHint"];
    let fine = numbers.iter().all(|field| message[*field].is_u64())
        && ["from", "to", "vote"].iter().all(|field| decimal(&message[*field]).is_some())
        && message["reject"].is_boolean()
        && message["type"].as_str().is_some_and(|kind| kind.starts_with("Msg"));
    fine.then_some(()).ok_or_else(|| format!("its message lacks a field: {message}"))
}

fn decimal(value: &Value) -> Option<u64> {
    value.as_str()?.parse().ok()
}
