//! The commands that etcd's driver does not have: faults, reads, hostile messages, and looking into a node.

use raft_core::pb::{Entry, Message, MessageType};
use raft_core::{describe, Peer, RawNode, SnapshotStatus, Storage};

use crate::datadriven::Directive;

use super::node::{Machine, NodeStorage};
use super::{args, is_local, Environment, Failure};

impl Environment {
    pub(super) fn dispatch_added(&mut self, directive: &Directive) -> Result<(), Failure> {
        match directive.command.as_str() {
            "bootstrap-nodes" => self.bootstrap_nodes(directive),
            "config" => self.config(args::node_id(directive)?),
            "crash" => self.crash(args::node_id(directive)?),
            "cut" => self.cut(directive),
            "duplicate-msgs" => self.duplicate_msgs(directive),
            "expect-error" => self.expect_error(directive),
            "heal" => {
                self.cuts.clear();
                Ok(())
            }
            "lose-log" => self.lose_log(directive),
            "messages" => self.messages(),
            "partition" => self.partition(directive),
            "read-index" => {
                let context = args::word(directive, 1, "context")?.to_string();
                Ok(self.raw(directive)?.read_index(context)?)
            }
            "report-snapshot" => self.report_snapshot(directive),
            "restart" => self.restart(directive),
            "reverse-msgs" => self.reverse_msgs(args::node_id(directive)?),
            "snapshot-available" => {
                let available = args::parse_flag("available", args::word(directive, 1, "true or false")?)?;
                self.node(args::node_id(directive)?)?.storage_mut().snapshot_unavailable = !available;
                Ok(())
            }
            "state-machine" => self.state_machine(args::node_id(directive)?),
            "step" => self.step(directive),
            "storage" => self.storage(args::node_id(directive)?),
            "storage-fault" => {
                let fault = args::word(directive, 1, "fault, or none")?;
                let fault = (fault != "none").then(|| fault.to_string());
                self.node(args::node_id(directive)?)?.storage_mut().fault = fault;
                Ok(())
            }
            "tick" => self.tick(args::node_id(directive)?, args::number(directive, 1, "number of ticks")?),
            "wipe" => self.wipe(args::node_id(directive)?),
            _ => Err(Failure::text("unknown command")),
        }
    }

    /// New nodes that found a cluster: their log begins with one entry per node.
    fn bootstrap_nodes(&mut self, directive: &Directive) -> Result<(), Failure> {
        let count = self.count_of_new_nodes(directive)?;
        if !self.nodes.is_empty() {
            return Err(Failure::text("founders must be the first nodes"));
        }
        let peers: Vec<Peer> = (1..=count).map(|id| Peer { id, ..Peer::default() }).collect();
        for peer in &peers {
            let mut config = super::commands::config_without_protections();
            config.id = peer.id;
            let raw = RawNode::bootstrap(config.clone(), NodeStorage::default(), &peers)?;
            self.insert(peer.id, config, raw);
        }
        Ok(())
    }

    /// The membership as the node sees it, applied so far.
    fn config(&mut self, id: u64) -> Result<(), Failure> {
        let status = self.node(id)?.raw()?.status();
        self.output.line(&status.config.to_string());
        Ok(())
    }

    /// The node's memory is gone: the state machine, and whatever waited for its storage threads.
    fn crash(&mut self, id: u64) -> Result<(), Failure> {
        let node = self.node(id)?;
        node.raw()?;
        node.machine = Machine::Down(Box::new(node.storage().clone()));
        node.append_work.clear();
        node.apply_work.clear();
        // What it had sent to others is on its way; what it had sent to itself never left.
        self.network.retain(|message| !(message.to == id && is_local(message)));
        Ok(())
    }

