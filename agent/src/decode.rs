//! Audit log text in, event JSON out: the whole of `auditflow-agent decode`, without a host, a clock or a thread.
//!
//! The same text always gives the same lines. Memory is constant: records are given up on after the same stretch of
//! the log as in the running agent, and lines, events and what is pending are bounded.

use std::io::{self, BufReader, Read, Write};
use std::time::Duration;

use auditflow_audit_record::{Assembler, Limits, MAX_LINE, Reader};
use auditflow_event::{Event, EventJson, JsonWriter};

use crate::source::replay::LogClock;

/// Small enough to stay in a core's cache until its lines are read.
const INPUT_BYTES: usize = 64 << 10;
const OUTPUT_BYTES: usize = 256 << 10;

/// What was decoded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Decoded {
    /// Events written.
    pub events: u64,
    /// Lines that are no audit records, or too long for one.
    pub undecodable: u64,
}

/// Decodes all of `input` into one JSON object per line.
pub fn decode(input: impl Read, output: impl Write) -> io::Result<Decoded> {
    let mut reader = Reader::new(BufReader::with_capacity(INPUT_BYTES, input), MAX_LINE);
    let mut assembler = Assembler::new(Limits::default());
    let mut clock = LogClock::default();
    let mut lines = Lines { output, text: JsonWriter::default(), decoded: Decoded::default() };
    loop {
        let next = match reader.next_record()? {
            Some(next) => next,
            None => match reader.take_rest() {
                Some(rest) => rest,
                None => break,
            },
        };
        match next {
            Ok(record) => {
                clock.saw(record.stamp.millis);
                assembler.push(record, clock.waited(Duration::ZERO));
            }
            Err(_) => lines.decoded.undecodable += 1,
        }
        lines.write(&mut assembler)?;
    }
    assembler.flush();
    lines.write(&mut assembler)?;
    lines.finish()
}

struct Lines<W> {
    output: W,
    text: JsonWriter,
    decoded: Decoded,
}

impl<W: Write> Lines<W> {
    fn write(&mut self, assembler: &mut Assembler) -> io::Result<()> {
        while let Some(audit) = assembler.pop() {
            let event = Event::audit(None, audit);
            EventJson::of(&event).write_to(&mut self.text);
            self.text.end_line();
            self.decoded.events += 1;
            if self.text.len() >= OUTPUT_BYTES {
                self.output.write_all(self.text.as_bytes())?;
                self.text.clear();
            }
        }
        Ok(())
    }

    fn finish(mut self) -> io::Result<Decoded> {
        self.output.write_all(self.text.as_bytes())?;
        self.output.flush()?;
        Ok(self.decoded)
    }
}

#[cfg(test)]
mod tests;
