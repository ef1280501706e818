//! What every route may use.

use std::sync::Arc;
use std::time::Duration;

use auditflow_event::Timestamp;
use auditflow_rules::Current;
use auditflow_service::health::Health;
use auditflow_service::metrics::Metrics;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::access::Access;
use super::stream::Hub;
use crate::detect::Rules;
use crate::site::SiteKeys;
use crate::store::Store;

/// Requests answered at once; more are told to come again.
const REQUESTS: usize = 256;
/// Searches at once: each may decode for a second.
const SEARCHES: usize = 4;
/// Browsers that listen at once.
const LISTENERS: usize = 256;

/// What the page and the API are told by whoever starts them.
pub struct Surroundings {
    /// Everything that is kept.
    pub store: Arc<dyn Store>,
    /// What checkpoints are signed with.
    pub site_keys: SiteKeys,
    /// How the parts are.
    pub health: Health,
    /// What is counted.
    pub metrics: Metrics,
    /// The rules in force.
    pub rules: Current<Rules>,
    /// Whether somebody without a credential may look.
    pub anonymous: bool,
    /// How long somebody stays logged in.
    pub session: Duration,
    /// The names under which this collector may be called by somebody without a credential, besides addresses and
    /// localhost.
    pub names: Vec<String>,
    /// For the join command: the agents' port.
    pub agents_port: u16,
    /// For commands on the page: how a command line names this collector (` --data DIR`), empty by default.
    pub option: String,
    /// Ends streams.
    pub stop: CancellationToken,
}

/// What every route may use. Cheap to clone.
#[derive(Clone)]
pub struct AppState {
    shared: Arc<Shared>,
}

/// The inside of [`AppState`].
pub struct Shared {
    /// Everything that is kept.
    pub store: Arc<dyn Store>,
    /// What checkpoints are signed with.
    pub site_keys: SiteKeys,
    /// How the parts are.
    pub health: Health,
    /// What is counted.
    pub metrics: Metrics,
    /// The rules in force.
    pub rules: Current<Rules>,
    /// Who may do what.
    pub access: Access,
    /// What has changed, for streams.
    pub hub: Hub,
    /// The agents' port.
    pub agents_port: u16,
    /// How a command line names this collector.
    pub option: String,
    /// Ends streams.
    pub stop: CancellationToken,
    pub(super) requests: Arc<Semaphore>,
    pub(super) searches: Semaphore,
    pub(super) listeners: Arc<Semaphore>,
}

impl AppState {
    /// From what surrounds it.
    pub fn new(surroundings: Surroundings) -> Self {
        let Surroundings {
            store,
            site_keys,
            health,
            metrics,
            rules,
            anonymous,
            session,
            names,
            agents_port,
            option,
            stop,
        } = surroundings;
        let shared = Shared {
            access: Access::new(anonymous, session, names),
            hub: Hub::new(now()),
            store,
            site_keys,
            health,
            metrics,
            rules,
            agents_port,
            option,
            stop,
            requests: Arc::new(Semaphore::new(REQUESTS)),
            searches: Semaphore::new(SEARCHES),
            listeners: Arc::new(Semaphore::new(LISTENERS)),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Passes on what changes in the store to whoever listens, until stopped.
    pub async fn follow(self) -> Result<(), std::convert::Infallible> {
        let changes = self.store.changes();
        self.hub.follow(&*self.store, changes, &self.stop).await;
        Ok(())
    }
}

impl std::ops::Deref for AppState {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.shared
    }
}

/// Now, by the collector's clock.
pub(super) fn now() -> Timestamp {
    Timestamp::from_micros(chrono::Utc::now().timestamp_micros())
}
