//! Users, tokens and settings in PostgreSQL.

use async_trait::async_trait;
use auditflow_event::Timestamp;
use serde_json::{Value, json};
use sqlx::PgConnection;
use sqlx::postgres::PgRow;

use super::alerts::{from_json, json as to_json};
use super::error::failed;
use super::unit::{Unit, reading, writing};
use super::{PostgresStore, column, text, trail};
use crate::store::{Act, Action, ApiToken, By, JoinToken, PeopleStore, Result, Role, Session, User};

#[async_trait]
impl PeopleStore for PostgresStore {
    async fn add_join_token(&self, token: JoinToken, by: By) -> Result<()> {
        writing!(self, unit => add_join_token(unit, &token, by.clone()))
    }

    async fn join_token(&self, secret_hash: [u8; 32]) -> Result<Option<JoinToken>> {
        reading!(self, sql => join_token(sql, &secret_hash, Lock::No))
    }

    async fn set_user(&self, user: User, by: By, now: Timestamp) -> Result<()> {
        writing!(self, unit => set_user(unit, &user, by.clone(), now))
    }

    async fn user(&self, name: &str) -> Result<Option<User>> {
        reading!(self, sql => async {
            let row = sqlx::query("SELECT * FROM person WHERE name = $1")
                .bind(text(name))
                .fetch_optional(sql)
                .await
                .map_err(failed("reading a user"))?;
            row.as_ref().map(read_user).transpose()
        })
    }

    async fn users(&self) -> Result<Vec<User>> {
        reading!(self, sql => async {
            let rows = sqlx::query("SELECT * FROM person ORDER BY name COLLATE \"C\"").fetch_all(sql).await;
            rows.map_err(failed("reading users"))?.iter().map(read_user).collect()
        })
    }

    async fn add_session(&self, session: Session, by: By) -> Result<()> {
        writing!(self, unit => add_session(unit, &session, by.clone()))
    }

    async fn session(&self, token_hash: [u8; 32], now: Timestamp) -> Result<Option<(Session, User)>> {
        reading!(self, sql => async {
            let row = sqlx::query(
                "SELECT p.*, s.created_at AS began_at, s.expires_at FROM session s JOIN person p ON p.name = s.person
                 WHERE s.token_hash = $1 AND s.expires_at > $2 AND p.disabled_at IS NULL",
            )
            .bind(token_hash)
            .bind(now.as_micros())
            .fetch_optional(sql)
            .await
            .map_err(failed("reading a session"))?;
            let Some(row) = row else { return Ok(None) };
            let user = read_user(&row)?;
            let session = Session {
                token_hash,
                user: user.name.clone(),
                created_at: Timestamp::from_micros(column(&row, "began_at", "session")?),
                expires_at: Timestamp::from_micros(column(&row, "expires_at", "session")?),
            };
            Ok(Some((session, user)))
        })
    }

    async fn end_session(&self, token_hash: [u8; 32], by: By, now: Timestamp) -> Result<()> {
        writing!(self, unit => end_session(unit, token_hash, by.clone(), now))
    }

    async fn add_api_token(&self, token: ApiToken, token_hash: [u8; 32], by: By) -> Result<()> {
        writing!(self, unit => add_api_token(unit, &token, token_hash, by.clone()))
    }

    async fn api_token(&self, token_hash: [u8; 32], now: Timestamp) -> Result<Option<ApiToken>> {
        reading!(self, sql => async {
            let row = sqlx::query(
                "SELECT * FROM api_token
                 WHERE token_hash = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $2)",
            )
            .bind(token_hash)
            .bind(now.as_micros())
            .fetch_optional(sql)
            .await
            .map_err(failed("reading an api token"))?;
            row.as_ref().map(read_token).transpose()
        })
    }

    async fn api_tokens(&self) -> Result<Vec<ApiToken>> {
        reading!(self, sql => async {
            let rows = sqlx::query("SELECT * FROM api_token ORDER BY created_at DESC, id COLLATE \"C\"")
                .fetch_all(sql)
                .await;
            rows.map_err(failed("reading api tokens"))?.iter().map(read_token).collect()
        })
    }

    async fn revoke_api_token(&self, id: &str, by: By, now: Timestamp) -> Result<bool> {
        writing!(self, unit => revoke(unit, id, by.clone(), now))
    }

    async fn setting(&self, key: &str) -> Result<Option<Value>> {
        reading!(self, sql => async {
            let found: Option<String> = sqlx::query_scalar("SELECT value FROM setting WHERE key = $1")
                .bind(text(key))
                .fetch_optional(sql)
                .await
                .map_err(failed("reading a setting"))?;
            found.map(|text| from_json(&text)).transpose()
        })
    }

    async fn set_setting(&self, key: &str, value: Value, now: Timestamp) -> Result<()> {
        writing!(self, unit => async {
            sqlx::query(
                "INSERT INTO setting (key, value, changed_at) VALUES ($1, $2, $3)
                 ON CONFLICT (key) DO UPDATE SET value = excluded.value, changed_at = excluded.changed_at",
            )
            .bind(text(key))
            .bind(to_json(&value))
            .bind(now.as_micros())
            .execute(unit.sql())
            .await
            .map_err(failed("changing a setting"))?;
            Ok(())
        })
    }
}

