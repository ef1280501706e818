//! `broker-certificate`: what an MQTT broker needs to be trusted by nodes and collector, and to know both.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context as _;
use auditflow_service::args::Exit;
use auditflow_service::file;
use clap::Args;

use crate::site::Site;

/// The authority's certificate, the broker's, and its key, in the directory that is asked for.
const FILES: [&str; 3] = ["ca.pem", "broker.pem", "broker.key.pem"];

/// `broker-certificate`
#[derive(Debug, Clone, Args)]
pub struct BrokerCertificate {
    #[command(flatten)]
    place: super::Place,
    /// The directory to write into
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Host names and addresses that the broker is reached by
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
}

/// Writes the three files.
pub fn run(args: &BrokerCertificate) -> anyhow::Result<Exit> {
    let config = args.place.config()?;
    let site = Site::existing(&config.storage.data_dir)?;
    let (certificate, key) =
        site.authority.broker(&args.names).context("cannot make a certificate for these names")?;
    file::create_private_directory(&args.out)
        .with_context(|| format!("cannot make {}", args.out.display()))?;
    for (name, text) in FILES.into_iter().zip([site.authority.pem(), &certificate, &key]) {
        let path = args.out.join(name);
        file::write_atomic(&path, text.as_bytes(), 0o600)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    super::unless_closed(writeln!(
        std::io::stdout(),
        "wrote {} in {}: give them to the broker's user; docs/mqtt.md has its configuration",
        FILES.join(", "),
        args.out.display()
    ))
}
