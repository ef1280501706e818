use super::*;
use crate::source::{Cursor, SourceName};

fn output(bytes: usize) -> Output {
    Output { cursor: Some(Cursor(vec![0; bytes])), ..Output::live(SourceName("test"), Vec::new()) }
}

fn soon() -> Instant {
    Instant::now()
}

#[test]
fn the_queue_never_holds_more_than_its_capacity() {
    let capacity = 10_000;
    let (outlet, _commands, inbox) = channel::<()>(capacity);
    let mut taken = 0;
    while outlet.try_send(output(900)).is_ok() {
        taken += 1;
    }
    assert!((8..=11).contains(&taken), "{taken}");
    assert!(outlet.peak_bytes() <= capacity);
    assert!(matches!(inbox.receive(soon(), true), Some(Item::Output(_))));
    assert!(outlet.try_send(output(900)).is_ok());
}

#[test]
fn an_output_larger_than_the_capacity_gets_through_an_empty_queue() {
    let (outlet, _commands, inbox) = channel::<()>(100);
    outlet.try_send(output(5000)).unwrap();
    assert!(outlet.try_send(output(1)).is_err());
    assert!(matches!(inbox.receive(soon(), true), Some(Item::Output(_))));
}

#[test]
fn commands_overtake_outputs_and_nothing_is_none() {
    let (outlet, commands, inbox) = channel(1000);
    outlet.try_send(output(1)).unwrap();
    commands.send(7).unwrap();
    assert!(matches!(inbox.receive(soon(), true), Some(Item::Command(7))));
    assert!(inbox.receive(soon(), false).is_none());
    assert!(matches!(inbox.receive(soon(), true), Some(Item::Output(_))));
    assert!(inbox.receive(soon(), true).is_none());
}

#[test]
fn senders_that_wait_are_woken_by_room_and_by_the_end() {
    let (outlet, _commands, inbox) = channel::<()>(100);
    outlet.try_send(output(200)).unwrap();
    let waiting = std::thread::spawn({
        let outlet = outlet.clone();
        move || (outlet.blocking_send(output(200)), outlet.blocking_send(output(200)))
    });
    for _ in 0..2 {
        let item = inbox.receive(Instant::now() + Duration::from_mins(1), true);
        assert!(matches!(item, Some(Item::Output(_))));
    }
    drop(inbox);
    let (first, second) = waiting.join().unwrap();
    assert_eq!(first, Ok(()));
    // The second found room before the end, or the end.
    assert!(second == Ok(()) || second == Err(Closed));
    assert_eq!(outlet.blocking_send(output(1)), Err(Closed));
}

#[tokio::test]
async fn a_task_that_waits_is_woken_by_room() {
    let (outlet, _commands, inbox) = channel::<()>(100);
    outlet.send(output(200)).await.unwrap();
    let waiting = tokio::spawn({
        let outlet = outlet.clone();
        async move { outlet.send(output(200)).await }
    });
    tokio::task::yield_now().await;
    assert!(matches!(inbox.receive(soon(), true), Some(Item::Output(_))));
    assert_eq!(waiting.await.unwrap(), Ok(()));
    drop(inbox);
    assert_eq!(outlet.send(output(1)).await, Err(Closed));
}
