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
use auditflow_wire::chain::{EntryContent, EpochReport, Report};
use auditflow_wire::keys::Site;
use auditflow_wire::{
    BatchSeq, Content, EpochId, KeyRing, NodeKeys, NodePublicKey, Part, Parts, SignedCheckpoint,
    SignedHeader, SignedLost, SignedNodeRotation, SitePublicKey, Span, Verifier, export,
};
use clap::Args;

use crate::proof::walk::{Stretch, walk};
use crate::site;
use crate::store::Store;

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
            let config = args.place.config()?;
            let store = super::open_store(&config)?;
            let sites = site_keys(&config.storage.data_dir)?;
            (node, lifecycle::block_on(verify_store(&store, &sites, node, [args.from, args.to]))??)
        }
        _ => return Err(anyhow!("give --node ID, or --export FILE and --keys FILE")),
    };
    super::unless_closed(std::io::stdout().write_all(describe(node, &report).as_bytes()))?;
    Ok(if report.is_sound() { Exit::Ok } else { Exit::Failure })
}

/// The keys that checkpoints may be signed with. A collector that never ran has made neither.
fn site_keys(data_dir: &Path) -> anyhow::Result<KeyRing<Site>> {
    if !data_dir.join("site").exists() {
        return Ok(KeyRing::default());
    }
    Ok(site::Site::existing(data_dir)?.keys.get().all().collect())
}

/// Walks what the store holds of a node. `sites` are the keys that its checkpoints may be signed with.
pub async fn verify_store(
    store: &Arc<dyn Store>,
    sites: &KeyRing<Site>,
    node: NodeId,
    [from, to]: [Option<Timestamp>; 2],
) -> anyhow::Result<Report> {
    let keys = store.node_keys(node).await?;
    ensure!(!keys.is_empty(), "there is no node {node}: the page lists the nodes' ids");
    let mut verifier = Verifier::new(node, keys);
    for row in store.epochs(node).await? {
        let inside =
            from.is_none_or(|from| row.last_seen >= from) && to.is_none_or(|to| row.first_seen <= to);
        if !inside {
            continue;
        }
        let epoch = row.epoch;
        if let Some(checkpoint) = store.checkpoint(node, epoch).await? {
            take_checkpoint(&mut verifier, &checkpoint, sites)?;
        }
        // The epoch says itself what the store has acknowledged: batches deleted at the end would not be missed otherwise.
        let view = store.ledger_view(node, epoch).await?;
        verifier.acknowledged(&view.ack(node, epoch, None, Timestamp::EPOCH));
        let stretch = Stretch { node, epoch, from: BatchSeq::FIRST, through: None };
        walk(store, &mut verifier, stretch).await?;
    }
    Ok(verifier.finish())
}

fn take_checkpoint(
    verifier: &mut Verifier,
    checkpoint: &SignedCheckpoint,
    sites: &KeyRing<Site>,
) -> anyhow::Result<()> {
    verifier.checkpoint(checkpoint, sites).with_context(|| {
        let said = checkpoint.unverified();
        format!(
            "the checkpoint of epoch {} through {} is not signed by a known key of the site: it proves nothing",
            said.epoch, said.last.number
        )
    })
}

