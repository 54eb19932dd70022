//! Elections (Raft paper §5.2, §5.4.1; PreVote: thesis §9.6): who campaigns when, who wins, who yields.

use super::*;
use StateType::{Candidate, Follower, Leader, PreCandidate};

const BOTH: [bool; 2] = [false, true];

#[test]
fn an_election_needs_a_majority_and_a_log_that_is_good_enough() {
    // Logs of all nodes, who is dead; what becomes of node 1 and its term, without and with pre-vote.
    type Case = (&'static [&'static [u64]], &'static [u64], (StateType, u64), (StateType, u64));
    let cases: [Case; 7] = [
        (&[&[], &[], &[]], &[], (Leader, 1), (Leader, 1)),
        (&[&[], &[], &[]], &[3], (Leader, 1), (Leader, 1)),
        (&[&[], &[], &[]], &[2, 3], (Candidate, 1), (PreCandidate, 0)),
        (&[&[], &[], &[], &[]], &[2, 3], (Candidate, 1), (PreCandidate, 0)),
        (&[&[], &[], &[], &[], &[]], &[2, 3], (Leader, 1), (Leader, 1)),
        // One better log among three does no harm, two of them do.
        (&[&[], &[1], &[1], &[1], &[]], &[], (Follower, 1), (Follower, 1)),
        (&[&[], &[1], &[], &[], &[]], &[], (Leader, 1), (Follower, 1)), // a refusal from term 1 ends a pre-candidacy in term 0
    ];
    for (logs, dead, plain, pre_vote) in cases {
        for (on, expected) in [(false, plain), (true, pre_vote)] {
            let mut net = Net::with_logs(logs, |config| config.pre_vote = on);
            dead.iter().for_each(|id| net.isolate(*id));
            net.campaign(1);
            assert_eq!(net.state(1), expected, "{logs:?} without {dead:?}, pre-vote {on}");
        }
    }
}

#[test]
fn everybody_can_lead_in_turn() {
    for pre_vote in BOTH {
        let mut net = Net::with(3, |config| config.pre_vote = pre_vote);
        for (id, term) in [(1, 1), (2, 2), (3, 3), (1, 4)] {
            net.campaign(id);
            for other in 1..=3 {
                let role = if other == id { Leader } else { Follower };
                assert_eq!(net.state(other), (role, term));
                assert_eq!(net.nodes[&other].lead, id);
            }
        }
    }
}

/// Raft paper figure 7's way to a mess: a node won a term and died before it could replicate, and voters remember that
/// term without having its entry.
#[test]
fn a_leader_overwrites_uncommitted_entries_of_a_later_term() {
    for pre_vote in BOTH {
        let mut net = Net::with_logs(&[&[1], &[1], &[2], &[], &[]], |config| config.pre_vote = pre_vote);
        for id in [4, 5] {
            // They had voted for 3 in term 2.
            net.at(id).load_hard_state(HardState { term: 2, vote: 3, commit: 0 }).unwrap();
        }
        net.campaign(1);
        assert_eq!(net.state(1), (Follower, 2), "term 2 is news to it, and the votes of that term are given");
        net.campaign(1);
        assert_eq!(net.state(1), (Leader, 3));
        for node in net.nodes.values() {
            assert_eq!(node.log_terms(), [1, 3], "node {}", node.id);
        }
    }
}

#[test]
fn of_two_candidates_the_one_without_a_quorum_yields() {
    let mut net = Net::plain(3);
    net.cut(1, 3);
    net.campaign(1);
    net.campaign(3);
    assert_eq!((net.state(1), net.state(3)), ((Leader, 1), (Candidate, 1)), "2 voted for 1");
    net.heal();
    // It disturbs the leader by its next term, but its log is behind.
    net.campaign(3);
    assert_eq!((net.state(1), net.state(2), net.state(3)), ((Follower, 2), (Follower, 2), (Follower, 2)));
    assert_eq!((net.nodes[&2].log_terms(), net.nodes[&3].log_terms()), (vec![1], vec![]));
}

#[test]
fn of_two_pre_candidates_the_one_that_was_away_disturbs_nobody() {
    let mut net = Net::with(3, |config| config.pre_vote = true);
    net.cut(1, 3);
    net.campaign(1);
    net.campaign(3);
    assert_eq!((net.state(1), net.state(3)), ((Leader, 1), (Follower, 1)), "2 is in term 1 already and says so");
    net.heal();
    net.campaign(3);
    assert_eq!((net.state(1), net.state(2), net.state(3)), ((Leader, 1), (Follower, 1), (Follower, 1)));
}

#[test]
fn a_candidate_that_was_cut_off_concedes_and_catches_up() {
    let mut net = Net::plain(3);
    net.isolate(1);
    net.campaign(1);
    net.campaign(3);
    net.heal();
    net.beat(3);
    net.propose(3, "data").unwrap();
    assert_eq!(net.state(1), (Follower, 1));
    net.beat(3);
    net.logs_are_equal();
    assert_eq!(net.nodes[&1].log_data(), ["data"]);
}

