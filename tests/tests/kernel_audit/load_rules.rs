//! `load-rules`: what the kernel then lists is what auditctl would have loaded; a refused line changes nothing; what
//! was found is put back.

use std::fs;

use anyhow::{Context, ensure};

use crate::machine::{Turn, auditctl, rules, settings};

const UID: u32 = 64_802;

/// The shipped rules, those on system calls confined to the user id, those on paths to a folder of the test's own.
fn confined(turn: &Turn) -> anyhow::Result<String> {
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/../rules/edge/10-auditflow.rules");
    let shipped = fs::read_to_string(shipped)?;
    let folder = turn.folder().join("watched");
    fs::create_dir_all(folder.join("etc/sudoers.d"))?;
    fs::write(folder.join("etc/passwd"), "")?;
    let folder = folder.display().to_string();
    let lines = shipped.lines().map(|line| {
        if let Some(watch) = line.strip_prefix("-w ") {
            format!("-w {folder}{watch}")
        } else if line.starts_with("-a ") {
            line.replace(" -k ", &format!(" -F uid={UID} -k ")).replace("path=/", &format!("path={folder}/"))
        } else {
            line.to_owned()
        }
    });
    Ok(lines.collect::<Vec<_>>().join("\n") + "\n")
}

#[test]
fn the_kernel_lists_what_auditctl_would_have_loaded() -> anyhow::Result<()> {
    let Some(turn) = Turn::take("as auditctl", UID)? else { return Ok(()) };
    let before = (rules()?, settings()?);
    let more = [
        "-a always,exit -F arch=b64 -S openat,unlinkat -F exit=-EACCES -F uid=64802 -F key=denied -F key=second",
        "-a never,exit -F arch=b64 -S all -F uid=64802 -F exe=/bin/true",
        "-A exit,always -F arch=b64 -S kill -F a1=9 -F uid=64802 -F euid!=0 -F gid>=100 -F pers=0 -k k1",
        "-a always,exit -F arch=b64 -S all -F uid=64802 -F sessionid=unset -F obj_uid=0 -C uid!=euid -k cmp",
        "-a always,user -F uid=64802 -F pid!=1",
        "-a always,exclude -F msgtype=CWD -F uid=64802",
        "-a always,exit -F arch=b64 -S open -F inode=77 -F devmajor=8 -F filetype=file -F ppid=4 -F uid=64802",
    ];
    let text = confined(&turn)? + &more.join("\n") + "\n";
    let file = turn.folder().join("all.rules");
    fs::write(&file, &text)?;
    let file = file.display().to_string();

    turn.load_rules(&[&file])?.success()?;
    let ours = (auditctl(&["-l"])?, rules()?, settings()?);
    turn.load_rules(&["--restore"])?.success()?;
    assert_eq!((rules()?, settings()?), before, "--restore puts everything back");

    auditctl(&["-R", &file])?;
    let theirs = (auditctl(&["-l"])?, rules()?, settings()?);
    ensure!(ours.1.len() > 40, "only {} rules were loaded", ours.1.len());
    let (our_lines, their_lines) = (ours.0.lines(), theirs.0.lines());
    let differing: Vec<_> = our_lines.zip(their_lines).filter(|(ours, theirs)| ours != theirs).collect();
    ensure!(differing.is_empty(), "ours, auditctl's: {differing:#?}");
    assert_eq!(ours.0, theirs.0);
    assert_eq!(ours.2, theirs.2);
    let pairs = ours.0.lines().zip(ours.1.iter().zip(&theirs.1));
    let differing: Vec<String> =
        pairs.filter(|(_, (a, b))| a != b).map(|(line, (a, b))| format!("{line}: {}", words(a, b))).collect();
    ensure!(differing.is_empty(), "auditctl prints the same, the kernel's bytes differ: {differing:#?}");
    assert_eq!(ours.1.len(), theirs.1.len());
    Ok(())
}

