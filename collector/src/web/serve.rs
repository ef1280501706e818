//! The page's port: bounded connections, each bounded in time, and a bounded number of requests at once.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use auditflow_service::problem::Problem;
use axum::Extension;
use axum::Router;
use axum::extract::{ConnectInfo, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, header};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::AppState;

/// How long a pause a request's body may make.
pub(super) const BODY_TIME: Duration = Duration::from_secs(10);
/// How long an answer's beginning may take.
pub(super) const ANSWER_TIME: Duration = Duration::from_secs(30);
/// How long a request's headers may take.
const HEADER_TIME: Duration = Duration::from_secs(10);
/// Open connections; more wait in the kernel's queue.
const CONNECTIONS: usize = 1024;

/// Serves until `stop`, then lets requests that are being answered finish.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) -> io::Result<()> {
    let turns = Arc::new(Semaphore::new(CONNECTIONS));
    let mut open = JoinSet::new();
    loop {
        let turn = tokio::select! {
            () = stop.cancelled() => break,
            turn = Arc::clone(&turns).acquire_owned() => turn.map_err(io::Error::other)?,
        };
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        while open.try_join_next().is_some() {}
        match accepted {
            Ok((stream, peer)) => {
                let (router, stop) = (router.clone(), stop.clone());
                open.spawn(async move {
                    serve_connection(stream, peer, router, stop).await;
                    drop(turn);
                });
            }
            Err(error) => {
                // Out of file descriptors, or a peer that has gone: wait, or this loop is all that runs.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    while open.join_next().await.is_some() {}
    Ok(())
}

async fn serve_connection(stream: TcpStream, peer: SocketAddr, router: Router, stop: CancellationToken) {
    let _ = stream.set_nodelay(true);
    let mut server = Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIME);
    server.http2().timer(TokioTimer::new()).max_concurrent_streams(64).keep_alive_interval(Some(HEADER_TIME));
    let service = TowerToHyperService::new(router.layer(Extension(ConnectInfo(peer))));
    let connection = server.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let mut stopping = false;
    loop {
        tokio::select! {
            done = connection.as_mut() => {
                if let Err(error) = done {
                    tracing::debug!(error, "a connection ended early");
                }
                return;
            }
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

/// Lets a request through if not too many are being answered.
pub(super) async fn take_turn(State(state): State<AppState>, request: Request, next: Next) -> Response {
    match Arc::clone(&state.requests).try_acquire_owned() {
        Ok(_turn) => next.run(request).await,
        Err(_) => later("too many requests are being answered"),
    }
}

/// Busy: come again in a second.
pub(super) fn later(detail: &str) -> Response {
    let mut response = Problem::unavailable(format!("{detail}: try again in a moment")).into_response();
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(1));
    response
}
