//! Events that rules should match, made from the rules' own selections: as audit text, so that both ways of decoding
//! have to read it.

use std::collections::BTreeMap;

use rsigma_parser::value::StringPart;
use rsigma_parser::{
    ConditionExpr, Detection, DetectionItem, Modifier, Quantifier, SigmaRule, SigmaString, SigmaValue,
    SpecialChar,
};
use serde_json::{Map, Value, json};

/// A made event.
pub(crate) enum Made {
    /// Lines as in audit.log.
    Audit(String),
    /// A line of a Kubernetes audit log.
    Kubernetes(String),
}

/// What one field has to look like.
#[derive(Default, Debug)]
struct Shape {
    whole: Option<String>,
    start: String,
    parts: Vec<String>,
    end: String,
}

impl Shape {
    fn text(&self, field: &str) -> String {
        if let Some(whole) = &self.whole {
            return whole.clone();
        }
        let path = field.ends_with("Image") || field == "exe" || field == "TargetFilename" || field == "name";
        let glue = if path { "" } else { " " };
        let mut pieces = vec![self.start.as_str()];
        pieces.extend(self.parts.iter().map(String::as_str));
        pieces.push(&self.end);
        pieces.retain(|piece| !piece.is_empty());
        pieces.join(glue)
    }
}

/// Events for `rule`, `choice` selecting among alternatives.
pub(crate) fn event(source: &str, rule: &SigmaRule, choice: usize) -> Option<Made> {
    let mut shapes: BTreeMap<String, Shape> = BTreeMap::new();
    let mut keywords = Vec::new();
    for name in wanted(&rule.detection.conditions[0], rule, choice) {
        satisfy(&rule.detection.named[&name], choice, &mut shapes, &mut keywords);
    }
    let fields: BTreeMap<String, String> =
        shapes.iter().map(|(name, shape)| (name.clone(), shape.text(name))).collect();
    let get = |name: &str| fields.get(name).cloned();
    Some(match source {
        "linux/auditd" => Made::Audit(record(&fields, &keywords)),
        "linux/process_creation" => {
            let parent = ["ParentImage", "ParentCommandLine"].map(get);
            let line = get("CommandLine").unwrap_or_else(|| "program".into());
            let user = get("User").unwrap_or_else(|| "root".into());
            let mut text = syscall(
                "execve",
                &get("Image").unwrap_or_else(|| "/usr/bin/program".into()),
                "0",
                &user,
                &parent,
            );
            let args: Vec<&str> = line.split(' ').collect();
            let args: Vec<String> =
                args.iter().enumerate().map(|(n, arg)| format!("a{n}={}", encode(arg))).collect();
            text += &format!("type=EXECVE {STAMP} argc={} {}\n", args.len(), args.join(" "));
            text += &format!(
                "type=CWD {STAMP} cwd={}\n",
                encode(&get("CurrentDirectory").unwrap_or_else(|| "/".into()))
            );
            Made::Audit(text)
        }
        "linux/file_event" => {
            let image = get("Image").unwrap_or_else(|| "/usr/bin/program".into());
            let mut text = syscall("openat", &image, "241", "root", &[None, None]);
            let name = encode(&get("TargetFilename")?);
            text += &format!(
                "type=CWD {STAMP} cwd=\"/\"\ntype=PATH {STAMP} item=0 name={name} inode=1 dev=08:01 mode=0100644 ouid=0 ogid=0 rdev=00:00 nametype=CREATE\n"
            );
            Made::Audit(text)
        }
        "linux/network_connection" => {
            let image = get("Image").unwrap_or_else(|| "/usr/bin/program".into());
            let port: u16 = get("DestinationPort").map_or(443, |port| port.parse().unwrap());
            let text = syscall("connect", &image, "10", "root", &[None, None]);
            Made::Audit(
                text + &format!("type=SOCKADDR {STAMP} saddr=0200{port:04X}C63364070000000000000000\n"),
            )
        }
        "kubernetes/audit" => Made::Kubernetes(kubernetes(&fields)),
        service => {
            let program = match service.rsplit('/').next().unwrap() {
                "clamav" => "clamd",
                "guacamole" => "guacd",
                "linux" | "syslog" => "logger",
                other => other,
            };
            let message = keywords.join(" ");
            Made::Audit(format!(
                "type=USER {STAMP} pid=1 uid=0 auid=0 ses=1 msg='{message} exe=\"/usr/sbin/{program}\" res=success'\n"
            ))
        }
    })
}

const STAMP: &str = "msg=audit(1700000000.123:7):";

