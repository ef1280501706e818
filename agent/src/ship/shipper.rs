//! The shipper's task: asks the schedule, reads from the spool, sends, and passes on what comes back.

use std::sync::Arc;
use std::time::Duration;

use auditflow_wire::{Answer, Part, Parts, Refusal};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::schedule::{Action, Backlog, Limits, Marks, Outcome, Schedule};
use super::{Reply, Report, Transport, TransportError};
use crate::spool::{Clock, Loaded, Reader, RowId, SpoolError, Waiting};

/// After an error of the disk, which is tried again.
const DISK_PAUSE: Duration = Duration::from_secs(1);

/// How the way to the collector is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// The way itself.
    pub link: Link,
    /// Frames sent, `State` frames included.
    pub frames: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Frames that failed, were throttled or refused.
    pub failures: u64,
    /// Batches that are larger than the way carries. They stay in the spool.
    pub too_large: u64,
}

/// Whether batches get through.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Link {
    /// Nothing was sent yet.
    #[default]
    Unknown,
    /// The collector takes what is sent.
    Up,
    /// It does not, and why.
    Down(String),
}

/// The shipper. One task runs it.
pub struct Shipper<T> {
    reader: Option<Reader>,
    transport: Arc<T>,
    schedule: Schedule,
    reports: mpsc::Sender<Report>,
    wake: Arc<Notify>,
    clock: Clock,
    started: Instant,
    status: watch::Sender<Status>,
    in_flight: JoinSet<(Option<RowId>, Result<Reply, TransportError>)>,
}

/// What the spool looks like to the schedule.
struct Survey {
    replaced: bool,
    gone: Vec<RowId>,
    backlog: Backlog,
}

impl<T: Transport> Shipper<T> {
    /// A shipper that sends what `reader` reads. `wake` is notified whenever the spool has changed; `seed` spreads a
    /// fleet's delays.
    pub fn new(
        reader: Reader,
        transport: T,
        limits: Limits,
        seed: u64,
        reports: mpsc::Sender<Report>,
        wake: Arc<Notify>,
    ) -> Self {
        Self {
            reader: Some(reader),
            transport: Arc::new(transport),
            schedule: Schedule::new(limits, seed, Duration::ZERO),
            reports,
            wake,
            clock: Clock::open(),
            started: Instant::now(),
            status: watch::Sender::new(Status::default()),
            in_flight: JoinSet::new(),
        }
    }

    /// What health and metrics show.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Ships until stopped. Frames under way at that moment are given up: they are in the spool.
    pub async fn run(mut self, stopping: CancellationToken) -> Result<(), JoinError> {
        while !stopping.is_cancelled() {
            let pause = match self.step().await? {
                Ok(None) => continue,
                Ok(Some(until)) => until,
                Err(error) => self.disk_error(error).await,
            };
            let transport = Arc::clone(&self.transport);
            tokio::select! {
                () = stopping.cancelled() => {}
                () = self.wake.notified() => {}
                frame = transport.heard() => self.heard(&frame).await,
                Some(done) = self.in_flight.join_next() => {
                    let (id, result) = done?;
                    self.answered(id, result).await;
                }
                () = tokio::time::sleep_until(self.started + pause) => {}
            }
        }
        Ok(())
    }

    /// Does the next thing, or says until when there is nothing to do.
    async fn step(&mut self) -> Result<Result<Option<Duration>, SpoolError>, JoinError> {
        let marks = self.schedule.marks();
        let outstanding: Vec<RowId> = self.schedule.outstanding().collect();
        let survey = match self.read(move |reader| survey(reader, marks, &outstanding)).await? {
            Ok(survey) => survey,
            Err(error) => return Ok(Err(error)),
        };
        if survey.replaced {
            self.schedule.start_over();
            return Ok(Ok(None));
        }
        self.schedule.retired(&survey.gone);
        match self.schedule.next(self.started.elapsed(), &survey.backlog) {
            Action::Wait(until) => Ok(Ok(Some(until.unwrap_or(Duration::MAX / 4)))),
            Action::State => {
                let now = self.clock.now();
                match self.read(move |reader| reader.state(&now)).await? {
                    Ok(frame) => self.send(None, frame),
                    Err(error) => {
                        self.schedule.state_answered(self.started.elapsed(), Outcome::Failed);
                        return Ok(Err(error));
                    }
                }
                Ok(Ok(None))
            }
            Action::Send(batch) => self.send_batch(batch).await,
        }
    }

