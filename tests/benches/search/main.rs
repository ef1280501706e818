//! A rare token among ten million stored events: how long the API takes to find it, how many batches it decodes, and
//! how large the index is that spares it the others.
//!
//! The store is filled as a fleet fills it, over HTTPS, with the recorded log moved in time and numbering; one event of
//! them all holds the token. Each question is asked with nothing of the store in memory, and again.

#![allow(missing_docs, reason = "a bench, read by nobody but its runner")]

#[path = "../fleet/mod.rs"]
mod fleet;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use auditflow_audit_record::{AuditEvent, RecordType};
use auditflow_tests::bench::{Bench, Target, cpu_of, folder, median};
use auditflow_tests::{Binaries, Collector};
use fleet::{Recording, Sealed, Sender, post_all, until_analysed};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;

const EVENTS: u64 = 10_000_000;
const NODES: usize = 4;
/// Events per batch: as of nodes with a backlog, and as of quiet ones whose batches are sealed by time.
const BATCHES: [usize; 2] = [2048, 100];
/// What one event in the middle holds.
const TOKEN: &str = "quetzalcoatlus-northropi";
const ABSENT: &str = "archaeopteryx-lithographica";
const REPEATS: u32 = 7;

fn main() -> ExitCode {
    Bench::run("search", measure)
}

fn measure(bench: &Bench) -> anyhow::Result<()> {
    let recording = Recording::read()?;
    for batch in BATCHES {
        let (binaries, dir) = (Binaries::find()?, folder()?);
        let data = dir.path().join("collector").join("data");
        let collector = Collector::start(&binaries, &data)?;
        let events = fill(&recording, batch, &collector, &binaries, dir.path())?;
        until_analysed(&collector, &data, events)?;
        ensure!(collector.stop()?.success(), "the collector stops when asked to");
        bench.note(&format!("{events} events in batches of {batch}"));
        say_sizes(bench, &data, events)?;
        let field = format!("process.args:{TOKEN}");
        for (what, query, found) in
            [("a rare token", TOKEN, 1), ("a rare field:value", &*field, 1), ("an absent token", ABSENT, 0)]
        {
            let what = format!("{what}, batches of {batch}");
            ask(bench, &binaries, &data, &what, query, found)?;
        }
    }
    Ok(())
}

/// Sends round after round; the event with the token is in the middle of the middle one.
fn fill(
    recording: &Recording,
    batch: usize,
    collector: &Collector,
    binaries: &Binaries,
    folder: &Path,
) -> anyhow::Result<u64> {
    let join = |number| Sender::join(binaries, collector, &folder.join(format!("node-{number}")));
    let mut senders = (0..NODES).map(join).collect::<anyhow::Result<Vec<Sender>>>()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let rounds = EVENTS.div_ceil(recording.len() as u64);
    let (begin, mut sent) = (recording.begin(rounds)?, 0);
    for first in (0..rounds).step_by(NODES) {
        let mut fleet = Vec::new();
        for (sender, round) in senders.iter_mut().zip(first..rounds) {
            let mut events: Vec<AuditEvent> = recording.round(begin, round).collect();
            if round == rounds / 2 {
                plant(&mut events)?;
            }
            let sealed = events.chunks(batch).map(|events| sender.seal(events.to_vec()));
            let sealed = sealed.collect::<anyhow::Result<Vec<Sealed>>>()?;
            sent += sealed.iter().map(|sealed| sealed.events).sum::<u64>();
            fleet.push((&*sender, sealed));
        }
        runtime.block_on(post_all(fleet))?;
    }
    Ok(sent)
}

/// Gives one execution an argument that no other has.
fn plant(events: &mut [AuditEvent]) -> anyhow::Result<()> {
    let middle = events.len() / 2;
    let arguments = events
        .iter_mut()
        .skip(middle)
        .flat_map(|event| &mut event.records)
        .find(|record| record.kind == RecordType::EXECVE)
        .context("something is executed in the recording")?;
    arguments.body = format!(r#"argc=2 a0="find" a1="{TOKEN}""#).into_bytes().into();
    Ok(())
}

fn say_sizes(bench: &Bench, data: &Path, events: u64) -> anyhow::Result<()> {
    let (mut filters, mut batches, mut files) = (0_i64, 0_i64, 0);
    for file in payload_files(data)? {
        files += fs::metadata(&file)?.len();
        if !file.to_string_lossy().ends_with(".index.db") {
            continue;
        }
        let store = Connection::open_with_flags(&file, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        let sums = "SELECT count(*), coalesce(sum(length(filter)), 0) FROM batch";
        let (count, bytes) =
            store.query_row(sums, [], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))?;
        (batches, filters) = (batches + count, filters + bytes);
    }
    bench.figure("batches", batches as f64, "stored", Target::None);
    bench.figure("index", filters as f64 / events as f64, "bytes of filters per event", Target::None);
    bench.figure(
        "payload files",
        files as f64 / events as f64,
        "bytes per event, index included",
        Target::None,
    );
    Ok(())
}

fn ask(
    bench: &Bench,
    binaries: &Binaries,
    data: &Path,
    what: &str,
    query: &str,
    found: usize,
) -> anyhow::Result<()> {
    for file in payload_files(data)? {
        forget(&file)?;
    }
    forget(&data.join("collector.db"))?;
    let collector = Collector::start(binaries, data)?;
    // So that the first question is not also the first for a token.
    collector.get("/api/v1/nodes")?;
    let (first, page) = search(&collector, query)?;
    let events = page["events"].as_array().map_or(0, Vec::len);
    ensure!(
        events == found && page["partial"] == false,
        "{what}: {events} events, partial: {}",
        page["partial"]
    );
    let before = cpu_of(collector.pid()?)?;
    let again = (0..REPEATS).map(|_| Ok(search(&collector, query)?.0.as_secs_f64() * 1e3));
    let again = median(again.collect::<anyhow::Result<_>>()?);
    let cpu = cpu_of(collector.pid()?)?.saturating_sub(before).as_secs_f64() * 1e3 / f64::from(REPEATS);
    let first = first.as_secs_f64() * 1e3;
    bench.figure(&format!("{what}, nothing cached"), first, "ms", Target::AtMost(1000.0));
    bench.figure(&format!("{what}, again"), again, "ms", Target::AtMost(1000.0));
    bench.figure(&format!("{what}, again"), cpu, "ms of CPU time", Target::None);
    let count = |name: &str| page[name].as_f64().unwrap_or_default();
    bench.figure(&format!("{what}: decoded"), count("batches_decoded"), "batches", Target::None);
    bench.figure(&format!("{what}: ruled out unread"), count("batches_pruned"), "batches", Target::None);
    ensure!(collector.stop()?.success(), "the collector stops when asked to");
    Ok(())
}

fn search(collector: &Collector, query: &str) -> anyhow::Result<(Duration, Value)> {
    let begin = Instant::now();
    let page = collector.json(&format!("/api/v1/events?q={query}"))?;
    Ok((begin.elapsed(), page))
}

fn payload_files(data: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let files = fs::read_dir(data.join("payload"))?.map(|entry| Ok(entry?.path()));
    let files = files.collect::<anyhow::Result<Vec<PathBuf>>>()?;
    Ok(files.into_iter().filter(|file| file.extension().is_some_and(|extension| extension == "db")).collect())
}

/// Has the system let go of what it holds of a file in memory.
fn forget(file: &Path) -> anyhow::Result<()> {
    let file = File::open(file)?;
    file.sync_all()?;
    Ok(posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?)
}
