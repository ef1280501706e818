use std::fs;

use auditflow_audit_record::{Assembler, Limits};

use super::*;

fn event(lines: &[&str]) -> Event {
    let mut assembler = Assembler::new(Limits::default());
    for line in lines {
        assembler.push(Record::from_line(line.as_bytes()).unwrap(), Duration::ZERO);
    }
    assembler.flush();
    Event::audit(None, assembler.pop().unwrap())
}

fn node() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let id = "c".repeat(64);
    let uid = "0e1f2a3b-4c5d-6e7f-8a9b-0c1d2e3f4a5b";
    for dir in ["etc", "proc/50", &format!("var/log/pods/shop_web-1_{uid}"), "var/log/containers"] {
        fs::create_dir_all(root.path().join(dir)).unwrap();
    }
    let write = |path: &str, text: &str| fs::write(root.path().join(path), text).unwrap();
    write("etc/passwd", "root:x:0:0::/root:/bin/sh\nanna:x:1000:1000::/home/anna:/bin/sh\n");
    write("etc/group", "root:x:0:\nstaff:x:1000:\n");
    write("proc/50/stat", "50 (bash) S 1 1 1 0 -1 4194560 1 1 0 0 1 1 0 0 20 0 1 0 150 1000 1");
    write("proc/50/cgroup", &format!("0::/kubepods/burstable/pod{uid}/{id}"));
    write(&format!("var/log/containers/web-1_shop_nginx-{id}.log"), "");
    root
}

const SYSCALL: &str = "type=SYSCALL msg=audit(1700000000.000:1): arch=c000003e syscall=59 success=yes exit=0 ppid=50 pid=60 auid=1000 uid=0 gid=1000 euid=0 comm=\"ls\" exe=\"/usr/bin/ls\"";

fn at(seconds: i64) -> Moment {
    Moment { wall: Timestamp::from_micros(seconds * 1_000_000), monotonic: Duration::from_secs(1) }
}

#[test]
fn a_fresh_event_gets_names_ancestors_container_and_pod() {
    let root = node();
    let mut event = event(&[SYSCALL, "type=EXECVE msg=audit(1700000000.000:1): argc=2 a0=\"ls\" a1=\"-l\""]);
    Enricher::new(root.path()).enrich(&mut event, at(1_700_000_001));
    let context = event.context.unwrap();
    assert_eq!(
        (context.user(0), context.user(1000), context.group(1000)),
        (Some("root"), Some("anna"), Some("staff"))
    );
    assert_eq!(context.ancestors.len(), 1);
    assert_eq!((context.ancestors[0].pid, context.ancestors[0].name.as_deref()), (50, Some("bash")));
    let container = context.container.unwrap();
    assert_eq!(
        (container.pod_name.as_deref(), container.namespace.as_deref()),
        (Some("web-1"), Some("shop"))
    );
    assert_eq!(
        (container.name.as_deref(), container.runtime.as_deref()),
        (Some("nginx"), Some("containerd"))
    );
}

#[test]
fn an_old_event_gets_names_but_nothing_of_the_processes_of_now() {
    let root = node();
    let mut enricher = Enricher::new(root.path());
    enricher.processes = Processes::new(root.path().join("proc"));
    let mut event = event(&[SYSCALL]);
    enricher.enrich(&mut event, at(1_700_009_999));
    let context = event.context.unwrap();
    assert_eq!(context.user(1000), Some("anna"));
    assert_eq!((context.ancestors.len(), context.container), (0, None));
}

#[test]
fn the_command_line_of_a_program_is_known_to_its_children() {
    let mut enricher = Enricher::new(&node().path().join("nothing"));
    let mut parent = event(&[SYSCALL, "type=EXECVE msg=audit(1700000000.000:1): argc=2 a0=\"ls\" a1=\"-l\""]);
    enricher.enrich(&mut parent, at(1_700_000_000));
    let fork = "type=SYSCALL msg=audit(1700000000.000:2): arch=c000003e syscall=57 success=yes exit=61 ppid=50 pid=60 uid=0 comm=\"ls\" exe=\"/usr/bin/ls\"";
    enricher.enrich(&mut event(&[fork]), at(1_700_000_000));
    let mut grandchild = event(&[&SYSCALL.replace("ppid=50 pid=60", "ppid=61 pid=62").replace(":1)", ":3)")]);
    enricher.enrich(&mut grandchild, at(1_700_000_000));
    let titles: Vec<_> =
        grandchild.context.unwrap().ancestors.into_iter().map(|one| (one.pid, one.title)).collect();
    assert_eq!(titles, [(61, Some("ls -l".into())), (60, Some("ls -l".into()))]);
}

#[test]
fn names_that_auditd_has_appended_are_not_looked_up_again() {
    let root = node();
    let mut event = event(&[&format!("{SYSCALL}\u{1d}AUID=\"anna\" UID=\"root\"")]);
    Enricher::new(root.path()).enrich(&mut event, at(1_700_000_001));
    assert!(event.context.is_none_or(|context| context.users.is_empty()));
}
