//! One of everything, the same on every run.

use auditflow_audit_record::{AuditEvent, Completion, Record};
use auditflow_event::{
    AgentState, Ancestor, Condition, Container, Context, Event, NodeId, Priority, Timestamp,
};
use auditflow_wire::chain::Tally;
use auditflow_wire::{
    Ack, AckSeen, Answer, BatchSeq, BootId, Checkpoint, ClockCause, ClockFact, Clocks, Digest, Draft,
    Encoded, Encoder, EpochId, EvictReason, Folded, Head, Held, Link, Loss, LossReason, LossSource, Lost,
    NodeKey, NodeRotation, Rotation, RuleSetVersion, Signed, SignedAck, SignedCheckpoint, SignedFold,
    SignedHeader, SignedLost, SignedNodeRotation, SignedRotation, SignedState, SiteKey, Span, State,
    TimeRange, seal,
};

use crate::sealing::{self, EPOCH, NODE};

pub(crate) fn site_key() -> SiteKey {
    SiteKey::from_seed(&[9; 32])
}

pub(crate) fn number(number: u64) -> BatchSeq {
    BatchSeq::new(number).unwrap()
}

pub(crate) fn head(n: u64) -> Head {
    Head { number: number(n), digest: Digest::of(&n.to_le_bytes()) }
}

pub(crate) fn epoch(id: u8) -> EpochId {
    EpochId::from_bytes([id; 16])
}

pub(crate) fn time(seconds: u64) -> Timestamp {
    Timestamp::from_millis((1_795_413_050 + seconds) * 1000)
}

pub(crate) fn clocks() -> Clocks {
    let fact = |cause, seconds, synchronised| ClockFact {
        cause,
        wall: time(seconds),
        boottime_micros: 12_345_678 + seconds * 1_000_000,
        synchronised,
    };
    let facts = vec![
        fact(ClockCause::Start, 0, false),
        fact(ClockCause::Synchronised, 5, true),
        fact(ClockCause::Step, 6, true),
        fact(ClockCause::Seal, 10, true),
    ];
    Clocks { boot: BootId::from_bytes([0xB0; 16]), facts }
}

pub(crate) fn losses() -> Vec<Loss> {
    vec![
        Loss {
            reason: LossReason::SerialGap,
            source: LossSource::KernelAudit,
            count: Some(1234),
            times: Some(TimeRange::new(time(1), time(2))),
            serials: Some((u32::MAX - 3, 17)),
        },
        Loss {
            reason: LossReason::NotRunning,
            source: LossSource::AuditLog,
            count: None,
            times: None,
            serials: None,
        },
        Loss {
            reason: LossReason::Other(200),
            source: LossSource::Other(9),
            count: Some(0),
            times: None,
            serials: None,
        },
    ]
}

