//! `verify`: proves again, offline, that what is stored is what the nodes signed.
//!
//! Works on the store (`--node`) or on an export with public keys alone (`--export`, `--keys`). Prints what each epoch
//! amounts to; names the first bad batch; exits with 1 if anything is bad or something acknowledged is missing.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufReader, Read, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, anyhow, ensure};
use auditflow_event::{NodeId, Timestamp};
use auditflow_service::args::Exit;
use auditflow_service::{file, lifecycle};
use auditflow_wire::chain::{EntryContent, Report};
use auditflow_wire::keys::{Node, Site};
use auditflow_wire::{
    BatchSeq, Content, EpochId, KeyRing, NodePublicKey, Part, Parts, SignedHeader, SignedLost, SitePublicKey,
    Span, Verifier, export,
};
use clap::Args;

use crate::store::{ChainRow, Payload, Store};

/// Batches read at a time.
const PAGE: usize = 64;
/// More than any list of keys has.
const MAX_KEYS: u64 = 1 << 20;

/// `verify`
#[derive(Debug, Clone, Args)]
pub struct Verify {
    #[command(flatten)]
    place: super::Place,
    /// The node whose batches are proved, by its id
    #[arg(long, value_name = "ID", required_unless_present = "export")]
    node: Option<NodeId>,
    /// Only epochs (runs of its agent) heard of at this time or later, as 2026-11-23T05:00:00Z
    #[arg(long, value_name = "TIME", requires = "node")]
    from: Option<Timestamp>,
    /// Only epochs heard of at this time or earlier
    #[arg(long, value_name = "TIME", requires = "node")]
    to: Option<Timestamp>,
    /// An export to prove instead of the store
    #[arg(long, value_name = "FILE", conflicts_with = "node", requires = "keys")]
    export: Option<PathBuf>,
    /// Public keys for the export, as `keys` prints them
    #[arg(long, value_name = "FILE", requires = "export")]
    keys: Option<PathBuf>,
}

/// Proves and prints.
pub fn run(args: &Verify) -> anyhow::Result<Exit> {
    let (node, report) = match (&args.export, &args.keys, args.node) {
        (Some(export), Some(keys), _) => verify_export(export, keys)?,
        (_, _, Some(node)) => {
            let store = super::open_store(&args.place.config()?)?;
            (node, lifecycle::block_on(verify_store(&store, node, args.from, args.to))??)
        }
        _ => return Err(anyhow!("give --node ID, or --export FILE and --keys FILE")),
    };
    super::unless_closed(std::io::stdout().write_all(describe(node, &report).as_bytes()))?;
    Ok(if report.is_sound() { Exit::Ok } else { Exit::Failure })
}

/// Walks what the store holds of a node.
pub async fn verify_store(
    store: &Arc<dyn Store>,
    node: NodeId,
    from: Option<Timestamp>,
    to: Option<Timestamp>,
) -> anyhow::Result<Report> {
    let keys = store.node_keys(node).await?;
    ensure!(!keys.is_empty(), "there is no node {node}: the page lists the nodes' ids");
    let mut verifier = Verifier::new(node, keys.into_iter().collect());
    for epoch in store.epochs(node).await? {
        let inside =
            from.is_none_or(|from| epoch.last_seen >= from) && to.is_none_or(|to| epoch.first_seen <= to);
        if !inside {
            continue;
        }
        let mut lost: Vec<Span> = store.ledger_view(node, epoch.epoch).await?.lost().to_vec();
        lost.reverse();
        let mut next = Some(BatchSeq::FIRST);
        while let Some(from) = next {
            let page = store.chain(node, epoch.epoch, from, PAGE).await?;
            next = None;
            for row in page {
                let number = match &row {
                    ChainRow::Batch(batch) => batch.signed.header.number,
                    ChainRow::Fold(fold) => fold.unverified().span.first(),
                };
                while let Some(span) = lost.pop_if(|span| span.first() < number) {
                    verifier.lost(epoch.epoch, span);
                }
                next = walk(&mut verifier, &row).or(next);
            }
        }
        for span in lost.into_iter().rev() {
            verifier.lost(epoch.epoch, span);
        }
    }
    Ok(verifier.finish())
}

/// One row; returns the number after it.
fn walk(verifier: &mut Verifier, row: &ChainRow) -> Option<BatchSeq> {
    match row {
        ChainRow::Batch(batch) => {
            let content = match &batch.payload {
                Payload::Present(bytes) => EntryContent::Payload(bytes),
                Payload::Evicted(eviction) => EntryContent::Evicted(*eviction),
                Payload::Expired => EntryContent::Expired,
            };
            verifier.batch(&batch.signed, content);
            batch.signed.header.number.next()
        }
        ChainRow::Fold(fold) => {
            verifier.fold(fold);
            fold.unverified().span.last().next()
        }
    }
}

