//! Kernel audit records and what they mean, as real programs and kernels write them.

mod kit;

use auditflow_event::meaning::table;
use auditflow_event::{Ancestor, Container, Context, EventJson, EventType, Outcome};
use kit::{audit, event, json, summary};

const SSHD: &str = "pid=900 uid=0 auid=4294967295 ses=4294967295 subj=unconfined";

/// A SYSCALL record of an x86 machine, 64 bits, by a user who logged in as alice and became root.
fn call(number: u32, rest: &str) -> String {
    format!(
        "SYSCALL arch=c000003e syscall={number} {rest} items=0 ppid=10 pid=11 auid=1000 uid=0 gid=0 euid=0 suid=0 \
         fsuid=0 egid=0 sgid=0 fsgid=0 tty=pts0 ses=2 comm=\"x\" exe=\"/usr/bin/x\" key=\"k\"\u{1d}ARCH=x86_64 \
         SYSCALL=? AUID=\"alice\" UID=\"root\" GID=\"root\" EUID=\"root\" SUID=\"root\" FSUID=\"root\" EGID=\"root\" \
         SGID=\"root\" FSGID=\"root\""
    )
}

#[test]
fn records_of_programs_mean_what_they_report() {
    let user = |kind: &str, rest: &str| {
        let (rest, enriched) = rest.split_once("'\u{1d}").unwrap_or((rest, ""));
        format!("{kind} {SSHD} msg='{rest}'{}{enriched}", if enriched.is_empty() { "" } else { "\u{1d}" })
    };
    let ssh = "exe=\"/usr/sbin/sshd\" hostname=10.0.0.7 addr=10.0.0.7 terminal=ssh";
    let cases = [
        user("USER_LOGIN", &format!("op=login id=1000 {ssh} res=success'\u{1d}UID=\"root\" AUID=\"unset\" ID=\"alice\"")),
        user("USER_LOGIN", &format!("op=login acct=\"mallory\" {ssh} res=failed")),
        user("USER_LOGIN", &format!("op=login acct=28756E6B6E6F776E207573657229 {ssh} res=failed")),
        user("USER_AUTH", &format!("op=PAM:authentication grantors=? acct=\"alice\" {ssh} res=failed")),
        user("USER_ERR", &format!("op=PAM:bad_ident grantors=? acct=\"?\" {ssh} res=failed")),
        user("USER_ACCT", &format!("op=PAM:accounting acct=\"alice\" {ssh} res=success")),
        user("USER_START", &format!("op=PAM:session_open acct=\"alice\" {ssh} res=success")),
        user("USER_END", &format!("op=PAM:session_close acct=\"alice\" {ssh} res=success")),
        user("CRED_ACQ", &format!("op=PAM:setcred acct=\"alice\" {ssh} res=success")),
        user("USER_LOGOUT", &format!("op=login id=1000 {ssh} res=success")),
        "LOGIN pid=900 uid=0 old-auid=4294967295 auid=1000 tty=(none) old-ses=4294967295 ses=2 res=1".into(),
        "USER_CMD pid=12 uid=1000 auid=1000 ses=2 msg='cwd=\"/home/alice\" cmd=636174202F6574632F736861646F77 \
         exe=\"/usr/bin/sudo\" terminal=pts/0 res=failed'\u{1d}UID=\"alice\" AUID=\"alice\""
            .into(),
        user("ADD_USER", "op=add-user acct=\"eve\" exe=\"/usr/sbin/useradd\" hostname=? addr=? terminal=? res=success"),
        user("DEL_USER", "op=delete-user id=1001 exe=\"/usr/sbin/userdel\" res=success'\u{1d}ID=\"eve\""),
        user("ADD_GROUP", "op=add-group id=1001 exe=\"/usr/sbin/groupadd\" res=success"),
        user("USER_MGMT", "op=add-user-to-group grp=\"sudo\" acct=\"eve\" exe=\"/usr/sbin/usermod\" res=success"),
        user("USER_CHAUTHTOK", "op=PAM:chauthtok acct=\"eve\" exe=\"/usr/bin/passwd\" res=failed"),
        user("ACCT_LOCK", "op=locked-password id=1001 exe=\"/usr/bin/passwd\" res=success"),
        user("CHGRP_ID", "op=changing-primary-group id=1001 exe=\"/usr/sbin/usermod\" res=success"),
        user("SERVICE_START", "unit=k3s comm=\"systemd\" exe=\"/lib/systemd/systemd\" res=success"),
        user("SERVICE_STOP", "unit=k3s comm=\"systemd\" exe=\"/lib/systemd/systemd\" res=failed"),
        user("CRYPTO_KEY_USER", &format!("op=destroy kind=server fp=? direction=? spid=1 suid=0 {ssh} res=success")),
        "DAEMON_END op=terminate auid=0 uid=0 ses=2 pid=1 res=success".into(),
        "CONFIG_CHANGE auid=1000 ses=2 op=remove_rule key=\"k\" list=4 res=1".into(),
        "ANOM_ABEND auid=1000 uid=1000 gid=1000 ses=2 pid=5 comm=\"x\" exe=\"/x\" sig=11 res=1".into(),
        "ANOM_PROMISCUOUS dev=eth0 prom=256 old_prom=0 auid=1000 uid=0 gid=0 ses=2".into(),
        "SECCOMP auid=1000 uid=1000 gid=1000 ses=2 pid=5 comm=\"x\" exe=\"/x\" sig=31 arch=c000003e syscall=101 \
         compat=0 ip=0x7f code=0x80000000"
            .into(),
        "AVC avc:  denied  { read } for  pid=5 comm=\"cat\" name=\"shadow\" dev=\"sda1\" ino=7 scontext=a tcontext=b \
         tclass=file permissive=0"
            .into(),
        "AVC apparmor=\"DENIED\" operation=\"open\" profile=\"p\" name=\"/etc/shadow\" pid=5 comm=\"cat\"".into(),
        "AVC apparmor=\"STATUS\" operation=\"profile_load\" profile=\"unconfined\" name=\"p\" pid=5".into(),
        "INTEGRITY_DATA pid=5 uid=0 auid=1000 ses=2 op=appraise_data cause=invalid-hash comm=\"x\" name=\"/x\" res=0"
            .into(),
        "UNKNOWN[1399] a=1".into(),
    ];
    let lines: Vec<String> = cases
        .iter()
        .map(|line| {
            let event = event(&[line]);
            let kind = line.split(' ').next().unwrap();
            format!("{kind}: {}", summary(&event.meaning()))
        })
        .collect();
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn system_calls_mean_what_they_do() {
    let cwd = "CWD cwd=\"/etc\"";
    let path = |name: &str, kind: &str| {
        format!(
            "PATH item=0 name=\"{name}\" inode=5 dev=fe:00 mode=0100640 ouid=0 ogid=42 rdev=00:00 nametype={kind}"
        )
    };
    let inet = "SOCKADDR saddr=02000050C0000207000000000000000000";
    let open = |flags: &str| call(257, &format!("success=yes exit=3 a0=ffffff9c a1=7f a2={flags} a3=0"));
    let ok = "success=yes exit=0 a0=0 a1=0 a2=0 a3=0";
    let at_cwd = "success=yes exit=0 a0=ffffff9c a1=0 a2=ffffff9c a3=0";
    let cases: Vec<(&str, Vec<String>)> = vec![
        ("open to read", vec![open("80000"), cwd.into(), path("shadow", "NORMAL")]),
        ("open to write", vec![open("80241"), cwd.into(), path("shadow", "NORMAL")]),
        ("open creating", vec![open("80241"), cwd.into(), path("/etc", "PARENT"), path("new", "CREATE")]),
        ("open by descriptor", vec![
            call(257, "success=yes exit=3 a0=4 a1=7f a2=0 a3=0"),
            cwd.into(),
            path("shadow", "NORMAL"),
        ]),
        ("open denied", vec![
            call(257, "success=no exit=-13 a0=ffffff9c a1=7f a2=1 a3=0"),
            cwd.into(),
            path("/etc/../etc/shadow", "NORMAL"),
        ]),
        ("openat2 to read", vec![
            call(437, "success=yes exit=3 a0=ffffff9c a1=7f a2=7e a3=18"),
            "OPENAT2 oflag=02000000 mode=00 resolve=0x8".into(),
            path("/etc/shadow", "NORMAL"),
        ]),
        ("openat2 unknown", vec![
            call(437, "success=yes exit=3 a0=ffffff9c a1=7f a2=7e a3=18"),
            path("/etc/shadow", "NORMAL"),
        ]),
        ("rename", vec![
            call(316, at_cwd),
            cwd.into(),
            path("old", "DELETE"),
            path("passwd", "CREATE"),
        ]),
        ("unlink", vec![call(263, at_cwd), cwd.into(), path("/etc", "PARENT"), path("passwd", "DELETE")]),
        ("chmod", vec![call(90, ok), path("/etc/passwd", "NORMAL")]),
        ("chown", vec![call(92, ok), path("/etc/passwd", "NORMAL")]),
        ("setxattr", vec![call(188, ok), path("/etc/passwd", "NORMAL")]),
        ("mkdir", vec![call(83, ok), path("/etc/x", "CREATE")]),
        ("symlink", vec![call(88, ok), path("/etc/x", "CREATE")]),
        ("truncate", vec![call(76, ok), path("/etc/x", "NORMAL")]),
        ("stat", vec![call(4, ok), path("/etc/x", "NORMAL")]),
        ("execve", vec![call(59, ok), "EXECVE argc=2 a0=\"ls\" a1=\"-l\"".into(), path("/usr/bin/ls", "NORMAL")]),
        ("connect", vec![call(42, "success=no exit=-115 a0=3 a1=7f a2=10 a3=0"), inet.into()]),
        ("accept", vec![call(43, "success=yes exit=5 a0=3 a1=7f a2=10 a3=0"), inet.into()]),
        ("connect unix", vec![call(42, ok), "SOCKADDR saddr=01002F72756E2F782E736F636B00".into()]),
        ("init_module", vec![call(313, ok), "KERN_MODULE name=\"evil\"".into()]),
        ("delete_module", vec![call(176, ok)]),
        ("setuid", vec![call(105, ok)]),
        ("ptrace", vec![call(101, ok)]),
        ("unshare", vec![call(272, ok)]),
        ("mount", vec![call(165, ok)]),
        ("settimeofday", vec![call(164, ok)]),
        ("kill", vec![call(62, ok), "OBJ_PID opid=9 oauid=-1 ouid=0 oses=-1 ocomm=\"x\"".into()]),
        ("sched_yield", vec![call(24, ok)]),
        ("number 9999", vec![call(9999, ok)]),
        ("config change", vec![call(44, ok), "CONFIG_CHANGE op=set audit_enabled=0 old=1 auid=1000 ses=2 res=1".into()]),
        ("firewall", vec![call(46, ok), "NETFILTER_CFG table=filter:5 family=2 entries=3 op=nft_register_rule".into()]),
        ("io_uring open", vec![
            "URINGOP uring_op=18 success=yes exit=3 items=1 ppid=1 pid=2 uid=0 gid=0 euid=0 tty=pts0 key=\"k\"".into(),
            path("/etc/shadow", "NORMAL"),
        ]),
        ("exec remnant", vec!["EXECVE argc=1 a0=\"ls\"".into(), path("/usr/bin/ls", "NORMAL")]),
        ("path remnant", vec![path("/etc/shadow", "NORMAL")]),
    ];
    let lines: Vec<String> = cases
        .iter()
        .map(|(name, lines)| {
            let event = event(&lines.iter().map(String::as_str).collect::<Vec<_>>());
            format!("{name}: {}", summary(&event.meaning()))
        })
        .collect();
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn an_execution_is_shown_whole() {
    let mut event = event(&[
        "SYSCALL arch=c000003e syscall=59 success=yes exit=0 a0=1 a1=2 a2=3 a3=8 items=2 ppid=10 pid=11 auid=1000 uid=0 \
         gid=0 euid=0 suid=0 fsuid=0 egid=0 sgid=0 fsgid=0 tty=pts0 ses=2 comm=\"ls\" exe=\"/usr/bin/ls\" \
         key=657865630172746F6F\u{1d}ARCH=x86_64 SYSCALL=execve AUID=\"unknown(1000)\" UID=\"root\" GID=\"root\"",
        "EXECVE argc=3 a0=\"ls\" a1=2D6C2022612062\"2 a2=\"é\"",
        "CWD cwd=\"/root\"",
        "PATH item=0 name=\"/usr/bin/ls\" inode=5 dev=fe:00 mode=0100755 ouid=0 ogid=0 rdev=00:00 nametype=NORMAL \
         cap_fp=0\u{1d}OUID=\"root\" OGID=\"root\"",
        "PATH item=1 name=2F6C6962FF inode=6 dev=fe:00 mode=0100755 ouid=0 ogid=0 rdev=00:00 nametype=NORMAL",
        "PROCTITLE proctitle=6C73002D6C",
    ]);
    event.tags = vec!["shell".into()];
    event.context = Some(Box::new(Context {
        users: vec![(1000, "alice".into())],
        groups: Vec::new(),
        ancestors: vec![
            Ancestor {
                pid: 10,
                executable: Some("/bin/bash".into()),
                name: Some("bash".into()),
                ..Ancestor::default()
            },
            Ancestor { pid: 1, name: Some("systemd".into()), ..Ancestor::default() },
        ],
        container: Some(Container {
            id: "c0ffee".into(),
            runtime: Some("containerd".into()),
            pod_name: Some("web-0".into()),
            namespace: Some("shop".into()),
            ..Container::default()
        }),
    }));
    let host = auditflow_event::HostFacts {
        id: Some("000102030405060708090a0b0c0d0e0f".parse().unwrap()),
        name: Some("node-1".into()),
        boot_id: Some("b".into()),
        labels: vec![("site".into(), "north".into())],
        rule_set: Some("r7".into()),
    };
    let json = EventJson { event: &event, host: Some(&host) };
    insta::assert_json_snapshot!(serde_json::to_value(json).unwrap());
}

#[test]
fn a_failed_login_is_shown_with_the_ancestors_names() {
    let event = event(&[&format!(
        "USER_LOGIN {SSHD} msg='op=login acct=\"mallory\" exe=\"/usr/sbin/sshd\" hostname=10.0.0.7 addr=10.0.0.7 \
         terminal=ssh res=failed'"
    )]);
    insta::assert_snapshot!(EventJson::of(&event).to_text());
}

#[test]
fn what_a_program_writes_in_its_message_is_no_word_of_the_kernel() {
    let event = event(&[&format!(
        "USER_AUTH {SSHD} msg='op=x acct=\"a\" euid=0 uid=7 success=yes syscall=59 arch=c000003e res=failed'"
    )]);
    let meaning = event.meaning();
    assert_eq!(meaning.event_type, EventType::UserLogin);
    assert_eq!(meaning.outcome, Some(Outcome::Failure));
    assert_eq!(meaning.user.effective.id.as_deref(), Some("0"), "the kernel's uid, not the message's");
    assert!(meaning.syscall.is_none());
}

#[test]
fn a_repeated_field_is_shown_once_and_the_first_wins() {
    let event = event(&["USER_TTY pid=1 uid=0 msg='a=1 a=2 pid=3'"]);
    let fields = &json(&event)["auditd"]["records"][0]["fields"];
    assert_eq!(fields, &serde_json::json!({"pid": "1", "uid": "0", "a": "1"}));
}

#[test]
fn thousands_of_arguments_are_all_shown() {
    use std::fmt::Write as _;
    let mut line = String::from("EXECVE argc=5000");
    for n in 0..5000 {
        let _ = write!(line, " a{n}=\"{n}\"");
    }
    let event = event(&[&line]);
    let json = json(&event);
    assert_eq!(json["process"]["args"].as_array().unwrap().len(), 5000);
    assert_eq!(json["auditd"]["records"][0]["fields"].as_object().unwrap().len(), 5001);
}

#[test]
fn bytes_that_are_no_text_are_shown_as_they_were_logged() {
    let event = event(&["PATH item=0 name=2F746D702FFF nametype=NORMAL", "PROCTITLE proctitle=6C73002D6C"]);
    let json = json(&event);
    assert_eq!(json["file"]["path"], "/tmp/\u{fffd}");
    assert_eq!(json["auditd"]["records"][0]["fields"]["name"], "2F746D702FFF");
    assert_eq!(json["auditd"]["records"][1]["fields"]["proctitle"], "ls -l");
}

#[test]
fn meaning_does_not_depend_on_the_order_of_records() {
    let lines = [
        call(44, "success=yes exit=0 a0=0 a1=0 a2=0 a3=0"),
        "CONFIG_CHANGE op=set audit_enabled=0 old=1 auid=7 ses=2 res=1".into(),
        "AVC avc:  denied  { nlmsg_write } for  pid=5 comm=\"x\" permissive=0".into(),
    ];
    let mut lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let first = summary(&event(&lines).meaning());
    lines.reverse();
    assert_eq!(summary(&event(&lines).meaning()), first);
}

#[test]
fn every_name_in_the_table_is_a_record_type_or_a_system_call() {
    use auditflow_audit_record::{RecordType, arch, syscalls};
    let markdown = table::markdown();
    for line in markdown.lines().skip(2) {
        let on = line.split('|').nth(1).unwrap();
        for name in on.split('`').skip(1).step_by(2) {
            let known = if on.contains("record") {
                RecordType::from_name(name).is_some()
            } else if on.contains("syscall") {
                [arch::X86_64, arch::I386, arch::AARCH64, arch::ARM, arch::RISCV64]
                    .into_iter()
                    .any(|arch| syscalls::number(arch, name).is_some())
            } else {
                true
            };
            assert!(known, "{name}");
        }
    }
    for kind in EventType::ALL {
        assert!(markdown.contains(&format!("`{}`", kind.as_str())), "{}", kind.as_str());
        assert_eq!(EventType::from_name(kind.as_str()), Some(kind));
    }
}

#[test]
fn the_node_that_an_aggregating_auditd_names_is_the_host() {
    let mut records = audit(&["DAEMON_START op=start ver=4 res=success"]);
    records.node = Some("node-7".into());
    let event = auditflow_event::Event::audit(None, records);
    assert_eq!(json(&event)["server_hostname"], "node-7");
}
