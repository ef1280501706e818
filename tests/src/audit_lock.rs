//! Whose turn it is to change the machine's audit rules and settings: tests, benches and the demo exclude each other.

use std::fs::File;

use anyhow::Context;

/// Waits for the turn, which lasts until the file is dropped. Of root: nobody else may change them.
pub fn lock_kernel_audit() -> anyhow::Result<File> {
    let path = std::env::temp_dir().join("auditflow-kernel-audit-tests.lock");
    let lock = File::create(&path).with_context(|| format!("cannot open {}", path.display()))?;
    lock.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(lock)
}