fn verify_export(path: &Path, keys: &Path) -> anyhow::Result<(NodeId, Report)> {
    let (nodes, sites) = read_keys(keys)?;
    let mut node = None;
    each_part(path, |part| {
        node = node.or(match part {
            Part::Batch(batch) => Some(batch.signed.header.node),
            Part::Folded(fold) => Some(fold.unverified().node),
            Part::Expired(signed) => Some(signed.header.node),
            Part::Checkpoint(checkpoint) => Some(checkpoint.unverified().node),
            _ => None,
        });
        Ok(())
    })?;
    let node = node.ok_or_else(|| anyhow!("{} holds no batch", path.display()))?;
    let mut verifier = Verifier::new(node, nodes);
    // What was countersigned, checkpointed and lost has to be known before what is beside it is looked for.
    let mut lost = LostNumbers::default();
    each_part(path, |part| match part {
        Part::Ack(ack) => Ok(verifier.countersigned(ack, &sites)?),
        Part::Lost(said) => lost.take(said, node, &sites),
        Part::Checkpoint(checkpoint) => take_checkpoint(&mut verifier, checkpoint, &sites),
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

fn read_keys(path: &Path) -> anyhow::Result<(NodeKeys, KeyRing<Site>)> {
    let bytes =
        file::read_bounded(path, MAX_KEYS).with_context(|| format!("cannot read {}", path.display()))?;
    let (mut nodes, mut sites, mut rotations) = (Vec::new(), KeyRing::default(), Vec::new());
    for (number, line) in (1..).zip(String::from_utf8_lossy(&bytes).lines()) {
        let bad =
            || format!("{} line {number}: expected `node KEY`, `site KEY` or `rotation HEX`", path.display());
        match line.trim().split_once(' ') {
            Some(("node", key)) => nodes.push(key.trim().parse::<NodePublicKey>().with_context(bad)?),
            Some(("site", key)) => sites.add(key.trim().parse::<SitePublicKey>().with_context(bad)?),
            Some(("rotation", hex)) => {
                let bytes = data_encoding::HEXLOWER.decode(hex.trim().as_bytes()).with_context(bad)?;
                rotations.push((number, SignedNodeRotation::parse(&bytes).with_context(bad)?));
            }
            None if line.trim().is_empty() => {}
            _ => return Err(anyhow!(bad())),
        }
    }
    let mut nodes: NodeKeys = nodes.into_iter().collect();
    for (number, rotation) in rotations {
        let refused = || format!("{} line {number}: the rotation does not hold", path.display());
        nodes.follow(&rotation).with_context(refused)?;
    }
    Ok((nodes, sites))
}

fn describe(node: NodeId, report: &Report) -> String {
    let mut text = format!("node {node}\n");
    for epoch in &report.epochs {
        describe_epoch(&mut text, epoch);
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

fn describe_epoch(text: &mut String, epoch: &EpochReport) {
    let EpochReport { tally, missing, events, .. } = epoch;
    let number = |number: Option<BatchSeq>| number.map_or_else(|| "none".to_owned(), |n| n.to_string());
    let (head, countersigned) = (number(epoch.head.map(|head| head.number)), number(epoch.countersigned));
    // Writing to a string can't fail.
    let _ = writeln!(
        text,
        "epoch {}: {} verified, {} evicted, {} expired, {} lost, {} bad, {missing} missing, {} checkpointed; \
         {events} events; head {head}, seen countersigned through {countersigned}",
        epoch.epoch,
        tally.verified,
        tally.evicted,
        tally.expired,
        tally.lost,
        tally.bad,
        epoch.checkpointed(),
    );
    if let Some(checkpoint) = &epoch.checkpoint {
        let before = &checkpoint.tally;
        let _ = writeln!(
            text,
            "  checkpointed {} at {}: {} verified, {} evicted, {} expired, {} lost",
            Span::up_to(checkpoint.last.number),
            checkpoint.time,
            before.verified,
            before.evicted,
            before.expired,
            before.lost
        );
    }
    if epoch.beside > 0 {
        let _ =
            writeln!(text, "  {} batches kept beside what stands for them, each proved alone", epoch.beside);
    }
    for gap in &epoch.gaps {
        let why = if gap.acknowledged { "acknowledged once, and deleted since" } else { "may still be owed" };
        let _ = writeln!(text, "  missing {}: {why}", gap.span);
    }
}

#[cfg(test)]
mod tests {
    use auditflow_wire::chain::Tally;
    use auditflow_wire::{Ack, Answer, FrameWriter, Signed, SiteKey};
    use tempfile::TempDir;

    use super::*;
    use crate::commands::export::Days;
    use crate::commands::export::tests::export_to;
    use crate::proof::checkpoint::Checkpoints;
    use crate::store::sqlite::{Options, SqliteStore};
    use crate::store::{Arrival, Limits};
    use crate::testing::{self, TestBatch, TestNode, at, enrol};

    async fn proved(store: &Arc<dyn Store>, node: NodeId) -> Report {
        verify_store(store, &KeyRing::default(), node, [None, None]).await.unwrap()
    }

    /// A store with one node and five batches, the second of them evicted.
    async fn filled() -> (TempDir, Arc<dyn Store>, TestNode, Vec<TestBatch>) {
        let directory = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> =
            Arc::new(SqliteStore::open(directory.path(), Options::for_cap(1 << 30)).unwrap());
        let mut node = TestNode::new(1);
        enrol(&store, &node).await;
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
        let report = proved(&store, node.id).await;
        assert!(report.is_sound());
        let tally = &report.epochs[0].tally;
        assert_eq!((tally.verified, tally.evicted, tally.bad), (4, 1, 0));
        assert!(describe(node.id, &report).ends_with("sound\n"));
        let none = KeyRing::default();
        let later = [Some(at(9)), None];
        assert!(verify_store(&store, &none, node.id, later).await.unwrap().epochs.is_empty());
        assert!(verify_store(&store, &none, TestNode::new(9).id, [None, None]).await.is_err());
    }

    #[tokio::test]
    async fn an_altered_payload_is_named_by_its_number() {
        let (directory, store, node, _) = filled().await;
        let sql = "UPDATE payload SET bytes = zeroblob(length(bytes)) WHERE id = 4";
        change(&directory, "payload/2026-11-23.0.db", sql);
        let report = proved(&store, node.id).await;
        assert_eq!(report.first_bad().map(|bad| bad.number.get()), Some(4));
        assert!(describe(node.id, &report).contains("number 4: payload altered"));
    }

    #[tokio::test]
    async fn a_deleted_row_is_missing_and_the_link_after_it_tells() {
        let (directory, store, node, _) = filled().await;
        change(&directory, "collector.db", "DELETE FROM ledger WHERE seq = 3");
        let report = proved(&store, node.id).await;
        assert_eq!((report.epochs[0].missing, report.epochs[0].gaps[0].span.first().get()), (1, 3));
    }

    #[tokio::test]
    async fn the_newest_row_deleted_is_missed_for_what_the_store_acknowledged() {
        let (directory, store, node, _) = filled().await;
        change(&directory, "collector.db", "DELETE FROM ledger WHERE seq = 5");
        let report = proved(&store, node.id).await;
        assert!(!report.is_sound());
        assert!(describe(node.id, &report).contains("missing 5: acknowledged once, and deleted since"));
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
        let (_site_directory, site) = testing::site();
        let (path, keys) = (directory.path().join("export"), directory.path().join("keys"));
        let written = export_to(&store, &site, (node.id, Days::default()), &path).await;
        assert_eq!((written.batches, written.headers, written.folds, written.checkpointed), (7, 5, 0, 0));
        write_keys(&keys, &node, &site);
        let (proved_node, report) = verify_export(&path, &keys).unwrap();
        let online = proved(&store, node.id).await;
        assert!(proved_node == node.id && report.is_sound());
        let tally = report.epochs[0].tally;
        assert_eq!(tally, online.epochs[0].tally);
        assert_eq!((tally.verified, tally.evicted, tally.expired, tally.lost, tally.bad), (1, 1, 5, 2, 0));
        assert_eq!(report.epochs[0].countersigned.map(BatchSeq::get), Some(9));
        // Somebody else's word on what is lost is not taken, nor is an altered header.
        std::fs::write(&keys, format!("node {}\n", node.key.public())).unwrap();
        assert!(verify_export(&path, &keys).is_err());
    }

    fn write_keys(path: &Path, node: &TestNode, site: &site::Site) {
        let mut lines = vec![format!("node {}", node.key.public())];
        lines.extend(site.keys.get().all().map(|key| format!("site {key}")));
        std::fs::write(path, lines.join("\n")).unwrap();
    }

    const DAY: i64 = 86_400;

    /// A store with a batch a day of one node that restarts after the third; what is older than two days at the end of
    /// the tenth is checkpointed.
    async fn checkpointed(site: &site::Site) -> (TempDir, Arc<dyn Store>, TestNode) {
        let directory = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> =
            Arc::new(SqliteStore::open(directory.path(), Options::for_cap(1 << 30)).unwrap());
        let mut node = TestNode::new(1);
        enrol(&store, &node).await;
        for day in 0..10 {
            let batch = node.seal(&[]).received(day * DAY);
            store.store_batches(vec![Arrival::Batch(Box::new(batch))]).await.unwrap();
            if day == 2 {
                node.restart(9);
            }
        }
        let limits = Limits { max_bytes: u64::MAX, max_age_seconds: DAY as u64 };
        store.retain(limits, at(9 * DAY)).await.unwrap();
        let mut checkpoints = Checkpoints::new(Arc::clone(&store), site.keys.clone());
        checkpoints.pass(limits, at(9 * DAY), &tokio_util::sync::CancellationToken::new()).await.unwrap();
        (directory, store, node)
    }

    #[tokio::test]
    async fn what_a_checkpoint_stands_for_is_told_and_its_signature_is_asked_for() {
        let (_site_directory, site) = testing::site();
        let (directory, store, node) = checkpointed(&site).await;
        let sites: KeyRing<Site> = site.keys.get().all().collect();
        let report = verify_store(&store, &sites, node.id, [None, None]).await.unwrap();
        assert!(report.is_sound());
        let epochs = report
            .epochs
            .iter()
            .map(|epoch| (epoch.checkpointed(), epoch.tally.expired, epoch.tally.verified));
        assert_eq!(epochs.collect::<Vec<_>>(), [(3, 0, 0), (4, 1, 2)]);
        let text = describe(node.id, &report);
        assert!(
            text.contains("checkpointed 1–4 at 2026-12-02T12:00:00.000Z: 0 verified, 0 evicted, 4 expired"),
            "{text}"
        );
        let error = verify_store(&store, &KeyRing::default(), node.id, [None, None]).await.unwrap_err();
        assert!(error.to_string().contains("is not signed by a known key of the site"), "{error}");
        // Somebody deletes all of the first epoch: the second one's checkpoint still names its end.
        change(&directory, "collector.db", "DELETE FROM epoch WHERE first_seen < 1795600000000000");
        let report = verify_store(&store, &sites, node.id, [None, None]).await.unwrap();
        assert!(report.epochs.iter().any(|epoch| epoch.missing == 3), "{report:?}");
    }

    #[tokio::test]
    async fn an_export_of_some_days_is_proved_and_shows_what_was_deleted_at_its_end() {
        let (_site_directory, site) = testing::site();
        let (directory, store, node) = checkpointed(&site).await;
        let keys = directory.path().join("keys");
        write_keys(&keys, &node, &site);
        let export = |name: &str, days| {
            let path = directory.path().join(name);
            let (store, site) = (&store, &site);
            async move { (export_to(store, site, (node.id, days), &path).await, path) }
        };
        let all = Days::default();
        // One day: what is before it is one checkpoint, what is after it has its header.
        let one = Days { from: Some(at(8 * DAY)), to: Some(at(8 * DAY + 1)) };
        for (name, days, written, tally) in
            [("all", all, (3, 1, 7), (2, 1, 4)), ("one", one, (2, 1, 8), (1, 1, 5))]
        {
            let (exported, path) = export(name, days).await;
            assert_eq!((exported.batches, exported.headers, exported.checkpointed), written, "{name}");
            let (_, report) = verify_export(&path, &keys).unwrap();
            assert!(report.is_sound(), "{name}: {report:?}");
            let last = &report.epochs.iter().find(|epoch| epoch.epoch == node.epoch).unwrap();
            assert_eq!((last.tally.verified, last.tally.expired, last.checkpointed()), tally, "{name}");
        }
        let (_, path) = export("late", Days { from: Some(at(99 * DAY)), to: None }).await;
        let (_, report) = verify_export(&path, &keys).unwrap();
        assert!(report.is_sound() && report.epochs.iter().all(|epoch| epoch.tally == Tally::default()));

        // The newest batch is taken out of the store, with what the ledger says of it left as it is.
        change(&directory, "collector.db", "DELETE FROM ledger WHERE seq = 7");
        let (_, path) = export("cut", one).await;
        let (_, report) = verify_export(&path, &keys).unwrap();
        assert!(!report.is_sound(), "{report:?}");
    }

    #[tokio::test]
    async fn what_an_export_cannot_sign_for_is_there_with_its_headers() {
        let (_site_directory, site) = testing::site();
        let (directory, store, node) = checkpointed(&site).await;
        change(
            &directory,
            "collector.db",
            "UPDATE ledger SET signed = CAST(substr(signed, 1, length(signed) - 1) || x'FF' AS BLOB) WHERE seq = 5",
        );
        let (path, keys) = (directory.path().join("export"), directory.path().join("keys"));
        write_keys(&keys, &node, &site);
        let days = Days { from: Some(at(9 * DAY)), to: None };
        let written = export_to(&store, &site, (node.id, days), &path).await;
        assert!(written.unsound[0].contains("batch 5: bad signature"), "{written:?}");
        assert_eq!((written.batches, written.headers), (3, 2));
        let (_, report) = verify_export(&path, &keys).unwrap();
        assert_eq!(report.first_bad().map(|bad| bad.number.get()), Some(5));
    }
}
