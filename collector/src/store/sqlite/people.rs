//! Users, sessions, tokens and settings in SQLite.

use async_trait::async_trait;
use auditflow_event::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde_json::{Value, json};

use super::alerts::{from_json, json as to_json};
use super::error::{damaged, failed};
use super::{SqliteStore, trail};
use crate::store::{Act, Action, ApiToken, By, JoinToken, PeopleStore, Result, Role, Session, User};

#[async_trait]
impl PeopleStore for SqliteStore {
    async fn add_join_token(&self, token: JoinToken, by: By) -> Result<()> {
        self.writer()
            .write(0, move |unit| {
                unit.main
                    .execute(
                        "INSERT INTO join_token (secret_hash, created_at, expires_at, uses_left) VALUES (?1, ?2, ?3, ?4)",
                        params![
                            token.secret_hash,
                            token.created_at.as_micros(),
                            token.expires_at.as_micros(),
                            token.uses_left
                        ],
                    )
                    .map_err(failed("adding a join token"))?;
                let detail = json!({ "expires_at": token.expires_at.to_string(), "uses": token.uses_left });
                let object = join_token_name(&token.secret_hash);
                let act = Act::done(token.created_at, by, Action::JoinTokenCreate, object, detail);
                trail::append(unit.main, &act)
            })
            .await
    }

    async fn join_token(&self, secret_hash: [u8; 32]) -> Result<Option<JoinToken>> {
        self.readers().read(move |reader| join_token(&reader.main, &secret_hash)).await
    }

    async fn set_user(&self, user: User, by: By, now: Timestamp) -> Result<()> {
        self.writer()
            .write(0, move |unit| {
                let attempt = "setting a user";
                let sql = "SELECT password_hash FROM user WHERE name = ?1";
                let before = super::alerts::optional::<String>(unit.main, sql, &[&user.name])?;
                unit.main
                    .execute(
                        "INSERT INTO user (name, role, password_hash, created_at, disabled_at) VALUES (?1, ?2, ?3, ?4, ?5)
                         ON CONFLICT (name) DO UPDATE SET role = excluded.role,
                            password_hash = excluded.password_hash, disabled_at = excluded.disabled_at",
                        params![
                            user.name,
                            user.role.name(),
                            user.password_hash,
                            user.created_at.as_micros(),
                            user.disabled_at.map(Timestamp::as_micros)
                        ],
                    )
                    .map_err(failed(attempt))?;
                unit.main.execute("DELETE FROM session WHERE user = ?1", [&user.name]).map_err(failed(attempt))?;
                let action = if before.is_none() { Action::UserCreate } else { Action::UserChange };
                let changed = before.is_some_and(|before| before != user.password_hash);
                let detail = json!({
                    "role": user.role, "disabled": user.disabled_at.is_some(), "password_changed": changed,
                });
                trail::append(unit.main, &Act::done(now, by, action, user.name, detail))
            })
            .await
    }

    async fn user(&self, name: &str) -> Result<Option<User>> {
        let name = name.to_owned();
        self.readers()
            .read(move |reader| {
                let sql =
                    "SELECT name, role, password_hash, created_at, disabled_at FROM user WHERE name = ?1";
                let found = reader
                    .main
                    .prepare_cached(sql)
                    .and_then(|mut query| query.query_row([name], read_user).optional());
                found.map_err(damaged("user"))
            })
            .await
    }

    async fn users(&self) -> Result<Vec<User>> {
        self.readers()
            .read(|reader| {
                let sql = "SELECT name, role, password_hash, created_at, disabled_at FROM user ORDER BY name";
                let found = reader
                    .main
                    .prepare_cached(sql)
                    .and_then(|mut query| query.query_map([], read_user)?.collect());
                found.map_err(damaged("user"))
            })
            .await
    }

