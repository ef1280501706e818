//! Audit text to the JSON that Sigma's log sources would see, written without a line of the code under test.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// One event's records: type, kernel's half, enriched half.
pub(crate) type Lines = Vec<(String, String, String)>;

/// Groups the lines of a log by their stamp, in the order in which stamps first appear.
pub(crate) fn group(log: &str) -> Vec<(String, Lines)> {
    let mut order: Vec<(String, Lines)> = Vec::new();
    let mut index: BTreeMap<String, usize> = BTreeMap::new();
    for line in log.lines().filter(|line| !line.is_empty()) {
        let (head, rest) = line.split_once("): ").unwrap();
        let (kind, stamp) = head.strip_prefix("type=").unwrap().split_once(" msg=audit(").unwrap();
        if kind == "EOE" {
            continue;
        }
        let (text, enriched) = rest.split_once('\u{1d}').unwrap_or((rest, ""));
        let at = *index.entry(stamp.to_owned()).or_insert_with(|| {
            order.push((stamp.to_owned(), Vec::new()));
            order.len() - 1
        });
        order[at].1.push((kind.to_owned(), text.trim_end().to_owned(), enriched.to_owned()));
    }
    order
}

/// What the sources see of one event: log source and JSON, in the order of views.
pub(crate) fn views(records: &Lines) -> Vec<(&'static str, Value)> {
    let mut views = Vec::new();
    let mut args = Vec::new();
    for (kind, text, _) in records.iter().filter(|(kind, ..)| kind == "EXECVE") {
        let found = fields(kind, text);
        for n in 0.. {
            match found.get(&format!("a{n}")) {
                Some(arg) => args.push(arg.clone()),
                None => break,
            }
        }
    }
    let mut execve_seen = false;
    for (kind, text, enriched) in records {
        let mut object = Map::new();
        object.insert("type".into(), json!(kind));
        if kind == "EXECVE" {
            if execve_seen {
                continue;
            }
            execve_seen = true;
            object.extend(args.iter().enumerate().map(|(n, arg)| (format!("a{n}"), json!(arg))));
        } else {
            object.extend(fields(kind, text).into_iter().map(|(k, v)| (k, json!(v))));
        }
        if kind == "SYSCALL" {
            object.insert("SYSCALL".into(), json!(fields("", enriched)["SYSCALL"]));
        }
        views.push(("linux/auditd", Value::Object(object)));
        if let Some(message) = text.split_once("msg='").map(|(_, rest)| rest.rsplit_once('\'').unwrap().0) {
            let exe = fields(kind, text).get("exe").cloned().unwrap_or_default();
            for service in services(exe.rsplit('/').next().unwrap()) {
                views.push((service, json!({ "message": message })));
            }
        }
    }
    meant(records, &args, &mut views);
    views
}

fn services(program: &str) -> &'static [&'static str] {
    match program {
        "sshd" => &["linux", "linux/syslog", "linux/auth", "linux/sshd"],
        "cron" => &["linux", "linux/syslog", "linux/cron"],
        "clamd" => &["linux", "linux/syslog", "linux/clamav"],
        "vsftpd" => &["linux", "linux/syslog", "linux/vsftpd"],
        "guacd" => &["linux", "linux/syslog", "linux/guacamole"],
        _ => &["linux", "linux/syslog"],
    }
}