    async fn send_batch(
        &mut self,
        Waiting { id, .. }: Waiting,
    ) -> Result<Result<Option<Duration>, SpoolError>, JoinError> {
        let loaded = self.read(move |reader| reader.load(id)).await?;
        match loaded {
            Ok(Loaded::Frame(frame)) => self.send(Some(id), frame),
            Ok(Loaded::Gone) => self.schedule.retired(&[id]),
            Ok(Loaded::PayloadDamaged) => {
                // Without its payload it is another batch to send; the spool wakes us when it has signed so.
                self.schedule.answered(self.started.elapsed(), id, Outcome::Refused);
                self.report(Report::PayloadDamaged(id)).await;
            }
            Err(error) => {
                self.schedule.answered(self.started.elapsed(), id, Outcome::Failed);
                return Ok(Err(error));
            }
        }
        Ok(Ok(None))
    }

    fn send(&mut self, id: Option<RowId>, frame: Vec<u8>) {
        let bytes = frame.len() as u64;
        self.status.send_modify(|status| {
            status.frames += 1;
            status.bytes += bytes;
        });
        let transport = Arc::clone(&self.transport);
        self.in_flight.spawn(async move {
            let reply = match id {
                Some(_) => transport.send(frame).await,
                None => transport.ask(frame).await,
            };
            (id, reply)
        });
    }

    async fn answered(&mut self, id: Option<RowId>, result: Result<Reply, TransportError>) {
        let (outcome, link) = match result {
            Ok(Reply::Frame(frame)) => self.pass_on(&frame, id.is_some()).await,
            // Nothing is known yet: what the collector says of it is heard.
            Ok(Reply::Handed) => (Outcome::Taken, self.status.borrow().link.clone()),
            Ok(Reply::TooLarge { len, most }) => (Outcome::TooLarge, self.too_large(id, len, most)),
            Ok(Reply::Throttled(pause)) => (Outcome::Throttled(pause), down("the collector has no time now")),
            Ok(Reply::Stranger) => (
                Outcome::Stranger,
                down("the collector does not know this node: join again, or have it approved"),
            ),
            Ok(Reply::Refused(why)) => {
                (Outcome::Refused, Link::Down(format!("the collector refused a frame: {why}")))
            }
            Err(error) => (Outcome::Failed, Link::Down(error.to_string())),
        };
        if let Link::Down(why) = &link {
            tracing::debug!(batch.row = id.map(|id| id.0), reason = %why, "frame was not taken");
        }
        self.status.send_modify(|status| {
            status.failures += u64::from(matches!(link, Link::Down(_)));
            status.link = link;
        });
        let now = self.started.elapsed();
        match id {
            Some(id) => self.schedule.answered(now, id, outcome),
            None => self.schedule.state_answered(now, outcome),
        }
    }

    /// What the collector said of something that was handed over before. What it did not store is sent again when its
    /// acknowledgement is overdue.
    async fn heard(&mut self, frame: &[u8]) {
        let (outcome, link) = self.pass_on(frame, false).await;
        self.status.send_modify(|status| {
            status.failures += u64::from(link != Link::Up);
            status.link = link;
        });
        self.schedule.heard(self.started.elapsed(), outcome);
    }

    /// Names a batch that does not fit the way; the way itself is as it was.
    fn too_large(&self, id: Option<RowId>, len: usize, most: usize) -> Link {
        tracing::error!(
            batch.row = id.map(|id| id.0),
            "a batch of {len} bytes is larger than the {most} that collector.mqtt.max_message allows: it stays in the \
             spool; raise that and the broker's bound and start the agent again, or deliver by https"
        );
        self.status.send_modify(|status| status.too_large += 1);
        self.status.borrow().link.clone()
    }

