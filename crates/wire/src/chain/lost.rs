//! The site's signed word on numbers that never came and will not: what an export says where a row is missing.
//!
//! Fed by the collector's `export` from its ledger; read by `verify --export`, which takes only the site's own word.
//!
//! Body (signed by the site key): node 16 · epoch 16 · collector time `i64` microseconds · spans varint 1 to 64,
//! ascending and apart, each first and last `u64`.

use auditflow_event::{NodeId, Timestamp};

use crate::ids::{BatchSeq, EpochId, Span};
use crate::keys::{Domain, Site};
use crate::layout::{ParseError, Reader, Writer};
use crate::statement::{Signed, Statement};

/// The most spans that one statement lists; what is more goes into another one.
pub const MAX_SPANS: usize = 64;

/// Lost numbers with the site's signature.
pub type SignedLost = Signed<Lost>;

/// Numbers of an epoch that were given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// The node.
    pub node: NodeId,
    /// The epoch.
    pub epoch: EpochId,
    /// When the site says so, by the collector's clock.
    pub time: Timestamp,
    /// The numbers, ascending.
    pub spans: Vec<Span>,
}

impl Statement for Lost {
    const WHAT: &'static str = "list of lost numbers";
    const MAGIC: [u8; 4] = *b"AFLS";
    const DOMAIN: Domain = Domain("auditflow lost numbers v1");
    const MAX_LEN: usize = 2048;
    type Signer = Site;

    fn write(&self, out: &mut Writer) {
        out.raw(self.node.as_bytes());
        out.raw(self.epoch.as_bytes());
        out.time(self.time);
        let spans = self.spans.get(..MAX_SPANS).unwrap_or(&self.spans);
        out.varint(spans.len() as u64);
        for span in spans {
            out.span(*span);
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, ParseError> {
        let (node, epoch, time) = (reader.node()?, reader.epoch()?, reader.time("time")?);
        let count = reader.bounded("spans", MAX_SPANS as u64)?;
        let mut spans: Vec<Span> = Vec::with_capacity(count as usize);
        for _ in 0..count {
            let span = reader.span()?;
            let after = spans.last().map_or(0, |before| before.last().get() + 1);
            if span.first().get() <= after && after > BatchSeq::FIRST.get() {
                return Err(reader.invalid("order of spans"));
            }
            spans.push(span);
        }
        if spans.is_empty() {
            return Err(reader.invalid("spans"));
        }
        Ok(Self { node, epoch, time, spans })
    }
}
