//! A change of the membership: what can be asked for, when it makes sense, and how it stands in the log.
//!
//! A [`Change`] is one [`Step`] or several that take effect together. One step is written as etcd's `ConfChange`, which
//! every version understands, with the peer URL as its context; several are a `ConfChangeV2`, which Raft carries out
//! through a joint configuration, with all URLs in its one context ([`Written`] is either of them, read back).
//!
//! In the entry, two pairs of steps look alike but for the context. To add a voter and to promote a learner are both
//! "let it vote"; the addition has an address. The same goes for adding a learner and demoting a voter.
//!
//! **When is it judged?** Twice. Before it is proposed, by the members that the proposing node knows, so that whoever
//! asks for nonsense is told at once. And when it is applied, since another change may have come between: every node
//! must then come to the same verdict, so only what all of them agree on counts. The addresses of the founders are each
//! node's own command line's, so they are left out of the second judgement.
//!
//! What is left out: how far a learner must be to be promoted. Only the leader knows, see `driver/forwarding.rs`.

use std::collections::BTreeSet;

use prost::Message as _;
use raft_core::confchange::ConfChangeKind;
use raft_core::pb::{
    ConfChange, ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState, Entry,
};

use crate::address::PeerUrl;
use crate::members::{ChangeRefused, Members};

/// Steps that one change may have.
pub const STEPS_MAX: usize = 32;

/// What becomes of one member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A new member that votes.
    Add {
        /// Its id.
        id: u64,
        /// Where it listens to its peers.
        url: PeerUrl,
    },
    /// A new member that does not vote.
    AddLearner {
        /// Its id.
        id: u64,
        /// Where it listens to its peers.
        url: PeerUrl,
    },
    /// A learner becomes a voter.
    Promote {
        /// Its id.
        id: u64,
    },
    /// A voter becomes a learner.
    Demote {
        /// Its id.
        id: u64,
    },
    /// A member listens elsewhere from now on.
    Move {
        /// Its id.
        id: u64,
        /// Where.
        url: PeerUrl,
    },
    /// It is a member no more.
    Remove {
        /// Its id.
        id: u64,
    },
}

impl Step {
    /// The address that it brings, if any.
    pub fn url(&self) -> Option<&PeerUrl> {
        match self {
            Step::Add { url, .. } | Step::AddLearner { url, .. } | Step::Move { url, .. } => Some(url),
            Step::Promote { .. } | Step::Demote { .. } | Step::Remove { .. } => None,
        }
    }

    /// Whom it is about.
    pub fn id(&self) -> u64 {
        match self {
            Step::Add { id, .. } | Step::AddLearner { id, .. } | Step::Move { id, .. } => *id,
            Step::Promote { id } | Step::Demote { id } | Step::Remove { id } => *id,
        }
    }

    fn kind(&self) -> ConfChangeType {
        match self {
            Step::Add { .. } | Step::Promote { .. } => ConfChangeType::ConfChangeAddNode,
            Step::AddLearner { .. } | Step::Demote { .. } => ConfChangeType::ConfChangeAddLearnerNode,
            Step::Move { .. } => ConfChangeType::ConfChangeUpdateNode,
            Step::Remove { .. } => ConfChangeType::ConfChangeRemoveNode,
        }
    }
}

/// A change of the membership: at least one step, and at most one about each member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change(Vec<Step>);

impl From<Step> for Change {
    fn from(step: Step) -> Change {
        Change(vec![step])
    }
}

impl Change {
    /// Several steps together. The error says in words what is wrong with them.
    pub fn of(steps: Vec<Step>) -> Result<Change, String> {
        if steps.is_empty() {
            return Err("there is nothing to change".into());
        }
        if steps.len() > STEPS_MAX {
            return Err(format!("at most {STEPS_MAX} members can be changed together"));
        }
        let mut ids = BTreeSet::new();
        match steps.iter().find(|step| !ids.insert(step.id())) {
            Some(twice) => Err(format!("node {} is named twice: each member can be changed once", twice.id())),
            None => Ok(Change(steps)),
        }
    }

    /// The addresses that it brings.
    pub fn urls(&self) -> impl Iterator<Item = &PeerUrl> {
        self.0.iter().filter_map(Step::url)
    }