#[test]
fn a_lone_voter_elects_itself() {
    for pre_vote in BOTH {
        let mut net = Net::with(1, |config| config.pre_vote = pre_vote);
        net.campaign(1);
        assert_eq!(net.state(1), (Leader, 1));
    }
}

#[test]
fn a_sign_of_the_leader_ends_a_candidacy() {
    // A leader of the candidate's own term, of a later one; each message that only a leader sends.
    for candidate_term in [1, 2] {
        for kind in [MessageType::MsgHeartbeat, MessageType::MsgApp, MessageType::MsgSnap] {
            for pre_vote in BOTH {
                let mut one = node_with(1, &[1, 2, 3], |config| config.pre_vote = pre_vote);
                one.start_campaign();
                assert_eq!(one.state, if pre_vote { PreCandidate } else { Candidate });
                let term = one.term.max(1) + candidate_term - 1;
                let mut sign = message(kind, 2, term);
                if kind == MessageType::MsgSnap {
                    sign.snapshot = Some(Box::new(snapshot_at(5, 1, members(&[1, 2, 3], &[]))));
                }
                one.hear(sign);
                assert_eq!((one.state, one.term, one.lead), (Follower, term, 2), "{kind:?} {pre_vote}");
            }
        }
    }
}

#[test]
fn a_candidate_in_a_partition_comes_back_into_the_leaders_term() {
    for kind in [MessageType::MsgHeartbeat, MessageType::MsgApp] {
        let mut net = Net::plain(3);
        net.campaign(1);
        net.isolate(3);
        net.at(3).set_randomized_election_timeout(10);
        net.ticks(3, 10);
        assert_eq!(net.state(3), (Candidate, 2));
        net.heal();
        // It refuses the old leader, whose own rule makes it step down on hearing the later term.
        let leader = net.nodes[&1].term;
        let mut sign = Message { to: 3, ..message(kind, 1, leader) };
        net.at(3).step(sign.clone()).unwrap();
        assert_eq!(net.state(3), (Candidate, 2));
        // A leader of its own term it follows.
        sign.term = 2;
        net.at(3).step(sign).unwrap();
        assert_eq!(net.state(3), (Follower, 2));
    }
}

#[test]
fn a_node_starts_as_a_follower_and_campaigns_after_a_silent_election_timeout() {
    for pre_vote in BOTH {
        let mut one = node_with(1, &[1, 2, 3], |config| config.pre_vote = pre_vote);
        assert_eq!((one.state, one.term, one.lead), (Follower, 0, NONE));
        for round in 1..=2 {
            let timeout = one.randomized_election_timeout;
            assert_eq!(one.ticks(timeout - 1), []);
            let requests = one.ticks(1);
            let (kind, term, state) = match pre_vote {
                false => (MessageType::MsgVote, round, Candidate),
                true => (MessageType::MsgPreVote, 0, PreCandidate),
            };
            assert_eq!((one.state, one.term), (state, term), "round {round}");
            assert_eq!(kinds(&requests), [kind, kind]);
            assert_eq!(requests.iter().map(|request| request.to).collect::<Vec<_>>(), [2, 3]);
            assert!(requests.iter().all(|request| request.term == term + u64::from(pre_vote)));
            assert_eq!(one.vote, if pre_vote { NONE } else { 1 }, "a pre-candidate has not voted");
            assert_eq!(one.tracker.tally_votes().0, 1, "its own vote, once durable");
        }
    }
}

#[test]
fn every_change_of_role_restarts_the_clock_with_a_new_timeout() {
    let mut one = node(1, &[1, 2, 3]);
    let (mut drawn, mut counts) = (0, [0usize; 10]);
    for term in 1..=2000 {
        one.election_elapsed = 5;
        // Followers and candidates alike.
        if term % 2 == 0 {
            one.become_follower(term, NONE).unwrap();
        } else {
            one.start_campaign();
            assert_eq!((one.term, one.state), (term, Candidate));
        }
        assert_eq!(one.election_elapsed, 0);
        let timeout = one.randomized_election_timeout;
        assert!((10..20).contains(&timeout), "{timeout}");
        counts[timeout - 10] += 1;
        drawn += 1;
    }
    // 200 of each are expected; fewer than 140 or more than 260 would be beyond four standard deviations.
    assert!(counts.iter().all(|count| (140..260).contains(count)), "{counts:?} of {drawn}");
}

