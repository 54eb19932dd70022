//! What the system says about this process, under the names that every client library of Prometheus uses.
//!
//! Read from `/proc` when somebody asks; what cannot be read is left out of the page.

use std::fs;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{getrlimit, Resource};

use super::text::{Kind, Page};

pub(super) fn describe(started: Instant, page: &mut Page) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let start = now.saturating_sub(started.elapsed()).as_secs_f64();
    page.gauge("process_start_time_seconds", "When the process began, in seconds since 1970.", format!("{start:.3}"));
    if let Some([resident, size]) = memory_bytes() {
        page.gauge("process_resident_memory_bytes", "Memory in use.", resident);
        page.gauge("process_virtual_memory_bytes", "Address space in use, the mapped log included.", size);
    }
    if let Some(seconds) = cpu_seconds() {
        let help = "Processor time, of the process and of the system for it.";
        page.family("process_cpu_seconds_total", Kind::Counter, help).sample(&[], seconds);
    }
    if let Ok(files) = fs::read_dir("/proc/self/fd") {
        page.gauge("process_open_fds", "Open files and connections.", files.count());
    }
    if let Some(limit) = getrlimit(Resource::Nofile).current {
        page.gauge("process_max_fds", "How many may be open.", limit);
    }
}

/// Resident memory and address space.
fn memory_bytes() -> Option<[u64; 2]> {
    let text = fs::read_to_string("/proc/self/statm").ok()?;
    let mut pages = text.split_whitespace().map_while(|word| word.parse::<u64>().ok());
    let (size, resident) = (pages.next()?, pages.next()?);
    Some([resident, size].map(|pages| pages * page_size() as u64))
}

fn cpu_seconds() -> Option<f64> {
    let text = fs::read_to_string("/proc/self/stat").ok()?;
    // The program's name is in parentheses and may hold anything; user and system time are the 12th and 13th behind it.
    let (_, rest) = text.rsplit_once(')')?;
    let mut ticks = rest.split_whitespace().skip(11).map_while(|word| word.parse::<u64>().ok());
    let all = ticks.next()? + ticks.next()?;
    Some(all as f64 / clock_ticks_per_second() as f64)
}