/// Whether a row read is kept from others until the transaction ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lock {
    Yes,
    No,
}

/// What the audit trail calls a join token: a few digits of its secret's hash.
pub(super) fn join_token_name(secret_hash: &[u8; 32]) -> String {
    data_encoding::HEXLOWER.encode(&secret_hash[..4])
}

/// A join token by the hash of its secret.
pub(super) async fn join_token(
    connection: &mut PgConnection,
    secret_hash: &[u8; 32],
    lock: Lock,
) -> Result<Option<JoinToken>> {
    let sql = match lock {
        Lock::Yes => "SELECT * FROM join_token WHERE secret_hash = $1 FOR UPDATE",
        Lock::No => "SELECT * FROM join_token WHERE secret_hash = $1",
    };
    let row = sqlx::query(sql)
        .bind(secret_hash)
        .fetch_optional(connection)
        .await
        .map_err(failed("reading a join token"))?;
    let what = "join token";
    let read = |row: &PgRow| {
        Ok(JoinToken {
            secret_hash: *secret_hash,
            created_at: Timestamp::from_micros(column(row, "created_at", what)?),
            expires_at: Timestamp::from_micros(column(row, "expires_at", what)?),
            uses_left: u32::try_from(column::<i64>(row, "uses_left", what)?).unwrap_or(0),
        })
    };
    row.as_ref().map(read).transpose()
}

async fn add_join_token(unit: &mut Unit<'_>, token: &JoinToken, by: By) -> Result<()> {
    let added = sqlx::query(
        "INSERT INTO join_token (secret_hash, created_at, expires_at, uses_left) VALUES ($1, $2, $3, $4)
         ON CONFLICT DO NOTHING",
    )
    .bind(token.secret_hash)
    .bind(token.created_at.as_micros())
    .bind(token.expires_at.as_micros())
    .bind(i64::from(token.uses_left))
    .execute(unit.sql())
    .await
    .map_err(failed("adding a join token"))?;
    if added.rows_affected() == 0 {
        return Ok(());
    }
    let detail = json!({ "expires_at": token.expires_at.to_string(), "uses": token.uses_left });
    let name = join_token_name(&token.secret_hash);
    let act = Act::done(token.created_at, by, Action::JoinTokenCreate, name, detail);
    trail::append(unit.sql(), &act).await
}

async fn set_user(unit: &mut Unit<'_>, user: &User, by: By, now: Timestamp) -> Result<()> {
    let attempt = "setting a user";
    let before: Option<String> =
        sqlx::query_scalar("SELECT password_hash FROM person WHERE name = $1 FOR UPDATE")
            .bind(text(&user.name))
            .fetch_optional(unit.sql())
            .await
            .map_err(failed(attempt))?;
    sqlx::query(
        "INSERT INTO person (name, role, password_hash, created_at, disabled_at) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (name) DO UPDATE SET role = excluded.role, password_hash = excluded.password_hash,
            disabled_at = excluded.disabled_at",
    )
    .bind(text(&user.name))
    .bind(user.role.name())
    .bind(text(&user.password_hash))
    .bind(user.created_at.as_micros())
    .bind(user.disabled_at.map(Timestamp::as_micros))
    .execute(unit.sql())
    .await
    .map_err(failed(attempt))?;
    sqlx::query("DELETE FROM session WHERE person = $1")
        .bind(text(&user.name))
        .execute(unit.sql())
        .await
        .map_err(failed(attempt))?;
    let action = if before.is_none() { Action::UserCreate } else { Action::UserChange };
    let changed = before.is_some_and(|before| before != user.password_hash);
    let detail = json!({
        "role": user.role, "disabled": user.disabled_at.is_some(), "password_changed": changed,
    });
    trail::append(unit.sql(), &Act::done(now, by, action, &user.name, detail)).await
}

/// Whether there is any user.
pub(super) async fn is_anybody_there(connection: &mut PgConnection) -> Result<bool> {
    sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM person)")
        .fetch_one(connection)
        .await
        .map_err(failed("looking for users"))
}

