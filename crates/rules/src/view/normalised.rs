//! `product: auditflow`: the normalised event under the names of its JSON, so that one rule covers what every source
//! says of logins, accounts, services or the agents themselves.
//!
//! Besides the fixed names there are `details.…` (events in the ancestor's shape) and `kubernetes_audit.…` (the API
//! server's record), which are parsed only when a rule asks for them.

use std::borrow::Cow;
use std::cell::OnceCell;

use auditflow_event::meaning::{Endpoint, Identity};
use auditflow_event::{Ancestor, Context, Event, EventType, HostFacts, Meaning, Origin};
use rsigma_eval::EventValue;

use super::json::Node;

/// The fixed names, for keyword rules and for finding rules that ask for others.
pub(crate) const FIELDS: &[&str] = &[
    "event_id",
    "source_service",
    "server_hostname",
    "event_type",
    "severity",
    "user_id",
    "action_result",
    "tags",
    "event.id",
    "event.category",
    "event.type",
    "event.action",
    "event.outcome",
    "event.sequence",
    "host.id",
    "host.name",
    "host.boot_id",
    "user.id",
    "user.name",
    "user.effective.id",
    "user.effective.name",
    "user.audit.id",
    "user.audit.name",
    "user.saved.id",
    "user.saved.name",
    "user.filesystem.id",
    "user.filesystem.name",
    "user.target.id",
    "user.target.name",
    "group.id",
    "group.name",
    "group.effective.id",
    "group.effective.name",
    "process.pid",
    "process.parent.pid",
    "process.parent.executable",
    "process.parent.name",
    "process.executable",
    "process.name",
    "process.args",
    "process.command_line",
    "process.working_directory",
    "process.title",
    "process.tty",
    "process.session",
    "process.ancestors.executable",
    "process.ancestors.name",
    "process.ancestors.title",
    "file.path",
    "file.mode",
    "file.uid",
    "file.gid",
    "file.owner",
    "file.inode",
    "file.device",
    "file.hash.sha256",
    "source.ip",
    "source.port",
    "source.path",
    "destination.ip",
    "destination.port",
    "destination.path",
    "container.id",
    "container.runtime",
    "container.name",
    "container.image.name",
    "kubernetes.pod.uid",
    "kubernetes.pod.name",
    "kubernetes.namespace",
    "auditd.serial",
    "auditd.syscall",
    "auditd.arch",
    "auditd.exit",
    "auditd.keys",
];

/// What `details` has for events that are not in the ancestor's shape.
const DETAILS: &[&str] =
    &["resource", "command", "tty", "cwd", "ip_address", "operation", "reason", "source", "state", "since"];

/// The normalised event.
pub(crate) struct NormalisedView<'e> {
    event: &'e Event,
    host: Option<&'e HostFacts>,
    meaning: &'e Meaning<'e>,
    details: OnceCell<Node<'e>>,
    kubernetes: OnceCell<Node<'e>>,
}

impl<'e> NormalisedView<'e> {
    pub(crate) fn new(event: &'e Event, host: Option<&'e HostFacts>, meaning: &'e Meaning<'e>) -> Self {
        Self { event, host, meaning, details: OnceCell::new(), kubernetes: OnceCell::new() }
    }

