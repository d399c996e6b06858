//! `/system/df`.

use havre_api::ApiVersion;
use havre_api::container::ContainerSummary;
use havre_api::image::ImageSummary;
use havre_api::usage::{DiskUsageResponse, Usage};
use serde_json::{Value, json};

use crate::Server;
use crate::body::{self, Answer};
use crate::error::Refusal;
use crate::router::Call;
use crate::routes::images;
use crate::shows;
use crate::versions::{self, Shape};

type Handled = Result<Answer, Refusal>;

/// Kinds of objects can be chosen since this version.
const TYPES: ApiVersion = ApiVersion::new(1, 42);
/// Sums instead of lists since this version.
const SUMS: ApiVersion = ApiVersion::new(1, 52);

/// Which kinds were asked for.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    containers: bool,
    images: bool,
    volumes: bool,
    cache: bool,
}

fn wanted(call: &Call) -> Result<Wanted, Refusal> {
    let types: Vec<&str> = call.query.all("type").collect();
    if types.is_empty() || call.version < TYPES {
        return Ok(Wanted { containers: true, images: true, volumes: true, cache: true });
    }
    if let Some(other) =
        types.iter().find(|kind| !matches!(**kind, "container" | "image" | "volume" | "build-cache"))
    {
        return Err(Refusal::invalid(format!("unknown object type: {other}")));
    }
    let has = |kind: &str| types.contains(&kind);
    Ok(Wanted {
        containers: has("container"),
        images: has("image"),
        volumes: has("volume"),
        cache: has("build-cache"),
    })
}

pub(crate) async fn df(server: &Server, call: &Call) -> Handled {
    let wanted = wanted(call)?;
    let images = if wanted.images { Some(images::usage(server).await?) } else { None };
    let containers = if wanted.containers { Some(containers(server).await?) } else { None };
    if call.version < SUMS {
        return Ok(body::json(&lists(call.version, wanted, images, containers)));
    }
    let verbose = call.query.flag("verbose");
    let kept = |items| if verbose { Some(items) } else { None };
    Ok(body::json(&DiskUsageResponse {
        image_usage: images.map(|(items, layers)| {
            let sums = image_sums(&items, layers);
            Usage { items: verbose.then_some(items), ..sums }
        }),
        container_usage: containers.map(|items| {
            let sums = container_sums(&items);
            Usage { items: verbose.then_some(items), ..sums }
        }),
        volume_usage: wanted.volumes.then(|| Usage { items: kept(Vec::new()), ..Usage::default() }),
        build_cache_usage: wanted.cache.then(|| Usage { items: kept(Vec::new()), ..Usage::default() }),
        ..DiskUsageResponse::default()
    }))
}

async fn containers(server: &Server) -> Result<Vec<ContainerSummary>, Refusal> {
    let engine = &server.engine;
    let views = engine.containers.list();
    let sizes = engine.containers.written(&views).await?;
    let summary = |(view, size): (&std::sync::Arc<havre_engine::View>, u64)| {
        let image = engine.images.inspect(&view.fixed.image.to_string()).map_or(0, |image| image.size);
        ContainerSummary {
            size_rw: i64::try_from(size).ok(),
            size_root_fs: i64::try_from(image.saturating_add(size)).ok(),
            ..shows::summary(engine, view)
        }
    };
    Ok(views.iter().zip(sizes).map(summary).collect())
}

fn count(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

fn image_sums(items: &[ImageSummary], layers: i64) -> Usage<ImageSummary> {
    let used: Vec<&ImageSummary> = items.iter().filter(|image| image.containers > 0).collect();
    let bytes: i64 = used.iter().map(|image| image.size - image.shared_size.max(0)).sum();
    Usage {
        active_count: count(used.len()),
        total_count: count(items.len()),
        reclaimable: (layers - bytes).max(0),
        total_size: layers,
        items: None,
    }
}

fn container_sums(items: &[ContainerSummary]) -> Usage<ContainerSummary> {
    let active = |one: &&ContainerSummary| matches!(one.state.as_str(), "running" | "paused" | "restarting");
    let size = |one: &ContainerSummary| one.size_rw.unwrap_or(0);
    let total: i64 = items.iter().map(size).sum();
    let busy: i64 = items.iter().filter(active).map(size).sum();
    Usage {
        active_count: count(items.iter().filter(active).count()),
        total_count: count(items.len()),
        reclaimable: total - busy,
        total_size: total,
        items: None,
    }
}

/// The answer before sums: a list of each kind, `null` for those that were not asked for.
fn lists(
    version: ApiVersion,
    wanted: Wanted,
    images: Option<(Vec<ImageSummary>, i64)>,
    containers: Option<Vec<ContainerSummary>>,
) -> Value {
    let layers = images.as_ref().map_or(0, |(_, layers)| *layers);
    let images = images.map(|(images, _)| {
        let counts: Vec<i64> = images.iter().map(|image| image.containers).collect();
        let mut list = versions::value(version, Shape::ImageList, &images);
        // Lists of old versions do not count containers; here they always were.
        for (image, count) in list.as_array_mut().into_iter().flatten().zip(counts) {
            image["Containers"] = count.into();
        }
        list
    });
    let containers = containers.map(|list| versions::value(version, Shape::ContainerList, &list));
    let empty = |asked: bool| if asked { json!([]) } else { Value::Null };
    let mut answer = json!({
        "LayersSize": layers,
        "Images": images,
        "Containers": containers,
        "Volumes": empty(wanted.volumes),
        "BuildCache": empty(wanted.cache),
    });
    if version < TYPES
        && let Some(object) = answer.as_object_mut()
    {
        object.insert("BuilderSize".into(), json!(0));
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nothing_uses_can_be_reclaimed() {
        let image = |containers, size, shared_size| ImageSummary {
            containers,
            size,
            shared_size,
            ..ImageSummary::default()
        };
        let sums = image_sums(&[image(1, 100, 30), image(0, 50, 30)], 120);
        assert_eq!((sums.active_count, sums.total_count, sums.reclaimable), (1, 2, 50));
        let container = |state: &str, size| ContainerSummary {
            state: state.into(),
            size_rw: Some(size),
            ..ContainerSummary::default()
        };
        let sums = container_sums(&[container("running", 5), container("exited", 7), container("paused", 1)]);
        assert_eq!((sums.active_count, sums.reclaimable, sums.total_size), (2, 7, 13));
    }

    #[test]
    fn older_versions_get_lists() {
        let wanted = Wanted { containers: false, images: true, volumes: true, cache: false };
        let old = lists(ApiVersion::new(1, 41), wanted, Some((Vec::new(), 9)), None);
        assert_eq!((&old["LayersSize"], &old["BuilderSize"]), (&json!(9), &json!(0)));
        assert_eq!((&old["Containers"], &old["Volumes"]), (&Value::Null, &json!([])));
        assert!(lists(ApiVersion::new(1, 42), wanted, None, None).get("BuilderSize").is_none());
    }
}
