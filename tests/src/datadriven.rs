//! Test files that are made of commands and what was seen when they ran.
//!
//! ```text
//! # A comment.
//! command argument key=value list=(a, b)
//! optional input, any number of lines
//! ----
//! expected output, up to the first blank line
//! ```
//!
//! The grammar is that of the Go package `cockroachdb/datadriven`, in which etcd's raft keeps its expected traces:
//!
//! - a `#` starts a comment between directives only; a trailing `\` joins a command line with the next one;
//! - an argument is `key`, `key=`, `key=value` or `key=(value, value)`; parentheses nest; quotes mean nothing;
//! - expected output that holds blank lines stands between two pairs of `----`.
//!
//! Output is compared byte by byte. [`run`] stops at the first directive that differs and shows where; with
//! [`Mode::Rewrite`] it writes what was seen into the file instead, and leaves comments and commands alone.
//!
//! Left out: subtests, and conditions on the platform.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// One argument of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arg {
    /// What stands before the `=`, or all of it.
    pub key: String,
    /// What stands after the `=`; nothing if there is none.
    pub values: Vec<String>,
}

/// A command, its input, and the output that is expected of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directive {
    /// The first word.
    pub command: String,
    /// The other words.
    pub args: Vec<Arg>,
    /// What stands between the command and `----`, trimmed.
    pub input: String,
    /// What stands after `----`, each line with its newline.
    pub expected: String,
    /// The line of the file on which the command stands, from 1.
    pub line: usize,
    /// The lines before `----` as they are in the file: comments, blank lines, command, input.
    source: Vec<String>,
    /// The output is enclosed in pairs of `----`.
    blank_lines: bool,
}

impl Directive {
    /// A command that stands in no file.
    pub fn new(command: String, args: Vec<Arg>, input: String) -> Self {
        Directive { command, args, input, ..Directive::default() }
    }

    /// The values of an argument; `None` if it was not given.
    pub fn values(&self, key: &str) -> Option<&[String]> {
        self.args.iter().find(|arg| arg.key == key).map(|arg| arg.values.as_slice())
    }

    /// The arguments that are single words.
    pub fn words(&self) -> impl Iterator<Item = &str> {
        self.args.iter().filter(|arg| arg.values.is_empty()).map(|arg| arg.key.as_str())
    }

    /// The line or lines that make up the command, as they stand in the file.
    pub fn text(&self) -> String {
        let mut lines = self.source.iter().skip_while(|line| is_between_directives(line));
        let mut text = String::new();
        for line in lines.by_ref() {
            text.push_str(line.trim());
            if !line.ends_with('\\') {
                break;
            }
            text.push('\n');
        }
        text
    }

    /// The comments that precede the command, without blank lines.
    pub fn comments(&self) -> impl Iterator<Item = &str> {
        let before = self.source.iter().take_while(|line| is_between_directives(line));
        before.map(|line| line.trim()).filter(|line| !line.is_empty())
    }
}

fn is_between_directives(line: &str) -> bool {
    let line = line.trim();
    line.is_empty() || line.starts_with('#')
}

/// The directives of a file, and what follows the last of them.
#[derive(Clone, Debug, Default)]
pub struct Script {
    /// In order.
    pub directives: Vec<Directive>,
    /// Comments and blank lines at the end.
    trailer: Vec<String>,
}

