//! Who may do what.
//!
//! Every request passes `guard` before any route: it finds out who asks (a session's cookie, an API token, or nobody),
//! decides by method and path alone which role is needed, and lets nothing through that it has not decided on. A route
//! can't forget to ask. Decisions are a table (`need`) that a test spells out.

pub(super) mod headers;
mod limiter;
mod refusals;
mod secret;
mod session;

use std::net::{IpAddr, SocketAddr};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use auditflow_service::problem::Problem;
use axum::extract::{ConnectInfo, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};

use super::AppState;
use super::state::now;
use crate::store::{Act, Action, Actor, By, Outcome, Role, StoreError};

use limiter::Limiter;
use refusals::Refusals;
pub use secret::{ApiSecret, new_api_token};
pub(super) use session::{LoginError, clear_cookie, log_in, log_out, set_cookie};

/// The header that a script sends the form token in.
pub const CSRF_HEADER: &str = "x-csrf-token";

/// What failures are timed from.
static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// How access is decided.
pub struct Access {
    anonymous: bool,
    session: Duration,
    names: Vec<String>,
    limiter: Limiter,
    refusals: Refusals,
    hashing: tokio::sync::Semaphore,
}

impl Access {
    /// See [`super::Surroundings`].
    pub fn new(anonymous: bool, session: Duration, names: Vec<String>) -> Self {
        let hashing = tokio::sync::Semaphore::new(session::HASHES_AT_ONCE);
        Self {
            anonymous,
            session,
            names,
            limiter: Limiter::default(),
            refusals: Refusals::default(),
            hashing,
        }
    }

    /// Who asks without a credential. A page elsewhere whose host name has been pointed at this address (DNS
    /// rebinding) would ask under that name, so only names that are known to be ours are anonymous.
    fn anonymous(&self, host: Option<&str>, origin: Option<IpAddr>) -> Option<Principal> {
        let ours = host.is_some_and(|host| is_ours(host, &self.names));
        (self.anonymous && ours).then_some(Principal {
            actor: Actor::Anonymous,
            origin,
            role: Role::Viewer,
            csrf: None,
        })
    }
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// Who, as the audit trail has it.
    pub actor: Actor,
    /// From which address.
    pub origin: Option<IpAddr>,
    /// What they may do.
    pub role: Role,
    /// In a session: what forms must carry, so that no other site's form is taken for one of ours.
    pub csrf: Option<String>,
}

impl Principal {
    /// For the audit trail.
    pub fn by(&self) -> By {
        By { actor: self.actor.clone(), origin: self.origin }
    }

    /// For people.
    pub fn name(&self) -> String {
        match &self.actor {
            Actor::User(name) => name.clone(),
            other => other.to_string(),
        }
    }

    /// Whether they may do what this role may.
    pub fn may(&self, role: Role) -> bool {
        self.role >= role
    }

    /// Whether somebody is logged in.
    pub fn is_session(&self) -> bool {
        self.csrf.is_some()
    }

    /// What a form carries; empty outside of a session.
    pub fn csrf(&self) -> &str {
        self.csrf.as_deref().unwrap_or_default()
    }

    /// Whether a form's token is this session's. Without a session there is nothing that another site could abuse.
    pub fn accepts(&self, token: &str) -> bool {
        self.csrf
            .as_ref()
            .is_none_or(|own| subtle::ConstantTimeEq::ct_eq(own.as_bytes(), token.as_bytes()).into())
    }
}

/// What a request needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Nothing.
    Nothing,
    /// At least this role.
    Role(Role),
}

/// What a request needs, by what it says it is.
pub fn need(method: &Method, path: &str) -> Need {
    let looking = method == Method::GET || method == Method::HEAD;
    let open =
        matches!(path, "/healthz" | "/readyz" | "/metrics" | "/api/openapi.json" | "/docs" | "/favicon.ico")
            || path.starts_with("/static/");
    if (open && looking) || path == "/login" {
        return Need::Nothing;
    }
    let trail = matches!(path, "/api/v1/audit" | "/view/audit");
    let managing = path.starts_with("/api/v1/nodes/") || path.starts_with("/view/nodes/");
    match () {
        () if trail => Need::Role(Role::Admin),
        () if looking || path == "/logout" => Need::Role(Role::Viewer),
        () if managing => Need::Role(Role::Admin),
        () => Need::Role(Role::Operator),
    }
}

