//! What tells events and records apart, as keyed 64-bit hashes: the key is random, so that nobody can make two records
//! collide on purpose.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher, RandomState};

use crate::{Record, Stamp};

/// Multipliers with well-mixed bits (those of wyhash).
const MIX: [u64; 2] = [0xa076_1d64_78bd_642f, 0xe703_7ed1_a0b4_28db];

/// A map by event.
pub(super) type ByKey<V> = HashMap<Key, V, BuildHasherDefault<AsHashed>>;

/// What tells events apart: the stamp, and the node's name as a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) stamp: Stamp,
    node: u64,
    hash: u64,
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// Makes keys of events and prints of records.
#[derive(Debug)]
pub(super) struct Hashes {
    seed: u64,
}

impl Hashes {
    pub(super) fn new() -> Self {
        Self { seed: RandomState::new().hash_one(0) }
    }

    pub(super) fn key(&self, record: &Record) -> Key {
        let Stamp { millis, serial } = record.stamp;
        let node = record.node.as_ref().map_or(0, |node| self.of(0, node.as_bytes()));
        Key { stamp: record.stamp, node, hash: mix(self.seed ^ millis, node ^ MIX[0] ^ u64::from(serial)) }
    }

    /// What tells a record from the others of its event.
    pub(super) fn print(&self, record: &Record) -> u64 {
        self.of(u64::from(record.kind.0), &record.body)
    }

    fn of(&self, kind: u64, bytes: &[u8]) -> u64 {
        let mut hash = mix(self.seed ^ kind, MIX[0] ^ bytes.len() as u64);
        let (pairs, rest) = bytes.as_chunks::<16>();
        for pair in pairs {
            let pair = u128::from_le_bytes(*pair);
            hash = mix(hash ^ pair as u64, MIX[1] ^ (pair >> 64) as u64);
        }
        let mut last = [0; 16];
        for (to, from) in last.iter_mut().zip(rest) {
            *to = *from;
        }
        let last = u128::from_le_bytes(last);
        mix(hash ^ last as u64, MIX[1] ^ (last >> 64) as u64)
    }
}

/// Both halves of the product, folded together.
fn mix(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product >> 64) as u64 ^ product as u64
}

/// A hasher for what is a hash already.
#[derive(Debug, Default)]
pub(super) struct AsHashed(u64);

impl Hasher for AsHashed {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn record(line: &str) -> Record {
        Record::from_line(line.as_bytes()).unwrap()
    }

    #[test]
    fn records_that_differ_anywhere_have_different_prints() {
        let hashes = Hashes::new();
        let text = "x".repeat(40);
        let mut prints = HashSet::new();
        for kind in ["CWD", "PATH"] {
            for length in 0..=text.len() {
                prints.insert(
                    hashes.print(&record(&format!("type={kind} msg=audit(1.000:1): {}", &text[..length]))),
                );
                let (before, after) = text.split_at(length);
                prints.insert(
                    hashes.print(&record(&format!("type={kind} msg=audit(1.000:1): {before}y{after}"))),
                );
            }
        }
        assert_eq!(prints.len(), 2 * (41 + 41));
    }

    #[test]
    fn time_serial_and_node_make_another_event() {
        let hashes = Hashes::new();
        let lines = [
            "type=EOE msg=audit(1.000:1): ",
            "type=EOE msg=audit(1.000:2): ",
            "type=EOE msg=audit(1.001:1): ",
            "node=a type=EOE msg=audit(1.000:1): ",
            "node=b type=EOE msg=audit(1.000:1): ",
        ];
        let keys: HashSet<_> = lines.iter().map(|line| hashes.key(&record(line))).collect();
        assert_eq!(keys.len(), lines.len());
        assert!(keys.contains(&hashes.key(&record("type=CWD msg=audit(1.000:1): x"))));
    }
}