    /// Starts a node that is down from what its storage holds. The application starts from the state at `applied`, or
    /// where the log begins.
    fn restart(&mut self, directive: &Directive) -> Result<(), Failure> {
        let applied = args::optional(directive, "applied")?;
        let node = self.node(args::node_id(directive)?)?;
        let Machine::Down(storage) = &node.machine else {
            return Err(Failure::text(format!("node {} is not down", node.id)));
        };
        let mut storage = NodeStorage::clone(storage);
        let first = storage.log.first_index().map_err(Failure::storage)?;
        let applied = applied.unwrap_or(first - 1);
        storage.history.retain(|state| state.metadata.index <= applied);
        let mut config = node.config.clone();
        config.applied = applied;
        let (hard_state, _) = storage.log.initial_state().map_err(Failure::storage)?;
        let is_new = hard_state.is_empty() && storage.log.last_index().map_err(Failure::storage)? == 0;
        let raw = if is_new { RawNode::join(config, storage)? } else { RawNode::restart(config, storage)? };
        node.machine = Machine::Up(Box::new(raw));
        Ok(())
    }

    fn down_storage(&mut self, id: u64) -> Result<&mut NodeStorage, Failure> {
        match &mut self.node(id)?.machine {
            Machine::Down(storage) => Ok(storage),
            Machine::Up(_) => Err(Failure::text(format!("node {id} must be down"))),
        }
    }

    /// A node that is down loses everything it ever stored.
    fn wipe(&mut self, id: u64) -> Result<(), Failure> {
        *self.down_storage(id)? = NodeStorage::default();
        Ok(())
    }

    /// A node that is down loses the end of its log, and perhaps the newest commit index with it.
    fn lose_log(&mut self, directive: &Directive) -> Result<(), Failure> {
        let from = args::required(directive, "from")?;
        let commit = args::optional(directive, "commit")?;
        let storage = self.down_storage(args::node_id(directive)?)?;
        storage.lose_from(from).map_err(Failure::storage)?;
        if let Some(commit) = commit {
            let (mut hard_state, _) = storage.log.initial_state().map_err(Failure::storage)?;
            hard_state.commit = commit;
            storage.log.set_hard_state(hard_state);
        }
        Ok(())
    }

    /// One direction of a link loses everything from now on.
    fn cut(&mut self, directive: &Directive) -> Result<(), Failure> {
        let link = (args::required(directive, "from")?, args::required(directive, "to")?);
        self.cuts.insert(link);
        Ok(())
    }

    /// The named nodes on one side, all others on the other.
    fn partition(&mut self, directive: &Directive) -> Result<(), Failure> {
        let side = args::node_ids(directive)?;
        for here in &side {
            for there in self.ids().into_iter().filter(|id| !side.contains(id)) {
                self.cuts.extend([(*here, there), (there, *here)]);
            }
        }
        Ok(())
    }

    /// What is on its way to a node arrives a second time, later.
    fn duplicate_msgs(&mut self, directive: &Directive) -> Result<(), Failure> {
        let to = args::node_id(directive)?;
        let kind = match directive.values("type") {
            Some([name]) => Some(args::message_type(name)?),
            _ => None,
        };
        let wanted =
            |message: &&Message| message.to == to && !is_local(message) && (kind.is_none() || message.kind() == kind);
        let mut copies: Vec<Message> = self.network.iter().filter(wanted).cloned().collect();
        self.network.append(&mut copies);
        Ok(())
    }

    /// What is on its way to a node from others arrives in the opposite order.
    fn reverse_msgs(&mut self, to: u64) -> Result<(), Failure> {
        let is_mail = |message: &Message| message.to == to && !is_local(message);
        let mut mail: Vec<Message> = self.network.iter().filter(|message| is_mail(message)).cloned().collect();
        for slot in self.network.iter_mut().filter(|message| is_mail(message)) {
            if let Some(message) = mail.pop() {
                *slot = message;
            }
        }
        Ok(())
    }

    /// Lists what is on its way.
    fn messages(&mut self) -> Result<(), Failure> {
        for message in &self.network {
            self.output.line(&describe::message(message));
        }
        if self.network.is_empty() {
            self.output.line("no messages");
        }
        Ok(())
    }

