use super::*;

fn event(lines: &[&str]) -> AuditEvent {
    let records: Vec<_> = lines
        .iter()
        .map(|line| {
            Record::from_line(format!("type={}", line.replacen(' ', " msg=audit(1.000:1): ", 1)).as_bytes())
                .unwrap()
        })
        .collect();
    AuditEvent { stamp: records[0].stamp, node: None, records, completion: Completion::Proctitle }
}

#[test]
fn what_the_records_say_together_is_read_from_the_right_ones() {
    let event = event(&[
        "SYSCALL arch=c000003e syscall=59 a0=55 key=657865630163726F6E",
        "EXECVE argc=2 a0=\"ls\" a1=2D6C20",
        "SOCKADDR saddr=02000035080808080000000000000000",
        "CWD cwd=\"/root\"",
        "PATH item=0 name=\"/bin/ls\" inode=5",
        "PATH item=1 name=\"/lib/ld.so\" inode=6",
        "PROCTITLE proctitle=6C73002D6C2000",
    ]);
    assert_eq!(event.record(RecordType::CWD).unwrap().kind, RecordType::CWD);
    assert_eq!(event.record(RecordType::EOE), None);
    assert_eq!(event.args().unwrap().command_line(), "ls -l ");
    assert_eq!(event.title().as_deref(), Some("ls -l "));
    assert_eq!(event.socket().unwrap().to_string(), "8.8.8.8:53");
    assert_eq!(event.cwd().as_deref(), Some("/root"));
    assert_eq!(event.paths().map(|path| path.inode.unwrap()).collect::<Vec<_>>(), [5, 6]);
    assert_eq!(event.keys(), ["exec", "cron"]);
}

#[test]
fn what_the_records_do_not_say_is_absent() {
    let event =
        event(&["SYSCALL key=(null)", "PROCTITLE proctitle=(null)", "CWD cwd=(null)", "SOCKADDR saddr=zz"]);
    assert_eq!(event.args(), None);
    assert_eq!(event.title(), None);
    assert_eq!(event.socket(), None);
    assert_eq!(event.cwd(), None);
    assert_eq!(event.paths().count(), 0);
    assert!(event.keys().is_empty());
}

#[test]
fn a_quoted_title_is_one_word() {
    assert_eq!(event(&["PROCTITLE proctitle=\"bash\""]).title().as_deref(), Some("bash"));
    assert_eq!(event(&["PROCTITLE proctitle=0000"]).title(), None);
}
