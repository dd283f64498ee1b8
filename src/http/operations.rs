//! What each path takes: its methods, and their query parameters.

use poem::http::Method;
use serde_json::Value;

/// The operations of the API, as its document has them, and the pages beside it.
#[derive(Debug, Default)]
pub(crate) struct Operations(Vec<Operation>);

#[derive(Debug)]
struct Operation {
    /// The path's parts; one that begins with `{` stands for any.
    parts: Vec<String>,
    method: Method,
    /// Its query parameters, where they are known.
    parameters: Option<Vec<String>>,
}

impl Operations {
    pub(crate) fn of(document: &Value) -> Self {
        let mut operations = Self::default();
        let paths = document.get("paths").and_then(Value::as_object).into_iter().flatten();
        for (path, item) in paths {
            for (method, operation) in item.as_object().into_iter().flatten() {
                let Ok(method) = method.to_uppercase().parse() else { continue };
                let parameters = operation.get("parameters").and_then(Value::as_array).into_iter().flatten();
                let text = |parameter: &'_ Value, name| Some(parameter.get(name)?.as_str()?.to_owned());
                let in_query =
                    parameters.filter(|parameter| text(parameter, "in").as_deref() == Some("query"));
                let names = in_query.filter_map(|parameter| text(parameter, "name")).collect();
                operations.add(path, method, Some(names));
            }
        }
        operations
    }

    /// Adds a page, with any parameters.
    pub(crate) fn add_page(&mut self, path: &str) {
        self.add(path, Method::GET, None);
    }

    fn add(&mut self, path: &str, method: Method, parameters: Option<Vec<String>>) {
        let parts = segments(path).map(str::to_owned).collect();
        self.0.push(Operation { parts, method, parameters });
        // Where two fit, the one that names more of the path is meant.
        self.0.sort_by_key(|operation| operation.parts.iter().filter(|part| part.starts_with('{')).count());
    }

    fn fitting(&self, path: &str) -> impl Iterator<Item = &Operation> {
        self.0.iter().filter(move |operation| operation.fits(path))
    }

    /// What `Allow` says for `path` (RFC 9110 §10.2.1).
    pub(crate) fn allow(&self, path: &str) -> String {
        let mut names: Vec<&str> = Vec::new();
        for Operation { method, .. } in self.fitting(path) {
            names.push(method.as_str());
            if *method == Method::GET {
                names.push(Method::HEAD.as_str());
            }
        }
        names.join(", ")
    }

    /// The query parameters that a call takes; none where they are not known.
    pub(crate) fn parameters(&self, method: &Method, path: &str) -> Option<&[String]> {
        let method = if method == Method::HEAD { &Method::GET } else { method };
        let mut fitting = self.fitting(path).filter(|operation| operation.method == *method);
        fitting.next()?.parameters.as_deref()
    }
}

impl Operation {
    fn fits(&self, path: &str) -> bool {
        self.parts.len() == segments(path).count()
            && self
                .parts
                .iter()
                .zip(segments(path))
                .all(|(part, asked)| part.starts_with('{') || part == asked)
    }
}

/// A path's parts; a slash at the end makes no difference.
pub(crate) fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|segment| !segment.is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn operations() -> Operations {
        let takes = |names: &[&str]| {
            let parameters: Vec<_> = names.iter().map(|name| json!({"in": "query", "name": name})).collect();
            json!({"parameters": parameters})
        };
        let mut operations = Operations::of(&json!({"paths": {
            "/a": {"get": takes(&["status"]), "post": takes(&[])},
            "/a/{id}": {"get": takes(&["limit", "cursor"]), "put": takes(&[])},
            "/a/b": {"get": takes(&[])},
        }}));
        operations.add_page("/page");
        operations
    }

    #[test]
    fn allow_names_what_a_path_takes() {
        for (path, allow) in [
            ("/a", "GET, HEAD, POST"),
            ("/a/", "GET, HEAD, POST"),
            ("/a/7/", "GET, HEAD, PUT"),
            ("/page", "GET, HEAD"),
            ("/b", ""),
        ] {
            assert_eq!(operations().allow(path), allow, "{path}");
        }
    }

    #[test]
    fn the_closest_path_says_what_parameters_there_are() {
        for (method, path, parameters) in [
            (Method::GET, "/a/7", Some(&["limit", "cursor"][..])),
            (Method::HEAD, "/a/7/", Some(&["limit", "cursor"])),
            (Method::PUT, "/a/7", Some(&[])),
            (Method::GET, "/a/b", Some(&[])),
            (Method::DELETE, "/a/7", None),
            (Method::GET, "/page", None),
            (Method::GET, "/elsewhere", None),
        ] {
            let operations = operations();
            let found = operations.parameters(&method, path);
            let expected = parameters.map(|names| names.iter().map(|name| (*name).to_owned()).collect());
            assert_eq!(found.map(<[String]>::to_vec), expected, "{method} {path}");
        }
    }
}
