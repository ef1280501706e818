//! Paths as one text that rules can compare: absolute where that is known, without `.`, `..` and doubled slashes.

use std::borrow::Cow;

/// `name` made absolute with `base`, and its `.`, `..` and `//` resolved.
///
/// Resolved by the text alone, so a `..` after a symbolic link leads elsewhere than the kernel went; but a rule on
/// `/etc/shadow` must see `/etc/../etc/shadow`. Without a base a relative name stays relative. Borrowed if nothing
/// had to be done.
pub(super) fn resolve<'e>(name: Cow<'e, str>, base: Option<&str>) -> Cow<'e, str> {
    let absolute = name.starts_with('/');
    match base {
        _ if absolute && is_clean(&name) => name,
        _ if absolute => Cow::Owned(clean("", &name)),
        Some(base) if base.starts_with('/') && !name.is_empty() => Cow::Owned(clean(base, &name)),
        _ => name,
    }
}

/// Whether no component is empty, `.` or `..`; a slash at the end does no harm.
fn is_clean(path: &str) -> bool {
    let bytes = path.as_bytes();
    !bytes.windows(2).any(|pair| pair[0] == b'/' && (pair[1] == b'.' || pair[1] == b'/'))
        || path.split('/').skip(1).all(|part| !matches!(part, "" | "." | ".."))
}

fn clean(base: &str, name: &str) -> String {
    let mut path = String::with_capacity(base.len() + 1 + name.len());
    for part in base.split('/').chain(name.split('/')) {
        match part {
            "" | "." => {}
            ".." => path.truncate(path.rfind('/').unwrap_or(0)),
            part => {
                path.push('/');
                path.push_str(part);
            }
        }
    }
    if path.is_empty() {
        path.push('/');
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_resolved_by_their_text() {
        for (name, base, expected) in [
            ("/etc/shadow", Some("/srv"), "/etc/shadow"),
            ("/etc/../etc//./shadow", None, "/etc/shadow"),
            ("/../..", None, "/"),
            ("/etc/.hidden", None, "/etc/.hidden"),
            ("/srv/", None, "/srv/"),
            ("x", Some("/srv/job"), "/srv/job/x"),
            ("./x", Some("/srv/job/"), "/srv/job/x"),
            ("../../x", Some("/srv/job"), "/x"),
            (".", Some("/srv"), "/srv"),
            ("x", Some("/"), "/x"),
            ("x", None, "x"),
            ("../x", None, "../x"),
            ("", Some("/srv"), ""),
            ("x", Some("(unreachable)/a"), "x"),
        ] {
            assert_eq!(resolve(name.into(), base), expected, "{name} in {base:?}");
        }
    }

    #[test]
    fn a_clean_absolute_path_is_not_copied() {
        assert!(matches!(resolve("/usr/bin/id".into(), Some("/")), Cow::Borrowed(_)));
        assert!(matches!(resolve("/etc/.hidden".into(), None), Cow::Borrowed(_)));
    }
}
