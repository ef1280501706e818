//! `export`: everything that is stored of a node, in one file that `verify --export` proves anywhere with public keys alone.
//!
//! Batches are written verbatim; one whose payload retention dropped is there with header and signature. What the ledger
//! knows beside them is the site's word and is signed anew: how far each epoch is stored, and which numbers are lost.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use auditflow_event::NodeId;
use auditflow_service::args::Exit;
use auditflow_service::lifecycle;
use auditflow_wire::chain::{Lost, MAX_SPANS};
use auditflow_wire::{BatchSeq, Content, EpochId, FrameWriter, Signed, SiteKey, export};
use clap::Args;

use crate::site::Site;
use crate::store::{ChainRow, Payload, Store};

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
    /// The file to write, which must not exist
    destination: PathBuf,
}

/// What was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Exported {
    /// Batches with their payload, or with the node's word that it was evicted.
    pub batches: u64,
    /// Batches whose payload retention has dropped: header and signature.
    pub expired: u64,
    /// Folded ranges.
    pub folds: u64,
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
    let exported = lifecycle::block_on(to_file(&store, &site.keys.get().signing, args.node, &partial))?;
    let exported = match exported {
        Ok(exported) => exported,
        Err(error) => {
            // Half an export proves less than it seems to.
            let _ = fs::remove_file(&partial);
            return Err(error);
        }
    };
    fs::rename(&partial, path).with_context(|| format!("cannot write {}", path.display()))?;
    let Exported { batches, expired, folds } = exported;
    super::unless_closed(writeln!(
        std::io::stdout(),
        "{}: {batches} batches, {expired} of which only the header is kept, {folds} folded ranges\n\
         prove it with: auditflow-collector verify --export {} --keys KEYS\n\
         where KEYS holds what this printed: auditflow-collector keys --node {}",
        path.display(),
        path.display(),
        args.node
    ))
}

async fn to_file(
    store: &Arc<dyn Store>,
    key: &SiteKey,
    node: NodeId,
    path: &Path,
) -> anyhow::Result<Exported> {
    let failed = || format!("cannot write {}", path.display());
    let file = File::create(path).with_context(failed)?;
    let mut out =
        Frames { out: BufWriter::new(file), frame: FrameWriter::new(), written: Exported::default() };
    export_node(store, key, node, &mut out).await?;
    let (file, written) = out.finish()?;
    file.sync_all().with_context(failed)?;
    Ok(written)
}

/// Writes what the store holds of a node, epoch by epoch; before an epoch's rows, what the site says of it.
async fn export_node<W: Write>(
    store: &Arc<dyn Store>,
    key: &SiteKey,
    node: NodeId,
    out: &mut Frames<W>,
) -> anyhow::Result<()> {
    ensure!(
        !store.node_keys(node).await?.is_empty(),
        "there is no node {node}: the page lists the nodes' ids"
    );
    out.out.write_all(&export::MAGIC)?;
    for epoch in store.epochs(node).await? {
        let epoch = epoch.epoch;
        let view = store.ledger_view(node, epoch).await?;
        let now = super::now();
        let ack = Signed::sign(view.ack(node, epoch, None, now), key);
        out.push(|frame| frame.push_ack(&ack))?;
        for spans in view.lost().chunks(MAX_SPANS) {
            let lost = Signed::sign(Lost { node, epoch, time: now, spans: spans.to_vec() }, key);
            out.push(|frame| frame.push_lost(&lost))?;
        }
        export_rows(store, node, epoch, out).await?;
    }
    Ok(())
}

async fn export_rows<W: Write>(
    store: &Arc<dyn Store>,
    node: NodeId,
    epoch: EpochId,
    out: &mut Frames<W>,
) -> anyhow::Result<()> {
    let mut next = Some(BatchSeq::FIRST);
    while let Some(from) = next.take() {
        for row in store.chain(node, epoch, from, PAGE).await? {
            out.push(|frame| match &row {
                ChainRow::Fold(fold) => frame.push_fold(fold),
                ChainRow::Batch(batch) => match &batch.payload {
                    Payload::Present(bytes) => frame.push_batch(&batch.signed, Content::Payload(bytes)),
                    Payload::Evicted(eviction) => {
                        frame.push_batch(&batch.signed, Content::Evicted(*eviction))
                    }
                    Payload::Expired => frame.push_expired(&batch.signed),
                },
            })?;
            next = match &row {
                ChainRow::Fold(fold) => {
                    out.written.folds += 1;
                    fold.unverified().span.last().next()
                }
                ChainRow::Batch(batch) => {
                    out.written.batches += 1;
                    out.written.expired += u64::from(batch.payload == Payload::Expired);
                    batch.signed.header.number.next()
                }
            };
        }
    }
    Ok(())
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
        key: &SiteKey,
        node: NodeId,
        path: &Path,
    ) -> Exported {
        to_file(store, key, node, path).await.unwrap()
    }
}
