//! `admin reset-password`: the way in for whoever may read the data directory.

use std::io::Write;

use auditflow_service::args::Exit;
use auditflow_service::lifecycle;

use crate::site::password;
use crate::store::{Role, User};

/// The user that the first start makes.
pub const ADMIN: &str = "admin";

/// Gives the user `admin` a new random password, prints it, and ends the user's sessions.
pub fn reset_password(place: &super::Place) -> anyhow::Result<Exit> {
    let config = place.config()?;
    let store = super::open_store(&config)?;
    let password = password::generate()?;
    let user = admin(password::hash(&password)?);
    lifecycle::block_on(store.set_user(user, super::by(), super::now()))??;
    let exit = super::unless_closed(writeln!(std::io::stdout(), "{password}"))?;
    eprintln!("is the new password of the user {ADMIN}; it is shown only now");
    Ok(exit)
}

/// The user with this password hash.
pub(crate) fn admin(password_hash: String) -> User {
    User {
        name: ADMIN.to_owned(),
        role: Role::Admin,
        password_hash,
        created_at: super::now(),
        disabled_at: None,
    }
}
