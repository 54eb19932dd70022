//! Two questions that a supervisor asks again and again, and their answers: 200, or 503 with what is wrong.
//!
//! `/_/livez`: does the process work, or would a restart help? Only a raft thread that does not come round any more says
//! no: on a disk that hangs, for instance. That there is no leader is no fault of this process, and a restart would make
//! it worse.
//!
//! `/_/readyz`: can this node serve clients now? It must know a leader, and a linearizable read through it must succeed,
//! which proves that there is a quorum and that this node has applied what is committed. A node that is about to stop says
//! no, so that a load balancer turns away from it in time.
//!
//! The names of the pages and the form of the answers are etcd's: a line for each check, `[+]name ok` or
//! `[-]name failed: why`.
//!
//! What is left out: parameters to leave out checks.

use std::time::Duration;

use tokio::time::timeout;

use crate::node::NodeHandle;

/// The raft thread comes round once a tick, unless the disk holds it up. Longer than any write should take.
const HELD_UP_MAX: Duration = Duration::from_secs(15);
/// A read that takes longer is no good; less than the time for which most supervisors wait.
const READ_TIMEOUT: Duration = Duration::from_millis(900);

/// The answer to one of the questions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Health {
    /// Every check succeeded.
    pub(super) good: bool,
    /// A line for each check.
    pub(super) text: String,
}

impl Health {
    fn of(checks: &[(&str, Result<(), String>)]) -> Health {
        let good = checks.iter().all(|(_, result)| result.is_ok());
        let mut text: String = checks
            .iter()
            .map(|(name, result)| match result {
                Ok(()) => format!("[+]{name} ok\n"),
                Err(reason) => format!("[-]{name} failed: {reason}\n"),
            })
            .collect();
        text.push_str(if good { "ok\n" } else { "failed\n" });
        Health { good, text }
    }
}

/// Whether the process works.
pub(super) fn live(node: &NodeHandle) -> Health {
    Health::of(&[("raft_thread", raft_thread(node))])
}

/// Whether this node can serve clients.
pub(super) async fn ready(node: &NodeHandle) -> Health {
    let stopping = if node.is_stopping() { Err("this node is about to stop".to_string()) } else { Ok(()) };
    let leader = match node.metrics().raft.leader.get() {
        0 => Err("this node knows no leader".to_string()),
        _ => Ok(()),
    };
    let read = match &leader {
        Err(_) => Err("there is no leader to ask".to_string()),
        Ok(()) => match timeout(READ_TIMEOUT, node.wait_until_current()).await {
            Ok(result) => result.map_err(|refused| refused.to_string()),
            Err(_) => Err(format!("it took longer than {READ_TIMEOUT:?}")),
        },
    };
    let checks = [
        ("raft_thread", raft_thread(node)),
        ("not_stopping", stopping),
        ("leader", leader),
        ("linearizable_read", read),
    ];
    Health::of(&checks)
}

fn raft_thread(node: &NodeHandle) -> Result<(), String> {
    let held_up = node.metrics().held_up_for();
    if held_up <= HELD_UP_MAX {
        return Ok(());
    }
    Err(format!("held up for {} seconds: does the disk hang?", held_up.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_check_that_fails_is_named() {
        let health = Health::of(&[("a", Ok(())), ("b", Err("no".to_string()))]);
        assert_eq!((health.good, health.text.as_str()), (false, "[+]a ok\n[-]b failed: no\nfailed\n"));
        assert_eq!(Health::of(&[("a", Ok(()))]), Health { good: true, text: "[+]a ok\nok\n".to_string() });
    }
}
