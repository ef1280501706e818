//! Whether the kernel's audit rules are still those that `load-rules` left.
//!
//! Fed with the state file that `load-rules` writes, with the kernel's list of rules, and with the records by which
//! the kernel tells of changes. Reports as a source of its own, `kernel_rules`, so that drift is in health, status,
//! metrics and an `agent_state` event, and says which way was used: listing needs `CAP_AUDIT_CONTROL`; without it only
//! changes while the agent runs are noticed. A difference counts when it stands at two looks, because loading
//! rules is many changes.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use auditflow_audit_record::{Record, RecordType};

use crate::kernel_rules::load;
use crate::netlink::AuditSocket;
use crate::source::{CoverageState, Reporter, SourceName};

/// As what it reports.
pub(super) const NAME: SourceName = SourceName("kernel_rules");

/// How often the rules are compared where nothing hints at a change.
const INTERVAL: Duration = Duration::from_mins(1);

/// How soon they are compared again after a hint, and after a difference was seen once.
const SOON: Duration = Duration::from_secs(2);

const REMEDY: &str = "run `auditflow-agent load-rules`, and find out who changed them";

/// What was loaded, and when it was written down.
struct Loaded {
    written: SystemTime,
    rules: Vec<Vec<u8>>,
}

/// How what stands compares with what was loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Standing {
    /// Nobody has loaded any here.
    NoneLoaded,
    /// They stand as they were left.
    AsLeft(String),
    /// They don't.
    Drifted(String),
}

/// Looks from time to time.
pub(super) struct Watch {
    state: PathBuf,
    reporter: Reporter,
    loaded: Option<Loaded>,
    /// Changes that the kernel told of since the rules were loaded: the first, in words.
    told: Option<String>,
    suspected: Option<Standing>,
    next: Duration,
}

impl Watch {
    pub(super) fn new(state: PathBuf, reporter: Reporter) -> Self {
        Self { state, reporter, loaded: None, told: None, suspected: None, next: Duration::ZERO }
    }

    /// Takes note of a record that tells of a change of rules; `now` is monotonic.
    pub(super) fn see(&mut self, record: &Record, now: Duration) {
        if record.kind != RecordType::CONFIG_CHANGE {
            return;
        }
        let Some(change) = record.field("op").map(|value| value.text().into_owned()) else { return };
        if change.ends_with("_rule") {
            self.told.get_or_insert(change);
            self.next = self.next.min(now + SOON);
        }
    }

    /// Looks, if it is time. `control` is there where the rules may be listed.
    pub(super) fn look(&mut self, control: Option<&mut AuditSocket>, now: Duration) {
        if now < self.next {
            return;
        }
        self.next = now + INTERVAL;
        if let Err(reason) = self.read_state() {
            self.reporter.report(CoverageState::Degraded, reason);
            return;
        }
        let standing = match (&self.loaded, control.map(load::standing)) {
            (None, _) => Standing::NoneLoaded,
            (Some(loaded), Some(Ok(rules))) => compare(&loaded.rules, &rules),
            (Some(loaded), Some(Err(_)) | None) => heard(loaded.rules.len(), self.told.as_deref()),
        };
        let is_new = matches!(standing, Standing::Drifted(_)) && self.suspected.as_ref() != Some(&standing);
        self.suspected = Some(standing.clone());
        if is_new {
            self.next = now + SOON;
            return;
        }
        match standing {
            Standing::NoneLoaded => {
                self.reporter.report(CoverageState::NotApplicable, "load-rules has loaded no rules here");
            }
            Standing::AsLeft(how) => self.reporter.report(CoverageState::Active, how),
            Standing::Drifted(how) => {
                self.reporter.report(CoverageState::Degraded, format!("{how}; {REMEDY}"));
            }
        }
    }

    /// Reads what `load-rules` wrote down, where it has since; what was told before is its own doing.
    fn read_state(&mut self) -> Result<(), String> {
        let Ok(written) = fs::metadata(&self.state).and_then(|metadata| metadata.modified()) else {
            self.loaded = None;
            return Ok(());
        };
        if self.loaded.as_ref().is_some_and(|loaded| loaded.written == written) {
            return Ok(());
        }
        let read = load::read_state(&self.state).map_err(|error| {
            format!("what load-rules left cannot be read ({error}), so drift goes unnoticed; run it again")
        })?;
        self.loaded = read.map(|loaded| Loaded { written, rules: loaded.left.rules });
        self.told = None;
        Ok(())
    }
}

