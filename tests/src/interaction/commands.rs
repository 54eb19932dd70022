//! etcd's commands. Each does what the one of that name does in etcd's `rafttest`, and shows the same.

use raft_core::confchange::parse_changes;
use raft_core::pb::{ConfChange, ConfChangeTransition, ConfChangeV2, Message, MessageType, Snapshot};
use raft_core::tracker::describe_progress;
use raft_core::{
    describe, ConfChangeKind, Config, RawNode, ReadOnlyOption, Storage, LOCAL_APPEND_THREAD, LOCAL_APPLY_THREAD,
    NO_LIMIT,
};

use crate::datadriven::{Arg, Directive};

use super::node::{Machine, Node, NodeStorage};
use super::output::Level;
use super::{args, Environment, Failure};

/// More would be a mistake in typing.
const MAX_NODES: u64 = 100;
/// As above.
const MAX_TICKS: usize = 10_000;
/// Nodes that were told lies about who leads may pass a proposal to and fro for ever.
const MAX_ROUNDS: usize = 2_000;

impl Environment {
    pub(super) fn dispatch(&mut self, directive: &Directive) -> Result<(), Failure> {
        match directive.command.as_str() {
            "_breakpoint" => Ok(()),
            "add-nodes" => self.add_nodes(directive),
            "campaign" => Ok(self.raw(directive)?.campaign()?),
            "compact" => self.compact(directive),
            "deliver-msgs" => self.deliver_msgs(directive),
            "forget-leader" => Ok(self.raw(directive)?.forget_leader()?),
            "log-level" => self.log_level(args::word(directive, 0, "level")?),
            "process-append-thread" => {
                self.each(directive, "processing append thread", |env, id| env.process_append_thread(id))
            }
            "process-apply-thread" => {
                self.each(directive, "processing apply thread", |env, id| env.process_apply_thread(id))
            }
            "process-ready" => self.each(directive, "handling Ready", |env, id| env.process_ready(id)),
            "propose" => self.propose(directive),
            "propose-conf-change" => self.propose_conf_change(directive),
            "raft-log" => self.raft_log(args::node_id(directive)?),
            "raft-state" => self.raft_state(),
            "report-unreachable" => self.report_unreachable(directive),
            "send-snapshot" => self.send_snapshot(directive),
            "set-randomized-election-timeout" => {
                let timeout = args::required(directive, "timeout")?;
                self.raw(directive)?.set_randomized_election_timeout(timeout);
                Ok(())
            }
            "stabilize" => self.stabilize(directive),
            "status" => self.status(args::node_id(directive)?),
            "tick-election" => {
                let ticks = self.node(args::node_id(directive)?)?.config.election_tick;
                self.tick(args::node_id(directive)?, ticks)
            }
            "tick-heartbeat" => {
                let ticks = self.node(args::node_id(directive)?)?.config.heartbeat_tick;
                self.tick(args::node_id(directive)?, ticks)
            }
            "transfer-leadership" => {
                let (from, to) = (args::required(directive, "from")?, args::required(directive, "to")?);
                Ok(self.node(from)?.raw()?.transfer_leader(to)?)
            }
            _ => self.dispatch_added(directive),
        }
    }

    /// The state machine of the node that the first word names.
    pub(super) fn raw(&mut self, directive: &Directive) -> Result<&mut RawNode<NodeStorage>, Failure> {
        self.node(args::node_id(directive)?)?.raw()
    }

    /// Does the same for each node that is named; with a heading, if it is more than one.
    fn each(
        &mut self,
        directive: &Directive,
        heading: &str,
        act: impl Fn(&mut Environment, u64) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let ids = args::node_ids(directive)?;
        for id in &ids {
            if ids.len() > 1 {
                self.under_heading(*id, heading, |env| act(env, *id))?;
            } else {
                act(self, *id)?;
            }
        }
        Ok(())
    }

    fn under_heading(
        &mut self,
        id: u64,
        heading: &str,
        act: impl FnOnce(&mut Environment) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let output = self.output.clone();
        output.line(&format!("> {id} {heading}"));
        output.indented(|| act(self))
    }