/// Before every route.
pub(super) async fn guard(State(state): State<AppState>, mut request: Request, next: Next) -> Response {
    if is_cross_site(&request) {
        let detail = "this request was made by a page of another site, and is refused";
        return Problem::new(StatusCode::FORBIDDEN).detail(detail).into_response();
    }
    let origin = peer(request.extensions());
    let principal = match identify(&state, request.headers(), request.uri(), origin).await {
        Ok(principal) => principal,
        Err(response) => return response,
    };
    match (need(request.method(), request.uri().path()), principal) {
        (Need::Nothing, principal) => {
            request.extensions_mut().insert(principal);
            next.run(request).await
        }
        (Need::Role(role), Some(principal)) if principal.may(role) => {
            if let Err(problem) = check_csrf_header(&request, &principal) {
                return problem.into_response();
            }
            request.extensions_mut().insert(Some(principal.clone()));
            request.extensions_mut().insert(principal);
            next.run(request).await
        }
        (Need::Role(role), Some(principal)) => {
            let detail = format!(
                "{} is a {}, and this needs a {}",
                principal.name(),
                principal.role.name(),
                role.name()
            );
            let object = format!("{} {}", request.method(), request.uri().path());
            let told = refused(&state, principal.by(), Action::AccessRefuse, object).await;
            let problem = Problem::new(StatusCode::FORBIDDEN).detail(detail);
            told.map_or_else(|error| super::api::problem(&error), |()| problem).into_response()
        }
        (Need::Role(_), None) => ask_to_log_in(request.method(), request.uri()),
    }
}

/// Scripts that use a session's cookie say the form token in a header; forms say it in a field, which their routes check.
fn check_csrf_header(request: &Request, principal: &Principal) -> Result<(), Problem> {
    let api = request.uri().path().starts_with("/api/");
    let looking = request.method() == Method::GET || request.method() == Method::HEAD;
    let token = request.headers().get(CSRF_HEADER).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !api || looking || principal.accepts(token) {
        return Ok(());
    }
    let detail = "a session's request must carry the page's token in x-csrf-token; scripts use an API token";
    Err(Problem::new(StatusCode::FORBIDDEN).detail(detail))
}

/// Whether another site's page made a browser send this request. Besides the form token, and for the login, which has
/// none yet.
fn is_cross_site(request: &Request) -> bool {
    let text = |name| request.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    if request.method() == Method::GET || request.method() == Method::HEAD {
        return false;
    }
    if let Some(site) = text(header::HeaderName::from_static("sec-fetch-site")) {
        return !matches!(site, "same-origin" | "none");
    }
    let origin = text(header::ORIGIN);
    origin.is_some_and(|origin| {
        let named = origin.split_once("://").map(|(_, rest)| rest);
        named != host(request.headers(), request.uri()).as_deref()
    })
}

/// Counts a refusal, and writes it into the audit trail if that is due.
async fn refused(state: &AppState, by: By, action: Action, object: String) -> Result<(), StoreError> {
    let act = Act::done(now(), by, action, object, serde_json::json!({}));
    let act = Act { outcome: Outcome::Refused, ..act };
    match state.access.refusals.note(act, BEGIN.elapsed()) {
        Some(act) => state.store.record(act).await,
        None => Ok(()),
    }
}

/// Writes the refusals that were only counted into the audit trail as they become due, until stopped.
pub async fn tell_refusals(state: AppState) -> Result<(), std::convert::Infallible> {
    loop {
        let stopping = tokio::select! {
            () = state.stop.cancelled() => true,
            () = tokio::time::sleep(refusals::EVERY) => false,
        };
        let refusals = &state.access.refusals;
        let acts = if stopping { refusals.rest() } else { refusals.due(BEGIN.elapsed()) };
        for act in acts {
            let detail = act.detail.to_string();
            if let Err(error) = state.store.record(act).await {
                tracing::warn!(%error, detail, "refusals are missing from the audit trail");
            }
        }
        if stopping {
            return Ok(());
        }
    }
}

async fn identify(
    state: &AppState,
    headers: &HeaderMap,
    uri: &Uri,
    origin: Option<IpAddr>,
) -> Result<Option<Principal>, Response> {
    let failed = |error: StoreError| super::api::problem(&error).into_response();
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let secret = value.to_str().ok().and_then(|value| value.strip_prefix("Bearer ")).map(str::trim);
        let hash = secret.and_then(ApiSecret::parse).map(|secret| secret.hash());
        let token = match hash {
            Some(hash) => state.store.api_token(hash, now()).await.map_err(failed)?,
            None => None,
        };
        // A wrong credential is not no credential: whoever sends one wants to know that it doesn't work.
        if let Some(token) = token {
            let actor = Actor::Token { id: token.id, name: token.name };
            return Ok(Some(Principal { actor, origin, role: token.role, csrf: None }));
        }
        let by = By { actor: Actor::Anonymous, origin };
        refused(state, by, Action::ApiTokenRefuse, String::new()).await.map_err(failed)?;
        return Err(unauthorized("the API token is unknown, expired or revoked"));
    }
    if let Some(principal) = session::find(state, headers, origin).await.map_err(failed)? {
        return Ok(Some(principal));
    }
    Ok(state.access.anonymous(host(headers, uri).as_deref(), origin))
}

