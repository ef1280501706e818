//! Where a broker is: `mqtts://host:port`, or `mqtt://` to this machine.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

/// With and without TLS, as IANA registered them.
const PORTS: (u16, u16) = (8883, 1883);

/// A broker's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    host: String,
    port: u16,
    is_tls: bool,
}

/// Why something is no address of a broker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// It can't be read.
    #[error("{0:?} is no address of a broker: write for example \"mqtts://broker.example:8883\"")]
    Malformed(String),
    /// It would show everything to whoever is on the way.
    #[error("{0:?} is unencrypted and on another machine: use mqtts")]
    Plain(String),
}

/// What a broker is spoken to over.
pub(crate) type Stream = Either<TlsStream<TcpStream>, TcpStream>;

impl Address {
    /// Reads `mqtts://host[:port]`; `mqtt://` is for this machine alone.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let malformed = || AddressError::Malformed(text.to_owned());
        let uri: http::Uri = text.parse().map_err(|_| malformed())?;
        let is_tls = match uri.scheme_str() {
            Some("mqtts") => true,
            Some("mqtt") => false,
            _ => return Err(malformed()),
        };
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        let has_user = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
        if host.is_empty() || has_user || !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(malformed());
        }
        if !is_tls && !is_loopback(host) {
            return Err(AddressError::Plain(text.to_owned()));
        }
        let port = uri.port_u16().unwrap_or(if is_tls { PORTS.0 } else { PORTS.1 });
        Ok(Self { host: host.to_owned(), port, is_tls })
    }

    /// The host and the port.
    pub fn parts(&self) -> (&str, u16) {
        (&self.host, self.port)
    }

    /// Connects, and shakes hands if it is by TLS.
    pub(crate) async fn connect(&self, tls: Arc<ClientConfig>) -> io::Result<Stream> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        // Small packets that somebody waits for.
        stream.set_nodelay(true)?;
        if !self.is_tls {
            return Ok(Either::Right(stream));
        }
        let name = ServerName::try_from(self.host.clone()).map_err(io::Error::other)?;
        Ok(Either::Left(TlsConnector::from(tls).connect(name, stream).await?))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls { "mqtts" } else { "mqtt" };
        if self.host.contains(':') {
            return write!(f, "{scheme}://[{}]:{}", self.host, self.port);
        }
        write!(f, "{scheme}://{}:{}", self.host, self.port)
    }
}

/// By what it says: names are not looked up.
fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_with_its_usual_port_and_says_itself_again() {
        for (text, said) in [
            ("mqtts://broker.example", "mqtts://broker.example:8883"),
            ("mqtts://10.0.0.7:1234/", "mqtts://10.0.0.7:1234"),
            ("mqtts://[::1]:8884", "mqtts://[::1]:8884"),
            ("mqtt://localhost", "mqtt://localhost:1883"),
        ] {
            assert_eq!(Address::parse(text).unwrap().to_string(), said);
        }
    }

    #[test]
    fn what_is_no_broker_s_address_is_refused_and_plain_stays_on_this_machine() {
        for text in [
            "",
            "broker",
            "broker:8883",
            "https://broker",
            "mqtts://",
            "mqtts://a@b",
            "mqtts://a/b",
            "mqtts://a/?b",
        ] {
            assert_eq!(Address::parse(text), Err(AddressError::Malformed(text.to_owned())), "{text}");
        }
        assert!(matches!(Address::parse("mqtt://broker.example"), Err(AddressError::Plain(_))));
    }
}