#[test]
fn the_probability_of_a_timeout_grows_from_none_to_certainty() {
    // After n silent ticks, which share of nodes has campaigned?
    for (ticks, low, high) in
        [(5, 0, 0), (9, 0, 0), (10, 5, 15), (13, 32, 48), (15, 52, 68), (18, 84, 96), (19, 100, 100)]
    {
        let mut campaigned = 0;
        for seed in 0..400 {
            let mut one = node_with(1, &[1, 2, 3], |config| config.seed = seed);
            one.ticks(ticks);
            campaigned += usize::from(one.state == Candidate);
        }
        let percent = campaigned * 100 / 400;
        assert!((low..=high).contains(&percent), "{percent} % after {ticks} ticks");
    }
}

/// Raft paper §9.3: randomness makes split votes rare. Equal seeds must not make equal nodes.
#[test]
fn timeouts_of_different_nodes_seldom_collide() {
    for candidates in BOTH {
        let mut nodes: Vec<Node> =
            (1..=5).map(|id| node_with(id, &[1, 2, 3, 4, 5], |config| config.seed = 7)).collect();
        let mut collisions = 0;
        for term in 1..=1000 {
            for one in &mut nodes {
                match candidates {
                    true => drop(one.start_campaign()),
                    false => one.become_follower(term, NONE).unwrap(),
                }
            }
            let shortest = nodes.iter().map(|one| one.randomized_election_timeout).min();
            let first = nodes.iter().filter(|one| Some(one.randomized_election_timeout) == shortest).count();
            collisions += usize::from(first > 1);
        }
        // By arithmetic: the shortest of five draws out of ten is not unique in 23.3 % of all cases.
        assert!((190..280).contains(&collisions), "{collisions} of 1000");
    }
}

