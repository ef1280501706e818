//! What a node says of itself: its name, its labels, what runs on it.
//!
//! Fed by the agent's configuration and the operating system at each start; travels in every batch header, so that an
//! event is judged and shown with what held when it was sealed, in whatever order batches arrive, and in every state,
//! which says what holds now.
//!
//! **node**: host name ≤ 253, agent version ≤ 64, kernel release ≤ 128, architecture ≤ 32, each `u8` length and as
//! many bytes · labels `u8` ≤ 32, ascending by name, each: name `u8` length 1 to 63 and bytes · value `u8` length ≤ 255
//! and bytes; names and values together at most 1,024 bytes. All text is UTF-8 without control characters.

use crate::layout::{ParseError, Reader, Writer};

/// The most labels that a node has.
pub const MAX_LABELS: usize = 32;
/// The most bytes that a label's name has; it has at least one.
pub const MAX_LABEL_NAME_LEN: usize = 63;
/// The most bytes that a label's value has.
pub const MAX_LABEL_VALUE_LEN: usize = 255;
/// The most bytes that the names and values of all labels have together.
pub const MAX_LABELS_LEN: usize = 1024;

const HOST_NAME_LEN: usize = 253;
const VERSION_LEN: usize = 64;
const KERNEL_LEN: usize = 128;
const ARCHITECTURE_LEN: usize = 32;

/// What a node says of itself. Empty text means that it is not known.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeFacts {
    /// Its host name.
    pub host_name: Box<str>,
    /// The agent's version.
    pub agent_version: Box<str>,
    /// The kernel's release.
    pub kernel: Box<str>,
    /// The processor's architecture, as `uname -m` says.
    pub architecture: Box<str>,
    /// Labels from its configuration, ascending by name.
    pub labels: Vec<(Box<str>, Box<str>)>,
}

impl NodeFacts {
    /// The facts, each text cut to its bound and without control characters. Labels are taken as they are: whoever
    /// reads them from a configuration checks them there, and [`crate::seal`] checks them again.
    pub fn new(
        host_name: &str,
        agent_version: &str,
        kernel: &str,
        architecture: &str,
        labels: impl IntoIterator<Item = (String, String)>,
    ) -> Self {
        let mut labels: Vec<(Box<str>, Box<str>)> =
            labels.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        labels.sort_unstable();
        Self {
            host_name: bounded(host_name, HOST_NAME_LEN),
            agent_version: bounded(agent_version, VERSION_LEN),
            kernel: bounded(kernel, KERNEL_LEN),
            architecture: bounded(architecture, ARCHITECTURE_LEN),
            labels,
        }
    }

    /// What a writer must keep so that a reader takes the facts.
    pub fn in_bounds(&self) -> bool {
        let texts = [
            (&self.host_name, HOST_NAME_LEN),
            (&self.agent_version, VERSION_LEN),
            (&self.kernel, KERNEL_LEN),
            (&self.architecture, ARCHITECTURE_LEN),
        ];
        let labels_len: usize = self.labels.iter().map(|(name, value)| name.len() + value.len()).sum();
        texts.iter().all(|(text, bound)| is_text(text, *bound))
            && self.labels.len() <= MAX_LABELS
            && labels_len <= MAX_LABELS_LEN
            && self.labels.is_sorted_by(|(before, _), (name, _)| before < name)
            && self.labels.iter().all(|(name, value)| {
                !name.is_empty() && is_text(name, MAX_LABEL_NAME_LEN) && is_text(value, MAX_LABEL_VALUE_LEN)
            })
    }

    pub(crate) fn write(&self, out: &mut Writer) {
        for text in [&self.host_name, &self.agent_version, &self.kernel, &self.architecture] {
            write_text(text, out);
        }
        out.u8(self.labels.len() as u8);
        for (name, value) in &self.labels {
            write_text(name, out);
            write_text(value, out);
        }
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, ParseError> {
        let [host_name, agent_version, kernel, architecture] =
            [read_text(reader)?, read_text(reader)?, read_text(reader)?, read_text(reader)?];
        let count = usize::from(reader.u8()?);
        if count > MAX_LABELS {
            return Err(reader.invalid("number of labels"));
        }
        let labels = (0..count).map(|_| Ok((read_text(reader)?, read_text(reader)?)));
        let labels = labels.collect::<Result<_, ParseError>>()?;
        let facts = Self { host_name, agent_version, kernel, architecture, labels };
        if facts.in_bounds() { Ok(facts) } else { Err(reader.invalid("node facts")) }
    }
}

fn is_text(text: &str, bound: usize) -> bool {
    text.len() <= bound && !text.chars().any(char::is_control)
}

fn bounded(text: &str, bound: usize) -> Box<str> {
    let end = text.floor_char_boundary(bound);
    text.get(..end).unwrap_or_default().chars().filter(|c| !c.is_control()).collect()
}

fn write_text(text: &str, out: &mut Writer) {
    out.u8(text.len() as u8);
    out.raw(text.as_bytes());
}

fn read_text(reader: &mut Reader<'_>) -> Result<Box<str>, ParseError> {
    let len = usize::from(reader.u8()?);
    let bytes = reader.take(len)?;
    std::str::from_utf8(bytes).map(Into::into).map_err(|_| reader.invalid("text"))
}