impl Script {
    /// Reads a whole file.
    ///
    /// # Errors
    /// The line and what is wrong with it.
    pub fn parse(text: &str) -> Result<Script, String> {
        let mut script = Script::default();
        let mut lines = text.lines().enumerate().peekable();
        while lines.peek().is_some() {
            let mut source = Vec::new();
            let mut command_line = None;
            for (number, line) in lines.by_ref() {
                source.push(line.to_string());
                if !is_between_directives(line) {
                    command_line = Some((number + 1, line.trim().to_string()));
                    break;
                }
            }
            let Some((line, mut command_line)) = command_line else {
                script.trailer = source;
                break;
            };
            while let Some(start) = command_line.strip_suffix('\\') {
                let Some((_, next)) = lines.next() else { break };
                source.push(next.to_string());
                command_line = format!("{start} {}", next.trim());
            }
            let (command, args) = parse_command(&command_line).map_err(|error| format!("line {line}: {error}"))?;
            let mut input = String::new();
            let mut separated = false;
            for (_, next) in lines.by_ref() {
                if next == "----" {
                    separated = true;
                    break;
                }
                source.push(next.to_string());
                input.push_str(next);
                input.push('\n');
            }
            let mut directive = Directive { command, args, line, source, ..Directive::default() };
            directive.input = input.trim().to_string();
            if separated {
                let mut output = lines.by_ref().map(|(_, line)| line);
                (directive.expected, directive.blank_lines) = parse_output(&mut output);
            }
            script.directives.push(directive);
        }
        Ok(script)
    }
}

/// Reads the expected output, and whether it is the kind that may hold blank lines.
fn parse_output<'a>(lines: &mut impl Iterator<Item = &'a str>) -> (String, bool) {
    let mut output = String::new();
    let Some(first) = lines.next() else { return (output, false) };
    if first != "----" {
        let mut line = first;
        while !line.trim().is_empty() {
            output.push_str(line);
            output.push('\n');
            match lines.next() {
                Some(next) => line = next,
                None => break,
            }
        }
        return (output, false);
    }
    let mut held_back = false;
    for line in lines {
        match (held_back, line) {
            (true, "----") => return (output, true),
            (true, _) => output.push_str("----\n"),
            (false, _) => {}
        }
        held_back = line == "----";
        if !held_back {
            output.push_str(line);
            output.push('\n');
        }
    }
    (output, true)
}

/// Splits a command line into its words.
///
/// # Errors
/// Parentheses that do not match.
pub fn parse_command(line: &str) -> Result<(String, Vec<Arg>), String> {
    let mut words = split(line, ' ')?.into_iter().filter(|word| !word.is_empty());
    let command = words.next().unwrap_or_default();
    let args = words.map(|word| parse_arg(&word)).collect::<Result<_, _>>()?;
    Ok((command, args))
}

fn parse_arg(word: &str) -> Result<Arg, String> {
    let Some((key, value)) = word.split_once('=') else {
        return Ok(Arg { key: word.to_string(), values: Vec::new() });
    };
    let list = value.strip_prefix('(').and_then(|value| value.strip_suffix(')'));
    let values = match list {
        Some(list) => split(list, ',')?.iter().map(|value| value.trim().to_string()).collect(),
        None => vec![value.to_string()],
    };
    Ok(Arg { key: key.to_string(), values })
}

/// Splits at a separator that stands outside of all parentheses.
fn split(text: &str, separator: char) -> Result<Vec<String>, String> {
    let mut parts = vec![String::new()];
    let mut depth = 0usize;
    for one in text.chars() {
        match one {
            '(' => depth += 1,
            ')' => depth = depth.checked_sub(1).ok_or_else(|| format!("`)` without `(` in `{text}`"))?,
            _ => {}
        }
        if one == separator && depth == 0 {
            parts.push(String::new());
        } else if let Some(part) = parts.last_mut() {
            part.push(one);
        }
    }
    if depth > 0 {
        return Err(format!("`(` without `)` in `{text}`"));
    }
    Ok(parts)
}

/// What to do with output that is not the expected one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Report it.
    Compare,
    /// Write it into the file.
    Rewrite,
}

