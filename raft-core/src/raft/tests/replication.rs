//! Log replication and commit (Raft paper §5.3, §5.4.2): appends and their answers, conflict repair, the commit rule.

use bytes::Bytes;

use super::*;
use MessageType::*;
use StateType::{Candidate, Follower, Leader};

/// An append after the entry (`log_term`, `index`), from node 2.
fn append(term: u64, (log_term, index): (u64, u64), commit: u64, terms: &[u64]) -> Message {
    Message { log_term, index, commit, entries: entries_from(index + 1, terms), ..message(MsgApp, 2, term) }
}

/// A follower of 2 in term `term` with this log.
fn follower(term: u64, terms: &[u64]) -> Node {
    let mut one = node_of(plain(1), stored(members(&[1, 2, 3], &[]), terms));
    one.become_follower(term, 2).unwrap();
    one
}

#[test]
fn what_is_proposed_anywhere_is_committed_and_applied_everywhere_in_one_order() {
    let mut net = Net::plain(3);
    net.campaign(1);
    net.propose(1, "a").unwrap();
    net.propose(2, "b").unwrap(); // forwarded
    net.campaign(2);
    net.propose(3, "c").unwrap();
    assert_eq!(net.committed(), [5, 5, 5]);
    net.logs_are_equal();
    assert_eq!(net.nodes[&3].log_data(), ["a", "b", "c"]);
    assert!(net.nodes.values().all(|node| node.log.applied == 5));
}

#[test]
fn a_proposal_commits_with_a_quorum_only_and_needs_a_leader() {
    for (size, dead, leads) in
        [(3, &[][..], true), (3, &[3], true), (3, &[2, 3], false), (4, &[3, 4], false), (5, &[4, 5], true)]
    {
        let mut net = Net::plain(size);
        dead.iter().for_each(|id| net.isolate(*id));
        net.campaign(1);
        let result = net.propose(1, "x");
        assert_eq!(result.is_ok(), leads, "{size} without {dead:?}");
        if !leads {
            assert_eq!(result, Err(Error::ProposalDropped(crate::DropReason::NoLeader)));
        }
        assert_eq!(net.committed()[0], if leads { 2 } else { 0 });
        assert_eq!(net.nodes[&1].term, 1);
    }
}

#[test]
fn a_lone_voter_commits_by_itself() {
    let mut net = Net::plain(1);
    net.campaign(1);
    net.propose(1, "a").unwrap();
    net.propose(1, "b").unwrap();
    assert_eq!(net.committed(), [3]);
}

/// Raft paper figure 8, in both of its endings.
#[test]
fn entries_of_older_terms_commit_only_together_with_one_of_the_leaders_own() {
    let mut net = Net::plain(5);
    net.campaign(1);
    net.isolate(1);
    net.cut.retain(|link| !matches!(link, (1, 2) | (2, 1)));
    net.propose(1, "a").unwrap();
    net.propose(1, "b").unwrap();
    assert_eq!((net.nodes[&1].log.committed, net.nodes[&2].log.committed), (1, 1), "two of five");
    net.heal();
    net.ignored.insert(MsgApp);
    net.campaign(2);
    assert_eq!(net.state(2), (Leader, 2));
    assert_eq!(net.nodes[&2].log.committed, 1);
    // With all links mended, its own empty entry commits them all, without any further proposal.
    net.heal();
    net.beat(2);
    assert_eq!(net.committed(), [4; 5]);
    net.logs_are_equal();
}

#[test]
fn counting_replicas_commits_nothing_of_an_older_term() {
    for (index, committed) in [(1, 0), (2, 0), (3, 3)] {
        let mut one = node_of(plain(1), stored(members(&[1, 2], &[]), &[1, 2]));
        one.become_follower(2, NONE).unwrap();
        one.win();
        assert_eq!(one.log_terms(), [1, 2, 3]);
        one.step(ack(2, one.term, index)).unwrap();
        assert_eq!(one.log.committed, committed, "acknowledged up to {index}");
    }
}

