//! The other end of the admin socket, for commands such as `status`.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::body::Bytes;
use axum::http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio_util::task::AbortOnDropHandle;

use crate::problem::Problem;

/// Upper bound of an answer in bytes.
const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;
/// How long a request may take unless the caller says otherwise.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Why a request came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers on the socket.
    #[error("cannot connect to {}; is the program running, and are you its user or root?", .socket.display())]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The program said no.
    #[error("{method} {path} was refused: {}", explained(.problem))]
    Refused {
        /// The request's method.
        method: Method,
        /// The request's path.
        path: String,
        /// The program's reasons.
        problem: Problem,
    },
    /// The answer is not what was asked for.
    #[error("{method} {path}: {reason}")]
    Answer {
        /// The request's method.
        method: Method,
        /// The request's path.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// Talks to a running program over its admin socket, one connection per request.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
    timeout: Duration,
}

impl Client {
    /// A client of the program that serves `socket`.
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned(), timeout: TIMEOUT }
    }

    /// The same with another bound on how long a request may take.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// `GET path`, its JSON answer read as `T`. A 503 that carries a `T` (as `/readyz` does) is an answer too.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.exchange(Method::GET, path, Bytes::new()).await
    }

    /// `PUT path` with a JSON body, its JSON answer read as `T`.
    pub async fn put<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        self.send_json(Method::PUT, path, body).await
    }

    /// `POST path` with a JSON body, its JSON answer read as `T`.
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        self.send_json(Method::POST, path, body).await
    }

    /// `GET path`, its answer as text, for example `/metrics`.
    pub async fn get_text(&self, path: &str) -> Result<String, ClientError> {
        let (status, body) = self.request(Method::GET, path, Bytes::new()).await?;
        if !status.is_success() {
            return Err(refused(Method::GET, path, status, &body));
        }
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    async fn send_json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|error| answer_error(&method, path, error))?;
        self.exchange(method, path, body.into()).await
    }

    async fn exchange<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, ClientError> {
        let (status, answer) = self.request(method.clone(), path, body).await?;
        let read = serde_json::from_slice(&answer);
        match read {
            Ok(read) if status.is_success() => Ok(read),
            Ok(read) if status == StatusCode::SERVICE_UNAVAILABLE && !is_problem(&answer) => Ok(read),
            Err(error) if status.is_success() => Err(answer_error(
                &method,
                path,
                format!("not the expected answer, is it the same version? {error}"),
            )),
            _ => Err(refused(method, path, status, &answer)),
        }
    }

    async fn request(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let exchange = self.exchange_bytes(&method, path, body);
        match tokio::time::timeout(self.timeout, exchange).await {
            Ok(answered) => answered,
            Err(_) => {
                Err(answer_error(&method, path, format!("no answer within {} s", self.timeout.as_secs_f64())))
            }
        }
    }

    async fn exchange_bytes(
        &self,
        method: &Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|source| ClientError::Connect { socket: self.socket.clone(), source })?;
        let failed = |error: &dyn std::fmt::Display| answer_error(method, path, error);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| failed(&error))?;
        let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, "localhost");
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let request = request.body(Full::new(body)).map_err(|error| failed(&error))?;
        let response = sender.send_request(request).await.map_err(|error| failed(&error))?;
        let status = response.status();
        let answer = Limited::new(response.into_body(), MAX_ANSWER_BYTES)
            .collect()
            .await
            .map_err(|error| failed(&error))?;
        Ok((status, answer.to_bytes()))
    }
}

fn answer_error(method: &Method, path: &str, reason: impl std::fmt::Display) -> ClientError {
    ClientError::Answer { method: method.clone(), path: path.to_owned(), reason: reason.to_string() }
}

fn is_problem(body: &[u8]) -> bool {
    serde_json::from_slice::<Problem>(body).is_ok()
}

fn refused(method: Method, path: &str, status: StatusCode, body: &[u8]) -> ClientError {
    let problem = serde_json::from_slice(body).unwrap_or_else(|_| Problem::new(status));
    ClientError::Refused { method, path: path.to_owned(), problem }
}

fn explained(problem: &Problem) -> &str {
    problem.detail.as_deref().unwrap_or(&problem.title)
}
