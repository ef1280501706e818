//! Kernel audit records: from bytes to records to one assembled event.
//!
//! Fed by whatever reads audit text (the netlink socket, `audit.log`, standard input, tests); feeds the event
//! vocabulary. Pure: no IO besides [`Reader`]'s `BufRead`, no clock (time is passed in), no host look-ups, so that the
//! same bytes always mean the same. No input makes it panic, and whatever it holds is bounded in bytes.

pub mod arch;
mod assemble;
pub mod errno;
mod event;
mod execve;
mod fields;
pub mod mode;
mod name;
mod path;
mod reader;
mod record;
mod record_type;
pub mod signal;
mod sockaddr;
pub mod syscalls;
mod value;

pub use assemble::{Assembler, Counters, Limits};
pub use event::{AuditEvent, Completion};
pub use execve::Args;
pub use fields::{Field, Fields};
pub use name::FieldName;
pub use path::Path;
pub use reader::{Line, Lines, MAX_LINE, Reader};
pub use record::{ParseError, Record, Stamp, serial_distance};
pub use record_type::RecordType;
pub use sockaddr::SockAddr;
pub use value::Value;
