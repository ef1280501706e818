//! Opening a verified batch: its events, what finds them, what sources say of themselves in it.

use std::sync::Arc;

use auditflow_event::{Condition, Event, HostFacts, Origin, Timestamp};
use auditflow_wire::payload::PayloadError;
use auditflow_wire::{Batch, Content, Decoder, SignedHeader};
use serde_json::{Map, Value};

use crate::detect::{Matched, Matcher, Rules};
use crate::store::terms::TermCollector;
use crate::store::{BatchKey, BatchTerms, Coverage, NewBatch, NewPayload};

/// A batch that is ready to be stored.
pub(crate) struct Opened {
    /// For the store.
    pub batch: NewBatch,
    /// For analysis; empty if there are none or they can't be read.
    pub events: Vec<Event>,
    /// For analysis: what they match.
    pub matched: Option<Matched>,
}

/// Opens the batches of one frame with one decoder.
#[derive(Default)]
pub(crate) struct Opener {
    decoder: Option<Decoder>,
    rules: Option<Arc<Rules>>,
}

/// What a payload holds.
pub(crate) struct Contents {
    /// Its events.
    pub events: Vec<Event>,
    /// What finds them.
    pub terms: Option<BatchTerms>,
    /// What they match of the rules that the opener was given.
    pub matched: Option<Matched>,
    /// What sources say of themselves.
    pub coverage: Vec<(String, Coverage)>,
    /// This release can't read it; a later one may.
    pub unread: bool,
}

impl Opener {
    /// An opener that also matches events against `rules`: what an event means is the greater part of both, and is
    /// derived once.
    pub(crate) fn matching(rules: Arc<Rules>) -> Self {
        Self { decoder: None, rules: Some(rules) }
    }

    /// Opens a batch whose signature and payload hash hold.
    pub(crate) fn open(&mut self, batch: Batch<'_>, received_at: Timestamp) -> Opened {
        let Batch { signed, content } = batch;
        let (payload, contents) = match content {
            Content::Payload(bytes) => (NewPayload::Present(bytes.to_vec()), self.contents(&signed, bytes)),
            Content::Evicted(eviction) => (NewPayload::Evicted(eviction), Contents::none(false)),
        };
        let Contents { events, terms, matched, coverage, unread } = contents;
        let claimed_until = self.rules.as_ref().map(|_| crate::analyse::claim(received_at));
        let batch = NewBatch { signed, payload, terms, unread, coverage, received_at, claimed_until };
        Opened { batch, events, matched }
    }

    /// What a payload holds, as far as this release can tell.
    pub(crate) fn contents(&mut self, signed: &SignedHeader, payload: &[u8]) -> Contents {
        let Some(facts) = &signed.header.facts else { return Contents::none(true) };
        let decoder = match &mut self.decoder {
            Some(decoder) => decoder,
            None => match Decoder::new() {
                Ok(decoder) => self.decoder.insert(decoder),
                Err(error) => {
                    tracing::error!(%error, "cannot make a decoder; batches are kept unread");
                    return Contents::none(true);
                }
            },
        };
        match decoder.decode(signed.header.node, facts, payload) {
            Ok(events) => Contents::of(events, &signed.header.host(), self.rules.as_ref()),
            Err(error) => {
                let BatchKey { node, epoch, seq } = key(signed);
                tracing::warn!(%error, node.id = %node, batch.epoch = %epoch, batch.seq = %seq, "a signed payload can't be read");
                Contents::none(matches!(error, PayloadError::UnknownDictionary(_)))
            }
        }
    }
}

impl Contents {
    fn none(unread: bool) -> Self {
        Self { events: Vec::new(), terms: None, matched: None, coverage: Vec::new(), unread }
    }

    fn of(events: Vec<Event>, host: &HostFacts, rules: Option<&Arc<Rules>>) -> Self {
        let mut terms = TermCollector::for_events(events.len());
        terms.add_host(host);
        let mut matcher = rules.map(|rules| Matcher::new(Arc::clone(rules), host));
        let mut coverage = Vec::new();
        for (event, index) in events.iter().zip(0_u32..) {
            let meaning = event.meaning();
            terms.add(event, &meaning);
            if let Some(matcher) = &mut matcher {
                matcher.take(event, index, &meaning);
            }
            // What `test-alert` makes speaks in the agent's name and says nothing of it.
            if let Origin::State(state) = &event.origin
                && state.state != Condition::TestAlert
            {
                let counts: Map<String, Value> = state
                    .counts
                    .iter()
                    .map(|(name, count)| (name.to_string(), Value::from(*count)))
                    .collect();
                let said = Coverage {
                    state: state.state.as_str().to_owned(),
                    reason: state.reason.as_deref().map(str::to_owned),
                    at: event.time,
                    counts,
                };
                coverage.push((state.source.to_string(), said));
            }
        }
        let matched = matcher.and_then(Matcher::finish);
        Self { events, terms: terms.finish(), matched, coverage, unread: false }
    }
}

/// A header's key.
pub(crate) fn key(signed: &SignedHeader) -> BatchKey {
    let header = &signed.header;
    BatchKey { node: header.node, epoch: header.epoch, seq: header.number }
}

#[cfg(test)]
mod tests {
    use auditflow_event::AgentState;

    use super::*;
    use crate::testing::at;

    #[test]
    fn what_test_alert_makes_is_stored_but_covers_nothing() {
        let event = |counter, state| {
            let (source, reason, counts) = ("agent".into(), None, Vec::new());
            let said = AgentState { source, state, at: at(1), since: at(0), reason, counts };
            Event::state(None, [1; 16], counter, said)
        };
        let events = vec![event(1, Condition::Degraded), event(2, Condition::TestAlert)];
        let contents = Contents::of(events, &HostFacts::default(), None);
        assert_eq!(contents.events.len(), 2);
        let states: Vec<&str> = contents.coverage.iter().map(|(_, said)| said.state.as_str()).collect();
        assert_eq!(states, ["degraded"]);
    }
}
