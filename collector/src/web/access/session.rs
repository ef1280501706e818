//! Sessions: a browser in which somebody has logged in with a password.
//!
//! The cookie holds a random secret, the store its hash. The token that forms carry derives from the secret, so it needs
//! no place of its own and ends with the session.

use std::net::IpAddr;
use std::sync::LazyLock;
use std::time::Duration;

use auditflow_event::Timestamp;
use http::{HeaderMap, HeaderValue, header};

use super::{BEGIN, Principal, refused, secret};
use crate::site::password::{self, PasswordError};
use crate::store::{Action, Actor, By, Result, Session, StoreError, User};
use crate::web::AppState;
use crate::web::state::now;

/// The cookie's name.
const COOKIE: &str = "auditflow_session";
/// Passwords hashed at once: each takes 19 MiB and tens of milliseconds.
pub(super) const HASHES_AT_ONCE: usize = 2;
/// Longer than a password is; what is longer is not hashed.
const MAX_PASSWORD: usize = 1024;
const MAX_NAME: usize = 128;
const CSRF_CONTEXT: &str = "auditflow 2026-11-23 form token of a session";

/// Why nobody was logged in.
#[derive(Debug, thiserror::Error)]
pub(in crate::web) enum LoginError {
    /// Which of the two is not said.
    #[error("user name or password is wrong")]
    Wrong,
    /// Too many failures before.
    #[error("too many failed attempts: wait {} seconds", .0.as_secs().max(1))]
    Wait(Duration),
    /// Others are logging in.
    #[error("others are logging in right now: try again in a moment")]
    Busy,
    /// The store can't say.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No random bytes, or a hash that can't be made.
    #[error(transparent)]
    Password(#[from] PasswordError),
}

/// Logs in; returns the cookie's secret.
pub(in crate::web) async fn log_in(
    state: &AppState,
    origin: Option<IpAddr>,
    name: &str,
    given: String,
) -> Result<String, LoginError> {
    // Only a name that there is: what is typed there is sometimes the password.
    let known = match name.len() {
        ..=MAX_NAME => state.store.user(name).await?,
        _ => None,
    };
    let object = known.as_ref().map(|user| user.name.clone()).unwrap_or_default();
    let opened = open(state, origin, (name, known), given).await;
    if let Err(LoginError::Wrong | LoginError::Wait(_)) = opened {
        let by = By { actor: Actor::Anonymous, origin };
        refused(state, by, Action::SessionRefuse, object).await?;
    }
    opened
}

async fn open(
    state: &AppState,
    origin: Option<IpAddr>,
    (name, known): (&str, Option<User>),
    given: String,
) -> Result<String, LoginError> {
    if name.len() > MAX_NAME || given.len() > MAX_PASSWORD {
        return Err(LoginError::Wrong);
    }
    let caller = (origin, name.to_owned());
    state.access.limiter.attempt(caller.clone(), BEGIN.elapsed()).map_err(LoginError::Wait)?;
    let user = known.filter(|user| user.disabled_at.is_none());
    let _turn = state.access.hashing.try_acquire().map_err(|_| LoginError::Busy)?;
    if !verify(user.as_ref(), given).await {
        tracing::warn!(user.name = name, "a login failed");
        return Err(LoginError::Wrong);
    }
    state.access.limiter.succeeded(&caller);
    let secret = secret::random().map_err(PasswordError::from)?;
    let created_at = now();
    let micros = i64::try_from(state.access.session.as_micros()).unwrap_or(i64::MAX);
    let expires_at = Timestamp::from_micros(created_at.as_micros().saturating_add(micros));
    let token_hash = secret::hash(&secret);
    let session = Session { token_hash, user: name.to_owned(), created_at, expires_at };
    state.store.add_session(session, By { origin, ..By::user(name) }).await?;
    Ok(secret)
}

/// Ends the session that a request belongs to.
pub(in crate::web) async fn log_out(state: &AppState, who: &Principal, headers: &HeaderMap) -> Result<()> {
    match cookie(headers) {
        Some(secret) => state.store.end_session(secret::hash(secret), who.by(), now()).await,
        None => Ok(()),
    }
}

/// Who is logged in in the browser that asks.
pub(super) async fn find(
    state: &AppState,
    headers: &HeaderMap,
    origin: Option<IpAddr>,
) -> Result<Option<Principal>> {
    let Some(secret) = cookie(headers) else { return Ok(None) };
    let found = state.store.session(secret::hash(secret), now()).await?;
    let csrf = blake3::derive_key(CSRF_CONTEXT, secret.as_bytes());
    let csrf = data_encoding::BASE32_NOPAD.encode(&csrf[..20]).to_ascii_lowercase();
    Ok(found.map(|(_, user)| Principal {
        actor: Actor::User(user.name),
        origin,
        role: user.role,
        csrf: Some(csrf),
    }))
}

/// The header that gives a browser its session.
pub(in crate::web) fn set_cookie(state: &AppState, secret: &str, headers: &HeaderMap) -> HeaderValue {
    let age = state.access.session.as_secs();
    let value =
        format!("{COOKIE}={secret}; Path=/; HttpOnly; SameSite=Strict; Max-Age={age}{}", secure(headers));
    HeaderValue::from_str(&value).unwrap_or(HeaderValue::from_static(""))
}

/// The header that takes it away.
pub(in crate::web) fn clear_cookie(headers: &HeaderMap) -> HeaderValue {
    let value = format!("{COOKIE}=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0{}", secure(headers));
    HeaderValue::from_str(&value).unwrap_or(HeaderValue::from_static(""))
}

/// Where a proxy says that the browser came over TLS, the cookie must never go without.
fn secure(headers: &HeaderMap) -> &'static str {
    let https = headers.get("x-forwarded-proto").is_some_and(|scheme| scheme == "https");
    if https { "; Secure" } else { "" }
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    let all = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = all.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, secret)| *name == COOKIE && secret::is_secret(secret)).map(|(_, secret)| secret)
}

/// Takes as long for a user that there is not.
async fn verify(user: Option<&User>, given: String) -> bool {
    static NOBODY: LazyLock<Option<String>> =
        LazyLock::new(|| password::hash("nobody has this password").ok());
    let exists = user.is_some();
    let kept = user.map(|user| user.password_hash.clone());
    let verified = tokio::task::spawn_blocking(move || {
        let kept = kept.or_else(|| NOBODY.clone()).unwrap_or_default();
        password::verify(&given, &kept)
    });
    verified.await.unwrap_or(false) && exists
}
