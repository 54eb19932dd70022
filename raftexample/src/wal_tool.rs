//! `raftexample wal dump|verify|repair`: the log for people who have to look at it.
//!
//! What is found, and what a repair would do, is worked out in [`wal::tool`]; here it becomes lines, JSON and exit codes:
//! 0 the log is sound (or was repaired), 1 it cannot be read (no such directory, in use, not a log, written by another
//! version), 2 it is damaged.

use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{json, Value};
use wal::format::RecordId;
use wal::tool::{damaged_record, plan_repair, verify, walk, Held, Item};
use wal::{Recovered, WalError};

const DAMAGED: u8 = 2;

/// Whether what is wrong is wrong with the log, and not with the question.
fn is_damage(error: &WalError) -> bool {
    matches!(error, WalError::Damaged { .. } | WalError::Missing { .. } | WalError::Unreadable { .. })
}

/// A log longer than this shows how far its reading and checking are, when stderr is a terminal.
const PROGRESS_FROM_BYTES: u64 = 256 << 20;

/// What to do with a log.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
#[command(after_help = "\
Exit codes: 0 the log is sound (or was repaired), 1 it cannot be read (no such directory, in use, not a
log, written by another version) or the repair has failed, 2 it is damaged (a repair without --yes has
shown what it would do, or no repair is possible), or the command line is wrong.
DIR is the folder with the *.wal files, or the node's data folder above it. The node must be stopped.")]
pub enum WalTask {
    /// Print every batch and record: offset, kind, index, term, checksum verdict
    Dump {
        /// Where the log is
        dir: PathBuf,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Say what a node would find if it opened the log, or the first damage
    Verify(Dir),
    /// Show what has to be cut so that a damaged log opens again, and cut it with --yes
    Repair {
        /// Where the log is
        dir: PathBuf,
        /// Do it; the files as they were stay beside the new ones as *.cut
        #[arg(long)]
        yes: bool,
    },
}

/// A place.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct Dir {
    /// Where the log is
    dir: PathBuf,
}

/// Does it; says what the process should end with.
pub fn run(task: &WalTask) -> ExitCode {
    let result = match task {
        WalTask::Dump { dir, json } => dump(dir, *json),
        WalTask::Verify(place) => check(&place.dir),
        WalTask::Repair { dir, yes } => repair(dir, *yes),
    };
    match result {
        Ok(code) => code,
        Err(Failure::Output(error)) => say(format!("cannot write to standard output: {error}")),
        Err(Failure::Log(error)) => say(error.to_string()),
    }
}

enum Failure {
    Log(WalError),
    Output(io::Error),
}

impl From<WalError> for Failure {
    fn from(error: WalError) -> Self {
        Failure::Log(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Output(error)
    }
}

/// An output whose reader may leave when it has seen enough (`| head`): what is done, and with which code it ends, does not
/// hang on that.
struct UnlessGone<W>(W);

fn unless_gone<T>(result: io::Result<T>, instead: T) -> io::Result<T> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(instead),
        other => other,
    }
}

impl<W: Write> Write for UnlessGone<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        unless_gone(self.0.write(bytes), bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        unless_gone(self.0.flush(), ())
    }
}

fn say(line: String) -> ExitCode {
    // Nobody is left to tell if this fails.
    let _ = writeln!(io::stderr(), "raftexample wal: {line}");
    ExitCode::FAILURE
}

/// The directory itself, or the one called `wal` in a node's data folder.
fn open(dir: &std::path::Path) -> Result<Held, WalError> {
    let inner = dir.join("wal");
    let mut progress = None;
    let held = Held::open(if inner.is_dir() { &inner } else { dir }, &mut |done, total| {
        progress.get_or_insert_with(|| Progress::on_stderr("reading", total)).show(done);
    });
    progress.iter_mut().for_each(Progress::finish);
    held
}

/// [`verify`], as far as people see it.
fn verify_showing(held: &Held) -> Result<Recovered, WalError> {
    let mut progress = Progress::on_stderr("checking", held.len_bytes());
    let verdict = verify(held, &mut |done| progress.show(done));
    progress.finish();
    verdict
}

/// What is damaged, and which record that was if it is known.
fn describe_damage(held: &Held, error: &WalError) -> String {
    match damaged_record(held, error) {
        Some(record) => format!("{error}; the first damaged record is {}", name_of(record)),
        None => error.to_string(),
    }
}

fn name_of((kind, term, index): RecordId) -> String {
    format!("{} index {index} term {term}", kind.name())
}

