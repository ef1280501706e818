//! From a process's cgroup paths to the container and pod that it runs in. Pure.
//!
//! Fed with the text of `/proc/<pid>/cgroup` (cgroups(7): `hierarchy:controllers:path`, one line per hierarchy; on
//! cgroup v2 the one line `0::path`). The layouts are those of the kubelet's two cgroup drivers and of containerd
//! (K3s's own too), CRI-O, Docker and Podman. What is nested (a container runtime inside a container) yields the
//! innermost container and the pod around it.

/// What a cgroup path says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement<'a> {
    /// The container's id: 64 lowercase hex digits.
    pub container_id: &'a str,
    /// Which runtime made it, where the path says so.
    pub runtime: Option<&'static str>,
    /// The pod's UID in the API server's writing (with dashes; a static pod's is 32 hex digits without).
    pub pod_uid: Option<String>,
}

/// Reads all lines of `/proc/<pid>/cgroup`; the first hierarchy that names a container decides.
pub fn parse_proc_cgroup(text: &str) -> Option<Placement<'_>> {
    text.lines().filter_map(|line| line.splitn(3, ':').nth(2)).find_map(parse_path)
}

/// Reads one cgroup path.
pub fn parse_path(path: &str) -> Option<Placement<'_>> {
    let mut container = None;
    let mut pod_uid = None;
    let mut in_kubepods = false;
    // containerd with the systemd driver but without delegation writes "slice:cri-containerd:id" as one component.
    for component in path.split(['/', ':']) {
        in_kubepods |= component.starts_with("kubepods");
        if let Some(uid) = pod_of(component) {
            pod_uid = Some(uid);
        } else if let Some(found) = container_of(component) {
            container = Some(found);
        }
    }
    let (container_id, named_runtime) = container?;
    let runtime = named_runtime.or_else(|| runtime_of(path, in_kubepods));
    Some(Placement { container_id, runtime, pod_uid })
}

/// Runtimes that say so in the name of a scope, by its prefix. `conmon` (Podman's and CRI-O's monitor) is not in the
/// container, so its prefixes are not here.
const SCOPES: [(&str, &str); 5] = [
    ("cri-containerd-", "containerd"),
    ("docker-", "docker"),
    ("crio-", "cri-o"),
    ("libpod-payload-", "podman"),
    ("libpod-", "podman"),
];

fn container_of(component: &str) -> Option<(&str, Option<&'static str>)> {
    let name = component.strip_suffix(".scope").unwrap_or(component);
    if is_container_id(name) {
        return Some((name, None));
    }
    SCOPES.iter().find_map(|(prefix, runtime)| {
        let id = name.strip_prefix(prefix)?;
        is_container_id(id).then_some((id, Some(*runtime)))
    })
}

fn is_container_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The runtime of a bare id, from what stands around it.
fn runtime_of(path: &str, in_kubepods: bool) -> Option<&'static str> {
    if path.contains("/docker/") || path.starts_with("/docker") {
        Some("docker")
    } else if path.contains("cri-containerd") || in_kubepods {
        // The kubelet's cgroupfs driver leaves a bare id. K3s and nearly everybody else runs containerd beneath it.
        Some("containerd")
    } else if path.contains("libpod") {
        Some("podman")
    } else {
        None
    }
}