pub(crate) fn events() -> Vec<Event> {
    let lines = [
        &b"type=SYSCALL msg=audit(1795413050.319:3198): arch=c000003e syscall=59 success=yes exit=0 ppid=1 pid=2 comm=\"id\" exe=\"/usr/bin/id\"\x1DARCH=x86_64 SYSCALL=execve"[..],
        b"type=EXECVE msg=audit(1795413050.319:3198): argc=1 a0=\"id\"",
        b"type=PROCTITLE msg=audit(1795413050.319:3198): proctitle=6964\xFF",
    ];
    let records: Vec<Record> = lines.iter().map(|line| Record::from_line(line).unwrap()).collect();
    let audit =
        AuditEvent { stamp: records[0].stamp, node: None, records, completion: Completion::Proctitle };
    let mut exec = Event::audit(Some(NODE), audit);
    exec.context = Some(Box::new(context()));
    exec.tags = vec!["quiet".into(), "k3s".into()];
    exec.priority = Priority::High;

    // The serial wraps, the clock goes back, and the id is that of a file decoded without a node.
    let line = b"node=rpi-1 type=USER_CMD msg=audit(1795413050.100:2): pid=7 msg='cmd=69640A res=success'";
    let record = Record::from_line(line).unwrap();
    let (stamp, node) = (record.stamp, record.node.clone());
    let sudo = AuditEvent { stamp, node, records: vec![record], completion: Completion::TimedOut };
    let foreign = Event::audit(None, sudo);

    let line = r#"{"auditID":"18e6111e","stage":"ResponseComplete","stageTimestamp":"2026-11-23T05:54:06.324412Z","requestReceivedTimestamp":"2026-11-23T05:54:06.317669Z","verb":"get"}"#;
    let kubernetes = Event::kubernetes(Some(NODE), line).unwrap();
    let text = r#"{"event_type":"user_login","timestamp":"2026-11-23T05:54:06Z","user_id":"é"}"#;
    let synthetic = Event::synthetic(Some(NODE), *EPOCH.as_bytes(), 41, text).unwrap();
    let state = AgentState {
        source: "kernel_audit".into(),
        state: Condition::Degraded,
        at: time(3),
        since: time(1),
        reason: Some("socket buffer too small".into()),
        counts: vec![("lost".into(), 3)],
    };
    let state = Event::state(Some(NODE), *EPOCH.as_bytes(), 42, state);
    vec![exec, foreign, kubernetes, synthetic, state]
}

fn context() -> Context {
    let ancestor = Ancestor {
        pid: 1,
        executable: Some("/usr/lib/systemd/systemd".into()),
        name: Some("systemd".into()),
        title: None,
        start: Some(time(0)),
    };
    let container = Container {
        id: "ab".repeat(32).into(),
        runtime: Some("containerd".into()),
        name: Some("web".into()),
        image: Some("docker.io/library/nginx:1.29".into()),
        pod_uid: Some("3f0f6a3c-1d70-4a4e-9df0-1f6ad0a4ad0e".into()),
        pod_name: Some("web-0".into()),
        namespace: Some("default".into()),
    };
    Context {
        users: vec![(0, "root".into()), (1000, "ada".into())],
        groups: vec![(0, "root".into())],
        ancestors: vec![ancestor, Ancestor::default()],
        container: Some(container),
    }
}

pub(crate) fn payload() -> Encoded {
    Encoder::new().unwrap().encode(NODE, &events()).unwrap()
}

/// A header that uses everything a header can carry.
pub(crate) fn full_header() -> SignedHeader {
    let draft = Draft {
        oldest_unacknowledged: number(1),
        link: Link::Successor { epoch: epoch(0xE0), heads: vec![head(17), head(12)] },
        clocks: clocks(),
        last_ack: Some(AckSeen { epoch: epoch(0xE0), number: number(12), digest: head(12).digest }),
        losses: losses(),
        ..sealing::draft(None, 0)
    };
    seal(draft, &payload(), &sealing::key()).unwrap()
}

/// An ordinary header: linked, with one clock fact and one acknowledgement seen.
pub(crate) fn ordinary_header() -> SignedHeader {
    seal(sealing::draft(Some(head(300)), 75_000), &payload(), &sealing::key()).unwrap()
}

pub(crate) fn ack() -> SignedAck {
    let range = |first, last| auditflow_wire::ack::Range {
        span: Span::new(number(first), number(last)).unwrap(),
        digest: head(last).digest,
    };
    let ack = Ack {
        node: NODE,
        epoch: EPOCH,
        time: time(20),
        answer: Answer::Stored,
        through: Some(head(300)),
        above: vec![range(302, 302), range(304, 310)],
    };
    Signed::sign(ack, &site_key())
}

pub(crate) fn fork_ack() -> SignedAck {
    let answer = Answer::Fork { number: number(7), stored: head(7).digest };
    let ack = Ack { node: NODE, epoch: EPOCH, time: time(20), answer, through: None, above: Vec::new() };
    Signed::sign(ack, &site_key())
}

