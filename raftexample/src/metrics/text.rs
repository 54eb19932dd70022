//! The numbers themselves, and the text in which Prometheus reads them (exposition format 0.0.4).
//!
//! Whoever counts does so with one atomic addition; whoever reads gets each number as it is at that moment, and no more:
//! two numbers of one page may be a few counts apart.
//!
//! What is left out: labels that are made while the program runs. Every family has its fixed fields, or belongs to a peer.

use std::fmt::{self, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds to it.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// What it is now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// One more.
    pub fn up(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// One less; never more often than [`Gauge::up`].
    pub fn down(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// Sets it.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// What it is now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How many buckets a histogram has; what is longer than the last is in `+Inf` only.
const BUCKETS: usize = 17;
/// The shortest bucket, in nanoseconds; each following one is twice as long, up to 8.192 s. From 1 ms on they are etcd's;
/// a sync or a round trip on a good machine takes less.
const FIRST_BUCKET_NANOS: u64 = 125_000;

/// Durations, sorted into buckets.
#[derive(Debug, Default)]
pub struct Histogram {
    /// Each counts what belongs to it and to no shorter one.
    buckets: [AtomicU64; BUCKETS],
    longer: AtomicU64,
    sum_nanos: AtomicU64,
}

impl Histogram {
    /// Counts one duration.
    pub fn observe(&self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let bucket = (0..BUCKETS).position(|n| nanos <= FIRST_BUCKET_NANOS << n).and_then(|n| self.buckets.get(n));
        bucket.unwrap_or(&self.longer).fetch_add(1, Ordering::Relaxed);
        self.sum_nanos.fetch_add(nanos, Ordering::Relaxed);
    }
}

/// What a family of samples is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows, except when the process begins anew.
    Counter,
    /// It goes up and down.
    Gauge,
    /// Cumulative buckets, a sum and a count.
    Histogram,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// A page in the making. A family is begun, then its samples follow: the format wants them side by side.
#[derive(Debug, Default)]
pub struct Page {
    text: String,
    family: &'static str,
}

/// Names and values; names are fixed, values are anything.
pub type Labels<'a> = &'a [(&'static str, &'a str)];

impl Page {
    /// Begins a family.
    pub fn family(&mut self, name: &'static str, kind: Kind, help: &str) -> &mut Page {
        self.family = name;
        let help = help.replace('\\', r"\\").replace('\n', r"\n");
        // Writing to a string does not fail, here and below.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {}", kind.name());
        self
    }

    /// One sample of the family.
    pub fn sample(&mut self, labels: Labels<'_>, value: impl fmt::Display) -> &mut Page {
        self.line("", labels, None, value)
    }

    /// One histogram of the family.
    pub fn histogram(&mut self, labels: Labels<'_>, histogram: &Histogram) -> &mut Page {
        let mut count = 0;
        for (n, bucket) in histogram.buckets.iter().enumerate() {
            count += bucket.load(Ordering::Relaxed);
            let bound = seconds(FIRST_BUCKET_NANOS << n).to_string();
            self.line("_bucket", labels, Some(&bound), count);
        }
        count += histogram.longer.load(Ordering::Relaxed);
        self.line("_bucket", labels, Some("+Inf"), count);
        self.line("_sum", labels, None, seconds(histogram.sum_nanos.load(Ordering::Relaxed)));
        self.line("_count", labels, None, count)
    }

    /// A family of one counter.
    pub fn counter(&mut self, name: &'static str, help: &str, value: u64) {
        self.family(name, Kind::Counter, help).sample(&[], value);
    }

    /// A family of one gauge.
    pub fn gauge(&mut self, name: &'static str, help: &str, value: impl fmt::Display) {
        self.family(name, Kind::Gauge, help).sample(&[], value);
    }

    /// The whole text.
    pub fn finish(self) -> String {
        self.text
    }

    fn line(&mut self, suffix: &str, labels: Labels<'_>, le: Option<&str>, value: impl fmt::Display) -> &mut Page {
        let _ = write!(self.text, "{}{suffix}", self.family);
        let mut separator = '{';
        for (name, text) in labels.iter().copied().chain(le.map(|bound| ("le", bound))) {
            let text = text.replace('\\', r"\\").replace('"', r#"\""#).replace('\n', r"\n");
            let _ = write!(self.text, "{separator}{name}=\"{text}\"");
            separator = ',';
        }
        let closing = if separator == ',' { "}" } else { "" };
        let _ = writeln!(self.text, "{closing} {value}");
        self
    }
}

fn seconds(nanos: u64) -> f64 {
    Duration::from_nanos(nanos).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_what_the_format_says() {
        let mut page = Page::default();
        page.counter("a_total", "Back\\slash and\nline.", 3);
        page.family("b", Kind::Gauge, "b").sample(&[("x", "say \"hi\"\\\n"), ("y", "é")], 0.5).sample(&[], 7);
        let expected = "# HELP a_total Back\\\\slash and\\nline.\n# TYPE a_total counter\na_total 3\n\
                        # HELP b b\n# TYPE b gauge\nb{x=\"say \\\"hi\\\"\\\\\\n\",y=\"é\"} 0.5\nb 7\n";
        assert_eq!(page.finish(), expected);
    }

    #[test]
    fn buckets_are_cumulative_and_bounds_belong_to_them() {
        let histogram = Histogram::default();
        for micros in [0, 125, 126, 1_000, 8_192_000, 8_192_001] {
            histogram.observe(Duration::from_micros(micros));
        }
        let mut page = Page::default();
        page.family("h", Kind::Histogram, "h").histogram(&[("k", "v")], &histogram);
        let text = page.finish();
        let expected = [
            "h_bucket{k=\"v\",le=\"0.000125\"} 2",
            "h_bucket{k=\"v\",le=\"0.00025\"} 3",
            "h_bucket{k=\"v\",le=\"0.001\"} 4",
            "h_bucket{k=\"v\",le=\"4.096\"} 4",
            "h_bucket{k=\"v\",le=\"8.192\"} 5",
            "h_bucket{k=\"v\",le=\"+Inf\"} 6",
            "h_sum{k=\"v\"} 16.385252",
            "h_count{k=\"v\"} 6",
        ];
        for line in expected {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        histogram.observe(Duration::MAX);
    }
}
