//! Correlations as they are loaded, and the test cases that rules carry.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends by panicking")]

mod kit;

use auditflow_event::Event;
use auditflow_rules::CorrelationKind;
use kit::files::dir;
use kit::sets::{LOGIN, WHOAMI, exec, fired, load, problem};

mod correlations {
    use super::*;

    fn with(correlation: &str) -> String {
        format!("{LOGIN}---\n{WHOAMI}---\ntitle: C\nid: c\ncorrelation:\n{correlation}")
    }

    #[test]
    fn kinds_and_thresholds_are_taken_over() {
        let cases = [
            (
                "  type: event_count\n  rules: [login]\n  timespan: 60s\n  condition: {gte: 3}\n",
                CorrelationKind::EventCount,
                3,
            ),
            (
                "  type: event_count\n  rules: failed_login\n  timespan: 1m\n  condition: {gt: 3}\n",
                CorrelationKind::EventCount,
                4,
            ),
            (
                "  type: value_count\n  rules: [login]\n  timespan: 60s\n  condition: {gte: 2, field: user.name}\n",
                CorrelationKind::ValueCount { fields: vec!["user.name".into()] },
                2,
            ),
            ("  type: temporal\n  rules: [login, whoami]\n  timespan: 60s\n", CorrelationKind::Temporal, 2),
            (
                "  type: temporal\n  rules: [login, whoami]\n  timespan: 60s\n  condition: {gte: 1}\n",
                CorrelationKind::Temporal,
                1,
            ),
            (
                "  type: temporal_ordered\n  rules: [login, whoami]\n  timespan: 60s\n",
                CorrelationKind::TemporalOrdered,
                2,
            ),
        ];
        for (text, kind, at_least) in cases {
            let set = load(&[&dir(&[("a.yml", &with(text))])]).unwrap_or_else(|error| panic!("{error}"));
            let [correlation] = set.correlations() else { panic!("{text}") };
            assert_eq!((&correlation.kind, correlation.at_least), (&kind, at_least), "{text}");
            assert_eq!(correlation.timespan.as_secs(), 60);
            assert_eq!(correlation.rules[0], "login".into());
            assert!(set.rule(&"c".into()).unwrap().alerts);
            assert!(!set.rule(&"login".into()).unwrap().alerts);
        }
    }

    #[test]
    fn what_a_late_event_could_undo_and_what_is_not_evaluated_is_refused() {
        let count = |condition: &str| {
            format!("  type: event_count\n  rules: [login]\n  timespan: 60s\n  condition: {condition}\n")
        };
        let cases = [
            (count("{lt: 3}"), "late would make an alert untrue"),
            (count("{lte: 3}"), "late would make an alert untrue"),
            (count("{eq: 3}"), "late would make an alert untrue"),
            (count("{neq: 3}"), "late would make an alert untrue"),
            (count("{gte: 3, lte: 9}"), "late would make an alert untrue"),
            (count("{gte: 0}"), "always true"),
            (count("{gte: 3}").replace("[login]", "[gone]"), "refers to gone"),
            (count("{gte: 3}").replace("[login]", "[]"), "correlates no rules"),
            (count("{gte: 3}").replace("60s", "0s"), "timespan is zero"),
            (count("{gte: 3}") + "  window: tumbling\n", "window tumbling is not supported"),
            (count("{gte: 3}").replace("event_count", "value_count"), "needs the field"),
            (count("{gte: 3, field: x}").replace("event_count", "value_sum"), "value_sum is not supported"),
            (
                "  type: temporal\n  rules: [login, whoami]\n  timespan: 1m\n  condition: login and whoami\n"
                    .into(),
                "over rule names",
            ),
            (
                "  type: temporal\n  rules: [login]\n  timespan: 1m\n  condition: {gte: 2}\n".into(),
                "wants 2 of 1 rules",
            ),
            (
                "  type: temporal_ordered\n  rules: [login, whoami]\n  timespan: 1m\n  condition: {gte: 2}\n"
                    .into(),
                "takes no condition",
            ),
            (count("{gte: 3}").replace("[login]", "[c]"), "counts itself"),
        ];
        for (text, expected) in cases {
            let dir = dir(&[("a.yml", &with(&text))]);
            let error = load(&[&dir]).unwrap_err();
            assert!(error.to_string().contains(expected), "{error} for {text}");
            assert_eq!(error.problems()[0].line, 19, "{error}");
        }
    }