    /// What goes into the log; `request` is how the proposing node recognises it there.
    pub(super) fn entry(&self, request: u64) -> ConfChangeKind {
        if let [step] = &self.0[..] {
            let context = step.url().map(ToString::to_string).unwrap_or_default().into();
            return ConfChange { id: request, change_type: step.kind() as i32, node_id: step.id(), context }.into();
        }
        let changes: Vec<_> = self.0.iter().map(|step| ConfChangeSingle::new(step.kind(), step.id())).collect();
        let address = |step: &Step| Some(WireAddress { id: step.id(), url: step.url()?.to_string() });
        let context = WireContext { request, addresses: self.0.iter().filter_map(address).collect() };
        let transition = ConfChangeTransition::ConfChangeTransitionAuto;
        let change = ConfChangeV2::new(transition, changes);
        ConfChangeV2 { context: context.encode_to_vec().into(), ..change }.into()
    }

    /// The same as it will be read back.
    pub(super) fn written(&self) -> Vec<WrittenStep> {
        let written = |step: &Step| WrittenStep { id: step.id(), kind: step.kind(), address: address_of(step) };
        self.0.iter().map(written).collect()
    }

    /// Whether processes of the original understand its entry: they know voters that come and go, one at a time.
    pub(super) fn is_original(&self) -> bool {
        matches!(self.0[..], [Step::Add { .. } | Step::Remove { .. }])
    }
}

fn address_of(step: &Step) -> Address {
    step.url().map_or(Address::None, |url| Address::Good(url.clone()))
}

/// The context of a `ConfChangeV2`.
#[derive(Clone, PartialEq, prost::Message)]
struct WireContext {
    #[prost(fixed64, tag = "1")]
    request: u64,
    #[prost(message, repeated, tag = "2")]
    addresses: Vec<WireAddress>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireAddress {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(string, tag = "2")]
    url: String,
}

/// A change as an entry holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Written {
    /// Who asked; 0 if it does not say.
    pub(super) request: u64,
    /// For Raft.
    pub(super) kind: ConfChangeKind,
    /// None at all asks to leave the joint configuration.
    pub(super) steps: Vec<WrittenStep>,
}

/// One step of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WrittenStep {
    pub(super) id: u64,
    pub(super) kind: ConfChangeType,
    pub(super) address: Address,
}

/// The address that comes with a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    /// There is none.
    None,
    /// A peer URL.
    Good(PeerUrl),
    /// Something else, which another program has written.
    Bad(String),
}

impl Address {
    fn read(text: &[u8]) -> Address {
        if text.is_empty() {
            return Address::None;
        }
        let url = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
        url.map_or_else(|| Address::Bad(text.escape_ascii().to_string()), Address::Good)
    }
}

impl Written {
    /// Reads an entry; the error says why it cannot be read.
    pub(super) fn read(entry: &Entry) -> Result<Written, String> {
        let kind = ConfChangeKind::decode(entry).map_err(|error| error.to_string())?;
        let known =
            |number: i32| ConfChangeType::try_from(number).map_err(|_| format!("its type, {number}, is unknown"));
        let (request, steps) = match &kind {
            ConfChangeKind::V1(change) => {
                let address = Address::read(&change.context);
                let step = WrittenStep { id: change.node_id, kind: known(change.change_type)?, address };
                (change.id, vec![step])
            }
            ConfChangeKind::V2(change) => {
                let context = WireContext::decode(change.context.clone()).map_err(|error| error.to_string())?;
                let address = |id: u64| context.addresses.iter().find(|address| address.id == id);
                let step = |single: &ConfChangeSingle| {
                    let text = address(single.node_id).map_or(&b""[..], |address| address.url.as_bytes());
                    let kind = known(single.change_type)?;
                    Ok(WrittenStep { id: single.node_id, kind, address: Address::read(text) })
                };
                (context.request, change.changes.iter().map(step).collect::<Result<_, String>>()?)
            }
        };
        Ok(Written { request, kind, steps })
    }
}

/// When a change is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judged {
    /// By this node alone, before it is proposed.
    Before,
    /// When it is applied: all nodes must agree.
    Applied,
}

