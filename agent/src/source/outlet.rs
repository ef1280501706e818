//! The border between the sources (many tasks and threads) and the pipeline (one thread): a queue bounded in bytes.
//!
//! Fed by sources through [`Outlet`]s and by the rest of the agent through [`Commands`]; emptied by the pipeline
//! thread through the [`Inbox`]. Guarantees order per sender, and that the queue never holds more than its capacity,
//! save that a single output larger than all of it is let in when the queue is empty (it could never go on otherwise;
//! sources bound their outputs). Commands are few, small, and overtake outputs.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::Output;

/// The pipeline is gone: the agent is stopping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the pipeline has stopped")]
pub struct Closed;

/// What the pipeline receives.
#[derive(Debug)]
pub enum Item<C> {
    /// What a source handed over.
    Output(Output),
    /// What the agent asks of the pipeline.
    Command(C),
}

/// A queue of `capacity_bytes` for outputs, and its three ends.
pub fn channel<C>(capacity_bytes: usize) -> (Outlet, Commands<C>, Inbox<C>)
where
    C: Send + 'static,
{
    let outputs = Arc::new(Outputs {
        capacity: capacity_bytes,
        state: Mutex::new(State { queue: VecDeque::new(), bytes: 0, closed: false, commands_waiting: 0 }),
        arrived: Condvar::new(),
        room: Condvar::new(),
        room_for_tasks: Notify::new(),
        peak: AtomicUsize::new(0),
    });
    let commands = Arc::new(Mutex::new(VecDeque::new()));
    (
        Outlet(Arc::clone(&outputs)),
        Commands { outputs: Arc::clone(&outputs), queue: Arc::clone(&commands) },
        Inbox { outputs, commands },
    )
}

/// A source's end; cheap to clone.
#[derive(Debug, Clone)]
pub struct Outlet(Arc<Outputs>);

impl Outlet {
    /// Waits until the output fits. For sources that can wait: what they read stays where it is.
    pub async fn send(&self, mut output: Output) -> Result<(), Closed> {
        loop {
            let room = self.0.room_for_tasks.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            match self.0.push(output) {
                Push::Taken => return Ok(()),
                Push::Closed => return Err(Closed),
                Push::Full(returned) => output = returned,
            }
            room.await;
        }
    }

    /// Waits until the output fits, on a thread of the source's own.
    pub fn blocking_send(&self, mut output: Output) -> Result<(), Closed> {
        loop {
            match self.0.push(output) {
                Push::Taken => return Ok(()),
                Push::Closed => return Err(Closed),
                Push::Full(returned) => output = returned,
            }
            let state = self.0.lock();
            if !state.closed && state.bytes > 0 {
                drop(self.0.room.wait(state));
            }
        }
    }

    /// Hands over the output if it fits now, and gives it back otherwise (full, or the agent is stopping). For live
    /// sources: the caller counts what it gets back as lost and declares it with its next output.
    #[allow(clippy::result_large_err)] // the caller has the output at hand anyway; boxing it would cost every call
    pub fn try_send(&self, output: Output) -> Result<(), Output> {
        match self.0.push_or_return(output) {
            None => Ok(()),
            Some(returned) => Err(returned),
        }
    }

    /// The most bytes that were ever queued.
    pub fn peak_bytes(&self) -> usize {
        self.0.peak.load(Ordering::Relaxed)
    }
}

/// The agent's end for commands; cheap to clone.
#[derive(Debug)]
pub struct Commands<C> {
    outputs: Arc<Outputs>,
    queue: Arc<Mutex<VecDeque<C>>>,
}

impl<C> Clone for Commands<C> {
    fn clone(&self) -> Self {
        Self { outputs: Arc::clone(&self.outputs), queue: Arc::clone(&self.queue) }
    }
}

impl<C> Commands<C> {
    /// Gives the pipeline something to do; it comes before what waits of the sources.
    pub fn send(&self, command: C) -> Result<(), Closed> {
        let mut state = self.outputs.lock();
        if state.closed {
            return Err(Closed);
        }
        lock(&self.queue).push_back(command);
        state.commands_waiting += 1;
        drop(state);
        self.outputs.arrived.notify_one();
        Ok(())
    }
}

/// The pipeline's end. Dropping it closes the queue.
#[derive(Debug)]
pub struct Inbox<C> {
    outputs: Arc<Outputs>,
    commands: Arc<Mutex<VecDeque<C>>>,
}

impl<C> Inbox<C> {
    /// What came next, commands first; `None` when nothing did until `deadline`. Without `outputs` only commands are
    /// received, and outputs stay where they are.
    pub fn receive(&self, deadline: Instant, outputs: bool) -> Option<Item<C>> {
        let mut state = self.outputs.lock();
        loop {
            if state.commands_waiting > 0 {
                state.commands_waiting -= 1;
                if let Some(command) = lock(&self.commands).pop_front() {
                    return Some(Item::Command(command));
                }
            }
            if outputs && let Some((output, weight)) = state.queue.pop_front() {
                state.bytes -= weight;
                drop(state);
                self.outputs.room.notify_all();
                self.outputs.room_for_tasks.notify_waiters();
                return Some(Item::Output(output));
            }
            let wait = deadline.saturating_duration_since(Instant::now());
            if wait == Duration::ZERO {
                return None;
            }
            state = self.outputs.arrived.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl<C> Drop for Inbox<C> {
    fn drop(&mut self) {
        self.outputs.lock().closed = true;
        self.outputs.room.notify_all();
        self.outputs.room_for_tasks.notify_waiters();
    }
}

#[derive(Debug)]
struct Outputs {
    capacity: usize,
    state: Mutex<State>,
    arrived: Condvar,
    room: Condvar,
    room_for_tasks: Notify,
    peak: AtomicUsize,
}

#[derive(Debug)]
struct State {
    queue: VecDeque<(Output, usize)>,
    bytes: usize,
    closed: bool,
    commands_waiting: usize,
}

enum Push {
    Taken,
    Full(Output),
    Closed,
}

impl Outputs {
    fn push(&self, output: Output) -> Push {
        match self.push_or_return(output) {
            None => Push::Taken,
            Some(_) if self.lock().closed => Push::Closed,
            Some(output) => Push::Full(output),
        }
    }

    fn push_or_return(&self, output: Output) -> Option<Output> {
        let weight = output.weight();
        let mut state = self.lock();
        let fits = state.bytes == 0 || state.bytes + weight <= self.capacity;
        if state.closed || !fits {
            return Some(output);
        }
        state.bytes += weight;
        self.peak.fetch_max(state.bytes, Ordering::Relaxed);
        state.queue.push_back((output, weight));
        drop(state);
        self.arrived.notify_one();
        None
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

// A sender that panicked between two field writes cannot leave the queue half-changed: every change is made in one go.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
