//! File modes, as the `mode` field of a `PATH` record holds them (`linux/stat.h`).

/// The bits that say what kind of file it is.
const TYPE_MASK: u32 = 0o170_000;

/// The kind of file, named as Elastic Common Schema does where it has a name for it.
pub fn file_type(mode: u32) -> Option<&'static str> {
    Some(match mode & TYPE_MASK {
        0o100_000 => "file",
        0o040_000 => "dir",
        0o120_000 => "symlink",
        0o020_000 => "char",
        0o060_000 => "block",
        0o010_000 => "fifo",
        0o140_000 => "socket",
        _ => return None,
    })
}

/// The permission bits, with set-user-id, set-group-id and sticky, as four octal digits: `0755`.
pub fn permissions(mode: u32) -> String {
    format!("{:04o}", mode & 0o7777)
}

/// The mode as `ls -l` shows it: `-rwsr-xr-x`.
pub fn symbolic(mode: u32) -> String {
    let kind = match mode & TYPE_MASK {
        0o100_000 => '-',
        0o040_000 => 'd',
        0o120_000 => 'l',
        0o020_000 => 'c',
        0o060_000 => 'b',
        0o010_000 => 'p',
        0o140_000 => 's',
        _ => '?',
    };
    let mut text = String::with_capacity(10);
    text.push(kind);
    for (shift, special, mark) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (true, true) => mark,
            (true, false) => mark.to_ascii_uppercase(),
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn modes_read_as_ls_shows_them() {
        for (mode, kind, permissions, symbolic) in [
            (0o100_755, Some("file"), "0755", "-rwxr-xr-x"),
            (0o104_755, Some("file"), "4755", "-rwsr-xr-x"),
            (0o102_644, Some("file"), "2644", "-rw-r-Sr--"),
            (0o041_777, Some("dir"), "1777", "drwxrwxrwt"),
            (0o041_776, Some("dir"), "1776", "drwxrwxrwT"),
            (0o120_777, Some("symlink"), "0777", "lrwxrwxrwx"),
            (0o020_666, Some("char"), "0666", "crw-rw-rw-"),
            (0o060_660, Some("block"), "0660", "brw-rw----"),
            (0o010_600, Some("fifo"), "0600", "prw-------"),
            (0o140_755, Some("socket"), "0755", "srwxr-xr-x"),
            (0, None, "0000", "?---------"),
        ] {
            assert_eq!(super::file_type(mode), kind, "{mode:o}");
            assert_eq!(super::permissions(mode), permissions, "{mode:o}");
            assert_eq!(super::symbolic(mode), symbolic, "{mode:o}");
        }
    }
}
