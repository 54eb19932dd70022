//! The table of all commands, for people.

/// A command and how to use it.
#[derive(Clone, Copy, Debug)]
pub struct Command {
    /// Its name.
    pub name: &'static str,
    /// The words that follow it.
    pub usage: &'static str,
    /// What it does.
    pub about: &'static str,
    /// A line that one could type.
    pub example: &'static str,
}

const fn command(name: &'static str, usage: &'static str, about: &'static str, example: &'static str) -> Command {
    Command { name, usage, about, example }
}

/// Every command, etcd's first, then the added ones.
pub const COMMANDS: &[Command] = &[
    command(
        "add-nodes",
        "COUNT [voters=(..)] [learners=(..)] [index=N] [option=value ..]",
        "Makes nodes. With voters= and index= (> 1) they start as members with a snapshot at that index; without, they \
         know nothing and wait for a leader. Options: async-storage-writes, prevote, checkquorum, step-down-on-removal, \
         disable-conf-change-validation, disable-proposal-forwarding, read-only=safe|lease-based, inflight, \
         inflight-bytes, max-size-per-msg, max-uncommitted-size, max-committed-size-per-ready, election-tick, \
         heartbeat-tick, seed, content, voters-outgoing, learners-next, auto-leave.",
        "add-nodes 3 voters=(1,2,3) index=2",
    ),
    command("campaign", "ID", "The node starts an election.", "campaign 1"),
    command("compact", "ID INDEX", "Drops the node's log up to an index, and shows what is left.", "compact 1 5"),
    command(
        "deliver-msgs",
        "ID .. [drop=(ID,..)] [type=MsgX]",
        "Hands nodes the messages that are on their way to them, or loses those messages.",
        "deliver-msgs 2 drop=(3)",
    ),
    command("forget-leader", "ID", "A follower forgets who leads, so that it may vote at once.", "forget-leader 2"),
    command("log-level", "debug|info|warn|error|fatal|none", "How much is shown; none: nothing.", "log-level info"),
    command("process-append-thread", "ID ..", "One piece of work of the thread that writes.", "process-append-thread 1"),
    command("process-apply-thread", "ID ..", "One piece of work of the thread that applies.", "process-apply-thread 1"),
    command("process-ready", "ID ..", "The node carries out one Ready.", "process-ready 1"),
    command("propose", "ID DATA", "Proposes one word of data at a node.", "propose 1 hello"),
    command(
        "propose-conf-change",
        "ID [v1=true] [transition=auto|implicit|explicit] [v4 l5 r1 u2 ..]",
        "Proposes to make nodes voters (v), learners (l), to remove (r) or update (u) them. The changes stand on the same \
         line or on the next one; none at all asks to leave a joint configuration.",
        "propose-conf-change 1 v4 r1",
    ),
    command("raft-log", "ID", "Shows the node's stored log.", "raft-log 1"),
    command("raft-state", "", "Shows each node's role, term and leader.", "raft-state"),
    command("report-unreachable", "ON WHO", "Tells one node that it cannot reach another.", "report-unreachable 1 2"),
    command("send-snapshot", "FROM TO", "Sends a snapshot that nobody asked for.", "send-snapshot 1 3"),
    command(
        "set-randomized-election-timeout",
        "ID timeout=TICKS",
        "Pins the election timeout until the node's role or term changes.",
        "set-randomized-election-timeout 1 timeout=3",
    ),
    command(
        "stabilize",
        "[ID ..] [log-level=LEVEL]",
        "Lets these nodes, or all, work and talk until nothing is left to do.",
        "stabilize",
    ),
    command("status", "ID", "Shows the progress of each member, as the leader sees it.", "status 1"),
    command("tick-election", "ID", "As many ticks as an election timeout.", "tick-election 2"),
    command("tick-heartbeat", "ID", "As many ticks as a heartbeat interval.", "tick-heartbeat 1"),
    command("transfer-leadership", "from=ID to=ID", "The leader hands over.", "transfer-leadership from=1 to=2"),
    command("_breakpoint", "", "Nothing; a place to stop a debugger.", "_breakpoint"),
    command(
        "bootstrap-nodes",
        "COUNT",
        "Founds a cluster: each node's log begins with one entry per member.",
        "bootstrap-nodes 3",
    ),
    command("config", "ID", "Shows the membership as the node sees it.", "config 1"),
    command("crash", "ID", "The node loses its memory; its storage stays.", "crash 1"),
    command("cut", "from=ID to=ID", "One direction of a link loses everything.", "cut from=1 to=2"),
    command(
        "duplicate-msgs",
        "ID [type=MsgX]",
        "What is on its way to a node will arrive once more.",
        "duplicate-msgs 2 type=MsgApp",
    ),
    command(
        "expect-error",
        "COMMAND ..",
        "Runs a command that must fail, and shows why it did.",
        "expect-error propose 2 hello",
    ),
    command("heal", "", "Mends all links.", "heal"),
    command(
        "lose-log",
        "ID from=INDEX [commit=INDEX]",
        "The storage of a node that is down forgets entries that it had promised to keep.",
        "lose-log 1 from=12",
    ),
    command("messages", "", "Lists what is on its way.", "messages"),
    command("partition", "ID ..", "Cuts these nodes off from all others.", "partition 1 2"),
    command("read-index", "ID CONTEXT", "Asks for a linearizable read.", "read-index 1 r1"),
    command(
        "report-snapshot",
        "ON WHO status=finish|failure",
        "Tells a leader how the delivery of a snapshot ended.",
        "report-snapshot 1 3 status=failure",
    ),
    command(
        "restart",
        "ID [applied=INDEX]",
        "Starts a node that is down from its storage, its application from the state at an index.",
        "restart 1",
    ),
    command("reverse-msgs", "ID", "What is on its way to a node will arrive in the opposite order.", "reverse-msgs 2"),
    command("snapshot-available", "ID true|false", "Whether the node's storage can make snapshots.", "snapshot-available 1 false"),
    command("state-machine", "ID", "Shows what the node has applied.", "state-machine 1"),
    command(
        "step",
        "ID type=MsgX from=ID [term=N] [index=N] [log-term=N] [commit=N] [reject=true] [reject-hint=N] [context=S]",
        "Hands a node a message that nobody sent; input lines `term/index data` are its entries.",
        "step 1 type=MsgHeartbeat from=2 term=9 commit=1000",
    ),
    command("storage", "ID", "Shows the node's stored hard state and the range of its log.", "storage 1"),
    command(
        "storage-fault",
        "ID FAULT|none",
        "From now on the node's storage cannot be read.",
        "storage-fault 1 disk-failure",
    ),
    command("tick", "ID COUNT", "Lets time pass at a node.", "tick 1 2"),
    command("wipe", "ID", "The storage of a node that is down is emptied.", "wipe 1"),
];

