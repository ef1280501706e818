//! Small rule sets, and an event or two to try them on.

use auditflow_event::Event;
use auditflow_rules::{Limits, LoadError, RuleSet};
use tempfile::TempDir;

use super::files::{dir, paths};

pub(crate) const WHOAMI: &str = "\
title: Whoami
id: whoami
logsource: { product: linux, category: process_creation }
detection:
  selection: { Image|endswith: /whoami }
  condition: selection
level: low
";

pub(crate) const LOGIN: &str = "\
title: Failed Login
id: login
name: failed_login
logsource: { product: auditflow }
detection:
  selection: { event_type: user_login, event.outcome: failure }
  condition: selection
";

pub(crate) fn load(dirs: &[&TempDir]) -> Result<RuleSet, LoadError> {
    RuleSet::load(&paths(dirs), &Limits::default())
}

/// The one problem of one file with this text, as `line: message`.
pub(crate) fn problem(text: &str) -> String {
    let dir = dir(&[("rule.yml", text)]);
    let error = load(&[&dir]).unwrap_err();
    let [problem] = error.problems() else { panic!("{error}") };
    assert!(problem.file.ends_with("rule.yml"));
    format!("{}: {}", problem.line, problem.message)
}

pub(crate) fn exec(image: &str) -> Event {
    let lines = format!(
        "type=SYSCALL msg=audit(1.000:1): arch=c000003e syscall=59 success=yes exit=0 ppid=1 pid=2 auid=4294967295 uid=0 exe=\"{image}\" key=(null)\n\
         type=EXECVE msg=audit(1.000:1): argc=1 a0=\"{image}\"\n"
    );
    let mut assembler = auditflow_audit_record::Assembler::new(auditflow_audit_record::Limits::default());
    for line in lines.lines() {
        assembler.push(
            auditflow_audit_record::Record::from_line(line.as_bytes()).unwrap(),
            std::time::Duration::ZERO,
        );
    }
    assembler.flush();
    Event::audit(None, assembler.pop().unwrap())
}

pub(crate) fn fired(set: &RuleSet, event: &Event) -> Vec<String> {
    let mut found = Vec::new();
    set.detect(event, None, &mut found);
    found.iter().map(|detection| detection.id().to_string()).collect()
}