/// Runs all directives of a file; answers how many there were.
///
/// # Errors
/// Where the output differs first, and how, for a person to read.
pub fn run(path: &Path, mode: Mode, mut handle: impl FnMut(&Directive) -> String) -> Result<usize, String> {
    let shown = path.display();
    let text = fs::read_to_string(path).map_err(|error| format!("{shown}: {error}"))?;
    let script = Script::parse(&text).map_err(|error| format!("{shown}: {error}"))?;
    let mut rewritten = String::new();
    for directive in &script.directives {
        let mut actual = handle(directive);
        if !actual.is_empty() && !actual.ends_with('\n') {
            actual.push('\n');
        }
        if mode == Mode::Compare && actual != directive.expected {
            return Err(format!("{shown}:{}: {}", directive.line, explain(directive, &actual)));
        }
        print_directive(&mut rewritten, directive, &actual);
    }
    script.trailer.iter().for_each(|line| rewritten += &format!("{line}\n"));
    let rewritten = rewritten.trim_end().to_string() + "\n";
    if mode == Mode::Rewrite && rewritten != text {
        fs::write(path, rewritten).map_err(|error| format!("{shown}: {error}"))?;
    }
    Ok(script.directives.len())
}

fn print_directive(file: &mut String, directive: &Directive, output: &str) {
    for line in &directive.source {
        file.push_str(line);
        file.push('\n');
    }
    let enclosed = output.lines().any(|line| line.trim().is_empty());
    let fence = if enclosed { "----\n----\n" } else { "----\n" };
    file.push_str(fence);
    file.push_str(output);
    if enclosed {
        file.push_str(fence);
    }
    file.push('\n');
}

/// Shows the first difference with some lines of what surrounds it.
fn explain(directive: &Directive, actual: &str) -> String {
    /// Equal lines that are shown before the first difference, and lines of either side from there on.
    const BEFORE: usize = 4;
    const AFTER: usize = 12;
    let expected: Vec<&str> = directive.expected.lines().collect();
    let seen: Vec<&str> = actual.lines().collect();
    let same = expected.iter().zip(&seen).take_while(|(a, b)| a == b).count();
    let fences = if directive.blank_lines { 2 } else { 1 };
    let file_line = directive.line + directive.input.lines().count() + fences + same + 1;
    let command = directive.text();
    let mut report =
        format!("`{command}` differs in line {} of its output (about line {file_line} of the file)\n", same + 1);
    for line in expected.iter().take(same).skip(same.saturating_sub(BEFORE)) {
        let _ = writeln!(report, "      {line}");
    }
    for (mark, line) in difference(expected.get(same..).unwrap_or(&[]), seen.get(same..).unwrap_or(&[])).take(2 * AFTER)
    {
        let _ = writeln!(report, "    {mark} {line}");
    }
    report.push_str("    (- expected, + seen)");
    report
}