/// `pod<uid>` (cgroupfs driver) or `kubepods[-qos]-pod<uid, dashes written as underscores>.slice` (systemd driver).
fn pod_of(component: &str) -> Option<String> {
    let name = component.strip_suffix(".slice").unwrap_or(component);
    let uid = if name.starts_with("kubepods") {
        &name[name.find("-pod")? + "-pod".len()..]
    } else {
        name.strip_prefix("pod")?
    };
    let hex_digits = uid.bytes().filter(u8::is_ascii_hexdigit).count();
    let separators = uid.bytes().filter(|byte| matches!(byte, b'-' | b'_')).count();
    let is_uid = hex_digits == 32 && matches!(separators, 0 | 4) && hex_digits + separators == uid.len();
    is_uid.then(|| uid.replace('_', "-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "3f1c2a9be0d44a7c8e6f5a4b3c2d1e0f9a8b7c6d5e4f3a2b1c0d9e8f7a6b5c4d";
    const UID: &str = "0e1f2a3b-4c5d-6e7f-8a9b-0c1d2e3f4a5b";

    #[test]
    fn every_known_layout_yields_its_container_and_pod() {
        let underscored = UID.replace('-', "_");
        let bare = UID.replace('-', "");
        let table: Vec<(String, Option<&str>, Option<&str>)> = vec![
            (format!("0::/kubepods/burstable/pod{UID}/{ID}"), Some("containerd"), Some(UID)),
            (format!("0::/kubepods/pod{UID}/{ID}"), Some("containerd"), Some(UID)),
            (
                format!("11:memory:/kubepods/besteffort/pod{UID}/{ID}\n1:name=systemd:/x"),
                Some("containerd"),
                Some(UID),
            ),
            (
                format!(
                    "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{underscored}.slice/cri-containerd-{ID}.scope"
                ),
                Some("containerd"),
                Some(UID),
            ),
            (
                format!(
                    "0::/kubepods.slice/kubepods-pod{underscored}.slice/cri-containerd-{ID}.scope/init.scope"
                ),
                Some("containerd"),
                Some(UID),
            ),
            (
                format!(
                    "4:cpu:/system.slice/containerd.service/kubepods-burstable-pod{underscored}.slice:cri-containerd:{ID}"
                ),
                Some("containerd"),
                Some(UID),
            ),
            (
                format!("0::/kubepods.slice/kubepods-pod{underscored}.slice/crio-{ID}.scope"),
                Some("cri-o"),
                Some(UID),
            ),
            (format!("0::/kubepods/burstable/pod{bare}/{ID}"), Some("containerd"), Some(&bare)),
            (format!("0::/system.slice/docker-{ID}.scope"), Some("docker"), None),
            (format!("12:pids:/docker/{ID}"), Some("docker"), None),
            (format!("0::/machine.slice/libpod-{ID}.scope/container"), Some("podman"), None),
            (format!("0::/default/{ID}"), None, None),
            (format!("0::/../../kubepods/besteffort/pod{UID}/{ID}"), Some("containerd"), Some(UID)),
        ];
        for (text, runtime, pod) in table {
            let placement = parse_proc_cgroup(&text).unwrap_or_else(|| panic!("nothing read from {text}"));
            assert_eq!(placement.container_id, ID, "{text}");
            assert_eq!(placement.runtime, runtime, "{text}");
            assert_eq!(placement.pod_uid.as_deref(), pod, "{text}");
        }
    }

    #[test]
    fn a_process_outside_containers_has_no_placement() {
        let conmon = format!("0::/machine.slice/libpod-conmon-{ID}.scope");
        let pod_sandbox_parent = format!("0::/kubepods/burstable/pod{UID}");
        for text in [
            "0::/init.scope",
            "0::/user.slice/user-1000.slice/session-3.scope",
            "0::/system.slice/k3s.service",
            "",
            "0::",
            "garbage",
            conmon.as_str(),
            pod_sandbox_parent.as_str(),
            "0::/kubepods-podé/x",
        ] {
            assert_eq!(parse_proc_cgroup(text), None, "{text}");
        }
    }

    #[test]
    fn nested_runtimes_yield_the_innermost_container() {
        let outer = "a".repeat(64);
        let text = format!("0::/docker/{outer}/kubepods/burstable/pod{UID}/{ID}");
        let placement = parse_proc_cgroup(&text).unwrap();
        assert_eq!((placement.container_id, placement.pod_uid.as_deref()), (ID, Some(UID)));
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,200}", lines in "[0-9a-f:/_.kubepods\\-slice\n]{0,300}") {
            let _ = parse_proc_cgroup(&text);
            let _ = parse_proc_cgroup(&lines);
        }
    }
}
