//! The OpenAPI document as a judge: each answer must be one it describes.

use std::collections::BTreeMap;

use reqwest::Method;
use serde_json::Value;

use super::schema;

/// The document of one server.
#[derive(Debug)]
pub(crate) struct Document {
    root: Value,
    /// Path templates in segments, with the path item of each.
    paths: Vec<(Vec<String>, String)>,
}

/// The contract's document lists these under their own names only; they are for people and tools.
const UNLISTED: &[&str] =
    &["openapi.json", "openapi.yaml", "docs", "redoc", "problems", "dashboard", "metrics", ""];

impl Document {
    /// Takes the document as served.
    pub(crate) fn new(root: Value) -> Self {
        let paths = root["paths"].as_object().expect("the document has paths");
        let paths = paths.keys().map(|path| (segments(path), path.clone())).collect();
        Self { root, paths }
    }

    /// The document itself.
    pub(crate) fn root(&self) -> &Value {
        &self.root
    }

    /// Every operation, by method and path.
    pub(crate) fn operations(&self) -> BTreeMap<(String, String), &Value> {
        let mut operations = BTreeMap::new();
        for (path, item) in self.root["paths"].as_object().into_iter().flatten() {
            for (method, operation) in item.as_object().into_iter().flatten() {
                operations.insert((method.to_uppercase(), path.clone()), operation);
            }
        }
        operations
    }

    /// Fails where the document says nothing of such an answer to such a call.
    pub(crate) fn check(&self, method: &Method, path: &str, status: u16, kind: &str, body: &Value) {
        let path = path.split('?').next().unwrap_or_default();
        let Some(operation) = self.operation(method, path) else {
            let first = segments(path).into_iter().next().unwrap_or_default();
            let listed = !UNLISTED.contains(&first.as_str());
            assert!(
                !listed || matches!(status, 400 | 401 | 404 | 405),
                "{method} {path} → {status}: undocumented"
            );
            return;
        };
        let answer = &operation["responses"][status.to_string()];
        assert!(answer.is_object(), "{method} {path} → {status}: a status the document doesn't know");
        let Some(contents) = answer["content"].as_object() else { return };
        let essence = |kind: &str| kind.split(';').next().unwrap_or_default().trim().to_owned();
        let Some((_, content)) = contents.iter().find(|(name, _)| essence(name) == essence(kind)) else {
            // An answer whose content type is the payload's own is documented as any type.
            let json = essence(kind).ends_with("+json") && contents.contains_key("application/json");
            let known = json || contents.contains_key("*/*") || kind.is_empty();
            assert!(known, "{method} {path} → {status}: {kind}");
            return;
        };
        if body.is_null() {
            return;
        }
        if let Err(fault) = schema::check(&self.root, &content["schema"], body) {
            panic!("{method} {path} → {status}: the answer is not as documented: {fault}\n{body:#}");
        }
    }

    fn operation(&self, method: &Method, path: &str) -> Option<&Value> {
        let asked = segments(path);
        let matches = |template: &[String]| {
            template.len() == asked.len()
                && template.iter().zip(&asked).all(|(part, asked)| part.starts_with('{') || part == asked)
        };
        let (_, template) = self.paths.iter().find(|(template, _)| matches(template))?;
        self.root["paths"][template].get(method.as_str().to_lowercase())
    }
}

/// A path's parts; a slash at the end makes no difference.
fn segments(path: &str) -> Vec<String> {
    path.trim_matches('/').split('/').map(str::to_owned).collect()
}