    pub(crate) fn field(&self, path: &str) -> Option<EventValue<'_>> {
        let meaning = self.meaning;
        let (head, rest) = path.split_once('.').unwrap_or((path, ""));
        match head {
            "event_id" => Some(EventValue::Str(Cow::Owned(self.event.id.to_string()))),
            "event_type" => fixed(meaning.event_type.as_str()),
            "severity" => fixed(meaning.severity.as_str()),
            "source_service" => fixed(&meaning.source_service),
            "server_hostname" => {
                maybe(meaning.hostname.as_ref()).or_else(|| fixed(self.host?.name.as_deref()?))
            }
            "user_id" => maybe(meaning.user_id.as_ref()),
            "action_result" => maybe(meaning.action_result.as_ref()),
            "tags" => list(self.event.tags.iter().map(|tag| &**tag)),
            "event" => self.event(rest),
            "host" => self.host(rest),
            "user" => self.user(rest),
            "group" => self.group(rest),
            "process" => self.process(rest),
            "file" => self.file(rest),
            "source" => endpoint(meaning.source.as_ref()?, rest),
            "destination" => endpoint(meaning.destination.as_ref()?, rest),
            "container" | "kubernetes" => self.container(path),
            "auditd" => self.auditd(rest),
            "details" if meaning.details.is_some() => self.written_details().field(rest),
            "details" => self.details(rest),
            "kubernetes_audit" if !rest.is_empty() => self.kubernetes().field(rest),
            _ => None,
        }
    }

    /// Every string value, for keyword rules.
    pub(crate) fn strings(&self) -> Vec<Cow<'_, str>> {
        let mut out = Vec::new();
        let details = DETAILS.iter().filter_map(|name| self.details(name));
        for value in FIELDS.iter().filter_map(|name| self.field(name)).chain(details) {
            match value {
                EventValue::Str(text) => out.push(text),
                EventValue::Array(values) => out.extend(values.into_iter().filter_map(|value| match value {
                    EventValue::Str(text) => Some(text),
                    _ => None,
                })),
                _ => {}
            }
        }
        self.written_details().each_string(&mut |text| out.push(Cow::Borrowed(text)));
        self.kubernetes().each_string(&mut |text| out.push(Cow::Borrowed(text)));
        out
    }

    fn written_details(&self) -> &Node<'e> {
        self.details.get_or_init(|| self.meaning.details.map_or(Node::Null, |raw| Node::parse(raw.get())))
    }

    fn kubernetes(&self) -> &Node<'e> {
        self.kubernetes.get_or_init(|| match &self.event.origin {
            Origin::Kubernetes(json) => Node::parse(json.as_str()),
            _ => Node::Null,
        })
    }

    fn context(&self) -> Option<&'e Context> {
        self.event.context.as_deref()
    }

    /// `details` of an event that brings none of its own.
    fn details(&self, rest: &str) -> Option<EventValue<'_>> {
        let meaning = self.meaning;
        if let Origin::State(state) = &self.event.origin {
            return match rest {
                "source" => fixed(&state.source),
                "state" => fixed(state.state.as_str()),
                "resource" => maybe(meaning.resource.as_ref()),
                "since" => Some(EventValue::Str(Cow::Owned(state.since.to_string()))),
                "reason" => fixed(state.reason.as_deref()?),
                _ => {
                    let name = rest.strip_prefix("counts.")?;
                    let (_, count) = state.counts.iter().find(|(counted, _)| &**counted == name)?;
                    number(i64::try_from(*count).ok()?)
                }
            };
        }
        let audit = matches!(self.event.origin, Origin::Audit(_));
        match rest {
            "resource" => maybe(meaning.resource.as_ref()),
            "command" => maybe(meaning.command.as_ref()),
            "tty" if meaning.event_type == EventType::SudoCommand => maybe(meaning.process.tty.as_ref()),
            "cwd" if meaning.event_type == EventType::SudoCommand => {
                maybe(meaning.process.working_directory.as_ref())
            }
            "ip_address" if meaning.event_type == EventType::UserLogin => {
                maybe(meaning.source.as_ref()?.ip.as_ref())
            }
            "operation" if audit => maybe(meaning.operation.as_ref()),
            "reason" if !audit => maybe(meaning.operation.as_ref()),
            _ => None,
        }
    }

    fn event(&self, rest: &str) -> Option<EventValue<'_>> {
        let meaning = self.meaning;
        match rest {
            "id" => maybe(meaning.producer_id.as_ref()),
            "category" => list(meaning.category.iter().copied()),
            "type" => list(meaning.kind.iter().copied()),
            "action" => fixed(&meaning.action),
            "outcome" => fixed(meaning.outcome?.as_str()),
            "sequence" => match &self.event.origin {
                Origin::Audit(audit) => number(audit.stamp.serial),
                _ => None,
            },
            _ => None,
        }
    }

    fn host(&self, rest: &str) -> Option<EventValue<'_>> {
        match rest {
            "id" => Some(EventValue::Str(Cow::Owned(self.host?.id?.to_string()))),
            "name" => match self.host.and_then(|host| host.name.as_deref()) {
                Some(name) => fixed(name),
                None => maybe(self.meaning.hostname.as_ref()),
            },
            "boot_id" => fixed(self.host?.boot_id.as_deref()?),
            _ => None,
        }
    }

    fn group(&self, rest: &str) -> Option<EventValue<'_>> {
        let groups = &self.meaning.group;
        match rest.rsplit_once('.') {
            None => identity(&groups.real, rest),
            Some(("effective", part)) => identity(&groups.effective, part),
            Some(("saved", part)) => identity(&groups.saved, part),
            Some(("filesystem", part)) => identity(&groups.filesystem, part),
            Some(_) => None,
        }
    }

    fn user(&self, rest: &str) -> Option<EventValue<'_>> {
        let users = &self.meaning.user;
        match rest.rsplit_once('.') {
            None => identity(&users.real, rest),
            Some(("effective", part)) => identity(&users.effective, part),
            Some(("audit", part)) => identity(&users.audit, part),
            Some(("saved", part)) => identity(&users.saved, part),
            Some(("filesystem", part)) => identity(&users.filesystem, part),
            Some(("target", part)) => identity(&users.target, part),
            Some(_) => None,
        }
    }

    fn process(&self, rest: &str) -> Option<EventValue<'_>> {
        let process = &self.meaning.process;
        let ancestors = || self.context().map(|context| context.ancestors.as_slice()).unwrap_or_default();
        let parent = || parent(self.meaning, self.context());
        match rest {
            "pid" => number(process.pid?),
            "parent.pid" => number(process.parent_pid.or_else(|| Some(parent()?.pid))?),
            "parent.executable" => fixed(parent()?.executable.as_deref()?),
            "parent.name" => fixed(parent()?.name.as_deref()?),
            "executable" => maybe(process.executable.as_ref()),
            "name" => maybe(process.name.as_ref()),
            "args" => list(process.args.iter().map(|arg| &**arg)),
            "command_line" => command_line(self.meaning).map(EventValue::Str),
            "working_directory" => maybe(process.working_directory.as_ref()),
            "title" => maybe(process.title.as_ref()),
            "tty" => maybe(process.tty.as_ref()),
            "session" => number(process.session?),
            "ancestors.executable" => list(ancestors().iter().filter_map(|a| a.executable.as_deref())),
            "ancestors.title" => list(ancestors().iter().filter_map(|a| a.title.as_deref())),
            "ancestors.name" => list(ancestors().iter().filter_map(|a| a.name.as_deref())),
            _ => None,
        }
    }

    fn file(&self, rest: &str) -> Option<EventValue<'_>> {
        let file = self.meaning.file.as_ref()?;
        match rest {
            "path" => maybe(file.path.as_ref()),
            "mode" => Some(EventValue::Str(Cow::Owned(format!("{:04o}", file.mode? & 0o7777)))),
            "owner" => maybe(file.owner.name.as_ref()),
            "uid" => maybe(file.owner.id.as_ref()),
            "gid" => maybe(file.group.id.as_ref()),
            "inode" => Some(EventValue::Str(Cow::Owned(file.inode?.to_string()))),
            "device" => maybe(file.device.as_ref()),
            "hash.sha256" => maybe(file.sha256.as_ref()),
            _ => None,
        }
    }

    fn container(&self, path: &str) -> Option<EventValue<'_>> {
        let container = self.context().and_then(|context| context.container.as_ref());
        let object = self.meaning.kubernetes.as_ref();
        match path {
            "container.id" => fixed(&container?.id),
            "container.runtime" => fixed(container?.runtime.as_deref()?),
            "container.name" => fixed(container?.name.as_deref()?),
            "container.image.name" => fixed(container?.image.as_deref()?),
            "kubernetes.pod.uid" => fixed(container?.pod_uid.as_deref()?),
            "kubernetes.pod.name" => {
                let own = container.and_then(|container| container.pod_name.as_deref());
                fixed(own.or_else(|| object?.pod_name.as_deref())?)
            }
            "kubernetes.namespace" => {
                let own = container.and_then(|container| container.namespace.as_deref());
                fixed(own.or_else(|| object?.namespace.as_deref())?)
            }
            _ => None,
        }
    }

    fn auditd(&self, rest: &str) -> Option<EventValue<'_>> {
        let Origin::Audit(audit) = &self.event.origin else { return None };
        let syscall = self.meaning.syscall.as_ref();
        match rest {
            "serial" => number(audit.stamp.serial),
            "syscall" => maybe(syscall?.name.as_ref()),
            "arch" => fixed(syscall?.arch?),
            "exit" => number(syscall?.exit?),
            "keys" => list(syscall?.keys.iter().map(|key| &**key)),
            _ => None,
        }
    }
}

