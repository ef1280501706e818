//! What the tests of this crate share: the corpora, and a second, independent way from audit text to JSON.

#![allow(dead_code, reason = "every test binary uses a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends by panicking")]
#![allow(clippy::format_push_string, reason = "a test may allocate")]

pub(crate) mod decode;
pub(crate) mod files;
pub(crate) mod generate;
pub(crate) mod oracle;
pub(crate) mod sets;

use std::path::PathBuf;

/// A folder of the corpora beside the workspace, or a loud skip.
pub(crate) fn corpus(name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/corpus").join(name);
    if path.exists() {
        return Some(path);
    }
    eprintln!("SKIPPED: {} is not there", path.display());
    None
}

/// SigmaHQ's rules.
pub(crate) fn sigma_rules() -> Option<PathBuf> {
    corpus("sigma/rules")
}

/// The kernel audit log, lines as auditd wrote them.
pub(crate) fn kernel_log() -> Option<Vec<u8>> {
    let file = std::fs::File::open(corpus("kernel-audit.log.zst")?).expect("the corpus opens");
    Some(zstd::decode_all(file).expect("the corpus is zstd"))
}

/// The Kubernetes audit log.
pub(crate) fn kubernetes_log() -> Option<String> {
    Some(std::fs::read_to_string(corpus("kubernetes-audit.jsonl")?).expect("the corpus is text"))
}
