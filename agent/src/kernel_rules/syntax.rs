//! Rule files in auditctl's syntax: one line, one option set (audit.rules(7), auditctl(8)).
//!
//! Pure: user names and whether a watched path is a directory are asked of the caller. Every bad line of a file is
//! reported, each with its number.

use std::fmt;

use auditflow_audit_record::syscalls;

use super::field::{self, Kind};
use super::rule::{Action, Filter, Operand, Rule, Syscalls, Test, key_test};
use crate::netlink::StatusChange;

/// The longest key the kernel takes (`AUDIT_MAX_KEY_LEN`).
const MAX_KEY_BYTES: usize = 256;

/// What one line of a rule file asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// Load a rule.
    Add(Rule),
    /// Remove a rule.
    Delete(Rule),
    /// Remove every rule (`-D`).
    DeleteAll,
    /// Change a setting (`-b`, `-e`, `-f`, `-r`, `--backlog_wait_time`).
    Set(StatusChange),
    /// Go on after a line that the kernel refuses (`-c` and `-i`).
    ContinueOnError,
}

/// A line and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// The file as it was named.
    pub file: String,
    /// The line's number, from 1.
    pub line: usize,
    /// What it asks for.
    pub what: Line,
    /// Its text.
    pub text: String,
}

/// Why a line is not understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyntaxError {
    /// The file as it was named.
    pub file: String,
    /// The line's number, from 1.
    pub line: usize,
    /// What is wrong, and what would be right.
    pub problem: String,
}

impl fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.problem)
    }
}

impl std::error::Error for SyntaxError {}

/// What the parser asks of the machine.
pub struct Machine<'m> {
    /// The number of a user ([`Kind::User`]) or group ([`Kind::Group`]) by name.
    pub number_of: &'m dyn Fn(Kind, &str) -> Option<u32>,
    /// Whether a path is a directory: a watch on one covers what is below.
    pub is_directory: &'m dyn Fn(&str) -> bool,
}

/// Reads a rule file. Either every line is understood, or all that are not are reported.
pub fn parse_file(file: &str, text: &str, machine: &Machine<'_>) -> Result<Vec<Located>, Vec<SyntaxError>> {
    let mut lines = Vec::new();
    let mut errors = Vec::new();
    for (number, text) in (1..).zip(text.lines()) {
        let text = text.trim();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let file = file.to_owned();
        match parse_line(text, machine) {
            Ok(what) => lines.push(Located { file, line: number, what, text: text.to_owned() }),
            Err(problem) => errors.push(SyntaxError { file, line: number, problem }),
        }
    }
    if errors.is_empty() { Ok(lines) } else { Err(errors) }
}

fn parse_line(text: &str, machine: &Machine<'_>) -> Result<Line, String> {
    let words = split_words(text)?;
    let mut words = words.iter().map(String::as_str);
    let first = words.next().unwrap_or_default();
    let mut setting = |set: fn(u32) -> StatusChange| -> Result<Line, String> {
        let value = words.next().ok_or_else(|| format!("{first} needs a number"))?;
        let number = value.parse().map_err(|_| format!("{first} needs a number, not {value:?}"))?;
        match words.next() {
            None => Ok(Line::Set(set(number))),
            Some(more) => Err(format!("{more:?} after {first} {number}; write one option to a line")),
        }
    };
    match first {
        "-D" => Ok(Line::DeleteAll),
        "-c" | "-i" => Ok(Line::ContinueOnError),
        "-b" => setting(|limit| StatusChange { backlog_limit: Some(limit), ..StatusChange::default() }),
        "-e" => setting(|enabled| StatusChange { enabled: Some(enabled), ..StatusChange::default() }),
        "-f" => setting(|failure| StatusChange { failure: Some(failure), ..StatusChange::default() }),
        "-r" => setting(|limit| StatusChange { rate_limit: Some(limit), ..StatusChange::default() }),
        "--backlog_wait_time" => {
            setting(|time| StatusChange { backlog_wait_time: Some(time), ..StatusChange::default() })
        }
        "-w" | "-W" | "-a" | "-A" | "-d" => Options::parse(text)?.into_line(machine),
        _ => Err(format!(
            "unknown option {first:?}; known are -w, -W, -a, -A, -d, -D, -b, -e, -f, -r, -c, -i and --backlog_wait_time"
        )),
    }
}

/// The options of a rule's line, in their order, not yet understood.
struct Options(Vec<(char, String)>);