    /// Runs the command that follows; shows the error that it must return.
    fn expect_error(&mut self, directive: &Directive) -> Result<(), Failure> {
        let mut inner = directive.clone();
        if inner.args.is_empty() {
            return Err(Failure::text("a command is missing"));
        }
        inner.command = inner.args.remove(0).key;
        match self.dispatch(&inner) {
            Ok(()) => Err(Failure::text("there was no error")),
            Err(error) => {
                self.output.line(&format!("error: {error}"));
                Ok(())
            }
        }
    }

    fn report_snapshot(&mut self, directive: &Directive) -> Result<(), Failure> {
        let [on, who] = args::node_ids(directive)?[..] else {
            return Err(Failure::text("must name two nodes: the one that sent the snapshot, and the one it was for"));
        };
        let status = match args::required::<String>(directive, "status")?.as_str() {
            "finish" => SnapshotStatus::Finish,
            "failure" => SnapshotStatus::Failure,
            other => return Err(Failure::text(format!("status is finish or failure, not {other}"))),
        };
        self.node(on)?.raw()?.report_snapshot(who, status);
        Ok(())
    }

    /// The application's state: everything that was applied, one after the other.
    fn state_machine(&mut self, id: u64) -> Result<(), Failure> {
        let state = self.node(id)?.storage().state();
        let (index, term) = (state.metadata.index, state.metadata.term);
        self.output.line(&format!("index={index} term={term} data={}", describe::quote(&state.data)));
        Ok(())
    }

    /// What the node has stored: hard state and the range of its log.
    fn storage(&mut self, id: u64) -> Result<(), Failure> {
        let log = &self.node(id)?.storage().log;
        let (hard_state, _) = log.initial_state().map_err(Failure::storage)?;
        let first = log.first_index().map_err(Failure::storage)?;
        let last = log.last_index().map_err(Failure::storage)?;
        self.output.line(&format!("HardState {}", describe::hard_state(&hard_state)));
        self.output.line(&format!("log first={first} last={last}"));
        Ok(())
    }

    /// Hands a node a message that nobody sent. Entries are input lines: `term/index data`.
    fn step(&mut self, directive: &Directive) -> Result<(), Failure> {
        let to = args::node_id(directive)?;
        let mut message = Message { to, ..Message::default() };
        for arg in directive.args.iter().skip(1) {
            let (key, value) = (arg.key.as_str(), args::one(arg)?);
            match key {
                "type" => {
                    message.msg_type = match args::message_type(value) {
                        Ok(kind) => kind as i32,
                        Err(error) => value.parse().map_err(|_| error)?,
                    }
                }
                "from" => message.from = args::parse(key, value)?,
                "to" => message.to = args::parse(key, value)?,
                "term" => message.term = args::parse(key, value)?,
                "index" => message.index = args::parse(key, value)?,
                "log-term" => message.log_term = args::parse(key, value)?,
                "commit" => message.commit = args::parse(key, value)?,
                "reject" => message.reject = args::parse_flag(key, value)?,
                "reject-hint" => message.reject_hint = args::parse(key, value)?,
                "context" => message.context = value.to_string().into(),
                _ => return Err(Failure::text(format!("unknown argument {key}"))),
            }
        }
        for line in directive.input.lines() {
            message.entries.push(parse_entry(line)?);
        }
        if message.kind() == Some(MessageType::MsgSnap) {
            message.snapshot = Some(Box::default());
        }
        Ok(self.node(to)?.raw()?.step(message)?)
    }
}

fn parse_entry(line: &str) -> Result<Entry, Failure> {
    let (place, data) = line.split_once(' ').unwrap_or((line, ""));
    let (term, index) = place.split_once('/').ok_or_else(|| Failure::text("an entry is term/index data"))?;
    let (term, index) = (args::parse("term", term)?, args::parse("index", index)?);
    Ok(Entry { term, index, ..Entry::normal(data.to_string()) })
}
