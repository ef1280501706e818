//! The event as JSON: what `decode` prints, the API returns and people copy. Names at the top are the ancestor's,
//! below them Elastic Common Schema's; what is absent is left out, except `details`, which the ancestor's programs
//! expect to be there.
//!
//! The same event always gives the same bytes. Users, groups, inodes and modes are strings as in ECS; process ids,
//! ports and serials are numbers.

mod audit;
mod writer;

use std::borrow::Cow;

use serde::Serialize;
use serde_json::value::RawValue;

use crate::meaning::{Endpoint, File, Identity, Process};
use crate::{AgentState, Ancestor, Context, Event, EventType, Meaning, NodeId, Origin};

pub use writer::JsonWriter;
use writer::{Key, key};

/// An event to be written as JSON.
///
/// [`EventJson::write_to`] is the way for many events. `Serialize` writes the same text wherever a `serde_json`
/// serializer asks for it (an API's answer); like [`RawValue`] it is for `serde_json` only.
#[derive(Clone, Copy, Debug)]
pub struct EventJson<'a> {
    /// The event.
    pub event: &'a Event,
    /// What is known of the node that it came from.
    pub host: Option<&'a HostFacts>,
}

/// What is the same for all events of one batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// The node's id.
    pub id: Option<NodeId>,
    /// The node's host name, which holds where the event itself names none.
    pub name: Option<Box<str>>,
    /// The boot that the event belongs to.
    pub boot_id: Option<Box<str>>,
    /// The node's labels from its configuration.
    pub labels: Vec<(Box<str>, Box<str>)>,
    /// The version of the rule set that judged the event.
    pub rule_set: Option<Box<str>>,
}

impl<'a> EventJson<'a> {
    /// The event without a host: what `decode` prints.
    pub fn of(event: &'a Event) -> Self {
        Self { event, host: None }
    }

    /// Appends the JSON object, in one line and without a line end.
    pub fn write_to(&self, out: &mut JsonWriter) {
        self.write_with(&self.event.meaning(), out);
    }

    /// The same, for whoever has the event's meaning already.
    pub fn write_with(&self, meaning: &Meaning<'_>, out: &mut JsonWriter) {
        out.document(|w| {
            self.top(meaning, w);
            self.details(meaning, w);
            w.texts(key!("tags"), self.event.tags.iter().map(AsRef::as_ref));
            self.host(meaning, w);
            let context = self.event.context.as_deref();
            who(meaning, w);
            process(&meaning.process, context, w);
            if let Some(file) = &meaning.file {
                w.object(key!("file"), |w| self::file(file, w));
            }
            endpoint(key!("source"), meaning.source.as_ref(), w);
            endpoint(key!("destination"), meaning.destination.as_ref(), w);
            container(meaning, context, w);
            match &self.event.origin {
                Origin::Audit(records) => w.object(key!("auditd"), |w| audit::auditd(records, meaning, w)),
                Origin::Kubernetes(text) => w.raw(key!("kubernetes_audit"), text.as_str()),
                Origin::Synthetic(_) | Origin::State(_) => {}
            }
        });
    }

    /// The JSON object as a string.
    pub fn to_text(&self) -> String {
        let mut out = JsonWriter::default();
        self.write_to(&mut out);
        out.into_string()
    }

    fn top(&self, meaning: &Meaning<'_>, w: &mut JsonWriter) {
        let mut uuid = [0; uuid::fmt::Hyphenated::LENGTH];
        w.text(key!("event_id"), Some(self.event.id.as_uuid().hyphenated().encode_lower(&mut uuid)));
        w.text(key!("timestamp"), Some(self.event.time.format(&mut [0; 27])));
        w.text(key!("source_service"), Some(&meaning.source_service));
        let host_name = self.host.and_then(|host| host.name.as_deref());
        w.text(key!("server_hostname"), meaning.hostname.as_deref().or(host_name));
        w.text(key!("event_type"), Some(meaning.event_type.as_str()));
        w.text(key!("severity"), Some(meaning.severity.as_str()));
        w.text(key!("user_id"), meaning.user_id.as_deref());
        w.text(key!("action_result"), meaning.action_result.as_deref());
    }

