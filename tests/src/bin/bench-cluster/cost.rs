//! What a program costs: processor time, bytes written, memory, as the system has counted them.

use std::fs::read_to_string;

/// What a set of processes has used since they began.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Cost {
    /// Of all of them, in user code and in the system.
    pub(crate) cpu_seconds: f64,
    /// That they caused to be written to a disk, in whole pages of the page cache.
    pub(crate) written_bytes: u64,
    /// The most memory that one of them has held.
    pub(crate) peak_bytes: u64,
}

impl Cost {
    /// Of these processes, up to now. A process that has ended is an error.
    pub(crate) fn of(processes: &[u32]) -> Result<Cost, String> {
        let mut cost = Cost::default();
        for id in processes {
            let read = |file: &str| {
                read_to_string(format!("/proc/{id}/{file}")).map_err(|error| format!("/proc/{id}/{file}: {error}"))
            };
            let ticks = cpu_ticks(&read("stat")?).ok_or("/proc has another form than is known")?;
            cost.cpu_seconds += ticks as f64 / rustix::param::clock_ticks_per_second() as f64;
            cost.written_bytes +=
                field(&read("io")?, "write_bytes:").ok_or("the system does not count bytes written")?;
            let peak = field(&read("status")?, "VmHWM:").ok_or("the system does not say how much memory was held")?;
            cost.peak_bytes = cost.peak_bytes.max(peak * 1024);
        }
        Ok(cost)
    }
}

/// Processor time from `/proc/PID/stat`.
fn cpu_ticks(stat: &str) -> Option<u64> {
    // The command's name stands in parentheses and may hold anything. After it, fields are counted from the third.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let (user, system): (u64, u64) = (fields.get(11)?.parse().ok()?, fields.get(12)?.parse().ok()?);
    Some(user + system)
}

/// The number behind `name`, in files of one name a line.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_a_cost() {
        let own = [std::process::id()];
        let before = Cost::of(&own).unwrap();
        let memory = vec![1_u8; 64 << 20];
        let mut sum = 0_u64;
        let after = loop {
            sum = memory.iter().fold(sum, |sum, &byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
            let now = Cost::of(&own).unwrap();
            if now.cpu_seconds > before.cpu_seconds {
                break now;
            }
        };
        assert_ne!(sum, 0);
        assert!(after.peak_bytes >= 64 << 20);
    }

    #[test]
    fn a_name_with_spaces_and_parentheses_does_not_confuse() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 5 0 100";
        assert_eq!(cpu_ticks(stat), Some(300));
    }
}
