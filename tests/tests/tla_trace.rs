//! Traces for etcd's TLA+ specification: every line has the shape that its reader expects, and every kind of event occurs.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use serde_json::{json, Value};
use tests::tla_trace::{check_line, record};

#[test]
fn every_line_has_the_shape_that_the_specification_reads() {
    let mut names = BTreeSet::new();
    for seed in 0..20 {
        let lines = record(seed, 400).expect("a run");
        for line in &lines {
            let text = line.to_string();
            assert!(!text.contains('\n'));
            let read: Value = serde_json::from_str(&text).expect("JSON");
            check_line(&read).unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}\n{text}"));
            names.insert(read["event"]["name"].as_str().expect("a name").to_string());
        }
        assert_eq!(lines, record(seed, 400).expect("the same run"), "a run can be repeated");
    }
    // All that the specification knows but snapshots, which it traces as appends.
    assert_eq!(names.len(), 17, "{names:?}");
}

#[test]
fn the_check_refuses_other_shapes() {
    let good = record(1, 50).expect("a run").remove(0);
    check_line(&good).expect("the first line is good");
    for (field, wrong) in [("nid", json!(1)), ("role", json!("leader")), ("conf", json!([])), ("name", json!("Tick"))] {
        let mut line = good.clone();
        line["event"][field] = wrong;
        assert!(check_line(&line).is_err(), "a wrong {field} is taken");
    }
}
