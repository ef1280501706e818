//! One rule language from edge to centre: Sigma.
//!
//! Fed by directories of rule files and by events; feeds the agent's pre-filter and the collector's detection. A rule
//! sees an event through the view of its log source ([`Family`]), made from the event without JSON in between.
//! Guarantees: a set of rules is accepted whole, with its own test cases passed, or refused with everything that is
//! wrong; evaluating never fails and never blocks; rules that can never match are named ([`RuleSet::gaps`]).

mod document;

mod correlation;
mod filter;
mod logsource;
mod rule;
mod sigma;

mod view;

mod coverage;
mod detect;
mod inputs;
mod selftest;
mod specialise;

mod load;
mod prefilter;

mod exclude;
mod reload;
pub mod shipped;

pub use correlation::{Alias, Correlation, CorrelationKind, Member};
pub use coverage::{Gap, Missing};
pub use detect::{Detection, MatchedField};
pub use document::Limits;
pub use exclude::{ExcludeError, exclusion};
pub use inputs::{CorrelationInput, MAX_VALUE_BYTES, MissingField};
pub use load::RuleSet;
pub use logsource::{Families, Family};
pub use prefilter::{Action, Disposition, DropReason, EdgeRule, Prefilter, Rate, Ratio, Step, Verdict};
pub use reload::{Current, Outcome, ReloadState, Reloader};
pub use rule::{Level, LoadError, Problem, Rule, RuleId, RuleSetVersion};