#[test]
fn a_refused_line_rolls_everything_back() -> anyhow::Result<()> {
    let Some(turn) = Turn::take("rollback", UID)? else { return Ok(()) };
    let standing = turn.write_rules(
        "standing.rules",
        &[&format!("-a always,exit -F arch=b64 -S kill -F uid={UID} -k stood")],
    )?;
    auditctl(&["-R", &standing.display().to_string()])?;
    let before = (rules()?, settings()?);
    ensure!(!before.0.is_empty(), "a rule stands");

    let good = format!("-a always,exit -F arch=b64 -S execve -F uid={UID} -k good");
    let refused =
        format!("-a always,exit -F dir={}/none/of/it -F perm=wa -F uid={UID}", turn.folder().display());
    let file = turn.write_rules("bad.rules", &["-D", "-b 777", "-f 0", &good, &refused, &good])?;
    let outcome = turn.load_rules(&[&file.display().to_string()])?;
    assert_eq!(outcome.status.code(), Some(1), "{outcome:?}");
    ensure!(outcome.stderr.contains("bad.rules:5"), "it names the line: {}", outcome.stderr);
    assert_eq!((rules()?, settings()?), before);
    Ok(())
}

#[test]
fn a_line_that_is_not_understood_is_named_before_anything_is_touched() -> anyhow::Result<()> {
    let Some(turn) = Turn::take("syntax", UID)? else { return Ok(()) };
    let before = (rules()?, settings()?);
    let good = format!("-a always,exit -F arch=b64 -S execve -F uid={UID} -k good");
    let file = turn.write_rules("typo.rules", &["-b 777", &good, "-a always,exit -F uidd=1", "-x"])?;
    let outcome = turn.load_rules(&[&file.display().to_string()])?;
    assert_eq!(outcome.status.code(), Some(1));
    for line in ["typo.rules:3", "typo.rules:4"] {
        ensure!(outcome.stderr.contains(line), "{}", outcome.stderr);
    }
    assert_eq!((rules()?, settings()?), before);
    Ok(())
}

#[test]
fn a_dry_run_touches_nothing() -> anyhow::Result<()> {
    let Some(turn) = Turn::take("dry run", UID)? else { return Ok(()) };
    let before = (rules()?, settings()?);
    let file = turn.folder().join("all.rules");
    fs::write(&file, confined(&turn)?)?;
    let outcome = turn.load_rules(&["--dry-run", &file.display().to_string()])?.success()?;
    let loaded: usize =
        outcome.stdout.split(' ').next().and_then(|word| word.parse().ok()).context(outcome.stdout)?;
    ensure!(loaded > 40, "{loaded} rules would be loaded");
    assert_eq!((rules()?, settings()?), before);
    ensure!(!turn.folder().join("found.json").exists(), "nothing was found, so nothing is kept");
    Ok(())
}

#[test]
fn loading_twice_still_restores_what_stood_before_the_first() -> anyhow::Result<()> {
    let Some(turn) = Turn::take("twice", UID)? else { return Ok(()) };
    let before = (rules()?, settings()?);
    for key in ["one", "two"] {
        let rule = format!("-a always,exit -F arch=b64 -S execve -F uid={UID} -k {key}");
        let file = turn.write_rules("again.rules", &["-b 999", &rule])?;
        turn.load_rules(&[&file.display().to_string()])?.success()?;
    }
    assert_eq!(rules()?.len(), before.0.len() + 2);
    turn.load_rules(&["--restore"])?.success()?;
    assert_eq!((rules()?, settings()?), before);
    let again = turn.load_rules(&["--restore"])?;
    assert_eq!(again.status.code(), Some(1), "nothing is left to restore");
    Ok(())
}

/// The words in which two encoded rules differ.
fn words(ours: &[u8], theirs: &[u8]) -> String {
    let words = ours.chunks(4).zip(theirs.chunks(4)).enumerate();
    let differing: Vec<_> = words.filter(|(_, (ours, theirs))| ours != theirs).collect();
    format!("{differing:?}")
}
