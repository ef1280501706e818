use crate::Record;

/// The fields of a record of that kind, as `name=text`, those from inside a message with a `>` before them.
fn fields(kind: &str, body: &str) -> Vec<String> {
    let line = format!("type={kind} msg=audit(1795413050.319:3198): {body}");
    let record = Record::from_line(line.as_bytes()).unwrap();
    record
        .fields()
        .map(|field| format!("{}{}={}", if field.inner { ">" } else { "" }, field.name, field.value.text()))
        .collect()
}

fn check(kind: &str, body: &str, expected: &[&str]) {
    assert_eq!(fields(kind, body), expected, "{kind} {body}");
}

#[test]
fn a_system_calls_numbers_stay_numbers_and_its_strings_are_decoded() {
    check(
        "SYSCALL",
        "arch=c000003e syscall=59 success=no exit=-2 a0=10 a1=AB items=1 pid=19505 auid=4294967295 tty=(none) \
         comm=6120620A exe=\"/usr/bin/x\" subj=system_u:system_r:init_t:s0-s0:c0.c1023 key=(null)",
        &[
            "arch=c000003e",
            "syscall=59",
            "success=no",
            "exit=-2",
            "a0=10",
            "a1=AB",
            "items=1",
            "pid=19505",
            "auid=4294967295",
            "tty=(none)",
            "comm=a b\n",
            "exe=/usr/bin/x",
            "subj=system_u:system_r:init_t:s0-s0:c0.c1023",
            "key=(null)",
        ],
    );
}

#[test]
fn arguments_are_decoded_where_they_are_strings() {
    check(
        "EXECVE",
        "argc=3 a0=\"sh\" a1=2D63 a2_len=20 a2[0]=\"key=1\" a2[1]=20757569643D30",
        &["argc=3", "a0=sh", "a1=-c", "a2_len=20", "a2[0]=key=1", "a2[1]= uuid=0"],
    );
}

#[test]
fn a_value_that_looks_like_fields_is_one_value() {
    check("PATH", "item=0 name=\"a=b\" inode=1", &["item=0", "name=a=b", "inode=1"]);
    check(
        "PATH",
        "item=0 name=61207569643D3020226B65793D22 inode=1",
        &["item=0", "name=a uid=0 \"key=\"", "inode=1"],
    );
    check("SYSCALL", "comm=\"uid=0\" uid=5", &["comm=uid=0", "uid=5"]);
    check(
        "AVC",
        "apparmor=\"DENIED\" info=\"no uid=0 here\" uid=5",
        &["apparmor=DENIED", "info=no uid=0 here", "uid=5"],
    );
    check("AVC", "info=\"a \"quoted\"b\" uid=5", &["info=a \"quoted\"b", "uid=5"]);
    check("PROCTITLE", "proctitle=62617368002D630061206B65793D62", &["proctitle=bash\0-c\0a key=b"]);
}

#[test]
fn an_access_decision_yields_its_result_and_permissions() {
    check(
        "AVC",
        "avc:  denied  { read write } for  pid=123 comm=\"cat\" name=\"a}b\" dev=\"dm-0\" ino=12 \
         scontext=system_u:system_r:init_t:s0 tclass=file permissive=0",
        &[
            "seresult=denied",
            "seperms=read write",
            "pid=123",
            "comm=cat",
            "name=a}b",
            "dev=dm-0",
            "ino=12",
            "scontext=system_u:system_r:init_t:s0",
            "tclass=file",
            "permissive=0",
        ],
    );
    check(
        "USER_AVC",
        "pid=1 uid=81 auid=4294967295 ses=4294967295 msg='avc:  granted  { send_msg } for msgtype=method_call \
         dest=org.x exe=\"/usr/bin/dbus-daemon\" sauid=81 hostname=? addr=? terminal=?'",
        &[
            "pid=1",
            "uid=81",
            "auid=4294967295",
            "ses=4294967295",
            ">seresult=granted",
            ">seperms=send_msg",
            ">msgtype=method_call",
            ">dest=org.x",
            ">exe=/usr/bin/dbus-daemon",
            ">sauid=81",
            ">hostname=?",
            ">addr=?",
            ">terminal=?",
        ],
    );
}

#[test]
fn apparmors_decision_is_ordinary_fields() {
    check(
        "AVC",
        "apparmor=\"DENIED\" operation=\"open\" class=\"file\" profile=\"cri-containerd.apparmor.d\" \
         name=2F6120622F pid=7 comm=\"x\" requested_mask=\"r\" fsuid=0",
        &[
            "apparmor=DENIED",
            "operation=open",
            "class=file",
            "profile=cri-containerd.apparmor.d",
            "name=/a b/",
            "pid=7",
            "comm=x",
            "requested_mask=r",
            "fsuid=0",
        ],
    );
}

#[test]
fn a_programs_message_follows_the_kernels_fields() {
    check(
        "USER_AUTH",
        "pid=4242 uid=0 auid=1000 ses=3 subj=unconfined msg='op=PAM:authentication grantors=pam_unix acct=\"root\" \
         exe=\"/usr/bin/su\" hostname=pi addr=? terminal=/dev/pts/0 res=success'",
        &[
            "pid=4242",
            "uid=0",
            "auid=1000",
            "ses=3",
            "subj=unconfined",
            ">op=PAM:authentication",
            ">grantors=pam_unix",
            ">acct=root",
            ">exe=/usr/bin/su",
            ">hostname=pi",
            ">addr=?",
            ">terminal=/dev/pts/0",
            ">res=success",
        ],
    );
}

