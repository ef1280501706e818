//! The meaning of a Kubernetes audit record: who asked the API for what, and what it answered. Field names are those
//! of `audit.k8s.io/v1` (<https://kubernetes.io/docs/reference/config-api/apiserver-audit.v1/>).

use std::borrow::Cow;

use serde::Deserialize;

use super::loose::Loose;
use super::{Endpoint, Identity, KubernetesObject, Meaning, Outcome, Severity, table};
use crate::{JsonText, OriginError, Timestamp};

/// What identifies a record and places it in time.
#[derive(Deserialize)]
pub(crate) struct Head<'a> {
    #[serde(rename = "auditID", borrow, default)]
    pub(crate) audit_id: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(crate) stage: Cow<'a, str>,
    #[serde(rename = "stageTimestamp", borrow, default)]
    stage_time: Loose<'a>,
    #[serde(rename = "requestReceivedTimestamp", borrow, default)]
    received: Loose<'a>,
}

impl<'a> Head<'a> {
    /// Reads it; a record needs an `auditID` and a `stage`.
    pub(crate) fn parse(text: &'a JsonText) -> Result<Self, OriginError> {
        let head: Self = serde_json::from_str(text.as_str()).map_err(OriginError::NotJson)?;
        if head.audit_id.is_empty() {
            return Err(OriginError::MissingField("auditID"));
        }
        if head.stage.is_empty() {
            return Err(OriginError::MissingField("stage"));
        }
        Ok(head)
    }

    /// When the stage was reached; without that, when the request came.
    pub(crate) fn time(&self) -> Result<Timestamp, OriginError> {
        let (field, text) = match (&self.stage_time.0, &self.received.0) {
            (Some(text), _) => ("stageTimestamp", text),
            (None, Some(text)) => ("requestReceivedTimestamp", text),
            (None, None) => return Err(OriginError::MissingField("stageTimestamp")),
        };
        text.parse().map_err(|source| OriginError::BadTime { field, source })
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Request<'a> {
    #[serde(borrow)]
    verb: Loose<'a>,
    #[serde(borrow)]
    stage: Loose<'a>,
    #[serde(rename = "requestURI", borrow)]
    uri: Loose<'a>,
    #[serde(borrow)]
    user: User<'a>,
    #[serde(rename = "impersonatedUser", borrow)]
    impersonated: Option<User<'a>>,
    #[serde(rename = "sourceIPs", borrow)]
    source_ips: Option<Vec<Loose<'a>>>,
    #[serde(rename = "objectRef", borrow)]
    object: Option<Object<'a>>,
    #[serde(rename = "responseStatus", borrow)]
    response: Option<Response<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct User<'a> {
    #[serde(borrow)]
    username: Loose<'a>,
    #[serde(borrow)]
    uid: Loose<'a>,
}

impl<'a> User<'a> {
    fn identity(self) -> Identity<'a> {
        Identity { id: self.uid.known(), name: self.username.known() }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Object<'a> {
    #[serde(borrow)]
    resource: Loose<'a>,
    #[serde(borrow)]
    subresource: Loose<'a>,
    #[serde(borrow)]
    namespace: Loose<'a>,
    #[serde(borrow)]
    name: Loose<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Response<'a> {
    code: Option<u32>,
    #[serde(borrow)]
    reason: Loose<'a>,
}

pub(super) fn meaning(text: &JsonText) -> Meaning<'_> {
    // A record that is no such thing was refused when it was read; from a forged batch it yields no meaning.
    let request: Request<'_> = serde_json::from_str(text.as_str()).unwrap_or_default();
    let verb = request.verb.known().unwrap_or_default();
    let mut meaning = Meaning::from_row(table::verb(&verb), "kubernetes_audit");
    if !verb.is_empty() {
        meaning.action = verb;
    }
    let code = request.response.as_ref().and_then(|response| response.code);
    meaning.outcome = match (code, request.stage.0.as_deref()) {
        (_, Some("Panic")) => Some(Outcome::Failure),
        (Some(code), _) => Some(if code < 400 { Outcome::Success } else { Outcome::Failure }),
        (None, _) => None,
    };
    meaning.action_result = meaning.outcome.map(|outcome| match outcome {
        Outcome::Success => Cow::Borrowed("SUCCESS"),
        Outcome::Failure => Cow::Borrowed("FAILURE"),
    });
    if matches!(code, Some(401 | 403)) {
        meaning.severity = Severity::Warning;
    }
    meaning.operation = request.response.and_then(|response| response.reason.known());
    place_users(request.user, request.impersonated, &mut meaning);
    // The first is the client as the last trusted proxy saw it.
    let ip = request.source_ips.and_then(|ips| ips.into_iter().next()).and_then(Loose::known);
    meaning.source = ip.map(|ip| Endpoint { ip: Some(ip), ..Endpoint::default() });
    match request.object {
        Some(object) => place_object(object, &mut meaning),
        None => meaning.resource = request.uri.known(),
    }
    meaning
}

/// Who is authenticated stays the user; whom they act as becomes the effective one.
fn place_users<'e>(user: User<'e>, impersonated: Option<User<'e>>, meaning: &mut Meaning<'e>) {
    meaning.user.real = user.identity();
    meaning.user.effective = impersonated.map(User::identity).unwrap_or_default();
    meaning.user_id = meaning.user.real.name.clone().or_else(|| meaning.user.real.id.clone());
}

/// The object as `namespace/resource/name/subresource`, without what is absent.
fn place_object<'e>(object: Object<'e>, meaning: &mut Meaning<'e>) {
    let [namespace, resource, name, subresource] =
        [object.namespace, object.resource, object.name, object.subresource].map(Loose::known);
    let parts = [&namespace, &resource, &name, &subresource];
    let path = parts.into_iter().flatten().map(AsRef::as_ref).collect::<Vec<&str>>().join("/");
    meaning.resource = Some(path).filter(|path| !path.is_empty()).map(Cow::Owned);
    let pod_name = name.filter(|_| resource.as_deref() == Some("pods"));
    meaning.kubernetes = Some(KubernetesObject { namespace, pod_name });
}
