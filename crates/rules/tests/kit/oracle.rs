//! rsigma itself on JSON: one engine per log source, nothing of ours in between.

use std::collections::BTreeMap;
use std::path::Path;

use rsigma_eval::{Engine, JsonEvent};
use rsigma_parser::{LogSource, SigmaRule, parse_sigma_file};
use serde_json::Value;

/// The engines, and the rules as parsed.
pub(crate) struct Oracle {
    engines: BTreeMap<String, Engine>,
    pub(crate) rules: Vec<(String, SigmaRule)>,
}

impl Oracle {
    pub(crate) fn load(dir: &Path) -> Self {
        let mut rules = Vec::new();
        collect(dir, &mut rules);
        let mut engines: BTreeMap<String, Engine> = BTreeMap::new();
        for (source, rule) in &rules {
            engines.entry(source.clone()).or_default().add_rule(rule).unwrap();
        }
        Self { engines, rules }
    }

    /// The ids of the rules that the views match, each as often as there are views that match it.
    pub(crate) fn fired(&self, views: &[(&str, Value)]) -> Vec<String> {
        let mut fired = Vec::new();
        for (source, json) in views {
            let Some(engine) = self.engines.get(*source) else { continue };
            fired.extend(
                engine.evaluate(&JsonEvent::borrow(json)).into_iter().map(|r| r.header.rule_id.unwrap()),
            );
        }
        fired.sort();
        fired
    }
}

fn collect(dir: &Path, rules: &mut Vec<(String, SigmaRule)>) {
    let mut entries: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            collect(&path, rules);
        } else {
            let collection = parse_sigma_file(&path).unwrap();
            assert!(collection.errors.is_empty(), "{}: {:?}", path.display(), collection.errors);
            rules.extend(collection.rules.into_iter().map(|rule| (source(&rule.logsource), rule)));
        }
    }
}

fn source(source: &LogSource) -> String {
    match (source.product.as_deref(), source.category.as_deref(), source.service.as_deref()) {
        (Some("kubernetes"), _, Some("audit")) => "kubernetes/audit".to_owned(),
        (Some("linux"), None, None) => "linux".to_owned(),
        (Some("linux"), Some(part), None) | (Some("linux"), None, Some(part)) => format!("linux/{part}"),
        other => panic!("no such log source among the rules: {other:?}"),
    }
}