fn syscall(name: &str, exe: &str, a2: &str, user: &str, parent: &[Option<String>; 2]) -> String {
    let number = match name {
        "execve" => 59,
        "openat" => 257,
        "connect" => 42,
        _ => panic!("{name}"),
    };
    let (uid, exe) = (if user == "root" { 0 } else { 1000 }, encode(exe));
    let mut text = format!(
        "type=SYSCALL {STAMP} arch=c000003e syscall={number} success=yes exit=0 a0=1 a1=2 a2={a2} a3=0 items=1 ppid=1 pid=2 \
         auid=4294967295 uid={uid} gid=0 euid=0 suid=0 fsuid=0 egid=0 sgid=0 fsgid=0 tty=(none) ses=4294967295 comm=\"x\" exe={exe} \
         key=(null)\u{1d}ARCH=x86_64 SYSCALL={name} UID=\"{user}\""
    );
    for (name, value) in ["TEST_PARENT", "TEST_PARENT_TITLE"].iter().zip(parent) {
        if let Some(value) = value {
            text += &format!(" {name}={}", upper_hex(value));
        }
    }
    text + "\n"
}

/// One record with these fields.
fn record(fields: &BTreeMap<String, String>, keywords: &[String]) -> String {
    let kind = if fields.contains_key("key") { "SYSCALL" } else { "EXECVE" };
    let kind = fields.get("type").map_or(kind, String::as_str).to_uppercase();
    let mut words = Vec::new();
    let mut enriched = String::new();
    if kind == "EXECVE" {
        let numbered = |name: &str| name.strip_prefix('a').and_then(|n| n.parse::<usize>().ok());
        let last = fields.keys().filter_map(|name| numbered(name)).max();
        let mut args: Vec<String> = (0..last.map_or(0, |n| n + 1))
            .map(|n| fields.get(&format!("a{n}")).cloned().unwrap_or_else(|| "x".into()))
            .collect();
        if args.is_empty() {
            args.push("program".into());
        }
        args.extend(keywords.iter().cloned());
        words.push(format!("argc={}", args.len()));
        words.extend(args.iter().enumerate().map(|(n, arg)| format!("a{n}={}", encode(arg))));
    } else {
        for (name, value) in fields.iter().filter(|(name, _)| *name != "type") {
            match name.as_str() {
                "SYSCALL" => {
                    let number = match value.as_str() {
                        "memfd_create" => 319,
                        "mknod" => 133,
                        "execve" => 59,
                        "execveat" => 322,
                        "sysinfo" => 99,
                        "syslog" => 103,
                        "personality" => 135,
                        other => panic!("the number of {other}"),
                    };
                    words.insert(0, format!("arch=c000003e syscall={number}"));
                    enriched = format!("\u{1d}ARCH=x86_64 SYSCALL={value}");
                }
                "exe" | "comm" | "name" | "key" => words.push(format!("{name}={}", encode(value))),
                _ => words.push(format!("{name}={value}")),
            }
        }
        if kind == "SYSCALL" && enriched.is_empty() {
            words.insert(0, "arch=c000003e syscall=0".into());
            enriched = "\u{1d}ARCH=x86_64 SYSCALL=read".into();
        }
        if kind == "SYSCALL" {
            for (name, value) in [
                ("success", "yes"),
                ("exit", "0"),
                ("exe", "\"/x\""),
                ("auid", "0"),
                ("uid", "0"),
                ("a2", "0"),
            ] {
                if !fields.contains_key(name) {
                    words.push(format!("{name}={value}"));
                }
            }
        }
    }
    format!("type={kind} {STAMP} {}{enriched}\n", words.join(" "))
}

fn kubernetes(fields: &BTreeMap<String, String>) -> String {
    let mut record = json!({
        "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "RequestResponse", "auditID": "a", "stage": "ResponseComplete",
        "requestURI": "/api", "verb": "get", "user": {"username": "u"}, "objectRef": {},
        "requestReceivedTimestamp": "2026-11-23T05:54:06.317669Z", "stageTimestamp": "2026-11-23T05:54:06.324412Z"
    });
    for (name, value) in fields {
        match name.as_str() {
            "apiGroup" => record["objectRef"]["apiGroup"] = json!(value),
            "hostPath" => {
                record["requestObject"] = json!({"spec": {"volumes": [{"hostPath": {"path": "/"}}]}});
            }
            "capabilities" => {
                let container = json!({"securityContext": {"capabilities": {"add": ["SYS_ADMIN"]}}});
                record["requestObject"] = json!({"spec": {"containers": [container]}});
            }
            path => {
                let value = value.parse::<i64>().map_or_else(|_| json!(value), |n| json!(n));
                let (parent, leaf) =
                    path.split_once('.').map_or((None, path), |(parent, leaf)| (Some(parent), leaf));
                let object: &mut Value = match parent {
                    Some(parent) => record
                        .as_object_mut()
                        .unwrap()
                        .entry(parent)
                        .or_insert_with(|| Value::Object(Map::new())),
                    None => &mut record,
                };
                object[leaf] = value;
            }
        }
    }
    record.to_string()
}

