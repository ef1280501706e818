//! What only the node knew when the event happened: names, ancestry, container. Fed by the agent's enrichment,
//! travels beside the verbatim event, never replaces anything in it.

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// Facts of the node about one event. Empty lists and `None` mean that it was not known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Context {
    /// Names of the numeric user ids that the event mentions.
    pub users: Vec<(u32, Box<str>)>,
    /// Names of the numeric group ids that the event mentions.
    pub groups: Vec<(u32, Box<str>)>,
    /// The process's ancestors, parent first.
    pub ancestors: Vec<Ancestor>,
    /// The container that the process ran in.
    pub container: Option<Container>,
}

impl Context {
    /// The name of user `id`.
    pub fn user(&self, id: u32) -> Option<&str> {
        name_of(&self.users, id)
    }

    /// The name of group `id`.
    pub fn group(&self, id: u32) -> Option<&str> {
        name_of(&self.groups, id)
    }
}

/// One process above the one that acted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ancestor {
    /// Its process id, in the node's initial namespace.
    pub pid: u32,
    /// The path of its executable.
    pub executable: Option<Box<str>>,
    /// Its command name (`comm`, at most 15 bytes).
    pub name: Option<Box<str>>,
    /// Its command line, arguments joined by spaces.
    pub title: Option<Box<str>>,
    /// When it started.
    pub start: Option<Timestamp>,
}

/// A container, and the pod it belongs to if it is Kubernetes'.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// The runtime's id: 64 hexadecimal digits with containerd.
    pub id: Box<str>,
    /// `containerd`, `docker`, `crio` …
    pub runtime: Option<Box<str>>,
    /// The container's name within its pod.
    pub name: Option<Box<str>>,
    /// The image it was made from.
    pub image: Option<Box<str>>,
    /// The pod's UID.
    pub pod_uid: Option<Box<str>>,
    /// The pod's name.
    pub pod_name: Option<Box<str>>,
    /// The pod's namespace.
    pub namespace: Option<Box<str>>,
}

/// The list is as long as one event's distinct ids, a handful: a scan beats any map.
fn name_of(names: &[(u32, Box<str>)], id: u32) -> Option<&str> {
    names.iter().find(|(known, _)| *known == id).map(|(_, name)| &**name)
}
