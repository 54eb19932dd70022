//! Membership: several members at once, learners, addresses, what the leader gives back, and who leads.

use super::*;
use crate::members::ChangeRefused;
use crate::node::change::Change;
use crate::node::roster::Role;

fn url(port: u16) -> PeerUrl {
    format!("http://127.0.0.1:{port}").parse().unwrap()
}

/// The entry of the change that this node has proposed as its first one.
fn own_entry(index: u64, change: impl Into<Change>) -> Entry {
    let (entry_type, data) = change.into().entry(BOOT + 1).encode();
    Entry { entry_type: entry_type as i32, ..entry(index, data) }
}

/// The leader's way out of a joint configuration.
fn leave(index: u64) -> Entry {
    Entry { entry_type: EntryType::EntryConfChangeV2 as i32, ..entry(index, Bytes::new()) }
}

impl Bench {
    fn roles(&self) -> Vec<(u64, Role)> {
        let driver = &self.driver;
        let roster = Roster::of(1, driver.applied.0, driver.leader, &driver.members, &driver.conf_state);
        roster.members.into_iter().map(|member| (member.id, member.role)).collect()
    }

    fn append_well(&mut self, after: u64, entries: Vec<Entry>) {
        let last = after + entries.len() as u64;
        self.append(after, entries, last).unwrap_or_else(|Fatal(reason)| panic!("{reason}"));
    }

    fn last_index(&self) -> u64 {
        self.driver.raw.storage().last_index().unwrap()
    }

    fn transfer(&mut self, to: u64) -> Waiting {
        let (reply, answer) = Reply::channel();
        self.take(Input::Transfer { to, reply });
        answer
    }
}

fn refused(answer: &mut Waiting) -> ChangeRefused {
    match answer.try_recv() {
        Ok(Err(Refused::Change(refused))) => refused,
        other => panic!("{other:?}"),
    }
}

#[test]
fn several_members_change_together_and_who_goes_stays_until_the_joint_configuration_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = open(dir.path(), 3, |_| {});
    bench.append_well(3, vec![]);
    let change = Change::of(vec![
        Step::Add { id: 4, url: url(8) },
        Step::AddLearner { id: 5, url: url(9) },
        Step::Demote { id: 2 },
        Step::Remove { id: 3 },
    ])
    .unwrap();
    let mut answer = bench.change(change.clone());
    bench.append_well(3, vec![own_entry(4, change)]);
    let joint = [(1, Role::Voter), (2, Role::Retiring), (3, Role::Outgoing), (4, Role::Incoming), (5, Role::Learner)];
    assert_eq!(bench.roles(), joint);
    assert_eq!(bench.driver.members.url(5), Some(&url(9)), "all addresses are in the one entry");
    assert!(answer.try_recv().is_err(), "it is answered when the joint configuration is left");

    // It survives a restart in the middle.
    drop(bench);
    let mut bench = open(dir.path(), 3, |_| {});
    assert_eq!(bench.roles(), joint);
    bench.append_well(4, vec![leave(5)]);
    assert_eq!(bench.roles(), [(1, Role::Voter), (2, Role::Learner), (4, Role::Voter), (5, Role::Learner)]);
    assert!(bench.driver.members.was_removed(3));
    bench.append_well(5, vec![leave(6)]);
    assert_eq!(bench.roles().len(), 4, "there is nothing left to leave");
}

#[test]
fn who_asks_for_several_changes_is_answered_when_they_are_complete() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = open(dir.path(), 3, |_| {});
    bench.append_well(3, vec![]);
    let change = Change::of(vec![Step::Add { id: 4, url: url(8) }, Step::Remove { id: 3 }]).unwrap();
    let mut answer = bench.change(change.clone());
    bench.append_well(3, vec![own_entry(4, change)]);
    let mut next = bench.change(Step::Remove { id: 4 }.into());
    assert!(next.try_recv().is_err(), "it waits for its turn");
    assert!(answer.try_recv().is_err());
    bench.append_well(4, vec![leave(5)]);
    assert!(done(&mut answer));
}

#[test]
fn a_snapshot_holds_a_joint_configuration_with_all_addresses() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = open(dir.path(), 3, |options| options.snapshot_count = Some(1));
    let change = Change::of(vec![
        Step::Add { id: 4, url: url(8) },
        Step::AddLearner { id: 5, url: url(9) },
        Step::Move { id: 2, url: url(22) },
        Step::Remove { id: 3 },
    ]);
    bench.append_well(3, vec![own_entry(4, change.unwrap())]);
    let (before, members) = (bench.roles(), bench.driver.members.clone());
    assert_eq!(bench.driver.snapshots.index, 4);
    drop(bench);
    let mut bench = open(dir.path(), 3, |_| {});
    assert_eq!(bench.driver.raw.storage().first_index(), Ok(5), "it started from the snapshot");
    assert_eq!((bench.roles(), &bench.driver.members), (before, &members));
    assert_eq!(bench.driver.members.url(2), Some(&url(22)));
    bench.append_well(4, vec![leave(5)]);
    assert!(bench.driver.members.was_removed(3));
}

