//! Users, tokens, settings and the audit trail in SQLite.

use async_trait::async_trait;
use auditflow_event::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde_json::{Value, json};

use super::SqliteStore;
use super::alerts::{from_json, json as to_json};
use super::error::{damaged, failed};
use crate::store::{ApiToken, JoinToken, PeopleStore, Result, Role, Session, TrailEntry, User};

#[async_trait]
impl PeopleStore for SqliteStore {
    async fn add_join_token(&self, token: JoinToken, actor: &str) -> Result<()> {
        let actor = actor.to_owned();
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
                let object = data_encoding::HEXLOWER.encode(&token.secret_hash[..4]);
                append(unit.main, &TrailEntry { at: token.created_at, actor, action: "token.create".into(), object, detail })
            })
            .await
    }

    async fn join_token(&self, secret_hash: [u8; 32]) -> Result<Option<JoinToken>> {
        self.readers().read(move |reader| join_token(&reader.main, &secret_hash)).await
    }

    async fn set_user(&self, user: User, actor: &str) -> Result<()> {
        let actor = actor.to_owned();
        self.writer()
            .write(0, move |unit| {
                let attempt = "setting a user";
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
                let detail = json!({ "role": user.role, "disabled": user.disabled_at.is_some() });
                let at = super::writer::now();
                append(unit.main, &TrailEntry { at, actor, action: "user.set".into(), object: user.name, detail })
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

    async fn add_session(&self, session: Session) -> Result<()> {
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
                Ok(())
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

    async fn end_session(&self, token_hash: [u8; 32]) -> Result<()> {
        self.writer()
            .write(0, move |unit| {
                unit.main
                    .execute("DELETE FROM session WHERE token_hash = ?1", [token_hash])
                    .map_err(failed("ending a session"))?;
                Ok(())
            })
            .await
    }

    async fn add_api_token(&self, token: ApiToken, token_hash: [u8; 32]) -> Result<()> {
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
                let detail = json!({ "name": token.name, "role": token.role });
                let (at, actor) = (token.created_at, token.created_by);
                append(unit.main, &TrailEntry { at, actor, action: "api_token.create".into(), object: token.id, detail })
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

    async fn revoke_api_token(&self, id: &str, actor: &str, now: Timestamp) -> Result<bool> {
        let (id, actor) = (id.to_owned(), actor.to_owned());
        self.writer()
            .write(0, move |unit| {
                let revoked = unit
                    .main
                    .execute(
                        "UPDATE api_token SET revoked_at = ?2 WHERE id = ?1 AND revoked_at IS NULL",
                        params![id, now.as_micros()],
                    )
                    .map_err(failed("revoking an api token"))?;
                if revoked == 1 {
                    let detail = json!({});
                    append(
                        unit.main,
                        &TrailEntry { at: now, actor, action: "api_token.revoke".into(), object: id, detail },
                    )?;
                }
                Ok(revoked == 1)
            })
            .await
    }

    async fn append_trail(&self, entry: TrailEntry) -> Result<()> {
        self.writer().write(0, move |unit| append(unit.main, &entry)).await
    }

    async fn trail(&self, before: Option<i64>, limit: usize) -> Result<Vec<(i64, TrailEntry)>> {
        self.readers().read(move |reader| trail(&reader.main, before, limit)).await
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

/// Appends to the audit trail inside whatever transaction is open: what was done and that it was done stand together.
pub(super) fn append(connection: &Connection, entry: &TrailEntry) -> Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO audit_trail (at, actor, action, object, detail) VALUES (?1, ?2, ?3, ?4, ?5)",
        )
        .and_then(|mut statement| {
            let detail = to_json(&entry.detail);
            statement.execute(params![entry.at.as_micros(), entry.actor, entry.action, entry.object, detail])
        })
        .map_err(failed("writing the audit trail"))?;
    Ok(())
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

fn trail(connection: &Connection, before: Option<i64>, limit: usize) -> Result<Vec<(i64, TrailEntry)>> {
    let attempt = "reading the audit trail";
    let sql = "SELECT id, at, actor, action, object, detail FROM audit_trail WHERE id < ?1 ORDER BY id DESC LIMIT ?2";
    let mut statement = connection.prepare_cached(sql).map_err(failed(attempt))?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut rows = statement.query([before.unwrap_or(i64::MAX), limit]).map_err(failed(attempt))?;
    let mut entries = Vec::new();
    while let Some(row) = rows.next().map_err(failed(attempt))? {
        let text = |column| row.get::<_, String>(column).map_err(damaged("audit trail entry"));
        let number = |column| row.get::<_, i64>(column).map_err(damaged("audit trail entry"));
        let entry = TrailEntry {
            at: Timestamp::from_micros(number(1)?),
            actor: text(2)?,
            action: text(3)?,
            object: text(4)?,
            detail: from_json(&text(5)?)?,
        };
        entries.push((number(0)?, entry));
    }
    Ok(entries)
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
