use proptest::prelude::*;

use super::*;

const T: Duration = Duration::from_secs(10);
const TIMEOUT: Duration = Duration::from_secs(2);
const SETTLE: Duration = Duration::from_millis(100);

/// A record from `KIND rest of the text`.
fn record(serial: u32, text: &str) -> Record {
    let (kind, body) = text.split_once(' ').unwrap_or((text, ""));
    Record::from_line(format!("type={kind} msg=audit(1795413050.319:{serial}): {body}").as_bytes()).unwrap()
}

fn assembler() -> Assembler {
    Assembler::new(Limits::default())
}

/// Everything that is ready: serial, kinds of the records, completion.
fn popped(assembler: &mut Assembler) -> Vec<(u32, String, Completion)> {
    std::iter::from_fn(|| assembler.pop())
        .map(|event| {
            let kinds: Vec<_> = event.records.iter().map(|record| record.kind.to_string()).collect();
            (event.stamp.serial, kinds.join(" "), event.completion)
        })
        .collect()
}

fn event(serial: u32, kinds: &str, completion: Completion) -> (u32, String, Completion) {
    (serial, kinds.to_owned(), completion)
}

/// What the kernel writes for each of a few kinds of event, in its order.
fn texts(shape: usize) -> Vec<&'static str> {
    match shape {
        0 => vec![
            "SYSCALL arch=c000003e syscall=59 success=yes exit=0 items=2 pid=1",
            "EXECVE argc=3 a0=\"sh\" a1=2D6320 a2_len=6 a2[0]=\"abc\"",
            "EXECVE a2[1]=\"d\"",
            "EXECVE a2[2]=\"ef\"",
            "CWD cwd=\"/\"",
            "PATH item=0 name=\"/bin/sh\"",
            "PATH item=1 name=\"/lib/ld.so\"",
            "PROCTITLE proctitle=\"sh\"",
        ],
        1 => vec![
            "SYSCALL arch=c00000b7 syscall=56 success=no exit=-2 items=1 pid=1",
            "CWD cwd=\"/\"",
            "PATH item=0 name=\"/etc/shadow\"",
            "PROCTITLE proctitle=\"cat\"",
        ],
        2 => vec![
            "SYSCALL arch=c000003e syscall=157 success=yes exit=0 items=0 pid=1",
            "PROCTITLE proctitle=\"x\"",
        ],
        3 => vec![
            "SYSCALL arch=40000028 syscall=283 success=no exit=-115 items=0 pid=1",
            "SOCKADDR saddr=02000035080808080000000000000000",
            "PROCTITLE proctitle=\"curl\"",
        ],
        4 => vec![
            "SYSCALL arch=c00000f3 syscall=129 success=yes exit=0 items=0 pid=1",
            "OBJ_PID opid=7 ocomm=\"sleep\"",
            "PROCTITLE proctitle=\"kill\"",
        ],
        _ => vec!["USER_LOGIN pid=1 uid=0 msg='op=login res=failed'"],
    }
}

const SHAPES: usize = 6;

fn records(serial: u32, shape: usize) -> Vec<Record> {
    texts(shape).into_iter().map(|text| record(serial, text)).collect()
}

#[test]
fn a_process_title_completes_its_event_and_the_end_mark_after_it_is_absorbed() {
    let mut assembler = assembler();
    for record in records(1, 1) {
        assert_eq!(assembler.pop(), None);
        assembler.push(record, T);
    }
    assert_eq!(popped(&mut assembler), [event(1, "SYSCALL CWD PATH PROCTITLE", Completion::Proctitle)]);
    assembler.push(record(1, "EOE"), T);
    assembler.flush();
    assert_eq!(assembler.pop(), None);
    assert_eq!((assembler.counters().events, assembler.counters().lone_ends), (1, 0));
}

#[test]
fn an_end_mark_completes_an_event_without_a_title() {
    let mut assembler = assembler();
    for text in ["CONFIG_CHANGE op=add_rule", "SYSCALL arch=c000003e syscall=44 success=yes items=0", "EOE"] {
        assembler.push(record(1, text), T);
    }
    assert_eq!(popped(&mut assembler), [event(1, "CONFIG_CHANGE SYSCALL", Completion::Eoe)]);
}

#[test]
fn an_io_uring_operation_is_completed_by_its_end_mark() {
    let mut assembler = assembler();
    assembler.push(record(1, "URINGOP uring_op=18 success=yes items=0"), T);
    assembler.push(record(1, "EOE"), T);
    assert_eq!(popped(&mut assembler), [event(1, "URINGOP", Completion::Eoe)]);
}