fn dump(dir: &std::path::Path, as_json: bool) -> Result<ExitCode, Failure> {
    let held = open(dir)?;
    let mut out = BufWriter::new(UnlessGone(io::stdout().lock()));
    let mut progress = Progress::on_stderr("listing", held.len_bytes());
    let mut result = Ok(());
    walk(&held, &mut |item, at| {
        if result.is_ok() {
            let line = if as_json { json_of(item).to_string() } else { line_of(item) };
            result = writeln!(out, "{line}");
        }
        progress.show(at);
    });
    progress.finish();
    result?;
    let verdict = verify_showing(&held);
    let line = match &verdict {
        Ok(_) => "sound".to_owned(),
        Err(error) => describe_damage(&held, error),
    };
    match as_json {
        true => writeln!(out, "{}", json!({ "what": "verdict", "sound": verdict.is_ok(), "text": line }))?,
        false => writeln!(out, "verdict: {line}")?,
    }
    out.flush()?;
    Ok(match verdict {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) if is_damage(&error) => ExitCode::from(DAMAGED),
        Err(_) => ExitCode::FAILURE,
    })
}

/// A bar that grows in one line of a terminal. Nothing at all for anything else, or for what is done at once.
struct Progress<W: Write> {
    out: Option<W>,
    /// What is being done.
    what: &'static str,
    total: u64,
    /// Percent.
    shown: u64,
}

impl Progress<io::Stderr> {
    fn on_stderr(what: &'static str, total: u64) -> Self {
        Progress::new(io::stderr(), io::stderr().is_terminal(), what, total)
    }
}

impl<W: Write> Progress<W> {
    fn new(out: W, is_terminal: bool, what: &'static str, total: u64) -> Self {
        Progress { out: (is_terminal && total >= PROGRESS_FROM_BYTES).then_some(out), what, total, shown: 0 }
    }

    fn show(&mut self, done: u64) {
        let percent = (u128::from(done) * 100 / u128::from(self.total.max(1))).min(100) as u64;
        // Less than before: it begins anew.
        let Some(out) = self.out.as_mut().filter(|_| percent != self.shown) else { return };
        self.shown = percent;
        let filled = "#".repeat(percent as usize / 4);
        // A terminal that is gone is no reason to stop.
        let _ = write!(out, "\r{} [{filled:<25}] {percent:>3} %", self.what);
    }

    fn finish(&mut self) {
        self.show(self.total);
        if let Some(out) = &mut self.out {
            let _ = writeln!(out);
        }
    }
}

fn line_of(item: &Item) -> String {
    match item {
        Item::Segment { file, header: Some((sequence, first_index)), len_bytes } => {
            format!("segment {file}: sequence {sequence}, first index {first_index}, {len_bytes} bytes")
        }
        Item::Segment { file, header: None, len_bytes } => {
            format!("segment {file}: header BAD or blank, {len_bytes} bytes")
        }
        Item::Batch { offset, records: 0, synced_before, .. } => {
            format!("  {offset:>10}  mark      durable up to {synced_before}")
        }
        Item::Batch { offset, records, synced_before, valid } => {
            let verdict = if *valid { "ok" } else { "BAD" };
            format!("  {offset:>10}  batch     {records} records, synced before {synced_before}  {verdict}")
        }
        Item::Record { offset, kind, term, index, payload_bytes } => {
            format!("  {offset:>10}    {:<9} index {index} term {term}, {payload_bytes} bytes  ok", kind.name())
        }
        Item::BadRecord { offset, known: Some(record) } => format!("  {offset:>10}    {}  BAD", name_of(*record)),
        Item::BadRecord { offset, known: None } => format!("  {offset:>10}    a record of unknown kind  BAD"),
        Item::LeftBehind { offset, until } => format!("  {offset:>10}  left      unacknowledged, up to {until}"),
        Item::BadPlace { offset, until, what } => {
            format!("  {offset:>10}  THE DISK FAILS TO READ THIS, up to {until}: {what}")
        }
        Item::NoBatch { offset, until } => format!("  {offset:>10}  NO BATCH up to {until}"),
    }
}

fn json_of(item: &Item) -> Value {
    match item {
        Item::Segment { file, header, len_bytes } => json!({
            "what": "segment", "file": file, "valid": header.is_some(), "sequence": header.map(|(sequence, _)| sequence),
            "first_index": header.map(|(_, first_index)| first_index), "len_bytes": len_bytes,
        }),
        Item::Batch { offset, records, synced_before, valid } => json!({
            "what": if *records == 0 { "mark" } else { "batch" }, "offset": offset, "records": records,
            "synced_before": synced_before, "valid": valid,
        }),
        Item::Record { offset, kind, term, index, payload_bytes } => json!({
            "what": "record", "offset": offset, "kind": kind.name(), "term": term, "index": index,
            "payload_bytes": payload_bytes, "valid": true,
        }),
        Item::BadRecord { offset, known } => json!({
            "what": "record", "offset": offset, "kind": known.map(|(kind, ..)| kind.name()),
            "term": known.map(|(_, term, _)| term), "index": known.map(|(.., index)| index), "valid": false,
        }),
        Item::LeftBehind { offset, until } => json!({ "what": "left behind", "offset": offset, "until": until }),
        Item::BadPlace { offset, until, what } => {
            json!({ "what": "disk failure", "offset": offset, "until": until, "text": what })
        }
        Item::NoBatch { offset, until } => json!({ "what": "no batch", "offset": offset, "until": until }),
    }
}

