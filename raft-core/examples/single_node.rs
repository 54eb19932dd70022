//! One node, by hand: every step that an application takes, in order.
//!
//! `cargo run -p raft-core --example single_node`

use raft_core::{ConfChangeKind, Config, Error, MemoryStorage, Peer, RawNode, StateType};

fn main() -> Result<(), Error> {
    let founders = [Peer { id: 1, ..Peer::default() }];
    let mut node = RawNode::bootstrap(Config::new(1), MemoryStorage::new(), &founders)?;
    for _ in 0..30 {
        node.tick()?;
        while node.has_ready() {
            let ready = node.ready()?;
            if ready.soft_state().is_some_and(|soft| soft.state == StateType::Leader) {
                node.propose("hello")?;
            }
            // Make it durable. In memory, this is all there is to it.
            node.storage_mut().append(ready.entries())?;
            if let Some(hard_state) = ready.hard_state() {
                node.storage_mut().set_hard_state(hard_state);
            }
            // Now, and not before, committed entries may be applied.
            let persisted = ready.persisted();
            for entry in persisted.committed_entries() {
                if entry.is_conf_change() {
                    node.apply_conf_change(ConfChangeKind::decode(entry)?)?;
                } else {
                    println!("applied {}/{}: {:?}", entry.term, entry.index, entry.data);
                }
            }
            node.advance(persisted)?;
        }
    }
    Ok(())
}
