//! What events are found by, as 64-bit hashes: the same function fills a batch's filter, splits a search and decides
//! whether an opened event matches, so a filter can never deny what a search would have found.
//!
//! A term is a `field:value` pair or a whole token of a value (`event::terms` says which fields and tokens there
//! are), a label of the node's (`labels.site:north`), or a user in any role. ASCII case is ignored. Two terms that share a hash are taken for one another: once in
//! 2⁶⁴.

use auditflow_event::digest::xxh64;
use auditflow_event::terms::tokens;
use auditflow_event::{Event, HostFacts, Meaning, NodeId, Timestamp};

use super::{BatchTerms, EventQuery, TermFilter};

/// Places for hashes seen lately; a power of two.
const LATELY: usize = 4096;
/// Places for pairs seen lately, at most; a power of two.
const PAIRS: usize = 1024;
/// Places per event: about as many pairs as most have.
const PAIRS_PER_EVENT: usize = 32;

/// Collects the terms of a batch's events.
pub struct TermCollector {
    hashes: Vec<u64>,
    /// Which of them were added lately, each in the place that its low bits say: what is not added again need not be
    /// sorted out.
    lately: Vec<u64>,
    pairs: Pairs,
    types: i64,
    times: Option<(Timestamp, Timestamp)>,
    hasher: Hasher,
}

impl TermCollector {
    /// For a batch of so many events.
    pub fn for_events(count: usize) -> Self {
        let (hashes, lately, pairs) = (Vec::new(), vec![0; LATELY], Pairs::for_events(count));
        Self { hashes, lately, pairs, types: 0, times: None, hasher: Hasher::default() }
    }

    /// Takes in an event, whose meaning this is.
    pub fn add(&mut self, event: &Event, meaning: &Meaning<'_>) {
        self.types |= BatchTerms::bit(meaning.event_type);
        self.times = Some(match self.times {
            None => (event.time, event.time),
            Some((from, to)) => (from.min(event.time), to.max(event.time)),
        });
        let (hasher, hashes, lately) = (&mut self.hasher, &mut self.hashes, &mut self.lately);
        let pairs = &mut self.pairs;
        let mut add = |hash: u64| {
            let seen = &mut lately[hash as usize % LATELY];
            // Nothing was seen yet where there is a zero.
            if *seen != hash || hash == 0 {
                *seen = hash;
                hashes.push(hash);
            }
        };
        meaning.visit_terms(event, &mut |field, value| {
            if pairs.is_new(field, value) {
                hasher.each(field, value, &mut add);
            }
        });
    }

    /// Takes in what is the same for all of the batch's events: its node's labels.
    pub fn add_host(&mut self, host: &HostFacts) {
        let (hasher, hashes) = (&mut self.hasher, &mut self.hashes);
        visit_labels(host, &mut |field, value| hasher.each(field, value, |hash| hashes.push(hash)));
    }

    /// What finds the batch; none if there was no event.
    pub fn finish(mut self) -> Option<BatchTerms> {
        let (from, to) = self.times?;
        Some(BatchTerms { from, to, types: self.types, filter: TermFilter::build(&mut self.hashes) })
    }
}

/// Pairs of field and value whose terms were added lately, each in one place: most of an event's are those of the one
/// before it. They are compared whole, so no pair is ever taken for another.
struct Pairs {
    places: Vec<Pair>,
}

/// Field and value, one after the other, if they are short enough. No field has an empty name: that is an empty place.
#[derive(Clone, Copy)]
struct Pair {
    field: u8,
    value: u8,
    text: [u8; Self::SIZE],
}

impl Pair {
    /// With its lengths two cache lines. What is longer is hardly ever repeated.
    const SIZE: usize = 126;
    const NONE: Self = Self { field: 0, value: 0, text: [0; Self::SIZE] };
}

impl Pairs {
    fn for_events(count: usize) -> Self {
        let places = count.saturating_mul(PAIRS_PER_EVENT).clamp(1, PAIRS).next_power_of_two();
        Self { places: vec![Pair::NONE; places] }
    }

    /// Whether the pair is not known to have been here; it is from now on.
    fn is_new(&mut self, field: &str, value: &str) -> bool {
        let (field, value) = (field.as_bytes(), value.as_bytes());
        if field.len() + value.len() > Pair::SIZE {
            return true;
        }
        let lengths = (field.len() as u8, value.len() as u8);
        // Their number is a power of two.
        let place = mixed(field, value) as usize & (self.places.len() - 1);
        let pair = &mut self.places[place];
        let (before, rest) = pair.text.split_at_mut(field.len());
        let after = &mut rest[..value.len()];
        if (pair.field, pair.value) == lengths && *before == *field && *after == *value {
            return false;
        }
        (pair.field, pair.value) = lengths;
        before.copy_from_slice(field);
        after.copy_from_slice(value);
        true
    }
}

/// What decides where a pair is kept: its lengths and the ends of both texts.
fn mixed(field: &[u8], value: &[u8]) -> u64 {
    const ODD: [u64; 2] = [0x9E37_79B9_7F4A_7C15, 0xD6E8_FEB8_6659_FD93];
    let last = |text: &[u8]| text.last_chunk().map_or_else(|| short(text), |last| u64::from_le_bytes(*last));
    let first = value.first_chunk().map_or(0, |first| u64::from_le_bytes(*first));
    let lengths = (field.len() << 8 | value.len()) as u64;
    let mixed = (last(field) ^ lengths).wrapping_mul(ODD[0]) ^ last(value).wrapping_mul(ODD[1]);
    let mixed = (mixed ^ mixed >> 32 ^ first).wrapping_mul(ODD[0]);
    mixed >> 32
}

