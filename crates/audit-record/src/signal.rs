//! Signals, as the `sig` field and a `kill` call's arguments hold them (`asm-generic/signal.h`, the same on every
//! architecture that AuditFlow runs on).

/// The name of a signal; the real-time ones, from 32 on, have none.
pub fn name(number: u32) -> Option<&'static str> {
    NAMES.get(number as usize).copied().filter(|name| !name.is_empty())
}

/// The name at each number; 0 is no signal.
#[rustfmt::skip]
const NAMES: &[&str] = &[
    "", "SIGHUP", "SIGINT", "SIGQUIT", "SIGILL", "SIGTRAP", "SIGABRT", "SIGBUS", "SIGFPE", "SIGKILL",
    "SIGUSR1", "SIGSEGV", "SIGUSR2", "SIGPIPE", "SIGALRM", "SIGTERM", "SIGSTKFLT", "SIGCHLD", "SIGCONT",
    "SIGSTOP", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGURG", "SIGXCPU", "SIGXFSZ", "SIGVTALRM", "SIGPROF",
    "SIGWINCH", "SIGIO", "SIGPWR", "SIGSYS",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_their_usual_names() {
        for (number, expected) in [
            (0, None),
            (1, Some("SIGHUP")),
            (9, Some("SIGKILL")),
            (11, Some("SIGSEGV")),
            (15, Some("SIGTERM")),
            (16, Some("SIGSTKFLT")),
            (17, Some("SIGCHLD")),
            (31, Some("SIGSYS")),
            (32, None),
        ] {
            assert_eq!(name(number), expected, "{number}");
        }
    }
}
