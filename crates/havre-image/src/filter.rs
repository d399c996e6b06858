//! Choosing images for a list, as Docker's filters do.

use std::collections::BTreeMap;

use havre_base::Timestamp;
use havre_oci::Reference;

use crate::change::go_duration;
use crate::index::State;
use crate::{ImageError, ImageView, Result};

/// Which images are wanted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListSpec {
    all: bool,
    dangling: Option<bool>,
    labels: Vec<(String, Option<String>)>,
    before: Vec<String>,
    since: Vec<String>,
    until: Vec<String>,
    references: Vec<String>,
}

impl ListSpec {
    /// Parses Docker's filters; `all` also shows images that only serve as parents.
    pub fn parse(all: bool, filters: &BTreeMap<String, Vec<String>>) -> Result<Self> {
        let mut spec = Self { all, ..Self::default() };
        for (name, values) in filters {
            match name.as_str() {
                "dangling" => {
                    for value in values {
                        let wrong = || ImageError::FilterValue { name: name.clone(), value: value.clone() };
                        let value = match value.as_str() {
                            "true" | "1" => true,
                            "false" | "0" => false,
                            _ => return Err(wrong()),
                        };
                        if spec.dangling.is_some_and(|before| before != value) {
                            return Err(wrong());
                        }
                        spec.dangling = Some(value);
                    }
                }
                "label" => spec.labels.extend(values.iter().map(|text| label_pair(text))),
                "before" => spec.before.clone_from(values),
                "since" => spec.since.clone_from(values),
                "until" => spec.until.clone_from(values),
                "reference" => spec.references.clone_from(values),
                _ => return Err(ImageError::Filter(name.clone())),
            }
        }
        Ok(spec)
    }

    /// Looks up what the filters name.
    pub(crate) fn bind<'a>(&'a self, state: &State, now: Timestamp) -> Result<Bound<'a>> {
        let mut bound = Bound { spec: self, before: None, since: None };
        let created = |name: &String| -> Result<Option<Timestamp>> {
            Ok(state.images().get(&state.find(name)?).and_then(|known| known.config.created_at()))
        };
        for name in &self.before {
            bound.before = created(name)?.or(bound.before);
        }
        for name in &self.since {
            bound.since = created(name)?.or(bound.since);
        }
        for value in &self.until {
            let wrong = || ImageError::FilterValue { name: "until".into(), value: value.clone() };
            let limit = point_in_time(value, now).ok_or_else(wrong)?;
            bound.before = Some(bound.before.map_or(limit, |before| before.min(limit)));
        }
        Ok(bound)
    }
}

/// `key` or `key=value`.
pub(crate) fn label_pair(text: &str) -> (String, Option<String>) {
    text.split_once('=').map_or((text.into(), None), |(key, value)| (key.into(), Some(value.into())))
}

/// A Unix time, RFC 3339, a date, or a duration before now.
pub fn point_in_time(text: &str, now: Timestamp) -> Option<Timestamp> {
    if let Some(back) = go_duration(text) {
        return Some(Timestamp::from_nanos(now.as_nanos().saturating_sub(back)));
    }
    if let Ok(seconds) = text.split('.').next()?.parse::<i64>() {
        return Some(Timestamp::from_nanos(seconds.checked_mul(1_000_000_000)?));
    }
    [text.to_owned(), format!("{text}Z"), format!("{text}T00:00:00Z")]
        .iter()
        .find_map(|text| Timestamp::parse_rfc3339(text).ok())
}

/// A specification whose names are looked up.
pub(crate) struct Bound<'a> {
    spec: &'a ListSpec,
    before: Option<Timestamp>,
    since: Option<Timestamp>,
}

