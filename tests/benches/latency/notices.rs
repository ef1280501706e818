//! A listener of `/api/v1/stream`.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use auditflow_tests::Collector;
use serde_json::Value;

/// How long nothing at all may be heard: the stream says every few seconds that it lives.
const SILENCE: Duration = Duration::from_secs(30);

pub(crate) struct Notices {
    stream: BufReader<TcpStream>,
}

impl Notices {
    /// Listens from now on.
    pub(crate) fn listen(collector: &Collector) -> anyhow::Result<Self> {
        let token = collector.api_token()?;
        let mut stream = TcpStream::connect(&collector.page)?;
        stream.set_read_timeout(Some(SILENCE))?;
        let host = &collector.page;
        let ask =
            format!("GET /api/v1/stream HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n\r\n");
        stream.write_all(ask.as_bytes())?;
        let mut stream = BufReader::new(stream);
        let mut status = String::new();
        stream.read_line(&mut status)?;
        ensure!(status.contains(" 200 "), "the stream answered {status}");
        Ok(Self { stream })
    }

    /// From the kernel's stamp to the notice, in milliseconds, of the next so many alerts that the rule opens.
    pub(crate) fn latencies(&mut self, rule: &str, count: usize) -> anyhow::Result<Vec<f64>> {
        let mut latencies = Vec::with_capacity(count);
        while latencies.len() < count {
            let mut line = String::new();
            ensure!(self.stream.read_line(&mut line)? > 0, "the stream ended");
            let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
            let Some(data) = line.trim().strip_prefix("data: ") else { continue };
            let notice: Value = serde_json::from_str(data).with_context(|| format!("not JSON: {data}"))?;
            if notice["kind"] == "alert_opened" && notice["alert"]["rule_id"] == rule {
                let happened = notice["alert"]["timestamp"].as_str().context("an alert has a timestamp")?;
                latencies.push(now.as_secs_f64() * 1e3 - millis(happened)?);
            }
        }
        Ok(latencies)
    }
}

/// Milliseconds since the Unix epoch of a time in RFC 3339, UTC.
fn millis(text: &str) -> anyhow::Result<f64> {
    let time: auditflow_event::Timestamp = text.parse().with_context(|| format!("not a time: {text}"))?;
    Ok(time.as_micros() as f64 / 1e3)
}
