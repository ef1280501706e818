//! `struct audit_status`: what the audit subsystem is set to, and what it has counted.

const WORDS: usize = 11;

const MASK_ENABLED: u32 = 0x01;
const MASK_FAILURE: u32 = 0x02;
const MASK_PID: u32 = 0x04;
const MASK_RATE_LIMIT: u32 = 0x08;
const MASK_BACKLOG_LIMIT: u32 = 0x10;
const MASK_BACKLOG_WAIT_TIME: u32 = 0x20;

/// The audit subsystem's settings and counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Status {
    /// 0 off, 1 on, 2 on and locked until reboot.
    pub enabled: u32,
    /// What the kernel does when it cannot log: 0 nothing, 1 print, 2 panic.
    pub failure: u32,
    /// The registered audit daemon, 0 for none.
    pub pid: u32,
    /// Messages per second, 0 for no limit.
    pub rate_limit: u32,
    /// How many records may wait for the daemon.
    pub backlog_limit: u32,
    /// Records that the kernel dropped since boot (or since the counter was reset). Modulo 2³².
    pub lost: u32,
    /// Records that wait for the daemon now.
    pub backlog: u32,
    /// How long, in jiffies, a process waits for room in the backlog before its record is dropped.
    pub backlog_wait_time: u32,
}

impl Status {
    /// The rules cannot be changed until the next boot.
    pub fn is_locked(&self) -> bool {
        self.enabled == 2
    }

    /// Reads the kernel's answer; older kernels send fewer words, the missing are zero.
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let mut words = [0_u32; WORDS];
        for (word, bytes) in words.iter_mut().zip(payload.chunks_exact(4)) {
            *word = u32::from_ne_bytes(bytes.try_into().ok()?);
        }
        let [_, enabled, failure, pid, rate_limit, backlog_limit, lost, backlog, _, backlog_wait_time, _] =
            words;
        (payload.len() >= 32).then_some(Self {
            enabled,
            failure,
            pid,
            rate_limit,
            backlog_limit,
            lost,
            backlog,
            backlog_wait_time,
        })
    }
}

/// A change of some of the settings; what is `None` stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StatusChange {
    /// See [`Status::enabled`].
    pub enabled: Option<u32>,
    /// See [`Status::failure`].
    pub failure: Option<u32>,
    /// Registers (the own process id) or unregisters (0) the audit daemon.
    pub pid: Option<u32>,
    /// See [`Status::rate_limit`].
    pub rate_limit: Option<u32>,
    /// See [`Status::backlog_limit`].
    pub backlog_limit: Option<u32>,
    /// See [`Status::backlog_wait_time`].
    pub backlog_wait_time: Option<u32>,
}

impl StatusChange {
    /// The payload of an `AUDIT_SET` request.
    pub fn encode(self) -> Vec<u8> {
        let settings = [
            (1, MASK_ENABLED, self.enabled),
            (2, MASK_FAILURE, self.failure),
            (3, MASK_PID, self.pid),
            (4, MASK_RATE_LIMIT, self.rate_limit),
            (5, MASK_BACKLOG_LIMIT, self.backlog_limit),
            (9, MASK_BACKLOG_WAIT_TIME, self.backlog_wait_time),
        ];
        let mut words = [0_u32; WORDS];
        for (place, mask, value) in settings {
            if let Some(value) = value {
                words[0] |= mask;
                words[place] = value;
            }
        }
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_sets_its_words_and_says_which() {
        let bytes =
            StatusChange { pid: Some(42), backlog_limit: Some(8192), ..StatusChange::default() }.encode();
        let status = Status::parse(&bytes).unwrap();
        assert_eq!(status, Status { pid: 42, backlog_limit: 8192, ..Status::default() });
        assert_eq!(bytes[..4], (MASK_PID | MASK_BACKLOG_LIMIT).to_ne_bytes());
    }

    #[test]
    fn an_answer_of_an_older_kernel_is_read_and_a_torn_one_is_not() {
        let words = |count: u32| (0..count).flat_map(u32::to_ne_bytes).collect::<Vec<u8>>();
        assert_eq!(Status::parse(&words(8)).map(|status| status.backlog_wait_time), Some(0));
        assert_eq!(Status::parse(&words(11)).map(|status| status.backlog_wait_time), Some(9));
        assert_eq!(Status::parse(&words(7)), None);
    }
}