impl Options {
    fn parse(text: &str) -> Result<Self, String> {
        let words = split_words(text)?;
        let mut words = words.into_iter();
        let mut options = Vec::new();
        while let Some(word) = words.next() {
            let letter = match word.as_str() {
                "-w" | "-W" | "-a" | "-A" | "-d" | "-p" | "-k" | "-S" | "-F" | "-C" => word.chars().nth(1),
                _ => None,
            };
            let letter = letter.ok_or_else(|| format!("unknown option {word:?} in a rule"))?;
            let value = words.next().ok_or_else(|| format!("-{letter} needs a value"))?;
            options.push((letter, value));
        }
        Ok(Self(options))
    }

    fn into_line(self, machine: &Machine<'_>) -> Result<Line, String> {
        match self.0.split_first() {
            Some((('w', path), rest)) => Ok(Line::Add(watch(path, rest, machine)?)),
            Some((('W', path), rest)) => Ok(Line::Delete(watch(path, rest, machine)?)),
            Some((('a', list), rest)) => Ok(Line::Add(syscall_rule(list, false, rest, machine)?)),
            Some((('A', list), rest)) => Ok(Line::Add(syscall_rule(list, true, rest, machine)?)),
            Some((('d', list), rest)) => Ok(Line::Delete(syscall_rule(list, false, rest, machine)?)),
            _ => Err("a rule begins with -w, -W, -a, -A or -d".to_owned()),
        }
    }
}

fn watch(path: &str, options: &[(char, String)], machine: &Machine<'_>) -> Result<Rule, String> {
    if !path.starts_with('/') {
        return Err(format!("a watch needs an absolute path, not {path:?}"));
    }
    let trimmed = path.trim_end_matches('/');
    let path = if trimmed.is_empty() { "/" } else { trimmed };
    let mut permissions = field::permissions("rwxa").unwrap_or_default();
    let mut keys = Vec::new();
    for (letter, value) in options {
        match letter {
            'p' => permissions = field::permissions(value).ok_or_else(|| bad_permissions(value))?,
            'k' => keys.push(key(value)?),
            _ => {
                return Err(format!(
                    "-{letter} does not go with a watch; write it as -a always,exit -F path={path}"
                ));
            }
        }
    }
    Ok(Rule::watch(path, (machine.is_directory)(path), permissions, &keys))
}

fn syscall_rule(
    list: &str,
    prepend: bool,
    options: &[(char, String)],
    machine: &Machine<'_>,
) -> Result<Rule, String> {
    let (filter, action) = list_and_action(list)?;
    let mut tests = Vec::new();
    let mut keys = Vec::new();
    let mut syscalls: Option<Syscalls> = None;
    let mut arch = None;
    for (letter, value) in options {
        match letter {
            'F' => {
                let test = field_test(value, machine)?;
                match (&test.operand, test.field) {
                    (Operand::Number(number), field::ARCH) => {
                        if syscalls.is_some() {
                            return Err(
                                "-F arch must stand before -S: it says whose numbers are meant".to_owned()
                            );
                        }
                        arch = Some(*number);
                        tests.push(test);
                    }
                    (Operand::Text(text), field::KEY) => keys.push(key(&String::from_utf8_lossy(text))?),
                    _ => tests.push(test),
                }
            }
            'C' => tests.push(comparison(value)?),
            'k' => keys.push(key(value)?),
            'S' => {
                let set = syscalls.get_or_insert(Syscalls::NONE);
                for name in value.split(',') {
                    add_syscall(set, name, arch)?;
                }
            }
            _ => return Err(format!("-{letter} does not go with -a; write -F perm= for -p")),
        }
    }
    tests.extend(key_test(&keys));
    let syscalls = match (syscalls, filter) {
        (Some(_), Filter::Task | Filter::User | Filter::Exclude | Filter::Filesystem) => {
            return Err("-S goes with the exit list only".to_owned());
        }
        (Some(syscalls), _) => syscalls,
        (None, Filter::Task) => Syscalls::NONE,
        (None, _) => Syscalls::all(),
    };
    let rule = Rule { filter, prepend, action, syscalls, tests };
    match rule.encode() {
        Some(_) => Ok(rule),
        None => Err("a rule has at most 64 fields; split it".to_owned()),
    }
}

