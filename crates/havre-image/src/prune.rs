//! Removing what nothing uses.
//!
//! Invariant: an image that a container was made from, running or not, is never pruned; what became in use
//! between the choice and the removal stays.

use std::collections::BTreeMap;
use std::time::Duration;

use havre_base::{Clock as _, SystemClock, Timestamp};
use havre_oci::Digest;

use crate::filter::{label_pair, point_in_time};
use crate::index::State;
use crate::remove::{Removed, Taken, Users};
use crate::state::Known;
use crate::{ImageError, Images, Result};

/// Which unused images go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PruneSpec {
    /// Only images without a name.
    dangling: bool,
    until: Option<Timestamp>,
    labels: Vec<(String, Option<String>)>,
    /// Labels that an image must not have.
    unlabels: Vec<(String, Option<String>)>,
}

impl PruneSpec {
    /// Parses Docker's filters: `dangling`, `until`, `label`, `label!`.
    pub fn parse(filters: &BTreeMap<String, Vec<String>>) -> Result<Self> {
        let mut spec = Self { dangling: true, until: None, labels: Vec::new(), unlabels: Vec::new() };
        for (name, values) in filters {
            let wrong = |value: &str| ImageError::FilterValue { name: name.clone(), value: value.to_owned() };
            match (name.as_str(), values.as_slice()) {
                ("dangling", [one]) => {
                    spec.dangling = match one.as_str() {
                        "true" | "1" => true,
                        "false" | "0" => false,
                        other => return Err(wrong(other)),
                    };
                }
                ("until", [one]) => {
                    let at = point_in_time(one, SystemClock.now()).ok_or_else(|| wrong(one))?;
                    spec.until = Some(at);
                }
                ("dangling" | "until", many) => return Err(wrong(&many.join(", "))),
                ("label", values) => spec.labels.extend(values.iter().map(|text| label_pair(text))),
                ("label!", values) => spec.unlabels.extend(values.iter().map(|text| label_pair(text))),
                _ => return Err(ImageError::Filter(name.clone())),
            }
        }
        Ok(spec)
    }

    fn wants(&self, labels: &BTreeMap<String, String>, created: Option<Timestamp>, named: bool) -> bool {
        let has = |(key, value): &(String, Option<String>)| {
            labels.get(key).is_some_and(|found| value.as_ref().is_none_or(|value| value == found))
        };
        !(self.dangling && named)
            && self.until.is_none_or(|limit| created.is_none_or(|created| created < limit))
            && self.labels.iter().all(has)
            && !self.unlabels.iter().any(has)
    }
}

impl Images {
    /// Removes the unused images that are wanted, children before parents. Returns what went, and how many
    /// bytes of layers that freed.
    pub fn prune(&self, spec: &PruneSpec, users: Users<'_>) -> Result<(Vec<Removed>, u64)> {
        let before = self.disk_usage().layers;
        let mut gone = Vec::new();
        // A parent becomes free when its last child went, so the rounds end when one removes nothing.
        loop {
            let count = gone.len();
            for some in self.unused(spec, users).chunks(AT_A_TIME) {
                let mut state = self.state();
                let taken: Vec<Taken> = some.iter().filter_map(|id| take(&state, spec, users, id)).collect();
                if !taken.is_empty() {
                    self.take(&mut state, taken, &mut gone)?;
                }
            }
            if gone.len() == count {
                break;
            }
        }
        Ok((gone, before.saturating_sub(self.disk_usage().layers)))
    }

    /// Removes images that have no name and no user, oldest first, until layers of so many bytes went. Those younger than
    /// `age` stay.
    pub fn remove_nameless(
        &self,
        age: Duration,
        bytes: u64,
        users: Users<'_>,
    ) -> Result<(Vec<Removed>, u64)> {
        let nanos = i64::try_from(age.as_nanos()).unwrap_or(i64::MAX);
        let limit = Timestamp::from_nanos(Self::now().as_nanos().saturating_sub(nanos));
        let since = |known: &Known| known.record.last_tagged.max(known.config.created_at());
        let wanted = |state: &State, known: &Known| {
            let young = since(known).is_some_and(|since| since > limit);
            !young && !state.is_parent(&known.id) && state.names(&known.id).next().is_none()
        };
        let (mut gone, mut freed) = (Vec::new(), 0_u64);
        loop {
            let mut state = self.state();
            let mut oldest: Vec<(Option<Timestamp>, Digest)> = state
                .images()
                .values()
                .filter(|known| wanted(&state, known))
                .map(|known| (since(known), known.id.clone()))
                .collect();
            oldest.sort();
            let Some((_, image)) = oldest.into_iter().find(|(_, id)| users(id).is_empty()) else { break };
            let before = state.size();
            self.take(&mut state, vec![Taken { image, names: Vec::new(), whole: true }], &mut gone)?;
            freed = freed.saturating_add(before.saturating_sub(state.size()));
            if freed >= bytes {
                break;
            }
        }
        Ok((gone, freed))
    }

    /// The images that could go, as it seems now.
    fn unused(&self, spec: &PruneSpec, users: Users<'_>) -> Vec<Digest> {
        let candidates: Vec<Digest> = {
            let state = self.state();
            let wanted = state.images().values().filter(|known| is_wanted(&state, spec, known));
            wanted.map(|known| known.id.clone()).collect()
        };
        candidates.into_iter().filter(|id| users(id).is_empty()).collect()
    }
}

/// How many images go in one commit; in between others get at the state.
const AT_A_TIME: usize = 64;

fn is_wanted(state: &State, spec: &PruneSpec, known: &Known) -> bool {
    let named = state.names(&known.id).next().is_some();
    let config = &known.config;
    !state.is_parent(&known.id) && spec.wants(&config.config.labels, config.created_at(), named)
}

/// An image with all its names, if it is to go still.
fn take(state: &State, spec: &PruneSpec, users: Users<'_>, id: &Digest) -> Option<Taken> {
    let known = state.images().get(id)?;
    if !is_wanted(state, spec, known) || !users(id).is_empty() {
        return None;
    }
    Some(Taken { image: id.clone(), names: state.names(id).cloned().collect(), whole: true })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(filters: &[(&str, &[&str])]) -> Result<PruneSpec> {
        let given = filters
            .iter()
            .map(|(name, values)| ((*name).to_owned(), values.iter().map(|v| (*v).to_owned()).collect()));
        PruneSpec::parse(&given.collect())
    }

    #[test]
    fn filters_choose_and_nonsense_is_refused() {
        let labels = BTreeMap::from([("a".to_owned(), "1".to_owned())]);
        let wants = |filters: &[(&str, &[&str])], named| parse(filters).unwrap().wants(&labels, None, named);
        assert!(wants(&[], false) && !wants(&[], true));
        assert!(wants(&[("dangling", &["false"])], true));
        assert!(wants(&[("label", &["a"])], false) && !wants(&[("label", &["a=2"])], false));
        assert!(!wants(&[("label!", &["a"])], false) && wants(&[("label!", &["b"])], false));
        for (name, value) in [("dangling", "x"), ("until", "yesterday"), ("colour", "red")] {
            assert!(parse(&[(name, &[value])]).is_err(), "{name}={value}");
        }
        assert!(parse(&[("until", &["1h", "2h"])]).is_err());
    }
}
