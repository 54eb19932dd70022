//! Who is who: what nodes tell each other so that nobody is taken for somebody else.
//!
//! An id on a command line proves nothing. A node may have been started on the data of another cluster, or with an empty
//! directory in place of the one that holds what it had promised, or twice. In Raft each of these does harm without a
//! word: votes are given twice, acknowledged entries are gone, contents differ. So every request, and every answer to a
//! stream, carries what the address book knows ([`members`](crate::members)), and either side refuses what does not fit:
//!
//! | header | says |
//! |---|---|
//! | [`BIRTH`] | the number of my cluster |
//! | [`DATA`] | the number of my data directory |
//! | [`TO_DATA`] | the number of yours, as my address book has it |
//!
//! What one side does not know is not compared: a newcomer does not know the cluster's number before it has the log, nor
//! a restarted node what it has not applied yet. So a stream keeps what the other side has [`Said`], and ends when
//! something becomes known that does not fit. Whoever is refused gets 412 and [`STRANGER`], takes part in nothing, and ends with advice when most of the others say
//! the same.
//!
//! Nothing of this is said in a cluster with processes of the original.
//!
//! What is left out: proof. A node that lies is not found out; that is what TLS is for. And an old copy of a member's own
//! data directory has the right number: it is found out only when the leader names an entry that the copy lacks.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use hyper::header::HeaderMap;
use tokio::sync::watch;

use super::headers;

/// The number of the sender's cluster, in hexadecimal digits.
pub const BIRTH: &str = "x-raftexample-birth";
/// The number of the sender's data directory, in hexadecimal digits.
pub const DATA: &str = "x-raftexample-data";
/// The number of the receiver's data directory as the sender knows it, in hexadecimal digits.
pub const TO_DATA: &str = "x-raftexample-to-data";
/// With a 412: which of the numbers does not fit, `birth` or `data`.
pub const STRANGER: &str = "x-raftexample-stranger";

/// What the transport must know of the address book. Every request asks, the raft thread changes it with the membership,
/// and open streams notice.
pub type Register = Arc<watch::Sender<Known>>;

/// What is known as of the last applied entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Ids that were removed from the cluster, with the index of the entry that did it.
    pub removed: BTreeMap<u64, u64>,
    /// The number of this cluster.
    pub birth: Option<u64>,
    /// The number of this node's data directory; `None` in a cluster with processes of the original.
    pub own_data: Option<u64>,
    /// The numbers of the members' data directories.
    pub data: BTreeMap<u64, u64>,
}

/// Which number does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Number {
    /// The cluster's.
    Birth,
    /// A data directory's.
    Data,
}

/// Somebody is not who it seems to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stranger {
    /// It belongs to another cluster.
    OtherCluster {
        /// This node's.
        own: u64,
        /// What it says.
        theirs: u64,
    },
    /// It has another data directory than the member with its id.
    OtherData {
        /// Its id.
        id: u64,
        /// The member's.
        known: u64,
        /// What it says.
        theirs: u64,
    },
    /// It takes this node for one with another data directory.
    NotMine {
        /// This node's.
        own: u64,
        /// What it says.
        expected: u64,
    },
}

impl Stranger {
    /// Which number does not fit.
    pub fn number(&self) -> Number {
        match self {
            Stranger::OtherCluster { .. } => Number::Birth,
            Stranger::OtherData { .. } | Stranger::NotMine { .. } => Number::Data,
        }
    }
}

impl fmt::Display for Stranger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stranger::OtherCluster { own, theirs } => {
                write!(f, "cluster number mismatch: it belongs to cluster {theirs:016x}, this node to {own:016x}")
            }
            Stranger::OtherData { id, known, theirs } => write!(
                f,
                "data directory mismatch: node {id} is known with data directory {known:016x}, and this is {theirs:016x}"
            ),
            Stranger::NotMine { own, expected } => write!(
                f,
                "data directory mismatch: this node's is {own:016x}, and it is known with {expected:016x}"
            ),
        }
    }
}

impl Number {
    fn name(self) -> &'static str {
        match self {
            Number::Birth => "birth",
            Number::Data => "data",
        }
    }

    /// Which number an answer says does not fit, if it says so.
    pub fn refused(headers: &HeaderMap) -> Option<Number> {
        let name = headers.get(STRANGER)?.to_str().ok()?;
        [Number::Birth, Number::Data].into_iter().find(|number| number.name() == name)
    }

    /// Says it in an answer.
    pub fn refuse(self, headers: &mut HeaderMap) {
        headers::set(headers, STRANGER, self.name());
    }
}

impl Known {
    /// Says what there is to say to node `to`, or to whoever has asked.
    pub fn sign(&self, headers: &mut HeaderMap, to: Option<u64>) {
        let Some(own_data) = self.own_data else { return };
        let numbers =
            [(BIRTH, self.birth), (DATA, Some(own_data)), (TO_DATA, to.and_then(|to| self.data.get(&to).copied()))];
        for (name, number) in numbers {
            if let Some(number) = number {
                headers::set(headers, name, &format!("{number:x}"));
            }
        }
    }

    /// Whether what it says includes the number of the data directory that is known as node `from`'s.
    pub fn recognises(&self, headers: &HeaderMap, from: u64) -> bool {
        let known = self.data.get(&from).copied();
        known.is_some() && known == said(headers, DATA)
    }