#[test]
fn a_record_that_is_always_alone_is_given_out_at_once() {
    let mut assembler = assembler();
    for text in ["USER_LOGIN pid=1", "SERVICE_START pid=1", "DAEMON_START op=start", "CRYPTO_KEY_USER pid=1"]
    {
        assembler.push(record(1, text), T);
        assembler.push(record(2, text), T);
        assert_eq!(popped(&mut assembler).len(), 2, "{text}");
        assembler = self::assembler();
    }
    assembler.push(record(3, "LOGIN pid=1"), T);
    assert_eq!(assembler.pop(), None, "a SYSCALL record may follow");
}

#[test]
fn an_end_mark_of_an_unknown_event_makes_no_event_but_is_counted() {
    let mut assembler = assembler();
    assembler.push(record(1, "EOE"), T);
    assembler.flush();
    assert_eq!(assembler.pop(), None);
    assert_eq!(assembler.counters().lone_ends, 1);
}

#[test]
fn an_event_without_an_end_is_given_out_in_time_and_delays_no_other() {
    let mut assembler = assembler();
    assembler.push(record(1, "AVC apparmor=\"DENIED\""), T);
    assert_eq!(assembler.next_deadline(), Some(T + TIMEOUT));
    for serial in 2..100 {
        for record in records(serial, 1) {
            assembler.push(record, T);
        }
        assert_eq!(assembler.pop().unwrap().stamp.serial, serial);
    }
    assembler.advance(T + Duration::from_millis(1_999));
    assert_eq!(assembler.pop(), None);
    assembler.advance(T + TIMEOUT);
    assert_eq!(popped(&mut assembler), [event(1, "AVC", Completion::TimedOut)]);
    assert_eq!((assembler.next_deadline(), assembler.counters().timed_out), (None, 1));
    assert_eq!((assembler.counters().pending_events, assembler.counters().pending_bytes), (0, 0));
}

#[test]
fn pushing_a_record_lets_time_pass_too() {
    let mut assembler = assembler();
    assembler.push(record(1, "AVC a=1"), T);
    assembler.push(record(2, "AVC a=1"), T + TIMEOUT);
    assert_eq!(popped(&mut assembler), [event(1, "AVC", Completion::TimedOut)]);
}

#[test]
fn an_event_that_ended_with_records_missing_waits_a_little_for_them() {
    let mut assembler = assembler();
    for text in texts(1).into_iter().filter(|text| !text.starts_with("PATH")) {
        assembler.push(record(1, text), T);
    }
    assert_eq!(assembler.pop(), None);
    assert_eq!(assembler.next_deadline(), Some(T + SETTLE));
    assembler.advance(T + SETTLE);
    assert_eq!(popped(&mut assembler), [event(1, "SYSCALL CWD PROCTITLE", Completion::TimedOut)]);
}

#[test]
fn an_event_that_ended_early_is_whole_once_the_missing_record_comes() {
    for missing in ["SYSCALL", "EXECVE a2[1]", "CWD", "PATH item=0", "PATH item=1"] {
        let mut assembler = assembler();
        let (late, others): (Vec<_>, Vec<_>) =
            texts(0).into_iter().partition(|text| text.starts_with(missing));
        for text in others {
            assembler.push(record(1, text), T);
        }
        assert_eq!(assembler.pop(), None, "{missing}");
        assembler.push(record(1, late[0]), T);
        let event = assembler.pop().unwrap();
        assert_eq!(event.records, records(1, 0), "{missing}");
        assert_eq!(event.completion, Completion::Proctitle);
        assert_eq!(event.args().unwrap().command_line(), "sh -c  abcdef");
    }
}

#[test]
fn a_record_that_is_there_already_is_dropped_and_counted() {
    let mut assembler = assembler();
    for record in records(1, 1) {
        assembler.push(record.clone(), T);
        assembler.push(record, T);
    }
    for record in records(1, 1) {
        assembler.push(record, T);
    }
    assembler.push(record(2, "USER_LOGIN pid=1"), T);
    assembler.push(record(2, "USER_LOGIN pid=1"), T);
    assembler.flush();
    assert_eq!(
        popped(&mut assembler),
        [
            event(1, "SYSCALL CWD PATH PROCTITLE", Completion::Proctitle),
            event(2, "USER_LOGIN", Completion::Single)
        ]
    );
    assert_eq!((assembler.counters().duplicates, assembler.counters().late_records), (9, 0));
}

#[test]
fn a_record_that_comes_after_its_event_makes_a_late_one() {
    let mut assembler = assembler();
    for record in records(1, 2) {
        assembler.push(record, T);
    }
    assembler.push(record(1, "AVC a=1"), T);
    assembler.push(record(1, "AVC a=2"), T);
    assembler.push(record(1, "AVC a=1"), T);
    assembler.push(record(1, "EOE"), T);
    assert_eq!(popped(&mut assembler).len(), 1);
    assembler.advance(T + SETTLE);
    assert_eq!(popped(&mut assembler), [event(1, "AVC AVC", Completion::Late)]);
    assembler.push(record(1, "AVC a=2"), T);
    assembler.flush();
    assert_eq!(assembler.pop(), None);
    let counters = assembler.counters();
    assert_eq!(
        (counters.late_records, counters.duplicates, counters.events, counters.timed_out),
        (2, 2, 2, 0)
    );
}

