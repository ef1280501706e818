//! Trains the compression dictionary of schema version 1 on the first half of the corpora and writes it to
//! `dictionaries/v1.zdict`. Run once per schema version: the checked-in dictionary never changes afterwards.

#[path = "../tests/wire/corpus.rs"]
#[allow(dead_code)]
mod corpus;

use auditflow_wire::payload::encode_raw;
use corpus::{Half, NODE};

/// Enough for the vocabulary of audit records, and cheap to hold on a small node.
const MAX_LEN: usize = 64 << 10;
/// Events per sample; of 1, 2 and 10 this gave the smallest batches, by two per cent.
const PER_SAMPLE: usize = 10;

fn main() -> anyhow::Result<()> {
    let kernel =
        corpus::kernel(Half::First).ok_or_else(|| anyhow::anyhow!("no corpus beside the checkout"))?;
    let plain = corpus::as_from_the_kernel(kernel.clone());
    let kubernetes = corpus::kubernetes(Half::First).unwrap_or_default();
    let mut samples = Vec::new();
    for events in [kernel, plain, kubernetes] {
        for chunk in events.chunks(PER_SAMPLE) {
            let mut sample = Vec::new();
            encode_raw(NODE, chunk, &mut sample)?;
            samples.push(sample);
        }
    }
    let dictionary = zstd::dict::from_samples(&samples, MAX_LEN)?;
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/dictionaries/v1.zdict");
    std::fs::write(path, &dictionary)?;
    println!("{} samples, {} bytes of dictionary written to {path}", samples.len(), dictionary.len());
    Ok(())
}