/// What voters have acknowledged, the terms in the leader's log, its term; what is committed.
#[test]
fn the_commit_index_is_the_quorums_in_the_leaders_term() {
    type Case = (&'static [u64], &'static [u64], u64, u64);
    let cases: [Case; 14] = [
        (&[1], &[1], 1, 1),
        (&[1], &[1], 2, 0),
        (&[2], &[1, 2], 2, 2),
        (&[1], &[2], 2, 1),
        (&[2, 1, 1], &[1, 2], 1, 1),
        (&[2, 1, 1], &[1, 1], 2, 0),
        (&[2, 1, 2], &[1, 2], 2, 2),
        (&[2, 1, 2], &[1, 1], 2, 0),
        (&[2, 1, 1, 1], &[1, 2], 1, 1),
        (&[2, 1, 1, 2], &[1, 2], 1, 1),
        (&[2, 1, 1, 2], &[1, 2], 2, 0),
        (&[2, 1, 2, 2], &[1, 2], 2, 2),
        (&[2, 1, 2, 2], &[1, 1], 2, 0),
        (&[0, 3, 3, 3, 0], &[1, 2, 2], 2, 3),
    ];
    for (acked, log, term, committed) in cases {
        let ids: Vec<u64> = (1..=acked.len() as u64).collect();
        let mut one = node_of(plain(1), stored(members(&ids, &[]), log));
        one.term = term;
        for (id, index) in ids.iter().zip(acked) {
            one.progress_mut(*id).match_index = *index;
        }
        one.maybe_commit().unwrap();
        assert_eq!(one.log.committed, committed, "{acked:?} {log:?} in term {term}");
    }
}

/// A leader appends, sends, waits for a quorum, commits, and tells the others with the next message (Raft paper §5.3).
#[test]
fn the_life_of_a_proposal_on_the_leader() {
    let mut one = leader(1, &[1, 2, 3]);
    one.step(ack(2, 1, 1)).unwrap();
    one.step(ack(3, 1, 1)).unwrap();
    one.flush();
    assert_eq!(one.log.committed, 1);
    let sent = one.propose("a");
    assert_eq!(kinds(&sent), [MsgApp, MsgApp]);
    for (append, to) in sent.iter().zip([2, 3]) {
        assert_eq!((append.to, append.term, append.log_term, append.index, append.commit), (to, 1, 1, 1, 1));
        assert_eq!(append.entries, [Entry { term: 1, index: 2, ..Entry::normal("a") }]);
    }
    assert_eq!(one.log.committed, 1);
    let sent = one.hear(ack(3, 1, 2));
    assert_eq!(one.log.committed, 2);
    let told: Vec<_> = sent.iter().map(|m| (m.to, m.commit, m.entries.len())).collect();
    assert_eq!(told, [(2, 2, 0), (3, 2, 0)], "both hear of it at once");
    assert_eq!(one.apply().last().unwrap().data, "a");
    assert_eq!(one.hear(ack(2, 1, 2)), [], "and the one that comes late is not told again");
}

#[test]
fn how_many_must_acknowledge_before_a_leader_commits() {
    for (size, ackers, commits) in [
        (1, 0, true),
        (3, 0, false),
        (3, 1, true),
        (3, 2, true),
        (5, 0, false),
        (5, 1, false),
        (5, 2, true),
        (5, 4, true),
    ] {
        let ids: Vec<u64> = (1..=size).collect();
        let mut one = leader(1, &ids);
        one.propose("a");
        (2..2 + ackers).for_each(|from| drop(one.hear(ack(from, 1, 2))));
        assert_eq!(one.log.committed == 2, commits, "{ackers} of {size}");
    }
}

#[test]
fn a_new_leaders_first_commit_commits_everything_before_it() {
    for log in [&[][..], &[2], &[1, 2], &[1]] {
        let mut one = node_of(plain(1), stored(members(&[1, 2, 3], &[]), log));
        one.become_follower(2, NONE).unwrap();
        one.win();
        one.propose("a");
        let last = log.len() as u64 + 2;
        one.hear(ack(2, 3, last));
        assert_eq!(one.log.committed, last, "{log:?}");
        assert_eq!(one.apply().len() as u64, last);
    }
}

#[test]
fn a_follower_applies_what_the_leader_says_is_committed_in_order() {
    for (count, commit) in [(1, 1), (2, 2), (2, 1), (3, 2)] {
        let mut one = follower(1, &[]);
        let mut message = append(1, (0, 0), commit, &vec![1; count]);
        for entry in message.entries.iter_mut() {
            entry.data = format!("entry {}", entry.index).into();
        }
        let entries = message.entries.clone();
        let answers = one.hear(message);
        assert_eq!((kinds(&answers), answers[0].index), (vec![MsgAppResp], count as u64));
        assert_eq!(one.apply(), entries[..commit as usize], "{commit} of {count}");
    }
}

