//! Where the admin API is served: a Unix socket of mode 0600 and, if configured, a loopback address.

use std::fs;
use std::future::{Future, IntoFuture};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;

use super::limit::Limited;
use crate::config::Problems;
use crate::problem::Problem;

/// Longest path of a Unix socket in bytes (unix(7): 108 with the closing zero).
const MAX_SOCKET_PATH: usize = 107;
/// Connections served at once on each of the two; further ones wait.
const MAX_CONNECTIONS: usize = 32;
/// How long open connections may take to end once the API stops.
const CLOSE_GRACE: Duration = Duration::from_secs(2);

/// The `[admin]` section. Its `Default` serves nothing: each program sets its own socket.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AdminConfig {
    /// Path of the Unix socket.
    pub socket: Option<PathBuf>,
    /// A loopback address and port, for example `127.0.0.1:9464`.
    pub listen: Option<SocketAddr>,
}

impl AdminConfig {
    /// Reports what is wrong with the section `admin`.
    pub fn validate(&self, problems: &mut Problems) {
        if let Some(socket) = &self.socket {
            problems.require(socket.is_absolute(), "admin.socket", "the path must be absolute");
            let fits = socket.as_os_str().len() <= MAX_SOCKET_PATH;
            problems.require(
                fits,
                "admin.socket",
                "the path of a Unix socket has at most 107 bytes; choose a shorter one",
            );
        }
        if let Some(address) = self.listen {
            problems.require(address.ip().is_loopback(), "admin.listen", not_loopback(address));
        }
    }
}

/// Why the admin API can't be served.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address can be reached from other machines.
    #[error("{}", not_loopback(*.0))]
    NotLoopback(SocketAddr),
    /// Another process answers on the socket.
    #[error("another process already serves {}; stop it or set admin.socket to another path", .0.display())]
    InUse(PathBuf),
    /// Something that isn't a socket is in the way.
    #[error("{} exists and is not a socket; remove it or set admin.socket to another path", .0.display())]
    NotASocket(PathBuf),
    /// The system refused.
    #[error("cannot listen on {place}; check that it exists, is free and is ours")]
    Io {
        /// The path or address.
        place: String,
        /// What the system said.
        source: io::Error,
    },
}

/// The API's bound sockets. The Unix socket's file is removed when this, or the serving of it, ends.
#[derive(Debug)]
pub struct AdminListener {
    unix: Option<(UnixListener, SocketFile)>,
    tcp: Option<TcpListener>,
}

impl AdminListener {
    /// Binds what is configured. A socket file that nobody serves is replaced; one that is served is left alone.
    pub async fn bind(config: &AdminConfig) -> Result<Self, ListenError> {
        let tcp = match config.listen {
            Some(address) if !address.ip().is_loopback() => return Err(ListenError::NotLoopback(address)),
            Some(address) => Some(TcpListener::bind(address).await.map_err(io_error(address))?),
            None => None,
        };
        let unix = match &config.socket {
            Some(path) => Some(bind_unix(path)?),
            None => None,
        };
        Ok(Self { unix, tcp })
    }

    /// The loopback address that was bound, with the port that a configured port 0 came to.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.tcp.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// Serves until `stop`, then lets open requests end for a moment.
    pub async fn serve(self, router: Router, stop: CancellationToken) -> io::Result<()> {
        let unix = async {
            let Some((listener, _file)) = self.unix else { return Ok(()) };
            let listener = Limited::new(listener, MAX_CONNECTIONS);
            let serving =
                axum::serve(listener, router.clone()).with_graceful_shutdown(stop.clone().cancelled_owned());
            until_closed(serving.into_future(), &stop).await
        };
        let tcp = async {
            let Some(listener) = self.tcp else { return Ok(()) };
            let listener = Limited::new(listener, MAX_CONNECTIONS);
            let guarded = router.clone().layer(middleware::from_fn(refuse_foreign_host));
            let serving =
                axum::serve(listener, guarded).with_graceful_shutdown(stop.clone().cancelled_owned());
            until_closed(serving.into_future(), &stop).await
        };
        let (unix, tcp, ()) = tokio::join!(unix, tcp, stop.cancelled());
        unix.and(tcp)
    }
}