#[test]
fn votes_are_counted_until_one_side_has_a_majority() {
    // Cluster size, answers, outcome.
    type Case = (u64, &'static [(u64, bool)], StateType);
    let cases: [Case; 9] = [
        (3, &[(2, true), (3, true)], Leader),
        (3, &[(2, true)], Leader),
        (5, &[(2, true), (3, true), (4, true), (5, true)], Leader),
        (5, &[(2, true), (3, true)], Leader),
        (3, &[(2, false), (3, false)], Follower),
        (5, &[(2, false), (3, false), (4, false), (5, true)], Follower),
        (5, &[(2, false), (3, false), (4, true)], Candidate),
        (5, &[(2, true)], Candidate),
        // Repeated answers do not add up.
        (5, &[(2, true), (2, true), (2, true)], Candidate),
    ];
    for (size, answers, outcome) in cases {
        let ids: Vec<u64> = (1..=size).collect();
        let mut one = node(1, &ids);
        one.start_campaign();
        for (from, granted) in answers {
            one.step(Message { reject: !granted, ..message(MessageType::MsgVoteResp, *from, 1) }).unwrap();
        }
        assert_eq!((one.state, one.term), (outcome, 1), "{size} {answers:?}");
    }
}

#[test]
fn a_leader_does_not_campaign() {
    for pre_vote in BOTH {
        let mut net = Net::with(3, |config| config.pre_vote = pre_vote);
        net.campaign(1);
        let term = net.nodes[&1].term;
        assert_eq!(net.at(1).start_campaign(), []);
        assert_eq!(net.state(1), (Leader, term));
        let now = Message { to: 1, ..message(MessageType::MsgTimeoutNow, 2, term) };
        assert_eq!(net.at(1).hear(now), [], "nor when a peer wants it to");
        assert_eq!(net.state(1), (Leader, term));
    }
}

/// Raft paper figure 4, as far as events can lead: from each role, what each event makes of it.
#[test]
fn transitions_of_roles() {
    let make = |role: StateType| {
        let mut one = node_with(1, &[1, 2, 3], |config| config.pre_vote = role == PreCandidate);
        one.become_follower(1, 2).unwrap();
        match role {
            Follower => {}
            PreCandidate | Candidate => drop(one.start_campaign()),
            Leader => one.win(),
        }
        assert_eq!(one.state, role);
        one
    };
    for role in [Follower, PreCandidate, Candidate, Leader] {
        let term = make(role).term;
        // A heartbeat of a later term makes everybody a follower of its sender.
        let mut one = make(role);
        one.hear(message(MessageType::MsgHeartbeat, 3, term + 1));
        assert_eq!((one.state, one.term, one.lead, one.vote), (Follower, term + 1, 3, NONE), "{role}");
        // A vote request of a later term too, but nobody leads then.
        let mut one = make(role);
        one.hear(Message { index: 9, log_term: term, ..message(MessageType::MsgVote, 3, term + 1) });
        assert_eq!((one.state, one.term, one.lead, one.vote), (Follower, term + 1, NONE, 3), "{role}");
        // Grants of the wrong kind mean nothing.
        for kind in [MessageType::MsgVoteResp, MessageType::MsgPreVoteResp] {
            let expected = match (role, kind) {
                (PreCandidate, MessageType::MsgPreVoteResp) => Candidate,
                (Candidate, MessageType::MsgVoteResp) => Leader,
                _ => role,
            };
            let mut one = make(role);
            let answered = if kind == MessageType::MsgPreVoteResp { term + 1 } else { term };
            one.step(message(kind, 2, answered)).unwrap();
            assert_eq!(one.state, expected, "{role} {kind:?}");
        }
    }
}

/// Raft paper §5.1: whoever hears of a later term is a follower there.
#[test]
fn a_later_term_makes_everybody_a_follower() {
    for role in [Follower, PreCandidate, Candidate, Leader] {
        for kind in [MessageType::MsgVote, MessageType::MsgApp] {
            let mut one = node_with(1, &[1, 2, 3], |config| config.pre_vote = role == PreCandidate);
            match role {
                Follower => {}
                PreCandidate | Candidate => drop(one.start_campaign()),
                Leader => one.win(),
            }
            let length = one.log_terms().len();
            one.hear(Message { log_term: 3, index: 3, ..message(kind, 2, 3) });
            assert_eq!((one.state, one.term), (Follower, 3), "{role} {kind:?}");
            assert_eq!(one.log_terms().len(), length);
            assert_eq!(one.lead, if kind == MessageType::MsgVote { NONE } else { 2 });
        }
    }
}

#[test]
fn a_node_outside_of_its_configuration_does_not_campaign() {
    for (voters, learners, promotable) in [
        (&[1][..], &[][..], true),
        (&[1, 2, 3], &[], true),
        (&[], &[], false),
        (&[2, 3], &[], false),
        (&[2, 3], &[1], false),
    ] {
        let mut one = node_of(plain(1), stored(members(voters, learners), &[]));
        assert_eq!(one.promotable(), promotable, "{voters:?} {learners:?}");
        one.ticks(40);
        assert_eq!(one.term > 0, promotable, "it campaigns by itself only if it may");
    }
    let mut one = node_of(plain(1), stored(members(&[2, 3], &[]), &[]));
    assert_eq!((one.start_campaign(), one.state), (vec![], Follower), "nor on demand");
}

#[test]
fn a_pre_vote_does_not_disturb_who_still_hears_the_leader() {
    // Without check_quorum there is no lease; the log decides alone.
    let mut net = Net::with(3, |config| config.pre_vote = true);
    net.campaign(1);
    net.campaign(2);
    assert_eq!((net.state(2), net.state(1)), ((Leader, 2), (Follower, 2)));
}

#[test]
fn split_pre_votes_end_without_a_term_and_the_next_round_wins() {
    let mut net = Net::with(3, |config| config.pre_vote = true);
    net.campaign(1);
    net.isolate(1);
    // Both ask before either hears the other: both get through to a candidacy, and split the votes.
    for id in [2, 3] {
        net.at(id).step(Message { from: id, ..Message::of(MessageType::MsgHup) }).unwrap();
        assert_eq!(net.state(id), (PreCandidate, 1));
    }
    net.settle();
    assert_eq!((net.state(2), net.state(3)), ((Candidate, 2), (Candidate, 2)), "each voted for itself");
    net.campaign(2);
    assert_eq!((net.state(2), net.state(3)), ((Leader, 3), (Follower, 3)));
}

/// A leader made node 3 a voter and lost the end of its log before it told it. Node 3 has the longer log, so it refuses; and
/// it does not know that it votes, so it does not campaign. It must be told, or the two never have a leader again.
#[test]
fn a_voter_that_does_not_know_that_it_is_one_is_told_by_the_candidate_that_it_refuses() {
    use crate::pb::{ConfChange, ConfChangeType};
    for pre_vote in [false, true] {
        let config = |id| Config { pre_vote, ..plain(id) };
        let (kind, data) = ConfChangeKind::V1(ConfChange::new(ConfChangeType::ConfChangeAddNode, 3)).encode();
        let change = Entry { entry_type: kind as i32, term: 1, index: 2, data };
        let log = |last: u64| {
            let mut storage = stored(members(&[1], &[3]), &[1]);
            storage.append(std::slice::from_ref(&change)).unwrap();
            storage.append(entries_from(3, &[1, 1, 1][..last as usize - 2])).unwrap();
            storage.set_hard_state(HardState { term: 1, vote: 0, commit: if last == 3 { 2 } else { 1 } });
            storage
        };
        let mut net = Net::of([node_of(config(1), log(3)), node_of(config(3), log(5))]);
        net.settle();
        assert_eq!(net.committed(), [2, 1]);
        net.campaign(1);
        assert_ne!(net.state(1).0, Leader, "3 has the longer log");
        assert_eq!(net.committed(), [2, 2]);
        net.campaign(3);
        assert_eq!(net.state(3).0, Leader, "pre-vote {pre_vote}");
        net.logs_are_equal();
    }
}
