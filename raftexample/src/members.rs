//! Who belongs to the cluster, and where they listen.
//!
//! The state machine of Raft knows members by number only; this is the address book beside it. It changes in the same
//! step of the raft thread as the configuration and the transport do, when a membership entry is applied, and it is
//! part of every snapshot: a node that starts from one knows whom to talk to.
//!
//! **Whose word counts.** The founding members come into the log without an address (the entries are byte for byte
//! etcd's, whose context is empty), so theirs is what `--cluster` says, at every start anew: a cluster may be moved to
//! other ports by its command lines. The address of a member that was added later came through the log, all nodes
//! agreed on it, and it wins over the command line.
//!
//! **A member without an address** is still a member: its entry is in the log, Raft counts it, and it can be removed. It
//! comes to be when `--cluster` is too short, or when another program proposed an address that is none. Messages to it
//! are lost until somebody removes it, or the command line says where it is.
//!
//! **Two numbers** tell those apart who only seem to be the same. The *birth* of the cluster is drawn at random by its
//! first leader and goes through the log: data of another cluster has another one. The number of a *data directory* is
//! drawn when a node begins with an empty one, and goes through the log when the node has become a member: a member whose
//! data was lost, or a second process with its id, has another one. In both cases the first word counts for ever, a
//! member's until it is removed. What is done with them is in [`register`](crate::transport::register).
//!
//! What is left out: whether a member votes. That is the configuration's business; the book holds exactly those whom the
//! configuration names.

use std::collections::BTreeMap;

use crate::address::PeerUrl;

/// One member's address, and how it became known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Where it listens to its peers, if that is known.
    pub url: Option<PeerUrl>,
    /// The address came through the log: all nodes agree on it. Otherwise it is this node's command line that says so.
    pub agreed: bool,
    /// The number of its data directory, if it has said it.
    pub data: Option<u64>,
}

/// The address book as of an index of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    birth: Option<u64>,
    members: BTreeMap<u64, Member>,
    /// With the index of the entry that removed it.
    removed: BTreeMap<u64, u64>,
}

/// Why a change of the membership was not carried out. Nothing has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeRefused {
    /// To be added, but it is a member.
    AlreadyMember {
        /// Who.
        id: u64,
        /// Where it listens, if that is known.
        url: Option<PeerUrl>,
    },
    /// To be added or moved, but another member listens there.
    AddressTaken {
        /// The other member.
        id: u64,
        /// Its address.
        url: PeerUrl,
    },
    /// All peers speak TLS or none does, and its address says otherwise.
    OtherScheme {
        /// Its address.
        url: PeerUrl,
    },
    /// It is no member.
    NotAMember {
        /// Who.
        id: u64,
    },
    /// To be removed or demoted, but nobody would be left who votes.
    LastVoter {
        /// Who.
        id: u64,
    },
    /// To be promoted, but it votes already.
    AlreadyVoter {
        /// Who.
        id: u64,
    },
    /// To lead, but it does not vote.
    NotAVoter {
        /// Who.
        id: u64,
    },
    /// To be demoted, but it does not vote.
    AlreadyLearner {
        /// Who.
        id: u64,
    },
    /// To be promoted, but it is too far behind the leader.
    LearnerBehind {
        /// Who.
        id: u64,
        /// How far its log is known to equal the leader's.
        has: u64,
        /// How far it must be, by now.
        needs: u64,
    },
    /// Some members of this cluster are processes of the original raftexample.
    NotUnderstood,
}

