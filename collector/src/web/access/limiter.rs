//! Slows down guessing of passwords: so many failures per caller and user, then a wait.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Failures that are free.
const FREE: u32 = 5;
/// How long a failure counts.
const WINDOW: Duration = Duration::from_mins(1);
/// Callers remembered; with more, everybody unknown waits until one is forgotten.
const REMEMBERED: usize = 4096;

/// Whose attempts are counted together.
pub(super) type Caller = (Option<IpAddr>, String);

/// Counts failed logins. Time is passed in, from any fixed start.
#[derive(Default)]
pub(super) struct Limiter {
    failures: Mutex<HashMap<Caller, (Duration, u32)>>,
}

impl Limiter {
    /// Takes one attempt, or says how long to wait. An attempt that succeeds is given back by [`Limiter::succeeded`].
    pub(super) fn attempt(&self, caller: Caller, now: Duration) -> Result<(), Duration> {
        let mut failures = self.lock();
        if failures.len() >= REMEMBERED && !failures.contains_key(&caller) {
            failures.retain(|_, (since, _)| now.saturating_sub(*since) < WINDOW);
            if failures.len() >= REMEMBERED {
                return Err(WINDOW);
            }
        }
        let entry = failures.entry(caller).or_insert((now, 0));
        if now.saturating_sub(entry.0) >= WINDOW {
            *entry = (now, 0);
        }
        if entry.1 >= FREE {
            return Err(WINDOW.saturating_sub(now.saturating_sub(entry.0)));
        }
        entry.1 += 1;
        Ok(())
    }

    /// Forgets a caller's failures.
    pub(super) fn succeeded(&self, caller: &Caller) {
        self.lock().remove(caller);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Caller, (Duration, u32)>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(user: &str) -> Caller {
        (None, user.to_owned())
    }

    #[test]
    fn a_caller_waits_after_five_failures_and_others_do_not() {
        let limiter = Limiter::default();
        let at = Duration::from_secs;
        for second in 0..5 {
            assert_eq!(limiter.attempt(caller("admin"), at(second)), Ok(()));
        }
        assert_eq!(limiter.attempt(caller("admin"), at(10)), Err(at(50)));
        assert_eq!(limiter.attempt(caller("bob"), at(10)), Ok(()));
        assert_eq!(limiter.attempt(caller("admin"), at(60)), Ok(()));
    }

    #[test]
    fn a_success_forgets_the_failures() {
        let limiter = Limiter::default();
        for _ in 0..20 {
            assert_eq!(limiter.attempt(caller("admin"), Duration::ZERO), Ok(()));
            limiter.succeeded(&caller("admin"));
        }
    }

    #[test]
    fn memory_is_bounded_however_many_names_are_tried() {
        let limiter = Limiter::default();
        let mut refused = 0;
        for number in 0..REMEMBERED + 10 {
            refused += usize::from(limiter.attempt(caller(&number.to_string()), Duration::ZERO).is_err());
        }
        assert_eq!(refused, 10);
        assert_eq!(limiter.attempt(caller("later"), WINDOW), Ok(()));
        assert_eq!(limiter.lock().len(), 1);
    }
}
