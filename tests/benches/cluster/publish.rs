//! The fleet's way over MQTT.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, bail};
use auditflow_agent::ship::https::ClientIdentity;
use auditflow_agent::ship::mqtt::{Answers, Config, Mqtt};
use auditflow_agent::ship::{Limits, Reply, Transport};
use auditflow_mqtt::Address;
use tokio::task::JoinSet;

use crate::fleet::{Sealed, Sender};

/// How long the broker may take to take a frame.
const TIMEOUT: Duration = Duration::from_mins(1);

/// How often a broker may turn a node away, and how long that waits then.
const ATTEMPTS: u32 = 60;
const LATER: Duration = Duration::from_secs(1);

/// A node's connection to the broker on this port. What the collector answers is read and let go.
pub(crate) fn connect(sender: &Sender, port: u16) -> anyhow::Result<Arc<Mqtt>> {
    let site = sender.identity.site.clone().context("a node that has joined has a site")?;
    let client =
        ClientIdentity { certificates: site.client_certificate, key: sender.identity.key.to_pkcs8_pem()? };
    let config = Config {
        address: Address::parse(&format!("mqtts://localhost:{port}"))?,
        ca_certificates: site.ca_certificate,
        max_message: 8 << 20,
        timeout: TIMEOUT,
    };
    let answers = Arc::new(Answers::default());
    let way = Arc::new(Mqtt::new(&config, sender.identity.node, "0badc0de", &client, answers)?);
    let hearing = Arc::clone(&way);
    tokio::spawn(async move {
        loop {
            let _ = hearing.heard().await;
        }
    });
    Ok(way)
}

/// Publishes a frame, until the broker has it: one to which a thousand nodes come at once turns some of them away.
pub(crate) async fn publish(way: &Mqtt, sealed: Sealed) -> anyhow::Result<()> {
    let mut attempts = 0;
    loop {
        match way.send(sealed.frame.clone()).await {
            Ok(Reply::Handed) => return Ok(()),
            Ok(other) => bail!("a frame was answered with {other:?}"),
            Err(_) if attempts < ATTEMPTS => tokio::time::sleep(LATER).await,
            Err(error) => return Err(error.into()),
        }
        attempts += 1;
    }
}

/// Publishes each node's frames, as many at once as an agent has under way, until the broker has all of them.
pub(crate) async fn publish_all(fleet: Vec<(Arc<Mqtt>, Vec<Sealed>)>) -> anyhow::Result<()> {
    let mut publishing = JoinSet::new();
    for (way, frames) in fleet {
        let frames = Arc::new(Mutex::new(frames.into_iter()));
        for _ in 0..Limits::default().in_flight_batches {
            let (way, frames) = (Arc::clone(&way), Arc::clone(&frames));
            publishing.spawn(async move {
                loop {
                    let next = frames.lock().map_err(|_| anyhow::anyhow!("a publisher panicked"))?.next();
                    let Some(sealed) = next else { return anyhow::Ok(()) };
                    publish(&way, sealed).await?;
                }
            });
        }
    }
    while let Some(published) = publishing.join_next().await {
        published??;
    }
    Ok(())
}
