use proptest::prelude::*;
use rsigma_eval::{Event as _, JsonEvent};
use serde_json::{Value, json};

use super::*;

fn tree() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a-c\"\\\\é]{0,3}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[abc]", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    /// rsigma's own JSON event is the model of how paths are followed.
    #[test]
    fn paths_are_followed_as_rsigma_follows_them(tree in tree(), path in "[abc](\\.[abc]|\\[-?[0-2]\\]){0,4}") {
        let text = tree.to_string();
        let node = Node::parse(&text);
        let model = JsonEvent::borrow(&tree);
        prop_assume!(tree.is_object());
        // A path of several brackets in one segment is written by nobody, and not supported.
        prop_assume!(!path.contains("]["));
        prop_assert_eq!(node.field(&path).map(|v| v.to_json()), model.get_field(&path).map(|v| v.to_json()));
    }

    #[test]
    fn the_same_strings_are_seen(tree in tree()) {
        let text = tree.to_string();
        let node = Node::parse(&text);
        let mut ours = Vec::new();
        node.each_string(&mut |string| ours.push(string.to_owned()));
        let mut model: Vec<String> = JsonEvent::borrow(&tree).all_string_values().iter().map(ToString::to_string).collect();
        ours.sort();
        model.sort();
        prop_assert_eq!(&ours, &model);
        prop_assert!(model.iter().all(|wanted| node.any_string(&|string| string == wanted)));
    }
}

#[test]
fn a_key_with_dots_is_found_at_any_depth() {
    let text = json!({"annotations": {"authorization.k8s.io/decision": "allow"}}).to_string();
    let node = Node::parse(&text);
    let decision = node.field("annotations.authorization.k8s.io/decision");
    assert_eq!(decision, Some(EventValue::Str("allow".into())));
}

#[test]
fn what_is_not_json_has_no_fields() {
    for text in ["", "{", "{\"a\":1", "nonsense"] {
        assert!(Node::parse(text).field("a").is_none(), "{text}");
    }
}

#[test]
fn the_last_of_a_repeated_key_counts() {
    assert_eq!(Node::parse(r#"{"a":1,"a":2}"#).field("a"), Some(EventValue::Int(2)));
}