/// The selections that a condition needs, alternatives taken by `choice`.
fn wanted(condition: &ConditionExpr, rule: &SigmaRule, choice: usize) -> Vec<String> {
    match condition {
        ConditionExpr::And(parts) => parts.iter().flat_map(|part| wanted(part, rule, choice)).collect(),
        ConditionExpr::Or(parts) => wanted(&parts[choice % parts.len()], rule, choice),
        ConditionExpr::Not(_) => Vec::new(),
        ConditionExpr::Identifier(name) => vec![name.clone()],
        ConditionExpr::Selector { quantifier, pattern } => {
            let mut names: Vec<String> = rule
                .detection
                .named
                .keys()
                .filter(|name| pattern.matches_detection_name(name))
                .cloned()
                .collect();
            names.sort();
            match quantifier {
                Quantifier::All => names,
                Quantifier::Any => vec![names[choice % names.len()].clone()],
                Quantifier::Count(n) => names.into_iter().take(*n as usize).collect(),
            }
        }
    }
}

fn satisfy(
    detection: &Detection,
    choice: usize,
    shapes: &mut BTreeMap<String, Shape>,
    keywords: &mut Vec<String>,
) {
    match detection {
        Detection::AllOf(items) => items.iter().for_each(|item| shape(item, choice, shapes, keywords)),
        Detection::AnyOf(parts) => satisfy(&parts[choice % parts.len()], choice, shapes, keywords),
        Detection::And(parts) => parts.iter().for_each(|part| satisfy(part, choice, shapes, keywords)),
        Detection::Keywords(values) => keywords.push(plain(&values[choice % values.len()])),
        other => panic!("not among the rules: {other:?}"),
    }
}

fn shape(
    item: &DetectionItem,
    choice: usize,
    shapes: &mut BTreeMap<String, Shape>,
    keywords: &mut Vec<String>,
) {
    let all = item.field.has_modifier(Modifier::All);
    let values: Vec<String> = item.values.iter().map(plain).collect();
    let chosen = if all { values } else { vec![values[choice % values.len()].clone()] };
    let Some(name) = item.field.name.as_deref().filter(|name| !name.is_empty()) else {
        keywords.extend(chosen);
        return;
    };
    let shape = shapes.entry(name.to_owned()).or_default();
    for value in chosen {
        if item.field.has_modifier(Modifier::Re) {
            shape.parts.push(matching(&value).to_owned());
        } else if item.field.has_modifier(Modifier::Contains) {
            shape.parts.push(value);
        } else if item.field.has_modifier(Modifier::StartsWith) {
            shape.start = value;
        } else if item.field.has_modifier(Modifier::EndsWith) {
            shape.end = value;
        } else {
            shape.whole = Some(value);
        }
    }
}

/// A text that the regular expression matches; there are few, and no library for it here.
fn matching(regex: &str) -> &'static str {
    match regex {
        r"(.){200,}" => {
            const LONG: &str = "file /a >>/tmp/output.txt 0123456789012345678901234567890123456789012345678901234567890123456789\
                012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789";
            LONG
        }
        r"(?:\s-[^-\s]{0,20}i|\s--inode\s)" => " -i x",
        r"(?:\s-[^-\s]{0,20}d|\s--directory\s)" => " -d x",
        r#"-(W|R)\s?(\s|"|')([0-9a-fA-F]{2}\s?){2,20}(\s|"|')"# => "-W '00 01 02 '",
        "-D" => "-D",
        r"\s-O\s" => "x -O x",
        r"\s-[FTd]\s" => "x -F x",
        r"(^|\/)\.[^.\/]" => ".hidden",
        other => panic!("a text for {other}"),
    }
}

fn plain(value: &SigmaValue) -> String {
    match value {
        SigmaValue::String(text) => instance(text),
        SigmaValue::Integer(n) => n.to_string(),
        other => panic!("not among the rules: {other:?}"),
    }
}

/// The pattern with something in the place of its wildcards.
fn instance(pattern: &SigmaString) -> String {
    let part = |part: &StringPart| match part {
        StringPart::Plain(text) => text.clone(),
        StringPart::Special(SpecialChar::WildcardMulti) => "xy".to_owned(),
        StringPart::Special(SpecialChar::WildcardSingle) => "z".to_owned(),
    };
    pattern.parts.iter().map(part).collect()
}

/// As the kernel writes an untrusted string.
fn encode(text: &str) -> String {
    if !text.is_empty() && text.bytes().all(|b| (0x21..0x7f).contains(&b) && b != b'"') {
        format!("\"{text}\"")
    } else if text.is_empty() {
        "\"\"".to_owned()
    } else {
        upper_hex(text)
    }
}

fn upper_hex(text: &str) -> String {
    text.bytes().map(|b| format!("{b:02X}")).collect::<Vec<_>>().concat()
}