fn check(dir: &std::path::Path) -> Result<ExitCode, Failure> {
    let held = open(dir)?;
    let mut out = UnlessGone(io::stdout().lock());
    match verify_showing(&held) {
        Ok(recovered) => {
            let state = recovered.hard_state;
            let entries = recovered.held_entries();
            writeln!(
                out,
                "sound: {} entries from index {}, term {}, vote {}, commit {}, {} snapshots recorded",
                entries.len(),
                recovered.first_index,
                state.term,
                state.vote,
                state.commit,
                recovered.snapshots.len()
            )?;
            if let Some(torn) = recovered.torn {
                writeln!(out, "the end is torn, which opening the log passes over: {torn}")?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(error) if is_damage(&error) => {
            writeln!(out, "damaged: {}", describe_damage(&held, &error))?;
            Ok(ExitCode::from(DAMAGED))
        }
        Err(error) => Err(error.into()),
    }
}

fn repair(dir: &std::path::Path, yes: bool) -> Result<ExitCode, Failure> {
    let held = open(dir)?;
    let mut out = UnlessGone(io::stdout().lock());
    let mut progress = Progress::on_stderr("checking", held.len_bytes());
    let plan = plan_repair(&held, &mut |done| progress.show(done));
    progress.finish();
    let plan = match plan {
        Ok(Some(plan)) => plan,
        Ok(None) => {
            writeln!(out, "the log is sound, nothing to repair")?;
            return Ok(ExitCode::SUCCESS);
        }
        Err(error) if is_damage(&error) => {
            writeln!(out, "damaged: {error}")?;
            writeln!(out, "there is nothing that could be cut so that the log opens again")?;
            return Ok(ExitCode::from(DAMAGED));
        }
        Err(error) => return Err(error.into()),
    };
    for damage in &plan.damage {
        writeln!(out, "damage: {damage}")?;
    }
    for (name, offset) in &plan.cut {
        writeln!(out, "cut: {name} from offset {offset} on")?;
    }
    for name in &plan.rewritten {
        writeln!(out, "write anew: {name}, with zeros where it cannot be read")?;
    }
    for name in &plan.set_aside {
        writeln!(out, "set aside: {name}")?;
    }
    if let Some(first) = plan.begins_with {
        writeln!(
            out,
            "the log would begin with entry {first}: what came before is set aside, and the node needs the snapshot file \
             that stands for it"
        )?;
    }
    writeln!(
        out,
        "the log would end at index {}; {} readable entries behind it would be dropped, and what cannot be read",
        plan.last_index, plan.dropped_entries
    )?;
    if !yes {
        writeln!(out, "nothing was changed; --yes does it and keeps the files as they were, as *.cut")?;
        return Ok(ExitCode::from(DAMAGED));
    }
    plan.apply(held)?;
    writeln!(out, "done; the files as they were are beside the new ones as *.cut")?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(is_terminal: bool, total: u64, steps: &[u64]) -> String {
        let mut bytes = Vec::new();
        let mut progress = Progress::new(&mut bytes, is_terminal, "checking", total);
        steps.iter().for_each(|done| progress.show(*done));
        progress.finish();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_long_log_shows_on_a_terminal_how_far_it_is() {
        let total = PROGRESS_FROM_BYTES;
        let half = "#".repeat(12);
        let bar = drawn(true, total, &[0, total / 1000, total / 2, total / 2 + 1]);
        let full = "#".repeat(25);
        assert_eq!(
            bar,
            format!("\rchecking [{half:<25}]  50 %\rchecking [{full}] 100 %\n"),
            "each percent once, and an end"
        );
    }

    #[test]
    fn there_is_no_bar_in_a_file_or_for_a_short_log() {
        assert_eq!(drawn(false, PROGRESS_FROM_BYTES, &[PROGRESS_FROM_BYTES / 2]), "");
        assert_eq!(drawn(true, PROGRESS_FROM_BYTES - 1, &[PROGRESS_FROM_BYTES / 2]), "");
    }
}
