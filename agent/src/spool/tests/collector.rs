//! A test's collector: verifies what arrives, keeps it in memory, and signs what it has kept.

use std::collections::{BTreeMap, BTreeSet};

use auditflow_event::{EventId, NodeId, Timestamp};
use auditflow_wire::chain::{EntryContent, Report, Verifier};
use auditflow_wire::{
    Batch, BatchSeq, Content, Decoder, Digest, EpochId, EpochLedger, Evidence, Folded, Head, KeyRing, Link,
    Loss, LossReason, NodeKeys, NodePublicKey, Part, Parts, Predecessor, Signed, SignedAck, SignedFold,
    SignedHeader, SiteKey, State, Verdict,
};

/// One stored row.
enum Row {
    Batch(SignedHeader, Kept),
    Fold(SignedFold),
}

enum Kept {
    Payload(Vec<u8>),
    Evicted(auditflow_wire::Eviction),
}

pub(crate) struct Collector {
    pub(crate) site: SiteKey,
    node: NodeId,
    key: NodePublicKey,
    ledgers: BTreeMap<EpochId, EpochLedger>,
    rows: BTreeMap<(EpochId, u64), Row>,
    acks: Vec<SignedAck>,
    /// How often a fork was answered.
    pub(crate) forks: u32,
    /// Numbers that were given up for lost.
    pub(crate) lost: u64,
    /// Links to another batch than the one that is kept.
    pub(crate) broken: usize,
    decoder: Decoder,
}

impl Collector {
    pub(crate) fn new(node: NodeId, key: NodePublicKey) -> Self {
        Self {
            site: SiteKey::from_seed(&[9; 32]),
            node,
            key,
            ledgers: BTreeMap::new(),
            rows: BTreeMap::new(),
            acks: Vec::new(),
            forks: 0,
            lost: 0,
            broken: 0,
            decoder: Decoder::new().unwrap(),
        }
    }

    /// Takes a frame whole and answers each of its parts. What is not the node's own panics: no test sends such.
    pub(crate) fn receive(&mut self, frame: &[u8]) -> Vec<SignedAck> {
        let mut acks = Vec::new();
        for part in Parts::new(frame).unwrap() {
            match part.unwrap() {
                Part::Batch(batch) => acks.push(self.store(&batch)),
                Part::Folded(fold) => acks.push(self.store_fold(fold)),
                Part::State(state) => acks.extend(self.settle(state.verify(&self.key).unwrap())),
                other => panic!("a node sent {other:?}"),
            }
        }
        acks
    }

    /// The ids of all events that were kept.
    pub(crate) fn events(&mut self) -> BTreeSet<EventId> {
        let mut ids = BTreeSet::new();
        for row in self.rows.values() {
            if let Row::Batch(signed, Kept::Payload(payload)) = row {
                let facts = signed.header.facts.as_ref().unwrap();
                let events = self.decoder.decode(self.node, facts, payload).unwrap();
                assert_eq!(events.len(), facts.events as usize);
                ids.extend(events.iter().map(|event| event.id));
            }
        }
        ids
    }

    /// All that was declared lost, folded declarations included.
    pub(crate) fn losses(&self) -> Vec<Loss> {
        let losses = self.rows.values().flat_map(|row| match row {
            Row::Batch(signed, _) => signed.header.facts.as_ref().unwrap().losses.clone(),
            Row::Fold(fold) => fold.unverified().losses.clone(),
        });
        losses.collect()
    }

    /// How many events were declared evicted, in any of the three ways.
    pub(crate) fn evicted(&self) -> u64 {
        let signed_away: u64 = self
            .rows
            .values()
            .map(|row| match row {
                Row::Batch(signed, Kept::Evicted(_)) => {
                    u64::from(signed.header.facts.as_ref().unwrap().events)
                }
                Row::Batch(..) => 0,
                Row::Fold(fold) => fold.unverified().events,
            })
            .sum();
        let declared = self.losses().into_iter().filter(|loss| loss.reason == LossReason::Evicted);
        signed_away + declared.map(|loss| loss.count.unwrap()).sum::<u64>()
    }

    /// Walks everything that was kept.
    pub(crate) fn verify(&self) -> Report {
        let mut verifier = Verifier::new(self.node, NodeKeys::from_iter([self.key]));
        let site = KeyRing::from_iter([self.site.public()]);
        for ack in &self.acks {
            verifier.countersigned(ack, &site).unwrap();
        }
        for row in self.rows.values() {
            match row {
                Row::Batch(signed, Kept::Payload(payload)) => {
                    verifier.batch(signed, EntryContent::Payload(payload));
                }
                Row::Batch(signed, Kept::Evicted(eviction)) => {
                    verifier.batch(signed, EntryContent::Evicted(*eviction));
                }
                Row::Fold(fold) => {
                    verifier.fold(fold);
                }
            }
        }
        verifier.finish()
    }

    /// The clocks that a stored batch declares.
    pub(crate) fn clocks_of(&self, epoch: EpochId, number: u64) -> auditflow_wire::Clocks {
        match &self.rows[&(epoch, number)] {
            Row::Batch(signed, _) => signed.header.facts.as_ref().unwrap().clocks.clone(),
            Row::Fold(fold) => fold.unverified().clocks.clone(),
        }
    }