    async fn add_session(&self, session: Session, by: By) -> Result<()> {
        self.writer()
            .write(0, move |unit| {
                let attempt = "adding a session";
                let created = session.created_at.as_micros();
                unit.main.execute("DELETE FROM session WHERE expires_at <= ?1", [created]).map_err(failed(attempt))?;
                unit.main
                    .execute(
                        "INSERT INTO session (token_hash, user, created_at, expires_at) VALUES (?1, ?2, ?3, ?4)",
                        params![session.token_hash, session.user, created, session.expires_at.as_micros()],
                    )
                    .map_err(failed(attempt))?;
                let act = Act::done(session.created_at, by, Action::SessionOpen, session.user, json!({}));
                trail::append(unit.main, &act)
            })
            .await
    }

    async fn session(&self, token_hash: [u8; 32], now: Timestamp) -> Result<Option<(Session, User)>> {
        self.readers()
            .read(move |reader| {
                let sql = "SELECT u.name, u.role, u.password_hash, u.created_at, u.disabled_at, s.created_at, s.expires_at
                    FROM session s JOIN user u ON u.name = s.user
                    WHERE s.token_hash = ?1 AND s.expires_at > ?2 AND u.disabled_at IS NULL";
                let read = |row: &Row<'_>| {
                    let user = read_user(row)?;
                    let session = Session {
                        token_hash,
                        user: user.name.clone(),
                        created_at: Timestamp::from_micros(row.get(5)?),
                        expires_at: Timestamp::from_micros(row.get(6)?),
                    };
                    Ok((session, user))
                };
                reader
                    .main
                    .prepare_cached(sql)
                    .and_then(|mut query| query.query_row(params![token_hash, now.as_micros()], read).optional())
                    .map_err(damaged("session"))
            })
            .await
    }

    async fn end_session(&self, token_hash: [u8; 32], by: By, now: Timestamp) -> Result<()> {
        self.writer()
            .write(0, move |unit| {
                let sql = "DELETE FROM session WHERE token_hash = ?1 RETURNING user";
                match super::alerts::optional::<String>(unit.main, sql, &[&token_hash])? {
                    None => Ok(()),
                    Some(user) => {
                        let act = Act::done(now, by, Action::SessionClose, user, json!({}));
                        trail::append(unit.main, &act)
                    }
                }
            })
            .await
    }

    async fn add_api_token(&self, token: ApiToken, token_hash: [u8; 32], by: By) -> Result<()> {
        self.writer()
            .write(0, move |unit| {
                unit.main
                    .execute(
                        "INSERT INTO api_token (id, token_hash, name, role, created_by, created_at, expires_at)
                         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                        params![
                            token.id,
                            token_hash,
                            token.name,
                            token.role.name(),
                            token.created_by,
                            token.created_at.as_micros(),
                            token.expires_at.map(Timestamp::as_micros)
                        ],
                    )
                    .map_err(failed("adding an api token"))?;
                let expires_at = token.expires_at.map(|at| at.to_string());
                let detail = json!({ "name": token.name, "role": token.role, "expires_at": expires_at });
                let act = Act::done(token.created_at, by, Action::ApiTokenCreate, token.id, detail);
                trail::append(unit.main, &act)
            })
            .await
    }

    async fn api_token(&self, token_hash: [u8; 32], now: Timestamp) -> Result<Option<ApiToken>> {
        self.readers()
            .read(move |reader| {
                let sql =
                    "SELECT id, name, role, created_by, created_at, expires_at, revoked_at FROM api_token
                    WHERE token_hash = ?1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > ?2)";
                reader
                    .main
                    .prepare_cached(sql)
                    .and_then(|mut query| {
                        query.query_row(params![token_hash, now.as_micros()], read_token).optional()
                    })
                    .map_err(damaged("api token"))
            })
            .await
    }

    async fn api_tokens(&self) -> Result<Vec<ApiToken>> {
        self.readers()
            .read(|reader| {
                let sql =
                    "SELECT id, name, role, created_by, created_at, expires_at, revoked_at FROM api_token
                    ORDER BY created_at DESC, id";
                let found = reader
                    .main
                    .prepare_cached(sql)
                    .and_then(|mut query| query.query_map([], read_token)?.collect());
                found.map_err(damaged("api token"))
            })
            .await
    }

    async fn revoke_api_token(&self, id: &str, by: By, now: Timestamp) -> Result<bool> {
        let id = id.to_owned();
        self.writer()
            .write(0, move |unit| {
                let sql =
                    "UPDATE api_token SET revoked_at = ?2 WHERE id = ?1 AND revoked_at IS NULL RETURNING name";
                let revoked = super::alerts::optional::<String>(unit.main, sql, &[&id, &now.as_micros()])?;
                let Some(name) = revoked else { return Ok(false) };
                let act = Act::done(now, by, Action::ApiTokenRevoke, id, json!({ "name": name }));
                trail::append(unit.main, &act)?;
                Ok(true)
            })
            .await
    }

    async fn setting(&self, key: &str) -> Result<Option<Value>> {
        let key = key.to_owned();
        self.readers()
            .read(move |reader| {
                let sql = "SELECT value FROM setting WHERE key = ?1";
                let found = super::alerts::optional::<String>(&reader.main, sql, &[&key])?;
                found.map(|text| from_json(&text)).transpose()
            })
            .await
    }

    async fn set_setting(&self, key: &str, value: Value, now: Timestamp) -> Result<()> {
        let key = key.to_owned();
        self.writer()
            .write(0, move |unit| {
                unit.main
                    .execute(
                        "INSERT INTO setting (key, value, changed_at) VALUES (?1, ?2, ?3)
                         ON CONFLICT (key) DO UPDATE SET value = excluded.value, changed_at = excluded.changed_at",
                        params![key, to_json(&value), now.as_micros()],
                    )
                    .map_err(failed("changing a setting"))?;
                Ok(())
            })
            .await
    }
}

