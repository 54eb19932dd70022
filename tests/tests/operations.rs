//! What an operator looks at: the metrics page, which must be exactly what Prometheus reads, and the health pages.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tests::cluster::{eventually, Cluster, Node, Signal, PATIENCE};

/// Names and values, in the page's order.
type Labels = Vec<(String, String)>;
/// One sample.
type Sample = (Labels, f64);

/// A family as the page has it.
struct Family {
    kind: String,
    /// By name: a histogram has three.
    samples: BTreeMap<String, Vec<Sample>>,
}

/// A metrics page, read strictly: each family once, HELP then TYPE then its samples and nothing between them.
struct Page(BTreeMap<String, Family>);

impl Page {
    fn of(node: &Node) -> Page {
        let answer = node.http().get("/_/metrics");
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("content-type").as_deref(), Some("text/plain; version=0.0.4; charset=utf-8"));
        Page::parse(&answer.text())
    }

    fn parse(text: &str) -> Page {
        assert!(text.ends_with('\n'), "the last line is ended, too");
        let mut families: BTreeMap<String, Family> = BTreeMap::new();
        let (mut current, mut seen) = (String::new(), BTreeSet::new());
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').expect("a name and a text");
                assert!(is_name(name) && !help.is_empty(), "{line}");
                assert!(!families.contains_key(name), "{name} comes twice");
                current = name.to_string();
                families.insert(current.clone(), Family { kind: String::new(), samples: BTreeMap::new() });
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("a name and a type");
                assert_eq!(name, current, "HELP and TYPE belong together");
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                families.get_mut(&current).expect("the family has begun").kind = kind.to_string();
            } else {
                assert!(seen.insert(line.rsplit_once(' ').expect("a value").0.to_string()), "twice: {line}");
                let (name, sample) = parse_sample(line);
                let family = families.get_mut(&current).unwrap_or_else(|| panic!("no family for {line}"));
                let suffix = name.strip_prefix(&current).unwrap_or_else(|| panic!("{line} is not of {current}"));
                match family.kind.as_str() {
                    "histogram" => assert!(["_bucket", "_sum", "_count"].contains(&suffix), "{line}"),
                    _ => assert_eq!(suffix, "", "{line}"),
                }
                family.samples.entry(name).or_default().push(sample);
            }
        }
        let page = Page(families);
        page.check_histograms();
        page
    }

    /// Buckets ascend, and the last one is what `_count` says.
    fn check_histograms(&self) {
        for (name, family) in self.0.iter().filter(|(_, family)| family.kind == "histogram") {
            let empty = Vec::new();
            let buckets = family.samples.get(&format!("{name}_bucket")).unwrap_or(&empty);
            let mut series: BTreeMap<Labels, Vec<(f64, f64)>> = BTreeMap::new();
            for (labels, value) in buckets {
                let (le, rest): (Vec<_>, Vec<_>) = labels.iter().cloned().partition(|(label, _)| label == "le");
                let bound = if le[0].1 == "+Inf" { f64::INFINITY } else { le[0].1.parse().expect("a bound") };
                series.entry(rest).or_default().push((bound, *value));
            }
            for (labels, buckets) in series {
                assert!(buckets.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1), "{name}");
                let (bound, all) = *buckets.last().expect("a bucket");
                assert_eq!((bound, all), (f64::INFINITY, self.value(&format!("{name}_count"), &labels)), "{name}");
            }
        }
    }

    fn value(&self, name: &str, labels: &[(String, String)]) -> f64 {
        let all = self.0.values().find_map(|family| family.samples.get(name)).unwrap_or_else(|| panic!("no {name}"));
        let found = all.iter().find(|(found, _)| found == labels);
        found.unwrap_or_else(|| panic!("no {name} with {labels:?} among {all:?}")).1
    }

    fn plain(&self, name: &str) -> f64 {
        self.value(name, &[])
    }

    fn labelled(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let labels: Vec<_> = labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        self.value(name, &labels)
    }
}

fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn parse_sample(line: &str) -> (String, Sample) {
    let name_ends = line.find(['{', ' ']).expect("a name and a value");
    let (name, mut rest) = line.split_at(name_ends);
    assert!(is_name(name), "{line}");
    let mut labels = Vec::new();
    if let Some(after) = rest.strip_prefix('{') {
        rest = after;
        loop {
            let (label, after) = rest.split_once("=\"").unwrap_or_else(|| panic!("no label in {line}"));
            assert!(is_name(label), "{line}");
            let (mut value, mut chars) = (String::new(), after.char_indices());
            let end = loop {
                match chars.next().unwrap_or_else(|| panic!("an open quote in {line}")) {
                    (at, '"') => break at,
                    (_, '\\') => match chars.next().map(|(_, escaped)| escaped) {
                        Some('n') => value.push('\n'),
                        Some(escaped @ ('\\' | '"')) => value.push(escaped),
                        other => panic!("{other:?} is escaped in {line}"),
                    },
                    (_, plain) => value.push(plain),
                }
            };
            labels.push((label.to_string(), value));
            rest = &after[end + 1..];
            match rest.strip_prefix(',') {
                Some(more) => rest = more,
                None => break,
            }
        }
        rest = rest.strip_prefix('}').unwrap_or_else(|| panic!("no closing brace in {line}"));
    }
    let value = rest.strip_prefix(' ').unwrap_or_else(|| panic!("no value in {line}"));
    (name.to_string(), (labels, value.parse().unwrap_or_else(|_| panic!("not a number in {line}"))))
}

#[test]
fn the_parser_of_this_test_reads_what_the_format_allows_and_nothing_else() {
    let page = Page::parse("# HELP a b\n# TYPE a counter\na{x=\"1\\\"\\\\\\n\",y=\"\"} 2\na 3.5e1\n");
    assert_eq!((page.labelled("a", &[("x", "1\"\\\n"), ("y", "")]), page.plain("a")), (2.0, 35.0));
    for text in [
        "a 1\n",
        "# HELP a b\n# TYPE a counter\nb 1\n",
        "# HELP a b\n# TYPE a counter\na{x=1} 1\n",
        "# HELP a b\n# TYPE a counter\na 1\na 2\n",
        "# HELP a b\n# TYPE a histogram\na_bucket{le=\"1\"} 2\na_bucket{le=\"+Inf\"} 1\na_sum 1\na_count 1\n",
    ] {
        let result = std::panic::catch_unwind(|| Page::parse(text));
        assert!(result.is_err(), "{text}");
    }
}

#[test]
fn the_metrics_page_is_well_formed_and_counts_what_happens() {
    let cluster = Cluster::start(3);
    let leader = cluster.wait_for_leader();
    let follower = cluster.followers_of(leader)[0];
    let before = Page::of(cluster.node(follower));
    for number in 0..20 {
        cluster.http(follower).must_put(format!("/key-{number}"), vec![7; 1000]);
        cluster.http(follower).must_get(format!("/key-{number}"));
    }
    assert_eq!(cluster.http(follower).get("/nothing").status, 404);
    assert_eq!(cluster.http(follower).get("/key-1?read=local").status, 200);
    let pages: Vec<Page> = (1..=3).map(|id| Page::of(cluster.node(id))).collect();
    let of = |id: u64| &pages[id as usize - 1];

    for id in 1..=3 {
        let page = of(id);
        let status = cluster.node(id).status().expect("a status");
        assert_eq!(page.plain("etcd_server_has_leader"), 1.0);
        assert_eq!(page.plain("etcd_server_is_leader"), f64::from(u8::from(id == leader)));
        assert_eq!(page.plain("etcd_server_is_learner"), 0.0);
        assert_eq!(page.labelled("etcd_server_id", &[("server_id", &format!("{id:x}"))]), 1.0);
        assert!(page.plain("etcd_server_leader_changes_seen_total") >= 1.0);
        assert_eq!(page.plain("raftexample_term"), status.term as f64);
        assert!(page.plain("etcd_server_proposals_committed_total") >= 20.0);
        assert!(page.plain("etcd_server_proposals_applied_total") <= status.applied as f64);
        // The leader syncs each write by itself, since the next one comes after its answer; a follower that is behind
        // may get several at once.
        let least_syncs = if id == leader { 20.0 } else { 1.0 };
        assert!(page.plain("etcd_disk_wal_fsync_duration_seconds_count") >= least_syncs);
        assert!(page.plain("etcd_disk_wal_fsync_duration_seconds_sum") > 0.0);
        assert!(page.plain("raftexample_wal_entry_bytes_total") >= 20_000.0);
        assert!(page.plain("process_resident_memory_bytes") > 1e6);
        assert!(page.plain("process_open_fds") > 10.0);
        assert!(page.plain("process_start_time_seconds") > 1.7e9);
        for other in (1..=3).filter(|other| *other != id).map(|other| format!("{other:x}")) {
            let local = format!("{id:x}");
            assert_eq!(page.labelled("etcd_network_active_peers", &[("Local", &local), ("Remote", &other)]), 1.0);
            assert!(page.labelled("etcd_network_peer_sent_bytes_total", &[("To", &other)]) > 0.0);
            assert!(page.labelled("etcd_network_peer_received_bytes_total", &[("From", &other)]) > 0.0);
            page.labelled("etcd_network_peer_round_trip_time_seconds_count", &[("To", &other)]);
        }
    }
    let requests =
        |page: &Page, call, code| page.labelled("raftexample_http_requests_total", &[("call", call), ("code", code)]);
    for (call, code, more) in
        [("put", "2xx", 20.0), ("get", "2xx", 20.0), ("get", "4xx", 1.0), ("get-local", "2xx", 1.0)]
    {
        let counted = requests(of(follower), call, code) - requests(&before, call, code);
        assert_eq!(counted, more, "{call} {code}");
    }
    let link = [("To", format!("{leader:x}"))];
    let sent = |page: &Page| page.labelled("etcd_network_peer_sent_bytes_total", &[("To", &link[0].1)]);
    assert!(sent(of(follower)) - sent(&before) >= 20_000.0, "the values were forwarded to the leader");
    assert_eq!(of(follower).plain("etcd_server_proposals_failed_total"), 0.0);

    for id in cluster.running().into_iter().filter(|id| *id != follower) {
        cluster.node(id).kill();
    }
    assert!(matches!(cluster.http(follower).put("/nobody", "agrees").status, 503 | 504));
    let page = eventually("it notices that it is alone", PATIENCE, || {
        Some(Page::of(cluster.node(follower))).filter(|page| page.plain("etcd_server_has_leader") == 0.0)
    });
    assert_eq!(page.plain("etcd_server_proposals_failed_total"), 1.0);
    for other in (1..=3).filter(|other| *other != follower).map(|other| format!("{other:x}")) {
        let labels = [("Local", &*format!("{follower:x}")), ("Remote", &other)];
        assert_eq!(page.labelled("etcd_network_active_peers", &labels), 0.0);
    }
}

