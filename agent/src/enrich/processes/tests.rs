use super::*;

fn write(root: &Path, pid: u32, name: &str, parent: u32, cgroup: &str) {
    let directory = root.join(pid.to_string());
    fs::create_dir_all(&directory).unwrap();
    let stat = format!("{pid} ({name}) S {parent} 1 1 0 -1 4194560 1 1 0 0 1 1 0 0 20 0 1 0 150 1000 1");
    fs::write(directory.join("stat"), stat).unwrap();
    fs::write(directory.join("cgroup"), cgroup).unwrap();
    fs::write(directory.join("cmdline"), format!("{name}\0-x\0")).unwrap();
    std::os::unix::fs::symlink("/usr/bin/thing", directory.join("exe")).unwrap();
}

fn seen(pid: u32, parent: u32, name: &str) -> Seen<'_> {
    Seen { pid, parent, executable: None, name, title: None }
}

#[test]
fn a_name_with_parentheses_and_spaces_is_read_whole() {
    let stat = parse_stat("7 (a) b (c)) S 3 1 1 0 -1 4194560 1 1 0 0 1 1 0 0 20 0 1 0 150 9").unwrap();
    assert_eq!((stat.parent, stat.name, stat.start_ticks), (3, "a) b (c)", 150));
    for broken in ["", "7 (x", "7 x) S 3", "7 )x( S 3", "7 (x) S", "7 (x) S y", "7 (x) S 1 2"] {
        assert!(parse_stat(broken).is_none(), "{broken}");
    }
}

#[test]
fn ancestry_reaches_over_processes_that_are_gone() {
    let proc_root = tempfile::tempdir().unwrap();
    fs::write(proc_root.path().join("stat"), "cpu 1 2\nbtime 1000\n").unwrap();
    write(proc_root.path(), 1, "init", 0, "0::/init.scope");
    write(proc_root.path(), 50, "sshd", 1, "0::/init.scope");
    let mut processes = Processes::new(proc_root.path());
    processes.fill();
    processes.observe(Seen { executable: Some("/bin/bash"), title: Some("bash -l"), ..seen(60, 50, "bash") });
    processes.forked(60, 61, Timestamp::from_millis(5));
    fs::remove_dir_all(proc_root.path().join("50")).unwrap();
    let ancestors = processes.ancestors(61, true);
    let names: Vec<&str> = ancestors.iter().map(|(_, process)| process.name.as_ref()).collect();
    assert_eq!(names, ["bash", "bash", "sshd", "init"]);
    assert_eq!(ancestors[0].1.title.as_deref(), Some("bash -l"));
    let sshd = &ancestors[2].1;
    assert_eq!(
        (sshd.executable.as_deref(), sshd.title.as_deref()),
        (Some("/usr/bin/thing"), Some("sshd -x"))
    );
    assert_eq!(sshd.start, Some(Timestamp::from_millis(1_001_500)));
}

#[test]
fn a_stale_event_never_looks_into_proc() {
    let proc_root = tempfile::tempdir().unwrap();
    write(proc_root.path(), 9, "other", 1, "0::/init.scope");
    let mut processes = Processes::new(proc_root.path());
    assert!(processes.ancestors(9, false).is_empty());
    assert_eq!(processes.ancestors(9, true).len(), 1);
}

#[test]
fn a_process_that_is_gone_is_in_its_parents_container() {
    let proc_root = tempfile::tempdir().unwrap();
    let id = "b".repeat(64);
    write(proc_root.path(), 70, "sh", 1, &format!("0::/docker/{id}"));
    let mut processes = Processes::new(proc_root.path());
    processes.observe(seen(71, 70, "true"));
    let placement = processes.placement(71, true).unwrap();
    assert_eq!(placement.container_id.as_ref(), id);
    assert_eq!(placement.runtime, Some("docker"));
}

#[test]
fn an_event_without_a_command_line_leaves_the_known_one() {
    let mut processes = Processes::new("/nonexistent");
    processes.observe(Seen { title: Some("nginx -g daemon"), ..seen(5, 0, "nginx") });
    processes.observe(Seen { executable: Some("/usr/sbin/nginx"), ..seen(5, 0, "nginx") });
    let ancestors = processes.ancestors(5, false);
    assert_eq!(ancestors[0].1.title.as_deref(), Some("nginx -g daemon"));
    assert_eq!(ancestors[0].1.executable.as_deref(), Some("/usr/sbin/nginx"));
}

#[test]
fn the_table_stays_bounded_in_bytes_and_keeps_what_was_used_last() {
    let mut processes = Processes::new("/nonexistent");
    processes.capacity_bytes = 64 << 10;
    let long = "x".repeat(10 * MAX_TEXT_BYTES);
    for pid in 2..10_000 {
        processes.observe(Seen { title: Some(&long), ..seen(pid, 1, "x") });
        processes.observe(seen(1, 0, "init"));
        assert!(processes.bytes <= processes.capacity_bytes);
    }
    assert_eq!(processes.ancestors(9_999, false).len(), 2);
}

#[test]
fn a_circle_of_parents_ends() {
    let mut processes = Processes::new("/nonexistent");
    processes.observe(seen(1, 2, "a"));
    processes.observe(seen(2, 1, "b"));
    assert_eq!(processes.ancestors(1, false).len(), 2);
}