/// Whether these steps make sense for these members.
pub(super) fn judge(
    steps: &[WrittenStep],
    members: &Members,
    conf_state: &ConfState,
    judged: Judged,
) -> Result<(), ChangeRefused> {
    let mut voters: BTreeSet<u64> = conf_state.voters.iter().copied().collect();
    for (position, step) in steps.iter().enumerate() {
        judge_step(step, &voters, members, judged)?;
        if let Address::Good(url) = &step.address {
            let earlier = steps.iter().take(position).find(|other| other.address == step.address);
            let taken = earlier.map(|other| other.id).or_else(|| members.at(url, judged == Judged::Applied));
            let leaves = |id: u64| {
                steps.iter().any(|other| other.id == id && other.kind == ConfChangeType::ConfChangeRemoveNode)
            };
            if let Some(id) = taken.filter(|&id| id != step.id && !leaves(id)) {
                return Err(ChangeRefused::AddressTaken { id, url: url.clone() });
            }
        }
        match step.kind {
            ConfChangeType::ConfChangeAddNode => voters.insert(step.id),
            ConfChangeType::ConfChangeAddLearnerNode | ConfChangeType::ConfChangeRemoveNode => voters.remove(&step.id),
            ConfChangeType::ConfChangeUpdateNode => false,
        };
    }
    match steps.first() {
        Some(step) if voters.is_empty() => Err(ChangeRefused::LastVoter { id: step.id }),
        _ => Ok(()),
    }
}

