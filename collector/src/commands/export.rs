//! `export`: what is stored of a node, in one file that `verify --export` proves anywhere with public keys alone.
//!
//! Batches are written verbatim; one whose payload retention dropped is there with header and signature. What the ledger
//! knows beside them is the site's word and is signed anew: how far each epoch is stored, and which numbers are lost.
//!
//! With `--from` and `--to` only batches of that time are written whole. What came before is proved here and a checkpoint
//! stands for it, so that an hour of a long history is a small file; what came after is there with its headers, since
//! nothing else shows that none of it was deleted.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use auditflow_event::{NodeId, Timestamp};
use auditflow_service::args::Exit;
use auditflow_service::lifecycle;
use auditflow_wire::chain::{Lost, MAX_SPANS};
use auditflow_wire::{
    BatchSeq, Content, EpochId, EpochLedger, FrameWriter, Signed, SignedCheckpoint, export,
};
use clap::Args;
use serde_json::json;

use crate::proof::checkpoint::{Unsound, draw};
use crate::site::Site;
use crate::site::keys::Keys;
use crate::store::{Action, ChainRow, EpochRow, Payload, Replaceable, Store};

/// Rows read at a time.
const PAGE: usize = 64;
/// How full a frame gets before the next one begins, in bytes.
const FRAME: usize = 1 << 20;

/// `export`
#[derive(Debug, Clone, Args)]
pub struct Export {
    #[command(flatten)]
    place: super::Place,
    /// The node, by its id
    #[arg(long, value_name = "ID")]
    node: NodeId,
    /// Only batches received at this time or later are written whole, as 2026-11-23T05:00:00Z
    #[arg(long, value_name = "TIME")]
    from: Option<Timestamp>,
    /// Only batches received at this time or earlier are written whole
    #[arg(long, value_name = "TIME")]
    to: Option<Timestamp>,
    /// The file to write, which must not exist
    destination: PathBuf,
}

/// What was written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exported {
    /// Batches, however much of them.
    pub batches: u64,
    /// Of those, with header and signature only: retention has dropped the payload, or it was not asked for.
    pub headers: u64,
    /// Folded ranges.
    pub folds: u64,
    /// Numbers that a checkpoint stands for.
    pub checkpointed: u64,
    /// What could not be signed for and is there with its headers.
    pub unsound: Vec<String>,
}

/// The time of which batches are written whole.
#[derive(Debug, Clone, Copy, Default)]
pub struct Days {
    /// Received then or later.
    pub from: Option<Timestamp>,
    /// Received then or earlier.
    pub to: Option<Timestamp>,
}

impl Days {
    fn contain(self, time: Timestamp) -> bool {
        self.from.is_none_or(|from| time >= from) && self.to.is_none_or(|to| time <= to)
    }
}

