//! The part of the suite about people.

use std::sync::Arc;

use serde_json::json;

use crate::store::{ApiToken, By, Role, Session, Store, User};
use crate::testing::at;

fn user(password_hash: &str) -> User {
    User {
        name: "eve".to_owned(),
        role: Role::Operator,
        password_hash: password_hash.to_owned(),
        created_at: at(0),
        disabled_at: None,
    }
}

pub(crate) async fn sessions_end_with_time_and_password(db: Arc<dyn Store>) {
    db.set_user(user("one"), By::user("admin"), at(0)).await.unwrap();
    let session =
        Session { token_hash: [1; 32], user: "eve".to_owned(), created_at: at(0), expires_at: at(10) };
    db.add_session(session.clone(), By::user("eve")).await.unwrap();
    let (found, owner) = db.session([1; 32], at(9)).await.unwrap().unwrap();
    assert_eq!((found, owner), (session.clone(), user("one")));
    assert_eq!(db.session([1; 32], at(10)).await.unwrap(), None);
    assert_eq!(db.session([2; 32], at(0)).await.unwrap(), None);
    db.set_user(user("two"), By::user("admin"), at(0)).await.unwrap();
    assert_eq!(db.session([1; 32], at(1)).await.unwrap(), None, "a new password ends what the old one began");
    db.add_session(session, By::user("eve")).await.unwrap();
    db.set_user(User { disabled_at: Some(at(2)), ..user("two") }, By::user("admin"), at(2)).await.unwrap();
    assert_eq!(db.session([1; 32], at(3)).await.unwrap(), None);
    assert_eq!(db.users().await.unwrap().len(), 1);
    assert_eq!(db.user("nobody").await.unwrap(), None);
    let unknown =
        Session { token_hash: [3; 32], user: "nobody".to_owned(), created_at: at(0), expires_at: at(1) };
    assert!(db.add_session(unknown, By::user("nobody")).await.is_err());
}

pub(crate) async fn api_tokens_expire_and_are_revoked(db: Arc<dyn Store>) {
    let token = ApiToken {
        id: "t1".to_owned(),
        name: "grafana".to_owned(),
        role: Role::Viewer,
        created_by: "eve".to_owned(),
        created_at: at(0),
        expires_at: Some(at(10)),
        revoked_at: None,
    };
    db.add_api_token(token.clone(), [1; 32], By::user("eve")).await.unwrap();
    let lasting = ApiToken { id: "t2".to_owned(), created_at: at(1), expires_at: None, ..token.clone() };
    db.add_api_token(lasting.clone(), [2; 32], By::user("eve")).await.unwrap();
    assert_eq!(db.api_token([1; 32], at(9)).await.unwrap(), Some(token.clone()));
    assert_eq!(db.api_token([1; 32], at(10)).await.unwrap(), None);
    assert_eq!(db.api_token([2; 32], at(10_000)).await.unwrap(), Some(lasting.clone()));
    assert_eq!(db.api_tokens().await.unwrap(), [lasting, token]);
    assert!(db.revoke_api_token("t2", By::user("eve"), at(5)).await.unwrap());
    assert!(!db.revoke_api_token("t2", By::user("eve"), at(5)).await.unwrap());
    assert_eq!(db.api_token([2; 32], at(6)).await.unwrap(), None);
}

pub(crate) async fn settings_are_replaced(db: Arc<dyn Store>) {
    assert_eq!(db.setting("theme").await.unwrap(), None);
    db.set_setting("theme", json!("dark"), at(0)).await.unwrap();
    db.set_setting("theme", json!({ "is": "light" }), at(1)).await.unwrap();
    assert_eq!(db.setting("theme").await.unwrap(), Some(json!({ "is": "light" })));
}
