//! What an event costs on the wire, header and signature included, measured on what the dictionary has not seen.

use crate::corpus::{self, Half, NODE};
use crate::sealing;
use auditflow_event::Event;
use auditflow_wire::{Decoder, Encoded, Encoder};

fn bytes_per_event(events: &[Event], batch: usize) -> f64 {
    let mut encoder = Encoder::new().unwrap();
    let encoded: Vec<Encoded> =
        events.chunks(batch).map(|chunk| encoder.encode(NODE, chunk).unwrap()).collect();
    let sealed = sealing::seal_all(&encoded);
    sealing::wire_len(&encoded, &sealed) as f64 / events.len() as f64
}

#[test]
fn an_event_costs_at_most_60_bytes_in_batches_of_25_and_35_in_full_ones() {
    let Some(enriched) = corpus::kernel(Half::Second) else {
        eprintln!("SKIPPED: no corpus beside the checkout, so nothing to measure bytes per event on");
        return;
    };
    let plain = corpus::as_from_the_kernel(enriched.clone());
    for (name, events) in [("audit.log", enriched), ("kernel", plain)] {
        for (batch, bound) in [(25, 60.0), (2048, 35.0)] {
            let cost = bytes_per_event(&events, batch);
            println!("{name}: {cost:.1} bytes per event in batches of {batch}");
            assert!(
                cost <= bound,
                "{name}: {cost:.1} bytes per event in batches of {batch}, more than {bound}"
            );
        }
    }
}

#[test]
fn corpus_events_come_back_as_they_were() {
    let (Some(mut events), Some(kubernetes)) =
        (corpus::kernel(Half::Second), corpus::kubernetes(Half::First))
    else {
        eprintln!("SKIPPED: no corpus beside the checkout, so no events to encode");
        return;
    };
    events.truncate(5000);
    events.extend(kubernetes);
    let encoded = Encoder::new().unwrap().encode(NODE, &events).unwrap();
    let sealed = sealing::seal_all(std::slice::from_ref(&encoded));
    let facts = sealed[0].header.facts.as_ref().unwrap();
    let decoded = Decoder::new().unwrap().decode(NODE, facts, &encoded.bytes).unwrap();
    assert_eq!(events.len(), decoded.len());
    for (sent, received) in events.iter().zip(&decoded) {
        assert_eq!(format!("{sent:?}"), format!("{received:?}"));
    }
}
