//! A child process whose every output line is kept, and which is ended by its id.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{kill_process, Pid, Signal};

use super::eventually;

/// How many of the last lines a failing test prints for each process.
const LINES_SHOWN_ON_FAILURE: usize = 60;

/// Which output a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Output {
    Standard,
    Error,
}

type Lines = Arc<Mutex<Vec<(Output, String)>>>;

/// A running (or finished) child. Dropping it kills it.
pub struct Process {
    name: String,
    id: u32,
    child: Mutex<Child>,
    lines: Lines,
    readers: Mutex<Vec<JoinHandle<()>>>,
}

/// A test that failed while it held the lock must not hide its own message behind a second panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Process {
    /// Starts `program` in `folder` and begins to collect what it prints. `RUST_LOG` is not inherited, so that tests
    /// see the default.
    pub fn start<A: AsRef<OsStr>>(name: &str, program: &Path, arguments: &[A], folder: &Path) -> Process {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(folder).env_remove("RUST_LOG");
        Process::start_command(name, command)
    }

    /// Starts `command` with its outputs piped and its input empty.
    pub fn start_command(name: &str, mut command: Command) -> Process {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let lines = Lines::default();
        let mut readers = Vec::new();
        readers.extend(child.stdout.take().map(|pipe| collect(pipe, Output::Standard, Arc::clone(&lines))));
        readers.extend(child.stderr.take().map(|pipe| collect(pipe, Output::Error, Arc::clone(&lines))));
        let id = child.id();
        Process { name: name.to_string(), id, child: Mutex::new(child), lines, readers: Mutex::new(readers) }
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Sends `signal`, if the process has not ended yet.
    pub fn signal(&self, signal: Signal) {
        // The lock and `try_wait` make sure that the id has not been given to somebody else.
        let mut child = lock(&self.child);
        if matches!(child.try_wait(), Ok(None)) {
            let pid = Pid::from_raw(self.id as i32).expect("a child's id is not 0");
            kill_process(pid, signal).unwrap_or_else(|error| panic!("cannot signal {}: {error}", self.name));
        }
    }

    /// Whether every thread of the process is stopped, as it is some time after `SIGSTOP`.
    pub fn has_stopped(&self) -> bool {
        let Ok(threads) = std::fs::read_dir(format!("/proc/{}/task", self.id)) else { return false };
        threads.flatten().all(|thread| {
            // The state follows the name, which is in parentheses and may hold any character.
            let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
        })
    }

    /// Whether the process still exists and has not ended.
    pub fn is_running(&self) -> bool {
        matches!(lock(&self.child).try_wait(), Ok(None))
    }

    /// Waits for the end of the process; after this all of its output has been collected.
    ///
    /// # Panics
    /// When it has not ended `within` this time.
    pub fn wait_for_exit(&self, within: Duration) -> ExitStatus {
        let status = eventually(&format!("the end of {}", self.name), within, || {
            lock(&self.child).try_wait().expect("a child can be waited for")
        });
        // A grandchild may hold the pipes open, so the readers get a moment and no more.
        let deadline = Instant::now() + Duration::from_secs(2);
        for reader in lock(&self.readers).drain(..) {
            while !reader.is_finished() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        status
    }

    /// `kill -9`, and waits for the end.
    pub fn kill(&self) {
        self.signal(Signal::KILL);
        self.wait_for_exit(super::PATIENCE);
    }

    /// Every line so far, standard output and standard error as they came.
    pub fn lines(&self) -> Vec<String> {
        lock(&self.lines).iter().map(|(_, line)| line.clone()).collect()
    }

    /// Every line of standard output so far.
    pub fn stdout(&self) -> Vec<String> {
        self.lines_of(Output::Standard)
    }

    /// Every line of standard error so far.
    pub fn stderr(&self) -> Vec<String> {
        self.lines_of(Output::Error)
    }

    fn lines_of(&self, wanted: Output) -> Vec<String> {
        lock(&self.lines).iter().filter(|(output, _)| *output == wanted).map(|(_, line)| line.clone()).collect()
    }

    /// Waits for a line for which `wanted` holds, on either output.
    ///
    /// # Panics
    /// When none came `within` this time.
    pub fn wait_for_line(&self, what: &str, within: Duration, wanted: impl Fn(&str) -> bool) -> String {
        eventually(&format!("{} prints {what}", self.name), within, || {
            lock(&self.lines).iter().find(|(_, line)| wanted(line)).map(|(_, line)| line.clone())
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner);
        // `kill` does nothing to a child that has been waited for.
        let _ = child.kill();
        let _ = child.wait();
        if std::thread::panicking() {
            let lines = self.lines();
            let skipped = lines.len().saturating_sub(LINES_SHOWN_ON_FAILURE);
            eprintln!("--- {} (process {}), after {skipped} earlier lines:", self.name, self.id);
            for line in &lines[skipped..] {
                eprintln!("    {line}");
            }
        }
    }
}

fn collect(pipe: impl Read + Send + 'static, output: Output, lines: Lines) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut reader = BufReader::new(pipe);
        let mut line = Vec::new();
        while matches!(reader.read_until(b'\n', &mut line), Ok(count) if count > 0) {
            let text = String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']).to_string();
            lock(&lines).push((output, text));
            line.clear();
        }
    })
}

/// Whether a process with this id exists and is not merely waiting to be reaped. For processes that the harness did
/// not start itself, such as the nodes of a demo.
pub fn process_is_alive(id: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{id}/stat")) else { return false };
    // The state follows the command name, which stands in parentheses and may hold anything.
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
    !matches!(state, Some('Z' | 'X') | None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::PATIENCE;

    fn shell(script: &str) -> Process {
        Process::start("a shell", Path::new("/bin/sh"), &["-c", script], Path::new("/"))
    }

    #[test]
    fn both_outputs_are_kept_and_told_apart() {
        let process = shell("echo one; echo two >&2; exit 7");
        assert_eq!(process.wait_for_exit(PATIENCE).code(), Some(7));
        assert_eq!((process.stdout(), process.stderr()), (vec!["one".to_string()], vec!["two".to_string()]));
    }

    #[test]
    fn a_process_ends_with_its_owner() {
        let process = shell("echo ready; exec sleep 1000");
        process.wait_for_line("ready", PATIENCE, |line| line == "ready");
        let id = process.id();
        assert!(process.is_running() && process_is_alive(id));
        drop(process);
        assert!(!process_is_alive(id));
    }

    #[test]
    fn a_paused_process_runs_and_a_killed_one_does_not() {
        let process = shell("exec sleep 1000");
        process.signal(Signal::STOP);
        assert!(process.is_running());
        process.kill();
        assert!(!process.is_running());
        process.signal(Signal::TERM);
    }
}
