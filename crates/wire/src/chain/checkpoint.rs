//! The site's signed word on the first numbers of an epoch, when retention removes even their ledger rows.
//!
//! Fed by the collector's retention, from an [`super::EpochReport`] of what it is about to remove; read by
//! [`super::Verifier`], which goes on after it. A later one of the same epoch stands for the numbers of the earlier
//! one as well: it carries their tally on. How the epoch began stays in it, so that the epoch before cannot vanish.
//!
//! Body (signed by the site key): node 16 · epoch 16 · last number `u64`, digest 32 · link of number 1 `u8` 0 or 1,
//! [as in a header] · cumulative events `u8` 0 or 1, [varint] · verified, evicted, expired, lost, bad varints ·
//! collector time `i64` microseconds.

use auditflow_event::{NodeId, Timestamp};

use crate::header::Link;
use crate::ids::{EpochId, Head};
use crate::keys::{Domain, Site};
use crate::layout::{ParseError, Reader, Writer};
use crate::statement::{Signed, Statement};

/// A checkpoint with its signature.
pub type SignedCheckpoint = Signed<Checkpoint>;

/// What stands for all numbers from 1 through `last`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The node.
    pub node: NodeId,
    /// The epoch.
    pub epoch: EpochId,
    /// The last number and its digest, which the next one links to.
    pub last: Head,
    /// How the epoch began, if its first number was not lost.
    pub link: Option<Link>,
    /// Events of the epoch through `last`, where the last header said so.
    pub cumulative: Option<u64>,
    /// What `verify` had said of the numbers.
    pub tally: Tally,
    /// When, by the collector's clock.
    pub time: Timestamp,
}

/// How many numbers were what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Header, link and payload proved, the payload possibly dropped by retention since.
    pub verified: u64,
    /// Evicted by the node.
    pub evicted: u64,
    /// Dropped by retention before.
    pub expired: u64,
    /// Lost.
    pub lost: u64,
    /// Bad.
    pub bad: u64,
}

impl Tally {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            verified: self.verified.saturating_add(other.verified),
            evicted: self.evicted.saturating_add(other.evicted),
            expired: self.expired.saturating_add(other.expired),
            lost: self.lost.saturating_add(other.lost),
            bad: self.bad.saturating_add(other.bad),
        }
    }
}

impl Statement for Checkpoint {
    const WHAT: &'static str = "checkpoint";
    const MAGIC: [u8; 4] = *b"AFCP";
    const DOMAIN: Domain = Domain("auditflow checkpoint v1");
    const MAX_LEN: usize = 512;
    type Signer = Site;

    fn write(&self, out: &mut Writer) {
        out.raw(self.node.as_bytes());
        out.raw(self.epoch.as_bytes());
        out.head(&self.last);
        out.u8(self.link.is_some().into());
        self.link.iter().for_each(|link| link.write(out));
        out.u8(self.cumulative.is_some().into());
        self.cumulative.iter().for_each(|cumulative| out.varint(*cumulative));
        let Tally { verified, evicted, expired, lost, bad } = self.tally;
        for count in [verified, evicted, expired, lost, bad] {
            out.varint(count);
        }
        out.time(self.time);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, ParseError> {
        let (node, epoch, last) = (reader.node()?, reader.epoch()?, reader.head()?);
        let link = match reader.u8()? {
            0 => None,
            1 => match Link::read(reader, epoch)? {
                Link::Previous(_) => return Err(reader.invalid("link")),
                link => Some(link),
            },
            _ => return Err(reader.invalid("link")),
        };
        let cumulative = match reader.u8()? {
            0 => None,
            1 => Some(reader.varint()?),
            _ => return Err(reader.invalid("event count")),
        };
        let tally = Tally {
            verified: reader.varint()?,
            evicted: reader.varint()?,
            expired: reader.varint()?,
            lost: reader.varint()?,
            bad: reader.varint()?,
        };
        Ok(Self { node, epoch, last, link, cumulative, tally, time: reader.time("time")? })
    }
}
