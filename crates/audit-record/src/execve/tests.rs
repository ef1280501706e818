use std::fmt::Write as _;

use proptest::prelude::*;

use super::*;

/// The longest text that the kernel puts into one `EXECVE` record, small here so that little is enough to split.
const MAX_TEXT: usize = 60;

fn records(bodies: &[String]) -> Vec<Record> {
    bodies
        .iter()
        .map(|body| Record::from_netlink(1309, format!("audit(1.000:1): {body}").as_bytes()).unwrap())
        .collect()
}

fn args(bodies: &[&str]) -> Vec<String> {
    let bodies: Vec<_> = bodies.iter().map(ToString::to_string).collect();
    let records = records(&bodies);
    let args = Args::from_records(records.iter()).unwrap();
    args.texts().map(Cow::into_owned).collect()
}

fn is_complete(bodies: &[&str]) -> bool {
    let bodies: Vec<_> = bodies.iter().map(ToString::to_string).collect();
    let records = records(&bodies);
    Args::from_records(records.iter()).unwrap().is_complete()
}

#[test]
fn quoted_hex_and_empty_arguments_are_read() {
    assert_eq!(args(&["argc=4 a0=\"sh\" a1=2D6320 a2=\"\" a3=\"a=b\""]), ["sh", "-c ", "", "a=b"]);
}

#[test]
fn an_unquoted_argument_that_looks_like_a_number_is_hex() {
    assert_eq!(args(&["argc=1 a0=3132"]), ["12"]);
    assert_eq!(args(&["argc=1 a0=\"3132\""]), ["3132"]);
}

#[test]
fn pieces_are_joined_over_records_in_any_order() {
    let first = "argc=3 a0=\"x\" a1_len=8 a1[0]=\"abc\"";
    let second = "a1[1]=\"def\" a1[2]=";
    let third = "a1[3]=\"gh\" a2=7A20";
    assert_eq!(args(&[first, second, third]), ["x", "abcdefgh", "z "]);
    assert_eq!(args(&[third, first, second]), ["x", "abcdefgh", "z "]);
    assert_eq!(
        args(&[third, first, second, first]),
        ["x", "abcdefgh", "z "],
        "a record read twice counts once"
    );
    assert!(is_complete(&[third, first, second]));
    assert!(!is_complete(&[first, third]));
    assert!(!is_complete(&[first, second]));
    assert!(!is_complete(&[second, third]));
}

#[test]
fn a_length_counts_characters_or_bytes() {
    assert!(is_complete(&["argc=1 a0_len=6 a0[0]=4142 a0[1]=43"]));
    assert!(is_complete(&["argc=1 a0_len=3 a0[0]=4142 a0[1]=43"]));
    assert!(!is_complete(&["argc=1 a0_len=6 a0[0]=4142"]));
}

#[test]
fn a_lost_argument_leaves_the_others_at_their_index() {
    let bodies = ["argc=3 a0=\"x\" a2=\"z\"".to_owned()];
    let records = records(&bodies);
    let args = Args::from_records(records.iter()).unwrap();
    assert_eq!(args.get(0), Some(b"x".as_slice()));
    assert_eq!(args.get(1), None);
    assert_eq!(args.get(2), Some(b"z".as_slice()));
    assert_eq!((args.len(), args.argc(), args.is_complete()), (2, Some(3), false));
}

#[test]
fn absurd_indices_cost_nothing() {
    let bodies = ["argc=4294967295 a4294967295=\"x\" a4294967296=\"y\" a99999999999999999999=\"z\" a1[4294967296]=\"w\"".to_owned()];
    let records = records(&bodies);
    let args = Args::from_records(records.iter()).unwrap();
    assert_eq!(args.iter().collect::<Vec<_>>(), [b"x"]);
    assert_eq!(Args::from_records([].into_iter()), None);
}

fn data_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02X}"))
}

/// Writes arguments as `audit_log_execve_info` does.
fn as_the_kernel_writes(args: &[Vec<u8>]) -> Vec<String> {
    let mut bodies = Vec::new();
    let mut body = format!("argc={}", args.len());
    for (index, arg) in args.iter().enumerate() {
        let encode = arg.iter().any(|&b| b == b'"' || !(0x21..=0x7e).contains(&b));
        let written = |part: &[u8]| {
            if encode { data_hex(part) } else { format!("\"{}\"", std::str::from_utf8(part).unwrap()) }
        };
        let width = if encode { 2 } else { 1 };
        if body.len() + arg.len() * width + 10 <= MAX_TEXT {
            write!(body, " a{index}={}", written(arg)).unwrap();
            continue;
        }
        let mut rest = arg.as_slice();
        let mut piece = 0;
        while piece == 0 || !rest.is_empty() {
            if body.len() + 20 > MAX_TEXT {
                bodies.push(std::mem::take(&mut body));
            }
            if piece == 0 {
                write!(body, " a{index}_len={}", arg.len() * width).unwrap();
            }
            let room = MAX_TEXT.saturating_sub(body.len() + 10) / width;
            let (part, after) = rest.split_at(room.clamp(1, rest.len().max(1)).min(rest.len()));
            write!(body, " a{index}[{piece}]={}", written(part)).unwrap();
            rest = after;
            piece += 1;
        }
    }
    bodies.push(body);
    bodies
}

fn any_arg() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        "[a-zA-Z0-9=/'-]{0,20}".prop_map(String::into_bytes),
        "[ -~]{1,30}".prop_map(String::into_bytes),
        prop::collection::vec(1..=255u8, 1..200),
        "[a-z]{50,300}".prop_map(String::into_bytes),
        Just(b"a0=\"x\" a1=".to_vec()),
    ]
}

proptest! {
    #[test]
    fn arguments_read_back_as_they_were_passed(
        passed in prop::collection::vec(any_arg(), 1..12),
        seed: u64,
    ) {
        let mut records = records(&as_the_kernel_writes(&passed));
        let count = records.len();
        records.rotate_left(seed as usize % count);
        let read = Args::from_records(records.iter()).unwrap();
        prop_assert_eq!(read.iter().map(<[u8]>::to_vec).collect::<Vec<_>>(), passed);
        prop_assert!(read.is_complete());
    }
}
