//! `sd_notify(3)`: what systemd is told. Without `NOTIFY_SOCKET` all of it does nothing.

use sd_notify::NotifyState;
use tokio::time::MissedTickBehavior;
use tokio_util::task::AbortOnDropHandle;

use crate::health::Health;

pub(super) fn ready(status: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(&one_line(status))]);
}

pub(super) fn status(text: &str) {
    send(&[NotifyState::Status(&one_line(text))]);
}

pub(super) fn stopping() {
    send(&[NotifyState::Stopping]);
}

pub(super) fn reloading() {
    // Type=notify-reload needs the time of the request on the monotonic clock with it.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(_) => send(&[NotifyState::Reloading]),
    }
}

pub(super) fn reloaded() {
    send(&[NotifyState::Ready]);
}

/// If systemd watches us, tells it at half its interval that we live, as long as `health` says so.
pub(super) fn keep_watchdog(health: Health) -> Option<AbortOnDropHandle<()>> {
    let interval = sd_notify::watchdog_enabled().filter(|interval| !interval.is_zero())?;
    let mut ticks = tokio::time::interval(interval / 2);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let keep = async move {
        loop {
            ticks.tick().await;
            if health.alive() {
                send(&[NotifyState::Watchdog]);
            } else {
                tracing::error!("a part of the program hangs: no longer telling systemd that all is well");
            }
        }
    };
    Some(AbortOnDropHandle::new(tokio::spawn(keep)))
}

/// A line break would end the status and begin another assignment.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!("systemd could not be told: {error}");
    }
}