/// Fewer than eight bytes as one number.
fn short(text: &[u8]) -> u64 {
    text.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// A query in the terms of the index.
#[derive(Debug)]
pub struct Wanted {
    /// Of this node.
    pub node: Option<NodeId>,
    /// From here.
    pub from: Timestamp,
    /// Up to here.
    pub to: Timestamp,
    /// Of these types, one bit each.
    pub types: i64,
    /// With all of these terms.
    pub hashes: Vec<u64>,
}

impl Wanted {
    /// What a query asks for.
    pub fn of(query: &EventQuery) -> Self {
        let mut hasher = Hasher::default();
        let mut hashes = Vec::new();
        for term in &query.terms {
            match field_and_value(term) {
                Some((field, value)) => hashes.push(hasher.pair(field, value)),
                None => hashes.extend(tokens(term).map(|token| hasher.token(token))),
            }
        }
        hashes.extend(query.user.as_deref().map(|user| hasher.pair(USER, user)));
        hashes.sort_unstable();
        hashes.dedup();
        let types = query.event_types.iter().fold(0, |types, kind| types | BatchTerms::bit(*kind));
        Self {
            node: query.node,
            from: query.from.unwrap_or(Timestamp::MIN),
            to: query.to.unwrap_or(Timestamp::MAX),
            types: if query.event_types.is_empty() { -1 } else { types },
            hashes,
        }
    }

    /// Whether an event of a batch from `host` is one that is asked for, all but the node.
    pub fn matches(&self, event: &Event, host: &HostFacts) -> bool {
        if !(self.from..=self.to).contains(&event.time) {
            return false;
        }
        if self.types == -1 && self.hashes.is_empty() {
            return true;
        }
        let meaning = event.meaning();
        if BatchTerms::bit(meaning.event_type) & self.types == 0 {
            return false;
        }
        let mut missing = self.hashes.clone();
        let mut hasher = Hasher::default();
        let mut visit = |field: &str, value: &str| {
            if !missing.is_empty() {
                hasher.each(field, value, |hash| missing.retain(|wanted| *wanted != hash));
            }
        };
        visit_labels(host, &mut visit);
        meaning.visit_terms(event, &mut visit);
        missing.is_empty()
    }
}

/// A node's labels, each as the field `labels.NAME`.
fn visit_labels(host: &HostFacts, visit: &mut dyn FnMut(&str, &str)) {
    for (name, value) in &host.labels {
        visit(&format!("labels.{name}"), value);
    }
}

/// The pseudo-field that every user of an event is under.
const USER: &str = "@user";

/// Hashes terms; keeps a buffer to fold case in.
#[derive(Debug, Default)]
struct Hasher {
    folded: Vec<u8>,
}

impl Hasher {
    /// Every term of one field's value.
    fn each(&mut self, field: &str, value: &str, mut term: impl FnMut(u64)) {
        term(self.pair(field, value));
        if field == "user_id" || field.starts_with("user.") {
            term(self.pair(USER, value));
        }
        for token in tokens(value) {
            term(self.token(token));
        }
    }

    fn pair(&mut self, field: &str, value: &str) -> u64 {
        self.folded.clear();
        self.fold(field);
        // No field holds a NUL, so no two pairs run into one another, and no token looks like a pair.
        self.folded.push(0);
        self.fold(value);
        xxh64(&self.folded)
    }

    fn token(&mut self, token: &str) -> u64 {
        self.folded.clear();
        self.fold(token);
        xxh64(&self.folded)
    }

    fn fold(&mut self, text: &str) {
        self.folded.extend(text.bytes().map(|byte| byte.to_ascii_lowercase()));
    }
}

/// A term that names a field: `process.name:curl`, but neither `10.0.0.1:80` nor `https://…`.
fn field_and_value(term: &str) -> Option<(&str, &str)> {
    let (field, value) = term.split_once(':')?;
    let name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let is_field = field.starts_with(|c: char| c.is_ascii_alphabetic()) && field.chars().all(name);
    (is_field && !value.is_empty() && !value.starts_with("//")).then_some((field, value))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_term_names_a_field_only_where_it_looks_like_one() {
        for (term, expected) in [
            ("process.name:curl", Some(("process.name", "curl"))),
            ("details.path:/etc/shadow", Some(("details.path", "/etc/shadow"))),
            ("10.0.0.1:80", None),
            ("https://example.org", None),
            ("curl", None),
            ("x:", None),
        ] {
            assert_eq!(field_and_value(term), expected, "{term}");
        }
    }

    proptest! {
        #[test]
        fn a_pair_is_known_only_if_it_was_here_before(
            pairs in prop::collection::vec(("[ab.]{1,3}", prop_oneof!["[ab]{0,4}", "[ab]{8,10}", "[ab]{120,130}"]), 0..200),
        ) {
            let mut known = Pairs::for_events(pairs.len());
            let mut before = std::collections::HashSet::new();
            for (field, value) in &pairs {
                let is_new = known.is_new(field, value);
                prop_assert!(is_new || before.contains(&(field, value)), "{field} {value}");
                prop_assert!(!known.is_new(field, value) || field.len() + value.len() > Pair::SIZE);
                before.insert((field, value));
            }
        }
    }

    #[test]
    fn case_is_ignored_and_pairs_are_not_tokens() {
        let mut hasher = Hasher::default();
        assert_eq!(hasher.token("Curl"), hasher.token("cURL"));
        assert_eq!(hasher.pair("user.name", "Root"), hasher.pair("USER.name", "root"));
        assert_ne!(hasher.pair("a", "b"), hasher.token("ab"));
        assert_ne!(hasher.pair("ab", "c"), hasher.pair("a", "bc"));
    }
}
