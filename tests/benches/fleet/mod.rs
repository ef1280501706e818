//! A fleet without agents: nodes that have joined, batches sealed as agents seal them, posted over HTTPS as fast as the
//! collector takes them.
//!
//! What is sent is the recorded log again and again, moved in time and numbering so that no two events are the same.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail, ensure};
use auditflow_agent::identity::Identity;
use auditflow_agent::ship::https::{ClientIdentity, Config, Https};
use auditflow_agent::ship::{Limits, Reply, Transport};
use auditflow_audit_record::{Assembler, AuditEvent, Record, Stamp};
use auditflow_event::Event;
use auditflow_tests::bench::recorded_log;
use auditflow_tests::node::NO_KERNEL;
use auditflow_tests::{Binaries, Collector, Node, until};
use auditflow_wire::{
    Answer, BatchSeq, BootId, Clocks, Content, Draft, Encoder, EpochId, FrameWriter, Link, NodeFacts,
    RuleSetVersion, UnknownPredecessor, frame, seal,
};
use rusqlite::{Connection, OpenFlags};

/// How long one request may take.
const TIMEOUT: Duration = Duration::from_mins(1);
/// How long to wait when the collector says “later” without saying when.
const LATER: Duration = Duration::from_millis(200);

/// The recorded log as events.
pub(crate) struct Recording {
    events: Vec<AuditEvent>,
    /// From its first event to after its last, in milliseconds.
    span: u64,
}

impl Recording {
    /// Reads and assembles it.
    pub(crate) fn read() -> anyhow::Result<Self> {
        let log = std::fs::read(recorded_log()?)?;
        let mut assembler = Assembler::new(auditflow_audit_record::Limits::default());
        let mut events = Vec::new();
        for line in log.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            assembler.push(Record::from_line(line)?, Duration::ZERO);
            events.extend(std::iter::from_fn(|| assembler.pop()));
        }
        assembler.flush();
        events.extend(std::iter::from_fn(|| assembler.pop()));
        let millis = || events.iter().map(|event| event.stamp.millis);
        let span = millis().max().zip(millis().min()).map(|(last, first)| last - first + 1);
        Ok(Self { span: span.context("the recorded log has events")?, events })
    }

    /// How many events it has.
    pub(crate) fn len(&self) -> usize {
        self.events.len()
    }

    /// Where a round begins so that `rounds` of them end now, in milliseconds since the Unix epoch.
    pub(crate) fn begin(&self, rounds: u64) -> anyhow::Result<u64> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as u64;
        Ok(now - rounds * self.span)
    }

    /// The events of a round of the recording that began `begin`; each round lies after the one before.
    pub(crate) fn round(&self, begin: u64, round: u64) -> impl Iterator<Item = AuditEvent> {
        let first = self.events.iter().map(|event| event.stamp.millis).min().unwrap_or_default();
        let (begin, serials) = (begin + round * self.span, round as u32 * self.events.len() as u32 * 2);
        self.events.iter().map(move |event| {
            let millis = event.stamp.millis - first + begin;
            at(event.clone(), Stamp { millis, serial: event.stamp.serial.wrapping_add(serials) })
        })
    }
}

/// The event as if it had this stamp.
pub(crate) fn at(mut event: AuditEvent, stamp: Stamp) -> AuditEvent {
    event.stamp = stamp;
    for record in &mut event.records {
        record.stamp = stamp;
    }
    event
}

/// A node that has joined, with the state of its chain.
pub(crate) struct Sender {
    pub(crate) identity: Identity,
    epoch: EpochId,
    link: Link,
    number: BatchSeq,
    events: u64,
    about: NodeFacts,
    encoder: Encoder,
    transport: Https,
}

/// A frame with one batch.
#[derive(Clone)]
pub(crate) struct Sealed {
    pub(crate) frame: Vec<u8>,
    pub(crate) events: u64,
}

impl Sender {
    /// Lets a node join the collector's site; its files go below `folder`.
    pub(crate) fn join(binaries: &Binaries, collector: &Collector, folder: &Path) -> anyhow::Result<Self> {
        let node = Node::make(folder, NO_KERNEL)?;
        node.join(binaries, collector)?;
        Self::of(&node)
    }