    fn add_nodes(&mut self, directive: &Directive) -> Result<(), Failure> {
        let count = self.count_of_new_nodes(directive)?;
        let mut config = config_without_protections();
        let mut start = Snapshot::default();
        for arg in directive.args.iter().filter(|arg| !arg.values.is_empty()) {
            configure(&mut config, &mut start, arg)?;
        }
        for _ in 0..count {
            let id = self.nodes.len() as u64 + 1;
            config.id = id;
            let mut storage = NodeStorage { history: vec![start.clone()], ..NodeStorage::default() };
            let raw = if start == Snapshot::default() {
                RawNode::join(config.clone(), storage)?
            } else {
                if start.metadata.index <= 1 {
                    return Err(Failure::text("index must be specified as > 1 due to bootstrap"));
                }
                start.metadata.term = 1;
                storage.history = vec![start.clone()];
                storage.log.apply_snapshot(start.clone()).map_err(Failure::storage)?;
                RawNode::restart(config.clone(), storage)?
            };
            self.insert(id, config.clone(), raw);
        }
        Ok(())
    }

    pub(super) fn count_of_new_nodes(&self, directive: &Directive) -> Result<u64, Failure> {
        let count: u64 = args::number(directive, 0, "number of nodes")?;
        if count.saturating_add(self.nodes.len() as u64) > MAX_NODES {
            return Err(Failure::text(format!("there cannot be more than {MAX_NODES} nodes")));
        }
        Ok(count)
    }

    pub(super) fn insert(&mut self, id: u64, config: Config, raw: RawNode<NodeStorage>) {
        let machine = Machine::Up(Box::new(raw));
        self.nodes.push(Node { id, config, machine, append_work: Default::default(), apply_work: Default::default() });
    }

    fn compact(&mut self, directive: &Directive) -> Result<(), Failure> {
        let id = args::node_id(directive)?;
        let index = args::number(directive, 1, "index")?;
        self.node(id)?.storage_mut().log.compact(index).map_err(Failure::storage)?;
        self.raft_log(id)
    }

    fn deliver_msgs(&mut self, directive: &Directive) -> Result<(), Failure> {
        let mut kind = None;
        let mut recipients: Vec<(u64, bool)> = Vec::new();
        for arg in &directive.args {
            match arg.key.as_str() {
                word if arg.values.is_empty() => recipients.push((args::parse("node id", word)?, false)),
                "drop" => {
                    for id in args::all(arg)? {
                        if recipients.iter().any(|(other, _)| *other == id) {
                            return Err(Failure::text(format!("can't both deliver and drop msgs to {id}")));
                        }
                        recipients.push((id, true));
                    }
                }
                "type" => kind = Some(args::message_type(args::one(arg)?)?),
                other => return Err(Failure::text(format!("unknown argument {other}"))),
            }
        }
        let mut count = 0;
        for (id, drop) in recipients {
            count += self.deliver(id, kind, drop)?;
        }
        if count == 0 {
            self.output.line("no messages");
        }
        Ok(())
    }

    fn log_level(&mut self, name: &str) -> Result<(), Failure> {
        self.output.set_level(Level::parse(name)?);
        Ok(())
    }

    pub(super) fn process_ready(&mut self, id: u64) -> Result<(), Failure> {
        let output = self.output.clone();
        let node = self.node(id)?;
        let mut others = Vec::new();
        for message in node.process_ready(&output)? {
            match message.to {
                LOCAL_APPEND_THREAD => node.append_work.push_back(message),
                LOCAL_APPLY_THREAD => node.apply_work.push_back(message),
                _ => others.push(message),
            }
        }
        self.network.append(&mut others);
        Ok(())
    }

    fn process_append_thread(&mut self, id: u64) -> Result<(), Failure> {
        let output = self.output.clone();
        let mut messages = self.node(id)?.process_append_work(&output)?;
        self.network.append(&mut messages);
        Ok(())
    }

    fn process_apply_thread(&mut self, id: u64) -> Result<(), Failure> {
        let output = self.output.clone();
        let mut messages = self.node(id)?.process_apply_work(&output)?;
        self.network.append(&mut messages);
        Ok(())
    }

    fn propose(&mut self, directive: &Directive) -> Result<(), Failure> {
        match directive.args.as_slice() {
            [_, data] if data.values.is_empty() => Ok(self.raw(directive)?.propose(data.key.clone())?),
            other => {
                Err(Failure::text(format!("expected a node id and one word to propose, got {} words", other.len())))
            }
        }
    }