    /// Hands an answer's parts to the pipeline and says what it means for what was sent. A batch is answered with an
    /// acknowledgement; a state needs none.
    async fn pass_on(&mut self, frame: &[u8], batch: bool) -> (Outcome, Link) {
        let parts: Vec<_> = match Parts::new(frame) {
            Ok(parts) => parts.collect(),
            Err(error) => vec![Err(error)],
        };
        let mut outcome = (Outcome::Taken, Link::Up);
        let mut acknowledged = false;
        for part in parts {
            match part {
                Ok(Part::Ack(ack)) => {
                    acknowledged = true;
                    if ack.unverified().answer == Answer::Refused(Refusal::UnknownKey) {
                        self.transport.introduce();
                    }
                    if let Some(found) = meaning_of(ack.unverified().answer) {
                        outcome = found;
                    }
                    self.report(Report::Ack(Box::new(ack))).await;
                }
                Ok(Part::Rotation(rotation)) => self.report(Report::Rotation(Box::new(rotation))).await,
                Ok(
                    Part::Batch(_)
                    | Part::Folded(_)
                    | Part::State(_)
                    | Part::Expired(_)
                    | Part::Lost(_)
                    | Part::Checkpoint(_),
                ) => {
                    outcome = (Outcome::Failed, down("the answer is not a collector's: check collector.url"));
                }
                Err(error) => {
                    outcome = (Outcome::Failed, Link::Down(format!("the answer cannot be read: {error}")));
                }
            }
        }
        if batch && !acknowledged && outcome.1 == Link::Up {
            let why = "the collector could not read a batch: is its release as new as this agent's?";
            outcome = (Outcome::Failed, down(why));
        }
        outcome
    }

    /// A pipeline that has ended takes no reports; then everything stops anyway.
    async fn report(&mut self, report: Report) {
        let _ = self.reports.send(report).await;
    }

    /// Returns until when to wait.
    async fn disk_error(&mut self, error: SpoolError) -> Duration {
        tracing::warn!(error = %error, "cannot read the spool");
        if let SpoolError::Damaged { what } = error {
            self.report(Report::Damaged(what)).await;
        }
        self.started.elapsed() + DISK_PAUSE
    }

    /// Reads from the spool on a thread that may block.
    async fn read<R: Send + 'static>(
        &mut self,
        read: impl FnOnce(&mut Reader) -> Result<R, SpoolError> + Send + 'static,
    ) -> Result<Result<R, SpoolError>, JoinError> {
        let Some(mut reader) = self.reader.take() else {
            return Ok(Err(SpoolError::Busy { attempt: "read" }));
        };
        let (reader, result) = tokio::task::spawn_blocking(move || {
            let result = read(&mut reader);
            (reader, result)
        })
        .await?;
        self.reader = Some(reader);
        Ok(result)
    }
}

fn survey(reader: &mut Reader, marks: Marks, outstanding: &[RowId]) -> Result<Survey, SpoolError> {
    let replaced = reader.was_replaced();
    if replaced {
        return Ok(Survey { replaced, gone: Vec::new(), backlog: Backlog::default() });
    }
    let gone = reader.gone(outstanding)?;
    let urgent = reader.next_above(true, marks.urgent)?;
    let bulk = reader.next_above(false, marks.bulk)?;
    Ok(Survey { replaced, gone, backlog: Backlog { urgent, bulk } })
}

/// What an answer other than “stored” means; it is not proved, so it only decides when to try again.
fn meaning_of(answer: Answer) -> Option<(Outcome, Link)> {
    match answer {
        // With holes below, the oldest batches are owed first; this one waits until it is the oldest.
        Answer::Stored | Answer::Refused(Refusal::TooManyHoles) => None,
        Answer::Fork { .. } => {
            Some((Outcome::Forked, down("the spool or the key is in use twice; sealing anew")))
        }
        Answer::Refused(why @ (Refusal::BadSignature | Refusal::Malformed)) => {
            Some((Outcome::Refused, Link::Down(format!("the collector refused a batch: {}", why.as_str()))))
        }
        // A state that the old key signed is said again with the new one.
        Answer::Refused(Refusal::RetiredKey) => Some((
            Outcome::Failed,
            down("the node's key was retired by a later one: is this a restored copy of the node?"),
        )),
        // It is presented again before the next frame.
        Answer::Refused(Refusal::UnknownKey) => Some((
            Outcome::Failed,
            down("the collector doesn't know this node's key: was it restored from a backup?"),
        )),
        Answer::Refused(why) => Some((
            Outcome::Stranger,
            Link::Down(format!("the collector doesn't take this node: {}", why.as_str())),
        )),
    }
}

fn down(why: &str) -> Link {
    Link::Down(why.to_owned())
}
