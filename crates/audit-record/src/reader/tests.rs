use std::io::BufReader;

use proptest::prelude::*;

use super::*;

const RECORD: &str = "type=EOE msg=audit(1.000:1): ";

/// What the lines are when the bytes arrive in chunks of that size.
fn lines(bytes: &[u8], chunk_size: usize, max: usize) -> Vec<Option<Vec<u8>>> {
    let owned = |line: Line<'_>| match line {
        Line::Whole(line) => Some(line.to_vec()),
        Line::TooLong => None,
    };
    let mut lines = Lines::new(max);
    let mut found = Vec::new();
    for mut chunk in bytes.chunks(chunk_size) {
        while let Some(line) = lines.next_line(&mut chunk) {
            found.push(owned(line));
        }
        assert!(lines.held() <= max);
    }
    found.extend(lines.take_rest().map(owned));
    found
}

#[test]
fn a_line_that_never_ends_is_passed_over_in_constant_memory() {
    let mut lines = Lines::new(100);
    for _ in 0..10_000 {
        let mut chunk = [b'x'; 64].as_slice();
        assert_eq!(lines.next_line(&mut chunk), None);
        assert!(lines.held() <= 100);
    }
    let mut chunk = b"x\nnext\n".as_slice();
    assert_eq!(lines.next_line(&mut chunk), Some(Line::TooLong));
    assert_eq!(lines.next_line(&mut chunk), Some(Line::Whole(b"next")));
    assert_eq!(lines.next_line(&mut chunk), None);
    assert_eq!(lines.take_rest(), None);
}

#[test]
fn a_reader_gives_records_and_what_was_wrong_with_the_other_lines() {
    let text = format!("{RECORD}\n\n  \nnonsense\n{}\n{RECORD}\n{RECORD}", "x".repeat(200));
    for capacity in [1, 7, 4096] {
        let mut reader = Reader::new(BufReader::with_capacity(capacity, text.as_bytes()), 100);
        let record = Record::from_line(RECORD.as_bytes());
        assert_eq!(reader.next_record().unwrap(), Some(record.clone()));
        assert_eq!(reader.next_record().unwrap(), Some(Err(ParseError::NoType)));
        assert_eq!(reader.next_record().unwrap(), Some(Err(ParseError::TooLong)));
        assert_eq!(reader.next_record().unwrap(), Some(record.clone()));
        assert_eq!(reader.next_record().unwrap(), None);
        assert_eq!(
            reader.offset() as usize,
            text.len() - RECORD.len(),
            "the unfinished line is not read yet"
        );
        assert_eq!(reader.take_rest(), Some(record));
        assert_eq!(reader.take_rest(), None);
    }
}

#[test]
fn a_growing_file_is_read_on_where_it_ended() {
    /// Chunks, an end of file after each.
    struct Growing(Vec<&'static [u8]>);
    impl io::Read for Growing {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let next = self.0.pop().unwrap_or_default();
            buffer.get_mut(..next.len()).unwrap().copy_from_slice(next);
            Ok(next.len())
        }
    }
    let parts = vec![b".000:1): \n".as_slice(), b"", b"audit(1", b"", b"type=EOE msg="];
    let mut reader = Reader::new(BufReader::new(Growing(parts)), MAX_LINE);
    assert_eq!(reader.next_record().unwrap(), None);
    assert_eq!(reader.next_record().unwrap(), None);
    assert_eq!(reader.offset(), 0);
    assert_eq!(reader.next_record().unwrap(), Some(Record::from_line(RECORD.as_bytes())));
    assert_eq!(reader.offset() as usize, RECORD.len() + 1);
}

#[test]
fn an_interrupted_read_is_tried_again_and_a_failed_one_is_told() {
    struct Failing(Vec<ErrorKind>);
    impl io::Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            self.0.pop().map_or(Ok(0), |kind| Err(kind.into()))
        }
    }
    let kinds = vec![ErrorKind::TimedOut, ErrorKind::Interrupted];
    let mut reader = Reader::new(BufReader::new(Failing(kinds)), MAX_LINE);
    assert_eq!(reader.next_record().unwrap_err().kind(), ErrorKind::TimedOut);
    assert_eq!(reader.next_record().unwrap(), None);
}

proptest! {
    #[test]
    fn lines_do_not_depend_on_how_the_bytes_arrive(
        bytes in prop::collection::vec(prop::sample::select(b"ab\n".to_vec()), 0..200),
        chunk_size in 1..50usize,
        max in 0..20usize,
    ) {
        let mut expected: Vec<_> =
            bytes.split(|&b| b == b'\n').map(|line| (line.len() <= max).then(|| line.to_vec())).collect();
        if expected.last() == Some(&Some(Vec::new())) {
            expected.pop();
        }
        prop_assert_eq!(lines(&bytes, chunk_size, max), expected);
    }
}