#[test]
fn a_learner_is_added_promoted_and_demoted() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = open(dir.path(), 3, |_| {});
    bench.append_well(3, vec![own_entry(4, Step::AddLearner { id: 4, url: url(8) })]);
    assert_eq!(bench.roles()[3], (4, Role::Learner));
    bench.append_well(4, vec![own_entry(5, Step::Promote { id: 4 })]);
    assert_eq!(bench.roles()[3], (4, Role::Voter));
    assert_eq!(bench.driver.members.url(4), Some(&url(8)), "its address is not lost");
    bench.append_well(5, vec![own_entry(6, Step::Demote { id: 4 })]);
    assert_eq!(bench.roles()[3], (4, Role::Learner));
    bench.append_well(6, vec![own_entry(7, Step::Remove { id: 4 })]);
    assert!(bench.driver.members.was_removed(4));
}

#[test]
fn a_founder_that_has_moved_does_not_go_back_to_where_the_command_line_puts_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = open(dir.path(), 3, |options| options.snapshot_count = Some(1));
    bench.append_well(3, vec![own_entry(4, Step::Move { id: 2, url: url(22) })]);
    assert_eq!(bench.driver.members.url(2), Some(&url(22)));
    drop(bench);
    let bench = open(dir.path(), 3, |_| {});
    assert_eq!(bench.driver.members.url(2), Some(&url(22)));
    assert_eq!(bench.driver.members.url(3), Some(&url(3)));
}

#[test]
fn the_second_of_two_additions_of_one_id_or_of_one_address_has_no_effect_and_is_refused() {
    for second in [Step::Add { id: 4, url: url(8) }, Step::AddLearner { id: 5, url: url(9) }] {
        let dir = tempfile::tempdir().unwrap();
        let mut bench = open(dir.path(), 3, |_| {});
        bench.append_well(3, vec![]);
        // Forwarded to the leader, which has just appended another one's.
        let mut waiting = bench.change(second.clone().into());
        let first = change_entry(4, ConfChangeType::ConfChangeAddNode, 4, "http://127.0.0.1:9");
        bench.append_well(3, vec![first, own_entry(5, second.clone())]);
        assert_eq!(bench.driver.members.url(4), Some(&url(9)));
        assert!(!bench.driver.members.contains(5));
        let why = refused(&mut waiting);
        match second {
            Step::Add { .. } => assert_eq!(why, ChangeRefused::AlreadyMember { id: 4, url: Some(url(9)) }),
            _ => assert_eq!(why, ChangeRefused::AddressTaken { id: 4, url: url(9) }),
        }
    }
}

#[test]
fn a_follower_that_is_asked_for_its_own_removal_answers_when_it_ends() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = open(dir.path(), 3, |_| {});
    bench.append_well(3, vec![]);
    let mut answer = bench.change(Step::Remove { id: 1 }.into());
    bench.append_well(3, vec![own_entry(4, Step::Remove { id: 1 })]);
    assert!(answer.try_recv().is_err(), "the leader may have sent the commit index before it recorded it");
    assert!(bench.driver.end_at.is_some() && bench.driver.farewell.len() == 1);
}

#[test]
fn a_leader_that_is_to_go_hands_over_and_does_it_itself_only_if_nobody_takes_over() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = open(dir.path(), 3, |_| {});
    bench.lead();
    bench.driver.transport.all_active = true;
    let before = bench.last_index();
    let mut answer = bench.change(Step::Remove { id: 1 }.into());
    assert_eq!(bench.last_index(), before, "it is not proposed yet");
    assert_eq!(bench.driver.raw.basic_status().lead_transferee, 2);
    for _ in 0..2 * ELECTION_TICKS {
        let term = bench.driver.raw.basic_status().hard_state.term;
        bench.message(Message { from: 2, to: 1, term, ..Message::of(MessageType::MsgHeartbeatResp) });
        bench.tick(1);
    }
    assert!(bench.last_index() > before, "nobody took over");
    bench.acknowledge(2);
    assert!(bench.driver.end_at.is_some());
    assert_eq!(answer.try_recv(), Err(TryRecvError::Empty), "the others may not have heard of it");
    bench.driver.run();
    assert!(done(&mut answer));
}

#[test]
fn a_learner_that_is_behind_is_not_promoted() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = open(dir.path(), 3, |_| {});
    bench.lead();
    let mut added = bench.change(Step::AddLearner { id: 4, url: url(8) }.into());
    bench.acknowledge(2);
    assert!(done(&mut added));
    let needs = (bench.last_index() * 9).div_ceil(10);
    let mut answer = bench.change(Step::Promote { id: 4 }.into());
    assert_eq!(refused(&mut answer), ChangeRefused::LearnerBehind { id: 4, has: 0, needs });
    // Among several steps, too.
    let several = Change::of(vec![Step::Promote { id: 4 }, Step::Remove { id: 3 }]).unwrap();
    assert_eq!(refused(&mut bench.change(several)), ChangeRefused::LearnerBehind { id: 4, has: 0, needs });
    bench.acknowledge(4);
    let mut answer = bench.change(Step::Promote { id: 4 }.into());
    bench.acknowledge(2);
    assert!(done(&mut answer));
    assert_eq!(bench.roles()[3], (4, Role::Voter));
}

