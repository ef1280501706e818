//! The Redis server, looked after: it may be down at the start or go away later, and comes back by itself.
//!
//! Whether it is there is found out by doing what is done with it, again and again, apart from connecting: a server that
//! accepts connections may be paused, full, read-only, or refuse this user. Whoever meets a failure says so, and until
//! the server has proven itself again nobody asks it anything.

use std::convert::Infallible;
use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use auditflow_service::backoff::Backoff;
use auditflow_service::health::Part;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisError,
    TlsCertificates,
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::redis::probe;
use crate::config::ServerConfig;
use crate::site::Site;

/// How often a server that is there is looked at.
const EVERY: Duration = Duration::from_secs(2);
/// Delays between attempts while it is not.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
/// How long it may take to connect.
const CONNECT: Duration = Duration::from_secs(2);
/// How long it may take to answer: one that is slower is worth less than the store.
const ANSWER: Duration = Duration::from_millis(250);
/// What a server that is down takes away.
const LOST: &[&str] = &["correlations read the database, which is slower"];

/// Why Redis can't be reached as configured.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The address.
    #[error(
        "[windows] url is no address of a Redis: {0}; write for example \"rediss://auditflow@redis.example/0\""
    )]
    Address(RedisError),
    /// It would show everything to whoever is on the way.
    #[error("[windows] url is unencrypted and on another machine: use rediss")]
    Plain,
    /// A password where everybody reads it.
    #[error("[windows] url has a password in it: put that into a file and name it in password_file")]
    Password,
    /// A file that is named.
    #[error("cannot read {}: {source}: check what names it in [windows]", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },
    /// It can't be connected to.
    #[error(transparent)]
    Redis(#[from] RedisError),
}

/// How a server is reached. The password is read at each connection, so that a new one is taken up.
#[derive(Clone, Debug)]
pub struct Options {
    info: ConnectionInfo,
    password_file: Option<PathBuf>,
    authority: String,
}

impl Options {
    /// Those of the configuration, if it names a server. Where no authority is named for it, it is the site's.
    pub fn from_config(config: &ServerConfig, site: &Site) -> Result<Option<Self>, SetupError> {
        let Some(url) = &config.url else { return Ok(None) };
        let authority = match &config.ca_file {
            None => site.authority.pem().to_owned(),
            Some(path) => read(path)?,
        };
        Ok(Some(Self { info: parse(url)?, password_file: config.password_file.clone(), authority }))
    }

    async fn connect(&self) -> Result<MultiplexedConnection, SetupError> {
        // The user may do no more than it has to: telling the library's name is not of that.
        let mut settings = self.info.redis_settings().clone().set_skip_set_lib_name();
        if let Some(path) = &self.password_file {
            settings = settings.set_password(read(path)?.trim_end_matches(['\r', '\n']));
        }
        let info = self.info.clone().set_redis_settings(settings);
        let client = match info.addr() {
            ConnectionAddr::TcpTls { .. } => {
                let root_cert = Some(self.authority.clone().into_bytes());
                Client::build_with_tls(info, TlsCertificates { client_tls: None, root_cert })?
            }
            _ => Client::open(info)?,
        };
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT))
            .set_response_timeout(Some(ANSWER));
        Ok(client.get_multiplexed_async_connection_with_config(&config).await?)
    }
}

impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.info.addr())
    }
}

/// Reads `rediss://user@host[:port][/database]`; `redis://` is for this machine alone.
pub fn parse(url: &str) -> Result<ConnectionInfo, SetupError> {
    let info = url.into_connection_info().map_err(SetupError::Address)?;
    if info.redis_settings().password().is_some() {
        return Err(SetupError::Password);
    }
    if let ConnectionAddr::Tcp(host, _) = info.addr() {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let is_here = host == "localhost"
            || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
        if !is_here {
            return Err(SetupError::Plain);
        }
    }
    Ok(info)
}

fn read(path: &PathBuf) -> Result<String, SetupError> {
    fs::read_to_string(path).map_err(|source| SetupError::File { path: path.clone(), source })
}

/// A server, and the connection to it while there is one that works.
pub struct Server {
    options: Options,
    health: Part,
    connection: Mutex<Option<MultiplexedConnection>>,
    failure: Notify,
}

impl Server {
    /// Nothing is connected yet.
    pub fn new(options: Options, health: Part) -> Self {
        health.degraded("not connected yet", LOST);
        Self { options, health, connection: Mutex::default(), failure: Notify::new() }
    }

    /// The way to it, while it is known to work.
    pub(super) fn connection(&self) -> Option<MultiplexedConnection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// It did not do what it was asked: nobody asks it again before it has been looked at.
    pub(super) fn failed(&self, error: &RedisError) {
        if self.put(None).is_some() {
            self.is_away(error);
            self.failure.notify_one();
        }
    }

    /// Looks at it again and again until stopped.
    ///
    /// # Errors
    /// None: what fails is shown in health and tried again.
    pub async fn run(&self, stop: CancellationToken) -> Result<(), Infallible> {
        let mut retry = Backoff::new(RETRY.0, RETRY.1, std::process::id().into());
        loop {
            let served = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                served = self.serve(&mut retry) => served,
            };
            self.put(None);
            if let Err(error) = served {
                self.is_away(&error);
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(retry.failed()) => {}
            }
        }
    }

    /// One connection, to its end.
    async fn serve(&self, retry: &mut Backoff) -> Result<(), SetupError> {
        let mut connection = self.options.connect().await?;
        probe(&mut connection).await?;
        self.put(Some(connection.clone()));
        self.health.up();
        loop {
            tokio::select! {
                // What failed has been told.
                () = self.failure.notified() => return Ok(()),
                () = tokio::time::sleep(EVERY) => {}
            }
            probe(&mut connection).await?;
            retry.succeeded();
        }
    }

    fn put(&self, connection: Option<MultiplexedConnection>) -> Option<MultiplexedConnection> {
        std::mem::replace(&mut *self.connection.lock().unwrap_or_else(PoisonError::into_inner), connection)
    }

    fn is_away(&self, error: &dyn fmt::Display) {
        tracing::warn!(%error, server = %self.options, "Redis does not answer: correlations read the database");
        self.health.degraded(&format!("{}: {error}", self.options), LOST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_user_host_and_database_and_never_a_password() {
        let info = parse("rediss://auditflow@redis.example/3").unwrap();
        assert_eq!(info.addr().to_string(), "redis.example:6379");
        assert_eq!((info.redis_settings().username(), info.redis_settings().db()), (Some("auditflow"), 3));
        assert!(parse("redis://auditflow@127.0.0.1:6380").is_ok());
        assert!(parse("redis://localhost").is_ok());
        assert!(matches!(parse("redis://redis.example"), Err(SetupError::Plain)));
        assert!(matches!(parse("rediss://a:secret@redis.example"), Err(SetupError::Password)));
        assert!(matches!(parse("rediss://:secret@redis.example"), Err(SetupError::Password)));
        for text in ["", "redis.example", "https://redis.example"] {
            assert!(matches!(parse(text), Err(SetupError::Address(_))), "{text}");
        }
    }
}
