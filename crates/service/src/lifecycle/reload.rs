//! Requests to reload: many may ask (SIGHUP, the API), one task acts; requests that come meanwhile count as one.

use tokio::sync::watch;

use super::notify;

/// Where the task that reloads waits for requests.
#[derive(Clone)]
pub struct Reloads {
    requests: watch::Receiver<()>,
    trigger: ReloadTrigger,
}

impl Reloads {
    pub(super) fn new() -> Self {
        let (sender, requests) = watch::channel(());
        Self { requests, trigger: ReloadTrigger { sender } }
    }

    pub(super) fn trigger(&self) -> ReloadTrigger {
        self.trigger.clone()
    }

    /// Waits for the next request. systemd shows the program as reloading until the answer is dropped, and a request
    /// that comes before that is answered next.
    pub async fn next(&mut self) -> Reload {
        // Never fails: the sender lives in self.
        let _ = self.requests.changed().await;
        notify::reloading();
        Reload { _private: () }
    }
}

/// A reload in progress; drop it when it is done, whether it succeeded or not.
pub struct Reload {
    _private: (),
}

impl Drop for Reload {
    fn drop(&mut self) {
        notify::reloaded();
    }
}

/// Asks for a reload. Cheap to clone.
#[derive(Clone)]
pub struct ReloadTrigger {
    sender: watch::Sender<()>,
}

impl ReloadTrigger {
    /// Asks for a reload; the answer comes through the log and the parts' health.
    pub fn request(&self) {
        self.sender.send_replace(());
    }
}
