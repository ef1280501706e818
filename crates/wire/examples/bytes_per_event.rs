//! Prints what an event costs on the wire, header and signature included, on the half of the corpora that the
//! dictionary was not trained on, and what compressing costs at other levels.

#[path = "../tests/wire/corpus.rs"]
#[allow(dead_code)]
mod corpus;
#[path = "../tests/wire/sealing.rs"]
mod sealing;

use std::time::Instant;

use auditflow_wire::{Decoder, Encoder};
use corpus::{Half, NODE};

fn main() -> anyhow::Result<()> {
    let enriched =
        corpus::kernel(Half::Second).ok_or_else(|| anyhow::anyhow!("no corpus beside the checkout"))?;
    let plain = corpus::as_from_the_kernel(enriched.clone());
    let kubernetes = corpus::kubernetes(Half::Second).unwrap_or_default();
    println!(
        "{:<28} {:>6} {:>5} {:>12} {:>11} {:>11}",
        "events", "batch", "level", "bytes/event", "encode µs", "decode µs"
    );
    for (name, events) in
        [("audit.log (enriched)", &enriched), ("kernel", &plain), ("kubernetes", &kubernetes)]
    {
        for batch in [25, 250, 2048] {
            for level in [1, 3, 6, 9] {
                let start = Instant::now();
                let mut encoder = Encoder::with_level(level)?;
                let batches = events
                    .chunks(batch)
                    .map(|chunk| encoder.encode(NODE, chunk))
                    .collect::<Result<Vec<_>, _>>()?;
                let encode = start.elapsed();
                let sealed = sealing::seal_all(&batches);
                let start = Instant::now();
                let mut decoder = Decoder::new()?;
                for (encoded, header) in batches.iter().zip(&sealed) {
                    let facts = header.header.facts.as_ref().ok_or_else(|| anyhow::anyhow!("own version"))?;
                    decoder.decode(NODE, facts, &encoded.bytes)?;
                }
                let decode = start.elapsed();
                let count = events.len() as f64;
                let micros = |time: std::time::Duration| time.as_secs_f64() * 1e6 / count;
                println!(
                    "{name:<28} {batch:>6} {level:>5} {:>12.1} {:>11.2} {:>11.2}",
                    sealing::wire_len(&batches, &sealed) as f64 / count,
                    micros(encode),
                    micros(decode),
                );
            }
        }
    }
    Ok(())
}