impl std::fmt::Display for ChangeRefused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ChangeRefused::OtherScheme { url } => {
                write!(f, "{url} begins with {}://, and the other peers' URLs do not: all must be alike", url.scheme())
            }
            ChangeRefused::AlreadyMember { id, url: Some(url) } => {
                write!(f, "node {id} is a member already, at {url}")
            }
            ChangeRefused::AlreadyMember { id, url: None } => write!(f, "node {id} is a member already"),
            ChangeRefused::AddressTaken { id, url } => write!(f, "node {id} is the member at {url}"),
            ChangeRefused::NotAMember { id } => write!(f, "there is no member {id}"),
            ChangeRefused::LastVoter { id } => {
                write!(f, "node {id} is the last member that votes: nobody would be left to decide anything")
            }
            ChangeRefused::AlreadyVoter { id } => write!(f, "node {id} votes already"),
            ChangeRefused::NotAVoter { id } => write!(f, "node {id} does not vote, so it cannot lead"),
            ChangeRefused::AlreadyLearner { id } => write!(f, "node {id} is a learner already"),
            ChangeRefused::LearnerBehind { id, has, needs } => write!(
                f,
                "learner {id} is not ready to vote: it has the log up to entry {has} and needs it up to {needs}; \
                 wait until it has caught up, and try again"
            ),
            ChangeRefused::NotUnderstood => f.write_str(
                "some members of this cluster are processes of the original raftexample, which understand only that \
                 one voter is added or removed",
            ),
        }
    }
}

impl Members {
    /// The book that a snapshot holds, read by a node whose command line says `cluster`.
    pub fn restore(
        members: impl IntoIterator<Item = (u64, Member)>,
        removed: impl IntoIterator<Item = (u64, u64)>,
        cluster: &[PeerUrl],
    ) -> Members {
        let own_word = |id: u64| given(cluster, id).cloned();
        let members = members.into_iter().map(|(id, member)| match own_word(id) {
            Some(url) if !member.agreed => (id, Member { url: Some(url), ..member }),
            _ => (id, member),
        });
        Members { birth: None, members: members.collect(), removed: removed.into_iter().collect() }
    }

    /// The number of this cluster; `None` until its first leader's has come through the log.
    pub fn birth(&self) -> Option<u64> {
        self.birth
    }

    /// Notes the number of this cluster, if none is known; says whether that is news.
    pub fn set_birth(&mut self, birth: u64) -> bool {
        let news = self.birth.is_none();
        self.birth.get_or_insert(birth);
        news
    }

    /// The number of this member's data directory, if it has said it.
    pub fn data(&self, id: u64) -> Option<u64> {
        self.members.get(&id).and_then(|member| member.data)
    }

    /// Notes the number of a member's data directory, if none is known; says whether that is news.
    pub fn set_data(&mut self, id: u64, data: u64) -> bool {
        match self.members.get_mut(&id) {
            Some(member) if member.data.is_none() => {
                member.data = Some(data);
                true
            }
            _ => false,
        }
    }

    /// All members, by ascending id.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &Member)> {
        self.members.iter().map(|(&id, member)| (id, member))
    }

    /// Ids that were members and were removed (and not added again since), ascending, each with the index of the entry
    /// that removed it.
    pub fn removed(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.removed.iter().map(|(&id, &index)| (id, index))
    }

    /// Where a member listens.
    pub fn url(&self, id: u64) -> Option<&PeerUrl> {
        self.members.get(&id).and_then(|member| member.url.as_ref())
    }

    /// Whether this id is a member.
    pub fn contains(&self, id: u64) -> bool {
        self.members.contains_key(&id)
    }

    /// Whether this id was a member and was removed.
    pub fn was_removed(&self, id: u64) -> bool {
        self.removed.contains_key(&id)
    }

    /// Who listens there; with `agreed`, only addresses count that all nodes know alike.
    pub fn at(&self, url: &PeerUrl, agreed: bool) -> Option<u64> {
        let listens = |member: &Member| member.url.as_ref() == Some(url) && (member.agreed || !agreed);
        self.members.iter().find(|(_, member)| listens(member)).map(|(&id, _)| id)
    }

    /// Notes a member's address that went through the log; the member may be new.
    pub fn set_address(&mut self, id: u64, url: PeerUrl) {
        self.removed.remove(&id);
        let data = self.data(id);
        self.members.insert(id, Member { url: Some(url), agreed: true, data });
    }

    /// Notes a founding member, or one whose entry holds no usable address; its address is what the command line says.
    /// `None` if it does not say.
    pub fn add_founder(&mut self, id: u64, cluster: &[PeerUrl]) -> Option<&PeerUrl> {
        self.removed.remove(&id);
        let url = given(cluster, id).cloned();
        // A member that is known already keeps its agreed address.
        let member = self.members.entry(id).or_insert(Member { url, agreed: false, data: None });
        member.url.as_ref()
    }

    /// Notes that it is no longer a member since the entry at `index`.
    pub fn remove(&mut self, id: u64, index: u64) {
        self.members.remove(&id);
        self.removed.insert(id, index);
    }

    /// Keeps those members only whose id fulfils this; notes that the others are none since the entry at `index`, and
    /// returns them.
    pub fn keep(&mut self, index: u64, kept: impl Fn(u64) -> bool) -> Vec<u64> {
        let gone: Vec<u64> = self.members.keys().copied().filter(|&id| !kept(id)).collect();
        for &id in &gone {
            self.remove(id, index);
        }
        gone
    }
}