fn list_and_action(text: &str) -> Result<(Filter, Action), String> {
    let (left, right) = text
        .split_once(',')
        .ok_or_else(|| format!("write a list and an action, like always,exit, not {text:?}"))?;
    let filter = |name| match name {
        "user" => Some(Filter::User),
        "task" => Some(Filter::Task),
        "exit" => Some(Filter::Exit),
        "exclude" => Some(Filter::Exclude),
        "filesystem" => Some(Filter::Filesystem),
        "io_uring" => Some(Filter::IoUring),
        _ => None,
    };
    let action = |name| match name {
        "always" => Some(Action::Always),
        "never" => Some(Action::Never),
        _ => None,
    };
    filter(left)
        .zip(action(right))
        .or_else(|| filter(right).zip(action(left)))
        .ok_or_else(|| format!("{text:?} is not a list (exit, exclude, task, user, filesystem, io_uring) and an action (always, never)"))
}

fn field_test(text: &str, machine: &Machine<'_>) -> Result<Test, String> {
    let (name, operator, value) = split_test(text)?;
    let field = field::by_name(name).ok_or_else(|| format!("unknown field {name:?}"))?;
    let operand = if field.kind == Kind::Text {
        if !matches!(operator, field::EQUAL | field::NOT_EQUAL) {
            return Err(format!("{name} is text: only = and != compare it"));
        }
        if value.is_empty() {
            return Err(format!("{name} needs a value"));
        }
        Operand::Text(value.as_bytes().to_vec())
    } else {
        let number = field::number(field.kind, value, machine.number_of);
        Operand::Number(number.ok_or_else(|| format!("{value:?} is no value for {name}"))?)
    };
    Ok(Test { field: field.number, operator, operand })
}

fn comparison(text: &str) -> Result<Test, String> {
    let (left, operator, right) = split_test(text)?;
    if !matches!(operator, field::EQUAL | field::NOT_EQUAL) {
        return Err("-C compares with = or !=".to_owned());
    }
    let number = field::comparison(left, right)
        .ok_or_else(|| format!("the kernel does not compare {left} with {right}"))?;
    Ok(Test { field: field::FIELD_COMPARE, operator, operand: Operand::Number(number) })
}

fn split_test(text: &str) -> Result<(&str, u32, &str), String> {
    let start = text
        .find(['!', '<', '>', '&', '='])
        .ok_or_else(|| format!("{text:?} has no operator, like uid=0"))?;
    let (name, rest) = text.split_at(start);
    let operator = field::OPERATORS.iter().find_map(|&(sign, bits)| Some((bits, rest.strip_prefix(sign)?)));
    let (operator, value) = operator.ok_or_else(|| format!("{text:?} has no operator, like uid=0"))?;
    Ok((name, operator, value))
}

fn add_syscall(set: &mut Syscalls, name: &str, arch: Option<u32>) -> Result<(), String> {
    if name == "all" {
        *set = Syscalls::all();
        return Ok(());
    }
    let arch = arch.or_else(|| field::arch("b64")).or_else(|| field::arch("b32")).unwrap_or_default();
    let number = name.parse().ok().or_else(|| syscalls::number(arch, name));
    let number = number.ok_or_else(|| format!("unknown system call {name:?} for this architecture"))?;
    if set.insert(number) { Ok(()) } else { Err(format!("system call {number} is out of range")) }
}

fn key(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > MAX_KEY_BYTES {
        return Err(format!("a key has 1 to {MAX_KEY_BYTES} bytes"));
    }
    Ok(text.to_owned())
}

fn bad_permissions(text: &str) -> String {
    format!("{text:?} is not made of r, w, x and a, each at most once")
}

