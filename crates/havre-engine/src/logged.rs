//! What the records of a log say of their container: `--log-opt tag=`, `labels=`, `env=`.
//!
//! Invariant: a tag that passes [`check_tag`] can always be made.

use std::collections::BTreeMap;

use crate::EngineError;
use crate::record::Fixed;
use crate::spec::LogAttributes;

/// The fields that a tag may name.
const FIELDS: &[&str] = &[
    "ID",
    "FullID",
    "Name",
    "ImageID",
    "ImageFullID",
    "ImageName",
    "DaemonName",
    "Command",
    "ContainerID",
    "ContainerName",
    "ContainerImageID",
    "ContainerImageName",
];

/// A part of a tag.
enum Part<'a> {
    Text(&'a str),
    Field(&'a str),
}

fn parts(tag: &str) -> Result<Vec<Part<'_>>, EngineError> {
    let mut list = Vec::new();
    let mut rest = tag;
    while let Some((text, after)) = rest.split_once("{{") {
        list.push(Part::Text(text));
        let Some((action, after)) = after.split_once("}}") else {
            return Err(EngineError::Invalid(format!(
                "failed to initialize logging driver: the tag {tag:?} has an action that is not closed"
            )));
        };
        let Some(field) = action.trim().strip_prefix('.').filter(|f| f.chars().all(char::is_alphanumeric))
        else {
            return Err(EngineError::NotYet(format!("{{{{{action}}}}} in the tag of a log (only fields)")));
        };
        if !FIELDS.contains(&field) {
            return Err(EngineError::Invalid(format!(
                "failed to initialize logging driver: template: log-tag: executing \"log-tag\" at <.{field}>: can't evaluate field {field} in type *logger.Info"
            )));
        }
        list.push(Part::Field(field));
        rest = after;
    }
    list.push(Part::Text(rest));
    Ok(list)
}

/// Refuses a tag that cannot be made.
pub fn check_tag(tag: &str) -> Result<(), EngineError> {
    parts(tag).map(drop)
}

/// The attributes of a container's records. Those without a value are left out, as by Docker.
pub(crate) fn attributes(
    fixed: &Fixed,
    name: &str,
    asked: &LogAttributes,
) -> Result<BTreeMap<String, String>, EngineError> {
    let mut found = BTreeMap::new();
    for label in &asked.labels {
        if let Some(value) = fixed.merged.labels.get(label) {
            found.insert(label.clone(), value.clone());
        }
    }
    for variable in &asked.env {
        let value = fixed.merged.env.iter().find_map(|entry| {
            entry.split_once('=').filter(|(name, _)| name == variable).map(|(_, value)| value)
        });
        if let Some(value) = value {
            found.insert(variable.clone(), value.to_owned());
        }
    }
    if let Some(tag) = asked.tag.as_deref().filter(|tag| !tag.is_empty()) {
        let made: String = parts(tag)?
            .into_iter()
            .map(|part| match part {
                Part::Text(text) => text.to_owned(),
                Part::Field(field) => value(fixed, name, field),
            })
            .collect();
        found.insert("tag".to_owned(), made);
    }
    Ok(found)
}

fn value(fixed: &Fixed, name: &str, field: &str) -> String {
    let short = |text: &str| text.chars().take(12).collect::<String>();
    match field {
        "ID" => short(fixed.id.as_str()),
        "FullID" | "ContainerID" => fixed.id.to_string(),
        "Name" => name.to_owned(),
        "ContainerName" => format!("/{name}"),
        "ImageID" => fixed.image.short().to_string(),
        "ImageFullID" | "ContainerImageID" => fixed.image.to_string(),
        "ImageName" | "ContainerImageName" => fixed.spec.image.clone(),
        "DaemonName" => "docker".to_owned(),
        "Command" => fixed.merged.args().join(" "),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_texts_with_known_fields() {
        for good in ["", "plain", "{{.Name}}", "a/{{ .ImageName }}/{{.ID}}"] {
            check_tag(good).unwrap();
        }
        let error = check_tag("{{.Nope}}").unwrap_err().to_string();
        assert!(error.contains("can't evaluate field Nope in type *logger.Info"), "{error}");
        assert!(check_tag("{{.Name").is_err() && check_tag("{{if .Name}}x{{end}}").is_err());
    }
}