/// Writes the file, whole or not at all.
pub fn run(args: &Export) -> anyhow::Result<Exit> {
    let config = args.place.config()?;
    let store = super::open_store(&config)?;
    let site = Site::existing(&config.storage.data_dir)?;
    let path = &args.destination;
    ensure!(
        !path.exists(),
        "{} exists already: name another file, so that nothing is overwritten",
        path.display()
    );
    let partial = path.with_extension("partial");
    let days = Days { from: args.from, to: args.to };
    let source = Source { store: Arc::clone(&store), keys: site.keys.get(), node: args.node, days };
    let exported = lifecycle::block_on(to_file(&source, &partial))?.inspect_err(|_| {
        // Half an export proves less than it seems to.
        let _ = fs::remove_file(&partial);
    });
    let exported = exported.and_then(|exported| {
        fs::rename(&partial, path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(exported)
    });
    let said = |time: Option<Timestamp>| time.map(|time| time.to_string());
    let detail = json!({ "file": path.display().to_string(), "from": said(days.from), "to": said(days.to) });
    let exported = super::recorded(&store, (Action::StoreExport, args.node.to_string()), detail, exported)?;
    for unsound in &exported.unsound {
        let _ = writeln!(std::io::stderr(), "{unsound}");
    }
    let Exported { batches, headers, folds, checkpointed, .. } = exported;
    super::unless_closed(writeln!(
        std::io::stdout(),
        "{}: {batches} batches, {headers} of which with their header only, {folds} folded ranges, and checkpoints for \
         {checkpointed} more batches\n\
         prove it with: auditflow-collector verify --export {} --keys KEYS\n\
         where KEYS holds what this printed: auditflow-collector keys --node {}",
        path.display(),
        path.display(),
        args.node
    ))
}

/// What is exported.
struct Source {
    store: Arc<dyn Store>,
    keys: Arc<Keys>,
    node: NodeId,
    days: Days,
}

async fn to_file(source: &Source, path: &Path) -> anyhow::Result<Exported> {
    let failed = || format!("cannot write {}", path.display());
    let file = File::create(path).with_context(failed)?;
    let mut out =
        Frames { out: BufWriter::new(file), frame: FrameWriter::new(), written: Exported::default() };
    source.write(&mut out).await?;
    let (file, written) = out.finish()?;
    file.sync_all().with_context(failed)?;
    Ok(written)
}

impl Source {
    /// Writes what the store holds of the node, epoch by epoch; before an epoch's rows, what the site says of it.
    async fn write<W: Write>(&self, out: &mut Frames<W>) -> anyhow::Result<()> {
        let Self { store, node, .. } = self;
        ensure!(
            !store.node_keys(*node).await?.is_empty(),
            "there is no node {node}: the page lists the nodes' ids"
        );
        out.out.write_all(&export::MAGIC)?;
        for row in store.epochs(*node).await? {
            let view = store.ledger_view(*node, row.epoch).await?;
            let (epoch, now) = (row.epoch, super::now());
            let ack = Signed::sign(view.ack(*node, epoch, None, now), &self.keys.signing);
            out.push(|frame| frame.push_ack(&ack))?;
            for spans in store.lost(*node, epoch).await?.chunks(MAX_SPANS) {
                let lost = Lost { node: *node, epoch, time: now, spans: spans.to_vec() };
                let lost = Signed::sign(lost, &self.keys.signing);
                out.push(|frame| frame.push_lost(&lost))?;
            }
            let (checkpoint, from) = self.begin(&row, &view, out).await?;
            if let Some(checkpoint) = checkpoint {
                out.written.checkpointed += checkpoint.unverified().last.number.get();
                out.push(|frame| frame.push_checkpoint(&checkpoint))?;
            }
            self.write_rows(epoch, from, out).await?;
        }
        Ok(())
    }

    /// The checkpoint that an epoch begins with, and the first number whose row is written.
    async fn begin<W: Write>(
        &self,
        row: &EpochRow,
        view: &EpochLedger,
        out: &mut Frames<W>,
    ) -> anyhow::Result<(Option<SignedCheckpoint>, Option<BatchSeq>)> {
        let (node, epoch) = (self.node, row.epoch);
        let stored = self.store.checkpoint(node, epoch).await?;
        let last = stored.as_ref().map(|checkpoint| checkpoint.unverified().last.number);
        let Some(through) = self.before(row, view).await?.filter(|through| Some(*through) > last) else {
            return Ok((stored, Some(BatchSeq::FIRST)));
        };
        let stretch = Replaceable { node, epoch, through, since: row.first_seen };
        match draw(&self.store, &self.keys, &stretch, super::now()).await? {
            Ok(drawn) => {
                let next = drawn.checkpoint.unverified().last.number.next();
                Ok((Some(drawn.checkpoint), next))
            }
            Err(Unsound(why)) => {
                out.written.unsound.push(format!("epoch {epoch}: all headers are written, since {why}"));
                Ok((stored, Some(BatchSeq::FIRST)))
            }
        }
    }

    /// Through which number nothing of an epoch was asked for.
    async fn before(&self, row: &EpochRow, view: &EpochLedger) -> anyhow::Result<Option<BatchSeq>> {
        let settled = view.through().map(|head| head.number);
        if self.days.to.is_some_and(|to| row.first_seen > to) {
            return Ok(settled);
        }
        let Some(from) = self.days.from else { return Ok(None) };
        Ok(match self.store.first_since(self.node, row.epoch, from).await? {
            None => settled,
            Some(first) => first.previous().min(settled),
        })
    }

    async fn write_rows<W: Write>(
        &self,
        epoch: EpochId,
        mut next: Option<BatchSeq>,
        out: &mut Frames<W>,
    ) -> anyhow::Result<()> {
        while let Some(from) = next.take() {
            for row in self.store.chain(self.node, epoch, from, PAGE).await? {
                self.write_row(&row, out)?;
                next = row.span().last().next();
            }
        }
        Ok(())
    }

    fn write_row<W: Write>(&self, row: &ChainRow, out: &mut Frames<W>) -> anyhow::Result<()> {
        match row {
            ChainRow::Fold(fold) => {
                out.written.folds += 1;
                out.push(|frame| frame.push_fold(fold))
            }
            ChainRow::Batch(batch) => {
                out.written.batches += 1;
                match &batch.payload {
                    Payload::Present(bytes) if self.days.contain(batch.received_at) => {
                        out.push(|frame| frame.push_batch(&batch.signed, Content::Payload(bytes)))
                    }
                    Payload::Evicted(eviction) => {
                        out.push(|frame| frame.push_batch(&batch.signed, Content::Evicted(*eviction)))
                    }
                    Payload::Present(_) | Payload::Expired => {
                        out.written.headers += 1;
                        out.push(|frame| frame.push_expired(&batch.signed))
                    }
                }
            }
        }
    }
}

/// Frames one after the other, each written when it is full.
struct Frames<W> {
    out: W,
    frame: FrameWriter,
    written: Exported,
}

impl<W: Write> Frames<W> {
    fn push(&mut self, push: impl Fn(&mut FrameWriter) -> bool) -> anyhow::Result<()> {
        if self.frame.len() >= FRAME || !push(&mut self.frame) {
            let full = self.frame.len() >= FRAME;
            self.flush()?;
            if !push(&mut self.frame) {
                bail!("a part does not fit a frame (after a {} one)", if full { "full" } else { "short" });
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        if !self.frame.is_empty() {
            let bytes = std::mem::take(&mut self.frame).finish();
            self.out.write_all(&export::prefix(&bytes))?;
            self.out.write_all(&bytes)?;
        }
        Ok(())
    }
}

impl Frames<BufWriter<File>> {
    fn finish(mut self) -> anyhow::Result<(File, Exported)> {
        self.flush()?;
        Ok((self.out.into_inner().map_err(std::io::IntoInnerError::into_error)?, self.written))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The export of a node, in a file.
    pub(in crate::commands) async fn export_to(
        store: &Arc<dyn Store>,
        site: &Site,
        (node, days): (NodeId, Days),
        path: &Path,
    ) -> Exported {
        let source = Source { store: Arc::clone(store), keys: site.keys.get(), node, days };
        to_file(&source, path).await.unwrap()
    }
}
