//! The chain: what an entry's digest is made of, what follows on what, and how long texts may get.
//!
//! Pure. Every store makes its entries here, so that a chain reads the same wherever it is kept. The encoding is
//! documented in docs/audit-trail.md and pinned by golden vectors below: what was once chained has to stay provable.

use std::fmt;
use std::str::FromStr;

use auditflow_wire::Digest;
use serde_json::{Map, Value};

use super::{Act, Entry};

/// What the digest is for; a change of the encoding is a change of this.
const DOMAIN: &[u8] = b"auditflow audit trail v1\0";
/// The longest actor and object, in bytes.
const MAX_NAME: usize = 256;
/// The longest text within a detail, in bytes.
const MAX_VALUE: usize = 256;
/// The longest detail, in bytes. A few texts of the longest kind fit, each of its bytes escaped.
const MAX_DETAIL: usize = 4096;
/// What stands at the end of a text that was cut.
const CUT: &str = "…";

/// How far a chain goes: what is kept elsewhere, to hold the chain to it later. Written `NUMBER:DIGEST`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrailHead {
    /// The last entry's number.
    pub number: u64,
    /// The last entry's digest.
    pub digest: Digest,
}

/// Where a chain stops being one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("entry {number} {why}")]
pub struct Broken {
    /// The first bad number.
    pub number: u64,
    /// What is wrong with it.
    pub why: &'static str,
}

/// A text that is no head.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a head: give it as `audit verify` printed it, NUMBER:DIGEST")]
pub struct ParseHeadError;

/// A walk along a chain from its beginning, an entry at a time.
#[derive(Debug, Default)]
pub struct Walk {
    head: Option<TrailHead>,
    kept: Option<TrailHead>,
}

impl Entry {
    /// The entry that follows on `head` (nothing: the first) and says what was done, its texts cut to their bounds.
    pub fn after(head: Option<TrailHead>, act: &Act) -> Self {
        let mut entry = Self {
            number: head.map_or(1, |head| head.number + 1),
            previous: previous(head),
            digest: Digest::from_bytes([0; Digest::LEN]),
            at: act.at,
            actor: cut(&act.by.actor.to_string(), MAX_NAME),
            origin: act.by.origin.map(|origin| origin.to_canonical().to_string()).unwrap_or_default(),
            action: act.action.name().to_owned(),
            object: cut(&act.object, MAX_NAME),
            outcome: act.outcome.name().to_owned(),
            detail: detail(&act.detail),
        };
        entry.digest = digest(&entry);
        entry
    }

    /// The head of a chain that ends here.
    pub fn head(&self) -> TrailHead {
        TrailHead { number: self.number, digest: self.digest }
    }
}

impl Walk {
    /// A walk that also has to come past `kept`, a head of this chain from before.
    pub fn past(kept: Option<TrailHead>) -> Self {
        Self { head: None, kept }
    }

    /// Takes the next entry.
    pub fn take(&mut self, entry: &Entry) -> Result<(), Broken> {
        let number = self.expected();
        let broken = |why| Err(Broken { number, why });
        if entry.number != number {
            return broken("is missing");
        }
        if entry.previous != previous(self.head) {
            return broken("does not follow on the one before");
        }
        if entry.digest != digest(entry) {
            return broken("is not what was written");
        }
        if self.kept.is_some_and(|kept| kept.number == number && kept.digest != entry.digest) {
            return broken("is another than the one whose head was kept: the trail was written anew");
        }
        self.head = Some(entry.head());
        Ok(())
    }

    /// The number that comes next.
    pub fn expected(&self) -> u64 {
        self.head.map_or(1, |head| head.number + 1)
    }

    /// The chain's head, when there is no more of it; none of an empty one.
    pub fn finish(self) -> Result<Option<TrailHead>, Broken> {
        let number = self.expected();
        if self.kept.is_some_and(|kept| kept.number >= number) {
            let why = "is missing, and a head that was kept says that it was there: the trail was cut off";
            return Err(Broken { number, why });
        }
        Ok(self.head)
    }
}

impl fmt::Display for TrailHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.number, self.digest)
    }
}

impl FromStr for TrailHead {
    type Err = ParseHeadError;

    fn from_str(text: &str) -> Result<Self, ParseHeadError> {
        let (number, digest) = text.trim().split_once(':').ok_or(ParseHeadError)?;
        Ok(Self {
            number: number.parse().map_err(|_| ParseHeadError)?,
            digest: digest.parse().map_err(|_| ParseHeadError)?,
        })
    }
}