    /// A node that has joined.
    pub(crate) fn of(node: &Node) -> anyhow::Result<Self> {
        let identity = Identity::read(&node.data)?.context("a node that has joined has an identity")?;
        let site = identity.site.clone().context("a node that has joined has a site")?;
        let client =
            ClientIdentity { certificates: site.client_certificate, key: identity.key.to_pkcs8_pem()? };
        let transport = Https::new(&Config {
            url: site.url,
            ca_certificates: site.ca_certificate,
            client: Some(client),
            allow_plain_http: false,
            timeout: TIMEOUT,
        })?;
        let folder = node.config.parent().and_then(Path::file_name);
        let name = folder.unwrap_or_default().to_string_lossy();
        Ok(Self {
            about: NodeFacts::new(&name, env!("CARGO_PKG_VERSION"), "", "x86_64", []),
            identity,
            epoch: EpochId::generate()?,
            link: Link::Unknown { why: UnknownPredecessor::FirstStart, epoch: None },
            number: BatchSeq::FIRST,
            events: 0,
            encoder: Encoder::new()?,
            transport,
        })
    }

    /// Seals the next batch.
    pub(crate) fn seal(&mut self, events: impl IntoIterator<Item = AuditEvent>) -> anyhow::Result<Sealed> {
        let node = self.identity.node;
        let events: Vec<Event> = events.into_iter().map(|event| Event::audit(Some(node), event)).collect();
        let encoded = self.encoder.encode(node, &events)?;
        let draft = Draft {
            node,
            epoch: self.epoch,
            number: self.number,
            oldest_unacknowledged: BatchSeq::FIRST,
            link: self.link.clone(),
            events_before: self.events,
            rule_set: RuleSetVersion::NONE,
            about: self.about.clone(),
            clocks: Clocks { boot: BootId::UNKNOWN, facts: Vec::new() },
            last_ack: None,
            losses: Vec::new(),
        };
        let signed = seal(draft, &encoded, &self.identity.key)?;
        let mut frame = FrameWriter::new();
        ensure!(frame.push_batch(&signed, Content::Payload(&encoded.bytes)), "a batch fits into a frame");
        self.link = Link::Previous(signed.digest());
        self.number = self.number.next().context("numbers don't run out")?;
        self.events += events.len() as u64;
        Ok(Sealed { frame: frame.finish(), events: events.len() as u64 })
    }
}

/// Posts each sender's frames, as many at once as an agent has under way, until all are acknowledged.
pub(crate) async fn post_all(fleet: Vec<(&Sender, Vec<Sealed>)>) -> anyhow::Result<()> {
    let mut posting = tokio::task::JoinSet::new();
    for (sender, frames) in fleet {
        let frames = Arc::new(std::sync::Mutex::new(frames.into_iter()));
        for _ in 0..Limits::default().in_flight_batches {
            let (transport, frames) = (sender.transport.clone(), Arc::clone(&frames));
            posting.spawn(async move {
                loop {
                    let next = frames.lock().map_err(|_| anyhow::anyhow!("a poster panicked"))?.next();
                    let Some(sealed) = next else { return anyhow::Ok(()) };
                    post(&transport, &sealed).await?;
                }
            });
        }
    }
    while let Some(posted) = posting.join_next().await {
        posted??;
    }
    Ok(())
}

/// Waits until these many events are judged and no group of detections waits to be correlated. Takes as long as it
/// takes, if only it goes on.
pub(crate) fn until_analysed(collector: &Collector, data: &Path, events: u64) -> anyhow::Result<()> {
    let mut before = 0;
    while before < events {
        before = until("analysis goes on", || {
            let analysed = collector.metric("auditflow_analysed_events_total")? as u64;
            Ok((analysed > before).then_some(analysed))
        })?;
    }
    ensure!(before == events, "{before} events were judged, not {events}");
    until("everything is correlated", || {
        let store = Connection::open_with_flags(data.join("collector.db"), OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        let waiting: i64 = store.query_row("SELECT count(*) FROM dirty_group", [], |row| row.get(0))?;
        Ok((waiting == 0).then_some(()))
    })
}

async fn post(transport: &Https, sealed: &Sealed) -> anyhow::Result<()> {
    loop {
        match transport.send(sealed.frame.clone()).await? {
            Reply::Frame(answer) => return check(&answer),
            Reply::Throttled(wait) => tokio::time::sleep(wait.unwrap_or(LATER)).await,
            other => bail!("a frame was answered with {other:?}"),
        }
    }
}

/// An answer that says anything but “stored” is a failure of the bench.
fn check(answer: &[u8]) -> anyhow::Result<()> {
    for part in frame::Parts::new(answer)? {
        if let frame::Part::Ack(ack) = part? {
            let answer = &ack.unverified().answer;
            ensure!(matches!(answer, Answer::Stored), "a batch was answered with {answer:?}");
        }
    }
    Ok(())
}