    /// What is owed in all epochs.
    pub(crate) fn owed(&self) -> u64 {
        self.ledgers.values().flat_map(EpochLedger::owed).map(auditflow_wire::Span::count).sum()
    }

    pub(crate) fn sign(&self, ack: auditflow_wire::Ack) -> SignedAck {
        Signed::sign(ack, &self.site)
    }

    fn store(&mut self, batch: &Batch<'_>) -> SignedAck {
        batch.verify(&NodeKeys::from_iter([self.key])).unwrap();
        let header = batch.signed.header.clone();
        let place = (header.epoch, header.number.get());
        let stored = self.digest_at(header.epoch, header.number);
        let mut ledger = self.ledgers.remove(&header.epoch).unwrap_or_default();
        let verdict = self.admit_batch(&mut ledger, batch, stored);
        let kept = match batch.content {
            Content::Payload(payload) => Kept::Payload(payload.to_vec()),
            Content::Evicted(eviction) => Kept::Evicted(eviction),
        };
        match verdict {
            Verdict::Store | Verdict::StoreAbove => {
                self.rows.insert(place, Row::Batch(batch.signed.clone(), kept));
            }
            Verdict::Duplicate => {
                let poorer = matches!(self.rows.get(&place), Some(Row::Batch(_, Kept::Evicted(_))));
                if poorer && matches!(kept, Kept::Payload(_)) {
                    self.rows.insert(place, Row::Batch(batch.signed.clone(), kept));
                }
            }
            Verdict::Fork(_) => self.forks += 1,
            Verdict::TooManyHoles => panic!("too many holes"),
        }
        self.answer(header.epoch, ledger, &verdict)
    }

    fn admit_batch(
        &mut self,
        ledger: &mut EpochLedger,
        batch: &Batch<'_>,
        stored: Option<Digest>,
    ) -> Verdict {
        let Link::Successor { epoch, heads } = &batch.signed.header.link else {
            let judgement = ledger.admit(&batch.signed, Evidence { stored, ..Evidence::default() });
            self.broken += judgement.broken.len();
            return judgement.verdict;
        };
        let mut before = self.ledgers.remove(epoch).unwrap_or_default();
        let known: Vec<Head> = heads
            .iter()
            .filter_map(|head| {
                let digest = self.digest_at(*epoch, head.number)?;
                Some(Head { number: head.number, digest })
            })
            .collect();
        let predecessor = Some(Predecessor { ledger: &mut before, heads: &known });
        let judgement = ledger.admit(&batch.signed, Evidence { stored, stored_first: None, predecessor });
        self.ledgers.insert(*epoch, before);
        judgement.verdict
    }

    fn store_fold(&mut self, signed: SignedFold) -> SignedAck {
        let fold: Folded = signed.verify(&self.key).unwrap().clone();
        let mut ledger = self.ledgers.remove(&fold.epoch).unwrap_or_default();
        let stored = self.digest_at(fold.epoch, fold.span.last());
        let stored_first = self.digest_at(fold.epoch, fold.span.first());
        let verdict = ledger.admit_fold(&fold, Evidence { stored, stored_first, predecessor: None }).verdict;
        match verdict {
            // The fold stands for those of its numbers that are not there.
            Verdict::Store | Verdict::StoreAbove => {
                let inside = (fold.epoch, fold.span.first().get())..=(fold.epoch, fold.span.last().get());
                if self.rows.range(inside).next().is_none() {
                    self.rows.insert((fold.epoch, fold.span.first().get()), Row::Fold(signed));
                }
            }
            Verdict::Duplicate => {}
            Verdict::Fork(_) => self.forks += 1,
            Verdict::TooManyHoles => panic!("too many holes"),
        }
        self.answer(fold.epoch, ledger, &verdict)
    }

    fn settle(&mut self, state: &State) -> Vec<SignedAck> {
        let mut acks = Vec::new();
        for held in &state.held {
            let ledger = self.ledgers.entry(held.epoch).or_default();
            self.lost += ledger.settle(held.lowest).into_iter().map(auditflow_wire::Span::count).sum::<u64>();
            let ack = ledger.ack(self.node, held.epoch, None, Timestamp::EPOCH);
            acks.push(Signed::sign(ack, &self.site));
        }
        acks
    }

    fn answer(&mut self, epoch: EpochId, ledger: EpochLedger, verdict: &Verdict) -> SignedAck {
        let bytes = ledger.to_bytes();
        assert_eq!(EpochLedger::from_bytes(&bytes).unwrap(), ledger);
        let ack = Signed::sign(ledger.ack(self.node, epoch, Some(verdict), Timestamp::EPOCH), &self.site);
        self.ledgers.insert(epoch, ledger);
        self.acks.push(ack.clone());
        ack
    }

    fn digest_at(&self, epoch: EpochId, number: BatchSeq) -> Option<Digest> {
        let (_, row) = self.rows.range((epoch, 0)..=(epoch, number.get())).next_back()?;
        match row {
            Row::Batch(signed, _) if signed.header.number == number => Some(signed.digest()),
            Row::Fold(fold) if fold.unverified().span.last() == number => Some(fold.unverified().last_digest),
            Row::Fold(fold) if fold.unverified().span.first() == number => {
                Some(fold.unverified().first_digest)
            }
            _ => None,
        }
    }
}