impl Bound<'_> {
    /// The view, with the names that are wanted, if it is wanted.
    pub(crate) fn select(&self, state: &State, mut view: ImageView) -> Option<ImageView> {
        let spec = self.spec;
        if self.before.is_some_and(|limit| view.created.is_some_and(|created| created >= limit))
            || self.since.is_some_and(|limit| view.created.is_none_or(|created| created <= limit))
        {
            return None;
        }
        let labels = &view.config.config.labels;
        let wanted = |(key, value): &(String, Option<String>)| {
            labels.get(key).is_some_and(|found| value.as_ref().is_none_or(|value| value == found))
        };
        if !spec.labels.iter().all(wanted) {
            return None;
        }
        let named = !view.repo_tags.is_empty() || !view.repo_digests.is_empty();
        if spec.dangling.is_some_and(|dangling| dangling != view.repo_tags.is_empty()) {
            return None;
        }
        if !named && !spec.all && state.is_parent(&view.id) {
            return None;
        }
        if !spec.references.is_empty() {
            let fits = |name: &String| spec.references.iter().any(|pattern| reference_matches(pattern, name));
            view.repo_tags.retain(fits);
            view.repo_digests.retain(fits);
            if view.repo_tags.is_empty() && view.repo_digests.is_empty() {
                return None;
            }
        }
        Some(view)
    }
}

fn reference_matches(pattern: &str, familiar: &str) -> bool {
    let name = Reference::parse(familiar).map(|reference| reference.familiar_name());
    glob(pattern.as_bytes(), familiar.as_bytes())
        || name.is_ok_and(|name| glob(pattern.as_bytes(), name.as_bytes()))
}

/// Go's `path.Match`: `*` and `?` do not match a slash. Linear memory, no recursion on the pattern's stars.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() || p < pattern.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p + 1, t));
            p += 1;
            continue;
        }
        let used = pattern.get(p..).and_then(|rest| one(rest, text.get(t))).unwrap_or(0);
        if used > 0 {
            p += used;
            t += 1;
            continue;
        }
        match star {
            Some((after, from)) if text.get(from).is_some_and(|&b| b != b'/') => {
                star = Some((after, from + 1));
                (p, t) = (after, from + 1);
            }
            _ => return false,
        }
    }
    true
}

/// How much of the pattern matches this one byte; zero when it does not.
fn one(pattern: &[u8], byte: Option<&u8>) -> Option<usize> {
    let byte = *byte?;
    Some(match pattern {
        [b'?', ..] => usize::from(byte != b'/'),
        [b'\\', literal, ..] => {
            if *literal == byte {
                2
            } else {
                0
            }
        }
        [b'[', rest @ ..] => {
            let negated = rest.first() == Some(&b'^');
            let mut at = usize::from(negated);
            let mut hit = false;
            loop {
                let low = *rest.get(at)?;
                if low == b']' && at > usize::from(negated) {
                    break;
                }
                let high = if rest.get(at + 1) == Some(&b'-') {
                    at += 2;
                    *rest.get(at)?
                } else {
                    low
                };
                hit |= (low..=high).contains(&byte);
                at += 1;
            }
            if hit == negated { 0 } else { at + 2 }
        }
        [literal, ..] => usize::from(*literal == byte),
        [] => 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_gos_do() {
        for (pattern, text, expected) in [
            ("busybox", "busybox:latest", true),
            ("busy*", "busybox:latest", true),
            ("*:latest", "busybox:latest", true),
            ("*", "me/app:1", false),
            ("me/*", "me/app:1", true),
            ("*/*:1", "me/app:1", true),
            ("b?sybox", "busybox:1", true),
            ("b[a-u]sybox:[^2]", "busybox:1", true),
            ("b[a-u]sybox:[^1]", "busybox:1", false),
            ("busybox:", "busybox:latest", false),
            ("[", "busybox:1", false),
            ("*****************************************q", "busybox:1", false),
        ] {
            assert_eq!(reference_matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn unknown_filters_are_refused() {
        let parse = |name: &str, value: &str| {
            ListSpec::parse(false, &BTreeMap::from([(name.to_owned(), vec![value.to_owned()])]))
        };
        assert!(parse("dangling", "true").is_ok());
        assert!(matches!(parse("dangling", "maybe"), Err(ImageError::FilterValue { .. })));
        assert!(matches!(parse("colour", "red"), Err(ImageError::Filter(_))));
    }
}