#[test]
fn a_node_is_ready_while_it_can_serve_and_lives_all_the_while() {
    let cluster = Cluster::start(3);
    let leader = cluster.wait_for_leader();
    let (one, other) = (cluster.followers_of(leader)[0], cluster.followers_of(leader)[1]);
    for id in 1..=3 {
        assert_eq!(cluster.http(id).get("/_/livez").text(), "[+]raft_thread ok\nok\n");
        let ready = cluster.http(id).get("/_/readyz");
        let checks = "[+]raft_thread ok\n[+]not_stopping ok\n[+]leader ok\n[+]linearizable_read ok\nok\n";
        assert_eq!((ready.status, ready.text().as_str()), (200, checks));
        assert_eq!(cluster.http(id).request("HEAD", "/_/readyz", b"").status, 200);
    }

    // Paused, the others look as if they were there, for a while: only the read shows that they are not.
    cluster.node(one).pause();
    cluster.node(other).pause();
    let ready = cluster.http(leader).get("/_/readyz");
    assert_eq!(ready.status, 503);
    assert!(ready.text().contains("[-]linearizable_read failed: "), "{}", ready.text());
    let alone = eventually("it leads no more", PATIENCE, || {
        let ready = cluster.http(leader).get("/_/readyz");
        ready.text().contains("[-]leader failed: ").then_some(ready)
    });
    assert!(alone.text().ends_with("failed\n"));
    assert_eq!(cluster.http(leader).get("/_/livez").status, 200, "a restart would not help");

    cluster.node(one).resume();
    cluster.node(other).resume();
    eventually("all are ready again", PATIENCE, || {
        (1..=3).all(|id| cluster.http(id).get("/_/readyz").status == 200).then_some(())
    });
}

#[test]
fn a_node_that_is_about_to_stop_is_not_ready() {
    let cluster = Cluster::start(3);
    let leader = cluster.wait_for_leader();
    // With the others paused it has to wait, which leaves time to ask.
    for follower in cluster.followers_of(leader) {
        cluster.node(follower).pause();
    }
    let mut open = cluster.http(leader).with_timeout(Duration::from_secs(20)).connect().expect("a connection");
    assert_eq!(open.request("GET", b"/_/livez", &[], b"").expect("an answer").status, 200);
    cluster.node(leader).signal(Signal::TERM);
    cluster.node(leader).process().wait_for_line("that it stops", PATIENCE, |line| line.contains("told to stop"));
    let ready = open.request("GET", b"/_/readyz", &[], b"").expect("an answer");
    assert!(ready.text().contains("[-]not_stopping failed: "), "{}", ready.text());
    assert_eq!((ready.status, ready.header("connection").as_deref()), (503, Some("close")));
    assert_eq!(cluster.node(leader).wait_for_exit(PATIENCE).code(), Some(0));
}