/// The URL that the command line gives for this id.
pub(crate) fn given(cluster: &[PeerUrl], id: u64) -> Option<&PeerUrl> {
    usize::try_from(id).ok()?.checked_sub(1).and_then(|position| cluster.get(position))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(port: u16) -> PeerUrl {
        format!("http://127.0.0.1:{port}").parse().unwrap()
    }

    fn founders(count: u64) -> Members {
        let cluster: Vec<PeerUrl> = (1..=count).map(|id| url(id as u16)).collect();
        let mut members = Members::default();
        for id in 1..=count {
            assert!(members.add_founder(id, &cluster).is_some());
        }
        members
    }

    #[test]
    fn who_listens_where() {
        let mut members = founders(2);
        members.set_address(3, url(3));
        assert_eq!(members.at(&url(2), false), Some(2));
        assert_eq!(members.at(&url(2), true), None, "only this node's command line says so");
        assert_eq!(members.at(&url(3), true), Some(3));
        assert_eq!(members.at(&url(4), false), None);
    }

    #[test]
    fn the_first_word_about_a_number_counts_until_the_member_is_removed() {
        let mut members = founders(2);
        assert!(members.set_birth(7) && !members.set_birth(8));
        assert_eq!(members.birth(), Some(7));
        assert!(members.set_data(1, 11) && !members.set_data(1, 12));
        assert!(!members.set_data(9, 99), "a stranger");
        members.set_address(1, url(11));
        assert_eq!(members.data(1), Some(11), "it has moved, with its data");
        members.remove(1, 5);
        members.set_address(1, url(1));
        assert!(members.set_data(1, 12));
    }

    #[test]
    fn members_that_are_not_kept_are_removed() {
        let mut members = founders(3);
        assert_eq!(members.keep(9, |id| id == 2), [1, 3]);
        assert_eq!(members.removed().collect::<Vec<_>>(), [(1, 9), (3, 9)]);
        assert!(members.contains(2));
    }

    #[test]
    fn a_removed_member_may_come_back() {
        let mut members = founders(3);
        members.remove(3, 7);
        assert!(members.was_removed(3) && !members.contains(3));
        members.set_address(3, url(33));
        assert!(!members.was_removed(3));
        assert_eq!(members.url(3), Some(&url(33)));
    }

    #[test]
    fn the_command_line_moves_founders_but_not_those_who_were_added() {
        let mut members = founders(2);
        members.set_address(3, url(3));
        members.remove(1, 7);
        let saved: Vec<(u64, Member)> = members.iter().map(|(id, member)| (id, member.clone())).collect();
        let moved = [url(101), url(102), url(103)];
        let restored = Members::restore(saved, members.removed(), &moved);
        assert_eq!(restored.url(2), Some(&url(102)));
        assert_eq!(restored.url(3), Some(&url(3)));
        assert!(restored.was_removed(1));
    }

    #[test]
    fn replaying_a_founders_entry_does_not_undo_an_agreed_address() {
        let mut members = Members::default();
        members.set_address(1, url(7));
        assert_eq!(members.add_founder(1, &[url(1)]), Some(&url(7)));
        assert_eq!(members.add_founder(2, &[url(1)]), None, "the command line does not name it");
        assert!(members.contains(2), "a member it is");
    }
}
