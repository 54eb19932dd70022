//! A follower that was away for long comes back while clients write: they are not refused anything, and it gets everything.
//! What it costs them is measured by the benchmark `catch_up`.
#![forbid(unsafe_code)]

use tests::cluster::load::{put_all, Writers};
use tests::cluster::Cluster;

/// Enough for many messages, and for several snapshots with the second setting.
const MISSED: u64 = 20_000;

fn catches_up_while_clients_write(arguments: &[&str]) {
    let cluster = Cluster::start_with(3, arguments);
    let leader = cluster.wait_for_leader();
    let absent = cluster.followers_of(leader)[0];
    cluster.node(absent).kill();
    let others: Vec<_> = (1..=3).filter(|&id| id != absent).map(|id| cluster.http(id)).collect();
    put_all(&others, 64, "missed-", MISSED, |number| format!("the value {number}").into_bytes());

    let writers = Writers::start_at(&others, "meanwhile", 4);
    writers.wait_for_progress(50);
    cluster.node(absent).start_and_wait();
    let goal = cluster.node(leader).status().expect("a status").commit;
    writers.wait_for_progress(100);
    cluster.node(absent).wait_until_applied(goal);
    writers.wait_for_progress(50);
    writers.stop().assert_kept(&cluster);
    let mut connection = cluster.http(absent).connect().expect("it accepts connections");
    for number in (0..MISSED).step_by(101).chain([MISSED - 1]) {
        let answer = connection.request("GET", format!("/missed-{number}?read=local").as_bytes(), &[], b"");
        let answer = answer.expect("an answer");
        assert_eq!((answer.status, answer.text()), (200, format!("the value {number}")));
    }
}

#[test]
fn a_follower_that_comes_back_catches_up_by_the_log_while_clients_write() {
    catches_up_while_clients_write(&["--snapshot-count", "1000000"]);
}

#[test]
fn a_follower_that_comes_back_catches_up_by_a_snapshot_while_clients_write() {
    catches_up_while_clients_write(&["--snapshot-count", "1000", "--wal-segment-mib", "1"]);
}