/// The follower has [1, 2], committed up to 1. The entry that the leader's probe names; how it answers.
#[test]
fn a_follower_accepts_only_what_follows_on_its_log() {
    for (previous, reject, index, hint, hint_term) in [
        ((0, 0), false, 1, 0, 0), // before its commit index: answered with that
        ((1, 1), false, 1, 0, 0),
        ((2, 2), false, 2, 0, 0),
        ((1, 2), true, 2, 1, 1), // the leader has term 1 there: what may match is of term 1 at most
        ((3, 3), true, 3, 2, 2), // beyond its end
    ] {
        let mut one = node_of(plain(1), stored(members(&[1, 2, 3], &[]), &[1, 2]));
        one.load_hard_state(HardState { term: 1, vote: 0, commit: 1 }).unwrap();
        one.become_follower(3, 2).unwrap();
        let answers = one.hear(append(3, previous, 0, &[]));
        let said = &answers[0];
        assert_eq!((kinds(&answers), said.term), (vec![MsgAppResp], 3));
        assert_eq!(
            (said.reject, said.index, said.reject_hint, said.log_term),
            (reject, index, hint, hint_term),
            "{previous:?}"
        );
    }
}

#[test]
fn conflicting_entries_are_replaced_and_equal_ones_kept() {
    for (previous, terms, log, rewritten) in [
        ((2, 2), &[3][..], &[1, 2, 3][..], &[3][..]),
        ((1, 1), &[3, 4], &[1, 3, 4], &[3, 4]),
        ((0, 0), &[1], &[1, 2], &[]), // a late message must not cut the log
        ((0, 0), &[3], &[3], &[3]),
        ((1, 1), &[2, 2], &[1, 2, 2], &[2]),
    ] {
        let mut one = follower(4, &[1, 2]);
        one.step(append(4, previous, 0, terms)).unwrap();
        assert_eq!(one.log_terms(), log, "{previous:?} {terms:?}");
        let unstable: Vec<u64> = one.log.unstable.entries.to_vec().iter().map(|entry| entry.term).collect();
        assert_eq!(unstable, rewritten, "only what is new goes to storage again");
    }
}