/// By the kernel's list.
fn compare(left: &[Vec<u8>], standing: &[Vec<u8>]) -> Standing {
    if left == standing {
        return Standing::AsLeft(format!("{} rules stand as they were loaded (listed)", left.len()));
    }
    let (gone, foreign) = (absent(left, standing), absent(standing, left));
    Standing::Drifted(match (gone, foreign) {
        (0, 0) => "the kernel's rules stand in another order than they were loaded (listed)".to_owned(),
        _ => format!("{gone} rules that were loaded are gone and {foreign} others stand (listed)"),
    })
}

/// How many of `these` are not among `those`, each counted as often as it is there.
fn absent(these: &[Vec<u8>], those: &[Vec<u8>]) -> usize {
    let mut left: Vec<&Vec<u8>> = those.iter().collect();
    let mut absent = 0;
    for rule in these {
        match left.iter().position(|other| *other == rule) {
            Some(place) => {
                left.swap_remove(place);
            }
            None => absent += 1,
        }
    }
    absent
}

/// By what the kernel told, where listing is not allowed.
fn heard(loaded: usize, told: Option<&str>) -> Standing {
    match told {
        None => Standing::AsLeft(format!(
            "{loaded} rules were loaded, no change heard of since (not listed: no CAP_AUDIT_CONTROL)"
        )),
        Some(change) => Standing::Drifted(format!(
            "the kernel's rules were changed after they were loaded ({change}; heard, not listed: no CAP_AUDIT_CONTROL)"
        )),
    }
}

#[cfg(test)]
mod tests {
    use auditflow_service::health::Health;

    use super::*;
    use crate::source::{Board, Coverage};

    fn drift(left: &[&str], standing: &[&str]) -> Option<String> {
        let encoded = |rules: &[&str]| rules.iter().map(|rule| rule.as_bytes().to_vec()).collect::<Vec<_>>();
        match compare(&encoded(left), &encoded(standing)) {
            Standing::Drifted(how) => Some(how),
            _ => None,
        }
    }

    #[test]
    fn what_is_gone_and_what_is_foreign_is_counted_as_often_as_it_is_there() {
        assert_eq!(drift(&["a", "b"], &["a", "b"]), None);
        for (standing, expected) in [
            (&["a"][..], "1 rules that were loaded are gone and 0 others stand (listed)"),
            (&["a", "b", "b"], "0 rules that were loaded are gone and 1 others stand (listed)"),
            (&["c", "b"], "1 rules that were loaded are gone and 1 others stand (listed)"),
            (&["b", "a"], "the kernel's rules stand in another order than they were loaded (listed)"),
        ] {
            assert_eq!(drift(&["a", "b"], standing).as_deref(), Some(expected));
        }
    }

    fn coverage(board: &Board) -> Coverage {
        board.snapshot()[0].1.clone()
    }

    fn config_change(op: &str) -> Record {
        let text = format!("audit(1795413100.100:9): auid=0 ses=1 op={op} key=\"k\" list=4 res=1");
        Record::from_netlink(RecordType::CONFIG_CHANGE.0, text.as_bytes()).unwrap()
    }

    #[test]
    fn where_rules_may_not_be_listed_a_change_is_heard_until_they_are_loaded_again() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("found.json");
        let board = Board::default();
        let reporter = board.reporter(NAME, &Health::requiring(&[]));
        let mut watch = Watch::new(state.clone(), reporter);
        let mut now = Duration::ZERO;
        watch.look(None, now);
        assert_eq!(coverage(&board).state, CoverageState::NotApplicable);

        let standing =
            load::Configuration { status: crate::netlink::Status::default(), rules: vec![vec![1]] };
        let written = load::Loaded { found: standing.clone(), left: standing };
        fs::write(&state, serde_json::to_vec(&written).unwrap()).unwrap();
        now += INTERVAL;
        watch.look(None, now);
        assert_eq!(coverage(&board).state, CoverageState::Active);

        watch.see(&config_change("set"), now);
        watch.see(&config_change("remove_rule"), now);
        for expected in [CoverageState::Active, CoverageState::Degraded] {
            now += SOON;
            watch.look(None, now);
            assert_eq!(coverage(&board).state, expected, "a difference counts at the second look");
        }
        assert!(coverage(&board).detail.contains("remove_rule; heard, not listed"), "{:?}", coverage(&board));

        // Loading them again is a change as well, and its own.
        watch.see(&config_change("add_rule"), now);
        let later = SystemTime::now() + INTERVAL;
        fs::File::options().write(true).open(&state).unwrap().set_modified(later).unwrap();
        now += SOON;
        watch.look(None, now);
        assert_eq!(coverage(&board).state, CoverageState::Active);
    }
}