/// The process that started this one, where the node knew it.
pub(super) fn parent<'c>(meaning: &Meaning<'_>, context: Option<&'c Context>) -> Option<&'c Ancestor> {
    let parent = context?.ancestors.first()?;
    meaning.process.parent_pid.is_none_or(|pid| pid == parent.pid).then_some(parent)
}

/// The arguments joined by spaces, else the title as the kernel cut it.
pub(super) fn command_line<'m>(meaning: &'m Meaning<'_>) -> Option<Cow<'m, str>> {
    if meaning.process.args.is_empty() {
        return meaning.process.title.as_deref().map(Cow::Borrowed);
    }
    Some(Cow::Owned(meaning.process.args.join(" ")))
}

#[expect(clippy::unnecessary_wraps, reason = "every arm of a look-up may have nothing")]
fn fixed(text: &str) -> Option<EventValue<'_>> {
    Some(EventValue::Str(Cow::Borrowed(text)))
}

fn maybe<'v>(value: Option<&'v Cow<'_, str>>) -> Option<EventValue<'v>> {
    value.and_then(|text| fixed(text))
}

#[expect(clippy::unnecessary_wraps, reason = "as above")]
fn number<'v>(value: impl Into<i64>) -> Option<EventValue<'v>> {
    Some(EventValue::Int(value.into()))
}

fn list<'v>(values: impl Iterator<Item = &'v str>) -> Option<EventValue<'v>> {
    let values: Vec<_> = values.map(|value| EventValue::Str(Cow::Borrowed(value))).collect();
    (!values.is_empty()).then_some(EventValue::Array(values))
}

fn identity<'v>(identity: &'v Identity<'_>, part: &str) -> Option<EventValue<'v>> {
    match part {
        "id" => maybe(identity.id.as_ref()),
        "name" => maybe(identity.name.as_ref()),
        _ => None,
    }
}

fn endpoint<'v>(endpoint: &'v Endpoint<'_>, part: &str) -> Option<EventValue<'v>> {
    match part {
        "ip" => maybe(endpoint.ip.as_ref()),
        "port" => number(endpoint.port?),
        "path" => maybe(endpoint.path.as_ref()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
