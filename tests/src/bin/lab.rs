//! The lab: a Raft cluster at a prompt. Nothing happens in it unless you say so, and everything that happens is shown.
//!
//! ```text
//! cargo run -p tests --bin lab            a prompt; `help` tells what can be typed
//! cargo run -p tests --bin lab FILE       a trace file, or a file with one command a line
//! some-program | cargo run -p tests --bin lab
//! ```
//!
//! A trace file (one with `----` lines) is run and shown as a story, its comments included; where the output is not the
//! one that the file expects, that is said. In other files and at the prompt, a command that ends in ` :` is followed
//! by lines of input, up to an empty one.
#![forbid(unsafe_code)]

use std::env;
use std::fs;
use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::process::ExitCode;

use tests::datadriven::{parse_command, Directive, Script};
use tests::interaction::{help, Environment};

const PROMPT: &str = "raft> ";
const USAGE: &str = "usage: lab [FILE]\n\nWithout a file: a prompt, or what comes through a pipe. At the prompt, `help` tells the rest.\n";
const WELCOME: &str = "A Raft cluster in your hands. To begin with:

  add-nodes 3 voters=(1,2,3) index=2
  campaign 1
  stabilize
  propose 1 hello
  stabilize
  status 1

`help` lists all commands, `help COMMAND` explains one, `reset` starts over, `quit` ends.
";

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let done = match args.as_slice() {
        [] if io::stdin().is_terminal() => prompt(),
        [] => read_stdin().and_then(|text| run_text(&text)),
        [flag] if flag == "--help" || flag == "-h" => show(USAGE),
        [file] => match fs::read_to_string(file) {
            Ok(text) => run_text(&text),
            Err(error) => return fail(&format!("{file}: {error}")),
        },
        _ => return fail(USAGE.trim_end()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever was reading has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => fail(&error.to_string()),
    }
}

fn fail(message: &str) -> ExitCode {
    eprintln!("{message}");
    ExitCode::from(2)
}

fn read_stdin() -> io::Result<String> {
    let mut text = String::new();
    io::stdin().read_to_string(&mut text).map(|_| text)
}

fn show(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    if !text.is_empty() && !text.ends_with('\n') {
        out.write_all(b"\n")?;
    }
    out.flush()
}

fn prompt() -> io::Result<()> {
    show(WELCOME)?;
    let mut session = Session::default();
    let mut lines = io::stdin().lock().lines();
    loop {
        print!("{PROMPT}");
        io::stdout().flush()?;
        let Some(line) = lines.next().transpose()? else { return show("") };
        match session.run(&line, &mut lines)? {
            Some(output) => show(&output)?,
            None => return Ok(()),
        }
    }
}

/// Runs a whole text: a trace, or lines as at the prompt.
fn run_text(text: &str) -> io::Result<()> {
    if text.lines().any(|line| line == "----") {
        return run_trace(text);
    }
    let mut session = Session::default();
    let mut lines = text.lines().map(|line| Ok(line.to_string()));
    while let Some(Ok(line)) = lines.next() {
        if line.trim().is_empty() || line.trim().starts_with('#') {
            show(&format!("{line}\n"))?;
            continue;
        }
        show(&format!("{PROMPT}{line}\n"))?;
        match session.run(&line, &mut lines)? {
            Some(output) => show(&output)?,
            None => return Ok(()),
        }
    }
    Ok(())
}

fn run_trace(text: &str) -> io::Result<()> {
    let script = Script::parse(text).map_err(io::Error::other)?;
    let mut environment = Environment::new();
    for directive in &script.directives {
        let comments: String = directive.comments().map(|line| format!("{line}\n")).collect();
        let output = environment.handle(directive);
        let as_expected = directive.expected.trim_end() == output.trim_end();
        show(&format!("{comments}{PROMPT}{}\n", directive.text()))?;
        if !directive.input.is_empty() {
            show(&format!("{}\n", directive.input))?;
        }
        show(&output)?;
        if !as_expected {
            show("(the file expects something else here)\n")?;
        }
        show("\n")?;
    }
    Ok(())
}

#[derive(Default)]
struct Session {
    environment: Environment,
}

impl Session {
    /// Runs one line, with the lines that follow as its input if it asks for that. `None`: the session is over.
    fn run(&mut self, line: &str, more: &mut impl Iterator<Item = io::Result<String>>) -> io::Result<Option<String>> {
        let (line, has_input) = match line.trim().strip_suffix(" :") {
            Some(line) => (line, true),
            None => (line.trim(), false),
        };
        let (command, args) = match parse_command(line) {
            Ok(parsed) => parsed,
            Err(error) => return Ok(Some(error)),
        };
        let mut input = Vec::new();
        if has_input {
            while let Some(line) = more.next().transpose()?.filter(|line| !line.trim().is_empty()) {
                input.push(line);
            }
        }
        match command.as_str() {
            "" => Ok(Some(String::new())),
            "quit" | "exit" => Ok(None),
            "help" => Ok(Some(help(args.first().map(|arg| arg.key.as_str())))),
            "reset" => {
                *self = Session::default();
                Ok(Some("ok".to_string()))
            }
            _ => {
                let directive = Directive::new(command, args, input.join("\n"));
                Ok(Some(self.environment.handle(&directive)))
            }
        }
    }
}
