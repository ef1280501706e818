use super::*;

fn decoded(text: &str) -> (Vec<serde_json::Value>, Decoded) {
    let mut out = Vec::new();
    let decoded = decode(text.as_bytes(), &mut out).unwrap();
    let lines = String::from_utf8(out).unwrap();
    (lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect(), decoded)
}

#[test]
fn each_event_becomes_one_line_and_what_is_no_record_is_counted() {
    let text = "type=SYSCALL msg=audit(1700000000.000:1): arch=c000003e syscall=59 success=yes exit=0 pid=7 comm=\"ls\"\n\
                garbage\n\n\
                type=PROCTITLE msg=audit(1700000000.000:1): proctitle=\"ls\"\n\
                type=USER_LOGIN msg=audit(1700000001.000:2): pid=9 uid=0 auid=4294967295 ses=4294967295 msg='op=login acct=\"eve\" res=failed'";
    let (lines, counted) = decoded(text);
    assert_eq!(counted, Decoded { events: 2, undecodable: 1 });
    assert_eq!(lines[0]["auditd"]["serial"], 1);
    assert_eq!(lines[1]["event_type"], "user_login");
}

#[test]
fn the_same_text_gives_the_same_bytes() {
    let text =
        "type=SYSCALL msg=audit(1700000000.000:1): a=1\ntype=SYSCALL msg=audit(1700000050.000:2): a=1\n"
            .repeat(50);
    let decode_once = || {
        let mut out = Vec::new();
        decode(text.as_bytes(), &mut out).unwrap();
        out
    };
    assert_eq!(decode_once(), decode_once());
}

#[test]
fn a_reader_that_gives_single_bytes_makes_no_difference() {
    struct Slow<'a>(&'a [u8]);
    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let Some((first, rest)) = self.0.split_first() else { return Ok(0) };
            buffer[0] = *first;
            self.0 = rest;
            Ok(1)
        }
    }
    let text = "type=SYSCALL msg=audit(1700000000.000:1): a=1\r\ntype=PROCTITLE msg=audit(1700000000.000:1): proctitle=41";
    let mut slow = Vec::new();
    decode(Slow(text.as_bytes()), &mut slow).unwrap();
    let mut fast = Vec::new();
    decode(text.as_bytes(), &mut fast).unwrap();
    assert_eq!(slow, fast);
}
