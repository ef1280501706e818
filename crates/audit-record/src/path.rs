//! One file that a system call touched: a `PATH` record.

use std::borrow::Cow;

use crate::{Field, FieldName, Record};

/// A `PATH` record's fields; what the kernel did not know is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Path<'a> {
    /// Its position among the call's paths, from 0.
    pub item: Option<u32>,
    /// The name as the call gave it: relative names are relative to the working directory (or a descriptor).
    pub name: Option<Cow<'a, str>>,
    /// The inode's number.
    pub inode: Option<u64>,
    /// The device that holds it, major and minor number in hex: `fe:00`.
    pub dev: Option<Cow<'a, str>>,
    /// File type and permission bits, see [`crate::mode`].
    pub mode: Option<u32>,
    /// The owner's user id.
    pub ouid: Option<u32>,
    /// The owner's group id.
    pub ogid: Option<u32>,
    /// The device that it is, if it is a device file.
    pub rdev: Option<Cow<'a, str>>,
    /// `NORMAL`, `PARENT`, `CREATE`, `DELETE` or `UNKNOWN`: what the call did with it.
    pub nametype: Option<Cow<'a, str>>,
}

impl<'a> Path<'a> {
    /// Reads a `PATH` record (its kind is not looked at).
    pub fn from_record(record: &'a Record) -> Self {
        Self::from_fields(record.fields())
    }

    /// The same from a `PATH` record's fields, for whoever has them already.
    pub fn from_fields(fields: impl IntoIterator<Item = Field<'a>>) -> Self {
        let mut path = Self::default();
        for field in fields {
            let value = field.value;
            match field.known {
                Some(FieldName::Item) => path.item = value.as_u64().and_then(|item| item.try_into().ok()),
                Some(FieldName::Name) => path.name = value.known(),
                Some(FieldName::Inode) => path.inode = value.as_u64(),
                Some(FieldName::Dev) => path.dev = value.known(),
                Some(FieldName::Mode) => path.mode = value.as_octal_u32(),
                Some(FieldName::Ouid) => path.ouid = value.as_id(),
                Some(FieldName::Ogid) => path.ogid = value.as_id(),
                Some(FieldName::Rdev) => path.rdev = value.known(),
                Some(FieldName::Nametype) => path.nametype = value.known(),
                _ => {}
            }
        }
        path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(body: &str) -> Record {
        Record::from_line(format!("type=PATH msg=audit(1.000:1): {body}").as_bytes()).unwrap()
    }

    #[test]
    fn every_field_of_a_file_is_read() {
        let record = record(
            "item=1 name=2F746D702F6120622020 inode=325843 dev=fe:00 mode=0100755 ouid=0 ogid=4294967295 rdev=00:00 \
             nametype=NORMAL cap_fp=0 cap_fi=0 cap_fe=0 cap_fver=0 cap_frootid=0",
        );
        let path = Path::from_record(&record);
        assert_eq!(
            path,
            Path {
                item: Some(1),
                name: Some("/tmp/a b  ".into()),
                inode: Some(325_843),
                dev: Some("fe:00".into()),
                mode: Some(0o100_755),
                ouid: Some(0),
                ogid: None,
                rdev: Some("00:00".into()),
                nametype: Some("NORMAL".into()),
            }
        );
    }

    #[test]
    fn a_file_that_does_not_exist_has_a_name_only() {
        let record = record("item=0 name=\"/usr/local/sbin/bash\" nametype=UNKNOWN cap_fp=0");
        let path = Path::from_record(&record);
        assert_eq!(path.name.as_deref(), Some("/usr/local/sbin/bash"));
        assert_eq!((path.inode, path.mode, path.ouid), (None, None, None));
        let unnamed = self::record("item=0 name=(null) inode=1");
        assert_eq!(Path::from_record(&unnamed).name, None);
    }
}
