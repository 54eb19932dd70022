//! What was measured, as lines: one for each case and program, and one that compares.

use std::time::Duration;

use crate::cost::Cost;
use crate::load::Outcome;

/// One program in one case: an operation, on so many connections. Gathers the rounds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Measured {
    rates: Vec<f64>,
    latencies_us: Vec<u32>,
    cpu_seconds: f64,
    written_bytes: u64,
    peak_bytes: u64,
    failed: u64,
}

impl Measured {
    /// Adds a round: what came of it, and what had been used before and after.
    pub(crate) fn add(&mut self, outcome: &Outcome, before: &Cost, after: &Cost) {
        self.rates.push(outcome.per_second());
        self.latencies_us.extend(&outcome.latencies_us);
        self.latencies_us.sort_unstable();
        self.cpu_seconds += after.cpu_seconds - before.cpu_seconds;
        self.written_bytes += after.written_bytes.saturating_sub(before.written_bytes);
        self.peak_bytes = after.peak_bytes;
        self.failed += outcome.failed;
    }

    /// Good answers a second: the median of the rounds.
    pub(crate) fn per_second(&self) -> f64 {
        let mut rates = self.rates.clone();
        rates.sort_by(f64::total_cmp);
        let (low, high) = (rates.len().saturating_sub(1) / 2, rates.len() / 2);
        match (rates.get(low), rates.get(high)) {
            (Some(low), Some(high)) => (low + high) / 2.0,
            _ => 0.0,
        }
    }

    /// The time within which this share of the good answers came, in microseconds, over all rounds.
    pub(crate) fn within_us(&self, share: f64) -> f64 {
        let rank = (share * self.latencies_us.len() as f64).ceil() as usize;
        self.latencies_us.get(rank.saturating_sub(1)).map_or(0.0, |micros| f64::from(*micros))
    }

    fn each(&self, amount: f64) -> f64 {
        amount / (self.latencies_us.len() as f64).max(1.0)
    }

    /// The line of this case.
    pub(crate) fn line(&self, case: &str, program: &str) -> String {
        format!(
            "{case} {program:8} per_s={:.0} p50_us={:.0} p99_us={:.0} p99.9_us={:.0} cpu_us={:.1} written_bytes={:.0} \
             peak_mib={:.1} failed={}",
            self.per_second(),
            self.within_us(0.5),
            self.within_us(0.99),
            self.within_us(0.999),
            self.each(self.cpu_seconds * 1e6),
            self.each(self.written_bytes as f64),
            self.peak_bytes as f64 / f64::from(1 << 20),
            self.failed,
        )
    }

    /// The line that compares: ours by the peer's, each figure.
    pub(crate) fn ratios(&self, peer: &Measured, case: &str) -> String {
        let pairs = [
            ("per_s", self.per_second(), peer.per_second()),
            ("p50", self.within_us(0.5), peer.within_us(0.5)),
            ("p99", self.within_us(0.99), peer.within_us(0.99)),
            ("p99.9", self.within_us(0.999), peer.within_us(0.999)),
            ("cpu", self.each(self.cpu_seconds), peer.each(peer.cpu_seconds)),
            ("written", self.each(self.written_bytes as f64), peer.each(peer.written_bytes as f64)),
            ("peak", self.peak_bytes as f64, peer.peak_bytes as f64),
        ];
        let ratio = |(name, ours, theirs): (&str, f64, f64)| match theirs > 0.0 {
            true => format!("{name}={:.2}", ours / theirs),
            false => format!("{name}=-"),
        };
        format!("{case} {:8} {}", "ratio", pairs.map(ratio).join(" "))
    }

    /// The line of a footprint.
    pub(crate) fn footprint(&self, program: &str, value_bytes: usize, took: Duration) -> String {
        let puts = self.latencies_us.len();
        format!(
            "footprint {program:8} puts={puts} seconds={:.1} peak_mib={:.1} written_per_byte={:.2} cpu_us={:.1} failed={}",
            took.as_secs_f64(),
            self.peak_bytes as f64 / f64::from(1 << 20),
            self.written_bytes as f64 / (puts.max(1) * value_bytes.max(1)) as f64,
            self.each(self.cpu_seconds * 1e6),
            self.failed,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(latencies_us: Vec<u32>, seconds: u64) -> Outcome {
        let in_time = latencies_us.len() as u64;
        Outcome { latencies_us, in_time, elapsed: Duration::from_secs(seconds), failed: 1 }
    }

    fn cost(cpu_seconds: f64, written_bytes: u64) -> Cost {
        Cost { cpu_seconds, written_bytes, peak_bytes: 3 << 20 }
    }

    #[test]
    fn percentiles_are_of_all_rounds_and_rates_are_the_middle_one() {
        let mut measured = Measured::default();
        measured.add(&round((1..=500).collect(), 1), &cost(1.0, 1000), &cost(1.5, 2000));
        measured.add(&round((501..=1000).rev().collect(), 5), &cost(2.0, 2000), &cost(2.5, 3000));
        assert_eq!(measured.per_second(), 300.0);
        let shares = [0.5, 0.99, 0.999, 1.0].map(|share| measured.within_us(share));
        assert_eq!(shares, [500.0, 990.0, 999.0, 1000.0]);
        assert_eq!(
            measured.line("put", "ours"),
            "put ours     per_s=300 p50_us=500 p99_us=990 p99.9_us=999 cpu_us=1000.0 written_bytes=2 peak_mib=3.0 failed=2"
        );
        let ratios = measured.ratios(&measured, "put");
        assert_eq!(ratios, "put ratio    per_s=1.00 p50=1.00 p99=1.00 p99.9=1.00 cpu=1.00 written=1.00 peak=1.00");
        let footprint = measured.footprint("ours", 2, Duration::from_secs(6));
        assert!(footprint.contains(" puts=1000 seconds=6.0 peak_mib=3.0 written_per_byte=1.00 "), "{footprint}");
    }

    #[test]
    fn nothing_measured_is_said_without_nonsense() {
        let nothing = Measured::default();
        assert!(nothing.ratios(&nothing, "put").ends_with("per_s=- p50=- p99=- p99.9=- cpu=- written=- peak=-"));
        assert!(!nothing.line("put", "ours").contains("NaN"));
    }
}
