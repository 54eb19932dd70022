//! Same settings, same seed, same inputs: same outputs, to the last byte. Everything that leaves a node is written down.
#![forbid(unsafe_code)]

use raft_core::testing::Cluster;
use raft_core::{describe, Config};

/// A generator for the script, not for the nodes.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// A thousand steps of an eventful life; what every node said, did and was.
fn trace(seed: u64, script: u64) -> String {
    let mut dice = Dice(script);
    let configure = |config: &mut Config| {
        config.seed = seed;
        config.max_size_per_msg = 64;
        config.max_inflight_msgs = 4;
    };
    let mut cluster = Cluster::with(5, configure).expect("sound settings");
    let mut text = String::new();
    for step in 0..1000 {
        let id = 1 + dice.roll(5);
        match dice.roll(12) {
            0 => cluster.isolate(id),
            1 | 2 => cluster.heal(),
            3 => cluster.cut(id, id % 5 + 1),
            4 => cluster.restart(id).expect("its storage is sound"),
            5 => drop(cluster.compact(id)),
            6 => {
                let result = cluster.node(id).and_then(|node| node.read_index(step.to_string()));
                text += &format!("{result:?}\n");
            }
            7 => drop(cluster.node(id).and_then(|node| node.transfer_leader(id % 5 + 1))),
            _ => {
                let result = cluster.node(id).and_then(|node| node.propose(step.to_string()));
                text += &format!("{result:?}\n");
            }
        }
        for id in cluster.ids() {
            cluster.node(id).expect("it is there").tick().expect("no fault");
        }
        // Messages travel one hop a step.
        for id in cluster.ids() {
            while cluster.handle_ready(id).expect("no fault") {}
        }
        for message in std::mem::take(&mut cluster.in_flight) {
            text += &describe::message(&message);
            text.push('\n');
            cluster.deliver(message).expect("no fault");
        }
        for id in cluster.ids() {
            let member = cluster.member(id).expect("it is there");
            text += &format!("{:?} {:?}\n", member.raw.status(), member.reads);
        }
    }
    text
}

#[test]
fn two_runs_are_equal_and_another_seed_is_another_life() {
    for script in [1, 2] {
        let first = trace(7, script);
        assert!(first.lines().count() > 10_000, "the life is eventful");
        assert!(first == trace(7, script), "two runs differ");
        assert!(first != trace(8, script), "the seed makes no difference");
    }
}