fn verify_export(path: &Path, keys: &Path) -> anyhow::Result<(NodeId, Report)> {
    let (nodes, sites) = read_keys(keys)?;
    let mut node = None;
    each_part(path, |part| {
        node = node.or(match part {
            Part::Batch(batch) => Some(batch.signed.header.node),
            Part::Folded(fold) => Some(fold.unverified().node),
            Part::Expired(signed) => Some(signed.header.node),
            _ => None,
        });
        Ok(())
    })?;
    let node = node.ok_or_else(|| anyhow!("{} holds no batch", path.display()))?;
    let mut verifier = Verifier::new(node, nodes);
    // What was countersigned, and what is lost, has to be known before what is beside it is looked for.
    let mut lost = LostNumbers::default();
    each_part(path, |part| match part {
        Part::Ack(ack) => Ok(verifier.countersigned(ack, &sites)?),
        Part::Lost(said) => lost.take(said, node, &sites),
        _ => Ok(()),
    })?;
    each_part(path, |part| {
        match part {
            Part::Batch(batch) => {
                lost.tell_before(&mut verifier, &batch.signed);
                let content = match batch.content {
                    Content::Payload(bytes) => EntryContent::Payload(bytes),
                    Content::Evicted(eviction) => EntryContent::Evicted(eviction),
                };
                verifier.batch(&batch.signed, content);
            }
            Part::Expired(signed) => {
                lost.tell_before(&mut verifier, signed);
                verifier.batch(signed, EntryContent::Expired);
            }
            Part::Folded(fold) => {
                let folded = fold.unverified();
                lost.tell_below(&mut verifier, folded.epoch, folded.span.first());
                verifier.fold(fold);
            }
            _ => {}
        }
        Ok(())
    })?;
    lost.tell_rest(&mut verifier);
    Ok((node, verifier.finish()))
}

/// What the site says is lost, by epoch, the lowest last.
#[derive(Default)]
struct LostNumbers(BTreeMap<EpochId, Vec<Span>>);

impl LostNumbers {
    fn take(&mut self, said: &SignedLost, node: NodeId, sites: &KeyRing<Site>) -> anyhow::Result<()> {
        let unknown = "the export's list of lost numbers is signed by a key that is not in the list of keys";
        let lost = said.verify(sites.get(said.key()).context(unknown)?)?;
        if lost.node == node {
            let spans = self.0.entry(lost.epoch).or_default();
            spans.extend(&lost.spans);
            spans.sort_unstable_by_key(|span| std::cmp::Reverse(span.first()));
        }
        Ok(())
    }

    fn tell_before(&mut self, verifier: &mut Verifier, batch: &SignedHeader) {
        self.tell_below(verifier, batch.header.epoch, batch.header.number);
    }

    fn tell_below(&mut self, verifier: &mut Verifier, epoch: EpochId, number: BatchSeq) {
        let Some(spans) = self.0.get_mut(&epoch) else { return };
        while let Some(span) = spans.pop_if(|span| span.first() < number) {
            verifier.lost(epoch, span);
        }
    }

    fn tell_rest(self, verifier: &mut Verifier) {
        for (epoch, spans) in self.0 {
            spans.into_iter().rev().for_each(|span| verifier.lost(epoch, span));
        }
    }
}