pub(crate) fn state() -> SignedState {
    let state = State {
        node: NODE,
        epoch: EPOCH,
        complete: true,
        about: sealing::about(),
        clocks: clocks(),
        last_ack: Some(AckSeen { epoch: EPOCH, number: number(300), digest: head(300).digest }),
        site_key: Some(site_key().id()),
        held: vec![
            Held { epoch: epoch(0xE0), lowest: number(17), head: Some(head(17)) },
            Held { epoch: EPOCH, lowest: number(1), head: None },
        ],
    };
    Signed::sign(state, &sealing::key())
}

pub(crate) fn fold() -> SignedFold {
    let headers = chain(3);
    let reasons = [EvictReason::SpoolFull, EvictReason::SpoolFull, EvictReason::Corrupt];
    Signed::sign(Folded::of(headers.iter().zip(reasons)).unwrap(), &sealing::key())
}

pub(crate) fn node_rotation() -> SignedNodeRotation {
    let sealed = vec![(epoch(4), head(812)), (EPOCH, head(17))];
    let next = NodeKey::from_seed(&[11; 32]).public();
    Signed::sign(NodeRotation { node: NODE, epoch: EPOCH, next, at: time(13), sealed }, &sealing::key())
}

pub(crate) fn rotation() -> SignedRotation {
    let next = SiteKey::from_seed(&[10; 32]).public();
    Signed::sign(Rotation { next, at: time(30) }, &site_key())
}

pub(crate) fn checkpoint() -> SignedCheckpoint {
    let tally = Tally { verified: 290, evicted: 4, expired: 3, lost: 2, bad: 1 };
    let checkpoint = Checkpoint {
        node: NODE,
        epoch: EPOCH,
        last: head(300),
        link: Some(Link::Successor { epoch: epoch(0xE0), heads: vec![head(17), head(16)] }),
        cumulative: Some(75_000),
        tally,
        time: time(40),
    };
    Signed::sign(checkpoint, &site_key())
}

pub(crate) fn lost() -> SignedLost {
    let span = |first, last| Span::new(number(first), number(last)).unwrap();
    let spans = vec![span(1, 1), span(3, 7), span(9, 12)];
    Signed::sign(Lost { node: NODE, epoch: EPOCH, time: time(50), spans }, &site_key())
}

/// One epoch of this many batches of five events each.
pub(crate) fn chain(len: usize) -> Vec<SignedHeader> {
    sealing::seal_all(&vec![payload(); len])
}

/// Batches of `epoch` without events in a chain from `link` on, numbered after `after` and told apart by `seed`.
pub(crate) fn chain_from(epoch: EpochId, link: &Link, after: u64, len: u64, seed: u8) -> Vec<SignedHeader> {
    lagging_chain_from(epoch, link, after..after + len, seed, u64::MAX)
}

/// The same, each batch saying that all but the last `lag` before it had been acknowledged.
pub(crate) fn lagging_chain_from(
    epoch: EpochId,
    link: &Link,
    after: std::ops::Range<u64>,
    seed: u8,
    lag: u64,
) -> Vec<SignedHeader> {
    let key: NodeKey = sealing::key();
    let mut batches: Vec<SignedHeader> = Vec::new();
    for n in after.map(|before| before + 1) {
        let link = batches.last().map_or(link.clone(), |last| Link::Previous(last.digest()));
        let draft = Draft {
            epoch,
            number: number(n),
            oldest_unacknowledged: number(n.saturating_sub(lag).max(1)),
            link,
            rule_set: RuleSetVersion::from_bytes([seed; 16]),
            last_ack: None,
            ..sealing::draft(None, 0)
        };
        batches.push(seal(draft, &Encoded::empty(), &key).unwrap());
    }
    batches
}

pub(crate) fn other_node() -> NodeId {
    NodeId::from_bytes([0xC1; 16])
}
