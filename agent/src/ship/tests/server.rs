//! A test's receiver: hyper over TCP or TLS before the test's collector, with faults in an order that the test sets.

use std::collections::VecDeque;
use std::future::pending;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use auditflow_wire::FrameWriter;
use auditflow_wire::frame::{CONTENT_TYPE, HTTP_PATH};
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::spool::tests::collector::Collector;

/// What happens to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is stored, and the answer never leaves.
    CutAfterStoring,
    /// The connection ends before anything is stored.
    Cut,
    /// It is stored, and the answer is not a frame.
    Garbage,
    /// Nothing is stored, and the answer has no parts: what was sent can't be read.
    Unread,
    /// No answer for longer than anybody waits.
    Stall,
    Status(u16),
    /// 429 with `Retry-After: 0`.
    Throttle,
}

#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) collector: Arc<Mutex<Collector>>,
    faults: Arc<Mutex<VecDeque<Fault>>>,
}

impl Server {
    pub(crate) fn new(collector: Collector, faults: impl IntoIterator<Item = Fault>) -> Self {
        let faults = Arc::new(Mutex::new(faults.into_iter().collect()));
        Self { collector: Arc::new(Mutex::new(collector)), faults }
    }

    pub(crate) fn faults_left(&self) -> usize {
        self.faults.lock().unwrap().len()
    }

    /// Serves on a free port of the loopback until the set is dropped.
    pub(crate) async fn listen(&self, tls: Option<TlsAcceptor>, tasks: &mut JoinSet<()>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = self.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (server, tls) = (server.clone(), tls.clone());
                connections.spawn(async move {
                    match tls {
                        None => server.serve(stream).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                server.serve(stream).await;
                            }
                        }
                    }
                });
            }
        });
        address
    }

    async fn serve(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let service = service_fn(move |request| self.clone().handle(request));
        // A connection that a fault cut ends with an error, as it should.
        let _ =
            auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
    }

    async fn handle(self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Cut> {
        assert_eq!(request.uri().path(), HTTP_PATH);
        assert_eq!(request.headers()[header::CONTENT_TYPE], CONTENT_TYPE);
        let body = request.into_body().collect().await.map_err(|_| Cut)?.to_bytes();
        let fault = self.faults.lock().unwrap().pop_front();
        let answer = |status: u16, body: Vec<u8>| {
            Response::builder()
                .status(StatusCode::from_u16(status).unwrap())
                .body(Full::new(Bytes::from(body)))
                .unwrap()
        };
        match fault {
            Some(Fault::Cut) => return Err(Cut),
            Some(Fault::Stall) => return pending().await,
            Some(Fault::Status(status)) => return Ok(answer(status, b"no".to_vec())),
            Some(Fault::Throttle) => {
                let mut response = answer(429, Vec::new());
                response.headers_mut().insert(header::RETRY_AFTER, "0".parse().unwrap());
                return Ok(response);
            }
            Some(Fault::CutAfterStoring | Fault::Garbage | Fault::Unread) | None => {}
        }
        let acks = match fault {
            Some(Fault::Unread) => Vec::new(),
            _ => self.collector.lock().unwrap().receive(&body),
        };
        match fault {
            Some(Fault::CutAfterStoring) => return Err(Cut),
            Some(Fault::Garbage) => {
                let mut response = answer(200, b"AFF1\x10\xff\xff\xff\xff".to_vec());
                response.headers_mut().insert(header::CONTENT_TYPE, CONTENT_TYPE.parse().unwrap());
                return Ok(response);
            }
            _ => {}
        }
        let mut frame = FrameWriter::new();
        for ack in &acks {
            assert!(frame.push_ack(ack));
        }
        let mut response = answer(200, frame.finish());
        response.headers_mut().insert(header::CONTENT_TYPE, CONTENT_TYPE.parse().unwrap());
        Ok(response)
    }
}

/// Ends a connection without an answer.
#[derive(Debug, thiserror::Error)]
#[error("cut")]
pub(crate) struct Cut;