/// What the audit trail calls a join token: a few digits of its secret's hash.
pub(super) fn join_token_name(secret_hash: &[u8; 32]) -> String {
    data_encoding::HEXLOWER.encode(&secret_hash[..4])
}

/// A join token by the hash of its secret.
pub(super) fn join_token(connection: &Connection, secret_hash: &[u8; 32]) -> Result<Option<JoinToken>> {
    let sql = "SELECT created_at, expires_at, uses_left FROM join_token WHERE secret_hash = ?1";
    let read = |row: &Row<'_>| {
        Ok(JoinToken {
            secret_hash: *secret_hash,
            created_at: Timestamp::from_micros(row.get(0)?),
            expires_at: Timestamp::from_micros(row.get(1)?),
            uses_left: row.get(2)?,
        })
    };
    connection
        .prepare_cached(sql)
        .and_then(|mut query| query.query_row([secret_hash], read).optional())
        .map_err(damaged("join token"))
}

fn read_user(row: &Row<'_>) -> rusqlite::Result<User> {
    Ok(User {
        name: row.get(0)?,
        role: role(row, 1)?,
        password_hash: row.get(2)?,
        created_at: Timestamp::from_micros(row.get(3)?),
        disabled_at: row.get::<_, Option<i64>>(4)?.map(Timestamp::from_micros),
    })
}

fn read_token(row: &Row<'_>) -> rusqlite::Result<ApiToken> {
    Ok(ApiToken {
        id: row.get(0)?,
        name: row.get(1)?,
        role: role(row, 2)?,
        created_by: row.get(3)?,
        created_at: Timestamp::from_micros(row.get(4)?),
        expires_at: row.get::<_, Option<i64>>(5)?.map(Timestamp::from_micros),
        revoked_at: row.get::<_, Option<i64>>(6)?.map(Timestamp::from_micros),
    })
}

/// A role that this release does not know grants least.
fn role(row: &Row<'_>, column: usize) -> rusqlite::Result<Role> {
    Ok(Role::from_name(&row.get::<_, String>(column)?).unwrap_or(Role::Viewer))
}
