//! What a spool's batches and states say of their node.

use auditflow_wire::{Ack, Answer, NodeFacts, Part, Parts, Rotation, Signed, SiteKey};

use super::world::{NODE, World, keys, now_at, options};
use super::{MIB, SMALL};
use crate::spool::{Acknowledged, Keys, Loaded, RowId, Spool, Void};

fn site(name: &str) -> NodeFacts {
    NodeFacts::new("pi", "0.1.0", "6.12", "aarch64", [("site".to_owned(), name.to_owned())])
}

/// The labels of every held batch, oldest first, and those of the state.
fn said(world: &mut World) -> (Vec<String>, String) {
    let (_, reader) = world.open.as_mut().unwrap();
    let of = |about: &NodeFacts| about.labels.first().map_or_else(String::new, |label| label.1.to_string());
    let (mut batches, mut after) = (Vec::new(), RowId(0));
    while let Some(next) = reader.next_above(false, after).unwrap() {
        let Loaded::Frame(frame) = reader.load(next.id).unwrap() else { panic!("nothing to send") };
        for part in Parts::new(&frame).unwrap() {
            let Ok(Part::Batch(batch)) = part else { panic!("no batch") };
            batches.push(of(&batch.signed.header.facts.unwrap().about));
        }
        after = next.id;
    }
    let frame = reader.state(&now_at(500)).unwrap();
    let Some(Ok(Part::State(state))) = Parts::new(&frame).unwrap().next() else { panic!("no state") };
    (batches, of(&state.unverified().about))
}

fn start(world: &mut World, about: NodeFacts) {
    let keys = Keys { about, ..keys() };
    let (spool, reader, _) = Spool::open(&world.dir, options(world.max_bytes), keys, world.now).unwrap();
    world.open = Some((spool, reader));
}

#[test]
fn batches_keep_the_labels_of_their_sealing_and_the_state_has_those_of_now() {
    let mut world = World::new(8 * MIB);
    world.stop();
    start(&mut world, site("north"));
    world.commit(SMALL).unwrap();
    world.stop();
    start(&mut world, site("south"));
    let (batches, state) = said(&mut world);
    let expected = ["", "north", "north", "south"];
    assert_eq!(
        (batches.iter().map(String::as_str).collect::<Vec<_>>(), &*state),
        (expected.to_vec(), "south")
    );
}

#[test]
fn what_is_sealed_anew_keeps_the_labels_of_its_first_sealing() {
    let mut world = World::new(8 * MIB);
    world.stop();
    start(&mut world, site("north"));
    world.commit(SMALL).unwrap();
    let now = now_at(400);
    let epoch = world.spool().epoch();
    world.spool().drain(now).unwrap();
    world.stop();
    start(&mut world, site("south"));
    world.spool().reseal(epoch, now).unwrap();
    let (batches, _) = said(&mut world);
    assert_eq!(batches.iter().filter(|site| *site == "north").count(), 2, "{batches:?}");
}

#[test]
fn the_state_names_the_newest_pinned_key_of_the_site_and_old_keys_free_nothing() {
    let mut world = World::new(8 * MIB);
    world.commit(SMALL).unwrap();
    world.spool().drain(now_at(200)).unwrap();
    let keys: Vec<SiteKey> = [9, 21, 22].map(|seed| SiteKey::from_seed(&[seed; 32])).to_vec();
    let newest = |world: &mut World| {
        let frame = world.reader().state(&now_at(300)).unwrap();
        let Some(Ok(Part::State(state))) = Parts::new(&frame).unwrap().next() else { panic!("no state") };
        state.unverified().site_key.unwrap()
    };
    assert_eq!(newest(&mut world), keys[0].id());
    for pair in keys.windows(2) {
        let rotation = Rotation { next: pair[1].public(), at: now_at(250).wall };
        world.spool().follow(&Signed::sign(rotation, &pair[0])).unwrap().unwrap();
        assert_eq!(newest(&mut world), pair[1].id());
    }
    let ack = Ack {
        node: NODE,
        epoch: world.spool().epoch(),
        time: now_at(300).wall,
        answer: Answer::Stored,
        through: None,
        above: Vec::new(),
    };
    for (key, heeded) in [(&keys[0], false), (&keys[1], true), (&keys[2], true)] {
        let outcome = world.spool().acknowledge(&Signed::sign(ack.clone(), key), now_at(300)).unwrap();
        assert_eq!(outcome != Acknowledged::Void(Void::Signature), heeded, "{key:?}");
    }
}
