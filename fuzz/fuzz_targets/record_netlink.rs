//! The kind and payload of one netlink message.
#![no_main]

#[path = "../checks/audit_record.rs"]
#[allow(dead_code)]
mod audit_record;

libfuzzer_sys::fuzz_target!(|data: &[u8]| audit_record::record_netlink(data));
