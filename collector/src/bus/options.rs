//! Where the broker is, and as whom to come.

use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;

use lapin::tcp::OwnedTLSConfig;
use lapin::uri::{AMQPScheme, AMQPUri};

use crate::config::ServerConfig;
use crate::site::Site;

/// How a broker is reached. The password is read at each connection, so that a new one is taken up.
#[derive(Clone)]
pub struct Options {
    uri: AMQPUri,
    password_file: Option<PathBuf>,
    tls: OwnedTLSConfig,
}

/// Why a broker can't be reached as configured.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The address.
    #[error(
        "the broker's url is no address of one: {0}; write for example \"amqps://analyzer@rabbit.example/auditflow\""
    )]
    Address(String),
    /// It would show everything to whoever is on the way.
    #[error("the broker's url is unencrypted and on another machine: use amqps")]
    Plain,
    /// A password where everybody reads it.
    #[error("the broker's url has a password in it: put that into a file and name it in password_file")]
    Password,
    /// The address of the management plugin.
    #[error(
        "[bus] management is no address that may be used: {0}; write for example \"https://rabbit.example:15671\", or http \
         on this machine"
    )]
    Management(String),
    /// TLS.
    #[error("cannot set up tls for [bus] management: {0}: check [bus] ca_file")]
    Tls(String),
    /// A file that is named.
    #[error("cannot read {}: {source}: check what names it in [bus] or [ancestor]", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },
}

impl Options {
    /// Those of the configuration, if it names a broker. Where no authority is named for it, it is the site's.
    pub fn from_config(config: &ServerConfig, site: &Site) -> Result<Option<Self>, SetupError> {
        let Some(url) = &config.url else { return Ok(None) };
        let uri = parse(url)?;
        let cert_chain = match &config.ca_file {
            None => site.authority.pem().to_owned(),
            Some(path) => {
                fs::read_to_string(path).map_err(|source| SetupError::File { path: path.clone(), source })?
            }
        };
        let tls = OwnedTLSConfig { identity: None, cert_chain: Some(cert_chain) };
        Ok(Some(Self { uri, password_file: config.password_file.clone(), tls }))
    }

    /// The address with the password in it.
    pub(super) fn uri(&self) -> Result<AMQPUri, SetupError> {
        let mut uri = self.uri.clone();
        if let Some(path) = &self.password_file {
            let text =
                fs::read_to_string(path).map_err(|source| SetupError::File { path: path.clone(), source })?;
            text.trim_end_matches(['\r', '\n']).clone_into(&mut uri.authority.userinfo.password);
        }
        Ok(uri)
    }

    pub(super) fn tls(&self) -> OwnedTLSConfig {
        self.tls.clone()
    }
}

impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AMQPUri { scheme, authority, vhost, .. } = &self.uri;
        write!(f, "{scheme}://{}:{}/{vhost}", authority.host, authority.port)
    }
}

/// Reads `amqps://user@host[:port]/vhost`; `amqp://` is for this machine alone.
pub fn parse(url: &str) -> Result<AMQPUri, SetupError> {
    let uri: AMQPUri = url.parse().map_err(SetupError::Address)?;
    let has_password = url.split_once("://").and_then(|(_, rest)| rest.split_once('@'));
    if has_password.is_some_and(|(user, _)| user.contains(':')) {
        return Err(SetupError::Password);
    }
    let host = uri.authority.host.trim_start_matches('[').trim_end_matches(']');
    let is_here =
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    if uri.scheme == AMQPScheme::AMQP && !is_here {
        return Err(SetupError::Plain);
    }
    Ok(uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_user_host_and_vhost_and_never_a_password() {
        let uri = parse("amqps://analyzer@rabbit.example/auditflow").unwrap();
        assert_eq!((uri.authority.port, uri.vhost.as_str()), (5671, "auditflow"));
        assert_eq!(uri.authority.userinfo.username, "analyzer");
        assert!(parse("amqp://analyzer@127.0.0.1:5673/auditflow").is_ok());
        assert!(parse("amqp://localhost").is_ok());
        assert!(matches!(parse("amqp://rabbit.example/auditflow"), Err(SetupError::Plain)));
        assert!(matches!(parse("amqps://a:secret@rabbit.example"), Err(SetupError::Password)));
        for text in ["", "rabbit.example", "https://rabbit.example"] {
            assert!(matches!(parse(text), Err(SetupError::Address(_))), "{text}");
        }
    }
}
