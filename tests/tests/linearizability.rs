//! Real processes, everything going wrong, and nothing that clients saw is impossible on one machine.
#![forbid(unsafe_code)]

use tests::black_box::small_disk::SmallDisk;
use tests::black_box::{clients::Reads, run, Counts, SHAPES};

/// One of each kind of cluster.
const CLUSTERS: usize = SHAPES.len();

/// The number in this environment variable, or another.
fn number(variable: &str, otherwise: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable} is no number: {text}")),
        Err(_) => otherwise,
    }
}

fn all_are_linearizable(histories: u64) -> Counts {
    let (counts, failures) = run(number("BLACK_BOX_SEED", 1), histories, CLUSTERS, Reads::Linearizable);
    println!("{counts}");
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
    assert_eq!((counts.histories, counts.linearizable), (histories, histories));
    counts
}

#[test]
fn what_clients_see_of_a_broken_cluster_is_linearizable() {
    all_are_linearizable(CLUSTERS as u64);
}

/// The environment variables `BLACK_BOX_HISTORIES` and `BLACK_BOX_SEED` ask for more, or for others.
#[test]
#[ignore = "takes minutes"]
fn what_clients_see_in_200_histories_is_linearizable() {
    let histories = number("BLACK_BOX_HISTORIES", 220);
    let counts = all_are_linearizable(histories);
    assert!(counts.operations >= 500 * histories, "the clients have hardly asked: {counts}");
    let faults = [
        ("kill", counts.kills),
        ("pause", counts.pauses),
        ("partition", counts.partitions),
        ("bad network", counts.bad_networks),
    ];
    for (what, count) in faults {
        assert!(count >= histories / 10, "hardly any {what}: {counts}");
    }
    // Two settings of five have disks that can be full, unless this process may not mount any.
    let can_mount = tempfile::tempdir().is_ok_and(|folder| SmallDisk::mount(&folder.path().join("disk")).is_some());
    assert!(!can_mount || counts.full_disks >= histories / 100, "hardly any full disk: {counts}");
}

/// Without this, nothing would be proved by the tests above. Reads from a node's own copy are not linearizable, and clients
/// that take them for it must notice.
#[test]
fn reads_that_are_not_linearizable_are_found_out() {
    let (counts, failures) = run(1, CLUSTERS as u64, CLUSTERS, Reads::Local);
    assert!(failures.iter().any(|failure| failure.contains("not linearizable")), "{counts}\n{failures:#?}");
}