fn previous(head: Option<TrailHead>) -> Digest {
    head.map_or(Digest::from_bytes([0; Digest::LEN]), |head| head.digest)
}

fn digest(entry: &Entry) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(DOMAIN).update(&encode(entry));
    Digest::from_bytes(*hasher.finalize().as_bytes())
}

/// The canonical form: fixed-size numbers, then each text behind its length. No two entries have the same.
fn encode(entry: &Entry) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    out.extend(entry.number.to_le_bytes());
    out.extend(entry.previous.as_bytes());
    out.extend(entry.at.as_micros().to_le_bytes());
    let Entry { actor, origin, action, object, outcome, detail, .. } = entry;
    for text in [actor, origin, action, object, outcome, detail] {
        out.extend((text.len() as u64).to_le_bytes());
        out.extend(text.as_bytes());
    }
    out
}

/// A JSON object with each text cut; what is absent is left out.
fn detail(value: &Value) -> String {
    let bounded = |value: &Value| match value {
        Value::String(text) => Value::String(cut(text, MAX_VALUE)),
        other => other.clone(),
    };
    let fields = value.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
    let fields: Map<String, Value> = fields.map(|(name, value)| (name.clone(), bounded(value))).collect();
    let text = Value::Object(fields).to_string();
    if text.len() > MAX_DETAIL { r#"{"cut":true}"#.to_owned() } else { text }
}

/// At most `most` bytes of a text; a cut shows. A picture stands for NUL, which PostgreSQL's text has none of.
fn cut(text: &str, most: usize) -> String {
    let text = text.replace('\0', "\u{2400}");
    if text.len() <= most {
        return text;
    }
    let end = text.floor_char_boundary(most - CUT.len());
    format!("{}{CUT}", &text[..end])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::store::{Action, Actor, By, Outcome, SystemUser};
    use crate::testing::at;

    fn act(object: &str, detail: Value) -> Act {
        let by = By { actor: Actor::User("olga".to_owned()), origin: Some([192, 0, 2, 7].into()) };
        Act::done(at(0), by, Action::AlertChange, object, detail)
    }

    /// A chain of three.
    fn chain() -> Vec<Entry> {
        let first = Entry::after(None, &act("a", json!({ "status": "resolved" })));
        let refused = Act {
            outcome: Outcome::Refused,
            by: By { actor: Actor::Anonymous, origin: None },
            action: Action::SessionRefuse,
            ..act("", json!({ "attempts": 3 }))
        };
        let second = Entry::after(Some(first.head()), &refused);
        let third = Entry::after(Some(second.head()), &act("b", json!({})));
        vec![first, second, third]
    }

    fn walked(chain: &[Entry], kept: Option<TrailHead>) -> Result<Option<TrailHead>, Broken> {
        let mut walk = Walk::past(kept);
        chain.iter().try_for_each(|entry| walk.take(entry))?;
        walk.finish()
    }

    #[test]
    fn entries_are_encoded_and_digested_as_they_always_were() {
        let chain = chain();
        let encoded = data_encoding::HEXLOWER.encode(&encode(&chain[0]));
        let parts = [
            "0100000000000000",
            &"0".repeat(64),
            "00305055f0600600",
            "0900000000000000757365723a6f6c6761",
            "09000000000000003139322e302e322e37",
            "0c00000000000000616c6572742e6368616e6765",
            "010000000000000061",
            "0400000000000000646f6e65",
            "15000000000000007b22737461747573223a227265736f6c766564227d",
        ];
        assert_eq!(encoded, parts.concat());
        let digests: Vec<String> = chain.iter().map(|entry| entry.digest.to_string()).collect();
        assert_eq!(
            digests,
            [
                "015432455f1c85a26de36e172e6b92a8057aa7180fabe592bf423859fa2a9d12",
                "98a90cc822e5891f246aef7b906ee1d562e2e1750e8a1197031d886b1515846d",
                "4973c287e748440760646437316d58d21a0c75865bc25a13e206a678b971e08f"
            ]
        );
    }

    #[test]
    fn names_of_actors_and_actions_stay_what_they_are() {
        let root = SystemUser { uid: 0, name: Some("root".to_owned()) };
        let login = SystemUser { uid: 1000, name: None };
        let node = auditflow_event::NodeId::from_bytes([0xab; 16]);
        let actors = [
            Actor::User("olga".to_owned()),
            Actor::Token { id: "abc".to_owned(), name: "grafana".to_owned() },
            Actor::Cli { owner: root.clone(), login: None },
            Actor::Cli { owner: root, login: Some(login) },
            Actor::Node(node),
            Actor::Collector,
            Actor::Anonymous,
        ];
        assert_eq!(
            actors.map(|actor| actor.to_string()),
            [
                "user:olga",
                "token:abc:grafana",
                "cli:0:root",
                "cli:0:root:login:1000:",
                "node:abababababababababababababababab",
                "collector",
                "anonymous"
            ]
        );
        let documented = include_str!("../../../../docs/audit-trail.md");
        for action in Action::ALL {
            assert!(documented.contains(&format!("| `{}` |", action.name())), "{action:?} is not documented");
        }
    }

    #[test]
    fn a_whole_chain_ends_in_its_head() {
        let chain = chain();
        assert_eq!(walked(&[], None), Ok(None));
        assert_eq!(walked(&chain, None), Ok(Some(chain[2].head())));
        for entry in &chain {
            let head: TrailHead = entry.head().to_string().parse().unwrap();
            assert_eq!(walked(&chain, Some(head)), Ok(Some(chain[2].head())));
        }
        for text in ["", "1", "1:", "x:00", "1:00"] {
            assert_eq!(text.parse::<TrailHead>(), Err(ParseHeadError), "{text}");
        }
    }

    #[test]
    fn whatever_is_changed_in_an_entry_is_named_by_its_number() {
        let changes: [fn(&mut Entry); 9] = [
            |entry| entry.previous = Digest::from_bytes([1; 32]),
            |entry| entry.digest = Digest::from_bytes([1; 32]),
            |entry| entry.at = at(1),
            |entry| entry.actor.push('x'),
            |entry| entry.origin = "192.0.2.8".to_owned(),
            |entry| entry.action = "alert.delete".to_owned(),
            |entry| entry.object = "c".to_owned(),
            |entry| entry.outcome = "done!".to_owned(),
            |entry| entry.detail.push(' '),
        ];
        for change in changes {
            let mut chain = chain();
            change(&mut chain[1]);
            assert_eq!(walked(&chain, None).unwrap_err().number, 2);
        }
        // What moves from one text to the next is a change too.
        let mut chain = chain();
        (chain[0].actor, chain[0].origin) = ("user:olga1".to_owned(), "92.0.2.7".to_owned());
        assert_eq!(walked(&chain, None).unwrap_err().number, 1);
    }

    #[test]
    fn an_entry_that_is_missing_is_named_and_a_cut_shows_against_a_head_that_was_kept() {
        let chain = chain();
        assert_eq!(walked(&chain[1..], None).unwrap_err().number, 1);
        let hole = [chain[0].clone(), chain[2].clone()];
        assert_eq!(walked(&hole, None).unwrap_err().number, 2);
        assert_eq!(
            walked(&chain[..2], None),
            Ok(Some(chain[1].head())),
            "nothing in it says that more was there"
        );
        assert_eq!(walked(&chain[..2], Some(chain[2].head())).unwrap_err().number, 3);
    }

    #[test]
    fn a_chain_written_anew_shows_only_against_a_head_that_was_kept() {
        let kept = chain()[1].head();
        let first = Entry::after(None, &act("another", json!({})));
        let second = Entry::after(Some(first.head()), &act("b", json!({})));
        let anew = [first, second];
        assert!(walked(&anew, None).is_ok());
        assert_eq!(walked(&anew, Some(kept)).unwrap_err().number, 2);
    }

    #[test]
    fn texts_are_cut_and_an_entry_stays_small() {
        let long = "\u{1}ü".repeat(2000);
        let by = By::user(long.clone());
        let detail = json!({ "assignee": long, "note": long, "status": "resolved", "absent": null });
        let entry = Entry::after(None, &Act { by, ..act(&long, detail) });
        for text in [&entry.actor, &entry.object] {
            assert!(text.len() <= MAX_NAME && text.ends_with(CUT), "{text}");
        }
        let detail: Value = serde_json::from_str(&entry.detail).unwrap();
        assert_eq!((detail["status"].as_str(), detail.get("absent")), (Some("resolved"), None));
        assert!(detail["note"].as_str().unwrap().len() <= MAX_VALUE);
        let fields: Map<String, Value> = (0..100).map(|n| (n.to_string(), json!("x".repeat(999)))).collect();
        let entry = Entry::after(None, &act("a", Value::Object(fields)));
        assert_eq!(entry.detail, r#"{"cut":true}"#);
        assert!(encode(&entry).len() <= 2 * MAX_NAME + MAX_DETAIL + 256);
    }
}