    /// Compares what node `from` says with what is known.
    pub fn check(&self, headers: &HeaderMap, from: Option<u64>) -> Result<(), Stranger> {
        let said = |name| said(headers, name);
        let differ = |known: Option<u64>, said: Option<u64>| known.zip(said).filter(|(known, said)| known != said);
        if self.own_data.is_none() {
            return Ok(());
        }
        if let Some((own, theirs)) = differ(self.birth, said(BIRTH)) {
            return Err(Stranger::OtherCluster { own, theirs });
        }
        if let Some((own, expected)) = differ(self.own_data, said(TO_DATA)) {
            return Err(Stranger::NotMine { own, expected });
        }
        let Some(id) = from else { return Ok(()) };
        match differ(self.data.get(&id).copied(), said(DATA)) {
            Some((known, theirs)) => Err(Stranger::OtherData { id, known, theirs }),
            None => Ok(()),
        }
    }
}

fn said(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name).and_then(|value| headers::parse_id(value.to_str().ok()?))
}

/// What the other side of an open stream has said, to be compared again with whatever becomes known.
pub struct Said {
    by: u64,
    headers: HeaderMap,
    known: watch::Receiver<Known>,
}

impl Said {
    /// Compares it for the first time.
    pub fn check(register: &Register, by: u64, headers: &HeaderMap) -> Result<Said, Stranger> {
        // In this order: what becomes known in between is looked at again.
        let known = register.subscribe();
        register.borrow().check(headers, Some(by))?;
        let numbers = headers.iter().filter(|(name, _)| [BIRTH, DATA, TO_DATA].contains(&name.as_str()));
        let headers = numbers.map(|(name, value)| (name.clone(), value.clone())).collect();
        Ok(Said { by, headers, known })
    }

    /// Compares it again if anything has become known since it was last compared.
    pub fn still_fits(&mut self) -> Result<(), Stranger> {
        // An error means that nothing will become known any more.
        match self.known.has_changed() {
            Ok(true) => self.known.borrow_and_update().check(&self.headers, Some(self.by)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What node 1, of this cluster and with this data directory, knows of node 2's.
    fn known(birth: Option<u64>, own_data: u64, data: &[(u64, u64)]) -> Known {
        let data = data.iter().copied().collect();
        Known { birth, own_data: Some(own_data), data, ..Known::default() }
    }

    fn verdict(receiver: &Known, sender: &Known) -> Result<(), Stranger> {
        let mut headers = HeaderMap::new();
        sender.sign(&mut headers, Some(2));
        receiver.check(&headers, Some(1))
    }

    #[test]
    fn what_both_sides_know_is_compared() {
        let sender = known(Some(7), 11, &[(2, 22)]);
        assert_eq!(verdict(&known(Some(7), 22, &[(1, 11)]), &sender), Ok(()));
        let other = Stranger::OtherCluster { own: 8, theirs: 7 };
        assert_eq!(verdict(&known(Some(8), 33, &[(1, 99)]), &sender), Err(other), "this comes first");
        let not_mine = Stranger::NotMine { own: 23, expected: 22 };
        assert_eq!(verdict(&known(Some(7), 23, &[(1, 11)]), &sender), Err(not_mine));
        let other_data = Stranger::OtherData { id: 1, known: 12, theirs: 11 };
        assert_eq!(verdict(&known(Some(7), 22, &[(1, 12)]), &sender), Err(other_data));
        for stranger in [other, not_mine, other_data] {
            assert_eq!(stranger.to_string().lines().count(), 1);
            let mut headers = HeaderMap::new();
            stranger.number().refuse(&mut headers);
            assert_eq!(Number::refused(&headers), Some(stranger.number()));
        }
    }

    #[test]
    fn what_becomes_known_later_is_compared_then() {
        let register = Register::default();
        register.send_replace(known(None, 22, &[]));
        let mut headers = HeaderMap::new();
        known(Some(7), 11, &[]).sign(&mut headers, Some(2));
        let mut said = Said::check(&register, 1, &headers).ok().unwrap();
        assert_eq!(said.still_fits(), Ok(()));
        register.send_replace(known(Some(7), 22, &[(1, 11)]));
        assert_eq!(said.still_fits(), Ok(()));
        register.send_replace(known(Some(7), 22, &[(1, 12)]));
        assert_eq!(said.still_fits(), Err(Stranger::OtherData { id: 1, known: 12, theirs: 11 }));
        assert!(Said::check(&register, 1, &headers).is_err());
    }

    #[test]
    fn what_one_side_does_not_know_is_not_compared() {
        let newcomer = known(None, 11, &[]);
        let member = known(Some(7), 22, &[(3, 33)]);
        assert_eq!(verdict(&member, &newcomer), Ok(()));
        assert_eq!(verdict(&newcomer, &member), Ok(()));
        assert_eq!(Number::refused(&HeaderMap::new()), None);
    }

    #[test]
    fn beside_the_original_nothing_is_said_and_nothing_compared() {
        let mixed = Known { birth: Some(7), data: BTreeMap::from([(2, 22)]), ..Known::default() };
        let mut headers = HeaderMap::new();
        mixed.sign(&mut headers, Some(2));
        assert!(headers.is_empty());
        assert_eq!(verdict(&mixed, &known(Some(8), 11, &[])), Ok(()));
    }
}