/// A page about one command, or a list of all.
pub fn help(name: Option<&str>) -> String {
    let Some(name) = name else {
        let mut page = String::new();
        for command in COMMANDS {
            page.push_str(&format!("{:<32} {}\n", command.name, command.example));
        }
        return page + "`help COMMAND` tells more about one.\n";
    };
    match COMMANDS.iter().find(|command| command.name == name) {
        Some(Command { name, usage, about, example }) => {
            format!("{name} {usage}\n  {about}\n  for example: {example}\n")
        }
        None => format!("there is no command {name:?}; `help` lists all\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datadriven::Script;
    use crate::interaction::Environment;

    #[test]
    fn every_command_exists_and_every_example_is_understood() {
        for command in COMMANDS {
            assert!(command.example.starts_with(command.name), "{}", command.name);
            let mut environment = Environment::new();
            let script = format!("add-nodes 3 voters=(1,2,3) index=2\n----\n\n{}\n----\n", command.example);
            let outputs: Vec<String> =
                Script::parse(&script).unwrap().directives.iter().map(|one| environment.handle(one)).collect();
            let text = outputs.last().unwrap();
            for complaint in ["unknown", "missing", "not understood", "takes one value"] {
                assert!(!text.contains(complaint), "{}: {text}", command.example);
            }
        }
    }
}
