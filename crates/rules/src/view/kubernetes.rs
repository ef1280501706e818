//! `kubernetes/audit`: the API server's audit record under its own paths, plus three names that rules use though no
//! record has them: `apiGroup`, `hostPath` and `capabilities`.

use rsigma_eval::EventValue;

use super::json::Node;

/// A parsed audit record.
pub(crate) struct KubernetesView<'e>(Node<'e>);

/// Where a pod's specification stands in the objects that hold one: pods, workloads, cron jobs.
const POD_SPECS: [&str; 3] = [
    "requestObject.spec",
    "requestObject.spec.template.spec",
    "requestObject.spec.jobTemplate.spec.template.spec",
];

const CONTAINERS: [&str; 3] = ["containers", "initContainers", "ephemeralContainers"];

impl<'e> KubernetesView<'e> {
    pub(crate) fn new(text: &'e str) -> Self {
        Self(Node::parse(text))
    }

    pub(crate) fn root(&self) -> &Node<'e> {
        &self.0
    }

    pub(crate) fn field(&self, path: &str) -> Option<EventValue<'_>> {
        match path {
            "apiGroup" => self.0.field("objectRef.apiGroup"),
            "hostPath" => self.gather(|spec| vec![format!("{spec}.volumes.hostPath.path")]),
            "capabilities" => self.gather(|spec| {
                CONTAINERS
                    .iter()
                    .map(|list| format!("{spec}.{list}.securityContext.capabilities.add"))
                    .collect()
            }),
            _ => self.0.field(path),
        }
    }

    /// Every value at the paths below every pod specification.
    fn gather(&self, paths: impl Fn(&str) -> Vec<String>) -> Option<EventValue<'_>> {
        // Most records carry no object; then there is nothing to look for.
        self.0.child("requestObject")?;
        let mut all = Vec::new();
        for path in POD_SPECS.iter().flat_map(|spec| paths(spec)) {
            match self.0.field(&path) {
                Some(EventValue::Array(values)) => all.extend(values),
                Some(value) => all.push(value),
                None => {}
            }
        }
        (!all.is_empty()).then_some(EventValue::Array(all))
    }
}
