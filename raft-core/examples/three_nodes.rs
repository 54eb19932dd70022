//! Three nodes in one process: an election, a proposal at a follower, the same log on all three.
//!
//! `cargo run -p raft-core --example three_nodes`

use raft_core::testing::Cluster;
use raft_core::Error;

fn main() -> Result<(), Error> {
    let mut cluster = Cluster::new(3)?;
    let leader = cluster.elect(100)?;
    println!("node {leader:?} leads");

    cluster.node(1)?.propose("from one")?;
    cluster.node(3)?.propose("from three")?;
    cluster.settle()?;

    for id in cluster.ids() {
        println!("node {id} has applied {:?}", cluster.applied(id));
    }
    Ok(())
}