/// The lines of both sides in order, those that they share once: a longest common subsequence, found the simple way.
fn difference<'a>(expected: &[&'a str], seen: &[&'a str]) -> impl Iterator<Item = (char, &'a str)> {
    // A difference is understood from its beginning; the table stays small.
    const LINES: usize = 400;
    let expected = expected.get(..expected.len().min(LINES)).unwrap_or(&[]);
    let seen = seen.get(..seen.len().min(LINES)).unwrap_or(&[]);
    let width = seen.len() + 1;
    let mut shared = vec![0u32; (expected.len() + 1) * width];
    for row in (0..expected.len()).rev() {
        for column in (0..seen.len()).rev() {
            shared[row * width + column] = if expected[row] == seen[column] {
                shared[(row + 1) * width + column + 1] + 1
            } else {
                shared[(row + 1) * width + column].max(shared[row * width + column + 1])
            };
        }
    }
    let (mut row, mut column) = (0, 0);
    let mut lines = Vec::new();
    while row < expected.len() || column < seen.len() {
        if row < expected.len() && column < seen.len() && expected[row] == seen[column] {
            lines.push((' ', expected[row]));
            (row, column) = (row + 1, column + 1);
        } else if row < expected.len()
            && (column == seen.len() || shared[(row + 1) * width + column] >= shared[row * width + column + 1])
        {
            lines.push(('-', expected[row]));
            row += 1;
        } else {
            lines.push(('+', seen[column]));
            column += 1;
        }
    }
    lines.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(line: &str) -> Vec<(String, Vec<String>)> {
        parse_command(line).unwrap().1.into_iter().map(|arg| (arg.key, arg.values)).collect()
    }

    fn arg(key: &str, values: &[&str]) -> (String, Vec<String>) {
        (key.to_string(), values.iter().map(|value| value.to_string()).collect())
    }

    #[test]
    fn arguments() {
        assert_eq!(args("cmd"), []);
        assert_eq!(args("  cmd   a  b=  c=d "), [arg("a", &[]), arg("b", &[""]), arg("c", &["d"])]);
        assert_eq!(
            args("cmd l=(1, 2,3) m=() n=((a,b),c)"),
            [arg("l", &["1", "2", "3"]), arg("m", &[""]), arg("n", &["(a,b)", "c"])]
        );
        assert_eq!(args("cmd a=b=c \"q uoted\""), [arg("a", &["b=c"]), arg("\"q", &[]), arg("uoted\"", &[])]);
        assert!(parse_command("cmd a=(1").is_err());
        assert!(parse_command("cmd a=1)").is_err());
    }

    #[test]
    fn directives() {
        let text = "# story\n\nfirst a \\\n  b=1\n# input, not a comment\n----\nout 1\nout 2\n\n\nsecond\n----\n----\nx\n\n----\ny\n----\n----\n# end\n";
        let script = Script::parse(text).unwrap();
        let [first, second] = script.directives.as_slice() else { panic!("{script:?}") };
        assert_eq!((first.command.as_str(), first.line), ("first", 3));
        assert_eq!(first.values("b"), Some(&["1".to_string()][..]));
        assert_eq!(first.words().collect::<Vec<_>>(), ["a"]);
        assert_eq!(first.comments().collect::<Vec<_>>(), ["# story"]);
        assert_eq!(first.text(), "first a \\\nb=1");
        assert_eq!(first.input, "# input, not a comment");
        assert_eq!(first.expected, "out 1\nout 2\n");
        assert_eq!(second.expected, "x\n\n----\ny\n");
        assert_eq!(script.trailer, ["# end"]);
    }

    #[test]
    fn the_first_difference_is_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file.txt");
        fs::write(&path, "# c\nshow\n----\na\nb\nc\n").unwrap();
        let error = run(&path, Mode::Compare, |_| "a\nB\nc".to_string()).unwrap_err();
        assert!(error.contains(":2: `show` differs in line 2 of its output (about line 5 of the file)"), "{error}");
        assert!(error.contains("      a\n    - b\n    + B\n      c\n"), "{error}");
        assert_eq!(run(&path, Mode::Compare, |_| "a\nb\nc".to_string()), Ok(1));
        assert!(run(&path, Mode::Compare, |_| "a\nb\nc\nd".to_string()).is_err());
        assert!(run(&path, Mode::Compare, |_| String::new()).is_err());
    }

    #[test]
    fn rewriting_keeps_all_but_the_output() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file.txt");
        let before =
            "# story\n\nfirst \\\n  a=1\ninput\n----\nold\n\n# between\nsecond\n----\nold\n# not a comment\n\n# end\n";
        fs::write(&path, before).unwrap();
        let answer = |directive: &Directive| match directive.command.as_str() {
            "first" => "new".to_string(),
            _ => "with\n\nblank\n".to_string(),
        };
        assert_eq!(run(&path, Mode::Rewrite, answer), Ok(2));
        let after = "# story\n\nfirst \\\n  a=1\ninput\n----\nnew\n\n# between\nsecond\n----\n----\nwith\n\nblank\n----\n----\n\n# end\n";
        assert_eq!(fs::read_to_string(&path).unwrap(), after);
        assert_eq!(run(&path, Mode::Compare, answer), Ok(2));
    }
}