/// Every part of an export, frame by frame, so that memory stays bounded.
fn each_part(path: &Path, mut take: impl FnMut(&Part<'_>) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let cut_off = || format!("{} is cut off or no export", path.display());
    let mut file =
        BufReader::new(File::open(path).with_context(|| format!("cannot read {}", path.display()))?);
    let mut magic = [0; export::MAGIC.len()];
    file.read_exact(&mut magic).with_context(cut_off)?;
    ensure!(magic == export::MAGIC, "{} is no export", path.display());
    loop {
        let mut prefix = [0; export::PREFIX_LEN];
        match file.read(&mut prefix[..1])? {
            0 => return Ok(()),
            _ => file.read_exact(&mut prefix[1..]).with_context(cut_off)?,
        }
        let mut frame = vec![0; export::frame_len(prefix)?];
        file.read_exact(&mut frame).with_context(cut_off)?;
        for part in Parts::new(&frame)? {
            take(&part.with_context(|| format!("{} holds a part that is damaged", path.display()))?)?;
        }
    }
}

fn read_keys(path: &Path) -> anyhow::Result<(KeyRing<Node>, KeyRing<Site>)> {
    let bytes =
        file::read_bounded(path, MAX_KEYS).with_context(|| format!("cannot read {}", path.display()))?;
    let (mut nodes, mut sites) = (KeyRing::default(), KeyRing::default());
    for (number, line) in (1..).zip(String::from_utf8_lossy(&bytes).lines()) {
        let bad = || format!("{} line {number}: expected `node KEY` or `site KEY`", path.display());
        match line.trim().split_once(' ') {
            Some(("node", key)) => nodes.add(key.trim().parse::<NodePublicKey>().with_context(bad)?),
            Some(("site", key)) => sites.add(key.trim().parse::<SitePublicKey>().with_context(bad)?),
            None if line.trim().is_empty() => {}
            _ => return Err(anyhow!(bad())),
        }
    }
    Ok((nodes, sites))
}

fn describe(node: NodeId, report: &Report) -> String {
    let mut text = format!("node {node}\n");
    for epoch in &report.epochs {
        let tally = &epoch.tally;
        let head = epoch.head.map_or_else(|| "none".to_owned(), |head| head.number.to_string());
        let countersigned =
            epoch.countersigned.map_or_else(|| "none".to_owned(), |number| number.to_string());
        // Writing to a string can't fail.
        let _ = writeln!(
            text,
            "epoch {}: {} verified, {} evicted, {} expired, {} lost, {} bad, {} missing; {} events; head {head}, seen \
             countersigned through {countersigned}",
            epoch.epoch,
            tally.verified,
            tally.evicted,
            tally.expired,
            tally.lost,
            tally.bad,
            epoch.missing,
            epoch.events
        );
        for gap in &epoch.gaps {
            let why =
                if gap.acknowledged { "acknowledged once, and deleted since" } else { "may still be owed" };
            let _ = writeln!(text, "  missing {}: {why}", gap.span);
        }
    }
    match report.first_bad() {
        Some(bad) => {
            let _ =
                writeln!(text, "first bad batch: epoch {} number {}: {}", bad.epoch, bad.number, bad.reason);
        }
        None if report.is_sound() => text.push_str("sound\n"),
        None => text.push_str("not sound: batches that were acknowledged are missing\n"),
    }
    text
}

#[cfg(test)]
mod tests {
    use auditflow_wire::{Ack, Answer, FrameWriter, Signed, SiteKey};
    use tempfile::TempDir;

    use super::*;
    use crate::commands::export::tests::export_to;
    use crate::store::sqlite::{Options, SqliteStore};
    use crate::store::{Arrival, Enrolment, JoinToken, Limits};
    use crate::testing::{TestBatch, TestNode, at};

    /// A store with one node and five batches, the second of them evicted.
    async fn filled() -> (TempDir, Arc<dyn Store>, TestNode, Vec<TestBatch>) {
        let directory = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> =
            Arc::new(SqliteStore::open(directory.path(), Options::for_cap(1 << 30)).unwrap());
        let mut node = TestNode::new(1);
        let token = JoinToken { secret_hash: [1; 32], created_at: at(0), expires_at: at(9), uses_left: 1 };
        store.add_join_token(token, "test").await.unwrap();
        let enrolment = Enrolment {
            node: node.id,
            token: [1; 32],
            key: node.key.public(),
            hostname: "pi".to_owned(),
            version: "1".to_owned(),
            fingerprint: String::new(),
            former: None,
            now: at(1),
        };
        store.enrol(enrolment).await.unwrap();
        let batches: Vec<TestBatch> = (0..5).map(|second| node.logins(&[second])).collect();
        let mut arrivals: Vec<Arrival> = batches.iter().map(TestBatch::arrival).collect();
        arrivals[1] = Arrival::Batch(Box::new(batches[1].evicted(&node.key)));
        store.store_batches(arrivals).await.unwrap();
        (directory, store, node, batches)
    }

    fn change(directory: &TempDir, file: &str, sql: &str) {
        rusqlite::Connection::open(directory.path().join(file)).unwrap().execute(sql, []).unwrap();
    }

    #[tokio::test]
    async fn an_untouched_store_is_sound() {
        let (_directory, store, node, _) = filled().await;
        let report = verify_store(&store, node.id, None, None).await.unwrap();
        assert!(report.is_sound());
        let tally = &report.epochs[0].tally;
        assert_eq!((tally.verified, tally.evicted, tally.bad), (4, 1, 0));
        assert!(describe(node.id, &report).ends_with("sound\n"));
        assert!(verify_store(&store, node.id, Some(at(9)), None).await.unwrap().epochs.is_empty());
        assert!(verify_store(&store, TestNode::new(9).id, None, None).await.is_err());
    }

    #[tokio::test]
    async fn an_altered_payload_is_named_by_its_number() {
        let (directory, store, node, _) = filled().await;
        let sql = "UPDATE payload SET bytes = zeroblob(length(bytes)) WHERE id = 4";
        change(&directory, "payload/2026-11-23.0.db", sql);
        let report = verify_store(&store, node.id, None, None).await.unwrap();
        assert_eq!(report.first_bad().map(|bad| bad.number.get()), Some(4));
        assert!(describe(node.id, &report).contains("number 4: payload altered"));
    }

    #[tokio::test]
    async fn a_deleted_row_is_missing_and_the_link_after_it_tells() {
        let (directory, store, node, _) = filled().await;
        change(&directory, "collector.db", "DELETE FROM ledger WHERE seq = 3");
        let report = verify_store(&store, node.id, None, None).await.unwrap();
        assert_eq!((report.epochs[0].missing, report.epochs[0].gaps[0].span.first().get()), (1, 3));
    }

    #[tokio::test]
    async fn an_export_is_proved_with_public_keys_alone_and_shows_what_was_cut_off() {
        let (directory, store, node, batches) = filled().await;
        let site = SiteKey::from_seed(&[3; 32]);
        let view = store.ledger_view(node.id, node.epoch).await.unwrap();
        let Ack { through, above, .. } = view.ack(node.id, node.epoch, None, at(0));
        let ack =
            Ack { node: node.id, epoch: node.epoch, time: at(0), answer: Answer::Stored, through, above };
        let keys = directory.path().join("keys");
        std::fs::write(&keys, format!("node {}\nsite {}\n", node.key.public(), site.public())).unwrap();
        let export = |batches: &[TestBatch]| {
            let mut frame = FrameWriter::new();
            for batch in batches {
                assert!(frame.push_batch(&batch.signed, Content::Payload(&batch.payload)));
            }
            assert!(frame.push_ack(&Signed::sign(ack.clone(), &site)));
            let frame = frame.finish();
            let bytes = [&export::MAGIC[..], &export::prefix(&frame)[..], &frame[..]].concat();
            let path = directory.path().join("export");
            std::fs::write(&path, &bytes).unwrap();
            (path, bytes)
        };
        let (path, bytes) = export(&batches);
        let (proved, report) = verify_export(&path, &keys).unwrap();
        assert!(proved == node.id && report.is_sound());
        let (path, _) = export(&batches[..4]);
        let (_, report) = verify_export(&path, &keys).unwrap();
        assert!(!report.is_sound());
        assert!(describe(node.id, &report).contains("missing 5: acknowledged once, and deleted since"));
        std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        assert!(verify_export(&path, &keys).unwrap_err().to_string().contains("cut off"));
        std::fs::write(&keys, "node nonsense\n").unwrap();
        assert!(verify_export(&path, &keys).unwrap_err().to_string().contains("line 1"));
    }

    #[tokio::test]
    async fn the_collectors_own_export_is_proved_as_the_store_is_after_payloads_have_expired_and_numbers_were_lost()
     {
        let (directory, store, mut node, _) = filled().await;
        // Two that never come: the node holds nothing below the batch after them any more.
        node.logins(&[10]);
        node.logins(&[11]);
        node.oldest_unacknowledged = Some(8);
        let later = node.logins(&[12]);
        store.store_batches(vec![later.arrival()]).await.unwrap();
        let (far, all) = (at(100 * 86_400), Limits { max_bytes: u64::MAX, max_age_seconds: 1 });
        store
            .store_batches(vec![Arrival::Batch(Box::new(node.logins(&[13]).received(100 * 86_400)))])
            .await
            .unwrap();
        store.retain(all, far).await.unwrap();
        let site = SiteKey::from_seed(&[3; 32]);
        let (path, keys) = (directory.path().join("export"), directory.path().join("keys"));
        let written = export_to(&store, &site, node.id, &path).await;
        assert_eq!((written.batches, written.expired, written.folds), (7, 5, 0));
        std::fs::write(&keys, format!("node {}\nsite {}\n", node.key.public(), site.public())).unwrap();
        let (proved, report) = verify_export(&path, &keys).unwrap();
        let online = verify_store(&store, node.id, None, None).await.unwrap();
        assert!(proved == node.id && report.is_sound());
        let tally = report.epochs[0].tally;
        assert_eq!(tally, online.epochs[0].tally);
        assert_eq!((tally.verified, tally.evicted, tally.expired, tally.lost, tally.bad), (1, 1, 5, 2, 0));
        assert_eq!(report.epochs[0].countersigned.map(BatchSeq::get), Some(9));
        // Somebody else's word on what is lost is not taken, nor is an altered header.
        std::fs::write(&keys, format!("node {}\n", node.key.public())).unwrap();
        assert!(verify_export(&path, &keys).is_err());
    }
}