/// Log [1, 2]. An append of term 3: is it rejected, where does the log end then, what is committed?
#[test]
fn appends_and_the_commit_index() {
    type Case = ((u64, u64), u64, &'static [u64], bool, u64, u64);
    let cases: [Case; 10] = [
        ((3, 2), 3, &[], true, 2, 0), // no such term there
        ((3, 3), 3, &[], true, 2, 0), // no such entry
        ((1, 1), 1, &[], false, 2, 1),
        ((0, 0), 1, &[2], false, 1, 1), // replaces everything
        ((2, 2), 3, &[2, 2], false, 4, 3),
        ((2, 2), 4, &[2], false, 3, 3), // the commit index ends at the last new entry
        ((1, 1), 4, &[2], false, 2, 2),
        ((1, 1), 3, &[], false, 2, 1), // what is not known to match is not committed
        ((1, 1), 3, &[2], false, 2, 2),
        ((2, 2), 4, &[], false, 2, 2),
    ];
    for (previous, commit, terms, reject, last, committed) in cases {
        let mut one = follower(3, &[1, 2]);
        let case = format!("{previous:?} {commit} {terms:?}");
        let answers = one.hear(append(3, previous, commit, terms));
        assert_eq!((answers.len(), answers[0].reject), (1, reject), "{case}");
        assert_eq!((one.log.last_index(), one.log.committed), (last, committed), "{case}");
    }
}

#[test]
fn a_heartbeat_moves_the_commit_index_forward_only() {
    for (commit, expected) in [(3, 3), (1, 2)] {
        let mut one = follower(2, &[1, 2, 3]);
        one.log.commit_to(2).unwrap();
        let context = Bytes::from_static(b"12345678");
        let answers = one.hear(Message { commit, context: context.clone(), ..message(MsgHeartbeat, 2, 2) });
        assert_eq!(one.log.committed, expected);
        assert_eq!(kinds(&answers), [MsgHeartbeatResp]);
        assert_eq!((answers[0].to, answers[0].context.clone()), (2, context), "the context comes back");
    }
}

#[test]
fn answers_to_heartbeats_bring_entries_until_all_are_there() {
    let mut one = leader(1, &[1, 2]);
    one.propose("a");
    let answer = message(MsgHeartbeatResp, 2, 1);
    for _ in 0..2 {
        // The append may have been lost; every answer brings one again.
        one.progress_mut(2).become_probe();
        let sent = one.hear(answer.clone());
        assert_eq!((kinds(&sent), sent[0].entries.len()), (vec![MsgApp], 2));
    }
    one.hear(ack(2, 1, 2));
    assert_eq!(one.hear(answer), [], "who has everything gets nothing");
}

/// The leader has three entries and has probed 2 behind the second. What 2's answer does to match and next, how many
/// messages follow, the first one's previous index, and the commit index in all of them.
#[test]
fn a_leader_reacts_to_answers() {
    for (index, reject, matched, next, count, previous, committed) in [
        (3u64, true, 0, 3, 0, 0, 0), // stale: not what was probed last
        (2, true, 0, 2, 1, 1, 0),    // step back, and probe again
        (2, false, 2, 4, 2, 2, 2),   // commits: both are told
        (0, false, 0, 4, 1, 0, 0),   // in step from the very beginning: everything is sent
    ] {
        let mut one = leader(1, &[1, 2, 3]);
        one.propose("a");
        one.propose("b");
        one.progress_mut(2).next_index = if index == 0 { 1 } else { 3 };
        one.progress_mut(3).msg_app_flow_paused = false;
        let sent = one.hear(Message { reject, reject_hint: index.saturating_sub(1), ..ack(2, 1, index) });
        let progress = one.progress(2);
        let case = format!("{index} {reject}: {progress}");
        assert_eq!((progress.match_index, progress.next_index), (matched, next), "{case}");
        assert_eq!((sent.len(), one.log.committed), (count, committed), "{case}");
        assert!(sent.iter().all(|m| m.commit == committed), "{case}");
        assert_eq!(sent.first().map_or(0, |first| first.index), previous, "{case}");
    }
}

#[test]
fn a_heartbeat_tells_each_peer_no_more_than_it_is_known_to_hold() {
    let mut one = leader(1, &[1, 2, 3]);
    one.propose("a");
    one.hear(ack(2, 1, 2));
    assert_eq!((one.log.committed, one.progress(3).match_index), (2, 0));
    let beats = one.hear(Message { from: 1, ..Message::of(MsgBeat) });
    let said: Vec<_> = beats.iter().map(|beat| (beat.kind().unwrap(), beat.to, beat.commit)).collect();
    assert_eq!(said, [(MsgHeartbeat, 2, 2), (MsgHeartbeat, 3, 0)]);
    assert!(beats.iter().all(|beat| beat.index == 0 && beat.log_term == 0 && beat.entries.is_empty()));
}

#[test]
fn only_a_leader_beats_and_at_its_interval() {
    for (state, beats) in [(Follower, 0), (Candidate, 0), (Leader, 2)] {
        let mut one = node_with(1, &[1, 2, 3], |config| config.heartbeat_tick = 3);
        match state {
            Leader => one.win(),
            Candidate => drop(one.start_campaign()),
            _ => {}
        }
        let sent = one.hear(Message { from: 1, ..Message::of(MsgBeat) });
        assert_eq!(kinds(&sent), vec![MsgHeartbeat; beats], "{state}");
        if state == Leader {
            assert_eq!(one.ticks(2), []);
            assert_eq!(kinds(&one.ticks(1)), [MsgHeartbeat; 2]);
        }
    }
}

/// Raft paper figure 7: the six followers of a leader of term 8.
#[test]
fn a_leader_brings_every_kind_of_follower_into_line() {
    let leader_log = [1, 1, 1, 4, 4, 5, 5, 6, 6, 6];
    for follower_log in [
        &[1, 1, 1, 4, 4, 5, 5, 6, 6][..],
        &[1, 1, 1, 4],
        &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
        &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
        &[1, 1, 1, 4, 4, 4, 4],
        &[1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
        &[],
    ] {
        let mut net = Net::with_logs(&[&leader_log, follower_log, &[]], |_| {});
        for id in 1..=2 {
            net.at(id).become_follower(7, NONE).unwrap();
        }
        net.cut(2, 3);
        net.campaign(1);
        assert_eq!(net.state(1), (Leader, 8), "{follower_log:?}");
        net.propose(1, "x").unwrap();
        net.logs_are_equal();
        assert_eq!(net.nodes[&2].log_terms(), [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 8, 8], "{follower_log:?}");
    }
}

/// Leader's log, follower's log; the follower's hint (term, index), and where the leader probes next. Each side skips
/// whole terms. Probes start at the leader's end.
#[test]
fn rejections_skip_whole_terms() {
    type Case = (&'static [u64], &'static [u64], (u64, u64), (u64, u64));
    let cases: [Case; 9] = [
        // The leader walks down through its terms above the hint's.
        (&[1, 2, 2, 4, 4, 4, 4], &[1, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3], (3, 7), (2, 3)),
        (&[1, 2, 2, 3, 4, 4, 4, 5], &[1, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3], (3, 8), (3, 4)),
        // One entry at a time would be no better here.
        (&[1, 1, 1, 1], &[1, 1, 1], (1, 3), (1, 3)),
        (&[1, 1, 1, 2, 4, 4, 4, 4], &[1, 1, 1, 2], (2, 4), (2, 4)),
        // The follower walks down through its terms above the leader's.
        (&[1, 1, 1, 1, 1], &[1, 1, 1, 4], (1, 3), (1, 3)),
        (&[1, 1, 1, 1, 1, 1, 1], &[1, 2, 2, 2, 2], (1, 1), (1, 1)),
        (&[1, 1, 1, 1, 1, 1, 1], &[1, 2, 2, 2, 2, 2, 2, 2], (1, 1), (1, 1)),
        // Both.
        (&[1, 1, 1, 4, 4, 5, 5], &[1, 1, 1, 2, 2, 2, 6, 6, 6], (2, 6), (1, 3)),
        (&[2, 2, 2], &[1, 1, 1], (1, 3), (0, 0)),
    ];
    for (leader_log, follower_log, hint, probe) in cases {
        let mut ours = node_of(plain(1), stored(members(&[1, 2, 3], &[]), leader_log));
        ours.become_follower(9, NONE).unwrap();
        ours.win();
        // The probe's first shot: at the log's end as it was before the election.
        let mut probed = node_of(plain(2), stored(members(&[1, 2, 3], &[]), follower_log));
        let previous = leader_log.len() as u64;
        let first = Message {
            to: 2,
            index: previous,
            log_term: *leader_log.last().unwrap(),
            entries: entries_from(previous + 1, &[10]),
            ..message(MsgApp, 1, 10)
        };
        assert_eq!(ours.progress(2).next_index, previous + 1);
        let refusal = probed.hear(first).remove(0);
        let case = format!("{leader_log:?} {follower_log:?}");
        assert_eq!((refusal.reject, refusal.index), (true, previous), "{case}");
        assert_eq!((refusal.log_term, refusal.reject_hint), hint, "{case}");
        let next = ours.hear(refusal).remove(0);
        assert_eq!((next.kind(), next.log_term, next.index), (Some(MsgApp), probe.0, probe.1), "{case}");
        // And there, in all of these cases, they agree.
        assert!(!probed.hear(next).remove(0).reject, "{case}");
        assert_eq!(probed.log_terms(), ours.log_terms(), "{case}");
    }
}

#[test]
fn messages_of_a_deposed_leader_change_nothing() {
    let mut net = Net::plain(3);
    net.campaign(1);
    net.campaign(2);
    net.campaign(1);
    let late =
        Message { to: 1, log_term: 1, index: 1, entries: entries_from(2, &[2]), commit: 3, ..message(MsgApp, 2, 2) };
    net.tell(1, late).unwrap();
    net.propose(1, "data").unwrap();
    net.logs_are_equal();
    assert_eq!(net.nodes[&2].log_terms(), [1, 2, 3, 3]);
}

#[test]
fn reordered_and_repeated_messages_do_no_harm() {
    let mut lead = leader(1, &[1, 2, 3]);
    let mut other = node(2, &[1, 2, 3]);
    other.hear(append(1, (0, 0), 0, &[1]));
    lead.hear(ack(2, 1, 1));
    let mut appends: Vec<Message> = Vec::new();
    for data in ["a", "b", "c", "d"] {
        appends.extend(lead.propose(data).into_iter().filter(|m| m.to == 2));
    }
    assert_eq!(appends.len(), 4, "sent without waiting for answers");
    // Backwards, again, and backwards once more.
    let mut answers = Vec::new();
    for message in appends.iter().rev().chain(&appends).chain(appends.iter().rev()) {
        answers.extend(other.hear(message.clone()));
    }
    let refused: Vec<bool> = answers.iter().map(|answer| answer.reject).collect();
    assert_eq!(refused, [vec![true; 3], vec![false; 9]].concat());
    assert_eq!(other.log_entries(), lead.log_entries());
    // The answers too arrive backwards and twice.
    let again = answers.clone();
    for answer in answers.into_iter().rev().chain(again) {
        lead.hear(answer);
    }
    let progress = lead.progress(2);
    assert_eq!((lead.log.committed, progress.match_index, progress.next_index), (5, 5, 6));
}

#[test]
fn a_peer_that_lags_behind_an_append_is_told_the_commit_index_once() {
    let mut one = leader(1, &[1, 2, 3]);
    one.hear(ack(2, 1, 1));
    one.hear(ack(3, 1, 1));
    one.propose("a");
    one.hear(ack(2, 1, 2));
    assert_eq!((one.log.committed, one.progress(3).sent_commit), (2, 2), "told though it has not answered");
    one.propose("b");
    assert_eq!(one.hear(ack(3, 1, 2)), [], "nothing that it was not told already");
}

#[test]
fn a_follower_without_a_leader_or_forbidden_to_forward_drops_proposals() {
    use crate::DropReason::*;
    let mut one = node(1, &[1, 2]);
    assert_eq!(one.step(proposal("x")), Err(Error::ProposalDropped(NoLeader)));
    one.start_campaign();
    assert_eq!(one.step(proposal("x")), Err(Error::ProposalDropped(NoLeader)));
    let mut one = node_with(1, &[1, 2], |config| config.disable_proposal_forwarding = true);
    one.become_follower(1, 2).unwrap();
    assert_eq!(one.step(proposal("x")), Err(Error::ProposalDropped(ForwardingDisabled { leader: 2 })));
    let mut one = node(1, &[1, 2]);
    one.become_follower(1, 2).unwrap();
    let sent = one.propose("x");
    assert_eq!((kinds(&sent), sent[0].to, sent[0].term), (vec![MsgProp], 2, 0));
}

/// A follower that follows a node which is no leader any more: its proposal is passed on by that node, and is still
/// its own (etcd `raft.go`, send, which signs only what is unsigned).
#[test]
fn what_is_passed_on_twice_keeps_its_origin() {
    for (kind, entry) in [(MsgProp, Entry::normal("x")), (MsgReadIndex, Entry::normal("read"))] {
        let mut between = node(2, &[1, 2, 3]);
        between.become_follower(2, 1).unwrap();
        let forwarded = Message { to: 2, entries: vec![entry].into(), ..message(kind, 3, 0) };
        let sent = between.hear(forwarded);
        assert_eq!((sent[0].from, sent[0].to), (3, 1), "{kind:?}");
    }
}

/// A node that founded a cluster of its own where it should have joined: its log begins like the leader's, and then has a
/// committed entry that is not the leader's. To acknowledge its commit index would tell the leader that it has the
/// leader's entry there.
#[test]
fn entries_that_contradict_committed_ones_are_not_acknowledged() {
    let mut storage = stored(members(&[1, 2], &[]), &[1, 1]);
    storage.set_hard_state(HardState { term: 1, vote: 0, commit: 2 });
    let mut two = node_of(plain(2), storage);
    let append = |terms: &[u64]| Message {
        to: 2,
        index: 1,
        log_term: 1,
        entries: entries_from(2, terms),
        ..message(MsgApp, 1, 2)
    };
    let foreign = Err(Error::LogForeign { index: 2, own_term: 1, leader_term: 2 });
    assert_eq!(two.step(append(&[2, 2])), foreign);
    assert_eq!(two.log_entries().len(), 2, "nothing was taken");
    // The same ones, late or repeated, are acknowledged as ever.
    let answers = two.hear(append(&[1]));
    assert_eq!((answers[0].reject, answers[0].index), (false, 2));
}