    #[test]
    fn generate_lets_the_base_alert_as_well() {
        let text = with(
            "  type: event_count\n  rules: [login]\n  timespan: 60s\n  condition: {gte: 3}\ngenerate: true\n",
        );
        let set = load(&[&dir(&[("a.yml", &text)])]).unwrap();
        assert!(set.rule(&"login".into()).unwrap().alerts);
    }

    #[test]
    fn inputs_are_given_for_near_and_far_correlations_and_missing_fields_are_named() {
        let text = with(
            "  type: event_count\n  rules: [failed_login]\n  group-by: [who, source.ip]\n  timespan: 60s\n  condition: {gte: 3}\n  \
             aliases:\n    who:\n      failed_login: user.name\n---\ntitle: P\nid: p\ncorrelation:\n  type: value_count\n  rules: [c]\n  \
             group-by: [host.id]\n  timespan: 5m\n  condition: {gte: 2, field: user.name}\n",
        );
        let set = load(&[&dir(&[("a.yml", &text)])]).unwrap();
        let event = |ip: &str| {
            let json = format!(
                r#"{{"event_id":"1","timestamp":"2026-01-01T00:00:00Z","event_type":"user_login","user_id":"eve","action_result":"FAILURE","details":{{{ip}}}}}"#
            );
            Event::synthetic(None, [0; 16], 1, &json).unwrap()
        };
        let host = auditflow_event::HostFacts {
            id: Some(auditflow_event::NodeId::from_bytes([7; 16])),
            ..Default::default()
        };
        let inputs = |event: &Event, host| {
            let mut found = Vec::new();
            set.detect(event, host, &mut found);
            set.correlation_inputs(event, host, &found[0])
        };
        let both = inputs(&event(r#""ip_address":"10.0.0.9""#), Some(&host));
        let [near, far] = both.as_slice() else { panic!("{both:?}") };
        let near = near.as_ref().unwrap();
        assert_eq!((near.correlation.as_str(), near.base.as_str()), ("c", "login"));
        assert_eq!(near.group, ["eve".into(), "10.0.0.9".into()]);
        let far = far.as_ref().unwrap();
        assert_eq!(
            (far.correlation.as_str(), far.base.as_str(), far.value.as_deref()),
            ("p", "c", Some("eve"))
        );
        assert_eq!(far.group, ["07".repeat(16).into()]);

        let neither = inputs(&event(""), None);
        let missing: Vec<_> = neither.iter().map(|input| &*input.as_ref().unwrap_err().field).collect();
        assert_eq!(missing, ["source.ip", "host.id"]);
    }
}

mod examples {
    use super::*;

    fn with(rule: &str, examples: &str) -> String {
        format!("{rule}custom_attributes:\n  rsigma.exemplars:\n{examples}")
    }

    #[test]
    fn a_rule_that_fails_its_own_example_is_refused() {
        let good = with(
            WHOAMI,
            "    - {expect: match, event: {Image: /bin/whoami}}\n    - {expect: no-match, event: {Image: /bin/id}}\n",
        );
        load(&[&dir(&[("a.yml", &good)])]).unwrap();
        let problem = problem(&good.replace("/bin/id", "/bin/x/whoami"));
        assert!(problem.contains("example “1” should not match and does"), "{problem}");
        let problem = super::problem(&good.replace("/bin/whoami", "/bin/id"));
        assert!(problem.contains("example “0” should match and does not"), "{problem}");
    }

    #[test]
    fn an_example_of_the_wrong_shape_is_refused() {
        for (examples, expected) in [
            ("    - {expect: perhaps, event: {}}\n", "invalid expect"),
            ("    - {expect: match, events: []}\n", "must use 'event'"),
            ("    - {expect: match, event: {audit: \"type=X\"}}\n", "audit record"),
            ("    - {expect: match, event: {audit: \"\"}}\n", "audit holds no record"),
            ("    - {expect: match, event: {kubernetes: {a: 1}}}\n", "add it"),
        ] {
            let problem = problem(&with(WHOAMI, examples));
            assert!(problem.contains(expected), "{problem}");
        }
    }

    #[test]
    fn examples_may_be_audit_text_kubernetes_records_and_synthetic_events() {
        let audit = with(
            WHOAMI,
            "    - expect: match\n      event:\n        audit: |\n          type=SYSCALL msg=audit(1.000:1): arch=c000003e syscall=59 success=yes exit=0 exe=\"/bin/whoami\"\n          type=EXECVE msg=audit(1.000:1): argc=1 a0=\"whoami\"\n    - expect: no-match\n      event:\n        audit: |\n          type=SYSCALL msg=audit(1.000:1): arch=c000003e syscall=59 success=no exit=-2 exe=\"/bin/whoami\"\n",
        );
        load(&[&dir(&[("a.yml", &audit)])]).unwrap();
        let kubernetes = with(
            "title: K\nid: k\nlogsource: {product: kubernetes, service: audit}\ndetection:\n  s: {objectRef.resource: secrets}\n  condition: s\n",
            "    - expect: match\n      event:\n        kubernetes: {auditID: a, stage: ResponseComplete, requestReceivedTimestamp: '2026-01-01T00:00:00Z', objectRef: {resource: secrets}}\n",
        );
        load(&[&dir(&[("a.yml", &kubernetes)])]).unwrap();
        let login = with(
            LOGIN,
            "    - expect: match\n      event:\n        synthetic: {event_type: user_login, timestamp: '2026-01-01T00:00:00Z', action_result: FAILURE}\n    - expect: match\n      event: {event_type: user_login, event: {outcome: failure}}\n",
        );
        load(&[&dir(&[("a.yml", &login)])]).unwrap();
    }

    #[test]
    fn an_exception_does_not_make_a_rule_fail_its_example() {
        let rule = with(WHOAMI, "    - {expect: match, event: {Image: /bin/whoami}}\n");
        let filter = "title: F\nid: f\nfilter: {rules: [whoami], selection: {Image: /bin/whoami}, condition: not selection}\n";
        let set = load(&[&dir(&[("a.yml", &rule)]), &dir(&[("f.yml", filter)])]).unwrap();
        assert!(fired(&set, &exec("/bin/whoami")).is_empty());
    }

    #[test]
    fn a_correlation_is_tested_over_its_timed_events() {
        let event = |at: u32, user: &str| {
            format!(
                "        - {{offset: {at}s, event: {{event_type: user_login, event.outcome: failure, user.name: {user}}}}}\n"
            )
        };
        let three = |expect: &str, times: [u32; 3], users: [&str; 3]| {
            let events: String = times.iter().zip(users).map(|(at, user)| event(*at, user)).collect();
            let correlation = "title: C\nid: c\ncorrelation:\n  type: event_count\n  rules: [login]\n  group-by: [user.name]\n  timespan: 60s\n  condition: {gte: 3}\n";
            let text = format!(
                "{LOGIN}---\n{}",
                with(correlation, &format!("    - expect: {expect}\n      events:\n{events}"))
            );
            load(&[&dir(&[("a.yml", &text)])]).map(|_| ()).map_err(|error| error.to_string())
        };
        three("match", [0, 30, 60], ["a"; 3]).unwrap();
        three("no-match", [0, 30, 61], ["a"; 3]).unwrap();
        three("no-match", [0, 30, 60], ["a", "b", "a"]).unwrap();
        assert!(three("match", [0, 50, 100], ["a"; 3]).unwrap_err().contains("should match and does not"));
    }

    #[test]
    fn ordered_and_nested_correlations_are_tested_too() {
        let bases = format!(
            "{LOGIN}---\n{}",
            LOGIN
                .replace("id: login\nname: failed_login", "id: ok")
                .replace("failure", "success")
                .replace("Failed Login", "Good Login")
        );
        let burst = "title: Burst\nid: burst\ncorrelation:\n  type: event_count\n  rules: [login]\n  group-by: [user.name]\n  timespan: 60s\n  condition: {gte: 2}\n";
        let break_in = "title: Break-in\nid: break-in\ncorrelation:\n  type: temporal_ordered\n  rules: [burst, ok]\n  group-by: [user.name]\n  timespan: 5m\n";
        let case = |expect: &str, outcomes: [&str; 3]| {
            let events: Vec<String> = outcomes
                .iter()
                .zip([0, 10, 20])
                .map(|(outcome, at)| format!("        - {{offset: {at}s, event: {{event_type: user_login, event.outcome: {outcome}, user.name: a}}}}\n"))
                .collect();
            let text = format!(
                "{bases}---\n{burst}---\n{}",
                with(break_in, &format!("    - expect: {expect}\n      events:\n{}", events.concat()))
            );
            load(&[&dir(&[("a.yml", &text)])])
                .unwrap_or_else(|error| panic!("{expect} {outcomes:?}: {error}"));
        };
        case("match", ["failure", "failure", "success"]);
        case("no-match", ["success", "failure", "failure"]);
        case("no-match", ["failure", "success", "failure"]);
    }
}