/// People are shown the login, programs are told how to do it.
fn ask_to_log_in(method: &Method, uri: &Uri) -> Response {
    let path = uri.path();
    let program = path.starts_with("/api/") || path == "/alerts" || path.starts_with("/alerts/");
    if program || method != Method::GET {
        return unauthorized("log in, or send an API token: Authorization: Bearer TOKEN");
    }
    let asked = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let next: String = form_encoded(asked);
    Redirect::to(&format!("/login?next={next}")).into_response()
}

fn unauthorized(detail: &str) -> Response {
    let mut response = Problem::new(StatusCode::UNAUTHORIZED).detail(detail).into_response();
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

/// The name that the request was made to, with its port.
fn host(headers: &HeaderMap, uri: &Uri) -> Option<String> {
    let named = headers.get(header::HOST).and_then(|host| host.to_str().ok()).map(str::to_owned);
    named.or_else(|| uri.authority().map(ToString::to_string))
}

/// Whether a host (with or without port) is an address, localhost, or one of `names`.
fn is_ours(host: &str, names: &[String]) -> bool {
    let address =
        host.parse::<SocketAddr>().is_ok() || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    address
        || name.eq_ignore_ascii_case("localhost")
        || names.iter().any(|own| own.eq_ignore_ascii_case(name))
}

/// A value as it stands in a query.
pub(super) fn form_encoded(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => {
                out.push(byte.into());
            }
            _ => {
                const HEX: &[u8; 16] = b"0123456789ABCDEF";
                out.push('%');
                out.push(HEX[usize::from(byte >> 4)].into());
                out.push(HEX[usize::from(byte & 15)].into());
            }
        }
    }
    out
}

/// The address that a request came from; none in tests without a connection.
pub(super) fn peer(extensions: &http::Extensions) -> Option<IpAddr> {
    extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(address)| address.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_request_needs() {
        let cases = [
            ("GET", "/healthz", None),
            ("GET", "/readyz", None),
            ("GET", "/metrics", None),
            ("GET", "/static/style.css", None),
            ("GET", "/docs", None),
            ("POST", "/docs", Some(Role::Operator)),
            ("POST", "/static/style.css", Some(Role::Operator)),
            ("GET", "/login", None),
            ("POST", "/login", None),
            ("POST", "/logout", Some(Role::Viewer)),
            ("GET", "/", Some(Role::Viewer)),
            ("HEAD", "/alerts", Some(Role::Viewer)),
            ("GET", "/alerts", Some(Role::Viewer)),
            ("GET", "/api/v1/events", Some(Role::Viewer)),
            ("GET", "/anything/else", Some(Role::Viewer)),
            ("GET", "/api/v1/audit", Some(Role::Admin)),
            ("HEAD", "/view/audit", Some(Role::Admin)),
            ("PATCH", "/api/v1/alerts/x", Some(Role::Operator)),
            ("DELETE", "/api/v1/alerts/x", Some(Role::Operator)),
            ("POST", "/view/alerts/x/status", Some(Role::Operator)),
            ("POST", "/view/flags/1/close", Some(Role::Operator)),
            ("PATCH", "/api/v1/nodes/x", Some(Role::Admin)),
            ("POST", "/view/nodes/x/status", Some(Role::Admin)),
            ("OPTIONS", "/alerts", Some(Role::Operator)),
        ];
        for (method, path, role) in cases {
            let expected = role.map_or(Need::Nothing, Need::Role);
            assert_eq!(need(&method.parse().unwrap(), path), expected, "{method} {path}");
        }
    }

    #[test]
    fn only_addresses_localhost_and_configured_names_are_ours() {
        let names = ["audit.example.org".to_owned()];
        for ours in
            ["127.0.0.1", "127.0.0.1:7480", "[::1]:7480", "[::1]", "localhost:7480", "AUDIT.example.org:80"]
        {
            assert!(is_ours(ours, &names), "{ours}");
        }
        for foreign in ["evil.example:7480", "", "localhost.evil.example", "127.0.0.1.evil.example:7480"] {
            assert!(!is_ours(foreign, &names), "{foreign}");
        }
    }

    #[test]
    fn what_stands_in_a_query_stays_one_value() {
        assert_eq!(form_encoded("/view/events?q=a&b#c ü"), "/view/events%3Fq%3Da%26b%23c%20%C3%BC");
    }
}
