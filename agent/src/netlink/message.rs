//! Netlink messages: a 16-byte header (length, type, flags, sequence, port) and a payload.

use nix::errno::Errno;

/// Read the audit status.
pub const AUDIT_GET: u16 = 1000;
/// Change the audit status.
pub const AUDIT_SET: u16 = 1001;
/// Load a rule.
pub const AUDIT_ADD_RULE: u16 = 1011;
/// Remove a rule.
pub const AUDIT_DEL_RULE: u16 = 1012;
/// List the rules.
pub const AUDIT_LIST_RULES: u16 = 1013;
/// The kernel asks a registered daemon whether it still lives; reading it is the answer.
pub const AUDIT_REPLACE: u16 = 1329;
/// An acknowledgement or an error.
pub const NLMSG_ERROR: u16 = 2;
/// The end of a list.
pub const NLMSG_DONE: u16 = 3;

/// Types below this are netlink's and audit's own control messages; records begin here (`AUDIT_FIRST_USER_MSG`).
const FIRST_RECORD: u16 = 1100;

const HEADER_BYTES: usize = 16;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;

/// One received message.
#[derive(Debug, Clone, Copy)]
pub struct Message<'b> {
    /// Its type: a control message, or a record's type.
    pub kind: u16,
    /// The sequence number of the request that it answers; zero for records.
    pub sequence: u32,
    /// What follows the header.
    pub payload: &'b [u8],
}

impl<'b> Message<'b> {
    /// Cuts a received datagram; `None` if it is shorter than a header.
    pub fn parse(datagram: &'b [u8]) -> Option<Self> {
        let (header, payload) = datagram.split_at_checked(HEADER_BYTES)?;
        Some(Self {
            kind: u16::from_ne_bytes(header[4..6].try_into().ok()?),
            sequence: u32::from_ne_bytes(header[8..12].try_into().ok()?),
            payload,
        })
    }

    /// Whether this is an audit record and not an answer to a request.
    pub fn is_record(&self) -> bool {
        self.kind >= FIRST_RECORD && self.kind != AUDIT_REPLACE
    }

    /// If this acknowledges the request with that sequence number, how the request went.
    pub fn acknowledges(&self, sequence: u32) -> Option<Result<(), Errno>> {
        if self.kind != NLMSG_ERROR || self.sequence != sequence {
            return None;
        }
        let code = i32::from_ne_bytes(self.payload.get(..4)?.try_into().ok()?);
        Some(if code == 0 { Ok(()) } else { Err(Errno::from_raw(code.saturating_neg())) })
    }
}

/// A request that asks for an acknowledgement.
pub fn request(kind: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
    let length = HEADER_BYTES + payload.len();
    let mut bytes = Vec::with_capacity(length);
    bytes.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(&(NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
    bytes.extend_from_slice(&sequence.to_ne_bytes());
    bytes.extend_from_slice(&0_u32.to_ne_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_parses_as_the_message_it_is() {
        let bytes = request(AUDIT_GET, 7, b"abc");
        let message = Message::parse(&bytes).unwrap();
        assert_eq!((message.kind, message.sequence, message.payload), (AUDIT_GET, 7, &b"abc"[..]));
        assert!(!message.is_record());
    }

    #[test]
    fn an_acknowledgement_tells_success_from_failure_and_mine_from_anothers() {
        let answer = |code: i32| request(NLMSG_ERROR, 7, &code.to_ne_bytes());
        assert_eq!(Message::parse(&answer(0)).unwrap().acknowledges(7), Some(Ok(())));
        assert_eq!(Message::parse(&answer(-17)).unwrap().acknowledges(7), Some(Err(Errno::EEXIST)));
        assert_eq!(Message::parse(&answer(0)).unwrap().acknowledges(8), None);
        assert_eq!(
            Message::parse(&answer(i32::MIN)).unwrap().acknowledges(7),
            Some(Err(Errno::UnknownErrno))
        );
    }

    #[test]
    fn what_is_shorter_than_a_header_is_no_message() {
        assert!(Message::parse(&[0; 15]).is_none());
    }
}
