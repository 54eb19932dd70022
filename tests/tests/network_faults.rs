//! Our nodes on a bad network: whatever breaks, writes go on wherever a quorum can talk, nothing acknowledged is lost, and
//! all nodes agree once the network is good again.
#![forbid(unsafe_code)]

use std::time::Duration;

use tests::cluster::load::{put_all, Writers};
use tests::cluster::{eventually, Cluster, Fault, Network, PATIENCE};

/// Writes through all nodes while this happens to everybody's messages, and after it is over.
fn goes_on_with(fault: Fault, writers: usize, writes: u64) {
    let (cluster, network) = Cluster::start_on_network(3, &[]);
    let writers = Writers::start(&cluster, "w", writers);
    writers.wait_for_progress(50);
    network.set_everywhere(fault);
    writers.wait_for_progress(writes);
    network.set_everywhere(Fault::None);
    writers.wait_for_progress(50);
    writers.stop().assert_kept(&cluster);
}

#[test]
fn a_leader_that_is_cut_off_is_replaced_and_comes_back() {
    let (cluster, network) = Cluster::start_on_network(3, &[]);
    for round in 0..2 {
        let leader = cluster.wait_for_leader();
        let writers = Writers::start(&cluster, &format!("round{round}"), 4);
        writers.wait_for_progress(100);
        network.set_around(leader, Fault::Cut);
        cluster.wait_for_leader_among(&cluster.followers_of(leader));
        writers.wait_for_progress(100);
        network.set_around(leader, Fault::None);
        writers.wait_for_progress(100);
        writers.stop().assert_kept(&cluster);
    }
}

/// A leader that is heard but hears one follower less, and one that one follower does not hear: the others are a quorum.
#[test]
fn a_cut_in_one_direction_between_two_nodes_stops_nobody_else() {
    let (cluster, network) = Cluster::start_on_network(3, &[]);
    for deaf in [true, false] {
        let leader = cluster.wait_for_leader();
        let follower = cluster.followers_of(leader)[0];
        let (from, to) = if deaf { (leader, follower) } else { (follower, leader) };
        let writers = Writers::start(&cluster, &format!("deaf-{deaf}"), 4);
        writers.wait_for_progress(50);
        network.set(from, to, Fault::Cut);
        // Until it shows: one has no leader any more, the other's answers are missing.
        eventually("the cut follower is left behind", PATIENCE, || {
            let status = cluster.node(leader).status()?;
            let progress = status.page["progress"].as_array()?.iter().find(|progress| progress["id"] == follower)?;
            let behind = status.commit.saturating_sub(progress["match"].as_u64()?) >= 100;
            (behind && (!deaf || cluster.node(follower).status()?.leader == 0)).then_some(())
        });
        writers.wait_for_progress(100);
        network.set(from, to, Fault::None);
        writers.wait_for_progress(50);
        writers.stop().assert_kept(&cluster);
    }
}

/// Cuts everything from a leader to the others, or from the others to the leader: it must give up, one way or the other.
fn replaced_when(cut: impl Fn(&Network, u64, u64)) {
    let (cluster, network) = Cluster::start_on_network(3, &[]);
    let leader = cluster.wait_for_leader();
    let others = cluster.followers_of(leader);
    let writers = Writers::start(&cluster, "w", 4);
    writers.wait_for_progress(50);
    others.iter().for_each(|&other| cut(&network, leader, other));
    cluster.wait_for_leader_among(&others);
    writers.wait_for_progress(100);
    network.set_everywhere(Fault::None);
    cluster.wait_for_leader();
    writers.wait_for_progress(50);
    writers.stop().assert_kept(&cluster);
}

#[test]
fn a_leader_that_nobody_hears_but_that_hears_them_is_replaced() {
    replaced_when(|network, leader, other| network.set(leader, other, Fault::Cut));
}

#[test]
fn a_leader_that_all_hear_but_that_hears_nobody_is_replaced() {
    replaced_when(|network, leader, other| network.set(other, leader, Fault::Cut));
}

/// Whoever leads must be in touch with a majority: only the hub can.
#[test]
fn five_nodes_that_all_reach_one_of_them_and_nobody_else_go_on_behind_that_one() {
    let (cluster, network) = Cluster::start_on_network(5, &[]);
    let leader = cluster.wait_for_leader();
    let hub = cluster.followers_of(leader)[0];
    let pairs = || (1..=5).flat_map(|from| (1..=5).map(move |to| (from, to))).filter(|(from, to)| from != to);
    pairs().filter(|&(from, to)| from != hub && to != hub).for_each(|(from, to)| network.set(from, to, Fault::Cut));
    let writers = Writers::start_at(&[cluster.http(hub)], "star", 4);
    writers.wait_for_progress(100);
    network.set_everywhere(Fault::None);
    writers.wait_for_progress(50);
    writers.stop().assert_kept(&cluster);
}

#[test]
fn three_packets_in_ten_that_are_lost_and_sent_again_lose_nothing() {
    goes_on_with(Fault::Loss { percent: 30 }, 8, 40);
}

#[test]
fn connections_that_break_in_the_middle_of_a_frame_lose_nothing() {
    goes_on_with(Fault::Break { percent: 2 }, 4, 150);
}

#[test]
fn connections_of_which_hardly_one_lives_for_more_than_three_messages_lose_nothing() {
    goes_on_with(Fault::Break { percent: 30 }, 8, 30);
}

#[test]
fn a_network_that_takes_200_ms_is_still_a_network() {
    goes_on_with(Fault::Delay(Duration::from_millis(200)), 8, 50);
}

#[test]
fn links_that_carry_little_carry_it_all() {
    goes_on_with(Fault::Throttle { bytes_per_second: 50_000 }, 4, 200);
}

#[test]
fn a_follower_that_reads_slowly_does_not_hold_up_the_others_and_catches_up() {
    let (cluster, network) = Cluster::start_on_network(3, &[]);
    let leader = cluster.wait_for_leader();
    let slow = cluster.followers_of(leader)[0];
    network.set(leader, slow, Fault::Throttle { bytes_per_second: 20_000 });
    let targets: Vec<_> = cluster.running().into_iter().filter(|&id| id != slow).map(|id| cluster.http(id)).collect();
    // Seventeen minutes' worth for the slow link.
    put_all(&targets, 4, "big", 200, |number| vec![number as u8; 100_000]);
    network.set_everywhere(Fault::None);
    let goal = cluster.node(leader).status().expect("a status").commit;
    cluster.node(slow).wait_until_applied(goal);
    for number in 0..200 {
        let found = cluster.http(slow).must_get(format!("/big{number}?read=local"));
        assert!(found == vec![number as u8; 100_000], "big{number} has {} bytes", found.len());
    }
}
