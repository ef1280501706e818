use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::PathBuf;

use super::*;

/// A directory with a log in it, and a tail with what it delivered.
struct Bench {
    directory: tempfile::TempDir,
    tail: Tail,
    lines: Vec<String>,
    notes: Vec<Note>,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let tail = Tail::new(directory.path().join("audit.log"), None, 1000);
        Self { directory, tail, lines: Vec::new(), notes: Vec::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn append(&self, name: &str, text: &str) {
        let mut file = OpenOptions::new().create(true).append(true).open(self.path(name)).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn rename(&self, from: &str, to: &str) {
        fs::rename(self.path(from), self.path(to)).unwrap();
    }

    /// Reads all there is, and returns what it brought.
    fn read(&mut self) -> Vec<String> {
        let mut new = Vec::new();
        loop {
            let deliver = &mut |line: Line<'_>| new.push(String::from_utf8(line.bytes.to_vec()).unwrap());
            let progress = self.tail.read(deliver).unwrap();
            self.notes.extend(progress.notes);
            if progress.bytes == 0 {
                break;
            }
        }
        self.lines.extend(new.iter().cloned());
        new
    }

    /// What a restart does: the place is written down and a new tail begins there.
    fn restart(&mut self) {
        let position = self.tail.position();
        let place = self.tail.place(position);
        self.tail = Tail::new(self.path("audit.log"), place, 1000);
    }
}

#[test]
fn a_partial_last_line_waits_for_its_end() {
    let mut bench = Bench::new();
    bench.append("audit.log", "one\ntw");
    assert_eq!(bench.read(), ["one"]);
    bench.append("audit.log", "o\nthree\n");
    assert_eq!(bench.read(), ["two", "three"]);
}

#[test]
fn rotation_by_rename_loses_nothing_written_before_or_after() {
    let mut bench = Bench::new();
    bench.append("audit.log", "one\n");
    bench.read();
    bench.append("audit.log", "two\n");
    bench.rename("audit.log", "audit.log.1");
    bench.append("audit.log.1", "three\n");
    assert_eq!(bench.read(), ["two", "three"]);
    bench.append("audit.log", "");
    bench.append("audit.log.1", "four\n");
    assert_eq!(bench.read(), ["four"]);
    bench.append("audit.log", "five\n");
    assert_eq!(bench.read(), ["five"]);
    assert_eq!(bench.notes, []);
}

#[test]
fn several_rotations_between_two_looks_are_followed_in_order() {
    let mut bench = Bench::new();
    bench.append("audit.log", "one\n");
    bench.read();
    bench.rename("audit.log", "audit.log.1");
    for text in ["two\n", "three\n", "four\n"] {
        for age in (1..4).rev() {
            let _ = fs::rename(
                bench.path(&format!("audit.log.{age}")),
                bench.path(&format!("audit.log.{}", age + 1)),
            );
        }
        bench.append("audit.log", text);
        bench.rename("audit.log", "audit.log.1");
    }
    bench.append("audit.log", "five\n");
    assert_eq!(bench.read(), ["two", "three", "four", "five"]);
}

#[test]
fn rotation_while_stopped_goes_on_in_the_renamed_file() {
    let mut bench = Bench::new();
    bench.append("audit.log", "one\ntwo\n");
    bench.read();
    bench.append("audit.log", "three\n");
    bench.restart();
    bench.rename("audit.log", "audit-2026-01-31T10-00-00.000.log");
    bench.append("audit.log", "four\n");
    assert_eq!(bench.read(), ["three", "four"]);
    assert_eq!(bench.notes, []);
}

#[test]
fn truncation_with_a_copy_reads_the_rest_of_the_copy_first() {
    let mut bench = Bench::new();
    bench.append("audit.log", "one\ntwo\nth");
    bench.read();
    bench.append("audit.log", "ree\nfour\n");
    fs::copy(bench.path("audit.log"), bench.path("audit.log.1")).unwrap();
    fs::write(bench.path("audit.log"), "five\n").unwrap();
    assert_eq!(bench.read(), ["three", "four", "five"]);
    assert_eq!(bench.notes, []);
}

#[test]
fn truncation_without_a_copy_is_a_gap_and_goes_on_from_the_beginning() {
    let mut bench = Bench::new();
    bench.append("audit.log", "one\ntwo\n");
    bench.read();
    fs::write(bench.path("audit.log"), "three\n").unwrap();
    assert_eq!(bench.read(), ["three"]);
    assert_eq!(bench.notes, [Note::Gap]);
}

#[test]
fn truncation_is_seen_though_the_file_has_grown_beyond_what_was_read() {
    let mut bench = Bench::new();
    bench.append("audit.log", "one\n");
    bench.read();
    fs::write(bench.path("audit.log"), "a line that is longer\n").unwrap();
    assert_eq!(bench.read(), ["a line that is longer"]);
    assert_eq!(bench.notes, [Note::Gap]);
}

#[test]
fn a_place_that_is_gone_is_a_gap_and_all_that_is_left_is_read() {
    let mut bench = Bench::new();
    bench.append("audit.log", "one\n");
    bench.read();
    bench.restart();
    fs::remove_file(bench.path("audit.log")).unwrap();
    bench.append("audit.log.1", "two\n");
    bench.append("audit.log", "three\n");
    assert_eq!(bench.read(), ["two", "three"]);
    assert_eq!(bench.notes, [Note::Gap]);
}

#[test]
fn an_overlong_line_is_passed_over_counted_and_takes_no_memory() {
    let mut bench = Bench::new();
    bench.append("audit.log", "one\n");
    bench.append("audit.log", &"x".repeat(CHUNK_BYTES * 5));
    bench.read();
    assert!(bench.tail.buffer.capacity() <= 3 * CHUNK_BYTES);
    bench.append("audit.log", "\ntwo\n");
    assert_eq!(bench.read(), ["two"]);
    assert_eq!(bench.notes, [Note::LongLine]);
}

#[test]
fn a_line_cut_off_by_a_rotation_is_not_taken_for_a_whole_one() {
    let mut bench = Bench::new();
    bench.append("audit.log", "one\ntw");
    bench.read();
    bench.rename("audit.log", "audit.log.1");
    bench.append("audit.log", "three\n");
    assert_eq!(bench.read(), ["three"]);
    assert_eq!(bench.notes, [Note::CutLine]);
}

#[test]
fn positions_grow_over_rotations_and_an_old_place_is_found_again() {
    let mut bench = Bench::new();
    bench.append("audit.log", "one\ntwo\n");
    let mut starts = Vec::new();
    bench.tail.read(&mut |line| starts.push(line.start)).unwrap();
    bench.rename("audit.log", "audit.log.1");
    bench.append("audit.log", "three\n");
    bench.tail.read(&mut |line| starts.push(line.start)).unwrap();
    assert_eq!(starts, [0, 4, 8]);
    let place = bench.tail.place(4);
    bench.tail = Tail::new(bench.path("audit.log"), place, 1000);
    assert_eq!(bench.read(), ["two", "three"]);
}

#[test]
fn without_a_file_it_says_not_found_until_there_is_one() {
    let mut bench = Bench::new();
    let error = bench.tail.read(&mut |_| ()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    bench.append("audit.log", "one\n");
    assert_eq!(bench.read(), ["one"]);
}

#[test]
fn only_the_logs_own_rotated_files_are_its_siblings() {
    let path = Path::new("/var/log/audit/audit.log");
    for (name, age) in [
        ("audit.log", Some(Age::Current)),
        ("audit.log.1", Some(Age::Numbered(1))),
        ("audit.log.12", Some(Age::Numbered(12))),
        ("audit.log-20260131", Some(Age::Dated)),
        ("audit-2026-01-31T10-00-00.000.log", Some(Age::Dated)),
        ("audit.log.2.gz", None),
        ("audit.log.bak", None),
        ("audit-policy.log", None),
        ("other.log", None),
        ("audit", None),
    ] {
        assert_eq!(rotation_age(path, name), age, "{name}");
    }
}