#[test]
fn sudos_command_is_decoded() {
    check(
        "USER_CMD",
        "pid=1 uid=1000 auid=1000 ses=1 msg='cwd=\"/root\" cmd=636174202F6574632F736861646F77 \
         exe=\"/usr/bin/sudo\" terminal=pts/0 res=failed'",
        &[
            "pid=1",
            "uid=1000",
            "auid=1000",
            "ses=1",
            ">cwd=/root",
            ">cmd=cat /etc/shadow",
            ">exe=/usr/bin/sudo",
            ">terminal=pts/0",
            ">res=failed",
        ],
    );
}

#[test]
fn a_services_start_and_a_crypto_session_are_read() {
    check(
        "SERVICE_START",
        "pid=1 uid=0 msg='unit=k3s comm=\"systemd\" exe=\"/usr/lib/systemd/systemd\" hostname=? addr=? terminal=? res=success'",
        &[
            "pid=1",
            "uid=0",
            ">unit=k3s",
            ">comm=systemd",
            ">exe=/usr/lib/systemd/systemd",
            ">hostname=?",
            ">addr=?",
            ">terminal=?",
            ">res=success",
        ],
    );
    check(
        "CRYPTO_SESSION",
        "pid=9 msg='op=start direction=from-server cipher=chacha20-poly1305@openssh.com ksize=512 mac=<implicit> \
         pfs=curve25519-sha256 spid=10 suid=74 rport=50000 laddr=192.0.2.1 lport=22  exe=\"/usr/sbin/sshd\" addr=192.0.2.9 res=success'",
        &[
            "pid=9",
            ">op=start",
            ">direction=from-server",
            ">cipher=chacha20-poly1305@openssh.com",
            ">ksize=512",
            ">mac=<implicit>",
            ">pfs=curve25519-sha256",
            ">spid=10",
            ">suid=74",
            ">rport=50000",
            ">laddr=192.0.2.1",
            ">lport=22",
            ">exe=/usr/sbin/sshd",
            ">addr=192.0.2.9",
            ">res=success",
        ],
    );
}

#[test]
fn keystrokes_are_decoded() {
    check(
        "USER_TTY",
        "pid=1 uid=0 auid=1000 ses=1 data=6C730D",
        &["pid=1", "uid=0", "auid=1000", "ses=1", "data=ls\r"],
    );
}

#[test]
fn old_programs_phrases_and_lists_are_understood() {
    check(
        "ADD_GROUP",
        "user pid=1 uid=0 msg='op=adding group to /etc/group id=1001 exe=\"/usr/sbin/groupadd\" hostname=? res=success'",
        &[
            "pid=1",
            "uid=0",
            ">op=adding group to",
            ">id=1001",
            ">exe=/usr/sbin/groupadd",
            ">hostname=?",
            ">res=success",
        ],
    );
    check(
        "USER_ACCT",
        "user pid=1 msg='PAM: accounting acct=\"root\" : exe=\"/usr/sbin/crond\" (hostname=?, addr=?, terminal=cron res=success)'",
        &[
            "pid=1",
            ">acct=root",
            ">exe=/usr/sbin/crond",
            ">hostname=?",
            ">addr=?",
            ">terminal=cron",
            ">res=success",
        ],
    );
}

#[test]
fn a_messages_apostrophes_and_lack_of_an_end_harm_nothing() {
    check("USER", "pid=1 msg='it's uid=0 op=x'", &["pid=1", ">uid=0", ">op=x"]);
    check("USER", "pid=1 msg='op=x res=y", &["pid=1", ">op=x", ">res=y"]);
    check("USER", "pid=1 msg='", &["pid=1"]);
    check("USER", "pid=1 msg=''", &["pid=1"]);
    check("USER", "pid=1 msg=x a=1", &["pid=1", "msg=x", "a=1"]);
}

#[test]
fn a_kernels_field_comes_before_a_programs_of_the_same_name() {
    let line = b"type=USER_LOGIN msg=audit(1.000:1): pid=7 uid=1000 msg='op=login pid=1 uid=0 res=success'";
    let record = Record::from_line(line).unwrap();
    assert_eq!(record.field("uid").unwrap().as_id(), Some(1000));
    assert_eq!(record.message(), Some(&b"op=login pid=1 uid=0 res=success"[..]));
}

#[test]
fn words_that_are_no_fields_are_passed_over() {
    check(
        "KERNEL",
        "initialized state=initialized audit_enabled=0 res=1",
        &["state=initialized", "audit_enabled=0", "res=1"],
    );
    check("SYSCALL", "  a=1   b=  =c d\"e=f \u{fc}=1 ", &["a=1", "b="]);
    check("SYSCALL", "", &[]);
    check("SYSCALL", "lonely", &[]);
    check("SYSCALL", "a=\"never closed uid=0", &["a=never closed uid=0"]);
}

#[test]
fn the_enrichment_of_a_socket_is_one_value() {
    let line = "type=SOCKADDR msg=audit(1.000:1): saddr=0100\x1dSADDR={ saddr_fam=local path=/a}b uid=0 }";
    let record = Record::from_line(line.as_bytes()).unwrap();
    let enriched: Vec<_> = record.enriched().map(|field| (field.name, field.value.raw())).collect();
    assert_eq!(enriched, [("SADDR", &b"saddr_fam=local path=/a}b uid=0"[..])]);
}
