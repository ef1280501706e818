//! From container ids and pod UIDs to names, with what the kubelet leaves on the node itself, so that it works while
//! the API server is down: the directories `/var/log/pods/<namespace>_<pod>_<uid>` and the links
//! `/var/log/containers/<pod>_<namespace>_<container>-<id>.log`.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The directories are read again for something unknown no sooner than this.
const RECHECK: Duration = Duration::from_secs(5);
/// The kubelet's own limit is 110 pods; the directories also hold some that are gone.
const MAX_ENTRIES: usize = 2048;
const CONTAINER_ID_LEN: usize = 64;

/// A pod's name and namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace.
    pub namespace: Box<str>,
    /// Its name.
    pub name: Box<str>,
}

/// The pods of this node.
#[derive(Debug)]
pub struct Pods {
    logs: PathBuf,
    by_uid: HashMap<Box<str>, Pod>,
    container_names: HashMap<Box<str>, Box<str>>,
    checked: Option<Duration>,
}

impl Pods {
    /// Pods that have left their traces under `logs` (`/var/log`). Reads nothing yet.
    pub fn new(logs: impl Into<PathBuf>) -> Self {
        Self { logs: logs.into(), by_uid: HashMap::new(), container_names: HashMap::new(), checked: None }
    }

    /// The pod of a UID. `now` is monotonic time since any fixed start.
    pub fn pod(&mut self, uid: &str, now: Duration) -> Option<&Pod> {
        if !self.by_uid.contains_key(uid) {
            self.refresh(now);
        }
        self.by_uid.get(uid)
    }

    /// The name that a container has within its pod.
    pub fn container_name(&mut self, id: &str, now: Duration) -> Option<&str> {
        if !self.container_names.contains_key(id) {
            self.refresh(now);
        }
        self.container_names.get(id).map(AsRef::as_ref)
    }

    fn refresh(&mut self, now: Duration) {
        if self.checked.is_some_and(|checked| now.saturating_sub(checked) < RECHECK) {
            return;
        }
        self.checked = Some(now);
        self.by_uid =
            names_in(&self.logs.join("pods")).filter_map(|name| parse_pod_directory(&name)).collect();
        self.container_names =
            names_in(&self.logs.join("containers")).filter_map(|name| parse_container_link(&name)).collect();
    }
}

fn names_in(directory: &Path) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten().take(MAX_ENTRIES);
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}

/// None of the three parts may hold an underscore (they are DNS labels and a UID).
fn parse_pod_directory(name: &str) -> Option<(Box<str>, Pod)> {
    let mut parts = name.split('_');
    let (namespace, pod, uid) = (parts.next()?, parts.next()?, parts.next()?);
    let whole = parts.next().is_none() && [namespace, pod, uid].iter().all(|part| !part.is_empty());
    whole.then(|| (uid.into(), Pod { namespace: namespace.into(), name: pod.into() }))
}

fn parse_container_link(name: &str) -> Option<(Box<str>, Box<str>)> {
    let container = name.strip_suffix(".log")?.splitn(3, '_').nth(2)?;
    let (name, id) = container.rsplit_once('-')?;
    (id.len() == CONTAINER_ID_LEN && !name.is_empty()).then(|| (id.into(), name.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_what_the_kubelet_made() {
        let logs = tempfile::tempdir().unwrap();
        let id = "a".repeat(64);
        fs::create_dir_all(logs.path().join("pods/kube-system_coredns-abc_uid-1")).unwrap();
        fs::create_dir_all(logs.path().join("containers")).unwrap();
        fs::write(logs.path().join(format!("containers/coredns-abc_kube-system_core-dns-{id}.log")), "")
            .unwrap();
        let mut pods = Pods::new(logs.path());
        let pod = pods.pod("uid-1", Duration::ZERO).unwrap();
        assert_eq!((pod.namespace.as_ref(), pod.name.as_ref()), ("kube-system", "coredns-abc"));
        assert_eq!(pods.container_name(&id, Duration::ZERO), Some("core-dns"));
    }

    #[test]
    fn an_unknown_uid_makes_it_look_again_but_not_at_once() {
        let logs = tempfile::tempdir().unwrap();
        let mut pods = Pods::new(logs.path());
        assert_eq!(pods.pod("uid-2", Duration::ZERO), None);
        fs::create_dir_all(logs.path().join("pods/default_web_uid-2")).unwrap();
        assert_eq!(pods.pod("uid-2", Duration::from_millis(10)), None);
        assert!(pods.pod("uid-2", RECHECK).is_some());
    }

    #[test]
    fn names_of_another_form_are_passed_over() {
        for name in ["", "_", "a_b", "a__c", "a_b_c_d", "lost+found"] {
            assert_eq!(parse_pod_directory(name), None, "{name}");
        }
        for name in ["", "a_b_c.log", "a_b_c-1.log", "a_b_.log", "x.log"] {
            assert_eq!(parse_container_link(name), None, "{name}");
        }
    }
}