#[test]
fn serials_may_wrap_and_repeat_at_another_time_or_node() {
    let mut assembler = assembler();
    let lines = [
        "type=USER msg=audit(5.000:4294967295): a=1",
        "type=USER msg=audit(5.000:0): a=1",
        "type=USER msg=audit(5.001:0): a=1",
        "node=a type=USER msg=audit(5.001:0): a=1",
        "node=b type=USER msg=audit(5.001:0): a=1",
    ];
    for line in lines {
        assembler.push(Record::from_line(line.as_bytes()).unwrap(), T);
    }
    let nodes: Vec<_> = std::iter::from_fn(|| assembler.pop()).map(|event| event.node).collect();
    assert_eq!(nodes, [None, None, None, Some("a".into()), Some("b".into())]);
}

#[test]
fn time_that_stands_still_goes_back_or_ends_harms_nothing() {
    let mut assembler = assembler();
    assembler.push(record(1, "AVC a=1"), T);
    assembler.push(record(2, "AVC a=1"), Duration::ZERO);
    assert_eq!(assembler.next_deadline(), Some(T + TIMEOUT));
    assembler.push(record(3, "AVC a=1"), Duration::MAX);
    assert_eq!(popped(&mut assembler).len(), 2);
    assembler.advance(Duration::MAX);
    assert_eq!(popped(&mut assembler).len(), 1);
}

#[test]
fn a_flood_of_events_that_never_end_is_bounded_and_nothing_is_lost() {
    for (limits, reached) in [
        (Limits { max_pending_bytes: 50_000, ..Limits::default() }, "bytes"),
        (Limits { max_pending_events: 40, ..Limits::default() }, "events"),
    ] {
        let mut assembler = Assembler::new(limits);
        let mut given = Vec::new();
        for serial in 0..5_000 {
            for part in 0..2 {
                assembler.push(record(serial, &format!("AVC part={part} {}", "x".repeat(200))), T);
                let counters = assembler.counters();
                assert!(counters.pending_bytes <= limits.max_pending_bytes);
                assert!(counters.pending_events <= limits.max_pending_events);
                given.extend(popped(&mut assembler));
            }
        }
        assert!(assembler.counters().evicted > 4_000, "{reached}");
        assert!(given.iter().all(|(_, _, completion)| *completion == Completion::Evicted));
        assembler.flush();
        given.extend(popped(&mut assembler));
        let serials: Vec<_> = given.iter().map(|&(serial, _, _)| serial).collect();
        assert_eq!(serials, (0..5_000).collect::<Vec<_>>(), "the oldest goes first");
        assert!(given.iter().all(|(_, kinds, _)| kinds == "AVC AVC"));
    }
}

#[test]
fn a_huge_event_is_given_out_in_parts() {
    let limits = Limits { max_event_bytes: 10_000, ..Limits::default() };
    let mut assembler = Assembler::new(limits);
    let mut sizes = Vec::new();
    for item in 0..1_000 {
        assembler.push(record(1, &format!("PATH item={item} name=\"{}\"", "x".repeat(100))), T);
        assert!(assembler.counters().pending_bytes <= limits.max_event_bytes);
        while let Some(event) = assembler.pop() {
            let first = sizes.is_empty();
            assert_eq!(event.completion, if first { Completion::Evicted } else { Completion::Late });
            sizes.push(event.records.len());
        }
    }
    assembler.flush();
    sizes.extend(std::iter::from_fn(|| assembler.pop()).map(|event| event.records.len()));
    assert_eq!(sizes.iter().sum::<usize>(), 1_000);
    assert!(sizes.len() > 10);
}

#[test]
fn a_record_larger_than_an_event_may_be_is_given_out_by_itself() {
    let mut assembler = Assembler::new(Limits { max_event_bytes: 1_000, ..Limits::default() });
    assembler.push(record(1, &format!("AVC {}", "x".repeat(2_000))), T);
    assert_eq!(popped(&mut assembler), [event(1, "AVC", Completion::Evicted)]);
    assert_eq!(assembler.counters().pending_bytes, 0);
}

#[test]
fn what_is_remembered_of_past_events_is_bounded() {
    let mut assembler = Assembler::new(Limits { remembered_events: 10, ..Limits::default() });
    for serial in 0..1_000 {
        for item in 0..20 {
            assembler.push(record(serial, &format!("AVC item={item}")), T);
        }
        assembler.flush();
        assert!(assembler.recent.len() <= 10);
        assert!(assembler.recent.prints() <= 10 * 16);
    }
}

