//! The API's description for people.

use askama::Template;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::{OpenApi, RefOr};

use super::Frame;

#[derive(Template)]
#[template(path = "docs.html")]
struct DocsPage {
    frame: Frame,
    title: String,
    version: String,
    description: String,
    tags: Vec<Group>,
}

struct Group {
    name: String,
    description: String,
    operations: Vec<Line>,
}

struct Line {
    method: &'static str,
    path: String,
    summary: String,
    description: String,
    parameters: Vec<(String, String)>,
    answers: Vec<(String, String)>,
}

/// The page.
pub(in crate::web) fn render(document: &OpenApi) -> String {
    let tags = document.tags.as_deref().unwrap_or_default().iter().map(|tag| Group {
        name: tag.name.clone(),
        description: tag.description.clone().unwrap_or_default(),
        operations: operations(document, &tag.name),
    });
    let page = DocsPage {
        frame: Frame { title: "API".to_owned(), tab: "docs", who: None },
        title: document.info.title.clone(),
        version: document.info.version.clone(),
        description: document.info.description.clone().unwrap_or_default(),
        tags: tags.collect(),
    };
    // Writing to a string can't fail.
    page.render().unwrap_or_default()
}

fn operations(document: &OpenApi, tag: &str) -> Vec<Line> {
    let of = |(path, item): (&String, &PathItem)| -> Vec<Line> {
        let methods =
            [("GET", &item.get), ("POST", &item.post), ("PATCH", &item.patch), ("DELETE", &item.delete)];
        let present =
            methods.into_iter().filter_map(|(method, operation)| Some((method, operation.as_ref()?)));
        let tagged = present.filter(|(_, operation)| operation.tags.iter().flatten().any(|own| own == tag));
        tagged.map(|(method, operation)| line(method, path, operation)).collect()
    };
    document.paths.paths.iter().flat_map(of).collect()
}

fn line(method: &'static str, path: &str, operation: &Operation) -> Line {
    let parameters = operation.parameters.iter().flatten().filter_map(|parameter| match parameter {
        RefOr::T(parameter) => Some(parameter),
        RefOr::Ref(_) => None,
    });
    let answers = operation.responses.responses.iter().map(|(status, answer)| {
        let description = match answer {
            RefOr::T(answer) => answer.description.clone(),
            RefOr::Ref(_) => String::new(),
        };
        (status.clone(), description)
    });
    Line {
        method,
        path: path.to_owned(),
        summary: operation.summary.clone().unwrap_or_default(),
        description: operation.description.clone().unwrap_or_default(),
        parameters: parameters
            .map(|parameter| (parameter.name.clone(), parameter.description.clone().unwrap_or_default()))
            .collect(),
        answers: answers.collect(),
    }
}
