//! HTTP for the commands that talk to a collector: one request, a bounded answer, a bounded time.
//!
//! Whom to trust is the caller's choice ([`Trust`]); bytes that came without trust are for one use only, to be compared
//! with a hash that came another way.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::ship::https::ClientIdentity;

const TIMEOUT: Duration = Duration::from_secs(15);
const MAX_ANSWER_BYTES: usize = 4 << 20;

/// Who may answer.
#[derive(Debug, Clone, Copy)]
pub enum Trust<'a> {
    /// Only who has a certificate of this authority (PEM).
    Authority(&'a str),
    /// The same, and who asks shows this node's certificate.
    Site(&'a str, &'a ClientIdentity),
    /// Anybody: for fetching what is then compared with a hash.
    Nobody,
}

/// A client; see the module's documentation.
pub struct HttpClient {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl HttpClient {
    /// A client that trusts whom it is told to.
    pub fn new(trust: Trust<'_>) -> anyhow::Result<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?;
        let tls = match trust {
            Trust::Authority(pem) => builder.with_root_certificates(roots(pem)?).with_no_client_auth(),
            Trust::Site(pem, own) => {
                let chain =
                    CertificateDer::pem_slice_iter(own.certificates.as_bytes()).collect::<Result<_, _>>();
                let key =
                    PrivateKeyDer::from_pem_slice(own.key.as_bytes()).context("the node's key is not PEM")?;
                let chain = chain.context("the node's certificate is not PEM")?;
                builder.with_root_certificates(roots(pem)?).with_client_auth_cert(chain, key)?
            }
            Trust::Nobody => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(AnyServer(provider)))
                .with_no_client_auth(),
        };
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(TIMEOUT));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        Ok(Self { client: Client::builder(TokioExecutor::new()).build(connector) })
    }

    /// Sends the request; the answer's status and body.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> anyhow::Result<(StatusCode, Bytes)> {
        let uri = request.uri().clone();
        let exchange = async {
            let response = self.client.request(request).await?;
            let (parts, body) = response.into_parts();
            match Limited::new(body, MAX_ANSWER_BYTES).collect().await {
                Ok(body) => Ok((parts.status, body.to_bytes())),
                Err(error) => bail!("the answer could not be read: {error}"),
            }
        };
        let answer = tokio::time::timeout(TIMEOUT, exchange).await;
        answer
            .with_context(|| format!("{uri} did not answer within {} s", TIMEOUT.as_secs()))?
            .with_context(|| format!("cannot reach {uri}"))
    }

    /// `GET`s a successful answer.
    pub async fn get(&self, uri: &str) -> anyhow::Result<Bytes> {
        let request =
            Request::get(uri).body(Full::default()).with_context(|| format!("{uri} is not an address"))?;
        let (status, body) = self.send(request).await?;
        if !status.is_success() {
            bail!("{uri} answered {status}: {}", beginning(&body));
        }
        Ok(body)
    }
}

fn roots(pem: &str) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        roots.add(certificate.context("the authority's certificate is not PEM")?)?;
    }
    Ok(roots)
}

/// What a person may want to see of an unexpected answer.
pub fn beginning(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body.get(..500).unwrap_or(body));
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Takes any certificate, but lets nobody use one whose key they don't have.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
