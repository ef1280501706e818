//! The site's certificate authority: makes the server's certificate at every start and the nodes' at enrolment.
//!
//! Certificates are valid from 1975 to 4096: nodes boot with clocks that are years off, and what ends a certificate
//! here is not a date but the node's status in the store, asked at every request.

use auditflow_event::NodeId;
use auditflow_wire::{KeyId, NodePublicKey};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData as _,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::certificate::X509Certificate;

/// The common name of brokers' certificates; no node's, for that is its id.
const BROKER: &str = "AuditFlow broker";

/// The authority with its key.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: String,
}

/// Why a signing request gets no certificate.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// It can't be read, or its own signature is wrong.
    #[error(transparent)]
    Unreadable(#[from] rcgen::Error),
    /// It is signed by another key than the node's.
    #[error("it is not made with the node's key")]
    OtherKey,
}

/// Whom a client certificate of ours was made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The node.
    pub node: NodeId,
    /// Its key at that time, which it proved to have.
    pub key: KeyId,
}

/// A certificate with its key.
pub struct ServerIdentity {
    /// The certificate and the authority's.
    pub chain: Vec<CertificateDer<'static>>,
    /// The key.
    pub key: PrivateKeyDer<'static>,
}

impl Authority {
    /// A new one.
    pub fn generate() -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = name("AuditFlow site CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?;
        let (der, pem) = (certificate.der().clone(), certificate.pem());
        Ok(Self { issuer: Issuer::new(params, key), certificate: der, pem })
    }

    /// Read back from PEM.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self, rcgen::Error> {
        let unreadable = |_| rcgen::Error::CouldNotParseCertificate;
        let der = CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(unreadable)?;
        let issuer = Issuer::from_ca_cert_der(&der, KeyPair::from_pem(key)?)?;
        Ok(Self { issuer, certificate: der, pem: certificate.to_owned() })
    }

    /// The certificate.
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The certificate in PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The key in PEM: for its file alone.
    pub(super) fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// A new certificate and key for a server that is reached by these host names and addresses.
    pub fn server(&self, names: &[String]) -> Result<ServerIdentity, rcgen::Error> {
        let key = KeyPair::generate()?;
        let params = server_params("AuditFlow collector", names)?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(ServerIdentity {
            chain: vec![certificate.der().clone(), self.certificate.clone()],
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        })
    }

    /// A new client certificate and key for a service of the site's own at others, by this name; never a node's.
    pub fn service(&self, name: &str) -> Result<ServerIdentity, rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = self::name(name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(ServerIdentity {
            chain: vec![certificate.der().clone(), self.certificate.clone()],
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        })
    }

    /// A certificate and key, both in PEM, for a broker of the site that is reached by these names. It also shows it when
    /// it asks the collector something.
    pub fn broker(&self, names: &[String]) -> Result<(String, String), rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut params = server_params(BROKER, names)?;
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
        Ok((params.signed_by(&key, &self.issuer)?.pem(), key.serialize_pem()))
    }

    /// A client certificate, in PEM, for a node's key, with which the signing request has to be made. Nothing else of
    /// the request is taken over.
    pub fn client(&self, request: &str, node: NodeId, key: &NodePublicKey) -> Result<String, RequestError> {
        let request = CertificateSigningRequestParams::from_pem(request)?;
        if request.public_key.der_bytes() != key.as_bytes() {
            return Err(RequestError::OtherKey);
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = name(&node.to_string());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        Ok(params.signed_by(&request.public_key, &self.issuer)?.pem())
    }
}

/// Whom a client certificate of ours was made for.
pub fn peer_of(certificate: &CertificateDer<'_>) -> Option<Peer> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let node = common_name(&parsed)?.parse().ok()?;
    let key = parsed.public_key().subject_public_key.data.as_ref().try_into().ok()?;
    Some(Peer { node, key: NodePublicKey::from_bytes(key).ok()?.id() })
}

/// Whether a certificate of ours was made for a broker.
pub fn is_broker(certificate: &CertificateDer<'_>) -> bool {
    let parsed = x509_parser::parse_x509_certificate(certificate);
    parsed.is_ok_and(|(_, parsed)| common_name(&parsed) == Some(BROKER))
}

fn common_name<'a>(certificate: &'a X509Certificate<'_>) -> Option<&'a str> {
    certificate.subject().iter_common_name().next()?.as_str().ok()
}

fn server_params(common_name: &str, names: &[String]) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(names.to_vec())?;
    params.distinguished_name = name(common_name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

#[cfg(test)]
mod tests {
    use auditflow_wire::NodeKey;

    use super::*;

    const NODE: NodeId = NodeId::from_bytes([7; 16]);

    fn request(params: &CertificateParams, key: &NodeKey) -> String {
        let key = KeyPair::from_pem(&key.to_pkcs8_pem().unwrap()).unwrap();
        params.serialize_request(&key).unwrap().pem().unwrap()
    }

    #[test]
    fn a_client_certificate_names_the_node_whatever_the_request_asked_for() {
        let authority = Authority::generate().unwrap();
        let key = NodeKey::generate().unwrap();
        let mut params = CertificateParams::new(["collector.example".to_owned()]).unwrap();
        params.distinguished_name = name("somebody else");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = authority.client(&request(&params, &key), NODE, &key.public()).unwrap();
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        assert_eq!(peer_of(&der), Some(Peer { node: NODE, key: key.id() }));
        let (_, parsed) = x509_parser::parse_x509_certificate(&der).unwrap();
        assert!(!parsed.is_ca());
        assert!(parsed.subject_alternative_name().unwrap().is_none());
    }

    #[test]
    fn a_request_by_another_key_than_the_node_s_is_refused() {
        let authority = Authority::generate().unwrap();
        let (own, other) = (NodeKey::generate().unwrap(), NodeKey::generate().unwrap());
        let request = request(&CertificateParams::default(), &other);
        let refused = authority.client(&request, NODE, &own.public());
        assert!(matches!(refused, Err(RequestError::OtherKey)));
    }

    #[test]
    fn a_service_s_certificate_names_no_node() {
        let authority = Authority::generate().unwrap();
        let own = authority.service("auditflow-collector").unwrap();
        assert_eq!(peer_of(&own.chain[0]), None);
        assert!(!is_broker(&own.chain[0]));
    }

    #[test]
    fn a_broker_is_known_by_its_certificate_and_a_node_is_none() {
        let authority = Authority::generate().unwrap();
        let (broker, _) = authority.broker(&["broker.example".to_owned()]).unwrap();
        let broker = CertificateDer::from_pem_slice(broker.as_bytes()).unwrap();
        assert!(is_broker(&broker));
        assert_eq!(peer_of(&broker), None);
        let key = NodeKey::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = name(BROKER);
        let node = authority.client(&request(&params, &key), NODE, &key.public()).unwrap();
        assert!(!is_broker(&CertificateDer::from_pem_slice(node.as_bytes()).unwrap()));
        let server = authority.server(&["localhost".to_owned()]).unwrap();
        assert!(!is_broker(&server.chain[0]));
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let authority = Authority::generate().unwrap();
        let key = NodeKey::generate().unwrap().public();
        for text in ["", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"] {
            assert!(authority.client(text, NODE, &key).is_err(), "{text}");
        }
    }

    #[test]
    fn an_authority_read_back_issues_what_the_first_one_would() {
        let made = Authority::generate().unwrap();
        let read = Authority::from_pem(made.pem(), &made.key_pem()).unwrap();
        assert_eq!(read.der(), made.der());
        let server = read.server(&["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        assert_eq!(server.chain.len(), 2);
    }
}