fn judge_step(
    step: &WrittenStep,
    voters: &BTreeSet<u64>,
    members: &Members,
    judged: Judged,
) -> Result<(), ChangeRefused> {
    let id = step.id;
    let (member, voter) = (members.contains(id), voters.contains(&id));
    let already = || ChangeRefused::AlreadyMember { id, url: members.url(id).cloned() };
    match (step.kind, &step.address) {
        (ConfChangeType::ConfChangeRemoveNode | ConfChangeType::ConfChangeUpdateNode, _) if !member => {
            Err(ChangeRefused::NotAMember { id })
        }
        (ConfChangeType::ConfChangeRemoveNode | ConfChangeType::ConfChangeUpdateNode, _) => Ok(()),
        // The founders come into the log without an address, and so may members that another program adds.
        (_, Address::None) if !member && judged == Judged::Applied => Ok(()),
        (_, Address::None) if !member => Err(ChangeRefused::NotAMember { id }),
        (_, Address::Good(_) | Address::Bad(_)) if member => Err(already()),
        (ConfChangeType::ConfChangeAddNode, Address::None) if voter => Err(ChangeRefused::AlreadyVoter { id }),
        (ConfChangeType::ConfChangeAddLearnerNode, Address::None) if !voter => {
            Err(ChangeRefused::AlreadyLearner { id })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(port: u16) -> PeerUrl {
        format!("http://h:{port}").parse().unwrap()
    }

    /// 1 and 2 are founders and vote, 3 was added and votes, 4 learns.
    fn members() -> (Members, ConfState) {
        let mut members = Members::default();
        for id in [1, 2] {
            members.add_founder(id, &[url(1), url(2)]);
        }
        members.set_address(3, url(3));
        members.set_address(4, url(4));
        (members, ConfState { voters: vec![1, 2, 3], learners: vec![4], ..ConfState::default() })
    }

    fn verdict(steps: Vec<Step>) -> Result<(), ChangeRefused> {
        let (members, conf_state) = members();
        judge(&Change(steps).written(), &members, &conf_state, Judged::Before)
    }

    #[test]
    fn what_makes_sense_and_what_does_not() {
        assert_eq!(verdict(vec![Step::Add { id: 5, url: url(5) }]), Ok(()));
        assert_eq!(verdict(vec![Step::AddLearner { id: 5, url: url(5) }]), Ok(()));
        assert_eq!(verdict(vec![Step::Promote { id: 4 }]), Ok(()));
        assert_eq!(verdict(vec![Step::Demote { id: 3 }]), Ok(()));
        assert_eq!(verdict(vec![Step::Move { id: 3, url: url(9) }]), Ok(()));
        assert_eq!(verdict(vec![Step::Move { id: 3, url: url(3) }]), Ok(()), "to where it is");
        assert_eq!(verdict(vec![Step::Remove { id: 4 }]), Ok(()));

        for step in [Step::Add { id: 4, url: url(5) }, Step::AddLearner { id: 4, url: url(4) }] {
            let refused = ChangeRefused::AlreadyMember { id: 4, url: Some(url(4)) };
            assert_eq!(verdict(vec![step]), Err(refused));
        }
        let taken = |id| Err(ChangeRefused::AddressTaken { id, url: url(id as u16) });
        assert_eq!(verdict(vec![Step::Add { id: 5, url: url(2) }]), taken(2));
        assert_eq!(verdict(vec![Step::Move { id: 3, url: url(4) }]), taken(4));
        assert_eq!(verdict(vec![Step::Promote { id: 3 }]), Err(ChangeRefused::AlreadyVoter { id: 3 }));
        assert_eq!(verdict(vec![Step::Demote { id: 4 }]), Err(ChangeRefused::AlreadyLearner { id: 4 }));
        for step in
            [Step::Promote { id: 9 }, Step::Demote { id: 9 }, Step::Move { id: 9, url: url(9) }, Step::Remove { id: 9 }]
        {
            assert_eq!(verdict(vec![step]), Err(ChangeRefused::NotAMember { id: 9 }));
        }
    }

    #[test]
    fn steps_are_judged_together() {
        let everybody = |step: fn(u64) -> Step| [1, 2, 3].map(step).to_vec();
        let last = Err(ChangeRefused::LastVoter { id: 1 });
        assert_eq!(verdict(everybody(|id| Step::Remove { id })), last);
        assert_eq!(verdict(everybody(|id| Step::Demote { id })), last);
        let mut rescued = everybody(|id| Step::Remove { id });
        rescued.push(Step::Promote { id: 4 });
        assert_eq!(verdict(rescued), Ok(()));
        let both = vec![Step::Add { id: 5, url: url(5) }, Step::Add { id: 6, url: url(5) }];
        assert_eq!(verdict(both), Err(ChangeRefused::AddressTaken { id: 5, url: url(5) }));
        let heir = vec![Step::Remove { id: 3 }, Step::Add { id: 5, url: url(3) }];
        assert_eq!(verdict(heir), Ok(()), "the address is free when this is done");
    }

    #[test]
    fn what_only_this_node_believes_does_not_count_when_a_change_is_applied() {
        let (members, conf_state) = members();
        let applied = |step: Step| judge(&Change::from(step).written(), &members, &conf_state, Judged::Applied);
        assert_eq!(applied(Step::Add { id: 5, url: url(2) }), Ok(()), "a founder's address is the command line's");
        assert!(applied(Step::Add { id: 5, url: url(3) }).is_err(), "this one all nodes know");
        assert_eq!(applied(Step::Promote { id: 9 }), Ok(()), "this is what a founder's entry looks like");
        assert!(applied(Step::Remove { id: 9 }).is_err());
    }

    #[test]
    fn changes_are_read_as_they_were_written() {
        let one = Change::from(Step::Add { id: 5, url: url(5) });
        let several = Change::of(vec![
            Step::AddLearner { id: 6, url: url(6) },
            Step::Promote { id: 4 },
            Step::Demote { id: 1 },
            Step::Move { id: 2, url: url(22) },
            Step::Remove { id: 3 },
        ])
        .unwrap();
        for change in [one, several] {
            let kind = change.entry(77);
            let (entry_type, data) = kind.encode();
            let entry = Entry { entry_type: entry_type as i32, data, ..Entry::default() };
            assert_eq!(Written::read(&entry), Ok(Written { request: 77, kind, steps: change.written() }));
        }
    }

    #[test]
    fn an_empty_change_asks_to_leave_the_joint_configuration() {
        let (entry_type, data) = ConfChangeKind::from(ConfChangeV2::default()).encode();
        let entry = Entry { entry_type: entry_type as i32, data, ..Entry::default() };
        assert!(Written::read(&entry).unwrap().steps.is_empty());
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        let bad = ConfChangeV2 { context: "http://h:1".into(), ..ConfChangeV2::default() };
        let (entry_type, data) = ConfChangeKind::from(bad).encode();
        let entry = Entry { entry_type: entry_type as i32, data, ..Entry::default() };
        assert!(Written::read(&entry).is_err());
        let unknown = ConfChange { change_type: 9, ..ConfChange::default() };
        let (entry_type, data) = ConfChangeKind::from(unknown).encode();
        let entry = Entry { entry_type: entry_type as i32, data, ..Entry::default() };
        assert!(Written::read(&entry).unwrap_err().contains("9"));
    }

    #[test]
    fn the_original_understands_one_voter_at_a_time() {
        assert!(Change::from(Step::Add { id: 5, url: url(5) }).is_original());
        assert!(Change::from(Step::Remove { id: 5 }).is_original());
        assert!(!Change::from(Step::Promote { id: 5 }).is_original());
        let two = Change::of(vec![Step::Remove { id: 5 }, Step::Remove { id: 6 }]).unwrap();
        assert!(!two.is_original());
    }

    #[test]
    fn a_change_names_each_member_once() {
        assert!(Change::of(vec![]).is_err());
        assert!(Change::of(vec![Step::Remove { id: 5 }, Step::Promote { id: 5 }]).unwrap_err().contains("node 5"));
        let many = (1..=STEPS_MAX as u64 + 1).map(|id| Step::Remove { id }).collect();
        assert!(Change::of(many).is_err());
    }
}
