//! Which alerts a cluster should show: those that one collector with embedded storage raises of the same batches, given to
//! it one after another while nothing goes wrong.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use auditflow_collector::analyse::{self, Analyser, AnalysisMetrics};
use auditflow_collector::correlate::windows::Stored;
use auditflow_collector::detect::RulesReloader;
use auditflow_collector::ingest::{Feed, Ingest, Speaker};
use auditflow_collector::metrics::IngestMetrics;
use auditflow_collector::site::Site;
use auditflow_collector::store::postgres::{self, PostgresStore};
use auditflow_collector::store::sqlite::{Options, SqliteStore};
use auditflow_collector::store::{
    AlertCursor, AlertFilter, By, ChainRow, Enrolment, JoinToken, Payload, Store,
};
use auditflow_event::{NodeId, Timestamp};
use auditflow_service::health::Health;
use auditflow_service::metrics::Metrics;
use auditflow_wire::{BatchSeq, Content, FrameWriter};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

/// How long both may take until they agree.
const LIMIT: Duration = Duration::from_mins(1);
/// Batches and alerts read at a time.
const PAGE: usize = 100;

/// The alerts that stand, by id, without what depends on how their events came.
type Standing = BTreeMap<String, Value>;

/// Waits until the alerts in the database at `url` are those of an undisturbed collector; returns how many
/// there are of each rule.
pub(crate) fn ensure_alerts_are_as_undisturbed(
    url: &str,
    nodes: &[NodeId],
) -> anyhow::Result<BTreeMap<String, usize>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let disturbed = PostgresStore::new(&postgres::Options { url: url.to_owned(), connections: 2 })?;
        disturbed.open().await?;
        let folder = tempfile::tempdir()?;
        let reference = Reference::start(folder.path())?;
        for node in nodes {
            reference.take_all_of(*node, &disturbed).await?;
        }
        let deadline = tokio::time::Instant::now() + LIMIT;
        loop {
            let (is, should) = (standing(&disturbed).await?, standing(&*reference.store).await?);
            if is == should && !is.is_empty() {
                reference.stop.cancel();
                return Ok(by_rule(&is));
            }
            if tokio::time::Instant::now() > deadline {
                bail!("{}", difference(&is, &should));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    })
}

/// The collector to which nothing happens.
struct Reference {
    store: Arc<dyn Store>,
    ingest: Ingest,
    stop: CancellationToken,
}

impl Reference {
    fn start(folder: &std::path::Path) -> anyhow::Result<Self> {
        let store: Arc<dyn Store> =
            Arc::new(SqliteStore::open(&folder.join("data"), Options::for_cap(1 << 30))?);
        let (metrics, health) = (Metrics::new("undisturbed")?, Health::requiring(&[]));
        let rules = RulesReloader::start(&[], health.part("rules"))?.current();
        let (hints, hinted) = analyse::hints();
        let feed = Feed { rules: rules.clone(), hints };
        let site = Site::open(&folder.join("site"))?;
        let ingest = Ingest::new(Arc::clone(&store), site, Some(feed), IngestMetrics::register(&metrics)?);
        let analyser = Analyser::new(analyse::Parts {
            windows: Arc::new(Stored(Arc::clone(&store))),
            store: Arc::clone(&store),
            rules,
            retention: Duration::from_hours(24 * 90),
            metrics: AnalysisMetrics::register(&metrics)?,
            health: health.part("analysis"),
        });
        let stop = CancellationToken::new();
        tokio::spawn(analyser.run(hinted, stop.clone()));
        Ok(Self { store, ingest, stop })
    }

    /// Enrols a node as `from` knows it, and takes its batches in the order of their numbers.
    async fn take_all_of(&self, node: NodeId, from: &dyn Store) -> anyhow::Result<()> {
        let now = Timestamp::from_micros(chrono::Utc::now().timestamp_micros());
        let (keys, row) = (from.node_keys(node).await?, from.node(node).await?.context("it is known")?);
        let token = *node.as_bytes();
        let secret_hash = std::array::from_fn(|index| token[index % token.len()]);
        let token = JoinToken { secret_hash, created_at: now, expires_at: Timestamp::MAX, uses_left: 1 };
        self.store.add_join_token(token, By::COLLECTOR).await?;
        let enrolment = Enrolment {
            node,
            token: secret_hash,
            key: *keys.current().context("it has a key")?,
            hostname: row.hostname,
            version: row.version,
            fingerprint: String::new(),
            former: None,
            origin: None,
            now,
        };
        self.store.enrol(enrolment).await?;
        for epoch in from.epochs(node).await? {
            let mut next = BatchSeq::FIRST;
            loop {
                let rows = from.chain(node, epoch.epoch, next, PAGE).await?;
                let Some(last) = rows.last() else { break };
                next = last.span().last().next().context("there is a next number")?;
                for row in rows {
                    let ChainRow::Batch(batch) = row else { bail!("nothing was folded") };
                    let Payload::Present(payload) = &batch.payload else { bail!("every payload is there") };
                    let mut frame = FrameWriter::new();
                    ensure!(
                        frame.push_batch(&batch.signed, Content::Payload(payload)),
                        "a frame takes one batch"
                    );
                    let speaker = Speaker { node, key: None };
                    self.ingest.take(speaker, frame.finish().into(), now).await?;
                }
            }
        }
        Ok(())
    }
}

async fn standing(store: &dyn Store) -> anyhow::Result<Standing> {
    let (mut standing, mut after) = (Standing::new(), None);
    loop {
        let page = store.alerts(AlertFilter::default(), after, 0, PAGE).await?;
        let Some(last) = page.last() else { return Ok(standing) };
        after = Some(AlertCursor { received_at: last.received_at, alert_id: last.alert.alert_id });
        for row in page {
            standing.insert(row.alert.alert_id.to_string(), serde_json::to_value(&row.alert)?);
        }
    }
}

fn by_rule(alerts: &Standing) -> BTreeMap<String, usize> {
    let mut rules = BTreeMap::new();
    for alert in alerts.values() {
        *rules.entry(alert["rule"]["name"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
    }
    rules
}

/// What is wrong, as short as can be.
fn difference(is: &Standing, should: &Standing) -> String {
    let only = |these: &Standing, those: &Standing| {
        let ids = these.iter().filter(|(id, _)| !those.contains_key(*id));
        ids.map(|(id, alert)| format!("{id} {} {}", alert["rule"]["name"], alert["timestamp"]))
            .collect::<Vec<_>>()
    };
    let other = is.iter().find(|(id, alert)| should.get(*id).is_some_and(|expected| expected != *alert));
    format!(
        "{} alerts stand instead of {}: too many {:?}, missing {:?}, first that differs {:?} instead of {:?}",
        is.len(),
        should.len(),
        only(is, should),
        only(should, is),
        other,
        other.and_then(|(id, _)| should.get(id)),
    )
}
