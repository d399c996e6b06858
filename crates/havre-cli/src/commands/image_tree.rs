//! `images --tree`: every image with its platforms below it.
//!
//! An engine that keeps several platforms of an image lists them as manifests; one that keeps one names
//! none, and its images stand alone.

use std::fmt::Write as _;

use havre_api::Filters;
use havre_client::{Method, Query};
use serde::Deserialize;

use crate::App;
use crate::failure::Failure;
use crate::format::table::{harmless, short_id};
use crate::format::units::human_size;
use crate::output;
use crate::spec::Args;

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "PascalCase")]
struct Image {
    id: String,
    repo_tags: Option<Vec<String>>,
    size: i64,
    containers: i64,
    manifests: Option<Vec<Manifest>>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "PascalCase")]
struct Manifest {
    #[serde(rename = "ID")]
    id: String,
    kind: String,
    available: bool,
    size: Sizes,
    image_data: Option<ImageData>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "PascalCase")]
struct Sizes {
    content: i64,
    total: i64,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "PascalCase")]
struct ImageData {
    platform: havre_api::image::Platform,
    containers: Option<Vec<String>>,
}

const HEADER: [&str; 5] = ["IMAGE", "ID", "DISK USAGE", "CONTENT SIZE", "EXTRA"];

fn size(bytes: i64) -> String {
    if bytes > 0 { human_size(bytes) } else { "-".into() }
}

fn used(containers: bool) -> String {
    if containers { "U".into() } else { String::new() }
}

fn platform(image: &ImageData) -> String {
    let of = &image.platform;
    let variant = if of.variant.is_empty() { String::new() } else { format!("/{}", of.variant) };
    format!("{}/{}{variant}", of.os, of.architecture)
}

fn rows(image: &Image) -> Vec<[String; 5]> {
    let manifests: Vec<(&Manifest, &ImageData)> = image
        .manifests
        .iter()
        .flatten()
        .filter(|manifest| manifest.kind == "image")
        .filter_map(|manifest| Some((manifest, manifest.image_data.as_ref()?)))
        .collect();
    let names: Vec<&str> = image.repo_tags.iter().flatten().map(String::as_str).collect();
    let first = names.first().copied().unwrap_or("<untagged>");
    let content: i64 = manifests.iter().map(|(manifest, _)| manifest.size.content).sum();
    let mut rows = vec![[
        harmless(first),
        short_id(&image.id).to_owned(),
        size(image.size),
        size(content),
        used(image.containers > 0),
    ]];
    for name in names.iter().skip(1) {
        rows.push([harmless(name), String::new(), String::new(), String::new(), String::new()]);
    }
    for (index, (manifest, data)) in manifests.iter().enumerate() {
        let branch = if index + 1 == manifests.len() { "└─" } else { "├─" };
        let missing = if manifest.available { "" } else { " (not available)" };
        rows.push([
            format!("{branch} {}{missing}", harmless(&platform(data))),
            short_id(&manifest.id).to_owned(),
            size(manifest.size.total),
            size(manifest.size.content),
            used(data.containers.as_ref().is_some_and(|list| !list.is_empty())),
        ]);
    }
    rows
}

/// The table, a blank line before each image that has branches.
fn table(images: &[Image]) -> String {
    let header = HEADER.map(str::to_owned);
    let groups: Vec<Vec<[String; 5]>> = images.iter().map(rows).collect();
    let all = || groups.iter().flatten().chain([&header]);
    let width = |column: usize| all().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths = [width(0), width(1), width(2), width(3), width(4)];
    let line = |row: &[String; 5]| {
        let mut out = String::new();
        for (index, cell) in row.iter().enumerate() {
            let pad = " ".repeat(widths[index].saturating_sub(cell.chars().count()));
            let numbers = matches!(index, 2 | 3);
            let gap = if index == 0 { "" } else { "   " };
            if numbers { write!(out, "{gap}{pad}{cell}") } else { write!(out, "{gap}{cell}{pad}") }.ok();
        }
        format!("{}\n", out.trim_end())
    };
    let mut out = line(&header);
    for group in &groups {
        if group.len() > 1 {
            out.push('\n');
        }
        out.extend(group.iter().map(line));
    }
    out
}

/// Prints the tree.
pub(super) fn show(app: &App, args: &Args) -> Result<u8, Failure> {
    let mut filters: Filters = args.filters();
    if let Some(reference) = args.rest.first() {
        filters.add("reference", reference);
    }
    let mut query = Query::new("/images/json").with("manifests", "1").flag("all", args.on("all"));
    if !filters.is_empty() {
        query = query.with("filters", &filters.encode());
    }
    let mut images: Vec<Image> = app.block(async {
        Ok::<_, Failure>(app.client().await?.json(Method::GET, &query, None::<&()>).await?)
    })?;
    if !args.on("all") {
        images.retain(|image| image.repo_tags.as_ref().is_some_and(|names| !names.is_empty()));
    }
    output::print(&table(&images))?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_stand_below_their_image() {
        let images: Vec<Image> = serde_json::from_str(
            r#"[{"Id":"sha256:0123456789abcdef","RepoTags":["a:1","b:2"],"Size":2000000,"Containers":1},
            {"Id":"sha256:f123456789abcdef","RepoTags":["c:1"],"Size":5,"Manifests":[
              {"ID":"sha256:11","Kind":"image","Available":true,"Size":{"Content":1000,"Total":3000},
               "ImageData":{"Platform":{"os":"linux","architecture":"arm","variant":"v7"}}},
              {"ID":"sha256:12","Kind":"attestation","Available":true}]}]"#,
        )
        .unwrap();
        let text = table(&images);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "IMAGE             ID             DISK USAGE   CONTENT SIZE   EXTRA");
        assert_eq!(lines[2], "a:1               0123456789ab          2MB              -   U");
        assert_eq!(lines[3], "b:2");
        assert_eq!(lines[6], "└─ linux/arm/v7   11                    3kB            1kB");
    }
}