    fn propose_conf_change(&mut self, directive: &Directive) -> Result<(), Failure> {
        let mut v1 = false;
        let mut transition = ConfChangeTransition::ConfChangeTransitionAuto;
        let mut notation = directive.input.clone();
        for arg in directive.args.iter().skip(1) {
            match (arg.key.as_str(), arg.values.as_slice()) {
                // An addition, for those who type: the changes may stand on the command's own line.
                (word, []) => notation = format!("{notation} {word}"),
                ("v1", [value]) => v1 = args::parse_flag("v1", value)?,
                ("transition", [value]) => transition = parse_transition(value)?,
                (key, _) => return Err(Failure::text(format!("unknown command {key}"))),
            }
        }
        let changes = parse_changes(&notation).map_err(raft_core::Error::from)?;
        let kind = match (v1, changes.as_slice()) {
            (false, _) => ConfChangeKind::V2(ConfChangeV2::new(transition, changes)),
            (true, [change]) if transition == ConfChangeTransition::ConfChangeTransitionAuto => {
                let (change_type, node_id) = (change.change_type, change.node_id);
                ConfChangeKind::V1(ConfChange { change_type, node_id, ..ConfChange::default() })
            }
            (true, _) => {
                return Err(Failure::text("v1 conf change can only have one operation and no transition"));
            }
        };
        Ok(self.raw(directive)?.propose_conf_change(kind)?)
    }

    pub(super) fn raft_log(&mut self, id: u64) -> Result<(), Failure> {
        let log = &self.node(id)?.storage().log;
        let first = log.first_index().map_err(Failure::storage)?;
        let last = log.last_index().map_err(Failure::storage)?;
        let text = if last < first {
            format!("log is empty: first index={first}, last index={last}")
        } else {
            describe::entries(&log.entries(first, last + 1, u64::MAX).map_err(Failure::storage)?)
        };
        self.output.write(&text);
        Ok(())
    }

    fn raft_state(&mut self) -> Result<(), Failure> {
        for node in &mut self.nodes {
            let id = node.id;
            let Ok(raw) = node.raw() else {
                self.output.line(&format!("{id}: down"));
                continue;
            };
            let status = raw.status();
            let membership = if status.config.voters.contains(id) { "Voter" } else { "Non-Voter" };
            let (soft, hard) = (status.basic.soft_state, status.basic.hard_state);
            self.output.line(&format!("{id}: {} ({membership}) Term:{} Lead:{}", soft.state, hard.term, soft.lead));
        }
        Ok(())
    }

    fn report_unreachable(&mut self, directive: &Directive) -> Result<(), Failure> {
        let [on, who] = args::node_ids(directive)?[..] else {
            return Err(Failure::text(
                "must specify exactly two node indexes: node on which to report, and reported node",
            ));
        };
        self.node(on)?.raw()?.report_unreachable(who);
        Ok(())
    }

    fn send_snapshot(&mut self, directive: &Directive) -> Result<(), Failure> {
        let [from, to] = args::node_ids(directive)?[..] else {
            return Err(Failure::text("must specify two nodes: who sends the snapshot, and to whom"));
        };
        let node = self.node(from)?;
        let snapshot = node.storage().snapshot().map_err(Failure::storage)?;
        let term = node.raw()?.basic_status().hard_state.term;
        let snapshot = Some(Box::new(snapshot));
        let message = Message { from, to, term, snapshot, ..Message::of(MessageType::MsgSnap) };
        self.output.write(&describe::message(&message));
        self.network.push(message);
        Ok(())
    }

    fn stabilize(&mut self, directive: &Directive) -> Result<(), Failure> {
        let mut ids = args::node_ids(directive)?;
        if ids.is_empty() {
            ids = self.ids();
        }
        let level = self.output.level();
        if let Some(values) = directive.values("log-level") {
            for name in values {
                self.log_level(name)?;
            }
        }
        let result = self.until_quiet(&ids);
        self.output.set_level(level);
        result
    }

    /// Lets the nodes work, round after round, until none of them has anything left to do.
    fn until_quiet(&mut self, ids: &[u64]) -> Result<(), Failure> {
        for _ in 0..MAX_ROUNDS {
            let mut quiet = true;
            for id in ids.iter().copied() {
                if self.node(id)?.has_ready() {
                    self.under_heading(id, "handling Ready", |env| env.process_ready(id))?;
                    quiet = false;
                }
            }
            for id in ids.iter().copied() {
                if self.has_mail(id) {
                    self.under_heading(id, "receiving messages", |env| env.deliver(id, None, false).map(drop))?;
                    quiet = false;
                }
            }
            for id in ids.iter().copied() {
                if !self.node(id)?.append_work.is_empty() {
                    self.under_heading(id, "processing append thread", |env| {
                        while !env.node(id)?.append_work.is_empty() {
                            env.process_append_thread(id)?;
                        }
                        Ok(())
                    })?;
                    quiet = false;
                }
            }
            for id in ids.iter().copied() {
                if !self.node(id)?.apply_work.is_empty() {
                    self.under_heading(id, "processing apply thread", |env| {
                        while !env.node(id)?.apply_work.is_empty() {
                            env.process_apply_thread(id)?;
                        }
                        Ok(())
                    })?;
                    quiet = false;
                }
            }
            if quiet {
                return Ok(());
            }
        }
        Err(Failure::text(format!("still not quiet after {MAX_ROUNDS} rounds")))
    }