/// Words separated by blanks; quotes hold blanks together.
fn split_words(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for character in text.chars() {
        match (quote, character) {
            (Some(open), _) if open == character => quote = None,
            (None, '"' | '\'') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (None, _) if character.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(character),
        }
    }
    words.extend(word);
    if quote.is_some() { Err("a quote is not closed".to_owned()) } else { Ok(words) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Line, String> {
        let machine = Machine {
            number_of: &|kind, name| (kind == Kind::User && name == "deploy").then_some(1000),
            is_directory: &|path| path == "/etc/cron.d",
        };
        parse_line(text, &machine)
    }

    fn added(text: &str) -> Rule {
        match parse(text) {
            Ok(Line::Add(rule)) => rule,
            other => panic!("{text}: {other:?}"),
        }
    }

    fn numbers(rule: &Rule) -> Vec<(u32, u32)> {
        let number = |test: &Test| match test.operand {
            Operand::Number(number) => Some((test.field, number)),
            Operand::Text(_) => None,
        };
        rule.tests.iter().filter_map(number).collect()
    }

    #[test]
    fn a_watch_is_a_path_or_a_directory_with_permissions_and_a_key() {
        let file = added("-w /etc/shadow -p wa -k identity");
        assert_eq!(file, Rule::watch("/etc/shadow", false, 2 | 8, &["identity".to_owned()]));
        let directory = added("-w /etc/cron.d/ -p wa");
        assert_eq!(directory.tests[0].field, field::DIR);
        assert_eq!(directory.tests[0].operand, Operand::Text(b"/etc/cron.d".to_vec()));
        assert_eq!(numbers(&added("-w /x")), [(field::PERM, 15)]);
    }

    #[test]
    fn names_of_users_errors_and_types_become_the_kernels_numbers() {
        for (text, expected) in [
            ("-a always,exit -F uid=deploy", (1, 1000)),
            ("-a always,exit -F auid!=unset", (9, u32::MAX)),
            ("-a exit,always -F auid>=1000", (9, 1000)),
            ("-a always,exit -F exit=-EACCES", (103, -13_i32 as u32)),
            ("-a always,exit -F success=no", (104, 0)),
            ("-a always,exclude -F msgtype=CWD", (12, 1307)),
            ("-a always,exit -F filetype=dir", (108, 0o040_000)),
            ("-a always,exit -F a1&0x3", (201, 3)),
            ("-a always,exit -F a1&06000", (201, 0xC00)),
            ("-a always,exit -C auid!=obj_uid", (field::FIELD_COMPARE, 5)),
        ] {
            assert_eq!(numbers(&added(text)), [expected], "{text}");
        }
    }

    #[test]
    fn system_calls_are_numbered_by_the_architecture_before_them() {
        let with =
            |arch: &str, names: &str| added(&format!("-a always,exit -F arch={arch} -S {names}")).syscalls;
        let mut expected = Syscalls::NONE;
        assert!(expected.insert(59) && expected.insert(322));
        assert_eq!(with("x86_64", "execve,execveat"), expected);
        assert_eq!(with("x86_64", "execve -S execveat"), expected);
        let mut narrow = Syscalls::NONE;
        assert!(narrow.insert(11));
        assert_eq!(with("i386", "execve"), narrow);
        assert_eq!(with("aarch64", "all"), Syscalls::all());
        assert_eq!(added("-a task,never").syscalls, Syscalls::NONE);
        assert_eq!(added("-a never,exclude -F msgtype=CWD").syscalls, Syscalls::all());
    }

    #[test]
    fn what_is_not_understood_says_why() {
        for (text, problem) in [
            ("-w etc/shadow", "absolute path"),
            ("-w /x -p q", "made of r, w, x and a"),
            ("-w /x -p ww", "each at most once"),
            ("-w /x -S open", "does not go with a watch"),
            ("-a always", "a list and an action"),
            ("-a always,never", "is not a list"),
            ("-a always,exit -F", "-F needs a value"),
            ("-a always,exit -F colour=red", "unknown field \"colour\""),
            ("-a always,exit -F uid=nobody-here", "no value for uid"),
            ("-a always,exit -F path>/x", "only = and !="),
            ("-a always,exit -S fly", "unknown system call"),
            ("-a always,exit -S execve -F arch=b64", "must stand before -S"),
            ("-a always,exit -S 2016", "out of range"),
            ("-a always,exit -C uid=exe", "does not compare"),
            ("-a always,exit -F path=/x -k 'a b", "not closed"),
            ("-b many", "needs a number"),
            ("-b 8192 -f 1", "one option to a line"),
            ("-R other.rules", "unknown option"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(problem), "{text}: {error}");
        }
    }

    #[test]
    fn every_bad_line_of_a_file_is_reported_with_its_number() {
        let machine = Machine { number_of: &|_, _| None, is_directory: &|_| false };
        let errors = parse_file("x.rules", "# comment\n-D\n\n-w x\n-b 1\n-z\n", &machine).unwrap_err();
        let lines: Vec<usize> = errors.iter().map(|error| error.line).collect();
        assert_eq!(lines, [4, 6]);
        assert!(errors[0].to_string().starts_with("x.rules:4: "));
    }

    #[test]
    fn more_tests_than_the_kernel_takes_are_refused() {
        let line = format!("-a always,exit{}", " -F uid=1".repeat(65));
        assert!(parse(&line).expect_err("too many").contains("at most 64"));
    }

    proptest::proptest! {
        #[test]
        fn no_line_makes_the_parser_panic(text in "[ -~\\PC]{0,80}", rule in "-[aAwWd] [ -~]{0,60}") {
            let _ = parse(&text);
            let _ = parse(&rule);
        }
    }
}