async fn until_closed(
    serving: impl Future<Output = io::Result<()>>,
    stop: &CancellationToken,
) -> io::Result<()> {
    let overdue = async {
        stop.cancelled().await;
        tokio::time::sleep(CLOSE_GRACE).await;
    };
    tokio::select! {
        served = serving => served,
        () = overdue => Ok(()),
    }
}

/// A web page may point a name of its own at 127.0.0.1 and have the operator's browser call us; its name is in `Host`.
async fn refuse_foreign_host(request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    if host.is_some_and(is_local_host) {
        return next.run(request).await;
    }
    let detail = "over TCP the admin API answers only to a loopback address or localhost in Host";
    Problem::new(StatusCode::MISDIRECTED_REQUEST).detail(detail).into_response()
}

fn is_local_host(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Binds inside a directory that only we can enter, then moves the socket into place: nobody can connect before the
/// mode is right, and a stale file is replaced in one step.
fn bind_unix(path: &Path) -> Result<(UnixListener, SocketFile), ListenError> {
    let failed = io_error(path.display());
    make_way(path)?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(&failed)?;
    let private = parent.join(format!(".af{}", std::process::id()));
    // A leftover of a killed process that had our id.
    let _ = fs::remove_dir_all(&private);
    fs::DirBuilder::new().mode(0o700).create(&private).map_err(&failed)?;
    let bound = bind_and_move(&private.join("s"), path);
    let _ = fs::remove_dir_all(&private);
    bound.map_err(&failed)
}

fn bind_and_move(temporary: &Path, path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    let listener = UnixListener::bind(temporary)?;
    fs::set_permissions(temporary, fs::Permissions::from_mode(0o600))?;
    let made = fs::symlink_metadata(temporary)?;
    fs::rename(temporary, path)?;
    Ok((listener, SocketFile { path: path.to_owned(), identity: (made.dev(), made.ino()) }))
}

/// Refuses a path that something other than a stale socket occupies.
fn make_way(path: &Path) -> Result<(), ListenError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io_error(path.display())(error)),
        Ok(found) if !found.file_type().is_socket() => Err(ListenError::NotASocket(path.to_owned())),
        Ok(_) => match std::os::unix::net::UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
            Err(error) => Err(io_error(path.display())(error)),
            Ok(_) => Err(ListenError::InUse(path.to_owned())),
        },
    }
}

/// Removes the socket's file at the end, unless it has become another's.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|now| (now.dev(), now.ino()) == self.identity);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}

fn io_error(place: impl std::fmt::Display) -> impl Fn(io::Error) -> ListenError {
    let place = place.to_string();
    move |source| ListenError::Io { place: place.clone(), source }
}

fn not_loopback(address: SocketAddr) -> String {
    format!(
        "the admin API has no access control: {address} is not a loopback address; write for example \"127.0.0.1:{}\"",
        address.port()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_is_local_only_by_loopback_address_or_localhost() {
        for (host, local) in [
            ("localhost", true),
            ("LOCALHOST:9464", true),
            ("127.0.0.1:9464", true),
            ("127.8.9.1", true),
            ("[::1]:80", true),
            ("[::1]", true),
            ("evil.example:9464", false),
            ("localhost.evil.example", false),
            ("10.0.0.1", false),
            ("127.0.0.1.evil.example:80", false),
            ("", false),
        ] {
            assert_eq!(is_local_host(host), local, "{host}");
        }
    }

    #[test]
    fn section_is_checked() {
        let config =
            AdminConfig { socket: Some("run/a.sock".into()), listen: Some(([0, 0, 0, 0], 80).into()) };
        let mut problems = Problems::default();
        config.validate(&mut problems);
        let keys: Vec<&str> = problems.found().iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, ["admin.socket", "admin.listen"]);
        let mut none = Problems::default();
        AdminConfig { socket: Some("/run/a.sock".into()), listen: Some(([127, 0, 0, 1], 80).into()) }
            .validate(&mut none);
        assert!(none.found().is_empty());
    }
}
