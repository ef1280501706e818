//! A TCP proxy between agent and collector that can cut, stall and corrupt what passes.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// What the proxy does to what passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Fault {
    /// Nothing.
    None,
    /// Refuses connections and cuts those that are open.
    Cut,
    /// Passes a few bytes, then rests.
    Slow,
    /// Flips a bit of every so many bytes.
    Corrupt,
    /// Passes what is asked and loses what is answered, so that the sender never learns that it arrived.
    LoseAnswers,
}

/// A running proxy; ends when dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    target: String,
    fault: AtomicU8,
    ended: AtomicBool,
    passed: AtomicU64,
    open: Mutex<Vec<TcpStream>>,
}

impl Proxy {
    /// Listens on a free port and passes everything to `target` (`host:port`).
    pub fn start(target: &str) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            target: target.to_owned(),
            fault: AtomicU8::new(Fault::None as u8),
            ended: AtomicBool::new(false),
            passed: AtomicU64::new(0),
            open: Mutex::new(Vec::new()),
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if accepting.ended.load(Ordering::Acquire) {
                    return;
                }
                accepting.connect(client);
            }
        });
        Ok(Self { address, shared })
    }

    /// `host:port` to connect to.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// What it does from now on; connections that are open are cut, so that it holds at once.
    pub fn set(&self, fault: Fault) {
        self.shared.fault.store(fault as u8, Ordering::Release);
        self.shared.cut();
    }

    /// How many bytes have passed so far.
    pub fn passed(&self) -> u64 {
        self.shared.passed.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
        self.shared.cut();
        // Wakes the thread that accepts, so that it sees the end.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn connect(self: &Arc<Self>, client: TcpStream) {
        if self.fault() == Fault::Cut as u8 {
            return;
        }
        let Ok(server) = TcpStream::connect(&self.target) else { return };
        let Ok(handles) =
            [&client, &server].map(TcpStream::try_clone).into_iter().collect::<Result<Vec<_>, _>>()
        else {
            return;
        };
        self.open.lock().unwrap_or_else(PoisonError::into_inner).extend(handles);
        let (Ok(answers_to), Ok(asks)) = (client.try_clone(), server.try_clone()) else { return };
        self.pass(client, asks, false);
        self.pass(server, answers_to, true);
    }

    fn pass(self: &Arc<Self>, mut from: TcpStream, mut to: TcpStream, are_answers: bool) {
        const CORRUPT_EVERY: usize = 997;
        let shared = Arc::clone(self);
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            loop {
                let fault = shared.fault();
                let limit = if fault == Fault::Slow as u8 { 64 } else { buffer.len() };
                let Ok(length @ 1..) = from.read(&mut buffer[..limit]) else { break };
                if fault == Fault::Slow as u8 {
                    thread::sleep(Duration::from_millis(5));
                }
                if fault == Fault::Corrupt as u8 {
                    buffer[..length].iter_mut().step_by(CORRUPT_EVERY).for_each(|byte| *byte ^= 0x10);
                }
                if are_answers && fault == Fault::LoseAnswers as u8 {
                    continue;
                }
                shared.passed.fetch_add(length as u64, Ordering::Relaxed);
                if to.write_all(&buffer[..length]).is_err() {
                    break;
                }
            }
            let _ = to.shutdown(Shutdown::Both);
            let _ = from.shutdown(Shutdown::Both);
        });
    }

    fn fault(&self) -> u8 {
        self.fault.load(Ordering::Acquire)
    }

    fn cut(&self) {
        for stream in self.open.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}