#[test]
fn a_leader_gives_back_the_promotion_of_a_learner_that_is_behind() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = open(dir.path(), 3, |_| {});
    bench.append_well(3, vec![own_entry(4, Step::AddLearner { id: 4, url: url(8) })]);
    // Proposed as a follower; on its way round, this node comes to lead, and gets it itself.
    let mut answer = bench.change(Step::Promote { id: 4 }.into());
    bench.lead();
    let before = bench.last_index();
    let entries = vec![Entry { index: 0, term: 0, ..own_entry(0, Step::Promote { id: 4 }) }];
    bench.message(Message { from: 1, to: 1, entries: entries.into(), ..Message::of(MessageType::MsgProp) });
    assert_eq!(bench.last_index(), before);
    assert!(matches!(refused(&mut answer), ChangeRefused::LearnerBehind { id: 4, has: 0, .. }));
}

/// What the leader sends back when it has not taken these entries.
fn given_back(entries: Vec<Entry>) -> Message {
    Message { from: 2, to: 1, entries: entries.into(), reject: true, ..Message::of(MessageType::MsgProp) }
}

#[test]
fn what_the_leader_gives_back_is_proposed_again_at_the_next_tick() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = open(dir.path(), 3, |_| {});
    bench.append_well(3, vec![]);
    let mut write = bench.write(1, "k");
    let mut change = bench.change(Step::Remove { id: 3 }.into());
    assert!(!bench.driver.writes.any_held());
    bench.message(given_back(vec![Entry::normal(request(1, "k"))]));
    bench.message(given_back(vec![own_entry(0, Step::Remove { id: 3 })]));
    assert!(bench.driver.writes.any_held(), "held, and not proposed at once");
    bench.tick(1);
    assert!(!bench.driver.writes.any_held());
    assert!(write.try_recv().is_err() && change.try_recv().is_err());
    bench.append_well(3, vec![entry(4, request(1, "k")), own_entry(5, Step::Remove { id: 3 })]);
    assert!(done(&mut write) && done(&mut change));
    // Another node's are not this one's business.
    let theirs =
        codec::encode_request(RequestId { node: 3, boot: BOOT, counter: 1 }, &Command::Delete { key: "k".into() });
    bench.message(given_back(vec![Entry::normal(theirs)]));
    assert!(!bench.driver.writes.any_held());
}

#[test]
fn leadership_is_handed_over_and_who_asked_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = open(dir.path(), 3, |_| {});
    bench.append_well(3, vec![own_entry(4, Step::AddLearner { id: 4, url: url(8) })]);
    assert!(done(&mut bench.transfer(2)), "it leads already");
    assert_eq!(refused(&mut bench.transfer(4)), ChangeRefused::NotAVoter { id: 4 });
    assert_eq!(refused(&mut bench.transfer(9)), ChangeRefused::NotAMember { id: 9 });
    let mut to_three = bench.transfer(3);
    let mut to_one = bench.transfer(1);
    assert!(to_three.try_recv().is_err());
    bench.message(Message { from: 3, to: 1, term: 6, ..Message::of(MessageType::MsgHeartbeat) });
    assert!(done(&mut to_three));
    assert!(to_one.try_recv().is_err());
    bench.driver.expire_transfers(Instant::now() + std::time::Duration::from_secs(60));
    assert!(matches!(to_one.try_recv(), Ok(Err(Refused::Unknown(_)))));
}

#[test]
fn at_the_end_who_waits_for_another_leader_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = open(dir.path(), 3, |_| {});
    bench.append_well(3, vec![]);
    let mut asked = bench.transfer(1);
    assert!(asked.try_recv().is_err());
    let (inbox, waiting) = crossbeam_channel::bounded(1);
    let (reply, mut not_taken) = Reply::channel();
    inbox.try_send(Input::Transfer { to: 1, reply }).unwrap();
    bench.driver.inbox = waiting;
    bench.driver.end_at = Some(Instant::now());
    assert!(matches!(bench.driver.run(), Ending::Removed));
    assert_eq!(not_taken.try_recv(), Ok(Err(Refused::NotDone(STOPPING))));
    assert_eq!(asked.try_recv(), Ok(Err(Refused::Unknown(STOPPING))));
}

#[test]
fn beside_the_original_only_single_voters_are_added_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = open(dir.path(), 3, |_| {});
    bench.driver.extensions = false;
    bench.append_well(3, vec![]);
    let several = Change::of(vec![Step::Remove { id: 2 }, Step::Remove { id: 3 }]).unwrap();
    for change in [
        Step::AddLearner { id: 4, url: url(8) }.into(),
        Step::Demote { id: 2 }.into(),
        Step::Move { id: 2, url: url(8) }.into(),
        several,
    ] {
        assert_eq!(refused(&mut bench.change(change)), ChangeRefused::NotUnderstood);
    }
    let mut allowed = bench.change(Step::Remove { id: 3 }.into());
    assert!(allowed.try_recv().is_err(), "it is on its way to the leader");
}
