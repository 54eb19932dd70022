//! What a directive shows: the commands' own text and the log lines of the nodes that they drive, in order.
//!
//! `raft-core` logs through the `log` facade, which has one logger per process. [`capture`] gives the current thread's
//! lines to one [`Output`] for as long as a function runs, so that many environments can work side by side.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Once;

use log::{LevelFilter, Log, Metadata, Record};

/// From which severity on log lines are shown. At `None`, the commands' own text is not shown either.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Debug,
    Info,
    Warn,
    Error,
    Fatal,
    None,
}

impl Level {
    const NAMES: [(&'static str, Level); 6] = [
        ("DEBUG", Level::Debug),
        ("INFO", Level::Info),
        ("WARN", Level::Warn),
        ("ERROR", Level::Error),
        ("FATAL", Level::Fatal),
        ("NONE", Level::None),
    ];

    /// Reads a level's name, in upper or lower case.
    pub(super) fn parse(name: &str) -> Result<Level, String> {
        let known = Self::NAMES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        known.map(|(_, level)| *level).ok_or_else(|| {
            let names: Vec<&str> = Self::NAMES.iter().map(|(name, _)| *name).collect();
            format!("log levels must be either of [{}]", names.join(" "))
        })
    }
}

#[derive(Debug)]
struct Buffer {
    text: String,
    level: Level,
}

/// Collects text; clones share one buffer.
#[derive(Clone, Debug)]
pub(super) struct Output {
    buffer: Rc<RefCell<Buffer>>,
}

impl Output {
    pub(super) fn new() -> Self {
        Output { buffer: Rc::new(RefCell::new(Buffer { text: String::new(), level: Level::Debug })) }
    }

    pub(super) fn level(&self) -> Level {
        self.buffer.borrow().level
    }

    pub(super) fn set_level(&self, level: Level) {
        self.buffer.borrow_mut().level = level;
    }

    /// Adds text as it is.
    pub(super) fn write(&self, text: &str) {
        let mut buffer = self.buffer.borrow_mut();
        if buffer.level != Level::None {
            buffer.text.push_str(text);
        }
    }

    /// Adds text and a newline.
    pub(super) fn line(&self, text: &str) {
        self.write(text);
        self.write("\n");
    }

    /// Takes out all that was collected.
    pub(super) fn take(&self) -> String {
        std::mem::take(&mut self.buffer.borrow_mut().text)
    }

    /// Everything that `act` shows is indented by two spaces.
    pub(super) fn indented<T>(&self, act: impl FnOnce() -> T) -> T {
        let outer = self.take();
        let result = act();
        let mut buffer = self.buffer.borrow_mut();
        let inner = std::mem::replace(&mut buffer.text, outer);
        for line in inner.lines() {
            buffer.text.push_str("  ");
            buffer.text.push_str(line);
            buffer.text.push('\n');
        }
        result
    }

    fn log(&self, level: log::Level, text: &str) {
        let (name, severity) = match level {
            log::Level::Error => ("ERROR", Level::Error),
            log::Level::Warn => ("WARN", Level::Warn),
            log::Level::Info => ("INFO", Level::Info),
            log::Level::Debug => ("DEBUG", Level::Debug),
            log::Level::Trace => return,
        };
        // Nothing logs while the buffer is borrowed; if something did, losing its line is better than a panic.
        if let Ok(mut buffer) = self.buffer.try_borrow_mut() {
            if severity >= buffer.level && buffer.level != Level::None {
                buffer.text.push_str(&format!("{name} {text}\n"));
            }
        }
    }
}

thread_local! {
    /// Who gets this thread's log lines.
    static LISTENER: RefCell<Option<Output>> = const { RefCell::new(None) };
}

struct Capture;

impl Log for Capture {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("raft_core")
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            // A thread that is ending has no listener any more.
            let _ = LISTENER.try_with(|listener| {
                if let Some(output) = listener.borrow().as_ref() {
                    output.log(record.level(), &record.args().to_string());
                }
            });
        }
    }

    fn flush(&self) {}
}

/// Runs `act` with this thread's log lines going to `output`.
pub(super) fn capture<T>(output: &Output, act: impl FnOnce() -> T) -> T {
    static INSTALL: Once = Once::new();
    INSTALL.call_once(|| {
        // If another logger is there already, traces will miss their log lines and the comparison will say so.
        if log::set_logger(&Capture).is_ok() {
            log::set_max_level(LevelFilter::Debug);
        }
    });
    let before = LISTENER.with(|listener| listener.replace(Some(output.clone())));
    let result = act();
    LISTENER.with(|listener| listener.replace(before));
    result
}
