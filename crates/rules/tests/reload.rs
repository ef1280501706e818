//! Reloading on real files: every way in which an editor, a package or a `ConfigMap` changes them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends by panicking")]

mod kit;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use auditflow_rules::{Current, Limits, LoadError, Outcome, Reloader, RuleSet};

/// Generous: it is only waited for in full when a test fails.
const PATIENCE: Duration = Duration::from_mins(1);

fn rule(id: &str) -> String {
    format!(
        "title: {id}\nid: {id}\nlogsource: {{product: linux, service: auditd}}\ndetection:\n  s: {{type: {id}}}\n  condition: s\n"
    )
}

fn load(dirs: &[PathBuf]) -> Result<RuleSet, LoadError> {
    RuleSet::load(dirs, &Limits::default())
}

struct Running {
    reloader: Reloader<RuleSet>,
    current: Current<RuleSet>,
    told: Receiver<Outcome<RuleSet>>,
}

fn start(dir: &Path) -> Running {
    let dirs = [dir.to_owned()];
    let (tell, told) = mpsc::channel();
    let settle = Duration::from_millis(20);
    let tell = move |outcome: &Outcome<RuleSet>| tell.send(outcome.clone()).unwrap_or_default();
    let reloader = Reloader::start(load(&dirs).unwrap(), &dirs, settle, load, tell).unwrap();
    assert_eq!(reloader.state().not_watching, None);
    Running { current: reloader.current(), reloader, told }
}

impl Running {
    /// Waits until exactly these rules are in force.
    fn await_rules(&self, expected: &[&str]) {
        loop {
            let ids: Vec<String> =
                self.current.get().rules().iter().map(|rule| rule.id.to_string()).collect();
            if ids == expected {
                return;
            }
            self.told
                .recv_timeout(PATIENCE)
                .unwrap_or_else(|_| panic!("{ids:?} are in force, not {expected:?}"));
        }
    }

    /// Waits until a set is refused.
    fn await_refusal(&self) -> String {
        loop {
            if let Outcome::Refused(error) = self.told.recv_timeout(PATIENCE).expect("the set is refused") {
                return error.to_string();
            }
        }
    }
}

#[test]
fn a_file_written_in_place_is_noticed() {
    let dir = kit::files::dir(&[("a.yml", &rule("one"))]);
    let running = start(dir.path());
    fs::write(dir.path().join("a.yml"), rule("two")).unwrap();
    running.await_rules(&["two"]);
}

#[test]
fn a_file_renamed_over_another_is_noticed() {
    let dir = kit::files::dir(&[("a.yml", &rule("one"))]);
    let running = start(dir.path());
    fs::write(dir.path().join(".a.yml.new"), rule("two")).unwrap();
    fs::rename(dir.path().join(".a.yml.new"), dir.path().join("a.yml")).unwrap();
    running.await_rules(&["two"]);
}

#[test]
fn files_created_and_removed_are_noticed_also_in_new_directories() {
    let dir = kit::files::dir(&[("a.yml", &rule("one"))]);
    let running = start(dir.path());
    fs::create_dir(dir.path().join("more")).unwrap();
    fs::write(dir.path().join("more/b.yml"), rule("two")).unwrap();
    running.await_rules(&["one", "two"]);
    fs::write(dir.path().join("more/b.yml"), rule("three")).unwrap();
    running.await_rules(&["one", "three"]);
    fs::remove_file(dir.path().join("a.yml")).unwrap();
    running.await_rules(&["three"]);
}

/// As the kubelet updates a mounted `ConfigMap`: files are links into `..data`, which is swapped by a rename.
#[test]
fn a_configmaps_swapped_symlink_is_noticed_every_time() {
    let dir = kit::files::dir(&[("..v1/a.yml", &rule("one"))]);
    let at = |name: &str| dir.path().join(name);
    symlink("..v1", at("..data")).unwrap();
    symlink("..data/a.yml", at("a.yml")).unwrap();
    let running = start(dir.path());
    for (version, id) in [("..v2", "two"), ("..v3", "three")] {
        fs::create_dir(at(version)).unwrap();
        fs::write(at(version).join("a.yml"), rule(id)).unwrap();
        symlink(version, at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
        running.await_rules(&[id]);
    }
}

#[test]
fn a_directory_replaced_by_another_is_noticed_and_watched_on() {
    let outer = kit::files::dir(&[("rules/a.yml", &rule("one")), ("new/a.yml", &rule("two"))]);
    let running = start(&outer.path().join("rules"));
    fs::rename(outer.path().join("rules"), outer.path().join("old")).unwrap();
    fs::rename(outer.path().join("new"), outer.path().join("rules")).unwrap();
    running.await_rules(&["two"]);
    fs::write(outer.path().join("rules/a.yml"), rule("three")).unwrap();
    running.await_rules(&["three"]);
}

#[test]
fn a_bad_set_leaves_the_old_in_force_and_says_why_until_it_is_mended() {
    let dir = kit::files::dir(&[("a.yml", &rule("one")), ("b.yml", &rule("two"))]);
    let running = start(dir.path());
    let before = running.current.get();
    fs::write(dir.path().join("b.yml"), rule("two").replace("condition: s", "condition: t")).unwrap();
    let refusal = running.await_refusal();
    assert!(refusal.contains("b.yml:4: condition names t"), "{refusal}");
    assert!(std::sync::Arc::ptr_eq(&before, &running.current.get()));
    let state = running.reloader.state();
    assert_eq!(state.refused.unwrap().to_string(), refusal);
    assert!(state.refused_total >= 1);

    fs::write(dir.path().join("b.yml"), rule("three")).unwrap();
    running.await_rules(&["one", "three"]);
    assert!(running.reloader.state().refused.is_none());
}

#[test]
fn asking_reloads_although_nothing_changed() {
    let dir = kit::files::dir(&[("a.yml", &rule("one"))]);
    let running = start(dir.path());
    let before = running.current.get();
    running.reloader.reload();
    let Outcome::Swapped(set) = running.told.recv_timeout(PATIENCE).unwrap() else { panic!("refused") };
    assert_eq!(set.version(), before.version());
    assert_eq!(running.reloader.state().swapped_total, 1);
}

#[test]
fn what_cannot_be_watched_is_a_state_and_asking_still_works() {
    let dir = kit::files::dir(&[]);
    let missing = dir.path().join("missing");
    let (tell, told) = mpsc::channel();
    let tell = move |outcome: &Outcome<RuleSet>| tell.send(outcome.clone()).unwrap_or_default();
    let dirs = [missing.clone()];
    let reloader = Reloader::start(RuleSet::empty(), &dirs, Duration::from_millis(20), load, tell).unwrap();
    assert!(reloader.state().not_watching.unwrap().contains("send SIGHUP"));
    fs::create_dir(&missing).unwrap();
    fs::write(missing.join("a.yml"), rule("one")).unwrap();
    let running = Running { current: reloader.current(), reloader, told };
    running.reloader.reload();
    running.await_rules(&["one"]);
    assert_eq!(running.reloader.state().not_watching, None);
}