    /// The ancestor's `details`: of an event in its shape as they were, of others what its programs look for there.
    fn details(&self, meaning: &Meaning<'_>, w: &mut JsonWriter) {
        if let Some(details) = meaning.details {
            return w.raw(key!("details"), details.get());
        }
        let before = w.len();
        w.object(key!("details"), |w| {
            w.text(key!("resource"), meaning.resource.as_deref());
            w.text(key!("command"), meaning.command.as_deref());
            if meaning.event_type == EventType::SudoCommand {
                w.text(key!("tty"), meaning.process.tty.as_deref());
                w.text(key!("cwd"), meaning.process.working_directory.as_deref());
            }
            if meaning.event_type == EventType::UserLogin {
                w.text(key!("ip_address"), meaning.source.as_ref().and_then(|source| source.ip.as_deref()));
            }
            match &self.event.origin {
                Origin::State(state) => self::state(state, w),
                Origin::Kubernetes(_) | Origin::Synthetic(_) => {
                    w.text(key!("reason"), meaning.operation.as_deref());
                }
                Origin::Audit(_) => w.text(key!("operation"), meaning.operation.as_deref()),
            }
        });
        if w.len() == before {
            w.raw(key!("details"), "{}");
        }
    }

    fn host(&self, meaning: &Meaning<'_>, w: &mut JsonWriter) {
        let host = self.host;
        w.object(key!("labels"), |w| {
            for (name, value) in host.map(|host| &host.labels[..]).unwrap_or_default() {
                w.named_text(name, value);
            }
        });
        w.object(key!("event"), |w| {
            w.text(key!("id"), meaning.producer_id.as_deref());
            w.texts(key!("category"), meaning.category.iter().copied());
            w.texts(key!("type"), meaning.kind.iter().copied());
            w.text(key!("action"), Some(&meaning.action));
            w.text(key!("outcome"), meaning.outcome.map(crate::Outcome::as_str));
            if let Origin::Audit(records) = &self.event.origin {
                w.number(key!("sequence"), Some(records.stamp.serial));
            }
        });
        w.object(key!("host"), |w| {
            w.text(key!("id"), host.and_then(|host| host.id).map(|id| id.to_string()).as_deref());
            let own_name = host.and_then(|host| host.name.as_deref());
            w.text(key!("name"), own_name.or(meaning.hostname.as_deref()));
            w.text(key!("boot_id"), host.and_then(|host| host.boot_id.as_deref()));
        });
        w.text(key!("rule_set"), host.and_then(|host| host.rule_set.as_deref()));
    }
}

impl Serialize for EventJson<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        RawValue::from_string(self.to_text()).map_err(serde::ser::Error::custom)?.serialize(serializer)
    }
}

fn state(state: &AgentState, w: &mut JsonWriter) {
    w.text(key!("source"), Some(&state.source));
    w.text(key!("state"), Some(state.state.as_str()));
    w.text(key!("since"), Some(state.since.format(&mut [0; 27])));
    w.text(key!("reason"), state.reason.as_deref());
    w.object(key!("counts"), |w| {
        for (name, count) in &state.counts {
            w.named_number(name, *count);
        }
    });
}

fn who(meaning: &Meaning<'_>, w: &mut JsonWriter) {
    let user = &meaning.user;
    w.object(key!("user"), |w| {
        identity(&user.real, w);
        w.object(key!("effective"), |w| identity(&user.effective, w));
        w.object(key!("audit"), |w| identity(&user.audit, w));
        w.object(key!("saved"), |w| identity(&user.saved, w));
        w.object(key!("filesystem"), |w| identity(&user.filesystem, w));
        w.object(key!("target"), |w| identity(&user.target, w));
    });
    let group = &meaning.group;
    w.object(key!("group"), |w| {
        identity(&group.real, w);
        w.object(key!("effective"), |w| identity(&group.effective, w));
        w.object(key!("saved"), |w| identity(&group.saved, w));
        w.object(key!("filesystem"), |w| identity(&group.filesystem, w));
    });
}