#[test]
fn queue_entries_do_not_outlive_their_events_for_long() {
    let mut assembler = assembler();
    assembler.push(record(0, "AVC a=1"), T);
    for serial in 1..10_000 {
        // Interleaved, so that neither is the last in the queue when it is given out.
        assembler.push(record(2 * serial, texts(2)[0]), T);
        assembler.push(record(2 * serial + 1, texts(2)[0]), T);
        assembler.push(record(2 * serial, texts(2)[1]), T);
        assembler.push(record(2 * serial + 1, texts(2)[1]), T);
        while assembler.pop().is_some() {}
        assert!(assembler.order.len() < 200);
    }
}

#[test]
fn an_event_of_thousands_of_records_in_disorder_is_not_looked_at_each_time() {
    let mut assembler = assembler();
    let mut texts = vec!["PROCTITLE proctitle=\"x\"".to_owned()];
    texts.push("SYSCALL arch=c000003e syscall=59 success=yes exit=0 items=0".to_owned());
    texts.extend((0..5_000).map(|arg| format!("EXECVE a{arg}=\"x\"")));
    for text in &texts {
        assembler.push(record(1, text), T);
    }
    assembler.advance(T + SETTLE);
    assert_eq!(assembler.pop().unwrap().records.len(), texts.len());
}

/// Events of random shapes, and their records in random order, some of them twice.
fn schedule() -> impl Strategy<Value = (Vec<usize>, Vec<Record>)> {
    prop::collection::vec(0..SHAPES, 1..8).prop_flat_map(|shapes| {
        let all: Vec<_> =
            shapes.iter().enumerate().flat_map(|(serial, &shape)| records(serial as u32, shape)).collect();
        let repeated = prop::sample::subsequence(all.clone(), 0..=all.len());
        let shuffled = repeated.prop_flat_map(move |repeated| {
            let mut pushed = all.clone();
            pushed.extend(repeated);
            Just(pushed).prop_shuffle()
        });
        (Just(shapes), shuffled)
    })
}

proptest! {
    #[test]
    fn in_whatever_order_and_how_often_records_come_the_same_events_result((shapes, pushed) in schedule()) {
        let mut assembler = assembler();
        let duplicates = pushed.len();
        for record in pushed {
            assembler.push(record, T);
        }
        let mut events: Vec<_> = std::iter::from_fn(|| assembler.pop()).collect();
        events.sort_by_key(|event| event.stamp);
        prop_assert_eq!(events.len(), shapes.len());
        for (event, shape) in events.iter().zip(&shapes) {
            prop_assert_eq!(&event.records, &records(event.stamp.serial, *shape));
            prop_assert!(matches!(event.completion, Completion::Proctitle | Completion::Single));
        }
        let kept: usize = events.iter().map(|event| event.records.len()).sum();
        prop_assert_eq!(assembler.counters().duplicates as usize, duplicates - kept);
        prop_assert_eq!(assembler.counters().pending_bytes, 0);
        prop_assert_eq!(assembler.next_deadline(), None);
    }

    #[test]
    fn whatever_is_lost_or_late_every_record_is_given_out_once(
        (_, pushed) in schedule(),
        steps in prop::collection::vec((any::<prop::sample::Index>(), 0..300u64, any::<bool>()), 0..40),
        max_pending_bytes in 0..5_000usize,
        max_event_bytes in 0..3_000usize,
        max_pending_events in 0..4usize,
    ) {
        let limits = Limits { max_pending_bytes, max_pending_events, max_event_bytes, ..Limits::default() };
        let mut assembler = Assembler::new(limits);
        let mut now = T;
        let mut expected = Vec::new();
        let mut given = Vec::new();
        for (index, millis, end) in steps {
            now += Duration::from_millis(millis);
            let record = index.get(&pushed).clone();
            if end {
                assembler.push(self::record(record.stamp.serial, "EOE"), now);
            }
            expected.push(record.clone());
            assembler.push(record, now);
            prop_assert!(assembler.counters().pending_bytes <= max_pending_bytes);
            prop_assert!(assembler.counters().pending_events <= max_pending_events);
            given.extend(std::iter::from_fn(|| assembler.pop()));
        }
        assembler.flush();
        given.extend(std::iter::from_fn(|| assembler.pop()));
        let mut given: Vec<_> = given.into_iter().flat_map(|event| event.records).collect();
        let order = |record: &Record| (record.stamp, record.kind, record.body.clone());
        given.sort_by_key(order);
        expected.sort_by_key(order);
        expected.dedup();
        prop_assert_eq!(given, expected);
        prop_assert_eq!((assembler.counters().pending_events, assembler.counters().pending_bytes), (0, 0));
    }
}
