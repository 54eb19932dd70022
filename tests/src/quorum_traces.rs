//! Runs the test files about quorums: what is committed, who won.
//!
//! - `committed cfg=(1,2) cfgj=(3) idx=(10,_,7)`: the committed index, under a drawing of what each voter has.
//! - `vote cfg=(1,2) votes=(y,n)`: `VoteWon`, `VoteLost` or `VotePending`.
//!
//! Values stand for the ids of `cfg`, then for those of `cfgj` that are not in `cfg`; `_` is "not heard of". A `cfgj`
//! makes the configuration joint, `cfgj=zero` joint with nobody. Each answer is also computed in other ways that must
//! agree; if one does not, an extra line says so. Etcd: `quorum/datadriven_test.go`.

use std::collections::BTreeMap;

use raft_core::quorum::{describe_index, IdSet, JointConfig, MajorityConfig};

use crate::datadriven::Directive;

/// The output of one directive.
pub fn handle(directive: &Directive) -> String {
    Case::parse(directive).and_then(|case| case.answer(&directive.command)).unwrap_or_else(|error| error)
}

struct Case {
    incoming: MajorityConfig,
    /// Not given: the configuration is not joint.
    outgoing: Option<MajorityConfig>,
    /// `idx` or `votes`; `None` for `_`.
    values: BTreeMap<u64, Option<u64>>,
}

impl Case {
    fn parse(directive: &Directive) -> Result<Case, String> {
        let mut order: Vec<u64> = Vec::new();
        let mut ids = |key: &str| -> Result<MajorityConfig, String> {
            let mut ids = IdSet::new();
            for value in directive.values(key).unwrap_or_default() {
                if key == "cfgj" && value == "zero" {
                    continue;
                }
                let id = value.parse().map_err(|_| format!("error: {value} is no id"))?;
                ids.insert(id);
                if !order.contains(&id) {
                    order.push(id);
                }
            }
            Ok(ids.into())
        };
        let incoming = ids("cfg")?;
        let outgoing = ids("cfgj")?;
        let outgoing = directive.values("cfgj").map(|_| outgoing);
        let mut given = Vec::new();
        for value in directive.values("idx").or(directive.values("votes")).unwrap_or_default() {
            given.push(parse_value(value)?);
        }
        if given.len() != order.len() {
            let voters: Vec<String> = IdSet::from_iter(order).iter().map(|id| format!("{id}:{{}}")).collect();
            let input: Vec<String> = given.iter().map(|value| describe_index(value.unwrap_or(0))).collect();
            let (voters, input) = (voters.join(" "), input.join(" "));
            return Err(format!("error: mismatched input (explicit or _) for voters map[{voters}]: [{input}]"));
        }
        Ok(Case { incoming, outgoing, values: order.into_iter().zip(given).collect() })
    }

    fn answer(&self, command: &str) -> Result<String, String> {
        match command {
            "committed" => Ok(self.committed()),
            "vote" => Ok(self.vote()),
            _ => Err("unknown command".to_string()),
        }
    }

    fn committed(&self) -> String {
        let acked: BTreeMap<u64, u64> = self.values.iter().filter_map(|(id, index)| Some((*id, (*index)?))).collect();
        let mut output;
        let committed;
        let mut check = Vec::new();
        match &self.outgoing {
            Some(outgoing) => {
                let joint = JointConfig { incoming: self.incoming.clone(), outgoing: outgoing.clone() };
                let swapped = JointConfig { incoming: outgoing.clone(), outgoing: self.incoming.clone() };
                output = joint.describe(&acked);
                committed = joint.committed_index(&acked);
                check.push((swapped.committed_index(&acked), "symmetry".to_string()));
            }
            None => {
                output = self.incoming.describe(&acked);
                committed = self.incoming.committed_index(&acked);
                check.push((by_definition(&self.incoming, &acked), "alternative computation".to_string()));
                for (outgoing, way) in [(MajorityConfig::new(), "zero-joint"), (self.incoming.clone(), "self-joint")] {
                    let joint = JointConfig { incoming: self.incoming.clone(), outgoing };
                    check.push((joint.committed_index(&acked), format!("{way} quorum")));
                }
                // Who is behind the committed index may as well be further behind.
                for (id, index) in acked.iter().filter(|(_, index)| **index < committed) {
                    for lower in [index.saturating_sub(1), 0] {
                        let mut lowered = acked.clone();
                        lowered.insert(*id, lower);
                        check.push((self.incoming.committed_index(&lowered), format!("overlaying {id}->{lower}")));
                    }
                }
            }
        }
        for (other, way) in check.into_iter().filter(|(other, _)| *other != committed) {
            output += &format!("{} <-- via {way}\n", describe_index(other));
        }
        output + &describe_index(committed) + "\n"
    }

    fn vote(&self) -> String {
        let vote = |id: u64| self.values.get(&id).copied().flatten().map(|granted| granted == 1);
        let Some(outgoing) = &self.outgoing else { return format!("{}\n", self.incoming.vote_result(vote)) };
        let joint = JointConfig { incoming: self.incoming.clone(), outgoing: outgoing.clone() };
        let swapped = JointConfig { incoming: outgoing.clone(), outgoing: self.incoming.clone() };
        let (result, other) = (joint.vote_result(vote), swapped.vote_result(vote));
        if other == result {
            format!("{result}\n")
        } else {
            format!("{other} <-- via symmetry\n{result}\n")
        }
    }
}

fn parse_value(value: &str) -> Result<Option<u64>, String> {
    match value {
        "_" => Ok(None),
        "y" => Ok(Some(1)),
        "n" => Ok(Some(0)),
        "0" => Err("error: use _ for 0".to_string()),
        index => index.parse().map(Some).map_err(|_| format!("error: {index} is neither an index nor a vote")),
    }
}

/// The highest index that more than half of the voters have, by looking at each index that any of them has.
fn by_definition(voters: &MajorityConfig, acked: &BTreeMap<u64, u64>) -> u64 {
    if voters.is_empty() {
        return u64::MAX;
    }
    let having = |index: u64| voters.iter().filter(|id| acked.get(id).copied().unwrap_or(0) >= index).count();
    acked.values().copied().filter(|index| having(*index) > voters.len() / 2).max().unwrap_or(0)
}