fn identity(identity: &Identity<'_>, w: &mut JsonWriter) {
    w.text(key!("id"), identity.id.as_deref());
    w.text(key!("name"), identity.name.as_deref());
}

fn process(process: &Process<'_>, context: Option<&Context>, w: &mut JsonWriter) {
    let ancestors = context.map(|context| &context.ancestors[..]).unwrap_or_default();
    let parent = ancestors.first().filter(|parent| process.parent_pid.is_none_or(|pid| pid == parent.pid));
    w.object(key!("process"), |w| {
        w.number(key!("pid"), process.pid);
        w.object(key!("parent"), |w| {
            w.number(key!("pid"), process.parent_pid.or(parent.map(|parent| parent.pid)));
            if let Some(parent) = parent {
                w.text(key!("executable"), parent.executable.as_deref());
                w.text(key!("name"), parent.name.as_deref());
            }
        });
        w.text(key!("executable"), process.executable.as_deref());
        w.text(key!("name"), process.name.as_deref());
        w.texts(key!("args"), process.args.iter().map(Cow::as_ref));
        w.text(key!("working_directory"), process.working_directory.as_deref());
        w.text(key!("title"), process.title.as_deref());
        w.text(key!("tty"), process.tty.as_deref());
        w.number(key!("session"), process.session);
        w.array(key!("ancestors"), |w| {
            for ancestor in ancestors {
                w.braces(|w| self::ancestor(ancestor, w));
            }
        });
    });
}

fn ancestor(ancestor: &Ancestor, w: &mut JsonWriter) {
    w.number(key!("pid"), Some(ancestor.pid));
    w.text(key!("executable"), ancestor.executable.as_deref());
    w.text(key!("name"), ancestor.name.as_deref());
    w.text(key!("title"), ancestor.title.as_deref());
    w.text(key!("start"), ancestor.start.map(|start| start.to_string()).as_deref());
}

fn file(file: &File<'_>, w: &mut JsonWriter) {
    let mut digits = itoa::Buffer::new();
    w.text(key!("path"), file.path.as_deref());
    w.octal(key!("mode"), file.mode.map(|mode| mode & 0o7777), 4);
    w.text(key!("uid"), file.owner.id.as_deref());
    w.text(key!("gid"), file.group.id.as_deref());
    w.text(key!("owner"), file.owner.name.as_deref());
    w.text(key!("inode"), file.inode.map(|inode| digits.format(inode)));
    w.text(key!("device"), file.device.as_deref());
    w.object(key!("hash"), |w| w.text(key!("sha256"), file.sha256.as_deref()));
}

fn endpoint(key: &Key, endpoint: Option<&Endpoint<'_>>, w: &mut JsonWriter) {
    let Some(endpoint) = endpoint else { return };
    w.object(key, |w| {
        w.text(key!("ip"), endpoint.ip.as_deref());
        w.number(key!("port"), endpoint.port);
        w.text(key!("path"), endpoint.path.as_deref());
    });
}

fn container(meaning: &Meaning<'_>, context: Option<&Context>, w: &mut JsonWriter) {
    let container = context.and_then(|context| context.container.as_ref());
    if let Some(container) = container {
        w.object(key!("container"), |w| {
            w.text(key!("id"), Some(&container.id));
            w.text(key!("runtime"), container.runtime.as_deref());
            w.text(key!("name"), container.name.as_deref());
            w.object(key!("image"), |w| w.text(key!("name"), container.image.as_deref()));
        });
    }
    let object = meaning.kubernetes.as_ref();
    w.object(key!("kubernetes"), |w| {
        w.object(key!("pod"), |w| {
            w.text(key!("uid"), container.and_then(|container| container.pod_uid.as_deref()));
            let own = container.and_then(|container| container.pod_name.as_deref());
            w.text(key!("name"), own.or_else(|| object?.pod_name.as_deref()));
        });
        let own = container.and_then(|container| container.namespace.as_deref());
        w.text(key!("namespace"), own.or_else(|| object?.namespace.as_deref()));
    });
}
