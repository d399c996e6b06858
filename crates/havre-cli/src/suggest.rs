//! Names that are near one that was not found.
//!
//! Invariant: asked only after a daemon said that something is not there, once, for a bounded time.

use std::time::Duration;

use havre_api::Filters;
use havre_client::Client;

use crate::App;
use crate::failure::{self, Missing};
use crate::spec::nearest;

/// A hint must not keep the error waiting.
const PATIENCE: Duration = Duration::from_secs(1);
/// Of more than these, only the first are looked up.
const MOST: usize = 3;

/// A line for each missing name that has a near one.
pub(crate) fn near(app: &App) -> Option<String> {
    let missing = failure::missing();
    if missing.is_empty() {
        return None;
    }
    let names = app.block(async {
        let client = app.client_if_any().await.ok()?;
        tokio::time::timeout(PATIENCE, names(client, &missing)).await.ok()
    })?;
    let hints: Vec<String> = missing
        .iter()
        .take(MOST)
        .filter_map(|missing| {
            let kind = |is: bool, list: &'_ [String]| if is { list.to_vec() } else { Vec::new() };
            let all = [kind(missing.container, &names.0), kind(missing.image, &names.1)].concat();
            let bare = missing.name.strip_suffix(":latest").unwrap_or(&missing.name);
            nearest(bare, all.iter().map(String::as_str).filter(|name| *name != bare))
                .map(|name| format!("Did you mean: {name}"))
        })
        .collect();
    (!hints.is_empty()).then(|| hints.join("\n"))
}

/// The names of containers and of images, as far as somebody asks for them.
async fn names(client: &Client, missing: &[Missing]) -> (Vec<String>, Vec<String>) {
    let (mut containers, mut images) = (Vec::new(), Vec::new());
    if missing.iter().any(|missing| missing.container)
        && let Ok(list) = client.list(true, 0, false, &Filters::default()).await
    {
        let names = list.iter().flat_map(|container| &container.names);
        containers.extend(names.map(|name| name.trim_start_matches('/').to_owned()));
    }
    if missing.iter().any(|missing| missing.image)
        && let Ok(list) = client.images(false, &Filters::default()).await
    {
        let tags = list.iter().filter_map(|image| image.repo_tags.as_ref()).flatten();
        images.extend(tags.map(|tag| tag.strip_suffix(":latest").unwrap_or(tag).to_owned()));
    }
    (containers, images)
}