    fn status(&mut self, id: u64) -> Result<(), Failure> {
        let status = self.node(id)?.raw()?.status();
        self.output.write(&describe_progress(&status.progress));
        Ok(())
    }

    pub(super) fn tick(&mut self, id: u64, ticks: usize) -> Result<(), Failure> {
        let raw = self.node(id)?.raw()?;
        if ticks > MAX_TICKS {
            return Err(Failure::text(format!("more than {MAX_TICKS} ticks at once are too many")));
        }
        for _ in 0..ticks {
            raw.tick()?;
        }
        Ok(())
    }
}

fn parse_transition(name: &str) -> Result<ConfChangeTransition, Failure> {
    match name {
        "auto" => Ok(ConfChangeTransition::ConfChangeTransitionAuto),
        "implicit" => Ok(ConfChangeTransition::ConfChangeTransitionJointImplicit),
        "explicit" => Ok(ConfChangeTransition::ConfChangeTransitionJointExplicit),
        _ => Err(Failure::text(format!("unknown transition {name}"))),
    }
}

/// The settings that etcd's traces start from: short timeouts, no limits, and none of the protections that are on by
/// default here.
pub(super) fn config_without_protections() -> Config {
    Config {
        election_tick: 3,
        heartbeat_tick: 1,
        max_size_per_msg: NO_LIMIT,
        max_committed_size_per_ready: 0,
        max_uncommitted_entries_size: 0,
        max_inflight_msgs: i32::MAX as usize,
        max_inflight_bytes: 0,
        check_quorum: false,
        pre_vote: false,
        step_down_on_removal: false,
        ..Config::new(1)
    }
}

fn configure(config: &mut Config, start: &mut Snapshot, arg: &Arg) -> Result<(), Failure> {
    let metadata = &mut start.metadata;
    let key = arg.key.as_str();
    match key {
        "voters" => metadata.conf_state.voters = args::all(arg)?,
        "learners" => metadata.conf_state.learners = args::all(arg)?,
        "voters-outgoing" => metadata.conf_state.voters_outgoing = args::all(arg)?,
        "learners-next" => metadata.conf_state.learners_next = args::all(arg)?,
        "auto-leave" => metadata.conf_state.auto_leave = args::parse_flag(key, args::one(arg)?)?,
        "index" => {
            metadata.index = args::parse(key, args::one(arg)?)?;
            config.applied = metadata.index;
        }
        "content" => start.data = args::one(arg)?.to_string().into(),
        _ => configure_node(config, key, args::one(arg)?)?,
    }
    Ok(())
}

fn configure_node(config: &mut Config, key: &str, value: &str) -> Result<(), Failure> {
    match key {
        "async-storage-writes" => config.async_storage_writes = args::parse_flag(key, value)?,
        "checkquorum" => config.check_quorum = args::parse_flag(key, value)?,
        "disable-conf-change-validation" => config.disable_conf_change_validation = args::parse_flag(key, value)?,
        "disable-proposal-forwarding" => config.disable_proposal_forwarding = args::parse_flag(key, value)?,
        "election-tick" => config.election_tick = args::parse(key, value)?,
        "heartbeat-tick" => config.heartbeat_tick = args::parse(key, value)?,
        "inflight" => config.max_inflight_msgs = args::parse(key, value)?,
        "inflight-bytes" => config.max_inflight_bytes = args::parse(key, value)?,
        "max-committed-size-per-ready" => config.max_committed_size_per_ready = args::parse(key, value)?,
        "max-size-per-msg" => config.max_size_per_msg = args::parse(key, value)?,
        "max-uncommitted-size" => config.max_uncommitted_entries_size = args::parse(key, value)?,
        "prevote" => config.pre_vote = args::parse_flag(key, value)?,
        "read-only" => {
            config.read_only_option = match value {
                "safe" => ReadOnlyOption::Safe,
                "lease-based" => ReadOnlyOption::LeaseBased,
                _ => return Err(Failure::text(format!("invalid read-only option {value:?}"))),
            }
        }
        "seed" => config.seed = args::parse(key, value)?,
        "step-down-on-removal" => config.step_down_on_removal = args::parse_flag(key, value)?,
        _ => return Err(Failure::text(format!("unknown argument {key}"))),
    }
    Ok(())
}