/// Adds a user if there is none, and says whether it did.
pub(super) async fn add_first_user(unit: &mut Unit<'_>, user: &User, by: By, now: Timestamp) -> Result<bool> {
    sqlx::query("LOCK TABLE person IN SHARE ROW EXCLUSIVE MODE")
        .execute(unit.sql())
        .await
        .map_err(failed("locking the users"))?;
    if is_anybody_there(unit.sql()).await? {
        return Ok(false);
    }
    set_user(unit, user, by, now).await?;
    Ok(true)
}

async fn add_session(unit: &mut Unit<'_>, session: &Session, by: By) -> Result<()> {
    let attempt = "adding a session";
    sqlx::query("DELETE FROM session WHERE expires_at <= $1")
        .bind(session.created_at.as_micros())
        .execute(unit.sql())
        .await
        .map_err(failed(attempt))?;
    let added = sqlx::query(
        "INSERT INTO session (token_hash, person, created_at, expires_at) VALUES ($1, $2, $3, $4)
         ON CONFLICT (token_hash) DO NOTHING",
    )
    .bind(session.token_hash)
    .bind(text(&session.user))
    .bind(session.created_at.as_micros())
    .bind(session.expires_at.as_micros())
    .execute(unit.sql())
    .await
    .map_err(failed(attempt))?;
    if added.rows_affected() == 0 {
        return Ok(());
    }
    let act = Act::done(session.created_at, by, Action::SessionOpen, &session.user, json!({}));
    trail::append(unit.sql(), &act).await
}

async fn end_session(unit: &mut Unit<'_>, token_hash: [u8; 32], by: By, now: Timestamp) -> Result<()> {
    let ended: Option<String> =
        sqlx::query_scalar("DELETE FROM session WHERE token_hash = $1 RETURNING person")
            .bind(token_hash)
            .fetch_optional(unit.sql())
            .await
            .map_err(failed("ending a session"))?;
    let Some(user) = ended else { return Ok(()) };
    trail::append(unit.sql(), &Act::done(now, by, Action::SessionClose, user, json!({}))).await
}

async fn add_api_token(unit: &mut Unit<'_>, token: &ApiToken, token_hash: [u8; 32], by: By) -> Result<()> {
    let added = sqlx::query(
        "INSERT INTO api_token (id, token_hash, name, role, created_by, created_at, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING",
    )
    .bind(text(&token.id))
    .bind(token_hash)
    .bind(text(&token.name))
    .bind(token.role.name())
    .bind(text(&token.created_by))
    .bind(token.created_at.as_micros())
    .bind(token.expires_at.map(Timestamp::as_micros))
    .execute(unit.sql())
    .await
    .map_err(failed("adding an api token"))?;
    if added.rows_affected() == 0 {
        return Ok(());
    }
    let expires_at = token.expires_at.map(|at| at.to_string());
    let detail = json!({ "name": token.name, "role": token.role, "expires_at": expires_at });
    let act = Act::done(token.created_at, by, Action::ApiTokenCreate, &token.id, detail);
    trail::append(unit.sql(), &act).await
}

async fn revoke(unit: &mut Unit<'_>, id: &str, by: By, now: Timestamp) -> Result<bool> {
    let revoked: Option<String> = sqlx::query_scalar(
        "UPDATE api_token SET revoked_at = $2 WHERE id = $1 AND revoked_at IS NULL RETURNING name",
    )
    .bind(text(id))
    .bind(now.as_micros())
    .fetch_optional(unit.sql())
    .await
    .map_err(failed("revoking an api token"))?;
    let Some(name) = revoked else { return Ok(false) };
    let act = Act::done(now, by, Action::ApiTokenRevoke, id, json!({ "name": name }));
    trail::append(unit.sql(), &act).await?;
    Ok(true)
}

fn read_user(row: &PgRow) -> Result<User> {
    let what = "user";
    Ok(User {
        name: column(row, "name", what)?,
        role: role(row)?,
        password_hash: column(row, "password_hash", what)?,
        created_at: Timestamp::from_micros(column(row, "created_at", what)?),
        disabled_at: column::<Option<i64>>(row, "disabled_at", what)?.map(Timestamp::from_micros),
    })
}

fn read_token(row: &PgRow) -> Result<ApiToken> {
    let what = "api token";
    let perhaps = |name| Ok(column::<Option<i64>>(row, name, what)?.map(Timestamp::from_micros));
    Ok(ApiToken {
        id: column(row, "id", what)?,
        name: column(row, "name", what)?,
        role: role(row)?,
        created_by: column(row, "created_by", what)?,
        created_at: Timestamp::from_micros(column(row, "created_at", what)?),
        expires_at: perhaps("expires_at")?,
        revoked_at: perhaps("revoked_at")?,
    })
}

/// A role that this release does not know grants least.
fn role(row: &PgRow) -> Result<Role> {
    Ok(Role::from_name(column(row, "role", "role")?).unwrap_or(Role::Viewer))
}