fn meant(records: &Lines, args: &[String], views: &mut Vec<(&'static str, Value)>) {
    let find = |wanted: &str| records.iter().find(|(kind, ..)| kind == wanted);
    let Some((_, text, enriched)) = find("SYSCALL") else { return };
    let call = fields("SYSCALL", text);
    let names = fields("", enriched);
    let cwd = find("CWD").map(|(kind, text, _)| fields(kind, text)["cwd"].clone());
    let mut object = Map::new();
    object.insert("Image".into(), json!(call["exe"]));
    if !args.is_empty() {
        object.insert("CommandLine".into(), json!(args.join(" ")));
    } else if let Some((kind, text, _)) = find("PROCTITLE") {
        object.insert("CommandLine".into(), json!(fields(kind, text)["proctitle"].replace('\0', " ")));
    }
    if let Some(user) = names.get("UID").filter(|name| !name.starts_with("unknown(")) {
        object.insert("User".into(), json!(user));
    }
    match names["SYSCALL"].as_str() {
        "execve" | "execveat" if call["success"] == "yes" => {
            let login = if call["auid"] == "4294967295" { &call["uid"] } else { &call["auid"] };
            object.insert("LogonId".into(), json!(login));
            object.extend(cwd.map(|cwd| ("CurrentDirectory".into(), json!(cwd))));
            let parent = fields("", enriched);
            // The generated events carry the parent in the enrichment, where the kernel has no place for it.
            for (theirs, ours) in [("TEST_PARENT", "ParentImage"), ("TEST_PARENT_TITLE", "ParentCommandLine")]
            {
                object.extend(parent.get(theirs).map(|value| (ours.to_owned(), json!(unhex(value)))));
            }
            views.push(("linux/process_creation", Value::Object(object)));
        }
        "openat" | "creat" | "renameat2" | "symlinkat" if call["success"] == "yes" => {
            if let Some(path) = target(records, &call, &names["SYSCALL"]) {
                let path = if path.starts_with('/') { path } else { format!("{}/{path}", cwd.unwrap()) };
                object.insert("TargetFilename".into(), json!(path));
                views.push(("linux/file_event", Value::Object(object)));
            }
        }
        "connect" | "sendto" if call["success"] == "yes" || call["exit"] == "-115" => {
            if let Some((ip, port)) =
                find("SOCKADDR").and_then(|(kind, text, _)| inet(&fields(kind, text)["saddr"]))
            {
                object.insert("Initiated".into(), json!("true"));
                object.insert("DestinationIp".into(), json!(ip));
                object.insert("DestinationPort".into(), json!(port));
                views.push(("linux/network_connection", Value::Object(object)));
            }
        }
        _ => {}
    }
}

/// The path that was created or opened for writing.
fn target(records: &Lines, call: &BTreeMap<String, String>, syscall: &str) -> Option<String> {
    let paths: Vec<_> =
        records.iter().filter(|(k, ..)| k == "PATH").map(|(kind, text, _)| fields(kind, text)).collect();
    let created = paths.iter().rev().find(|path| path["nametype"] == "CREATE");
    let flags = u64::from_str_radix(&call["a2"], 16).unwrap();
    let writes = syscall == "openat" && flags & (0o1 | 0o2 | 0o100 | 0o1000) != 0;
    let normal = paths.iter().rev().find(|path| writes && path["nametype"] == "NORMAL");
    Some(created.or(normal)?["name"].clone())
}

fn inet(saddr: &str) -> Option<(String, u16)> {
    let bytes = hex(saddr)?;
    match bytes.as_slice() {
        [2, 0, high, low, a, b, c, d, ..] => {
            Some((format!("{a}.{b}.{c}.{d}"), u16::from_be_bytes([*high, *low])))
        }
        _ => None,
    }
}

/// `name=value` words; the first of a name counts; `msg='…'` is read inside.
pub(crate) fn fields(kind: &str, text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let text = match text.split_once("msg='") {
        Some((outer, inner)) => format!("{outer} {}", inner.rsplit_once('\'').unwrap().0),
        None => text.to_owned(),
    };
    let mut rest = text.as_str();
    while let Some((before, after)) = rest.split_once('=') {
        let name = before.rsplit(' ').next().unwrap();
        let (value, next) = if let Some(quoted) = after.strip_prefix('"') {
            let (value, next) = quoted.split_once('"').unwrap_or((quoted, ""));
            (value.to_owned(), next)
        } else {
            let (value, next) = after.split_once(' ').unwrap_or((after, ""));
            let argument = kind == "EXECVE" && name.starts_with('a') && name != "argc";
            let encoded = argument || ["comm", "exe", "name", "cwd", "key", "proctitle"].contains(&name);
            (if encoded { unhex(value) } else { value.to_owned() }, next)
        };
        found.entry(name.to_owned()).or_insert(value);
        rest = next;
    }
    found
}

fn unhex(value: &str) -> String {
    hex(value).map_or_else(|| value.to_owned(), |bytes| String::from_utf8_lossy(&bytes).into_owned())
}

fn hex(text: &str) -> Option<Vec<u8>> {
    if text.is_empty() || !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(text.get(i..i + 2)?, 16).ok()).collect()
}

/// A Kubernetes audit record with the three names that rules use though no record has them.
pub(crate) fn kubernetes(line: &str) -> Value {
    let mut record: Value = serde_json::from_str(line).unwrap();
    let group = record.pointer("/objectRef/apiGroup").cloned();
    let mut paths = Vec::new();
    let mut capabilities = Vec::new();
    for spec in ["/requestObject/spec", "/requestObject/spec/template/spec"] {
        for volume in
            record.pointer(&format!("{spec}/volumes")).and_then(Value::as_array).into_iter().flatten()
        {
            paths.extend(volume.pointer("/hostPath/path").cloned());
        }
        for container in
            record.pointer(&format!("{spec}/containers")).and_then(Value::as_array).into_iter().flatten()
        {
            let added = container.pointer("/securityContext/capabilities/add").and_then(Value::as_array);
            capabilities.extend(added.into_iter().flatten().cloned());
        }
    }
    let object = record.as_object_mut().unwrap();
    object.extend(group.map(|group| ("apiGroup".to_owned(), group)));
    for (name, values) in [("hostPath", paths), ("capabilities", capabilities)] {
        if !values.is_empty() {
            object.insert(name.to_owned(), Value::Array(values));
        }
    }
    record
}
